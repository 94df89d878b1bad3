"""Parametrised weights, written through `right_inverse`, so that the *effective* weight has the law."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from initconf.aside import Aside, Seeded
from initconf.errors import InitConfError, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

EXACT, TRANSFORMED = "exact", "transformed"
_WEIGHT_NORM = "torch.nn.utils.parametrizations._WeightNorm"
_SPECTRAL_NORM = "torch.nn.utils.parametrizations._SpectralNorm"
_KNOWN = {
    _WEIGHT_NORM: EXACT,
    _SPECTRAL_NORM: TRANSFORMED,
    "torch.nn.utils.parametrizations._Orthogonal": TRANSFORMED,
}
"""Whether the effective weight is what was assigned; of others that is not known, and not assumed."""


def parametrised(module: nn.Module) -> dict[str, Any]:
    """The module's parametrisations, by the name of the weight that they make."""
    found: Any = module._modules.get("parametrizations")
    return dict(found._modules) if found is not None else {}


def identity(chain: Any) -> Tensor:
    """The tensor that stands for a parametrised weight where ties are looked for."""
    original: Tensor = chain.original if chain.is_tensor else chain.original0
    return original


def effective(chain: Any) -> Tensor:
    """The weight that the module computes with, without gradients; on a copy, since spectral_norm learns from every call.

    Raises InitConfError for a parametrisation that cannot be computed.
    """
    import torch

    try:
        with torch.no_grad(), Aside({}):
            weight: Tensor = copy.deepcopy(chain)().detach()
            return weight
    except Exception as error:  # noqa: BLE001 - whatever a user's parametrisation raises
        raise _refused(chain, f"cannot be computed: {error}") from None


def round_trip(chain: Any, weight: Tensor) -> str:
    """`exact` where the effective weight is what was assigned, else `transformed`.

    Raises InitConfError for a parametrisation that cannot be assigned to.
    """
    import torch

    for step in chain:
        if not hasattr(step, "right_inverse"):
            remedy = "give the parametrisation a right_inverse, or initialise before it is registered"
            raise InitConfError(Problem(f"its parametrisation {type(step).__name__} has no right_inverse", remedy=remedy))
    twin = copy.deepcopy(chain)
    try:
        with torch.no_grad(), Seeded(torch.Generator("cpu").manual_seed(0)):
            drawn = weight if weight.is_meta else torch.randn(weight.shape, dtype=weight.dtype, device="cpu")
            twin.right_inverse(drawn.to(weight.device))
            shape = tuple(twin().shape)
    except Exception as error:  # noqa: BLE001
        raise _refused(chain, f"cannot be assigned to: {error}") from None
    if shape != weight.shape:
        raise _refused(chain, f"cannot be assigned to: of shape {tuple(weight.shape)} it makes {shape}")
    kinds = [_KNOWN.get(_dotted(step), TRANSFORMED) for step in chain]
    return TRANSFORMED if TRANSFORMED in kinds else EXACT


def assign(chain: Any, weight: Tensor, seed: int) -> None:
    """Give a parametrised weight its values, whose memory it may keep. What is drawn meanwhile is drawn from `seed`.

    Two of torch's parametrisations want more than the assignment. weight_norm divides every slice by its norm: a slice of
    zeros becomes the length 0 along a direction of ones. spectral_norm divides by u'Wv, and its u and v belong to the old
    weight: they are found anew, as its constructor finds them. Raises InitConfError where finite values do not stay finite, as
    zeros behind spectral_norm.
    """
    import torch

    with torch.no_grad(), Seeded(torch.Generator("cpu").manual_seed(seed)):
        chain.right_inverse(weight)
        if _dotted(chain[0]) == _WEIGHT_NORM:
            length, direction = chain.original0, chain.original1
            direction.copy_(torch.where(length == 0, torch.ones_like(direction), direction))
        if any(_dotted(step) == _SPECTRAL_NORM for step in chain):
            _find_vectors(chain)
    if not bool(effective(chain).isfinite().all()) and bool(weight.isfinite().all()):
        raise _refused(chain, "divides by zero for these values", "give it an initializer whose values are not all zero")


def sets_buffers(module: Any) -> bool:
    """Whether a module is a parametrisation whose buffers `assign` gives their values."""
    return _dotted(module) in _KNOWN


def _find_vectors(chain: Any) -> None:
    """Let each spectral_norm of a chain find the vectors of the weight that reaches it."""
    names = ["original"] if chain.is_tensor else [f"original{i}" for i in range(chain.ntensors)]
    value: Any = [getattr(chain, name) for name in names]
    for step, twin in zip(chain, copy.deepcopy(chain), strict=True):
        if _dotted(step) == _SPECTRAL_NORM and value[0].ndim > 1:
            fresh = type(step)(value[0].cpu(), step.n_power_iterations, step.dim, step.eps)
            for vectors in (step, twin):
                vectors._u.copy_(fresh._u)
                vectors._v.copy_(fresh._v)
        value = [twin(*value)]


def _dotted(step: Any) -> str:
    return f"{type(step).__module__}.{type(step).__qualname__}"


def _refused(chain: Any, text: str, remedy: str = "initialise before it is registered") -> InitConfError:
    steps = ", ".join(type(step).__name__ for step in chain)
    return InitConfError(Problem(f"its parametrisation {steps} {text}", remedy=remedy))

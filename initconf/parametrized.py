"""Parametrised weights, written through `right_inverse`, so that the *effective* weight has the law."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from initconf.errors import InitConfError, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

EXACT, TRANSFORMED = "exact", "transformed"
_KNOWN = {
    "torch.nn.utils.parametrizations._WeightNorm": EXACT,
    "torch.nn.utils.parametrizations._SpectralNorm": TRANSFORMED,
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
    """The weight that the module computes with, without gradients; on a copy, since spectral_norm learns from every call."""
    import torch

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        weight: Tensor = copy.deepcopy(chain)().detach()
        return weight


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
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # and no accelerator's
            probe = weight if weight.is_meta else torch.randn(weight.shape, dtype=weight.dtype, device=weight.device)
            twin.right_inverse(probe)
    except Exception as error:  # noqa: BLE001 - whatever a user's parametrisation raises
        text = f"its parametrisation {', '.join(type(step).__name__ for step in chain)} cannot be assigned to: {error}"
        raise InitConfError(Problem(text, remedy="initialise before it is registered")) from None
    kinds = [_KNOWN.get(f"{type(step).__module__}.{type(step).__qualname__}", TRANSFORMED) for step in chain]
    return TRANSFORMED if TRANSFORMED in kinds else EXACT

"""A user's torch callable as a NumPy function, once it is known to be elementwise, deterministic, out of place and finite."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from initconf.errors import InitConfError
from initconf.quadrature import Array, Function, refusal


def from_torch(function: Callable[..., Any], arguments: dict[str, Any], label: str, *, differentiate: bool = False) -> Function:
    """A user's torch callable, or its derivative by autograd, as a NumPy function.

    A module is copied to the CPU in float64, and nothing that is called here reaches the global random state.

    Raises:
        InitConfError: the callable raises, is random, works in place, is not elementwise, or is not finite.
    """
    import torch

    if isinstance(function, torch.nn.Module):
        with _guarded(label):
            function = copy.deepcopy(function).to(device="cpu", dtype=torch.float64)

    def value(x: Any) -> Any:
        return function(x, **arguments)

    def gradient(x: Any) -> Any:
        x.requires_grad_()
        y = value(x)
        if not y.requires_grad:  # nothing flows back through it (a comparison, a rounding to integers)
            return torch.zeros_like(x)
        return torch.autograd.grad(y.sum(), x, allow_unused=True, materialize_grads=True)[0]

    def evaluate(z: Array) -> Array:
        with _isolated(), _guarded(label):
            y = (gradient if differentiate else value)(torch.from_numpy(z.copy()))
        _check_form(y, z.shape, label)
        result = np.asarray(y.detach().to(torch.float64).numpy())
        _check_finite(z, result, label)
        return result

    if not differentiate:
        _check(value, label)
    return evaluate


@contextmanager
def _isolated() -> Iterator[None]:
    """Whatever mode the caller is in: gradients on, tensors made on the CPU, the global random state put back."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"):
        torch.default_generator.manual_seed(0)
        yield


@contextmanager
def _guarded(label: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise refusal(
            f"{label} raised {type(error).__name__}: {error}",
            remedy="it is called with float64 tensors of any shape on the CPU",
        ) from error


def _check(call: Callable[..., Any], label: str) -> None:
    import torch

    x = torch.linspace(-3.9, 4.1, 24, dtype=torch.float64, device="cpu").reshape(4, 6)

    def run(part: Any) -> Any:
        try:
            return call(part.clone())
        except Exception as error:
            text = f"{label} is not elementwise: it takes shape (4, 6), but raised for shape {tuple(part.shape)}: {error}"
            raise _not_elementwise(text) from error

    def same(one: Any, other: Any) -> bool:
        # As wide as float32 needs it, for a callable may compute in float32 inside.
        return one.shape == other.shape and torch.allclose(one, other, rtol=1e-6, atol=1e-6, equal_nan=True)

    with _isolated():
        before, given = torch.default_generator.get_state(), x.clone()
        with _guarded(label):
            y = call(given)
        if not torch.equal(given, x):
            raise refusal(
                f"{label} changes its input in place",
                remedy="give the function that does not: relu instead of relu_, inplace=False",
            )
        _check_form(y, (4, 6), label)
        # A look at the generator's state also finds a dropout so weak that these few values do not show it.
        if not torch.equal(torch.default_generator.get_state(), before) or not same(y, run(x)):
            raise refusal(
                f"{label} is random: it draws random numbers, or gives two values for one input",
                remedy="put the module in eval mode, or give the layer's gain as a number",
            )
        _check_finite(x.numpy(), y.detach().to(torch.float64).numpy(), label)
        whole = y.flatten()
        if not (
            same(whole, run(x.reshape(6, 4)).flatten())
            and same(whole.flip(0), run(x.flatten().flip(0).reshape(4, 6)).flatten())
            and same(whole, torch.cat([run(x.reshape(24, 1, 1)[i]).flatten() for i in range(24)]))
        ):
            raise _not_elementwise(f"{label} is not elementwise: a value depends on the other elements")


def _check_form(y: Any, shape: tuple[int, ...], label: str) -> None:
    import torch

    if not isinstance(y, torch.Tensor) or not y.is_floating_point():
        what = str(y.dtype) if isinstance(y, torch.Tensor) else type(y).__name__
        raise refusal(
            f"{label} returned {what}, not a floating-point tensor",
            remedy="it must take a float tensor and return one of the same shape",
        )
    if y.shape != shape:
        raise _not_elementwise(f"{label} is not elementwise: it turned shape {shape} into {tuple(y.shape)}")


def _check_finite(z: NDArray[Any], y: NDArray[Any], label: str) -> None:
    if not np.all(np.isfinite(y)):
        first = int(np.argmin(np.isfinite(y.ravel())))
        raise refusal(
            f"{label} is {y.ravel()[first]} at z = {z.ravel()[first]:.3g}",
            remedy="it must be finite for every real number, because a gain averages over all of them",
        )


def _not_elementwise(text: str) -> InitConfError:
    return refusal(
        text, remedy="give the layer's gain as a number; a gated unit has a name: glu, swiglu, geglu, reglu, bilinear"
    )


def is_module(function: object) -> bool:
    """Whether this is a torch module; asks without importing torch, for without torch there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(function, torch.nn.Module)

"""Expectations of a function of one standard normal variable, in float64, without a random number.

`measure` and `second_moment` integrate a vectorised NumPy function against the normal density by Gauss-Lobatto panels
that are halved wherever they disagree with their own halves; so kinks and jumps need not be told, and whoever
oscillates faster than the panels is caught. `CURVES` are the built-in functions. `from_torch` makes such a function of
a user's torch callable, once it is known to be elementwise, deterministic, out of place and finite.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from initconf.errors import InitConfError, Problem

Array: TypeAlias = NDArray[np.float64]
Function: TypeAlias = Callable[[Array], Array]

_ROOT_2_PI = math.sqrt(2.0 * math.pi)

_REACH = 16.0
"""Half the interval of integration: the normal density at 16 is 1e-56."""
_OFFSET = 0.1 * math.sqrt(2.0)
"""Shifts the panels, so that no node ever falls on a number at which somebody would put a kink (0, 0.5, 3)."""
_PANELS = 64
_NODES = 16
_DEPTH = 44
_MOST_PANELS = 1 << 14
_TOLERANCE = 1e-15
_ENOUGH = 1e-7
"""The largest relative error that is let pass where halving has come to its end (a function with float32 inside)."""


@dataclass(frozen=True)
class Moments:
    """What an activation f does to z ~ N(0, 1)."""

    mean: float
    """E[f(z)]."""
    m2: float
    """E[f(z)^2], the second moment that the next layer sees."""
    var: float
    """Var f(z) = E[f^2] - E[f]^2, integrated as E[(f - E f)^2]."""
    bwd_m2: float | None
    """E[f'(z)^2], by which a gradient's second moment grows; None where f' has no finite second moment."""
    growth: float
    """d/dq E[f(sqrt(q) z)^2] at q = 1; `growth / m2` > 1 says that a deep stack drifts away from q = 1."""


def refusal(text: str, remedy: str) -> InitConfError:
    """An error of one problem."""
    return InitConfError(Problem(text, remedy=remedy))


def measure(f: Function, bwd_m2: float | None, label: str) -> Moments:
    """The moments of f under N(0, 1), those of f' being given.

    They are rounded to 12 significant digits: that many are right, and so every machine computes the same plan though
    the last bits of exp and tanh differ between processors.

    Raises:
        InitConfError: E[f^2] does not exist, or f cannot be integrated.
    """
    exact_mean = float(_integrate(lambda z: f(z)[None] * _density(z), label)[0])

    def squares(z: Array) -> Array:
        # The root of the density goes inside the square, which therefore overflows only where the moment does too.
        value, root = f(z), np.sqrt(_density(z))
        square = (value * root) ** 2
        # The derivative in q falls on the density, so that f may jump.
        return np.stack([square, ((value - exact_mean) * root) ** 2, 0.5 * (z * z - 1.0) * square])

    m2, var, growth = (float(value) for value in _integrate(squares, label))
    if var <= 1e-24 * m2:
        var = 0.0
    return Moments(
        mean=_rounded(exact_mean, math.sqrt(m2)),
        m2=_rounded(m2, m2),
        var=_rounded(var, var),
        bwd_m2=bwd_m2,
        growth=_rounded(growth, m2),
    )


def second_moment(f: Function, label: str) -> float:
    """E[f(z)^2] alone, rounded as in `measure`; raises as it does."""
    m2 = float(_integrate(lambda z: (f(z)[None] * np.sqrt(_density(z))) ** 2, label)[0])
    return _rounded(m2, m2)


def grid_second_moment(f: Function) -> float:
    """ALF's estimate of E[f(z)^2]: the left Riemann sum over arange(-5, 5, 0.01), the grid rounded to float32."""
    z = (-5.0 + 0.01 * np.arange(1000)).astype(np.float32).astype(np.float64)
    return float(np.sum(_density(z) * f(z) ** 2) * 0.01)


def _density(z: Array) -> Array:
    return np.exp(-0.5 * z * z) * (1.0 / _ROOT_2_PI)


def _rounded(value: float, scale: float) -> float:
    if scale == 0.0 or not math.isfinite(scale):
        return value
    return round(value, 11 - math.floor(math.log10(scale))) + 0.0  # + 0.0 takes the sign from a zero


@lru_cache(maxsize=1)
def _rule() -> tuple[Array, Array]:
    """Gauss-Lobatto nodes on [0, 1] and weights. The ends are nodes, so a jump close to an edge does not hide there."""
    legendre = np.polynomial.legendre.Legendre.basis(_NODES - 1)
    nodes = np.concatenate([[-1.0], np.sort(np.real(legendre.deriv().roots())), [1.0]])
    weights = 2.0 / (_NODES * (_NODES - 1) * legendre(nodes) ** 2)
    return (nodes + 1.0) / 2.0, weights / 2.0


def _panels(integrand: Function, left: Array, width: Array, label: str) -> tuple[Array, Array]:
    """For every row of the integrand and every panel: the integral of it, and of its absolute value."""
    nodes, weights = _rule()
    z = left[:, None] + width[:, None] * nodes
    with np.errstate(all="ignore"):
        rows = integrand(z.ravel()).reshape(-1, *z.shape)
        values, sizes = ((part @ weights) * width for part in (rows, np.abs(rows)))
    if not np.all(np.isfinite(sizes)):
        raise _no_moment(label)
    return values, sizes


def _integrate(integrand: Function, label: str) -> Array:
    """Integrates every row of `integrand(z)` (the density is its own affair) over the line."""
    width = np.full(_PANELS, 2.0 * _REACH / _PANELS)
    left = np.asarray(-_REACH + _OFFSET + width * np.arange(_PANELS), dtype=np.float64)
    values, sizes = _panels(integrand, left, width, label)
    scale = sizes.sum(axis=1, keepdims=True)
    if np.any(sizes[:, [0, -1]] > 1e-10 * scale):
        raise _no_moment(label)
    total = np.zeros(len(values))
    for _ in range(_DEPTH):
        half, count = width / 2.0, len(left)
        left = np.concatenate([left, left + half])
        width = np.concatenate([half, half])
        halves, _sizes = _panels(integrand, left, width, label)
        finer = halves[:, :count] + halves[:, count:]
        error = np.abs(finer - values)
        open_ = np.any(error > _TOLERANCE * scale, axis=0)
        total += finer[:, ~open_].sum(axis=1)
        if not np.any(open_):
            return total
        rest, left_over = finer[:, open_].sum(axis=1), error[:, open_].sum(axis=1, keepdims=True)
        again = np.concatenate([open_, open_])
        left, width, values = left[again], width[again], halves[:, again]
        if len(left) > _MOST_PANELS:
            break
    if np.any(left_over > _ENOUGH * scale):
        raise refusal(
            f"{label} cannot be integrated: it oscillates too fast or has a pole",
            remedy="give the layer's gain as a number",
        )
    return np.asarray(total + rest)


def _no_moment(label: str) -> InitConfError:
    return refusal(
        f"{label} grows so fast that its second moment under N(0, 1) is not finite",
        remedy="give the layer's gain as a number",
    )


# --- the built-in activations ----------------------------------------------------------------------------------------

_SELU, _ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
_erf: Function = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(z: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * z))  # cannot overflow


def _leaky(z: Array, slope: float = 0.0) -> Array:
    return np.where(z > 0, z, slope * z)


def _step(z: Array, slope: float = 0.0) -> Array:
    return np.where(z > 0, 1.0, slope)


def _exponential(z: Array, alpha: float, width: float = 1.0) -> Array:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0.0) / width))


def _exponential_slope(z: Array, alpha: float, width: float = 1.0) -> Array:
    return np.where(z > 0, 1.0, alpha / width * np.exp(np.minimum(z, 0.0) / width))


def _phi(z: Array, approximate: str = "none") -> tuple[Array, Array]:
    """The normal distribution function by which GELU multiplies, or its tanh approximation; and its derivative."""
    if approximate == "none":
        return 0.5 * (1.0 + _erf(z / math.sqrt(2.0))), np.exp(-0.5 * z * z) / _ROOT_2_PI
    t = np.tanh(2.0 / _ROOT_2_PI * (z + 0.044715 * z**3))
    return 0.5 * (1.0 + t), (1.0 - t * t) / _ROOT_2_PI * (1.0 + 3.0 * 0.044715 * z * z)


def _gelu(z: Array, approximate: str) -> Array:
    return z * _phi(z, approximate)[0]


def _gelu_slope(z: Array, approximate: str) -> Array:
    value, slope = _phi(z, approximate)
    return value + z * slope


def _swish(z: Array, beta: float = 1.0) -> Array:
    return z * _sigmoid(beta * z)


def _swish_slope(z: Array, beta: float = 1.0) -> Array:
    return _sigmoid(beta * z) * (1.0 + beta * z * _sigmoid(-beta * z))


def _mish(z: Array) -> Array:
    return z * np.tanh(np.logaddexp(0.0, z))


def _mish_slope(z: Array) -> Array:
    t = np.tanh(np.logaddexp(0.0, z))
    return t + z * (1.0 - t * t) * _sigmoid(z)


CURVES: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, float | int | bool | str | None]]] = {
    "linear": (lambda z: z, np.ones_like, {}),
    "relu": (_leaky, _step, {}),
    "leaky_relu": (_leaky, _step, {"negative_slope": 0.01}),
    "prelu": (_leaky, _step, {"init": 0.25}),
    "relu6": (lambda z: np.clip(z, 0.0, 6.0), lambda z: _step(z) - _step(z - 6.0), {}),
    "elu": (_exponential, _exponential_slope, {"alpha": 1.0}),
    "celu": (lambda z, a: _exponential(z, a, a), lambda z, a: _exponential_slope(z, a, a), {"alpha": 1.0}),
    # Klambauer et al. 2017: the constants are those for which E[f] = 0 and E[f^2] = 1.
    "selu": (lambda z: _SELU * _exponential(z, _ALPHA), lambda z: _SELU * _exponential_slope(z, _ALPHA), {}),
    "gelu": (_gelu, _gelu_slope, {"approximate": "none"}),
    "quick_gelu": (lambda z: _swish(z, 1.702), lambda z: _swish_slope(z, 1.702), {}),
    "silu": (_swish, _swish_slope, {}),
    "mish": (_mish, _mish_slope, {}),
    "tanh": (np.tanh, lambda z: 1.0 - np.tanh(z) ** 2, {}),
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * _sigmoid(-z), {}),
    "softplus": (lambda z: np.logaddexp(0.0, z), _sigmoid, {}),
    "logsigmoid": (lambda z: -np.logaddexp(0.0, -z), lambda z: _sigmoid(-z), {}),
    "softsign": (lambda z: z / (1.0 + np.abs(z)), lambda z: (1.0 + np.abs(z)) ** -2.0, {}),
    "hardtanh": (np.clip, lambda z, low, high: _step(z - low) - _step(z - high), {"min_val": -1.0, "max_val": 1.0}),
    "hardsigmoid": (lambda z: np.clip(z / 6.0 + 0.5, 0.0, 1.0), lambda z: _step(3.0 - np.abs(z)) / 6.0, {}),
    "hardswish": (
        lambda z: z * np.clip(z / 6.0 + 0.5, 0.0, 1.0),
        lambda z: np.where(np.abs(z) < 3.0, z / 3.0 + 0.5, _step(z)),
        {},
    ),
    "tanhshrink": (lambda z: z - np.tanh(z), lambda z: np.tanh(z) ** 2, {}),
    "softshrink": (lambda z, lambd: z - np.clip(z, -lambd, lambd), lambda z, a: _step(np.abs(z) - a), {"lambd": 0.5}),
    "hardshrink": (lambda z, a: np.where(np.abs(z) > a, z, 0.0), lambda z, a: _step(np.abs(z) - a), {"lambd": 0.5}),
    "erf": (_erf, lambda z: 2.0 / math.sqrt(math.pi) * np.exp(-z * z), {}),
    "sin": (lambda z, omega: np.sin(omega * z), lambda z, omega: omega * np.cos(omega * z), {"omega": 1.0}),
    "cos": (np.cos, lambda z: -np.sin(z), {}),
    "squared_relu": (lambda z: _leaky(z) ** 2, lambda z: 2.0 * _leaky(z), {}),
    "gaussian": (lambda z: np.exp(-z * z), lambda z: -2.0 * z * np.exp(-z * z), {}),
}
"""Name: the function, its derivative, and the arguments (in this order) that both take after z."""


def _rectified(slope: float = 0.0) -> Moments:
    """Closed form for max(z, 0) + slope * min(z, 0): He et al. 2015, section 2.2."""
    mean, m2 = (1.0 - slope) / _ROOT_2_PI, 0.5 * (1.0 + slope * slope)
    return Moments(mean=mean, m2=m2, var=m2 - mean * mean, bwd_m2=m2, growth=m2)


def _sine(omega: float) -> Moments:
    """Closed form for sin(omega z), which no quadrature follows to any omega."""
    w2 = omega * omega
    m2, bwd_m2 = -0.5 * math.expm1(-2.0 * w2), 0.5 * w2 * (1.0 + math.exp(-2.0 * w2))
    return Moments(mean=0.0, m2=m2, var=m2, bwd_m2=bwd_m2, growth=w2 * math.exp(-2.0 * w2))


CLOSED: dict[str, Callable[..., Moments]] = {
    "linear": lambda: Moments(mean=0.0, m2=1.0, var=1.0, bwd_m2=1.0, growth=1.0),
    "relu": _rectified,
    "leaky_relu": _rectified,
    "prelu": _rectified,
    "sin": _sine,
}
"""The moments of those that have a closed form, as functions of the arguments."""


# --- torch callables -------------------------------------------------------------------------------------------------


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

"""Expectations of a function of one standard normal variable, in float64, without a random number.

`measure` and `second_moment` integrate a vectorised NumPy function against the normal density by Gauss-Lobatto panels
that are halved wherever they disagree with their own halves; so kinks and jumps need not be told, and whoever
oscillates faster than the panels is caught.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from initconf.errors import InitConfError, Problem

Array: TypeAlias = NDArray[np.float64]
Function: TypeAlias = Callable[[Array], Array]

ROOT_2_PI = math.sqrt(2.0 * math.pi)

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
    return np.exp(-0.5 * z * z) * (1.0 / ROOT_2_PI)


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

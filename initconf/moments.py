"""Moments of values that were drawn, gathered piece by piece, and how unlikely they are under a law."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from initconf.laws import Law


@dataclass
class Moments:
    """Sums over values x about a number m; of complex values the moduli's extremes."""

    about: float
    count: int = 0
    total: float = 0.0
    """Of x - m; of complex values the real part."""
    squares: float = 0.0
    """Of |x - m|^2."""
    low: float = math.inf
    high: float = -math.inf

    def add(self, piece: Tensor, wide: bool = True) -> Moments:
        """Take in some values, in double precision unless they are known to lie about m."""
        if not piece.numel():
            return self
        if wide or piece.is_complex():
            piece = piece.to(torch.complex128 if piece.is_complex() else torch.float64)
        size = piece.abs() if piece.is_complex() else piece
        low, high = size.aminmax()  # which are NaN if any value is
        far = piece - self.about if self.about else piece
        parts = torch.view_as_real(far) if far.is_complex() else far
        squares = torch.dot(flat := parts.reshape(-1), flat)
        total = parts[..., 0].sum() if far.is_complex() else far.sum()
        self._join(piece.numel(), float(total), float(squares), float(low), float(high))
        return self

    def join(self, other: Moments) -> None:
        """Take in what another gathered about the same number."""
        self._join(other.count, other.total, other.squares, other.low, other.high)

    def _join(self, count: int, total: float, squares: float, low: float, high: float) -> None:
        self.count += count
        self.total += total
        self.squares += squares
        self.low, self.high = _worse(min, self.low, low), _worse(max, self.high, high)

    @property
    def finite(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high) if self.count else True

    @property
    def mean(self) -> float:
        return self.about + self.total / self.count if self.count else math.nan

    @property
    def std(self) -> float:
        if not self.count:
            return math.nan
        return math.sqrt(max(0.0, self.squares / self.count - (self.total / self.count) ** 2))


def _worse(pick: Callable[[float, float], float], a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else pick(a, b)


def unlikely(law: Law, found: Moments, dtype: torch.dtype, chance: float) -> list[str]:
    """What of the moments is not as a law with known mean and std has it.

    Each test fails on right values with the given chance. Rounding to the dtype is allowed for.
    """
    if law.mean is None or law.std is None or not found.count:
        return []
    said, n, step = [], found.count, torch.finfo(dtype).eps
    low, high = law.bounds
    tiny = step * torch.finfo(dtype).smallest_normal
    slack = step * max(abs(b) for b in (low, high, law.std) if math.isfinite(b)) + tiny
    if found.low < low - slack or found.high > high + slack:
        said.append(f"values from {found.low:.6g} to {found.high:.6g}, outside of the law's bounds [{low:.6g}, {high:.6g}]")
    rounding = step * (abs(law.mean) + law.std) + tiny
    tails = law.kurtosis - 1 if law.kurtosis > 3 else 1.0
    if abs(found.mean - law.mean) > -NormalDist().inv_cdf(chance) * law.std * math.sqrt(tails / n) + rounding:
        said.append(f"mean {found.mean:.6g} of {n} values, and the law's mean is {law.mean:.6g}")
    spread = math.sqrt(found.std**2 + (found.mean - law.mean) ** 2)
    nearest = min(max(law.std, spread - rounding), spread + rounding)
    if _surprise(nearest, law.std, n) > -math.log(chance) * tails:
        said.append(f"standard deviation {found.std:.6g} of {n} values, and the law's is {law.std:.6g}")
    return said


def _surprise(spread: float, std: float, n: int) -> float:
    """How unlikely such a spread of n values about their law's mean is, in nats: Chernoff's bound, which holds for every n."""
    if spread == std:
        return 0.0
    if not spread or not std:
        return math.inf
    ratio = (spread / std) ** 2
    return n / 2 * (ratio - 1 - math.log(ratio))

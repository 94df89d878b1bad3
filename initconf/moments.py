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
    norm: float = 0.0
    """The root of the sum of |x - m|^2, which no value's square can overflow."""
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
        unit = _unit(max(float(high), -float(low)) + abs(self.about), parts.dtype)
        if unit != 1:
            parts = parts / unit
        norm = math.sqrt(torch.dot(flat := parts.reshape(-1), flat))
        total = float(parts[..., 0].sum() if far.is_complex() else parts.sum())
        self._join(piece.numel(), total * unit, norm * unit, float(low), float(high))
        return self

    def join(self, other: Moments) -> None:
        """Take in what another gathered about the same number."""
        self._join(other.count, other.total, other.norm, other.low, other.high)

    def _join(self, count: int, total: float, norm: float, low: float, high: float) -> None:
        self.count += count
        self.total += total
        self.norm = math.hypot(self.norm, norm)
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
        spread, off = self.norm / math.sqrt(self.count), abs(self.total) / self.count
        return math.sqrt(max(0.0, spread - off)) * math.sqrt(spread + off)


def _unit(largest: float, dtype: torch.dtype) -> float:
    """A power of two to divide values by before they are squared and summed: 1 but for very large and very small ones."""
    exponent = math.frexp(largest)[1] if math.isfinite(largest) else 0
    harmless, most = (40, 120) if dtype == torch.float32 else (400, 1000)  # such a unit has an inverse
    return 1.0 if abs(exponent) < harmless else math.ldexp(1.0, max(-most, min(exponent, most)))


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
    spread = math.hypot(found.std, found.mean - law.mean)
    nearest = min(max(law.std, spread - rounding), spread + rounding)
    if _surprise(nearest, law.std, n) > -math.log(chance) * tails:
        said.append(f"standard deviation {found.std:.6g} of {n} values, and the law's is {law.std:.6g}")
    return said


def _surprise(spread: float, std: float, n: int) -> float:
    """How unlikely such a spread of n values about their law's mean is, in nats: Chernoff's bound, which holds for every n."""
    if not spread or not std:
        return 0.0 if spread == std else math.inf
    off = 2 * (math.log(spread) - math.log(std))
    return n / 2 * (math.expm1(off) - off) if off < 700 else math.inf

"""Laws whose values are drawn one by one: each is its quantile function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from initconf.laws.base import Bounds, Law

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Constant(Law):
    """Every element is `value`."""

    elementwise: ClassVar[bool] = True
    value: float

    @property
    def mean(self) -> float:
        return self.value

    @property
    def std(self) -> float:
        return 0.0

    @property
    def bounds(self) -> Bounds:
        return (self.value, self.value)

    def quantile(self, v: Tensor) -> Tensor:
        return v.fill_(self.value)


@dataclass(frozen=True)
class Uniform(Law):
    """U(low, high): mean (low + high) / 2, std (high - low) / sqrt(12)."""

    elementwise: ClassVar[bool] = True
    low: float
    high: float

    @property
    def mean(self) -> float:
        return self.low / 2 + self.high / 2

    @property
    def std(self) -> float:
        return (self.high / 2 - self.low / 2) / math.sqrt(3)

    @property
    def bounds(self) -> Bounds:
        return (self.low, self.high)

    def quantile(self, v: Tensor) -> Tensor:
        v.mul_(self.high / 2 - self.low / 2)
        return v.add_(self.mean) if self.mean else v


@dataclass(frozen=True)
class Normal(Law):
    """N(mean, std^2), untruncated; its extremes are those of the stream, 5.4 sigma in float32."""

    elementwise: ClassVar[bool] = True
    mean: float
    std: float

    def quantile(self, v: Tensor) -> Tensor:
        v.erfinv_().mul_(self.std * math.sqrt(2))
        return v.add_(self.mean) if self.mean else v


@dataclass(frozen=True)
class TruncatedNormal(Law):
    """A normal law cut off at `low` and `high` sigmas of its parent, as in TensorFlow and JAX.

    `mean` and `std` are what is *delivered*; the parent is wider (by 1/0.87962566103423978 at two sigma) and, where the bounds
    are not symmetric, elsewhere.

    >>> TruncatedNormal(mean=0.0, std=0.02).bounds
    (-0.0454738..., 0.0454738...)
    """

    elementwise: ClassVar[bool] = True
    mean: float
    std: float
    low: float = -2.0
    high: float = 2.0

    @classmethod
    def absolute(cls, mean: float, std: float, low: float, high: float) -> TruncatedNormal:
        """As torch's `trunc_normal_` says it: `low` and `high` are values, `mean` and `std` those of the parent."""
        low, high = (low - mean) / std, (high - mean) / std
        shift, shrink = truncated_moments(low, high)
        return cls(mean + std * shift, std * shrink, low, high)

    @property
    def parent(self) -> tuple[float, float]:
        """Mean and std of the normal law before truncation."""
        shift, shrink = truncated_moments(self.low, self.high)
        return self.mean - self.std / shrink * shift, self.std / shrink

    @property
    def bounds(self) -> Bounds:
        mean, std = self.parent
        return (mean + self.low * std, mean + self.high * std) if std else (mean, mean)

    def quantile(self, v: Tensor) -> Tensor:
        mean, std = self.parent
        if self.low > 2 or self.high < -2:
            v.copy_(self._tail(v))
        else:
            below, above = math.erf(self.low / math.sqrt(2)), math.erf(self.high / math.sqrt(2))
            v.mul_(above / 2 - below / 2)
            if below + above:
                # Where one bound is far out the sum can round to 1: no further out than the stream's own extremes.
                edge = 1 - 2.0 ** (-53 if v.element_size() == 8 else -24)
                v.add_(below / 2 + above / 2).clamp_(-edge, edge)
            v.erfinv_().mul_(std * math.sqrt(2))
            if mean:
                v.add_(mean)
        return v.clamp_(*self.bounds)

    def _tail(self, v: Tensor) -> Tensor:
        """A window past two sigma: by way of the lower tail, where probabilities keep their relative precision."""
        from torch import special

        mean, std = self.parent
        sign, low, high = (-1.0, -self.high, -self.low) if self.low > 2 else (1.0, self.low, self.high)
        below, above = math.erfc(-low / math.sqrt(2)) / 2, math.erfc(-high / math.sqrt(2)) / 2
        share = v.double().mul_(sign).add_(1).div_(2)
        z: Tensor = special.ndtri(share.mul_(above - below).add_(below))
        return z.mul_(sign * std).add_(mean)


@lru_cache(maxsize=1024)
def truncated_moments(low: float, high: float) -> tuple[float, float]:
    """Mean and std of a standard normal cut off at `low` and `high`.

    By quadrature: the closed form loses its digits in the tails, where a variance of 0.01 is a difference of numbers near 70.

    >>> truncated_moments(-2.0, 2.0)[1]
    0.8796256610342398
    """
    if low == -math.inf and high == math.inf:
        return 0.0, 1.0
    if low == -high:
        return 0.0, math.sqrt(
            1 - 2 * high * math.exp(-high * high / 2) / math.sqrt(2 * math.pi) / math.erf(high / math.sqrt(2))
        )
    import numpy as np

    # Beyond 12 sigma from the densest point of the window nothing is left (1e-31).
    peak = min(max(0.0, low), high)
    a, b = max(low, peak - 12), min(high, peak + 12)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    edges = np.linspace(a, b, 65)
    half = np.diff(edges)[:, None] / 2
    x = edges[:-1, None] + half * (nodes + 1)
    density = weights * half * np.exp((peak - x) * (peak + x) / 2)
    total = density.sum()
    mean = peak + float((density * (x - peak)).sum() / total)
    return mean, math.sqrt(float((density * (x - mean) ** 2).sum() / total))

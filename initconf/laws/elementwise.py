"""Laws whose values are real and drawn one by one: each is its quantile function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from initconf.errors import InitConfError
from initconf.laws.base import Bounds, Law, Line, Straight

if TYPE_CHECKING:
    from torch import Tensor

_NARROW = 0.1
"""Windows of fewer sigmas than this take their quantiles in float64: in float32 too few values would lie in them."""


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
class Uniform(Straight):
    """U(low, high): mean (low + high) / 2, std (high - low) / sqrt(12)."""

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

    @property
    def line(self) -> Line:
        return Line(self.high / 2 - self.low / 2, self.mean)


@dataclass(frozen=True)
class Normal(Straight):
    """N(mean, std^2), untruncated; its extremes are those of the stream, 5.4 sigma in float32."""

    mean: float
    std: float

    def standard(self, v: Tensor) -> Tensor:
        return v.erfinv_()

    @property
    def line(self) -> Line:
        return Line(self.std * math.sqrt(2), self.mean)


@dataclass(frozen=True)
class TruncatedNormal(Straight):
    """A normal law cut off at `low` and `high` sigmas of its parent, as in TensorFlow and JAX.

    `mean` and `std` are what is *delivered*; the parent is wider (by 1/0.87962566103423978 at two sigma) and, where the bounds
    are not symmetric, elsewhere.

    >>> TruncatedNormal(mean=0.0, std=0.02).bounds
    (-0.0454738..., 0.0454738...)
    """

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
    def kurtosis(self) -> float:
        return 3.0 if self.low == -self.high else 9.0  # at most that of the exponential law, which far tails tend to

    @property
    def bounds(self) -> Bounds:
        if not self.std:
            return (self.mean, self.mean)
        # About the delivered mean: in a narrow window the parent's is far away, and its digits with it.
        shift, shrink = truncated_moments(self.low, self.high)
        low, high = ((bound - shift) * (self.std / shrink) for bound in (self.low, self.high))
        return (self.mean + low, self.mean + high)

    @property
    def _is_far(self) -> bool:
        """Whether the window lies in a tail, or is so narrow that too few of float32's uniforms would lie in it."""
        return self.low > 2 or self.high < -2 or self.high - self.low < _NARROW

    def standard(self, v: Tensor) -> Tensor:
        if self._is_far:
            return v.copy_(self._precise(v))
        below, above = math.erf(self.low / math.sqrt(2)), math.erf(self.high / math.sqrt(2))
        v.mul_(above / 2 - below / 2)
        if below + above:
            # Where one bound is far out the sum can round to 1: no further out than the stream's own extremes.
            edge = 1 - 2.0 ** (-53 if v.element_size() == 8 else -24)
            v.add_(below / 2 + above / 2).clamp_(-edge, edge)
        return v.erfinv_()

    @property
    def line(self) -> Line:
        if self._is_far:
            return Line(1.0, 0.0, *self.bounds)
        mean, std = self.parent
        return Line(std * math.sqrt(2), mean, *self.bounds)

    def _precise(self, v: Tensor) -> Tensor:
        """In float64, by way of the lower tail, where probabilities keep their relative precision."""
        from torch import special

        shift, shrink = truncated_moments(self.low, self.high)
        sign, low, high = (-1.0, -self.high, -self.low) if self.low > 0 else (1.0, self.low, self.high)
        below, above = math.erfc(-low / math.sqrt(2)) / 2, math.erfc(-high / math.sqrt(2)) / 2
        share = v.double().mul_(sign).add_(1).div_(2)
        z: Tensor = special.ndtri(share.mul_(above - below).add_(below), out=share)
        return z.sub_(sign * shift).mul_(sign * (self.std / shrink)).add_(self.mean)


@lru_cache(maxsize=1)
def _rule() -> tuple[Any, Any]:
    """Nodes and weights of Gauss and Legendre's rule of 64 points on (-1, 1)."""
    import numpy as np

    return np.polynomial.legendre.leggauss(64)


@lru_cache(maxsize=1024)
def truncated_moments(low: float, high: float) -> tuple[float, float]:
    """Mean and std of a standard normal cut off at `low` and `high`.

    By quadrature: the closed form loses its digits in the tails, where a variance of 0.01 is a difference of numbers near 70,
    and in narrow windows.

    >>> truncated_moments(-2.0, 2.0)[1]
    0.8796256610342398

    Raises InitConfError for windows past 37 sigmas, where no float64 is left, and for those under a millionth of a sigma.
    """
    if low > 37 or high < -37 or not high - low >= 1e-6:
        raise InitConfError(f"between {low:g} and {high:g} sigmas nothing of a normal law is left that can be computed")
    if low == -math.inf and high == math.inf:
        return 0.0, 1.0
    if low == -high and high >= 1:
        return 0.0, math.sqrt(
            1 - 2 * high * math.exp(-high * high / 2) / math.sqrt(2 * math.pi) / math.erf(high / math.sqrt(2))
        )
    import numpy as np

    # As offsets from the densest point of the window; beyond 12 sigma from it nothing is left (1e-31).
    peak = min(max(0.0, low), high)
    nodes, weights = _rule()
    edges = np.linspace(max(low - peak, -12), min(high - peak, 12), 65)
    half = np.diff(edges)[:, None] / 2
    x = edges[:-1, None] + half * (nodes + 1)
    density = weights * half * np.exp(-x * (2 * peak + x) / 2)
    total = density.sum()
    shift = float((density * x).sum() / total)
    std = math.sqrt(float((density * (x - shift) ** 2).sum() / total))
    return 0.0 if low == -high else peak + shift, std


@dataclass(frozen=True)
class LogUniform(Law):
    """exp U(ln low, ln high), for 0 < low < high: every decade is as likely as any other."""

    elementwise: ClassVar[bool] = True
    low: float
    high: float

    def _raw(self, k: int) -> float:
        """E[x^k] = (high^k - low^k) / (k ln(high / low))."""
        return (self.high**k - self.low**k) / (k * math.log(self.high / self.low))

    @property
    def mean(self) -> float:
        return self._raw(1)

    @property
    def std(self) -> float:
        return math.sqrt(self._raw(2) - self._raw(1) ** 2)

    @property
    def kurtosis(self) -> float:
        m = self._raw(1)
        return (self._raw(4) - 4 * m * self._raw(3) + 6 * m**2 * self._raw(2) - 3 * m**4) / self.std**4

    @property
    def bounds(self) -> Bounds:
        return (self.low, self.high)

    def quantile(self, v: Tensor) -> Tensor:
        return v.copy_(_decades(v, self.low, self.high)).clamp_(*self.bounds)


@dataclass(frozen=True)
class LogOfUniform(Law):
    """sign * ln U(low, high), for 0 < low < high: chrono's gate biases, Mamba-2's `A_log`.

    `mirror` names the block whose draws are taken, so that of an LSTM b_i = -b_f holds unit by unit.
    """

    elementwise: ClassVar[bool] = True
    low: float
    high: float
    sign: int = 1
    mirror: str | None = None

    @property
    def stream(self) -> str | None:  # type: ignore[override]  # of this law, not of its class
        return self.mirror

    @property
    def mean(self) -> float:
        upper, lower = (x * math.log(x) - x for x in (self.high, self.low))
        return self.sign * (upper - lower) / (self.high - self.low)

    @property
    def std(self) -> float:
        upper, lower = (x * (math.log(x) ** 2 - 2 * math.log(x) + 2) for x in (self.high, self.low))
        return math.sqrt((upper - lower) / (self.high - self.low) - self.mean**2)

    @property
    def kurtosis(self) -> float:
        return 9.0  # of the exponential law, which it tends to for low -> 0

    @property
    def bounds(self) -> Bounds:
        ends = self.sign * math.log(self.low), self.sign * math.log(self.high)
        return (min(ends), max(ends))

    def quantile(self, v: Tensor) -> Tensor:
        wide = v.double().mul_(self.high / 2 - self.low / 2).add_(self.low / 2 + self.high / 2)
        return v.copy_(wide.log_().mul_(self.sign)).clamp_(*self.bounds)


@dataclass(frozen=True)
class InverseSoftplus(Law):
    """x with softplus(x) = max(floor, exp U(ln low, ln high)): Mamba's `dt_bias`."""

    elementwise: ClassVar[bool] = True
    low: float
    high: float
    floor: float

    def _moment(self, k: int, about: float = 0.0) -> float:
        import numpy as np

        # Smooth on both sides of the floor, so a rule of 64 nodes on each is exact to the last digits.
        a, b = math.log(self.low), math.log(self.high)
        kink = min(max(math.log(self.floor), a), b) if self.floor > 0 else a
        nodes, weights = _rule()
        total = 0.0
        for left, right in ((a, kink), (kink, b)):
            t = np.exp(left + (right - left) * (nodes + 1) / 2).clip(self.floor)
            total += float((weights * (t + np.log(-np.expm1(-t)) - about) ** k).sum()) * (right - left) / 2
        return total / (b - a)

    @property
    def mean(self) -> float:
        return self._moment(1)

    @property
    def std(self) -> float:
        return math.sqrt(self._moment(2, self.mean))

    @property
    def kurtosis(self) -> float:
        return self._moment(4, self.mean) / self.std**4

    @property
    def bounds(self) -> Bounds:
        low, high = (t + math.log(-math.expm1(-t)) for t in (max(self.low, self.floor), max(self.high, self.floor)))
        return (low, high)

    def quantile(self, v: Tensor) -> Tensor:
        t = _decades(v, self.low, self.high).clamp_(min=self.floor)
        return v.copy_(t + (-(-t).expm1()).log()).clamp_(*self.bounds)


def _decades(v: Tensor, low: float, high: float) -> Tensor:
    middle, half = (math.log(low) + math.log(high)) / 2, (math.log(high) - math.log(low)) / 2
    return v.double().mul_(half).add_(middle).exp_()


# --- complex values: two uniforms each, and std = sqrt(E|w - mean|^2) -----------------------------------------------------

r"""Laws: what a parameter will receive, as plain numbers.

A law is a frozen dataclass. An elementwise law is its *quantile function*: it turns a uniform number into a value, so
that value i of a parameter depends on the i-th uniform alone. Each law knows the mean and the standard deviation that it
delivers (None where it cannot know), so the plan, the report and the verification need no second source.

Quantiles take `v = 2u - 1`, symmetric in (-1, 1) and never -1 or 1: `v` holds twice as many useful numbers near the
tails as `u` does, and the normal quantile is then one `erfinv`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from initconf.errors import InitConfError

if TYPE_CHECKING:
    from torch import Tensor

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Law:
    """The base of all laws: JSON in and out, and what a law may say of itself."""

    elementwise: ClassVar[bool] = False
    """Whether value i depends on uniform i alone, through `quantile`."""
    _kinds: ClassVar[dict[str, type[Law]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Law._kinds[cls.__name__] = cls

    if TYPE_CHECKING:  # fields in some laws, properties in others

        @property
        def mean(self) -> float | None: ...
        @property
        def std(self) -> float | None: ...

    @property
    def bounds(self) -> Bounds:
        """The smallest and the largest value that can occur."""
        return (-math.inf, math.inf)

    def quantile(self, v: Tensor) -> Tensor:
        """Turn symmetric uniforms in (-1, 1) into values, in place."""
        raise NotImplementedError(f"{type(self).__name__} is not elementwise")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping with the law's class name under `law`.

        >>> Normal(mean=0.0, std=0.02).to_dict()
        {'law': 'Normal', 'mean': 0.0, 'std': 0.02}
        """
        return {"law": type(self).__name__, **{f.name: _plain(getattr(self, f.name)) for f in fields(self)}}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Law:
        """The law that `to_dict` wrote. Raises InitConfError for an unknown one."""
        kind = Law._kinds.get(str(data.get("law")))
        if kind is None:
            raise InitConfError(f"no law named {data.get('law')!r}")
        return kind(**{name: _revive(value) for name, value in data.items() if name != "law"})

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{f.name}={_short(getattr(self, f.name))}' for f in fields(self))})"


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


@dataclass(frozen=True)
class Orthogonal(Law):
    """A random matrix with orthonormal rows or columns (whichever are fewer), times `gain`; Haar distributed.

    The tensor of shape `shape` is read as a matrix: the `out` axes are its rows, all others its columns; each index of the axes
    of `batch` has a matrix of its own. Every entry has mean 0 and std gain / sqrt(max(rows, columns)).
    """

    gain: float
    shape: tuple[int, ...]
    out: tuple[int, ...] = (0,)
    batch: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        return math.prod(self.shape[axis] for axis in self.out)

    @property
    def columns(self) -> int:
        return math.prod(n for axis, n in enumerate(self.shape) if axis not in self.out and axis not in self.batch)

    @property
    def mean(self) -> float:
        return 0.0

    @property
    def std(self) -> float:
        return abs(self.gain) / math.sqrt(max(self.rows, self.columns, 1))

    def __str__(self) -> str:
        return f"Orthogonal(gain={self.gain:.6g}, {self.rows}x{self.columns})"


@dataclass(frozen=True)
class Keep(Law):
    """The parameter keeps the values it has."""

    @property
    def mean(self) -> None:
        return None

    @property
    def std(self) -> None:
        return None


@dataclass(frozen=True)
class ModuleDefault(Law):
    """What the owning module's own reset method would give it."""

    reset: str
    """The method's name: `reset_parameters` or `_reset_parameters`."""

    @property
    def mean(self) -> None:
        return None

    @property
    def std(self) -> None:
        return None


@dataclass(frozen=True)
class Custom(Law):
    """A user's registered function `fn(tensor, generator=..., **settings)`, called by its registered name."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def mean(self) -> None:
        return None

    @property
    def std(self) -> None:
        return None


@dataclass(frozen=True)
class Blocks(Law):
    """A law for each of the named blocks that follow each other along `axis`."""

    axis: int
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    laws: tuple[Law, ...]

    @property
    def mean(self) -> float | None:
        means = [law.mean for law in self.laws]
        total = sum(self.sizes)
        if None in means or not total:
            return None
        return sum(n * m for n, m in zip(self.sizes, means, strict=True) if m is not None) / total

    @property
    def std(self) -> float | None:
        mean, total = self.mean, sum(self.sizes)
        if mean is None or not total:
            return None
        squares = 0.0
        for n, law in zip(self.sizes, self.laws, strict=True):
            if law.std is None or law.mean is None:
                return None
            squares += n * (law.std**2 + (law.mean - mean) ** 2)
        return math.sqrt(squares / total)


def _plain(value: Any) -> Any:
    if isinstance(value, Law):
        return value.to_dict()
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def _revive(value: Any) -> Any:
    if isinstance(value, Mapping) and "law" in value:
        return Law.from_dict(value)
    if isinstance(value, (tuple, list)):
        return tuple(_revive(v) for v in value)
    return value


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""Laws that leave the values to somebody else, and the law of a parameter that consists of blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from initconf.laws.base import Bounds, Construction, Law, Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class _Elsewhere(Law):
    """Values that come from somewhere else: their moments are not known."""

    @property
    def mean(self) -> None:
        return None

    @property
    def std(self) -> None:
        return None


@dataclass(frozen=True)
class Keep(_Elsewhere):
    """The parameter keeps the values it has."""


@dataclass(frozen=True)
class ModuleDefault(_Elsewhere):
    """What the owning module's own reset method would give it."""

    reset: str
    """The method's name: `reset_parameters` or `_reset_parameters`."""


@dataclass(frozen=True)
class Values(_Elsewhere):
    """The tensor `key` of a file; of a `.npy` file the key is empty."""

    path: str
    key: str


@dataclass(frozen=True)
class Custom(_Elsewhere):
    """A user's registered function `fn(tensor, generator=..., **settings)`, called by its registered name."""

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        # As JSON brings them back, so that the function is called alike before and after.
        object.__setattr__(self, "settings", tuple((name, _listed(value)) for name, value in self.settings))


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

    @property
    def kurtosis(self) -> float:
        mean, std = self.mean, self.std
        if mean is None or not std:
            return 3.0
        fourth = 0.0
        for n, law in zip(self.sizes, self.laws, strict=True):
            spread, off = law.std or 0.0, (law.mean or 0.0) - mean
            fourth += n * (law.kurtosis * spread**4 + 6 * spread**2 * off**2 + off**4)  # of laws without skew
        return fourth / sum(self.sizes) / std**4


@dataclass(frozen=True)
class Flat(Construction):
    """The values of another law's tensor in a row: what generates it holds them so."""

    inner: Law
    of: tuple[int, ...]
    """The shape of that tensor."""
    zero_row: int | None = None
    """A row of it that stays zero."""

    def __str__(self) -> str:
        return f"Flat({self.inner} of {'x'.join(map(str, self.of))})"

    @property
    def shape(self) -> tuple[int, ...]:
        return (math.prod(self.of),)

    @property
    def deterministic(self) -> bool:
        return isinstance(self.inner, Construction) and self.inner.deterministic

    @property
    def exchangeable(self) -> bool:
        return self.inner.elementwise and self.zero_row is None

    @property
    def _share(self) -> float:
        """Of the values that are the law's: those of all rows but the one that stays zero."""
        return 1.0 if self.zero_row is None else 1 - 1 / self.of[0]

    @property
    def mean(self) -> float | None:
        return None if self.inner.mean is None else self._share * self.inner.mean

    @property
    def std(self) -> float | None:
        mean, std = self.inner.mean, self.inner.std
        if mean is None or std is None:
            return None
        return math.sqrt(self._share * (std**2 + (1 - self._share) * mean**2))

    @property
    def bounds(self) -> Bounds:
        low, high = self.inner.bounds
        return (low, high) if self.zero_row is None else (min(low, 0.0), max(high, 0.0))

    @property
    def kurtosis(self) -> float:
        return self.inner.kurtosis / max(self._share, 0.01)

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        made = _built(self.inner, self.of, stream, dtype)
        if self.zero_row is not None:
            made[self.zero_row].zero_()
        return made.reshape(-1)


def _built(law: Law, shape: tuple[int, ...], stream: Stream, dtype: torch.dtype) -> Tensor:
    """A whole tensor of a law, all of it from one stream."""
    if isinstance(law, Construction):
        return law.build(stream, dtype).reshape(shape)
    if not isinstance(law, Blocks):
        return law.quantile(stream.uniform(math.prod(shape) * law.per_value)).reshape(shape)
    from torch import cat

    drawn: dict[str, Tensor] = {}  # by the block's name, which another block may mirror
    parts = []
    for name, size, of in zip(law.names, law.sizes, law.laws, strict=True):
        part = (*shape[: law.axis], size, *shape[law.axis + 1 :])
        if of.elementwise:
            draws = of.stream or name
            if draws not in drawn:
                drawn[draws] = stream.uniform(math.prod(part) * of.per_value)
            parts.append(of.quantile(drawn[draws].clone()).reshape(part))
        else:
            parts.append(_built(of, part, stream, dtype))
    return cat(parts, law.axis)


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _listed(v) for k, v in value.items()}
    return [_listed(v) for v in value] if isinstance(value, (tuple, list)) else value

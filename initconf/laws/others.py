"""Laws that leave the values to somebody else, and the law of a parameter that consists of blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from initconf.laws.base import Law


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


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _listed(v) for k, v in value.items()}
    return [_listed(v) for v in value] if isinstance(value, (tuple, list)) else value

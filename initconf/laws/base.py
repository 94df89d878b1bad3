"""What every law can do: say its moments, its bounds and itself in JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from initconf.errors import InitConfError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Bounds = tuple[float, float]


class Stream(Protocol):
    """What a construction may draw from: the parameter's own stream, in order."""

    def uniform(self, *shape: int) -> Tensor:
        """The next symmetric uniforms in (-1, 1)."""
        ...

    def normal(self, *shape: int) -> Tensor:
        """The next standard normals."""
        ...


class Line(NamedTuple):
    """The last step of many quantiles: x -> shift + scale x, cut off at `low` and `high`."""

    scale: float
    shift: float = 0.0
    low: float = -math.inf
    high: float = math.inf

    def of(self, x: Tensor) -> Tensor:
        """In place."""
        if self.scale != 1:
            x.mul_(self.scale)
        if self.shift:
            x.add_(self.shift)
        if self.low == -math.inf and self.high == math.inf:
            return x
        most = 3.4028234663852886e38 if x.element_size() == 4 else math.inf  # of float32: torch takes no number beyond
        low, high = (bound if abs(bound) <= most else math.copysign(math.inf, bound) for bound in (self.low, self.high))
        return x.clamp_(low, high)


@dataclass(frozen=True)
class Law:
    """The base of all laws: JSON in and out, and what a law may say of itself."""

    elementwise: ClassVar[bool] = False
    """Whether value i depends on its own uniforms alone, through `quantile`."""
    per_value: ClassVar[int] = 1
    """How many uniforms a value takes: two where values are complex."""
    stream: ClassVar[str | None] = None
    """The block whose stream the law draws from instead of its own (chrono's input gates mirror its forget gates)."""
    _kinds: ClassVar[dict[str, type[Law]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        known = Law._kinds.setdefault(cls.__name__, cls)
        # The same class comes again when a notebook's cell or a decorator makes it anew.
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise InitConfError(f"there is a law named {cls.__name__!r} already, in {known.__module__}")
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

    @property
    def kurtosis(self) -> float:
        """E[(x - mean)^4] / std^4, or a bound for it: how far a sample's std strays. The normal law's unless said otherwise."""
        return 3.0

    def quantile(self, v: Tensor) -> Tensor:
        """Turn symmetric uniforms in (-1, 1) into values, in place."""
        raise NotImplementedError(f"{type(self).__name__} is not elementwise")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping with the law's class name under `law`.

        >>> initconf.laws.Normal(mean=0.0, std=0.02).to_dict()
        {'law': 'Normal', 'mean': 0.0, 'std': 0.02}
        """
        return {"law": type(self).__name__, **{f.name: to_json(getattr(self, f.name)) for f in fields(self)}}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Law:
        """The law that `to_dict` wrote. Raises InitConfError for an unknown one."""
        kind = Law._kinds.get(str(data.get("law")))
        if kind is None:
            raise InitConfError(f"no law named {data.get('law')!r}")
        return kind(**{name: _frozen(from_json(value)) for name, value in data.items() if name != "law"})

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{f.name}={_short(getattr(self, f.name))}' for f in fields(self))})"


@dataclass(frozen=True)
class Straight(Law):
    """A law whose quantile ends in a straight line, which may be done while the values are cast."""

    elementwise: ClassVar[bool] = True

    def standard(self, v: Tensor) -> Tensor:
        """Turn symmetric uniforms into what the line begins with, in place."""
        return v

    @property
    def line(self) -> Line:
        """From there to the values."""
        raise NotImplementedError

    def quantile(self, v: Tensor) -> Tensor:
        return self.line.of(self.standard(v))


@dataclass(frozen=True)
class Construction(Law):
    """A law of a whole tensor, which cannot be made element by element."""

    @property
    def deterministic(self) -> bool:
        """Whether nothing is drawn: the values are the same each time."""
        return False

    @property
    def exchangeable(self) -> bool:
        """Whether any rectangle that is cut out of the tensor has the mean and the std of the whole, as a sample has them."""
        return False

    @property
    def single(self) -> Construction | None:
        """The law of one index of the first axis, where each is made by itself and in order; None where the tensor is one."""
        return None

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        """The tensor, in a working precision not below that of `dtype`."""
        raise NotImplementedError


def to_json(value: Any) -> Any:
    """A field or a setting as JSON can hold it: laws as mappings, infinity (which JSON lacks) as {"float": "inf"}."""
    if isinstance(value, Law):
        return value.to_dict()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    return {k: to_json(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def from_json(value: Any) -> Any:
    """The inverse of `to_json`, but that tuples have become lists."""
    if isinstance(value, Mapping):
        if value.keys() == {"float"} and isinstance(value["float"], str):
            return float(value["float"])
        return Law.from_dict(value) if value.get("law") in Law._kinds else {k: from_json(v) for k, v in value.items()}
    return [from_json(v) for v in value] if isinstance(value, (tuple, list)) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _short(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 6:
        return f"{len(value)} values"
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""Laws whose values are complex and drawn one by one, of two uniforms each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from initconf.laws.base import Bounds, Law

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ComplexNormal(Law):
    """Real and imaginary part N(., std^2 / 2) each, independent; the mean is real."""

    elementwise: ClassVar[bool] = True
    per_value: ClassVar[int] = 2
    mean: float
    std: float

    def quantile(self, v: Tensor) -> Tensor:
        return _complex(v.erfinv_().mul_(self.std)).add_(self.mean)


@dataclass(frozen=True)
class ComplexUniform(Law):
    """Uniform in the disk of radius sqrt(2) std."""

    elementwise: ClassVar[bool] = True
    per_value: ClassVar[int] = 2
    std: float

    @property
    def mean(self) -> float:
        return 0.0

    @property
    def bounds(self) -> Bounds:
        return (0.0, math.sqrt(2) * self.std)

    def quantile(self, v: Tensor) -> Tensor:
        pairs = v.view(-1, 2)
        return _polar((pairs[:, 0] + 1).div_(2).sqrt_().mul_(math.sqrt(2) * self.std), pairs)


@dataclass(frozen=True)
class ComplexTruncatedNormal(Law):
    """A complex normal law cut off where |w| is two sigma of its parent; `std` is what is delivered.

    The parent is wider by 1 / sqrt(1 - 4 e^-4 / (1 - e^-4)) = 1 / 0.96196182800821 (JAX divides by 0.95311164380491, and
    delivers 1.86 percent too much variance).
    """

    elementwise: ClassVar[bool] = True
    per_value: ClassVar[int] = 2
    std: float

    @property
    def mean(self) -> float:
        return 0.0

    @property
    def parent_std(self) -> float:
        return self.std / math.sqrt(1 - 4 * math.exp(-4) / -math.expm1(-4))

    @property
    def bounds(self) -> Bounds:
        return (0.0, 2 * self.parent_std)

    def quantile(self, v: Tensor) -> Tensor:
        pairs = v.view(-1, 2)
        # |w|^2 is exponential: its tail at share s of the window's mass.
        share = (pairs[:, 0] + 1).mul_(math.expm1(-4) / 2)
        return _polar(share.log1p_().neg_().sqrt_().mul_(self.parent_std), pairs)


def _complex(v: Tensor) -> Tensor:
    from torch import view_as_complex

    return view_as_complex(v.view(-1, 2))


def _polar(modulus: Tensor, pairs: Tensor) -> Tensor:
    from torch import polar

    return polar(modulus, pairs[:, 1] * math.pi)

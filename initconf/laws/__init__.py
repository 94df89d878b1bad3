r"""Laws: what a parameter will receive, as plain numbers.

A law is a frozen dataclass. An elementwise law is its *quantile function*: it turns a uniform number into a value, so
that value i of a parameter depends on the i-th uniform alone. Each law knows the mean and the standard deviation that it
delivers (None where it cannot know), so the plan, the report and the verification need no second source.

Quantiles take `v = 2u - 1`, symmetric in (-1, 1) and never -1 or 1: `v` holds twice as many useful numbers near the
tails as `u` does, and the normal quantile is then one `erfinv`.
"""

from initconf.laws.base import Bounds, Construction, Law, Stream
from initconf.laws.complex import ComplexNormal, ComplexTruncatedNormal, ComplexUniform
from initconf.laws.constructions import Orthogonal, Sinusoid, Sparse, Table
from initconf.laws.elementwise import (
    Constant,
    InverseSoftplus,
    LogOfUniform,
    LogUniform,
    Normal,
    TruncatedNormal,
    Uniform,
    truncated_moments,
)
from initconf.laws.kernels import ConvolutionOrthogonal, DeltaOrthogonal, Dirac, Hadamard, Identity, ZerO
from initconf.laws.others import Blocks, Custom, Flat, Keep, ModuleDefault, Values

__all__ = [
    "Blocks",
    "Bounds",
    "ComplexNormal",
    "ComplexTruncatedNormal",
    "ComplexUniform",
    "Constant",
    "Construction",
    "ConvolutionOrthogonal",
    "Custom",
    "DeltaOrthogonal",
    "Dirac",
    "Flat",
    "Hadamard",
    "Identity",
    "InverseSoftplus",
    "Keep",
    "Law",
    "LogOfUniform",
    "LogUniform",
    "ModuleDefault",
    "Normal",
    "Orthogonal",
    "Sinusoid",
    "Sparse",
    "Stream",
    "Table",
    "TruncatedNormal",
    "Uniform",
    "Values",
    "ZerO",
    "truncated_moments",
]

"""Initializers whose scale is said outright."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from initconf.errors import InitConfError
from initconf.laws import (
    ComplexNormal,
    ComplexTruncatedNormal,
    ComplexUniform,
    Constant,
    Law,
    Normal,
    TruncatedNormal,
    Uniform,
    truncated_moments,
)
from initconf.registry import register
from initconf.sites import Site

Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@register("uniform", explicit_scale=True)
def uniform(site: Site, low: Finite, high: Finite, gain: NonNegative = 1.0) -> Law:
    """U(low, high), stretched about its middle by `gain`. Raises InitConfError unless low <= high."""
    if low > high:
        raise InitConfError(f"low = {low:g} is above high = {high:g}")
    middle, half = low / 2 + high / 2, (high / 2 - low / 2) * gain  # halved first, so that no sum overflows
    return Uniform(middle - half, middle + half)


@register("normal", explicit_scale=True)
def normal(site: Site, mean: Finite = 0.0, std: NonNegative = 1.0, gain: NonNegative = 1.0) -> Law:
    """N(mean, (gain * std)^2), untruncated. Of a complex parameter, real and imaginary part share the variance."""
    return ComplexNormal(mean, gain * std) if site.is_complex else Normal(mean, gain * std)


@register("truncated_normal", explicit_scale=True)
def truncated_normal(
    site: Site,
    mean: Finite = 0.0,
    std: NonNegative = 1.0,
    low: float = -2.0,
    high: float = 2.0,
    absolute: bool = False,
    gain: NonNegative = 1.0,
) -> Law:
    """A normal law cut off at `low` and `high` sigmas of its parent, as in TensorFlow and JAX; mean and std are delivered.

    With `absolute`, as in torch's `trunc_normal_`, `low` and `high` are values, and `mean` and `std` are the parent's. `gain`
    multiplies the std (and with `absolute` draws the bounds along, about the mean).
    Raises InitConfError unless low < high, and where nothing that can be computed is left between them.
    """
    if not low < high:
        raise InitConfError(f"low = {low:g} is not below high = {high:g}")
    if gain * std == 0:
        return Constant(mean)
    below, above = ((low - mean) / std, (high - mean) / std) if absolute else (low, high)
    if below > 37 or above < -37:
        raise InitConfError(
            f"nothing is left of the law between low = {low:g} and high = {high:g}: they lie over 37 sigmas from the mean"
        )
    if above - below < 1e-6:
        raise InitConfError(f"between low = {low:g} and high = {high:g} lies less than a millionth of a sigma; take uniform")
    if absolute:
        shift, shrink = truncated_moments(below, above)
        return TruncatedNormal(mean + gain * std * shift, gain * std * shrink, below, above)
    return TruncatedNormal(mean, gain * std, below, above)


@register("constant")
def constant(site: Site, value: Finite) -> Law:
    """Every element is `value`."""
    return Constant(value)


@register("zeros")
def zeros(site: Site) -> Law:
    """Every element is 0."""
    return Constant(0.0)


@register("ones")
def ones(site: Site) -> Law:
    """Every element is 1."""
    return Constant(1.0)


def spread(site: Site, distribution: str, std: float) -> Law:
    """The zero-mean law of one of the three distributions with this std; of a complex parameter E|w|^2 = std^2."""
    if site.is_complex:
        if distribution == "uniform":
            return ComplexUniform(std)
        return ComplexNormal(0.0, std) if distribution == "untruncated_normal" else ComplexTruncatedNormal(std)
    if distribution == "uniform":
        return Uniform(-math.sqrt(3) * std, math.sqrt(3) * std)
    return Normal(0.0, std) if distribution == "untruncated_normal" else TruncatedNormal(0.0, std)

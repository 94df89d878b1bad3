"""torch.nn.init by its own names: a trailing underscore means torch's arguments, defaults and fans, and nothing from the spec.

torch takes axis 1 for the inputs and axis 0 for the outputs of every tensor: of a transposed or grouped convolution, of fused
gates, of whatever is stored otherwise, its fans are not those of the layer. They serve whole parameters, never blocks.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from initconf import activations
from initconf.errors import InitConfError, Problem
from initconf.initializers.plain import Finite, NonNegative
from initconf.laws import ComplexNormal, Constant, Dirac, Identity, Law, Normal, Orthogonal, Sparse, TruncatedNormal, Uniform
from initconf.registry import register
from initconf.sites import EXPLICIT, Site

Count = Annotated[int, Field(ge=1)]
TorchGain = Literal[
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "sigmoid", "tanh", "relu", "leaky_relu", "selu",
]  # fmt: skip
"""The names that torch's `calculate_gain` knows."""
Share = Annotated[float, Field(ge=0, le=1)]


def torch_fans(site: Site) -> tuple[int, int]:
    """(fan_in, fan_out) as torch counts them. Raises InitConfError for fewer than two axes."""
    if site.ndim < 2:
        raise InitConfError(Problem(f"torch computes no fans for a {site.ndim}-D tensor", remedy=EXPLICIT))
    receptive = math.prod(site.shape[2:])
    return site.shape[1] * receptive, site.shape[0] * receptive


@register("uniform_", torch=True)
def uniform_(site: Site, a: Finite = 0.0, b: Finite = 1.0) -> Law:
    """U(a, b)."""
    if a > b:
        raise InitConfError(f"a = {a:g} is above b = {b:g}")
    return Uniform(a, b)


@register("normal_", torch=True)
def normal_(site: Site, mean: Finite = 0.0, std: NonNegative = 1.0) -> Law:
    """N(mean, std^2)."""
    return ComplexNormal(mean, std) if site.is_complex else Normal(mean, std)


@register("trunc_normal_", torch=True)
def trunc_normal_(site: Site, mean: Finite = 0.0, std: NonNegative = 1.0, a: Finite = -2.0, b: Finite = 2.0) -> Law:
    """N(mean, std^2) cut off at the *values* a and b, so that the std delivered is below `std`; at std 0.02 nothing is cut."""
    if not a < b:
        raise InitConfError(f"a = {a:g} is not below b = {b:g}")
    if std == 0:
        return Constant(min(max(mean, a), b))
    return TruncatedNormal.absolute(mean, std, a, b)


@register("constant_", torch=True)
def constant_(site: Site, val: Finite) -> Law:
    """Every element is `val`."""
    return Constant(val)


@register("ones_", torch=True)
def ones_(site: Site) -> Law:
    """Every element is 1."""
    return Constant(1.0)


@register("zeros_", torch=True)
def zeros_(site: Site) -> Law:
    """Every element is 0."""
    return Constant(0.0)


@register("eye_", torch=True)
def eye_(site: Site) -> Law:
    """The identity matrix, padded with zeros. Raises InitConfError unless the parameter has two axes."""
    if site.ndim != 2:
        raise InitConfError(f"eye_ takes 2-D tensors, and this is {site.ndim}-D")
    return Identity(site.shape)


@register("dirac_", torch=True)
def dirac_(site: Site, groups: Count = 1) -> Law:
    """Ones at index k // 2 of each kernel, for as many channels of each group as there are inputs."""
    if site.ndim not in (3, 4, 5):
        raise InitConfError(f"dirac_ takes 3-D, 4-D and 5-D tensors, and this is {site.ndim}-D")
    if site.shape[0] % groups:
        raise InitConfError(f"axis 0 of size {site.shape[0]} is not divisible by groups = {groups}")
    return Dirac(site.shape, groups)


@register("xavier_uniform_", aliases=("glorot_uniform_",), torch=True)
def xavier_uniform_(site: Site, gain: NonNegative = 1.0) -> Law:
    """U(-b, b) with b = gain sqrt(6 / (fan_in + fan_out))."""
    bound = math.sqrt(3.0) * _xavier_std(site, gain)
    return Uniform(-bound, bound)


@register("xavier_normal_", aliases=("glorot_normal_",), torch=True)
def xavier_normal_(site: Site, gain: NonNegative = 1.0) -> Law:
    """N(0, std^2) with std = gain sqrt(2 / (fan_in + fan_out))."""
    std = _xavier_std(site, gain)
    return ComplexNormal(0.0, std) if site.is_complex else Normal(0.0, std)


@register("kaiming_uniform_", aliases=("he_uniform_",), torch=True)
def kaiming_uniform_(
    site: Site, a: Finite = 0.0, mode: Literal["fan_in", "fan_out"] = "fan_in", nonlinearity: TorchGain = "leaky_relu"
) -> Law:
    """U(-b, b) with b = gain sqrt(3 / fan); `a` is the slope of leaky_relu, and torch's own gains are taken."""
    bound = math.sqrt(3.0) * _kaiming_std(site, a, mode, nonlinearity)
    return Uniform(-bound, bound)


@register("kaiming_normal_", aliases=("he_normal_",), torch=True)
def kaiming_normal_(
    site: Site, a: Finite = 0.0, mode: Literal["fan_in", "fan_out"] = "fan_in", nonlinearity: TorchGain = "leaky_relu"
) -> Law:
    """N(0, std^2) with std = gain / sqrt(fan); `a` is the slope of leaky_relu, and torch's own gains are taken."""
    std = _kaiming_std(site, a, mode, nonlinearity)
    return ComplexNormal(0.0, std) if site.is_complex else Normal(0.0, std)


@register("orthogonal_", torch=True)
def orthogonal_(site: Site, gain: Finite = 1.0) -> Law:
    """The tensor, flattened to (axis 0, rest), is (semi-)orthogonal times gain."""
    if site.ndim < 2:
        raise InitConfError(f"orthogonal_ takes tensors of two axes and more, and this is {site.ndim}-D")
    return Orthogonal(gain, site.shape)


@register("sparse_", torch=True)
def sparse_(site: Site, sparsity: Share, std: NonNegative = 0.01) -> Law:
    """N(0, std^2) with ceil(sparsity * rows) zeros in every column. Raises InitConfError unless the parameter has two axes."""
    if site.ndim != 2:
        raise InitConfError(f"sparse_ takes 2-D tensors, and this is {site.ndim}-D")
    if site.is_complex:
        raise InitConfError("sparse_ has real values, and the parameter is complex")
    return Sparse(site.shape, sparsity, std)


# In torch's own order of operations, so that the bits are its own too.
def _xavier_std(site: Site, gain: float) -> float:
    fan_in, fan_out = torch_fans(site)
    return gain * math.sqrt(2.0 / float(max(fan_in + fan_out, 1)))


def _kaiming_std(site: Site, a: float, mode: str, nonlinearity: str) -> float:
    fan = torch_fans(site)[0 if mode == "fan_in" else 1]
    said = {"name": nonlinearity, "negative_slope": a} if nonlinearity == "leaky_relu" else nonlinearity
    return activations.gain(said, "torch") / math.sqrt(max(fan, 1))

"""Initializers of whole matrices and kernels."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from initconf import activations
from initconf.errors import InitConfError, Problem
from initconf.initializers.plain import Finite, NonNegative
from initconf.initializers.scaling import Nonlinearity
from initconf.laws import ConvolutionOrthogonal, DeltaOrthogonal, Hadamard, Identity, Law, Orthogonal, Sinusoid, Sparse, ZerO
from initconf.registry import register
from initconf.sites import EXPLICIT, HAS_NO_FANS, Site
from initconf.spec import GainMethod

Share = Annotated[float, Field(ge=0, le=1)]
Above1 = Annotated[float, Field(gt=1, allow_inf_nan=False)]


@register("orthogonal")
def orthogonal(
    site: Site, gain: NonNegative = 1.0, nonlinearity: Nonlinearity = "linear", gain_method: GainMethod = "second_moment"
) -> Law:
    """Orthonormal rows or columns, whichever are fewer, times the gain; Haar distributed (Saxe et al. 2014, arXiv:1312.6120).

    The out axes are the rows of the matrix, all others its columns; stacked weights have a matrix each, and blocks and the
    groups of a convolution too. On a convolution's kernel this does not preserve norms: `delta_orthogonal` does.
    Raises InitConfError for a parameter with fewer than two axes.
    """
    if site.ndim < 2 or site.role in HAS_NO_FANS:
        text = f"a {site.ndim}-D tensor of role {site.role} is no matrix to be made orthogonal"
        raise InitConfError(Problem(text, remedy=EXPLICIT))
    factor = gain * activations.gain(nonlinearity, gain_method)
    if site.role == "embedding":  # a table of vectors: its fans count a single row, its matrix is the whole
        return Orthogonal(factor, site.shape)
    if site.layout.groups > 1 and site.layout.transposed:
        _ungrouped(site, "orthogonal on a transposed convolution")
    return Orthogonal(factor, site.shape, site.layout.out_axes, site.layout.batch_axes, site.layout.groups)


def _axes(site: Site, what: str) -> tuple[int, int]:
    """The out and the in axis of a parameter that has one of each."""
    layout = site.layout
    if site.ndim < 2 or site.role in HAS_NO_FANS:
        raise InitConfError(f"a {site.ndim}-D tensor of role {site.role} has no inputs and outputs for {what}")
    if site.role == "embedding":
        return 0, 1
    if len(layout.out_axes) != 1 or len(layout.in_axes) != 1 or layout.batch_axes:
        raise InitConfError(f"{what} needs one in axis and one out axis, and no stacked weights")
    return layout.out_axes[0], layout.in_axes[0]


def _ungrouped(site: Site, what: str) -> None:
    if site.layout.groups > 1:
        raise InitConfError(f"{what} takes no groups, and this has {site.layout.groups}")


def _real(site: Site, what: str) -> None:
    if site.is_complex:
        raise InitConfError(f"{what} has real values, and the parameter is complex")


@register("delta_orthogonal")
def delta_orthogonal(
    site: Site, gain: NonNegative = 1.0, nonlinearity: Nonlinearity = "linear", gain_method: GainMethod = "second_moment"
) -> Law:
    """An orthogonal matrix at the kernel's centre and zeros around it: a convolution that keeps norms (Xiao et al. 2018).

    Raises InitConfError where there are fewer outputs than inputs: then no convolution keeps norms.
    """
    out, inside = _axes(site, "delta_orthogonal")
    _ungrouped(site, "delta_orthogonal")
    if site.shape[out] < site.shape[inside]:
        raise InitConfError(f"{site.shape[inside]} inputs do not fit into {site.shape[out]} outputs without loss")
    return DeltaOrthogonal(site.shape, out, inside, gain * activations.gain(nonlinearity, gain_method))


@register("convolution_orthogonal")
def convolution_orthogonal(
    site: Site, gain: NonNegative = 1.0, nonlinearity: Nonlinearity = "linear", gain_method: GainMethod = "second_moment"
) -> Law:
    """A dense square 2-D kernel that keeps norms exactly (Xiao et al. 2018, appendix D; TensorFlow's ConvolutionOrthogonal2D).

    Raises InitConfError unless the kernel is square with two spatial axes, and has at least as many outputs as inputs.
    """
    out, inside = _axes(site, "convolution_orthogonal")
    _ungrouped(site, "convolution_orthogonal")
    spatial = [n for axis, n in enumerate(site.shape) if axis not in (out, inside)]
    if len(spatial) != 2 or spatial[0] != spatial[1]:
        raise InitConfError(f"a kernel of size {spatial} is not a square of two axes")
    if site.shape[out] < site.shape[inside]:
        raise InitConfError(f"{site.shape[inside]} inputs do not fit into {site.shape[out]} outputs without loss")
    _real(site, "convolution_orthogonal")
    return ConvolutionOrthogonal(site.shape, out, inside, gain * activations.gain(nonlinearity, gain_method))


@register("identity")
def identity(site: Site, gain: Finite = 1.0) -> Law:
    """gain times the identity between inputs and outputs, padded with zeros; of a convolution it stands at the kernel's centre.

    The centre of an even kernel is the left of the two middles, where `padding='same'` leaves the signal in place (torch's
    `dirac_` takes the right one). Each group of a grouped convolution has an identity of its own.
    IRNN (Le et al. 2015, arXiv:1504.00941) is this for role `recurrent`.
    """
    out, inside = _axes(site, "identity")
    groups = site.layout.groups
    if site.layout.transposed:
        _ungrouped(site, "the identity of a transposed convolution")
    return Identity(site.shape, out, inside, gain, groups)


@register("zer_o", aliases=("ZerO",))
def zer_o(site: Site, gain: NonNegative = 1.0) -> Law:
    """ZerO: identities and Hadamard matrices, no randomness (Zhao et al. 2022, arXiv:2110.12661)."""
    out, inside = _axes(site, "zer_o")
    _ungrouped(site, "zer_o")
    return ZerO(site.shape, out, inside, gain)


@register("hadamard")
def hadamard(site: Site, gain: NonNegative = 1.0) -> Law:
    """The corner of a Hadamard matrix, every entry +-gain / sqrt(max(in, out)); orthonormal where that is a power of two."""
    out, inside = _axes(site, "hadamard")
    _ungrouped(site, "hadamard")
    return Hadamard(site.shape, out, inside, gain)


@register("sparse")
def sparse(site: Site, sparsity: Share, std: NonNegative = 0.01, per: Literal["input", "output"] = "output") -> Law:
    """N(0, std^2) with ceil(sparsity * n) zeros at random places among the n weights of each output (or input).

    Martens 2010 gives every unit the same number of incoming weights: per output. torch's `sparse_` counts per input.
    """
    out, inside = _axes(site, "sparse")
    _real(site, "sparse")
    return Sparse(site.shape, sparsity, std, out if per == "output" else inside)


@register("sinusoidal")
def sinusoidal(site: Site, base: Above1 = 10000.0, gain: Finite = 1.0) -> Law:
    """The position table of Vaswani et al. 2017 (arXiv:1706.03762): sin(p / base^(2i/d)) in channel 2i, its cosine in 2i + 1.

    The last axis holds the channels, the one before it the positions. Raises InitConfError for fewer than two axes.
    """
    if site.ndim < 2:
        raise InitConfError(f"a {site.ndim}-D tensor is no table of positions")
    if math.prod(site.shape[:-2]) != 1:
        raise InitConfError(f"shape {site.shape} has more than one table of positions")
    return Sinusoid(site.shape, base, gain)

"""Initializers of whole matrices."""

from __future__ import annotations

from initconf import activations
from initconf.errors import InitConfError
from initconf.initializers.plain import NonNegative
from initconf.initializers.scaling import Nonlinearity
from initconf.laws import Law, Orthogonal
from initconf.registry import register
from initconf.sites import HAS_NO_FANS, Site
from initconf.spec import GainMethod


@register("orthogonal")
def orthogonal(
    site: Site, gain: NonNegative = 1.0, nonlinearity: Nonlinearity = "linear", gain_method: GainMethod = "second_moment"
) -> Law:
    """Orthonormal rows or columns, whichever are fewer, times the gain; Haar distributed (Saxe et al. 2014, arXiv:1312.6120).

    The out axes are the rows of the matrix, all others its columns; stacked weights have a matrix each, and blocks too.
    Raises InitConfError for a parameter with fewer than two axes.
    """
    if site.ndim < 2 or site.role in HAS_NO_FANS:
        raise InitConfError(f"a {site.ndim}-D tensor of role {site.role} is no matrix to be made orthogonal")
    factor = gain * activations.gain(nonlinearity, gain_method)
    if site.role == "embedding":  # a table of vectors: its fans count a single row, its matrix is the whole
        return Orthogonal(factor, site.shape)
    return Orthogonal(factor, site.shape, site.layout.out_axes, site.layout.batch_axes)

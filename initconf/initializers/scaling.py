r"""Variance scaling, and its famous names.

One law serves them all: an output is a sum over fan_in products, so with weights of variance `scale / fan` what goes in with
second moment 1 comes out with second moment `scale` (fan_in) or gradients do (fan_out). `gain` is the square root of `scale`.

| name | scale | mode | source |
|---|---|---|---|
| `he_*`, `kaiming_*` | 2 | fan_in | He et al. 2015, arXiv:1502.01852 |
| `glorot_*`, `xavier_*` | 1 | fan_avg | Glorot & Bengio 2010 |
| `lecun_*` | 1 | fan_in | LeCun et al. 1998 |
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from initconf import activations
from initconf.errors import InitConfError
from initconf.initializers.plain import NonNegative, spread
from initconf.laws import Law
from initconf.registry import register
from initconf.sites import Layout, Site
from initconf.spec import Distribution, GainMethod, Mode

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Nonlinearity = str | dict[str, Any]
Axes = int | list[int]


@register("variance_scaling")
def variance_scaling(
    site: Site,
    scale: Positive | None = None,
    gain: NonNegative | None = None,
    mode: Mode = "fan_in",
    distribution: Distribution = "truncated_normal",
    nonlinearity: Nonlinearity = "linear",
    gain_method: GainMethod = "second_moment",
    in_axes: Axes | None = None,
    out_axes: Axes | None = None,
    batch_axes: Axes | None = None,
) -> Law:
    r"""Zero mean and `std = gain * g(nonlinearity) / sqrt(fan)`, or `sqrt(scale / fan)`.

    Args:
        scale: of the variance, as in TensorFlow and JAX; it replaces gain and nonlinearity.
        gain: of the std, on top of the nonlinearity's own gain `g = 1/sqrt(E[f(z)^2])`.
        mode: fan_in | fan_out | fan_avg | fan_geo_avg, each clamped at 1.
        distribution: uniform | untruncated_normal | truncated_normal (at two sigma, with the std corrected for it).
        nonlinearity: the activation that *feeds* the layer.
        gain_method: how g is had.
        in_axes, out_axes, batch_axes: an axis or a list of axes (negative ones count from the end) instead of those of the
            parameter's layout. The fans are then plain products, as with JAX's in_axis, out_axis and batch_axis.

    Raises InitConfError for a parameter without fans, and where both scale and gain are given.
    """
    if scale is not None:
        if gain is not None:
            raise InitConfError("scale and gain exclude each other: scale is the square of gain")
        factor = math.sqrt(scale)
    else:
        factor = (1.0 if gain is None else gain) * activations.gain(nonlinearity, gain_method)
    return spread(site, distribution, factor / math.sqrt(_with_axes(site, in_axes, out_axes, batch_axes).fan(mode)))


def _with_axes(site: Site, in_axes: Axes | None, out_axes: Axes | None, batch_axes: Axes | None) -> Site:
    """The site with fans over these axes."""
    if in_axes is None and out_axes is None:
        if batch_axes is not None:
            raise InitConfError("batch_axes needs in_axes and out_axes beside it")
        return site
    if in_axes is None or out_axes is None:
        raise InitConfError(f"{'in_axes' if in_axes is None else 'out_axes'} is missing: say both, or neither")
    stacked = [] if batch_axes is None else batch_axes
    said = [axes if isinstance(axes, list) else [axes] for axes in (in_axes, out_axes, stacked)]
    for axis in (axis for axes in said for axis in axes):
        if not -site.ndim <= axis < site.ndim:
            named = next(name for name, axes in zip(("in_axes", "out_axes", "batch_axes"), said, strict=True) if axis in axes)
            reach = f"{-site.ndim} to {site.ndim - 1}"
            raise InitConfError(f"{named} = {axis}: the shape {site.shape} has axes {reach}")
    inside, out, batch = (tuple(axis % site.ndim for axis in axes) for axes in said)
    if len({*inside, *out, *batch}) < len(inside) + len(out) + len(batch):
        raise InitConfError(f"an axis is named twice: in_axes {list(inside)}, out_axes {list(out)}, batch_axes {list(batch)}")
    layout = Layout(in_axes=inside, out_axes=out, batch_axes=batch)
    fan_in, fan_out = layout.fans(site.shape)
    return replace(site, layout=layout, fan_in=fan_in, fan_out=fan_out)


def _register_named(name: str, alias: str, mode: Mode, nonlinearity: str, distribution: Distribution, ending: str) -> None:
    def named(site: Site, gain: NonNegative = 1.0, gain_method: GainMethod = "second_moment") -> Law:
        return variance_scaling(site, None, gain, mode, distribution, nonlinearity, gain_method)

    named.__name__ = f"{name}_{ending}"
    named.__doc__ = f"Variance scaling with mode {mode}, {distribution} and the gain of {nonlinearity}."
    register(named.__name__, aliases=(f"{alias}_{ending}",) if alias else ())(named)


for _name, _alias, _mode, _nonlinearity in (
    ("he", "kaiming", "fan_in", "relu"),
    ("glorot", "xavier", "fan_avg", "linear"),
    ("lecun", "", "fan_in", "linear"),
):
    _register_named(_name, _alias, _mode, _nonlinearity, "uniform", "uniform")  # type: ignore[arg-type]
    _register_named(_name, _alias, _mode, _nonlinearity, "untruncated_normal", "normal")  # type: ignore[arg-type]
    _register_named(_name, _alias, _mode, _nonlinearity, "truncated_normal", "truncated_normal")  # type: ignore[arg-type]

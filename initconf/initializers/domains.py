"""Initializers that particular kinds of model need."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from initconf.errors import InitConfError
from initconf.initializers.plain import Finite, NonNegative
from initconf.initializers.scaling import Positive
from initconf.laws import Constant, InverseSoftplus, Law, LogOfUniform, Normal, Table, Uniform
from initconf.registry import register
from initconf.sites import Site

Probability = Annotated[float, Field(ge=1e-300, lt=1)]
Steps = Annotated[float, Field(gt=2, allow_inf_nan=False)]


@register("siren")
def siren(site: Site, first: bool = False, omega: Positive = 30.0, gain: NonNegative = 1.0) -> Law:
    """SIREN (Sitzmann et al. 2020, arXiv:2006.09661): the first layer U(+-1/fan_in), the others U(+-sqrt(6/fan_in)/omega)."""
    fan = site.fan("fan_in")
    bound = gain * (1 / fan if first else math.sqrt(6 / fan) / omega)
    return Uniform(-bound, bound)


@register("fourier_features")
def fourier_features(site: Site, sigma: NonNegative = 1.0) -> Law:
    """The frequencies of random Fourier features, N(0, sigma^2) (Tancik et al. 2020, arXiv:2006.10739)."""
    return Normal(0.0, sigma)


@register("forget_bias")
def forget_bias(site: Site, value: Finite = 1.0) -> Law:
    """An LSTM's bias: `value` for the forget gate, zero for the others (Jozefowicz et al. 2015).

    torch adds two biases, `bias_ih` and `bias_hh`: the first receives the value, the second zeros, so that their sum is right.
    Raises InitConfError for anything but an LSTM's bias.
    """
    gate = _gate(site, "forget_bias", "f")
    return Constant(value if gate == "f" and _is_first_bias(site) else 0.0)


@register("chrono")
def chrono(site: Site, t_max: Steps) -> Law:
    """Biases for dependencies of up to `t_max` steps (Tallec & Ollivier 2018, arXiv:1804.11188).

    LSTM: b_f = ln U(1, t_max - 1) and b_i = -b_f, unit by unit; GRU: b_z = ln U(1, t_max - 1) (torch's z keeps the state).
    The other gates and the second of torch's two biases are zero.
    Raises InitConfError for anything but the bias of an LSTM or a GRU.
    """
    gate = _gate(site, "chrono", "f", "z")
    if not _is_first_bias(site) or gate not in ("f", "i", "z"):
        return Constant(0.0)
    return LogOfUniform(1.0, t_max - 1.0, -1, "f") if gate == "i" else LogOfUniform(1.0, t_max - 1.0)


def _gate(site: Site, what: str, *needed: str) -> str:
    names = site.layout.block_names
    if site.role != "bias" or not set(needed) & set(names):
        raise InitConfError(
            f"{what} is for the bias of gates {' or '.join(needed)}, and this has {', '.join(names) or 'no gates'}"
        )
    return site.block or ""


def _is_first_bias(site: Site) -> bool:
    return site.places[0].attribute.startswith("bias_ih")


@register("mamba_dt_bias")
def mamba_dt_bias(site: Site, low: Positive = 0.001, high: Positive = 0.1, floor: Positive = 1e-4) -> Law:
    """softplus^-1 of step sizes that are log-uniform in (low, high) and at least `floor` (Gu & Dao 2023, arXiv:2312.00752)."""
    if not low < high:
        raise InitConfError(f"low = {low:g} is not below high = {high:g}")
    if not floor < high:
        raise InitConfError(f"floor = {floor:g} is not below high = {high:g}: every step would have the same size")
    return InverseSoftplus(low, high, floor)


@register("s4d_real")
def s4d_real(site: Site) -> Law:
    """`A_log` of S4D-real and Mamba: ln(1), ..., ln(N) along the last axis (Gu et al. 2022, arXiv:2206.11893)."""
    if site.ndim < 1:
        raise InitConfError("a single number has no states to count")
    return Table(site.shape, tuple(math.log(n + 1) for n in range(site.shape[-1])))


@register("mamba2_a_log")
def mamba2_a_log(site: Site, low: Positive = 1.0, high: Positive = 16.0) -> Law:
    """`A_log` of Mamba-2: ln U(low, high) for each head (Dao & Gu 2024, arXiv:2405.21060)."""
    if not low < high:
        raise InitConfError(f"low = {low:g} is not below high = {high:g}")
    return LogOfUniform(low, high)


@register("prior_bias")
def prior_bias(site: Site, prior: Probability = 0.01) -> Law:
    """-ln((1 - prior) / prior): a sigmoid that starts at the rare class's probability (focal loss, Lin et al. 2017)."""
    return Constant(-math.log((1 - prior) / prior))

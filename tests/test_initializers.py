"""Every initializer has a row: its law, its moments to twelve digits, and samples that have them.

A new initializer costs a row in TABLE. A row says arguments, the shape (or the model) that they meet, the law that must come
out, and its mean and standard deviation, worked out from the formula and not from the law.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import initconf
from initconf import laws, registry, sampling
from initconf.errors import CompileError
from initconf.laws import (
    Constant,
    ConvolutionOrthogonal,
    DeltaOrthogonal,
    Dirac,
    Hadamard,
    Identity,
    InverseSoftplus,
    Keep,
    Law,
    LogOfUniform,
    ModuleDefault,
    Normal,
    Orthogonal,
    Sinusoid,
    Sparse,
    Table,
    TruncatedNormal,
    Uniform,
    Values,
    ZerO,
)
from initconf.sites import Layout, Place, Site

OUT, IN = 500, 400
MATRIX = (OUT, IN)
KERNEL = (64, 16, 3, 5)  # fan_in 240, fan_out 960
ROOT3 = math.sqrt(3)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
ATTRIBUTE = "matrix"


class Holder(nn.Module):
    """A parameter that nobody declared: read as (out, in, *receptive field)."""

    def __init__(self, shape, dtype=torch.float32):
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(shape, dtype=dtype))

    def reset_parameters(self):
        nn.init.normal_(self.matrix)


@dataclass
class Row:
    """What one initializer is to give."""

    settings: dict
    law: Law
    mean: float | None
    std: float | None
    shape: tuple[int, ...] = MATRIX
    model: type[nn.Module] | None = field(default=None)
    """Instead of a plain tensor: a constructor of a module that holds `parameter`."""
    parameter: str = ATTRIBUTE
    block: str | None = None

    def made(self, dtype=torch.float32):
        return Holder(self.shape, dtype) if self.model is None else self.model(dtype)


def uniform(std):
    return Uniform(-ROOT3 * std, ROOT3 * std)


def lstm(dtype):
    return nn.LSTM(1, 250, dtype=dtype)


def scaled(name, std, **settings):
    """The rows of a named form of variance scaling."""
    law = {"uniform": uniform, "normal": lambda s: Normal(0.0, s), "truncated_normal": lambda s: TruncatedNormal(0.0, s)}[
        name.split("_", 1)[1]
    ]
    return [Row({}, law(std), 0.0, std), Row({"gain": 0.5, **settings}, law(0.5 * std), 0.0, 0.5 * std)]


S = 0.87962566103423978  # of a normal law cut off at two sigma

TABLE = {
    "constant": [Row({"value": 2.5}, Constant(2.5), 2.5, 0.0), Row({"value": -1}, Constant(-1.0), -1.0, 0.0, (7,))],
    "zeros": [Row({}, Constant(0.0), 0.0, 0.0)],
    "ones": [Row({}, Constant(1.0), 1.0, 0.0, (2, 3, 4, 5, 6))],
    "uniform": [
        Row({"low": -1, "high": 3}, Uniform(-1.0, 3.0), 1.0, 4 / math.sqrt(12)),
        Row({"low": -1, "high": 3, "gain": 0.5}, Uniform(0.0, 2.0), 1.0, 2 / math.sqrt(12)),
        Row({"low": "-1/sqrt(fan_in)", "high": "1/sqrt(fan_in)"}, Uniform(-0.05, 0.05), 0.0, 0.05 / ROOT3),
    ],
    "normal": [
        Row({}, Normal(0.0, 1.0), 0.0, 1.0),
        Row({"mean": -1, "std": 2, "gain": 0.25}, Normal(-1.0, 0.5), -1.0, 0.5, (200_000,)),
    ],
    "truncated_normal": [
        Row({"std": 0.02}, TruncatedNormal(0.0, 0.02), 0.0, 0.02),
        Row({"mean": 1, "std": 0.5, "low": -1, "high": 3}, TruncatedNormal(1.0, 0.5, -1.0, 3.0), 1.0, 0.5),
        Row({"std": 2, "low": 3, "high": math.inf, "gain": 0.5}, TruncatedNormal(0.0, 1.0, 3.0, math.inf), 0.0, 1.0),
        Row(
            {"std": 0.02, "low": -0.04, "high": 0.04, "absolute": True},
            TruncatedNormal(0.0, 0.02 * S, -2.0, 2.0),
            0.0,
            0.02 * S,
        ),
        Row({"std": 0}, Constant(0.0), 0.0, 0.0),
    ],
    **{
        f"{name}_{ending}": scaled(f"{name}_{ending}", std)
        for name, std in (("he", math.sqrt(2 / IN)), ("glorot", math.sqrt(2 / (IN + OUT))), ("lecun", math.sqrt(1 / IN)))
        for ending in ("uniform", "normal", "truncated_normal")
    },
    "variance_scaling": [
        Row({}, TruncatedNormal(0.0, 0.05), 0.0, 0.05),
        Row({"scale": 3, "mode": "fan_out", "distribution": "uniform"}, uniform(math.sqrt(3 / 500)), 0.0, math.sqrt(3 / 500)),
        Row(
            {"gain": 0.1, "mode": "fan_geo_avg", "distribution": "untruncated_normal", "nonlinearity": "relu"},
            Normal(0.0, 0.1 * math.sqrt(2) / 200000**0.25),
            0.0,
            0.1 * math.sqrt(2) / 200000**0.25,
        ),
        Row(
            {"distribution": "untruncated_normal", "nonlinearity": "tanh", "gain_method": "torch"},
            Normal(0.0, 5 / 3 / math.sqrt(240)),
            0.0,
            5 / 3 / math.sqrt(240),
            KERNEL,
        ),
        Row(
            {"in_axes": -2, "out_axes": [-1], "batch_axes": 0, "distribution": "untruncated_normal"},
            Normal(0.0, 0.125),
            0.0,
            0.125,
            (50, 64, 60),
        ),
    ],
    "orthogonal": [
        Row({}, Orthogonal(1.0, MATRIX), 0.0, 1 / math.sqrt(500)),
        Row({"gain": 3, "nonlinearity": "relu"}, Orthogonal(3 * math.sqrt(2), KERNEL), 0.0, 3 * math.sqrt(2 / 240), KERNEL),
    ],
    "delta_orthogonal": [
        Row({"gain": 2}, DeltaOrthogonal(KERNEL, 0, 1, 2.0), 0.0, math.sqrt(4 * 16 / math.prod(KERNEL)), KERNEL),
    ],
    "convolution_orthogonal": [Row({}, ConvolutionOrthogonal((12, 8, 3, 3), 0, 1, 1.0), None, None, (12, 8, 3, 3))],
    "identity": [
        Row({}, Identity((3, 5)), 3 / 15, math.sqrt(3 / 15 - 0.04), (3, 5)),
        Row({"gain": -2}, Identity(KERNEL, 0, 1, -2.0), -32 / 15360, math.sqrt(64 / 15360 - (32 / 15360) ** 2), KERNEL),
    ],
    "hadamard": [Row({"gain": 2}, Hadamard((8, 3), gain=2.0), 2 * 8 / math.sqrt(8) / 24, math.sqrt(0.5 - 1 / 18), (8, 3))],
    "zer_o": [
        Row({}, ZerO((4, 4)), 0.25, math.sqrt(0.25 - 0.0625), (4, 4)),
        # more outputs than inputs: entries +-2^(-(m - 1) / 2), m = 3; only the first column does not sum to zero
        Row({}, ZerO((8, 4)), 0.5 * 8 / 32, math.sqrt(0.25 - 1 / 64), (8, 4)),
    ],
    "sparse": [
        Row({"sparsity": 0.9, "std": 2}, Sparse(MATRIX, 0.9, 2.0, 0), 0.0, 2 * math.sqrt(0.1)),
        Row({"sparsity": 0.25, "per": "input"}, Sparse(MATRIX, 0.25, 0.01, 1), 0.0, 0.01 * math.sqrt(0.75)),
    ],
    "sinusoidal": [
        Row({"base": 100, "gain": 2}, Sinusoid((1, 4), 100.0, 2.0), 1.0, 1.0, (1, 4)),  # position 0: sin 0 = 0 and cos 0 = 1
    ],
    "siren": [
        Row({"first": True}, Uniform(-1 / 400, 1 / 400), 0.0, 1 / 400 / ROOT3),
        Row({}, Uniform(-math.sqrt(6 / 400) / 30, math.sqrt(6 / 400) / 30), 0.0, math.sqrt(2 / 400) / 30),
    ],
    "fourier_features": [Row({"sigma": 10}, Normal(0.0, 10.0), 0.0, 10.0)],
    "forget_bias": [
        Row({}, Constant(1.0), 1.0, 0.0, model=lstm, parameter="bias_ih_l0", block="f"),
        Row({}, Constant(0.0), 0.0, 0.0, model=lstm, parameter="bias_ih_l0", block="i"),
        Row({"value": 2}, Constant(0.0), 0.0, 0.0, model=lstm, parameter="bias_hh_l0", block="f"),
    ],
    "chrono": [
        # E ln U(1, T - 1) = (T - 1) ln(T - 1) / (T - 2) - 1: 3.6423 for T = 100, as in the paper
        Row(
            {"t_max": 100},
            LogOfUniform(1.0, 99.0),
            99 * math.log(99) / 98 - 1,
            math.sqrt(1 - 99 * math.log(99) ** 2 / 98**2),
            model=lstm,
            parameter="bias_ih_l0",
            block="f",
        ),
        Row({"t_max": 9}, Constant(0.0), 0.0, 0.0, model=lstm, parameter="bias_hh_l0", block="f"),
    ],
    "mamba_dt_bias": [Row({}, InverseSoftplus(0.001, 0.1, 1e-4), -4.594376164961144, 1.3403815973340477, (200_000,))],
    "mamba2_a_log": [
        Row(
            {},
            LogOfUniform(1.0, 16.0),
            16 * math.log(16) / 15 - 1,
            math.sqrt(1 - 16 * math.log(16) ** 2 / 15**2),
            (200_000,),
        )
    ],
    "s4d_real": [
        Row({}, Table((5, 2), (0.0, math.log(2))), math.log(2) / 2, math.log(2) / 2, (5, 2)),
    ],
    "prior_bias": [Row({}, Constant(-math.log(99)), -math.log(99), 0.0), Row({"prior": 0.5}, Constant(0.0), 0.0, 0.0)],
    "keep": [Row({}, Keep(), None, None)],
    "module_default": [Row({}, ModuleDefault("reset_parameters"), None, None)],
    "values": [Row({"path": "<file>", "cast": True}, Values("<file>", ""), None, None)],
    "pretrained": [
        Row(
            {"path": "<checkpoint>", "rename": {"^": "model."}, "cast": True},
            Values("<checkpoint>", "model.matrix"),
            None,
            None,
        )
    ],
    # torch.nn.init: fans as torch counts them, whatever the layout
    "uniform_": [
        Row({}, Uniform(0.0, 1.0), 0.5, 1 / math.sqrt(12)),
        Row({"a": -2, "b": 0}, Uniform(-2.0, 0.0), -1.0, 1 / ROOT3),
    ],
    "normal_": [Row({"mean": 3, "std": 0.5}, Normal(3.0, 0.5), 3.0, 0.5, (200_000,))],
    "trunc_normal_": [
        Row({}, TruncatedNormal(0.0, S, -2.0, 2.0), 0.0, S),
        Row({"std": 0.02}, TruncatedNormal(0.0, 0.02, -100.0, 100.0), 0.0, 0.02),
    ],
    "constant_": [Row({"val": 0.3}, Constant(0.3), 0.3, 0.0)],
    "ones_": [Row({}, Constant(1.0), 1.0, 0.0)],
    "zeros_": [Row({}, Constant(0.0), 0.0, 0.0)],
    "eye_": [Row({}, Identity((3, 5)), 0.2, 0.4, (3, 5))],
    "dirac_": [
        Row({}, Dirac((4, 2, 3), 1), 2 / 24, math.sqrt(2 / 24 - (2 / 24) ** 2), (4, 2, 3)),
        Row({"groups": 2}, Dirac((4, 2, 3), 2), 4 / 24, math.sqrt(4 / 24 - (4 / 24) ** 2), (4, 2, 3)),
    ],
    "xavier_uniform_": [Row({"gain": 2}, uniform(2 * math.sqrt(2 / 900)), 0.0, 2 * math.sqrt(2 / 900))],
    "xavier_normal_": [Row({}, Normal(0.0, math.sqrt(2 / 1200)), 0.0, math.sqrt(2 / 1200), KERNEL)],
    "kaiming_uniform_": [
        Row({}, uniform(math.sqrt(2 / 400)), 0.0, math.sqrt(2 / 400)),
        Row({"a": math.sqrt(5)}, uniform(math.sqrt(1 / 3 / 400)), 0.0, math.sqrt(1 / 3 / 400)),
    ],
    "kaiming_normal_": [
        Row(
            {"mode": "fan_out", "nonlinearity": "tanh"},
            Normal(0.0, 5 / 3 / math.sqrt(960)),
            0.0,
            5 / 3 / math.sqrt(960),
            KERNEL,
        )
    ],
    "orthogonal_": [Row({"gain": 2}, Orthogonal(2.0, KERNEL), 0.0, 2 / math.sqrt(240), KERNEL)],
    "sparse_": [Row({"sparsity": 0.5}, Sparse(MATRIX, 0.5, 0.01, 1), 0.0, 0.01 * math.sqrt(0.5))],
}
ROWS = [pytest.param(name, row, id=f"{name}-{i}") for name, rows in TABLE.items() for i, row in enumerate(rows)]
KNOWN = [param for param in ROWS if param.values[1].mean is not None]


@pytest.fixture
def files(tmp_path):
    array = np.random.Generator(np.random.PCG64(0)).normal(size=MATRIX).astype(np.float32)
    np.save(tmp_path / "values.npy", array)
    torch.save({"model.matrix": torch.from_numpy(array)}, tmp_path / "checkpoint.pt")
    return {"<file>": str(tmp_path / "values.npy"), "<checkpoint>": str(tmp_path / "checkpoint.pt"), "array": array}


def spec(name, row, files=None):
    said = {key: (files or {}).get(value, value) if isinstance(value, str) else value for key, value in row.settings.items()}
    rule = {"glob": row.parameter, "initializer": {"name": name, **said}}
    return {"initializer": "keep", "unmatched": "keep", "rules": {"it": rule}}


def entry(plan, row):
    whole = plan[row.parameter]
    return whole if row.block is None else next(block for block in whole.blocks if block.block == row.block)


def test_every_initializer_has_a_row():
    """But those that serve all parameters of a hypernetwork's output together: their tests are in files of their own."""
    assert sorted(TABLE) == [name for name in registry.names() if registry.find(name).arrange is None]


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_law_and_moments(name, row, files):
    found = entry(initconf.compile(row.made(), spec(name, row, files)), row)
    expected = row.law
    if isinstance(expected, Values):
        expected = Values(files[expected.path], expected.key)
    assert type(found.law) is type(expected)
    for key, value in expected.to_dict().items():
        assert found.law.to_dict()[key] == (pytest.approx(value, rel=1e-12, abs=1e-12) if isinstance(value, float) else value)
    assert found.initializer == name
    for value, wanted in ((found.mean, row.mean), (found.std, row.std)):
        assert value is None if wanted is None else value == pytest.approx(wanted, rel=1e-12 if wanted < 1e3 else 0, abs=1e-12)


@pytest.mark.parametrize(("name", "row"), KNOWN)
def test_samples_have_the_moments_within_five_sigma(name, row):
    model = row.made()
    report = initconf.initialize(model, spec(name, row), seed=5).verify()
    made = next(r for r in report.rows if (r.name, r.block) == (row.parameter, row.block))
    law, n = entry(report.plan, row).law, made.count
    rounding = 1e-6 * (abs(row.mean) + row.std)
    assert made.mean == pytest.approx(row.mean, abs=5 * row.std / math.sqrt(n) + rounding)
    assert made.std == pytest.approx(row.std, abs=5 * row.std * math.sqrt(max(law.kurtosis - 1, 0) / 4 / n) + rounding)
    low, high = law.bounds
    assert low - rounding <= made.low <= made.high <= high + rounding


@pytest.mark.parametrize(("name", "row"), [row for row in KNOWN if row.values[1].law.elementwise])
def test_two_million_values_have_the_moments_within_five_sigma(name, row):
    law, n = row.law, 2_000_000
    dtype = torch.complex64 if law.per_value == 2 else torch.float32
    parts = [made.clone() for _, made in sampling.chunks(law, sampling.key(7, name), n, dtype)]
    values = torch.cat(parts).to(torch.complex128 if law.per_value == 2 else torch.float64)
    mean, std = values.mean(), (values - values.mean()).abs().square().mean().sqrt().item()
    rounding = 1e-6 * (abs(law.mean) + law.std)
    assert abs(mean.item() - law.mean) <= 5 * law.std / math.sqrt(n) + rounding
    assert abs(std - law.std) <= 5 * law.std * math.sqrt(max(law.kurtosis - 1, 0) / 4 / n) + rounding
    size = values.abs() if law.per_value == 2 else values
    low, high = law.bounds
    assert low - rounding <= size.min().item() <= size.max().item() <= high + rounding or law.per_value == 2


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_dtypes(name, row, files):
    """Half precision is float32, rounded; float64 has values of its own, of the same law."""
    made = {}
    for dtype in DTYPES:
        model = row.made(dtype)
        initconf.initialize(model, spec(name, row, files)).verify()
        made[dtype] = model.get_parameter(row.parameter).detach()
        assert made[dtype].dtype == dtype
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(made[dtype], made[torch.float32].to(dtype))
    if row.std and not isinstance(row.law, (Sinusoid, Table, Identity, Dirac, Hadamard, ZerO)):
        assert not torch.allclose(made[torch.float64].float(), made[torch.float32])


def test_deterministic_constructions_are_exact_in_float64():
    for name, rows in TABLE.items():
        for row in rows:
            if isinstance(row.law, (Sinusoid, Table, Identity, Dirac, Hadamard, ZerO)):
                built = sampling.construct(row.law, sampling.key(0, "x"), torch.float64).double()
                assert built.shape == row.shape
                assert float(built.mean()) == pytest.approx(row.mean, rel=1e-7, abs=1e-12), name
                assert float(built.std(correction=0)) == pytest.approx(row.std, rel=1e-7), name


# --- shapes ------------------------------------------------------------------------------------------------------------------

SHAPES = [(0, 5), (5, 0), (1, 1), (700, 2), (2, 700), (3, 4, 2, 3, 2), (4, 3, 3), (0,), (7,), ()]
MATRICES_ONLY = {"eye_", "sparse_"}
KERNELS_ONLY = {"dirac_"}
SETTINGS = {"uniform": {"low": -1, "high": 1}, "constant": {"value": 1}, "constant_": {"val": 1}}
SETTINGS |= {name: {"sparsity": 0.5} for name in ("sparse", "sparse_")}
ANY_SHAPE = {
    "constant", "zeros", "ones", "uniform", "normal", "truncated_normal", "fourier_features", "mamba_dt_bias", "mamba2_a_log",
    "prior_bias", "uniform_", "normal_", "trunc_normal_", "constant_", "ones_", "zeros_", "keep", "module_default",
}  # fmt: skip
ELSEWHERE = {"values", "pretrained", "forget_bias", "chrono"}  # a file's shape, or gates


def serves(name, shape):
    ndim = len(shape)
    if name in ANY_SHAPE:
        return True
    if name == "s4d_real":
        return ndim >= 1
    if name in MATRICES_ONLY:
        return ndim == 2
    if name in KERNELS_ONLY:
        return ndim >= 3
    if name == "sinusoidal":
        return ndim == 2
    if name == "delta_orthogonal":
        return ndim >= 2 and shape[0] >= shape[1]
    if name == "convolution_orthogonal":
        return ndim == 4
    return ndim >= 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", [name for name in TABLE if name not in ELSEWHERE])
def test_shapes(name, shape):
    model = Holder(shape)
    said = {"initializer": {"name": name, **SETTINGS.get(name, {})}}
    said = {**said, "rules": {"all": {"glob": "*", **said}}}
    if serves(name, shape):
        initconf.initialize(model, said).verify()
        assert model.matrix.shape == shape
        assert bool(torch.isfinite(model.matrix).all())
    else:
        with pytest.raises(CompileError) as caught:
            initconf.initialize(model, said)
        (problem,) = caught.value.problems
        assert problem.text.startswith(f"matrix: {name} cannot serve it: ")
        assert problem.path == "init.rules.all.initializer"
        assert not model.matrix.any()


# --- variance scaling and its names ------------------------------------------------------------------------------------------

shapes = st.lists(st.integers(1, 40), min_size=2, max_size=5).map(tuple)
gains = st.floats(1e-3, 1e3)
MODES = ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
DISTRIBUTIONS = ["uniform", "untruncated_normal", "truncated_normal"]


def site(shape, **layout):
    made = Layout(**layout)
    fans = made.fans(shape)
    return Site("w", (Place("w", "w", ("a.B",), ()),), shape, "float32", made, *fans)


def law(name, shape, **said):
    entry = registry.find(name)
    taken, problems = entry.validate(said)
    assert not problems
    return entry.law(site(shape), taken)


@given(shapes, gains)
def test_named_forms_are_special_cases_of_variance_scaling(shape, gain):
    for ending, distribution in zip(["uniform", "normal", "truncated_normal"], DISTRIBUTIONS, strict=True):
        for name, mode, nonlinearity in (
            ("he", "fan_in", "relu"),
            ("glorot", "fan_avg", "linear"),
            ("lecun", "fan_in", "linear"),
        ):
            general = law("variance_scaling", shape, gain=gain, mode=mode, distribution=distribution, nonlinearity=nonlinearity)
            assert law(f"{name}_{ending}", shape, gain=gain) == general


@given(shapes, gains, st.sampled_from(MODES), st.sampled_from(DISTRIBUTIONS))
def test_scale_is_gain_squared(shape, gain, mode, distribution):
    by_gain = law("variance_scaling", shape, gain=gain, mode=mode, distribution=distribution)
    by_scale = law("variance_scaling", shape, scale=gain * gain, mode=mode, distribution=distribution)
    assert by_gain.std == pytest.approx(by_scale.std, rel=1e-14)
    assert by_gain.mean == by_scale.mean == 0.0
    relu = law("variance_scaling", shape, gain=gain, mode=mode, distribution=distribution, nonlinearity="relu")
    assert relu.std == pytest.approx(math.sqrt(2) * by_gain.std, rel=1e-14)


@given(shapes, st.integers(0, 4), st.integers(1, 9), st.sampled_from(MODES))
def test_more_inputs_or_outputs_never_widen_the_law(shape, axis, more, mode):
    axis %= len(shape)
    larger = (*shape[:axis], shape[axis] + more, *shape[axis + 1 :])
    assert law("variance_scaling", larger, mode=mode).std <= law("variance_scaling", shape, mode=mode).std


@given(shapes, st.sampled_from(DISTRIBUTIONS))
def test_modes_lie_between_each_other(shape, distribution):
    stds = {mode: law("variance_scaling", shape, mode=mode, distribution=distribution).std for mode in MODES}
    low, high = sorted([stds["fan_in"], stds["fan_out"]])
    assert low * (1 - 1e-12) <= stds["fan_avg"] <= stds["fan_geo_avg"] * (1 + 1e-12) <= high * (1 + 2e-12)
    assert stds["fan_geo_avg"] == pytest.approx(math.sqrt(stds["fan_in"] * stds["fan_out"]), rel=1e-12)


@given(shapes)
def test_formulas_are_those_of_torch(shape):
    tensor = torch.empty(shape)
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(tensor)
    assert law("he_normal", shape).std == pytest.approx(nn.init.calculate_gain("relu") / math.sqrt(fan_in), rel=1e-14)
    assert law("glorot_normal", shape).std == pytest.approx(math.sqrt(2.0 / (fan_in + fan_out)), rel=1e-14)
    bound = math.sqrt(3.0) * nn.init.calculate_gain("relu") / math.sqrt(fan_in)
    assert law("he_uniform", shape).bounds == pytest.approx((-bound, bound), rel=1e-14)
    bound = math.sqrt(6.0 / (fan_in + fan_out))
    assert law("glorot_uniform", shape).bounds == pytest.approx((-bound, bound), rel=1e-14)
    assert law("lecun_normal", shape).std == pytest.approx(1 / math.sqrt(fan_in), rel=1e-14)
    for mine, peer in (("xavier_uniform_", "glorot_uniform"), ("xavier_normal_", "glorot_normal")):
        assert law(mine, shape).std == pytest.approx(law(peer, shape).std, rel=1e-14)


@pytest.mark.parametrize(
    ("initializer", "function"),
    [
        ({"name": "he_uniform"}, lambda t: nn.init.kaiming_uniform_(t, nonlinearity="relu")),
        ({"name": "he_normal"}, lambda t: nn.init.kaiming_normal_(t, nonlinearity="relu")),
        ({"name": "glorot_uniform", "gain": 2.0}, lambda t: nn.init.xavier_uniform_(t, gain=2.0)),
        ({"name": "glorot_normal"}, nn.init.xavier_normal_),
        (
            {"name": "truncated_normal", "std": 0.5, "low": -1, "high": 0.25, "absolute": True},
            lambda t: nn.init.trunc_normal_(t, 0, 0.5, -1, 0.25),
        ),
        ({"name": "orthogonal", "gain": 3.0}, lambda t: nn.init.orthogonal_(t, 3.0)),
    ],
    ids=lambda said: said["name"] if isinstance(said, dict) else "",
)
def test_samples_of_torch_are_of_the_same_law(initializer, function):
    """torch's own samples pass the verification of the plan."""
    torch.manual_seed(0)
    model = Holder((300, 200, 3))
    report = initconf.initialize(model, {"initializer": initializer}, seed=0)
    report.verify()
    mine = model.matrix.detach().clone()
    with torch.no_grad():
        function(model.matrix)
    report.verify()
    assert not torch.equal(mine, model.matrix)


@pytest.mark.parametrize("fan", [0.25, 0.0])
def test_fans_below_one_are_one(fan):
    tiny = Site("w", (Place("w", "w", ("a.B",), ()),), (4, 4), "float32", Layout(), fan, fan)
    for mode in MODES:
        assert registry.find("variance_scaling").law(tiny, {"mode": mode}).std == 1.0


# --- what a few of them do besides -----------------------------------------------------------------------------------------


def test_keep_writes_nothing():
    model = nn.Linear(3, 4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    initconf.initialize(model, {"initializer": "keep", "unmatched": "keep"}).verify()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize("name", ["values", "pretrained"])
def test_values_are_those_of_the_file(name, files):
    row = TABLE[name][0]
    model = Holder(MATRIX)
    initconf.initialize(model, spec(name, row, files)).verify()
    assert model.matrix.detach().numpy().tobytes() == files["array"].tobytes()


def test_delta_orthogonal_keeps_the_norm_of_a_circular_convolution():
    model = nn.Conv2d(6, 8, 3, padding=1, padding_mode="circular", bias=False)
    initconf.initialize(model, {"initializer": {"name": "delta_orthogonal", "gain": 2}}).verify()
    x = torch.randn(2, 6, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model(x).flatten(1).norm(dim=1), 2 * x.flatten(1).norm(dim=1))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_convolution_orthogonal_keeps_the_norm_of_a_circular_convolution(size):
    model = Holder((7, 5, size, size))
    initconf.initialize(model, {"initializer": "convolution_orthogonal"}).verify()
    x = torch.randn(2, 5, 9, 9, generator=torch.Generator().manual_seed(0))
    padded = nn.functional.pad(x, (size - 1, 0, size - 1, 0), mode="circular")
    y = nn.functional.conv2d(padded, model.matrix.detach())
    assert torch.allclose(y.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-5)
    assert int((model.matrix.detach().abs() > 1e-6).sum()) > 5 * 7 * size  # and it is dense


def test_identity_leaves_a_convolution_s_input_as_it_is():
    for groups in (1, 2):
        model = nn.Conv2d(4, 4, 3, padding=1, groups=groups, bias=False)
        initconf.initialize(model, {"initializer": "identity"})
        x = torch.randn(1, 4, 5, 5, generator=torch.Generator().manual_seed(0))
        assert torch.equal(model(x), x)


@pytest.mark.parametrize(("shape", "groups"), [((4, 4, 3), 1), ((4, 2, 3, 3), 2), ((6, 2, 3, 4, 5), 3), ((2, 5, 4), 1)])
def test_dirac_and_eye_are_torch_s(shape, groups):
    model = Holder(shape)
    initconf.initialize(model, {"initializer": {"name": "dirac_", "groups": groups}})
    assert torch.equal(model.matrix.detach(), nn.init.dirac_(torch.empty(shape), groups))
    model = Holder(shape[:2])
    initconf.initialize(model, {"initializer": "eye_"})
    assert torch.equal(model.matrix.detach(), nn.init.eye_(torch.empty(shape[:2])))


@pytest.mark.parametrize("per", ["input", "output"])
def test_sparse_counts_its_zeros(per):
    model = Holder((40, 30))
    initconf.initialize(model, {"initializer": {"name": "sparse", "sparsity": 0.35, "std": 1, "per": per}}).verify()
    zeros = (model.matrix.detach() == 0).sum(1 if per == "output" else 0)
    assert zeros.unique().tolist() == [math.ceil(0.35 * (30 if per == "output" else 40))]
    model = Holder((40, 30))
    initconf.initialize(model, {"initializer": {"name": "sparse_", "sparsity": 0.35}})
    assert (model.matrix.detach() == 0).sum(0).unique().tolist() == [14]


def test_chrono_mirrors_the_forget_gate_in_the_input_gate():
    model = nn.LSTM(2, 50)
    rules = {"gates": {"search": "bias", "initializer": {"name": "chrono", "t_max": 20}}}
    initconf.initialize(model, {"initializer": "zeros", "unmatched": "keep", "rules": rules}).verify()
    i, f, g, o = model.bias_ih_l0.detach().chunk(4)
    assert torch.equal(i, -f)
    assert float(f.min()) > 0
    assert not torch.cat([g, o, model.bias_hh_l0.detach()]).any()


def test_mamba_dt_bias_is_the_inverse_of_softplus():
    model = Holder((4096,))
    initconf.initialize(model, {"rules": {"dt": {"glob": "*", "initializer": "mamba_dt_bias"}}}).verify()
    steps = nn.functional.softplus(model.matrix.detach().double())
    assert float(steps.min()) >= 0.001 * (1 - 1e-5)
    assert float(steps.max()) <= 0.1 * (1 + 1e-5)
    assert float(steps.log().mean()) == pytest.approx(math.log(0.01), abs=0.1)


def test_sinusoids_are_those_of_the_paper():
    model = Holder((6, 4))
    initconf.initialize(model, {"initializer": "sinusoidal"}).verify()
    for p in range(6):
        expected = [math.sin(p), math.cos(p), math.sin(p / 100), math.cos(p / 100)]
        assert model.matrix[p].tolist() == pytest.approx(expected, abs=1e-6)


def test_hadamard_and_zero_are_orthogonal_at_powers_of_two():
    for name, gram in (("hadamard", 1.0), ("zer_o", 2.0)):
        model = Holder((8, 4))
        initconf.initialize(model, {"initializer": name})
        w = model.matrix.detach()
        assert torch.allclose(w.T @ w, gram * torch.eye(4))


def test_complex_parameters():
    for name, expected in (
        ("he_normal", laws.ComplexNormal),
        ("he_uniform", laws.ComplexUniform),
        ("he_truncated_normal", laws.ComplexTruncatedNormal),
    ):
        for dtype in (torch.complex64, torch.complex128):
            model = Holder(MATRIX, dtype)
            report = initconf.initialize(model, {"initializer": name}).verify()
            assert type(report.plan["matrix"].law) is expected
            assert float(model.matrix.detach().abs().square().mean() * 400) == pytest.approx(2.0, rel=0.01)
    with pytest.raises(CompileError) as caught:
        initconf.compile(Holder(MATRIX, torch.complex64), {"initializer": {"name": "uniform", "low": 0, "high": 1}})
    assert (
        caught.value.problems[0].text
        == "matrix: uniform cannot serve it: Uniform has real values, and the parameter is complex"
    )

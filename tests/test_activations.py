"""Gains against 30-digit reference numbers, against torch's own functions, and every refusal with its text."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import initconf
from initconf import activations
from initconf.activations import METHODS, Moments, describe, gain, moments, names, normalise, table
from initconf.errors import InitConfError

REFERENCE = json.loads((Path(__file__).parent / "data" / "gains.json").read_text())

# The reference's name, what is said here, and the same function in torch.
ROWS = {
    "linear": ("linear", lambda x: x),
    "relu": ("relu", F.relu),
    "leaky_relu(0.01)": ("leaky_relu", F.leaky_relu),
    "leaky_relu(0.2)": ({"name": "leaky_relu", "negative_slope": 0.2}, nn.LeakyReLU(0.2)),
    "prelu(0.25)": ("prelu", nn.PReLU()),
    "relu6": ("relu6", F.relu6),
    "elu(1)": ("elu", F.elu),
    "selu": ("selu", F.selu),
    "celu(1.5)": ({"name": "celu", "alpha": 1.5}, nn.CELU(1.5)),
    "gelu(erf)": ("gelu", F.gelu),
    "gelu(tanh)": ({"name": "gelu", "approximate": "tanh"}, nn.GELU(approximate="tanh")),
    "quick_gelu": ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x)),
    "silu/swish": ("silu", F.silu),
    "mish": ("mish", F.mish),
    "tanh": ("tanh", torch.tanh),
    "sigmoid": ("sigmoid", torch.sigmoid),
    # torch's softplus is linear above 20 / beta, to the last float32 digit only
    "softplus": ("softplus", nn.Softplus(threshold=40)),
    "softsign": ("softsign", F.softsign),
    "hardtanh": ("hardtanh", F.hardtanh),
    "hardsigmoid": ("hardsigmoid", F.hardsigmoid),
    "hardswish": ("hardswish", F.hardswish),
    "logsigmoid": ("logsigmoid", F.logsigmoid),
    "tanhshrink": ("tanhshrink", F.tanhshrink),
    "softshrink(0.5)": ("softshrink", F.softshrink),
    "hardshrink(0.5)": ("hardshrink", F.hardshrink),
    "erf": ("erf", torch.erf),
    "sin": ("sin", torch.sin),
    "sin(30z)": ({"name": "sin", "omega": 30}, lambda x: torch.sin(30 * x)),
    "cos": ("cos", torch.cos),
    "squared_relu": ("squared_relu", lambda x: F.relu(x) ** 2),
    "gaussian exp(-z^2)": ("gaussian", lambda x: torch.exp(-x * x)),
}
ALIASES = {
    "identity": "linear",
    "conv1d": "linear",
    "conv2d": "linear",
    "conv3d": "linear",
    "conv_transpose1d": "linear",
    "conv_transpose2d": "linear",
    "conv_transpose3d": "linear",
    "swish": "silu",
    "relu_squared": "squared_relu",
}
GATED = {"glu": "sigmoid", "swiglu": "silu", "geglu": "gelu", "reglu": "relu", "bilinear": "linear"}
ARGUMENTS = {
    "leaky_relu": {"negative_slope": 0.01},
    "prelu": {"init": 0.25},
    "elu": {"alpha": 1.0},
    "celu": {"alpha": 1.0},
    "gelu": {"approximate": "none"},
    "geglu": {"approximate": "none"},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "softshrink": {"lambd": 0.5},
    "hardshrink": {"lambd": 0.5},
    "sin": {"omega": 1.0},
}
ALL_NAMES = (
    "bilinear, celu, conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d, cos, elu, erf, "
    "gaussian, geglu, gelu, glu, hardshrink, hardsigmoid, hardswish, hardtanh, identity, leaky_relu, linear, "
    "logsigmoid, mish, prelu, quick_gelu, reglu, relu, relu6, relu_squared, selu, sigmoid, silu, sin, softplus, "
    "softshrink, softsign, squared_relu, swiglu, swish, tanh, tanhshrink"
)
NUMBER = "\n  -> give the layer's gain as a number"
GATES = "; a gated unit has a name: glu, swiglu, geglu, reglu, bilinear"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(activations, "_REGISTERED", {})


def close(value, expected, rel):
    return math.isclose(value, expected, rel_tol=rel, abs_tol=rel)


# --- the numbers -----------------------------------------------------------------------------------------------------


def test_names_are_those_that_are_tested():
    assert set(ROWS) == set(REFERENCE)
    tested = {said if isinstance(said, str) else said["name"] for said, _ in ROWS.values()}
    assert names() == tuple(sorted(tested | ALIASES.keys() | GATED.keys()))
    assert ", ".join(names()) == ALL_NAMES


@pytest.mark.parametrize("row", ROWS)
def test_gains_are_those_of_the_reference(row):
    said, _ = ROWS[row]
    expected = REFERENCE[row]
    found = moments(said)
    assert math.isclose(gain(said), expected["gain_fwd"], rel_tol=1e-9)
    assert math.isclose(gain(said, "centred"), expected["gain_centered"], rel_tol=1e-9)
    assert math.isclose(gain(said, "backward"), expected["gain_bwd"], rel_tol=1e-9)
    assert math.isclose(gain(said, "numeric_grid"), expected["alf"], rel_tol=1e-6)
    assert close(found.mean, expected["mean"], 1e-10)
    assert math.isclose(found.m2, expected["m2"], rel_tol=1e-9)
    assert math.isclose(found.var, expected["var"], rel_tol=1e-9)
    assert math.isclose(found.bwd_m2, expected["bwd_m2"], rel_tol=1e-9)


@pytest.mark.parametrize("row", ROWS)
def test_torch_method_is_the_table_of_torch(row):
    said, _ = ROWS[row]
    if REFERENCE[row]["torch"]:
        assert gain(said, "torch") == float(REFERENCE[row]["torch"])
    else:
        with pytest.raises(InitConfError) as caught:
            gain(said, "torch")
        assert str(caught.value) == (
            f"torch's table has no gain for activation {normalise(said)[0]!r}; it knows linear, conv1d to "
            "conv_transpose3d, sigmoid, tanh, relu, leaky_relu, selu\n  -> use gain_method: second_moment"
        )


def test_torch_method_agrees_with_the_installed_torch():
    known = [*(f"conv{kind}{axes}d" for kind in ("", "_transpose") for axes in (1, 2, 3)), "linear", "sigmoid", "tanh"]
    for name in [*known, "relu", "leaky_relu", "selu"]:
        assert gain(name, "torch") == nn.init.calculate_gain(name)
    for slope in (0.0, 0.2, 0.3, 1.0, math.sqrt(5)):
        said = {"name": "leaky_relu", "negative_slope": slope}
        assert gain(said, "torch") == nn.init.calculate_gain("leaky_relu", slope)


@pytest.mark.parametrize("row", ROWS)
def test_the_same_function_as_a_torch_callable(row):
    said, function = ROWS[row]
    expected, found = moments(said), moments(function)
    for name in ("mean", "m2", "var", "growth"):
        assert close(getattr(found, name), getattr(expected, name), 1e-10), name
    # torch's own derivative of hardsigmoid divides by six in float32
    assert close(found.bwd_m2, expected.bwd_m2, 1e-8 if row == "hardsigmoid" else 1e-10)


@pytest.mark.parametrize(
    ("said", "function"),
    [
        ({"name": "leaky_relu", "negative_slope": -0.5}, nn.LeakyReLU(-0.5)),
        ({"name": "prelu", "init": 0.1}, nn.PReLU(init=0.1)),
        ({"name": "elu", "alpha": 2}, nn.ELU(2.0)),
        ({"name": "celu", "alpha": 0.05}, nn.CELU(0.05)),
        ({"name": "hardtanh", "min_val": -2.0, "max_val": 0.5003}, nn.Hardtanh(-2.0, 0.5003)),
        ({"name": "softshrink", "lambd": 1}, nn.Softshrink(1.0)),
        ({"name": "hardshrink", "lambd": 0.1415}, nn.Hardshrink(0.1415)),
        ({"name": "sin", "omega": 300}, lambda x: torch.sin(300 * x)),
    ],
)
def test_arguments_reach_the_function(said, function):
    expected, found = moments(said), moments(function)
    for name in ("mean", "m2", "var", "bwd_m2", "growth"):
        assert close(getattr(found, name), getattr(expected, name), 1e-7), name
    assert gain(said) != gain(said["name"])


def test_plain_numbers_are_exact():
    assert [gain("linear", method) for method in METHODS[:4]] == [1.0] * 4
    assert gain("relu") == gain(F.relu) == gain("reglu") == math.sqrt(2.0)
    assert gain("selu") == gain("selu", "centred") == 1.0
    assert moments("selu").mean == moments("tanh").mean == 0.0


def test_sine_of_any_frequency():
    assert math.isclose(gain({"name": "sin", "omega": 1e-4}), 1e4, rel_tol=1e-7)
    assert gain({"name": "sin", "omega": 1e9}) == math.sqrt(2.0)
    assert math.isclose(gain({"name": "sin", "omega": 1e90}, "backward"), math.sqrt(2.0) * 1e-90)


@pytest.mark.parametrize(("gated", "gate"), GATED.items())
def test_gated_units(gated, gate):
    of, found = moments(gate), moments(gated)
    assert (found.mean, found.m2, found.var) == (0.0, of.m2, of.m2)
    assert gain(gated) == gain(gated, "centred") == gain(gate)
    assert gain(gated, "numeric_grid") == gain(gate, "numeric_grid")
    # What backpropagation does to u * f(v), over a grid of Gauss-Hermite points.
    points, weights = np.polynomial.hermite_e.hermegauss(120)
    weight = torch.from_numpy(np.outer(weights, weights) / weights.sum() ** 2)
    u, v = (torch.from_numpy(part).requires_grad_() for part in np.meshgrid(points, points))
    torch_gate = {"sigmoid": torch.sigmoid, "silu": F.silu, "gelu": F.gelu, "relu": F.relu, "linear": lambda x: x}
    grads = torch.autograd.grad((u * torch_gate[gate](v)).sum(), (u, v))
    measured = sum((weight * grad**2).sum().item() for grad in grads) / 2
    assert math.isclose(found.bwd_m2, measured, rel_tol=1e-2 if gate == "relu" else 1e-6)
    assert math.isclose(gain(gated, "backward"), found.bwd_m2**-0.5)


@pytest.mark.parametrize("function", [F.gelu, F.relu, F.hardshrink, torch.tanh, torch.cos])
def test_growth_is_the_derivative_in_the_input_scale(function):
    h = 1e-3
    up, down = (moments(lambda x, q=q: function(math.sqrt(q) * x)).m2 for q in (1 + h, 1 - h))
    assert math.isclose(moments(function).growth, (up - down) / (2 * h), rel_tol=1e-5)


def test_table():
    rows = {row["name"]: row for row in table()}
    slopes = {
        "relu": 1.0,
        "leaky_relu(negative_slope=0.2)": 1.0,
        "elu(alpha=1.0)": 0.8910,
        "selu": 0.7826,
        "gelu(approximate=none)": 1.1441,
        "silu": 1.1726,
        "mish": 1.0763,
        "tanh": 0.4611,
        "sigmoid": 0.1063,
        "softsign": 0.4767,
        "softplus": 0.4921,
        "hardswish": 1.2239,
        "hardtanh(min_val=-1.0, max_val=1.0)": 0.3851,
        "sin(omega=1.0)": 0.3130,
        "erf": 0.4086,
        "squared_relu": 2.0,
        "reglu": 2.0,
    }
    assert {name: round(rows[name]["slope"], 4) for name in slopes} == slopes
    assert set(rows["tanh"]) == {
        *("name", "mean", "m2", "second_moment", "centred", "backward", "chi1", "torch", "slope"),
    }
    assert rows["tanh"]["torch"] == 5 / 3
    assert rows["mish"]["torch"] is None
    assert math.isclose(rows["gelu(approximate=tanh)"]["chi1"], REFERENCE["gelu(tanh)"]["chi1"], rel_tol=1e-9)
    assert len(rows) == len(table()) == len(set(names()) - ALIASES.keys()) + 3
    for row in rows.values():
        for method in ("second_moment", "centred", "backward"):
            assert math.isclose(row[method], gain(row["name"].partition("(")[0], method)) or "(" in row["name"]


def test_table_leaves_out_what_does_not_exist():
    initconf.activation("nothing")(torch.zeros_like)
    row = table()[-1]
    assert row["name"] == "nothing"
    assert {key for key, value in row.items() if value is None} == {
        *("second_moment", "centred", "backward", "chi1", "torch", "slope")
    }


# --- properties ------------------------------------------------------------------------------------------------------

slopes = st.floats(-3, 3, allow_nan=False)


@given(slope=slopes)
def test_leaky_relu_has_a_closed_form(slope):
    said = {"name": "leaky_relu", "negative_slope": slope}
    mean = (1 - slope) / math.sqrt(2 * math.pi)
    assert math.isclose(gain(said), math.sqrt(2 / (1 + slope**2)), rel_tol=1e-12)
    assert gain(said, "backward") == gain(said)
    assert math.isclose(moments(said).var, (1 + slope**2) / 2 - mean**2, rel_tol=1e-12)


@settings(max_examples=15, deadline=None)
@given(slope=slopes)
def test_quadrature_finds_the_closed_form(slope):
    found = moments(lambda x: F.leaky_relu(x, slope))
    assert math.isclose(found.m2, (1 + slope**2) / 2, rel_tol=1e-10)
    assert math.isclose(found.bwd_m2, (1 + slope**2) / 2, rel_tol=1e-10)


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(1e-6, 1e6), name=st.sampled_from(["gelu", "tanh", "softplus"]))
def test_gain_undoes_a_factor(factor, name):
    function = getattr(F, name)
    for method in ("second_moment", "centred", "backward", "numeric_grid"):
        assert math.isclose(gain(lambda x: factor * function(x), method), gain(name, method) / factor, rel_tol=1e-9)


@settings(max_examples=15, deadline=None)
@given(edge=st.floats(-4, 4))
def test_a_jump_anywhere_is_found(edge):
    below = 0.5 * (1 + math.erf(edge / math.sqrt(2)))
    found = moments(lambda x: torch.where(x < edge, 1.0, -2.0).double())
    assert close(found.m2, below + 4 * (1 - below), 1e-10)
    assert close(found.mean, below - 2 * (1 - below), 1e-10)


def test_a_variance_far_below_the_mean_is_right():
    found = moments(lambda x: 1e6 + torch.tanh(x))
    assert math.isclose(found.var, REFERENCE["tanh"]["var"], rel_tol=1e-8)


def test_a_function_that_computes_in_float32():
    assert math.isclose(gain(lambda x: F.gelu(x.float())), gain("gelu"), rel_tol=1e-7)


# --- callables and the state of the program --------------------------------------------------------------------------


def test_nothing_touches_the_random_state_and_all_is_deterministic():
    torch.manual_seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = moments(lambda x: F.silu(x))
    for noisy in (nn.Dropout(), nn.RReLU(), F.dropout):
        with pytest.raises(InitConfError):
            gain(noisy)
    torch.rand(3)
    second = moments(lambda x: F.silu(x))
    torch.set_rng_state(before[0])
    gain(nn.GELU(), "backward")
    assert first == second
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002


@pytest.mark.parametrize("mode", [torch.no_grad(), torch.inference_mode(), torch.device("meta")])
def test_the_mode_of_the_caller_does_not_matter(mode):
    with mode:
        found = moments(lambda x: F.gelu(x) * torch.tensor(2.0))
    assert math.isclose(found.bwd_m2, 4 * moments("gelu").bwd_m2)


def test_moments_are_cached_but_those_of_modules():
    calls = []

    def counted(x):
        calls.append(len(x))
        return torch.tanh(x)

    assert moments(counted) is moments(counted)
    many = len(calls)
    gain(counted)
    assert len(calls) == many
    assert moments({"name": "gelu"}) is moments({"name": "gelu", "approximate": "none"})
    slope = nn.PReLU()
    assert math.isclose(gain(slope), gain("prelu"))
    with torch.no_grad():
        slope.weight.fill_(0.0)
    assert math.isclose(gain(slope), gain("relu"))
    assert slope.weight.dtype == torch.float32


def test_moments_are_a_frozen_record():
    assert moments("relu") == Moments(0.3989422804014327, 0.5, 0.5 - 1 / (2 * math.pi), 0.5, 0.5)
    with pytest.raises(AttributeError):
        moments("relu").m2 = 1.0


def test_a_forward_gain_without_a_backward_one():
    def root(x):
        return x.abs().sqrt()

    assert math.isclose(moments(root).m2, math.sqrt(2 / math.pi), rel_tol=1e-9)
    assert moments(root).bwd_m2 is None
    with pytest.raises(InitConfError) as caught:
        gain(root, "backward")
    assert str(caught.value) == (
        "the derivative of activation 'root' cannot be integrated: it oscillates too fast or has a pole" + NUMBER
    )


def test_importing_loads_no_torch():
    code = (
        "import sys, initconf.activations as a; a.gain('gelu'); a.table(); a.activation('f')(lambda x: x); "
        "print('torch' in sys.modules, 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


# --- names, arguments, registration ----------------------------------------------------------------------------------


def test_describe_and_normalise():
    for name in names():
        assert describe(name) == ARGUMENTS.get(name, {})
        assert normalise(name) == normalise({"name": name}) == (ALIASES.get(name, name), ARGUMENTS.get(name, {}))
    assert normalise({"name": "elu", "alpha": 2}) == ("elu", {"alpha": 2.0})
    assert isinstance(normalise({"name": "elu", "alpha": 2})[1]["alpha"], float)
    describe("elu")["alpha"] = 3.0
    assert describe("elu") == {"alpha": 1.0}


def swish_plus(x, beta=1.0, shift=0, mode="plain"):
    return x * torch.sigmoid(beta * x) + shift


def test_the_forms_of_the_decorator():
    assert initconf.activation(swish_plus) is swish_plus
    assert initconf.activation("swish2")(swish_plus) is swish_plus

    @initconf.activation
    def bare(x):
        return F.silu(x)

    @initconf.activation()
    def empty(x):
        return F.silu(x)

    @initconf.activation("named")
    def other(x):
        return F.silu(x)

    initconf.activation("module")(nn.SiLU())
    initconf.activation("written_in_c")(torch.erf)
    for name in ("swish_plus", "swish2", "bare", "empty", "named", "module"):
        assert gain(name) == gain("silu")
        assert name in names()
    assert gain("written_in_c") == gain("erf")
    assert describe("swish2") == {"beta": 1.0, "shift": 0, "mode": "plain"}
    assert gain({"name": "swish2", "beta": 1.702}) == gain("quick_gelu")
    assert normalise({"name": "swish2", "beta": 3}) == ("swish2", {"beta": 3.0, "shift": 0, "mode": "plain"})
    assert normalise(bare) == ("bare", {})


def test_arguments_that_no_configuration_can_set_keep_their_defaults():
    @initconf.activation
    def many(x, a=1.0, flag=False, what=None, weights=(1, 2), _private=3, *rest, b=2, **more):
        return x * a * b * weights[1]

    assert describe("many") == {"a": 1.0, "flag": False, "what": None, "b": 2}
    assert gain({"name": "many", "what": "it", "flag": True, "b": 0.5}) == 1.0


def test_a_derivative_is_taken_as_it_is_said():
    initconf.activation("straight_through", derivative=torch.ones_like)(torch.sign)

    @initconf.activation(derivative=lambda x, power=2: power * x)
    def powered(x, power=2):
        return x.abs() ** power

    assert gain("straight_through", "backward") == gain(torch.sign) == 1.0
    assert gain(powered, "backward") == 0.5
    assert gain({"name": "powered", "power": 4}, "backward") == 0.25


# --- refusals --------------------------------------------------------------------------------------------------------


def softmax(x):
    return F.softmax(x, dim=-1)


def glu(x):
    return F.glu(x)


def maxout(x):
    return x.reshape(*x.shape[:-1], -1, 2).amax(-1)


def centred(x):
    return x - x.mean()


def layer_norm(x):
    return F.layer_norm(x, (6,))


def number(x):
    return 1.0


def total(x):
    return x.sum()


def mask(x):
    return x > 0


def explodes(x):
    return torch.exp(x * x / 4)


def vanishes(x):
    return torch.zeros_like(x)


def constant(x):
    return torch.full_like(x, 3.0)


def fast(x):
    return torch.sin(1e6 * x)


def strict(x):
    raise ValueError("only int8")


RANDOM = (
    " is random: it draws random numbers, or gives two values for one input\n"
    "  -> put the module in eval mode, or give the layer's gain as a number"
)
IN_PLACE = " changes its input in place\n  -> give the function that does not: relu instead of relu_, inplace=False"
NOT_A_TENSOR = "\n  -> it must take a float tensor and return one of the same shape"
NOT_FINITE = "\n  -> it must be finite for every real number, because a gain averages over all of them"
LEAKY = "leaky_relu"
ANY = "\n  -> give a name, a mapping such as {name: leaky_relu, negative_slope: 0.2}, or a callable"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (softmax, f"activation 'softmax' is not elementwise: a value depends on the other elements{NUMBER}{GATES}"),
        (
            nn.Softmax(dim=-1),
            f"activation 'Softmax' is not elementwise: a value depends on the other elements{NUMBER}{GATES}",
        ),
        (centred, f"activation 'centred' is not elementwise: a value depends on the other elements{NUMBER}{GATES}"),
        (glu, f"activation 'glu' is not elementwise: it turned shape (4, 6) into (4, 3){NUMBER}{GATES}"),
        (maxout, f"activation 'maxout' is not elementwise: it turned shape (4, 6) into (4, 3){NUMBER}{GATES}"),
        (total, f"activation 'total' is not elementwise: it turned shape (4, 6) into (){NUMBER}{GATES}"),
        (
            layer_norm,
            "activation 'layer_norm' is not elementwise: it takes shape (4, 6), but raised for shape (6, 4): Given "
            f"normalized_shape=[6], expected input with shape [*, 6], but got input of size[6, 4]{NUMBER}{GATES}",
        ),
        (F.dropout, f"activation 'dropout'{RANDOM}"),
        (nn.Dropout(1e-6), f"activation 'Dropout'{RANDOM}"),
        (nn.RReLU(), f"activation 'RReLU'{RANDOM}"),
        (torch.relu_, f"activation 'relu_'{IN_PLACE}"),
        (nn.ReLU(inplace=True), f"activation 'ReLU'{IN_PLACE}"),
        (torch.log, f"activation 'log' is nan at z = -3.9{NOT_FINITE}"),
        (number, f"activation 'number' returned float, not a floating-point tensor{NOT_A_TENSOR}"),
        (mask, f"activation 'mask' returned torch.bool, not a floating-point tensor{NOT_A_TENSOR}"),
        (
            strict,
            "activation 'strict' raised ValueError: only int8\n  -> it is called with float64 tensors of any shape on the CPU",
        ),
        (nn.GELU, "activation 'GELU' is a class\n  -> give an instance: GELU()"),
        (
            explodes,
            "activation 'explodes' grows so fast that its second moment under N(0, 1) is not finite" + NUMBER,
        ),
        (fast, "activation 'fast' cannot be integrated: it oscillates too fast or has a pole" + NUMBER),
        (vanishes, "activation 'vanishes' has no second_moment gain: E[f(z)^2] is 0" + NUMBER),
        ({"name": "sin", "omega": 0}, "activation 'sin' has no second_moment gain: E[f(z)^2] is 0" + NUMBER),
        ("rellu", f"no activation is named 'rellu'\n  -> did you mean 'relu'? they are: {ALL_NAMES}"),
        ("GELU", f"no activation is named 'GELU'\n  -> did you mean 'gelu'? they are: {ALL_NAMES}"),
        ("wobble", f"no activation is named 'wobble'\n  -> known: {ALL_NAMES}"),
        ({"name": None}, f"no activation is named None\n  -> known: {ALL_NAMES}"),
        (3, "3 is no activation" + ANY),
        (None, "None is no activation" + ANY),
        (
            {"negative_slope": 0.2},
            "the activation {'negative_slope': 0.2} has no name\n  -> write {name: leaky_relu, negative_slope: 0.2}",
        ),
        ({"name": "relu", "slope": 1}, "activation 'relu' has no argument 'slope'\n  -> it takes none"),
        (
            {"name": LEAKY, "negative_slop": 1},
            "activation 'leaky_relu' has no argument 'negative_slop'\n  -> did you mean 'negative_slope'?",
        ),
        (
            {"name": LEAKY, "a": 1, "negative_slope": "1e-2"},
            "2 problems:\n- activation 'leaky_relu' has no argument 'a'\n    -> known: negative_slope\n"
            "- activation 'leaky_relu': negative_slope = '1e-2' is not allowed\n    -> give a finite number",
        ),
        (
            {"name": LEAKY, "negative_slope": True},
            "activation 'leaky_relu': negative_slope = True is not allowed\n  -> give a finite number",
        ),
        (
            {"name": LEAKY, "negative_slope": math.nan},
            "activation 'leaky_relu': negative_slope = nan is not allowed\n  -> give a finite number",
        ),
        (
            {"name": "gelu", "approximate": "tan"},
            "activation 'gelu': approximate = 'tan' is not allowed\n  -> give 'none' or 'tanh'",
        ),
        (
            {"name": "geglu", "approximate": 1},
            "activation 'geglu': approximate = 1 is not allowed\n  -> give a string",
        ),
        ({"name": "celu", "alpha": 0}, "activation 'celu': alpha = 0 is not allowed\n  -> give a number above 0"),
        (
            {"name": "hardtanh", "min_val": 2},
            "activation 'hardtanh': max_val = 1.0 is not allowed\n  -> give a number above min_val",
        ),
        (
            {"name": "softshrink", "lambd": -1},
            "activation 'softshrink': lambd = -1 is not allowed\n  -> give a number from 0 on",
        ),
    ],
)
def test_refusals(said, text):
    with pytest.raises(InitConfError) as caught:
        gain(said)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("said", "method", "text"),
    [
        ("gelu", "second", "no gain method is named 'second'\n  -> did you mean 'second_moment'?"),
        (
            "gelu",
            "exact",
            "no gain method is named 'exact'\n  -> known: backward, centred, numeric_grid, second_moment, torch",
        ),
        (constant, "centred", "activation 'constant' has no centred gain: Var f(z) is 0" + NUMBER),
        (constant, "backward", "activation 'constant' has no backward gain: E[f'(z)^2] is 0" + NUMBER),
        (
            vanishes,
            "numeric_grid",
            "activation 'vanishes' has no numeric_grid gain: E[f(z)^2] on the grid is 0" + NUMBER,
        ),
        (
            F.leaky_relu,
            "torch",
            "torch's table has no gain for activation 'leaky_relu'; it knows linear, conv1d to conv_transpose3d, "
            "sigmoid, tanh, relu, leaky_relu, selu\n  -> use gain_method: second_moment",
        ),
    ],
)
def test_methods_that_have_no_answer(said, method, text):
    with pytest.raises(InitConfError) as caught:
        gain(said, method)
    assert str(caught.value) == text


def test_only_registered_callables_have_a_name():
    with pytest.raises(InitConfError) as caught:
        normalise(softmax)
    assert str(caught.value) == (
        "activation 'softmax' is a callable without a registered name\n"
        "  -> register it: initconf.activation('a_name')(function)"
    )


def test_a_bad_derivative_is_refused_when_it_is_used():
    initconf.activation("bent", derivative=torch.log)(torch.tanh)
    assert gain("bent") == gain("tanh")
    with pytest.raises(InitConfError) as caught:
        gain("bent", "backward")
    assert str(caught.value) == f"the derivative of activation 'bent' is nan at z = -3.9{NOT_FINITE}"


def test_registrations_that_are_refused():
    def needs(x, beta, gamma):
        return x

    def called(x, name="it"):
        return x

    initconf.activation("taken")(torch.tanh)
    cases = [
        (torch.tanh, "taken", "activation 'taken' is registered already\n  -> choose another name"),
        (torch.tanh, "relu", "activation 'relu' is built in\n  -> choose another name"),
        (torch.tanh, "conv2d", "activation 'conv2d' is built in\n  -> choose another name"),
        (
            torch.tanh,
            "auto",
            "'auto' cannot name an activation\n  -> give a name: activation('swish2')(function)",
        ),
        (
            lambda x: x,
            None,
            "'<lambda>' cannot name an activation\n  -> give a name: activation('swish2')(function)",
        ),
        (nn.SiLU(), None, "'' cannot name an activation\n  -> give a name: activation('swish2')(function)"),
        (nn.SiLU, "a_class", f"{nn.SiLU!r} is no activation\n  -> register a function or an instance"),
        (3, "three", "3 is no activation\n  -> register a function or an instance"),
        (
            needs,
            None,
            "2 problems:\n- activation 'needs': the parameter 'beta' has no default\n    -> give it one\n"
            "- activation 'needs': the parameter 'gamma' has no default\n    -> give it one",
        ),
        (called, None, "activation 'called': no parameter may be called 'name'\n  -> rename it"),
    ]
    for function, name, text in cases:
        with pytest.raises(InitConfError) as caught:
            initconf.activation(name)(function)
        assert str(caught.value) == text
    assert set(activations._REGISTERED) == {"taken"}


def test_a_registered_callable_is_checked_when_it_is_first_used():
    initconf.activation("soft")(softmax)
    with pytest.raises(InitConfError, match="activation 'soft' is not elementwise"):
        gain("soft")

"""`nonlinearity: auto`: what feeds each weight, found by running or tracing the model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import gpt, untouched
from torch import nn

import initconf
from initconf.owners import parameters
from initconf.tracing import trace


def feeds(model, example=None):
    names = {id(found.parameter): name for name, found in sorted(parameters(model).items(), reverse=True)}
    found = trace(model, names, example)
    return {name: (feed.nonlinearity, feed.assumed) for name, feed in found.items() if "bias" not in name}


class Gated(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.norm, self.up, self.gate, self.out = nn.RMSNorm(4), nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)
        self.activation = activation

    def forward(self, x):
        h = self.norm(x)
        return x + self.out(self.activation(self.gate(h)) * self.up(h))


class Function(nn.Module):
    """Two linear maps with a function between them."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 4), nn.Linear(4, 4), function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


ACTIVATIONS = [
    (F.relu, "relu"),
    (torch.relu, "relu"),
    (lambda x: x.relu(), "relu"),
    (F.relu6, "relu6"),
    (F.gelu, "gelu"),
    (lambda x: F.gelu(x, approximate="tanh"), {"name": "gelu", "approximate": "tanh"}),
    (F.silu, "silu"),
    (lambda x: x * torch.sigmoid(x), "silu"),
    (F.mish, "mish"),
    (torch.tanh, "tanh"),
    (torch.sigmoid, "sigmoid"),
    (F.elu, "elu"),
    (lambda x: F.elu(x, 0.5), {"name": "elu", "alpha": 0.5}),
    (F.selu, "selu"),
    (F.softplus, "softplus"),
    (lambda x: F.leaky_relu(x, 0.2), {"name": "leaky_relu", "negative_slope": 0.2}),
    (F.leaky_relu, "leaky_relu"),
    (lambda x: F.relu(x).square(), "squared_relu"),
    (lambda x: F.relu(x) ** 2, "squared_relu"),
    (torch.sin, "sin"),
    (lambda x: x, "linear"),
    (lambda x: F.dropout(F.relu(x), 0.5), "relu"),
    (lambda x: F.relu(x).reshape(-1, 4).contiguous(), "relu"),
    (lambda x: F.layer_norm(F.relu(x), (4,)), "linear"),
]


@pytest.mark.parametrize(("function", "expected"), ACTIVATIONS, ids=range(len(ACTIVATIONS)))
@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["symbolic", "example"])
def test_the_activation_between_two_layers(function, expected, example):
    assert feeds(Function(function), example) == {"a.weight": ("linear", False), "b.weight": (expected, False)}


@pytest.mark.parametrize(
    ("activation", "unit"), [(F.silu, "swiglu"), (F.gelu, "geglu"), (torch.sigmoid, "glu"), (F.relu, "reglu")], ids=range(4)
)
@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["symbolic", "example"])
def test_gated_units(activation, unit, example):
    found = feeds(Gated(activation), example)
    assert found == {"up.weight": ("linear", False), "gate.weight": ("linear", False), "out.weight": (unit, False)}


def test_a_convolutional_net():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2)
    )
    example = torch.randn(2, 3, 8, 8)
    with untouched(model):
        found = feeds(model, example)
    assert found == {"0.weight": ("linear", False), "4.weight": ("relu", True), "6.weight": ("linear", False)}
    assert all(module.training for module in model.modules())


def test_a_transformer():
    found = feeds(gpt(), torch.zeros(1, 6, dtype=torch.long))
    assert found["blocks.0.attn.q_proj.weight"] == ("linear", False)
    assert found["blocks.0.attn.out_proj.weight"] == ("linear", True)
    assert found["blocks.0.mlp.c_proj.weight"][0] == "gelu"
    assert found["lm_head.weight"] == ("linear", False)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation=F.gelu)
    assert feeds(layer, torch.randn(1, 3, 8))["linear2.weight"] == ("gelu", False)


def test_recurrent_layers():
    assert feeds(nn.LSTM(4, 5), torch.randn(2, 1, 4)) == {"weight_ih_l0": ("linear", False), "weight_hh_l0": ("tanh", True)}


def test_the_plan_says_what_was_found_and_why():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    plan = initconf.compile(model, initconf.load("he", overrides=["nonlinearity=auto"]))
    stds = [plan[f"{i}.weight"].std for i in (0, 2, 4)]
    assert stds == pytest.approx([(1 / 4) ** 0.5, (2 / 8) ** 0.5, 1.592537419722831 / 8**0.5], rel=1e-9)
    assert [plan[f"{i}.weight"].fed_by for i in (0, 2, 4)] == ["the model's input", "relu", "tanh"]
    assert plan["2.weight"].settings["nonlinearity"] == "relu"
    assert initconf.Plan.from_dict(plan.to_dict()) == plan
    bent = initconf.load("he", overrides=["rules.last={match: 4.weight, nonlinearity: auto}"])
    assert initconf.compile(model, bent)["4.weight"].std == pytest.approx(stds[2])


class Twice(nn.Module):
    """One layer, fed by the data and by a ReLU."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(F.relu(self.layer(x)))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x + 1 if x.sum() > 0 else x)


ERRORS = [
    (
        Function(lambda x: x.cumprod(0)),
        None,
        "init.initializer  (FILE): b.weight: variance_scaling cannot serve it: "
        "the activation that feeds it is not known: the function cumprod on a linear map\n"
        "  -> say it in a rule: {match: 'b.weight', nonlinearity: relu}",
    ),
    (
        Twice(),
        None,
        "init.initializer  (FILE): layer.weight: variance_scaling cannot serve it: the activation that feeds it is not known: "
        "it is used twice, fed by linear (the model's input) and by relu (relu)\n"
        "  -> say it in a rule: {match: 'layer.weight', nonlinearity: relu}",
    ),
    (
        Branching(),
        None,
        "init.initializer  (FILE): layer.weight: variance_scaling cannot serve it: the activation that feeds it is not known: "
        "the model cannot be traced without an example input (symbolically traced variables cannot be used as inputs to "
        "control flow)\n  -> give an example input that the model takes, or name the activation",
    ),
    (
        Branching(),
        torch.randn(2, 3),
        "init.initializer  (FILE): layer.weight: variance_scaling cannot serve it: the activation that feeds it is not known: "
        "the model cannot be run on the example: RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x4)\n"
        "  -> give an example input that the model takes, or name the activation",
    ),
]


@pytest.mark.parametrize(("model", "example", "text"), ERRORS, ids=range(len(ERRORS)))
def test_what_cannot_be_known_is_an_error(model, example, text):
    spec = initconf.load("he", overrides=["nonlinearity=auto"])
    with untouched(model), pytest.raises(initconf.CompileError) as caught:
        initconf.compile(model, spec, example=example)
    assert str(caught.value).replace(spec.source("initializer"), "FILE") == text


def test_an_example_serves_what_cannot_be_traced():
    spec = initconf.load("he", overrides=["nonlinearity=auto"])
    for example in (torch.ones(2, 4), (torch.ones(2, 4),), {"x": torch.ones(2, 4)}):
        assert initconf.compile(Branching(), spec, example=example)["layer.weight"].fed_by == "the model's input"
    report = initconf.initialize(Branching(), spec, example=torch.ones(2, 4))
    assert report.verify().plan["layer.weight"].std == 0.5

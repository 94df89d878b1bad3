"""Every argument of every initializer, of the wrong type and out of range: the error names it, its value, what is allowed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import initconf
from initconf import registry
from tests.small_models import untouched

ARGUMENTS = [
    pytest.param(name, argument, id=f"{name}.{argument}")
    for name in registry.names()
    for argument in registry.find(name).arguments
]
NEEDED = {
    "uniform": {"low": -1, "high": 1},
    "constant": {"value": 1},
    "constant_": {"val": 1},
    "sparse": {"sparsity": 0.5},
    "sparse_": {"sparsity": 0.5},
    "chrono": {"t_max": 10},
    "values": {"path": "nowhere.npy"},
    "pretrained": {"path": "nowhere.pt"},
}
WRONG_TYPES = ({"a": {"b": 1}}, [[1.5], "x"], "no name of anything", True, 1.5)
OUT_OF_RANGE = (-1e9, 1e9, -1, 0, math.nan, math.inf, -math.inf)


def model(name=""):
    """A matrix; of what serves hypernetworks, one whose output layer generates six values."""
    if name == "chunked_hyperfan":
        return nn.ModuleDict({"chunks": nn.Embedding(1, 4), "head": nn.Linear(4, 6)})
    if name == "chunk_scale":
        return nn.ParameterDict({"scale": torch.zeros(6)})
    return nn.Linear(4, 6, bias=name.endswith("hyperinit"))


def refusal(name, argument, value):
    """The error's text, or None where the value is taken; the model's bits are untouched either way."""
    made = model(name)
    generated = {"main": [{"name": "w", "kind": "weight", "shape": [2, 3]}]}
    spec = {
        "unmatched": "keep",
        "targets": generated if registry.find(name).arrange is not None else {},
        "rules": {"it": {"glob": "*", "initializer": {"name": name, **NEEDED.get(name, {}), argument: value}}},
    }
    with untouched(made):
        try:
            initconf.compile(made, spec)
        except initconf.InitConfError as error:
            return str(error)
    return None


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_a_value_of_the_wrong_type_is_named(name, argument):
    refused = 0
    for value in WRONG_TYPES:
        text = refusal(name, argument, value)
        if text is None or any(words in text for words in ("cannot serve it", "for the targets", "its scheme")):
            continue
        refused += 1
        assert f"init.rules.it.initializer.{argument}" in text
        assert repr(value) in text or str(value) in text
        assert ": " in text.partition(f"initializer.{argument}")[2]
    assert refused >= 2


BOUNDED = [
    ("normal", "std", (-1,), "greater than or equal to 0"),
    ("normal", "std", (math.nan, math.inf), "finite"),
    ("normal", "mean", (math.nan, math.inf), "finite"),
    ("truncated_normal", "std", (-1,), "greater than or equal to 0"),
    ("variance_scaling", "scale", (0, -1), "greater than 0"),
    ("variance_scaling", "gain", (-1,), "greater than or equal to 0"),
    ("he_normal", "gain", (-1,), "greater than or equal to 0"),
    ("glorot_uniform", "gain", (-1,), "greater than or equal to 0"),
    ("orthogonal", "gain", (-1,), "greater than or equal to 0"),
    ("siren", "omega", (0, -30), "greater than 0"),
    ("sparse", "sparsity", (-0.1, 1.1), "equal to"),
    ("sparse_", "sparsity", (-0.1, 1.1), "equal to"),
    ("chrono", "t_max", (2, -5), "greater than 2"),
    ("mamba_dt_bias", "low", (0, -1), "greater than 0"),
    ("mamba2_a_log", "high", (0, -1), "greater than 0"),
    ("prior_bias", "prior", (0, 1, 1.5), "than"),
    ("sinusoidal", "base", (1, 0), "greater than 1"),
    ("fourier_features", "sigma", (-1,), "greater than or equal to 0"),
    ("dirac_", "groups", (0, -2), "greater than or equal to 1"),
    ("kaiming_normal_", "mode", ("fan_avg",), "'fan_in' or 'fan_out'"),
    ("kaiming_normal_", "nonlinearity", ("gelu",), "'selu'"),
]


@pytest.mark.parametrize(("name", "argument", "values", "allowed"), BOUNDED, ids=range(len(BOUNDED)))
def test_a_value_out_of_range_says_what_is_allowed(name, argument, values, allowed):
    for value in values:
        text = refusal(name, argument, value)
        assert text is not None
        assert f"init.rules.it.initializer.{argument}" in text
        assert allowed in text


def test_whatever_the_number_it_is_taken_or_refused_by_name():
    """No number makes compile raise anything but InitConfError, and the error says what it is about."""
    outcomes = set()
    for param in ARGUMENTS:
        name, argument = param.values
        for value in OUT_OF_RANGE:
            text = refusal(name, argument, value)
            outcomes.add(text is None)
            known = f"initializer.{argument}", f"{name} cannot serve it", f"{name} for the targets"
            assert text is None or any(words in text for words in known)
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    ("initializer", "text"),
    [
        ({"name": "uniform", "low": 2, "high": 1}, "low = 2 is above high = 1"),
        ({"name": "truncated_normal", "low": 2, "high": 1}, "low = 2 is not below high = 1"),
        ({"name": "trunc_normal_", "a": 2, "b": 1}, "a = 2 is not below b = 1"),
        ({"name": "variance_scaling", "in_axes": 9, "out_axes": 0}, "in_axes = 9: the shape (6, 4) has axes -2 to 1"),
        ({"name": "variance_scaling", "in_axes": 0, "out_axes": 0}, "an axis is named twice"),
        ({"name": "mamba_dt_bias", "floor": 1}, "floor = 1 is not below high = 0.1"),
    ],
    ids=range(6),
)
def test_arguments_that_do_not_go_together(initializer, text):
    spec = {"unmatched": "keep", "rules": {"it": {"glob": "*", "initializer": initializer}}}
    with pytest.raises(initconf.CompileError) as caught:
        initconf.compile(model(), spec)
    assert text in str(caught.value)


@pytest.mark.parametrize(("channels", "groups"), [((8, 64), 4), ((32, 32), 32), ((8, 8), 2)], ids=str)
def test_each_group_of_a_convolution_has_an_orthogonal_matrix(channels, groups):
    conv = nn.Conv2d(*channels, 1, groups=groups, bias=False)
    initconf.initialize(conv, "orthogonal").verify()
    x = torch.randn(64, channels[0], 3, 3)
    norms = conv(x).detach().norm(dim=1) / x.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))

"""Choices: which initializer serves a rule, and for each argument who says it last."""

from typing import Any

import pytest

import initconf
from initconf import CompileError, load
from initconf.choices import choose
from initconf.laws import Constant, Law
from tests.small_models import gpt, mlp, untouched

WEIGHTS = {"role": "weight"}


def chosen(spec: dict[str, Any], rule: str | None = "r") -> tuple[str, dict[str, Any]]:
    choice = choose(load(spec), rule)
    return choice.initializer.name, choice.arguments


def refused(spec: dict[str, Any], rule: str | None = "r") -> str:
    with pytest.raises(CompileError) as caught:
        choose(load(spec), rule)
    return str(caught.value)


def std(spec: dict[str, Any], name: str = "head.weight", make: Any = mlp) -> float | None:
    return initconf.compile(make(), {"unmatched": "keep", **spec})[name].std


# --- the ladder: default < spec < rule < the mapping of the rule's initializer ---------------------------------------

OWN = {"name": "variance_scaling", "gain": 4, "mode": "fan_geo_avg", "distribution": "uniform", "nonlinearity": "selu"}
STEPS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    # what the spec says, what the rule says, the arguments
    ({}, {}, {}),
    ({"gain": 2}, {}, {"gain": 2}),
    ({"gain": 2}, {"gain": 3}, {"gain": 3}),
    ({"gain": 2}, {"gain": 3, "initializer": OWN}, {key: OWN[key] for key in OWN if key != "name"}),
    ({"gain": 2}, {"initializer": OWN}, {key: OWN[key] for key in OWN if key != "name"}),
    ({"mode": "fan_out"}, {}, {"mode": "fan_out"}),
    ({"mode": "fan_out"}, {"mode": "fan_avg"}, {"mode": "fan_avg"}),
    ({"distribution": "uniform"}, {"gain": 2}, {"distribution": "uniform", "gain": 2}),
    ({"nonlinearity": "relu", "gain_method": "torch"}, {}, {"nonlinearity": "relu", "gain_method": "torch"}),
    ({"nonlinearity": "relu"}, {"nonlinearity": "tanh"}, {"nonlinearity": "tanh"}),
    # The mapping of the spec's own initializer is weaker than a rule that bends it,
    ({"initializer": {"name": "variance_scaling", "gain": 5}}, {}, {"gain": 5}),
    ({"initializer": {"name": "variance_scaling", "gain": 5}, "gain": 2}, {}, {"gain": 5}),
    ({"initializer": {"name": "variance_scaling", "gain": 5}}, {"gain": 3}, {"gain": 3}),
    # and says nothing to a rule that names an initializer of its own.
    ({"initializer": {"name": "variance_scaling", "gain": 5}}, {"initializer": "variance_scaling"}, {}),
    ({"initializer": {"name": "orthogonal", "gain": 5}, "gain": 2}, {"initializer": "variance_scaling"}, {"gain": 2}),
    # Null is not set, at every step.
    ({"gain": 2}, {"gain": None}, {"gain": 2}),
    ({"gain": 2}, {"initializer": {"name": "variance_scaling", "gain": None}}, {"gain": 2}),
    ({"gain": None, "initializer": None}, {}, {}),
]


@pytest.mark.parametrize(("spec", "rule", "arguments"), STEPS)
def test_who_says_an_argument_last(spec: dict, rule: dict, arguments: dict) -> None:
    assert chosen({**spec, "rules": {"r": {**WEIGHTS, **rule}}}) == ("variance_scaling", arguments)


def test_what_the_ladder_ends_in() -> None:
    # of 8 inputs and 3 outputs; the defaults are fan_in, truncated_normal, 1.0, linear, second_moment
    entry = initconf.compile(mlp(), {"unmatched": "keep"})["head.weight"]
    assert (str(entry.law), entry.settings) == ("TruncatedNormal(mean=0, std=0.353553, low=-2, high=2)", {})
    assert std({"gain": 2}) == pytest.approx(2 * 8**-0.5)
    assert std({"gain": 2, "rules": {"r": {**WEIGHTS, "gain": 3}}}) == pytest.approx(3 * 8**-0.5)
    assert std({"nonlinearity": "relu"}) == pytest.approx(0.5)
    assert std({"mode": "fan_out"}) == pytest.approx(3**-0.5)
    assert std({"rules": {"r": {**WEIGHTS, "initializer": {"name": "he_normal", "gain": 2}}}}) == pytest.approx(1.0)


def test_the_spec_names_the_initializer_of_rules_that_name_none() -> None:
    assert chosen({"initializer": "orthogonal", "gain": 2, "rules": {"r": WEIGHTS}}) == ("orthogonal", {"gain": 2})
    assert chosen({"initializer": "orthogonal", "rules": {"r": {**WEIGHTS, "initializer": "zeros"}}}) == ("zeros", {})
    assert chosen({"initializer": "orthogonal", "gain": 2}, None) == ("orthogonal", {"gain": 2})
    assert chosen({}, None) == ("variance_scaling", {})
    assert chosen({"rules": {"r": {**WEIGHTS, "initializer": "kaiming_uniform"}}})[0] == "he_uniform"


def test_an_initializer_receives_what_it_declares() -> None:
    everything = {"mode": "fan_out", "distribution": "uniform", "gain": 2, "nonlinearity": "relu", "gain_method": "torch"}
    rules = {"r": {**WEIGHTS, "initializer": "orthogonal"}}
    assert chosen({**everything, "rules": rules}) == (
        "orthogonal",
        {"gain": 2, "nonlinearity": "relu", "gain_method": "torch"},
    )
    for name, takes in (("he_normal", {"gain", "gain_method"}), ("zeros", set()), ("normal", set()), ("keep", set())):
        assert set(chosen({**everything, "rules": {"r": {**WEIGHTS, "initializer": name}}})[1]) == takes


def test_a_registered_initializer_is_served_alike() -> None:
    @initconf.register("probe")
    def probe(site: Any, width: int = 1, gain: float = 1.0, mode: str = "fan_in") -> Law:
        return Constant(width * gain)

    spec = {"initializer": {"name": "probe", "width": 2}, "gain": 3, "distribution": "uniform", "rules": {"r": WEIGHTS}}
    assert chosen(spec) == ("probe", {"gain": 3, "width": 2})
    assert std(spec | {"unmatched": "keep"}) == 0.0


# --- an explicit scale -----------------------------------------------------------------------------------------------


def test_the_gain_of_the_spec_does_not_reach_into_a_rule_that_names_an_explicit_scale() -> None:
    embedding = {"role": "embedding", "initializer": {"name": "normal", "std": 0.02}}
    for gain in (None, 5):
        assert std({"gain": gain, "rules": {"r": embedding}}, "tok_emb.weight", gpt) == 0.02
    for name in ("normal", "truncated_normal"):
        spec = {"gain": 5, "mode": "fan_out", "rules": {"r": {**WEIGHTS, "initializer": {"name": name, "std": 0.1}}}}
        assert chosen(spec) == (name, {"std": 0.1})
    uniform = {**WEIGHTS, "initializer": {"name": "uniform", "low": -1, "high": 1}}
    assert chosen({"gain": 5, "rules": {"r": uniform}})[1] == {"low": -1, "high": 1}


def test_a_gain_where_the_explicit_scale_is_named_or_bent_does() -> None:
    embedding = {"role": "embedding", "initializer": {"name": "normal", "std": 0.02}}
    assert std({"rules": {"r": {**embedding, "gain": 3}}}, "tok_emb.weight", gpt) == 0.06
    own = {"role": "embedding", "initializer": {"name": "normal", "std": 0.02, "gain": 3}}
    assert std({"gain": 7, "rules": {"r": own}}, "tok_emb.weight", gpt) == 0.06
    # Named by the spec itself, it is the spec's gain that bends it, and a rule's that bends it instead.
    spec = {"initializer": {"name": "normal", "std": 0.02}, "gain": 3}
    assert std(spec) == 0.06
    assert std({**spec, "rules": {"r": {**WEIGHTS, "gain": 5}}}) == 0.1


def test_gains_of_gpt2() -> None:
    """The scheme names normal for weights, and so does the rule for embeddings: `init.gain` bends the first alone."""
    plain, bent = (initconf.compile(gpt(), load("gpt2", overrides)) for overrides in ([], ["gain=0.5"]))
    assert (plain["lm_head.weight"].std, bent["lm_head.weight"].std) == (0.02, 0.01)
    assert (plain["tok_emb.weight"].std, bent["tok_emb.weight"].std) == (0.02, 0.02)
    both = initconf.compile(gpt(), load("gpt2", ["rules.embedding.gain=0.5", "rules.head.gain=0.1"]))
    assert (both["tok_emb.weight"].std, both["lm_head.weight"].std) == (0.01, 0.002)


# --- scale -----------------------------------------------------------------------------------------------------------


def test_an_own_scale_replaces_gain_and_nonlinearity_of_the_spec() -> None:
    own = {"name": "variance_scaling", "scale": 2.0}
    spec = {"gain": 3, "nonlinearity": "tanh", "mode": "fan_out", "rules": {"r": {**WEIGHTS, "initializer": own}}}
    assert chosen(spec) == ("variance_scaling", {"mode": "fan_out", "scale": 2.0})
    assert chosen({"initializer": own, "gain": 3, "rules": {"r": WEIGHTS}}) == ("variance_scaling", {"scale": 2.0})
    assert std(spec) == pytest.approx((2 / 3) ** 0.5)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (
            {"gain": 2, "initializer": {"name": "variance_scaling", "scale": 2}},
            "init.rules.r.gain = 2  (python): gain and scale (init.rules.r.initializer.scale) exclude each "
            "other: scale is the square of the whole gain\n  -> say one of them",
        ),
        (
            {"initializer": {"name": "variance_scaling", "scale": 2, "gain": 2}},
            "init.rules.r.initializer.gain = 2  (python): gain and scale (init.rules.r.initializer.scale) "
            "exclude each other: scale is the square of the whole gain\n  -> say one of them",
        ),
        (
            {"initializer": {"name": "variance_scaling", "scale": 2}, "nonlinearity": "relu"},
            "init.rules.r.nonlinearity = 'relu'  (python): nonlinearity and scale "
            "(init.rules.r.initializer.scale) exclude each other: scale is the square of the whole gain\n  -> say one of them",
        ),
    ],
)
def test_scale_beside_gain_or_nonlinearity(rule: dict, text: str) -> None:
    assert refused({"rules": {"r": {**WEIGHTS, **rule}}}) == text


# --- what an initializer does not take -------------------------------------------------------------------------------

OUT = "\n  -> take it out, or name an initializer that takes it"
VARIANCE = "it takes scale, gain, mode, distribution, nonlinearity, gain_method"


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            {"rules": {"r": {**WEIGHTS, "initializer": "zeros", "gain": 2}}},
            "init.rules.r.gain = 2  (python): zeros does not take 'gain'; it takes nothing" + OUT,
        ),
        (
            {"initializer": "orthogonal", "rules": {"r": {**WEIGHTS, "mode": "fan_in"}}},
            "init.rules.r.mode = 'fan_in'  (python): orthogonal does not take 'mode'; "
            "it takes gain, nonlinearity, gain_method" + OUT,
        ),
        (
            {"rules": {"r": {**WEIGHTS, "initializer": "he_normal", "nonlinearity": "tanh"}}},
            "init.rules.r.nonlinearity = 'tanh'  (python): he_normal does not take 'nonlinearity'; "
            "it takes gain, gain_method" + OUT,
        ),
        (
            {"rules": {"r": {**WEIGHTS, "initializer": {"name": "zeros", "std": 0.02}}}},
            "init.rules.r.initializer.std = 0.02  (python): zeros does not take 'std'; it takes nothing\n"
            "  -> if it is left over from a merged mapping, write initializer=zeros",
        ),
        (
            {"initializer": {"name": "normal", "stdd": 0.02}, "rules": {"r": WEIGHTS}},
            "init.initializer.stdd = 0.02  (python): normal does not take 'stdd'; it takes mean, std, gain\n"
            "  -> did you mean 'std'? if it is left over from a merged mapping, write initializer=normal",
        ),
        (
            {"rules": {"r": {**WEIGHTS, "initializer": "he_nromal"}}},
            "init.rules.r.initializer = 'he_nromal'  (python): no initializer is named 'he_nromal'; "
            "did you mean 'he_normal'?\n  -> `initconf list` shows them all",
        ),
        (
            {"initializer": {"name": "glorot"}, "rules": {"r": WEIGHTS}},
            "init.initializer = 'glorot'  (python): no initializer is named 'glorot'; did you mean "
            "'glorot_normal'?\n  -> `initconf list` shows them all",
        ),
        (
            {"rules": {"r": {**WEIGHTS, "initializer": "constant"}}},
            "init.rules.r.initializer  (python): constant needs value\n  -> write initializer: {name: constant, value: ...}",
        ),
        (
            {"rules": {"r": {**WEIGHTS, "initializer": {"name": "uniform"}}}},
            "init.rules.r.initializer  (python): uniform needs low and high\n  -> write initializer: {name: uniform, low: ...}",
        ),
    ],
)
def test_what_is_not_taken(spec: dict, text: str) -> None:
    assert refused(spec) == text


def test_a_null_takes_back_what_a_mapping_was_merged_over() -> None:
    rule = {**WEIGHTS, "initializer": {"name": "zeros", "std": None}}
    assert chosen({"rules": {"r": rule}}) == ("zeros", {})


def test_left_over_arguments_say_where_they_are_from() -> None:
    spec = load("gpt2", ["init.initializer.name=zeros"])
    with pytest.raises(CompileError) as caught:
        choose(spec, None)
    assert str(caught.value) == (
        "init.initializer.std = 0.02  (initconf/conf/init/gpt2.yaml:8): zeros does not take 'std'; it takes nothing\n"
        "  -> if it is left over from a merged mapping, write initializer=zeros"
    )
    assert choose(load("gpt2", ["initializer=zeros"]), None).initializer.name == "zeros"


# --- settings that nobody uses ---------------------------------------------------------------------------------------


def unused(**spec: Any) -> list[str]:
    with untouched(model := mlp()):
        plan = initconf.compile(model, {"unmatched": "keep", "seed": 0, **spec})
    return [warning for warning in plan.warnings if "no parameter uses" in warning]


def test_a_setting_of_the_spec_that_nobody_uses_is_a_warning() -> None:
    assert unused(gain=2, mode="fan_out", distribution="uniform", nonlinearity="relu", gain_method="torch") == []
    assert unused(initializer="orthogonal", gain=2, mode="fan_in") == ["init.mode: no parameter uses this setting"]
    everything = {"w": {"role": "weight", "initializer": "zeros"}}
    assert unused(initializer="orthogonal", gain=2, rules=everything) == [
        "init.initializer: no parameter uses this setting",
        "init.gain: no parameter uses this setting",
    ]
    explicit = {"w": {"role": "weight", "initializer": {"name": "normal", "std": 0.1}}}
    assert unused(gain=2, rules=explicit) == ["init.gain: no parameter uses this setting"]
    assert unused(gain=2, rules={"w": {"role": "weight", "gain": 3}}) == ["init.gain: no parameter uses this setting"]
    some = {"w": {"glob": "head.weight", "gain": 3}}
    assert unused(gain=2, rules=some) == []
    # A rule that wins nothing uses nothing.
    assert unused(initializer="zeros", gain=2, rules={"w": {"glob": "no", "initializer": "he_normal", "optional": True}}) == [
        "init.gain: no parameter uses this setting"
    ]

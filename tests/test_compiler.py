"""From spec and model to plan, where all goes well: who wins, with which settings, and what is warned of."""

from __future__ import annotations

import math
import warnings
from functools import cache

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import initconf
from initconf.laws import Constant, Keep, ModuleDefault, Normal, Orthogonal, TruncatedNormal, Uniform
from initconf.loading import schemes
from tests.small_models import ZOO, gpt, mlp, padded, tied_gpt, untouched

ROOT2 = math.sqrt(2)


def compile(model, *said, **spec):
    return initconf.compile(model, *said) if said else initconf.compile(model, {"unmatched": "keep", **spec})


def rule(plan, name):
    return (plan[name].rule, plan[name].initializer)


# --- every scheme, every model ---------------------------------------------------------------------------------------------


SCHEMES = ["he", "glorot", "lecun", "orthogonal", "gpt2", "torch"]
PAIRS = [(scheme, model) for scheme in SCHEMES for model in ZOO if (scheme, model) != ("gpt2", "attention")]  # no layers


@cache
def load(scheme):
    return initconf.load(scheme)


@pytest.mark.parametrize(("scheme", "model"), PAIRS)
def test_schemes_plan_models_and_touch_nothing(scheme, model):
    made = ZOO[model]()
    with untouched(made):
        plan = initconf.compile(made, load(scheme))
    assert [entry.name for entry in plan] == [name for name, _ in named(made)]
    for entry in plan.leaves():
        assert entry.initializer is not None
        assert (entry.mean is None) == isinstance(entry.law, (Keep, ModuleDefault))
    assert plan == initconf.compile(made, load(scheme))
    with torch.device("meta"):
        meta = ZOO[model]()
    assert initconf.compile(meta, load(scheme)) == plan
    assert initconf.compile(meta, load(scheme)).fingerprint() == plan.fingerprint()


def named(model):
    """Names as initconf has them: of a tied parameter the smallest."""
    ids = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        ids.setdefault(id(parameter), []).append(name)
    return [(min(names), names) for names in ids.values()]


def test_there_are_the_schemes_of_the_design():
    assert set(SCHEMES) <= set(schemes())


@pytest.mark.parametrize(
    "spec",
    [
        "he",
        {"defaults": ["he"]},
        initconf.load("he"),
        OmegaConf.create(
            {"initializer": "variance_scaling", **{k: v for k, v in initconf.load("he").model_dump(mode="json").items() if v}}
        ),
    ],
    ids=["a name", "a mapping", "a spec", "a node"],
)
def test_whatever_load_takes(spec):
    assert initconf.compile(mlp(), spec) == initconf.compile(mlp(), load("he"))


def test_numbers_of_he_on_an_mlp():
    plan = initconf.compile(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 4)), "he")
    assert plan["0.weight"].law == Normal(0.0, 0.5)
    assert plan["3.weight"].law == Normal(0.0, 0.25)
    assert plan["2.weight"].law == Constant(1.0)
    assert plan["2.bias"].law == plan["0.bias"].law == Constant(0.0)
    assert rule(plan, "0.weight") == (None, "variance_scaling")
    assert rule(plan, "2.weight") == ("norm_scale", "ones")
    assert rule(plan, "0.bias") == ("bias", "zeros")


def test_gpt2_scales_what_ends_a_residual_branch_and_its_head_by_a_rule():
    plan = initconf.compile(gpt(n_layer=3), "gpt2")
    residual = [entry.name for entry in plan if entry.rule == "residual"]
    assert len(residual) == 6
    assert [plan[name].std for name in residual] == pytest.approx([0.02 / math.sqrt(6)] * 6, rel=1e-14)
    bent = initconf.compile(gpt(n_layer=3), initconf.load("gpt2", ["rules.head.gain=0.1"]))
    assert {difference.name for difference in plan.diff(bent)} == {"lm_head.weight"}
    assert bent["lm_head.weight"].std == pytest.approx(0.002, rel=1e-14)


def test_a_tied_head_is_an_embedding():
    plan = initconf.compile(tied_gpt(), "he")
    entry = plan["lm_head.weight"]
    assert (entry.role, entry.rule, entry.law) == ("embedding", "embedding", Normal(0.0, 0.02))
    assert plan[entry.aliases[0]] is entry


# --- who wins --------------------------------------------------------------------------------------------------------------


def test_the_last_match_wins_and_priority_sorts():
    rules = {
        "a": {"glob": "*", "initializer": {"name": "constant", "value": 1}},
        "b": {"search": "weight", "initializer": {"name": "constant", "value": 2}},
        "c": {"match": r"head\.weight", "initializer": {"name": "constant", "value": 3}},
    }
    values = {entry.name: entry.law.value for entry in compile(mlp(), rules=rules)}
    assert values["body.0.bias"] == 1
    assert values["body.0.weight"] == 2
    assert values["head.weight"] == 3
    values = {entry.name: entry.law.value for entry in compile(mlp(), rules={**rules, "a": {**rules["a"], "priority": 5}})}
    assert set(values.values()) == {1}
    values = {entry.name: entry.law.value for entry in compile(mlp(), rules={**rules, "c": {**rules["c"], "priority": -1}})}
    assert values["head.weight"] == 2


def test_selectors_must_all_hold():
    rules = {
        "it": {
            "module": "Linear",
            "role": ["weight", "bias"],
            "ndim": 2,
            "inside": "MLP",
            "glob": "body.*",
            "initializer": "ones",
        }
    }
    assert [entry.name for entry in compile(mlp(), rules=rules) if entry.rule == "it"] == ["body.0.weight", "body.2.weight"]


def test_a_rule_without_an_initializer_bends_that_of_the_spec():
    plan = compile(mlp(), initializer={"name": "normal", "std": 0.5}, rules={"head": {"match": r"head\.weight", "gain": 0.1}})
    assert plan["head.weight"].law == Normal(0.0, 0.05)
    assert plan["body.0.weight"].law == Normal(0.0, 0.5)


def test_nothing_is_inherited_from_rules_that_lost():
    rules = {"a": {"glob": "*weight", "initializer": "he_normal", "gain": 5}, "b": {"glob": "head.weight", "mode": "fan_out"}}
    plan = compile(mlp(), rules=rules, initializer="variance_scaling")
    assert plan["head.weight"].initializer == "variance_scaling"
    assert plan["head.weight"].settings == {"mode": "fan_out"}


def test_a_switched_off_rule_is_not_there():
    plan = initconf.compile(mlp(), {"defaults": ["he"], "rules": {"bias": None}, "unmatched": "keep"})
    assert rule(plan, "head.bias") == (None, "keep")
    assert isinstance(plan["head.bias"].law, Keep)


def test_unclaimed_weights_get_the_spec_s_initializer_and_others_are_kept():
    plan = compile(nn.ModuleDict({"fc": nn.Linear(4, 2), "norm": nn.LayerNorm(4)}), initializer="lecun_normal")
    assert {entry.name: entry.initializer for entry in plan} == {
        "fc.weight": "lecun_normal",
        "fc.bias": "keep",
        "norm.weight": "keep",
        "norm.bias": "keep",
    }
    assert compile(nn.Linear(4, 2, bias=False))["weight"].law == TruncatedNormal(0.0, 0.5)


# --- blocks ----------------------------------------------------------------------------------------------------------------


def test_a_rule_claims_every_block_with_its_own_fans_or_one_by_name():
    model = nn.MultiheadAttention(8, 2)
    plan = compile(model, initializer="glorot_normal", rules={"v": {"block": "v", "role": "weight", "initializer": "zeros"}})
    entry = plan["in_proj_weight"]
    assert [(b.block, b.rule, b.initializer) for b in entry.blocks] == [
        ("q", None, "glorot_normal"),
        ("k", None, "glorot_normal"),
        ("v", "v", "zeros"),
    ]
    assert entry.blocks[0].law == Normal(0.0, pytest.approx(math.sqrt(2 / 16)))
    assert (entry.rule, entry.initializer, entry.shape) == (None, None, (24, 8))
    assert [(b.shape, b.axis, b.start) for b in entry.blocks] == [((8, 8), 0, 0), ((8, 8), 0, 8), ((8, 8), 0, 16)]
    assert entry.std == pytest.approx(math.sqrt(2 / 16 * 2 / 3))
    assert [b.label for b in entry.blocks] == ["in_proj_weight[q]", "in_proj_weight[k]", "in_proj_weight[v]"]


def test_blocks_by_glob_and_a_whole_rule():
    rules = {
        "all": {"search": "bias_ih", "initializer": "zeros"},
        "gates": {"search": "bias_ih", "block": "[if]", "initializer": "ones"},
    }
    entry = compile(nn.LSTM(2, 3), rules=rules)["bias_ih_l0"]
    assert [b.law.value for b in entry.blocks] == [1, 1, 0, 0]
    assert entry.rule is None
    entry = compile(nn.LSTM(2, 3), rules={"all": rules["all"]})["bias_ih_l0"]
    assert entry.rule == "all"


def test_orthogonal_gates_are_orthogonal_each():
    entry = initconf.compile(nn.LSTM(4, 4), "he")["weight_hh_l0"]
    assert [b.law for b in entry.blocks] == [Orthogonal(1.0, (4, 4))] * 4


def test_functions_of_torch_take_the_whole():
    entry = compile(nn.LSTM(4, 4), rules={"all": {"search": "weight_hh", "initializer": "orthogonal_"}})["weight_hh_l0"]
    assert (entry.blocks, entry.law) == ((), Orthogonal(1.0, (16, 4)))


# --- settings --------------------------------------------------------------------------------------------------------------


def std(plan, name="weight"):
    return plan[name].std


def test_who_says_a_setting_last():
    """The initializer's default < the spec < the mapping of the spec < the rule < the mapping of the rule."""
    model = nn.Linear(100, 25, bias=False)
    own = {"name": "variance_scaling", "distribution": "untruncated_normal"}
    it = {"glob": "*"}
    assert std(compile(model, initializer=own)) == 0.1  # fan_in, gain 1, linear
    assert std(compile(model, initializer=own, gain=2)) == 0.2
    assert std(compile(model, initializer={**own, "gain": 3}, gain=2)) == pytest.approx(0.3)
    assert std(compile(model, initializer={**own, "gain": 3}, rules={"it": {**it, "gain": 4}})) == 0.4
    assert std(compile(model, initializer=own, gain=2, rules={"it": {**it, "initializer": own}})) == 0.2
    assert std(compile(model, gain=2, rules={"it": {**it, "initializer": own, "gain": 5}})) == 0.5
    assert std(compile(model, gain=2, rules={"it": {**it, "initializer": {**own, "gain": 6}, "gain": 5}})) == pytest.approx(0.6)
    assert std(compile(model, mode="fan_out", nonlinearity="relu", initializer=own)) == pytest.approx(ROOT2 / 5)
    assert std(compile(model, mode="fan_out", initializer=own, rules={"it": {**it, "mode": "fan_in"}})) == 0.1


def test_named_forms_fix_mode_and_nonlinearity_and_take_gain():
    model = nn.Linear(100, 25, bias=False)
    assert std(compile(model, initializer="lecun_normal", gain=2)) == 0.2
    assert std(compile(model, initializer="he_normal", gain_method="torch")) == pytest.approx(ROOT2 / 10)
    plan = compile(model, initializer="he_normal", mode="fan_out", nonlinearity="tanh", distribution="uniform")
    assert plan["weight"].law == Normal(0.0, ROOT2 / 10)
    assert len(plan.warnings) == 3


def test_an_explicit_scale_is_out_of_the_spec_s_reach_where_a_rule_names_it():
    model = nn.Linear(10, 10)
    named = {"name": "normal", "std": 0.02}
    assert std(compile(model, initializer=named, gain=2)) == 0.04
    assert std(compile(model, gain=2, rules={"it": {"glob": "*", "initializer": named}})) == 0.02
    assert std(compile(model, gain=2, rules={"it": {"glob": "*", "initializer": named, "gain": 3}})) == pytest.approx(0.06)


def test_an_own_scale_replaces_the_spec_s_gain_and_nonlinearity():
    model = nn.Linear(100, 25, bias=False)
    scaled = {"name": "variance_scaling", "scale": 4, "distribution": "untruncated_normal"}
    plan = compile(model, initializer=scaled, gain=7, nonlinearity="relu")
    assert plan["weight"].law == Normal(0.0, 0.2)
    assert plan["weight"].settings == {"scale": 4.0, "distribution": "untruncated_normal"}
    assert compile(model, gain=7, rules={"it": {"glob": "*", "initializer": scaled}})["weight"].law == Normal(0.0, 0.2)


def test_functions_of_torch_take_nothing_from_the_spec():
    plan = compile(nn.Linear(100, 25), initializer="xavier_normal_", gain=9, nonlinearity="tanh")
    assert plan["weight"].law == Normal(0.0, math.sqrt(2 / 125))


def test_expressions_are_evaluated_for_every_site():
    model = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 9), nn.Linear(9, 2))
    rules = {
        "deep": {
            "glob": "*.weight",
            "initializer": {"name": "normal", "std": "1/sqrt(fan_in)", "mean": "layer"},
            "gain": "2/n_layers",
        }
    }
    plan = compile(model, rules=rules)
    assert [plan[f"{i}.weight"].law for i in range(3)] == [
        Normal(0.0, pytest.approx(2 / 3 / 2)),
        Normal(1.0, pytest.approx(2 / 3 / 4)),
        Normal(2.0, pytest.approx(2 / 3 / 3)),
    ]
    assert plan["1.weight"].settings == {"std": 0.25, "mean": 1.0, "gain": pytest.approx(2 / 3)}
    bound = compile(
        model, rules={"b": {"role": "bias", "initializer": {"name": "uniform", "low": "-1/sqrt(fan_in)", "high": 0}}}
    )
    assert bound["1.bias"].law == Uniform(-0.25, 0.0)


def test_an_expression_that_gives_a_whole_number_serves_as_one():
    plan = compile(nn.Conv1d(4, 8, 3, bias=False), initializer={"name": "dirac_", "groups": "fan_in/6"})
    assert plan["weight"].settings == {"groups": 2}


def test_nonlinearity_with_arguments():
    said = {"name": "leaky_relu", "negative_slope": 0.2}
    plan = compile(nn.Linear(100, 25, bias=False), nonlinearity=said, distribution="uniform")
    assert std(plan) == pytest.approx(math.sqrt(2 / 1.04) / 10)
    assert plan["weight"].settings == {"nonlinearity": said, "distribution": "uniform"}


# --- warnings --------------------------------------------------------------------------------------------------------------


def test_a_setting_that_nobody_uses_is_warned_of():
    plan = compile(nn.Linear(4, 2, bias=False), initializer="lecun_normal", mode="fan_out")
    assert plan.warnings == ("init.mode: no parameter uses this setting",)


def test_a_rule_in_whose_front_others_stand_is_warned_of():
    rules = {
        "a": {"glob": "*", "initializer": "ones"},
        "b": {"role": "weight", "initializer": "zeros"},
        "c": {"role": "bias", "initializer": "zeros"},
    }
    plan = compile(nn.Linear(4, 2), rules=rules)
    assert plan.warnings == ("init.rules.a: everything it matches is won by what stands after it: b, c",)


def test_torch_manual_seed_without_a_seed_is_warned_of(monkeypatch):
    monkeypatch.setattr(torch, "initial_seed", lambda: 1234)
    (warning,) = initconf.compile(mlp(), load("he")).warnings
    assert warning == (
        "init.seed was left out and is 0, while torch.manual_seed(1234) was called: "
        "initconf draws from its own streams, keyed by its own seed"
    )
    assert initconf.compile(mlp(), {"defaults": ["he"], "seed": 0}).warnings == ()
    monkeypatch.setattr(torch, "initial_seed", lambda: 1 << 45)
    assert initconf.compile(mlp(), load("he")).warnings == ()


def test_warnings_are_no_part_of_what_plans_are_compared_by():
    model = nn.Linear(4, 2, bias=False)
    assert compile(model, initializer="lecun_normal", mode="fan_out") == compile(model, initializer="lecun_normal")


# --- what a plan depends on ------------------------------------------------------------------------------------------------


def test_a_plan_has_the_seed_and_no_values():
    assert initconf.compile(mlp(), {"defaults": ["he"], "seed": 3}).seed == 3
    assert initconf.compile(mlp(), load("he")).seed == 0
    first, second = mlp(), mlp()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.fill_(math.nan)
    assert initconf.compile(first, load("he")) == initconf.compile(second, load("he"))


def test_padding_rows_are_in_the_plan():
    assert initconf.compile(padded(), "he")["0.weight"].zero_row == 2


def test_frozen_and_integer_parameters():
    model = mlp().requires_grad_(False)
    model.register_parameter("codes", nn.Parameter(torch.arange(4), requires_grad=False))
    plan = initconf.compile(model, {"defaults": ["he"], "rules": {"codes": {"glob": "codes", "initializer": "keep"}}})
    assert isinstance(plan["codes"].law, Keep)
    assert plan["codes"].dtype == "int64"


def test_parameters_of_no_elements():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.ModuleDict({"none": nn.Linear(0, 3), "some": nn.Linear(3, 0)})
    plan = initconf.compile(model, load("he"))
    assert plan["none.weight"].std == ROOT2  # fans below one count as one
    assert initconf.apply(model, plan).verify()

"""Rules: who wins a parameter, which rules are dead and why, and what is warned of."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import initconf
from initconf import CompileError, Rule
from initconf.rules import match
from initconf.sites import Layout, Place, Site
from initconf.survey import survey
from tests.small_models import gpt, lstm, mlp, tied_gpt, untouched

GAIN = {"initializer": "variance_scaling"}


def plan_of(model: nn.Module, rules: dict[str, Any], **spec: Any) -> initconf.Plan:
    return initconf.compile(model, {"unmatched": "keep", "rules": rules, **spec})


def won(model: nn.Module, **rule: Any) -> list[str]:
    """The parameters and blocks that a rule wins beside nothing else."""
    plan = plan_of(model, {"mine": {"initializer": "zeros", **rule}})
    return [entry.label for entry in plan.leaves() if entry.rule == "mine"]


def refused(model: nn.Module, rules: dict[str, Any], **spec: Any) -> str:
    with untouched(model), pytest.raises(CompileError) as caught:
        plan_of(model, rules, **spec)
    return str(caught.value)


# --- selectors -------------------------------------------------------------------------------------------------------

MLP_NAMES = [name for name, _ in mlp().named_parameters()]
BLOCK_1 = [name for name, _ in gpt().named_parameters() if name.startswith("blocks.1.")]


@pytest.mark.parametrize(
    ("make", "rule", "names"),
    [
        (mlp, {"match": r"head\..*"}, ["head.weight", "head.bias"]),
        (mlp, {"search": "ight$"}, ["body.0.weight", "body.2.weight", "head.weight"]),
        (mlp, {"glob": "body.?.b*"}, ["body.0.bias", "body.2.bias"]),
        (mlp, {"role": "bias"}, ["body.0.bias", "body.2.bias", "head.bias"]),
        (mlp, {"role": ["bias", "weight"]}, MLP_NAMES),
        (mlp, {"ndim": 1}, ["body.0.bias", "body.2.bias", "head.bias"]),
        (mlp, {"module": "Linear"}, MLP_NAMES),
        (mlp, {"module": "torch.nn.modules.linear.Linear"}, MLP_NAMES),
        (mlp, {"module": "Module"}, MLP_NAMES),
        (mlp, {"module": ["Conv2d", "Linear"]}, MLP_NAMES),
        (mlp, {"inside": "Sequential"}, [name for name in MLP_NAMES if name.startswith("body")]),
        (mlp, {"inside": "initconf.lab.models.MLP", "role": "bias", "glob": "h*"}, ["head.bias"]),
        (gpt, {"inside": ["Block"], "glob": "blocks.1.*"}, BLOCK_1),
        (gpt, {"inside": "Attention", "module": "Linear", "glob": "*.0.*", "ndim": 1, "search": "[qk]_"}, [
            "blocks.0.attn.q_proj.bias",
            "blocks.0.attn.k_proj.bias",
        ]),
        (gpt, {"inside": "FeedForward", "match": ".*", "search": "c_fc", "glob": "*0*weight"}, ["blocks.0.mlp.c_fc.weight"]),
        (lstm, {"block": "f", "glob": "*bias_hh_l0"}, ["rnn.bias_hh_l0[f]"]),
        (lstm, {"block": "[!f]", "glob": "*weight_hh_l0"}, [f"rnn.weight_hh_l0[{gate}]" for gate in "igo"]),
        (lstm, {"module": "RNNBase", "role": "recurrent", "search": "l1$"}, [f"rnn.weight_hh_l1[{gate}]" for gate in "ifgo"]),
        (tied_gpt, {"glob": "lm_head.*"}, ["lm_head.weight"]),
        (tied_gpt, {"glob": "tok_emb.*"}, ["lm_head.weight"]),
        (tied_gpt, {"module": "Linear", "role": "embedding"}, ["lm_head.weight"]),
        (tied_gpt, {"module": "Embedding", "glob": "tok*"}, ["lm_head.weight"]),
    ],
)  # fmt: skip
def test_selectors(make: Any, rule: dict, names: list[str]) -> None:
    assert won(make(), **rule) == names


@pytest.mark.parametrize(
    "rule",
    [
        {"module": "Embedding", "glob": "lm_head.weight"},
        {"module": "Linear", "glob": "tok_emb.weight"},
        {"glob": "tok_emb.weight", "match": r"lm_head\.weight"},
        {"inside": "Block", "module": "Embedding"},
    ],
)
def test_all_selectors_hold_on_one_and_the_same_name(rule: dict) -> None:
    """The tied tensor is an Embedding's under one name and a Linear's under the other."""
    assert won(tied_gpt(), **rule, optional=True) == []


def test_the_last_match_wins() -> None:
    rules = {
        "all": {"glob": "*", "initializer": "zeros"},
        "biases": {"role": "bias", "initializer": "ones"},
        "head": {"glob": "head.*", "initializer": {"name": "constant", "value": 2}},
    }
    assert {e.name: e.rule for e in plan_of(mlp(), rules)} == {
        "body.0.weight": "all",
        "body.0.bias": "biases",
        "body.2.weight": "all",
        "body.2.bias": "biases",
        "head.weight": "head",
        "head.bias": "head",
    }
    assert {e.rule for e in plan_of(mlp(), dict(reversed(rules.items())))} == {"all"}


def test_priority_sorts_later() -> None:
    rules: dict[str, Any] = {
        "last": {"glob": "*", "initializer": "zeros", "priority": 2},
        "biases": {"role": "bias", "initializer": "ones"},
        "early": {"glob": "head.*", "initializer": "ones", "priority": -1},
    }
    assert {e.rule for e in plan_of(mlp(), rules)} == {"last"}
    rules["last"]["priority"] = -1  # as early, which is said after it
    assert {e.name: e.rule for e in plan_of(mlp(), rules) if e.name.startswith("head")} == {
        "head.weight": "early",
        "head.bias": "biases",
    }


def test_nothing_is_inherited_from_a_rule_that_lost() -> None:
    rules = {"first": {"role": "weight", "gain": 5, "mode": "fan_out"}, "second": {"role": "weight", "distribution": "uniform"}}
    for entry in plan_of(mlp(), rules, gain=3):
        if entry.role == "weight":
            assert entry.settings == {"gain": 3, "distribution": "uniform"}


def test_null_switches_a_rule_off() -> None:
    rules = {"all": {"role": "bias", "initializer": "ones"}, "some": None}
    assert plan_of(mlp(), rules)["head.bias"].rule == "all"
    assert plan_of(mlp(), {"all": None})["head.bias"].initializer == "keep"


def test_optional_and_empty_rules_may_match_nothing() -> None:
    nothing = {"glob": "nothing.*"}
    assert plan_of(mlp(), {"a": {**nothing, "gain": 2, "optional": True}, "b": nothing}).warnings == ()
    # A rule for layers that the model does not have may name an initializer of a package that is not there.
    assert plan_of(mlp(), {"a": {**nothing, "initializer": "of_another_package", "optional": True}})


@pytest.mark.parametrize(
    ("expect", "text"),
    [
        (3, None),
        ([0, 3], None),
        ([3, 9], None),
        (2, "init.rules.b.expect = 2  (python): it wins 3 parameters\n  -> if that is right, write init.rules.b.expect=3"),
        (
            [4, 5],
            "init.rules.b.expect = [4, 5]  (python): it wins 3 parameters\n  -> if that is right, write init.rules.b.expect=3",
        ),
    ],
)
def test_expect(expect: Any, text: str | None) -> None:
    rules = {"b": {"role": "bias", "initializer": "zeros", "expect": expect}}
    if text is None:
        assert plan_of(mlp(), rules)
    else:
        assert refused(mlp(), rules) == text


def test_expect_counts_what_is_won() -> None:
    rules = {"b": {"role": "bias", "initializer": "zeros", "expect": 3}, "head": {"glob": "head.*", "initializer": "ones"}}
    assert refused(mlp(), rules) == (
        "init.rules.b.expect = 3  (python): it wins 2 parameters, and 1 that it matches goes to init.rules.head\n"
        "  -> if that is right, write init.rules.b.expect=2"
    )
    assert plan_of(mlp(), {**rules, "b": {"role": "bias", "initializer": "zeros", "expect": 2}})
    # Of a parameter that consists of blocks, one block is enough.
    assert plan_of(lstm(), {"f": {"block": "f", "role": "bias", "initializer": "ones", "expect": 8}})


# --- dead rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "rule", "text"),
    [
        (
            mlp,
            {"match": r"haed\.weight", "gain": 2},
            r"no parameter's name fits match 'haed\\.weight'" + "\n  -> near names: head.weight, body.0.weight",
        ),
        (
            mlp,
            {"glob": "zzz*", "gain": 2},
            "no parameter's name fits glob 'zzz*'\n  -> names are such as body.0.weight, body.0.bias",
        ),
        # A word that is almost one of a name's, where no whole name is near.
        (mlp, {"glob": "haed.*", "gain": 2}, "no parameter's name fits glob 'haed.*'\n  -> near names: head.weight, head.bias"),
        (
            gpt,
            {"search": r"(^|\.)c_porj\.", "gain": 2},
            r"no parameter's name fits search '(^|\\.)c_porj\\.'"
            "\n  -> near names: blocks.0.mlp.c_proj.weight, blocks.0.mlp.c_proj.bias",
        ),
        (
            mlp,
            {"search": "^decoder", "glob": "*", "gain": 2},
            "no parameter's name fits search '^decoder'\n  -> names are such as body.0.weight, body.0.bias",
        ),
        (mlp, {"role": "embedding", "gain": 2}, "no parameter has role embedding\n  -> there are: bias, weight"),
        (
            mlp,
            {"role": ["embedding", "position"], "gain": 2},
            "no parameter has role embedding or position\n  -> there are: bias, weight",
        ),
        (mlp, {"ndim": 4, "gain": 2}, "no parameter has ndim 4\n  -> there are: 1, 2"),
        (mlp, {"module": "Conv2d", "gain": 2}, "no parameter is owned by a Conv2d\n  -> there are: Linear"),
        (
            gpt,
            {"inside": "Encoder", "gain": 2},
            "no parameter lies inside Encoder\n  -> there are: Attention, Block, FeedForward, GPT, ModuleList",
        ),
        (lstm, {"block": "q", "gain": 2}, "no parameter has a block q\n  -> there are: f, g, i, o"),
        (mlp, {"block": "q", "gain": 2}, "no parameter has a block q"),
        (mlp, {"role": "bias", "ndim": 2, "gain": 2}, "each selector matches some parameters, but no name has them all"),
        (mlp, {"glob": "head.bias", "role": "weight", "gain": 2}, "head.bias has role bias"),
        (mlp, {"glob": "head.bias", "role": "weight", "ndim": 2, "gain": 2}, "head.bias has role bias, ndim 1"),
        (mlp, {"glob": "head.*", "module": "Conv2d", "gain": 2}, "head.weight has module Linear"),
        (gpt, {"glob": "lm_head.*", "inside": "Block", "gain": 2}, "lm_head.weight has the ancestors GPT"),
        (mlp, {"glob": "head.weight", "block": "q", "gain": 2}, "head.weight has no blocks"),
        (lstm, {"glob": "rnn.bias_hh_l0", "block": "q", "gain": 2}, "rnn.bias_hh_l0 has the blocks i, f, g, o"),
        (
            tied_gpt,
            {"glob": "lm_head.*", "role": "weight", "gain": 2},
            "lm_head.weight has role embedding, because it is tied to tok_emb.weight\n  -> add role: embedding",
        ),
    ],
)
def test_why_a_rule_is_dead(make: Any, rule: dict, text: str) -> None:
    assert refused(make(), {"mine": rule}) == f"init.rules.mine  (python): it matches nothing: {text}"


@pytest.mark.parametrize(
    ("setting", "typed"),
    [
        ({"gain": 0.1}, "gain=0.1"),
        ({"gain": "1/sqrt(2)"}, 'gain="1/sqrt(2)"'),
        ({"initializer": "zeros"}, "initializer=zeros"),
        ({"initializer": {"name": "normal", "std": "1/fan_in"}}, 'initializer={name: normal, std: "1/fan_in"}'),
    ],
)
def test_a_tied_head_is_bent_by_the_rule_of_its_embedding(setting: dict, typed: str) -> None:
    head = {"search": r"(^|\.)lm_head\.weight$", "role": "weight"}
    tables = {"role": "embedding", "initializer": {"name": "normal", "std": 0.02}}
    rules = {"tables": tables, "head": {**head, **setting}}
    assert refused(tied_gpt(), rules) == (
        "init.rules.head  (python): it matches nothing: lm_head.weight has role embedding, because it is tied to "
        f"tok_emb.weight\n  -> bend its rule instead: init.rules.tables.{typed}"
    )


def test_a_tied_head_whose_rule_takes_no_such_setting_is_just_named() -> None:
    rules = {
        "tables": {"role": "embedding", "initializer": "zeros"},
        "head": {"glob": "lm_head.*", "role": "weight", "gain": 2},
    }
    assert refused(tied_gpt(), rules).endswith("because it is tied to tok_emb.weight\n  -> its rule is init.rules.tables")


def test_an_optional_rule_that_somebody_bends_is_missed() -> None:
    """What a scheme leaves open may match nothing; what was typed on top of it may not."""
    spec = initconf.load("he", ["rules.embedding.gain=0.1"])
    with pytest.raises(CompileError) as caught:
        initconf.compile(mlp(), spec)
    assert str(caught.value) == (
        "init.rules.embedding  (override 'init.rules.embedding.gain=0.1'): it matches nothing: no parameter has role "
        "embedding\n  -> there are: bias, weight"
    )


def test_dead_rules_of_a_large_model_are_said_at_once() -> None:
    """Near names are looked for among twenty thousand."""
    rules = [(f"r{i}", Rule(match=rf"blocks\.\d+\.atn\.w{i}", gain=2)) for i in range(40)]
    sites = many_sites(20_000)
    matched = match(rules, sites)
    start = time.process_time()
    texts = [initconf.rules.why_dead(matched, r, sites) for r in range(len(rules))]
    assert time.process_time() - start < 60  # where names are compared one by one it is hours
    assert texts[0][:2] == (
        r"it matches nothing: no parameter's name fits match 'blocks\\.\\d+\\.atn\\.w0'",
        "near names: blocks.0.attn.p0.weight, blocks.0.attn.p1.bias",
    )


# --- warnings --------------------------------------------------------------------------------------------------------


def shadow_warnings(rules: dict[str, Any], **spec: Any) -> list[str]:
    return [warning for warning in plan_of(mlp(), rules, **spec).warnings if "everything it matches" in warning]


def test_a_rule_that_is_wholly_shadowed_is_warned_of() -> None:
    rules = {
        "biases": {"role": "bias", "initializer": "zeros"},
        "head": {"glob": "head.*", "initializer": "ones"},
        "body": {"glob": "body.*", "initializer": "ones"},
    }
    assert shadow_warnings(rules) == ["init.rules.biases: everything it matches is won by what stands after it: head, body"]
    assert shadow_warnings({name: rules[name] for name in ("biases", "head")}) == []  # only partly
    assert shadow_warnings({name: rules[name] for name in ("head", "body", "biases")}) == []
    assert shadow_warnings({**rules, "biases": {"role": "bias"}}) == []  # a rule that sets nothing bends nobody


# --- any rules, any names --------------------------------------------------------------------------------------------


def site(name: str, role: str = "weight", owner: str = "torch.nn.Linear", shape: tuple[int, ...] = (2, 2)) -> Site:
    place = Place(name, name.rpartition(".")[2], (owner, "torch.nn.Module"), (("app.Block", "torch.nn.Module"),))
    return Site(name, (place,), shape, "float32", Layout(role=role))  # type: ignore[arg-type]


def many_sites(n: int) -> list[Site]:
    kinds = [("weight", "weight"), ("bias", "bias")]
    return [
        site(f"blocks.{i // 40}.attn.p{i % 20}.{kinds[i % 2][0]}", kinds[i % 2][1], shape=(2,) * (2 - i % 2)) for i in range(n)
    ]


selectors = st.fixed_dictionaries(
    {},
    optional={
        "match": st.sampled_from(["a.*", r".*\.w", "(a|b)\\.(w|b)", "(?!a).*"]),
        "search": st.sampled_from(["a", "w$", "^b"]),
        "glob": st.sampled_from(["*", "a.*", "[ab].w", "?.b"]),
        "role": st.lists(st.sampled_from(["weight", "bias", "other"]), min_size=1, max_size=2),
        "module": st.sampled_from(["Linear", "torch.nn.Linear", "Conv", "Module"]),
        "ndim": st.integers(1, 2),
        "priority": st.integers(-1, 1),
    },
).filter(lambda rule: set(rule) - {"priority"})
SITES = [
    site(f"{where}.{kind}", role, owner, shape)
    for where, owner in (("a", "torch.nn.Linear"), ("b", "torch.nn.Conv"), ("ab", "app.Linear"))
    for kind, role, shape in (("w", "weight", (2, 2)), ("b", "bias", (2,)))
]


@given(st.lists(selectors, max_size=6))
def test_the_winner_is_the_last_of_the_strongest(said: list[dict]) -> None:
    rules = [(f"r{i}", Rule(**rule)) for i, rule in enumerate(said)]
    alone = [match([rule], SITES).verdicts[0].matched for rule in rules]
    ranked = sorted(range(len(rules)), key=lambda i: rules[i][1].priority)
    spec = initconf.InitSpec(rules=dict(rules))
    together = match(list(spec.live_rules()), SITES)
    for i, winners in enumerate(together.winners):
        expected = next((r for r in reversed(ranked) if i in alone[r]), None)
        found = None if winners[0] is None else together.verdicts[winners[0]].name
        assert found == (None if expected is None else rules[expected][0])
    assert [v.matched for v in together.verdicts] == [alone[r] for r in ranked]
    assert sum(len(v.won) for v in together.verdicts) == sum(w[0] is not None for w in together.winners)


@given(st.lists(selectors, max_size=6))
def test_who_wins_what_a_rule_loses(said: list[dict]) -> None:
    spec = initconf.InitSpec(rules={f"r{i}": Rule(**rule) for i, rule in enumerate(said)})
    together = match(list(spec.live_rules()), SITES)
    for r, verdict in enumerate(together.verdicts):
        lost = together.lost_to(r)
        assert list(lost) == sorted(lost)
        assert all(winner > r for winner in lost)
        # No site here has blocks: each that is lost has one winner.
        assert sum(lost.values()) == len(verdict.matched) - len(verdict.won)
        assert all(n == len(together.verdicts[winner].won & verdict.matched) for winner, n in lost.items())


def test_a_parameter_of_which_a_block_is_won_is_not_lost() -> None:
    rules = [("all", Rule(role="bias")), ("f", Rule(block="f", role="bias")), ("rest", Rule(block="[!f]", role="bias"))]
    sites = survey(lstm())
    together = match(rules, sites)
    assert (len(together.verdicts[0].matched), together.lost_to(0)) == (9, {1: 8, 2: 8})  # the head has no blocks
    assert match(rules[:2], sites).lost_to(0) == {}


def test_many_rules_and_many_names() -> None:
    sites = many_sites(20_000)
    rules: list[tuple[str, Rule]] = [("weights", Rule(role="weight")), ("biases", Rule(role="bias", module="Linear"))]
    rules += [(f"m{i}", Rule(match=rf"blocks\.{i}\.attn\.p\d+\.weight", role="weight")) for i in range(200)]
    rules += [(f"s{i}", Rule(search=rf"(^|\.)p{i % 20}\.bias$", inside="Block", ndim=1)) for i in range(200)]
    rules += [(f"g{i}", Rule(glob=f"blocks.{i}.*.p[0-4].*", module=["Linear", "Conv2d"])) for i in range(98)]
    start = time.process_time()
    matched = match(rules, sites)
    assert time.process_time() - start < 4
    assert len(rules) == 500
    assert [len(v.matched) for v in matched.verdicts[:3]] == [10_000, 10_000, 20]
    assert [len(v.matched) for v in matched.verdicts[-98:]] == [10] * 98
    assert all(winners[0] is not None for winners in matched.winners)


def test_blocks_of_many_parameters() -> None:
    whole = site("x.weight", shape=(9, 3))
    blocks = tuple(Site("x.weight", whole.places, (3, 3), "float32", Layout(), block=b) for b in "qkv")
    sites = [
        Site(f"{i}.weight", (Place(f"{i}.weight", "weight", ("a.B",), ()),), (9, 3), "float32", Layout(), blocks=blocks)
        for i in range(5000)
    ]
    start = time.process_time()
    matched = match([(f"r{i}", Rule(block="[qk]")) for i in range(20)], sites)
    assert time.process_time() - start < 60  # where names are compared one by one it is hours
    assert matched.winners[0] == [19, 19, None]

"""Layouts said in YAML: `layouts: {name: {module: ..., axes: ..., blocks: ...}}`."""

from __future__ import annotations

import pytest
import torch
import yaml
from torch import nn

import initconf
from initconf.spec import DeclaredLayout
from initconf.survey import survey


class Fused(nn.Module):
    """(in, q + k + v) with fewer keys than queries, stacked experts, and a table with a row that stays zero."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Parameter(torch.empty(4, 16))
        self.qkv_bias = nn.Parameter(torch.empty(16))
        self.experts = nn.Parameter(torch.empty(3, 6, 5))
        self.table = nn.Parameter(torch.empty(7, 4))


LAYOUTS = {
    "qkv": {"match": "qkv", "axes": {"out": 1, "in": 0}, "blocks": {"axis": 1, "names": ["q", "k", "v"], "sizes": [8, 4, 4]}},
    "qkv_bias": {
        "glob": "qkv_bias",
        "role": "bias",
        "fans_of": "qkv",
        "blocks": {"axis": 0, "names": ["q", "k", "v"], "sizes": [8, 4, 4]},
    },
    "experts": {"search": "expert", "axes": {"batch": 0, "in": 1, "out": 2}},
    "table": {"match": "table", "role": "embedding", "axes": {"batch": 0, "in": [], "out": 1}, "zero_row": 2},
}


def test_what_is_declared_is_what_is_planned():
    model = Fused()
    plan = initconf.compile(model, {"defaults": ["lecun"], "layouts": LAYOUTS})
    assert [(b.block, b.shape, b.fan_in, b.fan_out) for b in plan["qkv"].blocks] == [
        ("q", (4, 8), 4, 8),
        ("k", (4, 4), 4, 4),
        ("v", (4, 4), 4, 4),
    ]
    assert [(b.block, b.role, b.fan_out) for b in plan["qkv_bias"].blocks] == [
        ("q", "bias", 8),
        ("k", "bias", 4),
        ("v", "bias", 4),
    ]
    assert (plan["experts"].fan_in, plan["experts"].fan_out) == (6, 5)
    assert (plan["table"].role, plan["table"].zero_row) == ("embedding", 2)
    assert not any(entry.assumed for entry in plan)
    initconf.apply(model, plan).verify()
    assert not model.table[2].any()
    assert model.table[1].all()


def test_by_module_and_over_the_registered_ones():
    spec = {"defaults": ["lecun"], "layouts": {"swapped": {"module": "Linear", "axes": {"out": 1, "in": 0}}}}
    assert initconf.compile(nn.Linear(3, 5), spec)["weight"].fan_in == 5
    spec["layouts"]["swapped"] = None  # type: ignore[assignment]
    assert initconf.compile(nn.Linear(3, 5), spec)["weight"].fan_in == 3


FORMS = {
    # what is declared of a parameter of this shape -> role, out, in, batch, fans
    "nothing": ({}, (6, 4), ("weight", (0,), (1,), (), 4, 6)),
    "in first": ({"axes": {"in": 0}}, (6, 4), ("weight", (1,), (0,), (), 6, 4)),
    "out last": ({"axes": {"out": -1}}, (6, 4), ("weight", (1,), (0,), (), 6, 4)),
    "both, from the end": ({"axes": {"out": -1, "in": -2}}, (6, 4), ("weight", (1,), (0,), (), 6, 4)),
    "a kernel": ({}, (6, 4, 3), ("weight", (0,), (1,), (), 12, 18)),
    "a kernel, channels last": ({"axes": {"out": 0, "in": -1}}, (6, 3, 4), ("weight", (0,), (2,), (), 12, 18)),
    "stacked": ({"axes": {"batch": 0}}, (3, 6, 4), ("weight", (1,), (2,), (0,), 4, 6)),
    "stacked, in first": ({"axes": {"batch": 0, "out": 2}}, (3, 6, 4), ("weight", (2,), (1,), (0,), 6, 4)),
    "stacked twice": ({"axes": {"batch": [0, 1]}}, (2, 3, 6, 4), ("weight", (2,), (3,), (0, 1), 4, 6)),
    "heads": ({"axes": {"in": 0, "out": [1, 2]}}, (6, 4, 3), ("weight", (1, 2), (0,), (), 6, 12)),
    "in left out": ({"axes": {"out": [0, 1]}}, (6, 4, 3), ("weight", (0, 1), (2,), (), 3, 24)),
    "one factor for each": ({"axes": {"batch": 0, "out": 1, "in": []}}, (6, 4), ("weight", (1,), (), (0,), 1, 4)),
    "groups": ({"groups": 2}, (6, 4, 3), ("weight", (0,), (1,), (), 12, 9)),
    "a stride": ({"stride": 4}, (6, 4, 3), ("weight", (0,), (1,), (), 12, 4.5)),
    "transposed": ({"axes": {"in": 0}, "transposed": True, "stride": 2}, (6, 4, 3), ("weight", (1,), (0,), (), 9, 12)),
    "recurrent": ({"role": "recurrent"}, (6, 4), ("recurrent", (0,), (1,), (), 4, 6)),
    "embedding": ({"role": "embedding"}, (6, 4), ("embedding", (1,), (), (0,), 1, 4)),
    "embedding of three axes": ({"role": "embedding"}, (2, 6, 4), ("embedding", (2,), (), (0, 1), 1, 4)),
    "embedding, vectors first": (
        {"role": "embedding", "axes": {"out": 0, "in": [], "batch": 1}},
        (4, 6),
        ("embedding", (0,), (), (1,), 1, 4),
    ),
    "bias": ({"role": "bias"}, (6,), ("bias", (0,), (1,), (), None, None)),
    "stacked bias": ({"role": "bias"}, (3, 6), ("bias", (0,), (1,), (), None, None)),
    "a vector": ({}, (6,), ("weight", (0,), (), (), None, None)),
    "a scalar": ({"role": "gate_scale"}, (), ("gate_scale", (0,), (1,), (), None, None)),
}


class One(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.w = nn.Parameter(torch.empty(shape))


def site(layout, *shape):
    (found,) = survey(One(*shape), declared={"it": DeclaredLayout.model_validate({"match": "w", **layout})})
    return found


@pytest.mark.parametrize("row", FORMS)
def test_what_may_be_left_out(row):
    said, shape, expected = FORMS[row]
    found = site(said, *shape)
    lay = found.layout
    assert (found.role, lay.out_axes, lay.in_axes, lay.batch_axes, found.fan_in, found.fan_out) == expected
    assert lay.assumed == ()


def test_null_is_left_out():
    keys = ("role", "axes", "blocks", "groups", "stride", "transposed", "fans_of", "zero_row", "module", "search", "glob")
    assert site(dict.fromkeys(keys), 6, 4) == site({}, 6, 4)


def test_rows_and_blocks_counted_from_the_end():
    assert site({"role": "embedding", "zero_row": -1}, 7, 4).layout.zero_row == 6
    found = site({"axes": {"in": 0}, "blocks": {"axis": -1, "names": ["k", "v"]}}, 4, 6)
    assert [(b.block, b.start, b.shape) for b in found.blocks] == [("k", 0, (4, 3)), ("v", 3, (4, 3))]


# --- as a user writes them ---------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Queries of 64, keys and values of 16 each, in one Linear."""

    def __init__(self):
        super().__init__()
        self.Wqkv = nn.Linear(64, 96)
        self.out = nn.Linear(64, 64)


def attentions():
    return nn.Sequential(Attention(), Attention())


FILE = """
defaults: [lecun]
layouts:
  qkv:  {match: '.*[.]Wqkv[.]weight', blocks: {names: [q, k, v], sizes: [64, 16, 16]}}
  bias: {module: Linear, glob: '*Wqkv.bias', role: bias, fans_of: weight, blocks: {names: [q, k, v], sizes: [64, 16, 16]}}
rules:
  no_values: {block: v, initializer: zeros}
"""
LINE = [
    "layouts.qkv={match: '.*[.]Wqkv[.]weight', blocks: {names: [q, k, v], sizes: [64, 16, 16]}}",
    "layouts.bias={module: Linear, glob: '*Wqkv.bias', role: bias, fans_of: weight}",
    "layouts.bias.blocks={names: [q, k, v], sizes: [64, 16, 16]}",
    "init.rules.no_values={block: v, initializer: zeros}",
]


@pytest.mark.parametrize("form", ["file", "overrides", "mapping"])
def test_grouped_queries_in_a_file_and_on_a_command_line(form, tmp_path):
    if form == "overrides":
        spec = initconf.load("lecun", overrides=LINE)
    elif form == "mapping":
        spec = initconf.load(yaml.safe_load(FILE))
    else:
        (tmp_path / "mine.yaml").write_text(FILE)
        spec = initconf.load(tmp_path / "mine.yaml")
    model = attentions()
    plan = initconf.compile(model, spec)
    for name in ("0.Wqkv.weight", "0.Wqkv.bias", "1.Wqkv.weight", "1.Wqkv.bias"):
        assert [(b.block, b.shape[0], b.fan_in, b.fan_out) for b in plan[name].blocks] == [
            ("q", 64, 64, 64),
            ("k", 16, 64, 16),
            ("v", 16, 64, 16),
        ]
    assert [b.rule for b in plan["0.Wqkv.weight"].blocks] == [None, None, "no_values"]
    assert plan["0.out.weight"].blocks == ()
    initconf.apply(model, plan).verify()
    q, k, v = model[0].Wqkv.weight.detach().split([64, 16, 16])
    assert not v.any()
    assert float(q.std()) == pytest.approx(1 / 8, rel=0.1)
    assert float(k.std()) == pytest.approx(1 / 8, rel=0.1)


def test_one_value_is_overridden():
    spec = initconf.load("lecun", overrides=[*LINE, "layouts.qkv.blocks.sizes=[32,32,32]", "layouts.bias=null"])
    plan = initconf.compile(attentions(), spec)
    assert [b.shape for b in plan["1.Wqkv.weight"].blocks] == [(32, 64)] * 3
    assert plan["1.Wqkv.bias"].blocks == ()


def test_of_two_that_match_the_last_one_counts():
    first = {"match": "qkv", "axes": {"in": 0}, "blocks": {"axis": 1, "names": ["q", "k", "v", "g"]}}
    second = {"glob": "qkv", "role": "recurrent"}
    spec = {"defaults": ["lecun"], "layouts": {"a": first, "b": second}}
    plan = initconf.compile(Fused(), spec)
    # whole, as with rules: nothing is inherited from the one that lost
    assert (plan["qkv"].role, plan["qkv"].fan_in, plan["qkv"].blocks) == ("recurrent", 16, ())
    spec["layouts"] = {"b": second, "a": first}
    plan = initconf.compile(Fused(), spec)
    assert (plan["qkv"].role, plan["qkv"].fan_in) == ("weight", 4)
    assert "".join(b.block for b in plan["qkv"].blocks) == "qkvg"
    changed = initconf.load(spec, overrides=["layouts.b.axes={in: 1}"])  # a key keeps its place, whoever sets it
    assert initconf.compile(Fused(), changed) == plan


# --- what is wrong -----------------------------------------------------------------------------------------------------------

WRONG = [
    (
        {"a": {"axes": {"out": 0}}},
        "init.layouts.a: the layout selects nothing: it has no selector\n  -> give it one of match, search, glob, module",
    ),
    ({"a": {"match": "qkv", "axis": {}}}, "init.layouts.a.axis: 'axis' is not a key of a layout\n  -> did you mean 'axes'?"),
    (
        {"a": {"match": "qkv", "role": "wieght"}},
        "init.layouts.a.role = 'wieght': no role is named 'wieght'\n  -> did you mean 'weight'?",
    ),
    (
        {"a": {"match": "qkv", "axes": {"out": "x"}}},
        "init.layouts.a.axes: an axis is an integer, or a list of integers\n  -> write {out: 0, in: [1, 2]}",
    ),
    (
        {"a": {"match": "qkv", "groups": 0}},
        "init.layouts.a.groups = 0: not a positive integer\n  -> write an integer, such as 2",
    ),
    (
        {"a": {"match": "qkv", "blocks": {"names": ["q", "q"]}}},
        "init.layouts.a.blocks: two blocks have the same name\n  -> give each its own",
    ),
    ({"a": {"match": "nope", "role": "bias"}}, "init.layouts.a: it matches nothing\n  -> names are such as qkv, qkv_bias"),
    ({"a": {"match": "qkv_bais", "role": "bias"}}, "init.layouts.a: it matches nothing\n  -> near names: qkv_bias"),
    ({"a": {"module": "Fuse", "role": "bias"}}, "init.layouts.a: it matches nothing\n  -> did you mean 'Fused'?"),
    ({"a": {"match": "qkv", "axes": {"out": 2, "in": 0}}}, "init.layouts.a.axes: qkv: the shape (4, 16) has no axis 2"),
    ({"a": {"match": "qkv", "axes": {"out": -3, "in": 0}}}, "init.layouts.a.axes: qkv: the shape (4, 16) has no axis -3"),
    ({"a": {"match": "qkv", "axes": {"out": 0, "in": 0}}}, "init.layouts.a.axes: qkv: axis 0 is named twice"),
    ({"a": {"match": "qkv", "axes": {"out": 1, "in": -1}}}, "init.layouts.a.axes: qkv: axis 1 is named twice"),
    (
        {"a": {"match": "qkv", "axes": {"out": 0, "inn": 1}}},
        "init.layouts.a.axes: 'inn' is not a key of axes\n  -> did you mean 'in'?",
    ),
    (
        {"a": {"match": "qkv", "axes": {"out": True}}},
        "init.layouts.a.axes: an axis is an integer, or a list of integers\n  -> write {out: 0, in: [1, 2]}",
    ),
    (
        {"a": {"match": "qkv", "blocks": {"axis": 1, "names": ["q", "k"], "sizes": [8, 4]}}},
        "init.layouts.a.blocks: qkv: the blocks q, k of sizes [8, 4] do not add up to 16, the size of axis 1",
    ),
    (
        {"a": {"match": "qkv", "blocks": {"axis": 1, "names": ["q", "k", "v"], "sizes": [8, 8]}}},
        "init.layouts.a.blocks: qkv: the blocks q, k, v of sizes [8, 8] do not add up to 16, the size of axis 1",
    ),
    (
        {"a": {"match": "qkv", "blocks": {"axis": 1, "names": ["q", "k", "v"]}}},
        "init.layouts.a.blocks: qkv: 3 blocks of one size do not divide 16, the size of axis 1\n  -> give the sizes of q, k, v",
    ),
    (
        {"a": {"match": "qkv", "blocks": {"axis": 2, "names": ["q", "k"]}}},
        "init.layouts.a.blocks: qkv: the shape (4, 16) has no axis 2",
    ),
    (
        {"a": {"match": "qkv", "blocks": {"sizes": [2, 2]}}},
        "init.layouts.a.blocks: not a mapping of blocks\n"
        "  -> write {axis: 0, names: [q, k, v]}, and sizes where they are not equal",
    ),
    (
        {"a": {"match": "qkv", "blocks": {"names": "qkv"}}},
        "init.layouts.a.blocks: the names of the blocks are not a list of strings\n  -> write names: [q, k, v]",
    ),
    (
        {"a": {"match": "qkv", "blocks": {"names": ["q"], "sizes": [-4]}}},
        "init.layouts.a.blocks: the sizes of the blocks are not a list of integers\n  -> write sizes: [64, 32, 32]",
    ),
    ({"a": {"match": "qkv", "groups": 3}}, "init.layouts.a.groups: qkv: 3 groups do not divide 4, the size of the out axes"),
    (
        {"a": {"match": "qkv", "transposed": True, "groups": 5}},
        "init.layouts.a.groups: qkv: 5 groups do not divide 16, the size of the in axes",
    ),
    (
        {"a": {"match": "qkv", "stride": 0.5}},
        "init.layouts.a.stride = 0.5: not a positive integer\n  -> write an integer, such as 2",
    ),
    ({"a": {"match": "table", "zero_row": 9}}, "init.layouts.a.zero_row: table: the shape (7, 4) has no row 9"),
    ({"a": {"match": "table", "zero_row": -8}}, "init.layouts.a.zero_row: table: the shape (7, 4) has no row -8"),
    (
        {"a": {"match": "table", "zero_row": 0, "blocks": {"names": ["a", "b"], "sizes": [3, 4]}}},
        "init.layouts.a.zero_row: table: the rows are in blocks, and one of them is to stay zero\n"
        "  -> leave out the blocks, or zero_row",
    ),
    (
        {"a": {"match": "qkv", "axes": {"out": 7}, "groups": 3, "zero_row": 8}},
        "2 problems:\n- init.layouts.a.axes: qkv: the shape (4, 16) has no axis 7\n"
        "- init.layouts.a.zero_row: qkv: the shape (4, 16) has no row 8",
    ),
]


@pytest.mark.parametrize(("layouts", "text"), WRONG, ids=[f"{n} {text[:60]}" for n, (_, text) in enumerate(WRONG)])
def test_what_does_not_fit_is_said(layouts, text):
    with pytest.raises((initconf.SpecError, initconf.CompileError)) as caught:
        initconf.compile(Fused(), {"initializer": "lecun_normal", "layouts": layouts})
    said = str(caught.value).replace("  (python)", "")
    assert said == text


def test_where_it_was_said_is_named(tmp_path):
    (tmp_path / "mine.yaml").write_text(FILE)
    with pytest.raises(initconf.CompileError) as caught:
        initconf.compile(attentions(), initconf.load(tmp_path / "mine.yaml", overrides=["layouts.qkv.blocks.sizes=[64,16]"]))
    assert str(caught.value) == (
        "init.layouts.qkv.blocks  (override 'init.layouts.qkv.blocks.sizes=[64,16]'): "
        "0.Wqkv.weight, 1.Wqkv.weight: the blocks q, k, v of sizes [64, 16] do not add up to 96, the size of axis 0"
    )
    with pytest.raises(initconf.CompileError) as caught:
        initconf.compile(nn.Linear(64, 96), initconf.load(tmp_path / "mine.yaml"))
    (first, second) = caught.value.problems
    assert str(first) == (
        f"init.layouts.qkv  ({tmp_path / 'mine.yaml'}:4): it matches nothing\n  -> names are such as weight, bias"
    )
    assert second.path == "init.layouts.bias"


class Experts(nn.Module):
    """With a bias for each expert, and a router, which have two axes."""

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.empty(3, 6, 5))
        self.up_bias = nn.Parameter(torch.empty(3, 5))
        self.router = nn.Parameter(torch.empty(3, 6))


def test_a_module_s_layout_is_that_of_its_parameters_with_so_many_axes():
    declared = {"it": DeclaredLayout.model_validate({"module": "Experts", "axes": {"batch": 0, "in": 1, "out": 2}})}
    found = {site.name: site for site in survey(Experts(), declared=declared)}
    assert {name: site.layout.assumed for name, site in found.items()} == {
        "up": (),
        "up_bias": ("role", "layout"),
        "router": ("role", "layout"),
    }
    declared = {"it": DeclaredLayout.model_validate({"module": "Experts", "axes": {"batch": 0, "in": -2, "out": -1}})}
    assert [site.name for site in survey(Experts(), declared=declared) if not site.layout.assumed] == ["up"]
    declared = {"it": DeclaredLayout.model_validate({"module": "Experts", "axes": {"out": 0}})}
    assert not any(site.layout.assumed for site in survey(Experts(), declared=declared))


def test_the_weight_whose_fans_a_bias_carries_must_be_there():
    with pytest.raises(initconf.CompileError) as caught:
        initconf.compile(attentions(), initconf.load("lecun", overrides=[*LINE, "layouts.bias.fans_of=wieght"]))
    assert str(caught.value) == (
        "init.layouts.bias.fans_of  (override 'init.layouts.bias.fans_of=wieght'): 0.Wqkv.bias, 1.Wqkv.bias: "
        "its owner has no parameter 'wieght'\n  -> did you mean 'weight'?"
    )

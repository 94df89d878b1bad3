"""Layouts said in YAML: `layouts: {name: {module: ..., axes: ..., blocks: ...}}`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import initconf


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
    ({"a": {"match": "qkv", "groups": 0}}, "init.layouts.a.groups = 0: not a positive integer"),
    (
        {"a": {"match": "qkv", "blocks": {"names": ["q", "q"]}}},
        "init.layouts.a.blocks: two blocks have the same name",
    ),
    ({"a": {"match": "nope", "role": "bias"}}, "init.layouts.a: it matches nothing\n  -> names are such as qkv, qkv_bias"),
    ({"a": {"match": "qkv", "axes": {"out": 2, "in": 0}}}, "layouts.a names axis 2, and the shape is (4, 16)"),
    ({"a": {"match": "qkv", "axes": {"out": 0, "in": 0}}}, "layouts.a names an axis twice"),
    (
        {"a": {"match": "qkv", "blocks": {"axis": 1, "names": ["q", "k"], "sizes": [8, 4]}}},
        "the blocks q, k of sizes [8, 4] do not add up to 16, the size of axis 1",
    ),
    ({"a": {"match": "table", "zero_row": 9}}, "layouts.a names row 9, and the shape is (7, 4)"),
]


@pytest.mark.parametrize(("layouts", "text"), WRONG, ids=range(len(WRONG)))
def test_what_does_not_fit_is_said(layouts, text):
    with pytest.raises(initconf.InitConfError) as caught:
        initconf.compile(Fused(), {"defaults": ["lecun"], "layouts": layouts})
    said = str(caught.value).replace("  (a mapping in Python)", "")
    assert said == text

"""The plan as data: equal, printed, compared, saved and read back, the same in every process."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import initconf
from initconf.errors import InitConfError
from initconf.laws import Normal
from initconf.plan import COLUMNS, FORMAT, STREAM, Entry, Plan
from tests.small_models import ZOO, convnet, gpt, lstm, mlp, padded, tied_gpt

ROOT = Path(__file__).parent.parent
SPECS = {
    "he": "he",
    "gpt2": "gpt2",
    "torch": "torch",
    "an endless law": {
        "defaults": ["he"],
        "initializer": {"name": "truncated_normal", "low": -math.inf, "high": 3, "std": 0.1},
        "mode": None,
        "distribution": None,
        "nonlinearity": None,
    },
    "leaky": {"defaults": ["he"], "nonlinearity": {"name": "leaky_relu", "negative_slope": 0.2}},
    "constructions": {"defaults": ["he"], "rules": {"o": {"role": "weight", "initializer": "orthogonal"}}},
}


@cache
def load(text):
    return initconf.load(json.loads(text))


def plan(model=mlp, spec="he", **more):
    said = {"defaults": [spec]} if isinstance(spec, str) else spec
    return initconf.compile(model(), load(json.dumps({**said, **more})))


# --- there and back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [name for name in ZOO if name != "attention"])
@pytest.mark.parametrize("spec", SPECS)
def test_there_and_back(tmp_path, model, spec):
    made = plan(ZOO[model], SPECS[spec])
    text = json.dumps(made.to_dict(), allow_nan=False)  # JSON proper: no Infinity
    back = Plan.from_dict(json.loads(text))
    made.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    for other in (back, loaded):
        assert other == made
        assert hash(other) == hash(made)
        assert other.to_dict() == made.to_dict()
        assert other.fingerprint() == made.fingerprint()
        assert other.diff(made) == made.diff(other) == []
        assert str(other) == str(made)
        assert [entry.law for entry in other.leaves()] == [entry.law for entry in made.leaves()]
        assert [entry.settings for entry in other.leaves()] == [dict(entry.settings) for entry in made.leaves()]


@pytest.mark.parametrize("spec", SPECS)
def test_a_plan_that_was_read_back_writes_the_same_bits(spec):
    made = plan(lstm, SPECS[spec], seed=5)
    back = Plan.from_dict(json.loads(json.dumps(made.to_dict())))
    first, second = lstm(), lstm()
    initconf.apply(first, made).verify()
    initconf.apply(second, back).verify()
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_saved_plan_has_a_line_for_each_parameter(tmp_path):
    made = plan(gpt)
    made.save(str(tmp_path / "plan.json"))
    lines = (tmp_path / "plan.json").read_text().splitlines()
    assert len(lines) == len(made) + 2
    for line, entry in zip(lines[1:-1], made, strict=True):
        assert json.loads(line.rstrip(","))["name"] == entry.name
    head = json.loads(lines[0].rstrip("[ ").removesuffix('"parameters":').rstrip(", ") + "}")
    assert (head["format"], head["rng"], head["seed"]) == (FORMAT, STREAM, 0)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({}, "not a plan of initconf"),
        ({"format": "onnx"}, "not a plan of initconf"),
        ({"format": FORMAT, "rng": 7}, f"the plan was made for stream 7, and this version of initconf has stream {STREAM}"),
        ({"format": FORMAT, "rng": STREAM}, "not a whole plan: 'parameters'"),
        ({"format": FORMAT, "rng": STREAM, "seed": 0, "compat": None, "parameters": [{}]}, "not a whole plan: "),
        ({"format": FORMAT, "rng": STREAM, "seed": 0, "compat": None, "parameters": [3]}, "not a whole plan: "),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path, data, text):
    with pytest.raises(InitConfError) as caught:
        Plan.from_dict(data)
    assert str(caught.value).startswith(text)
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(InitConfError) as caught:
        Plan.load(tmp_path / "plan.json")
    assert str(caught.value).startswith(f"{tmp_path}/plan.json: {text}")


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"3", b"\xff\xfe", b'{"format": "initconf plan"', b"null"])
def test_files_that_hold_no_plan(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(InitConfError) as caught:
        Plan.load(tmp_path / "plan.json")
    assert str(caught.value).startswith(f"{tmp_path}/plan.json: ")
    with pytest.raises(InitConfError):
        Plan.load(tmp_path / "missing.json")


# --- equality --------------------------------------------------------------------------------------------------------------


CHANGES = {
    "name": "other",
    "aliases": ("b",),
    "block": "q",
    "role": "bias",
    "module": "a.B",
    "shape": (1, 2),
    "dtype": "float64",
    "fan_in": 7.5,
    "fan_out": None,
    "layer": 3,
    "rule": "r",
    "initializer": None,
    "settings": {"gain": 2.0},
    "law": Normal(0.0, 9.0),
    "axis": 1,
    "start": 2,
    "zero_row": 0,
    "assumed": ("role",),
    "effective": "exact",
    "fed_by": "body.1",
    "frozen": True,
}


def test_the_table_of_changes_is_whole():
    assert {field.name for field in dataclasses.fields(Entry)} == {*CHANGES, "blocks"}  # blocks are entries themselves


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_counts(field):
    made = plan()
    first = made.entries[0]
    assert getattr(first, field) != CHANGES[field]
    other = Plan((dataclasses.replace(first, **{field: CHANGES[field]}), *made.entries[1:]), made.seed)
    assert other != made
    assert other.fingerprint() != made.fingerprint()
    found = made.diff(other)
    assert found
    if field not in ("name", "block"):
        assert [(d.name, d.what, d.mine, d.other) for d in found] == [
            ("body.0.weight", field, getattr(first, field), CHANGES[field])
        ]
    assert Plan.from_dict(json.loads(json.dumps(other.to_dict()))) == other


def test_every_block_counts():
    made = plan(lstm)
    entry = made["rnn.weight_hh_l0"]
    blocks = (*entry.blocks[:3], dataclasses.replace(entry.blocks[3], law=Normal(0.0, 1.0)))
    other = Plan(tuple(dataclasses.replace(e, blocks=blocks) if e is entry else e for e in made), made.seed)
    assert other != made
    assert [str(d) for d in made.diff(other)] == [
        "rnn.weight_hh_l0[o]: law Orthogonal(gain=1, 7x7) -> Normal(mean=0, std=1)",
    ]


def test_seed_and_compat_and_order_count():
    made = plan()
    assert plan(seed=0) == made
    other = plan(seed=1)
    assert other != made
    assert other.fingerprint() != made.fingerprint()
    assert [str(d) for d in made.diff(other)] == ["seed: seed 0 -> 1"]
    compat = Plan(made.entries, 0, (), "torch")
    assert compat != made
    assert [(d.name, d.mine, d.other) for d in made.diff(compat)] == [("compat", None, "torch")]
    turned = Plan(made.entries[::-1], 0)
    assert turned != made
    (difference,) = made.diff(turned)
    assert (difference.name, difference.what) == ("parameters", "order")


def test_the_order_of_settings_does_not_count():
    made = plan()
    first = made.entries[0]
    assert len(first.settings) > 1
    turned = dataclasses.replace(first, settings=dict(reversed(first.settings.items())))
    other = Plan((turned, *made.entries[1:]), made.seed)
    assert other == made
    assert hash(other) == hash(made)
    assert other.fingerprint() == made.fingerprint()
    assert made.diff(other) == []


def test_a_plan_is_equal_to_no_other_thing():
    assert plan() != plan().to_dict()
    assert plan() != "he"
    assert len({plan(), plan(), plan(seed=1)}) == 2


def test_differences_are_told():
    he, orthogonal = plan(), plan(spec="orthogonal")
    assert str(he.diff(orthogonal)[0]) == "body.0.weight: initializer variance_scaling -> orthogonal"
    assert {d.name for d in he.diff(orthogonal)} == {"body.0.weight", "body.2.weight", "head.weight"}
    assert [str(d) for d in he.diff(plan(rules={"head": {"gain": 0.5}}))] == [
        "head.weight: settings "
        + f"{dict(he['head.weight'].settings)} -> {dict(plan(rules={'head': {'gain': 0.5}})['head.weight'].settings)}",
        "head.weight: law Normal(mean=0, std=0.5) -> Normal(mean=0, std=0.25)",
    ]
    other = plan(convnet)
    told = [str(d) for d in he.diff(other)]
    assert "head.weight: only in the first plan" in told
    assert "0.weight: only in the second plan" in told


def test_the_fingerprint_is_the_same_in_every_process():
    """Also under another hash seed, which reorders sets."""
    code = """
import initconf, torch
from tests.small_models import ZOO
specs = [initconf.load(name) for name in ("he", "gpt2", "torch")]
for name in ("gpt", "lstm", "padded"):
    for spec in specs:
        print(initconf.compile(ZOO[name](), spec).fingerprint())
"""
    mine = [plan(ZOO[n], s).fingerprint() for n in ("gpt", "lstm", "padded") for s in ("he", "gpt2", "torch")]
    environment = {"PYTHONHASHSEED": "1", "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert done.stdout.split() == mine
    assert len(set(mine)) == len(mine)
    assert all(len(f) == 16 and int(f, 16) >= 0 for f in mine)


# --- as a container --------------------------------------------------------------------------------------------------------


def test_entries_by_any_name():
    made = plan(tied_gpt)
    entry = next(e for e in made if e.aliases)
    for name in (entry.name, *entry.aliases):
        assert made[name] is entry
        assert name in made
    assert "nothing" not in made
    assert 3 not in made
    assert len(made) == len(list(made)) == len(made.entries)
    assert list(made) == list(made.entries)


def test_an_unknown_name_has_a_near_one():
    with pytest.raises(InitConfError) as caught:
        plan()["head.wieght"]
    assert str(caught.value) == "the plan has no parameter 'head.wieght'; did you mean 'head.weight'?"
    with pytest.raises(InitConfError) as caught:
        plan()["xyz"]
    assert str(caught.value).startswith("the plan has no parameter 'xyz'; known: body.0.bias, body.0.weight, ")


def test_leaves_are_blocks_in_place_of_what_consists_of_them():
    made = plan(lstm)
    labels = [entry.label for entry in made.leaves()]
    assert labels[:4] == [f"rnn.weight_ih_l0[{gate}]" for gate in "ifgo"]
    assert labels[-2:] == ["head.weight", "head.bias"]
    assert made["head.weight"].leaves() == (made["head.weight"],)


def test_plans_and_entries_do_not_change():
    made = plan()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.seed = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.entries[0].law = Normal(0.0, 1.0)


def test_entries_have_the_public_fields():
    entry = plan(padded)["0.weight"]
    for name in (
        "name aliases block blocks role module shape dtype fan_in fan_out layer rule initializer settings law mean std assumed"
    ).split():
        assert hasattr(entry, name)
    assert (entry.mean, entry.std, entry.shape, entry.dtype, entry.module) == (
        0.0,
        0.02,
        (9, 4),
        "float32",
        "torch.nn.modules.sparse.Embedding",
    )
    zeros = plan()["head.bias"]
    assert (zeros.mean, zeros.std) == (0.0, 0.0)
    kept = plan(unmatched="keep", rules={"bias": None})["head.bias"]
    assert (kept.mean, kept.std) == (None, None)


# --- printed ---------------------------------------------------------------------------------------------------------------


def test_printed():
    made = initconf.compile(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "he")
    lines = str(made).splitlines()
    assert lines[0].split() == list(COLUMNS)
    assert [line.split()[0] for line in lines[1:-1]] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert lines[1].split() == [
        "0.weight", "8x4", "weight", "-", "variance_scaling", "4", "8", "0.707107", "Normal(mean=0,", "std=0.707107)",
    ]  # fmt: skip
    assert lines[-1] == f"4 parameters, 58 values, seed 0, plan {made.fingerprint()}"
    assert lines[0].index("shape") == lines[1].index("8x4") == lines[2].index("8 ")
    assert lines[0].index("fan_in") + len("fan_in") == lines[1].index(" 4 ") + 2  # numbers stand to the right


def test_printed_ties_blocks_and_what_cannot_be_known():
    made = plan(tied_gpt)
    assert f"{next(e for e in made if e.aliases).name} (= tok_emb.weight)" in str(made) or "(= " in str(made)
    assert "rnn.weight_hh_l0[f]" in str(plan(lstm))
    kept = str(plan(unmatched="keep", rules={"bias": None})).splitlines()
    row = next(line for line in kept if line.startswith("head.bias"))
    assert row.split() == ["head.bias", "3", "bias", "-", "keep", "8", "3", "-", "Keep"]


def test_printed_by_rich():
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(plan(lstm).table())
    text = console.export_text()
    assert "rnn.weight_ih_l0[i]" in text  # brackets are no markup
    assert all(title in text for title in COLUMNS)


def test_a_scalar_is_printed():
    model = nn.Module()
    model.temperature = nn.Parameter(torch.ones(()))
    assert "()" in str(initconf.compile(model, "he"))

"""Stored values held against a plan: bits, rounding, and what differs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import initconf
from initconf.comparison import CLOSE, EQUAL, OTHER, UNKNOWN, compare, of_model
from initconf.errors import InitConfError
from initconf.files import contents
from tests.small_models import tied_gpt


def net(dtype=torch.float32) -> nn.Module:
    model = nn.ModuleDict(
        {
            "emb": nn.Embedding(9, 6, padding_idx=2),
            "attn": nn.MultiheadAttention(6, 2),
            "norm": nn.LayerNorm(6),
            "head": nn.Linear(6, 9),
            "square": nn.Linear(6, 6, bias=False),
        }
    )
    return model.to(dtype)


SPEC = {"defaults": ["he"], "rules": {"square": {"match": "square.weight", "initializer": "orthogonal"}}}


def written(dtype=torch.float32, **changes):
    model = net(dtype)
    report = initconf.initialize(model, SPEC | changes)
    return model, report.plan


def verdicts(plan, stored):
    rows, _ = compare(plan, stored)
    return {row.label: (row.verdict, row.note) for row in rows}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_what_was_just_written_is_equal_bit_for_bit(dtype):
    model, plan = written(dtype)
    assert {verdict for verdict, _ in verdicts(plan, of_model(dict(model.named_parameters()))).values()} == {EQUAL}


@pytest.mark.parametrize("kind", ["safetensors", "torch", "index of safetensors", "index of torch files", "wrapped"])
def test_checkpoints(tmp_path, kind):
    import json

    from safetensors.torch import save_file

    model, plan = written()
    state = {name: p.detach() for name, p in model.named_parameters()}
    if kind == "safetensors":
        save_file(state, path := tmp_path / "x.safetensors")
    elif kind == "torch":
        torch.save({"state_dict": state, "step": 3}, path := tmp_path / "x.pt")
    elif kind == "wrapped":
        torch.save({f"module.{name}": p for name, p in state.items()}, path := tmp_path / "x.pt")
    else:
        names, ending = list(state), ".safetensors" if "safe" in kind else ".bin"
        halves = {f"a{ending}": names[:4], f"b{ending}": names[4:]}
        for file, part in halves.items():
            (save_file if "safe" in kind else torch.save)({name: state[name] for name in part}, tmp_path / file)
        path = tmp_path / "x.index.json"
        path.write_text(json.dumps({"weight_map": {name: file for file, part in halves.items() for name in part}}))
    rows, notes = compare(plan, contents(str(path)))
    assert {row.verdict for row in rows} == {EQUAL}
    assert notes == (["the names there begin with 'module.'"] if kind == "wrapped" else [])


def nudged(tensor, ulps):
    """A value of a tensor moved by some units in the last place."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    tensor.view(kind).view(-1)[7] += ulps


@pytest.mark.parametrize(
    ("dtype", "ulps", "verdict"),
    [
        (torch.float32, 2, CLOSE),
        (torch.float32, 40, OTHER),
        (torch.float64, 2, CLOSE),
        (torch.float64, 3, OTHER),
        (torch.bfloat16, 1, CLOSE),
        (torch.bfloat16, 2, OTHER),
        (torch.float16, 1, CLOSE),
        (torch.float16, 2, OTHER),
    ],
    ids=str,
)
def test_rounding_is_told_from_difference(dtype, ulps, verdict):
    """float32 is held to 1e-6 of the std, as a GPU computes it, unless the plan says that the CPU made it."""
    model, plan = written(dtype, rng_device="cpu")
    nudged(model.head.weight.data, ulps)
    found = verdicts(plan, of_model(dict(model.named_parameters())))
    assert found.pop("head.weight")[0] == verdict
    assert {verdict for verdict, _ in found.values()} == {EQUAL}


def test_what_a_gpu_computes_is_close():
    model, plan = written()
    model.head.weight.data[0, 0] += 5e-7 * plan["head.weight"].std
    model.head.weight.data[0, 1] = math.nextafter(model.head.weight.data[0, 1].item(), 1)
    verdict, note = verdicts(plan, of_model(dict(model.named_parameters())))["head.weight"]
    assert verdict == CLOSE, note
    model.head.weight.data[0, 0] += 1e-5 * plan["head.weight"].std
    assert verdicts(plan, of_model(dict(model.named_parameters())))["head.weight"][0] == OTHER


@pytest.mark.parametrize(
    ("change", "label", "verdict", "note"),
    [
        (lambda m: m.norm.weight.data.mul_(2), "norm.weight", OTHER, "element 0 is 2, and the plan's is 1"),
        (lambda m: m.emb.weight.data[2].fill_(1), "emb.weight", OTHER, "element 12 is 1, and the plan's is 0"),
        (lambda m: m.norm.bias.data[3:4].fill_(math.nan), "norm.bias", OTHER, "element 3 is nan, and the plan's is 0"),
        (lambda m: m.square.weight.data.add_(1e-7), "square.weight", CLOSE, None),
        (lambda m: m.square.weight.data.add_(1e-3), "square.weight", OTHER, None),
        (lambda m: m.attn.in_proj_weight.data[7, 0].neg_(), "attn.in_proj_weight[k]", OTHER, None),
    ],
    ids=["scale", "padding", "nan", "rounded matrix", "another matrix", "block"],
)
def test_what_differs_is_named(change, label, verdict, note):
    model, plan = written()
    change(model)
    found = verdicts(plan, of_model(dict(model.named_parameters())))
    assert found[label][0] == verdict
    assert note is None or found[label][1] == note
    assert {verdict for name, (verdict, _) in found.items() if name != label} == {EQUAL}


def test_names_shapes_and_what_only_the_model_knows():
    model, plan = written(unmatched="keep", rules={"n": {"match": "norm.*", "initializer": "module_default"}, "bias": None})
    stored = of_model(dict(model.named_parameters()))
    stored["other"] = stored.pop("square.weight")
    stored["head.weight"] = of_model({"x": torch.zeros(2, 2)})["x"]
    found = verdicts(plan, stored)
    assert found["norm.weight"] == (UNKNOWN, "module_default depends on more than the plan")
    assert found["head.bias"] == (UNKNOWN, "keep depends on more than the plan")
    assert found["square.weight"] == (OTHER, "it is not there")
    assert found["head.weight"] == (OTHER, "its shape is (2, 2), and the plan's (9, 6)")
    assert compare(plan, stored)[1] == ["the plan does not know other"]
    with pytest.raises(InitConfError, match="none of the plan's parameters is there: it has emb"):
        compare(plan, {"x": stored["other"]})


def test_another_seed_differs_everywhere():
    model, plan = written()
    other = initconf.compile(net(), SPEC | {"seed": 1})
    found = verdicts(other, of_model(dict(model.named_parameters())))
    same = {label for label, (verdict, _) in found.items() if verdict == EQUAL}
    assert all(plan[label.partition("[")[0]].std == 0 for label in same)


# --- names that are not the plan's -----------------------------------------------------------------------------------------


def renamed(change):
    """A small model's plan and its state under other names."""
    model = nn.ModuleDict({"stem": nn.Linear(3, 4), "body": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
    plan = initconf.initialize(model, "he").plan
    return plan, of_model(change(dict(model.named_parameters())))


def less(state, *names):
    return {name: p for name, p in state.items() if name not in names}


NAMES = {
    "DataParallel": (lambda s: {f"module.{n}": p for n, p in s.items()}, {}, ["the names there begin with 'module.'"]),
    "torch.compile": (lambda s: {f"_orig_mod.{n}": p for n, p in s.items()}, {}, ["the names there begin with '_orig_mod.'"]),
    "a key less, behind a prefix": (
        lambda s: {f"module.{n}": p for n, p in less(s, "stem.weight").items()},
        {"stem.weight": (OTHER, "it is not there")},
        ["the names there begin with 'module.'"],
    ),
    "a part that is compiled": (lambda s: {n.replace("body.", "body._orig_mod."): p for n, p in s.items()}, {}, []),
    "two kinds": (
        lambda s: {f"net.{n.replace('body.', 'body._checkpoint_wrapped_module.')}": p for n, p in s.items()},
        {},
        ["the names there begin with 'net.'"],
    ),
    "one name for two": (
        lambda s: {
            **less(s, "body.bias"),
            "body.module.bias": s["body.bias"],
            "body._orig_mod.bias": s["body.bias"],
        },
        {"body.bias": (OTHER, "it is not there")},
        ["the plan does not know body.module.bias, body._orig_mod.bias"],
    ),
    "a name that is another's as well": (
        lambda s: {**less(s, "body.bias"), "module.stem.bias": s["body.bias"]},
        {"body.bias": (OTHER, "it is not there")},
        ["the plan does not know module.stem.bias"],
    ),
    "a parametrisation that the plan has not": (
        lambda s: {
            **less(s, "body.weight"),
            "body.parametrizations.weight.original0": s["body.bias"],
            "body.parametrizations.weight.original1": s["body.weight"],
        },
        {"body.weight": (UNKNOWN, "what a parametrisation stores is not what was drawn")},
        [],
    ),
}


@pytest.mark.parametrize("row", NAMES)
def test_names_that_wrappers_gave(row):
    change, others, notes = NAMES[row]
    plan, stored = renamed(change)
    rows, said = compare(plan, stored)
    assert {r.label: (r.verdict, r.note) for r in rows if r.verdict != EQUAL} == others
    assert (len(rows), said) == (6, notes)


def test_a_prefix_is_that_of_most_of_the_plan():
    half = ("body.bias", "head.weight", "head.bias")
    plan, stored = renamed(lambda s: {f"net.{n}": p for n, p in less(s, *half).items()})
    with pytest.raises(InitConfError) as caught:
        compare(plan, stored)
    assert str(caught.value) == (
        "none of the plan's parameters is there: it has stem.weight, stem.bias, body.weight and 3 more, "
        "and there are net.stem.weight, net.stem.bias, net.body.weight"
    )


def test_an_attribute_that_is_called_module_is_no_wrapper():
    model = nn.ModuleDict({"module": nn.Linear(3, 3)})
    model.weight = nn.Parameter(torch.ones(3, 3))
    plan = initconf.compile(model, {"rules": {"all": {"glob": "**", "initializer": "zeros"}}})
    initconf.apply(model, plan)
    stored = of_model(dict(model.named_parameters()))
    assert {verdict for verdict, _ in verdicts(plan, stored).values()} == {EQUAL}
    del stored["weight"]
    assert verdicts(plan, stored)["weight"] == (OTHER, "it is not there")
    stored["_orig_mod.weight"] = stored.pop("module.weight")  # which of the two it is cannot be known
    found = verdicts(plan, stored)
    assert found.pop("module.bias")[0] == EQUAL
    assert set(found.values()) == {(OTHER, "it is not there")}


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_what_a_parametrisation_stores_is_not_known(kind):
    model = nn.ModuleDict({"body": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
    getattr(nn.utils.parametrizations, kind)(model["body"])
    plan = initconf.initialize(model, "he").plan
    rows, notes = compare(plan, of_model(model.state_dict()))
    said = {row.label: (row.verdict, row.note) for row in rows if row.verdict != EQUAL}
    assert said == {"body.weight": (UNKNOWN, "what a parametrisation stores is not what was drawn")}
    assert (len(rows), notes) == (4, [])


# --- dtypes that are not the plan's ----------------------------------------------------------------------------------------

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16


@pytest.mark.parametrize(
    ("planned", "drawn", "there", "note"),
    [
        (F32, F32, BF16, "stored in bfloat16, planned in float32: the plan's values rounded to it"),
        (F32, F32, torch.float16, "stored in float16, planned in float32: the plan's values rounded to it"),
        (F32, F32, torch.float8_e4m3fn, "stored in float8_e4m3fn, planned in float32: the plan's values rounded to it"),
        (F32, F32, F64, "stored in float64, planned in float32: the plan's values as they are"),
        (F32, F32, torch.complex64, "stored in complex64, planned in float32: the plan's values as they are"),
        (F32, F64, F64, "stored in float64, planned in float32: the plan's values as made in float64, whose stream is another"),
        (F64, F64, F32, "stored in float32, planned in float64: the plan's values rounded to it"),
        (F64, F32, F32, "stored in float32, planned in float64: the plan's values as made in float32, whose stream is another"),
        (BF16, BF16, F32, "stored in float32, planned in bfloat16: the plan's values as they are"),
        (BF16, F32, F32, "stored in float32, planned in bfloat16: the plan's values before they are rounded"),
    ],
    ids=str,
)
def test_another_dtype_is_said(planned, drawn, there, note):
    plan = initconf.compile(net(planned), SPEC)
    constant = {leaf.label for entry in plan.entries for leaf in entry.leaves() if leaf.std == 0}
    ones = note.partition(":")[0] + f": the plan's values {'rounded to it' if 'rounded to it' in note else 'as they are'}"
    if (planned, there) == (F64, F32):
        ones = "stored in float32, planned in float64: the plan's values rounded to it"
    model, _ = written(drawn)
    for label, found in verdicts(plan, of_model({n: p.detach().to(there) for n, p in model.named_parameters()})).items():
        assert found == (CLOSE, ones if label in constant else note), label


def test_values_that_became_integers():
    """Cast to integers the weights of the plan would be zeros too."""
    model, plan = written()
    found = verdicts(plan, of_model({n: p.detach().long() for n, p in model.named_parameters()}))
    assert found["norm.weight"] == (CLOSE, "stored in int64, planned in float32: the plan's values as they are")
    verdict, note = found["head.weight"]
    assert verdict == OTHER
    assert note.startswith("element ")
    assert " is 0, and the plan's is " in note
    assert note.endswith("; stored in int64, planned in float32")


def test_what_differs_in_another_dtype():
    model, plan = written()
    state = {n: p.detach().to(BF16) for n, p in model.named_parameters()}
    state["norm.bias"][3] = 1
    nudged(state["head.weight"], 1)
    found = verdicts(plan, of_model(state))
    assert found["norm.bias"] == (OTHER, "element 3 is 1, and the plan's is 0; stored in bfloat16, planned in float32")
    verdict, note = found["head.weight"]
    assert verdict == CLOSE
    assert note.startswith("stored in bfloat16, planned in float32: the plan's values rounded to it, to ")
    assert note.endswith(" units in the last place")


def test_rounding_is_that_of_the_coarser_dtype():
    model, plan = written(BF16, rng_device="cpu")
    nudged(model.head.weight.data, 1)
    found = verdicts(plan, of_model({n: p.detach().float() for n, p in model.named_parameters()}))["head.weight"]
    assert found[0] == CLOSE
    assert found[1].startswith("stored in float32, planned in bfloat16: the plan's values as they are, to ")
    nudged(model.head.weight.data, 3)
    found = verdicts(plan, of_model({n: p.detach().float() for n, p in model.named_parameters()}))["head.weight"]
    assert found[0] == OTHER


def test_what_differs_in_float8():
    model, plan = written()
    state = {n: p.detach().to(torch.float8_e4m3fn) for n, p in model.named_parameters()}
    state["norm.bias"] = torch.ones(6).to(torch.float8_e4m3fn)
    note = "element 0 is 1, and the plan's is 0; stored in float8_e4m3fn, planned in float32"
    assert verdicts(plan, of_model(state))["norm.bias"] == (OTHER, note)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_tie_that_a_checkpoint_has_broken_is_told(dtype):
    """All the names that a tied parameter is stored under are compared."""
    plan = initconf.compile(tied_gpt(), "gpt2")
    entry = next(entry for entry in plan.entries if entry.aliases)
    (alias,) = entry.aliases
    model = tied_gpt()
    initconf.apply(model, plan)
    state = {name: value.detach().clone() for name, value in model.named_parameters(remove_duplicate=False)}
    assert {row.verdict for row in compare(plan, of_model(state))[0]} == {EQUAL}
    state[alias] = state[alias].to(dtype)
    state[alias][3] += 1
    (row,) = [row for row in compare(plan, of_model(state))[0] if row.verdict == OTHER]
    assert row.label == alias
    assert row.note.endswith(f"; it is tied to {entry.name}")
    state[alias] = state[alias][:3]
    (row,) = [row for row in compare(plan, of_model(state))[0] if row.verdict == OTHER]
    assert (row.label, row.note) == (alias, f"its shape is {tuple(state[alias].shape)}")

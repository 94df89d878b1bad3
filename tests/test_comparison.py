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

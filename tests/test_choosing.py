"""Writing some parameters and leaving the others: resets during training, new layers beside a checkpoint."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

import initconf
from initconf.errors import ApplyError
from initconf.laws import Constant
from initconf.report import Report
from tests.small_models import convnet, mlp, padded, tied_gpt

NAMES = "\n  -> give names, such as named_parameters() has"


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    now = dict(model.named_parameters(remove_duplicate=False))
    return {name for name, old in before.items() if not torch.equal(old, now[name].detach())}


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)}


WEIGHTS = {"body.0.weight", "body.2.weight", "head.weight"}
ROWS = {
    "a regex for whole names": ({"only": r"head\..*"}, {"head.weight", "head.bias"}),
    "names": ({"only": ["head.weight", "body.0.bias"]}, {"head.weight", "body.0.bias"}),
    "a set": ({"only": {"head.weight"}}, {"head.weight"}),
    "none but": ({"skip": r".*\.bias"}, WEIGHTS),
    "what was loaded": ({"skip": {"body.0.weight": 0, "body.0.bias": 0}.keys()}, None),
    "both": ({"only": r".*weight", "skip": ["head.weight"]}, {"body.0.weight", "body.2.weight"}),
    "nothing is skipped": ({"skip": []}, None),
    "nothing is meant": ({"only": []}, set()),
}


@pytest.mark.parametrize("row", ROWS)
def test_only_what_is_chosen_is_written(row):
    choice, expected = ROWS[row]
    model = mlp()
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(7.0)
    before = snapshot(model)
    report = initconf.initialize(model, "he", **choice)
    if expected is None:
        expected = set(before) - set(choice["skip"])
    assert changed(model, before) == expected
    assert {entry.name for entry in report.plan} == expected
    whole = initconf.initialize(mlp(), "he").model
    for name in expected:  # what it would get if all were written
        assert torch.equal(model.get_parameter(name), whole.get_parameter(name))
    again = snapshot(model)
    initconf.initialize(model, "he", **choice).verify()
    assert not changed(model, again)  # on resume the same values


def test_a_tensor_under_several_names_is_meant_by_any_of_them():
    model = tied_gpt()
    names = {name for name, p in model.named_parameters(remove_duplicate=False) if p is model.get_parameter("lm_head.weight")}
    assert len(names) == 2
    for seed, name in enumerate(sorted(names), start=1):
        before = snapshot(model)
        initconf.initialize(model, "gpt2", only=[name], seed=seed)
        assert changed(model, before) == names
        before = snapshot(model)
        initconf.initialize(model, "gpt2", skip=[name], seed=50 + seed)
        assert changed(model, before)
        assert not changed(model, before) & names


def test_what_is_not_chosen_needs_no_rule():
    spec = {"initializer": "zeros", "rules": {}}
    with pytest.raises(initconf.CompileError):
        initconf.initialize(convnet(), spec)  # nothing claims the norm's scale
    model = convnet()
    initconf.initialize(model, spec, only="4.weight")
    assert not model[4].weight.any()
    assert model[0].weight.any()


def test_a_padding_row_of_what_is_left_alone_stays():
    model = padded()
    with torch.no_grad():
        model[0].weight.fill_(3.0)
    initconf.initialize(model, "he", skip="0.weight")
    assert (model[0].weight == 3).all()


def test_names_that_the_model_has_not(caplog):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    loaded = {"0.weight": 0, "1.running_mean": 0, "old.weight": 0}
    with caplog.at_level(logging.WARNING, logger="initconf"):
        report = initconf.initialize(model, "he", skip=loaded)
    assert report.notes == ("skip names what the model has not: old.weight",)
    assert "skip names what the model has not: old.weight" in caplog.text


def pair() -> nn.Module:
    model = nn.Sequential()
    model.a, model.b = nn.Linear(4, 4), nn.Linear(4, 4)
    return model


def compiled_part() -> nn.Module:
    model = pair()
    model.a = torch.compile(model.a, backend="eager")
    return model


def weight_normed() -> nn.Module:
    model = pair()
    nn.utils.parametrizations.weight_norm(model.a)
    return model


def spectral_normed() -> nn.Module:
    model = pair()
    nn.utils.parametrizations.spectral_norm(model.a)
    return model


def checkpointed() -> nn.Module:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = pair()
    model.a = checkpoint_wrapper(model.a)
    return model


def compiled_and_checkpointed() -> nn.Module:
    model = checkpointed()
    model.a = torch.compile(model.a, backend="eager")
    return torch.compile(model, backend="eager")


class Stateful(nn.Module):
    """Its state_dict has a key that is no tensor's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def get_extra_state(self) -> int:
        return 3


WRAPPED = {
    "torch.compile": lambda: torch.compile(pair(), backend="eager"),
    "torch.compile of a part": compiled_part,
    "DataParallel": lambda: nn.DataParallel(pair()),
    "AveragedModel": lambda: torch.optim.swa_utils.AveragedModel(pair()),
    "weight_norm": weight_normed,
    "spectral_norm": spectral_normed,
    "checkpoint_wrapper": checkpointed,
    "all of them": lambda: nn.DataParallel(compiled_and_checkpointed()),
    "extra state": Stateful,
}


@pytest.mark.parametrize("row", WRAPPED)
def test_a_wrapped_model_is_chosen_from_by_its_own_names(row):
    """Those of state_dict() and of named_parameters(), which wrappers and parametrisations change, each in its own way."""
    model = WRAPPED[row]()
    for names in (model.state_dict().keys(), [name for name, _ in model.named_parameters()]):
        before = snapshot(model)
        report = initconf.initialize(model, "he", skip=names)
        assert (changed(model, before), list(report.plan), report.notes) == (set(), [], ())
    whole = [entry.name for entry in initconf.compile(model, "he")]
    raw = [name for name, _ in model.named_parameters()]
    assert [entry.name for entry in initconf.initialize(model, "he", only=raw).plan] == whole
    for canonical in whole:  # and by those of the plan
        assert [entry.name for entry in initconf.initialize(model, "he", only=[canonical]).plan] == [canonical]
        rest = initconf.initialize(model, "he", skip=[canonical]).plan
        assert [entry.name for entry in rest] == [name for name in whole if name != canonical]


def test_the_checkpoint_of_the_bare_model_is_one_of_the_wrapped():
    bare = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model = nn.DataParallel(bare)
    assert initconf.initialize(model, "he", skip=bare.state_dict().keys()).notes == ()


def test_a_buffer_of_a_parametrisation_is_not_its_weight():
    model = spectral_normed()
    report = initconf.initialize(model, "he", skip=["b.weight", "a.parametrizations.weight.0._u"])
    assert ([entry.name for entry in report.plan], report.notes) == (["a.weight", "a.bias", "b.bias"], ())
    with pytest.raises(ApplyError) as caught:
        initconf.initialize(model, "he", skip=["b.weight", "a._orig_mod.weight"])
    assert str(caught.value).startswith("skip = 'a._orig_mod.weight': the model has no such parameter, and a.weight would be")


class Module(nn.Module):
    """With an attribute that is called as wrappers call theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(3, 3, bias=False)
        self.weight = nn.Parameter(torch.ones(3, 3))


def test_a_name_that_may_mean_two_is_both_to_skip_and_none_to_write():
    model = nn.DataParallel(Module())
    assert list(initconf.initialize(model, "he", skip=model.state_dict().keys()).plan) == []
    with pytest.raises(ApplyError) as caught:
        initconf.initialize(model, "he", only=["module.weight"])
    assert str(caught.value) == "only = 'module.weight': it may mean module.weight or weight"
    plan = initconf.initialize(
        Module(), {"rules": {"all": {"glob": "**", "initializer": "zeros"}}}, only=["module.weight"]
    ).plan
    assert [entry.name for entry in plan] == ["module.weight"]


def test_what_is_near_a_name_to_be_skipped_and_is_written_is_told():
    report = initconf.initialize(mlp(), "he", skip=["body.0.weight", "head.weigth", "aux.scale"])
    assert report.notes == (
        "skip names what the model has not: head.weigth, aux.scale; head.weigth is near head.weight, which is written",
    )
    report = initconf.initialize(mlp(), "he", skip=["head.weight", "head.weigth"])
    assert report.notes == ("skip names what the model has not: head.weigth",)


WRONG = {
    "a misspelled name": (
        {"only": ["head.weigth"]},
        "only = 'head.weigth': it matches no parameter\n  -> near names: head.weight, head.bias",
    ),
    "one of two": (
        {"only": ["head.weight", "heda.bias"]},
        "only = 'heda.bias': the model has no such parameter\n  -> near names: head.bias, body.2.bias, body.0.bias",
    ),
    "a regex": ({"only": "head"}, "only = 'head': it matches no parameter\n  -> near names: head.bias"),
    "no regex": (
        {"only": "(head"},
        "only = '(head': the pattern does not compile: missing ), unterminated subpattern at position 0",
    ),
    "another model's checkpoint": (
        {"skip": ["model.encoder.layer.0"]},
        "skip = 'model.encoder.layer.0': it matches no parameter\n"
        "  -> names are such as body.0.weight, body.0.bias, body.2.weight and 3 more",
    ),
    "no names": ({"only": [3]}, "only = 3: not a regex or names" + NAMES),
    "no name": (
        {"skip": ["head.weight", None]},
        "skip = None: not a regex or names" + NAMES,
    ),
    "a number": ({"skip": 3}, "skip = 3: not a regex or names" + NAMES),
    "a parameter": (
        {"only": [torch.nn.Parameter(torch.zeros(9))]},
        "only = a Parameter: not a regex or names" + NAMES,
    ),
    "bytes": ({"only": b"head"}, "only = b'head': not a regex or names" + NAMES),
    "a checkpoint of a wrapped part": (
        {"skip": ["body.0.weight", "body._orig_mod.2.weight"]},
        "skip = 'body._orig_mod.2.weight': the model has no such parameter, and body.2.weight would be written\n"
        "  -> name what stays as it is: body.2.weight",
    ),
    "a checkpoint from before a parametrisation was removed": (
        {"skip": ["body.0.weight", "head.parametrizations.weight.original0"]},
        "skip = 'head.parametrizations.weight.original0': the model has no such parameter, and head.weight would be written\n"
        "  -> name what stays as it is: head.weight",
    ),
}


@pytest.mark.parametrize("row", WRONG)
def test_a_choice_that_means_nothing_is_an_error(row):
    choice, text = WRONG[row]
    model = mlp()
    before = snapshot(model)
    with pytest.raises(ApplyError) as caught:
        initconf.initialize(model, "he", **choice)
    assert str(caught.value) == text
    assert not changed(model, before)


def test_new_layers_on_meta_beside_what_is_there():
    model = nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 2, device="meta")})
    before = model["body"].weight.detach().clone()
    initconf.initialize(model, "he", only=r"head\..*", device="cpu")
    assert torch.equal(model["body"].weight, before)
    assert model["head"].weight.std() > 0


# --- verified while it is written ------------------------------------------------------------------------------------------


def test_stats_are_gathered_while_values_are_written(monkeypatch):
    """All values of every law that is drawn value by value; and right models pass."""

    def gathered(model, spec, **more):
        report = initconf.initialize(model, spec, verify="stats", **more)
        drawn = [leaf for leaf in report.plan.leaves() if leaf.law.elementwise and not isinstance(leaf.law, Constant)]
        counts = {label: moments.count for label, moments in held[-1].items()}
        assert {leaf.label: counts.get(leaf.label) for leaf in drawn} == {leaf.label: leaf.numel for leaf in drawn}
        return drawn

    held, hold = [], Report.hold
    monkeypatch.setattr(Report, "hold", lambda report, moments: held.append(moments) or hold(report, moments))
    for make in (mlp, convnet, padded, tied_gpt):
        assert gathered(make(), "he")
        gathered(make(), "orthogonal")
    assert gathered(nn.Linear(600, 700, dtype=torch.bfloat16), "lecun", threads=2)
    assert gathered(nn.Linear(30, 20, dtype=torch.complex64), {"initializer": "he_normal", "unmatched": "keep"})


def test_stats_find_a_law_that_is_not_what_it_says(monkeypatch):
    """As a wrong kernel would give it: values with a tenth more spread than the plan's."""
    real = initconf.laws.Normal.quantile
    monkeypatch.setattr(initconf.laws.Normal, "quantile", lambda self, v: real(self, v).mul_(1.1))
    with pytest.raises(ApplyError) as caught:
        initconf.initialize(nn.Linear(300, 200), "he", verify="stats")
    assert "weight: standard deviation 0.0" in str(caught.value)
    assert "of 60000 values, and the law's is 0.0816497" in str(caught.value)


def test_stats_find_what_is_not_finite(monkeypatch):
    real = initconf.laws.Normal.quantile

    def broken(self, v):
        made = real(self, v)
        made[5] = torch.nan
        return made

    monkeypatch.setattr(initconf.laws.Normal, "quantile", broken)
    with pytest.raises(ApplyError, match="weight: not all values are finite"):
        initconf.initialize(nn.Linear(300, 200), "he", verify="stats")


def test_verify_takes_three_words():
    with pytest.raises(ApplyError) as caught:
        initconf.initialize(mlp(), "he", verify="yes")
    assert str(caught.value) == "verify = 'yes': not True, False or \"stats\""


def test_only_what_a_checkpoint_has_not_may_name_buffers():
    """The natural line on resume: the missing keys of `load_state_dict(strict=False)`."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    missing = model.load_state_dict({"0.weight": before["0.weight"]}, strict=False).missing_keys
    report = initconf.initialize(model, "he", only=missing)
    assert report.notes == ("only names buffers, which stay as they are: 1.running_mean, 1.running_var",)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert {entry.name for entry in report.plan.entries} == {"0.bias", "1.weight", "1.bias"}


@pytest.mark.parametrize("verify", [1, 1.0, np.True_, "yes", [], None], ids=str)
def test_verify_is_true_false_or_stats(verify):
    with pytest.raises(ApplyError, match='not True, False or "stats"'):
        initconf.initialize(mlp(), "he", verify=verify)


def test_progress_is_a_bool_or_none():
    with pytest.raises(ApplyError, match="progress = 'no': not True, False or None"):
        initconf.initialize(mlp(), "he", progress="no")


def test_apply_takes_a_plan():
    for plan, said in (("he", "'he'"), ({"a": 1}, "a dict"), (None, "None")):
        with pytest.raises(ApplyError) as caught:
            initconf.apply(mlp(), plan)
        assert str(caught.value) == (
            f"plan = {said}: not a plan\n"
            "  -> initconf.compile(model, spec) makes one; initconf.initialize(model, spec) takes a spec"
        )

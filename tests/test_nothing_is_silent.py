"""What would pass without a word elsewhere: settings that come to nothing, shared memory, stray random numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import initconf
from initconf import registry
from tests.ranks import pretended
from tests.small_models import gpt, mlp, tied_gpt, untouched


@pytest.mark.parametrize("scheme", ["he", "gpt2", "megatron", "tfixup", "deepnorm", "tensor2tensor"])
def test_an_override_of_a_rule_that_matches_nothing_is_an_error_under_every_scheme(scheme):
    initconf.compile(nn.Sequential(nn.Linear(4, 4)), scheme)
    with pytest.raises(
        initconf.CompileError, match=r"^init.rules.head  \(override 'init.rules.head.gain=0.1'\): it matches nothing"
    ):
        initconf.compile(nn.Sequential(nn.Linear(4, 4)), initconf.load(scheme, overrides=["rules.head.gain=0.1"]))


def test_so_is_one_of_an_optional_rule():
    spec = initconf.load("gpt2", overrides=["rules.residual.gain=7"])
    assert initconf.compile(gpt(), spec)["blocks.0.mlp.c_proj.weight"].settings["gain"] == 7
    with pytest.raises(initconf.CompileError) as caught:
        initconf.compile(nn.Linear(4, 4), spec)
    assert "init.rules.residual  (override 'init.rules.residual.gain=7'): it matches nothing" in str(caught.value)


def test_a_setting_that_the_initializers_own_mapping_overrules_is_warned_of():
    plan = initconf.compile(nn.LSTM(4, 4), initconf.load("he", overrides=["rules.recurrent.gain=0.5"]))
    strong = "init.rules.recurrent.initializer.gain"
    said = f"init.rules.recurrent.gain: {strong} is stronger; write {strong}=..."
    assert said in plan.warnings
    bent = initconf.load("he", overrides=["rules.recurrent.initializer.gain=0.5"])
    assert initconf.compile(nn.LSTM(4, 4), bent)["weight_hh_l0"].blocks[0].std == pytest.approx(0.25)


def test_a_shipped_scheme_does_not_warn_of_its_own_exceptions():
    warned = initconf.compile(nn.LSTM(4, 4), "torch").warnings
    assert not any("is won by" in warning for warning in warned)


def test_what_was_assumed_is_warned_of():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.cls_token, self.kernel = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(8, 4))

    plan = initconf.compile(Odd(), "he")
    assert plan["cls_token"].std == 0.02
    assert plan.warnings[-1] == (
        "what cls_token, kernel are was assumed from names and shapes; declare them in `layouts`, "
        "with the lines that initconf plan --strict prints"
    )


def test_a_tied_head_is_sent_to_its_rule():
    with pytest.raises(initconf.CompileError, match=r"-> its rule is init.rules.own"):
        initconf.compile(tied_gpt(), initconf.load("torch", overrides=["rules.head.gain=0.1"]))


def overlapping():
    one, two = nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False)
    two.weight = nn.Parameter(one.weight.data.t())
    return nn.Sequential(one, two)


def test_memory_that_two_tensors_share_is_refused():
    model = overlapping()
    with untouched(model), pytest.raises(initconf.ApplyError) as caught:
        initconf.initialize(model, "he")
    assert str(caught.value) == (
        "1.weight: it shares memory with 0.weight, and is another tensor\n"
        "  -> make it one tensor under two names, or give it memory of its own"
    )
    flat = torch.empty(48)  # side by side in one storage is no overlap
    model[0].weight = nn.Parameter(flat[:24].view(6, 4))
    model[1].weight = nn.Parameter(flat[24:].view(4, 6))
    initconf.initialize(model, "he").verify()


def windows(*views):
    """Parameters in one memory, of which each sees a part."""
    model, memory = nn.Module(), torch.zeros(60)
    for name, (shape, stride, first) in zip("abcdef", views, strict=False):
        model.register_parameter(name, nn.Parameter(memory.as_strided(shape, stride, first)))
    return model


@pytest.mark.parametrize(
    ("model", "shared"),
    [
        (windows(((6, 4), (10, 1), 0), ((6, 6), (10, 1), 4)), {}),  # columns of one matrix
        (windows(((30,), (2,), 0), ((30,), (2,), 1)), {}),  # every other element
        (windows(((6, 5), (10, 1), 0), ((6, 6), (10, 1), 4)), {"b": "a"}),  # one column in both
        (windows(((60,), (1,), 0), ((5,), (1,), 5), ((5,), (1,), 30)), {"b": "a", "c": "a"}),
        (windows(((10,), (1,), 0), ((10,), (1,), 5), ((10,), (1,), 20), ((10,), (1,), 30)), {"b": "a"}),
        (windows(((10,), (1,), 0), ((3, 4), (0, 1), 5)), {"b": "a"}),  # an expanded one: what it covers is taken for its own
    ],
    ids=["columns", "alternating", "one column", "within", "chained", "expanded"],
)
def test_only_elements_that_two_tensors_have_in_common_are_refused(model, shared):
    spec = {"rules": {"all": {"glob": "*", "initializer": {"name": "normal", "std": 1.0}}}}
    if not shared:
        initconf.initialize(model, spec).verify()
        return
    with pytest.raises(initconf.ApplyError) as caught:
        initconf.initialize(model, spec)
    found = {p.path: p.text for p in caught.value.problems if "shares memory with" in p.text}
    assert found == {name: f"it shares memory with {other}, and is another tensor" for name, other in shared.items()}


@pytest.mark.parametrize(
    ("planned", "dtype", "std", "text"),
    [
        ("float32", "int8", 1.0, "it is int8, and the plan is for float32"),
        ("float32", "complex64", 1.0, "it is complex64, and the plan is for float32"),
        ("complex64", "float32", 1.0, "it is float32, and the plan is for complex64"),
        ("float32", "float16", 1e5, "values of up to 600000 do not fit float16, which ends at 65504"),
        ("float32", "float16", 1.0, None),
        ("bfloat16", "float64", 1.0, None),
    ],
)
def test_a_plan_serves_dtypes_of_its_kind_that_can_hold_its_values(planned, dtype, std, text):
    def make(dtype):
        model = nn.Module()
        model.weight = nn.Parameter(torch.zeros(8, 8, dtype=getattr(torch, dtype)), requires_grad=False)
        return model

    law = "he_normal" if planned == "complex64" else {"name": "normal", "std": std}
    plan, model = initconf.compile(make(planned), {"initializer": law}), make(dtype)
    if text is None:
        initconf.apply(model, plan)
        return
    with untouched(model), pytest.raises(initconf.ApplyError) as caught:
        initconf.apply(model, plan)
    assert str(caught.value) == f"weight: {text}\n  -> compile the plan for this model"


def test_what_a_plan_needs_beside_itself_is_looked_for_before_the_first_write(tmp_path):
    @initconf.register("mine_alone")
    def mine_alone(tensor, generator=None):
        tensor.normal_(generator=generator)

    file = tmp_path / "w.npy"
    np.save(file, np.ones((4, 4), np.float32))
    spec = {
        "initializer": "he_normal",
        "rules": {
            "file": {"glob": "1.weight", "initializer": {"name": "values", "path": str(file)}},
            "own": {"glob": "2.weight", "initializer": "mine_alone"},
        },
    }

    def make():
        return nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))

    plan = initconf.compile(make(), spec)
    initconf.apply(make(), plan)
    del registry._registered["mine_alone"]
    own = "2.weight: no initializer is named 'mine_alone'\n  -> import the module that registers it"
    np.save(file, np.ones((1, 4), np.float32))  # which would be broadcast
    for text in (
        f"- 1.weight: {file} has (1, 4) for it now, and the plan is for (4, 4)\n    -> compile the plan for this model",
        f"- 1.weight: there is no file {file}",
    ):
        model = make()
        with untouched(model), pytest.raises(initconf.ApplyError) as caught:
            initconf.apply(model, plan)
        assert str(caught.value) == f"2 problems:\n{text}\n- {own}".replace("\n  ->", "\n    ->")
        file.unlink(missing_ok=True)


def test_what_skip_init_left_out_is_not_kept_when_it_was_sharded_since():
    from torch.distributed.fsdp import fully_shard

    for mesh in pretended((2,)):
        with initconf.skip_init():
            model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
        fully_shard(model, mesh=mesh)
        with pytest.raises(initconf.CompileError, match=r"1\.weight: keep cannot serve it: its values were"):
            initconf.initialize(model, {"defaults": ["he"], "rules": {"kept": {"glob": "1.weight", "initializer": "keep"}}})
        notes = initconf.initialize(model, "he", only="0\\..*").notes
        assert notes == ("1.weight, 1.bias: no values yet, skip_init left them out",)
        initconf.initialize(model, "he")
        assert initconf.initialize(model, "he", only="0\\..*").notes == ()


@pytest.mark.parametrize("seed", [3.0, "3", True, None])
def test_seeds(seed):
    model = mlp()
    expected = initconf.initialize(mlp(), "he", seed=3).model.head.weight
    for good in (3, np.int64(3), torch.tensor(3)):
        plan = initconf.initialize(model, "he", seed=good).plan
        assert plan.fingerprint()
        assert torch.equal(model.head.weight, expected)
    if seed is not None:
        with pytest.raises(initconf.SpecError, match="not an integer"):
            initconf.initialize(model, "he", seed=seed)


def test_a_function_that_draws_from_elsewhere_is_caught():
    @initconf.register
    def stray(tensor, generator=None):
        tensor.normal_()

    model = mlp()
    state = torch.get_rng_state()
    with pytest.raises(initconf.ApplyError, match="it draws from torch's global random state"):
        initconf.initialize(model, {"defaults": ["he"], "initializer": "stray"})
    assert torch.equal(state, torch.get_rng_state())


def test_a_module_resets_once_for_all_blocks(monkeypatch):
    calls = []
    reset = nn.LSTM.reset_parameters
    model = nn.LSTM(3, 4, 2)
    monkeypatch.setattr(nn.LSTM, "reset_parameters", lambda self: calls.append(1) or reset(self))
    initconf.initialize(model, "torch").verify()
    assert len(calls) == 8  # parameters, not their 32 gates


def test_the_public_path_of_torchs_classes():
    plan = initconf.compile(mlp(), {"defaults": ["he"], "rules": {"all": {"module": "torch.nn.Linear", "initializer": "ones"}}})
    assert {entry.rule for entry in plan} == {"all"}

"""Writing a plan: the same bits whatever stands around a parameter, and nothing written where anything is wrong."""

from __future__ import annotations

import logging
import math
import random
import threading
import warnings
from functools import cache
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import initconf
from initconf import registry, sampling
from initconf.errors import ApplyError, CompileError
from initconf.laws import Custom, Normal
from initconf.survey import survey
from tests.small_models import ZOO, gpt, lstm, mlp, padded, tied_gpt, untouched
from tests.streams import by_numpy


@cache
def load(scheme):
    return initconf.load(scheme)


def bits(model):
    return {name: p.detach().clone() for name, p in model.named_parameters(remove_duplicate=False)}


def made(model, spec="he", **more):
    initconf.initialize(model, load(spec) if isinstance(spec, str) else spec, **more)
    return bits(model)


def same(a, b, names=None):
    return all(torch.equal(a[name], b[name]) for name in (names or a.keys() & b.keys()))


def refused(apply, *args, **kwargs):
    with pytest.raises(ApplyError) as caught:
        apply(*args, **kwargs)
    return [str(problem) for problem in caught.value.problems]


NORMAL = {"initializer": {"name": "normal", "std": 1}, "unmatched": "keep"}
ALL_NORMAL = {"rules": {"all": {"glob": "*", "initializer": {"name": "normal", "std": 1}}}}


# --- what values depend on, and what they do not -----------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["he", "orthogonal", "torch"])
def test_inserting_a_layer_changes_no_other_parameter(scheme):
    small, large = made(gpt(n_layer=2), scheme), made(gpt(n_layer=3), scheme)
    assert set(small) < set(large)
    assert same(small, large)
    assert not same(small, made(gpt(n_layer=2), scheme, seed=1))


@pytest.mark.parametrize("scheme", ["he", "orthogonal", "torch"])
def test_the_order_of_modules_is_irrelevant(scheme):
    def model(order):
        sizes = {
            "a": lambda: nn.Linear(6, 5),
            "b": lambda: nn.LSTM(5, 4),
            "c": lambda: nn.Conv2d(3, 4, 3),
            "d": lambda: nn.Embedding(9, 5),
        }
        return nn.ModuleDict({name: sizes[name]() for name in order})

    first = made(model("abcd"), scheme)
    for order in ("dcba", "bdac", "ca"):
        assert same(first, made(model(order), scheme))


def test_seed_and_name_matter():
    a, b = made(mlp()), made(mlp(), seed=1)
    assert not torch.equal(a["head.weight"], b["head.weight"])
    assert same(a, b, ["head.bias"])
    model = nn.ModuleDict({"x": nn.Linear(6, 6), "y": nn.Linear(6, 6)})
    values = made(model)
    assert not torch.equal(values["x.weight"], values["y.weight"])


@pytest.mark.parametrize("model", ZOO)
@pytest.mark.parametrize("scheme", ["he", "torch", "orthogonal"])
def test_two_runs_are_equal_whatever_was_there_before(scheme, model):
    torch.manual_seed(0)
    first = ZOO[model]()
    torch.manual_seed(1)
    second = ZOO[model]()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.fill_(math.nan)
    assert same(made(first, scheme), made(second, scheme))
    plan = initconf.compile(first, load(scheme))
    once = bits(first)
    initconf.apply(first, plan)
    assert same(once, bits(first))


@pytest.mark.parametrize("scheme", ["he", "orthogonal", "torch"])
def test_threads_do_not_matter_and_are_put_back(scheme):
    def model():
        return nn.ModuleDict({"big": nn.Linear(300, 400), "rnn": nn.LSTM(40, 50), "conv": nn.Conv2d(32, 64, 3)})

    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(made(model(), scheme))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_threads_are_put_back_after_a_failure(own_registry):
    def mine(tensor, generator):
        raise ValueError("no")

    initconf.register(mine)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(ApplyError):
            initconf.initialize(mlp(), {"initializer": "mine", "unmatched": "keep"})
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("scheme", ["he", "orthogonal", "torch", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_cast_of_float32(scheme, dtype):
    single, half = made(gpt(), scheme), made(gpt().to(dtype), scheme)
    assert all(torch.equal(half[name], single[name].to(dtype)) for name in single)


def test_float64_has_values_of_its_own():
    single, double = made(mlp()), made(mlp().double())
    assert not torch.allclose(double["head.weight"].float(), single["head.weight"])
    key = sampling.key(0, "head.weight")
    expected = Normal(0.0, 0.5).quantile(by_numpy(key, torch.empty(24, dtype=torch.float64)))
    assert torch.equal(double["head.weight"], expected.view(3, 8))


def test_torch_s_default_dtype_and_device_do_not_matter():
    def model():
        return nn.ModuleDict({"fc": nn.Linear(6, 5), "rnn": nn.GRU(5, 4), "emb": nn.Embedding(9, 5, padding_idx=0)})

    for scheme in ("he", "torch", "orthogonal"):
        expected = made(model(), scheme)
        other = model()
        torch.set_default_dtype(torch.float64)
        try:
            assert same(expected, made(other, scheme))
        finally:
            torch.set_default_dtype(torch.float32)
        other = model()
        with torch.device("meta"):
            initconf.initialize(other, load(scheme), verify=True)
        assert same(expected, bits(other))


def test_a_wrapped_model_gets_the_bits_of_the_bare_one():
    expected = made(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    for wrap in (nn.DataParallel, torch.optim.swa_utils.AveragedModel):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        wrapped = wrap(model)
        initconf.initialize(wrapped, load("he")).verify()
        assert same(expected, bits(wrapped.module))


# --- the definition --------------------------------------------------------------------------------------------------------


def test_a_parameter_holds_the_values_of_its_stream():
    model = nn.ModuleDict({"fc": nn.Linear(7, 300), "attn": nn.MultiheadAttention(8, 2)})
    initconf.initialize(model, {"defaults": ["lecun"], "seed": 11})
    plan = initconf.compile(model, {"defaults": ["lecun"], "seed": 11})
    for leaf in plan.leaves():
        if leaf.std and leaf.std > 0:
            key = sampling.key(11, leaf.name, leaf.block)
            expected = torch.cat(
                [part.clone() for _, part in sampling.chunks(leaf.law, key, math.prod(leaf.shape), torch.float32)]
            )
            found = model.get_parameter(leaf.name).detach()
            if leaf.block:
                found = found[leaf.start : leaf.start + leaf.shape[0]]
            assert torch.equal(found, expected.view(leaf.shape))


def test_chunks_do_not_matter(monkeypatch):
    expected = made(nn.Linear(30, 50), ALL_NORMAL)
    for size in (1, 7, 1499):
        monkeypatch.setattr(sampling, "CHUNK", size)
        assert same(expected, made(nn.Linear(30, 50), ALL_NORMAL))


class Holder(nn.Module):
    def __init__(self, tensor):
        super().__init__()
        self.weight = nn.Parameter(tensor)


LAYOUTS = {
    "transposed": lambda: torch.zeros(5, 3).t(),
    "sliced": lambda: torch.zeros(6, 10)[::2, 1:6],
    "channels_last": lambda: torch.zeros(3, 5, 4, 4).to(memory_format=torch.channels_last),
    "permuted": lambda: torch.zeros(2, 3, 4).permute(2, 0, 1),
    "offset": lambda: torch.zeros(100)[7:22].view(3, 5),
}


@pytest.mark.parametrize("row", LAYOUTS)
@pytest.mark.parametrize("scheme", ["he", "orthogonal"])
def test_memory_layout_does_not_matter(scheme, row):
    odd, plain = Holder(LAYOUTS[row]()), Holder(LAYOUTS[row]().contiguous())
    strides = odd.weight.stride()
    assert same(made(odd, scheme), made(plain, scheme))
    assert odd.weight.stride() == strides


def test_views_write_through_and_their_neighbours_stay():
    base = torch.zeros(100)
    made(Holder(base[7:22].view(3, 5)), NORMAL)
    assert base[7:22].all()
    assert not base[:7].any()
    assert not base[22:].any()


@pytest.mark.parametrize(
    "tensor", [torch.zeros(1, 4).expand(3, 4), torch.zeros(3, 1).expand(3, 4), torch.zeros(()).expand(2, 2)]
)
def test_expanded_tensors_are_refused(tensor):
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": Holder(tensor)})
    plan = initconf.compile(model, NORMAL)
    with untouched(model):
        text = "b.weight: several of its elements share memory (it is expanded)\n  -> clone() it first"
        assert refused(initconf.apply, model, plan) == [text]
    made(Holder(torch.zeros(1, 4).expand(1, 4)), NORMAL)  # of one row nothing is shared


def test_tensors_of_a_class_of_their_own_are_refused():
    class Tagged(torch.Tensor):
        pass

    model = Holder(torch.zeros(3, 3).as_subclass(Tagged))
    with pytest.raises(CompileError) as caught:
        initconf.compile(model, NORMAL)
    assert str(caught.value) == (
        "weight: values of a Tagged are not drawn (a tensor of a class of its own)\n"
        "  -> keep them: 'init.rules.kept={glob: weight, initializer: keep}'"
    )
    initconf.initialize(model, NORMAL | {"rules": {"kept": {"glob": "weight", "initializer": "keep"}}})
    assert type(model.weight) is Tagged
    assert not model.weight.any()
    plan = initconf.compile(Holder(torch.zeros(3, 3)), NORMAL)
    assert refused(initconf.apply, model, plan) == ["weight: it is a Tagged, which this version cannot write"]


# --- ties, padding, blocks -------------------------------------------------------------------------------------------------


def test_ties_are_kept_and_initialised_once():
    model = tied_gpt()
    names = [name for name, p in model.named_parameters(remove_duplicate=False) if p is model.get_parameter("lm_head.weight")]
    assert len(names) == 2
    plan = initconf.compile(model, load("he"))
    initconf.apply(model, plan).verify()
    first, second = (model.get_parameter(name) for name in names)
    assert first is second
    key = sampling.key(0, min(names))
    expected = Normal(0.0, 0.02).quantile(by_numpy(key, torch.empty(first.numel())))
    assert torch.equal(first.detach().flatten(), expected)


@pytest.mark.parametrize(("embedding", "head"), [("wte", "lm_head"), ("emb", "head")])
def test_module_default_of_a_tie_is_that_of_the_embedding(embedding, head):
    """Whichever of the two names is the smaller one: an Embedding draws N(0, 1), a Linear U(+-1/8)."""
    model = nn.ModuleDict({embedding: nn.Embedding(50, 64), head: nn.Linear(64, 50, bias=False)})
    model[head].weight = model[embedding].weight
    initconf.initialize(
        model, {"initializer": "module_default", "rules": {"e": {"role": "embedding", "initializer": "module_default"}}}
    )
    assert float(model[head].weight.detach().std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("initializer", ["orthogonal", "ones", "module_default", {"name": "normal", "std": 1}])
def test_padding_rows_stay_zero(initializer):
    model = padded()
    report = initconf.initialize(
        model, {"defaults": ["he"], "rules": {"embedding": {"role": "embedding", "initializer": initializer}}}
    )
    report.verify()
    weight = model[0].weight.detach()
    assert not weight[2].any()
    assert bool(weight[[0, 1, *range(3, 9)]].any(dim=1).all())
    kept = padded()
    with torch.no_grad():
        kept[0].weight[2] = 5
    initconf.initialize(
        kept, {"defaults": ["he"], "rules": {"embedding": {"role": "embedding", "initializer": "keep"}}}
    ).verify()
    assert bool((kept[0].weight[2] == 5).all())


def test_a_padding_row_shifts_no_other_value():
    a, b = nn.Embedding(9, 4), nn.Embedding(9, 4, padding_idx=0)
    rules = {"rules": {"e": {"role": "embedding", "initializer": {"name": "normal", "std": 1}}}}
    made(a, rules)
    made(b, rules)
    assert torch.equal(a.weight[1:], b.weight[1:])


def test_blocks_are_written_to_their_slices():
    model = nn.LSTM(3, 4)
    rules = {
        "bias": {"role": "bias", "initializer": "zeros"},
        **{g: {"search": "_ih", "block": g, "initializer": {"name": "constant", "value": i + 1}} for i, g in enumerate("ifgo")},
        "hh": {"role": "recurrent", "initializer": "orthogonal"},
    }
    initconf.initialize(model, {"rules": rules}).verify()
    assert [w.unique().item() for w in model.weight_ih_l0.detach().chunk(4)] == [1, 2, 3, 4]
    assert [b.unique().item() for b in model.bias_ih_l0.detach().chunk(4)] == [1, 2, 3, 4]
    assert not model.bias_hh_l0.any()
    gates = model.weight_hh_l0.detach().chunk(4)
    assert all(torch.allclose(w @ w.T, torch.eye(4), atol=1e-6) for w in gates)
    assert not torch.equal(gates[0], gates[1])


def test_blocks_have_streams_of_their_own():
    model = nn.MultiheadAttention(8, 2)
    initconf.initialize(model, {**NORMAL, "seed": 2})
    q, k, v = model.in_proj_weight.detach().chunk(3)
    assert not torch.equal(q, k)
    expected = by_numpy(sampling.key(2, "in_proj_weight", "k"), torch.empty(64))
    assert torch.equal(k.flatten(), Normal(0.0, 1.0).quantile(expected))
    assert v.abs().max() > 1


# --- what is left alone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["he", "orthogonal", "torch"])
@pytest.mark.parametrize("model", ["lstm", "encoder", "padded"])
def test_random_states_of_all_kinds_are_untouched(scheme, model):
    net = ZOO[model]()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    initconf.initialize(net, load(scheme)).verify()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert before[2] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_accelerators_are_not_seeded(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    monkeypatch.setattr(torch, "manual_seed", seeded.append)
    made(nn.LSTM(3, 4), "torch")
    assert seeded == []


def test_parameters_stay_the_objects_that_they_are():
    model = mlp()
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    model.head.weight.grad = torch.ones(3, 8)
    before = dict(model.named_parameters())
    pointers = {name: p.data_ptr() for name, p in before.items()}
    initconf.initialize(model, load("he")).verify()
    after = dict(model.named_parameters())
    assert all(before[name] is after[name] for name in before)
    assert {name: p.data_ptr() for name, p in after.items()} == pointers
    assert [name for name, p in after.items() if p.requires_grad] == ["head.weight", "head.bias"]
    assert all(p.grad_fn is None and p.is_leaf for p in after.values())
    assert bool((model.head.weight.grad == 1).all())
    assert float(model.body[0].weight.std()) > 0.1  # frozen ones are written too


def test_writing_inside_other_modes():
    expected = made(mlp())
    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        model = mlp()
        with mode():
            initconf.initialize(model, load("he"))
        assert same(expected, bits(model))


def test_integer_parameters_may_be_kept():
    model = mlp()
    model.register_parameter("codes", nn.Parameter(torch.arange(4), requires_grad=False))
    initconf.initialize(model, {"defaults": ["he"], "rules": {"codes": {"glob": "codes", "initializer": "keep"}}}).verify()
    assert model.codes.tolist() == [0, 1, 2, 3]


# --- meta ------------------------------------------------------------------------------------------------------------------


def on_meta(make):
    with torch.device("meta"):
        return make()


@pytest.mark.parametrize("make", [mlp, lstm, tied_gpt, padded])
@pytest.mark.parametrize("scheme", ["he", "torch"])
def test_meta_models_are_materialised_with_the_same_bits(scheme, make):
    model = on_meta(make)
    report = initconf.initialize(model, load(scheme), device="cpu").verify()
    assert not any(p.is_meta for p in model.parameters())
    assert same(bits(model), made(make(), scheme))
    assert report.notes == ()


def test_meta_models_need_a_device():
    model = nn.ModuleDict({"real": nn.Linear(2, 2), "meta": on_meta(lambda: nn.Linear(2, 2))})
    plan = initconf.compile(model, load("he"))
    with untouched(model):
        remedy = "it is on meta and has no memory\n  -> say where it shall be: device='cpu'"
        assert refused(initconf.apply, model, plan) == [f"meta.weight: {remedy}", f"meta.bias: {remedy}"]
    assert model["meta"].weight.is_meta
    real = model["real"].weight
    initconf.apply(model, plan, device="cpu").verify()
    assert model["real"].weight is real


def test_ties_of_meta_models_are_kept():
    model = on_meta(tied_gpt)
    initconf.initialize(model, load("gpt2"), device="cpu")
    assert len(list(model.parameters())) == len(list(tied_gpt().parameters()))
    shared = nn.Linear(3, 3, device="meta")
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})
    initconf.initialize(model, load("he"), device="cpu")
    assert model["a"].weight is model["b"][0].weight


def test_meta_parameters_keep_their_marks():
    model = nn.Linear(3, 3, device="meta")
    model.weight._no_weight_decay = True
    model.bias.requires_grad_(False)
    initconf.initialize(model, load("he"), device="cpu")
    assert model.weight._no_weight_decay is True
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)


class Rotary(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(4.0), persistent=False)


class CountingNorm(nn.BatchNorm1d):
    def __init__(self, size):
        super().__init__(size)
        self.register_buffer("seen", torch.zeros(3))


def test_buffers_of_meta_models_are_restored_or_named(caplog):
    with torch.device("meta"):
        model = nn.ModuleDict(
            {
                "norm": nn.BatchNorm2d(3),
                "plain": nn.BatchNorm1d(3, affine=False),  # has buffers and no parameters
                "none": nn.BatchNorm1d(3, track_running_stats=False),
                "instance": nn.InstanceNorm1d(3, track_running_stats=True),
                "rope": Rotary(),
                "counting": CountingNorm(3),
            }
        )
    with caplog.at_level(logging.WARNING, logger="initconf"):
        report = initconf.initialize(model, load("he"), device="cpu")
    expected = [
        f"the buffer {name} was on meta and has no values now; constructed in skip_init it keeps them"
        for name in ("rope.table", "counting.seen")
    ]
    assert list(report.notes) == expected
    assert [r.getMessage() for r in caplog.records if "buffer" in r.getMessage()] == expected
    for name in ("norm", "plain", "instance", "counting"):
        fresh = dict(nn.BatchNorm1d(3).named_buffers())
        for buffer, value in model[name].named_buffers():
            if buffer in fresh:
                assert torch.equal(value, fresh[buffer]), (name, buffer)
    assert not any(buffer.is_meta for buffer in model.buffers())
    model["norm"](torch.zeros(1, 3, 2, 2))
    model["plain"](torch.zeros(2, 3))


def test_shared_buffers_of_meta_models_stay_shared():
    with torch.device("meta"):
        a, b = Rotary(), Rotary()
        b.table = a.table
        model = nn.ModuleDict({"a": a, "b": b, "fc": nn.Linear(2, 2)})
    initconf.initialize(model, load("he"), device="cpu")
    assert model["a"].table is model["b"].table


def test_what_is_to_be_kept_must_not_be_on_meta():
    keep = {"initializer": "keep", "unmatched": "keep"}
    with pytest.raises(CompileError, match="a parameter on meta has no values to keep"):
        initconf.compile(on_meta(mlp), keep)
    plan = initconf.compile(mlp(), keep)
    for device in (None, "cpu"):
        model = on_meta(mlp)
        said = refused(initconf.apply, model, plan, device=device)
        assert len(said) == 6
        assert all(p.is_meta for p in model.parameters())
    assert said[0] == "body.0.weight: it is on meta and has no values to keep\n  -> compile the plan for this model"


def test_a_plan_made_on_meta_serves_the_real_model():
    plan = initconf.compile(on_meta(lstm), load("he"))
    model = lstm()
    initconf.apply(model, plan).verify()
    assert same(bits(model), made(lstm()))


# --- the plan of another model ---------------------------------------------------------------------------------------------

REMEDY = "\n  -> compile the plan for this model"


def linear(*names, sizes=(3, 3)):
    return nn.ModuleDict({name: nn.Linear(*sizes, bias=False) for name in names})


def tied(*names):
    model = linear(*names)
    for name in names:
        model[name].weight = model[names[0]].weight
    return model


@pytest.mark.parametrize(
    ("plan_of", "model", "said"),
    [
        (linear("a"), linear("a", sizes=(3, 4)), ["a.weight: its shape is (4, 3), and the plan is for (3, 3)"]),
        (linear("a", "b"), linear("a"), ["b.weight: the model has no such parameter"]),
        (linear("a"), linear("a", "b"), ["b.weight: the plan does not know it"]),
        (
            linear("a"),
            linear("b"),
            ["a.weight: the model has no such parameter", "b.weight: the plan does not know it"],
        ),
        (tied("a", "b"), linear("a", "b"), ["a.weight: in the plan it is tied to b.weight, and in the model it is not"]),
        (
            linear("a", "b"),
            tied("a", "b"),
            [
                "a.weight: in the model it is tied to b.weight, and in the plan it is not",
                "b.weight: in the model it is tied to a.weight, and in the plan it is not",
            ],
        ),
        (tied("a", "b"), linear("a"), ["a.weight: in the plan it is tied to b.weight, and in the model it is not"]),
        (linear("a"), tied("a", "b"), ["b.weight: the plan does not know it"]),
    ],
)
def test_a_plan_for_another_model_is_refused_before_anything_is_written(plan_of, model, said):
    plan = initconf.compile(plan_of, load("he"))
    with untouched(model):
        assert refused(initconf.apply, model, plan) == [text + REMEDY for text in said]


def test_a_plan_serves_a_model_of_another_dtype():
    plan = initconf.compile(mlp(), load("he"))
    model = mlp().bfloat16()
    initconf.apply(model, plan).verify()
    assert same(bits(model), made(mlp().bfloat16()))


# --- plain functions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_registry(monkeypatch):
    registry.names()
    for table in ("_registered", "_aliases"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


def test_a_plain_function_draws_from_its_own_generator(own_registry):
    calls = []

    @initconf.register
    def mine(tensor, generator=None, std: float = 1.0):
        calls.append((tensor.shape, tensor.dtype, tensor.requires_grad, generator.device.type, std))
        tensor.normal_(0, std, generator=generator)

    spec = {"initializer": {"name": "mine", "std": "1/sqrt(fan_in)"}, "unmatched": "keep"}
    model = nn.ModuleDict({"a": nn.Linear(4, 400), "b": nn.Linear(16, 400)})
    state = torch.get_rng_state()
    first = made(model, spec)
    assert torch.equal(state, torch.get_rng_state())
    assert calls == [((400, 4), torch.float32, False, "cpu", 0.5), ((400, 16), torch.float32, False, "cpu", 0.25)]
    assert initconf.compile(model, spec)["a.weight"].law == Custom("mine", (("std", 0.5),))
    assert float(first["a.weight"].std()) == pytest.approx(0.5, rel=0.1)
    assert same(first, made(nn.ModuleDict({"b": nn.Linear(16, 400), "a": nn.Linear(4, 400)}), spec), ["a.weight", "b.weight"])
    assert not torch.equal(first["a.weight"], made(model, spec, seed=1)["a.weight"])
    assert not torch.equal(first["a.weight"].flatten(), first["b.weight"].flatten()[:1600])
    half = made(nn.ModuleDict({"a": nn.Linear(4, 400), "b": nn.Linear(16, 400)}).half(), spec)
    assert torch.equal(half["a.weight"], first["a.weight"].half())


def test_a_function_of_torch_can_be_registered(own_registry):
    initconf.register("torch_normal")(nn.init.normal_)
    model = nn.Linear(40, 50, bias=False)
    initconf.initialize(model, {"initializer": {"name": "torch_normal", "std": 0.1}}).verify()
    assert float(model.weight.detach().std()) == pytest.approx(0.1, rel=0.1)


def test_a_plain_function_receives_blocks_and_odd_layouts(own_registry):
    @initconf.register
    def count(tensor, generator):
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))

    model = nn.MultiheadAttention(2, 1, bias=False)
    made(model, {"initializer": "count", "unmatched": "keep"})
    assert model.in_proj_weight.flatten().tolist() == [0, 1, 2, 3] * 3
    model = Holder(torch.zeros(3, 2).t())
    made(model, {"initializer": "count"})
    assert model.weight.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_failure_half_way_says_what_was_written(own_registry):
    @initconf.register
    def moody(tensor, generator):
        if tensor.shape[0] == 3:
            raise ValueError("not today")
        tensor.fill_(1)

    model = mlp()
    head = model.head.weight.detach().clone()
    (said,) = refused(
        initconf.initialize, model, {"initializer": "moody", "rules": {"b": {"role": "bias", "initializer": "zeros"}}}
    )
    text = (
        "head.weight: moody: ValueError: not today; 2 of 6 parameters are written whole, "
        "and not body.0.bias, body.2.bias, head.weight and 1 more"
    )
    assert said == f"{text}\n  -> mend it and apply the plan again"
    assert bool((model.body[0].weight == 1).all())
    assert torch.equal(model.head.weight.detach(), head)


@pytest.mark.parametrize("fn", [lambda tensor, generator: torch.ones(3, 3), lambda tensor, generator: tensor[0].fill_(1)])
def test_a_function_that_does_not_write_the_whole_tensor_is_told(own_registry, fn):
    initconf.register("partial")(fn)
    model = nn.Linear(3, 3, bias=False)
    with untouched(model):
        (said,) = refused(initconf.initialize, model, {"initializer": "partial"})
    assert "it does not write every value of the tensor that it is given" in said


# --- the module's own reset ------------------------------------------------------------------------------------------------

OWN = {"rules": {"all": {"glob": "*", "initializer": "module_default"}}}
OWN_MODULES = {
    "Linear": lambda: nn.Linear(30, 40),
    "LSTM": lambda: nn.LSTM(30, 16),
    "Embedding": lambda: nn.Embedding(40, 30, padding_idx=3),
    "MultiheadAttention": lambda: nn.MultiheadAttention(24, 2),
    "MultiheadAttention, separate": lambda: nn.MultiheadAttention(24, 2, kdim=6, vdim=8, add_bias_kv=True),
    "BatchNorm1d": lambda: nn.BatchNorm1d(8),
    "PReLU": lambda: nn.PReLU(3, init=0.1),
    "Conv2d": lambda: nn.Conv2d(4, 8, 3),
    "GRUCell": lambda: nn.GRUCell(30, 16),
    "Bilinear": lambda: nn.Bilinear(5, 6, 7),
}


@pytest.mark.parametrize("row", OWN_MODULES)
def test_module_default_is_what_the_constructor_gives(row):
    make = OWN_MODULES[row]
    torch.manual_seed(0)
    peers = [bits(make()) for _ in range(20)]
    model = make()
    with untouched():
        found = made(model, OWN)
    for name, value in found.items():
        all_of_them = torch.stack([peer[name] for peer in peers])
        if name == "out_proj.bias":
            continue  # the attention's reset sets it to zero, and it is the Linear's own reset that serves it
        if not all_of_them.std():
            assert torch.equal(value, peers[0][name])
        else:
            n = value.numel()
            assert float(value.std()) == pytest.approx(float(all_of_them.std()), rel=6 / math.sqrt(n))
            assert float(value.abs().max()) <= float(all_of_them.abs().max()) * 1.5
    torch.manual_seed(99)
    other = make()
    assert same(found, made(other, OWN))
    assert not same(found, made(make(), OWN, seed=1)) or row in ("BatchNorm1d", "PReLU")


def test_module_default_touches_only_the_claimed_parameter():
    model = nn.MultiheadAttention(8, 2)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(7)
    made(
        model,
        {
            "initializer": "keep",
            "unmatched": "keep",
            "rules": {"it": {"glob": "in_proj_weight", "initializer": "module_default"}},
        },
    )
    changed = {name for name, p in model.named_parameters() if not bool((p == 7).all())}
    assert changed == {"in_proj_weight"}


def test_parameters_of_one_module_have_resets_of_their_own():
    """So that one of them does not depend on whether the other is claimed."""
    model, other = nn.Linear(6, 6), nn.Linear(6, 6)
    made(model, OWN)
    made(
        other,
        {"rules": {"w": {"glob": "weight", "initializer": "zeros"}, "b": {"glob": "bias", "initializer": "module_default"}}},
    )
    assert torch.equal(model.bias, other.bias)


def test_blocks_of_a_module_default_are_those_of_the_whole():
    model, other = nn.LSTM(3, 4), nn.LSTM(3, 4)
    made(model, OWN)
    rules = {"all": {"glob": "*", "initializer": "module_default"}, "f": {"role": "bias", "block": "f", "initializer": "ones"}}
    made(other, {"rules": rules})
    for name in ("weight_ih_l0", "weight_hh_l0"):
        assert torch.equal(model.get_parameter(name), other.get_parameter(name))
    for i, (mine, theirs) in enumerate(zip(model.bias_ih_l0.chunk(4), other.bias_ih_l0.chunk(4), strict=True)):
        assert bool((theirs == 1).all()) if i == 1 else torch.equal(mine, theirs)


class Forgetful(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.extra = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3))

    def reset_parameters(self):
        nn.init.uniform_(self.weight)


def test_a_reset_that_leaves_a_parameter_out_is_told():
    model = Forgetful()
    (said,) = refused(initconf.initialize, model, OWN)
    assert said.startswith(
        "extra: module_default: RuntimeError: Forgetful.reset_parameters does not set extra; 1 of 2 parameters"
    )
    assert bool((model.extra == 1).all())


def test_a_module_without_a_reset():
    with pytest.raises(CompileError) as caught:
        initconf.compile(Holder(torch.zeros(2, 2)), OWN)
    assert "Holder has neither reset_parameters nor _reset_parameters" in str(caught.value)


# --- initialize ------------------------------------------------------------------------------------------------------------


def test_initialize_is_load_compile_and_apply():
    first, second = mlp(), mlp()
    report = initconf.initialize(first, {"defaults": ["he"], "seed": 4})
    plan = initconf.compile(second, initconf.load({"defaults": ["he"], "seed": 4}))
    initconf.apply(second, plan)
    assert report.plan == plan
    assert report.model is first
    assert same(bits(first), bits(second))
    assert report.seconds > 0


@pytest.mark.parametrize("seed", [0, 1, -1, 2**80])
def test_a_seed_said_in_python_wins_over_the_spec_s(seed):
    report = initconf.initialize(mlp(), {"defaults": ["he"], "seed": 4}, seed=seed)
    assert report.plan.seed == seed
    assert report.plan.fingerprint() == initconf.compile(mlp(), {"defaults": ["he"], "seed": seed}).fingerprint()


def test_initialize_logs_the_warnings_of_the_plan(caplog):
    with caplog.at_level(logging.WARNING, logger="initconf"), warnings.catch_warnings():
        warnings.simplefilter("error")
        initconf.initialize(mlp(), {"defaults": ["he"], "initializer": "lecun_normal", "seed": 0})
    assert [record.getMessage() for record in caplog.records] == [
        f"init.{key}: no parameter uses this setting" for key in ("mode", "distribution", "nonlinearity")
    ]


def test_initialize_can_verify_at_once(own_registry):
    assert initconf.initialize(mlp(), load("he"), verify=True).rows

    @initconf.register
    def endless(tensor, generator):
        tensor.fill_(math.inf)

    with pytest.raises(ApplyError, match="not all values are finite"):
        initconf.initialize(mlp(), {"initializer": "endless", "unmatched": "keep"}, verify=True)


# --- a model of transformers, whose `_init_weights` sets the modules below it ---------------------------------------------


class _Scale(nn.Module):
    """A class without a reset of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))
        self.A_log = nn.Parameter(torch.zeros(5))
        self.bias = nn.Parameter(torch.ones(5))


def pretrained():
    """What `transformers` would hand over, without the package: known by the dotted name of the base class."""

    def _init_weights(self, module):
        if isinstance(module, _Scale):
            module.weight.data.normal_(0, 3)
            module.A_log.copy_(torch.log(torch.arange(1, 6)))

    base = type("PreTrainedModel", (nn.Module,), {"__module__": "transformers.modeling_utils", "_init_weights": _init_weights})
    model = type("Tiny", (base,), {})()
    model.scale, model.fc = _Scale(), nn.Linear(5, 5)
    return nn.ModuleDict({"inner": model, "outside": _Scale()})


def test_module_default_asks_the_nearest_model_of_transformers():
    model = pretrained()
    found = {site.name: site.reset for site in survey(model)}
    assert found == {
        "inner.scale.weight": "_init_weights",
        "inner.scale.A_log": "_init_weights",
        "inner.scale.bias": None,  # which `_init_weights` leaves as it is
        "inner.fc.weight": "reset_parameters",
        "inner.fc.bias": "reset_parameters",
        **dict.fromkeys(["outside.weight", "outside.A_log", "outside.bias"]),
    }
    assert not model["inner"].scale.A_log.any()  # nothing was written to find that out
    spec = {"initializer": "module_default", "rules": {"rest": {"glob": "outside.*", "initializer": "zeros"}}}
    spec["rules"]["all"] = {"glob": "inner.*[!s]", "initializer": "module_default"}
    spec["rules"]["bias"] = {"glob": "inner.scale.bias", "initializer": "ones"}
    spec["rules"]["fc"] = {"glob": "inner.fc.*", "initializer": "module_default"}
    state = torch.get_rng_state()
    initconf.initialize(model, spec)
    assert torch.equal(state, torch.get_rng_state())
    scale = model["inner"].scale
    assert torch.equal(scale.A_log, torch.log(torch.arange(1, 6)))
    assert scale.weight.abs().max() > 1.0
    assert not torch.equal(scale.weight, initconf.initialize(pretrained(), spec, seed=1).model["inner"].scale.weight)
    again = initconf.initialize(pretrained(), spec).model["inner"].scale
    assert torch.equal(scale.weight, again.weight)


def test_module_default_of_what_nobody_sets_is_an_error_before_the_first_write():
    model = pretrained()
    spec = {"initializer": "zeros", "unmatched": "keep", "rules": {"a": {"match": ".*bias", "initializer": "module_default"}}}
    with pytest.raises(CompileError) as caught:
        initconf.compile(model, spec)
    assert str(caught.value) == (
        "init.rules.a.initializer  (python): inner.scale.bias, outside.bias: module_default cannot serve it: "
        "_Scale has neither reset_parameters nor _reset_parameters\n"
        "  -> {name: module_default, otherwise: keep} keeps the values that are there"
    )


def everywhere(initializer: str) -> dict:
    return {"initializer": initializer, "rules": {"biases": {"role": "bias", "initializer": initializer}}}


class Drawing(nn.Linear):
    """While it is reset, another thread draws from torch's global state, and somebody seeds that state, if so asked."""

    seeds = False
    drawn: ClassVar[list[torch.Tensor]] = []

    def reset_parameters(self) -> None:
        other = threading.Thread(target=lambda: self.drawn.append(torch.rand(5)))
        other.start()
        other.join()
        if self.seeds:
            torch.manual_seed(5)
        nn.init.uniform_(self.weight)
        nn.init.uniform_(self.bias)


@pytest.mark.parametrize("seeds", [False, True])
def test_what_others_draw_meanwhile_changes_no_module_default_and_is_not_changed_by_it(monkeypatch, seeds):
    torch.manual_seed(1)
    model = Drawing(3, 2)
    monkeypatch.setattr(Drawing, "seeds", seeds)
    monkeypatch.setattr(Drawing, "drawn", [])
    over = threading.Event()
    bystander = threading.Thread(target=over.wait)
    bystander.start()
    torch.manual_seed(2)
    initconf.initialize(model, everywhere("module_default"))
    over.set()
    bystander.join()
    values = [p.detach().clone() for p in model.parameters()]
    theirs = [*Drawing.drawn, torch.rand(5)]
    expected = torch.Generator().manual_seed(2)
    if not seeds:  # who seeds torch takes the others' place in the stream away
        assert all(torch.equal(found, torch.rand(5, generator=expected)) for found in theirs)
    initconf.initialize(model, everywhere("module_default"))
    assert all(torch.equal(a, b) for a, b in zip(values, model.parameters(), strict=True))
    weight = torch.rand(2, 3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(values[0], weight) == seeds


def test_a_registered_function_is_not_blamed_for_what_another_thread_draws():
    @initconf.register("beside")
    def beside(tensor, *, generator):
        other = threading.Thread(target=torch.rand, args=(5,))
        other.start()
        other.join()
        tensor.uniform_(generator=generator)

    model = initconf.initialize(nn.Linear(3, 3), everywhere("beside")).model
    again = initconf.initialize(nn.Linear(3, 3), everywhere("beside")).model
    assert torch.equal(model.weight, again.weight)

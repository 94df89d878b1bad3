"""Models on meta: what `initialize(model, spec, device=...)` makes of everything but the values of the parameters."""

from __future__ import annotations

import sys
import weakref

import pytest
import torch
from torch import nn

import initconf
from initconf.errors import ApplyError
from initconf.marks import is_skipped

NORMAL = {"rules": {"all": {"glob": "*", "initializer": {"name": "normal", "std": 1}}}}


def on_meta(make):
    with torch.device("meta"):
        return make()


def both(make, spec=NORMAL, **more):
    """A model from meta and one from memory, initialised alike, and what was said of the former."""
    model, eager = on_meta(make), make()
    state = torch.get_rng_state()
    report = initconf.initialize(model, spec, device="cpu", **more)
    assert torch.equal(state, torch.get_rng_state())
    initconf.initialize(eager, spec, **more)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    return model, eager, report.notes


def same(model, eager):
    """Bits, dtypes, strides, what takes gradients, and ties."""

    def told(of):
        tensors = [*of.named_parameters(remove_duplicate=False), *of.named_buffers(remove_duplicate=False)]
        first = {}
        return [(n, first.setdefault(id(t), n), t.dtype, t.stride(), t.requires_grad, type(t), t.detach()) for n, t in tensors]

    found, expected = told(model), told(eager)
    assert [row[:-1] for row in found] == [row[:-1] for row in expected]
    return all(torch.equal(a[-1], b[-1]) for a, b in zip(found, expected, strict=True))


# --- parameters ------------------------------------------------------------------------------------------------------------


def several_dtypes():
    model = nn.ModuleDict(
        {
            "short": nn.Linear(5, 4, dtype=torch.bfloat16),
            "long": nn.Linear(5, 4, dtype=torch.float64),
            "pairs": nn.Linear(5, 4, dtype=torch.complex64),
            "conv": nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last),
            "frozen": nn.Linear(5, 4).requires_grad_(False),
        }
    )
    model["tied"] = nn.Linear(5, 4, bias=False)
    model["tied"].weight = model["frozen"].weight
    return model


def test_dtypes_strides_gradients_and_ties():
    model, eager, notes = both(several_dtypes)
    assert same(model, eager)
    assert notes == ()


@pytest.mark.parametrize(
    "parametrise",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
def test_parametrised_weights(parametrise):
    def make():
        model = nn.ModuleDict({"fc": parametrise(nn.Linear(6, 6)), "plain": nn.Linear(6, 6)})
        model["fc"].parametrizations.weight.requires_grad_(False)
        return model

    model, eager, notes = both(make)
    assert same(model, eager)
    assert notes == ()
    assert torch.equal(model["fc"](torch.ones(6)), eager["fc"](torch.ones(6)))


def test_a_tied_parametrisation_stays_tied():
    def make():
        fc = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        return nn.ModuleDict({"a": fc, "b": nn.Sequential(fc)})

    model, eager, _ = both(make)
    assert same(model, eager)
    assert model["a"] is model["b"][0]


# --- who else has the parameters -------------------------------------------------------------------------------------------


HELD = {
    "linear": lambda: nn.Linear(6, 6),
    "tied": several_dtypes,
    "normed": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)),
    "lstm": lambda: nn.LSTM(6, 6, 2),
    "gru": lambda: nn.Sequential(nn.GRU(6, 6, bidirectional=True)),
}


@pytest.mark.parametrize("name", HELD)
def test_the_tensors_stay_the_same_objects(name):
    """So an optimizer, an average and a list that were made on meta have the parameters that are trained."""
    make = HELD[name]
    model = on_meta(make)
    before = dict(model.named_parameters(remove_duplicate=False))
    initconf.initialize(model, NORMAL, device="cpu")
    after = dict(model.named_parameters(remove_duplicate=False))
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert not any(p.is_meta for p in before.values())
    eager = make()
    initconf.initialize(eager, NORMAL)
    assert same(model, eager)


def test_an_optimizer_that_was_made_on_meta_takes_steps():
    model = on_meta(lambda: nn.Linear(3, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    initconf.initialize(model, NORMAL, device="cpu")
    before = model.weight.detach().clone()
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    assert torch.equal(model.weight, before - 1)


@pytest.mark.parametrize("swapped", [True, False])
def test_hooks_of_tensors_stay_and_can_be_removed(swapped):
    model = on_meta(lambda: nn.Linear(3, 3))
    calls = []
    weak = None if swapped else weakref.ref(model.weight)
    hooks = [
        model.weight.register_hook(lambda gradient: calls.append("gradient")),
        model.weight.register_post_accumulate_grad_hook(lambda parameter: calls.append("accumulated")),
    ]
    initconf.initialize(model, NORMAL, device="cpu")
    assert weak is None or weak() is not model.weight
    model(torch.ones(3)).sum().backward()
    assert calls == ["gradient", "accumulated"]
    for hook in hooks:
        hook.remove()
    model(torch.ones(3)).sum().backward()
    assert len(calls) == 2


class Marked(nn.Parameter):
    pass


class Slotted(nn.Parameter):
    __slots__ = ("note",)


def test_the_class_of_a_parameter_stays():
    model = on_meta(lambda: nn.Linear(3, 3))
    model.weight = Marked(model.weight.detach())
    initconf.initialize(model, NORMAL, device="cpu")
    assert type(model.weight) is Marked
    assert not model.weight.is_meta


REPLACED = "replaced, since torch could not swap it; an optimizer made before holds what was on meta"


def of_a_weak_reference(model):
    return weakref.ref(model["a"].weight)


def of_a_view(model):
    return model["a"].weight[0]


def of_its_slots(model):
    model["a"].weight = model["b"].weight = Slotted(model["a"].weight.detach())


@pytest.mark.parametrize("because", [of_a_weak_reference, of_a_view, of_its_slots])
def test_what_torch_does_not_swap_is_replaced_and_named(because):
    def make():
        model = nn.ModuleDict({name: nn.Linear(3, 3, bias=False) for name in "abc"})
        model["b"].weight = model["a"].weight
        return model

    model, eager = on_meta(make), make()
    held = because(model)
    before = dict(model.named_parameters())
    report = initconf.initialize(model, NORMAL, device="cpu")
    del held
    initconf.initialize(eager, NORMAL)
    assert report.notes == (f"a.weight, b.weight: {REPLACED}",)
    assert same(model, eager)
    assert model["a"].weight is not before["a.weight"]
    assert model["c"].weight is before["c.weight"]


def test_part_of_an_rnn():
    model, eager = on_meta(lambda: nn.LSTM(3, 4)), nn.LSTM(3, 4)
    initconf.initialize(model, NORMAL, device="cpu", only=".*_ih_.*")
    initconf.initialize(model, NORMAL, device="cpu", skip=".*_ih_.*")
    initconf.initialize(eager, NORMAL)
    assert torch.equal(model(torch.ones(2, 1, 3))[0], eager(torch.ones(2, 1, 3))[0])


# --- where -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "text"),
    [
        ("gpu", "device = 'gpu': not a device of torch"),
        (3.5, "device = 3.5: not a device of torch"),
        ("meta", "device = 'meta': it has no memory for values"),
        ("cuda:99", "device = 'cuda:99': torch has no such device here"),
        (torch.device("xpu", 99), "device = device(type='xpu', index=99): torch has no such device here"),
    ],
    ids=str,
)
def test_devices_that_are_not_there(monkeypatch, device, text):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    model = nn.Sequential(on_meta(Rotary), on_meta(lambda: nn.Linear(3, 3)), nn.Linear(3, 3))
    plan = initconf.compile(model, NORMAL)
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = model[2].weight.detach().clone()
    for refuse in (
        lambda: initconf.initialize(model, NORMAL, device=device),
        lambda: initconf.apply(model, plan, device=device),
    ):
        with pytest.raises(ApplyError) as caught:
            refuse()
        assert str(caught.value) == f"{text}\n  -> say one that is there: device='cpu'"
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert all(before[name] is after[name] and before[name].is_meta == after[name].is_meta for name in before)
    assert model[0].table.is_meta
    assert torch.equal(model[2].weight, values)


def test_the_devices_that_are_there_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ApplyError, match=r"-> say one that is there: device='cpu', device='cuda:0', device='cuda:1'$"):
        initconf.initialize(nn.Linear(3, 3), NORMAL, device="gpu")


def test_what_is_not_chosen_stays_on_meta_and_is_named(caplog):
    model = on_meta(lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    report = initconf.initialize(model, NORMAL, device="cpu", only=r"0\..*")
    assert report.notes == ("1.weight, 1.bias: not chosen, and still on meta",)
    assert report.notes[0] in caplog.messages
    assert [p.is_meta for p in model.parameters()] == [False, False, True, True]
    assert initconf.initialize(model, NORMAL, device="cpu", skip=r"0\..*").notes == ()


# --- buffers ---------------------------------------------------------------------------------------------------------------


class Rotary(nn.Module):
    """A table without a parameter, as in many a transformer."""

    def __init__(self, size=4):
        super().__init__()
        self.size = size
        self.register_buffer("table", torch.empty(size), persistent=False)
        self.register_buffer("counts", torch.empty(2, dtype=torch.int64))
        self.reset_parameters()

    def reset_parameters(self):
        self.table.copy_(10_000.0 ** -torch.linspace(0, 1, self.size))
        self.register_buffer("counts", torch.arange(2))


class Features(nn.Module):
    """Parameters and random numbers: what a reset writes to the former costs nothing and changes nothing."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.register_buffer("phase", torch.empty(5))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.constant_(self.fc.weight, 7.0)
        nn.init.uniform_(self.phase)


class Stubborn(nn.Module):
    """Its reset reads parameters, which have no values yet."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("norm", torch.empty(()))
        if not self.weight.is_meta:
            self.reset_parameters()

    def reset_parameters(self):
        self.norm.fill_(self.weight.sum().item())


def test_buffers_that_a_reset_sets():
    model, eager, notes = both(lambda: nn.Sequential(Rotary(), nn.Linear(2, 2), nn.BatchNorm1d(3), Rotary(6)))
    assert same(model, eager)
    assert notes == ()


def test_random_buffers_depend_on_the_seed_and_their_name():
    def phases(seed, order="ab"):
        model = on_meta(lambda: nn.ModuleDict({name: Features() for name in order}))
        initconf.initialize(model, NORMAL, device="cpu", seed=seed)
        assert not bool((model["a"].fc.weight == 7).any())
        return [model[name].phase for name in "ab"]

    first = phases(0)
    torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(first, phases(0, "ba"), strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], phases(1)[0])


def test_a_buffer_that_cannot_be_known_is_named():
    model = on_meta(lambda: nn.ModuleDict({"a": Stubborn(), "b": nn.Linear(2, 2)}))
    report = initconf.initialize(model, NORMAL, device="cpu")
    assert report.notes == ("the buffer a.norm was on meta and has no values now; constructed in skip_init it keeps them",)
    with initconf.skip_init():
        inside = Stubborn()
    assert inside.norm == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_a_buffer_without_values_shows_it(monkeypatch, dtype):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # torch would fill it with NaN
    model = nn.Linear(3, 3, device="meta")
    model.register_buffer("table", torch.empty(1000, dtype=dtype, device="meta"))
    held = model.table
    initconf.initialize(model, NORMAL, device="cpu")
    assert model.table is held
    assert bool(model.table.to(torch.complex64).isnan().all())


class Twice(nn.Module):
    """Two buffers, which the reset makes one."""

    def __init__(self):
        super().__init__()
        self.register_buffer("a", torch.empty(3))
        self.register_buffer("b", torch.empty(3))
        self.reset_parameters()

    def reset_parameters(self):
        self.a = self.b = torch.arange(3.0)


def test_buffers_that_share_a_tensor():
    def make():
        model = nn.ModuleDict({"one": Twice(), "two": Rotary(), "three": Rotary()})
        model["three"].table = model["two"].table
        model["two"].register_buffer("again", model["two"].table)
        return model

    model, eager = on_meta(make), make()
    model["one"].a, model["one"].b = (torch.empty(3, device="meta") for _ in "ab")
    held = model["one"].a, model["two"].table
    report = initconf.initialize(model, {"initializer": "zeros"}, device="cpu")
    assert report.notes == ()
    assert held[0] is model["one"].a
    assert held[1] is model["two"].table is model["two"].again is model["three"].table
    expected = dict(eager.named_buffers(remove_duplicate=False))
    assert all(torch.equal(buffer, expected[name]) for name, buffer in model.named_buffers(remove_duplicate=False))
    assert model["one"].a.data_ptr() == model["one"].b.data_ptr()


def test_a_buffer_under_two_names_is_named_once():
    model = nn.Linear(3, 3, device="meta")
    model.register_buffer("a", torch.empty(3, device="meta"))
    model.register_buffer("b", model.a)
    report = initconf.initialize(model, NORMAL, device="cpu")
    assert report.notes == ("the buffer a was on meta and has no values now; constructed in skip_init it keeps them",)
    assert model.a is model.b


def test_a_buffer_that_torch_does_not_swap():
    model = on_meta(Rotary)
    model.again = Rotary.__new__(Rotary)
    nn.Module.__init__(model.again)
    model.again.register_buffer("table", model.table)
    weak = weakref.ref(model.table)
    report = initconf.initialize(model, {"initializer": "zeros"}, device="cpu")
    assert report.notes == (f"table, again.table: {REPLACED}",)
    assert model.table is model.again.table
    assert torch.equal(model.table, Rotary().table)
    assert weak() is None


def test_buffers_that_are_not_on_meta_stay():
    model = on_meta(Rotary)
    model.register_buffer("counts", torch.tensor([5, 6]))
    before = model.counts
    model.fc = nn.Linear(2, 2)
    initconf.initialize(model, NORMAL, device="cpu")
    assert model.counts is before
    assert torch.equal(model.table, Rotary().table)


def pretrained():
    """What `transformers` would hand over, without the package: known by the dotted name of the base class."""

    def _init_weights(self, module):
        if isinstance(module, nn.Embedding):
            module.weight.data.normal_()
        if hasattr(module, "positions"):
            module.positions.copy_(torch.arange(4))

    base = type("PreTrainedModel", (nn.Module,), {"__module__": "transformers.modeling_utils", "_init_weights": _init_weights})
    model = type("Tiny", (base,), {})()
    model.inner = nn.ModuleDict({"embedding": nn.Embedding(4, 3), "rest": nn.Module()})
    model.inner["rest"].register_buffer("positions", torch.arange(4))
    model.inner["rest"].register_buffer("unknown", torch.ones(2))
    return nn.ModuleDict({"model": model, "beside": nn.Module()})


def test_a_model_of_transformers_sets_the_buffers_below_it():
    def make():
        model = pretrained()
        model["beside"].register_buffer("positions", torch.arange(4))
        return model

    model, eager, notes = both(make)
    assert torch.equal(model["model"].inner["rest"].positions, torch.arange(4))
    assert [note.split()[2] for note in notes] == ["model.inner.rest.unknown", "beside.positions"]
    assert torch.equal(model["model"].inner["embedding"].weight, eager["model"].inner["embedding"].weight)


def test_where_there_is_no_memory_nothing_is_changed_and_a_second_apply_works(monkeypatch):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), torch.nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)), nn.BatchNorm1d(4))
    plan, empty_like, calls = initconf.compile(model, "he"), torch.empty_like, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nmore")
        return empty_like(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty_like", failing)
        with pytest.raises(ApplyError) as caught:
            initconf.apply(model, plan, device="cpu")
    assert str(caught.value) == (
        "1.weight: there is no memory for it on cpu: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes;"
        " nothing has been changed\n  -> give another device, a smaller dtype, or shard the model"
    )
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    initconf.apply(model, plan, device="cpu").verify()


def test_memory_that_was_not_written_yet_is_marked(monkeypatch):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    plan = initconf.compile(model, "he")
    monkeypatch.setattr(sys.modules["initconf.apply"], "run", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        initconf.apply(model, plan, device="cpu")
    assert all(is_skipped(parameter) for parameter in model.parameters())

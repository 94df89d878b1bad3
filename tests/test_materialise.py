"""Models on meta: what `initialize(model, spec, device=...)` makes of everything but the values of the parameters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import initconf

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

"""`compat: torch` with a generator: bit for bit what a script with `torch.nn.init` writes, in walk order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import initconf
from initconf import by_torch
from initconf.registry import names

FUNCTIONS = {
    "uniform_": {"a": -0.2, "b": 0.4},
    "normal_": {"mean": 0.1, "std": 0.2},
    "trunc_normal_": {"std": 0.5, "a": -0.6, "b": 0.9},
    "constant_": {"val": 0.3},
    "ones_": {},
    "zeros_": {},
    "eye_": {},
    "xavier_uniform_": {"gain": 0.3},
    "xavier_normal_": {},
    "kaiming_uniform_": {"a": 5**0.5},
    "kaiming_normal_": {"mode": "fan_out", "nonlinearity": "tanh"},
    "orthogonal_": {"gain": -2.0},
    "dirac_": {"groups": 2},
    "sparse_": {"sparsity": 0.3, "std": 0.5},
}
MATRICES = ("eye_", "sparse_")


def build(dtype, name):
    if name == "dirac_":
        return nn.Sequential(nn.Conv1d(4, 8, 3, bias=False), nn.Conv2d(4, 6, 2, bias=False)).to(dtype)
    more = () if name in MATRICES else (nn.Conv2d(4, 8, 3, groups=2), nn.ConvTranspose2d(4, 8, 3, stride=2))
    return nn.Sequential(nn.Linear(6, 5), *more, nn.LSTM(4, 3), nn.Embedding(5, 3, padding_idx=1)).to(dtype)


def test_every_function_of_torch_is_here():
    assert set(FUNCTIONS) == {name for name in names() if name.endswith("_")}
    assert set(FUNCTIONS) == {n for n in vars(nn.init) if n.endswith("_") and not n.startswith("_")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "sparse_"])
def test_the_bits_are_those_of_torch(name, dtype):
    mine, theirs, settings = build(dtype, name), build(dtype, name), FUNCTIONS[name]
    spec = {
        "compat": "torch",
        "initializer": "keep",
        "rules": {
            "all": {"glob": "*", "initializer": {"name": name, **settings}},
            "flat": {"ndim": 1, "initializer": "zeros", "optional": True},
        },
    }
    state, generator = torch.get_rng_state(), torch.Generator().manual_seed(3)
    if name == "orthogonal_" and dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(initconf.ApplyError, match="torch's orthogonal_ does not serve"):
            initconf.initialize(mine, spec, generator=generator)
        return
    initconf.initialize(mine, spec, generator=generator)
    assert torch.equal(state, torch.get_rng_state())
    reference = torch.Generator().manual_seed(3)
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            nn.init.zeros_(parameter)
        else:
            draws = {} if name in ("constant_", "ones_", "zeros_", "eye_", "dirac_") else {"generator": reference}
            getattr(nn.init, name)(parameter, **settings, **draws)
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(generator.get_state(), reference.get_state())


def test_sparse_takes_its_zeros_from_the_generator_too():
    made = []
    for _ in range(2):
        model = nn.Linear(6, 10, bias=False)
        spec = {"compat": "torch", "initializer": {"name": "sparse_", "sparsity": 0.3, "std": 0.5}}
        initconf.initialize(model, spec, generator=torch.Generator().manual_seed(3))
        made.append(model.weight.detach())
    assert torch.equal(*made)
    assert (made[0] == 0).sum(0).tolist() == [3] * 6


def test_laws_and_resets_are_written_from_the_generator():
    """What is not a function of torch's is written by the one its law amounts to."""
    mine, theirs = nn.Linear(6, 5), nn.Linear(6, 5)
    spec = {"defaults": ["he"], "compat": "torch", "rules": {"bias": {"initializer": "module_default"}}}
    initconf.initialize(mine, spec, generator=torch.Generator().manual_seed(1))
    reference = torch.Generator().manual_seed(1)
    with torch.no_grad():
        theirs.weight.normal_(0, (2 / 6) ** 0.5, generator=reference)
    assert torch.equal(mine.weight, theirs.weight)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(reference.get_state())
        theirs.reset_parameters()
    assert torch.equal(mine.bias, theirs.bias)


def test_declared_axes_and_blocks_give_way_to_torchs():
    """`compat: torch` has no blocks, whoever declares them: the whole tensor is written, with torch's fans."""
    mine, theirs = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)
    layout = {"match": "weight", "axes": {"out": 1, "in": 0}, "blocks": {"names": ["a", "b"]}}
    spec = {"compat": "torch", "layouts": {"it": layout}, "initializer": "xavier_normal_"}
    plan = initconf.compile(mine, spec)
    assert (plan["weight"].blocks, plan["weight"].fan_in) == ((), 4)
    initconf.apply(mine, plan, generator=torch.Generator().manual_seed(3))
    nn.init.xavier_normal_(theirs.weight, generator=torch.Generator().manual_seed(3))
    assert torch.equal(mine.weight, theirs.weight)


def test_what_a_generator_cannot_write():
    with pytest.raises(initconf.ApplyError) as caught:
        initconf.initialize(nn.Linear(3, 3), "he", generator=torch.Generator())
    assert str(caught.value) == (
        "a generator was given, and the spec does not say `compat: torch`\n"
        "  -> write `compat: torch` in the spec, or leave the generator out: initconf's own streams need none"
    )
    spec = {"defaults": ["he"], "compat": "torch", "initializer": "hadamard", "mode": None}
    with pytest.raises(initconf.ApplyError, match="torch has no function for the law Hadamard of hadamard"):
        initconf.initialize(nn.Linear(3, 3), spec, generator=torch.Generator())


def test_a_failure_puts_the_generator_back_so_that_a_second_apply_mends_the_rest(monkeypatch):
    spec = {"defaults": ["torch"], "compat": "torch"}
    whole, model = (nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 7)) for _ in range(2))
    plan = initconf.compile(model, spec)
    initconf.apply(whole, plan, generator=torch.Generator().manual_seed(1))
    generator, write, calls = torch.Generator().manual_seed(1), by_torch.write, []

    def failing(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*args)

    monkeypatch.setattr(by_torch, "write", failing)
    with pytest.raises(KeyboardInterrupt, match="2 of 4 parameters are written whole"):
        initconf.apply(model, plan, generator=generator)
    initconf.apply(model, plan, generator=generator)
    for a, b in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)

"""Sharded models: each process writes its shard, without a word to the others, and the values are the unsharded model's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import initconf
from initconf import sampling
from initconf.errors import ApplyError, CompileError
from initconf.laws import Construction, Orthogonal
from tests.ranks import pretended
from tests.sharded_cases import (
    CASES,
    NARROW,
    along,
    built,
    fsdp,
    holds,
    local,
    numbered,
    own_initializer,
    tensor_parallel,
    two_layers,
    unsharded,
)

SLOW = pytest.mark.slow
MESHES = {1: [(2,), (3,), (4,), (7,)], 2: [(2, 2), (3, 2), (2, 4)]}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.quick])
def test_shards_are_those_of_the_unsharded_model(tmp_path, name):
    own_initializer()
    whole = unsharded(CASES[name], tmp_path)
    for mesh in pretended((2, 2) if whole.case.dims == 2 else (3,)):
        holds(whole, mesh)


def test_a_process_may_hold_nothing_of_what_is_narrower_than_the_mesh(tmp_path):
    """FSDP holds it in a shape of its own, (0, 0), which is not that of the placements."""
    whole, shapes = unsharded(NARROW, tmp_path), set()
    for shape in MESHES[2]:
        for mesh in pretended(shape):
            model = holds(whole, mesh)
            shapes |= {tuple(local(p).shape) for p in model.parameters() if not local(p).numel()}
    assert (0, 0) in shapes


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_on_many_meshes(tmp_path, name):
    own_initializer()
    whole = unsharded(CASES[name], tmp_path)
    for shape in MESHES[whole.case.dims]:
        for mesh in pretended(shape):
            holds(whole, mesh)


@pytest.mark.parametrize(
    ("world", "cases"), [(2, "few"), *(pytest.param(world, "all", marks=SLOW) for world in (2, 3, 4))], ids=str
)
def test_real_processes(tmp_path, world, cases):
    """Those of tests/sharded_processes.py, which talk by gloo; the last of them ends before the others write."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.sharded_processes", str(world), str(tmp_path), cases]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=Path(__file__).parent.parent,
        start_new_session=True,
    ) as run:
        try:
            said, _ = run.communicate(timeout=150)
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 0, said


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("rng_device", ["auto", "cpu"])
@pytest.mark.parametrize("name", ["axis 0", "axis 1", "last axis", "fsdp", "last axis twice"])
def test_shards_on_a_gpu(tmp_path, name, rng_device):
    case = replace(CASES[name], spec=CASES[name].spec | {"rng_device": rng_device})
    whole = unsharded(case, tmp_path)
    for mesh in pretended((2, 2) if case.dims == 2 else (3,), "cuda"):
        numbers = numbered(case, mesh, "cuda")
        model = built(case).cuda()
        case.shard(model, mesh)
        initconf.apply(model, whole.plan).verify()
        for key, p in model.named_parameters():
            expected = whole.model.get_parameter(key).detach().flatten()[numbers[key].cpu()]
            step = torch.finfo(p.dtype).eps if rng_device == "auto" else 0.0
            torch.testing.assert_close(local(p).cpu(), expected, rtol=8 * step, atol=step)


def test_the_weights_of_a_sharded_model_of_transformers_are_set_as_its_own():
    """Every module is given to FSDP by itself, which changes its class and forbids to copy it."""
    from torch.distributed.fsdp import fully_shard

    from tests.test_apply import pretrained

    default = {"match": "inner.*", "initializer": {"name": "module_default", "otherwise": "keep"}}
    spec = initconf.load({"initializer": "zeros", "unmatched": "keep", "rules": {"a": default}})
    plain = pretrained()
    plan = initconf.compile(plain, spec)
    initconf.apply(plain, plan)
    for mesh in pretended((5,)):
        model = pretrained()
        for part in (model.inner.scale, model.inner.fc, model.inner, model.outside):
            fully_shard(part, mesh=mesh)
        assert initconf.compile(model, spec) == plan
        initconf.apply(model, plan)
        rank = mesh.get_rank()
        assert all(torch.equal(local(p), plain.get_parameter(n)[rank : rank + 1]) for n, p in model.named_parameters())


# --- memory ----------------------------------------------------------------------------------------------------------------


class Made(TorchDispatchMode):
    """Takes note of how many elements the memory holds that operations ask for."""

    def __init__(self):
        super().__init__()
        self.sizes = [0]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        there = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in there:
                self.sizes.append(tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shard", [along(0), along(1), along(-1), fsdp], ids=["axis 0", "axis 1", "last axis", "fsdp"])
def test_no_more_memory_than_a_chunk_is_taken_at_once(monkeypatch, shard, dtype):
    monkeypatch.setattr(sampling, "CHUNK", 1 << 10)
    for mesh in pretended((4,)):
        model = nn.Sequential(nn.Linear(40, 600), nn.Conv2d(16, 24, 5), nn.Embedding(3000, 8, padding_idx=5)).to(dtype)
        shard(model, mesh)
        spec = initconf.load({"rules": {"all": {"glob": "*", "initializer": {"name": "normal", "std": 1}}}})
        plan = initconf.compile(model, spec)
        with Made() as made:
            initconf.apply(model, plan, threads=1)
        assert max(made.sizes) <= (2 << 10 if dtype.itemsize == 2 else 1 << 10)  # of 16 bits twice as many
        assert min(p.to_local().numel() for p in model.parameters() if p.ndim > 1) > 2 << 10
        if mesh.get_rank() == 1:
            break


def test_a_whole_matrix_is_made_for_a_law_of_matrices_and_nothing_larger(monkeypatch):
    for mesh in pretended((4,)):
        model = nn.ModuleList([nn.Linear(64, 96, bias=False) for _ in range(4)])
        along(0)(model, mesh)
        plan = initconf.compile(model, {"initializer": "orthogonal"})
        with Made() as made:
            initconf.apply(model, plan, threads=1)
        assert max(made.sizes) == 64 * 96
        break


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize(("batch", "groups"), [((0,), 1), ((0, 1), 1), ((0,), 3)])
def test_a_single_matrix_is_that_of_the_stack(batch, groups, dtype):
    """Of 3 x 3 x 65 x 67 entries, an odd number in each."""
    law = Orthogonal(2.0, (3, 3, 65, 67), (2,) if groups == 1 else (1,), batch, groups)
    whole = sampling.construct(law, sampling.key(0, "a"), dtype)
    for i in range(3):
        assert torch.equal(sampling.construct(law, sampling.key(0, "a"), dtype, i), whole[i : i + 1])


@pytest.mark.parametrize("shard", [along(0), along(1), along(-1)], ids=["experts", "axis 1", "last axis"])
def test_of_stacked_matrices_one_is_made_at_a_time(shard):
    for mesh in pretended((4,)):
        model = nn.Module()
        model.experts = nn.Parameter(torch.empty(10, 48, 96))
        shard(model, mesh)
        layouts = {"experts": {"match": "experts", "axes": {"batch": 0, "in": 1, "out": 2}}}
        plan = initconf.compile(model, {"initializer": "orthogonal", "layouts": layouts})
        with Made() as made:
            initconf.apply(model, plan, threads=1)
        assert max(made.sizes) == 48 * 96


@dataclass(frozen=True)
class Crowded(Construction):
    """Zeros, and a note of how many are made at the same time."""

    shape: tuple[int, ...]
    mean = std = None
    inside: ClassVar[list[int]] = []
    most: ClassVar[list[int]] = []

    def build(self, stream, dtype):
        self.inside.append(1)
        self.most.append(len(self.inside))
        time.sleep(0.02)
        self.inside.pop()
        return torch.zeros(self.shape)


def test_of_sharded_parameters_one_whole_matrix_is_made_at_a_time(monkeypatch):
    monkeypatch.setattr(sampling, "CHUNK", 1 << 8)
    initconf.register("crowded")(lambda site: Crowded(site.shape))
    for mesh in pretended((2,)):
        Crowded.most.clear()
        model = nn.ModuleList([nn.Linear(64, 64, bias=False) for _ in range(6)])
        along(0)(model, mesh)
        initconf.initialize(model, {"initializer": "crowded"}, threads=3)
        assert Crowded.most == [1] * 6


# --- what is refused -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_written_is_refused_before_anything_is():
    from torch.distributed.tensor import DTensor, Partial, Shard

    for mesh in pretended((2,)):
        model = two_layers()
        plan = initconf.compile(model, "he")
        before = [p.detach().clone() for p in model.parameters()]
        model[2].weight = nn.Parameter(DTensor.from_local(model[2].weight.detach(), mesh, [Partial()], run_check=False))
        expanded = torch.zeros(1, 9).expand(4 - mesh.get_rank(), 9)
        model[0].weight = nn.Parameter(
            DTensor.from_local(expanded, mesh, [Shard(0)], run_check=False, shape=(7, 9), stride=(9, 1))
        )
        with pytest.raises(ApplyError) as caught:
            initconf.apply(model, plan)
        assert [str(problem) for problem in caught.value.problems] == [
            "0.weight: several of its elements share memory (it is expanded)\n  -> clone() it first",
            "2.weight: its placement is P(sum): no process holds its values",
        ]
        assert torch.equal(model[0].bias, before[1])
        assert not expanded.any()


def test_a_sharded_model_is_traced_without_its_hooks_and_not_run():
    """FSDP's would gather the parameters, and are not made for what a trace hands them."""
    from torch.distributed.fsdp import fully_shard

    spec = initconf.load({"defaults": ["he"], "nonlinearity": "auto"})
    plan = initconf.compile(two_layers(), spec)
    for mesh in pretended((2,)):
        for shard in (fsdp, tensor_parallel, lambda model, mesh: [fully_shard(part, mesh=mesh) for part in model]):
            model = two_layers()
            shard(model, mesh)
            assert initconf.compile(model, spec) == plan
            with pytest.raises(CompileError) as caught:
                initconf.compile(model, spec, example=torch.ones(2, 9))
            text = "a sharded model is not run; compile the plan before it is sharded, and apply it afterwards"
            assert text in str(caught.value)


def test_on_meta_too():
    from torch.distributed.tensor import DTensor, Partial

    for mesh in pretended((2,)):
        with torch.device("meta"):
            model = two_layers()
        plan = initconf.compile(model, "he")
        model[2].weight = nn.Parameter(DTensor.from_local(model[2].weight.detach(), mesh, [Partial()], run_check=False))
        with pytest.raises(ApplyError) as caught:
            initconf.apply(model, plan, device="cpu")
        assert str(caught.value) == "2.weight: its placement is P(sum): no process holds its values"
        assert all(p.is_meta for p in model.parameters())


def test_a_generator_does_not_serve_shards():
    for mesh in pretended((2,)):
        model = two_layers()
        plan = initconf.compile(model, {"defaults": ["torch"], "compat": "torch"})
        along(0)(model, mesh)
        with pytest.raises(ApplyError) as caught:
            initconf.apply(model, plan, generator=torch.Generator())
        text = "it is sharded, and torch's functions draw for each shard by itself\n  -> leave the generator out"
        assert str(caught.value) == f"0.weight, 0.bias, 2.weight and 1 more: {text}"


# --- verify ----------------------------------------------------------------------------------------------------------------


def test_each_process_verifies_what_lies_with_it(tmp_path):
    """A wrong value is found by the process that holds it, and by no other."""
    whole = unsharded(CASES["axis 0"], tmp_path)
    for mesh in pretended((3,)):
        model = whole.case.build()
        whole.case.shard(model, mesh)
        report = initconf.apply(model, whole.plan)
        rows = {row.name: row for row in report.rows}
        assert rows["wide"].count == 5000
        assert rows["wide"].expected_std == whole.plan["wide"].std
        with torch.no_grad():
            if mesh.get_rank() == 1:  # rows 4 to 7 of 11; 7 stays zero
                model.emb.weight.to_local()[3] = 1.0
        if mesh.get_rank() == 1:
            with pytest.raises(ApplyError) as caught:
                report.verify()
            assert str(caught.value) == "emb.weight: the padding row 7 is not zero"
        else:
            report.verify()


def all_by(initializer):
    return initconf.load({"rules": {"all": {"glob": "*", "initializer": initializer}}})


def refusal(report):
    with pytest.raises(ApplyError) as caught:
        report.verify()
    return str(caught.value)


def one_value(t):
    t.view(-1)[-1] += 0.01


def doubled(t):
    t.mul_(2)


# What a process holds of these has another mean and std than the whole, but for the last; and what it must not let pass.
CUT = {
    "identity": ("identity", lambda: nn.Linear(64, 256, bias=False), [one_value]),
    "eye_": ("eye_", lambda: nn.Linear(256, 64, bias=False), [one_value]),
    "dirac_": ("dirac_", lambda: nn.Conv2d(16, 64, 3, bias=False), [one_value]),
    "hadamard": ("hadamard", lambda: nn.Linear(8, 512, bias=False), [one_value, doubled]),
    "zer_o": ("zer_o", lambda: nn.Linear(48, 512, bias=False), [one_value, doubled]),
    "sinusoidal": ("sinusoidal", lambda: nn.Embedding(1024, 64), [one_value, doubled]),
    "padded": ("sinusoidal", lambda: nn.Embedding(1024, 64, padding_idx=7), [one_value, doubled]),
    "delta": ("delta_orthogonal", lambda: nn.Conv2d(40, 48, 3, bias=False), [one_value, doubled]),
    "sparse": ({"name": "sparse", "sparsity": 0.9, "std": 1.0}, lambda: nn.Linear(64, 96, bias=False), [doubled, Tensor.zero_]),
    "orthogonal": ("orthogonal", lambda: nn.Linear(64, 96, bias=False), [doubled, Tensor.zero_]),
}


@pytest.mark.parametrize("shard", [fsdp, along(1)], ids=["fsdp", "axis 1"])
@pytest.mark.parametrize("name", CUT)
def test_a_part_is_not_held_to_the_moments_of_the_whole(name, shard):
    said, build, wrong = CUT[name]
    spec = all_by(said)
    for mesh in pretended((4,)):
        model = nn.Sequential(build())
        shard(model, mesh)
        for measure in (False, True, "stats"):
            report = initconf.initialize(model, spec, verify=measure)
        report.verify()
        for how in wrong:
            with torch.no_grad():
                how(local(model[0].weight))
            assert refusal(report).startswith(("0.weight: ", "2 problems:\n- 0.weight: "))
            initconf.apply(model, report.plan).verify()


def test_what_is_wrong_of_a_part_is_said():
    rows = {
        "identity": (one_value, "1 of 4096 values are not those of Identity: the first is 1.01, and should be 1"),
        "delta": (one_value, "not all values outside of the kernel's centre are zero"),
        "sparse": (Tensor.zero_, "all 1536 values are zero"),
    }
    for mesh in pretended((4,)):
        for name, (how, text) in rows.items():
            said, build, _ = CUT[name]
            model = nn.Sequential(build())
            fsdp(model, mesh)
            report = initconf.initialize(model, all_by(said))
            with torch.no_grad():
                how(local(model[0].weight))
            assert refusal(report) == f"0.weight: {text}"
        break


@pytest.mark.parametrize("size", [(4, 3), (3, 2), (64, 3)])
def test_a_handful_of_sparse_values_may_all_be_zero(size):
    """Shards of a few values, of which most are zeros."""
    spec = all_by({"name": "sparse", "sparsity": 0.9, "std": 1.0})
    for mesh in pretended((4,)):
        for seed in range(5):
            model = nn.Sequential(nn.Linear(*size, bias=False))
            along(1)(model, mesh)
            initconf.initialize(model, spec, seed=seed, verify=True)


def test_a_construction_of_which_only_the_whole_is_known_must_be_finite():
    @dataclass(frozen=True)
    class Own(Construction):
        shape: tuple[int, ...]
        mean, std = 0.0, 0.1

        def build(self, stream, dtype):
            return torch.cat([torch.full((self.shape[0] // 2, self.shape[1]), v) for v in (-0.1, 0.1)])

    initconf.register("own")(lambda site: Own(site.shape))
    for mesh in pretended((2,)):
        model = nn.Sequential(nn.Linear(50, 60, bias=False))
        report = initconf.initialize(model, all_by("own"), verify=True)
        fsdp(model, mesh)
        initconf.apply(model, report.plan).verify()
        with torch.no_grad():
            local(model[0].weight)[0, 0] = torch.inf
        assert refusal(report) == "0.weight: not all values are finite"

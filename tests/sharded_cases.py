"""Models, ways to shard them, and what must hold of each: the values are those of the unsharded model, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import initconf
from initconf.lab.models import GPT

# --- models ----------------------------------------------------------------------------------------------------------------


class Gate(nn.Module):
    """A module with a reset of its own, and a parameter of a shape that no mesh divides."""

    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, 5))
        self.shift = nn.Parameter(torch.empty(n))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.weight)
        nn.init.uniform_(self.shift)


class Zoo(nn.Module):
    """Blocks along both axes, convolutions, experts, a padding row, gates, sizes that do not divide, a scalar, a tie."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(11, 6, padding_idx=7)
        self.attn = nn.MultiheadAttention(6, 2)
        self.rnn = nn.LSTM(5, 3)
        self.conv = nn.Conv2d(4, 8, 3, groups=2)
        self.gate = Gate(7)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 1)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.emb.weight
        self.fused = nn.Parameter(torch.empty(5, 12))
        self.experts = nn.Parameter(torch.empty(4, 60, 70))
        self.wide = nn.Parameter(torch.empty(3, 5000))
        self.scalar = nn.Parameter(torch.tensor(0.5))


LAYOUTS = {
    "fused": {"match": "fused", "axes": {"in": 0, "out": 1}, "blocks": {"axis": 1, "names": ["q", "k", "v"]}},
    "experts": {"match": "experts", "axes": {"batch": 0, "in": 1, "out": 2}},
    "wide": {"match": "wide", "axes": {"out": 0, "in": 1}},
}
OTHERS = {"scalar": {"match": "scalar", "initializer": "zeros"}}


def zoo_spec(scheme: str = "he", **rules: Any) -> dict[str, Any]:
    return {"defaults": [scheme], "layouts": LAYOUTS, "rules": OTHERS | rules}


def own_initializer() -> None:
    """Register `counted`, a plain function."""

    def counted(tensor, generator):
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) + torch.rand(tensor.shape, generator=generator))

    initconf.register("counted")(counted)


def everybody_elses(file: str) -> dict[str, Any]:
    """A spec whose values come from a file, from a plain function, from the modules' own resets, and from constructions."""
    np.save(file, np.arange(33.0, dtype=np.float32).reshape(11, 3) + 1)
    return zoo_spec(
        gate={"match": "gate.*", "initializer": "module_default"},
        rnn={"match": "rnn.*", "initializer": "module_default"},
        qkv={"match": "attn.in_proj_weight", "initializer": "counted"},
        conv={"match": "conv.weight", "initializer": {"name": "sparse", "sparsity": 0.4, "std": 1.0}},
        fused={"match": "fused", "initializer": "orthogonal"},
        experts={"match": "experts", "initializer": "orthogonal"},
        norm={"match": "norm.weight", "initializer": {"name": "uniform", "low": 1, "high": 2}},
    )


def linear_spec(**more: Any) -> dict[str, Any]:
    return {"initializer": "he_normal", "rules": {"bias": {"role": "bias", "initializer": "zeros"}}} | more


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 5))


class Narrow(nn.Module):
    """An axis of size 1 in each parameter, which two processes are to share."""

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(5, 1)
        self.fc = nn.Linear(1, 8)
        self.experts = nn.Parameter(torch.empty(1, 6, 4))


def complex_layer() -> nn.Module:
    return nn.Linear(9, 7, dtype=torch.complex64)


def gpt() -> nn.Module:
    return GPT(vocab_size=11, context=6, n_layer=2, n_head=2, d_model=8, tie=True)


# --- ways to shard ---------------------------------------------------------------------------------------------------------


def fsdp(model: nn.Module, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    parts = [*model.blocks] if hasattr(model, "blocks") else [m for m in model.children() if any(True for _ in m.parameters())]
    ignored = {p for p in model.parameters() if not p.ndim}  # FSDP takes no scalars
    for part in parts:
        if not any(p in set(part.parameters()) for p in tied(model)):
            fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=ignored)


def tied(model: nn.Module) -> list[nn.Parameter]:
    names = [p for _, p in model.named_parameters(remove_duplicate=False)]
    return [p for i, p in enumerate(names) if any(p is other for other in names[:i])]


def offloaded(model: nn.Module, mesh: Any) -> None:
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    fully_shard(model, mesh=mesh, offload_policy=CPUOffloadPolicy(pin_memory=False))


def along(*axes: int | None, some: Callable[[str], bool] = lambda name: True) -> Callable[[nn.Module, Any], None]:
    """Each axis of the mesh cuts an axis of each parameter, counted from the last (None: none of them)."""

    def shard(model: nn.Module, mesh: Any) -> None:
        from torch.distributed.tensor import Replicate, Shard, distribute_tensor

        twins: dict[int, nn.Parameter] = {}
        for name, p in list(model.named_parameters(remove_duplicate=False)):
            if not some(name):
                continue
            placed = [Replicate() if a is None or not -p.ndim <= a < p.ndim else Shard(a % p.ndim) for a in axes]
            owner, _, attribute = name.rpartition(".")
            if id(p) not in twins:
                twins[id(p)] = nn.Parameter(distribute_tensor(p.detach(), mesh, placed, src_data_rank=None))
            setattr(model.get_submodule(owner), attribute, twins[id(p)])

    return shard


def tensor_parallel(model: nn.Module, mesh: Any) -> None:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()}, src_data_rank=None)


def both(model: nn.Module, mesh: Any) -> None:
    tensor_parallel(model, mesh["b"])
    fsdp(model, mesh["a"])


def narrow(model: nn.Module, mesh: Any) -> None:
    """Tensor and expert parallel along the axes of size 1, and FSDP of what lies on each process, be it nothing."""
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    parallelize_module(model, mesh["b"], {"emb": ColwiseParallel(), "fc": RowwiseParallel()}, src_data_rank=None)
    experts = distribute_tensor(model.experts.detach(), mesh["b"], [Shard(0)], src_data_rank=None)
    model.experts = nn.Parameter(experts)
    fsdp(model, mesh["a"])


def second_axis(model: nn.Module, mesh: Any) -> None:
    """FSDP along axis 1 where it divides."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard

    n = mesh.size()
    fully_shard(model, mesh=mesh, shard_placement_fn=lambda p: Shard(1 if p.ndim > 1 and p.shape[1] % n == 0 else 0))


# --- cases -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    shard: Callable[[nn.Module, Any], None]
    spec: Any = "he"
    dims: int = 1
    """Of the mesh."""
    dtype: torch.dtype = torch.float32
    example: tuple[int, ...] | None = None
    """The shape of an input, where the sharded model can be run."""
    tokens: bool = False
    quick: bool = False
    """Whether it is tried in every run of the tests."""


UNIFORM = {"rules": {"all": {"glob": "*", "initializer": {"name": "uniform", "low": -0.1, "high": 0.3}}}}
CASES = {
    "fsdp": Case(Zoo, fsdp, zoo_spec(), quick=True),
    "fsdp orthogonal": Case(Zoo, fsdp, zoo_spec("orthogonal")),
    "fsdp others": Case(Zoo, fsdp, "others", quick=True),
    "fsdp bfloat16": Case(Zoo, fsdp, zoo_spec(), dtype=torch.bfloat16, quick=True),
    "fsdp bfloat16 uniform": Case(two_layers, fsdp, UNIFORM, dtype=torch.bfloat16, quick=True),
    "fsdp float64": Case(Zoo, fsdp, zoo_spec(), dtype=torch.float64),
    "fsdp of a tied GPT": Case(gpt, fsdp, "gpt2", example=(2, 6), tokens=True, quick=True),
    "fsdp runs": Case(two_layers, fsdp, "he", example=(3, 9)),
    "fsdp complex": Case(complex_layer, fsdp, linear_spec(), dtype=torch.complex64, quick=True),
    "fsdp axis 1": Case(lambda: nn.Sequential(nn.Linear(12, 7), nn.Linear(7, 24)), second_axis, quick=True),
    "cpu offload": Case(two_layers, offloaded),
    "hsdp": Case(Zoo, fsdp, zoo_spec(), dims=2, quick=True),
    "hsdp others": Case(Zoo, fsdp, "others", dims=2),
    "axis 0": Case(Zoo, along(0), zoo_spec()),
    "axis 1": Case(Zoo, along(1), zoo_spec("orthogonal"), quick=True),
    "last axis": Case(Zoo, along(-1), zoo_spec()),
    "last axis others": Case(Zoo, along(-1), "others", quick=True),
    "last axis float64": Case(Zoo, along(-1), zoo_spec(), dtype=torch.float64),
    "last axis bfloat16 uniform": Case(two_layers, along(-1), UNIFORM, dtype=torch.bfloat16, quick=True),
    "last axis complex": Case(complex_layer, along(-1), linear_spec(), dtype=torch.complex64),
    "middle axis": Case(Zoo, along(-2), zoo_spec()),
    "replicated": Case(Zoo, along(None), "others"),
    "some plain": Case(Zoo, along(0, some=lambda name: name.startswith(("a", "ex", "wide"))), zoo_spec(), quick=True),
    "two axes": Case(Zoo, along(0, 1), zoo_spec(), dims=2, quick=True),
    "two axes others": Case(Zoo, along(-1, 0), "others", dims=2),
    "one axis twice": Case(Zoo, along(0, 0), zoo_spec("orthogonal"), dims=2),
    "last axis twice": Case(Zoo, along(-1, -1), zoo_spec(), dims=2, dtype=torch.bfloat16),
    "tensor parallel": Case(two_layers, tensor_parallel, quick=True),
    "fsdp and tensor parallel": Case(two_layers, both, dims=2, quick=True),
    "fsdp and tensor parallel, even": Case(
        lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), both, dims=2, example=(4, 8)
    ),
}


NARROW = Case(Narrow, narrow, {"defaults": ["orthogonal"], "layouts": {"experts": LAYOUTS["experts"]}}, dims=2)
"""Not among the others: torch itself cannot bring such shards together."""


@dataclass
class Unsharded:
    """What the sharded models of a case are held against."""

    case: Case
    spec: Any
    model: nn.Module
    plan: initconf.Plan


_specs: dict[str, Any] = {}


def loaded(said: Any, folder: Any = None) -> Any:
    said = everybody_elses(str(folder / "values.npy")) if said == "others" else said
    if repr(said) not in _specs:
        _specs[repr(said)] = initconf.load(said)
    return _specs[repr(said)]


def unsharded(case: Case, folder: Any) -> Unsharded:
    spec, model = loaded(case.spec, folder), built(case)
    plan = initconf.compile(model, spec)
    initconf.apply(model, plan, threads=1)
    return Unsharded(case, spec, model, plan)


def built(case: Case, dtype: torch.dtype | None = None) -> nn.Module:
    """The model in its own dtype, or in another one if it is real."""
    model = case.build()
    return model if case.dtype.is_complex else model.to(dtype or case.dtype)


def ties(model: nn.Module) -> list[list[str]]:
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    return sorted(names.values())


def holds(whole: Unsharded, mesh: Any) -> nn.Module:
    """Compile and apply a sharded model, and hold its shards against the unsharded one."""
    case, spec, plan = whole.case, whole.spec, whole.plan
    expected = dict(whole.model.named_parameters(remove_duplicate=False))
    numbers = numbered(case, mesh)
    for threads, measure in ((1, False), (3, "stats")):
        model = built(case)
        case.shard(model, mesh)
        with no_communication(threads == 1):
            made = initconf.compile(model, spec)
            assert made == plan, made.diff(plan)
            if measure:
                report = initconf.initialize(model, spec, threads=threads, verify="stats")
            else:
                report = initconf.apply(model, made, threads=threads)
            report.verify()
        found = dict(model.named_parameters(remove_duplicate=False))
        assert list(found) == list(expected)
        for name, p in found.items():
            mine = expected[name].detach().flatten()[numbers[name]]
            assert torch.equal(local(p), mine), name
        assert ties(model) == ties(whole.model)
    return model


def numbered(case: Case, mesh: Any, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Which elements of each parameter lie here, as torch shards tensors that hold their numbers."""
    model = built(case, torch.float64).to(device)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.arange(p.numel()).view(p.shape))
    case.shard(model, mesh)
    found = {name: local(p) for name, p in model.named_parameters(remove_duplicate=False)}
    return {name: (p.real if p.is_complex() else p).long() for name, p in found.items()}


def local(parameter: torch.Tensor) -> torch.Tensor:
    here: Any = parameter.detach()
    return here.to_local() if hasattr(here, "to_local") else here


@contextmanager
def no_communication(debug: bool = True):
    """No collective is launched inside: neither by a function of torch (in this thread), nor in any process group."""
    import torch.distributed as dist
    from torch.distributed.tensor.debug import CommDebugMode

    groups = [g for g in dist.distributed_c10d._world.pg_map if "gloo" in dist.get_backend(g)]
    before = [g._get_sequence_number_for_group() for g in groups]
    if debug:
        with CommDebugMode() as seen:
            yield
        assert seen.get_total_counts() == 0, seen.get_comm_counts()
    else:
        yield
    assert before == [g._get_sequence_number_for_group() for g in groups]

"""Run as a script: real processes, which talk by gloo, do what is done to sharded models, and say what did not hold.

`python -m tests.sharded_processes WORLD FOLDER all|few`: torch is imported once, and the processes are forked from that one.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

import initconf
from initconf.errors import ApplyError
from initconf.shards import here
from tests.sharded_cases import (
    CASES,
    Case,
    Gate,
    along,
    both,
    fsdp,
    gpt,
    holds,
    loaded,
    local,
    no_communication,
    own_initializer,
    tensor_parallel,
    two_layers,
    unsharded,
)

LIMIT = timedelta(seconds=60)
FEW = {"fsdp others", "fsdp of a tied GPT", "last axis", "tensor parallel"} if sys.argv[3:] == ["few"] else set()


def meshes(world):
    """The meshes of one and of two axes that so many processes make; of a prime number only one."""
    from torch.distributed.tensor import init_device_mesh

    found = {1: init_device_mesh("cpu", (world,), mesh_dim_names=("a",))}
    if world == 4:
        found[2] = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    return found


def example(case):
    generator = torch.Generator().manual_seed(0)
    if case.tokens:
        return torch.randint(11, case.example, generator=generator)
    return torch.randn(case.example, generator=generator)


# --- checks: each is called on every process, with the meshes by their number of axes ---------------------------------------


def every_case(mesh, folder):
    """The values are those of the unsharded model, also as torch brings them together, and the model computes the same."""
    own_initializer()
    for name, case in CASES.items():
        if case.dims not in mesh or (FEW and name not in FEW):
            continue
        whole = unsharded(case, folder)
        model = holds(whole, mesh[case.dims])
        for key, p in model.named_parameters():
            if "Strided" not in str(getattr(p, "placements", "")):
                there = p.full_tensor() if hasattr(p, "full_tensor") else p
                assert torch.equal(there, whole.model.get_parameter(key)), (name, key)
        if case.example is not None:
            torch.testing.assert_close(model(example(case)), whole.model(example(case)))


def collectives_are_noticed(mesh, folder):
    """The proof that none is launched can fail."""
    import torch.distributed as dist

    with pytest.raises(AssertionError), no_communication(debug=False):
        dist.all_reduce(torch.ones(1))
    model = two_layers()
    fsdp(model, mesh[1])
    with pytest.raises(AssertionError), no_communication():
        model[0].weight.full_tensor()


def on_meta(mesh, folder):
    """A model that is sharded on meta is given memory for its shards alone, and then computes what the unsharded one does."""
    cases = [Case(two_layers, fsdp, example=(3, 9)), Case(gpt, fsdp, "gpt2", example=(2, 6), tokens=True)]
    cases += [Case(two_layers, along(-1)), Case(two_layers, tensor_parallel)]
    if 2 in mesh:
        cases.append(Case(lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), both, dims=2, example=(4, 8)))
    for case in cases:
        whole = unsharded(case, folder)
        with torch.device("meta"):
            model = case.build()
        case.shard(model, mesh[case.dims])
        assert initconf.compile(model, whole.spec) == whole.plan
        placed = {name: (p.placements, p.shape) for name, p in model.named_parameters() if hasattr(p, "placements")}
        with no_communication():
            initconf.initialize(model, whole.spec, device="cpu").verify()
        assert placed == {name: (p.placements, p.shape) for name, p in model.named_parameters() if hasattr(p, "placements")}
        for name, p in model.named_parameters():
            if hasattr(p, "full_tensor"):
                assert torch.equal(p.full_tensor(), whole.model.get_parameter(name)), name
        if case.example is not None:
            x = example(case)
            torch.testing.assert_close(model(x), whole.model(x))
            loss = model(x).square().mean()
            loss.backward()
            gradient = [p.grad for p in model.parameters()]
            assert all(g is not None for g in gradient)


def a_module_that_is_sharded_itself_keeps_its_reset(mesh, folder):
    """FSDP changes the class of a module that owns parameters, and forbids to copy it."""
    from torch.distributed.fsdp import fully_shard

    spec = {"initializer": "module_default", "rules": {"all": {"glob": "*", "initializer": "module_default"}}}
    plain = nn.Sequential(Gate(7), nn.Linear(5, 3))
    plan = initconf.compile(plain, spec)
    initconf.apply(plain, plan)
    model = nn.Sequential(Gate(7), nn.Linear(5, 3))
    model[0].register_forward_hook(lambda *args: mesh)
    for part in (*model, model):
        fully_shard(part, mesh=mesh[1])
    with no_communication():
        assert initconf.compile(model, spec) == plan
        initconf.apply(model, plan)
    for name, p in model.named_parameters():
        assert torch.equal(p.full_tensor(), plain.get_parameter(name)), name


def what_fsdp_has_gathered_is_refused(mesh, folder):
    model = two_layers()
    fsdp(model, mesh[1])
    plan = initconf.compile(model, loaded("he"))
    initconf.apply(model, plan)
    before = {name: p.full_tensor().detach().clone() for name, p in model.named_parameters()}
    model[0].unshard()
    with pytest.raises(ApplyError) as caught:
        initconf.initialize(model, loaded("he"), seed=1)
    text = (
        "FSDP has gathered it, and drops what is written now\n  -> call reshard() on the module that was given to fully_shard"
    )
    said = str(caught.value)
    assert said == f"0.weight, 0.bias: {text}", said
    model[0].reshard()
    assert all(torch.equal(p.full_tensor(), before[name]) for name, p in model.named_parameters())
    initconf.initialize(model, loaded("he"), seed=1).verify()
    assert not torch.equal(model[0].weight.full_tensor(), before["0.weight"])


def processes_may_differ_in_what_they_hold(mesh, folder):
    """A mesh of the first processes alone: the others have no part in it, and nothing to write."""
    import torch.distributed as dist
    from torch.distributed.tensor import DeviceMesh

    some = DeviceMesh("cpu", list(range(dist.get_world_size() - 1)))
    model = two_layers()
    along(0)(model, some)
    initconf.initialize(model, loaded("he")).verify()
    plain = two_layers()
    initconf.initialize(plain, loaded("he"))
    if dist.get_rank() < dist.get_world_size() - 1:
        assert torch.equal(model[0].weight.full_tensor(), plain[0].weight)
    else:
        assert not local(model[0].weight).numel()


def what_a_redistribution_has_not_brought_yet_is_waited_for(mesh, folder):
    from torch.distributed._functional_collectives import AsyncCollectiveTensor
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    whole = torch.arange(12.0).view(6, 2)
    spread = distribute_tensor(whole, mesh[1], [Shard(0)])
    there = spread.redistribute(placements=[Replicate()], async_op=True)
    assert isinstance(there._local_tensor, AsyncCollectiveTensor)
    assert torch.equal(here(there).tensor, whole)


def a_process_that_is_gone_holds_nobody_up(mesh, folder):
    """The last check: one process ends before the others compile and write."""
    import torch.distributed as dist

    model = two_layers()
    fsdp(model, mesh[1])
    dist.barrier()
    if dist.get_rank() == dist.get_world_size() - 1:
        os._exit(0)
    initconf.initialize(model, loaded("he"), verify=True)
    plain = two_layers()
    initconf.initialize(plain, loaded("he"))
    rows = local(model[0].weight).shape[0]
    start = rows * dist.get_rank()
    assert torch.equal(local(model[0].weight), plain[0].weight[start : start + rows])


CHECKS = [
    collectives_are_noticed,
    every_case,
    on_meta,
    a_module_that_is_sharded_itself_keeps_its_reset,
    what_fsdp_has_gathered_is_refused,
    processes_may_differ_in_what_they_hold,
    what_a_redistribution_has_not_brought_yet_is_waited_for,
    a_process_that_is_gone_holds_nobody_up,
]


def process(rank, world, folder):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=LIMIT)
    mesh = meshes(world)
    for check in CHECKS:
        print(f"{rank} of {world}: {check.__name__}", flush=True)
        check(mesh, folder)


def main(world, folder):
    torch.set_num_threads(1)
    logging.getLogger("initconf").setLevel(logging.ERROR)
    for name in ("fsdp", "tensor.parallel"):  # once for all processes
        import_module(f"torch.distributed.{name}")
    for name in FEW or CASES:
        loaded(CASES[name].spec, folder)
    children = []
    for rank in range(world):
        if not (child := os.fork()):
            code = 1
            try:
                process(rank, world, folder)
                code = 0
            except BaseException:  # noqa: BLE001 - said, and the process ends
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

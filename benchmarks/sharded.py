"""What a sharded model costs each of 1 to 4 processes: fully_shard over gloo, on one machine.

    python benchmarks/sharded.py [--quick]

Each process makes only the values of its own shard, so the time should fall with their number, as long as each has a core. What
is factorised (orthogonal) is made whole by every process that holds some of it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from drawing import Plot
from measuring import Row, cores, extra_memory, main, seconds
from torch import distributed, multiprocessing, nn

import initconf

MODELS: dict[str, tuple[list[tuple[int, int]], str]] = {
    # (inputs, outputs) of the layers, initializer; it is the outputs that are shared out
    "8 layers": ([(2048, 2048)] * 8, "he_normal"),
    "an uneven layer: 5 rows": ([(1 << 22, 5)], "he_normal"),
    "2 orthogonal layers": ([(1024, 1024)] * 2, "orthogonal"),
}


def work(rank: int, world: int, folder: str, quick: bool) -> None:
    """One of the processes: it leaves its measurements in a file."""
    torch.set_num_threads(1)
    store = distributed.FileStore(str(Path(folder) / "store"), world)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    mesh = distributed.device_mesh.init_device_mesh("cpu", (world,))
    found = {name: one(layers, spec, mesh, quick) for name, (layers, spec) in MODELS.items()}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def one(layers: list[tuple[int, int]], initializer: str, mesh: Any, quick: bool) -> Row:
    """What this process has and takes. Its shard is in memory before; extra is what the first writing needs beside it."""
    from torch.distributed.fsdp import fully_shard

    small = 64 if quick else 1
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(i // small, max(o // small, 5), bias=False) for i, o in layers))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.detach().zero_()
    plan = initconf.compile(model, {"initializer": initializer})
    distributed.barrier()
    memory = extra_memory(lambda: initconf.apply(model, plan, threads=1))
    distributed.barrier()
    return {
        "values": sum(p.numel() for p in model.parameters()),
        "held": sum(p.to_local().numel() for p in model.parameters()),
        "MiB": memory,
        "s": seconds(lambda: initconf.apply(model, plan, threads=1), 1 if quick else 5),
    }


def ranks(quick: bool) -> list[Row]:
    """By number of processes. Time and memory are those of the process that takes most.

    The first model's memory has what torch loads when it is first needed, about 2 MiB; float32 values are made in their place.
    """
    worlds = (1, 2) if quick else (1, 2, 3, 4)
    free = cores(worlds[-1], quick)
    rows: list[Row] = []
    for world in worlds:
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(work, (world, folder, quick), nprocs=world)
            found = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(world)]
        for name in MODELS:
            each = [one[name] for one in found]
            ms, values = 1e3 * max(one["s"] for one in each), each[0]["values"]
            single = next((row["ms"] for row in rows if row["model"] == name), ms)
            row = {"model": name, "processes": world, "values": values, "most of one": max(one["held"] for one in each)}
            row |= {"ms": ms, "values/s": 1e3 * values / ms, "of one process": ms / single}
            memory = None if each[0]["MiB"] is None else max(one["MiB"] for one in each)
            # the probe is off by a tenth on an idle machine
            rows.append(row | {"extra MiB": memory, "cores are shared": world > 1.15 * free})
    rows.sort(key=lambda row: list(MODELS).index(row["model"]))
    if any(row["cores are shared"] for row in rows):
        print(f"{worlds[-1]} threads have {free:.1f} cores here: where there are more processes than that, they share them")
    return rows


PLOT = Plot(
    "ranks",
    "ranks",
    ("model",),
    "of one process",
    x="processes",
    shared=True,
    look={"xlabel": "processes", "ylabel": "time, of that of one process", "ylim": (0, None)},
)

if __name__ == "__main__":
    main("sharded", __doc__, {"ranks": ranks}, [PLOT])

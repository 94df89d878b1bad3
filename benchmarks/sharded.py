"""What a sharded model costs each of 1 to 4 processes: fully_shard over gloo, on one machine.

    python benchmarks/sharded.py

The processes share the cores; each makes only the values of its own shard, so the time should fall with their number.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import cores, save, seconds, table
from torch import distributed, multiprocessing, nn

import initconf

WIDTH, LAYERS = 2048, 8


def work(rank: int, world: int, folder: str) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    store = distributed.FileStore(str(Path(folder) / "store"), world)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    mesh = distributed.device_mesh.init_device_mesh("cpu", (world,))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    initconf.initialize(model, "he", device="cpu")
    plan = initconf.compile(model, "he")
    distributed.barrier()
    taken = seconds(lambda: initconf.apply(model, plan, threads=1), 5)
    (Path(folder) / str(rank)).write_text(str(taken))
    distributed.barrier()
    distributed.destroy_process_group()


def main() -> None:
    rows: list[dict[str, Any]] = []
    values = WIDTH * WIDTH * LAYERS
    for world in (1, 2, 3, 4):
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(work, (world, folder), nprocs=world)
            taken = [float((Path(folder) / str(rank)).read_text()) for rank in range(world)]
        rows.append(
            {
                "processes": world,
                "values": values,
                "slowest ms": 1e3 * max(taken),
                "of one process": max(taken) / rows[0]["slowest ms"] * 1e3 if rows else 1.0,
            }
        )
    table(rows)
    print(f"on {os.cpu_count()} cores; two threads have {cores():.2f}")
    save("sharded", rows)


if __name__ == "__main__":
    main()

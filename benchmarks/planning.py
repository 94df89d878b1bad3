"""How long surveying and compiling takes: 100,000 parameters, and a model whose parameters are huge (on meta).

    python benchmarks/planning.py

The yardstick is what nobody can do without: going once through `model.named_parameters()`, in the same process.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import torch
from measuring import save, seconds, table
from torch import nn

import initconf
from initconf.survey import survey


def peak(work: Callable[[], object]) -> int:
    """The most bytes of Python objects at once."""
    work()
    tracemalloc.start()
    work()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def blocks(n: int, width: int) -> nn.Module:
    def block() -> nn.Module:
        return nn.ModuleDict(
            {
                "norm": nn.LayerNorm(width),
                "attn": nn.MultiheadAttention(width, 4),
                "up": nn.Linear(width, 4 * width),
                "down": nn.Linear(4 * width, width),
            }
        )

    with torch.device("meta"):
        return nn.ModuleDict({"blocks": nn.ModuleList(block() for _ in range(n))})


def main() -> None:
    spec = initconf.load("he")
    model = blocks(10_000, 64)  # ten parameters a block
    count = sum(1 for _ in model.parameters())
    walk = seconds(lambda: list(model.named_parameters()))
    works = {"survey": lambda: survey(model), "survey and compile": lambda: initconf.compile(model, spec)}
    times = [{"part": "named_parameters()", "parameters": count, "s": walk, "of the walk": 1.0}]
    for name, work in works.items():
        taken = seconds(work)
        times.append({"part": name, "parameters": count, "s": taken, "of the walk": taken / walk})
    table(times)
    print()
    memory = [
        {
            "part": "peak memory of compile",
            "width": width,
            "parameters": 1_000,
            "MB": peak(lambda m=m: initconf.compile(m, spec)) / 1e6,
        }
        for width in (64, 16_384)
        for m in [blocks(100, width)]
    ]
    table(memory)
    save("planning", times + memory)


if __name__ == "__main__":
    main()

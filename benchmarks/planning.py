"""How long surveying and compiling takes: 100,000 parameters, and a model whose parameters are huge (on meta).

    python benchmarks/planning.py

The yardstick is what nobody can do without: going once through `model.named_parameters()`, in the same process.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

import initconf
from initconf.survey import survey


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)


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
    print(f"{count:,} parameters; named_parameters() takes {walk:.2f} s")
    for name, work in {
        "survey": lambda: survey(model),
        "survey and compile": lambda: initconf.compile(model, spec),
    }.items():
        taken = seconds(work)
        print(f"  {name:20} {taken:.2f} s  {taken / walk:.1f} times named_parameters()")
    models = blocks(100, 64), blocks(100, 16_384)
    small, large = (peak(lambda m=m: initconf.compile(m, spec)) for m in models)
    print(f"peak memory of compile, 1,000 parameters: width 64 {small / 1e6:.2f} MB, width 16,384 {large / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

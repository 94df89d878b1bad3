"""How long surveying and compiling takes: 100,000 parameters, and a model whose parameters are huge (on meta).

    python benchmarks/planning.py [--quick]

The yardstick is what nobody can do without: going once through `model.named_parameters()`, in the same process.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import torch
from measuring import Row, main, seconds
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


def times(quick: bool) -> list[Row]:
    """Ten parameters a block."""
    spec = initconf.load("he")
    model = blocks(10 if quick else 10_000, 64)
    count = sum(1 for _ in model.parameters())
    walk = seconds(lambda: list(model.named_parameters()))
    works = {"survey": lambda: survey(model), "survey and compile": lambda: initconf.compile(model, spec)}
    rows: list[Row] = [{"what": "named_parameters()", "parameters": count, "s": walk, "of the walk": 1.0}]
    for name, work in works.items():
        taken = seconds(work, 3)
        rows.append({"what": name, "parameters": count, "s": taken, "of the walk": taken / walk})
    return rows


def memory(quick: bool) -> list[Row]:
    """What compiling needs should not depend on how large the parameters are."""
    spec = initconf.load("he")
    rows = []
    for width in (64, 16_384):
        model = blocks(2 if quick else 100, width)
        names, values = len(list(model.parameters())), sum(p.numel() for p in model.parameters())
        found = peak(lambda m=model: initconf.compile(m, spec))
        rows.append({"width": width, "parameters": names, "values": values, "peak MiB of compile": found / 2**20})
    return rows


if __name__ == "__main__":
    main("planning", __doc__, {"times": times, "memory": memory})

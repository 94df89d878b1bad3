"""How fast values are written: against torch.nn.init and against `fill_`, by law, dtype, size and threads.

    python benchmarks/elementwise.py [--quick]

torch's own functions draw in one thread, and `fill_` in as many as initconf. JAX makes a new array each time, in as many as it
wants.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from drawing import Plot
from measuring import Row, in_turns, intra_op, main, seconds, thread_counts
from torch import Tensor, nn

import initconf

LAWS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "uniform": ({"name": "uniform", "low": -0.1, "high": 0.1}, lambda w: nn.init.uniform_(w, -0.1, 0.1)),
    "normal": ({"name": "normal", "std": 0.02}, lambda w: nn.init.normal_(w, 0, 0.02)),
    "truncated_normal": ({"name": "truncated_normal", "std": 0.02}, lambda w: nn.init.trunc_normal_(w, 0, 0.02, -0.04, 0.04)),
}


def most(quick: bool) -> int:
    """How many values the largest parameter has."""
    return 1 << (14 if quick else 26)


def one(n: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
    """A model of a single parameter."""
    return nn.Linear(1 << 10, n >> 10, bias=False, dtype=dtype, device=device)


def written(model: nn.Module, law: str, threads: int, runs: int = 5) -> float:
    """How long initconf takes, in seconds."""
    plan = initconf.compile(model, {"initializer": LAWS[law][0]})
    return seconds(lambda: initconf.apply(model, plan, threads=threads), runs)


def compared(model: nn.Module, law: str, counts: list[int], runs: int = 5) -> list[Row]:
    """A row for each number of threads."""
    weight = next(model.parameters()).detach()
    values, theirs = weight.numel(), LAWS[law][1]
    # trunc_normal_ takes seconds for many values, and what is measured is in the tens
    torch_runs = 1 if law == "truncated_normal" and values > 1 << 24 and not weight.is_cuda else runs
    torch_init = seconds(lambda: theirs(weight), torch_runs)
    rows: list[Row] = []
    for threads in counts:
        with intra_op(threads):
            fill = seconds(lambda: weight.fill_(1.0), runs)
        ours = written(model, law, threads, runs)
        rows.append(
            {
                "law": law,
                "dtype": str(weight.dtype).removeprefix("torch."),
                "values": values,
                "threads": threads,
                "ms": 1e3 * ours,
                "values/s": values / ours,
                "fill_ ms": 1e3 * fill,
                "share of fill_": fill / ours,
                "of one thread": 1e3 * ours / rows[0]["ms"] if rows else 1.0,
                "torch.nn.init ms": 1e3 * torch_init,
                "torch.nn.init runs": torch_runs,
                "times as fast": torch_init / ours,
            }
        )
    return rows


def laws(quick: bool) -> list[Row]:
    """Each law by number of threads, for the largest parameter."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        model = one(most(quick), dtype)
        rows += [row for law in LAWS for row in compared(model, law, thread_counts())]
    return rows


def halves(quick: bool) -> list[Row]:
    """bfloat16 against float32, in turns."""
    rows = []
    models = [one(most(quick), dtype) for dtype in (torch.float32, torch.bfloat16)]
    for law, (initializer, _) in LAWS.items():
        plans = [initconf.compile(model, {"initializer": initializer}) for model in models]
        for threads in thread_counts():
            works = [partial(initconf.apply, m, plan, threads=threads) for m, plan in zip(models, plans, strict=True)]
            whole, half = in_turns(works)
            row = {"law": law, "values": most(quick), "threads": threads, "ms": 1e3 * half, "values/s": most(quick) / half}
            rows.append(row | {"float32 ms": 1e3 * whole, "times as fast": whole / half})
    return rows


def sizes(quick: bool) -> list[Row]:
    """Each law by the size of the parameter, in as many threads as there are cores (two at the least)."""
    rows = []
    for power in range(10, most(quick).bit_length(), 4):
        model = one(1 << power)
        for law in LAWS:
            (row,) = compared(model, law, thread_counts()[-1:], 5 if power > 20 else 11)
            del row["of one thread"]
            rows.append(row)
    return rows


def peers(quick: bool) -> list[Row]:
    """What else initialises: JAX's initializers and MMEngine's `init_weights`, where they are installed."""
    n, threads = most(quick), thread_counts()[-1]
    theirs: list[tuple[str, str, float]] = []
    if importlib.util.find_spec("jax"):
        import jax

        initializers = {
            "uniform": jax.nn.initializers.uniform(0.2),
            "normal": jax.nn.initializers.normal(0.02),
            "truncated_normal": jax.nn.initializers.truncated_normal(0.02),
        }
        for law, initializer in initializers.items():
            draw = jax.jit(lambda key, f=initializer: f(key, (n >> 10, 1 << 10)))
            theirs.append((f"jax {jax.__version__}", law, seconds(lambda d=draw: d(jax.random.key(0)).block_until_ready())))
    if importlib.util.find_spec("mmengine"):
        import mmengine
        from mmengine.logging import MMLogger
        from mmengine.model import BaseModule

        MMLogger.get_current_instance().setLevel("WARNING")  # it names every parameter

        class Net(BaseModule):
            def __init__(self) -> None:
                super().__init__(init_cfg={"type": "Normal", "layer": "Linear", "std": 0.02})
                self.layer = one(n)

        net = Net()

        def init_weights() -> None:
            net._is_init = False
            net.init_weights()

        theirs.append((f"mmengine {mmengine.__version__}", "normal", seconds(init_weights)))
    rows = []
    for peer, law, taken in theirs:
        ours = written(one(n), law, threads)
        row = {"peer": peer, "law": law, "values": n, "threads": threads, "ms": 1e3 * ours, "values/s": n / ours}
        rows.append(row | {"peer ms": 1e3 * taken, "peer values/s": n / taken, "times as fast": taken / ours})
    return rows


def small(quick: bool) -> list[Row]:
    """Many parameters of 64 values: compiled and applied, against a plain loop over torch.nn.init."""
    model = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(40 if quick else 4000))
    spec = initconf.load("he")
    ours = seconds(lambda: initconf.initialize(model, spec))
    loop = seconds(lambda: [nn.init.kaiming_normal_(p) for p in model.parameters()])
    values = 64 * len(model)
    row = {"parameters": len(model), "values": values, "ms": 1e3 * ours, "values/s": values / ours}
    return [row | {"loop over torch.nn.init ms": 1e3 * loop, "times as fast": loop / ours}]


PLOTS = [
    Plot(
        "laws",
        "laws",
        ("law", "dtype", "threads"),
        "times as fast",
        look={"xscale": "log", "xlabel": "times as fast as torch.nn.init"},
    ),
    Plot(
        "sizes",
        "sizes",
        ("law",),
        "ms",
        x="values",
        dashed="torch.nn.init ms",
        look={"xscale": "log", "yscale": "log", "xlabel": "values of the parameter (float32)", "ylabel": "ms"},
    ),
    Plot(
        "threads",
        "laws",
        ("law", "dtype"),
        "of one thread",
        x="threads",
        shared=True,
        look={"xlabel": "threads", "ylabel": "time, of that of one thread", "ylim": (0, None)},
    ),
]

if __name__ == "__main__":
    main("elementwise", __doc__, {"laws": laws, "halves": halves, "sizes": sizes, "peers": peers, "small": small}, PLOTS)

"""How fast values are written: against torch.nn.init and against `fill_`, by law, dtype, size and threads.

python benchmarks/elementwise.py [--plot FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
from typing import Any

import torch
from measuring import cores, save, seconds, table
from torch import nn

import initconf

N = 1 << 26
LAWS: dict[str, tuple[dict[str, Any], Any]] = {
    "uniform": ({"name": "uniform", "low": -0.1, "high": 0.1}, lambda w: nn.init.uniform_(w, -0.1, 0.1)),
    "normal": ({"name": "normal", "std": 0.02}, lambda w: nn.init.normal_(w, 0, 0.02)),
    "truncated_normal": ({"name": "truncated_normal", "std": 0.02}, lambda w: nn.init.trunc_normal_(w, 0, 0.02, -0.04, 0.04)),
}


def one(n: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Linear(1 << 10, n >> 10, bias=False, dtype=dtype)


def taken(model: nn.Module, spec: dict[str, Any], threads: int, repeats: int = 5) -> float:
    plan = initconf.compile(model, {"initializer": spec})
    return seconds(lambda: initconf.apply(model, plan, threads=threads), repeats)


def laws() -> list[dict[str, Any]]:
    """Each law at 2^26 values, in one and two threads; torch's own functions draw in one."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        model = one(N, dtype)
        weight = next(model.parameters()).detach()
        fill = seconds(lambda w=weight: w.fill_(1.0))
        for name, (spec, theirs) in LAWS.items():
            torch_init = seconds(lambda w=weight, f=theirs: f(w), 1 if name == "truncated_normal" else 5)
            for threads in (1, 2):
                ours = taken(model, spec, threads)
                rows.append(
                    {
                        "law": name,
                        "dtype": str(dtype).removeprefix("torch."),
                        "threads": threads,
                        "ms": 1e3 * ours,
                        "Mvalues/s": N / ours / 1e6,
                        "of fill_": f"{fill / ours:.0%}",
                        "torch.nn.init ms": 1e3 * torch_init,
                        "times as fast": torch_init / ours,
                    }
                )
    return rows


def others() -> list[dict[str, Any]]:
    """What else initialises: JAX's initializers and MMEngine's `init_weights`, where they are installed."""
    rows = []
    model = one(N)
    ours = {name: taken(model, spec, 2) for name, (spec, _) in LAWS.items()}
    if importlib.util.find_spec("jax"):
        import jax

        made = {
            "uniform": jax.nn.initializers.uniform(0.2),
            "normal": jax.nn.initializers.normal(0.02),
            "truncated_normal": jax.nn.initializers.truncated_normal(0.02),
        }
        for name, initializer in made.items():
            draw = jax.jit(lambda key, f=initializer: f(key, (N >> 10, 1 << 10)))
            theirs = seconds(lambda d=draw: d(jax.random.key(0)).block_until_ready())
            rows.append(
                {"peer": f"jax {jax.__version__}", "law": name, "ms": 1e3 * theirs, "times as fast": theirs / ours[name]}
            )
    if importlib.util.find_spec("mmengine"):
        import mmengine
        from mmengine.model import BaseModule

        class Net(BaseModule):
            def __init__(self) -> None:
                super().__init__(init_cfg={"type": "Normal", "layer": "Linear", "std": 0.02})
                self.layer = one(N)

        net = Net()

        def init_weights() -> None:
            net._is_init = False
            net.init_weights()

        theirs = seconds(init_weights)
        rows.append(
            {
                "peer": f"mmengine {mmengine.__version__}",
                "law": "normal",
                "ms": 1e3 * theirs,
                "times as fast": theirs / ours["normal"],
            }
        )
    return rows


def sizes() -> list[dict[str, Any]]:
    """Normal values, by the size of the parameter."""
    rows = []
    for power in range(10, 27, 4):
        model = one(1 << power)
        weight = next(model.parameters()).detach()
        ours = taken(model, LAWS["normal"][0], 2)
        theirs = seconds(lambda w=weight: nn.init.normal_(w, 0, 0.02))
        rows.append({"values": 1 << power, "ms": 1e3 * ours, "torch.nn.init ms": 1e3 * theirs, "times as fast": theirs / ours})
    return rows


def small() -> list[dict[str, Any]]:
    """4,000 parameters of 64 values: compiled and applied, against a plain loop over torch.nn.init."""
    model = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(4000))
    spec = initconf.load("he")
    ours = seconds(lambda: initconf.initialize(model, spec))
    loop = seconds(lambda: [nn.init.kaiming_normal_(p) for p in model.parameters()])
    return [{"ms": 1e3 * ours, "loop over torch.nn.init ms": 1e3 * loop, "of the loop": ours / loop}]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plot", metavar="FILE")
    args = parser.parse_args()
    print(f"two threads have {cores():.2f} cores")
    parts = {"laws": laws(), "others": others(), "sizes": sizes(), "small": small()}
    for name, rows in parts.items():
        print(f"\n{name}")
        table(rows) if rows else print("none is installed")
    print(f"\ntwo threads have {cores():.2f} cores")
    save("elementwise", [{"part": name, **row} for name, rows in parts.items() for row in rows])
    if args.plot:
        plot(parts["laws"], args.plot)


def plot(rows: list[dict[str, Any]], path: str) -> None:
    import matplotlib.pyplot as plt

    single = [row for row in rows if row["dtype"] == "float32"]
    names = [f"{row['law']}, {row['threads']} threads" for row in single]
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    axes.barh(names, [row["times as fast"] for row in single])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="times as fast as torch.nn.init, 2^26 float32 values")
    figure.savefig(path)


if __name__ == "__main__":
    main()

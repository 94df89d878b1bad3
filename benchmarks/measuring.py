"""What the benchmarks share: medians, a probe for free cores, and one place for their results."""

from __future__ import annotations

import gc
import json
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

RESULTS = Path(os.environ.get("INITCONF_RESULTS", Path(__file__).parent / "results"))


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """The median time of some runs, after one that does not count."""
    work()
    taken = []
    for _ in range(repeats):
        gc.collect()  # models are cycles: what the last run left would stay, and this one would ask for new memory
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)


def cores() -> float:
    """How many cores two threads really have: near 2 on a machine that is idle, near 1 where others are at work."""
    data = [torch.empty(1 << 22) for _ in range(2)]

    def spin(x: torch.Tensor) -> None:
        for _ in range(20):
            x.fill_(0.3).erfinv_()

    def both() -> None:
        crew = [threading.Thread(target=spin, args=(x,)) for x in data]
        for member in crew:
            member.start()
        for member in crew:
            member.join()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return 2 * seconds(lambda: spin(data[0]), 3) / seconds(both, 3)
    finally:
        torch.set_num_threads(threads)


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "free cores of two": round(cores(), 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def save(name: str, rows: list[dict[str, Any]]) -> None:
    """Keep the results as JSON."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2) + "\n", encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> None:
    """Print rows with aligned columns."""
    titles = list(dict.fromkeys(key for row in rows for key in row))
    cells = [titles, *([_said(row.get(title, "")) for title in titles] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(titles))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _said(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

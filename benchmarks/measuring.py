"""What the benchmarks share: from parts to tables, JSON and plots; medians and peaks; how busy the machine is."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch
from drawing import Plot, draw
from machine import machine, usable

RESULTS = Path(__file__).resolve().parent / "results"
BUSY = 1.7
"""Two threads that have fewer cores than this share them with somebody."""

Row = dict[str, Any]
Part = Callable[[bool], list[Row]]
"""Measures: whether quickly, in sizes that only show that it works."""


def main(name: str, title: str | None, parts: dict[str, Part], plots: Sequence[Plot] = ()) -> None:
    """Measure each part and print it as a table; keep all rows as JSON, and draw the plots beside it.

    They are kept in INITCONF_RESULTS, else in benchmarks/results, where nothing goes that was measured with --quick.
    """
    parser = argparse.ArgumentParser(description=title, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see that it works; kept in INITCONF_RESULTS only")
    quick = parser.parse_args().quick
    free, rows = [cores(quick=quick)], []
    for part, measure in parts.items():
        print(f"\n{part}")
        measured = measure(quick)
        table(measured) if measured else print("nothing to measure: what it needs is not installed")
        rows += [{"part": part, **row} for row in measured]
    free.append(cores(quick=quick))
    print(f"\ntwo threads had {free[0]:.2f} cores before, and have {free[1]:.2f} now")
    if min(free) < BUSY:
        print(f"the machine is busy: two threads have {min(free):.2f} cores. Measure again when it is idle.")
    kept = os.environ.get("INITCONF_RESULTS")
    if kept or not quick:
        folder = Path(kept) if kept else RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        found = {"quick": quick, "machine": machine() | {"free cores of two": free}, "rows": rows}
        (folder / f"{name}.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        draw(plots, rows, folder)


# --- measuring ---------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object], runs: int = 5) -> float:
    """The median time of some runs, after one that does not count. On a GPU, until it is done.

    What takes less than 2 ms is done so often in a row for each run that they take as much together.
    """

    def timed(often: int = 1) -> float:
        start = time.perf_counter()
        for _ in range(often):
            work()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / often

    often = max(1, int(0.002 / timed())) if timed() < 0.05 else 1
    taken = []
    for _ in range(runs):
        if often == 1:
            gc.collect()  # models are cycles: what the last run left would stay, and this one would ask for new memory
        taken.append(timed(often))
    return median(taken)


def in_turns(works: Sequence[Callable[[], object]], runs: int = 9) -> list[float]:
    """The median time of each of some works, in seconds, done in turns: what a machine does beside them meets all alike."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(runs):
        for times, work in zip(taken, works, strict=True):
            times.append(seconds(work, 1))
    return [median(times) for times in taken]


def extra_memory(work: Callable[[], object]) -> float | None:
    """How far the resident memory of this process rises while `work` runs, in MiB; None where not on Linux.

    The highest that the kernel saw (VmHWM, which is first set back to the present), less what was resident before. Memory that
    is free is given back to the system first, as far as glibc's allocator and Python's can, so that using it again counts.
    """

    def highest() -> int:
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])

    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # another libc, or none by this name
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
        before = highest()
    except (OSError, IndexError):
        work()
        return None
    work()
    return (highest() - before) / 1024


@contextmanager
def intra_op(threads: int) -> Iterator[None]:
    """torch's own operations in so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def thread_counts() -> list[int]:
    """1, 2, 4 and so on up to the cores, and all of them; at least 1 and 2."""
    return sorted({1, 2, usable(), *(1 << i for i in range(usable().bit_length()))})


def cores(threads: int = 2, quick: bool = False) -> float:
    """How many cores some threads really have: with two near 2 on a machine that is idle, near 1 where others are at work."""
    data = [torch.empty(1 << (16 if quick else 22)) for _ in range(threads)]

    def spin(x: torch.Tensor) -> None:
        for _ in range(20):
            x.fill_(0.3).erfinv_()

    def all_of_them() -> None:
        crew = [threading.Thread(target=spin, args=(x,)) for x in data]
        for member in crew:
            member.start()
        for member in crew:
            member.join()

    with intra_op(1):
        return threads * seconds(lambda: spin(data[0]), 3) / seconds(all_of_them, 3)


# --- printing ----------------------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> None:
    """Print rows with aligned columns."""
    titles = list(dict.fromkeys(key for row in rows for key in row))
    cells = [titles, *([_said(row.get(title)) for title in titles] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(titles))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _said(value: object) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

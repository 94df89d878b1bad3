"""A bar on stderr while values are written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from initconf.plan import Plan

LONG = 100_000_000
"""How many values take long enough for a bar."""


@contextmanager
def shown(plan: Plan, wanted: bool | None, doing: str = "initialising") -> Iterator[Callable[[int], None]]:
    """Where to report how many values were gone through; None shows them for long work on a terminal."""
    if wanted is None:
        wanted = sys.stderr.isatty() and sum(entry.numel for entry in plan.entries) >= LONG
    if not wanted:
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn("values"), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=sum(entry.numel for entry in plan.entries))
        yield lambda size: bar.advance(task, size)

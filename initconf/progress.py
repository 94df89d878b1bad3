"""A bar on stderr while values are written."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from initconf.laws import Keep
from initconf.owners import Found
from initconf.plan import Plan
from initconf.report import part

LONG = 100_000_000
"""How many values take long enough for a bar."""


class _Unfailing:
    """A stream that takes what it can: a full disk behind stderr does not end the work that the bar is about."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def shown(
    plan: Plan, wanted: bool | None, doing: str = "initialising", owners: Mapping[str, Found] | None = None
) -> Iterator[Callable[[int], None]]:
    """Where to report how many values were gone through; None shows them for long work on a terminal.

    With `owners` those that are written into their parameters, else all of the plan's.
    """
    total = _total(plan, owners) if wanted or (wanted is None and sys.stderr.isatty()) else 0
    if not wanted and total < LONG:
        yield lambda size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn("values"), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=_Unfailing(sys.stderr)), transient=True) as bar:  # type: ignore[arg-type]
        task = bar.add_task("", total=total)
        yield lambda size: bar.advance(task, size)


def _total(plan: Plan, owners: Mapping[str, Found] | None) -> int:
    if owners is None:
        return sum(entry.numel for entry in plan.entries)
    written = [entry for entry in plan.leaves() if not isinstance(entry.law, Keep)]
    return sum(part(entry, owners[entry.name].parameter).tensor.numel() for entry in written)

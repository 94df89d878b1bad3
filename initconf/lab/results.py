"""What runs leave behind: one JSON line each in `results.jsonl`, read back as one table. Loads no torch."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

log = logging.getLogger(__name__)

FILE = "results.jsonl"

Row = dict[str, Any]
"""num, overrides, status (`completed` or `failed`), metrics, objective (`accuracy` or `loss`), init, model, data,
seconds, error; and `dir`, where it was read."""


def append(directory: Path, row: Mapping[str, Any]) -> None:
    """Add `row` to the results in `directory`; several processes may do so. A number that is not finite is null."""
    directory.mkdir(parents=True, exist_ok=True)
    line = json.dumps(_finite(row), allow_nan=False) + "\n"
    # One write to a file opened for appending: the lines of two jobs cannot run into each other.
    handle = os.open(directory / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as JSON; numbers that are not finite are null."""
    path.write_text(json.dumps(_finite(values), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def read(directory: str | Path) -> list[Row]:
    """All rows under `directory`, at whatever depth, in the order of their files and lines.

    A line that was cut off is left out with a word in the log. Raises FileNotFoundError if there is no such directory.
    """
    root = Path(directory)
    if not root.is_dir():
        raise FileNotFoundError(f"no directory {root}")
    rows = []
    for file in sorted(root.rglob(FILE)):
        where = file.parent.relative_to(root).as_posix()
        for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            row = _parse(line)
            if row is not None:
                rows.append({**row, "dir": where})
            elif line.strip():
                log.warning("%s:%d is not a complete line: left out", file, number)
    return rows


def _parse(line: str) -> Row | None:
    # The beginning of a line whose process was killed may stand in front of the next process's line.
    for text in (line, line[max(line.rfind('{"num"'), 0) :]):
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and "status" in row:
            return row
    return None


def table(rows: Iterable[Row]) -> list[Row]:
    """The rows best first, one data set after another: by test accuracy, or by test loss where that is the objective.

    A run whose number is not finite comes after those with one, and failed runs come last of all.
    """

    def rank(row: Row) -> tuple[bool, str, float]:
        metrics = row.get("metrics") or {}
        if row.get("objective") == "loss":
            value = metrics.get("test_loss")
        else:
            value = metrics.get("test_accuracy")
            value = None if value is None else -value
        return row["status"] != "completed", str(row.get("data")), math.inf if value is None else value

    return sorted(rows, key=rank)


def to_json(rows: Iterable[Row]) -> str:
    """The ranked rows as one JSON array."""
    return json.dumps(table(rows), indent=2)


def render(rows: Iterable[Row]) -> Table:
    """The ranked rows as a table for a terminal, and below it the errors of the runs that failed.

    The title says what all runs have in common, so that the columns show in what they differ.
    """
    ranked = table(rows)
    first = ranked[0] if ranked else {}
    differ = {name for name in ("dir", "model", "data") if len({str(row.get(name)) for row in ranked}) > 1}
    names: list[str] = [name for name in ("dir", "num", "model", "data", "init") if name in {*differ, "num", "init"}]
    shared = [override for override in _overrides(first) if all(override in _overrides(row) for row in ranked)]
    common = [f"{name}={first[name]}" for name in ("model", "data") if name in first and name not in differ] + shared
    own = any(override not in shared for row in ranked for override in _overrides(row))
    failures = []

    view = Table(title=Text(" ".join(common)) if common else None, title_justify="left", caption_justify="left")
    view.box, view.padding = SIMPLE_HEAD, (0, 1, 0, 0)
    for name in names:
        view.add_column({"dir": "run", "num": "job"}.get(name, name), overflow="fold", no_wrap=name != "dir")
    if own:
        view.add_column("overrides", overflow="fold")
    for name in ("accuracy", "test loss", "train loss", "at start", "seconds"):
        view.add_column(name, justify="right", no_wrap=True)
    for row in ranked:
        metrics = row.get("metrics") or {}
        cells = [str(row.get(name, "")) for name in names]
        if own:
            cells.append(" ".join(override for override in _overrides(row) if override not in shared))
        if row["status"] == "completed":
            cells.append(_number(metrics, "test_accuracy", ".3f"))
        else:
            cells.append(str(row["status"]))
            where = f"{row.get('dir')}, job" if "dir" in differ else "job"
            failures.append(f"{where} {row.get('num')}: {row.get('error')}")
        cells += [_number(metrics, key, ".4f") for key in ("test_loss", "train_loss", "initial_loss")]
        cells.append(_number(row, "seconds", ".1f"))
        view.add_row(*map(Text, cells))  # Text: an override such as rules=[roles] is no markup
    view.caption = Text("\n".join(failures)) if failures else None
    return view


def _overrides(row: Row) -> list[str]:
    """What was typed for this run beyond the choices that have columns of their own."""
    return [o for o in row.get("overrides") or [] if o.partition("=")[0] not in ("model", "data", "init")]


def _number(values: Mapping[str, Any], key: str, form: str) -> str:
    """The number in its form; nothing where there is none, and `not finite` where it was stored as null."""
    if key not in values:
        return ""
    return "not finite" if values[key] is None else format(values[key], form)

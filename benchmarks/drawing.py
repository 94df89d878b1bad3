"""Plots of the results, as small SVG files, where matplotlib is installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 6.4, 3.6
BAR = 0.26
"""Inches of the height for each bar."""


@dataclass(frozen=True)
class Plot:
    """Some rows of a part: a bar for each, or a line for each of what `by` tells apart."""

    file: str
    part: str
    by: tuple[str, ...]
    """The columns that name a bar or a line."""
    y: str
    x: str | None = None
    """Without it: bars."""
    dashed: str | None = None
    """A second column, drawn as `y` is, but dashed."""
    shared: bool = False
    """Whether to dot in 1/x, what y would be if work was shared without loss."""
    only: dict[str, Any] = field(default_factory=dict)
    """Values of columns: of the rows that are drawn."""
    look: dict[str, Any] = field(default_factory=dict)
    """Settings of the axes."""


def draw(plots: Sequence[Plot], rows: list[dict[str, Any]], folder: Path) -> None:
    """Write each plot that has rows to `folder`."""
    if not plots:
        return
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        print("no plots: matplotlib is not installed")
        return
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "initconf"}):
        for plot in plots:
            wanted = {"part": plot.part, **plot.only}
            chosen = [row for row in rows if wanted.items() <= row.items()]
            if chosen:
                height = HEIGHT if plot.x else 1 + BAR * len(chosen)
                figure = Figure(figsize=(WIDTH, height), layout="constrained")
                axes = figure.subplots()
                _lines(axes, plot, chosen) if plot.x else _bars(axes, plot, chosen)
                axes.set(**plot.look)
                if not plot.x:
                    axes.xaxis.set_major_formatter("{x:g}")
                    axes.xaxis.set_minor_formatter("")
                figure.savefig(folder / f"{plot.file}.svg", metadata={"Date": None})


def _name(plot: Plot, row: dict[str, Any]) -> str:
    return ", ".join(row[by] if isinstance(row[by], str) else f"{by}: {row[by]}" for by in plot.by)


def _bars(axes: Any, plot: Plot, rows: list[dict[str, Any]]) -> None:
    bars = axes.barh([_name(plot, row) for row in rows], [row[plot.y] for row in rows])
    axes.bar_label(bars, fmt="%.2g", padding=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.15)


def _lines(axes: Any, plot: Plot, rows: list[dict[str, Any]]) -> None:
    for name in dict.fromkeys(_name(plot, row) for row in rows):
        own = [row for row in rows if _name(plot, row) == name]
        at = [row[plot.x] for row in own]
        (line,) = axes.plot(at, [row[plot.y] for row in own], marker="o", markersize=4, label=name)
        if plot.dashed:
            dashes = [row[plot.dashed] for row in own]
            axes.plot(at, dashes, "--", color=line.get_color(), linewidth=1, label=f"{name}: {plot.dashed}")
    counts = sorted({row[plot.x] for row in rows})
    if plot.shared:
        axes.plot(counts, [1 / x for x in counts], ":", color="black", linewidth=1, label="shared without loss")
    if "xscale" not in plot.look and len(counts) < 12:
        axes.set_xticks(counts)
    axes.legend(fontsize="small")

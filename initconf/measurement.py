"""What was measured of a hypernetwork: rows, a table, a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from initconf.plan import align

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TensorRow:
    """A generated tensor, over all seeds and conditions."""

    name: str
    kind: str
    wanted_mean: float
    mean: float
    wanted_var: float
    var: float
    """The mean square of the distance from `wanted_mean`."""
    spread: float
    """The standard deviation of that over the seeds, as a share of it: what a single initialisation may be off by."""

    @property
    def ratio(self) -> float:
        """What is there, as a share of what was wanted; 1 where both are 0."""
        if self.wanted_var:
            return self.var / self.wanted_var
        return 1.0 if self.var == 0 else math.inf


@dataclass(frozen=True)
class LayerRow:
    """A layer of the generated network, over all seeds and conditions."""

    name: str
    wanted: float
    """c: the second moment that its outputs z are to have before any activation."""
    forward: float
    """The mean of E[z^2] / c."""
    median: float
    """Its median over the seeds."""
    spread: float
    """Its standard deviation over the seeds, as a share of the mean."""
    gradient: float
    """The mean of E[g^2] for the gradient g at z, where it is 1 at the network's output."""


@dataclass(frozen=True)
class Measurement:
    """What `measure` found: a table (`str`), rows, a picture."""

    tensors: tuple[TensorRow, ...]
    layers: tuple[LayerRow, ...] = ()
    """Of the generated network, in the order in which they run."""
    seeds: int = 1
    conditions: int = 1
    chunk_correlation: float | None = None
    """The mean correlation of two chunks, entry by entry; 0 where they are independent. None without chunks."""

    def __str__(self) -> str:
        head = ["generated", "kind", "mean", "wanted", "variance", "wanted", "ratio", "spread"]
        rows = [head]
        for t in self.tensors:
            numbers = (t.mean, t.wanted_mean, t.var, t.wanted_var, t.ratio, t.spread)
            rows.append([t.name, t.kind, *(f"{n:.4g}" for n in numbers)])
        lines = align(rows, [False, False] + [True] * 6)
        if self.layers:
            rows = [["layer", "c", "E[z^2]/c", "median", "spread", "E[g^2]"]]
            for row in self.layers:
                found = (row.wanted, row.forward, row.median, row.spread, row.gradient)
                rows.append([row.name, *(f"{n:.4g}" for n in found)])
            lines += ["", *align(rows, [False] + [True] * 5)]
        if self.chunk_correlation is not None:
            lines += ["", f"correlation of two chunks: {self.chunk_correlation:.3f}"]
        return "\n".join([*lines, f"{self.seeds} seeds, {self.conditions} conditions"])

    def plot(self) -> Figure:
        """Ratios of tensors, and moments by layer, as a figure of matplotlib. Raises ModuleNotFoundError without it."""
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("plots are drawn by matplotlib: pip install 'initconf[lab]'") from error
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        shown = [t for t in self.tensors if t.wanted_var]
        panels = figure.subplots(1, 2 if self.layers else 1, squeeze=False)[0]
        panels[0].errorbar(
            range(len(shown)), [t.ratio for t in shown], [t.ratio * t.spread for t in shown], fmt="o", capsize=3, color="black"
        )
        panels[0].set_xticks(range(len(shown)), [t.name for t in shown], rotation=45, ha="right", fontsize=7)
        panels[0].set_title("generated variance / wanted", fontsize=9)
        if self.layers:
            at = range(len(self.layers))
            panels[1].errorbar(
                at, [r.forward for r in self.layers], [r.forward * r.spread for r in self.layers], marker="o", capsize=3,
                color="black", label="E[z²] / c",
            )  # fmt: skip
            panels[1].plot(at, [r.gradient for r in self.layers], marker="s", color="tab:red", label="E[g²]")
            panels[1].set_xticks(at, [r.name for r in self.layers], rotation=45, ha="right", fontsize=7)
            panels[1].set_title("signals and gradients", fontsize=9)
            panels[1].set_yscale("log")
            panels[1].legend(fontsize=8)
        for panel in panels:
            panel.axhline(1, color="gray", linewidth=0.7, linestyle=":")
        return figure

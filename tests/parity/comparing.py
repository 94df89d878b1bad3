"""What the parity tests share: kernels to initialise, comparisons with stated chances of error, a table of differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

import initconf
from initconf.laws import Law, TruncatedNormal, Uniform

Z = 5.5
"""How many of its own standard errors a sample may be off: one right sample in 2.6e7 is."""
P_SHAPE = 1e-7
"""The smallest chance, by Kolmogorov and Smirnov, that two samples of one law may have."""
SHOWN = 200_000
"""How many values of each are held against each other for their shape."""


@dataclass
class Row:
    """A line of the table."""

    peer: str
    what: str
    theirs: str
    ours: str
    difference: str
    note: str = ""


ROWS: list[Row] = []
HEAD = ("peer", "what", "theirs", "ours", "difference", "note")


def table() -> list[str]:
    """All comparisons, as aligned lines."""
    cells = [HEAD, *((r.peer, r.what, r.theirs, r.ours, r.difference, r.note) for r in ROWS)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


class Kernel(nn.Module):
    """A parameter as Keras and JAX store it: (..., in, out)."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype))


@initconf.layout(Kernel)
def _kernel(module: Kernel, name: str, parameter: torch.Tensor) -> initconf.Layout:
    return initconf.Layout(in_axes=(parameter.ndim - 2,), out_axes=(parameter.ndim - 1,))


def ours(
    shape: tuple[int, ...], initializer: str | dict[str, Any], dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Law, np.ndarray]:
    """The law that an initializer gives to such a kernel, and values of it."""
    kernel = Kernel(shape, dtype)
    report = initconf.initialize(kernel, {"initializer": initializer, "seed": seed}).verify()
    return report.plan["weight"].law, values(kernel.weight)


def values(tensor: Any) -> np.ndarray:
    """A tensor of torch (or of whatever NumPy can read) in double precision."""
    if isinstance(tensor, torch.Tensor):
        tensor = tensor.detach().cpu()
        tensor = tensor.to(torch.complex128 if tensor.is_complex() else torch.float64).numpy()
    array = np.asarray(tensor)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


@cache
def scheme(name: str) -> initconf.InitSpec:
    return initconf.load(name)


def planned(model: nn.Module, name: str) -> dict[str, initconf.Entry]:
    """The entries of a scheme's plan by name, blocks too, after the model was written by it."""
    report = initconf.initialize(model, scheme(name)).verify()
    return {leaf.label: leaf for entry in report.plan for leaf in (entry, *entry.blocks)}


def exact(peer: str, what: str, theirs: float, ours: float, *, rel: float = 1e-12, note: str = "") -> None:
    """Two numbers that must be equal."""
    off = abs(theirs - ours) / abs(theirs) if theirs else abs(ours)
    ROWS.append(Row(peer, what, f"{theirs:.10g}", f"{ours:.10g}", f"{off:.1e}" if off else "0", note))
    assert off <= rel, ROWS[-1]


def same(
    peer: str, what: str, theirs: np.ndarray, law: Law, own: np.ndarray | None = None, *, step: float = 6e-8, note: str = ""
) -> None:
    """A peer's values must be such as the law gives: mean, std, bounds kept and reached, and the shape of our own values.

    `step` is the spacing of the peer's dtype: 6e-8 for float32, 4e-3 for bfloat16.
    """
    off = difference(theirs, law, own, step)
    line(peer, what, theirs, law, off, note)
    assert is_none(off), ROWS[-1]


def line(peer: str, what: str, theirs: np.ndarray, law: Law, off: str, note: str = "") -> None:
    """The line of the table for a sample and a law that differ as `difference` says."""
    found, said = (f"std {theirs.std():.6g}", f"std {law.std:.6g}") if law.std else (f"{theirs.flat[0]:g}", f"{law.mean:g}")
    ROWS.append(Row(peer, what, found, said, off if off != "std 0" else "0", note))


def is_none(off: str) -> bool:
    """Whether what `difference` says is that there is none."""
    return off.startswith("std ")


def difference(theirs: np.ndarray, law: Law, own: np.ndarray | None = None, step: float = 6e-8) -> str:
    """In what a sample differs from a law; where it does not, how far its std is off, in standard errors: `std +0.31 se`."""
    n, std, mean = theirs.size, law.std or 0.0, law.mean or 0.0
    size = np.abs(theirs) if np.iscomplexobj(theirs) else theirs
    low, high = law.bounds
    if not std:
        return "std 0" if np.all(np.abs(theirs - mean) <= step * abs(mean)) else f"not all are {mean:g}"
    slack = 2 * step * max(abs(b) for b in (low, high)) if math.isfinite(high) else 0.0
    if size.min() < low - slack or size.max() > high + slack:
        return f"values up to {np.abs(theirs).max():.6g}, outside of {high:.6g}"
    # How near a sample comes to its bounds: a share 20/n of the law lies beyond, and is missed once in 5e8 times.
    near = (
        _reached(law, 20 / n) if step < 1e-4 else None
    )  # half precision is drawn from few bits, which end before the law does
    if near is not None and size.max() < near - slack:
        return f"values only up to {size.max():.6g}, of {high:.6g}"
    if abs(theirs.mean() - mean) > Z * std / math.sqrt(n) + step * (abs(mean) + std):
        return f"mean {theirs.mean():.6g}, not {mean:.6g}"
    spread = math.sqrt(float(np.mean(np.abs(theirs - mean) ** 2)))
    errors = (spread / std - 1) / math.sqrt((_kurtosis(law) - 1) / (4 * n))
    if abs(errors) > Z + step * math.sqrt(n):
        return f"the std is off by {errors:+.1f} standard errors, {spread / std - 1:+.3%}"
    if own is not None and not np.iscomplexobj(theirs):
        p = stats.ks_2samp(theirs.ravel()[:SHOWN], own.ravel()[:SHOWN], method="asymp").pvalue
        if p < P_SHAPE:
            return f"another shape: p = {p:.1e}"
    return f"std {errors:+.2f} se"


def _kurtosis(law: Law) -> float:
    return 1.8 if isinstance(law, Uniform) else 2.3654 if isinstance(law, TruncatedNormal) and law.high == 2 else law.kurtosis


def _reached(law: Law, share: float) -> float | None:
    """The value that this share of the law lies above."""
    if isinstance(law, Uniform):
        return law.high - share * (law.high - law.low)
    if isinstance(law, TruncatedNormal):
        mean, std = law.parent
        return float(stats.truncnorm.isf(share, law.low, law.high, mean, std))
    return None


def fails(check: Callable[..., None], *args: Any, **kwargs: Any) -> bool:
    """Whether a comparison fails, without a line in the table: for tests that wrong things are found."""
    before = len(ROWS)
    try:
        check(*args, **kwargs)
    except AssertionError:
        return True
    finally:
        del ROWS[before:]
    return False

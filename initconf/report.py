"""The report: what was done, and whether the values in the model are those of the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING

from initconf.errors import ApplyError, Problem
from initconf.laws import Constant, Orthogonal
from initconf.plan import Entry, Plan, align
from initconf.survey import parameters

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILY = 1e-9
"""The chance that `verify` raises on values that are as planned, over all parameters together."""
_ENOUGH = 64
"""Fewer values than this say too little about a standard deviation."""
_WHOLE_CHECK = 1 << 22
"""Matrices of more entries are held to their moments alone: the product costs more than the initialisation."""


@dataclass(frozen=True)
class Row:
    """One parameter, or one block of it: what was planned and what its values are now."""

    name: str
    block: str | None
    rule: str | None
    initializer: str | None
    count: int
    expected_mean: float | None
    expected_std: float | None
    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Report:
    """What `apply` did. `rows` and `verify` look at the values as they are now."""

    plan: Plan
    model: nn.Module = field(repr=False)
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    """What could not be done beside the parameters, such as buffers that were not restored."""

    @property
    def rows(self) -> list[Row]:
        """A row for each entry that was written, in the order of the plan."""
        found = parameters(self.model)
        return [_measure(entry, values(entry, found[entry.name].parameter)) for entry in self.plan.leaves()]

    def verify(self) -> Report:
        """Hold the values in the model against the laws of the plan.

        Means and standard deviations by z-tests that let a right model fail once in 10^9 times; bounds, constants, padding
        rows, orthogonality and finiteness exactly, up to the dtype's rounding. What the plan cannot know (`keep`, `module_default`,
        plain functions) must only be finite.

        Returns the report itself. Raises ApplyError with every parameter that is not as planned.
        """
        found = parameters(self.model)
        entries = list(self.plan.leaves())
        bound = NormalDist().inv_cdf(1 - FAMILY / (4 * max(1, len(entries))))
        problems = []
        for entry in entries:
            if entry.name not in found:
                problems.append(Problem("the model has no such parameter", entry.label))
                continue
            problems += [
                Problem(text, entry.label) for text in _check(entry, values(entry, found[entry.name].parameter), bound)
            ]
        if problems:
            raise ApplyError(problems)
        return self

    def __str__(self) -> str:
        head = ["parameter", "values", "mean", "expected", "std", "expected", "min", "max"]
        lines = [head]
        for row in self.rows:
            label = f"{row.name}[{row.block}]" if row.block else row.name
            numbers = (row.mean, row.expected_mean, row.std, row.expected_std, row.low, row.high)
            lines.append([label, str(row.count), *("-" if n is None else f"{n:.5g}" for n in numbers)])
        return "\n".join(align(lines, [False] + [True] * (len(head) - 1)))


def values(entry: Entry, parameter: Tensor) -> Tensor:
    """The part of a parameter that an entry speaks of, without the row that stays zero."""
    part = parameter.detach()
    if entry.block is not None:
        part = part.narrow(entry.axis, entry.start, entry.shape[entry.axis])
    if entry.zero_row is not None:
        import torch

        part = torch.cat([part[: entry.zero_row], part[entry.zero_row + 1 :]])
    return part


def _measure(entry: Entry, part: Tensor) -> Row:
    n = part.numel()
    mean, std, low, high = (math.nan,) * 4
    if n:
        wide = part.double()
        mean, std = float(wide.mean()), float(wide.std(correction=0))
        low, high = float(wide.min()), float(wide.max())
    return Row(entry.name, entry.block, entry.rule, entry.initializer, n, entry.mean, entry.std, mean, std, low, high)


def _check(entry: Entry, part: Tensor, bound: float) -> list[str]:
    import torch

    n = part.numel()
    if not n:
        return []
    if not bool(torch.isfinite(part).all()):
        return ["not all values are finite"]
    law, said = entry.law, []
    if isinstance(law, Constant):
        wanted = torch.tensor(law.value, dtype=part.dtype)
        return [] if bool((part == wanted.to(part.device)).all()) else [f"not all values are {law.value:g}"]
    if entry.mean is None or entry.std is None:
        return []
    row = _measure(entry, part)
    step = torch.finfo(part.dtype).eps
    low, high = law.bounds
    slack = step * max(abs(b) for b in (low, high)) if math.isfinite(low) and math.isfinite(high) else 0.0
    if row.low < low - slack or row.high > high + slack:
        said.append(f"values from {row.low:.6g} to {row.high:.6g}, outside of the law's bounds [{low:.6g}, {high:.6g}]")
    # No law here has heavier tails than the normal, whose sample std spreads by std / sqrt(2n).
    if abs(row.mean - entry.mean) > bound * entry.std / math.sqrt(n) + step * abs(entry.mean):
        said.append(f"mean {row.mean:.6g} of {n} values, and the law's mean is {entry.mean:.6g}")
    if n >= _ENOUGH and abs(row.std - entry.std) > bound * entry.std / math.sqrt(2 * n) + step * entry.std:
        said.append(f"standard deviation {row.std:.6g} of {n} values, and the law's is {entry.std:.6g}")
    if isinstance(law, Orthogonal) and n <= _WHOLE_CHECK:
        said += _check_orthogonal(law, part, step)
    return said


def _check_orthogonal(law: Orthogonal, part: Tensor, step: float) -> list[str]:
    import torch

    rest = [axis for axis in range(part.ndim) if axis not in law.batch and axis not in law.out]
    matrix = part.permute([*law.batch, *law.out, *rest]).reshape(-1, law.rows, law.columns).double()
    small = matrix if law.rows <= law.columns else matrix.transpose(-1, -2)
    gram = small @ small.transpose(-1, -2)
    error = float((gram - law.gain**2 * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)).abs().max())
    allowed = law.gain**2 * max(1e-5, 4 * step)
    return [f"not orthogonal: the products of its rows are off by {error:.3g}"] if error > allowed else []

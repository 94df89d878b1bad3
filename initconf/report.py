"""The report: what was done, and whether the values in the model are those of the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING

from initconf.errors import ApplyError, Problem
from initconf.laws import Constant, Keep, Orthogonal
from initconf.owners import parameters
from initconf.plan import Entry, Plan, align

if TYPE_CHECKING:
    from torch import Tensor, nn

FAMILY = 1e-9
"""The chance that `verify` raises on values that are as planned, over all parameters together."""
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

        Means and standard deviations by tests that let a right model fail once in 10^9 times; bounds, constants, padding rows,
        orthogonality and finiteness exactly, up to the dtype's rounding. What the plan cannot know (`keep`, `module_default`,
        plain functions) must only be finite.

        How small an error is found depends on the number n of values: a mean that is off by 7 std/sqrt(n), a standard
        deviation that is off by 5/sqrt(n) of itself (20 percent for 625 values, 5 for 10,000). A handful tells little.

        Returns the report itself. Raises ApplyError with every parameter that is not as planned.
        """
        found = parameters(self.model)
        entries = list(self.plan.leaves())
        chance = FAMILY / (4 * max(1, len(entries)))
        problems = []
        for entry in entries:
            if entry.name not in found:
                problems.append(Problem("the model has no such parameter", entry.label))
                continue
            parameter = found[entry.name].parameter
            problems += [Problem(text, entry.label) for text in _check(entry, values(entry, parameter), chance)]
            padded = entry.zero_row is not None and not isinstance(entry.law, Keep) and not parameter.is_meta
            if padded and bool(parameter[entry.zero_row].any()):
                problems.append(Problem(f"the padding row {entry.zero_row} is not zero", entry.label))
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
    import torch

    n = part.numel()
    mean, std, low, high = (math.nan,) * 4
    if n:
        wide = part.to(torch.complex128 if part.is_complex() else torch.float64)
        size = wide.abs() if part.is_complex() else wide
        mean, std = float(wide.mean().real), float(wide.std(correction=0))
        low, high = float(size.min()), float(size.max())
    return Row(entry.name, entry.block, entry.rule, entry.initializer, n, entry.mean, entry.std, mean, std, low, high)


def _check(entry: Entry, part: Tensor, chance: float) -> list[str]:
    """What is not as planned; each statistical test fails on right values with the given chance."""
    import torch

    n = part.numel()
    if not n:
        return []
    if part.is_meta:
        return ["it is on meta and has no values"]
    if not bool(torch.isfinite(part).all()):
        return ["not all values are finite"]
    if entry.effective == "transformed":  # by a parametrisation: the effective weight is not what was assigned
        return []
    law, said = entry.law, []
    if isinstance(law, Constant):
        wanted = torch.tensor(law.value, dtype=part.dtype, device=part.device)
        same = torch.isclose(part, wanted, rtol=1e-5) if entry.effective else part == wanted
        return [] if bool(same.all()) else [f"not all values are {law.value:g}"]
    if entry.mean is None or entry.std is None:
        return []
    row = _measure(entry, part)
    step = torch.finfo(part.dtype).eps
    low, high = law.bounds
    tiny = step * torch.finfo(part.dtype).smallest_normal
    slack = step * max(abs(b) for b in (low, high, entry.std) if math.isfinite(b)) + tiny
    if row.low < low - slack or row.high > high + slack:
        said.append(f"values from {row.low:.6g} to {row.high:.6g}, outside of the law's bounds [{low:.6g}, {high:.6g}]")
    rounding = step * (abs(entry.mean) + entry.std) + tiny
    tails = law.kurtosis - 1 if law.kurtosis > 3 else 1.0
    if abs(row.mean - entry.mean) > -NormalDist().inv_cdf(chance) * entry.std * math.sqrt(tails / n) + rounding:
        said.append(f"mean {row.mean:.6g} of {n} values, and the law's mean is {entry.mean:.6g}")
    spread = math.sqrt(row.std**2 + (row.mean - entry.mean) ** 2)
    nearest = min(max(entry.std, spread - rounding), spread + rounding)
    if _surprise(nearest, entry.std, n) > -math.log(chance) * tails:
        said.append(f"standard deviation {row.std:.6g} of {n} values, and the law's is {entry.std:.6g}")
    if isinstance(law, Orthogonal) and n <= _WHOLE_CHECK:
        said += _check_orthogonal(law, part, step)
    return said


def _surprise(spread: float, std: float, n: int) -> float:
    """How unlikely such a spread of n values about their law's mean is, in nats: Chernoff's bound, which holds for every n."""
    if spread == std:
        return 0.0
    if not spread or not std:
        return math.inf
    ratio = (spread / std) ** 2
    return n / 2 * (ratio - 1 - math.log(ratio))


def _check_orthogonal(law: Orthogonal, part: Tensor, step: float) -> list[str]:
    import torch

    padded = part.shape != law.shape  # without its padding row a tall matrix has no orthonormal columns left
    if padded and law.rows > law.columns:
        return []
    rest = [axis for axis in range(part.ndim) if axis not in law.batch and axis not in law.out]
    matrix = part.permute([*law.batch, *law.out, *rest]).reshape(-1, law.rows - padded, law.columns)
    matrix = matrix.to(torch.complex128 if part.is_complex() else torch.float64)
    small = matrix if law.rows <= law.columns else matrix.transpose(-1, -2)
    gram = small @ small.mH
    error = float((gram - law.gain**2 * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)).abs().max())
    allowed = law.gain**2 * max(1e-5, 4 * step)
    return [f"not orthogonal: the products of its rows are off by {error:.3g}"] if error > allowed else []

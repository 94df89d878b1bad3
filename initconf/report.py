"""The report: what was done, and whether the values in the model are those of the plan."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from initconf import sampling, shards, threads
from initconf.errors import ApplyError, InitConfError, Problem
from initconf.laws import Constant, Keep, Orthogonal
from initconf.moments import Moments, unlikely
from initconf.owners import parameters
from initconf.plan import Entry, Plan, align
from initconf.shards import Here, pieces
from initconf.threads import Task

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
        """A row for each entry that was written, in the order of the plan; of a sharded parameter the values that lie here."""
        return [_row(entry, found) for entry, found in zip(self.plan.leaves(), self._moments(), strict=True)]

    def _moments(self, known: Container[str] = ()) -> list[Moments]:
        """What the values in the model are now; those that are known already are not looked at."""
        found = parameters(self.model)
        leaves = list(self.plan.leaves())
        gathered = [Moments(entry.mean or 0.0) for entry in leaves]

        def tasks() -> Iterator[Task]:
            for i, entry in enumerate(leaves):
                if entry.label in known:
                    continue
                for part in values(entry, found[entry.name].parameter):
                    for _, piece in pieces(part, sampling.CHUNK):
                        yield Task(partial(_gather, entry.mean or 0.0, piece), piece.numel(), (i,))

        def done(task: Task, made: Any) -> None:
            gathered[task.entries[0]].join(made)

        try:
            threads.run(tasks(), threads.count(None), done)
        except threads.Failed as failed:
            error = failed.__cause__
            raise ApplyError(Problem(f"{type(error).__name__}: {error}", leaves[failed.entries[0]].label)) from error
        return gathered

    def verify(self) -> Report:
        """Hold the values in the model against the laws of the plan.

        Means and standard deviations by tests that let a right model fail once in 10^9 times; bounds, constants, padding rows,
        orthogonality and finiteness exactly, up to the dtype's rounding. What the plan cannot know (`keep`, `module_default`,
        plain functions) must only be finite. Of a sharded parameter each process looks at the values that lie with it.

        How small an error is found depends on the number n of values: a mean that is off by 7 std/sqrt(n), a standard
        deviation that is off by 5/sqrt(n) of itself (20 percent for 625 values, 5 for 10,000). A handful tells little.

        Returns the report itself. Raises ApplyError with every parameter that is not as planned.
        """
        found = parameters(self.model)
        missing = [entry.label for entry in self.plan.leaves() if entry.name not in found]
        if missing:
            raise ApplyError([Problem("the model has no such parameter", label) for label in missing])
        return self._hold(self._moments())

    def hold(self, moments: Mapping[str, Moments]) -> Report:
        """The same for moments that were gathered, by the entries' labels, while the values were written.

        Entries without moments, such as constants, are looked at.
        """
        leaves = list(self.plan.leaves())
        looked = self._moments(moments)
        return self._hold([moments.get(entry.label, there) for entry, there in zip(leaves, looked, strict=True)])

    def _hold(self, moments: list[Moments]) -> Report:
        found = parameters(self.model)
        entries = list(self.plan.leaves())
        chance = FAMILY / (4 * max(1, len(entries)))
        problems = [
            Problem(text, entry.label)
            for entry, gathered in zip(entries, moments, strict=True)
            for text in _check(entry, found[entry.name].parameter, gathered, chance)
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


def values(entry: Entry, parameter: Tensor) -> list[Tensor]:
    """The parts of a parameter that an entry speaks of and that lie here, without the row that stays zero."""
    return [] if parameter.is_meta else _part(entry, parameter).without(entry.zero_row)


def _part(entry: Entry, parameter: Tensor) -> Here:
    try:
        whole = shards.here(parameter)
    except InitConfError:  # a tensor of a class of its own, which can only be kept
        return Here(parameter.detach().new_empty(0), (0,))
    return whole if entry.block is None else whole.narrow(entry.axis, entry.start, entry.shape[entry.axis])


def _gather(about: float, piece: Tensor, source: object) -> Moments:
    return Moments(about).add(piece)


def _row(entry: Entry, found: Moments) -> Row:
    low, high = (found.low, found.high) if found.count else (math.nan, math.nan)
    moments = (found.count, entry.mean, entry.std, found.mean, found.std, low, high)
    return Row(entry.name, entry.block, entry.rule, entry.initializer, *moments)


def _check(entry: Entry, parameter: Tensor, found: Moments, chance: float) -> list[str]:
    """What is not as planned; each statistical test fails on right values with the given chance."""
    if parameter.is_meta:
        return ["it is on meta and has no values"] if parameter.numel() else []
    part = _part(entry, parameter)
    said = []
    if entry.zero_row is not None and not isinstance(entry.law, Keep):
        row = part.row(entry.zero_row)
        if row is not None and bool(row.any()):
            said.append(f"the padding row {entry.zero_row} is not zero")
    if not found.finite:
        return ["not all values are finite", *said]
    if entry.effective == "transformed" or not found.count:  # by a parametrisation: not what was assigned
        return said
    law, dtype = entry.law, part.tensor.dtype
    if isinstance(law, Constant):
        wanted = float(part.tensor.new_tensor(law.value))
        if any(not math.isclose(x, wanted, rel_tol=1e-5 if entry.effective else 0) for x in (found.low, found.high)):
            said.insert(0, f"not all values are {law.value:g}")
        return said
    said = [*unlikely(law, found, dtype, chance), *said]
    if isinstance(law, Orthogonal) and part.ranges is None and found.count <= _WHOLE_CHECK:
        import torch

        rest = part.without(entry.zero_row)
        said += _check_orthogonal(law, torch.cat(rest) if len(rest) > 1 else rest[0], torch.finfo(dtype).eps)
    return said


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

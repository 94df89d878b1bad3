"""The report: what was done, and whether the values in the model are those of the plan."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from initconf import sampling, shards, threads
from initconf.errors import ApplyError, InitConfError, Problem
from initconf.laws import Constant, Construction, DeltaOrthogonal, Keep, Law, Normal, Orthogonal, Sparse
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
    threads: int | None = field(default=None, repr=False)
    """How many look at the values, at the most; None: as `apply` has it."""

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
                for some in values(entry, found[entry.name].parameter):
                    for _, piece in pieces(some, sampling.CHUNK):
                        yield Task(partial(_gather, entry.mean or 0.0, piece), piece.numel(), (i,))

        def done(task: Task, made: Any) -> None:
            gathered[task.entries[0]].join(made)

        looked = sum(entry.numel for entry in leaves if entry.label not in known)
        crew = min(threads.count(self.threads), 1 + looked // (4 * sampling.CHUNK))
        try:
            threads.run(tasks(), crew, done)
        except threads.Failed as failed:
            error = failed.__cause__
            raise ApplyError(Problem(f"{type(error).__name__}: {error}", leaves[failed.entries[0]].label)) from error
        return gathered

    def verify(self) -> Report:
        """Hold the values in the model against the laws of the plan.

        Means and standard deviations by tests that let a right model fail once in 10^9 times; bounds, constants, constructions
        that draw nothing, padding rows, orthogonality and finiteness exactly, up to the dtype's rounding. What the plan cannot
        know (`keep`, `module_default`, plain functions) must only be finite. Of a sharded parameter each process looks at the
        values that lie with it; those of a random construction of which nothing is known but for the whole must be finite, too.

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
    return [] if parameter.is_meta else part(entry, parameter).without(entry.zero_row)


def part(entry: Entry, parameter: Tensor) -> Here:
    """What an entry speaks of, as far as it lies here."""
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
    mine, law = part(entry, parameter), entry.law
    said = []
    if entry.zero_row is not None and not isinstance(law, Keep):
        row = mine.row(entry.zero_row)
        if row is not None and bool(row.any()):
            said.append(f"the padding row {entry.zero_row} is not zero")
    if not found.finite:
        return ["not all values are finite", *said]
    if entry.effective == "transformed" or not found.count:  # by a parametrisation: not what was assigned
        return said
    if isinstance(law, Constant):
        wanted = float(mine.tensor.new_tensor(law.value))
        if any(not math.isclose(x, wanted, rel_tol=1e-5 if entry.effective else 0) for x in (found.low, found.high)):
            said.insert(0, f"not all values are {law.value:g}")
        return said
    if isinstance(law, Construction):
        return _check_construction(entry, law, mine, found, chance) + said
    return unlikely(law, found, mine.tensor.dtype, chance) + said


def _check_construction(entry: Entry, law: Construction, mine: Here, found: Moments, chance: float) -> list[str]:
    if law.deterministic:
        return _check_each(law, mine, entry.zero_row, 1e-5 if entry.effective else 0.0)
    whole = mine.ranges is None
    if not law.exchangeable and not (whole and entry.zero_row is None):
        return _check_cut(law, mine, entry.zero_row, found.count, chance)
    said = unlikely(law, found, mine.tensor.dtype, chance)
    if isinstance(law, Orthogonal) and whole and found.count <= _WHOLE_CHECK:
        import torch

        rest = mine.without(entry.zero_row)
        step = torch.finfo(mine.tensor.dtype).eps
        said += _check_orthogonal(law, torch.cat(rest) if len(rest) > 1 else rest[0], step)
    return said


def _check_each(law: Construction, mine: Here, zero_row: int | None, off: float) -> list[str]:
    """Hold each value against the tensor, which is made again: to a few units in the last place, or as far as `off` says."""
    import torch

    with torch.device("cpu"):
        made = mine.of(sampling.construct(law, sampling.key(0, ""), mine.tensor.dtype)).to(mine.tensor)
    limits, count, first = torch.finfo(mine.tensor.dtype), 0, ""
    for some, same in zip(mine.without(zero_row), replace(mine, tensor=made).without(zero_row), strict=True):
        if torch.equal(some, same):
            continue
        wide = torch.complex128 if some.is_complex() else torch.float64
        is_now, wanted = some.to(wide), same.to(wide)
        allowed = wanted.abs() * max(off, 4 * limits.eps) + limits.eps * limits.smallest_normal
        wrong = (is_now - wanted).abs() > allowed
        if not count and bool(wrong.any()):
            at = tuple(wrong.nonzero()[0].tolist())
            first = f"the first is {is_now[at].item():.6g}, and should be {wanted[at].item():.6g}"
        count += int(wrong.count_nonzero())
    return [f"{count} of {mine.tensor.numel()} values are not those of {type(law).__name__}: {first}"] if count else []


def _check_cut(law: Construction, mine: Here, zero_row: int | None, count: int, chance: float) -> list[str]:
    """Of a part whose moments are not those of the whole: hold what is drawn against its law, where that is known."""
    import torch

    said, drawn = [], Moments(0.0)
    of: Law = law
    if isinstance(law, DeltaOrthogonal):
        middle, of = mine, law.matrix
        for axis, index in law.middle.items():
            middle = middle.narrow(axis, index, 1)
        for rest in middle.without(zero_row):
            drawn.add(rest)
        if bool(mine.tensor.bool().sum() > middle.tensor.bool().sum()):
            said.append("not all values outside of the kernel's centre are zero")
    elif isinstance(law, Sparse):
        of = Normal(0.0, law.normal_std)
        drawn.add(mine.tensor[mine.tensor.bool()])
        zeros, seen = 1 - law.density, law.normal_std >= torch.finfo(mine.tensor.dtype).smallest_normal
        if seen and not drawn.count and (not zeros or count * math.log(zeros) < math.log(chance)):
            said.append(f"all {count} values are zero")
    return said + unlikely(of, drawn, mine.tensor.dtype, chance)


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

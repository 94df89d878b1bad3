"""Which elements of a parameter lie in this process: of a sharded one only some, and each must receive its own value."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from initconf.errors import InitConfError
from initconf.owners import SHARDED, tensor_class

Ranges = tuple[tuple[int, int], ...]
"""The indices along one axis that lie here: (start, stop) each, in ascending order."""
GAP = 1 << 11
"""Elements between two runs that are made and dropped rather than jumped over: to jump takes about as long."""


@dataclass(frozen=True)
class Here:
    """The part of a parameter (or of a block of it) that lies in this process."""

    tensor: Tensor
    """A plain tensor, which shares the parameter's memory."""
    shape: tuple[int, ...]
    """Of the whole, of which `tensor` is a part."""
    ranges: tuple[Ranges, ...] | None = None
    """Along each axis which indices of the whole lie here; None: all of them."""

    def narrow(self, axis: int, start: int, size: int) -> Here:
        """The part of a block that lies here."""
        shape = (*self.shape[:axis], size, *self.shape[axis + 1 :])
        if self.ranges is None:
            return Here(self.tensor.narrow(axis, start, size), shape)
        held = self.ranges[axis]
        before = sum(max(0, min(stop, start) - first) for first, stop in held)
        inside = [(max(first, start), min(stop, start + size)) for first, stop in held]
        kept = tuple((first - start, stop - start) for first, stop in inside if first < stop)
        ranges = (*self.ranges[:axis], kept, *self.ranges[axis + 1 :])
        return Here(self.tensor.narrow(axis, before, _length(kept)), shape, _or_all(ranges, shape))

    def without(self, row: int | None) -> list[Tensor]:
        """All that lies here but one row."""
        if row is None:
            return [self.tensor]
        before, after = self.narrow(0, 0, row).tensor, self.narrow(0, row + 1, self.shape[0] - row - 1).tensor
        return [before, after]

    def row(self, row: int) -> Tensor | None:
        """A row of the whole, as far as it lies here; None where it does not."""
        part = self.narrow(0, row, 1).tensor
        return part if part.numel() else None

    def of(self, whole: Tensor) -> Tensor:
        """The part of a tensor of the whole's shape that belongs here."""
        for axis, held in enumerate(self.ranges or ()):
            parts = [whole.narrow(axis, start, stop - start) for start, stop in held] or [whole.narrow(axis, 0, 0)]
            whole = parts[0] if len(parts) == 1 else torch.cat(parts, axis)
        return whole

    def pieces(self, most: int) -> Iterator[Piece]:
        """What lies here in pieces of at most so many elements, in logical order, however it lies in memory."""
        if self.ranges is None:
            yield from (Piece(view, first) for first, view in pieces(self.tensor, most))
        elif self.tensor.numel():
            rows = _rows(self.shape, self.ranges, most)
            most -= most % rows.held if rows.through else 0
            yield from (Piece(view, first, rows) for first, view in pieces(self.tensor, most))


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements that lie here, and follow each other in logical order."""

    tensor: Tensor
    first: int
    """The number of the first one: in the whole, or, where there are `rows`, among those that lie here."""
    rows: Rows | None = None


@dataclass(frozen=True)
class Rows:
    """How the elements of a whole follow each other in a process that holds parts of its rows only."""

    size: int
    """The elements of a row of the whole."""
    runs: Ranges
    """Those of each row that lie here."""
    axes: tuple[tuple[int, Ranges], ...]
    """The axes that count rows: the elements that lie between two indices, and the indices that lie here."""
    through: bool
    """Whether rows are made whole, and cut; else what does not lie here is jumped over."""

    @property
    def held(self) -> int:
        """The elements of a row that lie here."""
        return _length(self.runs)

    def starts(self, first: int, last: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where rows begin in the whole; they are counted as they lie here."""
        here = np.arange(first, last, dtype=np.int64)
        starts = np.zeros_like(here)
        for step, held in reversed(self.axes):
            here, at = np.divmod(here, _length(held))
            begins = np.array([start for start, _ in held])
            before = np.cumsum([0, *(stop - start for start, stop in held[:-1])])
            which = np.searchsorted(before, at, side="right") - 1
            starts += (begins[which] + at - before[which]) * step
        return starts

    def within(self, first: int, count: int) -> list[tuple[int, int]]:
        """(first, count) in the whole of each run among `count` elements that lie here, from number `first` on."""
        row, last = first // self.held, -(-(first + count) // self.held)
        offsets, lengths = np.array(self.runs)[:, 0], np.diff(self.runs)[:, 0]
        starts = (self.starts(row, last)[:, None] + offsets).reshape(-1)
        ends = np.cumsum(np.tile(lengths, last - row)) + row * self.held
        begins = np.maximum(ends - np.tile(lengths, last - row), first)
        skipped = begins - (ends - np.tile(lengths, last - row))
        counts = np.minimum(ends, first + count) - begins
        kept = counts > 0
        return list(zip((starts + skipped)[kept].tolist(), counts[kept].tolist(), strict=True))

    def together(self, first: int, count: int, most: int) -> Iterator[tuple[int, int]]:
        """(first element in the whole, rows) of rows that follow each other there, for `count` elements that lie here.

        Both `first` and `count` are whole rows; at most `most` rows at once.
        """
        starts = self.starts(first // self.held, (first + count) // self.held)
        breaks = np.flatnonzero(np.diff(starts) != self.size) + 1
        for group in np.split(starts, breaks):
            for i in range(0, len(group), most):
                yield int(group[i]), min(most, len(group) - i)


def _rows(shape: tuple[int, ...], ranges: Sequence[Ranges], most: int) -> Rows:
    last = max(axis for axis, held in enumerate(ranges) if held != ((0, shape[axis]),))  # what lies behind belongs to its run
    inner = math.prod(shape[last + 1 :])
    steps = [math.prod(shape[axis + 1 :]) for axis in range(last)]
    runs = tuple((start * inner, stop * inner) for start, stop in ranges[last])
    size = shape[last] * inner
    through = size <= most and size - _length(runs) < GAP * len(runs)
    return Rows(size, runs, tuple(zip(steps, ranges[:last], strict=True)), through)


# --- of a parameter --------------------------------------------------------------------------------------------------------


def here(parameter: Tensor) -> Here:
    """Where a parameter's values lie. Raises InitConfError for a placement that is not known."""
    kind = tensor_class(parameter)
    if kind is None:
        return Here(parameter.detach(), tuple(parameter.shape))
    if kind != SHARDED:
        raise InitConfError(_unknown(kind))
    return _here(parameter)


@torch.no_grad()
def _here(sharded: Any) -> Here:
    local, shape = sharded.to_local(), tuple(sharded.shape)
    local = (local.wait() if hasattr(local, "wait") else local).detach()  # what a redistribution has not brought yet
    if (kind := tensor_class(local)) is not None:
        raise InitConfError(_unknown(kind))
    mesh = sharded.device_mesh
    if (coordinate := mesh.get_coordinate()) is None:  # this process has no part in the mesh
        return Here(local.new_empty((0,) * max(1, len(shape))), shape, tuple(() for _ in shape))
    cuts: dict[int, list[_Cut]] = {}
    for placement, parts, at in zip(sharded.placements, mesh.shape, coordinate, strict=True):
        if placement.is_replicate():
            continue
        if placement.is_partial():
            raise InitConfError(f"its placement is {placement}: no process holds its values")
        if type(placement).__name__ not in ("Shard", "_StridedShard"):
            raise InitConfError(f"its placement is {placement}, which this version does not know")
        cuts.setdefault(placement.dim % len(shape), []).append(_Cut(parts, at, getattr(placement, "split_factor", 1)))
    there = local.shape if local.ndim == len(shape) else (0,) * len(shape)
    ranges = [_held(n, cuts.get(axis, ()), there[axis]) for axis, n in enumerate(shape)]
    lengths = tuple(map(_length, ranges))
    if tuple(local.shape) != lengths:
        if local.numel() or 0 not in lengths:
            text = f"its placements {sharded.placements} leave {lengths} here, and there is {tuple(local.shape)}"
            raise InitConfError(text)
        local = local.new_empty(lengths)  # FSDP holds nothing in a shape of its own, such as (0, 0)
    return Here(local, shape, _or_all(tuple(ranges), shape))


def _unknown(kind: str) -> str:
    return f"it is a {kind.rpartition('.')[2]}, which this version cannot write"


@dataclass(frozen=True)
class _Cut:
    """An axis of a tensor is cut along an axis of the mesh."""

    parts: int
    at: int
    """Which part lies here."""
    pieces: int
    """_StridedShard: the axis has been cut into so many pieces before, by axes of the mesh that come later."""


def _held(n: int, cuts: Sequence[_Cut], length: int) -> Ranges:
    """The indices of an axis that lie here, `length` of them.

    FSDP cuts what tensor parallelism has left on each process. DTensor takes that for a cut of all pieces at once, which is
    not the same where they cannot all be cut evenly; how many indices lie here says what was done.
    """
    everything: Ranges = ((0, n),) if n else ()
    in_turn = one = everything
    turns = _turns(cuts)
    for cut in turns or ():
        in_turn = _chunk(in_turn, cut.parts, cut.at)
    if turns is not None and (len(turns) == 1 or _length(in_turn) == length):
        return in_turn
    for cut in cuts:
        before = [_chunk(one, cut.pieces, i) for i in range(cut.pieces)]
        one = _joined([_chunk(piece, cut.parts, cut.at) for piece in before])
    return one


def _turns(cuts: Sequence[_Cut]) -> list[_Cut] | None:
    """The cuts in the order in which they were made, None where there is none that fits them."""
    order: list[_Cut] = []
    for cut in reversed(cuts):
        before = [math.prod(other.parts for other in order[:i]) for i in range(len(order) + 1)]
        if cut.pieces not in before:
            return None
        order.insert(before.index(cut.pieces), cut)
    return order


def gathered(model: nn.Module) -> set[int]:
    """The parameters (by id) that FSDP has gathered for a while: what is written to them is lost when it shards them again."""
    found: set[int] = set()
    if "torch.distributed.fsdp" not in sys.modules:
        return found
    for module in model.modules():
        if not hasattr(type(module), "_get_fsdp_state"):
            continue
        state: Any = module._get_fsdp_state()  # type: ignore[operator]
        groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
        for group in groups:
            if group is None or group.is_sharded:
                continue
            places = [param._module_info for param in group.fsdp_params]
            found |= {id(getattr(place.module, place.param_name)) for place in places}
    return found


def _length(held: Ranges) -> int:
    return sum(stop - start for start, stop in held)


def _or_all(ranges: tuple[Ranges, ...], shape: tuple[int, ...]) -> tuple[Ranges, ...] | None:
    """None where all indices lie here."""
    return None if all(held == (((0, n),) if n else ()) for held, n in zip(ranges, shape, strict=True)) else ranges


def _chunk(held: Ranges, n: int, at: int) -> Ranges:
    """One of n, as `torch.chunk` cuts; the last ones are empty where there are too few."""
    total = _length(held)
    size = -(-total // n)
    return _between(held, min(at * size, total), min((at + 1) * size, total))


def _between(held: Ranges, first: int, last: int) -> Ranges:
    """The indices at positions `first` to `last`."""
    found, position = [], 0
    for start, stop in held:
        low, high = max(first - position, 0), min(last - position, stop - start)
        if low < high:
            found.append((start + low, start + high))
        position += stop - start
    return tuple(found)


def _joined(parts: Sequence[Ranges]) -> Ranges:
    found: list[tuple[int, int]] = []
    for start, stop in (held for part in parts for held in part):
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return tuple(found)


def pieces(tensor: Tensor, most: int, first: int = 0) -> Iterator[tuple[int, Tensor]]:
    """A tensor in pieces of at most so many elements, in logical order, however it lies in memory: (first element, view)."""
    size = tensor.numel()
    if tensor.is_contiguous():
        flat = tensor.view(-1)
        for start in range(0, size, most):
            yield first + start, flat[start : start + most]
    elif size <= most:
        yield first, tensor
    else:
        row = size // tensor.shape[0]
        if row > most:
            for i, part in enumerate(tensor):
                yield from pieces(part, most, first + i * row)
            return
        for i in range(0, tensor.shape[0], most // row):
            yield first + i * row, tensor[i : i + most // row]

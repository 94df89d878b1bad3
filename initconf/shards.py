"""Which elements of a parameter lie in this process: of a sharded one only some, and each must receive its own value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from initconf.errors import InitConfError
from initconf.owners import SHARDED, tensor_class

Ranges = tuple[tuple[int, int], ...]
"""The indices along one axis that lie here: (start, stop) each, in ascending order."""


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
        return Here(self.tensor.narrow(axis, before, _length(kept)), shape, ranges)

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
            if len(held) == 1:
                whole = whole.narrow(axis, held[0][0], held[0][1] - held[0][0])
            else:
                whole = whole.index_select(axis, torch.tensor(_indices(held), device=whole.device))
        return whole

    def runs(self) -> list[tuple[int, int]]:
        """(first, count) of each run of elements that follow each other in the whole, in the order of `tensor`."""
        if self.ranges is None:
            return [(0, math.prod(self.shape))]
        return _runs(self.shape, self.ranges)

    def cut(self, short: int) -> Cut | None:
        """How to cut the elements out of whole rows; None where their runs have `short` elements or more."""
        last = _last(self.shape, self.ranges or ())
        if self.ranges is None or not self.tensor.numel():
            return None
        held, row = self.ranges[last], math.prod(self.shape[last:])
        if _length(held) * row // self.shape[last] >= short * len(held):
            return None
        rows = (*self.ranges[:last], ((0, self.shape[last]),), *self.ranges[last + 1 :])
        return Cut(_runs(self.shape, rows), row, self.shape[last], _indices(held))


@dataclass(frozen=True)
class Cut:
    """Rows of the whole that hold what lies here, and more."""

    runs: list[tuple[int, int]]
    """(first, count): elements in whole rows."""
    row: int
    """The elements of a row."""
    size: int
    """The length of the axis that is cut; a row is this many times the elements within it."""
    kept: list[int]
    """The places on that axis that lie here."""


def here(parameter: Tensor) -> Here:
    """Where a parameter's values lie. Raises InitConfError for a placement that is not known."""
    kind = tensor_class(parameter)
    if kind is None:
        return Here(parameter.detach(), tuple(parameter.shape))
    if kind != SHARDED:
        raise InitConfError(f"it is a {kind.rpartition('.')[2]}, which this version cannot write")
    sharded: Any = parameter.detach()
    local, shape = sharded.to_local(), tuple(parameter.shape)
    local = local.wait() if hasattr(local, "wait") else local
    coordinate = sharded.device_mesh.get_coordinate()
    if coordinate is None:  # this process has no part in the mesh
        return Here(local, shape, tuple(() for _ in shape))
    ranges: list[Ranges] = [((0, n),) if n else () for n in shape]
    sizes = sharded.device_mesh.shape
    for placement, size, at in zip(sharded.placements, sizes, coordinate, strict=True):
        if placement.is_replicate():
            continue
        if placement.is_partial() or not hasattr(placement, "dim"):
            raise InitConfError(f"its placement is {placement}: no process holds its values")
        axis = placement.dim % len(shape)
        # _StridedShard: what tensor parallelism has cut into `split_factor` pieces, each of which is sharded.
        pieces = _chunks(ranges[axis], getattr(placement, "split_factor", 1))
        ranges[axis] = _joined([_chunks(piece, size)[at] for piece in pieces])
    if tuple(local.shape) != tuple(map(_length, ranges)):
        text = (
            f"its placements {sharded.placements} leave {tuple(map(_length, ranges))} here, and there is {tuple(local.shape)}"
        )
        raise InitConfError(text)
    whole = all(held == ((0, n),) for held, n in zip(ranges, shape, strict=True))
    return Here(local, shape, None if whole else tuple(ranges))


def _length(held: Ranges) -> int:
    return sum(stop - start for start, stop in held)


def _indices(held: Ranges) -> list[int]:
    return [i for start, stop in held for i in range(start, stop)]


def _chunks(held: Ranges, n: int) -> list[Ranges]:
    """As `torch.chunk` cuts, with empty ones at the end where there are too few."""
    total = _length(held)
    size = -(-total // n)
    return [_between(held, min(i * size, total), min((i + 1) * size, total)) for i in range(n)]


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


def _last(shape: tuple[int, ...], ranges: Sequence[Ranges]) -> int:
    """The last axis that does not lie here whole; those behind it belong to one run."""
    last = max(len(shape) - 1, 0)
    while last and ranges and ranges[last] == ((0, shape[last]),):
        last -= 1
    return last


def _runs(shape: tuple[int, ...], ranges: tuple[Ranges, ...]) -> list[tuple[int, int]]:
    if any(not held for held in ranges):
        return []
    if not shape:
        return [(0, 1)]
    last = _last(shape, ranges)
    inner = math.prod(shape[last + 1 :])
    starts, stride = np.zeros(1, dtype=np.int64), inner * shape[last]
    for axis in range(last - 1, -1, -1):
        starts = (np.array(_indices(ranges[axis]), dtype=np.int64)[:, None] * stride + starts).reshape(-1)
        stride *= shape[axis]
    return [(int(start) + first * inner, (stop - first) * inner) for start in starts for first, stop in ranges[last]]


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

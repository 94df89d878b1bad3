"""Laws of whole tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from initconf.laws.base import Construction, Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Orthogonal(Construction):
    """A random matrix with orthonormal rows or columns (whichever are fewer), times `gain`; Haar distributed.

    The tensor of shape `shape` is read as a matrix: the `out` axes are its rows, all others its columns; each index of the axes
    of `batch` has a matrix of its own. Every entry has mean 0 and std gain / sqrt(max(rows, columns)).
    """

    gain: float
    shape: tuple[int, ...]
    out: tuple[int, ...] = (0,)
    batch: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        return math.prod(self.shape[axis] for axis in self.out)

    @property
    def columns(self) -> int:
        return math.prod(n for axis, n in enumerate(self.shape) if axis not in self.out and axis not in self.batch)

    @property
    def mean(self) -> float:
        return 0.0

    @property
    def std(self) -> float:
        return abs(self.gain) / math.sqrt(max(self.rows, self.columns, 1))

    def __str__(self) -> str:
        return f"Orthogonal(gain={self.gain:.6g}, {self.rows}x{self.columns})"

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        batch = math.prod(self.shape[axis] for axis in self.batch)
        matrices = orthogonal_matrices(stream, batch, self.rows, self.columns).mul_(self.gain)
        rest = [axis for axis in range(len(self.shape)) if axis not in self.batch and axis not in self.out]
        order = [*self.batch, *self.out, *rest]
        stored = matrices.reshape([self.shape[axis] for axis in order])
        return stored.permute([order.index(axis) for axis in range(len(self.shape))])


def orthogonal_matrices(stream: Stream, batch: int, rows: int, columns: int) -> Tensor:
    """(batch, rows, columns) with orthonormal rows or columns, whichever are fewer.

    QR of Gaussian matrices, with the signs that make it Haar distributed (Mezzadri 2007, arXiv:math-ph/0609050).
    """
    import torch

    tall = stream.normal(batch, max(rows, columns), min(rows, columns))
    if tall.numel():
        q, r = torch.linalg.qr(tall)
        diagonal = r.diagonal(dim1=-2, dim2=-1)
        phases = torch.where(diagonal == 0, torch.ones_like(diagonal), torch.sgn(diagonal))
        tall = q.mul_(phases.unsqueeze(-2))
    return tall.transpose(-1, -2) if rows < columns else tall

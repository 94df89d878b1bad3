"""Laws of whole tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from initconf.laws.base import Construction, Stream

if TYPE_CHECKING:
    import torch
    from torch import Tensor


LARGE = 1 << 12
"""Matrices of so many entries are factorised one by one: in a batch the last bits depend on the places of the others."""


@dataclass(frozen=True)
class Orthogonal(Construction):
    """A random matrix with orthonormal rows or columns (whichever are fewer), times `gain`; Haar distributed.

    The tensor of shape `shape` is read as a matrix: the `out` axes are its rows, all others its columns; each index of the axes
    of `batch`, and each of the `groups` that the rows fall into, has a matrix of its own. Every entry has mean 0 and
    std gain / sqrt(max(rows, columns)).
    """

    exchangeable = True
    gain: float
    shape: tuple[int, ...]
    out: tuple[int, ...] = (0,)
    batch: tuple[int, ...] = ()
    groups: int = 1

    @property
    def rows(self) -> int:
        """The rows of one matrix."""
        return math.prod(self.shape[axis] for axis in self.out) // self.groups

    @property
    def columns(self) -> int:
        return math.prod(n for axis, n in enumerate(self.shape) if axis not in self.out and axis not in self.batch)

    @property
    def mean(self) -> float:
        return 0.0

    @property
    def std(self) -> float:
        return abs(self.gain) / math.sqrt(max(self.rows, self.columns, 1))

    @property
    def single(self) -> Orthogonal | None:
        alone = self.batch[:1] == (0,) and self.rows * self.columns >= LARGE
        return replace(self, shape=(1, *self.shape[1:])) if alone else None

    def __str__(self) -> str:
        return f"Orthogonal(gain={self.gain:.6g}, {self.rows}x{self.columns})"

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        batch = math.prod(self.shape[axis] for axis in self.batch) * self.groups
        matrices = orthogonal_matrices(stream, batch, self.rows, self.columns, dtype.is_complex).mul_(self.gain)
        rest = [axis for axis in range(len(self.shape)) if axis not in self.batch and axis not in self.out]
        order = [*self.batch, *self.out, *rest]
        stored = matrices.reshape([self.shape[axis] for axis in order])
        return stored.permute([order.index(axis) for axis in range(len(self.shape))])


def orthogonal_matrices(stream: Stream, batch: int, rows: int, columns: int, unitary: bool = False) -> Tensor:
    """(batch, rows, columns) with orthonormal rows or columns, whichever are fewer; complex ones where `unitary`.

    QR of Gaussian matrices, with the signs that make it Haar distributed (Mezzadri 2007, arXiv:math-ph/0609050).
    """
    import torch

    tall = stream.normal(batch, max(rows, columns), min(rows, columns))
    if unitary:
        tall = torch.complex(tall, stream.normal(*tall.shape))
    if tall.numel():
        if batch > 1 and rows * columns >= LARGE:
            q, r = map(torch.stack, zip(*map(torch.linalg.qr, tall), strict=True))
        else:
            q, r = torch.linalg.qr(tall)
        diagonal = r.diagonal(dim1=-2, dim2=-1)
        phases = torch.where(diagonal == 0, torch.ones_like(diagonal), torch.sgn(diagonal))
        tall = q.mul_(phases.unsqueeze(-2))
    return tall.transpose(-1, -2) if rows < columns else tall


@dataclass(frozen=True)
class Sparse(Construction):
    """N(0, std^2), with ceil(sparsity * others) zeros at random places for each index of `axis` (Martens 2010)."""

    shape: tuple[int, ...]
    sparsity: float
    normal_std: float
    axis: int = 1

    @property
    def _others(self) -> int:
        return math.prod(self.shape) // max(self.shape[self.axis], 1)

    @property
    def zeros(self) -> int:
        """The number of zeros for each index of `axis`."""
        return math.ceil(self.sparsity * self._others)

    @property
    def density(self) -> float:
        return 1 - self.zeros / self._others if self._others else 1.0

    @property
    def mean(self) -> float:
        return 0.0

    @property
    def std(self) -> float:
        return self.normal_std * math.sqrt(self.density)

    @property
    def kurtosis(self) -> float:
        return 3 / self.density if self.density else 3.0

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        n = self.shape[self.axis]
        made = stream.normal(n, self._others).mul_(self.normal_std)
        places = stream.uniform(n, self._others).argsort(dim=1, stable=True)[:, : self.zeros]
        made.scatter_(1, places, 0.0)
        rest = [size for axis, size in enumerate(self.shape) if axis != self.axis]
        return made.view(n, *rest).movedim(0, self.axis)


@dataclass(frozen=True)
class Table(Construction):
    """The same numbers for every index but that of the last axis: entry (..., n) is values[n]. Mamba's `A_log`."""

    deterministic = True
    shape: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / max(len(self.values), 1)

    @property
    def std(self) -> float:
        return math.sqrt(math.fsum((v - self.mean) ** 2 for v in self.values) / max(len(self.values), 1))

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        import torch

        return torch.tensor(self.values, dtype=torch.float64).expand(self.shape)


@dataclass(frozen=True)
class Sinusoid(Construction):
    """Position p, channel 2i: sin(p / base^(2i/d)), channel 2i + 1: its cosine (Vaswani et al. 2017), times gain."""

    deterministic = True
    shape: tuple[int, ...]
    base: float = 10000.0
    gain: float = 1.0

    def _table(self) -> Tensor:
        import torch

        positions, channels = self.shape[-2], self.shape[-1]
        rate = self.base ** (-torch.arange(0, channels, 2, dtype=torch.float64) / channels)
        angle = torch.arange(positions, dtype=torch.float64).unsqueeze(1) * rate
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :channels].mul_(self.gain)

    @property
    def mean(self) -> float:
        return self.gain * _sinusoid_moments(*self.shape[-2:], self.base)[0]

    @property
    def std(self) -> float:
        return abs(self.gain) * _sinusoid_moments(*self.shape[-2:], self.base)[1]

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        return self._table().expand(self.shape)


@lru_cache
def _sinusoid_moments(positions: int, channels: int, base: float) -> tuple[float, float]:
    """Mean and std, by the sums of sin(p w), cos(p w) and sin(p w)^2 over the positions p (Lagrange's identities)."""
    if not positions or not channels:
        return 0.0, 0.0
    total, squares = 0.0, float(positions * (channels // 2))  # sin^2 + cos^2 in each pair of channels
    for channel in range(0, channels, 2):
        half = base ** (-channel / channels) / 2
        kernel = _dirichlet(positions, half)
        total += kernel * math.sin((positions - 1) * half)
        if channel + 1 < channels:
            total += kernel * math.cos((positions - 1) * half)
        else:
            squares += (positions - _dirichlet(positions, 2 * half) * math.cos((positions - 1) * 2 * half)) / 2
    mean = total / (positions * channels)
    return mean, math.sqrt(max(0.0, squares / (positions * channels) - mean**2))


def _dirichlet(n: int, x: float) -> float:
    """sin(n x) / sin(x)."""
    below = math.sin(x)
    return math.sin(n * x) / below if below else n * math.cos(n * x) / math.cos(x)

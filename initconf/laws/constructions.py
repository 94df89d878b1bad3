"""Laws of whole tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

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


def centre(size: int, floor: bool = True) -> int:
    """The middle of a kernel; of an even one the left of the two, where `padding='same'` leaves the signal in place."""
    return (size - 1) // 2 if floor else size // 2


@dataclass(frozen=True)
class _Placed(Construction):
    """A matrix of `rows` (out) times `columns` (in) numbers that stand at the centre of a kernel; all else is zero."""

    shape: tuple[int, ...]
    out_axis: int = 0
    in_axis: int = 1

    @property
    def rows(self) -> int:
        return self.shape[self.out_axis]

    @property
    def columns(self) -> int:
        return self.shape[self.in_axis]

    @property
    def _spatial(self) -> list[int]:
        return [axis for axis in range(len(self.shape)) if axis not in (self.out_axis, self.in_axis)]

    def _place(self, matrix: Tensor) -> Tensor:
        kernel = matrix.new_zeros([self.rows, self.columns, *(self.shape[axis] for axis in self._spatial)])
        middle: Any = (..., *(centre(self.shape[axis]) for axis in self._spatial))
        kernel[middle] = matrix
        order = [self.out_axis, self.in_axis, *self._spatial]
        return kernel.permute([order.index(axis) for axis in range(len(self.shape))])

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class DeltaOrthogonal(_Placed):
    """Zeros, and at the kernel's centre a matrix with orthonormal columns times `gain` (Xiao et al. 2018, arXiv:1806.05393).

    A circular convolution with it has all singular values equal to `gain`; `orthogonal` on a kernel does not have that.
    """

    gain: float = 1.0

    @property
    def mean(self) -> float:
        return 0.0

    @property
    def std(self) -> float:
        return self.gain * math.sqrt(min(self.rows, self.columns) / max(self.numel, 1))

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        return self._place(orthogonal_matrices(stream, 1, self.rows, self.columns, dtype.is_complex)[0].mul(self.gain))


@dataclass(frozen=True)
class Identity(_Placed):
    """`gain` on the diagonal of the (out, in) matrix at the kernel's centre, zeros elsewhere; a rectangle is padded with zeros.

    With `groups`, in / groups inputs are stored, and each group has a diagonal of its own.
    """

    gain: float = 1.0
    groups: int = 1

    @property
    def _ones(self) -> int:
        return self.groups * min(self.rows // self.groups, self.columns)

    @property
    def mean(self) -> float:
        return self.gain * self._ones / max(self.numel, 1)

    @property
    def std(self) -> float:
        return math.sqrt(self.gain**2 * self._ones / max(self.numel, 1) - self.mean**2)

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        import torch

        working = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
        diagonal = torch.eye(self.rows // self.groups, self.columns, dtype=working)
        return self._place(diagonal.repeat(self.groups, 1).mul_(self.gain))


@dataclass(frozen=True)
class Dirac(Construction):
    """torch's `dirac_`: ones at index k // 2 of each spatial axis, for min(out / groups, in) channels of each group."""

    shape: tuple[int, ...]
    groups: int = 1

    @property
    def _ones(self) -> int:
        return self.groups * min(self.shape[0] // self.groups, self.shape[1])

    @property
    def mean(self) -> float:
        return self._ones / max(math.prod(self.shape), 1)

    @property
    def std(self) -> float:
        return math.sqrt(self.mean - self.mean**2)

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        import torch

        kernel, group = torch.zeros(self.shape), self.shape[0] // self.groups
        middle = [centre(size, floor=False) for size in self.shape[2:]]
        for g in range(self.groups):
            for d in range(min(group, self.shape[1])):
                kernel[(g * group + d, d, *middle)] = 1
        return kernel


@dataclass(frozen=True)
class Hadamard(_Placed):
    """The first rows and columns of Sylvester's Hadamard matrix of order 2^m >= max(out, in), times gain / sqrt(max(out, in)).

    Every entry has that modulus. Where the larger side is a power of two, the rows (or columns) are orthonormal times gain.
    """

    gain: float = 1.0

    @property
    def _scale(self) -> float:
        return self.gain / math.sqrt(max(self.rows, self.columns, 1))

    @property
    def mean(self) -> float:
        return self._scale * float(hadamard(self.rows, self.columns).sum()) / max(self.numel, 1)

    @property
    def std(self) -> float:
        return math.sqrt(self._scale**2 * self.rows * self.columns / max(self.numel, 1) - self.mean**2)

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        return self._place(hadamard(self.rows, self.columns).mul(self._scale))


@dataclass(frozen=True)
class ZerO(_Placed):
    """ZerO (Zhao et al. 2022, arXiv:2110.12661): no randomness, and no symmetry between units either.

    Square: the identity. Fewer outputs than inputs: a partial identity. More: c I* H I*, with H the Hadamard matrix of order
    2^m, m = ceil(log2 out), and c = 2^(-(m-1)/2).
    """

    gain: float = 1.0

    def _matrix(self) -> Tensor:
        import torch

        if self.rows <= self.columns:
            return torch.eye(self.rows, self.columns, dtype=torch.float64).mul_(self.gain)
        m = math.ceil(math.log2(self.rows))
        return hadamard(self.rows, self.columns).mul(self.gain * 2 ** (-(m - 1) / 2))

    @property
    def mean(self) -> float:
        return float(self._matrix().double().sum()) / max(self.numel, 1)

    @property
    def std(self) -> float:
        return math.sqrt(float(self._matrix().double().square().sum()) / max(self.numel, 1) - self.mean**2)

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        return self._place(self._matrix())


def hadamard(rows: int, columns: int) -> Tensor:
    """The corner of Sylvester's matrix: entry (i, j) is -1 to the number of ones that i and j share in binary."""
    import torch

    i, j = torch.arange(rows).unsqueeze(1), torch.arange(columns).unsqueeze(0)
    shared, parity = i & j, torch.zeros(rows, columns, dtype=torch.int64)
    while bool(shared.any()):
        parity ^= shared & 1
        shared = shared >> 1
    return (1 - 2 * parity).to(torch.float64)


@dataclass(frozen=True)
class ConvolutionOrthogonal(_Placed):
    """A square 2-D kernel that keeps norms exactly and is dense: products of projections (Xiao et al. 2018, appendix D)."""

    gain: float = 1.0

    @property
    def mean(self) -> None:
        return None  # the projections have positive traces: not zero, and no closed form

    @property
    def std(self) -> None:
        return None

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        import torch

        size = self.shape[self._spatial[0]]
        kernel = torch.eye(self.rows).unsqueeze(0).unsqueeze(0).to(stream.uniform(0).dtype)
        for _ in range(size - 1):
            kernel = _convolve(kernel, _block(_projection(stream, self.rows), _projection(stream, self.rows)))
        kernel = kernel @ orthogonal_matrices(stream, 1, self.rows, self.columns)[0]
        order = [*self._spatial, self.out_axis, self.in_axis]
        return kernel.mul(self.gain).permute([order.index(axis) for axis in range(4)])


def _projection(stream: Stream, n: int) -> Tensor:
    """A random orthogonal projection: each direction is kept with probability one half."""
    q = orthogonal_matrices(stream, 1, n, n)[0]
    kept = q * (stream.uniform(n) > 0)
    return kept @ kept.T


def _block(p: Tensor, q: Tensor) -> Tensor:
    """The 2 x 2 kernel of matrices that convolves by p or 1 - p along one axis and by q or 1 - q along the other."""
    import torch

    one = torch.eye(p.shape[0], dtype=p.dtype)
    return torch.stack([torch.stack([p @ q, p @ (one - q)]), torch.stack([(one - p) @ q, (one - p) @ (one - q)])])


def _convolve(a: Tensor, b: Tensor) -> Tensor:
    """The kernel of two convolutions, one after the other; kernels are (height, width, n, n) with matrix products."""
    h, w = a.shape[0] + b.shape[0] - 1, a.shape[1] + b.shape[1] - 1
    out = a.new_zeros(h, w, *a.shape[2:])
    for i in range(b.shape[0]):
        for j in range(b.shape[1]):
            out[i : i + a.shape[0], j : j + a.shape[1]] += a @ b[i, j]
    return out


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
        places = stream.uniform(n, self._others).argsort(dim=1)[:, : self.zeros]
        made.scatter_(1, places, 0.0)
        rest = [size for axis, size in enumerate(self.shape) if axis != self.axis]
        return made.view(n, *rest).movedim(0, self.axis)


@dataclass(frozen=True)
class Table(Construction):
    """The same numbers for every index but that of the last axis: entry (..., n) is values[n]. Mamba's `A_log`."""

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
        return float(self._table().mean()) if math.prod(self.shape) else 0.0

    @property
    def std(self) -> float:
        return float(self._table().std(correction=0)) if math.prod(self.shape) else 0.0

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        return self._table().expand(self.shape)

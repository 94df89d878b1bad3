"""Laws of kernels: a matrix that stands at the kernel's centre, and zeros around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from initconf.laws.base import Construction, Stream
from initconf.laws.constructions import Orthogonal, orthogonal_matrices

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def centre(size: int, floor: bool = True) -> int:
    """The middle of a kernel; of an even one the left of the two, where `padding='same'` leaves the signal in place."""
    return (size - 1) // 2 if floor else size // 2


def _std(count: int, total: int, numel: int) -> float:
    """The std of `numel` numbers, of which `count` are 1 or -1 and the others 0, by their sum: exact up to the root."""
    return math.sqrt(count * numel - total**2) / numel if numel else 0.0


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
        """The axes of the kernel."""
        return [axis for axis in range(len(self.shape)) if axis not in (self.out_axis, self.in_axis)]

    @property
    def middle(self) -> dict[int, int]:
        """Along each of the kernel's axes, the index where the matrix stands."""
        return {axis: centre(self.shape[axis]) for axis in self._spatial}

    def _place(self, matrix: Tensor) -> Tensor:
        kernel = matrix
        if self._spatial:
            kernel = matrix.new_zeros([self.rows, self.columns, *(self.shape[axis] for axis in self._spatial)])
            middle: Any = (..., *self.middle.values())
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

    @property
    def matrix(self) -> Orthogonal:
        """The law of the matrix."""
        return Orthogonal(self.gain, (self.rows, self.columns))

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        return self._place(orthogonal_matrices(stream, 1, self.rows, self.columns, dtype.is_complex)[0].mul(self.gain))


@dataclass(frozen=True)
class Identity(_Placed):
    """`gain` on the diagonal of the (out, in) matrix at the kernel's centre, zeros elsewhere; a rectangle is padded with zeros.

    With `groups`, in / groups inputs are stored, and each group has a diagonal of its own.
    """

    deterministic = True
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
        return abs(self.gain) * _std(self._ones, self._ones, self.numel)

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        import torch

        working = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
        diagonal = torch.eye(self.rows // self.groups, self.columns, dtype=working)
        return self._place(diagonal.repeat(self.groups, 1).mul_(self.gain))


@dataclass(frozen=True)
class Dirac(Construction):
    """torch's `dirac_`: ones at index k // 2 of each spatial axis, for min(out / groups, in) channels of each group."""

    deterministic = True
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
        return _std(self._ones, self._ones, math.prod(self.shape))

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

    deterministic = True
    gain: float = 1.0

    @property
    def _scale(self) -> float:
        return self.gain / math.sqrt(max(self.rows, self.columns, 1))

    @property
    def mean(self) -> float:
        return self._scale * hadamard_sum(self.rows, self.columns) / max(self.numel, 1)

    @property
    def std(self) -> float:
        return abs(self._scale) * _std(self.rows * self.columns, hadamard_sum(self.rows, self.columns), self.numel)

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        return self._place(hadamard(self.rows, self.columns, self._scale, dtype))


@dataclass(frozen=True)
class ZerO(_Placed):
    """ZerO (Zhao et al. 2022, arXiv:2110.12661): no randomness, and no symmetry between units either.

    Square: the identity. Fewer outputs than inputs: a partial identity. More: c I* H I*, with H the Hadamard matrix of order
    2^m, m = ceil(log2 out), and c = 2^(-(m-1)/2).
    """

    deterministic = True
    gain: float = 1.0

    @property
    def _scale(self) -> float:
        m = math.ceil(math.log2(self.rows)) if self.rows > self.columns else 1
        return self.gain * 2 ** (-(m - 1) / 2)

    @property
    def _count_and_sum(self) -> tuple[int, int]:
        """Of the entries that are not zero, each divided by the scale."""
        if self.rows <= self.columns:
            return self.rows, self.rows
        return self.rows * self.columns, hadamard_sum(self.rows, self.columns)

    @property
    def mean(self) -> float:
        return self._scale * self._count_and_sum[1] / max(self.numel, 1)

    @property
    def std(self) -> float:
        return abs(self._scale) * _std(*self._count_and_sum, self.numel)

    def build(self, stream: Stream, dtype: torch.dtype) -> Tensor:
        import torch

        if self.rows > self.columns:
            return self._place(hadamard(self.rows, self.columns, self._scale, dtype))
        return self._place(torch.eye(self.rows, self.columns, dtype=torch.float64).mul_(self.gain))


def hadamard(rows: int, columns: int, scale: float, dtype: torch.dtype) -> Tensor:
    """The corner of Sylvester's matrix times `scale`, which is rounded once, to the given dtype.

    Entry (i, j) is negative where i and j share an odd number of ones in binary.
    """
    import torch

    double = dtype in (torch.float64, torch.complex128)
    value = float(torch.tensor(scale, dtype=torch.float64).to(dtype).real)
    made = torch.full((rows, columns), value, dtype=torch.float64 if double else torch.float32)
    n = 1
    while n < max(rows, columns):  # the matrix of order 2n is [[H, H], [H, -H]]
        below, right = made[n : 2 * n], made[:, n : 2 * n]
        below[:, :n] = made[: below.shape[0], :n]
        right[:n] = made[:n, : right.shape[1]]
        torch.neg(below[:, : right.shape[1]], out=below[:, n : 2 * n])
        n *= 2
    return made


def hadamard_sum(rows: int, columns: int) -> int:
    """The sum over the corner of Sylvester's matrix, whose next order is [[H, H], [H, -H]].

    In H of order n every row but the first sums to zero, and every column: what is cut from it along one axis only sums to n.
    A corner that does not fit into H has one or three such blocks, and one that is a smaller corner.
    """
    total, sign = 0, 1
    while rows > 0 and columns > 0:
        if rows == columns == 1:
            return total + sign
        n = 1 << (max(rows, columns) - 1).bit_length() - 1  # the largest that it does not fit into
        if rows > n and columns > n:
            total += sign * 3 * n
            sign = -sign
        else:
            total += sign * n
        rows, columns = rows - n if rows > n else rows, columns - n if columns > n else columns
    return total


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

"""From laws to values: `stream` gives the uniforms, the law's quantile function makes values of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from initconf import on_gpu
from initconf.laws import Construction, Law
from initconf.stream import generator, key, many_uniforms, stand, symmetric, uniforms, working_dtype

__all__ = ["CHUNK", "Draws", "Source", "chunks", "construct", "generator", "key", "uniforms", "values", "working_dtype"]

MANY = 1 << 12
"""From here on torch makes uniforms of the raw numbers: it takes some microseconds to begin with."""
CPU = torch.device("cpu")
CHUNK = 1 << 18
"""Elements made at once: they stay in the cache from the uniform to the copy."""


class Source:
    """A generator that is set to any place of any stream, and memory to work in. Each thread has its own."""

    def __init__(self) -> None:
        self.bits = np.random.PCG64DXSM(0)
        self._fill = np.random.Generator(self.bits).random
        self._memory: dict[Any, Tensor] = {}

    def memory(self, count: int, dtype: torch.dtype, purpose: str = "", device: torch.device = CPU) -> Tensor:
        """Memory to work in, which is used again."""
        there = self._memory.get((dtype, purpose, device))
        if there is None or there.numel() < count:
            there = self._memory[dtype, purpose, device] = torch.empty(count, dtype=dtype, device=device)
        return there[:count]

    def at(self, key: bytes, first: int, out: Tensor) -> Tensor:
        """Fill a contiguous tensor with the symmetric uniforms of a stream, from number `first` on."""
        if on_gpu.serves(out.device):
            return on_gpu.uniforms([key], [out.numel()], out, first)
        double = out.dtype == torch.float64
        stand(self.bits, key, first if double else first // 2)
        if not double and not first % 2 and out.numel() >= MANY:
            return many_uniforms(self.bits, out)
        if double or not first % 2:
            return uniforms(self.bits, out)
        # Two uniforms to a step, and of the first one only the second half is wanted.
        return out.copy_(uniforms(self.bits, self.memory(out.numel() + 1, out.dtype, "odd"))[1:])

    def runs(self, key: bytes, runs: Sequence[tuple[int, int]], out: Tensor) -> Tensor:
        """Fill a contiguous tensor with ascending runs (first, count) of the symmetric uniforms of a stream."""
        if on_gpu.serves(out.device):
            return on_gpu.uniforms([key] * len(runs), [n for _, n in runs], out, [first for first, _ in runs])
        end, at, each = 0, 0, 1 if out.dtype == torch.float64 else 2
        array = out.numpy()
        dtype: Any = array.dtype
        spare = np.empty(1, dtype)
        stand(self.bits, key)
        for first, count in runs:
            self.bits.advance(first // each - at)  # which forgets the half of a step that was left over
            if first % each:
                self._fill(dtype=dtype, out=spare)
            self._fill(dtype=dtype, out=array[end : end + count])
            end, at = end + count, -(-(first + count) // each)
        return symmetric(out)

    def several(self, keys: Sequence[bytes], counts: Sequence[int], out: Tensor) -> Tensor:
        """Fill a contiguous tensor with the first symmetric uniforms of several streams, one after the other."""
        if on_gpu.serves(out.device):
            return on_gpu.uniforms(keys, counts, out)
        array, end = out.numpy(), 0
        dtype: Any = array.dtype
        for start, count in zip(keys, counts, strict=True):
            stand(self.bits, start)
            self._fill(dtype=dtype, out=array[end : end + count])
            end += count
        return symmetric(out)


@dataclass
class Draws:
    """A parameter's stream, for constructions."""

    bits: np.random.PCG64DXSM
    dtype: torch.dtype

    def uniform(self, *shape: int) -> Tensor:
        return uniforms(self.bits, torch.empty(shape, dtype=self.dtype))

    def normal(self, *shape: int) -> Tensor:
        return self.uniform(*shape).erfinv_().mul_(math.sqrt(2))


@dataclass
class _Single(Draws):
    """What one index of the first axis draws of a parameter's stream."""

    key: bytes
    index: int
    size: int
    """Of the first axis."""
    at: int = 0
    """How much the whole has drawn."""

    def uniform(self, *shape: int) -> Tensor:
        out = torch.empty(shape, dtype=self.dtype)
        Source().at(self.key, self.at + self.index * out.numel(), out.view(-1))
        self.at += self.size * out.numel()
        return out


def construct(law: Construction, key: bytes, dtype: torch.dtype, index: int | None = None) -> Tensor:
    """The values of a construction, or those of one index of its first axis, where each has a `single` law."""
    bits, working, single = generator(key), working_dtype(dtype), law.single
    if index is None:
        return law.build(Draws(bits, working), dtype)
    assert single is not None
    return single.build(_Single(bits, working, key, index, law.shape[0]), dtype)  # type: ignore[attr-defined]


def values(
    law: Law, key: bytes, first: int, count: int, dtype: torch.dtype, source: Source, device: torch.device = CPU
) -> Tensor:
    """Elements `first` to `first + count` of an elementwise law, in memory that the source uses again."""
    v = source.memory(count * law.per_value, working_dtype(dtype), device=device)
    return law.quantile(source.at(key, first * law.per_value, v))


def chunks(law: Law, key: bytes, numel: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """The values of an elementwise law, in order: (start, values). The tensor is used again for the next chunk."""
    source = Source()
    for start in range(0, numel, CHUNK):
        yield start, values(law, key, start, min(CHUNK, numel - start), dtype, source)

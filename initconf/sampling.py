"""From laws to values: `stream` gives the uniforms, the law's quantile function makes values of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from initconf import native, on_gpu
from initconf.laws import Construction, Law
from initconf.stream import Streams, key, working_dtype

__all__ = ["CHUNK", "Draws", "Source", "chunks", "construct", "key", "values", "working_dtype"]

CPU = torch.device("cpu")
CHUNK = 1 << 18
"""Elements made at once: they stay in the cache from the uniform to the copy."""


class Source:
    """Uniforms from any place of any stream, and memory to work in. Each thread has its own."""

    def __init__(self) -> None:
        self._streams: Streams | None = None
        self._memory: dict[Any, Tensor] = {}

    def memory(self, count: int, dtype: torch.dtype, purpose: str = "", device: torch.device = CPU) -> Tensor:
        """Memory to work in, which is used again."""
        there = self._memory.get((dtype, purpose, device))
        if there is None or there.numel() < count:
            there = self._memory[dtype, purpose, device] = torch.empty(count, dtype=dtype, device=device)
        return there[:count]

    def uniforms(self, keys: Sequence[bytes], counts: Sequence[int], out: Tensor, first: int | Sequence[int] = 0) -> Tensor:
        """Fill a contiguous tensor with symmetric uniforms of several streams, one after the other.

        Args:
            counts: how many of each.
            first: the number of the first one, of all or of each.
        """
        if on_gpu.serves(out.device):
            return on_gpu.uniforms(keys, counts, out, first)
        if native.serves() and native.takes(out):
            return native.uniforms(keys, counts, out, first)
        self._streams = self._streams or Streams()
        return self._streams.uniforms(keys, counts, out, first)

    def at(self, key: bytes, first: int, out: Tensor) -> Tensor:
        """Fill a contiguous tensor with the symmetric uniforms of a stream, from number `first` on."""
        return self.uniforms([key], [out.numel()], out, first)


@dataclass
class Draws:
    """A parameter's stream, for constructions: each draw goes on where the last one ended."""

    key: bytes
    dtype: torch.dtype
    at: int = 0
    """The number of the next uniform."""

    def uniform(self, *shape: int) -> Tensor:
        out = torch.empty(shape, dtype=self.dtype, device=CPU)
        Source().at(self.key, self.at, out.view(-1))
        self.at += out.numel()
        return out

    def normal(self, *shape: int) -> Tensor:
        return self.uniform(*shape).erfinv_().mul_(math.sqrt(2))


@dataclass
class _Single(Draws):
    """What one index of the first axis draws of a parameter's stream."""

    index: int = 0
    size: int = 1
    """Of the first axis; `at` is how much the whole has drawn."""

    def uniform(self, *shape: int) -> Tensor:
        out = torch.empty(shape, dtype=self.dtype, device=CPU)
        Source().at(self.key, self.at + self.index * out.numel(), out.view(-1))
        self.at += self.size * out.numel()
        return out


def construct(law: Construction, key: bytes, dtype: torch.dtype, index: int | None = None) -> Tensor:
    """The values of a construction, or those of one index of its first axis, where each has a `single` law."""
    working, single = working_dtype(dtype), law.single
    if index is None:
        return law.build(Draws(key, working), dtype)
    assert single is not None
    return single.build(_Single(key, working, index=index, size=law.shape[0]), dtype)  # type: ignore[attr-defined]


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

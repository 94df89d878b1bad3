"""From laws to values. A value depends on the seed, the parameter's name, the block and its index, and on nothing else.

The stream (version 1): element i of a parameter, or of a block of it, in logical (row-major) order, is `law.quantile(v_i)` with
`v_i = 2 u_i - 1 + 2^-24`. There `u_i = (h_i >> 8) * 2^-24`, and h_i is the i-th 32-bit half, low half first, of the 64-bit
outputs of NumPy's PCG64DXSM, whose state and increment are the two halves of a SHA-256 (see `key`). NumPy guarantees those
outputs for all versions and platforms. float64 has a stream of its own: `u_i = (r_i >> 11) * 2^-53` of the i-th output, and
`v_i = 2 u_i - 1 + 2^-53`. A complex value takes two consecutive uniforms. A construction (an orthogonal matrix, say) draws what
it needs from the same stream, in order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from initconf.laws import Construction, Law
from initconf.plan import STREAM

CHUNK = 1 << 18
"""Elements made at once: they stay in the cache from the uniform to the copy."""


def key(seed: int, name: str, block: str | None = None) -> bytes:
    """The 32 bytes that a parameter's stream starts from.

    >>> key(0, "fc.weight").hex()[:16]
    '...'
    """
    return hashlib.sha256(f"initconf {STREAM}\0{seed}\0{name}\0{block or ''}".encode()).digest()


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of a parameter are made, before they are cast."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def stand(bits: np.random.PCG64DXSM, key: bytes, step: int = 0) -> None:
    """Put a generator before the given 64-bit output of a stream."""
    # The increment of a PCG must be odd; NumPy takes an even one without a word.
    state: Any = {"state": int.from_bytes(key[:16], "little"), "inc": int.from_bytes(key[16:], "little") | 1}
    bits.state = {"bit_generator": "PCG64DXSM", "state": state, "has_uint32": 0, "uinteger": 0}
    if step:
        bits.advance(step)


def generator(key: bytes) -> np.random.PCG64DXSM:
    """NumPy's bit generator with its state set from a key."""
    bits = np.random.PCG64DXSM(0)
    stand(bits, key)
    return bits


def uniforms(bits: np.random.PCG64DXSM, out: Tensor) -> Tensor:
    """Fill a contiguous float32 or float64 tensor with the next symmetric uniforms of a stream."""
    array = out.numpy()
    dtype: Any = array.dtype
    # The fast way to (h >> 8) * 2^-24 and (r >> 11) * 2^-53; a test holds it to that.
    np.random.Generator(bits).random(dtype=dtype, out=array)
    return symmetric(out)


def symmetric(u: Tensor) -> Tensor:
    """2u - 1 + 2^-24 (2^-53 in float64) in two steps, each of them exact; in place."""
    return u.sub_(0.5 - 2.0 ** (-54 if u.dtype == torch.float64 else -25)).mul_(2)


class Source:
    """A generator that is set to any place of any stream, and memory to work in. Each thread has its own."""

    def __init__(self) -> None:
        self.bits = np.random.PCG64DXSM(0)
        self._fill = np.random.Generator(self.bits).random
        self._memory: dict[Any, Tensor] = {}

    def memory(self, count: int, dtype: torch.dtype, purpose: str = "") -> Tensor:
        """Memory to work in, which is used again."""
        there = self._memory.get((dtype, purpose))
        if there is None or there.numel() < count:
            there = self._memory[dtype, purpose] = torch.empty(count, dtype=dtype)
        return there[:count]

    def at(self, key: bytes, first: int, out: Tensor) -> Tensor:
        """Fill a contiguous tensor with the symmetric uniforms of a stream, from number `first` on."""
        double = out.dtype == torch.float64
        stand(self.bits, key, first if double else first // 2)
        if double or first % 2 == 0:
            return uniforms(self.bits, out)
        # Two uniforms to a step, and of the first one only the second half is wanted.
        return out.copy_(uniforms(self.bits, self.memory(out.numel() + 1, out.dtype, "odd"))[1:])

    def several(self, keys: Sequence[bytes], counts: Sequence[int], out: Tensor) -> Tensor:
        """Fill a contiguous tensor with the first symmetric uniforms of several streams, one after the other."""
        array, end = out.numpy(), 0
        dtype: Any = array.dtype
        for key, count in zip(keys, counts, strict=True):
            stand(self.bits, key)
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


def construct(law: Construction, key: bytes, dtype: torch.dtype) -> Tensor:
    """The values of a construction."""
    return law.build(Draws(generator(key), working_dtype(dtype)), dtype)


def values(law: Law, key: bytes, first: int, count: int, dtype: torch.dtype, source: Source) -> Tensor:
    """Elements `first` to `first + count` of an elementwise law, in memory that the source uses again."""
    v = source.memory(count * law.per_value, working_dtype(dtype))
    return law.quantile(source.at(key, first * law.per_value, v))


def chunks(law: Law, key: bytes, numel: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """The values of an elementwise law, in order: (start, values). The tensor is used again for the next chunk."""
    source = Source()
    for start in range(0, numel, CHUNK):
        yield start, values(law, key, start, min(CHUNK, numel - start), dtype, source)

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
from collections.abc import Iterator
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
    return hashlib.sha256("\0".join((f"initconf {STREAM}", str(seed), name, block or "")).encode()).digest()


def generator(key: bytes) -> np.random.PCG64DXSM:
    """NumPy's bit generator with its state set from a key."""
    bits = np.random.PCG64DXSM(0)
    # The increment of a PCG must be odd; NumPy takes an even one without a word.
    state: Any = {"state": int.from_bytes(key[:16], "little"), "inc": int.from_bytes(key[16:], "little") | 1}
    bits.state = {"bit_generator": "PCG64DXSM", "state": state, "has_uint32": 0, "uinteger": 0}
    return bits


def uniforms(bits: np.random.PCG64DXSM, out: Tensor) -> Tensor:
    """Fill a contiguous float32 or float64 tensor with the next symmetric uniforms of a stream."""
    double = out.dtype == torch.float64
    # The fast way to (h >> 8) * 2^-24 and (r >> 11) * 2^-53; a test holds it to that.
    np.random.Generator(bits).random(dtype=np.float64 if double else np.float32, out=out.numpy())
    # 2u - 1 + 2^-24 in two steps, each of them exact.
    return out.sub_(0.5 - 2.0 ** (-54 if double else -25)).mul_(2)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of a parameter are made, before they are cast."""
    return torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32


def chunks(law: Law, key: bytes, numel: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """The values of an elementwise law, in order: (start, values). The tensor is used again for the next chunk."""
    bits = generator(key)
    scratch = torch.empty(min(numel, CHUNK) * law.per_value, dtype=working_dtype(dtype))
    for start in range(0, numel, CHUNK):
        part = scratch[: min(CHUNK, numel - start) * law.per_value]
        yield start, law.quantile(uniforms(bits, part))


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

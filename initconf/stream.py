"""The stream that values are made from: defined by integers alone, so that another implementation can reproduce it.

Version 1: a parameter, or a block of it, has a stream of its own: the 64-bit outputs of NumPy's PCG64DXSM, whose state and
increment are the two halves of a SHA-256 (see `key`). NumPy guarantees those outputs for all versions and platforms. With h_i
the i-th 32-bit half of them, low half first, `u_i = (h_i >> 8) * 2^-24` and `v_i = 2 u_i - 1 + 2^-24`. float64 and complex128
take one output each: `u_i = (r_i >> 11) * 2^-53`, `v_i = 2 u_i - 1 + 2^-53`.

Element i, in logical (row-major) order, of an elementwise law is `law.quantile(v_i)`; a complex one takes `v_2i` and `v_2i+1`.
A construction (an orthogonal matrix, say) draws what it needs in order. Quantiles, their roundings and constructions are
defined step by step in notebooks/2-the-stream.ipynb, which reproduces them without this package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from initconf.plan import STREAM


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


class Streams:
    """Symmetric uniforms by way of NumPy: what defines them, and what makes them where nothing faster serves."""

    def __init__(self) -> None:
        self.bits = np.random.PCG64DXSM(0)

    def uniforms(self, keys: Sequence[bytes], counts: Sequence[int], out: Tensor, first: int | Sequence[int] = 0) -> Tensor:
        """Fill a contiguous float32 or float64 tensor with symmetric uniforms of several streams, one after the other.

        Args:
            counts: how many of each.
            first: the number of the first one, of all or of each.
        """
        each = 1 if out.dtype == torch.float64 else 2
        firsts = [first] * len(keys) if isinstance(first, int) else first
        if len(keys) == 1 and each == 2 and not firsts[0] % 2 and counts[0] >= _MANY:
            stand(self.bits, keys[0], firsts[0] // 2)
            return _many(self.bits, out)
        array, fill = out.numpy(), np.random.Generator(self.bits).random
        dtype: Any = array.dtype
        end, at, last, spare = 0, 0, b"", np.empty(1, dtype)
        for key, count, number in zip(keys, counts, firsts, strict=True):
            if key == last:
                self.bits.advance(number // each - at)  # which forgets the half of a step that was left over
            else:
                stand(self.bits, key, number // each)
            if number % each:
                fill(dtype=dtype, out=spare)
            # The short way to (h >> 8) * 2^-24 and (r >> 11) * 2^-53; a test holds it to that.
            fill(dtype=dtype, out=array[end : end + count])
            end, at, last = end + count, -(-(number + count) // each), key
        return _symmetric(out)


_MANY = 1 << 12
"""From here on torch makes uniforms of the raw numbers: it takes some microseconds to begin with."""
_LEAST = torch.from_numpy(np.array(2.0**-24 - 1, dtype=np.float32))
"""By way of NumPy, for which torch's default dtype, device and modes mean nothing."""


def _many(bits: np.random.PCG64DXSM, out: Tensor) -> Tensor:
    """The next uniforms of a stream in a flat float32 tensor, a third faster; half of a number that is left over is dropped."""
    raw: Any = bits.random_raw((out.numel() + 1) // 2)
    halves = raw.view(np.uint32)[: out.numel()]
    np.right_shift(halves, 8, out=halves)
    # k = h >> 8 is exact in float32, k 2^-23 too, and so is their sum: an odd multiple of 2^-24 below 1.
    return torch.add(_LEAST, out.copy_(torch.from_numpy(halves.view(np.int32))), alpha=2.0**-23, out=out)


def _symmetric(u: Tensor) -> Tensor:
    """2u - 1 + 2^-24 (2^-53 in float64) in two steps, each of them exact; in place."""
    return u.sub_(0.5 - 2.0 ** (-54 if u.dtype == torch.float64 else -25)).mul_(2)

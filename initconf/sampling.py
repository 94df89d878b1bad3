"""From laws to values. A value depends on the seed, the parameter's name, the block and its index, and on nothing else.

The stream (version 1): element i of a parameter, or of a block of it, in logical (row-major) order, is `law.quantile(v_i)` with
`v_i = 2 u_i - 1 + 2^-24`. There `u_i = (h_i >> 8) * 2^-24`, and h_i is the i-th 32-bit half, low half first, of the 64-bit outputs
of NumPy's PCG64DXSM, whose state and increment are the two halves of a SHA-256 (see `key`). NumPy guarantees those outputs for
all versions and platforms. float64 has a stream of its own: `u_i = (r_i >> 11) * 2^-53` of the i-th output, and
`v_i = 2 u_i - 1 + 2^-53`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from initconf.laws import Law, Orthogonal
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
    return torch.float64 if dtype == torch.float64 else torch.float32


def chunks(law: Law, key: bytes, numel: int, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
    """The values of an elementwise law, in order: (start, values). The tensor is used again for the next chunk."""
    bits = generator(key)
    scratch = torch.empty(min(numel, CHUNK), dtype=working_dtype(dtype))
    for start in range(0, numel, CHUNK):
        part = scratch[: min(CHUNK, numel - start)]
        yield start, law.quantile(uniforms(bits, part))


def orthogonal(law: Orthogonal, key: bytes, dtype: torch.dtype) -> Tensor:
    """The values of an orthogonal law: QR of a Gaussian matrix, with the signs that make it Haar distributed (Mezzadri)."""
    rows, columns, batch = law.rows, law.columns, math.prod(law.shape[axis] for axis in law.batch)
    tall = torch.empty(batch, max(rows, columns), min(rows, columns), dtype=working_dtype(dtype))
    if tall.numel():
        uniforms(generator(key), tall.view(-1)).erfinv_()
        q, r = torch.linalg.qr(tall)
        tall = q.mul_(torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -law.gain, law.gain).unsqueeze(-2))
    matrix = tall.transpose(-1, -2) if rows < columns else tall
    rest = [axis for axis in range(len(law.shape)) if axis not in law.batch and axis not in law.out]
    order = [*law.batch, *law.out, *rest]
    stored = matrix.reshape([law.shape[axis] for axis in order])
    return stored.permute([order.index(axis) for axis in range(len(law.shape))])

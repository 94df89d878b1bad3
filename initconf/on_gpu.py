"""The stream computed on a GPU: the same uniforms as on the CPU, bit for bit, so that shards, devices and CPU agree.

PCG64DXSM steps its 128-bit state by x -> M x + c. Any number of steps at once is again such a map: x -> A x + C c with
A = M^n and C = 1 + M + ... + M^(n-1). Tables hold A and C for n = d 1024^k (d < 1024); a program of the kernel jumps to the
steps of its block by one map for each digit of the block's number, and each of its lanes by one more.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from initconf.stream import stand

_MULTIPLIER = 0xDA942042E4DD58B5
_MASK = (1 << 128) - 1
_LANES = 1024
"""Steps of a block; also the base of the tables' digits."""
_LEVELS = 3
"""Digits of the tables: enough for 2^30 steps of one launch."""
MOST = 1 << 30
"""The most steps of one launch."""


@lru_cache(maxsize=1)
def _kernel() -> Any:
    """The kernel, None where there is no triton: it comes with torch's builds for CUDA."""
    try:
        from initconf.stream_kernel import fill
    except ImportError:
        return None
    return fill


@lru_cache(maxsize=8)
def _table(device: torch.device) -> Tensor:
    """A and C of every digit of every level, as (low, high) halves."""
    rows = []
    step = (_MULTIPLIER, 1)
    for _ in range(_LEVELS):
        a, c = 1, 0
        for _ in range(_LANES):
            rows += [a, a >> 64, c, c >> 64]
            a, c = a * step[0] & _MASK, (c * step[0] + step[1]) & _MASK
        step = (a, c)
    return _halves(rows).to(device)


def _halves(numbers: Sequence[int]) -> Tensor:
    """The lowest 64 bits of each number."""
    return torch.from_numpy(np.array([n & (1 << 64) - 1 for n in numbers], dtype=np.uint64).view(np.int64))


def serves(device: torch.device) -> bool:
    """Whether the stream can be computed on a device."""
    return device.type == "cuda" and _kernel() is not None


def uniforms(keys: Sequence[bytes], counts: Sequence[int], out: Tensor, first: int = 0) -> Tensor:
    """Fill a contiguous float32 or float64 tensor on a GPU with symmetric uniforms of several streams, one after the other.

    Args:
        counts: how many of each.
        first: the number of the first one, the same for all.
    """
    double = out.dtype == torch.float64
    bits, rows, start = np.random.PCG64DXSM(0), [], 0
    for key, count in zip(keys, counts, strict=True):
        stand(bits, key, first if double else first // 2)
        there: Any = bits.state["state"]
        state, increment = there["state"], there["inc"]
        rows += [state, state >> 64, increment, increment >> 64, start, count, 0 if double else first % 2]
        start += count
    most = max(counts)
    steps = most if double else (most + first % 2 + 1) // 2
    if steps > MOST:
        raise ValueError(f"{steps} steps are more than one launch can do")
    grid = (-(-steps // _LANES), len(counts))
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():  # triton's interpreter works in memory
        _kernel()[grid](out, _halves(rows).to(out.device), _table(out.device), DOUBLE=double, LANES=_LANES, num_warps=4)
    return out

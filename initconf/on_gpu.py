"""The stream computed on a GPU: the same uniforms as on the CPU, bit for bit, so that shards, devices and CPU agree.

PCG64DXSM steps its 128-bit state by x -> M x + c. Any number of steps at once is again such a map: x -> A x + C c with
A = M^n and C = 1 + M + ... + M^(n-1). Tables hold A and C for n = d 1024^k (d < 1024); a program of the kernel jumps to the
steps of its block by one map for each digit of the block's number, and each of its lanes by one more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from initconf.stream import Streams, key, stand

log = logging.getLogger("initconf")

_MULTIPLIER = 0xDA942042E4DD58B5
_MASK = (1 << 128) - 1
_LANES = 1024
"""Steps of a block; also the base of the tables' digits."""
_LEVELS = 3
"""Digits of the tables: enough for 2^30 steps of one launch."""
MOST = 1 << 30
"""The most steps of one launch."""
_STREAMS = (1 << 16) - 1
"""The most streams of one launch: programs along CUDA's second axis."""


@lru_cache(maxsize=1)
def _kernel() -> Any:
    """The kernel; importing it fails where there is no triton, which comes with torch's builds for CUDA."""
    from initconf.stream_kernel import fill

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
    return device.type == "cuda" and works(device)


@lru_cache(maxsize=64)
def works(device: torch.device) -> bool:
    """Whether the kernel runs on a device and gives the CPU's bits there, tried on a few numbers; why it does not is logged.

    That there is no compiler for what launches a kernel, or that a GPU is too old, comes out at the first launch only.
    """
    try:
        for dtype in (torch.float32, torch.float64):
            tried = key(0, "tried")
            found = uniforms([tried], [99], torch.empty(99, dtype=dtype, device=device)).cpu()
            if not torch.equal(found, Streams().uniforms([tried], [99], torch.empty(99, dtype=dtype, device="cpu"))):
                raise ArithmeticError("it gives other bits than the CPU")
    except Exception as error:  # noqa: BLE001 - whatever triton, its compiler or the driver raise
        log.warning(
            "values for %s are made on the CPU and copied, which takes longer: the kernel does not run there: %s: %s",
            device,
            type(error).__name__,
            error,
        )
        return False
    return True


def uniforms(keys: Sequence[bytes], counts: Sequence[int], out: Tensor, first: int | Sequence[int] = 0) -> Tensor:
    """Fill a contiguous float32 or float64 tensor on a GPU with symmetric uniforms of several streams, one after the other.

    Args:
        counts: how many of each.
        first: the number of the first one, of all or of each.
    """
    double = out.dtype == torch.float64
    firsts = [first] * len(keys) if isinstance(first, int) else first
    bits, rows, start = np.random.PCG64DXSM(0), [], 0
    for name, count, at in zip(keys, counts, firsts, strict=True):
        stand(bits, name, at if double else at // 2)
        there: Any = bits.state["state"]
        state, increment = there["state"], there["inc"]
        rows.append([state, state >> 64, increment, increment >> 64, start, count, 0 if double else at % 2])
        start += count
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():  # triton's interpreter works in memory
        for i in range(0, len(rows), _STREAMS):
            some = rows[i : i + _STREAMS]
            steps = max(count if double else (count + odd + 1) // 2 for *_, count, odd in some)
            if steps > MOST:
                raise ValueError(f"{steps} steps are more than one launch can do")
            streams = _halves([number for row in some for number in row]).to(out.device)
            grid = (-(-steps // _LANES), len(some))
            _kernel()[grid](out, streams, _table(out.device), DOUBLE=double, LANES=_LANES, num_warps=4)
    return out

"""The stream computed by compiled code: the uniforms of `stream`, bit for bit, two to three times as fast.

`uniforms.c` is compiled when initconf is installed and there is a C compiler; where it is not, NumPy makes the same values.
"""

from __future__ import annotations

import ctypes
import logging
import os
from array import array
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from initconf.stream import Streams, key

log = logging.getLogger("initconf")

VARIABLE = "INITCONF_NATIVE"
LIBRARY = Path(__file__).with_name("uniforms.so")


def serves() -> bool:
    """Whether compiled code makes the uniforms; the environment's INITCONF_NATIVE=0 says that it must not."""
    return _fill() is not None


@lru_cache(maxsize=1)
def _fill() -> Any:
    """The compiled function, tried on a few numbers; None where there is none, or where it is not wanted."""
    if os.environ.get(VARIABLE) == "0" or not LIBRARY.exists():
        return None
    try:
        fill = ctypes.CDLL(str(LIBRARY)).initconf_uniforms
        fill.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int]
        fill.restype = None
        tried = key(0, "tried")
        for dtype in (torch.float32, torch.float64):
            found, expected = (torch.empty(99, dtype=dtype, device="cpu") for _ in range(2))
            _call(fill, [tried], [99], found, [0])
            if not torch.equal(found, Streams().uniforms([tried], [99], expected)):
                raise ArithmeticError("it gives other bits than NumPy")
    except (OSError, AttributeError, ArithmeticError) as error:
        log.warning("values are made by way of NumPy, which takes longer: %s cannot be used: %s", LIBRARY, error)
        return None
    return fill


def _call(fill: Any, keys: Sequence[bytes], counts: Sequence[int], out: Tensor, firsts: Sequence[int]) -> None:
    a, n = array("Q", firsts), array("Q", counts)
    fill(b"".join(keys), a.buffer_info()[0], n.buffer_info()[0], len(n), out.data_ptr(), out.dtype == torch.float64)


def uniforms(keys: Sequence[bytes], counts: Sequence[int], out: Tensor, first: int | Sequence[int] = 0) -> Tensor:
    """Fill a contiguous float32 or float64 tensor on the CPU with symmetric uniforms of several streams, one after the other.

    Args:
        counts: how many of each.
        first: the number of the first one, of all or of each.
    """
    _call(_fill(), keys, counts, out, [first] * len(keys) if isinstance(first, int) else first)
    return out

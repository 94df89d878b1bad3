"""Values computed by compiled code: the uniforms of `stream` and the last step of a law, bit for bit, and faster.

`values.c` is compiled when initconf is installed and there is a C compiler; where there is none, NumPy and torch do the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
from array import array
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.utils._python_dispatch import _disable_current_modes

from initconf.laws.base import Line
from initconf.marks import is_plain
from initconf.stream import Streams, key

log = logging.getLogger("initconf")

VARIABLE = "INITCONF_NATIVE"
LIBRARY = Path(__file__).with_name("values.so")


def serves() -> bool:
    """Whether compiled code makes the values; the environment's INITCONF_NATIVE=0 says that it must not."""
    return _library() is not None


@lru_cache(maxsize=1)
def _library() -> Any:
    """The compiled functions, tried on a few numbers; None where there are none, or where they are not wanted."""
    if os.environ.get(VARIABLE, "").lower() in ("0", "no", "off", "false") or not LIBRARY.exists():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        source = hashlib.sha256(LIBRARY.with_suffix(".c").read_bytes()).hexdigest()
        if ctypes.c_char_p(ctypes.addressof(ctypes.c_char.in_dll(library, "initconf_source"))).value != source.encode():
            raise OSError("it was compiled from another values.c; install initconf again")
        pointer, number, size = ctypes.c_void_p, ctypes.c_float, ctypes.c_size_t
        kinds: list[Any]
        for name, kinds in {
            "initconf_uniforms": [ctypes.c_char_p, pointer, pointer, size, pointer, ctypes.c_int],
            "initconf_line_float": [pointer, size, number, number, number, number],
            "initconf_line_bfloat16": [pointer, size, number, number, number, number, pointer],
            "initconf_uniform_line_bfloat16": [
                *(ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64),
                *(number, number, number, number, pointer),
            ],
        }.items():
            function: Any = getattr(library, name)  # which is kept, as library[name] is not
            function.argtypes, function.restype = kinds, None
        with _disable_current_modes():
            _try(library)
    except Exception as error:  # noqa: BLE001 - whatever the loader or torch raise: NumPy makes the same values
        log.warning("values are made by way of NumPy, which takes longer: %s cannot be used: %s", LIBRARY, error)
        return None
    return library


def _try(library: Any) -> None:
    tried = key(0, "tried")
    for dtype in (torch.float32, torch.float64):
        for first in (0, 2**33 + 1):
            found, expected = (torch.empty(99, dtype=dtype, device="cpu") for _ in range(2))
            _uniforms(library, [tried], [99], found, [first])
            if not torch.equal(found, Streams().uniforms([tried], [99], expected, first)):
                raise ArithmeticError("it gives other bits than NumPy")
    x, line = torch.linspace(-1, 1, 99, dtype=torch.float32, device="cpu"), Line(0.3, 0.1, -0.15, 0.35)
    u = Streams().uniforms([tried], [99], torch.empty(99, dtype=torch.float32, device="cpu"), 7)
    halves = [torch.empty(99, dtype=torch.bfloat16, device="cpu") for _ in range(2)]
    made = [_line(library, x, line, halves[0]), _uniform_line(library, tried, 7, line, halves[1])]
    wholes = [line.of(values.clone()) for values in (x, u)]
    same = [torch.equal(half, whole.bfloat16()) for half, whole in zip(made, wholes, strict=True)]
    if not all(same) or not torch.equal(_line(library, x, line, x), wholes[0]):
        raise ArithmeticError("it gives other bits than torch")


def takes(out: Tensor) -> bool:
    """Whether a tensor is memory that can be written by its address: no fake one, none on meta, nor a negated view."""
    return out.is_cpu and not out.is_neg() and is_plain(out) and (out.data_ptr() != 0 or not out.numel())


def uniforms(keys: Sequence[bytes], counts: Sequence[int], out: Tensor, first: int | Sequence[int] = 0) -> Tensor:
    """Fill a contiguous float32 or float64 tensor on the CPU with symmetric uniforms of several streams, one after the other.

    Args:
        counts: how many of each.
        first: the number of the first one, of all or of each.
    """
    return _uniforms(_library(), keys, counts, out, [first] * len(keys) if isinstance(first, int) else first)


def _uniforms(library: Any, keys: Sequence[bytes], counts: Sequence[int], out: Tensor, firsts: Sequence[int]) -> Tensor:
    a, n = array("Q", firsts), array("Q", counts)
    pointers = b"".join(keys), a.buffer_info()[0], n.buffer_info()[0], len(n), out.data_ptr()
    library.initconf_uniforms(*pointers, out.dtype == torch.float64)
    increment_version(out)  # so that a backward pass which needs the old values notices, as with torch's own functions
    return out


def line(x: Tensor, line: Line, out: Tensor) -> Tensor:
    """`line.of(x)` in one pass: of float32 in place, or into bfloat16 (both contiguous, and on the CPU)."""
    return _line(_library(), x, line, out)


def _line(library: Any, x: Tensor, line: Line, out: Tensor) -> Tensor:
    if out is x:
        library.initconf_line_float(x.data_ptr(), x.numel(), *_numbers(line))
    else:
        library.initconf_line_bfloat16(x.data_ptr(), x.numel(), *_numbers(line), out.data_ptr())
    increment_version(out)
    return out


def uniform_line(key: bytes, first: int, line: Line, out: Tensor) -> Tensor:
    """`line.of` the symmetric uniforms of a stream, from number `first` on; into contiguous bfloat16 on the CPU."""
    return _uniform_line(_library(), key, first, line, out)


def _uniform_line(library: Any, key: bytes, first: int, line: Line, out: Tensor) -> Tensor:
    library.initconf_uniform_line_bfloat16(key, first, out.numel(), *_numbers(line), out.data_ptr())
    increment_version(out)
    return out


def _numbers(line: Line) -> tuple[float, float, float, float]:
    # -0.0 is what changes no number, -0.0 among them, when it is added.
    return line.scale, line.shift or -0.0, line.low, line.high

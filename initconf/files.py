"""Tensors in files: `.npy`, safetensors (also sharded, by their index) and torch files. Reading runs no code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from initconf.errors import InitConfError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: known without being read."""

    shape: tuple[int, ...]
    dtype: str
    """As torch prints it, without the prefix: `float32`."""
    read: Callable[[], Tensor]


def contents(path: str) -> Mapping[str, Stored]:
    """The tensors of a file by name; that of a `.npy` file has the empty name.

    Args:
        path: `.npy`, `.safetensors`, a file that `torch.save` wrote, holding a mapping of tensors (or a mapping with one such
            under `state_dict` or `model`), or the `.index.json` of several safetensors or torch files.

    Raises InitConfError for a file that is missing, of another kind, damaged, or that holds pickled code.
    """
    file = Path(path).expanduser()
    try:
        stat = file.stat()
    except (OSError, ValueError):
        raise InitConfError(f"there is no file {path}") from None
    if not file.is_file():
        raise InitConfError(f"{path} is not a file")
    return _contents(str(file), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _contents(path: str, changed: int, size: int) -> Mapping[str, Stored]:
    if path.endswith(".npy"):
        return _npy(path)
    if path.endswith(".safetensors"):
        return _safetensors(path)
    if path.endswith(".index.json"):
        return _index(path)
    return _torch(path)


def _npy(path: str) -> Mapping[str, Stored]:
    import numpy as np
    import torch

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - a damaged file makes its reader stumble over anything
        raise InitConfError(f"{path} cannot be read: {_first(error)}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fciub" or array.dtype.itemsize > 16:
        raise InitConfError(f"{path} holds {getattr(array, 'dtype', 'several arrays')}, not numbers that torch has")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return {"": Stored(tuple(array.shape), array.dtype.name, lambda: torch.from_numpy(np.array(array)))}


def _safetensors(path: str) -> Mapping[str, Stored]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise InitConfError(f"{path} needs the package safetensors: pip install safetensors") from None

    def reader(key: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(key)
                return tensor

        return read

    try:
        with safe_open(path, framework="pt") as file:
            parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return {key: Stored(tuple(s.get_shape()), _DTYPES.get(s.get_dtype(), "?"), reader(key)) for key, s in parts.items()}
    except (SafetensorError, OSError) as error:
        raise InitConfError(f"{path} cannot be read: {_first(error)}") from None


def _index(path: str) -> Mapping[str, Stored]:
    try:
        where = json.loads(Path(path).read_text(encoding="utf-8"))["weight_map"]
        if not all(name.endswith((".safetensors", ".bin", ".pt", ".pth")) for name in where.values()):
            raise ValueError
        # Files beside it, which may be links, as in the cache of Hugging Face: an index from elsewhere reaches no others.
        if outside := sorted(name for name in where.values() if Path(name).name != name):
            raise InitConfError(f"{path} names {outside[0]!r}, which is not a file beside it")
        shards = {name: contents(str(Path(path).parent / name)) for name in set(where.values())}
        return {key: shards[name][key] for key, name in where.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InitConfError(f"{path} is not an index of safetensors or torch files") from None


def _torch(path: str) -> Mapping[str, Stored]:
    import torch

    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - as in `_npy`
        raise InitConfError(f"{path} is not a file of plain tensors ({type(error).__name__}); nothing else is loaded") from None
    for name in ("state_dict", "model"):
        if isinstance(data, Mapping) and isinstance(data.get(name), Mapping):
            data = data[name]
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise InitConfError(f"{path} holds no mapping of names to tensors")

    def keep(tensor: Tensor) -> Callable[[], Tensor]:
        return lambda: tensor

    tensors: dict[str, Any] = {
        key: value
        for key, value in data.items()
        if isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_meta
    }
    return {k: Stored(tuple(t.shape), str(t.dtype).removeprefix("torch."), keep(t)) for k, t in tensors.items()}


_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""Tensors in files: `.npy`, safetensors (also sharded, by their index) and torch files. Reading runs no code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from initconf.errors import InitConfError, Problem, listed

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: known without being read."""

    shape: tuple[int, ...]
    dtype: str
    """As torch prints it, without the prefix: `float32`."""
    read: Callable[[], Tensor]
    fault: str | None = None
    """Why it cannot be read, with "it" in front: `is stored on meta, without values`."""


_FOLDER = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""What is read of a folder: the first that is there, as transformers has it."""
_STATE = ("state_dict", "model_state_dict", "model")
"""What a mapping with the model's tensors is looked for under, in a checkpoint that has others too."""


def contents(path: str) -> Mapping[str, Stored]:
    """The tensors of a file by name; that of a `.npy` file has the empty name.

    Args:
        path: `.npy`, `.safetensors`, a file that `torch.save` wrote, holding a mapping of tensors (or a mapping with one such,
            under `state_dict`, `model_state_dict` or `model` if there are several), the `.index.json` of several safetensors or
            torch files, or a folder with `model.safetensors` or an index.

    Raises InitConfError for a file that is missing, of another kind, damaged, or that holds pickled code.
    """
    file = Path(path).expanduser()
    try:
        stat = file.stat()
    except (OSError, ValueError):
        raise InitConfError(f"there is no file {path}") from None
    if file.is_dir():
        return contents(str(_in_folder(path, file)))
    if not file.is_file():
        raise InitConfError(f"{path} is not a file")
    return _contents(str(file), stat.st_mtime_ns, stat.st_size)


def _in_folder(path: str, folder: Path) -> Path:
    if found := next((name for name in _FOLDER if (folder / name).is_file()), None):
        return folder / found
    if (folder / ".metadata").is_file():
        remedy = "torch.distributed.checkpoint.format_utils.dcp_to_torch_save makes a file of it"
        raise InitConfError(Problem(f"{path} is a folder of torch.distributed.checkpoint", remedy=remedy))
    raise InitConfError(f"{path} is a folder with none of {', '.join(_FOLDER)}")


@lru_cache(maxsize=4)
def _contents(path: str, changed: int, size: int) -> Mapping[str, Stored]:
    if path.endswith(".npy"):
        return _npy(path)
    if path.endswith(".safetensors"):
        return _safetensors(path)
    if path.endswith(".index.json"):
        return _index(path)
    return _torch(path, changed, size)


def _npy(path: str) -> Mapping[str, Stored]:
    import numpy as np
    import torch

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - a damaged file makes its reader stumble over anything
        raise InitConfError(f"{path} cannot be read: {_first(error)}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fciub" or array.dtype.itemsize > 16:
        raise InitConfError(f"{path} holds {getattr(array, 'dtype', 'several arrays')}, not numbers that torch has")
    native = array.dtype.newbyteorder("=")

    def read() -> Tensor:
        return torch.from_numpy(np.array(np.load(path, mmap_mode="r", allow_pickle=False), dtype=native))

    return {"": Stored(tuple(array.shape), native.name, read)}


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
        if lost := next((key for key, name in where.items() if key not in shards[name]), None):
            raise InitConfError(f"{path} says that {lost!r} is in {where[lost]}, and it is not")
        return {key: shards[name][key] for key, name in where.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InitConfError(f"{path} is not an index of safetensors or torch files") from None


def _torch(path: str, changed: int, size: int) -> Mapping[str, Stored]:
    def stored(name: str, tensor: Tensor) -> Stored:
        fault = _fault(tensor)
        shape = () if tensor.is_nested else tuple(tensor.shape)
        dtype = str(tensor.dtype).removeprefix("torch.")
        return Stored(shape, dtype, partial(_read, path, changed, size, name), fault)

    return {name: stored(name, tensor) for name, tensor in _opened(path, changed, size).items()}


def _read(path: str, changed: int, size: int, name: str) -> Tensor:
    tensor: Tensor = _opened(path, changed, size)[name]
    return tensor


class _Tensors(dict[str, Any]):
    """The tensors of a torch file, mapped into memory where it is a zip; for as long as somebody holds it."""


_open: WeakValueDictionary[tuple[str, int, int], _Tensors] = WeakValueDictionary()
_held: dict[object, dict[tuple[str, int, int], _Tensors]] = {}
_lock = RLock()


@contextmanager
def held_open() -> Iterator[None]:
    """Torch files that are read inside are opened once, and closed at the end; else every tensor opens its file anew."""
    scope = object()
    with _lock:
        _held[scope] = {}
    try:
        yield
    finally:
        with _lock:
            del _held[scope]


def _opened(*file: Any) -> _Tensors:
    with _lock:
        tensors = _open.get(file)
        if tensors is None:
            tensors = _open[file] = _loaded(file[0])
        for held in _held.values():
            held[file] = tensors
        return tensors


def _loaded(path: str) -> _Tensors:
    import torch

    try:
        with Path(path).open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"  # those from before torch 1.6 cannot be mapped
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # noqa: BLE001 - as in `_npy`
        if "DTensor" in str(error):
            raise _sharded(path) from None
        text = f"{path} is not a file of plain tensors ({type(error).__name__}); nothing else is loaded"
        remedy = "it is damaged, or of another kind: torch.save(model.state_dict(), path) makes one, and so does safetensors"
        raise InitConfError(f"{text}\n  -> {remedy}") from None
    state = _state(path, data)
    if any(type(value).__name__ == "DTensor" for value in state.values()):
        raise _sharded(path)
    return _Tensors((key, value) for key, value in state.items() if isinstance(value, torch.Tensor))


def _sharded(path: str) -> InitConfError:
    how = "torch.distributed.checkpoint.state_dict.get_model_state_dict with StateDictOptions(full_state_dict=True)"
    text = f"{path} holds one process's part of sharded tensors (DTensor)"
    return InitConfError(Problem(text, remedy=f"gather them before they are saved: {how}"))


def _state(path: str, data: Any) -> Mapping[str, Any]:
    """The mapping of names to tensors that a checkpoint is, or that it holds."""
    found = _states(data)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        remedy = "save the one that is meant in a file of its own, or under 'state_dict'"
        raise InitConfError(Problem(f"{path} holds several mappings of tensors: {listed(found)}", remedy=remedy))
    keys = f": it has {listed(map(str, data))}" if isinstance(data, Mapping) and data else ""
    raise InitConfError(f"{path} holds no mapping of names to tensors{keys}")


def _states(data: Any, depth: int = 3) -> dict[str, Mapping[str, Any]]:
    """The mappings that it may be, by name."""
    if not isinstance(data, Mapping):
        return {}
    for name in _STATE if depth else ():
        if found := _states(data.get(name), depth - 1):
            return found
    if _has_tensors(data):
        return {"": data}
    return {str(name): value for name, value in data.items() if isinstance(value, Mapping) and _has_tensors(value)}


def _has_tensors(data: Mapping[Any, Any]) -> bool:
    import torch

    return all(isinstance(key, str) for key in data) and any(isinstance(value, torch.Tensor) for value in data.values())


def _fault(tensor: Tensor) -> str | None:
    import torch

    if tensor.is_meta:
        return "is stored on meta, without values"
    if tensor.is_nested or tensor.layout is not torch.strided:
        return f"is stored as {'a nested tensor' if tensor.is_nested else tensor.layout}; only dense tensors are read"
    return f"is stored quantised, as {tensor.dtype}" if tensor.is_quantized else None


_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

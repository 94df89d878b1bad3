"""Whether a plan and a model fit together: all that is asked before the first write."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from initconf import files, shards
from initconf.errors import ApplyError, InitConfError, Problem, listed
from initconf.laws import Custom, Keep, Values
from initconf.marks import SKIPPED, lacks_values
from initconf.owners import Found, tensor_class
from initconf.plan import Entry, Plan
from initconf.registry import beyond, find

AGAIN = "compile the plan for this model"
RESHARD = "call reshard() on the module that was given to fully_shard"


def check_device(device: Any) -> None:
    """Raise ApplyError for what is no device of this machine, or has no memory. None: none was asked for."""
    if device is None:
        return

    def refused(text: str) -> ApplyError:
        there = ["device='cpu'", *(f"device='cuda:{i}'" for i in range(torch.cuda.device_count()))]
        return ApplyError(Problem(text, "device", repr(device), remedy=f"say one that is there: {listed(there)}"))

    try:
        known = torch.device(device)
    except (RuntimeError, TypeError):  # RuntimeError also for a whole number where there is no accelerator
        raise refused("not a device of torch") from None
    if known.type == "meta":
        raise refused("it has no memory for values")
    try:
        torch.empty(0, device=known)
    except Exception:  # noqa: BLE001 - each backend raises its own: AssertionError, NotImplementedError, ImportError
        raise refused("torch has no such device here") from None


def check(plan: Plan, found: Mapping[str, Found], device: object, gathered: Container[int] = ()) -> None:
    """Raise ApplyError, with every problem, unless each entry can be written.

    Args:
        found: the model's parameters by name.
        device: where parameters that are on meta will be put, None if they stay.
        gathered: parameters (by id) that FSDP holds for a while.
    """
    ties: dict[int, list[str]] = {}
    for name, where in found.items():
        ties.setdefault(where.identity, []).append(name)
    planned = {name for entry in plan.entries for name in (entry.name, *entry.aliases)}
    problems = _overlaps(found)
    missing = [entry.name for entry in plan.entries if entry.name not in found]
    if missing:
        problems.append(Problem(_said("the model has no such parameter", missing), listed(missing), remedy=AGAIN))
    for entry in plan.entries:
        if entry.name not in found:
            continue
        where = found[entry.name]
        tied = ties[where.identity]
        if (entry.aliases or len(tied) > 1) and (wrong := _wrong_ties(entry, tied, planned)):
            problems.append(wrong)
        elif id(where.parameter) in gathered:
            problems.append(Problem("FSDP has gathered it, and drops what is written now", entry.name, remedy=RESHARD))
        elif said := _wrong(entry, where, device):
            problems.append(Problem(said[0], entry.name, remedy=said[1]))
    unknown = [name for name in found if name not in planned]
    if unknown:
        problems.append(Problem(_said("the plan does not know it", unknown), listed(unknown), remedy=AGAIN))
    if problems:
        raise ApplyError(problems)


def _said(text: str, names: list[str]) -> str:
    return text if len(names) == 1 else text.replace("parameter", "parameters").replace(" it", " them")


def _wrong_ties(entry: Entry, here: list[str], planned: set[str]) -> Problem | None:
    names, tied = {entry.name, *entry.aliases}, set(here)
    if not (names - tied or (tied - names) & planned):
        return None
    others = ", ".join(sorted(names - tied or tied - names))
    one, other = ("plan", "model") if names - tied else ("model", "plan")
    return Problem(f"in the {one} it is tied to {others}, and in the {other} it is not", entry.name, remedy=AGAIN)


def _wrong(entry: Entry, where: Found, device: object) -> tuple[str, str | None] | None:
    """What is wrong with one parameter, and what to do about it."""
    parameter = where.parameter
    if parameter.shape != entry.shape:
        return f"its shape is {tuple(parameter.shape)}, and the plan is for {entry.shape}", AGAIN
    if parameter.dtype is not getattr(torch, entry.dtype, None) and (said := _wrong_dtype(entry, parameter)):
        return said, AGAIN
    plain = type(parameter) is nn.Parameter and parameter.is_contiguous() and not parameter.is_meta
    if plain and not entry.blocks and not isinstance(entry.law, (Keep, Custom, Values)):  # nearly all of them
        return None
    laws = [leaf.law for leaf in entry.leaves()]
    kept, keeps = all(isinstance(law, Keep) for law in laws), any(isinstance(law, Keep) for law in laws)
    for leaf in entry.leaves():
        if gone := _gone(leaf):
            return gone
    local = parameter
    if tensor_class(parameter) is not None:
        try:
            local = shards.here(parameter).tensor
        except InitConfError as error:
            return None if kept else (str(error), None)
    if parameter.is_meta:
        if device is None:
            return "it is on meta and has no memory", "say where it shall be: device='cpu'"
        if keeps:
            return "it is on meta and has no values to keep", AGAIN
    elif not kept and _shares(local):
        return "several of its elements share memory (it is expanded)", "clone() it first"
    elif keeps and lacks_values(where):
        return SKIPPED, AGAIN
    return None


def _gone(leaf: Entry) -> tuple[str, str | None] | None:
    """What a plan needs beside itself and is not here: a registered function, or a tensor in a file."""
    law = leaf.law
    try:
        if isinstance(law, Custom):
            find(law.name)
        elif isinstance(law, Values) and (shape := tuple(files.contents(law.path)[law.key].shape)) != leaf.shape:
            return f"{law.path} has {shape} for it now, and the plan is for {leaf.shape}", AGAIN
    except InitConfError as error:
        return str(error), "import the module that registers it" if isinstance(law, Custom) else None
    except KeyError:
        return f"{law.path} has no {law.key!r} any more", AGAIN  # type: ignore[attr-defined]
    return None


def _wrong_dtype(entry: Entry, parameter: Tensor) -> str | None:
    """Why a plan for one dtype cannot be written into another; float32 and half precision serve each other."""
    name = str(parameter.dtype).removeprefix("torch.")
    if _kind(name) != _kind(entry.dtype):
        return f"it is {name}, and the plan is for {entry.dtype}"
    return next((text for leaf in entry.leaves() if (text := beyond(leaf.law, name))), None)


def _kind(dtype: str) -> str:
    return next((kind for kind in ("complex", "float") if kind in dtype), "integer")


def _shares(tensor: Tensor) -> bool:
    """Whether a place in memory is more than one element."""
    if tensor.is_contiguous():
        return False
    end = 0
    for step, n in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if step <= end:
            return True
        end += step * (n - 1)
    return False


def _overlaps(found: Mapping[str, Found]) -> list[Problem]:
    """Parameters that are not the same tensor and yet share memory: the later write would spoil the earlier."""
    spans: dict[int, list[tuple[int, int, str]]] = {}
    seen: set[int] = set()
    for name, where in found.items():
        p, identity = where.parameter, where.identity
        if where.effective is not None or p.is_meta or identity in seen or tensor_class(p) is not None:
            continue
        seen.add(identity)
        if p.layout is torch.strided and (length := _extent(p)):
            start = p.data_ptr()
            spans.setdefault(p.get_device(), []).append((start, start + length * p.element_size(), name))
    problems: list[Problem] = []
    for held in spans.values():
        near: list[str] = []
        last = 0
        for start, end, name in sorted(held):
            if start >= last and len(near) > 1:
                problems += _shared(found, near)
            near = [*near, name] if start < last else [name]
            last = max(last, end)
        problems += _shared(found, near) if len(near) > 1 else []
    return problems


def _shared(found: Mapping[str, Found], names: list[str]) -> Iterator[Problem]:
    """Those of some tensors side by side whose elements lie where those of another one do; columns of one matrix do not."""
    tensors = [found[name].parameter.detach() for name in names]
    size, base = tensors[0].element_size(), tensors[0].data_ptr()
    even = all(t.element_size() == size and not (t.data_ptr() - base) % size and not _shares(t) for t in tensors)
    first = [(t.data_ptr() - base) // size for t in tensors]
    owner = torch.zeros(max(at + _extent(t) for at, t in zip(first, tensors, strict=True)) if even else 0, dtype=torch.int32)
    remedy = "make it one tensor under two names, or give it memory of its own"
    for i, (name, at, t) in enumerate(zip(names, first, tensors, strict=True)):
        mine = owner.as_strided(t.shape, t.stride(), at) if even else owner
        other = int(mine.max()) if even else i
        if other:
            yield Problem(f"it shares memory with {names[other - 1]}, and is another tensor", name, remedy=remedy)
        mine.fill_(i + 1)


def _extent(p: Tensor) -> int:
    """How many elements lie between its first and its last one."""
    if p.is_contiguous() or not p.numel():
        return p.numel()
    return 1 + sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True))

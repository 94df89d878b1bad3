"""Writing a plan into a model. No decision is left to take here."""

from __future__ import annotations

import itertools
import logging
import operator
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from initconf import files, layouts, registry, sampling, walk
from initconf.compiler import compile
from initconf.errors import ApplyError, Problem, SpecError
from initconf.laws import Constant, Construction, Custom, Keep, Law, ModuleDefault, Values
from initconf.loading import load
from initconf.owners import Found, parameters
from initconf.plan import Entry, Plan
from initconf.report import Report
from initconf.resets import reset_values, wide

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("initconf")

_RUNNING = ("running_mean", "running_var", "num_batches_tracked")
"""The buffers that `reset_running_stats` of the norms of torch sets."""


def initialize(
    model: nn.Module,
    spec: Any,
    *,
    seed: int | None = None,
    device: str | torch.device | None = None,
    generator: torch.Generator | None = None,
    example: Any = None,
    verify: bool = False,
) -> Report:
    """Load, compile and apply: one line for a training script.

    Args:
        model: the model, whose parameters are written in place.
        spec: whatever `load` takes: `cfg.init`, the name of a scheme, a path, a mapping.
        seed: instead of the spec's.
        device: where to put parameters that are on meta.
        generator: see `apply`.
        example: see `compile`.
        verify: whether to check the values against the plan at once.

    Raises:
        SpecError, CompileError: nothing has been written.
        ApplyError: the plan could not be written, or the values are not as planned.

    >>> initconf.initialize(model, "he").verify()
    Report(...)
    """
    spec = load(spec)
    if seed is not None:
        spec = spec.model_copy(update={"seed": _checked_seed(seed)})
    plan = compile(model, spec, example=example)
    for warning in plan.warnings:
        log.warning(warning)
    report = apply(model, plan, device=device, generator=generator)
    for note in report.notes:
        log.warning(note)
    return report.verify() if verify else report


def _checked_seed(seed: Any) -> int:
    try:
        if isinstance(seed, bool):
            raise TypeError
        return operator.index(seed)
    except TypeError:
        raise SpecError(Problem("not an integer", "seed", repr(seed))) from None


@torch.no_grad()
def apply(
    model: nn.Module, plan: Plan, *, device: str | torch.device | None = None, generator: torch.Generator | None = None
) -> Report:
    """Write a plan into a model.

    The same values, bit for bit, whatever the order of the parameters, the number of threads and what else is in the model.
    torch's global random state is not touched, and ties stay ties.

    Args:
        model: a model with the parameters of the plan.
        plan: what `compile` decided.
        device: where to put parameters that are on meta.
        generator: write in walk order with torch's own functions from this generator: bit for bit what a script with
            `torch.nn.init` writes. The spec must say `compat: torch`.

    Raises:
        ApplyError: where model and plan do not fit together (nothing has been written then), or where a module's own reset or
            a registered function fails (the error says what has been written).
    """
    started = time.perf_counter()
    found = parameters(model)
    _check(plan, found, device)
    if generator is not None and (refused := walk.refusals(plan)):
        raise ApplyError(refused)
    notes = _materialise(model, found, device) if device is not None else ()
    with _on_cpu():
        for done, entry in enumerate(plan.entries):
            where = _open(_owner(entry, found))
            try:
                if generator is not None:
                    walk.write(entry, where, generator)
                else:
                    for leaf in entry.leaves():
                        _write(leaf, where, plan.seed)
                if where.effective is not None and not isinstance(entry.law, Keep):
                    setattr(where.module, where.place.attribute, where.parameter)
            except Exception as error:  # whatever a module's reset or a user's function raises
                before = f"{done} of {len(plan.entries)} parameters were written before"
                text = f"{entry.initializer or 'its blocks'}: {type(error).__name__}: {error}; {before}"
                raise ApplyError(Problem(text, entry.name, remedy="mend it and apply the plan again")) from error
    return Report(plan, model, time.perf_counter() - started, notes)


def _check(plan: Plan, found: Mapping[str, Found], device: object) -> None:
    problems = []
    planned = {name for entry in plan.entries for name in (entry.name, *entry.aliases)}
    problems += _overlaps(found)
    ties: dict[int, set[str]] = {}
    for name, where in found.items():
        ties.setdefault(where.identity, set()).add(name)
    for entry in plan.entries:
        if entry.name not in found:
            problems.append(Problem("the model has no such parameter", entry.name, remedy="compile the plan for this model"))
            continue
        parameter = found[entry.name].parameter
        names, here = {entry.name, *entry.aliases}, ties[found[entry.name].identity]
        if names - here or (here - names) & planned:
            others = ", ".join(sorted(names - here or here - names))
            one, other = ("plan", "model") if names - here else ("model", "plan")
            text = f"in the {one} it is tied to {others}, and in the {other} it is not"
            problems.append(Problem(text, entry.name, remedy="compile the plan for this model"))
        elif tuple(parameter.shape) != entry.shape:
            text = f"its shape is {tuple(parameter.shape)}, and the plan is for {entry.shape}"
            problems.append(Problem(text, entry.name, remedy="compile the plan for this model"))
        elif parameter.is_meta and device is None:
            problems.append(
                Problem("it is on meta and has no memory", entry.name, remedy="say where it shall be: device='cpu'")
            )
        elif parameter.is_meta and found[entry.name].effective is not None:
            remedy = "materialise the model with to_empty(device=...) first"
            problems.append(Problem("it is parametrised, and on meta", entry.name, remedy=remedy))
        elif parameter.is_meta and any(isinstance(leaf.law, Keep) for leaf in entry.leaves()):
            problems.append(
                Problem("it is on meta and has no values to keep", entry.name, remedy="compile the plan for this model")
            )
        elif type(parameter.data) is not Tensor and not isinstance(entry.law, Keep):
            problems.append(Problem(f"it is a {type(parameter.data).__name__}, which this version cannot write", entry.name))
        elif not parameter.is_meta and any(s == 0 and n > 1 for s, n in zip(parameter.stride(), parameter.shape, strict=True)):
            problems.append(
                Problem("several of its elements share memory (it is expanded)", entry.name, remedy="clone() it first")
            )
    problems += [
        Problem("the plan does not know it", name, remedy="compile the plan for this model")
        for name in found
        if name not in planned
    ]
    if problems:
        raise ApplyError(problems)


def _overlaps(found: Mapping[str, Found]) -> list[Problem]:
    """Parameters that are not the same tensor and yet share memory: the later write would spoil the earlier."""
    spans = []
    for name, where in {where.identity: (name, where) for name, where in found.items()}.values():
        p = where.parameter
        if where.effective is None and not p.is_meta and p.numel() and p.layout is torch.strided and type(p.data) is Tensor:
            length = 1 + sum((n - 1) * s for n, s in zip(p.shape, p.stride(), strict=True))
            spans.append((str(p.device), p.data_ptr(), p.data_ptr() + length * p.element_size(), name))
    spans.sort()
    remedy = "make it one tensor under two names, or give it memory of its own"
    return [
        Problem(f"it shares memory with {first[3]}, and is another tensor", second[3], remedy=remedy)
        for first, second in itertools.pairwise(spans)
        if first[0] == second[0] and second[1] < first[2]
    ]


@contextmanager
def _on_cpu() -> Iterator[None]:
    """Values are made in memory, also where `with torch.device("meta"):` says that new tensors go elsewhere."""
    if torch.get_default_device().type == "cpu":
        yield
    else:
        with torch.device("cpu"):
            yield


def _owner(entry: Entry, found: Mapping[str, Found]) -> Found:
    """Of the owners of a tied parameter the one that gave it its role, and whose reset serves it."""
    places = [found[name] for name in (entry.name, *entry.aliases)]
    fitting = [p for p in places if layouts.find(p.module, p.place.attribute, p.parameter).role == entry.role]
    return fitting[0] if entry.aliases and fitting else places[0]


def _open(where: Found) -> Found:
    """Where to write: of a parametrised weight a tensor that is assigned when it is whole."""
    return where if where.effective is None else replace(where, parameter=where.parameter.clone())


def _write(entry: Entry, where: Found, seed: int) -> None:
    law, parameter = entry.law, where.parameter
    if isinstance(law, Keep):
        return
    part = parameter.detach()
    if entry.block is not None:
        part = part.narrow(entry.axis, entry.start, entry.shape[entry.axis])
    key = sampling.key(seed, entry.name, law.stream or entry.block)
    if isinstance(law, ModuleDefault):
        with _one_thread():
            whole = reset_values(law, where, _torch_seed(sampling.key(seed, entry.name)))
        part.copy_(whole.narrow(entry.axis, entry.start, entry.shape[entry.axis]) if entry.block is not None else whole)
    elif isinstance(law, Custom):
        fresh = torch.full(entry.shape, torch.nan, dtype=wide(part))
        with _one_thread(), torch.random.fork_rng(devices=[]):
            before = torch.get_rng_state()
            registry.find(law.name).fn(fresh, generator=torch.Generator().manual_seed(_torch_seed(key)), **dict(law.settings))
            if not torch.equal(before, torch.get_rng_state()):
                raise RuntimeError(
                    "it draws from torch's global random state; it must draw from the generator that it is given"
                )
        if bool(torch.isnan(fresh).any()):
            raise RuntimeError("it does not write every value of the tensor that it is given")
        part.copy_(fresh)
    elif isinstance(law, Values):
        part.copy_(files.contents(law.path)[law.key].read())
    elif isinstance(law, Constant):
        part.fill_(law.value)
    elif isinstance(law, Construction):
        with _one_thread():
            part.copy_(sampling.construct(law, key, part.dtype))
    else:
        _elementwise(law, key, part)
    if entry.zero_row is not None:
        part[entry.zero_row].zero_()


def _elementwise(law: Law, key: bytes, part: Tensor) -> None:
    # What is not contiguous is filled by way of a flat copy: the stream counts elements in logical order.
    flat = part.view(-1) if part.is_contiguous() else torch.empty(part.numel(), dtype=part.dtype)
    for start, made in sampling.chunks(law, key, part.numel(), part.dtype):
        flat[start : start + made.numel()].copy_(made)
    if not part.is_contiguous():
        part.copy_(flat.view(part.shape))


@contextmanager
def _one_thread() -> Iterator[None]:
    """One intra-op thread, so that the bits of what sums in parallel do not depend on how many there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _torch_seed(key: bytes) -> int:
    return int.from_bytes(key[:8], "little") >> 1


def _materialise(model: nn.Module, found: Mapping[str, Found], device: str | torch.device) -> tuple[str, ...]:
    """Give memory to parameters and buffers that are on meta, ties kept; says which buffers have no values now."""
    twins: dict[int, Tensor] = {}
    for where in found.values():
        old = where.parameter
        if not old.is_meta:
            continue
        if id(old) not in twins:
            twin = torch.nn.Parameter(torch.empty_like(old, device=device), requires_grad=old.requires_grad)
            twin.__dict__.update(old.__dict__)  # marks such as `_no_weight_decay`
            twins[id(old)] = twin
        where.module._parameters[where.place.attribute] = where.parameter = twins[id(old)]  # type: ignore[assignment]
    return tuple(note for path, module in model.named_modules() for note in _restore_buffers(path, module, device, twins))


def _restore_buffers(path: str, module: nn.Module, device: str | torch.device, twins: dict[int, Tensor]) -> list[str]:
    lost = {name: buffer for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta}
    for name, buffer in lost.items():
        module._buffers[name] = twins.setdefault(id(buffer), torch.empty_like(buffer, device=device))
    if lost and callable(getattr(module, "reset_running_stats", None)):
        module.reset_running_stats()  # type: ignore[operator]
        lost = {name: buffer for name, buffer in lost.items() if name not in _RUNNING}
    return [f"the buffer {f'{path}.{name}' if path else name} was on meta and has no values now" for name in lost]

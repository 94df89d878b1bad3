"""Writing a plan into a model. No decision is left to take here."""

from __future__ import annotations

import logging
import operator
import time
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from initconf import by_torch, files, layouts, sampling
from initconf.choosing import Names, choose
from initconf.compiler import compiled
from initconf.conditions import copied, second_moments
from initconf.errors import ApplyError, InitConfError, Problem, SpecError, brief, listed
from initconf.fitting import check, check_device
from initconf.laws import Keep
from initconf.loading import load
from initconf.marks import lacks_values
from initconf.materialise import materialise
from initconf.owners import Found, parameters, walk
from initconf.parametrized import assign, parametrised
from initconf.plan import Entry, Plan
from initconf.progress import shown
from initconf.report import Report
from initconf.shards import gathered, here
from initconf.skipping import paused
from initconf.survey import uncollected
from initconf.threads import Failed, Task, count, full_precision, one_thread, run
from initconf.writing import Writer, is_alone, torch_seed

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger("initconf")


@full_precision()
def compile(
    model: nn.Module,
    spec: Any,
    *,
    targets: Mapping[str, Any] | None = None,
    conditions: Any = None,
    example: Any = None,
) -> Plan:
    """Decide what every parameter of a model will receive; nothing is written, and no value is read.

    Args:
        model: on any device, also meta.
        spec: whatever `load` takes.
        targets: what a hypernetwork generates, by name, beside the `targets` of the spec: a main network, a list of targets,
            shapes, or what has `target_shapes`.
        conditions: for `input_second_moment: measured`: inputs of the model that stand for those it will see, or a list of
            such. A copy of the model is initialised and run on them.
        example: an input for `nonlinearity: auto`: a tensor, a tuple (positional) or a mapping (keywords). The model runs on it
            once, without gradients; without one it is traced symbolically.

    Returns:
        The plan. It depends on the spec and on the model's structure alone (and on conditions and targets).

    Raises:
        SpecError: from `load`.
        CompileError: with every problem: unknown initializers and arguments, rules that match nothing, parameters that nothing
            claims, initializers that cannot serve a tensor.

    >>> plan = initconf.compile(model, "he")
    >>> plan["0.weight"].std
    0.707...
    """
    return compiled(model, load(spec), example=example, targets=targets, measure=_measuring(model, conditions))


def _measuring(model: nn.Module, conditions: Any) -> Callable[[Plan, Collection[str]], Mapping[str, float]] | None:
    """What `compiled` measures with; None without conditions."""
    if conditions is None:
        return None

    def measure(plan: Plan, names: Collection[str]) -> Mapping[str, float]:
        twin = copied(model)
        found = parameters(twin)
        on_meta = any(where.parameter.is_meta for where in found.values())
        mine = {name: where for name, where in found.items() if name in plan}
        _apply(twin, plan, mine, _Said("cpu" if on_meta else None))
        return second_moments(twin, names, conditions, plan.seed)

    return measure


@paused()
@full_precision()
def initialize(
    model: nn.Module,
    spec: Any,
    *,
    seed: int | None = None,
    device: str | torch.device | None = None,
    generator: torch.Generator | None = None,
    targets: Mapping[str, Any] | None = None,
    conditions: Any = None,
    example: Any = None,
    only: Names | None = None,
    skip: Names | None = None,
    threads: int | None = None,
    progress: bool | None = False,
    verify: bool | Literal["stats"] = False,
) -> Report:
    """Load, compile and apply: one line for a training script.

    Args:
        model: the model, whose parameters are written in place.
        spec: whatever `load` takes: `cfg.init`, the name of a scheme, a path, a mapping.
        seed: instead of the spec's.
        device: where to put parameters that are on meta.
        generator: see `apply`.
        targets, conditions, example: see `compile`.
        only: the parameters to write, all others stay as they are: a regex for whole names, or names. Each parameter gets what
            it would get if all were written (but with `generator`, from which the others draw nothing); for fresh values give
            another seed.
        skip: the parameters that stay as they are, likewise: `skip=checkpoint.keys()` leaves what was loaded.
        threads, progress: see `apply`.
        verify: whether to check the values against the plan at once: True reads them again; "stats" gathers their moments while
            they are written, which takes a quarter longer for normal values and up to three quarters for uniform ones.

    Raises:
        SpecError, CompileError: nothing has been written.
        ApplyError: the plan could not be written, or the values are not as planned.

    >>> initconf.initialize(model, "he").verify()
    Report(...)
    """
    spec = load(spec)
    if seed is not None:
        spec = spec.model_copy(update={"seed": _checked_seed(seed)})
    given: Any = verify
    if not isinstance(given, bool) and not (isinstance(given, str) and given == "stats"):
        raise ApplyError(Problem('not True, False or "stats"', "verify", repr(verify)))
    check_device(device)
    with uncollected():
        walked = walk(model)
    found = walked.by_name()
    chosen, notes = choose(found, model, only, skip)
    if chosen is not None and (unset := [name for name in found if name not in chosen and lacks_values(found[name])]):
        notes = (*notes, f"{listed(unset)}: no values yet, skip_init left them out")
    if chosen is not None and (unset := [name for name in found if name not in chosen and found[name].parameter.is_meta]):
        notes = (*notes, f"{listed(unset)}: not chosen, and still on meta")
    measure = _measuring(model, conditions)
    plan = compiled(model, spec, example=example, walked=walked, chosen=chosen, targets=targets, measure=measure)
    for warning in plan.warnings:
        log.warning(warning)
    said = _Said(device, generator, threads, progress, verify == "stats", notes)
    report = _apply(model, plan, found, said, chosen)
    for note in report.notes:
        log.warning(note)
    return report.verify() if verify is True else report


def _checked_seed(seed: Any) -> int:
    try:
        if isinstance(seed, bool):
            raise TypeError
        return operator.index(seed)
    except TypeError:
        raise SpecError(Problem("not an integer", "seed", repr(seed))) from None


@full_precision()
def apply(
    model: nn.Module,
    plan: Plan,
    *,
    device: str | torch.device | None = None,
    generator: torch.Generator | None = None,
    threads: int | None = None,
    progress: bool | None = False,
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
        threads: how many threads write; left out, the environment's INITCONF_THREADS, else as many as torch uses.
        progress: whether to show a bar on stderr; None: where stderr is a terminal and there is much to do.

    Raises:
        ApplyError: where model and plan do not fit together (nothing has been written then), or where a module's own reset or
            a registered function fails. The error says what has been written; to apply the plan again mends the rest.
        KeyboardInterrupt: likewise, on Ctrl-C.
    """
    check_device(device)
    given: Any = plan
    if not isinstance(given, Plan):
        remedy = "initconf.compile(model, spec) makes one; initconf.initialize(model, spec) takes a spec"
        raise ApplyError(Problem("not a plan", "plan", brief(given), remedy=remedy))
    return _apply(model, plan, parameters(model), _Said(device, generator, threads, progress))


@dataclass(frozen=True)
class _Said:
    """How the values are to be written."""

    device: str | torch.device | None = None
    generator: torch.Generator | None = None
    threads: int | None = None
    progress: bool | None = False
    measure: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.progress is not None and not isinstance(self.progress, bool):
            raise ApplyError(Problem("not True, False or None", "progress", repr(self.progress)))


@uncollected()
def _prepared(
    model: nn.Module, plan: Plan, found: Mapping[str, Found], said: _Said, chosen: Container[str] | None
) -> tuple[Writer, tuple[str, ...]]:
    """All that is done before the first write, every check included."""
    mine = found if chosen is None else {name: where for name, where in found.items() if name in chosen}
    check(plan, mine, said.device, gathered(model))
    if said.generator is not None and (refused := by_torch.refusals(plan, mine)):
        raise ApplyError(refused)
    notes = said.notes + (materialise(model, mine, said.device, plan.seed) if said.device is not None else ())
    writer = Writer(plan.seed, {entry.name: _open(_owner(entry, found)) for entry in plan.entries})
    writer.on_gpu, writer.measure = plan.rng_device == "auto", said.measure
    places = enumerate((entry.zero_row, writer.owners[entry.name].effective) for entry in plan.entries)
    writer.unfinished = {i for i, more in places if more != (None, None)}
    return writer, notes


@torch.no_grad()
@paused()
def _apply(
    model: nn.Module, plan: Plan, found: Mapping[str, Found], said: _Said, chosen: Container[str] | None = None
) -> Report:
    started = time.perf_counter()
    crew = count(said.threads)
    writer, notes = _prepared(model, plan, found, said, chosen)
    with _on_cpu(), files.held_open(), shown(plan, said.progress, owners=writer.owners) as step:
        try:
            if said.generator is not None:
                _in_order(plan, writer, said.generator, step)
            else:
                _write(plan, writer, crew, step)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"initconf was interrupted; {_so_far(plan, writer)}") from None
        except Failed as failed:
            entry, error = plan.entries[failed.entries[0]], failed.__cause__
            text = f"{entry.initializer or 'its blocks'}: {type(error).__name__}: {error}; {_so_far(plan, writer)}"
            raise ApplyError(Problem(text, entry.name, remedy="mend it and apply the plan again")) from error
    report = Report(plan, model, time.perf_counter() - started, notes, said.threads)
    return report.hold(writer.moments) if said.measure else report


def _write(plan: Plan, writer: Writer, crew: int, step: Callable[[int], None]) -> None:
    """Write every entry: what runs other people's code one after the other, all else in as many threads as are wanted."""
    # To start threads takes as long as a few hundred thousand values do, and more of them than there are chunks have no work.
    values = sum(entry.numel for entry in plan.entries)
    small, crew = values < 4 * sampling.CHUNK, min(crew, 1 + values // sampling.CHUNK)

    def done(task: Task, made: Any) -> None:
        writer.done(task, made)
        step(task.size)

    together: list[tuple[int, Entry]] = []
    on_gpu: list[tuple[int, Entry]] = []
    for i, entry in enumerate(plan.entries):
        where = writer.owners[entry.name]
        if where.effective is None and not is_alone(entry):
            (on_gpu if writer.is_on_gpu(entry) else together).append((i, entry))
            continue
        run(writer.tasks([(i, entry)]), 1 if is_alone(entry) or small else crew, done)
        _finish(i, entry, writer)
    run(writer.tasks(on_gpu), 1, done)
    with uncollected() if small else nullcontext():
        run(writer.tasks(together), 1 if small else crew, done)
    for i, entry in (*on_gpu, *together):
        if entry.zero_row is not None:
            _finish(i, entry, writer)


def _in_order(plan: Plan, writer: Writer, generator: torch.Generator, step: Callable[[int], None]) -> None:
    before = generator.get_state()
    try:
        _all_in_order(plan, writer, generator, step)
    except BaseException:
        generator.set_state(before)  # so that a second apply mends the rest
        raise


def _all_in_order(plan: Plan, writer: Writer, generator: torch.Generator, step: Callable[[int], None]) -> None:
    for i, entry in enumerate(plan.entries):
        where = writer.owners[entry.name]
        try:
            by_torch.write(entry, where, generator)
        except Exception as error:
            raise Failed((i,)) from error
        writer.whole.add(i)
        _finish(i, entry, writer)
        step(sum(leaf.numel for leaf in entry.leaves() if not isinstance(leaf.law, Keep)))


def _finish(i: int, entry: Entry, writer: Writer) -> None:
    """What is left to do once all values are there: the row that stays zero, and the assignment of a parametrised weight."""
    where = writer.owners[entry.name]
    try:
        if any(not isinstance(leaf.law, Keep) for leaf in entry.leaves()):
            if entry.zero_row is not None and (row := here(where.parameter).row(entry.zero_row)) is not None:
                row.zero_()
            if where.effective is not None:
                chain = parametrised(where.module)[where.place.attribute]
                with one_thread():
                    assign(chain, where.parameter, torch_seed(sampling.key(writer.seed, entry.name, "parametrisation")))
    except InitConfError as error:
        raise ApplyError(replace(problem, path=entry.name) for problem in error.problems) from None
    except Exception as error:
        raise Failed((i,)) from error
    writer.unfinished.discard(i)


def _so_far(plan: Plan, writer: Writer) -> str:
    written = writer.written()
    rest = [entry.name for i, entry in enumerate(plan.entries) if i not in written]
    if not rest:
        return "all parameters are written whole"
    return f"{len(written)} of {len(plan.entries)} parameters are written whole, and not {listed(rest)}"


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
    if not entry.aliases:
        return found[entry.name]
    places = [found[name] for name in (entry.name, *entry.aliases)]
    fitting = [p for p in places if layouts.find(p.module, p.place.attribute, p.parameter).role == entry.role]
    return fitting[0] if fitting else places[0]


def _open(where: Found) -> Found:
    """Where to write: of a parametrised weight a tensor that is assigned when it is whole."""
    return where if where.effective is None else replace(where, parameter=where.parameter.clone())

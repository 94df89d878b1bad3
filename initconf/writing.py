"""From a plan's entries to tasks: which elements are written where, and by which work."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from initconf import files, native, on_gpu, registry, sampling, shards
from initconf.aside import Seeded
from initconf.laws import Constant, Construction, Custom, Keep, Law, ModuleDefault, Values
from initconf.laws.base import Straight
from initconf.moments import Moments
from initconf.owners import Found
from initconf.plan import Entry
from initconf.resets import reset_values, wide
from initconf.sampling import Source
from initconf.shards import Here, Piece, pieces
from initconf.threads import Failed, Task, one_thread

Measured = tuple[str, Moments]
"""An entry's label, and the moments of some of its values."""
SMALL = 1 << 12
"""Parameters of fewer elements are written together: each by itself would cost more than its values do."""
_LARGE = 1 << 24
"""Elements made at once on a GPU."""
_OWN = (torch.float32, torch.float64)
"""The dtypes that values are made in."""
_BUNCH = 256
"""How many small parameters go into one task."""


@dataclass
class Writer:
    """Makes the tasks that write a plan into a model."""

    seed: int
    owners: Mapping[str, Found]
    """Where each entry's parameter is written."""
    on_gpu: bool = True
    """Whether what lives on a GPU is computed there; else it is made on the CPU, and copied."""
    measure: bool = False
    """Whether to gather the moments of what is drawn."""
    moments: dict[str, Moments] = field(default_factory=dict)
    """Those of each elementwise law, by its entry's label."""
    whole: set[int] = field(default_factory=set)
    """The places in the plan of the parameters all of whose tasks were given out."""
    begun: Counter[int] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)
    """How many tasks of each were given out, and done."""
    unfinished: set[int] = field(default_factory=set)
    """Those that need more than their tasks: a row set to zero, an assignment."""
    _bunches: dict[Any, _Bunch] = field(default_factory=dict)
    _matrix: threading.Lock = field(default_factory=threading.Lock)
    """Of sharded parameters one whole matrix at a time is made: the others would not fit."""

    def tasks(self, entries: Iterable[tuple[int, Entry]]) -> Iterator[Task]:
        """The tasks of many parameters: (place in the plan, entry) each."""
        for task in self._tasks(entries):
            self.begun.update(task.entries)
            yield task

    def _tasks(self, entries: Iterable[tuple[int, Entry]]) -> Iterator[Task]:
        for i, entry in entries:
            try:
                yield from self._tasks_of(i, entry)
            except Exception as error:
                raise Failed((i,)) from error
        while self._bunches:
            yield self._together(self._bunches.popitem()[1])

    def _tasks_of(self, i: int, entry: Entry) -> Iterator[Task]:
        if not isinstance(entry.law, Keep):
            parameter = self.owners[entry.name].parameter
            small = not entry.blocks and entry.law.elementwise and parameter.numel() < SMALL
            if small and type(parameter) is torch.nn.Parameter and parameter.is_contiguous() and not parameter.is_neg():
                alike = entry.law, parameter.dtype, parameter.device
                if len(self._gathered(i, entry, parameter, alike).entries) == _BUNCH:
                    yield self._together(self._bunches.pop(alike))
                return
            whole = shards.here(parameter)
            for leaf in entry.leaves():
                part = whole if leaf.block is None else whole.narrow(leaf.axis, leaf.start, leaf.shape[leaf.axis])
                yield from self._leaf(i, leaf, part)
        self.whole.add(i)

    def _together(self, bunch: _Bunch) -> Task:
        self.whole.update(bunch.entries)
        return bunch.task()

    def done(self, task: Task, made: Any) -> None:
        """Take note of a task that is done, and of the moments (label, moments) that it gathered."""
        self.ended.update(task.entries)
        for label, moments in made or ():
            self.moments.setdefault(label, Moments(moments.about)).join(moments)

    def written(self) -> set[int]:
        """The places in the plan of the parameters all of whose elements are written."""
        return {i for i in self.whole - self.unfinished if self.begun[i] == self.ended[i]}

    def _gathered(self, i: int, entry: Entry, parameter: Tensor, alike: Any) -> _Bunch:
        """Put a small parameter with others of its law; gives all that are together now."""
        key = sampling.key(self.seed, entry.name, entry.law.stream) if not isinstance(entry.law, Constant) else b""
        bunch = self._bunches.get(alike)
        if bunch is None:
            bunch = self._bunches[alike] = _Bunch(entry.law, parameter.dtype, self._place(parameter.device))
        bunch.entries.append(i)
        bunch.keys.append(key)
        bunch.targets.append(parameter.detach().view(-1))
        if self.measure:
            bunch.names.append(entry.label)
        return bunch

    def _leaf(self, i: int, leaf: Entry, part: Here) -> Iterator[Task]:
        law, size = leaf.law, part.tensor.numel()
        if isinstance(law, Keep) or not size:
            return
        key = sampling.key(self.seed, leaf.name, law.stream or leaf.block)
        if isinstance(law, Constant):
            for _, piece in pieces(part.tensor, sampling.CHUNK if part.tensor.is_cpu else _LARGE):
                yield Task(partial(_fill, piece, law.value), piece.numel(), (i,))
        elif isinstance(law, Construction):
            yield Task(partial(self._construct, law, key, part), size, (i,))
        elif law.elementwise:
            place = self._place(part.tensor.device)
            label = leaf.label if self.measure else None
            halves = 2 if part.tensor.element_size() == 2 else 1  # of as many bytes
            for some in part.pieces(halves * sampling.CHUNK if place.type == "cpu" else _LARGE):
                yield Task(partial(draw, law, key, some, place, label), some.tensor.numel(), (i,))
        else:
            yield Task(partial(self._alone, leaf, part, key), size, (i,))

    def _place(self, device: torch.device) -> torch.device:
        """Where the values of a parameter are made."""
        return device if self.on_gpu and on_gpu.serves(device) else sampling.CPU

    def is_on_gpu(self, entry: Entry) -> bool:
        """Whether an entry's values are made on a GPU, which takes one thread only to be told of."""
        device = self.owners[entry.name].parameter.device
        return device.type != "cpu" and self._place(device) == device and all(leaf.law.elementwise for leaf in entry.leaves())

    def _construct(self, law: Construction, key: bytes, part: Here, source: Source) -> None:
        if part.ranges is None:
            part.tensor.copy_(sampling.construct(law, key, part.tensor.dtype))
            return
        with self._matrix:
            if law.single is None:
                part.tensor.copy_(part.of(sampling.construct(law, key, part.tensor.dtype)))
                return
            for index in range(part.shape[0]):
                one = part.narrow(0, index, 1)
                if one.tensor.numel():
                    one.tensor.copy_(one.of(sampling.construct(law, key, one.tensor.dtype, index)))

    def _alone(self, leaf: Entry, part: Here, key: bytes, source: Source) -> None:
        """What runs somebody else's code, and so in the calling thread: a module's reset, a registered function, a file."""
        law, where = leaf.law, self.owners[leaf.name]
        if isinstance(law, Values):
            part.tensor.copy_(part.of(files.contents(law.path)[law.key].read()))
            return
        with one_thread():
            if isinstance(law, ModuleDefault):
                made = reset_values(law, where, torch_seed(sampling.key(self.seed, leaf.name)))
                if leaf.block is not None:
                    made = made.narrow(leaf.axis, leaf.start, leaf.shape[leaf.axis])
            elif isinstance(law, Custom):
                made = _registered(law, leaf.shape, part.tensor, key)
            else:
                raise AssertionError(f"{law} was not refused")
        part.tensor.copy_(part.of(made))


def is_alone(entry: Entry) -> bool:
    """Whether an entry is written by somebody else's code, which may use torch's global state."""
    return any(isinstance(leaf.law, (Values, ModuleDefault, Custom)) for leaf in entry.leaves())


def torch_seed(key: bytes) -> int:
    return int.from_bytes(key[:8], "little") >> 1


def _registered(law: Custom, shape: tuple[int, ...], like: Tensor, key: bytes) -> Tensor:
    fresh = torch.full(shape, torch.nan, dtype=wide(like))
    spare = torch.Generator("cpu")
    before = spare.get_state()
    with Seeded(spare) as aside:
        registry.find(law.name).fn(fresh, generator=torch.Generator("cpu").manual_seed(torch_seed(key)), **dict(law.settings))
    if len(aside.generators) > 1 or not torch.equal(before, spare.get_state()):
        raise RuntimeError("it draws from torch's global random state; it must draw from the generator that it is given")
    if bool(torch.isnan(fresh).any()):
        raise RuntimeError("it does not write every value of the tensor that it is given")
    return fresh


# --- elementwise laws ------------------------------------------------------------------------------------------------------


@dataclass
class _Bunch:
    """Small parameters of one law, dtype and device, which are made together."""

    law: Law
    dtype: torch.dtype
    place: torch.device
    entries: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """Where they are to be measured."""

    def task(self) -> Task:
        return Task(self._write, sum(target.numel() for target in self.targets), tuple(self.entries))

    def _write(self, source: Source) -> list[Measured]:
        law = self.law
        if isinstance(law, Constant):
            for target in self.targets:
                target.fill_(law.value)
            return []
        counts = [target.numel() for target in self.targets]
        v = source.memory(sum(counts) * law.per_value, sampling.working_dtype(self.dtype), device=self.place)
        made = law.quantile(source.uniforms(self.keys, [n * law.per_value for n in counts], v)).split(counts)  # type: ignore[no-untyped-call]
        torch._foreach_copy_(self.targets, made)
        return [(name, _moments(law, part)) for name, part in zip(self.names, made, strict=True)] if self.names else []


def _fill(target: Tensor, value: float, source: Source) -> None:
    target.fill_(value)


def draw(law: Law, key: bytes, piece: Piece, place: torch.device, label: str | None, source: Source) -> list[Measured]:
    """Write some elements of an elementwise law; with a label, measure them."""
    view, n = piece.tensor, law.per_value
    plain = view.is_contiguous() and not view.is_neg()
    # A user's law may have another quantile than its base.
    straight = law if isinstance(law, Straight) and type(law).quantile is Straight.quantile and native.serves() else None
    half = plain and view.dtype == torch.bfloat16 and label is None and native.takes(view)
    if straight and half and type(straight).standard is Straight.standard and piece.rows is None:
        native.uniform_line(key, piece.first, straight.line, view)
        return []
    own = plain and n == 1 and view.device == place and view.dtype in _OWN
    v = view.view(-1) if own else source.memory(view.numel() * n, sampling.working_dtype(view.dtype), device=place)
    v = _uniforms(key, piece, n, v, source)
    if straight and v.dtype == torch.float32 and native.takes(v):
        x = straight.standard(v)
        made = native.line(x, straight.line, view if half else x) if x is v else straight.line.of(x)
    else:
        made = law.quantile(v)
    if made is not view and not (own and made is v):  # a user's law may give its values in memory of their own
        view.copy_(made.view(view.shape))
    return [] if label is None else [(label, _moments(law, made))]


def _uniforms(key: bytes, piece: Piece, each: int, out: Tensor, source: Source) -> Tensor:
    """Fill contiguous memory with the uniforms of some elements, so many for each."""
    rows, end = piece.rows, 0
    if rows is None:
        return source.at(key, piece.first * each, out)
    if not rows.through:
        runs = [(a * each, n * each) for a, n in rows.within(piece.first, out.numel() // each)]
        return source.uniforms([key] * len(runs), [n for _, n in runs], out, [first for first, _ in runs])
    most = max(1, (sampling.CHUNK if out.is_cpu else _LARGE) // rows.size)
    for first, count in rows.together(piece.first, out.numel() // each, most):
        whole = source.memory(count * rows.size * each, out.dtype, "whole", out.device)
        whole, size = source.at(key, first * each, whole).view(count, -1), count * rows.held * each
        into, at = out[end : end + size].view(count, -1), 0
        for start, stop in rows.runs:
            n = (stop - start) * each
            into[:, at : at + n] = whole[:, start * each : stop * each]
            at += n
        end += size
    return out


def _moments(law: Law, made: Tensor) -> Moments:
    return Moments(law.mean or 0.0).add(made, wide=False)

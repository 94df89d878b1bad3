"""Constructing a model without the random numbers of its parameters.

A random function that a constructor calls on a parameter is not run but noted, with whatever is done to the parameter in place
after it. Where the constructor itself reads the parameter (a norm for weight_norm, a test), the noted steps are run first. All
other parameters leave the context as memory that nobody has written, with marks in it that say so.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from types import FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, UntypedStorage, nn
from torch.overrides import TorchFunctionMode

from initconf.aside import Aside, tensors_in
from initconf.marks import holds_numbers, is_plain, is_skipped, mark

_aten = torch.ops.aten
_WRITES = (_aten.fill_, _aten.zero_, _aten.copy_)
"""They set what they are given without reading it."""
_COPIES = (_aten.clone, _aten._to_copy)
_SHAPES = (
    *(getattr(_aten, f"{name}_like") for name in ("empty", "zeros", "ones", "full", "rand", "randn", "randint")),
    *(getattr(_aten, f"new_{name}") for name in ("empty", "zeros", "ones", "full", "empty_strided")),
)
"""They ask a tensor for its shape and dtype alone."""

# Torch asks every parameter that is registered for its `grad_fn`, and moves parameters by `.data = `.
_IS_META, _REGISTERED, _MOVED = (
    getattr(vars(torch._C.TensorBase)[name], how)
    for name, how in (("is_meta", "__get__"), ("grad_fn", "__get__"), ("data", "__set__"))
)
_OUTSIDE = (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.share_memory_)
"""They read the memory, or change it for another, without torch's knowledge."""
_ASKED = {*_OUTSIDE, _IS_META, _REGISTERED, _MOVED, Tensor.clone}

_here = threading.local()


@contextmanager
def skip_init() -> Iterator[None]:
    """Construct a model without paying for the random numbers of its parameters. Also a decorator.

    What the constructor sets without randomness (the ones of a norm, zeros of a bias, a table) is there, and so are buffers,
    random ones too; ties are kept. A parameter whose values were skipped holds no numbers until it is written (by `initialize`,
    a checkpoint, `copy_`): `keep` refuses it. Parameters that the constructor reads, or makes out of random tensors
    (`nn.Parameter(torch.randn(3))`), are really drawn.

    Every parameter costs 50 to 100 microseconds instead: models of many tiny ones gain nothing.

    What is drawn is drawn from a copy of torch's random state, which itself stays as it is: the next skip_init draws the same
    numbers, for random buffers and `nn.Parameter(torch.randn(3))`, unless torch's state has moved on. Only the thread that
    entered is concerned. Within another one it changes nothing.

    A module that the model does not register (`self.teacher = [net]`) is skipped as well, and `initialize(model, ...)` does not
    see it: initialise it by itself, or it computes NaN.

    >>> with initconf.skip_init():
    ...     net = nn.Linear(512, 512)
    >>> initconf.initialize(net, "he")
    Report(...)
    """
    if getattr(_here, "skipping", None) is not None:
        yield
        return
    skipping = _here.skipping = _Skipping()
    try:
        with skipping, _Asked(skipping):
            yield
    finally:
        _here.skipping = None
        skipping.settle()


@contextmanager
def paused() -> Iterator[None]:
    """Inside, a skip_init around it does nothing, and what is written there counts as written."""
    skipping: _Skipping | None = getattr(_here, "skipping", None)
    if skipping is None or skipping.idle:
        yield
        return
    with skipping.asleep():
        skipping.settle()
        try:
            yield
        finally:
            skipping.forget()


# --- what was left undone --------------------------------------------------------------------------------------------------


class _Window(NamedTuple):
    """How a tensor lies in its storage."""

    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Window:
        return cls(tensor.dtype, tensor.shape, tensor.stride(), int(tensor.storage_offset()))

    def on(self, storage: UntypedStorage) -> Tensor:
        return torch.empty(0, dtype=self.dtype, device=storage.device).set_(storage, self.offset, self.shape, self.stride)

    def holds(self, other: _Window) -> bool:
        """Whether another tensor lies within this one."""
        numel = self.shape.numel()
        dense = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True)) == numel
        end = other.offset + sum((n - 1) * s for n, s in zip(other.shape, other.stride, strict=True))
        return dense and self.dtype == other.dtype and self.offset <= other.offset and end < self.offset + numel


class _Step(NamedTuple):
    """A call that was not made, or that has to be made again after one that was not. Its tensors are windows."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]


@dataclass
class _Left:
    """What was left undone in a storage."""

    steps: list[_Step] = field(default_factory=list)
    marked: list[_Window] = field(default_factory=list)
    """Where marks must be: those that are gone were overwritten unseen, say by another thread."""

    def overwritten(self, storage: UntypedStorage) -> list[Tensor]:
        """What somebody has written meanwhile."""
        return [there for window in self.marked if not is_skipped(there := window.on(storage))]


class _Copy(NamedTuple):
    """A tensor of another storage, as it would be if the steps up to now had been made there."""

    window: _Window
    size: int
    """In bytes."""
    device: torch.device
    steps: tuple[_Step, ...]


def _make(steps: Iterable[_Step], storage: UntypedStorage) -> None:
    def real(value: Any) -> Any:
        if isinstance(value, _Window):
            return value.on(storage)
        if isinstance(value, _Copy):
            other = torch.empty(value.size, dtype=torch.uint8, device=value.device).untyped_storage()
            _make(value.steps, other)
            return value.window.on(other)
        return value

    for step in steps:
        step.function(*map(real, step.arguments), **{name: real(value) for name, value in step.keywords.items()})


def _storage(tensor: Tensor) -> UntypedStorage | None:
    """None for what has no memory of its own, or not one value after the other."""
    return tensor.untyped_storage() if is_plain(tensor) and tensor.layout is torch.strided else None


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is all there is in its storage."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _is_alone(tensor: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operation is given nothing else of a tensor's memory."""
    return all(_storage(other) is not tensor.untyped_storage() for other in tensors_in(args, kwargs))


# --- the two doors by which torch tells what is called ---------------------------------------------------------------------


class _Skipping(Aside):  # type: ignore[no-untyped-call]
    """Sees every operation on tensors, and leaves undone what makes random numbers for a parameter."""

    def __init__(self) -> None:
        super().__init__({})
        self.left: WeakKeyDictionary[UntypedStorage, _Left] = WeakKeyDictionary()
        """What was left undone; storages that are not here hold what they should."""
        self.owned: WeakKeyDictionary[UntypedStorage, dict[_Window, None]] = WeakKeyDictionary()
        """The parameters, by their memory: constructors go by `.data` and by views too."""
        self.idle = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.idle:
            return func(*args, **kwargs)
        target = args[0] if args and isinstance(args[0], Tensor) else None
        if isinstance(target, nn.Parameter) and _storage(target) not in self.owned:
            self.note(target)
        in_place = target is not None and _in_place(func)
        random = torch.Tag.nondeterministic_seeded in func.tags
        if target is not None and in_place and random and (windows := self.windows(target)):
            if next(tensors_in(args[1:], kwargs), None) is None:
                _try(func, windows[0].dtype, target.device, args[1:], tuple(kwargs.items()))
            self.skip(func, target, windows, args, kwargs)
            return target
        if func is _aten.empty_like.default and isinstance(target, nn.Parameter) and target.is_meta:
            made = self.call(func, args, kwargs)
            if holds_numbers(made):  # it comes from `to_empty`, as torch.nn.utils.skip_init calls it
                mark(made)
            return made
        if unset := self._unset(args, kwargs):
            return self._touch(func, args, kwargs, unset, in_place)
        return self.call(func, args, kwargs)

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Operations inside are nothing but themselves."""
        self.idle, before = True, self.idle
        try:
            yield
        finally:
            self.idle = before

    def note(self, parameter: Tensor) -> None:
        """Remember where a parameter lies."""
        if holds_numbers(parameter):
            self.owned.setdefault(parameter.untyped_storage(), {})[_Window.of(parameter)] = None

    def windows(self, tensor: Tensor) -> list[_Window]:
        """The parameters that a tensor consists of, or itself where it is a part of one; none: it is something else."""
        owned = self.owned.get(tensor.untyped_storage()) if holds_numbers(tensor) else None
        if not owned:
            return []
        window = _Window.of(tensor)
        if window in owned and len(owned) == 1:
            return [window]
        if sum(own.shape.numel() for own in owned if window.holds(own)) >= tensor.numel():
            return [own for own in owned if window.holds(own)]
        return [window] if any(own.holds(window) for own in owned) else []

    def skip(
        self, func: Any, target: Tensor, windows: Sequence[_Window], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """Leave a random function undone."""
        storage = target.untyped_storage()
        if _is_whole(target):
            self.left[storage] = _Left()
        else:
            self._respect(storage)
        self._defer(storage, func, args, kwargs)
        for window in windows:
            mark(window.on(storage))
        left = self.left[storage]
        left.marked = [*(own for own in left.marked if is_skipped(own.on(storage))), *windows]

    def read(self, tensor: Tensor) -> None:
        """The values are wanted: do what was left undone."""
        if self._is_unset(tensor):
            self._make(tensor.untyped_storage())

    def settle(self) -> None:
        """Do what was left undone, but to parameters that are marked as a whole."""
        for storage in list(self.left):
            if not self._is_marked(storage):
                self._make(storage)

    def forget(self) -> None:
        """Somebody else has written parameters: those that bear no mark any more are done."""
        for storage in list(self.left):
            if not self._is_marked(storage):
                del self.left[storage]

    def _is_marked(self, storage: UntypedStorage) -> bool:
        owned = self.owned.get(storage, {})
        return bool(owned) and all(is_skipped(window.on(storage)) for window in owned)

    def _is_unset(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self.left

    def _unset(self, args: Any, kwargs: Any) -> list[Tensor]:
        return [tensor for tensor in tensors_in(args, kwargs) if self._is_unset(tensor)]

    def _respect(self, storage: UntypedStorage) -> None:
        """Where somebody has written unseen, do now what was left undone: later steps are for the new values."""
        if storage in self.left and self.left[storage].overwritten(storage):
            self._make(storage)

    def _is_all_unset(self, tensor: Tensor) -> bool:
        """Whether all of its storage was left out."""
        storage = tensor.untyped_storage()
        first = self.left[storage].steps[0]
        window = next(value for value in (*first.arguments, *first.keywords.values()) if isinstance(value, _Window))
        return window.shape.numel() * window.dtype.itemsize == storage.nbytes()

    def _touch(self, func: Any, args: Any, kwargs: Any, unset: list[Tensor], in_place: bool) -> Any:
        """An operation that is given tensors whose values were left out."""
        kind = func.overloadpacket
        if func.is_view or torch.Tag.inplace_view in func.tags or kind in _SHAPES:
            return self.call(func, args, kwargs)
        for tensor in unset:
            self._respect(tensor.untyped_storage())
        if not (unset := self._unset(args, kwargs)):
            return self.call(func, args, kwargs)
        # What was left out in part cannot be told again elsewhere.
        if all((in_place and tensor is args[0]) or self._is_all_unset(tensor) for tensor in unset):
            if kind in _COPIES:
                given = {name: value for name, value in kwargs.items() if name != "non_blocking"}
                made = _aten.empty_like.default(args[0], **given)
                return made if made.is_meta else self._copy(made, args[0])
            if in_place and kind in _WRITES:
                storage = args[0].untyped_storage()
                if _is_whole(args[0]) and _is_alone(args[0], args[1:], kwargs):
                    self.left.pop(storage, None)
                    if kind is _aten.copy_ and self._is_unset(args[1]):
                        return self._copy(args[0], args[1])
                if any(self._is_unset(tensor) for tensor in unset):
                    self._defer(storage, func, args, kwargs)
                func(*args, **kwargs)
                if left := self.left.get(storage):
                    left.marked = [own for own in left.marked if is_skipped(own.on(storage))]
                return args[0]
            if in_place and self._is_unset(args[0]):
                self._defer(args[0].untyped_storage(), func, args, kwargs)
                return args[0]
        out, others = kwargs.get("out"), {name: value for name, value in kwargs.items() if name != "out"}
        if isinstance(out, Tensor) and _is_whole(out) and _is_alone(out, args, others):
            self.left.pop(out.untyped_storage(), None)
        for tensor in unset:
            self.read(tensor)
        return self.call(func, args, kwargs)

    def _copy(self, goal: Tensor, source: Tensor) -> Tensor:
        """There is nothing to copy but that nothing is there."""
        self._defer(goal.untyped_storage(), _aten.copy_.default, (goal, source), {})
        if holds_numbers(goal):
            mark(goal)
            self.left[goal.untyped_storage()].marked = [_Window.of(goal)]
        return goal

    def _defer(self, storage: UntypedStorage, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        def noted(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if (own := _storage(value)) is storage:
                return _Window.of(value)
            if own is None or own not in self.left:
                return value.detach().clone()
            return _Copy(_Window.of(value), own.nbytes(), own.device, tuple(self.left[own].steps))

        step = _Step(func, tuple(map(noted, args)), {name: noted(value) for name, value in kwargs.items()})
        self.left.setdefault(storage, _Left()).steps.append(step)

    def _make(self, storage: UntypedStorage) -> None:
        left = self.left.pop(storage)
        with self.asleep(), torch.no_grad(), Aside(self.generators):
            written = [(there, there.clone()) for there in left.overwritten(storage)]
            _make(left.steps, storage)
            for there, values in written:
                there.copy_(values)


@cache
def _in_place(func: Any) -> bool:
    """Whether the first argument is written, and nothing else."""
    written = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]
    return written[:1] == [True] and not any(written[1:])


@lru_cache(maxsize=256)
def _try(func: Any, dtype: torch.dtype, device: torch.device, args: Any, kwargs: Any) -> None:
    """Raise what a random function raises for wrong arguments; of nothing it draws nothing."""
    func(torch.empty(0, dtype=dtype, device=device), *args, **dict(kwargs))


class _Asked(TorchFunctionMode):
    """Sees the calls that are no operations on tensors."""

    def __init__(self, skipping: _Skipping) -> None:
        super().__init__()
        self.skipping = skipping

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _ASKED or self.skipping.idle:
            return func(*args, **kwargs)
        caller: Any = sys._getframe(1)
        while caller.f_code.co_name == "__torch_function__":  # of a mode inside this one, such as torch.device
            caller = caller.f_back
        if func == _IS_META and caller.f_globals is vars(nn.init) and self._leave(caller.f_code, caller.f_locals, args[0]):
            return True
        if func in _OUTSIDE:
            self.skipping.read(args[0])
        made = func(*args, **kwargs)
        if func in (_REGISTERED, _MOVED) and isinstance(args[0], nn.Parameter):
            self.skipping.note(args[0])
        elif func == Tensor.clone and caller.f_code is nn.Parameter.__deepcopy__.__code__:
            self.skipping.note(made)
        return made

    def _leave(self, code: Any, given: Mapping[str, Any], target: Tensor) -> bool:
        """Whether the asking function of torch.nn.init (orthogonal_, trunc_normal_, sparse_) is to leave its tensor alone.

        So it does with tensors on meta; it would else draw other tensors, compute with them, and copy the outcome.
        """
        if given.get("tensor") is not target or not (windows := self.skipping.windows(target)):
            return False
        given = {name: given[name] for name in code.co_varnames[: code.co_argcount]}
        with self.skipping.asleep():
            self.skipping.skip(FunctionType(code, vars(nn.init)), target, windows, (), given)
        return True

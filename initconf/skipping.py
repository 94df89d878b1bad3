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
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, UntypedStorage, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

from initconf.owners import Found
from initconf.parametrized import parametrised

SKIPPED = "its values were skipped by skip_init"

_aten = torch.ops.aten
_WRITES = (_aten.fill_, _aten.zero_, _aten.copy_)
"""They set what they are given without reading it."""
_COPIES = (_aten.clone, _aten._to_copy)
_SHAPES = (
    *(getattr(_aten, f"{name}_like") for name in ("empty", "zeros", "ones", "full", "rand", "randn", "randint")),
    *(getattr(_aten, f"new_{name}") for name in ("empty", "zeros", "ones", "full", "empty_strided")),
)
"""They ask a tensor for its shape and dtype alone."""

_IS_META, _REGISTERED, _MOVED = (
    getattr(vars(torch._C.TensorBase)[name], how)
    for name, how in (("is_meta", "__get__"), ("grad_fn", "__get__"), ("data", "__set__"))
)
"""`register_parameter` refuses what is no leaf, and so asks every parameter for its grad_fn."""
_OUTSIDE = (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__)
"""They read the memory without torch's knowledge."""
_ASKED = {*_OUTSIDE, _IS_META, _REGISTERED, _MOVED, Tensor.clone}

_here = threading.local()
_global_state = threading.Lock()


@contextmanager
def skip_init() -> Iterator[None]:
    """Construct a model without paying for the random numbers of its parameters. Also a decorator.

    What the constructor sets without randomness (the ones of a norm, zeros of a bias, a table) is there, and so are buffers,
    random ones too; ties are kept. A parameter whose values were skipped holds no numbers until it is written (by `initialize`,
    a checkpoint, `copy_`): `keep` refuses it. Parameters that the constructor reads, or makes out of random tensors
    (`nn.Parameter(torch.randn(3))`), are really drawn.

    Random numbers come from a copy of torch's random state, which stays as it is. Only the thread that entered is concerned.
    Within another one it changes nothing.

    >>> with initconf.skip_init():
    ...     model = Model()
    >>> initconf.initialize(model, "he")
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
    skipping.settle()
    with skipping.asleep():
        yield
    skipping.forget()


# --- marks -----------------------------------------------------------------------------------------------------------------
#
# They are values, since those go wherever the parameter goes: through deepcopy, pickle and `to(dtype)`; and whoever writes the
# parameter removes them. A NaN says at once when a model is used that nobody initialised; the number after it, which every
# floating dtype has, tells it from the NaN of a training run that went wrong. They are placed by logical index, which a change
# of the memory format leaves as it is, at three places, since a constructor may set some rows (`padding_idx`).

_AFTER = -224.0


def _step(numel: int) -> int:
    """How far apart the three marks are; 0 where there is room for one."""
    return (max(numel // 2, 1) - 1) // 2 * 2


def _element(tensor: Tensor, place: int) -> Tensor:
    """The element at a logical index, as a view."""
    offset = tensor.storage_offset()
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        place, index = divmod(place, size)
        offset += index * stride
    return tensor.as_strided((), (), offset)


def _mark(tensor: Tensor) -> None:
    tensor, step = tensor.detach(), _step(tensor.numel())
    if tensor.is_contiguous() and tensor.numel() > 1:
        size, stride = ((3, 2), (step, 1)) if step else ((1, 2), (2, 1))
        tensor.as_strided(size, stride).copy_(_pair(tensor.dtype, tensor.device))
        return
    for start in {0, step, 2 * step}:
        _element(tensor, start).fill_(torch.nan)
        if start + 1 < tensor.numel():
            _element(tensor, start + 1).fill_(_AFTER)


@cache
def _pair(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([torch.nan, _AFTER], dtype=dtype, device=device)


def is_skipped(parameter: Tensor) -> bool:
    """Whether a parameter has no values since `skip_init` left them out. Reads three elements; False for sharded tensors."""
    if not _holds_numbers(parameter):
        return False
    tensor, step = parameter.detach(), _step(parameter.numel())
    for start in {0, step, 2 * step}:
        value = _element(tensor, start).item()
        if value != value and (start + 1 == tensor.numel() or _element(tensor, start + 1).item() == _AFTER):
            return True
    return False


def lacks_values(where: Found) -> bool:
    """Whether a parameter has no values since `skip_init` left them out; of a parametrised one, any of those that make it."""
    if where.effective is None:
        return is_skipped(where.parameter)
    return any(map(is_skipped, parametrised(where.module)[where.place.attribute].parameters(recurse=False)))


def _holds_numbers(tensor: Tensor) -> bool:
    """Whether a tensor has elements in memory that could be NaN."""
    return (
        _is_plain(tensor)
        and (tensor.is_floating_point() or tensor.is_complex())
        and not tensor.is_meta
        and tensor.layout is torch.strided
        and tensor.numel() > 0
    )


def _is_plain(tensor: Tensor) -> bool:
    """Whether the tensor is memory, and no wrapper around other tensors (DTensor, FakeTensor)."""
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__


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
    arguments: Sequence[Any]
    keywords: Mapping[str, Any]


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


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is all there is in its storage."""
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def _tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, Tensor))


# --- random numbers that torch's global state does not notice --------------------------------------------------------------


class _Aside(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Draws from copies of torch's generators.

    Each copy belongs to one state of torch's own: a constructor that seeds torch itself gets the numbers of its seed.
    """

    def __init__(self, generators: dict[Any, torch.Generator]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generators = generators

    # torch's own way of entering keeps flags for the compiler in variables that all threads share, and imports the compiler.
    def __enter__(self) -> Any:
        _push_mode(self)
        return self

    def __exit__(self, *error: object) -> None:
        _pop_mode()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        device = kwargs.get("device") or next((tensor.device for tensor in _tensors(args, kwargs)), torch.device("cpu"))
        if device.type == "meta" or any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        own = self._generator(device)
        if (taking := _taking_generator(func)) is not None:
            return taking(*args, **{**kwargs, "generator": own})
        # What takes no generator (dropout) is lent the global state, which another thread should not draw from right now.
        module = torch if device.type == "cpu" else torch.get_device_module(device)
        others = [] if device.type == "cpu" else [own.device.index]
        with _global_state, torch.random.fork_rng(others, device_type="cuda" if device.type == "cpu" else device.type):
            module.set_rng_state(own.get_state())
            try:
                return func(*args, **kwargs)
            finally:
                own.set_state(module.get_rng_state())

    def _generator(self, device: torch.device) -> torch.Generator:
        fresh = torch.Generator(device)
        state = torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
        key = fresh.device, state.numpy().tobytes()
        if key not in self.generators:
            fresh.set_state(state)
            self.generators[key] = fresh
        return self.generators[key]


@cache
def _taking_generator(func: Any) -> Any:
    """The function with a place for a generator (`randn` has it in an overload of its own), None if there is none."""
    wanted = [(a.name, str(a.type)) for a in func._schema.arguments]
    if any(name == "generator" for name, _ in wanted):
        return func
    for name in func.overloadpacket.overloads():
        other = getattr(func.overloadpacket, name)
        has = [(a.name, str(a.type)) for a in other._schema.arguments]
        if len(has) > len(wanted) and [pair for pair in has if pair[0] != "generator"] == wanted:
            return other
    return None


# --- the two doors by which torch tells what is called ---------------------------------------------------------------------


class _Skipping(_Aside):  # type: ignore[no-untyped-call]
    """Sees every operation on tensors, and leaves undone what makes random numbers for a parameter."""

    def __init__(self) -> None:
        super().__init__({})
        self.steps: WeakKeyDictionary[UntypedStorage, list[_Step]] = WeakKeyDictionary()
        """What was left undone; storages that are not here hold what they should."""
        self.owned: WeakKeyDictionary[UntypedStorage, dict[_Window, None]] = WeakKeyDictionary()
        """The parameters, by their memory: constructors go by `.data` and by views too."""
        self.idle = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.idle:
            return func(*args, **kwargs)
        target = args[0] if args and isinstance(args[0], Tensor) else None
        if isinstance(target, nn.Parameter) and target.untyped_storage() not in self.owned:
            self.note(target)
        in_place = _in_place(func)
        random = torch.Tag.nondeterministic_seeded in func.tags
        if target is not None and in_place and random and self.is_parameter(target):
            self.skip(func, target, args, kwargs)
            return target
        if unset := [tensor for tensor in _tensors(args, kwargs) if self._is_unset(tensor)]:
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
        if _holds_numbers(parameter):
            self.owned.setdefault(parameter.untyped_storage(), {})[_Window.of(parameter)] = None

    def is_parameter(self, tensor: Tensor) -> bool:
        return _holds_numbers(tensor) and tensor.untyped_storage() in self.owned

    def skip(self, func: Any, target: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Leave a random function undone."""
        storage = target.untyped_storage()
        if _is_whole(target):
            self.steps[storage] = []
        self._defer(storage, func, args, kwargs)
        window, owned = _Window.of(target), self.owned[storage]
        with self.asleep():
            if window in owned and len(owned) == 1:
                _mark(target)
                return
            for inside in [own for own in owned if window.holds(own)] or [window]:
                _mark(inside.on(storage))

    def read(self, tensor: Tensor) -> None:
        """The values are wanted: do what was left undone."""
        if self._is_unset(tensor):
            self._make(tensor.untyped_storage())

    def settle(self) -> None:
        """Do what was left undone, but to parameters that are marked as a whole."""
        for storage in list(self.steps):
            if not self._is_marked(storage):
                self._make(storage)

    def forget(self) -> None:
        """Somebody else has written parameters: those that bear no mark any more are done."""
        for storage in list(self.steps):
            if not self._is_marked(storage):
                del self.steps[storage]

    def _is_marked(self, storage: UntypedStorage) -> bool:
        owned = self.owned.get(storage, {})
        return bool(owned) and all(is_skipped(window.on(storage)) for window in owned)

    def _is_unset(self, tensor: Tensor) -> bool:
        return _is_plain(tensor) and tensor.layout is torch.strided and tensor.untyped_storage() in self.steps

    def _is_whole(self, tensor: Tensor) -> bool:
        """Whether all of its storage was left out."""
        storage = tensor.untyped_storage()
        first = self.steps[storage][0]
        window = next(value for value in (*first.arguments, *first.keywords.values()) if isinstance(value, _Window))
        return window.shape.numel() * window.dtype.itemsize == storage.nbytes()

    def _touch(self, func: Any, args: Any, kwargs: Any, unset: list[Tensor], in_place: bool) -> Any:
        """An operation that is given tensors whose values were left out."""
        kind = func.overloadpacket
        if func.is_view or torch.Tag.inplace_view in func.tags or kind in _SHAPES:
            return self.call(func, args, kwargs)
        # What was left out in part cannot be told again elsewhere.
        if all((in_place and tensor is args[0]) or self._is_whole(tensor) for tensor in unset):
            if kind in _COPIES:
                made = func(*args, **kwargs)
                if not made.is_meta:
                    self._defer(made.untyped_storage(), _aten.copy_.default, (made, args[0]), {})
                return made
            if in_place and kind in _WRITES:
                storage = args[0].untyped_storage()
                if _is_whole(args[0]) and not any(tensor.untyped_storage() is storage for tensor in _tensors(args[1:], kwargs)):
                    self.steps.pop(storage, None)
                if any(self._is_unset(tensor) for tensor in unset):
                    self._defer(storage, func, args, kwargs)
                return func(*args, **kwargs)
            if in_place and self._is_unset(args[0]):
                self._defer(args[0].untyped_storage(), func, args, kwargs)
                return args[0]
        for tensor in unset:
            self.read(tensor)
        return self.call(func, args, kwargs)

    def _defer(self, storage: UntypedStorage, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        def noted(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            own = value.untyped_storage()
            if own is storage:
                return _Window.of(value)
            if own not in self.steps:
                return value.detach().clone()
            return _Copy(_Window.of(value), own.nbytes(), own.device, tuple(self.steps[own]))

        step = _Step(func, [noted(value) for value in args], {name: noted(value) for name, value in kwargs.items()})
        self.steps.setdefault(storage, []).append(step)

    def _make(self, storage: UntypedStorage) -> None:
        steps = self.steps.pop(storage)
        with self.asleep(), torch.no_grad(), _Aside(self.generators):
            _make(steps, storage)


@cache
def _in_place(func: Any) -> bool:
    """Whether the first argument is written, and nothing else."""
    written = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]
    return written[:1] == [True] and not any(written[1:])


class _Asked(TorchFunctionMode):
    """Sees the calls that are no operations on tensors."""

    def __init__(self, skipping: _Skipping) -> None:
        super().__init__()
        self.skipping = skipping

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _ASKED or self.skipping.idle:
            return func(*args, **kwargs)
        caller = sys._getframe(1)
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
        """Whether the asking function of torch.nn.init (orthogonal_, trunc_normal_, sparse_) is not to go on.

        It leaves a tensor on meta alone, and would otherwise go through matrices and masks that no mode could tell apart.
        """
        if given.get("tensor") is not target or not self.skipping.is_parameter(target):
            return False
        given = {name: given[name] for name in code.co_varnames[: code.co_argcount]}
        self.skipping.skip(FunctionType(code, vars(nn.init)), target, (), given)
        return True

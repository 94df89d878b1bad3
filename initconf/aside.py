"""A mode that draws random numbers which torch's global state does not notice, and what its kind has in common."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, _pop_mode, _push_mode

_global_state = threading.Lock()


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode of one thread alone.

    torch's own way of entering one keeps flags for its compiler in variables that all threads share, and imports the compiler.
    """

    def __enter__(self) -> Any:
        _push_mode(self)
        return self

    def __exit__(self, *error: object) -> None:
        _pop_mode()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class Aside(Mode):  # type: ignore[no-untyped-call]
    """Draws from copies of torch's generators, and leaves the ones that it is given alone.

    Each copy belongs to one state of torch's own: a constructor that seeds torch itself gets the numbers of its seed.
    """

    def __init__(self, generators: dict[Any, torch.Generator]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generators = generators

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, args, kwargs or {})

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        device = kwargs.get("device") or next((tensor.device for tensor in tensors_in(args, kwargs)), torch.device("cpu"))
        if device.type == "meta" or any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values())):
            return func(*args, **kwargs)
        own = self._generator(device)
        # A wrapper around other tensors (DTensor) passes no generator on.
        wrapped = any(type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__ for tensor in tensors_in(args, kwargs))
        if (taking := _taking_generator(func)) is not None and not wrapped:
            return taking(*args, **{**kwargs, "generator": own})
        # This, and what takes no generator (dropout), draws from torch's own, which is put back; other threads should not use
        # it just now.
        devices, kind = ([], "cuda") if device.type == "cpu" else ([own.device.index], device.type)
        theirs = torch.random if device.type == "cpu" else torch.get_device_module(device)
        which = () if device.type == "cpu" else (own.device,)
        with _global_state, torch.random.fork_rng(devices, device_type=kind):
            theirs.set_rng_state(own.get_state(), *which)
            done = func(*args, **kwargs)
            own.set_state(theirs.get_rng_state(*which))
        return done

    def _generator(self, device: torch.device) -> torch.Generator:
        with _disable_current_modes():
            fresh = torch.Generator(device)
            state = torch.get_rng_state() if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
            key = fresh.device, state.numpy().tobytes()
            if key not in self.generators:
                fresh.set_state(state)
                self.generators[key] = fresh
            return self.generators[key]


class Seeded(Aside):  # type: ignore[no-untyped-call]
    """Draws from a generator of its own, whatever torch's global state is, and whoever else draws from it meanwhile.

    What runs inside and seeds torch itself gets the numbers of its seed, and torch's state is put back.
    """

    def __init__(self, own: torch.Generator) -> None:
        super().__init__({own.device: own})

    def __enter__(self) -> Any:
        self.state, self.alone = torch.get_rng_state(), threading.active_count() == 1
        self.before = self.seed = torch.initial_seed()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        # What a thread that is alone finds changed it has changed itself, by the seed that was there already.
        if torch.initial_seed() != self.before or self.alone:
            torch.set_rng_state(self.state)

    def _generator(self, device: torch.device) -> torch.Generator:
        with _disable_current_modes():
            if torch.initial_seed() != self.seed:
                self.seed = torch.initial_seed()
                for generator in self.generators.values():
                    generator.manual_seed(self.seed)
            own = next(iter(self.generators.values()))
            fresh = own if device == own.device else torch.Generator(device)
            if fresh.device not in self.generators:
                self.generators[fresh.device] = fresh.manual_seed(own.initial_seed())
            return self.generators[fresh.device]


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


def tensors_in(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation is given, also those in lists."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, Tensor))

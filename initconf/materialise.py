"""Memory for what is on meta: parameters, with their ties, and the buffers whose values can be known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from initconf.errors import ApplyError, Problem, listed
from initconf.marks import holds_numbers, mark
from initconf.owners import Found, Walk
from initconf.parametrized import parametrised, sets_buffers
from initconf.resets import reset_buffers
from initconf.sampling import key
from initconf.writing import torch_seed


def materialise(model: nn.Module, found: Mapping[str, Found], device: str | torch.device, seed: int) -> tuple[str, ...]:
    """Give memory to parameters and buffers that are on meta; says which buffers have no values now.

    The tensors remain the same objects: ties, optimizers and lists that have them see the memory. Where torch does not swap a
    tensor (there is a weak reference to it, or a view), another takes its place, ties kept, and a note names it. Buffers have
    the values that their module's own reset gives them; the seed is for those that it draws. Floating ones without are NaN.
    """
    fresh = _allocated(found, device)
    memory = _Memory()
    notes = _restore_buffers(model, device, seed, memory)
    with _without_weak_references(where.module for where in found.values()):
        for name, holder, place in _on_meta(found):
            memory.give(name, holder, place, lambda old: fresh[id(old)])
    for name, where in found.items():
        if where.effective is None:
            where.parameter = where.module._parameters[where.place.attribute]  # type: ignore[assignment]
        elif where.parameter.is_meta:
            where.parameter = fresh[name]
    if memory.replaced:
        text = "replaced, since torch could not swap it; an optimizer made before holds what was on meta"
        notes += (f"{listed(memory.replaced)}: {text}",)
    return notes


def _on_meta(found: Mapping[str, Found]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(name, the dictionary that holds it, its key there) of each parameter on meta, those behind parametrisations too."""
    for name, where in found.items():
        if where.effective is None:
            places = [(where.module._parameters, where.place.attribute)]
        else:
            chain = parametrised(where.module)[where.place.attribute]
            places = [(chain._parameters, part) for part in chain._parameters]
        for holder, place in places:
            if holder[place] is not None and holder[place].is_meta:  # type: ignore[union-attr]
                yield name, holder, place


def _allocated(found: Mapping[str, Found], device: str | torch.device) -> dict[Any, Tensor]:
    """All memory that is needed, before the model is changed: by the ids of parameters, and by name for effective weights.

    It is marked as having no values, until they are written.
    """
    fresh: dict[Any, Tensor] = {}
    name = ""
    try:
        for name, holder, place in _on_meta(found):  # noqa: B007 - read where it fails
            old = holder[place]
            if id(old) not in fresh:
                fresh[id(old)] = new = _empty(old, device)
                if holds_numbers(new):
                    mark(new)
        for name, where in found.items():
            if where.effective is not None and where.parameter.is_meta:
                fresh[name] = torch.empty_like(where.parameter, device=device)
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = f"there is no memory for it on {device}: {str(error).splitlines()[0].rstrip('.')}; nothing has been changed"
        raise ApplyError(Problem(text, name, remedy="give another device, a smaller dtype, or shard the model")) from error
    return fresh


class _Memory:
    """Gives tensors on meta their memory, once under all their names."""

    def __init__(self) -> None:
        self.others: dict[int, Tensor] = {}
        """What took the place of a tensor, by its id, that torch does not swap."""
        self.replaced: list[str] = []

    def give(self, name: str, holder: dict[str, Any], place: str, make: Callable[[Tensor], Tensor]) -> None:
        """Make the tensor at a place of a module what `make` makes of it."""
        old = holder[place]
        if id(old) not in self.others:
            new = make(old)
            with suppress(TypeError):  # a class with __slots__ cannot be assigned
                new.__class__ = type(old)
            new.__dict__.update(old.__dict__)  # marks such as `_no_weight_decay`
            try:
                torch.utils.swap_tensors(old, new)  # type: ignore[no-untyped-call]
                now = old
            except RuntimeError:
                now = self.others[id(old)] = new
            # torch calls them by way of what has been swapped, or is another tensor.
            now._backward_hooks = old._backward_hooks
            now._post_accumulate_grad_hooks = old._post_accumulate_grad_hooks
        if id(old) in self.others:
            holder[place] = self.others[id(old)]
            self.replaced.append(name)


def _empty(old: Tensor, device: str | torch.device) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(old, device=device), requires_grad=old.requires_grad)


@contextmanager
def _without_weak_references(modules: Iterable[nn.Module]) -> Iterator[None]:
    """An RNN refers to its parameters weakly, and torch swaps no such tensor; its own `to` does the same as this."""
    rnns = {id(m): m for m in modules if isinstance(m, nn.RNNBase) and not parametrised(m)}
    rnns = {i: rnn for i, rnn in rnns.items() if any(p is not None and p.is_meta for p in rnn._parameters.values())}
    for rnn in rnns.values():
        rnn._flat_weight_refs = []
    try:
        yield
    finally:
        for rnn in rnns.values():
            rnn._init_flat_weights()


def _restore_buffers(model: nn.Module, device: str | torch.device, seed: int, memory: _Memory) -> tuple[str, ...]:
    """Before the parameters: on meta they cost a reset nothing."""
    walk, notes = Walk(), []
    above: dict[str, nn.Module | None] = {}
    for path, module in model.named_modules():
        pretrained = module if walk.known(module).pretrained else above.get(path.rpartition(".")[0])
        above[path] = pretrained
        lost = {name: buffer for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta}
        # One name of each: of two the reset would be taken to have set the first.
        unknown = {id(buffer): name for name, buffer in reversed(lost.items()) if id(buffer) not in memory.others}.values()
        known = reset_buffers(module, unknown, pretrained, device, torch_seed(key(seed, path))) if unknown else {}
        for name, buffer in lost.items():
            if not buffer.is_meta:  # another name of the one before
                continue
            called, value = f"{path}.{name}" if path else name, known.get(name)
            if value is None and id(buffer) not in memory.others and not sets_buffers(module):
                notes.append(f"the buffer {called} was on meta and has no values now; constructed in skip_init it keeps them")
            # A reset may give two buffers the same tensor, which is to be swapped once.
            made = partial(_nothing, device=device) if value is None else lambda _, value=value: value.detach()
            memory.give(called, module._buffers, name, made)
    return tuple(notes)


def _nothing(buffer: Tensor, device: str | torch.device) -> Tensor:
    """Memory that shows that it has no values."""
    made = torch.empty_like(buffer, device=device)
    return made.fill_(torch.nan) if made.is_floating_point() or made.is_complex() else made

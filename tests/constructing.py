"""Constructing inside skip_init, and holding the result against what the constructor makes otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from initconf import skip_init
from initconf.aside import Mode
from initconf.marks import is_skipped


class Drawn(Mode):
    """The names of the random functions that really run beneath."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        nothing = any(isinstance(a, torch.Tensor) and (a.is_meta or not a.numel()) for a in args)
        if torch.Tag.nondeterministic_seeded in func.tags and not nothing:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def built(make: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a constructor makes inside skip_init, and the random functions that ran; torch's random state stays as it is."""
    state = torch.get_rng_state()
    with Drawn() as drawn, skip_init():
        model = make()
    assert torch.equal(state, torch.get_rng_state())
    return model, drawn.names


def skipped(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if is_skipped(p)}


def outline(model: nn.Module) -> tuple[Any, Any]:
    """All but the values."""
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return list(names.values()), [(n, t.shape, t.dtype, t.stride(), t.requires_grad, type(t)) for n, t in tensors]


def compare(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module, list[str], set[str]]:
    """Construct inside skip_init and outside: all that is not random must be equal, all that is random left out or finite.

    Returns both models, the random functions that ran inside, and the names of what depends on torch's seed.
    """
    torch.manual_seed(1)
    other = tensors(make())
    torch.manual_seed(0)
    eager = make()
    torch.manual_seed(0)
    model, drawn = built(make)
    assert outline(model) == outline(eager)
    values, found = tensors(eager), tensors(model)
    random = {name for name in values if not torch.equal(values[name], other[name])}
    assert all(torch.equal(found[name], values[name]) for name in found.keys() - random)
    left_out = skipped(model)
    assert all(name in left_out or bool(found[name].isfinite().all()) for name in random)
    assert skipped(eager) == set()
    return model, eager, drawn, random


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers, also those that no checkpoint holds."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}

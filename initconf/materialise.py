"""Memory for what is on meta: parameters, with their ties, and the buffers whose values can be known."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from initconf.owners import Found, Walk
from initconf.parametrized import parametrised, sets_buffers
from initconf.resets import reset_buffers
from initconf.sampling import key
from initconf.writing import torch_seed


def materialise(model: nn.Module, found: Mapping[str, Found], device: str | torch.device, seed: int) -> tuple[str, ...]:
    """Give memory to parameters and buffers that are on meta, ties kept; says which buffers have no values now.

    Buffers have the values that their module's own reset gives them; the seed is for those that it draws.
    """
    notes = _restore_buffers(model, device, seed)
    twins: dict[int, nn.Parameter] = {}
    for where in found.values():
        if not where.parameter.is_meta:
            continue
        if where.effective is None:
            where.parameter = _give_memory(where.module, where.place.attribute, where.parameter, device, twins)
            continue
        chain = parametrised(where.module)[where.place.attribute]
        for name, part in chain._parameters.items():
            if part is not None and part.is_meta:
                _give_memory(chain, name, part, device, twins)
        where.parameter = torch.empty_like(where.parameter, device=device)
    return notes


def _give_memory(
    module: nn.Module, name: str, old: Tensor, device: str | torch.device, twins: dict[int, nn.Parameter]
) -> nn.Parameter:
    if id(old) not in twins:
        twin = nn.Parameter(torch.empty_like(old, device=device), requires_grad=old.requires_grad)
        twin.__dict__.update(old.__dict__)  # marks such as `_no_weight_decay`
        twins[id(old)] = twin
    module._parameters[name] = twins[id(old)]
    return twins[id(old)]


def _restore_buffers(model: nn.Module, device: str | torch.device, seed: int) -> tuple[str, ...]:
    """Before the parameters: on meta they cost a reset nothing."""
    walk, notes = Walk(), []
    above: dict[str, nn.Module | None] = {}
    restored: dict[int, Tensor] = {}
    for path, module in model.named_modules():
        pretrained = module if walk.known(module).pretrained else above.get(path.rpartition(".")[0])
        above[path] = pretrained
        lost = {name: buffer for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta}
        unknown = [name for name, buffer in lost.items() if id(buffer) not in restored]
        known = reset_buffers(module, unknown, pretrained, device, torch_seed(key(seed, path))) if unknown else {}
        for name, buffer in lost.items():
            if id(buffer) not in restored:
                restored[id(buffer)] = known[name] if name in known else torch.empty_like(buffer, device=device)
                if name not in known and not sets_buffers(module):
                    called = f"{path}.{name}" if path else name
                    notes.append(
                        f"the buffer {called} was on meta and has no values now; constructed in skip_init it keeps them"
                    )
            module._buffers[name] = restored[id(buffer)]
    return tuple(notes)

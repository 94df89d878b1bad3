"""Memory for what is on meta: parameters, with their ties, and the buffers whose values can be known."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from initconf.owners import Found

_RUNNING = ("running_mean", "running_var", "num_batches_tracked")
"""The buffers that `reset_running_stats` of the norms of torch sets."""


def materialise(model: nn.Module, found: Mapping[str, Found], device: str | torch.device) -> tuple[str, ...]:
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

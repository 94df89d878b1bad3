"""What enters the output layers of a hypernetwork: E[h^2], measured while it runs on its conditions."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from initconf.errors import CompileError, Problem, listed
from initconf.owners import parameters, unwrapped

_LINEAR = {"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "einsum", "mul", "baddbmm"}
"""The functions by which a weight is applied."""


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model, without its wrappers. Raises CompileError where it cannot be copied."""
    try:
        return copy.deepcopy(unwrapped(model))
    except Exception as error:
        text = f"the model cannot be copied, to be run on the conditions: {type(error).__name__}: {error}"
        raise CompileError(Problem(text, "conditions", remedy="say input_second_moment as a number")) from error


@torch.no_grad()
def second_moments(model: nn.Module, names: Collection[str], conditions: Any, seed: int) -> dict[str, float]:
    """E[h^2] of what enters the linear map of each of some parameters, over all conditions; of those that have one.

    Args:
        model: initialised; it runs in the mode it is in, and what it draws comes from the seed.
        conditions: an input (a tensor, a tuple of positional ones, a mapping of keywords), or a list of such.

    Raises CompileError where the model does not run, or uses none of the parameters.
    """
    from initconf.tracing import arguments

    found = parameters(model)
    heard = _Heard({id(found[name].parameter): name for name in names if name in found})
    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed all devices
        for device in devices:
            torch.cuda.default_generators[device].manual_seed(seed)
        for n, one in enumerate(conditions if isinstance(conditions, list) else [conditions]):
            try:
                positional, keywords = arguments(one)
                with heard:
                    model(*positional, **keywords)
            except Exception as error:
                where = f"conditions[{n}]" if isinstance(conditions, list) else "conditions"
                text = f"the model does not run on them: {type(error).__name__}: {error}"
                remedy = "give inputs that it takes: a tensor, a tuple, a mapping of keywords, or a list of such"
                raise CompileError(Problem(text, where, remedy=remedy)) from error
    if names and not heard.sums:
        text = f"no linear map uses {listed(sorted(names))} while the model runs on the conditions"
        raise CompileError(Problem(text, "conditions", remedy="say input_second_moment as a number"))
    moments = {name: total / count for name, (total, count) in heard.sums.items()}
    if wrong := {name: moment for name, moment in moments.items() if not (math.isfinite(moment) and moment)}:
        text = f"E[h^2] of what enters {listed(wrong)} is {next(iter(wrong.values())):g} on the conditions"
        remedy = "give others; where hidden units are all inactive, another seed or a wider layer"
        raise CompileError(Problem(text, "conditions", remedy=remedy))
    return moments


class _Heard(TorchFunctionMode):
    """Listens to every linear map that uses one of the parameters."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        """Of parameters, by `id`."""
        self.sums: dict[str, tuple[float, int]] = {}
        """Of each: the sum of h^2, and of how many."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _LINEAR:
            given = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor)]
            for n, x in enumerate(given):
                base = x if x._base is None else x._base  # its transpose is a view of it
                if (name := self.names.get(id(base))) is not None and n < 2:
                    self._add(name, given[1 - n])
        return func(*args, **(kwargs or {}))

    def _add(self, name: str, h: Tensor) -> None:
        total, count = self.sums.get(name, (0.0, 0))
        self.sums[name] = total + float(h.double().square().sum()), count + h.numel()

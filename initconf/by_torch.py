"""Writing a plan the way a script with `torch.nn.init` would: in walk order, from one generator, by torch's own functions.

The values then depend on the order of the parameters, on torch's version and on its device, as they do there. This is for
reproducing what such a script wrote; `apply` calls it when it is given a generator, which a spec must allow by `compat: torch`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from initconf import files, laws, registry
from initconf.errors import Problem
from initconf.owners import SHARDED, Found, tensor_class
from initconf.plan import Entry, Plan
from initconf.resets import reset_values

_BY_LAW = (
    laws.Keep,
    laws.Constant,
    laws.Uniform,
    laws.Normal,
    laws.TruncatedNormal,
    laws.Orthogonal,
    laws.ModuleDefault,
    laws.Values,
    laws.Custom,
)


def refusals(plan: Plan, found: Mapping[str, Found]) -> list[Problem]:
    """Why a plan cannot be written into a model's parameters from a generator."""
    if plan.compat != "torch":
        remedy = "write `compat: torch` in the spec, or leave the generator out: initconf's own streams need none"
        return [Problem("a generator was given, and the spec does not say `compat: torch`", remedy=remedy)]
    sharded = [
        Problem("it is sharded, and torch's functions draw for each shard by itself", name, remedy="leave the generator out")
        for name, where in found.items()
        if tensor_class(where.parameter) == SHARDED
    ]
    halves = [
        Problem(f"torch's orthogonal_ does not serve {entry.dtype}", entry.label, remedy="leave the generator out")
        for entry in plan.leaves()
        if isinstance(entry.law, laws.Orthogonal) and entry.dtype in ("float16", "bfloat16")
    ]
    others = [
        Problem(f"torch has no function for the law {type(entry.law).__name__} of {entry.initializer}", entry.label)
        for entry in plan.leaves()
        if not isinstance(entry.law, _BY_LAW) and not registry.is_torch(entry.initializer)
    ]
    text = "its blocks have laws of their own, and torch's functions fill whole tensors"
    parts = [Problem(text, entry.name, remedy="leave the generator out") for entry in plan if entry.blocks]
    return sharded + halves + others + parts


def write(entry: Entry, where: Found, generator: torch.Generator) -> None:
    """Write one parameter with the function of `torch.nn.init` that its initializer names, or that its law amounts to."""
    law, target = entry.law, where.parameter.detach()
    if isinstance(law, laws.ModuleDefault):
        target.copy_(reset_values(law, where, generator))
    elif registry.is_torch(entry.initializer):
        _named(entry, target, generator)
    elif isinstance(law, laws.Constant):
        target.fill_(law.value)
    elif isinstance(law, laws.Uniform):
        target.uniform_(law.low, law.high, generator=generator)
    elif isinstance(law, laws.Normal):
        target.normal_(law.mean, law.std, generator=generator)
    elif isinstance(law, laws.TruncatedNormal):
        mean, std = law.parent
        nn.init.trunc_normal_(target, mean, std, *law.bounds, generator=generator)
    elif isinstance(law, laws.Orthogonal):
        nn.init.orthogonal_(target, law.gain, generator=generator)
    elif isinstance(law, laws.Values):
        target.copy_(files.contents(law.path)[law.key].read())
    elif isinstance(law, laws.Custom):
        registry.find(law.name).fn(target, generator=generator, **dict(law.settings))
    elif not isinstance(law, laws.Keep):
        raise AssertionError(f"{law} was not refused")  # `refusals` let it through: never a silent nothing


def _named(entry: Entry, target: Tensor, generator: torch.Generator) -> None:
    name = registry.find(entry.initializer or "").name
    if name == "sparse_":
        # torch places the zeros from the global state; here they come from the generator too.
        rows, columns = target.shape
        target.normal_(0, entry.settings.get("std", 0.01), generator=generator)
        for column in range(columns):
            order = torch.randperm(rows, generator=generator, device=generator.device)
            target[order[: math.ceil(entry.settings["sparsity"] * rows)], column] = 0
    elif name == "trunc_normal_" and isinstance(entry.law, laws.Constant):
        target.fill_(entry.law.value)  # torch divides by the std
    elif name in ("eye_", "dirac_", "constant_", "ones_", "zeros_"):
        getattr(nn.init, name)(target, **entry.settings)
    else:
        getattr(nn.init, name)(target, **entry.settings, generator=generator)

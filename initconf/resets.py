"""What a module's own reset would give a parameter, without touching the module or torch's global random state."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from initconf.laws import ModuleDefault
from initconf.survey import Found


def reset_values(law: ModuleDefault, where: Found, random: int | torch.Generator) -> Tensor:
    """Run the owner's reset on a copy and take the one parameter.

    Args:
        random: a seed, or a CPU generator, which is then as far on as the reset has drawn.

    Raises RuntimeError where the reset leaves the parameter as it was.
    """
    keyed = isinstance(random, int)
    blank: dict[int, object] = {
        id(p): torch.nn.Parameter(torch.full_like(p, torch.nan, device="cpu", dtype=wide(p) if keyed else p.dtype))
        for p in where.module.parameters()
        if p.is_floating_point() or p.is_complex()
    }
    twin = copy.deepcopy(where.module, blank)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        if isinstance(random, int):
            torch.default_generator.manual_seed(random)  # torch.manual_seed would seed the accelerators too
        else:
            torch.set_rng_state(random.get_state())
        getattr(twin, law.reset)()
        if not isinstance(random, int):
            random.set_state(torch.get_rng_state())
    values: Tensor = twin._parameters[where.place.attribute].detach()  # type: ignore[union-attr]
    if bool(torch.isnan(values).any()):
        raise RuntimeError(f"{type(where.module).__name__}.{law.reset} does not set {where.place.attribute}")
    return values


def wide(parameter: Tensor) -> torch.dtype:
    """Half precision is cast from float32, like all values that initconf makes."""
    return torch.float32 if parameter.is_floating_point() and parameter.element_size() < 4 else parameter.dtype

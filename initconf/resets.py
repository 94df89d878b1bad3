"""What a module's own reset would give a parameter or a buffer, without touching the module or torch's global random state."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from initconf.aside import Aside, Mode, Seeded
from initconf.laws import ModuleDefault
from initconf.owners import SHARDED, Found, tensor_class
from initconf.parametrized import effective, parametrised
from initconf.sites import own_class

OWN = ("reset_parameters", "_reset_parameters")
PRETRAINED = "_init_weights"
"""The method of a model of transformers that sets the modules below it, one at a time."""


def reset_method(where: Found, known: dict[Any, str | None], state: bool = False) -> str | None:
    """The method that gives a parameter its default: of its owner, else the `_init_weights` of its transformers model.

    `known` remembers what was found for a class. Of `state` torch's own modules know nothing: their reset would make a learned
    embedding of a table of sines.
    """
    kind = type(where.module)
    if (kind, state) not in known:
        name = next((name for name in OWN if callable(getattr(kind, name, None))), None)
        known[kind, state] = None if state and name and _is_of_torch(getattr(kind, name)) else name
    if known[kind, state] is not None or where.pretrained is None or (state and _is_of_torch(kind)):
        return known[kind, state]
    key = (type(where.pretrained), kind, where.place.attribute)
    if key not in known:
        known[key] = PRETRAINED if _is_set(where) else None
    return known[key]


def _is_of_torch(what: Any) -> bool:
    return str(what.__module__).startswith("torch.nn.")


class _Written(Mode):  # type: ignore[no-untyped-call]
    """Takes note of the memory that is written to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.memory: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [*zip(func._schema.arguments, args, strict=False)]
        given += [(a, kwargs[a.name]) for a in func._schema.arguments if kwargs and a.name in kwargs]
        for argument, value in given:
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                self.memory.add(_memory(value))
        return func(*args, **(kwargs or {}))


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _twin(module: nn.Module, parameters: Mapping[int, object]) -> nn.Module:
    """A copy with other parameters (by the ids of the old ones): without hooks, which may hold anything, and without FSDP."""
    known, parts = dict(parameters), list(module.modules())
    for part in parts:
        left_out = [v for k, v in vars(part).items() if "_hooks" in k or k.startswith("__composable_api")]
        known |= {id(value): type(value)() for value in left_out if isinstance(value, dict)}
    sharded = [part for part in parts if own_class(part) is not type(part)]
    known |= {id(part): object.__new__(own_class(part)) for part in sharded}
    for part in sharded:
        vars(known[id(part)]).update(copy.deepcopy(vars(part), known))
    return copy.deepcopy(module, known)


def _is_set(where: Found) -> bool:
    """Whether `_init_weights` sets a parameter; tried on a copy on meta, which has no values and takes no memory."""
    try:
        blank = {id(p): _on_meta(p) for p in where.module.parameters()}
        twin = _twin(where.module, blank)
        before = _memory(blank[id(where.parameter)])
        with Aside({}), torch.no_grad(), _Written() as written:
            where.pretrained._init_weights(twin)  # type: ignore[union-attr,operator]
        now = twin._parameters[where.place.attribute]
    except Exception:  # noqa: BLE001 - the user's code, which may not run on meta; then nothing is known of it
        return False
    return now is not None and (_memory(now) != before or before in written.memory)


def reset_buffers(
    module: nn.Module, names: Collection[str], pretrained: nn.Module | None, device: str | torch.device, seed: int
) -> dict[str, Tensor]:
    """The buffers that a module's own resets set, such as running statistics or the table of a rotary embedding.

    As torch asks of those who construct on meta, `reset_parameters` is taken to set buffers too; of a module in a model of
    transformers, that model's `_init_weights`. Run on a copy whose parameters are on meta, so that they cost nothing.
    """
    found: dict[str, Tensor] = {}
    for method in (*OWN, "reset_running_stats", PRETRAINED):
        lost = [name for name in names if name not in found]
        if not lost or not callable(getattr(pretrained if method == PRETRAINED else module, method, None)):
            continue
        blank: dict[int, object] = {id(p): _on_meta(p) for p in module.parameters()}
        # On the CPU: the same values then for every device.
        fresh = {name: torch.empty_like(module._buffers[name], device="cpu") for name in lost}  # type: ignore[arg-type]
        blank |= {id(module._buffers[name]): buffer for name, buffer in fresh.items()}
        try:
            twin = _twin(module, blank)
            with Seeded(torch.Generator("cpu").manual_seed(seed)), torch.no_grad(), _Written() as written:
                getattr(pretrained, method)(twin) if method == PRETRAINED else getattr(twin, method)()
        except Exception:  # noqa: BLE001 - the user's code, which may not run without parameters; the buffer is then named
            continue
        for name in lost:
            now = twin._buffers.get(name)
            if now is not None and not now.is_meta and (now is not fresh[name] or _memory(now) in written.memory):
                found[name] = now.to(device)
    return found


def _on_meta(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device="meta"), parameter.requires_grad)


def reset_values(law: ModuleDefault, where: Found, random: int | torch.Generator) -> Tensor:
    """Run the reset on a copy of the owner and take the one parameter.

    Args:
        random: a seed, or a CPU generator, which is then as far on as the reset has drawn.

    Raises RuntimeError where the reset leaves the parameter as it was.
    """
    keyed = isinstance(random, int)
    blank: dict[int, object] = {
        id(p): nn.Parameter(_nothing(p, wide(p) if keyed else p.dtype))
        for p in where.module.parameters()
        if p.is_floating_point() or p.is_complex()
    }
    twin = _twin(where.module, blank)
    if chains := parametrised(where.module):  # the reset would set what they compute, and not what they compute it from
        del twin._modules["parametrizations"]
        twin.__class__ = type(twin).__bases__[0]
        for name, chain in chains.items():
            weight = effective(chain)
            dtype = wide(weight) if keyed else weight.dtype
            twin.register_parameter(name, nn.Parameter(torch.full_like(weight, torch.nan, device="cpu", dtype=dtype)))
    does = where.pretrained if law.reset == PRETRAINED else twin
    own = torch.Generator("cpu").manual_seed(random) if isinstance(random, int) else random
    with Seeded(own), torch.set_grad_enabled(does is twin):
        getattr(does, law.reset)(*([twin] if does is not twin else []))
    values: Tensor = twin._parameters[where.place.attribute].detach()  # type: ignore[union-attr]
    if bool(torch.isnan(values).any()):
        raise RuntimeError(f"{type(does).__name__}.{law.reset} does not set {where.place.attribute}")
    return values


def _nothing(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in memory like a parameter, of a sharded one like the whole."""
    if tensor_class(parameter) == SHARDED:
        return torch.full(parameter.shape, torch.nan, dtype=dtype)
    return torch.full_like(parameter, torch.nan, device="cpu", dtype=dtype)


def wide(parameter: Tensor) -> torch.dtype:
    """Half precision is cast from float32, like all values that initconf makes."""
    return torch.float32 if parameter.is_floating_point() and parameter.element_size() < 4 else parameter.dtype

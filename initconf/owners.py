"""Walking a model: every parameter with its canonical name, its owner and what stands above it. No value is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from initconf.errors import CompileError, InitConfError, Problem
from initconf.parametrized import effective, identity, parametrised, round_trip
from initconf.sites import Place, own_class

_CHECKPOINTED = "_checkpoint_wrapped_module"
"""Of the attributes below the one that `named_parameters()` has in its names and `state_dict()` has not."""
# Recognised by class, never by the text of a prefix: a user's own attribute may be called `module`.
WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.ActivationWrapper": _CHECKPOINTED,
    "torch.optim.swa_utils.AveragedModel": "module",
}
FLAT = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"
SCRIPTED = "torch.jit._script.ScriptModule"
NORMALISED = ("torch.nn.utils.weight_norm.WeightNorm", "torch.nn.utils.spectral_norm.SpectralNorm")
"""Hooks of the older kind, which hide the weight behind parameters of other shapes."""
CONTAINERS = ("torch.nn.modules.container.ModuleList", "torch.nn.modules.container.Sequential")
SHARDED = "torch.distributed.tensor.DTensor"
PRETRAINED = "transformers.modeling_utils.PreTrainedModel"
"""The class whose `_init_weights` gives the modules below it their values."""


@dataclass(slots=True)
class Found:
    """One (name, owner, parameter) of the walk."""

    place: Place
    module: nn.Module
    parameter: Tensor
    container: str | None
    """The path of the outermost container, None outside of one."""
    child: str | None
    """The container's child that the parameter lies in."""
    pretrained: nn.Module | None = None
    """The nearest ancestor (or the owner itself) that is a model of transformers."""
    parent: nn.Module | None = None
    """The module that holds the owner."""
    held: str = ""
    """What the owner is called in it."""
    effective: str | None = None
    """Of a parametrised weight: whether what is assigned comes back `exact` or `transformed`."""
    key: int = 0
    """What ties are known by, where it is not the parameter itself."""
    raw: tuple[str, ...] = ()
    """What `named_parameters()` calls its tensors, where a wrapper or a parametrisation gives them other names."""

    @property
    def identity(self) -> int:
        """The same for every name of one tensor."""
        return self.key or id(self.parameter)


@dataclass(frozen=True, slots=True)
class _Class:
    """What is known of a module's class."""

    dotted: tuple[str, ...]
    """The class and its base classes, dotted, without `object`; one tuple for all modules of the class."""
    wraps: str | None
    flat: bool
    scripted: bool
    container: bool
    pretrained: bool


@dataclass
class Walk:
    """What a walk over a model came upon."""

    found: list[Found] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    _classes: dict[type, _Class] = field(default_factory=dict)

    def by_name(self) -> dict[str, Found]:
        """Where each canonical name (aliases too) is found."""
        return {found.place.name: found for found in self.found}

    def known(self, module: nn.Module) -> _Class:
        kind = own_class(module)
        if kind not in self._classes:
            dotted = tuple(f"{c.__module__}.{c.__qualname__}" for c in kind.__mro__[:-1])
            self._classes[kind] = _Class(
                dotted,
                next((WRAPPERS[name] for name in dotted if name in WRAPPERS), None),
                FLAT in dotted,
                SCRIPTED in dotted,
                any(name in CONTAINERS for name in dotted),
                PRETRAINED in dotted,
            )
        return self._classes[kind]


def walk(model: nn.Module) -> Walk:
    """Every parameter of a model under each of its names, in the order of its modules.

    Raises CompileError for what is no module.
    """
    given: object = model
    if not isinstance(given, nn.Module):
        text = "this is a class" if isinstance(given, type) else f"a {type(given).__name__} is not a torch.nn.Module"
        raise CompileError(Problem(text, "the model", remedy="give the module itself, as in initialize(model, cfg.init)"))
    done = Walk()
    _walk(model, "", (), None, None, None, done, ())
    return done


def parameters(model: nn.Module) -> dict[str, Found]:
    """Where each canonical name (aliases too) is found in the model."""
    return walk(model).by_name()


def called(found: Mapping[str, Found]) -> dict[str, set[str]]:
    """The canonical names by all that a parameter is called: by them, by `named_parameters()` and by `state_dict()`."""
    names = {name: {name} for name in found}
    for name, where in found.items():
        for raw in where.raw:
            for said in (raw, raw.replace(f"{_CHECKPOINTED}.", "")):
                names.setdefault(said, set()).add(name)
    return names


def plain(name: str) -> str:
    """A name from a checkpoint, whose model is not at hand, less what wrappers and parametrisations put into it.

    `module` may as well be a user's own attribute: such names are comparable with each other only.

    >>> plain("net._orig_mod.parametrizations.weight.original0")
    'net.weight'
    """
    parts = name.split(".")
    if "parametrizations" in parts[:-2]:
        at = parts.index("parametrizations")
        parts[at:] = [parts[at + 1]]
    return ".".join([part for part in parts[:-1] if part not in WRAPPERS.values()] + parts[-1:])


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside its wrappers."""
    known, done = Walk(), model
    while (attribute := known.known(done).wraps) is not None:
        done = getattr(done, attribute)
    return done


def _walk(
    module: nn.Module,
    prefix: str,
    inside: tuple[tuple[str, ...], ...],
    container: str | None,
    child: str | None,
    pretrained: nn.Module | None,
    walk: Walk,
    stack: tuple[int, ...],
    parent: nn.Module | None = None,
    held: str = "",
    raw: str = "",
) -> None:
    known = walk.known(module)
    if known.wraps is not None:
        sub, raw = getattr(module, known.wraps), f"{raw}{known.wraps}."
        return _walk(sub, prefix, inside, container, child, pretrained, walk, stack, parent, held, raw)
    if known.flat:
        remedy = "initialise before wrapping, or shard with torch.distributed.fsdp.fully_shard"
        text = "FullyShardedDataParallel has flattened the parameters: their shapes and fans are gone"
        walk.problems.append(Problem(text, prefix or "the model", remedy=remedy))
        return None
    if "_modules" not in vars(module):
        walk.problems.append(Problem("its __init__ has not called super().__init__()", prefix or "the model"))
        return None
    if known.scripted:
        text = "torch.jit has compiled the module: the class that gives its parameters their meaning is gone"
        walk.problems.append(Problem(text, prefix or "the model", remedy="initialise before it is scripted or traced"))
        return None
    for hook in module._forward_pre_hooks.values():
        if f"{type(hook).__module__}.{type(hook).__qualname__}" in NORMALISED:
            text = f"its {hook.name} is computed by {type(hook).__name__} before every forward pass"  # type: ignore[attr-defined]
            remedy = "initialise before the normalisation is added"
            walk.problems.append(Problem(text, prefix or "the model", remedy=remedy))
            return None
    if known.pretrained:
        pretrained = module
    start = f"{prefix}." if prefix else ""
    chains = parametrised(module)
    # The dynamic class that torch puts in front (`ParametrizedLinear`) is nobody's; its first base is the owner.
    dotted = known.dotted[1:] if chains else known.dotted
    for attribute, chain in chains.items():
        name = f"{start}{attribute}"
        try:
            weight = effective(chain).requires_grad_(identity(chain).requires_grad)
            how = round_trip(chain, weight)
        except InitConfError as error:
            walk.problems.append(replace(error.problems[0], path=name))
            continue
        place = Place(name, attribute, dotted, inside)
        names = tuple(f"{raw}parametrizations.{attribute}.{part}" for part, _ in chain.named_parameters(remove_duplicate=False))
        key = id(identity(chain))
        walk.found.append(Found(place, module, weight, container, child, pretrained, parent, held, how, key, names))
    for attribute, parameter in module._parameters.items():
        if parameter is None:
            continue
        if hasattr(parameter, "materialize"):
            remedy = "run the model once on an example input, so that its lazy modules know their sizes"
            walk.problems.append(Problem("the parameter is lazy and has no shape yet", f"{start}{attribute}", remedy=remedy))
            continue
        place = Place(f"{start}{attribute}", attribute, dotted, inside)
        names = () if raw == start else (f"{raw}{attribute}",)
        walk.found.append(Found(place, module, parameter, container, child, pretrained, parent, held, raw=names))
    if not module._modules:
        return None
    counts = container is None and known.container
    below, seen = (*inside, dotted), (*stack, id(module))
    for name, sub in module._modules.items():
        if sub is None or id(sub) in stack or (chains and name == "parametrizations"):
            continue
        here, rank = (prefix, name) if counts else (container, child)
        _walk(sub, f"{start}{name}", below, here, rank, pretrained, walk, seen, module, name, f"{raw}{name}.")
    return None


def tensor_class(parameter: Tensor) -> str | None:
    """The class of a tensor that is none of torch's plain ones, such as a quantised one; None for those that can be written."""
    if parameter.layout is not torch.strided:
        return str(parameter.layout)
    kind: Any = type(parameter)
    if nn.Parameter in kind.__mro__:  # of a tensor of a class of its own nn.Parameter makes a tensor of that class
        kind = Tensor if kind is nn.Parameter else type(parameter.data)
    return None if kind is Tensor else f"{kind.__module__}.{kind.__qualname__}"

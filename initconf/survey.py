"""From a model to its sites: names, owners, ties, blocks, fans and depth. Only structure is looked at, never a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from initconf import layouts, patterns, third_party  # noqa: F401 - third_party registers
from initconf.errors import CompileError, InitConfError, Problem
from initconf.parametrized import effective, identity, parametrised, round_trip
from initconf.sites import HAS_NO_FANS, Layout, Place, Site, is_a
from initconf.spec import DeclaredLayout

if TYPE_CHECKING:
    from torch import Tensor, nn

# Recognised by class, never by the text of a prefix: a user's own attribute may be called `module`.
WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.distributed.algorithms._checkpoint.checkpoint_wrapper.CheckpointWrapper": "_checkpoint_wrapped_module",
    "torch.optim.swa_utils.AveragedModel": "module",
}
FLAT = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"
NORMALISED = ("torch.nn.utils.weight_norm.WeightNorm", "torch.nn.utils.spectral_norm.SpectralNorm")
"""Hooks of the older kind, which hide the weight behind parameters of other shapes."""
CONTAINERS = ("torch.nn.modules.container.ModuleList", "torch.nn.modules.container.Sequential")


@dataclass
class Found:
    """One (name, owner, parameter) of the walk."""

    place: Place
    module: nn.Module
    parameter: Tensor
    container: str | None
    """The path of the outermost container, None outside of one."""
    child: str | None
    """The container's child that the parameter lies in."""
    effective: str | None = None
    """Of a parametrised weight: whether what is assigned comes back `exact` or `transformed`."""
    key: int = 0
    """What ties are known by, where it is not the parameter itself."""

    @property
    def identity(self) -> int:
        """The same for every name of one tensor."""
        return self.key or id(self.parameter)


@dataclass
class Walk:
    found: list[Found] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    classes: dict[type, tuple[str, ...]] = field(default_factory=dict)

    def dotted(self, module: nn.Module) -> tuple[str, ...]:
        """A module's class and its base classes, dotted, without `object`."""
        kind = type(module)
        if kind not in self.classes:
            self.classes[kind] = tuple(f"{c.__module__}.{c.__qualname__}" for c in kind.__mro__[:-1])
        return self.classes[kind]


def unwrap(module: nn.Module, dotted: tuple[str, ...]) -> nn.Module | None:
    """What a wrapper wraps, None for any other module."""
    for name in dotted:
        if name in WRAPPERS:
            return getattr(module, WRAPPERS[name])  # type: ignore[no-any-return]
    return None


def survey(
    model: nn.Module,
    layers: str | None = None,
    *,
    declared: Mapping[str, DeclaredLayout | None] | None = None,
    torch_fans: bool = False,
) -> list[Site]:
    """The sites of a model, in the order of its modules; a tensor under several names is one site.

    Args:
        model: on any device, also meta; it is not changed.
        layers: a regex for whole names with one group, the layer's number; left out, the outermost containers are counted.
        declared: the layouts of a spec, by name; they are stronger than the registered ones, and the last match wins.
        torch_fans: whether to read every tensor as torch.nn.init does: inputs on axis 1, no blocks, no padding rows.

    Raises:
        CompileError: for parameters that cannot be initialised: uninitialised lazy ones, flat shards, parametrisations that
            cannot be assigned to.
    """
    walk = Walk()
    if not hasattr(model, "_modules") or isinstance(model, type):
        text = f"a {type(model).__name__} is not a torch.nn.Module" if not isinstance(model, type) else "this is a class"
        raise CompileError(Problem(text, "the model", remedy="give the module itself, as in initialize(model, cfg.init)"))
    _walk(model, "", (), None, None, walk, ())
    groups: dict[int, list[Found]] = {}
    for found in walk.found:
        groups.setdefault(found.identity, []).append(found)
    said = _declare(declared or {}, walk)
    index = {(id(found.module), found.place.attribute): found.parameter for found in walk.found}
    sites = []
    for group in groups.values():
        try:
            sites.append(_site(group, said, index, torch_fans))
        except InitConfError as error:
            walk.problems.append(Problem(str(error), group[0].place.name))
    if walk.problems:
        raise CompileError(walk.problems)
    return _with_depth(sites, [min(group, key=lambda found: found.place.name) for group in groups.values()], layers)


def parameters(model: nn.Module) -> dict[str, Found]:
    """Where each canonical name (aliases too) is found in the model."""
    walk = Walk()
    _walk(model, "", (), None, None, walk, ())
    return {found.place.name: found for found in walk.found}


def _walk(
    module: nn.Module,
    prefix: str,
    inside: tuple[tuple[str, ...], ...],
    container: str | None,
    child: str | None,
    walk: Walk,
    stack: tuple[int, ...],
) -> None:
    dotted = walk.dotted(module)
    if (inner := unwrap(module, dotted)) is not None:
        return _walk(inner, prefix, inside, container, child, walk, stack)
    if FLAT in dotted:
        walk.problems.append(
            Problem(
                "FullyShardedDataParallel has flattened the parameters: their shapes and fans are gone",
                prefix or "the model",
                remedy="initialise before wrapping, or shard with torch.distributed.fsdp.fully_shard",
            )
        )
        return None
    for hook in module._forward_pre_hooks.values():
        if f"{type(hook).__module__}.{type(hook).__qualname__}" in NORMALISED:
            walk.problems.append(
                Problem(
                    f"its {hook.name} is computed by {type(hook).__name__} before every forward pass",  # type: ignore[attr-defined]
                    prefix or "the model",
                    remedy="initialise before the normalisation is added",
                )
            )
            return None
    for attribute, chain in parametrised(module).items():
        name = f"{prefix}.{attribute}" if prefix else attribute
        try:
            weight = effective(chain)
            how = round_trip(chain, weight)
        except InitConfError as error:
            walk.problems.append(replace(error.problems[0], path=name))
            continue
        # The dynamic class that torch puts in front (`ParametrizedLinear`) is nobody's; its first base is the owner.
        place = Place(name, attribute, dotted[1:], inside)
        walk.found.append(Found(place, module, weight, container, child, how, id(identity(chain))))
    for attribute, parameter in module._parameters.items():
        if parameter is None:
            continue
        name = f"{prefix}.{attribute}" if prefix else attribute
        if hasattr(parameter, "materialize"):
            remedy = "run the model once on an example input, so that its lazy modules know their sizes"
            walk.problems.append(Problem("the parameter is lazy and has no shape yet", name, remedy=remedy))
            continue
        walk.found.append(Found(Place(name, attribute, dotted, inside), module, parameter, container, child))
    counts = container is None and any(name in CONTAINERS for name in dotted)
    for name, sub in module._modules.items():
        if sub is None or id(sub) in stack or (name == "parametrizations" and parametrised(module)):
            continue
        path = f"{prefix}.{name}" if prefix else name
        here, rank = (prefix, name) if counts else (container, child)
        _walk(sub, path, (*inside, dotted), here, rank, walk, (*stack, id(module)))
    return None


def _declare(declared: Mapping[str, DeclaredLayout | None], walk: Walk) -> dict[str, Layout]:
    """The layout that the spec declares for each name; a declaration that fits none is a problem."""
    said: dict[str, Layout] = {}
    names = [found.place.name for found in walk.found]
    for name, layout in declared.items():
        if layout is None:
            continue
        held = set(range(len(names)))
        kinds: tuple[patterns.Kind, ...] = ("match", "search", "glob")
        for kind in kinds:
            if (text := getattr(layout, kind)) is not None:
                held &= patterns.match_names([(kind, text)], names)[0]
        if layout.module is not None:
            held = {n for n in held if is_a(walk.found[n].place.owner, layout.module)}
            if layout.match is layout.search is layout.glob is None and layout.role is None:
                held = {n for n in held if walk.found[n].parameter.ndim >= 2}  # its weights, and not their biases
        if not held:
            remedy = f"names are such as {', '.join(names[:2])}" if names else None
            walk.problems.append(Problem("it matches nothing", f"layouts.{name}", remedy=remedy))
        for n in held:
            said[names[n]] = layouts.declared(layout, f"layouts.{name}", walk.found[n].parameter)
    return said


def _site(group: list[Found], said: Mapping[str, Layout], index: Mapping[tuple[int, str], Tensor], torch_fans: bool) -> Site:
    group = sorted(group, key=lambda found: found.place.name)

    def describe(found: Found, attribute: str, parameter: Tensor) -> Layout:
        name = f"{found.place.name.removesuffix(found.place.attribute)}{attribute}"
        layout = said[name] if name in said else layouts.find(found.module, attribute, parameter)
        # The default axes are torch's: inputs on 1, outputs on 0, all others receptive field.
        return Layout(role=layout.role, fans_of=layout.fans_of, assumed=layout.assumed) if torch_fans else layout

    described = [describe(found, found.place.attribute, found.parameter) for found in group]
    # A tied head is no head: the tensor is an embedding if any of its owners says so.
    main = next((i for i, layout in enumerate(described) if layout.role == "embedding"), 0)
    layout, owner, parameter = described[main], group[main].module, group[main].parameter
    shape = tuple(parameter.shape)
    site = Site(
        name=group[0].place.name,
        places=tuple(found.place for found in group),
        shape=shape,
        dtype=str(parameter.dtype).removeprefix("torch."),
        layout=layout,
        on_meta=parameter.is_meta,
        effective=group[main].effective,
        reset=next((name for name in ("reset_parameters", "_reset_parameters") if callable(getattr(owner, name, None))), None),
    )
    carrier = index.get((id(owner), layout.fans_of)) if layout.fans_of else None
    of = describe(group[main], layout.fans_of, carrier) if layout.fans_of and carrier is not None else layout
    of_shape = tuple(carrier.shape) if carrier is not None else shape
    blocks = []
    own, carried = layout.blocks(shape), of.blocks(of_shape)
    for (name, start, size), (_, _, of_size) in zip(own, carried if len(carried) == len(own) else own, strict=True):
        part = (*shape[: layout.block_axis], size, *shape[layout.block_axis + 1 :])
        of_part = (*of_shape[: of.block_axis], of_size, *of_shape[of.block_axis + 1 :])
        blocks.append(_with_fans(replace(site, shape=part, block=name, start=start), of, of_part))
    return replace(_with_fans(site, of, of_shape), blocks=tuple(blocks))


def _with_fans(site: Site, of: Layout, shape: tuple[int, ...]) -> Site:
    if of.role in HAS_NO_FANS or len(shape) < 2:
        return site
    fan_in, fan_out = of.fans(shape)
    return replace(site, fan_in=fan_in, fan_out=fan_out)


# --- depth -----------------------------------------------------------------------------------------------------------------


def _with_depth(sites: list[Site], found: list[Found], layers: str | None) -> list[Site]:
    if layers is not None:
        try:
            return list(_by_regex(sites, layers))
        except InitConfError as error:
            raise CompileError(Problem(str(error), "layers")) from None
    children: dict[str, dict[str, int]] = {}
    for site, where in zip(sites, found, strict=True):
        if where.container is not None and where.child is not None and site.role in ("weight", "recurrent"):
            ranks = children.setdefault(where.container, {})
            ranks.setdefault(where.child, len(ranks))
    which = "say which with `layers: '<regex with one group>'`"
    several = f"the model has {len(children)} containers ({', '.join(sorted(children))}); {which}"
    if not children:
        several = f"the model has no ModuleList or Sequential to count layers in; {which}"
    only = len(next(iter(children.values()))) if len(children) == 1 else None
    done = []
    for site, where in zip(sites, found, strict=True):
        ranks = children.get(where.container or "", {}) if where.container is not None else {}
        if where.child in ranks:
            done.append(_deep(site, ranks[where.child], len(ranks), ""))
        elif where.container in children:
            done.append(_deep(site, None, len(ranks), "its part of the container owns no weights"))
        else:
            note = several if only is None else "the parameter is in no ModuleList or Sequential"
            done.append(_deep(site, None, only, note))
    return done


def _by_regex(sites: list[Site], pattern: str) -> Iterator[Site]:
    names = [(site.name, name) for site in sites for name in (*reversed(site.aliases), site.name)]
    numbers = {names[n][0]: number for n, number in patterns.captured(pattern, [name for _, name in names]).items()}
    key: Any = int if all(n.isdecimal() for n in numbers.values()) else str
    ranks = {n: i for i, n in enumerate(sorted(set(numbers.values()), key=key))}
    for site in sites:
        rank = ranks.get(numbers[site.name]) if site.name in numbers else None
        yield _deep(site, rank, len(ranks) or None, f"the pattern {pattern!r} of `layers` does not match the name")


def _deep(site: Site, layer: int | None, n_layers: int | None, note: str) -> Site:
    blocks = tuple(_deep(block, layer, n_layers, note) for block in site.blocks)
    return replace(site, layer=layer, n_layers=n_layers, depth_note=note, blocks=blocks)

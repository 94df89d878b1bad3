"""From a model to its sites: names, owners, ties, blocks, fans and depth. Only structure is looked at, never a value."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from initconf import layouts, patterns, third_party  # noqa: F401 - third_party registers
from initconf.errors import CompileError, InitConfError, Problem, did_you_mean, listed, near
from initconf.layouts import Describe, Part
from initconf.owners import Found, Walk, tensor_class, walk
from initconf.resets import reset_method
from initconf.sites import HAS_NO_FANS, Layout, Site, is_a, twin
from initconf.spec import DeclaredLayout

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage is collected meanwhile: with every few thousand new objects all old ones would be gone through again.

    What was made counts as old afterwards, so that it is not gone through at once when this ends.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # what somebody froze stays frozen
            gc.freeze()
            gc.unfreeze()
        gc.enable()


@uncollected()
def survey(
    model: nn.Module,
    layers: str | None = None,
    *,
    declared: Mapping[str, DeclaredLayout | None] | None = None,
    torch_fans: bool = False,
    walked: Walk | None = None,
) -> list[Site]:
    """The sites of a model, in the order of its modules; a tensor under several names is one site.

    Args:
        model: on any device, also meta; it is not changed.
        layers: a regex for whole names with one group, the layer's number; left out, the outermost containers are counted.
        declared: the layouts of a spec, by name; they are stronger than the registered ones, and the last match wins.
        torch_fans: whether to read every tensor as torch.nn.init does: inputs on axis 1, no blocks, no padding rows.
        walked: a walk over the model that was made already.

    Raises:
        CompileError: for parameters that cannot be initialised: uninitialised lazy ones, flat shards, quantised ones,
            parametrisations that cannot be assigned to.
    """
    walked = walked or walk(model)
    reader = _Reader(_declare(declared or {}, walked), torch_fans)
    groups: dict[int, list[Found]] = {}
    for found in walked.found:
        groups.setdefault(found.identity, []).append(found)
        reader.index[id(found.module), found.place.attribute] = found.parameter
    read = []
    for group in groups.values():
        if len(group) > 1:
            group.sort(key=lambda found: found.place.name)
        try:
            read.append(reader.read(group))
        except InitConfError as error:
            walked.problems.append(Problem(str(error), group[0].place.name))
    if walked.problems:
        raise CompileError(walked.problems)
    try:
        depths = list(_by_regex(read, layers) if layers is not None else _by_container(read))
    except InitConfError as error:
        raise CompileError(Problem(str(error), "layers")) from None
    return [_placed(group, kind, depth) for (group, kind), depth in zip(read, depths, strict=True)]


def _declare(declared: Mapping[str, DeclaredLayout | None], walk: Walk) -> dict[str, Layout]:
    """The layout that the spec declares for each name; a declaration that fits none is a problem."""
    said: dict[str, Layout] = {}
    names = [found.place.name for found in walk.found]
    owned = {(id(found.module), found.place.attribute) for found in walk.found}
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
                least = layouts.least_axes(layout)  # its weights, and not their biases
                held = {n for n in held if walk.found[n].parameter.ndim >= least}
        if not held:
            walk.problems.append(Problem("it matches nothing", f"layouts.{name}", remedy=_instead(layout, walk, names)))
        wrong: dict[Problem, list[str]] = {}
        for n in sorted(held):
            try:
                said[names[n]] = layouts.declared(layout, f"layouts.{name}", walk.found[n].parameter)
            except InitConfError as error:
                for problem in error.problems:
                    wrong.setdefault(problem, []).append(names[n])
            if layout.fans_of is not None and (id(walk.found[n].module), layout.fans_of) not in owned:
                here = [attribute for owner, attribute in owned if owner == id(walk.found[n].module)]
                text = f"its owner has no parameter {layout.fans_of!r}"
                remedy = did_you_mean(layout.fans_of, here)
                wrong.setdefault(Problem(text, f"layouts.{name}.fans_of", remedy=remedy), []).append(names[n])
        walk.problems += [replace(p, text=f"{listed(labels)}: {p.text}") for p, labels in wrong.items()]
    return said


def _instead(layout: DeclaredLayout, walk: Walk, names: list[str]) -> str | None:
    """What a layout that matches nothing may have meant."""
    pattern = layout.match or layout.search or layout.glob
    if pattern is None:
        kinds = {found.place.owner[0].rpartition(".")[2] for found in walk.found}
        return did_you_mean((layout.module or ("",))[0], kinds)
    close = near(pattern.replace("\\.", "."), names)
    return f"near names: {', '.join(close)}" if close else f"names are such as {', '.join(names[:2])}" if names else None


# --- one parameter ---------------------------------------------------------------------------------------------------------


@dataclass
class _Reader:
    """Reads parameters. Models repeat themselves: what two parameters have in common is worked out once."""

    said: Mapping[str, Layout]
    torch_fans: bool
    index: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    """The parameters by owner and attribute."""
    _kinds: dict[Any, Site] = field(default_factory=dict)
    _describers: dict[type, list[Describe]] = field(default_factory=dict)
    _parents: dict[type, list[Part]] = field(default_factory=dict)
    _resets: dict[Any, str | None] = field(default_factory=dict)

    def read(self, group: list[Found]) -> tuple[list[Found], Site]:
        """The names of one tensor, and the site of its kind: without them and without depth."""
        main = group[0]
        layout = self._layout(main, main.place.attribute, main.parameter)
        if len(group) > 1 and layout.role != "embedding":
            # A tied head is no head: the tensor is an embedding if any of its owners says so.
            for found in group[1:]:
                other = self._layout(found, found.place.attribute, found.parameter)
                if other.role == "embedding":
                    main, layout = found, other
                    break
        parameter = main.parameter
        of, of_shape = layout, parameter.shape
        if layout.fans_of and (carrier := self.index.get((id(main.module), layout.fans_of))) is not None:
            of, of_shape = self._layout(main, layout.fans_of, carrier), carrier.shape
        reset = reset_method(main, self._resets, layout.role == "state")
        marks = (parameter.dtype, parameter.is_meta, parameter.requires_grad, type(parameter), main.effective, reset)
        key = (layout, parameter.shape, of, of_shape, *marks, group[0].place.attribute, id(group[0].place.owner))
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = self._kind(main, layout, of, tuple(of_shape), reset)
        return group, kind

    def _layout(self, found: Found, attribute: str, parameter: Tensor) -> Layout:
        layout = None
        if self.said:
            layout = self.said.get(f"{found.place.name.removesuffix(found.place.attribute)}{attribute}")
        if layout is None:
            layout = layouts.find(found.module, attribute, parameter, self._describers)
            layout = layouts.within(found.parent, found.held, attribute, parameter, layout, self._parents)
        # The default axes are torch's: inputs on 1, outputs on 0, all others receptive field.
        return Layout(role=layout.role, fans_of=layout.fans_of, assumed=layout.assumed) if self.torch_fans else layout

    def _kind(self, main: Found, layout: Layout, of: Layout, of_shape: tuple[int, ...], reset: str | None) -> Site:
        parameter, shape = main.parameter, tuple(main.parameter.shape)
        site = Site(
            name="",
            places=(),
            shape=shape,
            dtype=str(parameter.dtype).removeprefix("torch."),
            layout=layout,
            on_meta=parameter.is_meta,
            effective=main.effective,
            reset=reset,
            tensor=tensor_class(parameter),
            frozen=not parameter.requires_grad,
            alike=len(self._kinds) + 1,
        )
        blocks = []
        own, carried = layout.blocks(shape), of.blocks(of_shape)
        for (name, start, size), (_, _, of_size) in zip(own, carried if len(carried) == len(own) else own, strict=True):
            part = (*shape[: layout.block_axis], size, *shape[layout.block_axis + 1 :])
            of_part = (*of_shape[: of.block_axis], of_size, *of_shape[of.block_axis + 1 :])
            blocks.append(_with_fans(twin(site, shape=part, block=name, start=start), of, of_part))
        return twin(_with_fans(site, of, of_shape), blocks=tuple(blocks))


def _with_fans(site: Site, of: Layout, shape: tuple[int, ...]) -> Site:
    if of.role in HAS_NO_FANS or len(shape) < 2:
        return site
    fan_in, fan_out = of.fans(shape)
    return twin(site, fan_in=fan_in, fan_out=fan_out)


def _placed(group: list[Found], kind: Site, depth: tuple[int | None, int | None, str]) -> Site:
    """The site of one parameter: that of its kind, with its names and its depth."""
    places, (layer, n_layers, note) = tuple([found.place for found in group]), depth
    own = {"name": places[0].name, "places": places, "layer": layer, "n_layers": n_layers, "depth_note": note}
    return twin(kind, **own, blocks=tuple([twin(block, **own) for block in kind.blocks])) if kind.blocks else twin(kind, **own)


# --- depth -----------------------------------------------------------------------------------------------------------------

Depth = tuple[int | None, int | None, str]
"""`layer`, `n_layers`, and why one of them is not known."""


def _by_container(read: Sequence[tuple[list[Found], Site]]) -> Iterator[Depth]:
    children: dict[str, dict[str, int]] = {}
    for (where, *_), kind in read:
        if where.container is not None and where.child is not None and kind.layout.role in ("weight", "recurrent"):
            ranks = children.setdefault(where.container, {})
            ranks.setdefault(where.child, len(ranks))
    which = "say which with `layers: '<regex with one group>'`"
    several = f"the model has {len(children)} containers ({', '.join(sorted(children))}); {which}"
    if not children:
        several = f"the model has no ModuleList or Sequential to count layers in; {which}"
    only = len(next(iter(children.values()))) if len(children) == 1 else None
    outside = several if only is None else "the parameter is in no ModuleList or Sequential"
    for (where, *_), _ in read:
        ranks = children.get(where.container, {}) if where.container is not None else {}
        if where.child in ranks:
            yield ranks[where.child], len(ranks), ""
        elif ranks:
            yield None, len(ranks), "its part of the container owns no weights"
        else:
            yield None, only, outside


def _by_regex(read: Sequence[tuple[list[Found], Site]], pattern: str) -> Iterator[Depth]:
    # The first name of a tied parameter is the one that counts; another one does where the pattern does not match it.
    names = [(i, found.place.name) for i, (group, _) in enumerate(read) for found in reversed(group)]
    numbers = {names[n][0]: number for n, number in patterns.captured(pattern, [name for _, name in names]).items()}
    key: Any = int if all(n.isdecimal() for n in numbers.values()) else str
    ranks = {n: i for i, n in enumerate(sorted(set(numbers.values()), key=key))}
    for i in range(len(read)):
        rank = ranks.get(numbers[i]) if i in numbers else None
        yield rank, len(ranks) or None, f"the pattern {pattern!r} of `layers` does not match the name"

"""Targets: the tensors of a main network that a hypernetwork generates, wherever they are known from."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from initconf.activations import Nonlinearity
from initconf.errors import InitConfError, Problem, did_you_mean
from initconf.sites import Site
from initconf.spec import KINDS, Kind

RELU = "relu"
"""What is assumed to feed a target's layer where nothing is said."""
_KIND_OF_ROLE: Mapping[str, Kind] = {
    "weight": "weight",
    "recurrent": "weight",
    "bias": "bias",
    "norm_scale": "norm_scale",
    "norm_shift": "norm_shift",
    "embedding": "embedding",
    "position": "embedding",
    "gate_scale": "scalar",
}
_OF_HYPNETTORCH: Mapping[str, Kind] = {
    "weight": "weight",
    "bias": "bias",
    "bn_scale": "norm_scale",
    "bn_shift": "norm_shift",
    "cm_scale": "norm_scale",
    "cm_shift": "norm_shift",
    "embedding": "embedding",
}


@dataclass(frozen=True)
class Target:
    """One tensor that a hypernetwork generates."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    layer: str | int | None = None
    """The group of a weight and its bias; None for what has none."""
    fan_in: float | None = None
    fan_out: float | None = None
    nonlinearity: Nonlinearity = field(default=RELU, hash=False)
    """The activation that feeds its layer."""
    mean: float | None = None
    """The mean it is to have; None: that of its kind."""
    var: float | None = None
    """The variance it is to have; None: that of its kind."""
    assumed: tuple[str, ...] = ()
    """What is a guess: `kind`, `layer`, `fans`, `nonlinearity`, `mean`."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def from_sites(
    sites: Iterable[Site],
    nonlinearity: Nonlinearity | None = None,
    feeds: Mapping[str, Nonlinearity] | None = None,
) -> list[Target]:
    """The parameters of a main network, in the order of its modules; a tied one once, a fused one whole.

    Of a fused parameter the fans are those of its blocks, which are what is summed over. A bias has the layer of the weight
    that its layout says it belongs to.

    Args:
        nonlinearity: what feeds every layer; left out, relu, marked as assumed.
        feeds: what feeds the layer of each weight, by name; stronger.
    """
    sites, layers = list(sites), {}
    for site in sites:
        for place in site.places:
            layers[place.name] = _layer(site.name)
    found = []
    for site in sites:
        kind, assumed = _KIND_OF_ROLE.get(site.role), list(site.layout.assumed)
        if kind is None:  # of role state or other: what it is for is not known
            kind = "scalar"
            assumed.append("kind")
        if kind == "scalar":
            assumed.append("mean")
        layer: str | None = None
        if kind == "weight":
            layer = layers[site.name]
        elif kind == "bias":
            place = site.places[0]
            layer = layers.get(f"{place.name.removesuffix(place.attribute)}{site.layout.fans_of}")
        fan_in, fan_out = site.fan_in, site.fan_out
        if site.blocks and kind == "weight":
            fan_in, fan_out = (_mean_fan(site.blocks, which) for which in ("fan_in", "fan_out"))
        feeding = (feeds or {}).get(site.name, nonlinearity)
        if feeding is None and kind in ("weight", "bias"):
            assumed.append("nonlinearity")
        found.append(
            Target(
                site.name,
                kind,
                site.shape,
                layer,
                fan_in if kind in ("weight", "bias") else None,
                fan_out if kind in ("weight", "bias") else None,
                RELU if feeding is None else feeding,
                assumed=tuple(dict.fromkeys(assumed)),
            )
        )
    return found


def _layer(name: str) -> str:
    """The layer of a weight: its module, and where the module has several weights the weight's own name."""
    return name.removesuffix(".weight")


def _mean_fan(blocks: Sequence[Site], which: str) -> float | None:
    """The mean over blocks, each by its size: the fan of equal ones is that of each."""
    fans = [(block.numel, getattr(block, which)) for block in blocks]
    if any(fan is None for _, fan in fans):
        return None
    return float(sum(n * fan for n, fan in fans) / sum(n for n, _ in fans))


def declared(said: Iterable[Mapping[str, Any] | Target], nonlinearity: Nonlinearity | None = None) -> list[Target]:
    """The targets of a list whose items are mappings with the fields of a Target: `name`, `kind`, `shape` and the rest.

    The fans of a weight are, where they are not said, those of an ordinary layer of its shape (out, in, *k).
    Raises InitConfError for missing and unknown keys, an unknown kind, a shape that is none, names that are not unique.
    """
    found: list[Target] = []
    problems: list[Problem] = []
    known = [name for name in Target.__dataclass_fields__ if name != "assumed"]
    for i, item in enumerate(said):
        if isinstance(item, Target):
            found.append(item)
            continue
        missing = [key for key in ("name", "kind", "shape") if item.get(key) is None]
        unknown = [str(key) for key in item if key not in known]
        if missing or unknown:
            text = f"it has no {' and no '.join(missing)}" if missing else f"{unknown[0]!r} is not a key of a target"
            remedy = f"did you mean {', '.join(known)}?" if missing else did_you_mean(unknown[0], known)
            problems.append(Problem(text, str(item.get("name") or i), remedy=remedy))
            continue
        if item["kind"] not in KINDS:
            text, remedy = f"no kind of target is named {item['kind']!r}", did_you_mean(str(item["kind"]), KINDS)
            problems.append(Problem(text, str(item["name"]), remedy=remedy))
            continue
        if item.get("var") is not None and item["var"] < 0:
            problems.append(Problem("a variance is not negative", str(item["name"]), remedy="write 0 for a constant"))
            continue
        given = {key: value for key, value in item.items() if value is not None}
        feeding = given.pop("nonlinearity", nonlinearity)
        target = Target(**{**given, "shape": _shape(item["shape"])}, nonlinearity=RELU if feeding is None else feeding)
        assumed = ["nonlinearity"] if feeding is None and target.kind in ("weight", "bias") else []
        if target.kind == "scalar" and target.mean is None:
            assumed.append("mean")
        found.append(with_fans(replace(target, assumed=tuple(assumed))))
    names = [target.name for target in found]
    twice = dict.fromkeys(name for name in names if names.count(name) > 1)
    problems += [Problem("two targets have this name", name, remedy="give each its own") for name in twice]
    if problems:
        raise InitConfError(problems)
    return found


def _shape(said: Sequence[int]) -> tuple[int, ...]:
    try:
        shape = tuple(operator.index(n) for n in said)
    except TypeError:
        shape = (0,)
    if any(n < 1 for n in shape):
        raise InitConfError(f"{said!r} is not a shape")
    return shape


def from_shapes(shapes: Iterable[Sequence[int]], nonlinearity: Nonlinearity | None = None) -> list[Target]:
    """The targets of bare shapes, by the rule of thumb of hypnettorch; all of it is marked as assumed.

    What has two axes or more is a `weight` of a layer of its own; anything else is a `bias`, of that layer if it follows a
    weight, and of none (None) if it does not.
    """
    found: list[Target] = []
    layer = -1
    for i, shape in enumerate(map(_shape, shapes)):
        guessed = ["kind", "layer", *(["nonlinearity"] if nonlinearity is None else [])]
        feeding = RELU if nonlinearity is None else nonlinearity
        if len(shape) > 1:
            layer += 1
            target = Target(f"{i}.weight", "weight", tuple(shape), layer, nonlinearity=feeding, assumed=(*guessed, "fans"))
        else:
            follows = bool(found) and found[-1].kind == "weight"
            of = layer if follows else None
            target = Target(f"{i}.bias", "bias", tuple(shape), of, nonlinearity=feeding, assumed=tuple(guessed))
        found.append(with_fans(target))
    return found


def from_meta(
    shapes: Iterable[Sequence[int]], meta: Iterable[Mapping[str, Any]], nonlinearity: Nonlinearity | None = None
) -> list[Target]:
    """The targets of hypnettorch's `param_shapes` and `param_shapes_meta`: a mapping with `name` and `layer` for each shape.

    Raises InitConfError where the two have not the same length, and for a name that is not one of hypnettorch's kinds.
    """
    shapes, meta = list(map(_shape, shapes)), list(meta)
    if len(shapes) != len(meta):
        raise InitConfError(f"{len(shapes)} shapes, and meta data of {len(meta)} tensors")
    found = []
    for i, (shape, item) in enumerate(zip(shapes, meta, strict=True)):
        name, layer = str(item.get("name")), item.get("layer", -1)
        kind = _OF_HYPNETTORCH.get(name)
        if kind is None:
            raise InitConfError(f"no kind of tensor is named {name!r}; {did_you_mean(name, _OF_HYPNETTORCH)}")
        grouped = kind in ("weight", "bias")
        target = Target(
            f"{i}.{name}",
            kind,
            tuple(shape),
            layer if grouped and layer != -1 else None,
            nonlinearity=RELU if nonlinearity is None else nonlinearity,
            assumed=("nonlinearity",) if nonlinearity is None and grouped else (),
        )
        found.append(with_fans(target))
    return found


def of_object(thing: Any, nonlinearity: Nonlinearity | None = None) -> list[Target]:
    """The targets that an object says it has: a main network of hypnettorch, or a hypernetwork with `target_shapes`.

    Raises InitConfError where it says nothing.
    """
    if (shapes := getattr(thing, "target_shapes", None)) is not None:
        return from_shapes(shapes, nonlinearity)  # a hypernetwork of hypnettorch has meta data of its own parameters too
    if (meta := getattr(thing, "param_shapes_meta", None)) is not None:
        learned = getattr(thing, "hyper_shapes_learned", None)
        if learned and len(learned) != len(thing.param_shapes):  # the other tensors are its own
            return from_meta(learned, [meta[i] for i in thing.hyper_shapes_learned_ref], nonlinearity)
        return from_meta(thing.param_shapes, meta, nonlinearity)
    text = f"an object of class {type(thing).__name__} does not say what it generates"
    raise InitConfError(
        Problem(text, remedy="give the main network, a list of targets, or what has target_shapes or param_shapes_meta")
    )


def with_fans(target: Target) -> Target:
    """A weight with the fans of an ordinary linear map or convolution of its shape, where they are not known."""
    if target.kind != "weight" or len(target.shape) < 2 or (target.fan_in is not None and target.fan_out is not None):
        return target
    out, inside, *window = target.shape
    size = math.prod(window)
    return replace(
        target,
        fan_in=float(inside * size) if target.fan_in is None else target.fan_in,
        fan_out=float(out * size) if target.fan_out is None else target.fan_out,
        assumed=tuple(dict.fromkeys([*target.assumed, *(["fans"] if window else [])])),  # groups and strides do not show
    )

"""Full heads: the output layers of a hypernetwork, whose rows generate the values of tensor after tensor.

`arrange` lays the targets over these rows; each block of rows is then a site of its own, to which an initializer gives a law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from initconf.errors import InitConfError, Problem, listed
from initconf.hyper.compat import Four
from initconf.hyper.targets import Target
from initconf.laws import Constant, Law, Normal, TruncatedNormal, Uniform
from initconf.sites import Site, twin

Share = Annotated[float, Field(ge=0, le=1)]
Moment = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Inputs = list[Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]], Field(min_length=2, max_length=2)]]
SecondMoment = Moment | Literal["measured"] | Inputs
Part = Literal["weight", "bias", "base"]
MEASURED = "measured"
TARGET = "target "
"""Stands in front of what is assumed of a target, among what is assumed of the rows that generate it."""
_ADD_UP = "let the rule match the output layers alone, and let `order` name the targets as they are generated"


@dataclass(frozen=True, eq=False)
class Generated:
    """What a hypernetwork generates, as `compile` found it."""

    name: str
    """Of the spec's `targets`."""
    targets: tuple[Target, ...]
    laws: tuple[Law, ...] = ()
    """An ordinary initialisation of each, by the scheme that an initializer nests."""
    zero_rows: tuple[int | None, ...] = ()
    """The row of each that stays zero in it."""
    given: tuple[Four | None, ...] = ()
    """What is said outright of each: mean and variance of the rows of the weight, and of those of the bias."""
    norms: tuple[str, ...] = ()
    """The modules of the hypernetwork that normalise, by their paths."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of an output layer, and what they generate: `Site.target`."""

    of: Generated
    index: int
    part: Part
    """Of what they are rows: the weight or the bias of the output layer, or what its output is added to."""
    biased: bool
    """Whether the output layer has a bias that serves these targets too."""

    @property
    def target(self) -> Target:
        return self.of.targets[self.index]


@dataclass(frozen=True)
class Arranged:
    """What becomes of the parameters that one initializer serves for some targets."""

    sites: list[tuple[Site, ...]]
    """For each of them the sites that take its place: blocks, or the whole of it with its `target`."""
    warnings: list[str]


Won = Sequence[tuple[Site, Mapping[str, Any]]]
"""Parameters that one initializer serves for the same targets, in the model's order, each with its settings."""


# --- which rows generate what ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    """A parameter that holds rows."""

    site: Site
    part: Part

    @property
    def axis(self) -> int:
        """The axis along which they follow each other."""
        out = self.site.layout.out_axes
        return out[0] if self.part == "weight" and len(out) == 1 else 0

    @property
    def rows(self) -> int:
        return self.site.shape[self.axis] if self.part == "weight" else self.site.numel

    @property
    def owner(self) -> str:
        return self.site.name.removesuffix(self.site.places[0].attribute)


def arrange(of: Generated, won: Won) -> list[tuple[Site, ...]]:
    """The rows of each parameter as sites of their own: a block for each target, named as it, in target order.

    Several output layers are filled one after the other. A bias belongs to the output layer of its own owner; where there are
    several of those, biases are filled in order too.

    Raises InitConfError where the targets do not fill the rows exactly.
    """
    held = [_Held(site, _part(site, settings)) for site, settings in won]
    weights = [one for one in held if one.part == "weight"]
    owners: dict[str, list[_Held]] = {}
    for one in weights:
        owners.setdefault(one.owner, []).append(one)
    spans = _fill(of, weights) | _fill(of, [one for one in held if one.part == "base"])
    loose = []
    for one in held:
        if one.part == "bias" and len(mine := owners.get(one.owner, [])) == 1:
            spans[one.site.name] = spans[mine[0].site.name]
            if one.rows != mine[0].rows:
                text = f"{one.site.name} has {one.rows:,} values, and {mine[0].site.name} has {mine[0].rows:,} rows"
                raise InitConfError(Problem(text, remedy=_ADD_UP))
        elif one.part == "bias":
            loose.append(one)
    spans |= _fill(of, loose)
    biased = {i for one in held if one.part == "bias" for i in spans[one.site.name]}
    return [tuple(_blocks(of, one, spans[one.site.name], biased)) for one in held]


def _part(site: Site, settings: Mapping[str, Any]) -> Part:
    if settings.get("base") is True:
        return "base"
    if site.ndim not in (1, 2):
        text = f"{site.name} has {site.ndim} axes, and an output layer has a weight of 2 and a bias of 1"
        raise InitConfError(Problem(text, remedy="let the rule match the output layers alone"))
    return "weight" if site.ndim == 2 else "bias"


def _fill(of: Generated, held: Sequence[_Held]) -> dict[str, range]:
    """Which targets each parameter holds, by its name: one after the other, as many as fill it."""
    if not held:
        return {}
    total, there = sum(one.rows for one in held), sum(target.numel for target in of.targets)
    what = "values" if held[0].part == "base" else "rows"
    if total != there:
        shown = listed([f"{one.site.name} {one.rows:,}" for one in held])
        text = f"the targets have {there:,} values, and what is to hold them has {total:,} {what}: {shown}"
        raise InitConfError(Problem(text, remedy=_ADD_UP))
    spans, at = {}, 0
    for one in held:
        start, room = at, one.rows
        while room > 0:
            room -= of.targets[at].numel
            at += 1
        if room:
            text = f"{one.site.name} has {one.rows:,} {what}, and the target {of.targets[at - 1].name} goes beyond its last one"
            raise InitConfError(Problem(text, remedy=_ADD_UP))
        spans[one.site.name] = range(start, at)
    return spans


def _blocks(of: Generated, one: _Held, span: range, biased: set[int]) -> list[Site]:
    site, axis, found, start = one.site, one.axis, list[Site](), 0
    if one.part == "base" and site.ndim != 1 and [of.targets[i].shape for i in span] != [site.shape]:
        shapes = listed([f"{of.targets[i].name} {of.targets[i].shape}" for i in span])
        text = f"{site.name} has the shape {site.shape}, and is to hold {shapes}"
        raise InitConfError(Problem(text, remedy="give it the shape of its target, or put all of them into one row of values"))
    for i in span:
        target = of.targets[i]
        own = {
            "layout": twin(
                site.layout,
                block_axis=axis,
                block_names=(),
                block_sizes=(),
                assumed=(*site.layout.assumed, *(f"{TARGET}{word}" for word in target.assumed)),
            ),
            "target": Rows(of, i, one.part, i in biased),
            "alike": 0,
            "blocks": (),
        }
        if one.part == "base" and site.shape == target.shape:
            return [twin(site, **own)]
        shape = (*site.shape[:axis], target.numel, *site.shape[axis + 1 :])
        found.append(twin(site, block=target.name, start=start, shape=shape, **own))
        start += target.numel
    return found


# --- what the initializers have in common ----------------------------------------------------------------------------------


def scale_of(site: Site, input_second_moment: SecondMoment) -> float:
    """fan_in E[h^2]: what the variance of a row is multiplied by in what it generates."""
    fan_in = site.shape[1 - site.layout.block_axis]
    if isinstance(input_second_moment, str):
        remedy = "say input_second_moment as a number"
        raise InitConfError(Problem("no linear map of the run over the conditions uses it", remedy=remedy))
    if isinstance(input_second_moment, list):
        total = sum(size * moment for size, moment in input_second_moment)
        if not total:
            raise InitConfError("the inputs have no second moment: write [[size, second moment], ...]")
        return fan_in * total / sum(size for size, _ in input_second_moment)
    return fan_in * input_second_moment


def spread(mean: float, var: float, distribution: str) -> Law:
    std = math.sqrt(var)
    if not std:
        return Constant(mean)
    if distribution == "uniform":
        return Uniform(mean - math.sqrt(3) * std, mean + math.sqrt(3) * std)
    return Normal(mean, std) if distribution == "untruncated_normal" else TruncatedNormal(mean, std)


def rows_of(site: Site, name: str) -> Rows:
    if not isinstance(site.target, Rows):
        raise InitConfError(f"{name} serves the output layer of a hypernetwork")
    return site.target


def no_bias(target: Target, what: str) -> InitConfError:
    text = f"{target.name} is to have {what}, and no bias of the output layer is served that could give it"
    return InitConfError(Problem(text, remedy="construct the output layer with a bias, and let the rule match it too"))

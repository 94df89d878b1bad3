"""Hyperfan: output layers whose generated tensors have the variances of a good initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from initconf.errors import InitConfError, Problem, did_you_mean, listed
from initconf.hyper.compat import USUAL, Compat, Four, mistakes, seed_moments
from initconf.hyper.heads import Arranged, Generated, SecondMoment, Share, Won, arrange, no_bias, rows_of, scale_of, spread
from initconf.hyper.targets import Target
from initconf.hyper.variances import Method, wanted
from initconf.laws import Law
from initconf.registry import register
from initconf.sites import Site, twin
from initconf.spec import KINDS, Distribution

Overrides = dict[str, float] | list[float | None]
FOUR = ("w_val", "w_var", "b_val", "b_var")
"""Means and variances of the rows of an output layer's weight, and of its bias."""


def _arrange_hyperfan(of: Generated, won: Won) -> Arranged:
    """Says first what is wrong with the targets themselves, and what `compat` gets wrong."""
    sites, warnings = [], list[str]()
    for (_, said), blocks in zip(won, arrange(of, won), strict=True):
        compat = said.get("compat")
        given, dropped = _overrides(of.targets, [said.get(name) for name in FOUR], compat)
        own, method, share = replace(of, given=given), said.get("method", "fan_in"), said.get("bias_share", 0.5)
        if compat is None:
            _wanted(own, method, share)
        else:
            if share != 0.5:
                raise InitConfError(f"{compat} has a bias share of one half, and not {share:g}")
            _seeds(own, method, compat, 1.0)
            warnings += [f"compat: {compat}: {text}" for text in mistakes(of.targets, method, compat, given)]
            if said.get("distribution", "uniform") != "uniform":
                warnings.append(f"compat: {compat}: it draws uniform values, whatever the distribution")
            if dropped:
                text = f"it drops what {', '.join(FOUR)} say of a weight or bias unless all four do: {listed(dropped)}"
                warnings.append(f"compat: {compat}: {text}")
        sites.append(tuple(twin(block, target=replace(block.target, of=own)) for block in blocks))
    return Arranged(sites, list(dict.fromkeys(warnings)))


@register("hyperfan", whole=True, arrange=_arrange_hyperfan)
def hyperfan(
    site: Site,
    targets: str | None = None,
    method: Method = "fan_in",
    bias_share: Share = 0.5,
    input_second_moment: SecondMoment = 1.0,
    distribution: Distribution = "uniform",
    w_val: Overrides | None = None,
    w_var: Overrides | None = None,
    b_val: Overrides | None = None,
    b_var: Overrides | None = None,
    compat: Compat | None = None,
) -> Law:
    r"""The output layer of a hypernetwork, so that the network it generates keeps its variance (Chang et al. 2020).

    A generated value is w = H h + b_H: with zero-mean rows H its variance is fan_in E[h^2] Var H, so that for a wanted variance
    Var H = Var w / (fan_in E[h^2]); the wanted mean stands in b_H. `initconf.hyper.variances.wanted` says what is wanted.

    Args:
        targets: the name of one of the spec's targets; may be left out if there is one.
        method: fan_in | fan_out | harmonic | geometric: what the variances of the generated weights keep.
        bias_share: the share of a layer's second moment that its bias has; 0 is plain Kaiming, with biases that are 0.
        input_second_moment: E[h^2] of what enters the output layer: a number; `measured` over the conditions; or
            [[size, second moment], ...] of the hypernetwork's inputs, whose mean it is where the hidden layers keep it.
        distribution: uniform | untruncated_normal | truncated_normal.
        w_val, w_var, b_val, b_var: means and variances of the rows of the output layer's weight, and of its bias: all four, by
            target or kind ({embedding: 0}), or as lists with an item (or null) for each target. They replace all else.
        compat: `hypnettorch`, or `hypercl` for its toy hypernetwork: as those two do it, mistakes included.

    Raises InitConfError for a parameter that is no output layer, and where a mean is wanted and the output layer has no bias.
    """
    rows = rows_of(site, "hyperfan")
    scale = scale_of(site, input_second_moment) if rows.part == "weight" else 1.0
    four = rows.of.given[rows.index]
    if four is None and compat is not None:
        four = _seeds(rows.of, method, compat, scale)[rows.index]
    elif four is None:
        mean, var = _wanted(rows.of, method, bias_share)[rows.index]
        four = (0.0, var / scale, mean, 0.0)
    w_mean, w_variance, b_mean, b_variance = four
    if rows.part == "bias":
        return spread(b_mean, b_variance, "uniform" if compat else distribution)
    if not rows.biased and (b_mean or b_variance):
        what = f"the mean {b_mean:g}" if not b_variance else f"values of variance {b_variance:g}"
        raise no_bias(rows.target, what)
    return spread(w_mean, w_variance, "uniform" if compat else distribution)


@lru_cache(maxsize=256)
def _wanted(of: Generated, method: str, bias_share: float) -> list[tuple[float, float]]:
    targets = [
        # Of what is said outright nothing need be known; but what a weight would have is what its bias is reckoned from.
        replace(target, var=0.0) if four is not None and (target.kind == "bias" or target.fan_in is None) else target
        for target, four in zip(of.targets, of.given, strict=True)
    ]
    return wanted(targets, method, bias_share)


@lru_cache(maxsize=256)
def _seeds(of: Generated, method: str, compat: str, scale: float) -> list[Four]:
    return seed_moments(of.targets, method, compat, scale, of.given)


def _overrides(
    targets: Sequence[Target], four: Sequence[Overrides | None], compat: str | None
) -> tuple[tuple[Four | None, ...], list[str]]:
    """What is said outright of each target; and with `compat` the names of those of which too little is said to be heeded.

    Raises InitConfError for unknown names, lists of another length, negative variances, and where not all four are said.
    """
    known = [*KINDS, *(target.name for target in targets)]
    problems: list[str | Problem] = []
    for name, said in zip(FOUR, four, strict=True):
        if isinstance(said, dict):
            unknown = [key for key in said if key not in known]
            problems += [f"{name}: no target and no kind is named {key!r}; {did_you_mean(key, known)}" for key in unknown]
        elif said is not None and len(said) != len(targets):
            problems.append(f"{name}: {len(said)} items, and {len(targets)} targets")
        values = said.values() if isinstance(said, dict) else said or ()
        if name.endswith("var") and any(value is not None and value < 0 for value in values):
            problems.append(f"{name}: a variance is not negative")
    if problems:
        raise InitConfError(problems)
    found: list[Four | None] = []
    dropped = []
    for i, target in enumerate(targets):
        values = [_said_of(said, i, target) for said in four]
        missing = [name for name, value in zip(FOUR, values, strict=True) if value is None]
        if missing and len(missing) < len(FOUR) and compat is None:
            text = f"{' and '.join(missing)} {'is' if missing[1:] == [] else 'are'} not said of it, and the others are"
            problems.append(Problem(text, target.name, remedy=f"say all of {', '.join(FOUR)}, or none"))
        elif missing and len(missing) < len(FOUR) and compat is not None and target.kind in USUAL:
            values = [usual if value is None else value for value, usual in zip(values, USUAL[target.kind], strict=True)]
            missing = []
        elif missing and len(missing) < len(FOUR):
            dropped.append(target.name)
        found.append(None if missing else tuple(float(value or 0.0) for value in values))  # type: ignore[arg-type]
    if problems:
        raise InitConfError(problems)
    return tuple(found), dropped


def _said_of(said: Overrides | None, i: int, target: Target) -> float | None:
    if isinstance(said, dict):
        return said.get(target.name, said.get(target.kind))
    return None if said is None else said[i]

"""What hypnettorch and hypercl do, mistakes included, and what each mistake comes to.

`hypnettorch`: `apply_hyperfan_init` of hypnettorch's `HMLP`, with `param_shapes_meta` where the kinds of the targets are known,
and else with its guess. `hypercl`: that of hypercl's toy `HyperNetwork`, which knows shapes only, and whose counter of targets
is taken to advance. Both have c = 2, and c = 1 (`use_xavier`) where every target is said to be fed by something linear.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from initconf.errors import InitConfError, Problem, listed
from initconf.hyper.targets import Target

Compat = Literal["hypnettorch", "hypercl"]
Four = tuple[float, float, float, float]
"""Mean and variance of the rows of a head's weight, mean and variance of those of its bias."""
USUAL: dict[str, Four] = {
    "norm_scale": (0.0, 0.0, 1.0, 0.0),
    "norm_shift": (0.0, 0.0, 0.0, 0.0),
    "embedding": (0.0, 0.0, 0.0, 1.0),
}
_OUT = "leave compat out"


def seed_moments(
    targets: Sequence[Target], method: str, compat: str, scale: float = 1.0, given: Sequence[Four | None] = ()
) -> list[Four]:
    """How the rows of each target start there.

    Args:
        scale: d_k v, the head's fan_in times the second moment of its input.
        given: what is said outright, for each target; none: of none.

    Raises InitConfError where the original divides by zero or knows no answer.
    """
    problems = [*_unknown(targets, method, compat, given)]
    if problems:
        raise InitConfError(problems)
    found: list[Four] = []
    for i, target in enumerate(targets):
        if given and (said := given[i]) is not None:
            found.append(said)
            continue
        if compat == "hypnettorch" and target.kind in USUAL:
            found.append(USUAL[target.kind])
            continue
        try:
            found.append((0.0, _variance(targets, i, method, compat, scale), 0.0, 0.0))
        except ZeroDivisionError:
            text = f"{compat} divides by zero here: fan_out leaves this bias the variance 0, as fan_in is not below it"
            problems.append(Problem(text, target.name, remedy=_OUT))
    if problems:
        raise InitConfError(problems)
    return found


def _unknown(targets: Sequence[Target], method: str, compat: str, given: Sequence[Four | None]) -> Iterator[Problem]:
    """What the original has no answer to."""
    if method == "geometric":
        yield Problem(f"{compat} has no geometric mean", "method", repr(method), None, _OUT)
    layers = {target.layer for target in targets if target.kind == "weight"}
    for i, target in enumerate(targets):
        if given and given[i] is not None:
            continue
        if target.mean is not None or target.var is not None:
            yield Problem(
                f"{compat} knows no mean and no var of a target", target.name, remedy=f"{_OUT}, or say w_val and so on"
            )
        elif compat == "hypnettorch" and target.kind == "scalar":
            yield Problem(f"{compat} knows no scalars", target.name, remedy=_OUT)
        elif compat == "hypnettorch" and target.kind == "bias" and target.layer is not None and target.layer not in layers:
            yield Problem(f"no target is the weight of its layer {target.layer!r}", target.name, remedy="say its layer")
        elif len(target.shape) < (1 if _is_bias(target, compat) else 2) and target.kind not in USUAL:
            yield Problem(f"{compat} cannot read fans off the shape {target.shape}", target.name, remedy=_OUT)


def _is_bias(target: Target, compat: str) -> bool:
    return target.kind == "bias" if compat == "hypnettorch" else len(target.shape) == 1


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) as read off a shape: of ordinary layers they are right."""
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _weight_of(targets: Sequence[Target], i: int, compat: str) -> Target | None:
    """The weight that a bias is taken to belong to."""
    if compat == "hypercl":
        before = targets[i - 1] if i else None
        return before if before is not None and len(before.shape) > 1 else None
    layer = targets[i].layer
    return next((t for t in targets if t.kind == "weight" and t.layer == layer), None) if layer is not None else None


def _variance(targets: Sequence[Target], i: int, method: str, compat: str, scale: float) -> float:
    target = targets[i]
    c = 1.0 if all(t.nonlinearity == "linear" for t in targets) else 2.0
    if _is_bias(target, compat):
        fan_out = target.shape[0]
        weight = _weight_of(targets, i, compat)
        fan_in = fan_out if weight is None else _fans(weight.shape)[0]
        forward = c / (2 * scale)
        left = max(0.0, c * (1 - fan_in / fan_out) / scale)
        # hypercl divides by it, and does so for every method
        backward = left if compat == "hypnettorch" else c / left
    else:
        fan_in, fan_out = _fans(target.shape)
        halved = _has_bias(targets, target) if compat == "hypnettorch" else any(len(t.shape) == 1 for t in targets)
        forward = c / ((2 if halved else 1) * fan_in * scale)
        backward = c / (fan_out * scale)
    if method == "fan_in":
        return forward
    return backward if method == "fan_out" else 2 * (1 / forward + 1 / backward)


def _has_bias(targets: Sequence[Target], weight: Target) -> bool:
    return weight.layer is not None and any(t.kind == "bias" and t.layer == weight.layer for t in targets)


def mistakes(targets: Sequence[Target], method: str, compat: str, given: Sequence[Four | None]) -> list[str]:
    """What is wrong in the original for the targets of which nothing is given, and what it comes to, a sentence for each."""
    said = []
    free = [(i, target) for i, (target, four) in enumerate(zip(targets, given, strict=True)) if four is None]
    weights = [t for _, t in free if not _is_bias(t, compat) and t.kind not in USUAL]
    biases = [(t, _weight_of(targets, i, compat)) for i, t in free if _is_bias(t, compat)]
    if method == "harmonic":
        said.append(
            "its harmonic mean is 2 (1/a + 1/b) instead of 2 / (1/a + 1/b): generated values have variances of thousands"
        )
    if guessed := [t.name for t, _ in biases if "kind" in t.assumed]:
        said.append(
            f"it takes every tensor of one axis for a bias ({listed(guessed)}): the scale of a norm would be drawn about 0 "
            "instead of being 1, and the weight before it would have half its variance"
        )
    if alone := [t.name for t, weight in biases if weight is None]:
        said.append(f"it knows no weight for {listed(alone)} and takes fan_in = fan_out: a variance of c/2, and 0 for fan_out")
    conv = [t.name for t, weight in biases if weight is not None and len(weight.shape) > 2]
    if conv and (method != "fan_in"):
        said.append(
            f"the fan_out of a bias is its number of channels, and its fan_in that with the receptive field: {listed(conv)} "
            "generated as 0 where fan_in of the convolution is below its fan_out"
        )
    if wrong := [t.name for t in weights if t.fan_in is not None and (t.fan_in, t.fan_out) != _fans(t.shape)]:
        said.append(f"it reads fans off shapes, which is wrong for groups, strides and transposition: {listed(wrong)}")
    if compat == "hypnettorch":
        if tables := [t.name for _, t in free if t.kind == "embedding"]:
            said.append(f"it draws {listed(tables)} in the head's bias: generated alike under every condition")
        return said
    if biases and method != "fan_in":
        said.append("it divides c by the variance that fan_out leaves to a bias: biases have thousands of times too much")
    others = [t.name for _, t in free if t.kind not in ("weight", "bias") and len(t.shape) == 1]
    if others:
        said.append(f"it takes every tensor of one axis for a bias: {listed(others)} generated about 0, with a bias's variance")
    if biases and (bare := [t.name for t in weights if not _has_bias(targets, t)]):
        said.append(f"one bias anywhere halves the variance of all weights: {listed(bare)} without a bias too")
    return said

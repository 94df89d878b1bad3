"""What generated tensors should be like, whatever the hypernetwork: means and variances of targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from initconf import activations
from initconf.errors import InitConfError, Problem, did_you_mean
from initconf.hyper.targets import Target

Method = Literal["fan_in", "fan_out", "harmonic", "geometric"]
METHODS: tuple[str, ...] = get_args(Method)
_OF_KIND = {"norm_scale": (1.0, 0.0), "norm_shift": (0.0, 0.0), "embedding": (0.0, 1.0), "scalar": (0.0, 0.0)}
"""(mean, variance) of the kinds that nothing is summed over: they are what an ordinary network starts with."""


def wanted(targets: Sequence[Target], method: str = "fan_in", bias_share: float = 0.5) -> list[tuple[float, float]]:
    r"""(mean, variance) of every generated tensor, in the order of the targets (Chang et al. 2020, Hyperfan).

    With c = 1 / E[f(z)^2] for the activation that feeds the layer (2 for relu), and beta = `bias_share` where the layer has a
    bias among the targets, else 0:

        fan_in:     Var W = c (1 - beta) / fan_in
        fan_out:    Var W = c / fan_out
        harmonic:   their harmonic mean;  geometric: their geometric mean
        bias:       Var b = c max(0, 1 - fan_in Var W / c)

    The one rule for biases is the same for all methods: what the weights leave of c, so that E[x^2] = 1 is a fixed point of the
    generated network wherever fan_in Var W <= c. A norm's scale is 1 and its shift 0, exactly; an embedding has variance 1, a
    scalar is 0. A target's own `mean` and `var` are stronger.

    Raises InitConfError for an unknown method, a share outside [0, 1], weights without fans and biases without their layer,
    all together.
    """
    if method not in METHODS:
        raise InitConfError(Problem(f"no method is named {method!r}", remedy=did_you_mean(method, METHODS)))
    if not 0 <= bias_share <= 1:
        raise InitConfError(f"bias_share is {bias_share:g}, and lies between 0 and 1")
    problems: list[Problem] = []
    biased = {target.layer for target in targets if target.kind == "bias" and target.layer is not None}
    carried: dict[str | int, tuple[float, float]] = {}
    """Of each layer: c, and the second moment that its weights give to what they are summed to."""
    weights: dict[int, float] = {}
    for i, target in enumerate(targets):
        if target.kind != "weight":
            continue
        try:
            c = second_moment(target)
            share = bias_share if target.layer in biased else 0.0
            var = target.var if target.var is not None else _of_weight(target, method, c, share)
        except InitConfError as error:
            problems += [Problem(problem.text, target.name, remedy=problem.remedy) for problem in error.problems]
            continue
        weights[i] = var
        if target.layer is not None and target.fan_in is not None:
            before = carried.get(target.layer, (c, 0.0))[1]
            carried[target.layer] = c, before + target.fan_in * var
    found = []
    failed = {problem.path for problem in problems}
    for i, target in enumerate(targets):
        mean, var = _OF_KIND.get(target.kind, (0.0, weights.get(i, 0.0)))
        if target.kind == "bias" and target.var is None:
            if target.layer in carried:
                c, taken = carried[target.layer]
                var = c * max(0.0, 1 - taken / c)
            elif not any(t.name in failed and t.layer == target.layer is not None for t in targets):
                problems.append(_no_layer(target, targets))
        found.append((mean if target.mean is None else target.mean, var if target.var is None else target.var))
    if problems:
        raise InitConfError(problems)
    return found


def second_moment(target: Target) -> float:
    """c, the second moment that a target's layer is to have before its activation: the square of the gain of what feeds it."""
    return activations.gain(target.nonlinearity) ** 2


def _of_weight(target: Target, method: str, c: float, share: float) -> float:
    if target.fan_in is None or target.fan_out is None:
        text = f"a weight of shape {target.shape} has no fans to scale by"
        raise InitConfError(Problem(text, remedy="say its fan_in and fan_out, or its var"))
    forward, backward = c * (1 - share) / max(1.0, target.fan_in), c / max(1.0, target.fan_out)
    if method == "fan_in":
        return forward
    if method == "fan_out":
        return backward
    if method == "geometric":
        return math.sqrt(forward * backward)
    return 2 / (1 / forward + 1 / backward) if forward and backward else 0.0


def _no_layer(target: Target, targets: Sequence[Target]) -> Problem:
    if target.layer is None:
        text = "it is a bias without its layer: which weight it belongs to is not known"
    elif weights := [t.name for t in targets if t.kind == "weight" and t.layer == target.layer]:
        return Problem(
            f"the fan_in of its weight {weights[0]} is not known", target.name, remedy="say it, or the var of this bias"
        )
    else:
        text = f"it is a bias of layer {target.layer!r}, and no target is the weight of that layer"
    return Problem(text, target.name, remedy="say its layer, the same as that of its weight; or its var")

"""Chunks: one head generates all tensors, some values at a time; the embedding of each chunk says how large they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from initconf.errors import InitConfError, Problem, listed
from initconf.hyper.targets import Target
from initconf.hyper.variances import wanted

SMALLEST = 1e-5
"""The variance of an embedding that would have to be smaller, where such are clipped."""


@dataclass(frozen=True)
class Chunk:
    """A run of generated values that one embedding stands for."""

    var: float
    """The mean of the variances wanted of its values."""
    parts: tuple[tuple[str, int, float], ...]
    """The targets that it holds values of: (name, values, variance wanted). The last one fills up the last chunk."""

    @property
    def mixed(self) -> bool:
        """Whether it holds values of several variances, of which one embedding can serve none."""
        return len({var for _, _, var in self.parts}) > 1


def variances(targets: Sequence[Target], method: str = "fan_in", bias_share: float | None = None) -> list[float]:
    """The variance wanted of every target, of those that have mean 0.

    Weights and, with a `bias_share`, biases as in `wanted`. Without one weights have all of c, and a bias 1 / (3 fan_in), as
    torch's layers draw it: what comes from a chunk cannot be exactly 0.

    Raises InitConfError for targets that no chunk can give: norms, scalars, a mean, a variance of 0; and what `wanted` raises.
    """
    given = list(targets)
    if bias_share is None:
        fans = {t.layer: t.fan_in for t in given if t.kind == "weight" and t.layer is not None}
        for i, t in enumerate(given):
            fan_in = fans.get(t.layer, t.fan_in) if t.layer is not None else t.fan_in
            if t.kind == "bias" and t.var is None and fan_in:
                given[i] = replace(t, var=1 / (3 * max(1.0, fan_in)))
    moments = wanted(given, method, bias_share or 0.0)
    text = "chunks give values of mean 0 and of a variance above 0, which is not what it is to be"
    remedy = "multiply and shift the output by constants (chunk_scale), or say a mean of 0 and a variance for these targets"
    refused = [t.name for t, (mean, var) in zip(given, moments, strict=True) if mean or not var]
    if refused:
        raise InitConfError(Problem(f"{listed(refused)}: {text}", remedy=remedy))
    return [var for _, var in moments]


def chunks(targets: Sequence[Target], wants: Sequence[float], chunk_size: int) -> list[Chunk]:
    """The chunks of `chunk_size` values that the flattened targets fall into, in their order."""
    found: list[list[tuple[str, int, float]]] = [[]]
    room = chunk_size
    for target, var in zip(targets, wants, strict=True):
        left = target.numel
        while left:
            if not room:
                found.append([])
                room = chunk_size
            taken = min(room, left)
            found[-1].append((target.name, taken, var))
            left, room = left - taken, room - taken
    if room and found[-1]:
        name, n, var = found[-1].pop()
        found[-1].append((name, n + room, var))
    return [Chunk(_mean(parts), tuple(parts)) for parts in found if parts]


def _mean(parts: Sequence[tuple[str, int, float]]) -> float:
    first = parts[0][2]
    if all(var == first for _, _, var in parts):  # exactly, so that chunks of one kind are equal
        return first
    return sum(n * var for _, n, var in parts) / sum(n for _, n, _ in parts)


def embedding_variance(var: float, size: int, others: int, input_variance: float) -> float:
    """The variance of a chunk's embedding of `size` entries, so that what comes out has the variance `var`.

    A network that hands on the second moment of its inputs, the mean over all entries, gives

        Var v = (n_e Var e + n_c Var c) / (n_e + n_c)

    with the `others`, n_e further inputs of `input_variance` that all chunks share. Solved for Var c; negative where those give
    too much alone.
    """
    return ((others + size) * var - others * input_variance) / size


def largest_input_variance(found: Sequence[Chunk], size: int, others: int) -> float:
    """The bound that the variance of the shared inputs must stay below, for every chunk to have an embedding."""
    return (others + size) / others * min(chunk.var for chunk in found)


def through_relu(correlation: float) -> float:
    """The correlation of two sums of relu's outputs whose inputs have this one (the arc-cosine kernel; Cho and Saul, 2009)."""
    rho = min(1.0, max(-1.0, correlation))
    return (math.sqrt(1 - rho * rho) + rho * (math.pi - math.acos(rho))) / math.pi

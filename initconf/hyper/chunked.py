"""Chunked hypernetworks: embeddings that say how large each chunk is, or constants that its values are multiplied with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from initconf.errors import InitConfError, Problem, listed
from initconf.hyper import chunks
from initconf.hyper.chunks import Chunk
from initconf.hyper.heads import Arranged, Generated, Moment, Share, Won
from initconf.hyper.variances import Method, wanted
from initconf.initializers.plain import NonNegative, spread
from initconf.laws import Constant, Law
from initconf.layouts import layout
from initconf.registry import register
from initconf.sites import Layout, Site, twin
from initconf.spec import Distribution

Part = Literal["chunks", "inputs", "output"]
Count = Annotated[int, Field(ge=1)]
_PART_OF_ROLE: Mapping[str, Part] = {"embedding": "chunks", "position": "chunks", "weight": "output", "bias": "output"}
_OF_ONE = ("part", "distribution", "targets", "gives", "input_second_moment")
"""Arguments that each part has for itself."""
_NO_NAME = "say which part of the hypernetwork it is: {name: chunked_hyperfan, part: chunks}, or inputs, or output"
_UNNORMALISED = (
    "leave it out, or multiply the output by constants (chunk_scale); where it is no part of the hypernetwork, put that into a "
    "module of its own"
)


@dataclass(frozen=True, eq=False)
class Served:
    """What a parameter of a chunked hypernetwork, or some of its rows, is to do: `Site.target`."""

    part: Part
    var: float
    """Of embeddings and inputs their variance; of the output layer what it is to give."""
    received: float | str | None = None
    """Of the output layer E[h^2] of what enters it; None: as much as it is to give."""


def _together(won: Won) -> dict[str, Any]:
    """What the rules of all parts say together: each argument may stand in any of them.

    Raises InitConfError where two say different things.
    """
    found: dict[str, Any] = {}
    for site, settings in won:
        for key, value in settings.items():
            if key not in _OF_ONE and found.setdefault(key, value) != value:
                text = f"{site.name}: {key} is {value!r}, and for other parts of this hypernetwork {found[key]!r}"
                raise InitConfError(Problem(text, remedy="say it once; it holds for all parts"))
    return found


def arrange(of: Generated, won: Won) -> Arranged:
    """What each parameter of a chunked hypernetwork is to do; tables of chunk embeddings in blocks of rows of equal variance.

    Raises InitConfError for parts that are missing or of the wrong size, for targets that no chunk can give, for inputs that
    give more than the smallest chunk is to have, and for a hypernetwork that normalises.
    """
    if of.norms:
        text = f"{listed(of.norms)} takes the scale of the embeddings out again, so that no chunk can have its own"
        raise InitConfError(Problem(text, remedy=_UNNORMALISED))
    said = _together(won)
    parts = [_part(site, settings) for site, settings in won]
    tables, inputs, outputs = (
        [site for (site, _), p in zip(won, parts, strict=True) if p == part] for part in ("chunks", "inputs", "output")
    )
    size = _chunk_size(said, outputs)
    n_c = _length("chunk embeddings", tables)
    n_e = said.get("input_size")
    guessed = n_e is None and not inputs
    if n_e is None:
        n_e = _length("inputs", inputs) if inputs else 0
    found = chunks.chunks(of.targets, chunks.variances(of.targets, said.get("method", "fan_in"), said.get("bias_share")), size)
    v_e = _input_variance(said, found, n_c, n_e, served=bool(inputs))
    embeddings = [chunks.embedding_variance(chunk.var, n_c, n_e, v_e) for chunk in found]
    if said.get("on_infeasible") == "clip":
        embeddings = [max(chunks.SMALLEST, var) for var in embeddings]
    elif min(embeddings) <= 0:
        raise InitConfError(_infeasible(found, embeddings, n_c, n_e, v_e))
    given = sum((n_e * v_e + n_c * var) / (n_e + n_c) for var in embeddings) / len(embeddings)
    vectors = iter(_cycled(embeddings, [table for table in tables if table.ndim == 1]))
    sites: list[tuple[Site, ...]] = []
    for (whole, settings), part in zip(won, parts, strict=True):
        site = twin(whole, blocks=(), alike=0)
        if guessed and part == "chunks":  # that there are no further inputs
            site = twin(site, layout=twin(site.layout, assumed=(*site.layout.assumed, "input_size")))
        if part == "output":
            sites.append((twin(site, target=Served("output", given, settings.get("input_second_moment"))),))
        elif part == "inputs":
            sites.append((twin(site, target=Served("inputs", v_e)),))
        elif site.ndim == 1:
            sites.append((twin(site, target=Served("chunks", next(vectors))),))
        else:
            sites.append(tuple(_rows(site, embeddings)))
    return Arranged(sites, [*_mixed(found), _correlated(embeddings, n_c, n_e, v_e)])


def _mixed(found: Sequence[Chunk]) -> Iterator[str]:
    """The warning of chunks that cannot be right."""
    mixed = [i for i, chunk in enumerate(found) if chunk.mixed]
    if mixed:
        parts = ", ".join(f"{name} {var:.3g}" for name, _, var in found[mixed[0]].parts)
        yield (
            f"{len(mixed)} of {len(found)} chunks hold values of several variances and give all of them the mean "
            f"(chunk {mixed[0]}: {parts}); constants behind the output (chunk_scale) give each its own"
        )


def _correlated(embeddings: Sequence[float], n_c: int, n_e: int, v_e: float) -> str:
    """The warning that generated values are not independent, however right their variances are."""
    shared = sum(n_e * v_e / (n_e * v_e + n_c * var) for var in embeddings) / len(embeddings)
    after = [shared]
    for _ in range(3):
        after.append(chunks.through_relu(after[-1]))
    return (
        "all chunks come from one output layer, and the values of two of them correlate: by "
        f"{after[1]:.2f}, {after[2]:.2f}, {after[3]:.2f} after 1, 2, 3 hidden layers with relu, where their inputs do by "
        f"{shared:.2f}; initconf.hyper.measure says by how much. It is less with an odd activation such as tanh, and does no "
        "harm where an ordinary initialisation is added to what is generated (residual_hyperinit)"
    )


def _part(site: Site, settings: Mapping[str, Any]) -> Part:
    part: Part | None = settings.get("part") or _PART_OF_ROLE.get(site.role)
    if part is None or (part == "chunks" and not 1 <= site.ndim <= 3) or (part == "output" and site.ndim > 2):
        text = f"{site.name}, a {site.ndim}-D tensor of role {site.role}, is no part of a chunked hypernetwork that is known"
        raise InitConfError(Problem(text, remedy=_NO_NAME))
    return part


def _chunk_size(said: Mapping[str, Any], outputs: Sequence[Site]) -> int:
    """How many values a chunk has: the rows of the output layer. Raises InitConfError where nothing says, or two do."""
    each = {site.name: site.shape[site.layout.out_axes[0] if site.ndim == 2 else 0] for site in outputs}
    each |= {key: value for key, value in said.items() if key == "chunk_size"}
    rows = {*each.values()}
    if len(rows) == 1:
        return int(rows.pop())
    if not rows:
        text, remedy = "how many values a chunk has is not known", "let the rule match the output layer too, or say chunk_size"
    else:
        shown = ", ".join(f"{name} {n:,}" for name, n in each.items())
        text = f"a chunk has as many values as the output layer has rows, and these are several numbers: {shown}"
        remedy = "let the rule match the output layer alone"
    raise InitConfError(Problem(text, remedy=remedy))


def _length(what: str, sites: Sequence[Site]) -> int:
    """How long the vectors are; several parameters hold vectors of one kind."""
    if not sites:
        remedy = "let a rule of chunked_hyperfan match them, with part: chunks where their role does not tell"
        raise InitConfError(Problem(f"there are no {what}", remedy=remedy))
    lengths = {site.name: site.shape[-1] for site in sites}
    if len({*lengths.values()}) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InitConfError(Problem(f"the {what} are vectors of several lengths: {shown}", remedy="say input_size"))
    return next(iter(lengths.values()))


def _input_variance(said: Mapping[str, Any], found: Sequence[Chunk], n_c: int, n_e: int, *, served: bool) -> float:
    """Of the inputs that all chunks share; where they are served too, half of what the smallest chunk allows."""
    if "input_variance" in said or not n_e:
        return float(said.get("input_variance", 0.0))
    return chunks.largest_input_variance(found, n_c, n_e) / 2 if served else 1.0


def _infeasible(found: Sequence[Chunk], embeddings: Sequence[float], n_c: int, n_e: int, v_e: float) -> Problem:
    wrong = sum(var <= 0 for var in embeddings)
    bound = chunks.largest_input_variance(found, n_c, n_e)
    i = min(range(len(found)), key=lambda i: found[i].var)
    text = (
        f"{n_e} inputs of variance {v_e:g} give more alone than {wrong} of {len(found)} chunks are to have "
        f"(chunk {i}, {listed(name for name, *_ in found[i].parts)}: {found[i].var:.4g})"
    )
    remedy = (
        f"give these inputs a variance below {bound:.6g} and say it, input_variance: {_below(bound):g}; or let a rule with "
        "part: inputs serve them; or multiply the output by constants (chunk_scale); hypnettorch does on_infeasible: clip"
    )
    return Problem(text, remedy=remedy)


def _below(bound: float) -> float:
    """A short number below a bound: half of it, to one digit."""
    digit = 10.0 ** math.floor(math.log10(bound / 2))
    return math.floor(bound / 2 / digit) * digit


def _cycled(embeddings: Sequence[float], vectors: Sequence[Site]) -> Iterator[float]:
    """The variance of each of the vectors, which come chunk by chunk, and condition by condition where there are several."""
    if len(vectors) % len(embeddings):
        text = f"the targets fill {len(embeddings)} chunks, and there are {len(vectors)} vectors"
        raise InitConfError(Problem(text, remedy="there is to be one for each chunk, or for each chunk of each condition"))
    return (embeddings[i % len(embeddings)] for i in range(len(vectors)))


def _rows(site: Site, embeddings: Sequence[float]) -> list[Site]:
    """The rows of a table as blocks, those that follow each other with one variance together; one condition after the other."""
    axis = site.ndim - 2
    if site.shape[axis] != len(embeddings):
        text = f"the targets fill {len(embeddings)} chunks, and {site.name} has {site.shape[axis]} embeddings"
        raise InitConfError(Problem(text, remedy="say the targets that are generated, and chunk_size where it is not told"))
    starts = [i for i, var in enumerate(embeddings) if not i or var != embeddings[i - 1]]
    if len(starts) == 1:
        return [twin(site, target=Served("chunks", embeddings[0]))]
    found = []
    for start, end in zip(starts, [*starts[1:], len(embeddings)], strict=True):
        shape = (*site.shape[:axis], end - start, *site.shape[axis + 1 :])
        layout = twin(site.layout, block_axis=axis, block_names=(), block_sizes=())
        name = f"{start}" if end == start + 1 else f"{start}-{end - 1}"
        served = Served("chunks", embeddings[start])
        found.append(twin(site, block=name, start=start, shape=shape, layout=layout, target=served))
    return found


@register("chunked_hyperfan", whole=True, arrange=arrange)
def chunked_hyperfan(
    site: Site,
    targets: str | None = None,
    part: Part | None = None,
    method: Method | None = None,
    bias_share: Share | None = None,
    chunk_size: Count | None = None,
    input_size: Annotated[int, Field(ge=0)] | None = None,
    input_variance: NonNegative | None = None,
    input_second_moment: Moment | Literal["measured"] | None = None,
    on_infeasible: Literal["error", "clip"] | None = None,
    distribution: Distribution = "uniform",
) -> Law:
    """A hypernetwork that generates its targets in chunks (after hypnettorch): each chunk's embedding says how large it is.

    It serves the embeddings of the chunks, the output layer (Var W = 1 / fan_in, gain 1, and its bias 0) and, where a rule lets
    it, the inputs that all chunks share. The hidden layers are to hand on the second moment of their inputs. Then, with n_c
    entries in an embedding and n_e in those inputs, a chunk has the variance (n_e Var e + n_c Var c) / (n_e + n_c), which is
    solved for Var c. Each argument may stand in any of the rules that name this initializer.

    Args:
        targets: the name of one of the spec's; left out, the only one.
        part: chunks, inputs or output; left out, as the role says: an embedding is of chunks, a weight or bias of the output.
        method, bias_share: see hyperfan. Without a share weights have all of the variance, and a bias 1 / (3 fan_in).
        chunk_size: how many values a chunk has; left out, the rows of the output layer.
        input_size: n_e; left out, the length of the inputs that are served, or 0.
        input_variance: Var e; left out, 1, or for inputs that are served half of what the smallest chunk allows.
        input_second_moment: E[h^2] of what enters the output layer, over all chunks; left out, what the inputs have.
        on_infeasible: `clip`: where the inputs give a chunk more than it is to have, its embedding has the variance 1e-5.
    """
    served: Served = site.target
    if served.part != "output":
        return spread(site, distribution, math.sqrt(served.var))
    if site.ndim == 1:
        return Constant(0.0)
    fan_in = site.fan_in or site.shape[-1]
    if isinstance(served.received, str):
        remedy = "say input_second_moment as a number, or leave it out"
        raise InitConfError(Problem("no linear map of the run over the conditions uses it", remedy=remedy))
    gain = 1.0 if served.received is None else served.var / served.received
    return spread(site, distribution, math.sqrt(gain / max(1.0, fan_in)))


# --- constants ---------------------------------------------------------------------------------------------------------------


@layout("initconf.hyper.modules.OutputScale")
def _output_scale(module: Any, name: str, parameter: Any) -> Layout | None:
    return {"scale": Layout(role="gate_scale"), "shift": Layout(role="bias")}.get(name)


@dataclass(frozen=True, eq=False)
class Scaled:
    """Some values of a parameter that the output of a hypernetwork is multiplied with, or shifted by: `Site.target`."""

    mean: float
    var: float


def arrange_scale(of: Generated, won: Won) -> Arranged:
    """A block of each parameter for each target, and one for the filler of the last chunk.

    Raises InitConfError for a parameter that has not a value for each generated one.
    """
    said = _together(won)
    moments = wanted(of.targets, said.get("method", "fan_in"), said.get("bias_share", 0.5))
    total = sum(target.numel for target in of.targets)
    sites = []
    for site, settings in won:
        if site.ndim != 1 or site.numel < total:
            text = f"{site.name} has the shape {site.shape}, and the targets {total:,} values"
            raise InitConfError(Problem(text, remedy=f"make it a vector of {total:,} values, or of as many as all chunks have"))
        spans = [(target.name, target.numel, Scaled(*m)) for target, m in zip(of.targets, moments, strict=True)]
        if site.numel > total:
            spans.append(("unused", site.numel - total, Scaled(0.0, 0.0)))
        start, rows, assumed = 0, [], site.layout.assumed
        if "input_second_moment" not in settings and settings.get("gives") != "mean":
            assumed = (*assumed, "input_second_moment")
        for name, n, scaled in spans:
            layout = twin(site.layout, block_axis=0, block_names=(), block_sizes=(), assumed=assumed)
            rows.append(twin(site, block=name, start=start, shape=(n,), blocks=(), layout=layout, target=scaled, alike=0))
            start += n
        sites.append(tuple(rows))
    return Arranged(sites, [])


@register("chunk_scale", whole=True, arrange=arrange_scale)
def chunk_scale(
    site: Site,
    targets: str | None = None,
    gives: Literal["std", "mean"] = "std",
    method: Method | None = None,
    bias_share: Share | None = None,
    input_second_moment: Moment | Literal["measured"] = 1.0,
) -> Law:
    """Constants for values that are generated alike: sqrt(Var / E[v^2]) to multiply them with, or the mean to add to them.

    A hypernetwork whose output v has one second moment everywhere then generates, as `v * scale + shift`, each tensor with its
    own mean and variance, wherever its chunks begin and end: a norm's scale is exactly 1, its shift exactly 0.

    Args:
        targets: the name of one of the spec's; left out, the only one.
        gives: what the parameter is for: `std` to multiply with, `mean` to add.
        method, bias_share: see hyperfan.
        input_second_moment: E[v^2] of what is multiplied, or `measured` over the conditions; of a hypernetwork with inputs of
            variance 1 and an output layer of gain 1 it is 1.
    """
    scaled: Scaled = site.target
    if gives == "mean":
        return Constant(scaled.mean)
    if isinstance(input_second_moment, str):
        raise InitConfError(Problem("nothing that the conditions give is multiplied with it", remedy="say a number"))
    return Constant(math.sqrt(scaled.var / input_second_moment))

"""`initconf explain`: why one parameter gets what it gets."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from initconf.choices import Choice, choose
from initconf.cli.answers import Answer, Grid
from initconf.cli.guesses import guesses
from initconf.cli.inputs import (
    Usage,
    build_example,
    build_model,
    import_modules,
    make_plan,
    read_sites,
    read_spec,
    require_model,
    split_words,
    unused,
    with_words,
)
from initconf.cli.verdicts import verdicts
from initconf.compiler import compile_one
from initconf.errors import CompileError, InitConfError, Problem, listed, near
from initconf.layouts import Multilinear
from initconf.plan import Entry, Plan
from initconf.registry import MISSING
from initconf.rules import match
from initconf.sites import Site, twin
from initconf.spec import InitSpec

_LABEL = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<block>[^\[\]]+)\])?")
"""A parameter as `initconf plan` writes it: with a block in brackets."""

Facts = dict[str, Any]


def explain(args: Namespace) -> Answer:
    """Everything that led to one parameter's law; where the model does not compile, what is known nevertheless."""
    names, overrides = split_words(args.words)
    if len(names) != 1:
        raise Usage("explain takes the name of one parameter" + (f", and there are {len(names)}" if names else ""))
    require_model(args)
    spec = read_spec(args, overrides)
    import_modules(args)
    model = build_model(args)
    example = build_example(args, model)
    plan, failed = None, None
    try:
        plan = make_plan(args, model, spec, example)
    except CompileError as error:
        failed = error
    try:
        sites = read_sites(model, spec)
        matched = match(list(spec.live_rules()), sites)
    except InitConfError as error:
        raise failed or error from None  # `compile` has said it with its address
    i, block = _find(names[0], _with_generated(sites, plan))
    rules = verdicts(matched, i, sites[i], block if sites[i].blocks else None)
    rules += [(name, "switched off") for name, rule in spec.rules.items() if rule is None]
    entry: Entry | None
    if plan is not None:
        entry, problems, warnings = plan[sites[i].name], [], [*plan.warnings, *unused(args, [plan])]
    else:
        entry, found = compile_one(model, spec, sites, matched, i, example)
        problems, warnings = with_words(args, model, example, found) or [_elsewhere(failed)], []
    sites = _with_generated(sites, plan)
    data = _all_facts(sites[i], block, sites, entry, spec)
    data["rules"] = [_rule(name, verdict, spec) for name, verdict in rules]
    labels = {sites[i].name, *(part.label for part in sites[i].blocks if block in (None, part.block))}
    data["declare"] = [guess.override for guess in guesses(model, spec, sites, plan) if labels & {*guess.parameters}]
    data["problems"] = [asdict(problem) for problem in problems]
    return Answer(data, _text(data, block), warnings, problems=problems)


def _with_generated(sites: list[Site], plan: Plan | None) -> list[Site]:
    """The sites, in which the output layers of a hypernetwork have a block for each tensor that they generate."""
    blocks = {entry.name: entry.blocks for entry in plan or ()}
    return [
        site
        if site.blocks
        else twin(
            site,
            blocks=tuple(
                twin(site, block=part.block, shape=part.shape, start=part.start, layout=twin(site.layout, block_axis=part.axis))
                for part in blocks.get(site.name, ())
            ),
        )
        for site in sites
    ]


def _rule(name: str, verdict: str, spec: InitSpec) -> Facts:
    return {"rule": name, "verdict": verdict, "sources": spec.sources(f"rules.{name}")}


def _find(label: str, sites: Sequence[Site]) -> tuple[int, str | None]:
    """The site (its place in the list) that a name or a label such as `attn.in_proj_weight[q]` means, and the block."""
    known = {name: i for i, site in enumerate(sites) for name in (site.name, *site.aliases)}
    written = _LABEL.fullmatch(label) if label not in known else None
    name, block = (written["name"], written["block"]) if written else (label, None)
    i = known.get(name)
    if i is None:
        raise InitConfError(Problem(f"the model has no parameter {name!r}", remedy=_instead(name, list(known))))
    blocks = [part.block for part in sites[i].blocks]
    if block is not None and block not in blocks:
        remedy = f"its blocks are {', '.join(map(str, blocks))}" if blocks else "it has no blocks"
        raise InitConfError(Problem(f"{name} has no block {block!r}", remedy=remedy))
    return i, block


def _instead(name: str, known: list[str]) -> str:
    """What may have been meant by a name that no parameter has."""
    plain = re.sub(r"(^|\.)parametrizations\.(\w+)\.original\d*$", r"\1\2", name)
    if plain in known:
        return f"a parametrised weight is called by its own name: {plain}"
    if below := [there for there in known if there.startswith(f"{name}.")]:
        return f"it is a module, with the parameters {listed(below)}"
    # Of a wrapper's name, such as module.head.weight, the end is the parameter's.
    close = [there for there in known if name.endswith(f".{there}")] or near(name, known)
    close = close or [there for there in known if name in there][:3]
    if close:
        return f"near names: {', '.join(close)}"
    return f"names are such as {', '.join(known[:3])}" if known else "it has none"


def _elsewhere(failed: CompileError | None) -> Problem:
    count = len(failed.problems) if failed is not None else 0
    text = f"the model does not compile, but this parameter is not why ({count} problem{'s' * (count != 1)})"
    return Problem(text, remedy="initconf plan with the same words says what is wrong")


# --- what is known of the parameter ----------------------------------------------------------------------------------------


def _all_facts(site: Site, block: str | None, sites: Sequence[Site], entry: Entry | None, spec: InitSpec) -> Facts:
    """What is known of a parameter and of its blocks, or of the one that is asked for; and what they receive."""
    data = _facts(site, sites)
    if entry is not None and not entry.blocks:
        data |= _outcome(entry, site, spec)
    served = {part.block: _outcome(part, site, spec) for part in entry.blocks} if entry is not None else {}
    data["blocks"] = [_facts(s, sites) | served.get(s.block, {}) for s in site.blocks if block in (None, s.block)]
    return data


def _facts(site: Site, sites: Sequence[Site]) -> Facts:
    layout = site.layout
    axes = {"out": layout.out_axes, "in": layout.in_axes, "batch": layout.batch_axes}
    has_axes = site.fan_in is not None and site.ndim > 1
    fan_in, fan_out = _formulas(site, sites)
    return {
        "name": site.name,
        "block": site.block,
        "aliases": list(site.aliases),
        "module": site.module,
        "owners": {place.name: place.owner[0] for place in site.places},
        "role": site.role,
        "shape": list(site.shape),
        "dtype": site.dtype,
        "axes": {name: list(which) for name, which in axes.items()} if has_axes else None,
        "fan_in": site.fan_in,
        "fan_out": site.fan_out,
        "fan_in_formula": fan_in,
        "fan_out_formula": fan_out,
        "layer": site.layer,
        "n_layers": site.n_layers,
        "depth_note": site.depth_note,
        "zero_row": layout.zero_row,
        "assumed": list(layout.assumed),
        "frozen": site.frozen,
        "effective": site.effective,
        "block_axis": layout.block_axis if site.block is not None else None,
        "block_start": site.start if site.block is not None else None,
    }


def _formulas(site: Site, sites: Sequence[Site]) -> tuple[str | None, str | None]:
    """How the two fans come about, with their numbers; None where there are none, or where that cannot be said."""
    if site.fan_in is None or site.fan_out is None:
        return None, None
    carrier, whose = _carrier(site, sites)
    layout, shape = carrier.layout, carrier.shape
    inside = math.prod(shape[axis] for axis in layout.in_axes)
    out = math.prod(shape[axis] for axis in layout.out_axes)
    taken = {*layout.in_axes, *layout.out_axes, *layout.batch_axes}
    field = [n for axis, n in enumerate(shape) if axis not in taken]
    kernel = [("*", "k", math.prod(field))] if field else []
    shared = [("/", "g", layout.groups)] if layout.groups != 1 else []
    shared += kernel
    shared += [("/", "s", layout.stride)] if layout.stride != 1 else []
    full, part = (shared, kernel) if layout.transposed else (kernel, shared)
    if isinstance(layout, Multilinear):
        sizes = [shape[axis] for axis in layout.in_axes]
        part = [*part, ("*", "n", len(sizes)), ("*", "prod(in)", inside), ("/", "sum(in)", sum(sizes))]
    fan_in, fan_out = _formula("in", inside, full, site.fan_in), _formula("out", out, part, site.fan_out)
    return (f"{fan_in}{whose}" if fan_in else None), (f"{fan_out}{whose}" if fan_out else None)


def _formula(name: str, size: int, factors: list[tuple[str, str, int]], result: float) -> str | None:
    """`in * k = 8 * 9 = 72`, where that is the result (a layout of a special kind may count in its own way)."""
    value = float(size)
    for sign, _, n in factors:
        value = value * n if sign == "*" else value / n
    if not math.isclose(value, result):
        return None
    if not factors:
        return f"{name} = {size}"
    letters = " ".join([name, *(f"{sign} {letter}" for sign, letter, _ in factors)])
    numbers = " ".join([str(size), *(f"{sign} {n}" for sign, _, n in factors)])
    return f"{letters} = {numbers} = {result:g}"


def _carrier(site: Site, sites: Sequence[Site]) -> tuple[Site, str]:
    """The site whose fans a site has, and how to say so: of a bias its weight, else the site itself."""
    if site.layout.fans_of is None:
        return site, ""
    place = site.places[0]
    name = place.name.removesuffix(place.attribute) + site.layout.fans_of
    weight = next((s for s in sites if name in (s.name, *s.aliases)), None)
    if weight is None:
        return site, ""
    part = next((block for block in weight.blocks if block.block == site.block), weight)
    return part, f", of {part.name}"


# --- what it receives ------------------------------------------------------------------------------------------------------


def _outcome(entry: Entry, site: Site, spec: InitSpec) -> Facts:
    said = None if _is_kept(entry, site) else choose(spec, entry.rule)
    return {
        "rule": entry.rule,
        "initializer": entry.initializer,
        "initializer_path": spec.path(said.path if said else "unmatched"),
        "initializer_sources": spec.sources(said.path if said else "unmatched"),
        "settings": _settings(entry, said, spec) if said else {},
        "fed_by": entry.fed_by,
        "fed_by_assumed": "nonlinearity" in entry.assumed,
        "law": entry.law.to_dict(),
        "law_text": str(entry.law),
        "mean": entry.mean,
        "std": entry.std,
    }


def _is_kept(entry: Entry, site: Site) -> bool:
    """Whether nothing claims the parameter and `unmatched: keep` leaves it alone."""
    return entry.rule is None and entry.initializer == "keep" and site.role != "weight"


def _settings(entry: Entry, said: Choice, spec: InitSpec) -> Facts:
    """Each argument of the initializer: its value, the expression it came from, and where it was said."""
    told: Facts = {}
    for name, argument in said.initializer.arguments.items():
        path = said.paths.get(name)
        default = None if argument.default is MISSING else argument.default
        value = entry.settings.get(name, default)
        written = said.arguments.get(name)
        told[name] = {
            "value": value,
            "expression": written if isinstance(written, str) and not isinstance(value, str) else None,
            "path": spec.path(path) if path else None,
            "sources": spec.sources(path) if path else [],
        }
    return told


# --- as text ---------------------------------------------------------------------------------------------------------------


def _text(data: Facts, block: str | None) -> list[str | Grid]:
    label = data["name"] if block is None else f"{data['name']}[{block}]"
    parts: list[str | Grid] = [label, _grid(_fact_rows(data, block))]
    if data["declare"]:  # no cells: what a narrow terminal breaks in its own way cannot be copied
        parts += ["", "to declare what was guessed", *(f"  {override}" for override in data["declare"])]
    parts += ["", "rules, the strongest first"]
    rules = [[f"  {row['rule']}", row["verdict"], _decisive(row)] for row in data["rules"]]
    parts.append(Grid(["rule", "verdict", "source"], rules, drop=("source",), flow=("verdict",), header=False))
    if "law" in data:
        return parts + _outcome_text(data)
    for alike in _alike(data["blocks"]):
        if block is None:
            names, first = ", ".join(part["block"] for part in alike), alike[0]
            parts += ["", f"{data['name']}[{names}]", _grid([["shape", _dims(first["shape"])], *_fan_rows(first)])]
        parts += _outcome_text(alike[0]) if "law" in alike[0] else []
    return parts


def _alike(blocks: Sequence[Facts]) -> list[list[Facts]]:
    """The blocks, those that differ in nothing but name and place taken together."""
    groups: dict[str, list[Facts]] = {}
    for part in blocks:
        told = {key: value for key, value in part.items() if key not in ("block", "block_start")}
        groups.setdefault(repr(told), []).append(part)
    return list(groups.values())


def _grid(rows: list[list[str]]) -> Grid:
    return Grid(["", "value"], [[f"  {name}", value] for name, value in rows], flow=("value",), header=False)


def _fact_rows(data: Facts, block: str | None) -> list[list[str]]:
    tied = ", as one of its names is one" if data["role"] == "embedding" and len({*data["owners"].values()}) > 1 else ""
    rows = [
        ["module", data["module"]],
        ["role", data["role"] + (" (assumed)" if "role" in data["assumed"] else "") + tied],
        ["shape", f"{_dims(data['shape'])} {data['dtype']}"],
    ]
    if data["axes"]:
        axes = ", ".join(f"{name} {_listed(which)}" for name, which in data["axes"].items() if which)
        rows.append(["axes", axes + (" (assumed)" if "layout" in data["assumed"] else "")])
    if block is not None:
        (part,) = data["blocks"]
        first, axis = part["block_start"], part["block_axis"]
        where = f"{first} to {first + part['shape'][axis] - 1} along axis {axis}"
        rows += [["block", f"{block} {_dims(part['shape'])}, {where}"], *_fan_rows(part)]
    elif data["blocks"]:
        rows.append(["blocks", ", ".join(f"{part['block']} {_dims(part['shape'])}" for part in data["blocks"])])
    else:
        rows += _fan_rows(data)
    layer = f"{data['layer']} of {data['n_layers']}, counted from 0"
    rows.append(["layer", layer if data["layer"] is not None else f"none: {data['depth_note']}"])
    if data["zero_row"] is not None:
        rows.append(["padding", f"row {data['zero_row']} stays zero, whatever the law"])
    if data["effective"] is not None:
        rows.append(["effective", _EFFECTIVE[data["effective"]]])
    if data["frozen"]:
        rows.append(["frozen", "it takes no gradient, and is initialised all the same"])
    if data["aliases"]:
        rows.append(["also", ", ".join(f"{name} ({data['owners'][name]})" for name in data["aliases"])])
    return rows


_EFFECTIVE = {
    "exact": "the weight is parametrised, and what it works out to has the law",
    "transformed": "the weight is parametrised: the law is that of what is assigned, not of what it works out to",
}


def _fan_rows(data: Facts) -> list[list[str]]:
    if data["fan_in"] is None:
        return [["fans", "none: nothing is summed over"]]
    said = [[name, data[f"{name}_formula"] or f"{data[name]:g}"] for name in ("fan_in", "fan_out")]
    note = [["", "for expressions only: fan-based initializers refuse a bias"]] if data["role"] == "bias" else []
    return said + note


def _outcome_text(data: Facts) -> list[str | Grid]:
    path, sources = data["initializer_path"], _chain(data["initializer_sources"])
    rows = [["  initializer", str(data["initializer"]), path, sources]]
    for name, setting in data["settings"].items():
        value = _value(setting["value"]) + (f" = {setting['expression']}" if setting["expression"] else "")
        if name == "nonlinearity" and data["fed_by"] is not None:
            value += " = auto"
        rows.append([f"  {name}", value, setting["path"] or "default", _chain(setting["sources"])])
    settings = Grid(["setting", "value", "path", "source"], rows, stack=True, header=False)
    moments = [f"{name} {data[name]:.9g}" for name in ("mean", "std") if data[name] is not None]
    said = f"  {data['law_text']}: {', '.join(moments) or 'mean and std are not known beforehand'}"
    by = f"rule {data['rule']}" if data["rule"] else "no rule claims it"
    parts: list[str | Grid] = ["", f"settings ({by})", settings]
    if data["fed_by"] is not None:
        parts += ["", "fed by", f"  {data['fed_by']}" + (" (assumed)" if data["fed_by_assumed"] else "")]
    return [*parts, "", "law", said]


def _decisive(row: Facts) -> str:
    """Where a rule began; of one that is switched off, where that was said."""
    sources = row["sources"][-1:] if row["verdict"] == "switched off" else row["sources"][:1]
    return "".join(sources)


def _chain(sources: Sequence[str]) -> str:
    return ", then ".join(sources)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _listed(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))


def _dims(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "()"

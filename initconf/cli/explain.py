"""`initconf explain`: why one parameter gets what it gets."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from initconf.choices import Choice, choose
from initconf.cli.answers import Answer, Grid
from initconf.cli.inputs import Usage, build_model, import_modules, read_spec, require_model, split_words
from initconf.compiler import compile as compile_plan
from initconf.compiler import verdicts
from initconf.errors import InitConfError, near
from initconf.plan import Entry
from initconf.registry import MISSING
from initconf.sites import Site
from initconf.spec import InitSpec
from initconf.survey import survey

_LABEL = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<block>[^\[\]]+)\])?")
"""A parameter as `initconf plan` writes it: with a block in brackets."""

Facts = dict[str, Any]


def explain(args: Namespace) -> Answer:
    """Everything that led to one parameter's law."""
    names, overrides = split_words(args.words)
    if len(names) != 1:
        raise Usage("explain takes the name of one parameter" + (f", and there are {len(names)}" if names else ""))
    require_model(args)
    spec = read_spec(args, overrides)
    import_modules(args)
    model = build_model(args)
    sites = survey(model, spec.layers, torch_fans=spec.compat == "torch")
    site, block = _find(names[0], sites)
    plan = compile_plan(model, spec)
    rules = verdicts(model, spec, site.name)
    entry = plan[site.name]
    pairs = list(zip(site.blocks, entry.blocks, strict=True)) if site.blocks else []
    if block is not None:
        pairs = [(s, e) for s, e in pairs if s.block == block]
    rules += [(name, "switched off") for name, rule in spec.rules.items() if rule is None]
    told = [{"rule": name, "verdict": said, "sources": spec.sources(f"rules.{name}")} for name, said in rules]
    data = _facts(site, sites) | {"rules": told} | ({} if pairs else _outcome(entry, site, spec))
    data["blocks"] = [_facts(s, sites) | _outcome(e, s, spec) for s, e in pairs]
    return Answer(data, _text(data), plan.warnings)


def _find(label: str, sites: Sequence[Site]) -> tuple[Site, str | None]:
    """The site that a name or a label such as `attn.in_proj_weight[q]` means, and the block."""
    match = _LABEL.fullmatch(label)
    name, block = (match["name"], match["block"]) if match else (label, None)
    site = next((site for site in sites if name in (site.name, *site.aliases)), None)
    if site is None:
        known = [alias for site in sites for alias in (site.name, *site.aliases)]
        close = near(name, known) or [there for there in known if name in there][:3]
        hint = f"near names: {', '.join(close)}" if close else f"names are such as {', '.join(known[:3])}"
        raise InitConfError(f"the model has no parameter {name!r}; {hint if known else 'it has none'}")
    blocks = [part.block for part in site.blocks]
    if block is not None and block not in blocks:
        there = f"it has {', '.join(map(str, blocks))}" if blocks else "it has none"
        raise InitConfError(f"{name} has no block {block!r}; {there}")
    return site, block


# --- what is known of the parameter ----------------------------------------------------------------------------------------


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
    return part, f", of {part.label}"


# --- what it receives ------------------------------------------------------------------------------------------------------


def _outcome(entry: Entry, site: Site, spec: InitSpec) -> Facts:
    said = None if _is_kept(entry, site) else choose(spec, entry.rule)
    return {
        "rule": entry.rule,
        "initializer": entry.initializer,
        "initializer_path": spec.path(said.path if said else "unmatched"),
        "initializer_sources": spec.sources(said.path if said else "unmatched"),
        "settings": _settings(entry, said, spec) if said else {},
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


def _text(data: Facts) -> list[str | Grid]:
    parts: list[str | Grid] = [data["name"], _grid(_fact_rows(data)), "", "rules, the strongest first"]
    rules = [[f"  {row['rule']}", row["verdict"], _decisive(row)] for row in data["rules"]]
    parts.append(Grid(["rule", "verdict", "source"], rules, drop=("source",), header=False))
    for part in data["blocks"] or [data]:
        if part["block"]:
            parts += ["", f"{part['name']}[{part['block']}]", _grid(_block_rows(part))]
        parts += _outcome_text(part)
    return parts


def _grid(rows: list[list[str]]) -> Grid:
    return Grid(["", "value"], [[f"  {name}", value] for name, value in rows], flow=("value",), header=False)


def _fact_rows(data: Facts) -> list[list[str]]:
    rows = [
        ["module", data["module"]],
        ["role", data["role"] + (" (assumed)" if "role" in data["assumed"] else "")],
        ["shape", f"{_dims(data['shape'])} {data['dtype']}"],
    ]
    if data["axes"]:
        axes = ", ".join(f"{name} {_listed(which)}" for name, which in data["axes"].items() if which)
        rows.append(["axes", axes + (" (assumed)" if "layout" in data["assumed"] else "")])
    if not data["blocks"]:
        rows += _fan_rows(data)
    else:
        rows.append(["blocks", ", ".join(f"{b['block']} {_dims(b['shape'])}" for b in data["blocks"])])
    layer = f"{data['layer']} of {data['n_layers']}" if data["layer"] is not None else f"none: {data['depth_note']}"
    rows.append(["layer", layer])
    if data["zero_row"] is not None:
        rows.append(["padding", f"row {data['zero_row']} stays zero, whatever the law"])
    if data["aliases"]:
        rows.append(["also", ", ".join(f"{name} ({data['owners'][name]})" for name in data["aliases"])])
    return rows


def _block_rows(data: Facts) -> list[list[str]]:
    return [["shape", _dims(data["shape"])], *_fan_rows(data)]


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
        rows.append([f"  {name}", value, setting["path"] or "default", _chain(setting["sources"])])
    settings = Grid(["setting", "value", "path", "source"], rows, stack=True, header=False)
    moments = [f"{name} {data[name]:.9g}" for name in ("mean", "std") if data[name] is not None]
    said = f"  {data['law_text']}: {', '.join(moments) or 'mean and std are not known beforehand'}"
    by = f"rule {data['rule']}" if data["rule"] else "no rule claims it"
    return ["", f"settings ({by})", settings, "", "law", said]


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

"""What needs no model: `initconf list`, `show`, `gains` and `results`. None of them loads torch."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from initconf.cli.answers import Answer, Commented, Grid
from initconf.cli.inputs import Usage, import_modules, only_overrides, read_spec
from initconf.errors import InitConfError, Problem, near
from initconf.spec import ROLE_MEANINGS, ROLES, SELECTORS, InitSpec

# --- list ------------------------------------------------------------------------------------------------------------------

_RULE = re.compile(r"^(?!defaults:)([A-Za-z_][\w-]*):", re.MULTILINE)
"""The name of a rule in a rule file."""

Row = dict[str, Any]
"""What is known of one name: `doc`, `arguments`, `aliases` and the like."""


def names(args: Namespace) -> Answer:
    """What a configuration may name, kind by kind."""
    for kind in args.words:
        if kind not in KINDS:
            close = near(kind, KINDS, 1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            raise Usage(f"nothing to list is called {kind!r}; {meant}there are: {', '.join(KINDS)}")
    import_modules(args)
    found = {kind: KINDS[kind](args) for kind in dict.fromkeys(args.words or KINDS)}
    parts: list[str | Grid] = []
    for kind, rows in found.items():
        titles = [kind, *dict.fromkeys(key for row in rows.values() for key in row)]
        cells = [[name, *(_cell(row.get(key)) for key in titles[1:])] for name, row in rows.items()]
        parts += [Grid(titles, cells, stack=True), ""]
    return Answer(found, parts[:-1])


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(name if default == "required" else f"{name}={_cell(default)}" for name, default in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _initializers(args: Namespace) -> dict[str, Row]:
    from initconf import registry

    found = {}
    for name in registry.names():
        one = registry.find(name)
        arguments = {a.name: "required" if a.default is registry.MISSING else a.default for a in one.arguments.values()}
        found[name] = {
            "doc": _first_sentence(one.fn.__doc__ or ""),
            "arguments": arguments,
            "aliases": registry.aliases_of(name),
        }
    return found


def _schemes(args: Namespace) -> dict[str, Row]:
    from initconf.loading import catalogue

    files = catalogue("init", args.config_dir)
    return {name: {"doc": comment(text), "file": label} for name, (label, text) in files.items()}


def _rule_files(args: Namespace) -> dict[str, Row]:
    from initconf.loading import catalogue

    files = catalogue("init/rules", args.config_dir)
    return {name: {"doc": comment(text), "rules": _RULE.findall(text), "file": label} for name, (label, text) in files.items()}


def _activations(args: Namespace) -> dict[str, Row]:
    from initconf import activations

    found: dict[str, Row] = {}
    for name in activations.names():
        canonical, arguments = activations.normalise(name)
        row = found.setdefault(canonical, {"arguments": arguments, "aliases": []})
        if name != canonical:
            row["aliases"].append(name)
    return dict(sorted(found.items()))


def _roles(args: Namespace) -> dict[str, Row]:
    return {role: {"doc": ROLE_MEANINGS[role]} for role in ROLES}


def _layouts(args: Namespace) -> dict[str, Row]:
    from initconf import layouts

    return {name: {} for name in layouts.names()}


KINDS: dict[str, Callable[[Namespace], dict[str, Row]]] = {
    "initializers": _initializers,
    "schemes": _schemes,
    "rules": _rule_files,
    "activations": _activations,
    "roles": _roles,
    "layouts": _layouts,
}


def _first_sentence(text: str) -> str:
    """The first sentence of a docstring or of a comment, on one line."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    return re.split(r"(?<=[.])\s+(?=[A-Z`])", paragraph, maxsplit=1)[0]  # not in "et al. 2022"


def comment(text: str) -> str:
    """What the comment at the head of a file says first, past the lines that speak to Hydra or to an editor."""
    head = takewhile(lambda line: line.startswith("#"), text.splitlines())
    lines = [line.lstrip("# ") for line in head]
    return _first_sentence(
        "\n".join(line for line in lines if not line.startswith(("@package", "yaml-language-server", "use:")))
    )


# --- show ------------------------------------------------------------------------------------------------------------------


_YAML_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))


def show(args: Namespace) -> Answer:
    """The composed spec as YAML, which `load` reads back, each line with the place that said it."""
    import_modules(args)
    spec = read_spec(args, only_overrides(args))
    data = spec.model_dump(mode="json", exclude_none=True, exclude_defaults=True, warnings=False)
    if "rules" in data:
        data["rules"] = {name: rule and _tidy(rule) for name, rule in data["rules"].items()}
    return Answer(data, [Commented(list(_lines(data, spec)))])


def _tidy(rule: dict[str, Any]) -> dict[str, Any]:
    """A rule as a person would write it: what it selects first, and one value for a list of one or a span of one."""
    first = [key for key in SELECTORS if key in rule]
    ordered = {key: rule[key] for key in dict.fromkeys([*first, *rule])}
    return {key: v[0] if isinstance(v, list) and len(set(v)) == 1 else v for key, v in ordered.items()}


def _lines(data: Mapping[str, Any], spec: InitSpec, path: tuple[str, ...] = ()) -> Iterable[tuple[str, str | None]]:
    """Each line of the YAML with its source: of a value, what said it last; of a mapping, what began it."""
    for key, value in data.items():
        here, indent = (*path, key), "  " * len(path)
        sources = spec.sources(".".join(here))
        if isinstance(value, Mapping) and value:
            yield f"{indent}{as_yaml(key)}:", sources[0] if sources and path else None
            yield from _lines(value, spec, here)
        else:
            yield f"{indent}{as_yaml(key)}: {as_yaml(value)}", sources[-1] if sources else None


def as_yaml(value: Any) -> str:
    """A value as YAML on one line, strings in single quotes unless they are plain words."""
    import json

    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{as_yaml(k)}: {as_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return ".inf" if value > 0 else "-.inf"
    if not isinstance(value, str):
        return json.dumps(value)
    from initconf.loading import literal

    text: str = literal(value)
    if not text.isprintable():
        return json.dumps(text)
    if re.fullmatch(r"[A-Za-z_][\w./-]*", text) and text.lower() not in _YAML_WORDS:
        return text
    return "'" + text.replace("'", "''") + "'"


# --- gains -----------------------------------------------------------------------------------------------------------------

_CONVENTION = """
The gain belongs to the activation that feeds the layer, and multiplies the
std of its weight. Where the slope is above 1, deep stacks without
normalisation drift away: they need a normalisation or residual branches, not
a better gain."""


def gains(args: Namespace) -> Answer:
    """The gains of activations by every method, and what they rest on."""
    import_modules(args)
    from initconf import activations

    wanted = {activations.normalise(name)[0] for name in args.words}
    rows = [row for row in activations.table() if not wanted or str(row["name"]).partition("(")[0] in wanted]
    titles = ["name", "second_moment", "backward", "centred", "torch", "slope", "mean", "m2", "chi1"]
    cells = [[str(row["name"]), *(_number(row[title]) for title in titles[1:])] for row in rows]
    grid = Grid(titles, cells, frozenset(titles[1:]), drop=("chi1", "m2", "mean", "centred", "backward"))
    answer = Answer(rows, [grid, _CONVENTION])
    if args.plot is not None:
        _plot(rows, args.plot)
        answer.notes.append(f"the drawing is in {args.plot}")
    return answer


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.6f}"


def _plot(rows: list[dict[str, float | str | None]], path: str) -> None:
    """Gains and slopes as two rows of bars; torch's own gains as marks."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        remedy = "pip install 'initconf[lab]', or pip install matplotlib"
        raise InitConfError(Problem("drawing needs matplotlib, which is not installed", "--plot", None, None, remedy)) from None
    shown = [row for row in rows if row["second_moment"] is not None]
    labels = [str(row["name"]) for row in shown]
    places = range(len(shown))
    figure = Figure(figsize=(9, 1.5 + 0.22 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(places, [row["second_moment"] for row in shown], color="tab:blue", label="1 / sqrt(E[f(z)^2])")
    marks = [(row["torch"], i) for i, row in enumerate(shown) if row["torch"] is not None]
    left.plot([x for x, _ in marks], [i for _, i in marks], "kx", label="calculate_gain of torch")
    left.set(yticks=list(places), yticklabels=labels, title="gain")
    left.margins(y=0.01)
    left.invert_yaxis()
    left.legend(fontsize="small")
    slopes = [float(row["slope"] or 0) for row in shown]
    right.barh(places, slopes, color=["tab:red" if slope > 1 + 1e-9 else "tab:green" for slope in slopes])
    right.axvline(1, color="black", linewidth=1)
    right.set(title="slope (red: grows with depth)")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise InitConfError(Problem(f"cannot be drawn: {error}", "--plot", repr(path))) from None


# --- results ---------------------------------------------------------------------------------------------------------------


def results(args: Namespace) -> Answer:
    """What the runs in a folder left behind, best first."""
    from initconf.lab.results import read, render, table

    folder = Path(args.directory)
    if not folder.is_dir():
        raise InitConfError(Problem("there is no such directory", "DIR", repr(args.directory)))
    rows = read(folder)
    if not rows:
        remedy = "a sweep is python -m initconf.lab -m init=he,glorot"
        raise InitConfError(Problem("no run left results here", "DIR", repr(args.directory), None, remedy))
    made = render(rows)
    grid = Grid.of(made, drop=("at start", "train loss", "seconds"), flow=("overrides",))
    around = [[str(text)] if text else [] for text in (made.title, made.caption)]
    return Answer(table(rows), [*around[0], grid, *around[1]])

"""What Hydra and OmegaConf refuse, in our own words: where it was said, what is wrong with it, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from initconf.errors import Problem, did_you_mean, near
from initconf.provenance import OVERRIDE, find, label
from initconf.reading import NO_INTERPOLATION, OUTSIDE, entries, first_line, leads_out, yaml_problem

OWN = "__mapping__"
"""The name under which a mapping is put before Hydra."""
RESOLVERS = ("oc.env", "oc.decode", "oc.select", "oc.create", "oc.dict.keys", "oc.dict.values")
"""The resolvers that a scheme may call: those of OmegaConf, which run nobody's code."""
TOO_MANY = "the interpolations stand for too many values"
GROUPS = {"init": "scheme", "init/rules": "rule file", "init/rule": "single rule"}
Own = Mapping[str, tuple[str, Any] | None]
"""Where the mappings came from that were put before Hydra: (label, content) by config path, None for one not to be named."""
_KEY = re.compile(r"(init(\.[\w-]+)*|init(/[\w-]+)*)(@[\w.-]+)?")


def unknown(kind: str, path: str, name: str, known: Sequence[str], source: str | None = None) -> Problem:
    """A name that nothing has."""
    there = sorted(option for option in known if option != OWN)
    close = near(name, there, 1)
    remedy = (f"did you mean {close[0]!r}? " if close else "") + f"there are: {', '.join(there)}" if there else None
    return Problem(f"no {kind} has this name", path, repr(name), source, remedy)


# --- overrides that do not parse -------------------------------------------------------------------------------------------


def override_problem(override: str, error: Exception) -> Problem:
    """An override that Hydra's parser refused."""
    match = OVERRIDE.fullmatch(override)
    assert match is not None  # the pattern fits whatever string
    said = first_line(error)
    if found := re.match(r"\w+ while evaluating '(.+?)': (.+)", said):
        why = f"has no value: {found[1]}: {found[2]}"
    elif found := re.search(r"at(?: input|:)? '(.+)'$|input '(.+)' expecting", said):
        at = found[1] or found[2]
        ends = "it ends too early" if match["value"] else "it has no value"
        why = f"does not parse: {ends}" if at == "<EOF>" else f"does not parse at {at!r}"
    else:
        why = "does not parse"
    return Problem(f"the override {why}", None, None, f"override {override!r}", _quoted(match))


def _quoted(match: re.Match[str]) -> str:
    key, value = match["key"], match["value"]
    if not _KEY.fullmatch(key):
        return "write key=value, where the key is names with dots between them: init.rules.head.gain=0.1"
    if value is None:
        return f"write {key}=VALUE"
    if value[1:2] in ("{", "["):
        return 'put strings inside it in double quotes: {match: "^head\\.(a|b)$", gain: "1/sqrt(2)"}'
    if "${" in value:
        return NO_INTERPOLATION[1]
    text = value[1:].strip("'\"")
    return f"single quotes for the shell, double quotes for Hydra: '{match['sign'] or ''}{key}=\"{text}\"'"


def group_problem(override: Override, loader: Any) -> Problem | None:
    """What is wrong with an override that chooses files of a group; None where it may be tried."""
    group, value, source = override.key_or_group, override.value(), f"override {override.input_line!r}"
    above, _, name = group.rpartition("/")
    if name not in (there := loader.list_groups(above)):
        groups = [f"{above}/{other}" for other in there if other != "schema"]
        return Problem("there is no such group", group, None, source, did_you_mean(group, groups))
    if override.is_delete():
        return Problem("what a scheme chose cannot be taken away", group, None, source, f"for no rules, {group}=none")
    names: list[Any] = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        remedy = f"for no rules, {group}=none" if value is None else f"write {group}=[roles,head]"
        return Problem("files are chosen by their names", group, "null" if value is None else repr(value), source, remedy)
    if group == "init/rule" and (override.package or "").count(".") < 2:
        return Problem("a single rule needs a name", group, None, source, f"write +init/rule@init.rules.NAME={value}")
    outside = next((name for name in names if leads_out(name)), None)
    return Problem(OUTSIDE[0], group, repr(outside), source, OUTSIDE[1]) if outside is not None else None


# --- what does not compose -------------------------------------------------------------------------------------------------

_TEXTS: list[tuple[str, str, str | None]] = [
    (
        r"Could not override '(?P<it>[^']+)'.* No match in the defaults list",
        "its defaults choose no {it}",
        "add to them: +{it}{package}=...; a scheme that begins with `rules: []` in its defaults needs no +",
    ),
    (
        r"Could not override '(?P<it>[^']+)'",
        "{it} is not there to be changed",
        "write +{key}=...; a scheme whose defaults begin with `optional schema@_here_: base` needs no +",
    ),
    (r"Could not delete.*'(?P<it>[^']+)'", "{it} is not there to be deleted", "to switch a rule off, init.rules.NAME=null"),
    (r"Could not append to config list.*'(?P<it>[^']+)'", "{it} is no list to be extended", None),
    (r"force-add of config groups", "files of a group are added with one +", None),
    (
        r"(?P<it>\S+) appears more than once|Multiple values for (?P<other>\S+?)\.",
        "its defaults name two of one kind",
        "a spec starts from one scheme, and names its rule files in one list: rules: [roles, head]",
    ),
    (
        r"Duplicate _self_",
        "its defaults name _self_ twice",
        "what stands behind _self_ is stronger than the file: name it once",
    ),
    (
        r"Unsupported item value in defaults|must have a single|Unsupported type in defaults",
        "not a defaults list",
        "write schemes and rule files: [he, {{rules: [roles, head]}}, _self_]",
    ),
    (r"is defined before", "what its defaults override stands before what they choose", "put it behind"),
    (
        r"expecting|no viable alternative|token recognition",
        NO_INTERPOLATION[0],
        NO_INTERPOLATION[1].replace("{", "{{").replace("}", "}}"),
    ),
    (r"[Ii]nterpolation", "its defaults hold what cannot be resolved", "name the files"),
    (r"Cannot merge|must be a mapping|Top level config", "a list and a mapping stand in one place", None),
]


def hydra_problem(
    error: Exception, overrides: Sequence[str], loader: Any, own: Mapping[str, tuple[str, Any] | None]
) -> Problem:
    """What Hydra refused to compose, and where that was said; `own` is where a mapping came from."""
    if isinstance(error, yaml.MarkedYAMLError):
        return yaml_problem(error, label(Path(error.problem_mark.name)) if error.problem_mark else None)
    if isinstance(error, RecursionError):
        return Problem("a defaults list leads back to itself", "init.defaults", None, _file("", loader, own))
    cause = error.__cause__ if str(error).startswith("Error merging") and error.__cause__ is not None else error
    said = " ".join(f"{error} {cause}".split())
    guilty = next((o for o in overrides if o in str(error) or f"'{_key(o)}'" in said), None)
    missing = getattr(error, "missing_cfg_file", None)
    if isinstance(missing, str):
        group, _, name = missing.rpartition("/")
        guilty = guilty or next((o for o in overrides if _key(o).partition("@")[0] == group and name in o), None)
        source = f"override {guilty!r}" if guilty else _file(said, loader, own, name)
        kind, (above, _, own_name) = GROUPS.get(group, "configuration"), group.rpartition("/")
        if above and own_name not in (there := loader.list_groups(above)):
            groups = [other for other in there if other != "schema"]
            return Problem("there is no such group", "init.defaults", repr(own_name), source, did_you_mean(own_name, groups))
        return unknown(kind, group if guilty else "init.defaults", name, loader.get_group_options(group), source)
    source = f"override {guilty!r}" if guilty else _file(said, loader, own)
    key = _key(guilty) if guilty else "init"
    if key == "init.rules":
        slash = "rule files are chosen with a slash: init/rules=[roles,head]"
        return Problem("the rules are a mapping", "init", None, source, slash)
    for pattern, text, remedy in _TEXTS:
        if (found := re.search(pattern, said)) is not None:
            it = found.groupdict().get("it") or ""
            names = {"it": it, "key": key, "package": "@init.rules" if it == "init/rules" else ""}
            return Problem(text.format(**names), "init", None, source, remedy and remedy.format(**names))
    # Of Hydra alone, and without its advice, which is for other programs.
    foreign = isinstance(cause, OmegaConfBaseException) or type(cause).__module__ == "builtins"
    return Problem("Hydra cannot compose it" + ("" if foreign else f": {first_line(error)}"), "init", None, source)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _file(said: str, loader: Any, own: Own, name: str = "") -> str | None:
    """The file that Hydra was reading, of which its text says `In 'init/mine': ...`, and the line in which it names `name`."""
    match = re.match(r"In '?([^\s']+?)'?:? ", said)
    read = (own.get(match[1]) or find(loader.get_sources(), match[1])) if match else None
    places = [place for place in (read, *own.values()) if place is not None]
    for place, content in places:  # what a file names may be chosen by the one that names the file
        named = entries(yaml.compose(content, Loader=yaml.SafeLoader)) if name and isinstance(content, str) else []
        if line := next((node.start_mark.line + 1 for node in named if name in re.split(r"[\s/@]", node.value)), None):
            return f"{place}:{line}"
    return places[0][0] if places else None


# --- interpolations that do not resolve ------------------------------------------------------------------------------------


def resolving_problem(error: Exception, path: str | None, value: str | None, source: str | None, own: bool) -> Problem:
    """A value that cannot be resolved; `own`: with the resolvers of a scheme, not with those of an application."""
    said = first_line(error)
    root = "${...} begins at the root of the whole configuration (${init.gain}), or is relative: ${.gain}"
    text, remedy = "it cannot be resolved", None
    if isinstance(error, MissingMandatoryValue):
        value, text, remedy = None, "it must be given a value, and has none (???)", f"write {path}=VALUE on the command line"
    elif isinstance(error, UnsupportedInterpolationType):
        name = said.rpartition(" ")[2]
        text, remedy = f"no resolver is named {name!r}", "an application registers its own before it loads"
        if own:
            text = f"a scheme cannot call the resolver {name!r}, only {', '.join(RESOLVERS[:4])}"
            remedy = "a number may be an expression; an application resolves its own, and gives its node: load(cfg.init)"
    elif isinstance(error, InterpolationToMissingValueError):
        text, remedy = "it refers to a value that must be given, and has none (???)", "give that one a value"
    elif isinstance(error, InterpolationKeyError):
        found = re.search(r"Interpolation key '(.+?)' not found", said)
        text, remedy = (f"it refers to {found[1].lstrip('.')!r}, which is not there" if found else "it refers to nothing"), root
    elif isinstance(error, RecursionError) or said.startswith("Recursive"):
        text, remedy = "it refers to itself, perhaps by way of others", "give one of them a value"
    elif said == TOO_MANY:
        text = said
    elif "parent node" in said:
        text, remedy = "it refers to what it stands in", root
    elif found := re.search(r"Environment variable '(.+?)' not found", said):
        text = f"the environment variable {found[1]!r} is not set"
        remedy = f"set it, or say what stands for it: ${{oc.env:{found[1]},VALUE}}"
    elif "expecting" in said or "no viable" in said or "token recognition" in said:
        text, remedy = NO_INTERPOLATION
    elif found := re.match(r"(\w+) raised while resolving interpolation: (.*)", said):
        text = f"its resolver raised {found[1]}: {found[2]}"
    return Problem(text, path, value, source, remedy)

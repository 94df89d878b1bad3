"""Hydra, asked from within a program: a composition of our own beside whatever application is running."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra import initialize_config_dir, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.singleton import Singleton
from hydra.version import VersionBase

from initconf.errors import Problem, SpecError, near
from initconf.provenance import OVERRIDE, find
from initconf.reading import first_line, yaml_problem

SHIPPED = "initconf.conf"
OWN = "__mapping__"
"""The name under which a mapping is put before Hydra."""
# Hydra 1.4 deprecates the argument that 1.3 warns about where it is missing.
_HYDRA: dict[str, Any] = {} if tuple(map(int, hydra.__version__.split(".")[:2])) >= (1, 4) else {"version_base": "1.3"}
_LOCK = threading.RLock()
_KEY = re.compile(r"(init(\.[\w-]+)*|init(/[\w-]+)*)(@[\w.-]+)?")


@contextmanager
def hydra_of_our_own(config_dir: str | Path | None = None) -> Iterator[Any]:
    """A Hydra that finds the shipped schemes, behind those of `config_dir`; gives its config loader.

    Of a running application the very objects are put back afterwards. (Hydra itself would put back deep copies, which fails
    where a callback holds a lock, and leave its `version_base` changed.)
    """
    with _LOCK:
        kept = {kind: Singleton._instances.pop(kind, None) for kind in (GlobalHydra, VersionBase)}
        try:
            with _initialized(config_dir):
                yield GlobalHydra.instance().config_loader()
        finally:
            for kind, instance in kept.items():
                Singleton._instances.pop(kind, None)
                if instance is not None:
                    Singleton._instances[kind] = instance


def _initialized(config_dir: str | Path | None) -> Any:
    if config_dir is None:
        return initialize_config_module(SHIPPED, **_HYDRA)
    folder = Path(config_dir).absolute()
    if not folder.is_dir():
        raise SpecError(Problem("there is no such directory", "--config-dir", repr(str(config_dir))))
    return initialize_config_dir(str(folder), **_HYDRA)


def absolute(override: Any) -> str:
    """An override relative to the spec as one of the whole configuration, in which the spec stands at `init`.

    SpecError for one that does not parse, that sweeps, or that does not reach the spec.
    """
    match = OVERRIDE.fullmatch(override) if isinstance(override, str) else None
    if match is None:
        raise SpecError(Problem(f"an override is a string, not a {type(override).__name__}"))
    key = match["key"]
    if not (key in ("init", "hydra") or key.startswith(("init.", "init/", "init@", "hydra.", "hydra/", "hydra@"))):
        override = f"{match['sign'] or ''}init.{key}{match['value'] or ''}"
        key = f"init.{key}"
    parsed = parse(override)
    reaches = parsed.package is None or parsed.package == "init" or parsed.package.startswith("init.")
    if parsed.key_or_group.startswith("hydra") or not reaches:
        remedy = "an override is relative to the spec (gain=0.5), or begins with init. or init/"
        raise SpecError(Problem("the override does not reach the spec", None, None, f"override {override!r}", remedy))
    return str(override)


def parse(override: str) -> Override:
    """An override as Hydra reads it. SpecError for one that does not parse or that sweeps."""
    match = OVERRIDE.fullmatch(override)
    key = match["key"] if match else ""
    source = f"override {override!r}"
    try:
        parsed = OverridesParser.create().parse_override(override)
    except Exception as error:  # noqa: BLE001 - the parser raises whatever it stumbles over
        remedy = _quoted(match, key) if match else None
        raise SpecError(Problem(f"the override does not parse: {first_line(error)}", None, None, source, remedy)) from None
    if parsed.is_sweep_override():
        remedy = f"a sweep is run by Hydra, with -m; a list is written {key}=[...]"
        raise SpecError(Problem("the override gives several values, and a spec has one", None, None, source, remedy))
    return parsed


def _quoted(match: re.Match[str], key: str) -> str:
    if not _KEY.fullmatch(key):
        return "write key=value, where the key is names with dots between them: init.rules.head.gain=0.1"
    if match["value"] is None:
        return f"write {key}=VALUE"
    if match["value"][1:2] in ("{", "["):
        return 'put strings inside it in double quotes: {match: "^head\\.(a|b)$", gain: "1/sqrt(2)"}'
    text = match["value"][1:].strip("'\"")
    return f"single quotes for the shell, double quotes for Hydra: '{match['sign'] or ''}{key}=\"{text}\"'"


def hydra_problem(error: Exception, overrides: Sequence[str], loader: Any, own: dict[str, tuple[str, Any]]) -> Problem:
    """What Hydra refused to compose, and where that was said."""
    if isinstance(error, yaml.MarkedYAMLError):
        return yaml_problem(error)
    said = str(error).strip().splitlines() or [type(error).__name__]
    guilty = next((o for o in overrides if o in str(error) or f"'{o.lstrip('+~').partition('=')[0]}'" in said[0]), None)
    missing = getattr(error, "missing_cfg_file", None)
    if isinstance(missing, str):
        group, _, name = missing.rpartition("/")
        guilty = guilty or next((o for o in overrides if o.lstrip("+").startswith(f"{group}=") and name in o), None)
        source = f"override {guilty!r}" if guilty else _file(said[0], loader, own)
        kind = {"init": "scheme", "init/rules": "rule file"}.get(group, "configuration")
        return unknown(kind, group if guilty else "init.defaults", name, loader.get_group_options(group), source)
    source = f"override {guilty!r}" if guilty else _file(said[0], loader, own)
    if error.__cause__ is not None and said[0].startswith("Error merging"):
        said = [first_line(error.__cause__)]
    text = "; ".join(re.sub(r"^In '.+?': ", "", line.strip()).rstrip(".") for line in said if line.strip())
    remedy = None
    key = guilty.lstrip("+~").partition("=")[0] if guilty else ""
    if key == "init.rules":
        text, remedy = "the rules are a mapping", "rule files are chosen with a slash: init/rules=[roles,head]"
    elif "Config group override must be a string or a list" in text:
        guilty = next((o for o in overrides if "/" in o.partition("=")[0]), None)
        source, remedy = f"override {guilty!r}" if guilty else source, "for no rules, init/rules=none"
    elif "Could not delete" in text:
        remedy = f"to switch it off, {key}=null"
    elif "appears more than once" in text:
        remedy = "a spec starts from one scheme, and names its rule files in one list: rules: [roles, head]"
    return Problem(text, "init", None, source, remedy)


def unknown(kind: str, path: str, name: str, known: Sequence[str], source: str | None = None) -> Problem:
    """A name that nothing has."""
    there = sorted(option for option in known if option != OWN)
    close = near(name, there, 1)
    remedy = (f"did you mean {close[0]!r}? " if close else "") + f"there are: {', '.join(there)}" if there else None
    return Problem(f"no {kind} has this name", path, repr(name), source, remedy)


def _file(said: str, loader: Any, own: dict[str, tuple[str, Any]]) -> str | None:
    """The file that Hydra was reading, of which its text says `In 'init/mine': ...`."""
    match = re.match(r"In '(.+?)'", said)
    if match is None:
        return next(iter(own.values()))[0] if own else None
    if match[1] in own:
        return own[match[1]][0]
    found = find(loader, match[1])
    return found[0] if found else None

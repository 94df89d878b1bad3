"""Where every key of a composed configuration came from: which line of which file, or which override."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

PYTHON = "a mapping in Python"
"""The label of what came from no file."""
OVERRIDE = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[^=]*)(?P<value>=.*)?", re.DOTALL)


@dataclass
class Sources:
    """The files that made a configuration, in merge order, and the overrides after them."""

    files: list[tuple[str, tuple[str, ...], str | Mapping[str, Any]]] = field(default_factory=list)
    """(label, package, text of the YAML) of each file; of a mapping in Python the mapping."""
    overrides: list[str] = field(default_factory=list)
    prefix: tuple[str, ...] = ("init",)
    """The path of the spec in the whole configuration."""

    def of(self, path: str) -> str | None:
        """The last place that set a path relative to the spec."""
        chain = self.chain(path)
        return chain[-1] if chain else None

    def chain(self, path: str) -> list[str]:
        """Every place that set a path relative to the spec, weakest first."""
        parts = (*self.prefix, *path.split(".")) if path else self.prefix
        found = []
        for label, package, content in self.files:
            if parts[: len(package)] != package:
                continue
            rest = parts[len(package) :]
            if isinstance(content, str):
                if line := _line(content, rest):
                    found.append(f"{label}:{line}")
            elif rest and _holds(content, rest):
                found.append(label)
        return found + [f"override {override!r}" for override in self.overrides if _sets(override, parts)]


def _line(text: str, path: Sequence[str]) -> int | None:
    """The 1-based line of a key in a YAML text, None if it is not there."""
    node, line = _tree(text), None
    for part in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        hit = next(((k, v) for k, v in pairs if k.value == part), None)
        if hit is None:
            return None
        line, node = hit[0].start_mark.line + 1, hit[1]
    return line


def _holds(data: Any, path: Sequence[str]) -> bool:
    for part in path:
        if not isinstance(data, Mapping) or part not in data:
            return False
        data = data[part]
    return True


def _sets(override: str, path: Sequence[str]) -> bool:
    """Whether an override sets a path, something above it that holds it, or something below it."""
    match = OVERRIDE.fullmatch(override)
    target = match["key"].strip().split(".") if match else [""]
    if target == [""]:
        return False
    if len(target) >= len(path):
        return target[: len(path)] == list(path)
    value = _value(override)
    return target == list(path[: len(target)]) and (not isinstance(value, Mapping) or _holds(value, path[len(target) :]))


@lru_cache(maxsize=512)
def _value(override: str) -> Any:
    try:
        return OverridesParser.create().parse_override(override).value()
    except Exception:  # noqa: BLE001 - the boundary to Hydra's internals, as below
        return None


@lru_cache(maxsize=64)
def _tree(text: str) -> yaml.Node | None:
    """The nodes of a YAML text. Cached: whoever shows a whole spec asks once for each of its keys."""
    return yaml.compose(text, Loader=yaml.SafeLoader)


def collect(
    loader: Any,
    config_name: str | None,
    overrides: list[str],
    prefix: tuple[str, ...],
    own: Mapping[str, tuple[str, str | Mapping[str, Any]]],
) -> Sources:
    """Sources of what a Hydra loader composed; `own` maps config paths of mappings to their label and text.

    Hydra has no public way to ask this: should its internals move, keys lose their addresses and nothing else.
    """
    sources = Sources(prefix=prefix, overrides=[o for o in overrides if not _selects_group(o)])
    try:
        for default in loader.compute_defaults_list(config_name, overrides, RunMode.RUN).defaults:
            package = tuple(default.package.split(".")) if default.package else ()
            if default.config_path in own:
                sources.files.append((own[default.config_path][0], package, own[default.config_path][1]))
                continue
            if default.config_path and (found := find(loader, default.config_path)):
                sources.files.append((found[0], package, found[1]))
    except Exception:  # noqa: BLE001 - the boundary to Hydra's internals; addresses are a service, not a condition
        return Sources(prefix=prefix, overrides=sources.overrides)
    return sources


def _selects_group(override: str) -> bool:
    match = OVERRIDE.fullmatch(override)
    return match is None or "/" in match["key"] or match["key"].strip() == "init" or match["key"].startswith("hydra.")


def find(loader: Any, config_path: str) -> tuple[str, str] | None:
    """Where a Hydra loader finds a configuration, and its text; None for one that is in no file."""
    provider = next((s for s in loader.get_sources() if s.is_config(config_path)), None)
    if provider is None or provider.scheme() not in ("file", "pkg"):
        return None
    return _text(provider.scheme(), provider.path, config_path)


def _text(scheme: str, root: str, config_path: str) -> tuple[str, str]:
    if scheme == "pkg":
        from importlib.resources import files

        file = files(root.removeprefix("pkg://"))
        for part in f"{config_path}.yaml".split("/"):
            file = file / part
        return f"{root.removeprefix('pkg://').replace('.', '/')}/{config_path}.yaml", file.read_text(encoding="utf-8")
    path = Path(root.removeprefix("file://")) / f"{config_path}.yaml"
    return label(path), path.read_text(encoding="utf-8")


def label(path: Path) -> str:
    path = path.absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

"""Where every key of a composed configuration came from: which line of which file, or which override."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_repository import CachingConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

PYTHON = "python"
"""The label of what came from no file and no override."""
OVERRIDE = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[^=]*)(?P<value>=.*)?", re.DOTALL)
BASE = "init/schema/base"
"""The node that makes every key known; it sets none."""
_SCALARS = (str, int, float, bool)


@dataclass
class Sources:
    """The files that made a configuration, in merge order, and the overrides after them."""

    files: list[tuple[str, tuple[str, ...], str | Mapping[str, Any]]] = field(default_factory=list)
    """(label, package, text of the YAML) of each file; of what is in no file the mapping itself."""
    overrides: list[str] = field(default_factory=list)
    prefix: tuple[str, ...] = ("init",)
    """The path of the spec in the whole configuration."""
    base: Sources | None = None
    """Those of the spec that the overrides bend."""
    node: Mapping[str, Any] | None = None
    """What an application's node holds, unresolved: a program may have changed it after it was composed."""

    @property
    def root(self) -> str:
        """The path of the spec, as errors show it."""
        return self.base.root if self.base is not None else ".".join(self.prefix)

    def of(self, path: str) -> str | None:
        """The last place that set a path relative to the spec."""
        chain = self.chain(path)
        return chain[-1] if chain else None

    def chain(self, path: str) -> list[str]:
        """Every place that set a path relative to the spec, weakest first."""
        inside = path.split(".") if path else []
        if self.node is not None and not _holds(self.node, inside):
            return []
        parts, found, said = (*self.prefix, *inside), [], None
        for label, package, content in self.files:
            rest = parts[len(package) :]
            if parts[: len(package)] != package:
                continue
            if inside and not rest:  # the file is the whole of it
                found.append(label)
            elif not isinstance(content, str):
                if _holds(content, rest):
                    found.append(label)
                    said = value_at(content, rest)
            elif line := _line(content, rest):
                found.append(f"{label}:{line}")
                said = value_at(_data(content), rest)
            elif "<<" in content and _holds(_data(content), rest):  # merged from an anchor
                found.append(label)
                said = value_at(_data(content), rest)
        if self.base is not None:
            found += self.base.chain(path)
        for override in self.overrides:
            if _sets(override, parts):
                found.append(f"override {override!r}")
                said = value_at(_value(override), parts[len(_target(override)) :])
        if self.node is not None:
            now = value_at(self.node, inside)
            if isinstance(now, _SCALARS) and (not found or (isinstance(said, _SCALARS) and said != now)):
                found.append(PYTHON)
        return found

    def unfilled(self) -> list[str]:
        """Paths relative to the spec whose last word is ???: merging it over a value, OmegaConf loses it."""
        found: dict[str, None] = {}
        for n, (_, package, content) in enumerate(self.files):
            for rest in _open(content if not isinstance(content, str) else _data(content)):
                parts = (*package, *rest)
                later = (_said(*file[1:], parts) for file in self.files[n + 1 :])
                filled = any(holds and value != OPEN for holds, value in later) or any(_sets(o, parts) for o in self.overrides)
                if parts[: len(self.prefix)] == self.prefix and not filled:
                    found[".".join(parts[len(self.prefix) :])] = None
        return list(found)


OPEN = "???"
"""What stands for a value that must be given."""


def _open(data: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of what must be given."""
    for key, value in data.items() if isinstance(data, Mapping) else ():
        if value == OPEN:
            yield (*at, str(key))
        else:
            yield from _open(value, (*at, str(key)))


def _said(package: tuple[str, ...], content: str | Mapping[str, Any], parts: tuple[str, ...]) -> tuple[bool, Any]:
    """Whether a file says something at a path, and what."""
    if parts[: len(package)] != package:
        return False, None
    data, rest = _data(content) if isinstance(content, str) else content, parts[len(package) :]
    return _holds(data, rest), value_at(data, rest)


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


@lru_cache(maxsize=64)
def _data(text: str) -> Any:
    """What a YAML text holds, interpolations unresolved."""
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def value_at(data: Any, path: Sequence[str]) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


def _holds(data: Any, path: Sequence[str]) -> bool:
    for part in path:
        if not isinstance(data, Mapping) or part not in data:
            return False
        data = data[part]
    return True


def _sets(override: str, path: Sequence[str]) -> bool:
    """Whether an override sets a path, something above it that holds it, or something below it."""
    target = _target(override)
    if target == [""]:
        return False
    if len(target) >= len(path):
        return target[: len(path)] == list(path)
    value = _value(override)
    return target == list(path[: len(target)]) and (not isinstance(value, Mapping) or _holds(value, path[len(target) :]))


def _target(override: str) -> list[str]:
    match = OVERRIDE.fullmatch(override)
    return match["key"].strip().split(".") if match else [""]


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
    own: Mapping[str, tuple[str, str | Mapping[str, Any]] | None],
) -> Sources:
    """Sources of what a Hydra loader composed; `own` maps config paths of mappings to their label and text, or to None.

    Hydra has no public way to ask this: should its internals move, keys lose their addresses and nothing else.
    """
    try:
        repository = CachingConfigRepository(loader.repository)
        # The configuration may name further directories itself, in `hydra.searchpath`.
        loader._process_config_searchpath(config_name, OverridesParser.create().parse_overrides(overrides), repository)
        defaults = loader.compute_defaults_list(config_name, overrides, RunMode.RUN).defaults
    except Exception:  # noqa: BLE001 - the boundary to Hydra's internals; addresses are a service, not a condition
        return Sources(prefix=prefix, overrides=[o for o in overrides if not _selects_group(o)])
    return gathered(defaults, repository, overrides, prefix, own)


def gathered(
    defaults: Sequence[Any],
    repository: Any,
    overrides: list[str],
    prefix: tuple[str, ...],
    own: Mapping[str, tuple[str, str | Mapping[str, Any]] | None],
) -> Sources:
    """Sources of a defaults list, whose files a repository of Hydra finds; `own` as for `collect`."""
    sources = Sources(prefix=prefix, overrides=[o for o in overrides if not _selects_group(o)])
    try:
        for default in defaults:
            path = default.config_path
            if path is None or path == BASE or path.startswith("hydra/"):
                continue
            package = tuple(default.package.split(".")) if default.package else ()
            place = own[path] if path in own else find(repository.get_sources(), path) or _stored(repository, path)
            if place is not None:
                sources.files.append((place[0], package, place[1]))
    except Exception:  # noqa: BLE001 - as in `collect`
        return Sources(prefix=prefix, overrides=sources.overrides)
    return sources


def _stored(repository: Any, path: str) -> tuple[str, Mapping[str, Any]]:
    """What is in no file: a program put it into Hydra's ConfigStore."""
    content: Any = OmegaConf.to_container(repository.load_config(path).config, resolve=False)
    return f"ConfigStore {path}", content


def _selects_group(override: str) -> bool:
    match = OVERRIDE.fullmatch(override)
    return match is None or "/" in match["key"] or match["key"].strip() == "init" or match["key"].startswith("hydra.")


def find(places: Sequence[Any], config_path: str) -> tuple[str, str] | None:
    """In which of Hydra's config sources a configuration stands, and its text; None for one that is in no file."""
    provider = next((s for s in places if s.is_config(config_path)), None)
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

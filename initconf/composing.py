"""Hydra, asked from within a program: a composition of our own beside whatever application is running."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir, initialize_config_module
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.singleton import Singleton
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf

from initconf.errors import Problem, SpecError
from initconf.limits import LOCK, checked_files
from initconf.provenance import OVERRIDE
from initconf.refusals import group_problem, override_problem

SHIPPED = "initconf.conf"
# Hydra 1.4 deprecates the argument that 1.3 warns about where it is missing.
_HYDRA: dict[str, Any] = {} if tuple(map(int, hydra.__version__.split(".")[:2])) >= (1, 4) else {"version_base": "1.3"}


@contextmanager
def hydra_of_our_own(config_dir: str | Path | None = None) -> Iterator[Any]:
    """A Hydra that finds the shipped schemes, behind those of `config_dir`; gives its config loader.

    Of a running application the very objects are put back afterwards. (Hydra itself would put back deep copies, which fails
    where a callback holds a lock, and leave its `version_base` changed.)
    """
    with LOCK:
        kept = {kind: Singleton._instances.pop(kind, None) for kind in (GlobalHydra, VersionBase)}
        try:
            with checked_files(), _initialized(config_dir):
                loader: Any = GlobalHydra.instance().config_loader()
                path = loader.get_search_path()
                if all(item.path != f"pkg://{SHIPPED}" for item in path.get_path()):  # without the plugin
                    schema = path.get_path().pop()
                    path.append("initconf", f"pkg://{SHIPPED}")
                    path.get_path().append(schema)
                    loader.repository.initialize_sources(path)
                yield loader
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


def composed(loader: Any, overrides: list[str]) -> tuple[DictConfig, list[Any], Any]:
    """What Hydra composes of overrides, the defaults list that it made, and the repository in which it found the files.

    As `hydra.compose` does, but without Hydra's own configuration, which is most of its work and no part of a spec.
    """
    repository = CachingConfigRepository(loader.repository)
    parsed = OverridesParser.create().parse_overrides(overrides)
    chosen = create_defaults_list(
        repo=repository, config_name=None, overrides_list=parsed, prepend_hydra=False, skip_missing=False
    )
    config = loader._compose_config_from_defaults_list(defaults=chosen.defaults, repo=repository)
    OmegaConf.set_struct(config, True)
    loader._apply_overrides_to_config(chosen.config_overrides, config)
    return config, chosen.defaults, repository


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
    try:
        parsed = OverridesParser.create().parse_override(override)
    except Exception as error:  # noqa: BLE001 - the parser raises whatever it stumbles over
        raise SpecError(override_problem(override, error)) from None
    if parsed.is_sweep_override():
        key = parsed.get_key_element()
        remedy = f"a sweep is run by Hydra, with -m; a list is written {key}=[...]"
        text = "the override gives several values, and a spec has one"
        raise SpecError(Problem(text, None, None, f"override {override!r}", remedy))
    return parsed


def check_groups(lines: Sequence[str], loader: Any) -> None:
    """SpecError for an override that chooses what is in no group."""
    chosen = [parsed for line in lines if "/" in (parsed := parse(line)).key_or_group]
    problems = [group_problem(override, loader) for override in chosen]
    if found := [problem for problem in problems if problem is not None]:
        raise SpecError(found)

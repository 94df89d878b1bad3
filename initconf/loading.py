"""From YAML, overrides, DictConfigs and mappings to an InitSpec, in which every key knows where it came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from initconf.composing import absolute, check_groups, composed, hydra_of_our_own, parse
from initconf.errors import Problem, SpecError, did_you_mean
from initconf.limits import resolvers_of_schemes
from initconf.provenance import PYTHON, Sources, collect, find, gathered
from initconf.provenance import label as place_of
from initconf.reading import OUTSIDE, leads_out, plain, read
from initconf.reading import parse as parse_text
from initconf.refusals import OWN, hydra_problem, resolving_problem, unknown
from initconf.spec import InitSpec
from initconf.validating import created, rooted, shown, validated


def load(
    source: str | Path | Mapping[Any, Any] | DictConfig | InitSpec,
    overrides: Sequence[str] = (),
    *,
    config_dir: str | Path | None = None,
) -> InitSpec:
    """The spec that a user's words amount to.

    Args:
        source: the name of a scheme (`"he"`), the path of a YAML file, a mapping (which may carry a `defaults` list, as in
            `{"defaults": ["he"], "gain": 0.5}`), a Hydra node (`cfg.init`), or a spec.
        overrides: Hydra overrides, relative to the spec: `"gain=0.5"`, `"rules.head.gain=0.1"`; `"init.gain=0.5"` and
            `"init/rules=[roles,head]"` are understood too.
        config_dir: a directory whose `init/*.yaml` are found before the shipped schemes.

    Raises:
        SpecError: with every problem: its config path, value, source and remedy.

    >>> load("he", overrides=["gain=0.5"]).gain
    0.5
    """
    typed: Any = [overrides] if isinstance(overrides, str) else overrides
    if not isinstance(typed, Sequence):
        raise SpecError(Problem(f"overrides are a list of strings, not a {type(overrides).__name__}"))
    lines = _together(absolute, typed)
    if isinstance(source, InitSpec):
        return _bent(source, lines, config_dir) if lines else source
    if isinstance(source, DictConfig):
        spec = _from_node(source)
        return _bent(spec, lines, config_dir) if lines else spec
    if isinstance(source, Mapping):
        data = plain(source, "init")
        return _from_data(data, lines, config_dir, PYTHON, data)
    if isinstance(source, (str, Path)):
        path = Path(source)
        named = isinstance(source, Path) or path.suffix in (".yaml", ".yml")
        if named or (_is_file(path) and source not in schemes(config_dir)):  # a stray file `he` does not hide the scheme
            data, text = read(path)
            return _from_data(data, lines, _home(path, config_dir), place_of(path), text)
        return _composed(str(source), lines, config_dir, {})
    raise SpecError(
        Problem(
            f"not a spec: its type is {type(source).__name__}",
            remedy="give the name of a scheme, a path, a mapping, a DictConfig or an InitSpec",
        )
    )


def load_text(text: str, label: str, overrides: Sequence[str] = (), *, config_dir: str | Path | None = None) -> InitSpec:
    """The spec in a YAML text, which `label` names in errors; otherwise as `load`."""
    lines = _together(absolute, overrides)
    return _from_data(parse_text(text, label), lines, config_dir, label, text)


def schemes(config_dir: str | Path | None = None) -> list[str]:
    """The names of the schemes that `load` finds, sorted."""
    with hydra_of_our_own(config_dir) as loader:
        return sorted(loader.get_group_options("init"))


def rule_files(config_dir: str | Path | None = None) -> list[str]:
    """The names of the rule files that `init/rules=[...]` finds, sorted."""
    with hydra_of_our_own(config_dir) as loader:
        return sorted(loader.get_group_options("init/rules"))


def catalogue(group: str, config_dir: str | Path | None = None) -> dict[str, tuple[str, str]]:
    """The configurations of a group (`init` or `init/rules`) by name, sorted: where each stands, and its text."""
    with hydra_of_our_own(config_dir) as loader:
        places = loader.get_sources()
        found = {name: find(places, f"{group}/{name}") for name in sorted(loader.get_group_options(group))}
    return {name: place for name, place in found.items() if place is not None}


def load_application(
    config_dir: str | Path, config_name: str, overrides: Sequence[str] = (), *, node: str = "init"
) -> InitSpec:
    """The spec in an application's configuration, composed as the application itself would.

    Args:
        config_dir: the folder of the application's configuration.
        config_name: its primary configuration, without suffix.
        overrides: as on the application's command line.
        node: where in it the spec stands.

    Raises:
        SpecError: as `load`, and where there is no such folder, configuration or node.
    """
    folder, name = Path(config_dir).absolute(), config_name.removesuffix(".yaml")
    if not folder.is_dir():
        raise SpecError(Problem("there is no such directory", "--config-dir", repr(str(config_dir))))
    if not (folder / f"{name}.yaml").is_file():
        there = [path.stem for path in folder.glob("*.yaml")]
        raise SpecError(Problem("there is no such configuration", "--config-name", repr(name), None, did_you_mean(name, there)))
    typed, prefix = list(overrides), tuple(node.split("."))
    _together(parse, typed)  # its errors say more than those of `compose`
    with hydra_of_our_own(folder) as loader:
        try:
            whole = compose(name, typed)
            sources = collect(loader, name, typed, prefix, {})
        except SpecError:
            raise
        except Exception as error:  # noqa: BLE001 - as in `_composed`
            raise SpecError(hydra_problem(error, typed, loader, {})) from None
    try:
        part = OmegaConf.select(whole, node)
    except Exception as error:  # noqa: BLE001 - an interpolation may call any resolver of the application
        raise SpecError(resolving_problem(error, node, None, sources.of(""), own=False)) from None
    if not isinstance(part, DictConfig):
        there = [str(key) for key in whole]
        raise SpecError(Problem(f"the configuration {name!r} has no such node", node, remedy=did_you_mean(node, there)))
    return validated(part, sources, own=False)


# --- the ways in -----------------------------------------------------------------------------------------------------------


def _together(read: Callable[[Any], Any], overrides: Sequence[Any]) -> list[Any]:
    """What is read of each override. SpecError with the problems of all."""
    done, problems = [], list[Problem]()
    for override in overrides:
        try:
            done.append(read(override))
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return done


def _bent(spec: InitSpec, lines: list[str], config_dir: str | Path | None) -> InitSpec:
    """A spec with overrides. What they leave alone still comes from where the spec had it."""
    data = plain(literal(spec.model_dump(exclude_unset=True, warnings=False)), "init")
    return _composed(data, lines, config_dir, {f"init/{OWN}": None}, spec._sources or Sources([(PYTHON, ("init",), data)]))


def literal(value: Any) -> Any:
    """Values that are resolved already, so that what looks like an interpolation in them is not resolved again."""
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [literal(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _from_node(node: DictConfig) -> InitSpec:
    try:
        full = node._get_full_key(None) or ""
        said: Any = OmegaConf.to_container(node, resolve=False)
        composed = node._get_root()._get_flag("struct")  # Hydra sets it
    except Exception:  # noqa: BLE001 - OmegaConf's own bookkeeping, for the addresses of values only
        full, said, composed = "", None, True
    prefix = tuple(full.split(".")) if full else ()
    sources = Sources(prefix=prefix)
    if prefix and HydraConfig.initialized() and GlobalHydra.instance().is_initialized():
        running = HydraConfig.get()
        # As they were typed: an override that holds an interpolation would be resolved like any other value.
        as_typed: Any = OmegaConf.to_container(running.overrides, resolve=False)
        typed = [*as_typed["hydra"], *as_typed["task"]]
        sources = collect(GlobalHydra.instance().config_loader(), running.job.config_name, typed, prefix, {})
        composed = False
    if not composed and isinstance(said, dict):
        sources.node = said
    return validated(node, sources, own=False)


def _from_data(
    data: dict[str, Any], lines: list[str], config_dir: str | Path | None, label: str, content: str | Mapping[str, Any]
) -> InitSpec:
    """The spec of a file or a mapping, with all that its `defaults` name."""
    if "defaults" in data or lines:
        return _composed(data, lines, config_dir, {f"init/{OWN}": (label, content)})
    sources = Sources([(label, ("init",), content)])
    return validated(rooted(data, sources), sources)


def _composed(
    source: str | dict[str, Any],
    lines: list[str],
    config_dir: str | Path | None,
    own: dict[str, tuple[str, str | Mapping[str, Any]] | None],
    base: Sources | None = None,
) -> InitSpec:
    """The spec that Hydra composes; `own` is where a mapping came from, `base` where the values of a spec did."""
    place = next(iter(own.values()), None)
    label = place[0] if place else None
    # `init=glorot` among the overrides chooses another scheme.
    chosen = [line for line in lines if line.lstrip("+").startswith("init=")]
    if chosen:
        source, base = chosen[-1].partition("=")[2].strip("'\""), None
        lines = [line for line in lines if line not in chosen]
    with hydra_of_our_own(config_dir) as loader, resolvers_of_schemes():
        store, name = ConfigStore.instance(), source if isinstance(source, str) else OWN
        typed = [f"+init={name}", *lines]
        try:
            if isinstance(source, str):
                if source not in (known := loader.get_group_options("init")):
                    said = f"override {chosen[-1]!r}" if chosen else None
                    raise SpecError(unknown("scheme", "init", source, known, said))
            else:
                body = {**source, "defaults": _defaults(source.get("defaults"), label)}
                at_hand = Sources([(place[0], ("init",), place[1])] if place else [], base=base)
                store.store(group="init", name=name, node=created(body, source, at_hand))
            check_groups(lines, loader)
            config, defaults, repository = composed(loader, typed)
            sources = gathered(defaults, repository, typed, ("init",), own)
            node = config.get("init")
            data = OmegaConf.to_container(node, resolve=False) if isinstance(node, DictConfig) else None
        except SpecError:
            raise
        except Exception as error:  # noqa: BLE001 - Hydra raises whatever it stumbles over
            raise SpecError(hydra_problem(error, lines, loader, own)) from None
        finally:
            store.repo.get("init", {}).pop(f"{OWN}.yaml", None)
        if not isinstance(data, dict):
            raise SpecError(Problem("the spec is empty", "init", None, label, "choose a scheme: init=he"))
        sources.base = base
        return validated(rooted(plain(data, "init"), sources), sources)


def _defaults(value: Any, label: str | None) -> list[Any]:
    """The defaults list of a mapping, made so that overrides of any key work and the mapping's own keys win."""
    entries = [value] if isinstance(value, (str, dict)) else [] if value is None else value
    if not isinstance(entries, list) or not all(isinstance(entry, (str, dict)) for entry in entries):
        remedy = "write schemes and rule files: [he, {rules: [roles, head]}, _self_]"
        raise SpecError(Problem("not a defaults list", "init.defaults", shown(value), label, remedy))
    for entry in entries:
        for name in _texts([*entry.items()] if isinstance(entry, dict) else entry):
            if leads_out(name):
                raise SpecError(Problem(OUTSIDE[0], "init.defaults", shown(name), label, OUTSIDE[1]))
    said = [key for entry in entries if isinstance(entry, dict) for key in entry]
    if sorted(said, key=lambda key: str(key).startswith("override ")) != said:
        text, remedy = "what its defaults override stands before what they choose", "put it behind"
        raise SpecError(Problem(text, "init.defaults", shown(value), label, remedy))
    # A scheme brings both itself; else they make keys known, and `init/rules=[...]` possible.
    base: dict[str, Any] = {"optional schema@_here_": "base"}
    slot: dict[str, Any] = {"rules": []}
    front = []
    if not any(isinstance(e, str) and e != "_self_" for e in entries):
        front = [item for item in (base, slot) if not set(said) & set(item)]
    return [*front, *entries, *([] if "_self_" in entries else ["_self_"])]


def _texts(values: Any) -> list[str]:
    """The strings in a value of a defaults list."""
    if isinstance(values, (list, tuple)):
        return [text for value in values for text in _texts(value)]
    return [values] if isinstance(values, str) else []


def _home(path: Path, config_dir: str | Path | None) -> str | Path | None:
    """A file in a folder `init` may name its neighbours in its defaults list."""
    return path.absolute().parent.parent if config_dir is None and path.absolute().parent.name == "init" else config_dir


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False

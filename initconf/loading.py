"""From YAML, overrides, DictConfigs and mappings to an InitSpec, in which every key knows where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from initconf.errors import Problem, SpecError, did_you_mean, near
from initconf.provenance import OVERRIDE, PYTHON, Sources, collect, find
from initconf.provenance import label as shown
from initconf.spec import SELECTORS, SETTINGS, InitSpec, Rule

# Hydra 1.4 deprecates the argument that 1.3 warns about where it is missing.
_HYDRA: dict[str, Any] = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}
_SHIPPED = "initconf.conf"


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
    if isinstance(source, InitSpec):
        return _bent(source, list(overrides), config_dir) if overrides else source
    overrides = list(overrides)
    try:
        if isinstance(source, DictConfig):
            return _from_node(source, overrides)
        if isinstance(source, Mapping):
            return _from_mapping(source, overrides, config_dir, label=None)
        if isinstance(source, (str, Path)):
            path = Path(source)
            if path.suffix in (".yaml", ".yml") or _is_file(path):
                return _from_mapping(_read(path), overrides, _home(path, config_dir), label=path)
            return _composed(str(source), overrides, config_dir, None)
    except RecursionError:
        raise SpecError("the configuration is nested too deeply") from None
    raise SpecError(
        Problem(
            f"a {type(source).__name__} is not a spec",
            remedy="give the name of a scheme, a path, a mapping, a DictConfig or an InitSpec",
        )
    )


def schemes(config_dir: str | Path | None = None) -> list[str]:
    """The names of the schemes that `load` finds, sorted."""
    with _hydra(config_dir):
        return sorted(GlobalHydra.instance().config_loader().get_group_options("init"))


def rule_files(config_dir: str | Path | None = None) -> list[str]:
    """The names of the rule files that `init/rules=[...]` finds, sorted."""
    with _hydra(config_dir):
        return sorted(GlobalHydra.instance().config_loader().get_group_options("init/rules"))


def catalogue(group: str, config_dir: str | Path | None = None) -> dict[str, tuple[str, str]]:
    """The configurations of a group (`init` or `init/rules`) by name, sorted: where each stands, and its text."""
    with _hydra(config_dir):
        loader = GlobalHydra.instance().config_loader()
        found = {name: find(loader, f"{group}/{name}") for name in sorted(loader.get_group_options(group))}
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
    with initialize_config_dir(str(folder), **_HYDRA):
        try:
            whole = compose(name, typed)
            sources = collect(GlobalHydra.instance().config_loader(), name, typed, prefix, {})
        except yaml.MarkedYAMLError as error:
            raise SpecError(_yaml_problem(error, "init")) from None
        except (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, AssertionError) as error:
            raise SpecError(_hydra_problem(error, typed, None)) from None
    try:
        part = OmegaConf.select(whole, node)
    except OmegaConfBaseException as error:
        raise SpecError(Problem(_first_line(error), node)) from None
    if not isinstance(part, DictConfig):
        there = [str(key) for key in whole]
        raise SpecError(Problem(f"the configuration {name!r} has no such node", node, remedy=did_you_mean(node, there)))
    return validate(_resolve(part, node), sources)


# --- the ways in -----------------------------------------------------------------------------------------------------------


def _bent(spec: InitSpec, overrides: list[str], config_dir: str | Path | None) -> InitSpec:
    bent = load(spec.model_dump(exclude_none=True, mode="json", warnings=False), overrides, config_dir=config_dir)
    # What the overrides leave alone still comes from where the spec had it.
    if (known := spec._sources) is not None and known.prefix == bent._sources.prefix:
        bent._sources.files = known.files
        bent._sources.overrides = [*known.overrides, *bent._sources.overrides]
    else:
        bent._sources.files = []
    return bent


def _from_node(node: DictConfig, overrides: list[str]) -> InitSpec:
    try:
        full = node._get_full_key(None) or ""
    except OmegaConfBaseException:
        full = ""
    prefix = tuple(full.split(".")) if full else ()
    data = _resolve(node, full or "init")
    if overrides:
        return _from_mapping(data, overrides, None, label=None)
    sources = Sources(prefix=prefix)
    if HydraConfig.initialized() and GlobalHydra.instance().is_initialized():
        running = HydraConfig.get()
        typed = [*running.overrides.hydra, *running.overrides.task]
        sources = collect(GlobalHydra.instance().config_loader(), running.job.config_name, typed, prefix, {})
    return validate(data, sources)


def _from_mapping(data: Mapping[Any, Any], overrides: list[str], config_dir: str | Path | None, label: Path | None) -> InitSpec:
    if "defaults" in data or overrides:
        return _composed(dict(data), overrides, config_dir, label)
    try:
        node = OmegaConf.create(dict(data))
    except (OmegaConfBaseException, ValueError, TypeError, yaml.YAMLError) as error:
        raise SpecError(Problem(_first_line(error), path="init", source=shown(label) if label else None)) from None
    sources = Sources(prefix=("init",))
    if label:
        sources.files.append((shown(label), ("init",), label.read_text(encoding="utf-8")))
    return validate(_resolve(node, "init"), sources)


def _composed(
    source: str | dict[Any, Any], overrides: list[str], config_dir: str | Path | None, label: Path | None
) -> InitSpec:
    own: dict[str, tuple[str, str]] = {}
    lines = [_absolute(o) for o in overrides]
    # `init=glorot` among the overrides chooses another scheme.
    if chosen := [o for o in lines if o.startswith("init=")]:
        source = chosen[-1].removeprefix("init=")
        lines = [o for o in lines if not o.startswith("init=")]
    with _hydra(config_dir) as extra:
        loader = GlobalHydra.instance().config_loader()
        store = ConfigStore.instance()
        name = source if isinstance(source, str) else "__mapping__"
        if isinstance(source, str):
            known = loader.get_group_options("init")
            if source not in known:
                raise SpecError(_no_scheme(source, known))
        else:
            body = dict(source)
            body["defaults"] = _defaults(body.get("defaults", []))
            try:
                made = OmegaConf.create(body)
                text = label.read_text(encoding="utf-8") if label else OmegaConf.to_yaml(made)
                own[f"init/{name}"] = (shown(label) if label else PYTHON, text)
                store.store(group="init", name=name, node=made)
            except (OmegaConfBaseException, ValueError, TypeError) as error:
                raise SpecError(Problem(_first_line(error), path="init", source=shown(label) if label else None)) from None
        typed = [f"+init={name}", *extra, *lines]
        try:
            node = compose(overrides=typed).get("init")
            sources = collect(loader, None, typed, ("init",), own)
        except yaml.MarkedYAMLError as error:
            raise SpecError(_yaml_problem(error, "init")) from None
        except (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError, AssertionError) as error:
            raise SpecError(_hydra_problem(error, lines, shown(label) if label else None)) from None
        finally:
            store.repo.get("init", {}).pop("__mapping__.yaml", None)
    if not isinstance(node, DictConfig):
        raise SpecError(Problem("the spec is empty", path="init", remedy="choose a scheme: init=he"))
    return validate(_resolve(node, "init"), sources)


def _hydra(config_dir: str | Path | None) -> Any:
    """A Hydra composition of its own, in which `init` is found; whatever application is running is put back afterwards."""
    return _Hydra(config_dir)


class _Hydra:
    def __init__(self, config_dir: str | Path | None):
        self.extra: list[str] = []
        if config_dir is None:
            self.inner: Any = initialize_config_module(_SHIPPED, **_HYDRA)
            return
        folder = Path(config_dir).absolute()
        if not folder.is_dir():
            raise SpecError(Problem("there is no such directory", path="--config-dir", value=str(config_dir)))
        self.inner = initialize_config_dir(str(folder), **_HYDRA)
        self.extra = [f"hydra.searchpath=[pkg://{_SHIPPED}]"]

    def __enter__(self) -> list[str]:
        self.inner.__enter__()
        return self.extra

    def __exit__(self, *exc: Any) -> None:
        self.inner.__exit__(*exc)


def _absolute(override: str) -> str:
    """An override relative to the spec, as one of the whole configuration."""
    match = OVERRIDE.fullmatch(override)
    if match is None or not match["key"]:
        return override
    key = match["key"]
    if key == "init" or key.startswith(("init.", "init/", "init@", "hydra.", "hydra/")) or "@init." in key:
        return override
    return f"{match['sign'] or ''}init.{key}{match['value'] or ''}"


def _defaults(value: Any) -> list[Any]:
    """The defaults list of a mapping, made so that overrides of any key work and the mapping's own keys win."""
    entries = [value] if isinstance(value, str) else list(value)
    base = {"optional schema@_here_": "base"}
    based = base in entries or any(isinstance(e, str) and e != "_self_" for e in entries)  # a scheme brings the base itself
    return [*([] if based else [base]), *entries, *([] if "_self_" in entries else ["_self_"])]


def _home(path: Path, config_dir: str | Path | None) -> str | Path | None:
    """A file in a folder `init` may name its neighbours in its defaults list."""
    return path.absolute().parent.parent if config_dir is None and path.absolute().parent.name == "init" else config_dir


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _read(path: Path) -> dict[Any, Any]:
    label = str(path)
    try:
        node = OmegaConf.load(path)
    except FileNotFoundError:
        raise SpecError(
            Problem("there is no such file", path=label, remedy="a scheme by name has no suffix: init=he")
        ) from None
    except yaml.MarkedYAMLError as error:
        raise SpecError(_yaml_problem(error, label)) from None
    except (OSError, UnicodeError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise SpecError(Problem(f"cannot be read: {_first_line(error)}", path=label)) from None
    if not isinstance(node, DictConfig):
        raise SpecError(Problem("not a mapping of settings", path=label))
    return OmegaConf.to_container(node, resolve=False)  # type: ignore[return-value]


def _yaml_problem(error: yaml.MarkedYAMLError, label: str) -> Problem:
    mark = error.problem_mark
    return Problem(
        f"not YAML: {error.problem}", path=f"{mark.name if label == 'init' else label}:{mark.line + 1}" if mark else label
    )


def _resolve(node: DictConfig, where: str) -> dict[Any, Any]:
    try:
        data = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        path = str(getattr(error, "full_key", "") or "")
        path = path if path.split(".")[0] == where.split(".")[0] else ".".join(p for p in (where, path) if p)
        remedy = "give it a value" if "missing" in _first_line(error).lower() else None
        raise SpecError(Problem(_first_line(error), path=path, remedy=remedy)) from None
    if not isinstance(data, dict):
        raise SpecError(Problem("the spec is empty", path=where, remedy="choose a scheme: init=he"))
    return data


# --- the boundary to pydantic ----------------------------------------------------------------------------------------------


def validate(data: Mapping[Any, Any], sources: Sources) -> InitSpec:
    """The spec of a resolved mapping; SpecError with every problem, each with its address."""
    try:
        spec = InitSpec.model_validate(dict(data))
    except ValidationError as error:
        raise SpecError([_problem(e, data, sources) for e in error.errors(include_url=False)]) from None
    spec._sources = sources
    spec._prefix = ".".join(sources.prefix)
    return spec


def _problem(error: Any, data: Mapping[Any, Any], sources: Sources) -> Problem:
    path = ".".join(str(part) for part in error["loc"])
    value = None if isinstance(error["input"], Mapping) else repr(error["input"])
    full = ".".join([*sources.prefix, path] if path else sources.prefix) or "spec"
    source = sources.of(path)
    if error["type"] == "initconf":
        remedy = error["ctx"]["remedy"]
        if error["loc"][:1] == ("rules",) and len(error["loc"]) == 2 and "selects nothing" in error["ctx"]["text"]:
            others = [name for name in data["rules"] if name != error["loc"][1]]
            if close := near(str(error["loc"][1]), others, 1):
                remedy = f"did you mean the rule {close[0]!r}? a new rule needs one of {', '.join(SELECTORS)}"
        return Problem(error["ctx"]["text"], full, value, source, remedy)
    if error["type"] == "extra_forbidden":
        known = [*(Rule if len(error["loc"]) == 3 and error["loc"][0] == "rules" else InitSpec).model_fields]
        key = str(error["loc"][-1])
        text = f"{key!r} is not a key of a {'rule' if len(error['loc']) == 3 else 'spec'}"
        remedy = did_you_mean(key, known)
        if not near(key, known, 1) and key not in SETTINGS:
            remedy += "; an argument of an initializer stands in initializer: {name: ..., " + key + ": ...}"
        return Problem(text, full, value, source, remedy)
    return Problem(error["msg"].lower(), full, value, source)


def _no_scheme(name: str, known: Sequence[str]) -> Problem:
    close = near(name, known, 1)
    remedy = (f"did you mean {close[0]!r}? " if close else "") + f"there are: {', '.join(sorted(known))}"
    return Problem("no scheme has this name", "init", repr(name), None, remedy)


def _hydra_problem(error: Exception, overrides: list[str], label: str | None) -> Problem:
    text = _first_line(error)
    guilty = next(
        (o for o in overrides if o in str(error) or (OVERRIDE.fullmatch(o) or {"key": ""})["key"].strip("+~") in text), None
    )
    remedy = None
    if guilty and type(error).__name__ == "OverrideParseException":
        return Problem(
            f"the override does not parse: {text}",
            source=f"override {guilty!r}",
            remedy="single quotes for the shell, double quotes for Hydra: 'init.rules.x.match=\"^head\\.(a|b)$\"'",
        )
    return Problem(text, "init", None, f"override {guilty!r}" if guilty else label, remedy)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(":") if lines else type(error).__name__

"""What an override may be while it is typed: the keys of a spec, their values, and the rules of the scheme that is chosen.

A scheme is read from its file and those that its defaults list names, in Hydra's order but without Hydra, which would take too
long at a prompt. What is missed by that (resolvers, an application's own search path) is not offered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from initconf import docstrings
from initconf.cli.catalogue import comment
from initconf.cli.typed import Candidate, Typed
from initconf.spec import ROLE_MEANINGS, DeclaredLayout, DeclaredTargets, InitSpec, Rule

if TYPE_CHECKING:
    from initconf.registry import Initializer

Steps = tuple[str, ...]
"""A path inside the spec: ("rules", "head", "gain")."""
Body = dict[str, Any]

_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_GROUP = re.compile(r"(?P<group>init(/\w+)?)(@(init\.)?(?P<package>[\w.]*))?")
_MODELS: dict[str, type[BaseModel]] = {"rules": Rule, "layouts": DeclaredLayout, "targets": DeclaredTargets}
_NAMED = ("initializer", "nonlinearity")
"""Keys that hold a name, or a mapping in which it stands."""


def overrides(typed: Typed, current: str) -> Iterator[Candidate]:
    """What an override that begins so may become."""
    sign = current[: len(current) - len(current.lstrip("+~"))]
    key, equals, value = current.removeprefix(sign).partition("=")
    if not equals:
        found: Iterable[Candidate] = _keys(typed, key, sign)
    elif match := _GROUP.fullmatch(key):
        found = ((f"{key}={word}", text) for word, text in _chosen(typed, match["group"], value))
    else:
        found = ((f"{key}={word}", text) for word, text in _values(typed, tuple(key.removeprefix("init.").split("."))))
    yield from ((f"{sign}{word}", text) for word, text in found)


# --- keys ------------------------------------------------------------------------------------------------------------------


def _keys(typed: Typed, key: str, sign: str) -> Iterator[Candidate]:
    parent, dot, last = key.rpartition(".")
    if not dot:
        yield "init=", "the scheme"
        yield "init/rules=", "its rule files"
        yield "init.", "a setting of it"
    if sign.startswith("+"):
        yield "init/rules@init.rules=", "one more rule file"
        yield "init/rule@init.rules.", "a ready-made rule, by a name of your own"
    if parent != "init" and not parent.startswith("init.") and not last and not dot:
        return  # keys without `init.` are understood, and offered to those who begin one
    steps = tuple(step for step in parent.removeprefix("init").strip(".").split(".") if step)
    for name, (ends, text) in _children(_body(typed), steps).items():
        # Both ways on are offered where the name is complete.
        for end in ends if name == last else ends[:1]:
            yield f"{parent}{dot}{name}{end}", text


def _children(body: Mapping[str, Any], steps: Steps) -> dict[str, tuple[str, str]]:
    """The keys below a path, the characters that may follow each (the usual first), and what each means."""
    match steps:
        case (*_, "initializer"):
            arguments = _initializer(body, steps).arguments
            told = docstrings.arguments(_initializer(body, steps).fn.__doc__)
            return {"name": ("=", "")} | {name: ("=", told.get(name, "")) for name in arguments}
        case (*_, "nonlinearity"):
            from initconf import activations

            return {"name": ("=", "")} | dict.fromkeys(activations.describe(_name(body, steps) or "linear"), ("=", ""))
        case ("rules" | "layouts" | "targets" as place,):
            return dict.fromkeys(body.get(place) or {}, (".=", ""))
        case () | ("rules" | "layouts" | "targets", _):
            model = _MODELS[steps[0]] if steps else InitSpec
            told = docstrings.fields(model)
            ends = dict.fromkeys(_NAMED, "=.") | dict.fromkeys(_MODELS, ".")
            return {name: (ends.get(name, "="), told.get(name, "")) for name in model.model_fields}
    return {}


def _name(body: Mapping[str, Any], steps: Steps) -> str | None:
    """What a key of _NAMED names, in the spec as it is so far."""
    value: Any = body
    for step in steps:
        value = value.get(step) if isinstance(value, Mapping) else None
    name = value.get("name") if isinstance(value, Mapping) else value
    return name if isinstance(name, str) else None


def _initializer(body: Mapping[str, Any], steps: Steps) -> Initializer:
    from initconf import registry

    return registry.find(_name(body, steps) or _name(body, ("initializer",)) or "variance_scaling")


# --- values ----------------------------------------------------------------------------------------------------------------


def _values(typed: Typed, steps: Steps) -> Iterator[Candidate]:
    *above, last = steps
    body = _body(typed)
    kind = above[-1] if last == "name" and above else last
    if last not in _children(body, tuple(above)):
        return
    if kind == "initializer":
        from initconf import registry

        for name in registry.names():
            text = docstrings.summary(registry.find(name).fn.__doc__)
            yield from ((one, text) for one in (name, *registry.aliases_of(name)))
    elif kind == "nonlinearity":
        from initconf import activations

        yield from ((name, "") for name in (*activations.names(), "auto"))
    elif above[-1:] == ["initializer"]:
        argument = _initializer(body, tuple(above)).arguments[last]
        yield from ((word, "") for word in _choices(argument.type.json_schema()))
    elif len(steps) in (1, 3):
        model = _MODELS[steps[0]] if above else InitSpec
        yield from ((word, ROLE_MEANINGS.get(word, "")) for word in _choices(model.model_json_schema()["properties"][last]))
    yield "null", "switched off" if above == ["rules"] else "not set"


def _choices(schema: Mapping[str, Any]) -> list[str]:
    """The words that a JSON Schema names."""
    parts = [*schema.get("anyOf", []), *([schema["items"]] if isinstance(schema.get("items"), dict) else [])]
    own = ["true", "false"] if schema.get("type") == "boolean" else schema.get("enum", [])
    own = own or ([schema["const"]] if "const" in schema else [])
    return [*own, *(word for part in parts for word in _choices(part))]


# --- configurations --------------------------------------------------------------------------------------------------------


def _chosen(typed: Typed, group: str, value: str) -> Iterator[Candidate]:
    """What may be chosen from a group: one, or a list of rule files."""
    names = configurations(typed, group)
    if not value.startswith("["):
        yield from names
        return
    items = value[1:].split(",")
    head = value[: len(value) - len(items[-1])]
    for name, text in names:
        if name == items[-1]:
            yield from ((f"{value}{end}", "") for end in "],")
        elif name not in items:
            yield f"{head}{name}", text


def configurations(typed: Typed, group: str) -> list[Candidate]:
    """The configurations of a group, and what the comments at their heads say."""
    files = _files(typed, group)
    return [(name, comment(files[name].read_text(encoding="utf-8"))) for name in sorted(files)]


def _files(typed: Typed, group: str) -> dict[str, Path]:
    shipped = find_spec("initconf.conf")
    own = [typed.options["config_dir"]] if "config_dir" in typed.options else []
    folders = [*((shipped and shipped.submodule_search_locations) or ()), *own]  # the user's own win
    return {file.stem: file for folder in folders for file in (Path(folder).expanduser() / group).glob("*.yaml")}


def _body(typed: Typed) -> Body:
    """The spec that the line amounts to so far, as far as its files tell."""
    said = [word.lstrip("+").partition("=") for word in typed.words]
    application = _application(typed)
    scheme = next((value for key, _, value in reversed(said) if key == "init"), application[0])
    listed = next((value for key, _, value in said if key == "init/rules"), None)
    body = _composed(typed, "init", scheme, None if listed is None else _items(listed))
    _merge(body, application[1])
    for key, _, value in said:
        if (match := _GROUP.fullmatch(key)) is None:
            _merge(body, _nested(key.removeprefix("init."), value))
        elif match["package"]:
            for name in _items(value):
                _merge(body, _nested(match["package"], _composed(typed, match["group"], name)))
    return body


def _application(typed: Typed) -> tuple[str, Body]:
    """The scheme and the spec in an application's configuration; without one, the rules that nearly every scheme has."""
    if "config_name" not in typed.options or "config_dir" not in typed.options:
        return "he", {}
    data = _read(Path(typed.options["config_dir"]).expanduser() / f"{typed.options['config_name']}.yaml")
    entries = [entry for entry in data.get("defaults") or [] if isinstance(entry, dict)]
    return next((str(entry["init"]) for entry in entries if "init" in entry), "he"), data.get("init") or {}


def _composed(typed: Typed, group: str, name: str, listed: list[str] | None = None) -> Body:
    """A configuration with all that its defaults list names; `listed` are rule files instead of those in it."""
    whole: Body = {}
    body = _read(_files(typed, group).get(name) or Path(name))
    entries = body.pop("defaults", None) or []
    for entry in [*entries, *([] if "_self_" in entries else ["_self_"])]:
        if entry == "_self_":
            _merge(whole, body)
        elif isinstance(entry, str):
            _merge(whole, _composed(typed, group, entry, listed))
        elif "rules" in entry:
            for file in _items(entry["rules"]) if listed is None else listed:
                _merge(whole, {"rules": _composed(typed, "init/rules", file)})
    return whole


def _items(value: Any) -> list[str]:
    items = value.strip("[]").split(",") if isinstance(value, str) else value or []
    return [str(item).strip() for item in items]


def _nested(path: str, value: Any) -> Body:
    for step in reversed(path.split(".")):
        value = {step: value}
    return dict(value)


def _merge(into: Body, more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value)
        else:
            into[key] = value


def _read(file: Path) -> Body:
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), _YAML)
    except (OSError, ValueError, yaml.YAMLError):  # it is being written, perhaps
        return {}
    return data if isinstance(data, dict) else {}

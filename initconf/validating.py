"""From a node of OmegaConf to an InitSpec: resolved, checked, and with an address for everything that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import GrammarParseError, MissingMandatoryValue
from pydantic import BaseModel, ValidationError

from initconf.errors import Problem, SpecError, did_you_mean, near
from initconf.limits import few_interpolations, resolvers_of_schemes
from initconf.provenance import Sources, value_at
from initconf.reading import NO_INTERPOLATION, first_line, plain
from initconf.refusals import TOO_MANY, resolving_problem
from initconf.spec import SELECTORS, SETTINGS, DeclaredLayout, DeclaredTarget, DeclaredTargets, InitSpec, Rule

_MODELS: dict[tuple[str, int], tuple[str, type[BaseModel]]] = {
    ("rules", 3): ("rule", Rule),
    ("layouts", 3): ("layout", DeclaredLayout),
    ("targets", 3): ("set of targets", DeclaredTargets),
    ("targets", 5): ("target", DeclaredTarget),
}
"""What has keys: by where it stands in a spec, and how deep the key lies."""
_WIDEST = 100
"""How much of a value an error shows."""


def rooted(data: dict[str, Any], sources: Sources) -> DictConfig:
    """The node of a spec. Its interpolations may begin at the spec (`${gain}`) or at the configuration (`${init.gain}`)."""
    node = created({**data, "init": data}, data, sources)._get_node("init")
    assert isinstance(node, DictConfig)
    return node


def created(body: dict[str, Any], data: dict[str, Any], sources: Sources) -> DictConfig:
    """The node of `body`. SpecError for what OmegaConf cannot make a node of, most of which is in `data`."""
    try:
        return OmegaConf.create(body)
    except Exception as error:  # noqa: BLE001 - keys and strings may be anything that OmegaConf's grammar stumbles over
        raise SpecError(_no_nodes(data, sources) or Problem(first_line(error), sources.root)) from None


def _no_nodes(data: Any, sources: Sources, path: str = "") -> list[Problem]:
    """The strings of which OmegaConf cannot make nodes: a `${` that begins no interpolation."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    found = [p for key, item in items for p in _no_nodes(item, sources, f"{path}.{key}".lstrip("."))]
    if isinstance(data, str) and "${" in data:
        try:
            OmegaConf.create({"it": data})
        except (GrammarParseError, RecursionError):
            found.append(
                Problem(NO_INTERPOLATION[0], f"{sources.root}.{path}", shown(data), sources.of(path), NO_INTERPOLATION[1])
            )
    return found


def validated(node: DictConfig, sources: Sources, own: bool = True) -> InitSpec:
    """The spec of a node; SpecError with every problem, each with its address.

    `own`: of a scheme or a mapping, not of an application's configuration, which may call the application's resolvers.
    """
    with few_interpolations(), resolvers_of_schemes() if own else nullcontext():
        data, failed = _resolved(node)
    problems = []
    lost = [path for path in sources.unfilled() if own or value_at(data, path.split(".")) is None]
    failed += [(path, MissingMandatoryValue("???")) for path in lost if path not in dict(failed)]
    for path, why in failed:
        full = ".".join(part for part in (sources.root, path) if part) or None
        problems.append(resolving_problem(why, full, _unresolved(node, path), sources.of(path) if path else None, own))
    if not isinstance(data, dict) and not problems:
        raise SpecError(Problem("the spec is empty", sources.root or None, remedy="choose a scheme: init=he"))
    data = plain(data, sources.root or "spec") if isinstance(data, dict) else {}
    unread = [problem.path or "" for problem in problems]
    try:
        spec = InitSpec.model_validate(data)
    except ValidationError as error:
        # What stands around a value that could not be read may seem wrong for want of it alone.
        found = (_problem(e, data, sources) for e in error.errors(include_url=False))
        problems += [problem for problem in found if not any(path.startswith(problem.path or "") for path in unread)]
    if problems:
        raise SpecError(problems)
    spec._sources = sources
    spec._prefix = sources.root
    return spec


def _resolved(node: DictConfig) -> tuple[Any, list[tuple[str, Exception]]]:
    """The node as plain data, with null for what does not resolve, and why it does not."""
    try:
        return OmegaConf.to_container(node, resolve=True, throw_on_missing=True), []
    except Exception as error:  # noqa: BLE001 - an interpolation may call any resolver of the application
        if str(error).startswith(TOO_MANY):
            return None, [("", error)]
        failed: list[tuple[str, Exception]] = []
        data = _piecewise(node, "", failed)
        return data, failed or [("", error)]


def _piecewise(node: Any, path: str, failed: list[tuple[str, Exception]]) -> Any:
    """What resolves of a node, and the paths of what does not."""
    try:
        keys = range(len(node)) if isinstance(node, ListConfig) else [*node]
    except Exception as error:  # noqa: BLE001 - as above
        failed.append((path, error))
        return None
    done = {}
    for key in keys:
        where = f"{path}.{key}".lstrip(".")
        try:
            value = node[key]
            if isinstance(value, (DictConfig, ListConfig)):
                if OmegaConf.is_interpolation(node, key):  # perhaps to something that refers back
                    value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
                else:
                    value = _piecewise(value, where, failed)
            done[key] = value
        except Exception as error:  # noqa: BLE001 - as above
            failed.append((where, error))
            done[key] = None
    return [*done.values()] if isinstance(node, ListConfig) else done


def _unresolved(node: DictConfig, path: str) -> str | None:
    """The value at a path as it was written."""
    data: Any = OmegaConf.to_container(node, resolve=False)
    for part in path.split(".") if path else ():
        data = data[int(part)] if isinstance(data, list) else data[part] if isinstance(data, dict) and part in data else None
    return shown(data) if isinstance(data, str) else None


def _problem(error: Any, data: Mapping[Any, Any], sources: Sources) -> Problem:
    at = [part for part in error["loc"] if part != "[key]"]
    if at[:1] == ["targets"] and at[2:3] == ["tensors"] and not isinstance(data["targets"][at[1]], Mapping):
        del at[2]  # a list of targets stands for a mapping that holds it
    path = ".".join(map(str, at))
    value = None if isinstance(error["input"], Mapping) else shown(error["input"])
    full = ".".join(part for part in (sources.root, path) if part) or "spec"
    source = sources.of(path) or (sources.of(".".join(map(str, at[:2]))) if at[:1] == ["targets"] else None)
    if error["type"] == "initconf":
        remedy = error["ctx"]["remedy"]
        if error["loc"][:1] == ("rules",) and len(error["loc"]) == 2 and "selects nothing" in error["ctx"]["text"]:
            others = [name for name in data["rules"] if name != error["loc"][1]]
            if close := near(str(error["loc"][1]), others, 1):
                remedy = f"did you mean the rule {close[0]!r}? a new rule needs one of {', '.join(SELECTORS)}"
        return Problem(error["ctx"]["text"], full, value, source, remedy)
    if error["type"] == "extra_forbidden":
        place = str(error["loc"][0]) if len(error["loc"]) >= 3 else ""
        kind, model = _MODELS.get((place, len(error["loc"])), ("spec", InitSpec))
        known, key = [*model.model_fields], str(error["loc"][-1])
        text = f"{key!r} is not a key of a {kind}"
        remedy = did_you_mean(key, known)
        if path == "init":
            remedy = (
                "a spec is what stands under `init`: load(cfg.init), or the file without this key; a scheme is named without /"
            )
        elif path == "defaults":
            remedy = "schemes are chosen with init=NAME, and rule files with init/rules=[roles,head]"
        elif place == "rules" and isinstance(error["input"], Mapping) and not near(key, known, 1):
            remedy = "a rule in a rule? a file of several rules is added with +init/rules@init.rules=NAME"
        elif not near(key, known, 1) and key not in SETTINGS and kind in ("rule", "spec"):
            remedy += "; an argument of an initializer stands in initializer: {name: ..., " + key + ": ...}"
        return Problem(text, full, value, source, remedy)
    return Problem("nothing that can stand here", full, value, source)


def shown(value: Any) -> str:
    """A value in an error."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = f"an integer of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."

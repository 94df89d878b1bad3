"""Which initializer serves a rule, and with which arguments: spec, rule and own mapping, laid over each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from initconf import registry
from initconf.errors import CompileError, InitConfError, Problem, did_you_mean
from initconf.registry import Initializer
from initconf.spec import SETTINGS, InitSpec

DEFAULT = "variance_scaling"
MODIFIERS = tuple(name for name in SETTINGS if name != "initializer")


@dataclass
class Choice:
    """An initializer with the arguments that spec and rule give it."""

    initializer: Initializer
    arguments: dict[str, Any]
    """As they were said: expressions are not evaluated yet."""
    paths: dict[str, str]
    """For each argument, the path in the spec that said it."""
    path: str
    """The path in the spec that named the initializer."""
    overruled: list[tuple[str, str]] = field(default_factory=list)
    """Settings of the rule that the mapping of its own initializer is stronger than: (path, path of the stronger)."""

    @cached_property
    def expressions(self) -> bool:
        """Whether a number is said as an expression, which depth may be part of."""
        numeric = (name for name, argument in self.initializer.arguments.items() if argument.numeric)
        return any(isinstance(self.arguments.get(name), str) for name in numeric)


def choose(spec: InitSpec, rule_name: str | None) -> Choice:
    """The initializer of a rule, or of the spec (None), with its arguments.

    For each argument the strongest says: the initializer's default < the spec < the mapping of the spec's initializer < the
    rule < the mapping of the rule's initializer. An initializer receives those that it declares.

    Raises CompileError for an unknown initializer, for an argument that it does not take and for one that it misses.
    """
    rule = spec.rules[rule_name] if rule_name is not None else None
    prefix = f"rules.{rule_name}." if rule is not None else ""
    named_by_rule = rule is not None and rule.initializer is not None
    said = (rule.initializer if rule is not None and named_by_rule else spec.initializer) or DEFAULT
    path = f"{prefix}initializer" if named_by_rule else "initializer"
    name, own = (said, {}) if isinstance(said, str) else (said["name"], {k: v for k, v in said.items() if k != "name"})
    try:
        initializer = registry.find(name)
    except InitConfError as error:
        raise _wrong(spec, path, str(error), repr(name), "`initconf list` shows them all") from None
    choice = Choice(initializer, {}, {}, path)
    for key in MODIFIERS:
        value = getattr(spec, key)
        # An explicit scale was said in full where it was named: the spec's gain does not reach into it.
        out_of_reach = initializer.torch or (key == "gain" and initializer.explicit_scale and named_by_rule)
        if value is not None and key in initializer.arguments and not out_of_reach:
            choice.arguments[key], choice.paths[key] = value, key
    bent = rule.settings() if rule is not None else {}
    from_rule = [(key, value, f"{prefix}{key}") for key, value in bent.items() if key != "initializer"]
    from_own = [(key, value, f"{path}.{key}") for key, value in own.items()]
    for key, value, where in [*from_rule, *from_own] if named_by_rule else [*from_own, *from_rule]:
        if value is None:  # left out; it also takes back what a mapping was merged over
            continue
        if key not in initializer.arguments:
            raise _undeclared(spec, initializer, key, value, where)
        if named_by_rule and (before := choice.paths.get(key, "")).startswith("rules."):
            choice.overruled.append((before, where))
        choice.arguments[key], choice.paths[key] = value, where
    _settle_scale(spec, choice)
    needed = [argument.name for argument in initializer.arguments.values() if argument.default is registry.MISSING]
    missing = [name for name in needed if name not in choice.arguments]
    if missing:
        remedy = f"write initializer: {{name: {initializer.name}, {missing[0]}: ...}}"
        raise _wrong(spec, path, f"{initializer.name} needs {' and '.join(missing)}", None, remedy)
    return choice


def _settle_scale(spec: InitSpec, choice: Choice) -> None:
    """An own `scale` replaces the spec's gain and nonlinearity; said beside it on purpose, they exclude each other."""
    if choice.arguments.get("scale") is None:
        return
    for key in ("gain", "nonlinearity"):
        where = choice.paths.get(key)
        if where == key:
            del choice.arguments[key], choice.paths[key]
        elif where is not None:
            scale = spec.path(choice.paths["scale"])
            text = f"{key} and scale ({scale}) exclude each other: scale is the square of the whole gain"
            raise _wrong(spec, where, text, repr(choice.arguments[key]), "say one of them")


def _undeclared(spec: InitSpec, initializer: Initializer, key: str, value: Any, where: str) -> CompileError:
    takes = ", ".join(initializer.arguments) or "nothing"
    remedies = []
    if (near := did_you_mean(key, initializer.arguments)).startswith("did"):
        remedies.append(near)
    if where.endswith(f"initializer.{key}"):
        remedies.append(f"if it is left over from a merged mapping, write initializer={initializer.name}")
    text = f"{initializer.name} does not take {key!r}; it takes {takes}"
    return _wrong(spec, where, text, repr(value), " ".join(remedies) or "take it out, or name an initializer that takes it")


def _wrong(spec: InitSpec, path: str, text: str, value: str | None, remedy: str) -> CompileError:
    return CompileError(Problem(text, spec.path(path), value, spec.source(path), remedy))

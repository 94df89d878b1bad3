"""What a single value in a spec may be. A validator gives the value in its own form, or says why it is none, and the remedy."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from initconf import expressions, patterns
from initconf.errors import InitConfError, did_you_mean


def fail(text: str, remedy: str | None = None) -> PydanticCustomError:
    """The one kind of error that validators here raise; `loading` turns it into a Problem."""
    return PydanticCustomError("initconf", "{text}", {"text": text, "remedy": remedy})


YAML_BOOL = "YAML reads on, off, yes and no as true and false: put the word in quotes"
YAML_NULL = "None is a word like any other in YAML: write null"


def is_none(value: Any) -> bool:
    return isinstance(value, str) and value == "None"


def one_of(kind: str, allowed: tuple[str, ...], hints: Mapping[str, str]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value in allowed):
            return value
        hint = hints.get(value) if isinstance(value, str) else YAML_BOOL if isinstance(value, bool) else None
        hint = YAML_NULL if is_none(value) else hint
        raise fail(
            f"not a {kind}",
            hint or (did_you_mean(value, allowed) if isinstance(value, str) else f"one of {', '.join(allowed)}"),
        )

    return check


def number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, type(None))):
        raise fail("neither a number nor an expression", 'write a number, or an expression such as "1/sqrt(2*n_layers)"')
    if is_none(value):
        raise fail("neither a number nor an expression", YAML_NULL)
    if isinstance(value, str):
        try:
            expressions.parse(value)
        except InitConfError as error:
            raise fail(str(error), 'write a number, or an expression such as "1/sqrt(2*n_layers)"') from None
    elif isinstance(value, float) and not math.isfinite(value):
        raise fail("not a finite number", "write a finite one")
    elif isinstance(value, int) and abs(value) > sys.float_info.max:
        raise fail("the number is too large", f"write one below {sys.float_info.max:.0e}")
    return value


def named(what: str, example: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if is_none(value):
            raise fail(f"not {'an' if what[0] in 'aeiou' else 'a'} {what}", YAML_NULL)
        if value is None or (isinstance(value, str) and value):
            return value
        if isinstance(value, Mapping):
            if isinstance(value.get("name"), str):
                if bad := [key for key in value if not isinstance(key, str)]:
                    raise fail(f"the argument {bad[0]!r} is not a name")
                return dict(value)
            lost = next((key for key in value if key != "name" and isinstance(key, str)), "std")
            raise fail(
                f"the {what} mapping has no name",
                f"write {example}; an override such as {what}.{lost}=3 over a plain string loses the name: set {what}.name too",
            )
        if isinstance(value, bool):
            raise fail(f"not {'an' if what[0] in 'aeiou' else 'a'} {what}", YAML_BOOL)
        raise fail(f"not {'an' if what[0] in 'aeiou' else 'a'} {what}", f"write a name, or a mapping such as {example}")

    return check


def pattern(kind: patterns.Kind) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, str):
            read = "list" if isinstance(value, list) else "mapping" if isinstance(value, Mapping) else None
            text = f"YAML read the pattern as a {read}" if read else "a pattern is a string"
            raise fail(text, "put it in single quotes: '...' in YAML, and in Hydra quotes (\"...\") on a command line")
        if not value:
            raise fail("the pattern is empty", "write null where none is meant, and * as a glob for everything")
        try:
            patterns.check(kind, value)
        except InitConfError as error:
            regex = r"it is a regex of Python's `re`, in which ( [ { . * + ? | ^ $ that are meant as such have a \ in front"
            raise fail(str(error), regex if "does not compile" in str(error) else "make it simpler and shorter") from None
        return value

    return check


def strings(what: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None:
            return None
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, (list, tuple)) or not values or not all(isinstance(v, str) and v for v in values):
            raise fail(f"not {what}", f"write {what}, or a list of them")
        return tuple(values)

    return check


def integer(value: Any) -> Any:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        raise fail("not an integer", f"write {value:.0f}")
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]{1,15}", value):
        raise fail("not an integer", f"write {int(value)}, without quotes")
    raise fail("not an integer", "write an integer, such as 3")


def flag(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    raise fail("neither true nor false", "write true or false")


def expect(value: Any) -> Any:
    if value is None:
        return None
    span = [value, value] if isinstance(value, int) and not isinstance(value, bool) else value
    good = (
        isinstance(span, (list, tuple)) and len(span) == 2 and all(isinstance(n, int) and not isinstance(n, bool) for n in span)
    )
    if not good or not 0 <= span[0] <= span[1]:
        raise fail("not a number of parameters", "write a count such as 12, or [min, max]")
    return tuple(span)


def layers(value: Any) -> Any:
    value = pattern("match")(value)
    if value is not None:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise fail(f"the pattern does not compile: {error}") from None
        if groups != 1:
            raise fail(f"the pattern has {groups} groups", r"give it one group, the layer's number: 'blocks\.(\d+)\..*'")
    return value


def mapping(what: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            if what == "rules" and isinstance(value, str):
                raise fail("not a mapping of rules", f"to choose rule files write init/rules={value}")
            raise fail(f"not a mapping of {what}", f"write {what} by name: {{name: ...}}")
        return dict(value)

    return check


def name(value: Any) -> Any:
    if value is None or (isinstance(value, str) and value):
        return value
    raise fail("not a name", "write the name of a parameter of the same module, such as weight")


def known(what: str, value: Mapping[Any, Any], keys: tuple[str, ...]) -> None:
    """Refuse other keys in a mapping."""
    for key in value:
        if key not in keys:
            raise fail(f"{key!r} is not a key of {what}", did_you_mean(str(key), keys))


def positive(value: Any) -> Any:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise fail("not a positive integer", "write an integer, such as 2")


def text(what: str, example: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value):
            return value
        raise fail(f"not a {what}", f"write a string, such as {example}")

    return check


def group(value: Any) -> Any:
    if value is None or (isinstance(value, (int, str)) and not isinstance(value, bool)):
        return value
    raise fail("not a layer", "write a string or an integer, the same for a weight and its bias")


def shape(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in value):
        raise fail("not a shape", "write positive integers: [300, 784], and [] for a single number")
    return tuple(value)


def shapes(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise fail("not a list of shapes", "write [[300, 784], [300]]")
    return tuple(shape([None] if one is None else one) for one in value)


def finite(value: Any) -> Any:
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)):
        return value
    raise fail("not a finite number", "write one, such as 0.5")


def not_negative(value: Any) -> Any:
    if finite(value) is not None and value < 0:
        raise fail("a variance is not negative", "write 0 for a constant")
    return value


def above_zero(value: Any) -> Any:
    if finite(value) is not None and value <= 0:
        raise fail("a fan is above 0", "write the number of products in a sum, such as 784")
    return value

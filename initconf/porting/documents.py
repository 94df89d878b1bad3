"""The configuration of another system: read without running any of it, and with the lines that its values stand on."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import yaml

from initconf.errors import Problem, SpecError
from initconf.reading import parse, plain

At = tuple[str | int, ...]
"""Where a value stands: keys and indices from the root."""

_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"' r"|'(?:[^'\\]|\\.)*'" r"|(?<![:\w])//[^\n]*|/\*.*?\*/|(?<!\w)#[^\n]*|\t",
    re.DOTALL,
)
"""What of a JSON text is not simply YAML too: strings (to be left alone), comments, tabs."""
_JSONNET = re.compile(
    r"\b(?:local|import|importstr|function|assert|error|self|super|std|if|then|else|for)\b"
    r'|::|\|\|\||\$|[\]}"]\s*\+|\+\s*[\[{"]|\+:|\s\+\s'
)
"""What Jsonnet computes with, and JSON has inside of strings only."""


@dataclass(frozen=True)
class Document:
    """A configuration as plain data."""

    data: Any
    text: str
    """What `data` was read from; comments of JSON are blanked out."""
    label: str

    def source(self, at: At) -> str:
        """`file:line` of a value, or of the nearest thing around it that is there."""
        node, line = self._root, None
        for part in at:
            if isinstance(node, yaml.MappingNode):
                hit = next(((key, value) for key, value in node.value if key.value == part), None)
                if hit is None:
                    break
                line, node = hit[0].start_mark.line + 1, hit[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return f"{self.label}:{line}" if line else self.label

    @cached_property
    def _root(self) -> yaml.Node | None:
        """The nodes of the text; lines are a service, not a condition."""
        try:
            return yaml.compose(self.text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError):
            return None

    def wrong(self, at: At, text: str, remedy: str | None = None) -> SpecError:
        """The error of a value that cannot be what the other system takes."""
        value = self.value(at)
        shown = None if isinstance(value, (dict, list)) else shortened(repr(value))
        if not at:
            return SpecError(Problem(text, self.label, None, None, remedy))
        return SpecError(Problem(text, spelled(at), shown, self.source(at), remedy))

    def value(self, at: At) -> Any:
        """What stands at a path, None where nothing does."""
        found = self.data
        for part in at:
            there = part in found if isinstance(found, dict) else isinstance(part, int) and part < len(found or [])
            if not there:
                return None
            found = found[part]
        return found

    def number(self, at: At, what: str = "a number") -> int | float:
        """The number at a path; SpecError for anything else."""
        value = self.value(at)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.wrong(at, f"not {what}", _INTERPOLATED if isinstance(value, str) and "${" in value else None)
        if not abs(value) <= sys.float_info.max:
            raise self.wrong(at, "not a finite number")
        return value


_INTERPOLATED = "interpolations are not resolved here: write the value itself"


def spelled(at: At) -> str:
    """A path as it is written.

    >>> spelled(("model", "regexes", 2))
    'model.regexes[2]'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".")


def shortened(text: str, width: int = 100) -> str:
    """A text of no more than so many characters."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def document(text: str, label: str, how: str) -> Document:
    """The document in a text of JSON (comments and trailing commas are forgiven) or YAML.

    `how` says how to get such a text out of the other system. SpecError for anything else, with the line where it is known.
    """
    if label.endswith(".py"):
        raise SpecError(Problem("a configuration in Python is not run", label, remedy=how))
    try:
        return Document(
            _rooted(plain(json.loads(text, parse_constant=_refused), "config", label), label, how), _blanked(text), label
        )
    except RecursionError:
        raise SpecError(Problem("cannot be read: it is nested too deeply", label)) from None
    except ValueError:
        pass
    if text.lstrip().startswith(("{", "[", "//", "/*")) and not label.endswith((".yaml", ".yml")):
        _refuse_jsonnet(text, label, how)
        text = _blanked(text)
    try:
        return Document(_rooted(parse(text, label, "config", lists=True), label, how), text, label)
    except SpecError as error:
        raise SpecError([replace(problem, remedy=how) for problem in error.problems]) from None


def _refused(constant: str) -> Any:
    raise ValueError(constant)


def _rooted(data: Any, label: str, how: str) -> Any:
    if not isinstance(data, (dict, list)) or not data:
        raise SpecError(Problem("neither a mapping nor a list" if data else "it is empty", label, remedy=how))
    return data


def _blanked(text: str) -> str:
    """A JSON text without comments and tabs; every line stays where it is."""

    def blank(token: re.Match[str]) -> str:
        return token[0] if token[0][0] in "\"'" else re.sub(r"[^\n]", " ", token[0])

    return _TOKEN.sub(blank, text)


def _refuse_jsonnet(text: str, label: str, how: str) -> None:
    """Said where the text computes something: there is no evaluating it here."""
    odd = next((token for token in _TOKEN.finditer(text) if token[0][0] == "'" and "\\" in token[0]), None)
    bare = _TOKEN.sub(lambda token: re.sub(r"[^\n]", '"' if token[0][0] in "\"'" else " ", token[0]), text)
    found = _JSONNET.search(bare)
    if odd is None and found is None:
        return
    start = odd.start() if odd else found.start() if found else 0
    what = "a string in single quotes with a backslash" if odd else repr(found[0]) if found else ""
    line = text.count("\n", 0, start) + 1
    raise SpecError(Problem(f"it is Jsonnet ({what}), which is not evaluated here", f"{label}:{line}", remedy=how))

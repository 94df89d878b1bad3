r"""Patterns over parameter names that cannot hang the program, whatever they are.

RE2 matches all patterns at once, in time linear in the name. What RE2 refuses and Python's own `re` takes (lookaround,
backreferences, large repetitions) runs in the `regex` package, which can be given a time limit: one second in total per
pattern. The limit covers matching, not compiling, so what would compile to too much is refused before.

>>> [sorted(found) for found in match_names([("match", r".*\.bias"), ("glob", "head.*")], ["head.bias", "fc.bias"])]
[[0, 1], [0]]
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import re2
import regex

from initconf.errors import InitConfError

Kind = Literal["match", "search", "glob"]

_SECONDS = 1.0
_MAX_LENGTH = 100_000
_MAX_REPEATS = 100_000
_MAX_SIZE = 2_000_000
"""The length of a pattern times its repetitions: what `regex` writes out in memory before it matches anything."""
_MAX_MEMORY = 256 << 20


def match_names(patterns: Sequence[tuple[Kind, str]], names: Sequence[str]) -> list[set[int]]:
    """For each pattern, the indices of the names it matches.

    `match` means the whole name, `search` anywhere in it, `glob` the whole name with `*`, `?` and `[...]`.
    Raises InitConfError if a pattern does not compile (see `check`) or uses up its second.
    """
    for kind, text in patterns:
        check(kind, text)
    found: list[set[int]] = [set() for _ in patterns]
    for anchor in ("match", "search"):
        fast = [i for i, (kind, text) in enumerate(patterns) if _anchor(kind) == anchor and _re2(kind, text) is not None]
        for part, matcher in _sets(anchor, [_as_regex(*patterns[i]) for i in fast]):
            for n, name in enumerate(names):
                for j in matcher.Match(name) or ():
                    found[fast[part[j]]].add(n)
    for i, (kind, text) in enumerate(patterns):
        if _re2(kind, text) is None:
            found[i] = _slow(kind, text, names)
    return found


@lru_cache(maxsize=4096)
def check(kind: Kind, text: str) -> None:
    """Raise InitConfError, with what is wrong and where, unless the pattern compiles."""
    if len(text) > _MAX_LENGTH:
        raise InitConfError(f"the pattern is longer than {_MAX_LENGTH} characters")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise InitConfError("the pattern is not Unicode: it holds half of a surrogate pair")
    if _re2(kind, text) is not None:
        return
    if kind == "glob":
        raise InitConfError("the pattern is too large")
    bounds = 1
    for low, high in re.findall(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}", text):
        bounds *= max(*(int(number[:12] or 0) for number in (low, high)), 1)
    if bounds > _MAX_REPEATS:
        raise InitConfError(f"the repetitions of the pattern multiply to more than {_MAX_REPEATS}")
    if bounds * len(text) > _MAX_SIZE:
        raise InitConfError("the pattern does not compile: it is too large or too deeply nested")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)  # `regex` knows more, such as recursion, which fills the memory within its second
            regex.compile(text)
    except (re.error, regex.error) as error:
        raise InitConfError(f"the pattern does not compile: {error}") from None
    except (RecursionError, OverflowError, MemoryError):
        raise InitConfError("the pattern does not compile: it is too large or too deeply nested") from None


def substitute(pattern: str, replacement: str, text: str) -> str:
    r"""The text with every match replaced; `\1` in the replacement is the first group. Only patterns that RE2 takes.

    Raises InitConfError for a pattern or a replacement that RE2 refuses.
    """
    try:
        return str(re2.compile(pattern, _options()).sub(replacement, text))
    except (re2.error, IndexError) as error:
        said = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise InitConfError(f"{pattern!r} cannot be replaced by {replacement!r}: {said}") from None


def _anchor(kind: Kind) -> str:
    return "search" if kind == "search" else "match"


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    return options


@lru_cache(maxsize=4096)
def _re2(kind: Kind, text: str) -> Any:
    """The pattern compiled by RE2, None if RE2 refuses it, or takes a repetition (`{,3}`) for plain text."""
    if kind != "glob" and re.search(r"\{(\d*,)?\d{5}|\{,\d", text):
        return None
    try:
        return re2.compile(_as_regex(kind, text), _options())
    except re2.error:
        return None


def _sets(anchor: str, texts: list[str]) -> list[tuple[list[int], Any]]:
    """Sets of RE2 patterns, each with the places of its patterns in `texts`; halved until each fits the memory."""
    done: list[tuple[list[int], Any]] = []
    todo = [list(range(len(texts)))] if texts else []
    while todo:
        part = todo.pop()
        matcher = re2.Set.SearchSet(_options()) if anchor == "search" else re2.Set.FullMatchSet(_options())
        try:
            for i in part:
                matcher.Add(texts[i])
            matcher.Compile()
        except re2.error:
            if len(part) == 1:
                raise InitConfError(f"the pattern {texts[part[0]]!r} needs too much memory") from None
            todo += [part[: len(part) // 2], part[len(part) // 2 :]]
        else:
            done.append((part, matcher))
    return done


def captured(text: str, names: Sequence[str]) -> dict[int, str]:
    """What the pattern's first group holds in each name that the pattern matches whole, by the name's index.

    Raises InitConfError if the pattern uses up its second.
    """
    return {n: found[1] for n, found in _timed("match", text, names).items() if found[1] is not None}


def _slow(kind: Kind, text: str, names: Sequence[str]) -> set[int]:
    return set(_timed(kind, text, names))


def _timed(kind: Kind, text: str, names: Sequence[str]) -> dict[int, Any]:
    """The matches by index, in one second or an InitConfError."""
    compiled = regex.compile(text)
    deadline = time.monotonic() + _SECONDS
    apply = compiled.search if kind == "search" else compiled.fullmatch
    found = {}
    try:
        for n, name in enumerate(names):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if matched := apply(name, timeout=left):
                found[n] = matched
    except MemoryError:
        raise InitConfError(f"the pattern {text!r} needs too much memory") from None
    except TimeoutError:
        raise InitConfError(
            f"the pattern {text!r} took more than {_SECONDS:g} s over {len(names)} names; write it without nested "
            "repetitions, lookaround or backreferences, so that RE2 can take it"
        ) from None
    return found


def _as_regex(kind: Kind, text: str) -> str:
    if kind != "glob":
        return text
    # Not fnmatch.translate: it writes lookaheads, which RE2 refuses.
    out, i = ["(?s:"], 0
    while i < len(text):
        char = text[i]
        i += 1
        if char == "*":
            out.append(".*")
        elif char == "?":
            out.append(".")
        elif char == "[" and (end := text.find("]", i + 1 + (text[i : i + 1] == "!"))) > 0:
            out.append(_one_of(text[i:end]))
            i = end + 1
        else:
            out.append(re2.escape(char))
    return "".join([*out, ")"])


def _one_of(inside: str) -> str:
    """What stands between the brackets of a glob, as RE2 wants it."""
    negated, ranges, i = inside.startswith("!"), "", 0
    inside = inside[negated:]
    while i < len(inside):
        low = high = inside[i]
        if inside[i + 1 : i + 2] == "-" and i + 2 < len(inside):
            high = inside[i + 2]
            i += 2
        if low <= high:  # a range such as z-a is empty, as in fnmatch
            ranges += rf"\x{{{ord(low):x}}}-\x{{{ord(high):x}}}"
        i += 1
    if not ranges:
        return "." if negated else r"[^\x{0}-\x{10ffff}]"
    return f"[{'^' if negated else ''}{ranges}]"

"""What can be wrong, and how it is said: every problem names its place, the value, where it came from and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    text: str
    """What is wrong, a short sentence."""
    path: str | None = None
    """The config path (`init.rules.head.gain`) or the parameter's name."""
    value: str | None = None
    """The offending value, as it is to be shown."""
    source: str | None = None
    """Where the value came from: `file:line`, an override, or `python`."""
    remedy: str | None = None
    """What to do about it."""

    def __str__(self) -> str:
        head = " = ".join(part for part in (self.path, self.value) if part is not None)
        if self.source:
            head += f"  ({self.source})" if head else f"({self.source})"
        lines = [f"{head}: {self.text}" if head else self.text]
        if self.remedy:
            lines.append(f"  -> {self.remedy}")
        return "\n".join(lines)


def placed(problem: Problem) -> str:
    """A problem's text with its own place in front, for where it stands inside of another one."""
    return str(replace(problem, remedy=None, source=None))


class InitConfError(Exception):
    """The base of all errors of initconf; `problems` lists everything that was found wrong.

    >>> str(InitConfError("no activation named 'rellu'"))
    "no activation named 'rellu'"
    """

    def __init__(self, problems: str | Problem | Iterable[str | Problem]):
        if isinstance(problems, (str, Problem)):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(p if isinstance(p, Problem) else Problem(p) for p in problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        said = _together(self.problems)
        if len(said) == 1:
            return str(said[0])
        parts = [f"{len(said)} problems:", *("- " + str(p).replace("\n", "\n  ") for p in said)]
        return "\n".join(parts)


def _together(problems: Iterable[Problem]) -> list[Problem]:
    """Problems that differ in their path alone, said once with the first few paths."""
    alike: dict[Problem, list[str]] = {}
    for problem in problems:
        alike.setdefault(replace(problem, path=None), []).append(problem.path or "")
    return [replace(problem, path=listed(paths) or None) for problem, paths in alike.items()]


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first few names, and how many more there are.

    >>> listed(["a", "b", "c", "d", "a"])
    'a, b, c and 1 more'
    """
    each = list(dict.fromkeys(names))
    return ", ".join(each[:most]) + (f" and {len(each) - most} more" if len(each) > most else "")


def brief(value: object) -> str:
    """A value in an error: of what may be long only what it is.

    >>> brief("he"), brief(None), brief([1, 2])
    ("'he'", 'None', 'a list')
    """
    return repr(value) if value is None or isinstance(value, (str, bytes, int, float)) else f"a {type(value).__name__}"


class SpecError(InitConfError):
    """The configuration itself is wrong: its form, a name, a value."""


class CompileError(InitConfError):
    """The configuration does not fit the model. Nothing has been written."""


class ApplyError(InitConfError):
    """A plan could not be written to the model, or the values in the model are not those of the plan."""


def near(word: str, known: Iterable[str], many: int = 3) -> list[str]:
    """The known words nearest to `word`, best first."""
    return difflib.get_close_matches(word, list(known), n=many, cutoff=0.6)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy for an unknown word: the nearest known one, or all of them."""
    words = list(known)
    close = near(word, words, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(sorted(words))}" if words else "there are none"

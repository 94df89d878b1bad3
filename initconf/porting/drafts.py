"""A scheme in the making: rules with the places that they come from, and all that is to be said of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from textwrap import wrap
from typing import Any

import yaml

from initconf import expressions
from initconf.choices import choose
from initconf.errors import CompileError, InitConfError, Problem, SpecError
from initconf.loading import literal, load
from initconf.porting.documents import At, Document, spelled
from initconf.spec import InitSpec

_WIDTH = 120
_DEFAULTS = ({"optional schema@_here_": "base"}, "_self_")
"""So that overrides need no `+`, as with the shipped schemes."""


@dataclass
class Draft:
    """What a port has found so far."""

    document: Document
    system: str
    """The other system, with the version whose source was read."""
    settings: dict[str, Any]
    """What the scheme says besides its rules."""
    place: At = ()
    """Where that comes from."""
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Weakest first."""
    places: dict[str, At] = field(default_factory=dict)
    """Where each rule comes from."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a rule does not do what it did there."""
    remarks: list[str] = field(default_factory=list)
    """What is taken for granted, or is not quite the same in general."""
    lost: list[str] = field(default_factory=list)
    """What could not be carried over."""
    warnings: list[str] = field(default_factory=list)
    """What could, and hardly anybody wants."""

    def add(self, name: str, at: At, rule: Mapping[str, Any], lost: str | None = None) -> None:
        """A rule that is stronger than those before it; `lost` says why it is not what stands at `at`."""
        bare = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")
        bare = bare if re.match("[A-Za-z]", bare) else f"rule_{bare}"
        free = next(n for n in _numbered(bare) if n not in self.rules)
        self.rules[free], self.places[free] = dict(rule), at
        if lost is not None:
            self.reasons[free] = lost
            self.lose(at, lost)

    def keep(self, name: str, at: At, selectors: Mapping[str, Any], lost: str) -> None:
        """A rule for what is claimed there by something that cannot be carried over: here it keeps its values."""
        self.add(name, at, {**selectors, "initializer": "keep"}, lost)

    def lose(self, at: At, text: str) -> None:
        """Say that something could not be carried over."""
        self.lost.append(self._said(at, text))

    def warn(self, at: At, text: str) -> None:
        """Say that something was carried over as it is, and is hardly wanted."""
        self.warnings.append(self._said(at, text))

    def _said(self, at: At, text: str) -> str:
        return f"{spelled(at)} ({self.document.source(at)}): {text}" if at else f"{self.document.label}: {text}"

    # --- the scheme ---------------------------------------------------------------------------------------------------------

    @property
    def scheme(self) -> dict[str, Any]:
        """The scheme as `load` takes it."""
        return {
            "defaults": [{"optional schema@_here_": "base"}, "_self_"],
            **literal(self.settings),
            "rules": literal(self.rules),
        }

    def check(self) -> None:
        """SpecError, with the lines of the other system's file, unless the scheme loads and its initializers are right."""
        try:
            spec = load({**literal(self.settings), "rules": literal(self.rules)})
        except SpecError as error:
            raise SpecError([self._placed(problem) for problem in error.problems]) from None
        problems = [problem for name in (None, *self.rules) for problem in self._misfits(spec, name)]
        if problems:
            raise SpecError(dict.fromkeys(problems))

    def _misfits(self, spec: InitSpec, name: str | None) -> list[Problem]:
        """What is wrong with the initializer of a rule (None: of the scheme itself)."""
        prefix = "init" if name is None else f"init.rules.{name}"
        try:
            choice = choose(spec, name)
        except CompileError as error:
            return [self._placed(problem) for problem in error.problems]
        ours = set(_formulas([self.settings, self.rules.get(name or "")]))
        said = {key: value for key, value in choice.arguments.items() if not (isinstance(value, str) and value in ours)}
        _, bad = choice.initializer.validate(said)
        problems = [Problem(text, f"{prefix}.{key}", repr(said[key])) for key, text in bad]
        for formula in ours:
            try:
                expressions.parse(formula)
            except InitConfError as error:
                problems.append(Problem(str(error), f"{prefix}.initializer"))
        return [self._placed(problem) for problem in problems]

    def _placed(self, problem: Problem) -> Problem:
        """A problem of the scheme as one of the file that it comes from."""
        found = re.fullmatch(r"(?:init\.)?(?:rules\.([^.]+)\.?)?(.*)", problem.path or "")
        at = self.places.get(found[1], self.place) if found else self.place
        key = found[2].rpartition(".")[2] if found else ""
        path = f"{spelled(at)}, {key}" if spelled(at) and key else spelled(at) or key
        return replace(problem, path=path, source=self.document.source(at), remedy=None)

    @property
    def text(self) -> str:
        """The scheme as a YAML file, which begins with what is to be known of it."""
        lines = [*_comment(f"From {self.document.label}: {self.system}.")]
        for title, said in (
            ("Not carried over:", self.lost),
            ("As it was there, and hardly wanted:", self.warnings),
            ("To be known:", self.remarks),
        ):
            lines += [f"# {title}", *(line for text in said for line in _comment(text, "- "))] if said else []
        lines += ["defaults:", *(f"  - {_flow(entry).strip('{}')}" for entry in _DEFAULTS)]
        lines += [f"{key}: {_flow(value)}" for key, value in literal(self.settings).items()]
        lines += ["rules:" if self.rules else "rules: {}"]
        for name, rule in literal(self.rules).items():
            lines += (
                [f"  {line}" for line in _comment(f"not carried over: {self.reasons[name]}")] if name in self.reasons else []
            )
            lines.append(f"  {_flow(name)}: {_flow(rule)}")
        return "\n".join(lines) + "\n"


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{n}" for n in range(2, sys.maxsize))


class Formula(str):
    """An expression that a port wrote. What only looks like one, in a file, is no number there."""

    __slots__ = ()


def _formulas(value: Any) -> Iterator[Formula]:
    """All formulas in a value."""
    if isinstance(value, Formula):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _formulas(item)


def _comment(text: str, mark: str = "") -> list[str]:
    """A text as comment lines. What is in it comes from a file, and must not end the comment."""
    clean = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    indent = " " * len(mark)
    return [f"# {line}" for line in wrap(clean, _WIDTH, initial_indent=mark, subsequent_indent=indent, break_on_hyphens=False)]


class _Dumper(yaml.SafeDumper):
    """YAML in which strings are in single quotes unless they are plain words, so that nothing else is read into them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", text) and text.lower() not in ("y", "n")
    style = None if plain else "'" if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    whole: str = yaml.dump(
        [value], Dumper=_Dumper, default_flow_style=True, width=sys.maxsize, sort_keys=False, allow_unicode=True
    )
    return whole[1:-2]

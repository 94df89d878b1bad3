"""A spec held against a model: its sites, and which rule wins each. What goes wrong receives its address in the spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from initconf.errors import CompileError, InitConfError, Problem
from initconf.owners import Walk
from initconf.rules import Match, match
from initconf.sites import Site
from initconf.spec import InitSpec
from initconf.survey import survey

if TYPE_CHECKING:
    from torch import nn

PATTERNS = ("match", "search", "glob")


def surveyed(model: nn.Module, spec: InitSpec, walked: Walk | None = None) -> list[Site]:
    """The sites of a model, with the layouts and the layers of a spec. Raises CompileError."""
    try:
        return survey(model, spec.layers, declared=spec.layouts, torch_fans=spec.compat == "torch", walked=walked)
    except CompileError as error:
        problems = [
            replace(p, path=spec.path(p.path), source=spec.source(p.path))
            if (p.path or "").startswith(("layouts.", "layers")) and p.path
            else p
            for p in error.problems
        ]
        raise CompileError(problems) from None


def matched(spec: InitSpec, sites: Sequence[Site]) -> Match:
    """Which rule of a spec wins each site. Raises CompileError for patterns that cannot be matched."""
    try:
        return match(list(spec.live_rules()), sites)
    except InitConfError as error:
        raise CompileError(_with_rule(spec, problem) for problem in error.problems) from None


def _with_rule(spec: InitSpec, problem: Problem) -> Problem:
    """A problem with a pattern, with the path of the rule that has it."""
    rules = [(name, key) for name, rule in spec.live_rules() for key in PATTERNS if repr(getattr(rule, key)) in problem.text]
    path = f"rules.{rules[0][0]}.{rules[0][1]}" if rules else None
    return replace(problem, path=path and spec.path(path), source=path and spec.source(path))

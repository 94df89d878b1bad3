"""What is to be said of a spec's rules once they were held against a model: dead ones, unmet expectations, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from initconf.choices import Choice
from initconf.errors import Problem, listed
from initconf.rules import Match, why_dead
from initconf.sites import Site
from initconf.spec import SETTINGS, InitSpec, Rule

Choices = Mapping[int | None, Choice | None]


def problems(spec: InitSpec, matched: Match, sites: Sequence[Site], choices: Choices) -> list[Problem]:
    """Rules that match nothing, whose initializer is wrong, or that do not win as many parameters as they expect."""
    found = []
    for r, verdict in enumerate(matched.verdicts):
        rule, path = verdict.rule, f"rules.{verdict.name}"
        if not verdict.matched and rule.settings() and (setting := _missed(spec, path, rule)):
            text, remedy, instead = why_dead(matched, r, sites)
            if instead is not None:
                there, choice = spec.path(f"rules.{matched.verdicts[instead].name}"), choices.get(instead)
                takes = choice is not None and setting in (*choice.initializer.arguments, "initializer")
                typed = f"{there}.{setting}={_typed(getattr(rule, setting))}"
                remedy = f"bend its rule instead: {typed}" if takes else f"its rule is {there}"
            source = spec.source(f"{path}.{setting}") or spec.source(path)
            found.append(Problem(text, spec.path(path), None, source, remedy))
        if rule.expect is not None and not rule.expect[0] <= len(verdict.won) <= rule.expect[1]:
            low, high = rule.expect
            wanted = str(low) if low == high else f"[{low}, {high}]"
            lost = verdict.matched - verdict.won
            stronger = {w for i in lost for w in matched.winners[i] if w is not None}
            others = listed(spec.path(f"rules.{matched.verdicts[w].name}") for w in sorted(stronger))
            text = f"it wins {len(verdict.won)} parameter{'s' * (len(verdict.won) != 1)}" + (
                f", and {len(lost)} that it matches {'goes' if len(lost) == 1 else 'go'} to {others}" if lost else ""
            )
            remedy = f"if that is right, write {spec.path(f'{path}.expect')}={len(verdict.won)}"
            found.append(Problem(text, spec.path(f"{path}.expect"), wanted, spec.source(f"{path}.expect"), remedy))
    return found


def _missed(spec: InitSpec, path: str, rule: Rule) -> str | None:
    """The setting whose loss must be said where a rule matches nothing; None where the rule may.

    An optional rule of a scheme may match nothing, but not what somebody else said of it: an override, another file.
    """
    settings = list(rule.settings())
    if not rule.optional:
        return settings[0]
    scheme = (spec.source(f"{path}.optional") or "").rpartition(":")[0]
    return next((s for s in settings if (spec.source(f"{path}.{s}") or "").rpartition(":")[0] != scheme), None)


def _shipped(spec: InitSpec, path: str) -> bool:
    """Whether a value is what a shipped scheme says, and nobody changed it."""
    return (spec.source(path) or "").startswith("initconf/conf/")


def warnings(spec: InitSpec, matched: Match, sites: Sequence[Site], choices: Choices, served: set[int | None]) -> list[str]:
    """What the user should know, though it is no mistake."""
    said = []
    for choice in choices.values():
        for weak, strong in choice.overruled if choice is not None else ():
            said.append(f"{spec.path(weak)}: {spec.path(strong)} is stronger; write {spec.path(strong)}=...")
    for r, verdict in enumerate(matched.verdicts):
        if verdict.matched and not verdict.won and verdict.rule.settings():
            front = {w for i in verdict.matched for w in matched.winners[i] if w is not None and w > r}
            if all(_shipped(spec, f"rules.{matched.verdicts[w].name}") for w in (r, *front)):
                continue  # how a scheme says its exceptions
            others = ", ".join(matched.verdicts[w].name for w in sorted(front))
            said.append(f"{spec.path('rules.' + verdict.name)}: everything it matches is won by what stands after it: {others}")
    serving = [choice for winner in served if (choice := choices[winner]) is not None]
    used = {path for choice in serving for path in (*choice.paths.values(), choice.path)}
    unused = [key for key in SETTINGS if getattr(spec, key) is not None and key not in used]
    said += [f"{spec.path(key)}: no parameter uses this setting" for key in unused]
    if guessed := [site.label for site in sites if site.layout.assumed]:
        told = "; say them in `layouts`, or give them rules"
        said.append(f"what {listed(guessed)} {'is' if len(guessed) == 1 else 'are'} was assumed from names and shapes{told}")
    import torch

    # An untouched generator has a seed of 46 bits or more, a person's has fewer than 32.
    if spec.seed is None and torch.initial_seed() < 1 << 32:
        said.append(
            f"{spec.path('seed')} was left out and is 0, while torch.manual_seed({torch.initial_seed()}) was called: "
            "initconf draws from its own streams, keyed by its own seed"
        )
    return said


def _typed(value: Any) -> str:
    """A value as it is typed in a Hydra override."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_typed(item)}" for key, item in value.items()) + "}"
    plain = not isinstance(value, str) or all(char.isalnum() or char in "_.-+" for char in value)
    return str(value) if plain else f'"{value}"'

"""What is to be said of a spec's rules: by themselves, and once they were held against a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from initconf import activations, expressions
from initconf.choices import Choice, choose
from initconf.errors import CompileError, InitConfError, Problem, listed
from initconf.rules import Match, why_dead
from initconf.sites import Site
from initconf.spec import SELECTORS, SETTINGS, InitSpec, Rule

Choices = Mapping[int | None, Choice | None]
AUTO = ("auto", {"name": "auto"})
KEPT = ("keep", "module_default")
"""Initializers that a spec names for what no rule claims, of which there may be nothing."""


@dataclass
class Shared:
    """Problems that many parameters share, each of which is said once, with the first few names."""

    spec: InitSpec
    _labels: dict[tuple[str, ...], list[str]] = field(default_factory=dict)
    """The parameters of each (path, value, source, text, remedy)."""

    def add(
        self, label: str, text: str, remedy: str | None, path: str = "", value: str = "", source: str | None = None
    ) -> None:
        """Take note of a problem of a parameter: at a path relative to the spec, or at none."""
        address = (self.spec.path(path), value, self.spec.source(path) or "") if path else ("", value, source or "")
        self._labels.setdefault((*address, text, remedy or ""), []).append(label)

    def problems(self) -> list[Problem]:
        own = self.spec.path("initializer")
        told = {key[3:]: key for key in self._labels if key[0] == own}
        for key in list(self._labels):
            # What is wrong with the spec's own initializer is said once, not for each rule that is served by it.
            if key[0] != own and (first := told.get(key[3:])):
                self._labels[first] += self._labels.pop(key)
        return [
            Problem(
                f"{listed(labels)}: {text}" if path else text,
                path or listed(labels),
                *(x or None for x in (value, source, remedy)),
            )
            for (path, value, source, text, remedy), labels in self._labels.items()
        ]


# --- without a model -------------------------------------------------------------------------------------------------------


def of_form(spec: InitSpec, incomplete: Collection[str] = ()) -> tuple[list[Problem], list[str]]:
    """What can be known without a model: problems, and warnings.

    Whether each rule's initializer is there and takes its arguments, whether these have the right types, expressions are
    expressions and activations have gains; and which rule another one hides, whatever the model. An optional rule may name what
    is not installed.

    Args:
        incomplete: rules whose initializer is not known here: they change arguments of one that another file names.
    """
    found: list[Problem] = []
    said: list[str] = []
    live = list(spec.live_rules())
    for name in (None, *(name for name, _ in live if name not in incomplete)):
        try:
            choice = choose(spec, name)
        except CompileError as error:
            rule = spec.rules[name] if name is not None else None
            if rule is not None and rule.optional and rule.initializer is not None:
                said += map(str, error.problems)
            else:
                found += error.problems
            continue
        found += _wrong_arguments(spec, choice)
        said += _overruled(spec, choice)
    selecting = [(name, rule, {key: getattr(rule, key) for key in SELECTORS}) for name, rule in live]
    for n, (name, rule, selectors) in enumerate(selecting):
        same = [other for other, _, theirs in selecting[n + 1 :] if theirs == selectors]
        if same and rule.settings() and not all(_shipped(spec, f"rules.{one}") for one in (name, *same)):
            said.append(f"{spec.path(f'rules.{name}')}: {same[-1]} stands after it, selects the same, and wins all of it")
    return list(dict.fromkeys(found)), list(dict.fromkeys(said))


def _wrong_arguments(spec: InitSpec, choice: Choice) -> list[Problem]:
    """Arguments that are wrong for every parameter."""

    def wrong(name: str, text: str, remedy: str | None = None) -> Problem:
        path = choice.paths[name]
        return Problem(text, spec.path(path), repr(choice.arguments[name]), spec.source(path), remedy)

    values, found = {}, []
    for name, value in choice.arguments.items():
        if choice.initializer.arguments[name].is_expression(value):
            try:
                if not expressions.names_in(value):
                    expressions.evaluate(value, {})
            except InitConfError as error:
                found.append(wrong(name, str(error)))
        elif value not in AUTO:
            values[name] = value
    _, bad = choice.initializer.validate(values)
    found += [wrong(name, text) for name, text in bad]
    if not bad and (gainless := without_gain(choice, values)) is not None:
        name, problem = gainless
        found.append(wrong(name, problem.text, problem.remedy))
    return found


def without_gain(choice: Choice, values: Mapping[str, Any]) -> tuple[str, Problem] | None:
    """Which argument, `nonlinearity` or `gain_method`, gives no gain, and why; None where there is one, or none is due."""
    if choice.initializer.torch or (feeding := values.get("nonlinearity")) is None:
        return None
    name = "nonlinearity"
    try:
        activations.normalise(feeding)
        name = "gain_method" if "gain_method" in values else name
        activations.gain(feeding, values.get("gain_method", "second_moment"))
    except InitConfError as error:
        return name, error.problems[0]
    return None


# --- against a model -------------------------------------------------------------------------------------------------------


def problems(spec: InitSpec, matched: Match, sites: Sequence[Site], choices: Choices) -> list[Problem]:
    """Rules that match nothing, whose initializer is wrong, or that do not win as many parameters as they expect."""
    found = []
    for r, verdict in enumerate(matched.verdicts):
        rule, path = verdict.rule, f"rules.{verdict.name}"
        if not verdict.matched and rule.settings() and (setting := missed(spec, path, rule)):
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
            others = listed(spec.path(f"rules.{matched.verdicts[w].name}") for w in matched.lost_to(r))
            text = f"it wins {len(verdict.won)} parameter{'s' * (len(verdict.won) != 1)}" + (
                f", and {len(lost)} that it matches {'goes' if len(lost) == 1 else 'go'} to {others}" if lost else ""
            )
            remedy = f"if that is right, write {spec.path(f'{path}.expect')}={len(verdict.won)}"
            found.append(Problem(text, spec.path(f"{path}.expect"), wanted, spec.source(f"{path}.expect"), remedy))
    return found


def missed(spec: InitSpec, path: str, rule: Rule) -> str | None:
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
    said = [text for choice in choices.values() if choice is not None for text in _overruled(spec, choice)]
    for r, verdict in enumerate(matched.verdicts):
        if verdict.matched and not verdict.won and verdict.rule.settings():
            front = matched.lost_to(r)
            if all(_shipped(spec, f"rules.{matched.verdicts[w].name}") for w in (r, *front)):
                continue  # how a scheme says its exceptions
            others = ", ".join(matched.verdicts[w].name for w in front)
            said.append(f"{spec.path('rules.' + verdict.name)}: everything it matches is won by what stands after it: {others}")
    serving = [choice for winner in served if (choice := choices[winner]) is not None]
    used = {path for choice in serving for path in (*choice.paths.values(), choice.path)}
    unused = [key for key in SETTINGS if getattr(spec, key) is not None and key not in used and not _spare(spec, key)]
    said += [f"{spec.path(key)}: no parameter uses this setting" for key in unused]
    if told := assumed(sites):
        said.append(told)
    import torch

    # An untouched generator has a seed of 46 bits or more, a person's has fewer than 32.
    if spec.seed is None and torch.initial_seed() < 1 << 32:
        said.append(
            f"{spec.path('seed')} was left out and is 0, while torch.manual_seed({torch.initial_seed()}) was called: "
            "initconf draws from its own streams, keyed by its own seed"
        )
    return said


def assumed(sites: Sequence[Site]) -> str | None:
    """The warning of roles and layouts that were guessed; None where there are none."""
    if not (guessed := [site.label for site in sites if site.layout.assumed]):
        return None
    told = "; declare them in `layouts`, with the lines that initconf plan --strict prints"
    return f"what {listed(guessed)} {'is' if len(guessed) == 1 else 'are'} was assumed from names and shapes{told}"


def _overruled(spec: InitSpec, choice: Choice) -> list[str]:
    both = [(spec.path(weak), spec.path(strong)) for weak, strong in choice.overruled]
    return [f"{weak}: {strong} is stronger; write {strong}=..." for weak, strong in both]


def _spare(spec: InitSpec, key: str) -> bool:
    """Whether a setting is the scheme's own word for what no rule claims: `initializer: keep`, which nobody changed."""
    if key != "initializer" or spec.initializer is None:
        return False
    name = spec.initializer if isinstance(spec.initializer, str) else spec.initializer["name"]
    sources = spec.sources(key)
    return name in KEPT and len(sources) == 1 and not sources[0].startswith("override ")


def _typed(value: Any) -> str:
    """A value as it is typed in a Hydra override."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_typed(item)}" for key, item in value.items()) + "}"
    plain = not isinstance(value, str) or all(char.isalnum() or char in "_.-+" for char in value)
    return str(value) if plain else f'"{value}"'

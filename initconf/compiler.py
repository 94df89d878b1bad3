"""From a spec and a model to a plan. Every check is here: what compiles can be applied."""

from __future__ import annotations

import copy
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from initconf import activations, diagnosis, expressions, registry
from initconf.choices import Choice, choose
from initconf.errors import CompileError, InitConfError, Problem, listed
from initconf.laws import Constant, Keep, Law
from initconf.loading import load
from initconf.marks import SKIPPED, lacks_values
from initconf.origins import Feed
from initconf.owners import SHARDED, Found, Walk, parameters
from initconf.parametrized import assign, parametrised
from initconf.plan import Entry, Plan, joined
from initconf.registry import Argument
from initconf.rules import Match, match
from initconf.sites import Site, twin
from initconf.skipping import paused
from initconf.spec import InitSpec
from initconf.survey import survey, uncollected

if TYPE_CHECKING:
    from torch import nn

AUTO = ("auto", {"name": "auto"})
_USUAL = {
    "norm_scale": "ones",
    "embedding": "{name: normal, std: 0.02}",
    "position": "{name: normal, std: 0.02}",
    "recurrent": "orthogonal",
    "gate_scale": "module_default",
    "state": "module_default",
    "other": "{name: normal, std: 0.02}",
}
"""What a remedy proposes for a role; zeros for the rest."""
PATTERNS = ("match", "search", "glob")


def compile(model: nn.Module, spec: Any, *, example: Any = None) -> Plan:
    """Decide what every parameter of a model will receive; nothing is written.

    Values are not read, but for three elements of what is to be kept: they tell whether `skip_init` left it out.

    Args:
        model: on any device, also meta.
        spec: whatever `load` takes.
        example: an input for `nonlinearity: auto`: a tensor, a tuple (positional) or a mapping (keywords). The model runs on it
            once, without gradients; without one it is traced symbolically.

    Returns:
        The plan. It depends on the spec and on the model's structure alone.

    Raises:
        SpecError: from `load`.
        CompileError: with every problem: unknown initializers and arguments, rules that match nothing, parameters that nothing
            claims, initializers that cannot serve a tensor.

    >>> plan = initconf.compile(model, "he")
    >>> plan["0.weight"].std
    0.707...
    """
    return compiled(model, load(spec), example=example)


@uncollected()
@paused()
def compiled(
    model: nn.Module, spec: InitSpec, *, example: Any = None, walked: Walk | None = None, chosen: Container[str] | None = None
) -> Plan:
    """The plan of a spec that is loaded.

    Args:
        walked: a walk over the model that was made already.
        chosen: the parameters to plan for, by any of their names; left out, all.
    """
    _refuse_unready(spec)
    sites = _survey(model, spec, walked)
    try:
        matched = match(list(spec.live_rules()), sites)
    except InitConfError as error:
        raise CompileError(_with_rules(spec, error)) from None
    work = _Compilation(spec, sites, matched, model, example, walked)
    entries = [
        work.entry(i, site)
        for i, site in enumerate(sites)
        if chosen is None or any(place.name in chosen for place in site.places)
    ]
    for r, verdict in enumerate(matched.verdicts):
        if verdict.matched or not verdict.rule.optional:  # a scheme's rule for layers that are not there is no concern
            work.choice(r)
    work.problems += diagnosis.problems(spec, matched, sites, work.choices)
    if work.problems or work.grouped:
        raise CompileError(dict.fromkeys([*work.problems, *work.regroup()]))
    return Plan(
        tuple(entry for entry in entries if entry is not None),
        spec.seed or 0,
        tuple(diagnosis.warnings(spec, matched, sites, work.choices, work.served)) if chosen is None else (),
        spec.compat,
        spec.rng_device or "auto",
    )


def _survey(model: nn.Module, spec: InitSpec, walked: Walk | None = None) -> list[Site]:
    try:
        return survey(model, spec.layers, declared=spec.layouts, torch_fans=spec.compat == "torch", walked=walked)
    except CompileError as error:
        # The survey knows no addresses: what it says of the spec receives them here.
        problems = [
            replace(p, path=spec.path(p.path), source=spec.source(p.path))
            if (p.path or "").startswith(("layouts.", "layers")) and p.path
            else p
            for p in error.problems
        ]
        raise CompileError(problems) from None


def compile_one(
    model: nn.Module, spec: InitSpec, sites: Sequence[Site], matched: Match, i: int, example: Any = None
) -> tuple[Entry | None, list[Problem]]:
    """What site `i` would receive, and the problems that concern it: for a model that does not compile as a whole."""
    site, work = sites[i], _Compilation(spec, sites, matched, model, example)
    entry = work.entry(i, site)
    mine = [r for r, verdict in enumerate(matched.verdicts) if i in verdict.matched]
    for r in mine:
        work.choice(r)
    paths = [spec.path(f"rules.{matched.verdicts[r].name}") for r in mine]
    called = [re.compile(rf"(?<![\w.]){re.escape(place.name)}(?![\w.])") for place in site.places]
    for problem in diagnosis.problems(spec, matched, sites, work.choices):
        bent = any(f"{problem.path}.".startswith(f"{path}.") for path in paths)
        if bent or any(name.search(problem.text) for name in called):  # such as of a head that is tied, and so no head
            work.problems.append(problem)
    return entry, list(dict.fromkeys([*work.problems, *work.regroup()]))


def _refuse_unready(spec: InitSpec) -> None:
    """What the design has and this version has not: said, not ignored."""
    asked = {"targets": spec.targets}
    problems = [
        Problem("this version of initconf does not know how to do that yet", spec.path(key), source=spec.source(key))
        for key, value in asked.items()
        if value
    ]
    if problems:
        raise CompileError(problems)


@dataclass
class _Compilation:
    spec: InitSpec
    sites: Sequence[Site]
    matched: Match
    model: nn.Module
    example: Any
    walked: Walk | None = None
    problems: list[Problem] = field(default_factory=list)
    grouped: dict[tuple[str, ...], list[str]] = field(default_factory=dict)
    """Problems that many parameters share, as (path, value, source, text, remedy) -> their names."""
    choices: dict[int | None, Choice | None] = field(default_factory=dict)
    served: set[int | None] = field(default_factory=set)
    """Rules (None: the spec itself) that gave at least one parameter its law."""
    made: dict[Any, Entry] = field(default_factory=dict)
    """An entry for each kind of site under each rule: those of its like differ in their names alone."""
    feeds: dict[str, Feed] | None = None
    """What feeds each weight; the model is traced when the first `auto` is met."""
    untraced: str | None = None
    """Why the model could not be traced."""
    found: dict[str, Found] | None = None
    """Where the parameters are, once that is asked."""

    def entry(self, i: int, site: Site) -> Entry | None:
        winners = self.matched.winners[i]
        if not site.blocks:
            return self._leaf(site, winners[0])
        if len(set(winners)) == 1 and (winners[0] is not None or site.role == "weight") and self._serves_whole(winners[0]):
            return self._leaf(twin(site, blocks=()), winners[0])
        leaves = [self._leaf(block, winner) for block, winner in zip(site.blocks, winners, strict=True)]
        blocks = tuple([leaf for leaf in leaves if leaf is not None])
        if len(blocks) < len(leaves):
            return None
        rules = {block.rule for block in blocks}
        law = joined(blocks, site.layout.block_axis)
        return _entry(site, rules.pop() if len(rules) == 1 else None, None, {}, law, blocks)

    def _serves_whole(self, winner: int | None) -> bool:
        choice = self.choice(winner)
        return choice is not None and choice.initializer.whole

    def _leaf(self, site: Site, winner: int | None) -> Entry | None:
        kept = winner is None and site.layout.role != "weight"
        if kept and not self._kept(site):
            return None
        choice = Choice(registry.find("keep"), {}, {}, "unmatched") if kept else self.choice(winner)
        if choice is None:
            return None
        auto = choice.arguments.get("nonlinearity") in AUTO
        # The shipped initializers see no difference between sites of one kind; a user's may look at whatever a site has.
        alike = None
        if choice.initializer.shipped and site.alike and not auto and site.effective is None:
            alike = (winner, site.alike, site.block, (site.layer, site.n_layers) if choice.expressions else None)
            if (like := self.made.get(alike)) is not None and not isinstance(like.law, Keep):
                return twin(like, name=site.name, aliases=site.aliases, layer=site.layer)
        if not kept and choice.initializer.name != "keep" and (text := _unwritable(site)):
            where = "" if choice.path == "initializer" else choice.path
            rule = f"{self.spec.path('rules.kept')}={{glob: {site.name}, initializer: keep}}"
            self._add(where, text, site, f"keep them: '{rule}'")
            return None
        feed = None
        try:
            if auto:
                feed = self._feed(site)
                choice = replace(choice, arguments={**choice.arguments, "nonlinearity": feed.nonlinearity})
            settings = self._evaluate(choice, site)
            law = choice.initializer.law(site, settings)
            if isinstance(law, Constant) and site.effective is not None and site.block is None:
                self._try(site, law)
            if isinstance(law, Keep) and lacks_values(self._where(site)):
                raise InitConfError(Problem(SKIPPED, remedy="give it an initializer that writes values, or load them first"))
        except _Refused:
            return None
        except InitConfError as error:
            # A rule that names no initializer has the spec's, and is itself what is wrong.
            named = winner is None or choice.path != "initializer"
            path = choice.path if named else f"rules.{self.matched.verdicts[winner or 0].name}"
            said = error.problems[0]
            self._add(path, f"{choice.initializer.name} cannot serve it: {said.text}", site, said.remedy)
            return None
        if not kept:
            self.served.add(winner)
        name = None if winner is None else self.matched.verdicts[winner].name
        entry = _entry(site, name, choice.initializer.name, settings, law, (), feed)
        if alike is not None:
            self.made[alike] = entry
        return entry

    def _where(self, site: Site) -> Found:
        if self.found is None:
            self.found = self.walked.by_name() if self.walked is not None else parameters(self.model)
        return self.found[site.name]

    def _feed(self, site: Site) -> Feed:
        """What feeds a weight, found by a trace of the model. Raises InitConfError where it cannot be known."""
        if self.feeds is None:
            from initconf.tracing import trace

            names = {id(found.parameter): name for name, found in sorted(parameters(self.model).items(), reverse=True)}
            try:
                self.feeds = trace(self.model, names, self.example)
            except InitConfError as error:
                self.feeds, self.untraced = {}, str(error)
        feed = self.feeds.get(site.name) or Feed(None, self.untraced or "no linear map of the trace uses it")
        if feed.nonlinearity is None:
            text = f"the activation that feeds it is not known: {feed.reason}"
            remedy = f"say it in a rule: {{match: '{site.name}', nonlinearity: relu}}"
            if self.untraced:
                remedy = "give an example input that the model takes, or name the activation"
            raise InitConfError(Problem(text, remedy=remedy))
        return feed

    def _try(self, site: Site, law: Constant) -> None:
        """Raise InitConfError where a parametrisation does not take a constant: zeros, if it divides by a norm."""
        import torch

        where = self._where(site)
        if not where.parameter.is_meta:
            chain = copy.deepcopy(parametrised(where.module)[where.place.attribute])
            assign(chain, torch.full_like(where.parameter, law.value), 0)

    def _evaluate(self, choice: Choice, site: Site) -> dict[str, Any]:
        """The arguments for a site: expressions evaluated, types and ranges checked."""
        values, refused = {}, False
        for name, value in choice.arguments.items():
            argument = choice.initializer.arguments[name]
            if argument.numeric and isinstance(value, str):
                try:
                    value = expressions.evaluate(value, site.variables())
                    value = int(value) if value.is_integer() and not _takes(argument, value) else value
                except InitConfError as error:
                    self._add(choice.paths[name], str(error), site, None, value)
                    refused = True
                    continue
            values[name] = value
        good, bad = choice.initializer.validate(values)
        for name, text in bad:
            self._add(choice.paths[name], text, site, None, values[name])
        if not bad and not choice.initializer.torch and (feeding := values.get("nonlinearity")) is not None:
            name = "nonlinearity"
            try:
                activations.normalise(feeding)
                name = "gain_method" if "gain_method" in values else name
                activations.gain(feeding, values.get("gain_method", "second_moment"))
            except InitConfError as error:
                said, refused = error.problems[0], True
                self._add(choice.paths[name], said.text, site, said.remedy, values[name])
        if bad or refused:
            raise _Refused
        return good

    # --- which initializer, with which arguments ----------------------------------------------------------------------------

    def choice(self, winner: int | None) -> Choice | None:
        """The initializer of a rule (None: of the spec), None if it was refused."""
        if winner not in self.choices:
            verdict = None if winner is None else self.matched.verdicts[winner]
            try:
                self.choices[winner] = choose(self.spec, verdict.name if verdict else None)
            except CompileError as error:
                self.problems += error.problems
                self.choices[winner] = None
        return self.choices[winner]

    # --- what nothing claims, and rules that claim nothing ------------------------------------------------------------------

    def _kept(self, site: Site) -> bool:
        """Whether an unclaimed parameter may keep its values; if not, the problem is noted."""
        if self.spec.unmatched == "keep":
            return True
        nulled = [name for name, rule in self.spec.rules.items() if rule is None and name == site.role]
        text = f"no rule claims it (role {site.role})"
        source = ""
        if nulled:
            source = self.spec.source(f"rules.{nulled[0]}") or ""
            text += f"; the rule {nulled[0]!r} is switched off"
        rule = f"'{self.spec.path('rules.' + site.role)}={{role: {site.role}, initializer: {_USUAL.get(site.role, 'zeros')}}}'"
        remedy = f"{self.spec.path('unmatched')}=keep leaves it as it is; or give it a rule, {rule}"
        self.grouped.setdefault(("", "", source, text, remedy), []).append(site.label)
        return False

    def _add(self, path: str, text: str, site: Site, remedy: str | None, value: Any = None) -> None:
        shown = "" if value is None else repr(value)
        place = (self.spec.path(path), shown, self.spec.source(path) or "") if path else ("", shown, "")
        key = (*place, text, remedy or "")
        self.grouped.setdefault(key, []).append(site.label)

    def regroup(self) -> list[Problem]:
        """Problems that many parameters share, said once, with the first few names."""
        said = []
        own = self.spec.path("initializer")
        told = {key[3:]: key for key in self.grouped if key[0] == own}
        for key in list(self.grouped):
            # What is wrong with the spec's own initializer is said once, not for each rule that is served by it.
            if key[0] != own and (first := told.get(key[3:])):
                self.grouped[first] += self.grouped.pop(key)
        for (path, value, source, text, remedy), labels in self.grouped.items():
            where, told_of = (path, f"{listed(labels)}: {text}") if path else (listed(labels), text)
            said.append(Problem(told_of, where, value or None, source or None, remedy or None))
        return said


def _with_rules(spec: InitSpec, error: InitConfError) -> list[Problem]:
    """Problems with patterns, with the paths of the rules that have them."""
    said = []
    for problem in error.problems:
        rules = [
            (name, key) for name, rule in spec.live_rules() for key in PATTERNS if repr(getattr(rule, key)) in problem.text
        ]
        path = f"rules.{rules[0][0]}.{rules[0][1]}" if rules else None
        said.append(replace(problem, path=path and spec.path(path), source=path and spec.source(path)))
    return said


def _unwritable(site: Site) -> str | None:
    """Why values cannot be drawn for a parameter, whatever the initializer."""
    if site.dtype.startswith(("int", "uint", "bool", "q")):
        return f"values of dtype {site.dtype} are not drawn"
    if site.tensor is not None and site.tensor != SHARDED:
        return f"values of a {site.tensor.rpartition('.')[2]} are not drawn (a tensor of a class of its own)"
    return None


class _Refused(Exception):
    """The problem was noted already."""


def _takes(argument: Argument, value: Any) -> bool:
    try:
        argument.check(value)
    except ValueError:
        return False
    return True


def _entry(
    site: Site,
    rule: str | None,
    initializer: str | None,
    settings: Mapping[str, Any],
    law: Law,
    blocks: tuple[Entry, ...],
    feed: Feed | None = None,
) -> Entry:
    return Entry(
        site.name,
        site.aliases,
        site.block,
        blocks,
        site.role,
        site.module,
        site.shape,
        site.dtype,
        site.fan_in,
        site.fan_out,
        site.layer,
        rule,
        initializer,
        settings,
        law,
        site.layout.block_axis,
        site.start,
        site.layout.zero_row,
        site.layout.assumed + (("nonlinearity",) if feed is not None and feed.assumed else ()),
        site.effective,
        feed.reason if feed is not None else None,
        site.frozen,
    )

"""From a spec and a model to a plan. Every check is here: what compiles can be applied."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from initconf import activations, diagnosis, expressions, registry
from initconf.addresses import matched, surveyed
from initconf.choices import Choice, choose
from initconf.errors import CompileError, InitConfError, Problem
from initconf.generated import Described, as_sites
from initconf.heads import Heads, Ordinary, with_assumed_moment
from initconf.hyper.heads import MEASURED
from initconf.laws import Constant, Keep, Law
from initconf.marks import SKIPPED, lacks_values
from initconf.origins import Feed
from initconf.owners import SHARDED, Found, Walk, parameters
from initconf.parametrized import assign, parametrised
from initconf.plan import Entry, Plan, joined
from initconf.registry import Argument
from initconf.rules import Match
from initconf.sites import Site, twin
from initconf.skipping import paused
from initconf.spec import InitSpec
from initconf.survey import uncollected

if TYPE_CHECKING:
    from torch import nn

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


@uncollected()
@paused()
def compiled(
    model: nn.Module,
    spec: InitSpec,
    *,
    example: Any = None,
    walked: Walk | None = None,
    chosen: Container[str] | None = None,
    targets: Mapping[str, Any] | None = None,
    measure: Callable[[Plan, Collection[str]], Mapping[str, float]] | None = None,
) -> Plan:
    """The plan of a spec that is loaded.

    Args:
        walked: a walk over the model that was made already.
        chosen: the parameters to plan for, by any of their names; left out, all.
        targets: what a hypernetwork generates, by name, beside those of the spec.
        measure: of a plan and the names of parameters that it serves: E[h^2] of what enters their linear maps, of those that
            have one. For `input_second_moment: measured`; left out, that is an error.
    """
    sites = surveyed(model, spec, walked)
    work = _Compilation(
        spec, sites, matched(spec, sites), model, example, targets, can_measure=measure is not None, walked=walked
    )
    plan = work.plan(chosen)
    if work.asked and measure is not None:
        plan = work.with_moments(measure(plan, work.asked)).plan(chosen)
    return plan


def compile_one(
    model: nn.Module, spec: InitSpec, sites: Sequence[Site], held: Match, i: int, example: Any = None
) -> tuple[Entry | None, list[Problem]]:
    """What site `i` would receive, and the problems that concern it: for a model that does not compile as a whole."""
    site, work = sites[i], _Compilation(spec, sites, held, model, example, can_measure=True)
    entry = work.entry(i, site)
    mine = [r for r, verdict in enumerate(held.verdicts) if i in verdict.matched]
    for r in mine:
        work.choice(r)
    paths = [spec.path(f"rules.{held.verdicts[r].name}") for r in mine]
    called = [re.compile(rf"(?<![\w.]){re.escape(place.name)}(?![\w.])") for place in site.places]
    for problem in diagnosis.problems(spec, held, sites, work.choices):
        bent = any(f"{problem.path}.".startswith(f"{path}.") for path in paths)
        if bent or any(name.search(problem.text) for name in called):  # such as of a head that is tied, and so no head
            work.problems.append(problem)
    return entry, list(dict.fromkeys([*work.problems, *work.shared.problems()]))


@dataclass
class _Compilation:
    spec: InitSpec
    sites: Sequence[Site]
    matched: Match
    model: nn.Module
    example: Any = None
    targets: Mapping[str, Any] | None = None
    measured: Mapping[str, float] | None = None
    """E[h^2] of what enters the linear map of a parameter, by its name; None as long as nothing is measured."""
    can_measure: bool = False
    """Whether it will be; until then it counts as 1."""
    walked: Walk | None = None
    problems: list[Problem] = field(default_factory=list)
    choices: dict[int | None, Choice | None] = field(default_factory=dict)
    served: set[int | None] = field(default_factory=set)
    """Rules (None: the spec itself) that gave at least one parameter its law."""
    made: dict[Any, Entry] = field(default_factory=dict)
    """An entry for each kind of site under each rule: those of its like differ in their names alone."""
    feeds: dict[str, Feed] | None = None
    """What feeds each weight; the model is traced when the first `auto` is met."""
    untraced: Problem | None = None
    """Why the model could not be traced."""
    asked: set[str] = field(default_factory=set)
    """The parameters of initializers that want E[h^2] to be measured."""

    def __post_init__(self) -> None:
        self.shared = diagnosis.Shared(self.spec)
        self.heads = Heads(
            self.spec, self.model, self.sites, self.matched, self.targets, self.choice, self._settings, self._ordinary
        )

    def with_moments(self, measured: Mapping[str, float]) -> _Compilation:
        """The same once more, with what was measured."""
        return _Compilation(
            self.spec,
            self.sites,
            self.matched,
            self.model,
            self.example,
            self.targets,
            measured,
            walked=self.walked,
            feeds=self.feeds,
        )

    def plan(self, chosen: Container[str] | None = None) -> Plan:
        """The whole plan, or that of some parameters. Raises CompileError with every problem."""
        spec, sites = self.spec, self.sites
        entries = [
            self.entry(i, site)
            for i, site in enumerate(sites)
            if chosen is None or any(place.name in chosen for place in site.places)
        ]
        for r, verdict in enumerate(self.matched.verdicts):
            if verdict.matched or not verdict.rule.optional:  # a scheme's rule for layers that are not there is no concern
                self.choice(r)
        self.problems += [*self.heads.problems, *diagnosis.problems(spec, self.matched, sites, self.choices)]
        if problems := [*self.problems, *self.shared.problems()]:
            raise CompileError(dict.fromkeys(problems))
        warnings = diagnosis.warnings(spec, self.matched, sites, self.choices, self.served) if chosen is None else []
        warnings += [*self.heads.warnings, *self.heads.unused()] if chosen is None else []
        made = tuple([entry for entry in entries if entry is not None])
        return Plan(made, spec.seed or 0, tuple(warnings), spec.compat, spec.rng_device or "auto")

    found: dict[str, Found] | None = None
    """Where the parameters are, once that is asked."""

    def entry(self, i: int, site: Site) -> Entry | None:
        winners = self.matched.winners[i]
        if (parts := self.heads.parts(i)) is not None:
            return self._joined(site, [self._leaf(part, winners[0]) for part in parts])
        if not site.blocks:
            return self._leaf(site, winners[0])
        if len(set(winners)) == 1 and (winners[0] is not None or site.role == "weight") and self._serves_whole(winners[0]):
            return self._leaf(twin(site, blocks=()), winners[0])
        return self._joined(site, [self._leaf(block, w) for block, w in zip(site.blocks, winners, strict=True)])

    def _joined(self, site: Site, leaves: list[Entry | None]) -> Entry | None:
        """The entry of a parameter that consists of these; None where one of them was refused."""
        blocks = tuple([leaf for leaf in leaves if leaf is not None])
        if len(blocks) < max(len(leaves), 1):
            return None
        if blocks[0].block is None:
            return blocks[0]
        rules = {block.rule for block in blocks}
        return _entry(site, rules.pop() if len(rules) == 1 else None, None, {}, joined(blocks, blocks[0].axis), blocks)

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
        auto = choice.arguments.get("nonlinearity") in diagnosis.AUTO
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
        if site.target is not None:
            site = with_assumed_moment(site, choice, settings, law)
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

            try:
                self.feeds = trace(self.model, self.example)
            except InitConfError as error:
                self.feeds, self.untraced = {}, error.problems[0]
        lost = self.untraced.text if self.untraced is not None else "no linear map of the trace uses it"
        feed = self.feeds.get(site.name) or Feed(None, lost)
        if feed.nonlinearity is None:
            text = f"the activation that feeds it is not known: {feed.reason}"
            remedy = f"say it in a rule: {{match: '{site.name}', nonlinearity: relu}}"
            if self.untraced is not None and self.untraced.remedy:
                remedy = self.untraced.remedy
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
            if argument.is_expression(value):
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
        if not bad and (gainless := diagnosis.without_gain(choice, values)) is not None:
            (name, said), refused = gainless, True
            self._add(choice.paths[name], said.text, site, said.remedy, values[name])
        if bad or refused:
            raise _Refused
        if good.get("input_second_moment") == MEASURED:
            good["input_second_moment"] = self._moment(choice, site)
        return good

    def _settings(self, choice: Choice, site: Site) -> dict[str, Any] | None:
        try:
            return self._evaluate(choice, site)
        except _Refused:
            return None

    def _moment(self, choice: Choice, site: Site) -> Any:
        """E[h^2] of what enters a parameter's linear map: `measured` still, where it has none."""
        if self.measured is not None:
            return self.measured.get(site.name, MEASURED)
        if not self.can_measure:
            text = "the second moment is to be measured, and there are no conditions to measure it over"
            remedy = "give conditions=, inputs that the model takes (on a command line --conditions PKG.MOD:NAME), or a number"
            path = choice.paths["input_second_moment"]
            self.problems.append(Problem(text, self.spec.path(path), repr(MEASURED), self.spec.source(path), remedy))
            raise _Refused
        self.asked.add(site.name)
        return 1.0

    def _ordinary(self, spec: InitSpec, about: Described) -> Ordinary:
        """The law that a scheme gives to each of some targets, and the row that stays zero."""
        if about.module is not None:
            plan = compiled(about.module, spec)
        else:
            sites = as_sites(about.targets)
            said = {target.name: activations.normalise(target.nonlinearity) for target in about.targets}
            feeds = {name: Feed({"name": f, **more}, "its target says so") for name, (f, more) in said.items()}
            plan = _Compilation(spec, sites, matched(spec, sites), self.model, feeds=feeds).plan()
        entries = [plan[target.name] for target in about.targets]
        return tuple(entry.law for entry in entries), tuple(entry.zero_row for entry in entries)

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
        self.shared.add(site.label, text, remedy, source=source)
        return False

    def _add(self, path: str, text: str, site: Site, remedy: str | None, value: Any = None) -> None:
        self.shared.add(site.label, text, remedy, path, "" if value is None else repr(value))


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

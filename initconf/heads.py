"""Hypernetworks in a compilation: the parameters that generate the targets of a spec, and the sites that take their place."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from initconf.choices import Choice
from initconf.errors import CompileError, InitConfError, Problem, did_you_mean, listed, placed
from initconf.generated import Described, described, inside, names, own_scheme
from initconf.hyper.heads import Generated
from initconf.hyper.targets import Target
from initconf.laws import Law
from initconf.loading import load
from initconf.rules import Match
from initconf.sites import Site, twin
from initconf.spec import InitSpec

if TYPE_CHECKING:
    from torch import nn

_NORM = re.compile(r"(Lazy|Sync)?(Batch|Layer|Group|Instance|RMS)Norm")
"""The classes of modules that take a scale out of what they are given."""
_GUESSES = ("kind", "layer", "fans", "mean", "role", "layout")
"""What a target may have been read wrongly for; the activation that feeds it is only marked."""
Ordinary = tuple[tuple[Law, ...], tuple[int | None, ...]]
"""A law for each target, and the row of each that stays zero."""


@dataclass
class Heads:
    """The parameters that generate targets, and the sites that take their place."""

    spec: InitSpec
    model: nn.Module
    sites: Sequence[Site]
    matched: Match
    given: Mapping[str, Any] | None
    """Targets of Python, by name."""
    choice: Callable[[int | None], Choice | None]
    """The initializer of a rule (None: of the spec), None if it was refused."""
    settings: Callable[[Choice, Site], dict[str, Any] | None]
    """Its arguments for a site, None if they were refused."""
    ordinary: Callable[[InitSpec, Described], Ordinary]
    """What a scheme gives targets. Raises InitConfError."""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    """The names of targets that an initializer asks for."""
    _parts: dict[int, tuple[Site, ...]] | None = None

    def parts(self, i: int) -> tuple[Site, ...] | None:
        """What takes the place of site `i`: none where that failed; None where it generates nothing."""
        if self._parts is None:
            self._parts = {}
            for (_, name), won in self._groups().items():
                self._parts |= {i: () for i, _, _ in won}
                settings = [(site, self.settings(choice, site)) for _, site, choice in won]
                good = [(site, said) for site, said in settings if said is not None]
                if name is not None and len(good) == len(won):
                    self._arrange(name, won, good)
        return self._parts.get(i)

    def generating(self, winner: int | None) -> bool:
        """Whether the initializer of a rule (None: of the spec) serves what generates."""
        choice = self.choice(winner)
        return choice is not None and choice.initializer.arrange is not None

    def _groups(self) -> dict[tuple[Any, str | None], list[tuple[int, Site, Choice]]]:
        """The parameters that are served together, by how they are arranged and for which targets (None: there are none)."""
        won = [(i, winner) for i, winners in enumerate(self.matched.winners) for winner in dict.fromkeys(winners)]
        won = [(i, w) for i, w in won if w is not None or self.sites[i].role == "weight"]
        serving = {winner for winner in {w for _, w in won} if self.generating(winner)}
        names = {winner: self._name(winner) for winner in sorted(serving, key=lambda w: -1 if w is None else w)}
        groups: dict[tuple[Any, str | None], list[tuple[int, Site, Choice]]] = {}
        for i, winner in won:
            choice = self.choice(winner) if winner in serving else None
            if choice is not None and len(set(self.matched.winners[i])) > 1:
                text = f"{self.sites[i].name}: {choice.initializer.name} serves whole parameters, and not some of their blocks"
                remedy = "let the rule claim all of them; targets are bent by their own mean and var"
                place = self.spec.path(choice.path), None, self.spec.source(choice.path)
                self.problems.append(Problem(text, *place, remedy))
                groups.setdefault((None, None), []).append((i, self.sites[i], choice))
            elif choice is not None:
                groups.setdefault((choice.initializer.arrange, names[winner]), []).append((i, self.sites[i], choice))
        return groups

    def _name(self, winner: int | None) -> str | None:
        """The targets that the initializer of a rule is for. None, and a problem, where there are no such."""
        choice = self.choice(winner)
        assert choice is not None
        there, said = names(self.spec, self.given), choice.arguments.get("targets")
        if isinstance(said, str) and said in there:
            return said
        if said is None and len(there) == 1:
            return there[0]
        text = f"no targets are named {said!r}"
        remedy = did_you_mean(str(said), there)
        if said is None:
            text = f"{choice.initializer.name} is to know which targets are generated, and there are {len(there) or 'none'}"
            text += f": {', '.join(there)}" if there else ""
            remedy = f"write initializer: {{name: {choice.initializer.name}, targets: {there[0]}}}" if there else remedy
        if not there:
            remedy = "say them: targets: {main: {module: PATH}}, a list or shapes; or in Python, targets={'main': net}"
        path = choice.paths.get("targets", choice.path)
        shown = repr(said) if said is not None else None
        self.problems.append(Problem(text, self.spec.path(path), shown, self.spec.source(path), remedy))
        self.used.update(there)  # which one it was to be is not known
        return None

    def _arrange(self, name: str, won: list[tuple[int, Site, Choice]], settings: list[tuple[Site, dict[str, Any]]]) -> None:
        choice = won[0][2]
        self.used.add(name)
        assert self._parts is not None
        assert choice.initializer.arrange is not None
        try:
            what = self._generated(name, won)
            done = choice.initializer.arrange(what, settings)
        except CompileError as error:
            self.problems += error.problems
            return
        except InitConfError as error:
            path = self.spec.path(choice.path), None, self.spec.source(choice.path)
            head = f"{choice.initializer.name} for the targets {name!r}"
            self.problems += [Problem(f"{head}: {placed(p)}", *path, p.remedy) for p in error.problems]
            return
        for (i, _, _), sites in zip(won, done.sites, strict=True):
            self._parts[i] = sites
        self.warnings += [f"{self.spec.path(choice.path)}: {text}" for text in done.warnings]
        self.warnings += _guessed(self.spec.path(f"targets.{name}"), what.targets)

    def _generated(self, name: str, won: list[tuple[int, Site, Choice]]) -> Generated:
        about = described(self.spec, self.model, name, self.given)
        norms = tuple(_norms(self.model, [site for _, site, _ in won], about.module))
        nesting = [choice for _, _, choice in won if "scheme" in choice.initializer.arguments]
        if not nesting:
            return Generated(name, about.targets, norms=norms)
        schemes = [choice.arguments.get("scheme") for choice in nesting]
        path = nesting[0].paths.get("scheme", nesting[0].path)
        address = self.spec.path(path), None, self.spec.source(path)
        if any(scheme != schemes[0] for scheme in schemes):
            raise CompileError(Problem(f"the targets {name!r} have two schemes", *address, "say the same in both rules"))
        try:
            rules = {verdict.name: r for r, verdict in enumerate(self.matched.verdicts)}
            nested = (
                own_scheme(self.spec, lambda rule: self.generating(rules[rule] if rule is not None else None))
                if schemes[0] is None
                else load(schemes[0])
            )
            laws, zero_rows = self.ordinary(nested, about)
        except InitConfError as error:
            raise CompileError(Problem(f"its scheme: {placed(p)}", *address, p.remedy) for p in error.problems) from None
        return Generated(name, about.targets, laws, zero_rows, norms=norms)

    def unused(self) -> list[str]:
        """A warning for each set of targets that no initializer asks for."""
        return [
            f"{self.spec.path(f'targets.{name}')}: no parameter's initializer uses these targets"
            for name in names(self.spec, self.given)
            if name not in self.used
        ]


def _norms(model: nn.Module, served: Sequence[Site], main: nn.Module | None) -> Iterator[str]:
    """The normalisations of a hypernetwork: of the innermost module that owns all that is served, but for the main network."""
    from torch import nn

    holders = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
    owners = [site.name.removesuffix(site.places[0].attribute).split(".")[:-1] for site in served]
    path = [parts[0] for parts in itertools.takewhile(lambda parts: len({*parts}) == 1, zip(*owners, strict=False))]
    while path and isinstance(inside(model, ".".join(path)), holders):  # what holds parts is not yet what uses them
        path.pop()
    skipped = {id(module) for module in main.modules()} if main is not None else set()
    within = inside(model, ".".join(path)) if path else model
    for name, module in within.named_modules():
        if id(module) not in skipped and any(_NORM.match(cls.__name__) for cls in type(module).__mro__):
            yield ".".join([*path, *([name] if name else [])])


def _guessed(path: str, targets: Sequence[Target]) -> list[str]:
    """A warning for each kind of guess."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for target in targets:
        if words := tuple(word for word in _GUESSES if word in target.assumed):
            groups.setdefault(words, []).append(target.name)
    return [
        f"{path}: the {' and '.join(words)} of {listed(names)} {'are' if len(words) > 1 else 'is'} assumed; "
        "a list of targets would say"
        for words, names in groups.items()
    ]


def with_assumed_moment(site: Site, choice: Choice, settings: Mapping[str, Any], law: Law) -> Site:
    """The site, marked where its law rests on the default of E[h^2]."""
    moment = choice.initializer.arguments.get("input_second_moment")
    if site.ndim != 2 or moment is None or moment.default != 1.0 or "input_second_moment" in settings or not law.std:
        return site
    return twin(site, layout=twin(site.layout, assumed=(*site.layout.assumed, "input_second_moment")))

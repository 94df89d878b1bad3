"""Which rule wins which parameter: every rule is held against every name, and the last match wins."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, NamedTuple

from initconf import patterns
from initconf.errors import near
from initconf.sites import Place, Site, is_a
from initconf.spec import Rule


@dataclass
class Verdict:
    """What became of one rule."""

    name: str
    rule: Rule
    matched: set[int] = field(default_factory=set)
    """The sites that it matches."""
    won: set[int] = field(default_factory=set)
    """Those of which it won at least one block."""


@dataclass
class Match:
    """The rules held against the sites."""

    verdicts: list[Verdict]
    """Weakest rule first."""
    winners: list[list[int | None]]
    """For each site, the winning rule (an index into `verdicts`) of each of its blocks; a plain parameter has one."""
    selected: list[dict[str, set[int]]]
    """For each rule and each selector it has, the names (indices into `names`) for which the selector alone holds."""
    names: list[tuple[int, Place]]
    """Every name of every site: (site, place)."""

    def lost_to(self, r: int) -> dict[int, int]:
        """Who wins what rule `r` matches and does not win any block of: how many sites by rule, weakest first."""
        verdict = self.verdicts[r]
        lost = verdict.matched - verdict.won
        found = Counter(w for i in lost for w in {*self.winners[i]} if w is not None and w > r)
        return dict(sorted(found.items()))


def match(rules: Sequence[tuple[str, Rule]], sites: Sequence[Site]) -> Match:
    """Hold rules (weakest first) against sites.

    All selectors of a rule must hold on one and the same name. Raises InitConfError for a pattern that takes too long.
    """
    names = [(i, place) for i, site in enumerate(sites) for place in site.places]
    by_pattern = _patterns(rules, [place.name for _, place in names])
    by_role = _grouped(names, lambda i, place: sites[i].layout.role) if any(rule.role for _, rule in rules) else {}
    by_ndim = _grouped(names, lambda i, place: len(sites[i].shape)) if any(rule.ndim is not None for _, rule in rules) else {}
    by_owner = _grouped(names, lambda i, place: place.owner) if any(rule.module for _, rule in rules) else {}
    by_inside = _grouped(names, lambda i, place: place.inside) if any(rule.inside for _, rule in rules) else {}

    # Cached, and so one set for all rules that say the same: five hundred of a hundred thousand names would fill the memory.
    @cache
    def with_role(roles: tuple[str, ...]) -> set[int]:
        return set().union(*(by_role.get(role, ()) for role in roles))

    @cache
    def owned(classes: tuple[str, ...]) -> set[int]:
        return set().union(*(ns for owner, ns in by_owner.items() if is_a(owner, classes)))

    @cache
    def inside(classes: tuple[str, ...]) -> set[int]:
        return set().union(*(ns for above, ns in by_inside.items() if any(is_a(a, classes) for a in above)))

    @cache
    def with_block(pattern: str) -> set[int]:
        return {n for n, (i, _) in enumerate(names) if _blocks(pattern, sites[i])}

    verdicts, selected = [], []
    winners: list[list[int | None]] = [[None] * max(1, len(site.blocks)) for site in sites]
    for r, (name, rule) in enumerate(rules):
        held: dict[str, set[int]] = dict(by_pattern[r])
        if rule.role:
            held["role"] = with_role(rule.role)
        if rule.ndim is not None:
            held["ndim"] = by_ndim.get(rule.ndim, set())
        if rule.module:
            held["module"] = owned(rule.module)
        if rule.inside:
            held["inside"] = inside(rule.inside)
        if rule.block is not None:
            held["block"] = with_block(rule.block)
        verdict = Verdict(name, rule, {names[n][0] for n in set.intersection(*held.values())})
        for i in verdict.matched:
            if rule.block is None:
                winners[i] = [r] * len(winners[i])
            else:
                for b in _blocks(rule.block, sites[i]):
                    winners[i][b] = r
        verdicts.append(verdict)
        selected.append(held)
    for i, site_winners in enumerate(winners):
        for winner in site_winners:
            if winner is not None:
                verdicts[winner].won.add(i)
    return Match(verdicts, winners, selected, names)


def _grouped(names: list[tuple[int, Place]], key: Callable[[int, Place], Hashable]) -> dict[Any, set[int]]:
    """The names by something that they have in common."""
    found: dict[Hashable, set[int]] = defaultdict(set)
    for n, (i, place) in enumerate(names):
        found[key(i, place)].add(n)
    return found


def _patterns(rules: Sequence[tuple[str, Rule]], names: list[str]) -> list[dict[str, set[int]]]:
    wanted: list[tuple[int, patterns.Kind, str]] = []
    for r, (_, rule) in enumerate(rules):
        given: list[tuple[patterns.Kind, str | None]] = [("match", rule.match), ("search", rule.search), ("glob", rule.glob)]
        wanted += [(r, kind, text) for kind, text in given if text is not None]
    found: list[dict[str, set[int]]] = [{} for _ in rules]
    for (r, kind, _), matched in zip(
        wanted, patterns.match_names([(kind, text) for _, kind, text in wanted], names), strict=True
    ):
        found[r][kind] = matched
    return found


def _blocks(pattern: str, site: Site) -> list[int]:
    return _blocks_of(pattern, tuple(block.block or "" for block in site.blocks)) if site.blocks else []


@lru_cache(maxsize=1024)
def _blocks_of(pattern: str, names: tuple[str, ...]) -> list[int]:
    return sorted(patterns.match_names([("glob", pattern)], names)[0])


class Dead(NamedTuple):
    """Why a rule matches nothing."""

    text: str
    remedy: str | None = None
    instead: int | None = None
    """The rule that has what this one was meant for: the parameter is tied, and has another role."""


def why_dead(m: Match, r: int, sites: Sequence[Site]) -> Dead:
    """Why a rule matches nothing, and what to do about it."""
    held, rule = m.selected[r], m.verdicts[r].rule
    named = (
        set.intersection(*(held[k] for k in ("match", "search", "glob") if k in held))
        if set(held) & {"match", "search", "glob"}
        else None
    )
    if named:
        # The names are there, another selector excludes them: most often a tied head, which has role embedding.
        n = min(named)
        site, place = sites[m.names[n][0]], m.names[n][1]
        failing = [k for k in held if k not in ("match", "search", "glob") and n not in held[k]]
        text = f"it matches nothing: {place.name} has " + ", ".join(_fact(k, site, place) for k in failing or ["role"])
        if site.aliases and "role" in failing:
            others = ", ".join(x for x in (site.name, *site.aliases) if x != place.name)
            winner = m.winners[m.names[n][0]][0]
            remedy = None if winner is not None else f"add role: {site.role}"
            return Dead(f"{text}, because it is tied to {others}", remedy, winner)
        return Dead(text)
    if named is not None:
        kind, text = next((k, t) for k in ("match", "search", "glob") if (t := getattr(rule, k)) is not None)
        names = [place.name for _, place in m.names]
        # Of names that differ in a number one is enough: difflib takes its time.
        alike = {re.sub(r"\d+", "0", name): name for name in reversed(names)}
        close = near(text.replace("\\.", ".").strip("^$*"), list(alike.values())[-2000:]) or _by_words(
            text, [*alike.values()][::-1]
        )
        remedy = f"near names: {', '.join(close)}" if close else f"names are such as {', '.join(names[:2])}" if names else None
        return Dead(f"it matches nothing: no parameter's name fits {kind} {text!r}", remedy)
    empty = [k for k, ns in held.items() if not ns]
    if empty:
        has = {"module": "is owned by a", "inside": "lies inside", "block": "has a block"}.get(empty[0], f"has {empty[0]}")
        text = f"it matches nothing: no parameter {has} {_said(getattr(rule, empty[0]))}"
        return Dead(text, _there_are(empty[0], m, sites))
    return Dead("it matches nothing: each selector matches some parameters, but no name has them all")


def _by_words(pattern: str, names: Collection[str]) -> list[str]:
    """Names with a word that is almost one of a pattern's: `head.weight` for `haed.*`."""
    words = {word for name in names for word in name.split(".")}
    for typed in re.findall(r"[A-Za-z_]\w{2,}", re.sub(r"\\.", " ", pattern)):
        if typed not in words and (meant := near(typed, words, 1)):
            return [name for name in names if meant[0] in name.split(".")][:3]
    return []


def _fact(kind: str, site: Site, place: Place) -> str:
    if kind == "block":
        return f"the blocks {', '.join(b.block or '' for b in site.blocks)}" if site.blocks else "no blocks"
    if kind == "module":
        return f"module {place.owner[0].rpartition('.')[2]}"
    if kind == "inside":
        return (
            f"the ancestors {', '.join(above[0].rpartition('.')[2] for above in place.inside)}"
            if place.inside
            else "no ancestors"
        )
    return f"{kind} {getattr(site, kind)}"


def _said(value: object) -> str:
    return " or ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _there_are(kind: str, m: Match, sites: Sequence[Site]) -> str | None:
    seen: set[str] = set()
    for i, place in m.names:
        if kind in ("role", "ndim"):
            seen.add(str(getattr(sites[i], kind)))
        elif kind == "module":
            seen.add(place.owner[0].rpartition(".")[2])
        elif kind == "inside":
            seen.update(above[0].rpartition(".")[2] for above in place.inside)
        else:
            seen.update(block.block or "" for block in sites[i].blocks)
    return f"there are: {', '.join(sorted(seen)[:12])}" if seen else None

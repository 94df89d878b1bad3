"""What became of every rule that was held against one parameter, in words that name the values."""

from __future__ import annotations

from collections.abc import Sequence

from initconf.patterns import match_names
from initconf.rules import Match, Verdict
from initconf.sites import Place, Site

LONG = 32
"""How much of a pattern is shown."""


def verdicts(matched: Match, i: int, site: Site, block: str | None = None) -> list[tuple[str, str]]:
    """(rule, verdict) for site `i` of those that were matched, strongest rule first; for one block of it where one is named."""
    names = {n: place for n, (of, place) in enumerate(matched.names) if of == i}
    blocks = [part.block or "" for part in site.blocks]
    asked = [blocks.index(block)] if block is not None else list(range(max(1, len(blocks))))
    told = []
    for r, verdict in reversed(list(enumerate(matched.verdicts))):
        claimed = asked
        if verdict.rule.block is not None and blocks:
            claimed = sorted(match_names([("glob", verdict.rule.block)], blocks)[0] & set(asked))
        if i in verdict.matched and claimed:
            said = _outcome(matched, r, matched.winners[i], claimed, blocks, whole=claimed == asked)
        else:
            said = f"does not match: {_reasons(matched, r, names, site, block if not claimed else None)}"
        told.append((verdict.name, said))
    return told


def _outcome(
    matched: Match, r: int, winners: Sequence[int | None], claimed: list[int], blocks: list[str], *, whole: bool
) -> str:
    won = [b for b in claimed if winners[b] == r]
    lost: dict[int, list[int]] = {}
    for b in claimed:
        if (winner := winners[b]) is not None and winner != r:
            lost.setdefault(winner, []).append(b)
    told = won or claimed
    said = ("wins" if won else "matches") + ("" if whole and told == claimed else _named(told, blocks))
    own = matched.verdicts[r].rule.priority
    others = []
    for winner, which in lost.items():
        stronger = matched.verdicts[winner]
        how = f"priority {stronger.rule.priority}" if stronger.rule.priority > own else "later"
        others.append(f"{stronger.name} ({how}) wins{_named(which, blocks) if which != claimed else ''}")
    return said + (f", but {' and '.join(others)}" if others else "")


def _named(which: list[int], blocks: list[str]) -> str:
    return f" the block{'s' * (len(which) > 1)} {', '.join(blocks[b] for b in which)}"


def _reasons(matched: Match, r: int, names: dict[int, Place], site: Site, block: str | None) -> str:
    """Why a rule does not match, a reason for each selector that fails; `block` is one that it does not want."""
    verdict, held = matched.verdicts[r], matched.selected[r]
    failing = [kind for kind, ns in held.items() if not ns & set(names) or (kind == "block" and block is not None)]
    if failing:
        return "; ".join(_reason(kind, verdict, list(names.values()), site, block) for kind in failing)
    apart = [f"{kind} for {', '.join(names[n].name for n in sorted(ns & set(names)))}" for kind, ns in held.items()]
    return f"no one name has all its selectors: {', '.join(apart)}"


def _reason(kind: str, verdict: Verdict, places: list[Place], site: Site, block: str | None) -> str:
    wanted = getattr(verdict.rule, kind)
    if kind in ("match", "search", "glob"):
        text = wanted if len(wanted) <= LONG else f"{wanted[: LONG - 1]}…"
        return f"{kind} '{text}' {'fits none of its names' if len(places) > 1 else 'does not fit its name'}"
    wants = f"the rule wants {' or '.join(map(str, wanted)) if isinstance(wanted, tuple) else wanted}"
    if kind == "block":
        there = [block] if block is not None else [part.block or "" for part in site.blocks]
        said = f"its block{'s are' if len(there) > 1 else ' is'} {', '.join(there)}" if there else "it has no blocks"
        return f"{said}, {wants}"
    if kind in ("role", "ndim"):
        return f"{kind} is {getattr(site, kind)}, {wants}"
    dotted = any("." in name for name in wanted)
    classes = [place.owner for place in places] if kind == "module" else [above for place in places for above in place.inside]
    there = list(dict.fromkeys(names[0] if dotted else names[0].rpartition(".")[2] for names in classes))
    if kind == "module":
        return f"module is {' and '.join(there)}, {wants}"
    return f"it lies inside {', '.join(there) or 'no module'}, {wants}"

"""`initconf check`: what becomes of each rule of a spec, and whether anything is wrong with it; for a hook or for CI.

Without a model the form of schemes and rule files is checked, and neither torch nor the user's model is loaded. With one, each
rule is held against it: what it matches and wins, who wins it in its place, and why it is dead.
"""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from initconf.cli.answers import Answer, Grid
from initconf.cli.inputs import (
    STDIN,
    Usage,
    build_example,
    build_model,
    choice,
    import_modules,
    known_schemes,
    load_side,
    make_plan,
    read_sites,
    read_spec,
    split_words,
    unused,
)
from initconf.errors import InitConfError, Problem, SpecError
from initconf.rules import Match, why_dead
from initconf.spec import RULE_NAME, SELECTORS, InitSpec

if TYPE_CHECKING:
    from torch import nn

    from initconf.sites import Site

WINS, SHADOWED, DEAD, OFF, UNKNOWN = "wins", "shadowed", "dead", "off", "not matched"
_MAY = "may be dead"


@dataclass
class Row:
    """What became of a rule."""

    rule: str
    status: str
    """`wins` something; `shadowed`: all it matches is won by others; `dead`: it matches nothing; `off`: null; `not matched`
    against anything, since there is no model."""
    matched: int | None = None
    won: int | None = None
    lost_to: dict[str, int] = field(default_factory=dict)
    """Who wins what it matches and does not win."""
    expect: tuple[int, int] | None = None
    priority: int = 0
    may_be_dead: bool = False
    """Whether it may match nothing: it is optional, or sets nothing, and nobody has bent it."""
    reason: str | None = None
    """Why it is dead."""
    remedy: str | None = None
    """Near names, or what there is instead."""
    sources: list[str] = field(default_factory=list)


@dataclass
class Checked:
    """What was found of one spec."""

    label: str
    read: bool = True
    """Whether it has the form of a spec."""
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] | None = None
    """How many parameters are won by rules, served by the scheme, claimed by nothing; None without a model."""


@dataclass(frozen=True)
class Subject:
    """One spec, or one rule file, that is to be checked."""

    label: str
    read: Callable[[], InitSpec]
    """Raises SpecError."""
    whole: bool = True
    """Whether it is a spec, and not just rules."""
    incomplete: frozenset[str] = frozenset()
    """Rules whose initializer is named in another file."""


def check(args: Namespace) -> Answer:
    """Every rule of a spec, or of several files, and what is wrong with them."""
    files, overrides = split_words(args.words)
    if args.node is not None and args.config_name is None:
        raise Usage("--node goes with --config-name")
    subjects = list(_subjects(args, files, overrides))
    import_modules(args)
    found: list[tuple[Checked, InitSpec | None, Subject]] = []
    for subject in subjects:
        try:
            found.append((Checked(subject.label), subject.read(), subject))
        except SpecError as error:
            found.append((Checked(subject.label, read=False, problems=list(error.problems)), None, subject))
    model = None
    if args.model is not None and any(spec is not None and subject.whole for _, spec, subject in found):
        model = build_model(args)
        example = build_example(args, model)
    for checked, spec, subject in found:
        if spec is None:
            continue
        if model is not None and subject.whole:
            _against(args, model, example, spec, checked)
        else:
            _alone(spec, subject, checked)
    if args.strict:
        for checked, _, _ in found:
            checked.problems += [Problem(text) for text in checked.warnings]
            checked.warnings = []
    return _answer([checked for checked, _, _ in found])


# --- what is checked -------------------------------------------------------------------------------------------------------


def _subjects(args: Namespace, words: Sequence[str], overrides: Sequence[str]) -> Iterator[Subject]:
    chosen, rest = choice(overrides)
    if not words:
        if chosen is None and args.config_name is None:
            said = "say what to check: FILE ..., init=SCHEME, or --config-name NAME of an application"
            raise Usage(f"{said}; schemes: {', '.join(known_schemes(args))}")
        label = chosen if args.config_name is None else args.config_name
        yield Subject(STDIN if label == "-" else str(label), lambda: read_spec(args, overrides))
        return
    if chosen is not None:
        raise Usage(f"init={chosen}: a scheme or files, one of them")
    for word in words:
        path = Path(word)
        if word != "-" and not path.exists() and path.suffix not in (".yaml", ".yml"):
            meant = f"did you mean init={word}?" if word in known_schemes(args) else "write FILE.yaml, or init=SCHEME"
            raise Usage(f"there is no file {word!r}: {meant}")
        files = _files(path) if path.is_dir() else [word]
        yield from (_subject(args, str(file), rest) for file in files)
        if not files:
            problem = Problem(
                "no schemes and no rule files are in it", word, remedy="they are init/*.yaml and init/rules/*.yaml"
            )
            yield Subject(word, partial(_refused, problem))


def _files(folder: Path) -> list[Path]:
    """The schemes and rule files in a folder."""
    return [file for file in sorted(folder.rglob("*.y*ml")) if _group(file) is not None]


def _group(file: Path) -> str | None:
    """In which group of Hydra's a file stands by its folder; None for another file."""
    parts = file.absolute().parent.parts
    if parts[-2:] in (("init", "rules"), ("init", "rule")):
        return parts[-1]
    return "init" if parts[-1:] == ("init",) else None


def _subject(args: Namespace, word: str, overrides: list[str]) -> Subject:
    file = Path(word)
    group = _group(file) if word != "-" else None
    if group is not None and file.suffix == ".yml" and file.is_file():
        problem = Problem("Hydra finds files that end in .yaml, and no others", word, remedy=f"call it {file.stem}.yaml")
        return Subject(word, partial(_refused, problem))
    if group in ("rules", "rule") and file.is_file():
        return _rule_file(file, group, overrides)
    if args.config_name is not None and group == "init":
        package = f"@{args.node}" if args.node not in (None, "init") else ""
        return Subject(word, lambda: read_spec(args, [*overrides, f"init{package}={file.stem}"]))
    return Subject(STDIN if word == "-" else word, lambda: load_side(args, word, overrides))


def _refused(problem: Problem) -> InitSpec:
    raise SpecError(problem)


def _rule_file(file: Path, group: str, overrides: list[str]) -> Subject:
    """A rule file by itself. Its rules may add to those of other files: what they leave out is put in their place."""
    from initconf.loading import load
    from initconf.reading import parse, text_of

    label = str(file)
    try:
        said = parse(text_of(file), label, "init.rules")
    except SpecError:
        said = {}  # and is said when the file is read
    bodies = {file.stem: said} if group == "rule" else said
    rules = {name: body for name, body in bodies.items() if isinstance(body, dict) and RULE_NAME.fullmatch(name)}
    filled, incomplete = list[str](), set[str]()
    for name, body in rules.items():
        if not any(key in body for key in SELECTORS):
            filled.append(f"init.rules.{name}.glob={name}")  # of its own: two that are open are not the same
        if isinstance(body.get("initializer"), dict) and "name" not in body["initializer"]:
            filled.append(f"init.rules.{name}.initializer.name=keep")
            incomplete.add(name)
    chosen = {"rules": [file.stem]} if group == "rules" else {f"rule@rules.{file.stem}": file.stem}
    folder = file.absolute().parents[2]
    read = lambda: load({"defaults": [chosen]}, [*filled, *overrides], config_dir=folder)  # noqa: E731
    return Subject(label, read, whole=False, incomplete=frozenset(incomplete))


# --- without a model -------------------------------------------------------------------------------------------------------


def _alone(spec: InitSpec, subject: Subject, checked: Checked) -> None:
    from initconf.diagnosis import of_form

    problems, warnings = of_form(spec, subject.incomplete)
    checked.problems, checked.warnings = problems, warnings
    checked.rows = [
        Row(name, UNKNOWN, expect=rule.expect, priority=rule.priority, sources=_sources(spec, name))
        for name, rule in spec.live_rules()
    ]
    checked.rows += _off(spec)


def _off(spec: InitSpec) -> list[Row]:
    return [Row(name, OFF, sources=_sources(spec, name)) for name, rule in spec.rules.items() if rule is None]


def _sources(spec: InitSpec, name: str) -> list[str]:
    return spec.sources(f"rules.{name}")


# --- against a model -------------------------------------------------------------------------------------------------------


def _against(args: Namespace, model: nn.Module, example: Any, spec: InitSpec, checked: Checked) -> None:
    from initconf.addresses import matched as matched_with
    from initconf.cli.guesses import guesses
    from initconf.diagnosis import assumed

    plan = None
    try:
        plan = make_plan(args, model, spec, example)
        checked.warnings = [*plan.warnings, *unused(args, [plan])]
    except InitConfError as error:
        checked.problems = list(error.problems)
    try:
        sites = read_sites(model, spec)
        matched = matched_with(spec, sites)
    except InitConfError:  # `compile` has said it, with its address
        return
    checked.rows = [*_rows(spec, matched, sites), *_off(spec)]
    claimed = [any(winner is not None for winner in winners) for winners in matched.winners]
    left = [site.layout.role for site, by_rule in zip(sites, claimed, strict=True) if not by_rule]
    scheme = left.count("weight")
    checked.counts = {"rules": sum(claimed), "scheme": scheme, "nothing": len(left) - scheme}
    if args.strict:
        said = assumed(sites)  # the same without what to declare
        checked.warnings = [text for text in checked.warnings if text != said]
        checked.problems += [guess.problem for guess in guesses(model, spec, sites, plan)]


def _rows(spec: InitSpec, matched: Match, sites: Sequence[Site]) -> Iterator[Row]:
    """A row for each rule that was matched, weakest first."""
    from initconf.diagnosis import missed

    for r, verdict in enumerate(matched.verdicts):
        rule = verdict.rule
        row = Row(verdict.name, WINS, len(verdict.matched), len(verdict.won), expect=rule.expect, priority=rule.priority)
        row.sources = _sources(spec, verdict.name)
        row.may_be_dead = not rule.settings() or missed(spec, f"rules.{verdict.name}", rule) is None
        row.lost_to = {matched.verdicts[w].name: n for w, n in matched.lost_to(r).items()}
        if not verdict.matched:
            row.status = DEAD
            dead = why_dead(matched, r, sites)
            row.reason, row.remedy = dead.text, dead.remedy
        elif not verdict.won:
            row.status = SHADOWED
        yield row


# --- what is said of it ----------------------------------------------------------------------------------------------------


def _answer(found: Sequence[Checked]) -> Answer:
    several = len(found) > 1
    data = {
        "ok": not any(checked.problems for checked in found),
        "specs": [
            {
                "spec": checked.label,
                "ok": not checked.problems,
                "rules": [asdict(row) for row in checked.rows],
                "parameters": checked.counts,
                "problems": [asdict(problem) for problem in checked.problems],
                "warnings": checked.warnings,
            }
            for checked in found
        ],
    }
    parts: list[str | Grid] = []
    for checked in found:
        if checked.counts is not None and checked.rows:
            parts += [f"{checked.label}:"] if several else []
            parts += [_grid(checked.rows)]
        parts.append(f"{checked.label}: {_summary(checked)}" if several or checked.counts is None else _summary(checked))
    answer = Answer(data, parts)
    for checked in found:
        answer.warnings = [*answer.warnings, *(f"{checked.label}: {text}" if several else text for text in checked.warnings)]
        # What has no place in a file is at least of one.
        own = [
            replace(p, source=p.source or checked.label) if several and p.path != checked.label else p for p in checked.problems
        ]
        answer.problems = [*answer.problems, *own]
    return answer


def _grid(rows: Sequence[Row]) -> Grid:
    priorities = {row.rule: row.priority for row in rows}
    cells = [
        [
            row.rule,
            "-" if row.matched is None else str(row.matched),
            "-" if row.won is None else str(row.won),
            "-" if row.expect is None else _span(row.expect),
            _note(row, priorities),
            row.sources[-1 if row.status == OFF else 0] if row.sources else "",
        ]
        for row in rows
    ]
    titles = ["rule", "matches", "wins", "expects", "note", "source"]
    return Grid(titles, cells, frozenset(titles[1:4]), drop=("source", "expects"), flow=("note",))


def _span(expect: tuple[int, int]) -> str:
    low, high = expect
    return str(low) if low == high else f"{low} to {high}"


def _note(row: Row, priorities: dict[str, int]) -> str:
    if row.status == OFF:
        return "switched off"
    if row.status == DEAD:
        reason = (row.reason or "").removeprefix("it matches nothing: ")
        if row.may_be_dead:
            return f"matches nothing, as it may: {reason}"
        return f"dead: {reason}" + (f"; {row.remedy}" if row.remedy else "")
    winners = [
        f"{name} ({f'priority {priorities[name]}' if priorities[name] > row.priority else 'later'})" for name in row.lost_to
    ]
    if row.status == SHADOWED:
        return f"shadowed by {' and '.join(winners)}"
    lost = (row.matched or 0) - (row.won or 0)
    return f"{lost} won by {' and '.join(winners)}" if lost else ""


def _summary(checked: Checked) -> str:
    wrong = len(checked.problems)
    if not checked.read:
        return f"cannot be read; {wrong} problem{'s' * (wrong != 1)}"
    said = f"{len(checked.rows)} rule{'s' * (len(checked.rows) != 1)}"
    if checked.counts is not None:
        statuses = Counter(_MAY if row.status == DEAD and row.may_be_dead else row.status for row in checked.rows)
        told = {WINS: "win", SHADOWED: "shadowed", DEAD: "dead", _MAY: "match nothing, as they may", OFF: "switched off"}
        said += f": {', '.join(f'{statuses[status]} {word}' for status, word in told.items() if statuses[status])}"
        count = checked.counts
        served = {"rules": "won by rules", "scheme": "left to the scheme", "nothing": "claimed by nothing"}
        parts = [f"{count[kind]} {word}" for kind, word in served.items() if count[kind]]
        said += f"; {sum(count.values())} parameters" + (f": {', '.join(parts)}" if parts else "")
    return (
        f"{said}; {wrong} problem{'s' * (wrong != 1)}"
        if wrong
        else f"{said}; nothing wrong" + ("" if checked.counts is not None else " in its form")
    )

"""`initconf plan` and `initconf diff`: what a model will receive, and in what two plans differ."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from initconf.cli.answers import Answer, Grid
from initconf.cli.inputs import (
    Usage,
    build_example,
    build_model,
    choice,
    import_modules,
    known_schemes,
    load_side,
    make_plan,
    only_overrides,
    read_sites,
    read_spec,
    require_model,
    spec_of,
    split_words,
    standard_input,
    unused,
)
from initconf.errors import InitConfError, Problem
from initconf.laws.base import from_json, to_json
from initconf.plan import FORMAT, Plan

if TYPE_CHECKING:
    from torch import nn

    from initconf.spec import InitSpec

NARROW_FIRST = ("law", "fan_out", "role", "shape", "fan_in", "initializer")
"""The columns of a plan that a narrow terminal loses, first the one that is needed least."""


def plan(args: Namespace) -> Answer:
    """The table of a plan; with `--check`, the difference from a saved one; with `--strict` also what it only guesses."""
    if args.update and args.check in (None, "-"):
        raise Usage("--update goes with --check FILE, which it rewrites")
    if args.save == "-":
        raise Usage("--save writes a file; --json prints the plan as it would be saved")
    require_model(args)
    spec = read_spec(args, only_overrides(args))
    saved = None
    if args.check is not None and not (args.update and not Path(args.check).exists()):
        saved = read_plan(args, args.check, "--check", " (--save FILE writes one, and so does --update here)")
    import_modules(args)
    model = build_model(args)
    example = build_example(args, model)
    made = make_plan(args, model, spec, example)
    answer = _plan_answer(made) if saved is None else _difference(saved, made, (args.check, "now"))
    answer.warnings = [*answer.warnings, *unused(args, [made])]
    if answer.code and not args.update and args.check != "-":
        answer.parts = [*answer.parts, "to accept it: the same command with --update"]
    if args.strict:
        _refuse_guesses(answer, model, spec, made)
    files = [("--save", args.save)] if args.save is not None else []
    if args.update and (saved is None or answer.code):
        files.append(("--check", args.check))
        answer.code = 0
    for option, file in files:
        if not answer.problems:
            _save(made, file, option)
        answer.notes.append(f"the plan is {'not saved: it has guesses' if answer.problems else f'in {file}'}")
    return answer


def _plan_answer(made: Plan) -> Answer:
    return Answer(made.to_dict(), [Grid.of(made.table(), drop=NARROW_FIRST), made.summary()], made.warnings)


def _refuse_guesses(answer: Answer, model: nn.Module, spec: InitSpec, made: Plan) -> None:
    from initconf.cli.guesses import guesses

    found = guesses(model, spec, read_sites(model, spec), made)
    answer.problems = [guess.problem for guess in found]
    answer.data |= {"problems": [guess.to_dict() for guess in found]}


def diff(args: Namespace) -> Answer:
    """In what two plans differ, each made of a scheme or read from a file."""
    sides, overrides = split_words(args.words)
    chosen, rest = choice(overrides)
    if chosen is not None:
        raise Usage(f"init={chosen}: name the sides without it: initconf diff he glorot")
    if len(sides) != 2:
        raise Usage(f"diff compares two sides, and there are {len(sides)}; schemes: {', '.join(known_schemes(args))}")
    if not all(side == "-" or side.endswith(".json") for side in sides):
        require_model(args)
    read = [_side(args, side, rest) for side in sides]
    model, example = None, None
    if not all(isinstance(side, Plan) for side in read):
        require_model(args)
        import_modules(args)
        model = build_model(args)
        example = build_example(args, model)
    elif rest:
        raise Usage(f"{rest[0]!r}: a plan that is saved is not bent")
    plans = [side if isinstance(side, Plan) else make_plan(args, _given(model), side, example) for side in read]
    answer = _difference(plans[0], plans[1], (sides[0], sides[1]))
    answer.warnings = [f"{side}: {text}" for side, plan in zip(sides, plans, strict=True) for text in plan.warnings]
    answer.warnings += unused(args, [plan for plan, side in zip(plans, read, strict=True) if plan is not side])
    return answer


def _side(args: Namespace, side: str, overrides: list[str]) -> Plan | InitSpec:
    """A saved plan, or the spec of a scheme or a file; on standard input either may stand."""
    if side == "-":
        content = standard_input(args)
        head = content[:200].lstrip()
        is_plan = head.startswith(b"{") and FORMAT.encode() in head
        return _plan_of(content, "diff", side) if is_plan else spec_of(args, content, overrides)
    return read_plan(args, side, "diff") if side.endswith(".json") else load_side(args, side, overrides)


def _given(model: nn.Module | None) -> nn.Module:
    assert model is not None
    return model


def read_plan(args: Namespace, path: str, option: str, hint: str = "") -> Plan:
    """The plan in a file that an option of the command line names, or on standard input."""
    if path == "-":
        return _plan_of(standard_input(args), option, path)
    if not Path(path).is_file():
        raise InitConfError(Problem(f"there is no such file{hint}", option, repr(path)))
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InitConfError(Problem(f"cannot be read: {error.strerror}", option, repr(path))) from None
    return _plan_of(content, option, path)


def _plan_of(content: bytes, option: str, path: str) -> Plan:
    try:
        data = json.loads(content)
        return Plan.from_dict(data if isinstance(data, dict) else {})
    except (ValueError, RecursionError):
        text = "not a plan of initconf: it is not JSON"
    except InitConfError as error:
        text = str(error)
    raise InitConfError(Problem(text, option, repr(path)))


def _save(made: Plan, path: str, option: str) -> None:
    try:
        made.save(path)
    except InitConfError as error:
        raise InitConfError(Problem(error.problems[0].text, option, repr(path))) from None


# --- differences -----------------------------------------------------------------------------------------------------------


def _difference(first: Plan, second: Plan, sides: tuple[str, str]) -> Answer:
    rows = [row for found in first.diff(second) for row in _rows(found.name, found.what, found.mine, found.other)]
    names = {name for name, _, _, _ in rows}
    data = [{"name": name, "what": what, "first": x, "second": y} for name, what, x, y in rows]
    head = {"equal": not rows, "sides": list(sides), "differences": data}
    if not rows:
        return Answer(head, [f"no difference: {second.summary()}"], second.warnings)
    titles = ["parameter", "what", *(sides if sides[0] != sides[1] else ("first", "second"))]
    cells = [[name, what, *_told_apart(what, x, y)] for name, what, x, y in rows]
    total = len({leaf.label for made in (first, second) for leaf in made.leaves()})
    count = f"{len(names - {'seed'})} of {total} parameters differ"
    return Answer(head, [Grid(titles, cells, flow=(titles[2], titles[3]), stack=True), count], second.warnings, code=1)


def _rows(name: str, what: str, mine: Any, other: Any) -> list[tuple[str, str, Any, Any]]:
    """(parameter, field, first, second) of one difference; settings are taken apart, so that only what differs is shown."""
    if isinstance(mine, Mapping) and isinstance(other, Mapping):
        return [
            row for key in dict.fromkeys([*mine, *other]) for row in _rows(name, f"{what}.{key}", mine.get(key), other.get(key))
        ]
    # A saved plan has lists for tuples, which are no difference.
    x, y = to_json(mine), to_json(other)
    return [] if x == y else [(name, what, x, y)]


def _told_apart(what: str, first: Any, second: Any) -> tuple[str, str]:
    """Two values as they are shown, in full where they would look alike."""
    if what == "parameter":  # only one of the plans has it
        return "there" if first else "-", "there" if second else "-"
    short = _shown(first), _shown(second)
    return short if short[0] != short[1] else (repr(first), repr(second))


def _shown(value: Any) -> str:
    value = from_json(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{k}={_shown(v)}" for k, v in value.items())
    if isinstance(value, list):
        return "x".join(map(str, value)) if all(isinstance(n, int) for n in value) and value else ", ".join(map(_shown, value))
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""`initconf verify`: whether a checkpoint, or a model, holds the values of a plan."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from initconf import files
from initconf.cli.answers import Answer, Grid
from initconf.cli.inputs import (
    Usage,
    build_example,
    build_model,
    import_modules,
    make_plan,
    only_overrides,
    read_spec,
    require_model,
    unused,
)
from initconf.cli.plans import read_plan
from initconf.comparison import CLOSE, EQUAL, OTHER, UNKNOWN, compare, of_model
from initconf.errors import InitConfError, Problem, listed
from initconf.plan import Plan
from initconf.progress import shown

if TYPE_CHECKING:
    from torch import nn


def verify(args: Namespace) -> Answer:
    """The values of `--checkpoint`, or of the model as it is built, against those of `--plan`, or of the scheme."""
    overrides = only_overrides(args)
    if args.checkpoint is None and args.model is None:
        raise Usage("say what to verify: --checkpoint FILE, or --model PKG.MOD:NAME")
    if args.plan is not None and overrides:
        raise Usage(f"{overrides[0]!r}: a plan that is saved is not bent; give init=SCHEME and --model instead of --plan")
    model: nn.Module | None = None
    if args.plan is not None:
        plan, warnings = read_plan(args, args.plan, "--plan"), list[str]()
        import_modules(args)
    else:
        require_model(args)
        spec = read_spec(args, overrides)
        import_modules(args)
        model = build_model(args)
        example = build_example(args, model)
        plan = make_plan(args, model, spec, example)
        warnings = [*plan.warnings, *unused(args, [plan])]
    if args.checkpoint is not None:
        stored = _file(args.checkpoint)
    else:
        stored = _built(args, model if model is not None else build_model(args))
    answer = _answer(plan, stored)
    answer.warnings = [*warnings, *answer.warnings]
    return answer


def _file(path: str) -> Mapping[str, files.Stored]:
    try:
        return files.contents(path)
    except InitConfError as error:
        raise InitConfError(Problem(str(error), "--checkpoint", repr(path))) from None


def _built(args: Namespace, model: nn.Module) -> Mapping[str, files.Stored]:
    """The values of a model as it was built."""
    from initconf.owners import parameters

    found = {name: found.parameter for name, found in parameters(model).items()}
    if empty := [name for name, parameter in found.items() if parameter.is_meta]:
        remedy = "--device cpu builds it with values; --checkpoint FILE verifies those of a file"
        raise InitConfError(Problem(f"it has no values on meta: {listed(empty)}", "--model", repr(args.model), None, remedy))
    return of_model(found)


def _answer(plan: Plan, stored: Mapping[str, files.Stored]) -> Answer:
    with shown(plan, None, "comparing") as step:
        rows, notes = compare(plan, stored, step)
    count = Counter(row.verdict for row in rows)
    data = {
        "ok": not count[OTHER],
        "counts": {verdict: count[verdict] for verdict in (EQUAL, CLOSE, OTHER, UNKNOWN)},
        "parameters": [{"name": row.label, "verdict": row.verdict, "note": row.note} for row in rows],
        "notes": notes,
    }
    told = [[row.label, row.verdict, row.note] for row in rows if row.verdict != EQUAL]
    summary = ", ".join(f"{count[verdict]} {said}" for verdict, said in _SAID.items() if count[verdict])
    parts: list[str | Grid] = [Grid(["parameter", "verdict", "note"], told, flow=("note",), stack=True)] if told else []
    parts.append(f"{len(rows)} parameters and blocks: {summary}")
    return Answer(data, parts, notes, code=1 if count[OTHER] else 0)


_SAID = {
    EQUAL: "equal bit for bit",
    CLOSE: "equal but for rounding",
    OTHER: "different",
    UNKNOWN: "not known from the plan alone",
}

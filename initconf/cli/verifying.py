"""`initconf verify`: whether a checkpoint, or a model, holds the values of a plan."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Mapping

from initconf import files
from initconf.cli.answers import Answer, Grid
from initconf.cli.inputs import Usage, build_model, import_modules, only_overrides, read_spec, require_model
from initconf.cli.plans import read_plan
from initconf.comparison import CLOSE, EQUAL, OTHER, UNKNOWN, compare, of_model
from initconf.errors import InitConfError, Problem
from initconf.plan import Plan
from initconf.progress import shown


def verify(args: Namespace) -> Answer:
    """The values of `--checkpoint`, or of the model as it is built, against those of `--plan`, or of the scheme."""
    overrides = only_overrides(args.words)
    if args.plan is not None and overrides:
        raise Usage(f"{overrides[0]!r}: a plan that is saved is not bent; give init=SCHEME and --model instead of --plan")
    if args.checkpoint is None and args.model is None:
        raise Usage("say what to verify: --checkpoint FILE, or --model PKG.MOD:NAME")
    if args.plan is None:
        require_model(args)
    spec = None if args.plan is not None else read_spec(args, overrides)
    import_modules(args)
    model = build_model(args) if args.model is not None else None
    if spec is None:
        plan = read_plan(args.plan, "--plan")
    else:
        from initconf.compiler import compile as compile_plan

        assert model is not None
        plan = compile_plan(model, spec)
    stored: Mapping[str, files.Stored]
    if args.checkpoint is not None:
        try:
            stored = files.contents(args.checkpoint)
        except InitConfError as error:
            raise InitConfError(Problem(str(error), "--checkpoint", repr(args.checkpoint))) from None
    else:
        from initconf.owners import parameters

        assert model is not None
        stored = of_model({name: found.parameter for name, found in parameters(model).items()})
    return _answer(plan, stored)


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

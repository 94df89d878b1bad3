"""`initconf targets`: the tensors that a hypernetwork generates, and what is known of them."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields
from typing import Any

from initconf.cli.answers import Answer, Grid
from initconf.cli.inputs import build_model, import_modules, only_overrides, read_spec, require_model
from initconf.errors import InitConfError, Problem
from initconf.hyper.targets import Target

_COLUMNS = ("target", "kind", "shape", "layer", "fan_in", "fan_out", "nonlinearity", "mean", "var", "assumed")
_RIGHT = frozenset({"fan_in", "fan_out", "mean", "var"})


def targets(args: Namespace) -> Answer:
    """A table for each of the spec's targets, in the order in which they are generated."""
    require_model(args)
    spec = read_spec(args, only_overrides(args))
    import_modules(args)
    model = build_model(args)
    from initconf.generated import described, names

    there = names(spec)
    if not there:
        remedy = "say what the hypernetwork generates: 'init.targets.main={module: main}', a list or shapes"
        raise InitConfError(Problem("the spec has no targets", spec.path("targets"), remedy=remedy))
    found = {name: described(spec, model, name).targets for name in there}
    parts: list[str | Grid] = []
    for name, each in found.items():
        parts += [Grid([f"{name}:", *_COLUMNS[1:]], [_cells(t) for t in each], _RIGHT, drop=("assumed", "mean", "var"))]
        values = sum(target.numel for target in each)
        guessed = sum(bool(target.assumed) for target in each)
        parts += [f"{len(each)} targets, {values:,} values" + (f", {guessed} with something assumed" if guessed else "")]
    return Answer({name: [_data(target) for target in each] for name, each in found.items()}, parts)


def _cells(target: Target) -> list[str]:
    said = (target.layer, target.fan_in, target.fan_out, _named(target), target.mean, target.var)
    shown = ["-" if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in said]
    return [target.name, target.kind, "x".join(map(str, target.shape)) or "()", *shown, ", ".join(target.assumed) or "-"]


def _named(target: Target) -> str | None:
    """The activation, of what an activation feeds."""
    return _activation(target) if target.kind in ("weight", "bias") else None


def _activation(target: Target) -> str:
    from initconf import activations

    name, arguments = activations.normalise(target.nonlinearity)
    return f"{name}({', '.join(f'{k}={v}' for k, v in arguments.items())})" if arguments else name


def _data(target: Target) -> dict[str, Any]:
    data = {f.name: getattr(target, f.name) for f in fields(target)}
    return data | {"shape": list(target.shape), "assumed": list(target.assumed), "nonlinearity": _named(target)}

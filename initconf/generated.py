"""Which tensors the targets of a spec are: of a module in the model, of a list, of shapes, of what Python gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from initconf.errors import CompileError, InitConfError, Problem, did_you_mean, listed, placed
from initconf.hyper.targets import Target, declared, from_shapes, from_sites, of_object
from initconf.sites import Layout, Place, Site
from initconf.spec import SELECTORS, DeclaredTargets, InitSpec, Role
from initconf.survey import survey

if TYPE_CHECKING:
    from torch import nn

SAYS = ("param_shapes_meta", "target_shapes")
"""What an object has that says what it is made of, or generates."""
_ROLE: Mapping[str, Role] = {
    "weight": "weight",
    "bias": "bias",
    "norm_scale": "norm_scale",
    "norm_shift": "norm_shift",
    "embedding": "embedding",
    "scalar": "gate_scale",
}
"""Of each kind."""


@dataclass(frozen=True)
class Described:
    """The targets of one name, and the main network if there is one."""

    targets: tuple[Target, ...]
    module: nn.Module | None = None


def described(spec: InitSpec, model: nn.Module, name: str, given: Mapping[str, Any] | None = None) -> Described:
    """What the targets of this name are. `given` are those of Python, which are stronger than those of the spec.

    Raises CompileError where they cannot be known.
    """
    try:
        if given and name in given:
            return _of_python(given[name], model)
        said = spec.targets[name]
        assert said is not None
        return _of_spec(said, model)
    except InitConfError as error:
        path = f"targets.{name}"
        where = (spec.path(path), None, spec.source(path)) if not given or name not in given else (path, None, None)
        raise CompileError(Problem(placed(p), *where, p.remedy) for p in error.problems) from None


def names(spec: InitSpec, given: Mapping[str, Any] | None = None) -> list[str]:
    """The names of all targets."""
    return list(dict.fromkeys([*(name for name, said in spec.targets.items() if said is not None), *(given or ())]))


def _of_spec(said: DeclaredTargets, model: nn.Module) -> Described:
    if said.module is not None:
        return _of_module(inside(model, said.module), said)
    if said.shapes is not None:
        return Described(_ordered(from_shapes(said.shapes, said.nonlinearity), said.order))
    items = [target.model_dump(exclude_none=True) for target in said.tensors or ()]
    return Described(_ordered(declared(items, said.nonlinearity), said.order))


def _of_python(given: Any, model: nn.Module) -> Described:
    from torch import nn

    said = DeclaredTargets(module="given")  # nothing more is said of it
    if isinstance(given, Mapping) and isinstance(given.get("module"), nn.Module):
        given, said = given["module"], _validated({**given, "module": "given"})
    if isinstance(given, nn.Module) or _says(given):
        return _of_module(given, said)
    if isinstance(given, (Mapping, DeclaredTargets)):
        return _of_spec(_validated(given), model)
    if isinstance(given, Sequence) and not isinstance(given, str):
        if all(isinstance(item, (Target, Mapping)) for item in given):
            return Described(tuple(declared(given)))
        if all(isinstance(item, Sequence) for item in given):
            return Described(tuple(from_shapes(given)))
    return _of_module(given, said)


def _says(thing: Any) -> bool:
    """Whether an object says itself what it is made of, or generates."""
    return any(getattr(thing, name, None) is not None for name in SAYS)


def _validated(said: Any) -> DeclaredTargets:
    try:
        return DeclaredTargets.model_validate(said)
    except ValidationError as error:
        problems = []
        for e in error.errors(include_url=False):
            where = ".".join(map(str, e["loc"])) or None
            context = e.get("ctx", {})
            text = context.get("text", f"{e['loc'][-1]!r} is not a key of targets")
            problems.append(Problem(text, where, remedy=context.get("remedy")))
        raise InitConfError(problems) from None


def inside(model: nn.Module, path: str) -> Any:
    """What a dotted path inside a model leads to (`.`: the model itself); wrappers are passed through."""
    from initconf.owners import unwrapped

    found: Any = unwrapped(model)
    for n, part in enumerate(parts := [] if path == "." else path.split(".")):
        inner = getattr(found, part, None)
        if part.isdecimal() and isinstance(found, (list, tuple)) and int(part) < len(found):
            inner = found[int(part)]
        if inner is None:
            there = [key for key, _ in found.named_children()] if hasattr(found, "named_children") else []
            where = ".".join(parts[:n]) or "the model"
            raise InitConfError(Problem(f"{where} has no {part!r}", "module", remedy=did_you_mean(part, there)))
        found = unwrapped(inner) if hasattr(inner, "named_children") else inner
    return found


def _of_module(thing: Any, said: DeclaredTargets) -> Described:
    from torch import nn

    feeding = said.nonlinearity
    if not isinstance(thing, nn.Module) or _says(thing):
        if feeding == "auto":
            raise InitConfError(Problem("only what is run can be traced", "nonlinearity", remedy="name the activation"))
        return Described(_ordered(of_object(thing, feeding), said.order))
    sites = survey(thing)
    if not sites:
        raise InitConfError(Problem(f"a {type(thing).__name__} without parameters has nothing to generate", "module"))
    feeds = _feeds(thing) if feeding in ("auto", {"name": "auto"}) else None
    return Described(_ordered(from_sites(sites, None if feeds is not None else feeding, feeds), said.order), thing)


def _feeds(module: nn.Module) -> dict[str, Any]:
    """What feeds each weight of the main network, as far as a trace of it tells."""
    from initconf.tracing import trace

    return {name: feed.nonlinearity for name, feed in trace(module).items() if feed.nonlinearity is not None}


def _ordered(targets: Sequence[Target], order: Sequence[str] | None) -> tuple[Target, ...]:
    """The targets in the order that is said."""
    if order is None:
        return tuple(targets)
    there = {target.name: target for target in targets}
    problems = []
    for name in dict.fromkeys(order):
        if name not in there:
            problems.append(Problem(f"no target is named {name!r}", "order", remedy=did_you_mean(name, there)))
        elif order.count(name) > 1:
            problems.append(Problem(f"{name!r} stands in it {order.count(name)} times", "order"))
    if missing := [name for name in there if name not in order]:
        problems.append(Problem(f"{listed(missing)} {'is' if missing[1:] == [] else 'are'} missing", "order"))
    if problems:
        raise InitConfError(problems)
    return tuple(there[name] for name in order)


def as_sites(targets: Sequence[Target]) -> list[Site]:
    """Targets that no module owns, as the sites of a scheme that initialises them as an ordinary network."""
    from initconf.layouts import BIAS, EMBEDDING

    sites = []
    for target in targets:
        role = _ROLE[target.kind]
        layout = {"embedding": EMBEDDING, "bias": BIAS}.get(role, Layout(role=role))
        sites.append(
            Site(
                target.name,
                (Place(target.name, target.name, ("initconf.hyper.targets.Target",), ()),),
                target.shape,
                "float32",
                layout,
                target.fan_in,
                target.fan_out,
                depth_note="a list of targets has no ModuleList or Sequential to count layers in",
            )
        )
    return sites


def own_scheme(spec: InitSpec, generating: Callable[[str | None], bool]) -> InitSpec:
    """A spec's own settings, for an ordinary initialisation of what a hypernetwork generates.

    Of its rules those that select by role alone: the others speak of the hypernetwork's names. What has to do with a
    hypernetwork is left out (`generating` says so of a rule, or of the spec itself, None).
    """
    others = [key for key in SELECTORS if key != "role"]
    rules = {
        name: rule.model_copy(update={"optional": True, "expect": None})
        for name, rule in spec.rules.items()
        if rule is not None and all(getattr(rule, key) is None for key in others) and not generating(name)
    }
    changed: dict[str, Any] = {"rules": rules, "targets": {}, "layouts": {}, "layers": None, "compat": None}
    if generating(None):
        changed["initializer"] = None
    made = spec.model_copy(update=changed)
    made._sources = None  # a role that the main network has not is nobody's mistake, whoever bent its rule
    return made

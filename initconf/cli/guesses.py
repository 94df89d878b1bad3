"""What a plan only guesses, and the words that would say it: `plan --strict` refuses them, `explain` shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from initconf import layouts
from initconf.choices import choose
from initconf.cli.catalogue import as_yaml
from initconf.errors import Problem, listed
from initconf.generated import described, names
from initconf.hyper.heads import TARGET
from initconf.hyper.targets import Target
from initconf.owners import Found, parameters
from initconf.plan import Entry, Plan
from initconf.sites import HAS_NO_FANS, Layout, Place, Site, is_a
from initconf.spec import InitSpec

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Guess:
    """What was guessed of some parameters in one way."""

    parameters: tuple[str, ...]
    """Their labels, as the plan shows them."""
    problem: Problem
    override: str
    """What is typed to say it: `init.layouts.Mixer={module: Mixer, axes: {out: 0, in: 1}}`, quoted for a shell."""
    declaration: dict[str, Any]
    """The same as a part of the spec: `{layouts: {Mixer: {...}}}`, or `{rules: {...}}`."""

    def to_dict(self) -> dict[str, Any]:
        said = {"parameters": list(self.parameters), "override": self.override, "declaration": self.declaration}
        return asdict(self.problem) | said


def guesses(model: nn.Module, spec: InitSpec, sites: list[Site], plan: Plan | None) -> list[Guess]:
    """Everything that was guessed: roles and layouts of the sites, and of a plan the activations of `nonlinearity: auto`, and
    what a hypernetwork generates."""
    taken = {*spec.layouts, *spec.rules}
    of_plan = () if plan is None else (*_of_activations(spec, plan, taken), *_of_targets(model, spec, plan))
    return [*_of_layouts(model, spec, sites, taken), *of_plan]


def _guess(spec: InitSpec, labels: list[str], text: str, kind: str, said: dict[str, Any], or_else: str = "") -> Guess:
    words = [
        _typed(f"{spec.path(path)}={as_yaml(value)}")
        for name, body in said.items()
        for path, value in (
            [(f"{kind}.{name}.{key}", v) for key, v in body.items()]
            if name in getattr(spec, kind) and isinstance(body, Mapping)
            else [(f"{kind}.{name}", body)]
        )
    ]
    remedy = f"declare what is right; what was guessed is {' '.join(words)} (in YAML the same under `{kind}`){or_else}"
    return Guess(tuple(labels), Problem(text, listed(labels), None, None, remedy), " ".join(words), {kind: said})


def _typed(override: str) -> str:
    """An override quoted for a shell; single quotes outside, as everywhere, unless a string in it needs them."""
    plain = not set(override) & {'"', "\\"} and "''" not in override
    return "'" + override.replace("'", '"') + "'" if plain else f'"{override}"'


def _named(wanted: str, taken: set[str]) -> str:
    """A name for a layout or a rule that there is not yet."""
    wanted = re.sub(r"[^A-Za-z0-9_]+", "_", wanted)
    wanted = wanted if wanted[:1].isalpha() else f"the_{wanted.strip('_')}"
    name = next(name for n in range(1, len(taken) + 2) if (name := wanted if n == 1 else f"{wanted}_{n}") not in taken)
    taken.add(name)
    return name


# --- roles and layouts -----------------------------------------------------------------------------------------------------


def _of_layouts(model: nn.Module, spec: InitSpec, sites: list[Site], taken: set[str]) -> Iterator[Guess]:
    assumed = [site for site in sites if site.layout.assumed]
    if not assumed:
        return
    found = parameters(model)
    groups: dict[tuple[str, Layout], list[tuple[Site, Place]]] = {}
    alike: dict[Layout, set[str]] = {}
    for site in assumed:
        place, layout = _read(site, found)
        groups.setdefault((place.owner[0], layout), []).append((site, place))
        alike.setdefault(layout, set()).update(place.name for place in site.places)
    everywhere = [(place, site.ndim) for site in sites for place in site.places]
    said: dict[str, tuple[Layout, dict[str, Any], list[tuple[Site, Place]]]] = {}
    for (_, layout), members in groups.items():
        selector = _selector([place for _, place in members], everywhere, alike[layout], layout)
        body = selector | _declaration(layout, role=set(selector) != {"module"} or layout.role != "weight")
        said.setdefault(repr(body), (layout, body, []))[2].extend(members)  # one may do for a class and those derived from it
    for layout, body, members in said.values():
        owners = list(dict.fromkeys(place.owner[0] for _, place in members))
        kind, attributes = owners[0].rpartition(".")[2], {place.attribute for _, place in members}
        alone = "module" in body and not {"glob", "match"} & set(body)
        name = kind if alone else f"{kind}_{attributes.pop() if len(attributes) == 1 else layout.role}"
        axes = f" and axes {_axes_said(layout)}" if "layout" in layout.assumed else ""
        text = f"role {layout.role}{axes} {'are' if axes else 'is'} a guess: no known layout of {listed(owners)} says it"
        or_else = "" if owners[0].startswith("torch.") else f", or register one with @initconf.layout({kind})"
        yield _guess(spec, [site.name for site, _ in members], text, "layouts", {_named(name, taken): body}, or_else)


def _read(site: Site, found: Mapping[str, Found]) -> tuple[Place, Layout]:
    """The name of a tied parameter by which its layout was guessed, and that layout in full (`compat: torch` cuts it)."""
    read = [(p, layouts.find(found[p.name].module, p.attribute, found[p.name].parameter)) for p in site.places]
    marks = site.layout.role, site.layout.assumed
    return next((place, layout) for place, layout in read if (layout.role, layout.assumed) == marks)


def _axes_said(layout: Layout) -> str:
    axes = {"out": layout.out_axes, "in": layout.in_axes, "batch": layout.batch_axes}
    return ", ".join(f"{name} {' and '.join(map(str, which))}" for name, which in axes.items() if which)


def _declaration(layout: Layout, role: bool) -> dict[str, Any]:
    """What `layouts` in a spec says of a layout; `layouts.declared` is its inverse."""
    said: dict[str, Any] = {"role": layout.role} if role else {}
    axes = {"out": layout.out_axes, "in": layout.in_axes} | ({"batch": layout.batch_axes} if layout.batch_axes else {})
    if layout.role not in HAS_NO_FANS or axes != {"out": (0,), "in": (1,)}:
        said["axes"] = {name: which[0] if len(which) == 1 else list(which) for name, which in axes.items()}
    if layout.block_names:
        sizes = {"sizes": list(layout.block_sizes)} if layout.block_sizes else {}
        said["blocks"] = {"axis": layout.block_axis, "names": list(layout.block_names)} | sizes
    plain = Layout()
    for key in ("groups", "stride", "transposed", "zero_row", "fans_of"):
        if (value := getattr(layout, key)) != getattr(plain, key):
            said[key] = value
    return said


def _selector(wanted: list[Place], everywhere: list[tuple[Place, int]], alike: set[str], layout: Layout) -> dict[str, Any]:
    """The shortest selector found that selects these parameters, and of others only those of which the same is guessed."""
    names = {place.name for place in wanted}
    for selector in _selectors(wanted):
        alone = set(selector) == {"module"} and layout.role == "weight"  # then `layouts` takes what has two axes and more
        selected = {place.name for place, ndim in everywhere if _selects(selector, place) and (ndim >= 2 or not alone)}
        if names <= selected <= alike:
            return selector
    return {"match": _patterns(sorted(names))[-1]}


def _selectors(places: list[Place]) -> Iterator[dict[str, Any]]:
    attributes = sorted({place.attribute for place in places})
    dotted = places[0].owner[0]
    modules = (dotted.rpartition(".")[2], dotted)
    for module in modules if dotted != "torch.nn.modules.module.Module" else ():  # which every class is derived from
        yield {"module": module}
        if len(attributes) == 1 and not set(attributes[0]) & set("*?[]'\"\\"):
            yield from ({"module": module, "glob": f"{before}{attributes[0]}"} for before in ("*.", "", "*"))
        yield from ({"module": module, "match": f"(.*[.])?{pattern}"} for pattern in _patterns(attributes))
    names = sorted(place.name for place in places)
    if len(names) == 1 and not set(names[0]) & set("*?[]'\"\\"):
        yield {"glob": names[0]}
    yield from ({"match": pattern} for pattern in _patterns(names))


def _selects(selector: Mapping[str, str], place: Place) -> bool:
    """What the survey will make of the selector; the patterns are those of `_pattern`, and of a glob with one `*` in front."""
    glob, match = selector.get("glob", "*"), selector.get("match", ".*")
    return (
        ("module" not in selector or is_a(place.owner, (selector["module"],)))
        and (place.name.endswith(glob[1:]) if glob.startswith("*") else place.name == glob)
        and re.fullmatch(match, place.name, re.DOTALL) is not None
    )


def _patterns(names: list[str]) -> list[str]:
    """Regexes for names, the shorter first: of the names themselves, and with any number for each of theirs.

    Without a backslash, which Hydra and YAML read each in its own way.

    >>> _patterns(["h.0.w", "h.1.w"])
    ['h[.][0-9]+[.]w', '(h[.]0[.]w|h[.]1[.]w)']
    """
    exact = [re.sub(r"[^A-Za-z0-9_]", lambda char: "." if char[0] in "^'\"\\$" else f"[{char[0]}]", name) for name in names]
    alike = [re.sub(r"[0-9]+", "[0-9]+", text) for text in exact]
    each = [list(dict.fromkeys(said)) for said in (exact, alike)]
    return sorted((said[0] if len(said) == 1 else f"({'|'.join(said)})" for said in each), key=len)


# --- nonlinearity: auto ----------------------------------------------------------------------------------------------------


def _of_activations(spec: InitSpec, plan: Plan, taken: set[str]) -> Iterator[Guess]:
    groups: dict[Any, list[Entry]] = {}
    for entry in plan:
        kinds = {_kind(leaf) for leaf in entry.leaves()}
        for leaf in entry.leaves():
            if "nonlinearity" in leaf.assumed:
                groups.setdefault((_kind(leaf), leaf.block if len(kinds) > 1 else None), []).append(leaf)
    everywhere = [name for entry in plan for name in (entry.name, *entry.aliases)]
    for (_, block), leaves in groups.items():
        first = leaves[0]
        nonlinearity, names = first.settings["nonlinearity"], sorted({leaf.name for leaf in leaves})
        fitting = [p for p in _patterns(names) if {name for name in everywhere if re.fullmatch(p, name)} <= {*names}]
        said = {"match": fitting[0] if fitting else _patterns(names)[-1]} | ({"block": block} if block is not None else {})
        said |= _as_before(spec, first.rule, nonlinearity)
        name = nonlinearity if isinstance(nonlinearity, str) else nonlinearity["name"]
        fed_by = listed([leaf.fed_by or "" for leaf in leaves])
        text = f"nonlinearity {as_yaml(nonlinearity)} is a guess: it is fed by {fed_by}"
        rules = {_named(f"fed_{name}", taken): said}
        if first.rule is not None and (loser := spec.rules[first.rule]) is not None and loser.expect is not None:
            rules[first.rule] = {"expect": None}  # it wins fewer now
        yield _guess(spec, [leaf.label for leaf in leaves], text, "rules", rules)


def _kind(leaf: Entry) -> tuple[Any, ...]:
    """What leaves that are served by one declaration have in common."""
    return leaf.rule, leaf.module, repr(leaf.settings.get("nonlinearity")), "nonlinearity" in leaf.assumed


def _as_before(spec: InitSpec, rule_name: str | None, nonlinearity: Any) -> dict[str, Any]:
    """The settings of a rule that says what the winner says, but for the activation: nothing is inherited from a loser."""
    rule = spec.rules[rule_name] if rule_name is not None else None
    settings = rule.settings() if rule is not None else {}
    if choose(spec, rule_name).paths["nonlinearity"].startswith("rules.") and isinstance(settings.get("initializer"), Mapping):
        settings["initializer"] = {k: v for k, v in settings["initializer"].items() if k != "nonlinearity"}
    priority = {"priority": rule.priority} if rule is not None and rule.priority else {}
    return settings | {"nonlinearity": nonlinearity} | priority


# --- what a hypernetwork generates -----------------------------------------------------------------------------------------


def _of_targets(model: nn.Module, spec: InitSpec, plan: Plan) -> Iterator[Guess]:
    there = names(spec)
    of_targets: dict[str, list[Entry]] = {}
    of_moments: dict[str, list[Entry]] = {}
    for leaf in plan.leaves():
        if any(word.startswith(TARGET) for word in leaf.assumed):
            name = choose(spec, leaf.rule).arguments.get("targets", there[0] if there else "")
            of_targets.setdefault(name, []).append(leaf)
        if "input_second_moment" in leaf.assumed and leaf.rule is not None:
            of_moments.setdefault(leaf.rule, []).append(leaf)
    for name, leaves in of_targets.items():
        if name not in there:  # what Python gave cannot be declared here
            continue
        words = {word.removeprefix(TARGET) for leaf in leaves for word in leaf.assumed if word.startswith(TARGET)}
        targets = described(spec, model, name).targets
        said = spec.targets[name]
        assert said is not None
        body: Any = [_as_declared(target) for target in targets]
        if words == {"nonlinearity"} and said.tensors is None:
            body = {"nonlinearity": "relu"}
        elif said.model_fields_set != {"tensors"}:  # a mapping, over which no list can be laid
            body = {key: None for key in ("module", "shapes") if getattr(said, key) is not None} | {"tensors": body}
        text = f"{', '.join(sorted(words))} of what is generated ({name}) {'is' if len(words) == 1 else 'are'} a guess"
        yield _guess(spec, [leaf.label for leaf in leaves], text, "targets", {name: body})
    for rule, leaves in of_moments.items():
        settings = spec.rules[rule].settings()["initializer"]  # type: ignore[union-attr]
        own = {"name": settings} if isinstance(settings, str) else dict(settings)
        text = "input_second_moment 1.0 is a guess: nothing says how large what enters the output layer is"
        yield _guess(
            spec, [leaf.label for leaf in leaves], text, "rules", {rule: {"initializer": {**own, "input_second_moment": 1.0}}}
        )


def _as_declared(target: Target) -> dict[str, Any]:
    """What a list of targets says of one."""
    given = {f.name: getattr(target, f.name) for f in fields(target) if f.name != "assumed"}
    if target.kind not in ("weight", "bias"):
        del given["nonlinearity"]
    if target.kind == "scalar" and target.mean is None:
        given["mean"] = 0.0
    return {key: list(value) if key == "shape" else value for key, value in given.items() if value is not None}

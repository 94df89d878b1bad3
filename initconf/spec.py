"""The spec: what the user said, checked for its form. No torch, no model and no registry is needed to read it.

What is left out, or null, is not set: it takes the next weaker source (the spec for a rule, the initializer's own default for
the spec). Meaning (whether an initializer exists and takes an argument, whether a rule matches) is checked by `compile`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, PrivateAttr, model_validator

from initconf import checks
from initconf.errors import did_you_mean

Mode = Literal["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]
Distribution = Literal["uniform", "untruncated_normal", "truncated_normal"]
GainMethod = Literal["second_moment", "torch", "backward", "centred", "numeric_grid"]
Role = Literal[
    "weight", "bias", "norm_scale", "norm_shift", "embedding", "recurrent", "gate_scale", "position", "state", "other"
]  # fmt: skip
ROLES: tuple[str, ...] = get_args(Role)
ROLE_MEANINGS = {
    "weight": "a matrix or kernel that sums over its inputs",
    "bias": "added to what a layer sums up; carries its weight's fans, for expressions",
    "norm_scale": "multiplies what a normalisation gives",
    "norm_shift": "added to what a normalisation gives, or to the 1 that multiplies it (Gemma)",
    "embedding": "a table that is looked up, tied heads too",
    "recurrent": "from one hidden state to the next",
    "gate_scale": "a learned factor: LayerScale, ReZero, PReLU's slope",
    "position": "position embeddings",
    "state": "parameters of state space models: A_log, dt_bias, D",
    "other": "whatever is none of these",
}
Kind = Literal["weight", "bias", "norm_scale", "norm_shift", "embedding", "scalar"]
KINDS: tuple[str, ...] = get_args(Kind)
"""What a tensor that a hypernetwork generates may be for."""
SETTINGS = ("initializer", "mode", "distribution", "gain", "nonlinearity", "gain_method")
SELECTORS = ("match", "search", "glob", "module", "inside", "role", "ndim", "block")

RULE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_HYDRA_KEYS = ("_target_", "_convert_", "_recursive_", "_partial_")


def _roles(value: Any) -> Any:
    values = checks.strings("a role")(value)
    for role in values or ():
        if role not in ROLES:
            raise checks.fail(f"no role is named {role!r}", did_you_mean(role, ROLES))
    return values


_MODES = checks.one_of("mode", get_args(Mode), {"fan_sum": "fan_avg is half of it"})
_DISTRIBUTIONS = checks.one_of(
    "distribution",
    get_args(Distribution),
    {"normal": "normal means truncated in TensorFlow and untruncated in torch: write truncated_normal or untruncated_normal"},
)
_METHODS = checks.one_of("gain method", get_args(GainMethod), {"centered": "it is spelled centred"})


class Settings(BaseModel):
    """What a spec and a rule may both set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    initializer: Annotated[
        str | dict[str, Any] | None, BeforeValidator(checks.named("initializer", "{name: normal, std: 0.02}"))
    ] = None
    """A name, or a mapping of the name and the initializer's own arguments: `{name: normal, std: 0.02}`."""
    mode: Annotated[Mode | None, BeforeValidator(_MODES)] = None
    """Which fan the variance is divided by."""
    distribution: Annotated[Distribution | None, BeforeValidator(_DISTRIBUTIONS)] = None
    """The shape of the law. A truncated normal is cut off at two sigma, and has the std all the same."""
    gain: Annotated[int | float | str | None, BeforeValidator(checks.number)] = None
    """Multiplies the std: a number, or an expression such as `1/sqrt(2*n_layers)`."""
    nonlinearity: Annotated[
        str | dict[str, Any] | None, BeforeValidator(checks.named("nonlinearity", "{name: leaky_relu, negative_slope: 0.2}"))
    ] = None
    """The activation that feeds the layer: a name, `{name: leaky_relu, negative_slope: 0.2}`, or `auto`, which finds it."""
    gain_method: Annotated[GainMethod | None, BeforeValidator(_METHODS)] = None
    """How the activation's own gain is had; left out, `second_moment`, which is exact."""

    def settings(self) -> dict[str, Any]:
        """The settings that are set (not null)."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}


class Rule(Settings):
    """A selector plus settings. All given selectors must hold, on one and the same name of the parameter."""

    match: Annotated[str | None, BeforeValidator(checks.pattern("match"))] = None
    """A regex for the whole name."""
    search: Annotated[str | None, BeforeValidator(checks.pattern("search"))] = None
    """A regex found anywhere in the name."""
    glob: Annotated[str | None, BeforeValidator(checks.pattern("glob"))] = None
    """A pattern with `*`, `?`, `[...]` for the whole name."""
    module: Annotated[tuple[str, ...] | None, BeforeValidator(checks.strings("a class name"))] = None
    """The owner's class, also a base class; with a dot the dotted path."""
    inside: Annotated[tuple[str, ...] | None, BeforeValidator(checks.strings("a class name"))] = None
    """The class of any ancestor module."""
    role: Annotated[tuple[Role, ...] | None, BeforeValidator(_roles)] = None
    """What the parameter is for: a role, or a list of them."""
    ndim: Annotated[int | None, BeforeValidator(checks.integer)] = None
    """The number of the parameter's axes."""
    block: Annotated[str | None, BeforeValidator(checks.pattern("glob"))] = None
    """A block's name, or a glob; a rule without it claims every block."""
    priority: Annotated[int, BeforeValidator(lambda v: 0 if v is None else checks.integer(v))] = 0
    """A higher one sorts later, and the last match wins."""
    optional: Annotated[bool, BeforeValidator(lambda v: False if v is None else checks.flag(v))] = False
    """Whether the rule may match nothing."""
    expect: Annotated[tuple[int, int] | None, BeforeValidator(checks.expect)] = None
    """How many parameters it must win: a number, or `[min, max]`."""

    @model_validator(mode="after")
    def _selects(self) -> Rule:
        if all(getattr(self, name) is None for name in SELECTORS):
            if (null := [name for name in SELECTORS if name in self.model_fields_set]) and len(null) < len(SELECTORS):
                remedy = "YAML takes what begins with & ! | > or # for something of its own: put patterns in single quotes"
                raise checks.fail(
                    f"the rule selects nothing: its {' and '.join(null)} {'is' if null[1:] == [] else 'are'} null", remedy
                )
            raise checks.fail(
                "the rule selects nothing: it has no selector",
                f"give it one of {', '.join(SELECTORS)}",
            )
        return self


def _rule_name(value: Any) -> Any:
    if isinstance(value, str) and RULE_NAME.fullmatch(value):
        return value
    raise checks.fail(
        "not a rule's name",
        "a name begins with a letter and holds letters, digits, _ and -; patterns stand in match, search or glob",
    )


def _rule_body(value: Any) -> Any:
    if isinstance(value, (Mapping, Rule, type(None))):
        return value
    if isinstance(value, bool) or checks.is_none(value):
        raise checks.fail("a rule is a mapping", "to switch it off, write null")
    raise checks.fail("a rule is a mapping", "write {glob: '...', initializer: ...}, or null to switch it off")


def _layout_body(value: Any) -> Any:
    if isinstance(value, (Mapping, DeclaredLayout, type(None))):
        return value
    raise checks.fail("a layout is a mapping", "write {match: '...', axes: {out: 0, in: 1}}, or null for none")


def _axes(value: Any) -> Any:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise checks.fail("not a mapping of axes", "write {out: 0, in: 1}, and batch where whole weights are stacked")
    checks.known("axes", value, ("out", "in", "batch"))
    axes = {key: [axis] if isinstance(axis, int) else axis for key, axis in value.items()}
    for axis in axes.values():
        if not isinstance(axis, (list, tuple)) or not all(isinstance(a, int) and not isinstance(a, bool) for a in axis):
            raise checks.fail("an axis is an integer, or a list of integers", "write {out: 0, in: [1, 2]}")
    return {key: tuple(axis) for key, axis in axes.items()}


def _blocks(value: Any) -> Any:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        checks.known("blocks", value, ("axis", "names", "sizes"))
    if not isinstance(value, Mapping) or not value.get("names"):
        raise checks.fail("not a mapping of blocks", "write {axis: 0, names: [q, k, v]}, and sizes where they are not equal")
    names, sizes = value["names"], value.get("sizes")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise checks.fail("the names of the blocks are not a list of strings", "write names: [q, k, v]")
    if len(set(names)) < len(names):
        raise checks.fail("two blocks have the same name", "give each its own")
    if sizes is not None and (not isinstance(sizes, (list, tuple)) or not all(isinstance(n, int) and n >= 0 for n in sizes)):
        raise checks.fail("the sizes of the blocks are not a list of integers", "write sizes: [64, 32, 32]")
    return {"axis": checks.integer(value.get("axis", 0)), "names": tuple(names), "sizes": tuple(sizes or ())}


def _role(value: Any) -> Any:
    if value is None or (isinstance(value, str) and value in ROLES):
        return value
    raise checks.fail(f"no role is named {value!r}", did_you_mean(str(value), ROLES))


class DeclaredLayout(BaseModel):
    """How to read the parameters that a selector matches: what `initconf.layout` says in Python, in YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: Annotated[str | None, BeforeValidator(checks.pattern("match"))] = None
    """A regex for the whole name."""
    search: Annotated[str | None, BeforeValidator(checks.pattern("search"))] = None
    """A regex found anywhere in the name."""
    glob: Annotated[str | None, BeforeValidator(checks.pattern("glob"))] = None
    """A pattern with `*`, `?`, `[...]` for the whole name."""
    module: Annotated[tuple[str, ...] | None, BeforeValidator(checks.strings("a class name"))] = None
    """The owner's class; where nothing else is said, of its parameters those with two axes and more."""
    role: Annotated[Role | None, BeforeValidator(_role)] = None
    """What the parameter is for; left out, `weight`."""
    axes: Annotated[dict[str, tuple[int, ...]], BeforeValidator(_axes)] = {}
    """`out`, `in` and `batch`: an axis or a list; left out, 0, 1 and none. All others are receptive field."""
    blocks: Annotated[dict[str, Any], BeforeValidator(_blocks)] = {}
    """Named slices along an axis: `{axis: 0, names: [q, k, v]}`, and `sizes` where they are not equal."""
    groups: Annotated[int | None, BeforeValidator(checks.positive)] = None
    """The groups of a convolution."""
    stride: Annotated[int | None, BeforeValidator(checks.positive)] = None
    """The product of the strides."""
    transposed: Annotated[bool, BeforeValidator(lambda v: False if v is None else checks.flag(v))] = False
    """Whether it is the kernel of a transposed convolution."""
    fans_of: Annotated[str | None, BeforeValidator(checks.name)] = None
    """The owner's parameter whose fans this one carries."""
    zero_row: Annotated[int | None, BeforeValidator(checks.integer)] = None
    """A row that stays zero."""

    @model_validator(mode="after")
    def _selects(self) -> DeclaredLayout:
        if self.match is None and self.search is None and self.glob is None and self.module is None:
            raise checks.fail("the layout selects nothing: it has no selector", "give it one of match, search, glob, module")
        return self


def _targets(value: Any) -> Any:
    if isinstance(value, (list, tuple)):  # a list of targets says it all
        return {"tensors": list(value)}
    if value is None or isinstance(value, (Mapping, DeclaredTargets)):
        return value
    raise checks.fail("not targets", "write {module: PATH}, {shapes: [[300, 784], [300]]}, or a list of targets")


def _listed_targets(value: Any) -> Any:
    if value is None or (isinstance(value, (list, tuple)) and value):
        return value
    raise checks.fail("not a list of targets", "write [{name: w, kind: weight, shape: [300, 784]}, ...]")


def _target(value: Any) -> Any:
    if isinstance(value, (Mapping, DeclaredTarget)):
        return value
    raise checks.fail("a target is a mapping", "write {name: w, kind: weight, shape: [300, 784]}")


class DeclaredTarget(BaseModel):
    """A tensor that a hypernetwork generates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str | None, BeforeValidator(checks.text("name", "w1"))] = None
    """What it is called: its block in the plan."""
    kind: Annotated[Kind | None, BeforeValidator(checks.one_of("kind of target", KINDS, {}))] = None
    """What it is for."""
    shape: Annotated[tuple[int, ...] | None, BeforeValidator(checks.shape)] = None
    """Its sizes, output first: `[300, 784]`."""
    layer: Annotated[int | str | None, BeforeValidator(checks.group)] = None
    """The group of a weight and its bias: a string or an integer."""
    fan_in: Annotated[int | float | None, BeforeValidator(checks.above_zero)] = None
    """How many products an output is the sum of; left out, that of an ordinary layer of this shape."""
    fan_out: Annotated[int | float | None, BeforeValidator(checks.above_zero)] = None
    """How many outputs an input reaches; left out, that of an ordinary layer of this shape."""
    nonlinearity: Annotated[
        str | dict[str, Any] | None, BeforeValidator(checks.named("nonlinearity", "{name: leaky_relu, negative_slope: 0.2}"))
    ] = None
    """The activation that feeds its layer; left out, relu."""
    mean: Annotated[int | float | None, BeforeValidator(checks.finite)] = None
    """The mean of its values, instead of that of its kind."""
    var: Annotated[int | float | None, BeforeValidator(checks.not_negative)] = None
    """The variance of its values, instead of that of its kind."""

    @model_validator(mode="after")
    def _whole(self) -> DeclaredTarget:
        if missing := [key for key in ("name", "kind", "shape") if getattr(self, key) is None]:
            raise checks.fail(
                f"the target has no {' and no '.join(missing)}", "write {name: w, kind: weight, shape: [300, 784]}"
            )
        return self


class DeclaredTargets(BaseModel):
    """The tensors that a hypernetwork generates: of a module, by a list, or by bare shapes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    module: Annotated[str | None, BeforeValidator(checks.text("path inside the model", "main"))] = None
    """The dotted path of the main network inside the model; `.` is the model itself, if it has `target_shapes`."""
    tensors: Annotated[
        tuple[Annotated[DeclaredTarget, BeforeValidator(_target)], ...] | None, BeforeValidator(_listed_targets)
    ] = None
    """A list of targets; where nothing else is said, the list itself does."""
    shapes: Annotated[tuple[tuple[int, ...], ...] | None, BeforeValidator(checks.shapes)] = None
    """Bare shapes; what they are for is guessed."""
    nonlinearity: Annotated[
        str | dict[str, Any] | None, BeforeValidator(checks.named("nonlinearity", "{name: leaky_relu, negative_slope: 0.2}"))
    ] = None
    """The activation that feeds every layer; left out, relu. Of a module also `auto`, which finds it."""
    order: Annotated[tuple[str, ...] | None, BeforeValidator(checks.strings("a target's name"))] = None
    """The names of all targets in the order in which they are generated, where it is another one."""

    @model_validator(mode="after")
    def _one(self) -> DeclaredTargets:
        said = [key for key in ("module", "tensors", "shapes") if getattr(self, key) is not None]
        if len(said) != 1:
            text = f"{' and '.join(said)} exclude each other" if said else "nothing says what the targets are"
            raise checks.fail(text, "say one of module, shapes, tensors")
        return self


class InitSpec(Settings):
    """How the parameters of a model start, as the user said it. Made by `initconf.load`."""

    seed: Annotated[int | None, BeforeValidator(checks.integer)] = None
    """The seed of all streams; left out, 0."""
    unmatched: Annotated[
        Literal["error", "keep"] | None,
        BeforeValidator(checks.one_of("way to treat unmatched parameters", ("error", "keep"), {})),
    ] = None
    """What becomes of parameters that nothing claims: `error` (left out, too), or `keep`."""
    rules: Annotated[
        dict[Annotated[str, BeforeValidator(_rule_name)], Annotated[Rule | None, BeforeValidator(_rule_body)]],
        BeforeValidator(checks.mapping("rules")),
    ] = {}
    """Rules by name. The last that matches wins; null switches one off."""
    targets: Annotated[
        dict[str, Annotated[DeclaredTargets | None, BeforeValidator(_targets)]], BeforeValidator(checks.mapping("targets"))
    ] = {}
    """The tensors that a hypernetwork generates, by a name of your own: a module, a list, or shapes."""
    layouts: Annotated[
        dict[str, Annotated[DeclaredLayout | None, BeforeValidator(_layout_body)]], BeforeValidator(checks.mapping("layouts"))
    ] = {}
    """How parameters are stored that initconf does not know, by a name of your own."""
    layers: Annotated[str | None, BeforeValidator(checks.layers)] = None
    """A regex for whole names, with one group that gives the layer's number."""
    compat: Annotated[Literal["torch"] | None, BeforeValidator(checks.one_of("compat", ("torch",), {}))] = None
    """`torch`: its fans, and neither blocks nor padding rows."""
    rng_device: Annotated[Literal["cpu", "auto"] | None, BeforeValidator(checks.one_of("rng_device", ("cpu", "auto"), {}))] = (
        None
    )
    """Where values are drawn: `cpu` (left out, too), or `auto`: on the accelerator."""

    _sources: Any = PrivateAttr(default=None)
    _prefix: str = PrivateAttr(default="init")

    @model_validator(mode="before")
    @classmethod
    def _without_hydra_keys(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if k not in _HYDRA_KEYS} if isinstance(value, Mapping) else value

    def __eq__(self, other: object) -> bool:
        """Whether the two say the same, wherever they have it from."""
        return isinstance(other, InitSpec) and self.__dict__ == other.__dict__

    def live_rules(self) -> Iterator[tuple[str, Rule]]:
        """The rules that are not switched off, weakest first: by priority, then in the order in which they were said."""
        live = [(name, rule) for name, rule in self.rules.items() if rule is not None]
        yield from sorted(live, key=lambda item: item[1].priority)

    def path(self, path: str) -> str:
        """The full config path (`init.rules.head.gain`) of a path relative to the spec."""
        return f"{self._prefix}.{path}" if self._prefix and path else self._prefix or path

    def source(self, path: str) -> str | None:
        """Where the value at a path relative to the spec came from; None for one that nothing set."""
        chain = self.sources(path)
        return chain[-1] if chain else None

    def sources(self, path: str) -> list[str]:
        """Every place that set the value at a path, weakest first: `file:line`, an override, or `python`."""
        if self._sources:
            return list(self._sources.chain(path))
        value: Any = self.model_dump(exclude_unset=True, warnings=False)
        for part in path.split(".") if path else ():
            value = value.get(part) if isinstance(value, Mapping) else None
        return ["python"] if path and value is not None else []

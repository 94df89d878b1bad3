"""The spec: what the user said, checked for its form. No torch, no model and no registry is needed to read it.

What is left out, or null, is not set: it takes the next weaker source (the spec for a rule, the initializer's own default for
the spec). Meaning (whether an initializer exists and takes an argument, whether a rule matches) is checked by `compile`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from initconf import expressions, patterns
from initconf.errors import InitConfError, did_you_mean

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
SETTINGS = ("initializer", "mode", "distribution", "gain", "nonlinearity", "gain_method")
SELECTORS = ("match", "search", "glob", "module", "inside", "role", "ndim", "block")

RULE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_HYDRA_KEYS = ("_target_", "_convert_", "_recursive_", "_partial_")


def fail(text: str, remedy: str | None = None) -> PydanticCustomError:
    """The one kind of error that validators here raise; `loading` turns it into a Problem."""
    return PydanticCustomError("initconf", "{text}", {"text": text, "remedy": remedy})


YAML_BOOL = "YAML reads on, off, yes and no as true and false: put the word in quotes"
YAML_NULL = "None is a word like any other in YAML: write null"


def _is_none(value: Any) -> bool:
    return isinstance(value, str) and value == "None"


def _one_of(kind: str, allowed: tuple[str, ...], hints: Mapping[str, str]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None or (isinstance(value, str) and value in allowed):
            return value
        hint = hints.get(value) if isinstance(value, str) else YAML_BOOL if isinstance(value, bool) else None
        hint = YAML_NULL if _is_none(value) else hint
        raise fail(
            f"not a {kind}",
            hint or (did_you_mean(value, allowed) if isinstance(value, str) else f"one of {', '.join(allowed)}"),
        )

    return check


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, type(None))):
        raise fail("neither a number nor an expression", 'write a number, or an expression such as "1/sqrt(2*n_layers)"')
    if _is_none(value):
        raise fail("neither a number nor an expression", YAML_NULL)
    if isinstance(value, str):
        try:
            expressions.parse(value)
        except InitConfError as error:
            raise fail(str(error), 'write a number, or an expression such as "1/sqrt(2*n_layers)"') from None
    elif isinstance(value, float) and not math.isfinite(value):
        raise fail("not a finite number", "write a finite one")
    elif isinstance(value, int) and abs(value) > sys.float_info.max:
        raise fail("the number is too large", f"write one below {sys.float_info.max:.0e}")
    return value


def _named(what: str, example: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if _is_none(value):
            raise fail(f"not {'an' if what[0] in 'aeiou' else 'a'} {what}", YAML_NULL)
        if value is None or (isinstance(value, str) and value):
            return value
        if isinstance(value, Mapping):
            if isinstance(value.get("name"), str):
                if bad := [key for key in value if not isinstance(key, str)]:
                    raise fail(f"the argument {bad[0]!r} is not a name")
                return dict(value)
            lost = next((key for key in value if key != "name" and isinstance(key, str)), "std")
            raise fail(
                f"the {what} mapping has no name",
                f"write {example}; an override such as {what}.{lost}=3 over a plain string loses the name: set {what}.name too",
            )
        if isinstance(value, bool):
            raise fail(f"not {'an' if what[0] in 'aeiou' else 'a'} {what}", YAML_BOOL)
        raise fail(f"not {'an' if what[0] in 'aeiou' else 'a'} {what}", f"write a name, or a mapping such as {example}")

    return check


def _pattern(kind: patterns.Kind) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, str):
            read = "list" if isinstance(value, list) else "mapping" if isinstance(value, Mapping) else None
            text = f"YAML read the pattern as a {read}" if read else "a pattern is a string"
            raise fail(text, "put it in single quotes: '...' in YAML, and in Hydra quotes (\"...\") on a command line")
        if not value:
            raise fail("the pattern is empty", "write null where none is meant, and * as a glob for everything")
        try:
            patterns.check(kind, value)
        except InitConfError as error:
            remedy = r"it is a regex of Python's `re`, in which ( [ { . * + ? | ^ $ that are meant as such have a \ in front"
            raise fail(str(error), remedy if "does not compile" in str(error) else None) from None
        return value

    return check


def _strings(what: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None:
            return None
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, (list, tuple)) or not values or not all(isinstance(v, str) and v for v in values):
            raise fail(f"not {what}", f"write {what}, or a list of them")
        return tuple(values)

    return check


def _roles(value: Any) -> Any:
    values = _strings("a role")(value)
    for role in values or ():
        if role not in ROLES:
            raise fail(f"no role is named {role!r}", did_you_mean(role, ROLES))
    return values


def _integer(value: Any) -> Any:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        raise fail("not an integer", f"write {value:.0f}")
    if isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]{1,15}", value):
        raise fail("not an integer", f"write {int(value)}, without quotes")
    raise fail("not an integer", "write an integer, such as 3")


def _flag(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    raise fail("neither true nor false", "write true or false")


def _expect(value: Any) -> Any:
    if value is None:
        return None
    span = [value, value] if isinstance(value, int) and not isinstance(value, bool) else value
    good = (
        isinstance(span, (list, tuple)) and len(span) == 2 and all(isinstance(n, int) and not isinstance(n, bool) for n in span)
    )
    if not good or not 0 <= span[0] <= span[1]:
        raise fail("not a number of parameters", "write a count such as 12, or [min, max]")
    return tuple(span)


def _layers(value: Any) -> Any:
    value = _pattern("match")(value)
    if value is not None:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise fail(f"the pattern does not compile: {error}") from None
        if groups != 1:
            raise fail(f"the pattern has {groups} groups", r"give it one group, the layer's number: 'blocks\.(\d+)\..*'")
    return value


def _mapping(what: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            if what == "rules" and isinstance(value, str):
                raise fail("not a mapping of rules", f"to choose rule files write init/rules={value}")
            raise fail(f"not a mapping of {what}", f"write {what} by name: {{name: ...}}")
        return dict(value)

    return check


_MODES = _one_of("mode", get_args(Mode), {"fan_sum": "fan_avg is half of it"})
_DISTRIBUTIONS = _one_of(
    "distribution",
    get_args(Distribution),
    {"normal": "normal means truncated in TensorFlow and untruncated in torch: write truncated_normal or untruncated_normal"},
)
_METHODS = _one_of("gain method", get_args(GainMethod), {"centered": "it is spelled centred"})


class Settings(BaseModel):
    """What a spec and a rule may both set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    initializer: Annotated[str | dict[str, Any] | None, BeforeValidator(_named("initializer", "{name: normal, std: 0.02}"))] = (
        None
    )
    """A name, or a mapping of the name and the initializer's own arguments: `{name: normal, std: 0.02}`."""
    mode: Annotated[Mode | None, BeforeValidator(_MODES)] = None
    """Which fan the variance is divided by."""
    distribution: Annotated[Distribution | None, BeforeValidator(_DISTRIBUTIONS)] = None
    """The shape of the law. A truncated normal is cut off at two sigma, and has the std all the same."""
    gain: Annotated[int | float | str | None, BeforeValidator(_number)] = None
    """Multiplies the std: a number, or an expression such as `1/sqrt(2*n_layers)`."""
    nonlinearity: Annotated[
        str | dict[str, Any] | None, BeforeValidator(_named("nonlinearity", "{name: leaky_relu, negative_slope: 0.2}"))
    ] = None
    """The activation that feeds the layer: a name, `{name: leaky_relu, negative_slope: 0.2}`, or `auto`, which finds it."""
    gain_method: Annotated[GainMethod | None, BeforeValidator(_METHODS)] = None
    """How the activation's own gain is had; left out, `second_moment`, which is exact."""

    def settings(self) -> dict[str, Any]:
        """The settings that are set (not null)."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}


class Rule(Settings):
    """A selector plus settings. All given selectors must hold, on one and the same name of the parameter."""

    match: Annotated[str | None, BeforeValidator(_pattern("match"))] = None
    """A regex for the whole name."""
    search: Annotated[str | None, BeforeValidator(_pattern("search"))] = None
    """A regex found anywhere in the name."""
    glob: Annotated[str | None, BeforeValidator(_pattern("glob"))] = None
    """A pattern with `*`, `?`, `[...]` for the whole name."""
    module: Annotated[tuple[str, ...] | None, BeforeValidator(_strings("a class name"))] = None
    """The owner's class, also a base class; with a dot the dotted path."""
    inside: Annotated[tuple[str, ...] | None, BeforeValidator(_strings("a class name"))] = None
    """The class of any ancestor module."""
    role: Annotated[tuple[Role, ...] | None, BeforeValidator(_roles)] = None
    """What the parameter is for: a role, or a list of them."""
    ndim: Annotated[int | None, BeforeValidator(_integer)] = None
    """The number of the parameter's axes."""
    block: Annotated[str | None, BeforeValidator(_pattern("glob"))] = None
    """A block's name, or a glob; a rule without it claims every block."""
    priority: Annotated[int, BeforeValidator(lambda v: 0 if v is None else _integer(v))] = 0
    """A higher one sorts later, and the last match wins."""
    optional: Annotated[bool, BeforeValidator(lambda v: False if v is None else _flag(v))] = False
    """Whether the rule may match nothing."""
    expect: Annotated[tuple[int, int] | None, BeforeValidator(_expect)] = None
    """How many parameters it must win: a number, or `[min, max]`."""

    @model_validator(mode="after")
    def _selects(self) -> Rule:
        if all(getattr(self, name) is None for name in SELECTORS):
            if (null := [name for name in SELECTORS if name in self.model_fields_set]) and len(null) < len(SELECTORS):
                remedy = "YAML takes what begins with & ! | > or # for something of its own: put patterns in single quotes"
                raise fail(
                    f"the rule selects nothing: its {' and '.join(null)} {'is' if null[1:] == [] else 'are'} null", remedy
                )
            raise fail(
                "the rule selects nothing: it has no selector",
                f"give it one of {', '.join(SELECTORS)}",
            )
        return self


def _rule_name(value: Any) -> Any:
    if isinstance(value, str) and RULE_NAME.fullmatch(value):
        return value
    raise fail(
        "not a rule's name",
        "a name begins with a letter and holds letters, digits, _ and -; patterns stand in match, search or glob",
    )


def _rule_body(value: Any) -> Any:
    if isinstance(value, (Mapping, Rule, type(None))):
        return value
    if isinstance(value, bool) or _is_none(value):
        raise fail("a rule is a mapping", "to switch it off, write null")
    raise fail("a rule is a mapping", "write {glob: '...', initializer: ...}, or null to switch it off")


def _layout_body(value: Any) -> Any:
    if isinstance(value, (Mapping, DeclaredLayout, type(None))):
        return value
    raise fail("a layout is a mapping", "write {match: '...', axes: {out: 0, in: 1}}, or null for none")


def _name(value: Any) -> Any:
    if value is None or (isinstance(value, str) and value):
        return value
    raise fail("not a name", "write the name of a parameter of the same module, such as weight")


def _known(what: str, value: Mapping[Any, Any], keys: tuple[str, ...]) -> None:
    for key in value:
        if key not in keys:
            raise fail(f"{key!r} is not a key of {what}", did_you_mean(str(key), keys))


def _axes(value: Any) -> Any:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise fail("not a mapping of axes", "write {out: 0, in: 1}, and batch where whole weights are stacked")
    _known("axes", value, ("out", "in", "batch"))
    axes = {key: [axis] if isinstance(axis, int) else axis for key, axis in value.items()}
    for axis in axes.values():
        if not isinstance(axis, (list, tuple)) or not all(isinstance(a, int) and not isinstance(a, bool) for a in axis):
            raise fail("an axis is an integer, or a list of integers", "write {out: 0, in: [1, 2]}")
    return {key: tuple(axis) for key, axis in axes.items()}


def _blocks(value: Any) -> Any:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        _known("blocks", value, ("axis", "names", "sizes"))
    if not isinstance(value, Mapping) or not value.get("names"):
        raise fail("not a mapping of blocks", "write {axis: 0, names: [q, k, v]}, and sizes where they are not equal")
    names, sizes = value["names"], value.get("sizes")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise fail("the names of the blocks are not a list of strings", "write names: [q, k, v]")
    if len(set(names)) < len(names):
        raise fail("two blocks have the same name", "give each its own")
    if sizes is not None and (not isinstance(sizes, (list, tuple)) or not all(isinstance(n, int) and n >= 0 for n in sizes)):
        raise fail("the sizes of the blocks are not a list of integers", "write sizes: [64, 32, 32]")
    return {"axis": _integer(value.get("axis", 0)), "names": tuple(names), "sizes": tuple(sizes or ())}


def _role(value: Any) -> Any:
    if value is None or (isinstance(value, str) and value in ROLES):
        return value
    raise fail(f"no role is named {value!r}", did_you_mean(str(value), ROLES))


def _positive(value: Any) -> Any:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise fail("not a positive integer", "write an integer, such as 2")


class DeclaredLayout(BaseModel):
    """How to read the parameters that a selector matches: what `initconf.layout` says in Python, in YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: Annotated[str | None, BeforeValidator(_pattern("match"))] = None
    """A regex for the whole name."""
    search: Annotated[str | None, BeforeValidator(_pattern("search"))] = None
    """A regex found anywhere in the name."""
    glob: Annotated[str | None, BeforeValidator(_pattern("glob"))] = None
    """A pattern with `*`, `?`, `[...]` for the whole name."""
    module: Annotated[tuple[str, ...] | None, BeforeValidator(_strings("a class name"))] = None
    """The owner's class; where nothing else is said, of its parameters those with two axes and more."""
    role: Annotated[Role | None, BeforeValidator(_role)] = None
    """What the parameter is for; left out, `weight`."""
    axes: Annotated[dict[str, tuple[int, ...]], BeforeValidator(_axes)] = {}
    """`out`, `in` and `batch`: an axis or a list; left out, 0, 1 and none. All others are receptive field."""
    blocks: Annotated[dict[str, Any], BeforeValidator(_blocks)] = {}
    """Named slices along an axis: `{axis: 0, names: [q, k, v]}`, and `sizes` where they are not equal."""
    groups: Annotated[int | None, BeforeValidator(_positive)] = None
    """The groups of a convolution."""
    stride: Annotated[int | None, BeforeValidator(_positive)] = None
    """The product of the strides."""
    transposed: Annotated[bool, BeforeValidator(lambda v: False if v is None else _flag(v))] = False
    """Whether it is the kernel of a transposed convolution."""
    fans_of: Annotated[str | None, BeforeValidator(_name)] = None
    """The owner's parameter whose fans this one carries."""
    zero_row: Annotated[int | None, BeforeValidator(_integer)] = None
    """A row that stays zero."""

    @model_validator(mode="after")
    def _selects(self) -> DeclaredLayout:
        if self.match is None and self.search is None and self.glob is None and self.module is None:
            raise fail("the layout selects nothing: it has no selector", "give it one of match, search, glob, module")
        return self


class InitSpec(Settings):
    """How the parameters of a model start, as the user said it. Made by `initconf.load`."""

    seed: Annotated[int | None, BeforeValidator(_integer)] = None
    """The seed of all streams; left out, 0."""
    unmatched: Annotated[
        Literal["error", "keep"] | None, BeforeValidator(_one_of("way to treat unmatched parameters", ("error", "keep"), {}))
    ] = None
    """What becomes of parameters that nothing claims: `error` (left out, too), or `keep`."""
    rules: Annotated[
        dict[Annotated[str, BeforeValidator(_rule_name)], Annotated[Rule | None, BeforeValidator(_rule_body)]],
        BeforeValidator(_mapping("rules")),
    ] = {}
    """Rules by name. The last that matches wins; null switches one off."""
    targets: Annotated[dict[str, Any], BeforeValidator(_mapping("targets"))] = {}
    """The tensors that a hypernetwork generates, by name."""
    layouts: Annotated[
        dict[str, Annotated[DeclaredLayout | None, BeforeValidator(_layout_body)]], BeforeValidator(_mapping("layouts"))
    ] = {}
    """How parameters are stored that initconf does not know, by a name of your own."""
    layers: Annotated[str | None, BeforeValidator(_layers)] = None
    """A regex for whole names, with one group that gives the layer's number."""
    compat: Annotated[Literal["torch"] | None, BeforeValidator(_one_of("compat", ("torch",), {}))] = None
    """`torch`: its fans, and neither blocks nor padding rows."""
    rng_device: Annotated[Literal["cpu", "auto"] | None, BeforeValidator(_one_of("rng_device", ("cpu", "auto"), {}))] = None
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

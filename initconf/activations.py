"""Gains: how much an activation shrinks or grows the signal, and the factor on a weight's std that undoes it.

**The convention.** The gain belongs to the activation that *feeds* the layer. The next layer's pre-activations have
variance fan_in * Var(w) * E[x^2] with x = f(z), z ~ N(0, 1): a second moment without subtraction of the mean, since
the weights have mean zero. So std(w) = gain / sqrt(fan_in), gain = 1 / sqrt(E[f(z)^2]), and a layer that is fed by the
data or by a normalisation has gain 1. (ALF and most code around `torch.nn.init` take the layer's own, following
activation, which inflates the first layer by gain^2: 2.3 for GELU.)

**A warning.** The gain keeps q = E[z^2] = 1 exactly, but not always stably: where d/dq g^2 E[f(sqrt(q) z)^2] at q = 1
(the `slope` of `table`) is above 1, deviations grow with depth. ReLU has 1.00, ELU 0.89, SELU 0.78, tanh 0.46; but GELU
1.14, SiLU 1.17, Mish 1.08, hardswish 1.22, and after 30 un-normalised layers of width 512 the measured second moment is
12, 337, 2.8 and 3238 instead of 1. Deep stacks of these need a normalisation or residual branches, not a better gain.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar, overload

from initconf.callables import from_torch, is_module
from initconf.curves import CLOSED, CURVES
from initconf.errors import InitConfError, Problem, did_you_mean, near
from initconf.quadrature import Function, Moments, grid_second_moment, measure, refusal, second_moment

__all__ = ["METHODS", "Moments", "activation", "describe", "gain", "moments", "names", "normalise", "table"]

Scalar: TypeAlias = float | int | bool | str | None
Nonlinearity: TypeAlias = str | Mapping[str, Any] | Callable[..., Any]
_Arguments: TypeAlias = tuple[tuple[str, Scalar], ...]
F = TypeVar("F", bound=Callable[..., Any])

METHODS = ("second_moment", "torch", "backward", "centred", "numeric_grid")
"""What `gain_method` may be."""


@dataclass(frozen=True)
class _Activation:
    """A function of one variable, its derivative, and the arguments that both take."""

    name: str
    f: Callable[..., Any]
    df: Callable[..., Any] | None = None
    defaults: Mapping[str, Scalar] = field(default_factory=dict, compare=False)
    gate: str | None = None
    """Of a gated unit u * f(v): the name of f."""
    torch: bool = False
    """Whether f is the user's, on torch tensors; the built-in ones are NumPy functions."""

    @property
    def label(self) -> str:
        return f"activation {self.name!r}"


# --- built in --------------------------------------------------------------------------------------------------------

_GATES = {"glu": "sigmoid", "swiglu": "silu", "geglu": "gelu", "reglu": "relu", "bilinear": "linear"}
_BUILTIN = {name: _Activation(name, *curve) for name, curve in CURVES.items()}
_BUILTIN |= {name: replace(_BUILTIN[gate], name=name, gate=gate) for name, gate in _GATES.items()}
_ALIASES = {"identity": "linear", "swish": "silu", "relu_squared": "squared_relu"}
_ALIASES |= {f"conv{kind}{axes}d": "linear" for kind in ("", "_transpose") for axes in (1, 2, 3)}
_REGISTERED: dict[str, _Activation] = {}

_ALLOWED: dict[tuple[str, str], tuple[str, Callable[[Mapping[str, Any]], bool]]] = {
    ("gelu", "approximate"): ("'none' or 'tanh'", lambda a: a["approximate"] in ("none", "tanh")),
    ("geglu", "approximate"): ("'none' or 'tanh'", lambda a: a["approximate"] in ("none", "tanh")),
    ("celu", "alpha"): ("a number above 0", lambda a: a["alpha"] > 0),
    ("hardtanh", "max_val"): ("a number above min_val", lambda a: a["max_val"] > a["min_val"]),
    ("softshrink", "lambd"): ("a number from 0 on", lambda a: a["lambd"] >= 0),
    ("hardshrink", "lambd"): ("a number from 0 on", lambda a: a["lambd"] >= 0),
}


# --- names and arguments ---------------------------------------------------------------------------------------------


def names() -> tuple[str, ...]:
    """Every name that `nonlinearity` may be, sorted: the built-in ones, their aliases, the registered ones."""
    return tuple(sorted({*_BUILTIN, *_ALIASES, *_REGISTERED}))


def describe(name: str) -> dict[str, Scalar]:
    """The arguments of an activation with their defaults.

    Raises:
        InitConfError: no activation has this name.

    >>> describe("leaky_relu")
    {'negative_slope': 0.01}
    """
    return dict(_find(name).defaults)


def normalise(nonlinearity: Nonlinearity) -> tuple[str, dict[str, Scalar]]:
    """The canonical name of an activation and all of its arguments, checked.

    Raises:
        InitConfError: the name is unknown; an argument is unknown or of the wrong kind; a callable is not registered.

    >>> normalise({"name": "swish"}), normalise("elu")
    (('silu', {}), ('elu', {'alpha': 1.0}))
    """
    found, arguments = _resolve(nonlinearity)
    if found.torch and _REGISTERED.get(found.name) is not found:
        raise refusal(
            f"{found.label} is a callable without a registered name",
            remedy="register it: initconf.activation('a_name')(function)",
        )
    return found.name, dict(arguments)


def _find(name: object) -> _Activation:
    if isinstance(name, str):
        canonical = _ALIASES.get(name, name)
        found = _BUILTIN.get(canonical) or _REGISTERED.get(canonical)
        if found is not None:
            return found
    known = names()
    close = near(str(name).lower(), known, 1)
    hint = f"did you mean {close[0]!r}? they are: " if close else "known: "
    raise refusal(f"no activation is named {name!r}", remedy=hint + ", ".join(known))


def _resolve(nonlinearity: Nonlinearity) -> tuple[_Activation, _Arguments]:
    given: dict[Any, Any] = {}
    if isinstance(nonlinearity, Mapping):
        given = dict(nonlinearity)
        if "name" not in given:
            raise refusal(f"the activation {given} has no name", remedy="write {name: leaky_relu, negative_slope: 0.2}")
        found = _find(given.pop("name"))
    elif isinstance(nonlinearity, str):
        found = _find(nonlinearity)
    elif callable(nonlinearity):
        found = _callable(nonlinearity)
    else:
        raise refusal(
            f"{nonlinearity!r} is no activation",
            remedy="give a name, a mapping such as {name: leaky_relu, negative_slope: 0.2}, or a callable",
        )
    problems = [
        Problem(
            f"{found.label} has no argument {key!r}",
            remedy=did_you_mean(str(key), found.defaults) if found.defaults else "it takes none",
        )
        for key in given
        if key not in found.defaults
    ]
    arguments: dict[str, Any] = {key: given.get(key, default) for key, default in found.defaults.items()}
    allowed = {key: _kind(default) for key, default in found.defaults.items()}
    wrong = [key for key in arguments if not allowed[key][1](arguments[key])]
    if not wrong:
        limits = {key: _ALLOWED[found.name, key] for key in arguments if (found.name, key) in _ALLOWED}
        wrong = [key for key, (_, fits) in limits.items() if not fits(arguments)]
        allowed |= limits
    problems += [
        Problem(f"{found.label}: {key} = {arguments[key]!r} is not allowed", remedy=f"give {allowed[key][0]}") for key in wrong
    ]
    if problems:
        raise InitConfError(problems)
    for key, default in found.defaults.items():
        if isinstance(default, float):
            arguments[key] = float(arguments[key])  # an integer was said
    return found, tuple(arguments.items())


def _kind(default: Scalar) -> tuple[str, Callable[[Any], bool]]:
    """What may stand where an argument has this default."""

    def number(value: Any) -> bool:
        # Up to a bound, so that squares stay finite.
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e100

    if isinstance(default, bool):
        return "true or false", lambda value: isinstance(value, bool)
    if isinstance(default, str):
        return "a string", lambda value: isinstance(value, str)
    if default is None:
        return "a number, a string, true, false or null", lambda v: v is None or isinstance(v, (bool, str)) or number(v)
    return "a finite number", number


def _callable(function: Callable[..., Any]) -> _Activation:
    for known in _REGISTERED.values():
        if known.f is function:
            return known
    name = getattr(function, "__name__", None) or type(function).__name__
    if isinstance(function, type):
        raise refusal(f"activation {name!r} is a class", remedy=f"give an instance: {name}()")
    return _Activation(name, function, torch=True)


# --- registration ----------------------------------------------------------------------------------------------------


@overload
def activation(function: F, /, *, derivative: Callable[..., Any] | None = None) -> F: ...


@overload
def activation(name: str | None = None, /, *, derivative: Callable[..., Any] | None = None) -> Callable[[F], F]: ...


def activation(function: Any = None, /, *, derivative: Callable[..., Any] | None = None) -> Any:
    """Registers an elementwise torch callable, so that `nonlinearity` may name it; returns it unchanged.

    Bare (`@activation`), with a name (`@activation("swish2")`), or called (`activation("swish2")(fn)`). Its further
    parameters whose defaults are numbers, strings, booleans or None become its arguments:
    `nonlinearity: {name: swish2, beta: 1.5}`. `derivative` takes the same arguments; left out, autograd is asked.
    A derivative is taken as it is said, since a surrogate one (straight-through, spiking) is what a gradient will see.

    Raises:
        InitConfError: the name is taken or is no identifier, or a parameter has no default. Whether the callable is
            elementwise, deterministic, out of place and finite is checked when it is first used.
    """
    if function is not None and not isinstance(function, str):
        _register(function, getattr(function, "__name__", ""), derivative)
        return function

    def decorate(decorated: F) -> F:
        _register(decorated, getattr(decorated, "__name__", "") if function is None else function, derivative)
        return decorated

    return decorate


def _register(function: Any, name: str, derivative: Callable[..., Any] | None) -> None:
    if isinstance(function, type) or not callable(function):
        raise refusal(f"{function!r} is no activation", remedy="register a function or an instance")
    if not name.isidentifier() or name == "auto":
        raise refusal(f"{name!r} cannot name an activation", remedy="give a name: activation('swish2')(function)")
    if name in names():
        where = "registered already" if name in _REGISTERED else "built in"
        raise refusal(f"activation {name!r} is {where}", remedy="choose another name")
    _REGISTERED[name] = _Activation(name, function, derivative, _parameters(function, name), torch=True)


def _parameters(function: Callable[..., Any], name: str) -> dict[str, Scalar]:
    """The keyword arguments of a callable that a configuration can set, with their defaults."""
    try:
        every = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function written in C does not tell
        return {}
    parameters = [p for p in every if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if is_module(function):
        return {}
    problems = [
        Problem(f"activation {name!r}: the parameter {p.name!r} has no default", remedy="give it one")
        for p in parameters[1:]
        if p.default is p.empty
    ]
    if any(p.name == "name" for p in parameters[1:]):
        problems.append(Problem(f"activation {name!r}: no parameter may be called 'name'", remedy="rename it"))
    if problems:
        raise InitConfError(problems)
    return {
        p.name: p.default
        for p in parameters[1:]
        if p.kind is not p.POSITIONAL_ONLY
        and not p.name.startswith("_")
        and (p.default is None or isinstance(p.default, (bool, int, float, str)))
    }


# --- gains -----------------------------------------------------------------------------------------------------------


def moments(nonlinearity: Nonlinearity) -> Moments:
    """E f, E f^2, Var f and E f'^2 of an activation under z ~ N(0, 1); cached, but for modules, which may change.

    A gated unit (glu, swiglu, geglu, reglu, bilinear) is u * f(v) with u, v independent: its mean is 0, its second
    moment E[f^2]. Its `bwd_m2` is (E[f^2] + E[f'^2]) / 2, the mean over its two inputs, whose gradients are scaled by
    f(v) and u * f'(v).

    Raises:
        InitConfError: the name or an argument is unknown, or the callable is not elementwise, deterministic and finite.
    """
    found, arguments = _resolve(nonlinearity)
    if is_module(found.f) or not isinstance(found.f, Hashable):
        return _measure.__wrapped__(found, arguments)
    return _measure(found, arguments)


def gain(nonlinearity: Nonlinearity, method: str = "second_moment") -> float:
    """The factor on the std of a weight that the activation feeds.

    - `second_moment`: 1 / sqrt(E[f(z)^2]), which keeps the second moment forward (He et al. 2015 for any f).
    - `backward`: 1 / sqrt(E[f'(z)^2]), which keeps the gradient's (with fan_out).
    - `centred`: 1 / sqrt(Var f(z)); right only if a normalisation or centred weights follow.
    - `torch`: the table of `torch.nn.init.calculate_gain`, with its sigmoid 1, tanh 5/3 and selu 3/4; prelu counts as
      leaky_relu.
    - `numeric_grid`: ALF's Riemann sum over [-5, 5), good to four digits; of a gated unit, over its gate.

    Raises:
        InitConfError: as `moments`; the method is unknown; torch has no entry; or the moment is 0 or not finite, so
            that no gain can restore it.

    >>> gain("relu"), gain("selu"), round(gain("gelu"), 9)
    (1.4142135623730951, 1.0, 1.533530441)
    """
    found, arguments = _resolve(nonlinearity)
    if method == "second_moment":
        value, text = moments(nonlinearity).m2, "E[f(z)^2]"
    elif method == "centred":
        value, text = moments(nonlinearity).var, "Var f(z)"
    elif method == "backward":
        known = moments(nonlinearity).bwd_m2
        value, text = _backward(found, arguments) if known is None else known, "E[f'(z)^2]"
    elif method == "numeric_grid":
        value, text = grid_second_moment(_function(found, arguments)), "E[f(z)^2] on the grid"
    elif method == "torch":
        listed = _torch_gain(found, arguments)
        if listed is None:
            raise refusal(
                f"torch's table has no gain for {found.label}; it knows linear, conv1d to conv_transpose3d, "
                "sigmoid, tanh, relu, leaky_relu, selu",
                remedy="use gain_method: second_moment",
            )
        return listed
    else:
        raise refusal(f"no gain method is named {method!r}", remedy=did_you_mean(str(method), METHODS))
    if not 0.0 < value < math.inf:
        raise refusal(f"{found.label} has no {method} gain: {text} is {value:g}", remedy="give the layer's gain as a number")
    return math.sqrt(1.0 / value)  # sqrt(2) for 0.5, to the last bit


def table() -> list[dict[str, float | str | None]]:
    """A row for every activation, with its default arguments and some others that are often met.

    Keys: `name` (with arguments), `mean`, `m2`, the gains `second_moment`, `centred` and `backward`, `chi1`
    (E[f'^2] / E[f^2], the growth of a gradient under the forward gain), `torch` (None where torch raises), and `slope`
    (d/dq g^2 E[f(sqrt(q) z)^2] at q = 1; above 1, q = 1 is unstable). None stands for what does not exist.
    """
    often: list[Mapping[str, Any]] = [
        {"name": "leaky_relu", "negative_slope": 0.2},
        {"name": "gelu", "approximate": "tanh"},
        {"name": "sin", "omega": 30.0},
    ]
    rows: list[dict[str, float | str | None]] = []
    for said in (*_BUILTIN, *_REGISTERED):
        variants: list[str | Mapping[str, Any]] = [said, *(variant for variant in often if variant["name"] == said)]
        for one in variants:
            found, arguments = _resolve(one)
            m = moments(one)
            shown = ", ".join(f"{key}={value}" for key, value in arguments)
            rows.append(
                {
                    "name": f"{found.name}({shown})" if shown else found.name,
                    "mean": m.mean,
                    "m2": m.m2,
                    "second_moment": math.sqrt(1.0 / m.m2) if m.m2 else None,
                    "centred": math.sqrt(1.0 / m.var) if m.var else None,
                    "backward": math.sqrt(1.0 / m.bwd_m2) if m.bwd_m2 else None,
                    "chi1": m.bwd_m2 / m.m2 if m.m2 and m.bwd_m2 is not None else None,
                    "torch": _torch_gain(found, arguments),
                    "slope": m.growth / m.m2 if m.m2 else None,
                }
            )
    return rows


def _function(found: _Activation, arguments: _Arguments) -> Function:
    if found.torch:
        return from_torch(found.f, dict(arguments), found.label)
    return lambda z: found.f(z, *(value for _, value in arguments))


def _backward(found: _Activation, arguments: _Arguments) -> float:
    """E[f'(z)^2], or the error that says why there is none."""
    label, df = f"the derivative of {found.label}", found.df
    if df is None:
        return second_moment(from_torch(found.f, dict(arguments), label, differentiate=True), label)
    if found.torch:
        return second_moment(from_torch(df, dict(arguments), label), label)
    return second_moment(lambda z: df(z, *(value for _, value in arguments)), label)


@lru_cache(maxsize=512)
def _measure(found: _Activation, arguments: _Arguments) -> Moments:
    if found.gate is not None:
        of = _measure(_BUILTIN[found.gate], arguments)
        assert of.bwd_m2 is not None
        return Moments(mean=0.0, m2=of.m2, var=of.m2, bwd_m2=0.5 * (of.m2 + of.bwd_m2), growth=of.m2 + of.growth)
    if found.name in CLOSED and not found.torch:
        return CLOSED[found.name](*(value for _, value in arguments))
    f = _function(found, arguments)
    try:
        bwd_m2 = _backward(found, arguments)
    except InitConfError:  # the forward gain may exist all the same; `gain` says why the backward one does not
        bwd_m2 = None
    return measure(f, bwd_m2, found.label)


def _torch_gain(found: _Activation, arguments: _Arguments) -> float | None:
    if found.torch:
        return None
    if found.name in ("leaky_relu", "prelu"):
        ((_, slope),) = arguments
        assert isinstance(slope, float)
        return math.sqrt(2.0 / (1.0 + slope**2))
    return {"linear": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0), "selu": 0.75}.get(found.name)

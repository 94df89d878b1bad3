"""Initializers by name: the only way in which a configuration can call for code.

An initializer is a function `(site, **settings) -> Law`, a few lines of mathematics that never touch a tensor. A user's plain
`fn(tensor, generator=...)` can be registered too. The two are told apart by the name of the first parameter.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar, get_type_hints, overload

from pydantic import ConfigDict, TypeAdapter, ValidationError

from initconf.errors import InitConfError, near
from initconf.laws import Construction, Custom, Keep, Law, ModuleDefault, Values

F = TypeVar("F", bound=Callable[..., Any])

_SHIPPED = ("initconf.initializers", "initconf.hyper")
_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
MISSING = inspect.Parameter.empty
_PROBES = [sign * base**k for base in (2, 2.0, 10) for k in range(-9, 10) for sign in (1, -1)]
"""An argument that takes one of these is a number, and an expression may stand for it."""


@dataclass(frozen=True)
class Argument:
    """One argument of an initializer."""

    name: str
    default: Any
    """The default, or `inspect.Parameter.empty` where it must be given."""
    numeric: bool
    """Whether an expression may stand for it."""
    type: TypeAdapter[Any]
    """Its declared type."""

    def check(self, value: Any) -> Any:
        """The value in its declared type. Raises pydantic's ValidationError."""
        return self.type.validate_python(value)

    def is_expression(self, value: Any) -> bool:
        """Whether a value is an expression that gives the number, and not a word that the argument takes."""
        return self.numeric and isinstance(value, str) and not _accepts(self.type, value)


@dataclass(frozen=True)
class Initializer:
    """A registered initializer."""

    name: str
    fn: Callable[..., Any]
    arguments: Mapping[str, Argument]
    plain: bool
    """Whether it is a plain tensor function, called when the values are written."""
    explicit_scale: bool = False
    """Whether its scale is explicit, so that the spec's gain does not reach into a rule that names it."""
    torch: bool = False
    """Whether it is a function of `torch.nn.init`, which takes nothing from the spec."""
    whole: bool = False
    """Whether it takes whole parameters, not their blocks."""
    arrange: Callable[..., Any] | None = None
    """Of one that serves what generates a network's tensors: (what is generated, the sites and settings of all parameters that
    it serves) -> for each of them the sites that take its place. See `initconf.hyper.heads.arrange`."""

    @property
    def shipped(self) -> bool:
        """Whether it is one of initconf's own."""
        return self.fn.__module__.startswith(_SHIPPED)

    def validate(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """The arguments in their declared types, and the problems as (argument, text)."""
        good, bad = {}, []
        for name, value in given.items():
            try:
                good[name] = self.arguments[name].check(value)
            except ValidationError as error:
                bad.append((name, _say(error)))
        return good, bad

    def law(self, site: Any, settings: Mapping[str, Any]) -> Law:
        """The law for a site, with settings that are already validated."""
        if self.plain:
            return Custom(self.name, tuple(sorted(settings.items())))
        try:
            law = self.fn(site, **settings)
        except InitConfError:
            raise
        except Exception as error:
            raise InitConfError(f"it raised {type(error).__name__}: {error}") from error
        if not isinstance(law, Law):
            raise InitConfError(f"the initializer {self.name!r} returned {law!r}, not a law")
        if text := _unfit(law, site):
            raise InitConfError(text)
        return law


def _unfit(law: Law, site: Any) -> str | None:
    """Why a law cannot be written into a parameter, so that it is said before anything is written; None where it can."""
    if isinstance(law, (Keep, ModuleDefault, Values, Custom)):
        return None
    if not (law.elementwise or isinstance(law, Construction)):
        return f"{type(law).__name__} is not a law of a single parameter"
    if (shape := getattr(law, "shape", site.shape)) != site.shape:
        return f"the law is for the shape {shape}, and the parameter has {site.shape}"
    if law.mean is None or law.std is None:
        return None
    if law.elementwise and law.per_value == 1 and law.std and getattr(site, "is_complex", False):
        return f"{type(law).__name__} has real values, and the parameter is complex"
    if not (math.isfinite(law.mean) and math.isfinite(law.std) and law.std >= 0):
        return f"its law has mean {law.mean:g} and standard deviation {law.std:g}"
    return beyond(law, site.dtype)


def beyond(law: Law, name: str) -> str | None:
    """What of a law's values does not fit a dtype, given by its name; None where they fit, or nothing is known of them."""
    if law.mean is None or law.std is None:
        return None
    import torch

    dtype = getattr(torch, name, None)
    if dtype is None or not (dtype.is_floating_point or dtype.is_complex):
        return None
    info = torch.finfo(dtype)
    least = info.smallest_normal * info.eps
    low, high = law.bounds
    low, high = max(low, law.mean - 6 * law.std), min(high, law.mean + 6 * law.std)
    reach = max(abs(low), abs(high))
    if reach > info.max:
        return f"values of up to {reach:g} do not fit {name}, which ends at {info.max:g}"
    return f"values of up to {reach:g} are all 0 in {name}, whose least is {least:g}" if 0 < reach <= least / 2 else None


_registered: dict[str, Initializer] = {}
_aliases: dict[str, str] = {}
_complete = False
_broken: dict[str, str] = {}
"""Entry points that could not be registered, and why: said when somebody asks for the name."""


@overload
def register(fn: F, /) -> F: ...
@overload
def register(
    name: str | None = None,
    /,
    *,
    aliases: tuple[str, ...] = (),
    explicit_scale: bool = False,
    torch: bool = False,
    whole: bool = False,
    arrange: Callable[..., Any] | None = None,
) -> Callable[[F], F]: ...


def register(
    name_or_fn: Any = None,
    /,
    *,
    aliases: tuple[str, ...] = (),
    explicit_scale: bool = False,
    torch: bool = False,
    whole: bool = False,
    arrange: Callable[..., Any] | None = None,
) -> Any:
    """Register an initializer: as a decorator, bare or with a name, or called on a function.

    The function's first parameter is `site` (it returns a law) or `tensor` (it writes the values itself, in place, and takes
    `generator` too); all others are its settings, with types and defaults.

    >>> import initconf
    >>> @initconf.register
    ... def half_he(site, gain: float = 1.0):
    ...     return initconf.laws.Normal(0.0, gain / site.fan_in**0.5)
    >>> initconf.compile(model, {"defaults": ["he"], "initializer": "half_he"})["0.weight"].law.std
    0.5

    The marks are for the shipped ones: other names; a scale that the spec's gain does not reach into; a function of
    `torch.nn.init`; one that takes whole parameters instead of their blocks; one that serves all parameters of a hypernetwork's
    output together.

    Raises InitConfError for a name that is taken and for a signature that cannot be configured.
    """

    def add(fn: Callable[..., Any], name: str) -> Any:
        if not fn.__module__.startswith(_SHIPPED):
            _load()  # so that a name of the shipped ones is refused here, and not when they are loaded
        entry = replace(_inspect(name, fn, explicit_scale, torch, whole or torch), arrange=arrange)
        for taken in (name, *aliases):
            if taken in _registered or taken in _aliases:
                raise InitConfError(f"an initializer named {taken!r} is already registered")
        _registered[name] = entry
        _aliases.update(dict.fromkeys(aliases, name))
        return fn

    if callable(name_or_fn):
        return add(name_or_fn, _own_name(name_or_fn))
    return lambda fn: add(fn, name_or_fn or _own_name(fn))


def _own_name(fn: Callable[..., Any]) -> str:
    name = getattr(fn, "__name__", "<lambda>")
    if name == "<lambda>":
        raise InitConfError(f"{fn!r} has no name of its own; register it with one: initconf.register('name')(...)")
    return str(name)


def find(name: str) -> Initializer:
    """The initializer of this name or alias; InitConfError with a near name if there is none."""
    _load()
    try:
        return _registered[_aliases.get(name, name)]
    except KeyError:
        if name in _broken:
            raise InitConfError(_broken[name]) from None
        close = near(name, [*_registered, *_aliases], 1)  # all of them would be a page
        raise InitConfError(f"no initializer is named {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")) from None


def is_torch(name: str | None) -> bool:
    """Whether a name is that of a function of `torch.nn.init`."""
    return name is not None and find(name).torch


def names() -> list[str]:
    """All registered names, sorted, without aliases."""
    _load()
    return sorted(_registered)


def aliases_of(name: str) -> list[str]:
    """The other names of an initializer."""
    return sorted(alias for alias, target in _aliases.items() if target == name)


def _load() -> None:
    """Import the shipped initializers, then those that installed packages offer as entry points."""
    global _complete
    if _complete:
        return
    _complete = True
    for package in _SHIPPED:
        import_module(package)
    for entry in entry_points(group="initconf.initializers"):
        try:
            fn = entry.load()
            if callable(fn) and entry.name not in _registered:
                register(entry.name)(fn)
        except Exception as error:  # noqa: BLE001  a broken package must not break those who do not use it
            _broken[entry.name] = f"the initializer {entry.name!r} of {entry.value} cannot be used: {error}"


def _inspect(name: str, fn: Callable[..., Any], explicit_scale: bool, torch: bool, whole: bool) -> Initializer:
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except ValueError as error:  # some functions written in C
        raise InitConfError(f"the signature of the initializer {name!r} cannot be read: {error}") from None
    first = parameters[0].name if parameters else None
    if first not in ("site", "tensor"):
        raise InitConfError(
            f"the first parameter of the initializer {name!r} is {first!r}; call it `site` (the function returns a law) "
            "or `tensor` (the function writes the values)"
        )
    if first == "tensor" and "generator" not in {p.name for p in parameters}:
        raise InitConfError(
            f"the initializer {name!r} has no parameter `generator`; it must draw from the generator that it is given"
        )
    try:
        hints = get_type_hints(fn.func if isinstance(fn, partial) else fn, include_extras=True)
    except Exception as error:
        raise InitConfError(f"the annotations of the initializer {name!r} cannot be read: {error}") from error
    arguments = {}
    for p in parameters[1:]:
        if p.name == "generator" and first == "tensor":
            continue
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY):
            raise InitConfError(f"the initializer {name!r} takes {p}; every setting must be a named parameter")
        hint = hints[p.name] if p.name in hints else _like(p.default)
        adapter: TypeAdapter[Any] = TypeAdapter(hint, config=None if _owns_config(hint) else _STRICT)
        numeric = any(_accepts(adapter, probe) for probe in _PROBES) and not _accepts(adapter, "x")
        arguments[p.name] = Argument(p.name, p.default, numeric, adapter)
    return Initializer(name, fn, arguments, first == "tensor", explicit_scale, torch, whole)


def _like(default: Any) -> Any:
    """The type of an argument that has a default and no annotation; where the default is 1, 0.5 is welcome too."""
    if default is None or default is MISSING:
        return Any
    return int | float if type(default) is int else type(default)


def _owns_config(hint: Any) -> bool:
    return isinstance(hint, type) and (hasattr(hint, "model_config") or hasattr(hint, "__pydantic_config__"))


def _accepts(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def _say(error: ValidationError) -> str:
    """What is allowed, in one sentence; a union says its parts."""
    said = []
    for e in error.errors(include_url=False):
        text = (
            e["ctx"]["error"].args[0] if e["type"] == "value_error" else e["msg"].removeprefix("Input ").removeprefix("Value ")
        )
        if text not in said:
            said.append(text)
    return "it " + ", or it ".join(said)

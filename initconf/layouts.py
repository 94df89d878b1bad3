"""How the parameters of known modules are laid out, by module class.

Classes are known by name, so that nothing is imported to recognise a third party's module; a user's own class is registered
with `initconf.layout(MyModule)`.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

from initconf.errors import CompileError, InitConfError, Problem, did_you_mean
from initconf.guessing import assume, vectors
from initconf.sites import Layout, own_class
from initconf.spec import ROLES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from initconf.spec import DeclaredLayout

Describe = Callable[["nn.Module", str, "Tensor"], "Layout | None"]
"""(module, name of the parameter within it, the parameter) -> its layout, None where the base class knows better."""
Part = Callable[["nn.Module", str, str, "Tensor", "Layout"], "Layout | None"]
"""(parent, name of the owner within it, name of the parameter, the parameter, what the owner's class says) -> its layout, None
where that is all."""
F = TypeVar("F", bound=Describe)
G = TypeVar("G", bound=Part)

_layouts: dict[type | str, Describe] = {}
_families: list[tuple[re.Pattern[str], Describe]] = []
_parts: list[tuple[re.Pattern[str], Part]] = []

BIAS = Layout(role="bias", fans_of="weight")
EMBEDDING = vectors(2)
LINEAR = {"weight": Layout(), "bias": BIAS}
NORM = {"weight": Layout(role="norm_scale"), "bias": Layout(role="norm_shift")}
GATES = {"RNN": (), "LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n")}
HAVE_AXES = ("weight", "recurrent", "embedding")
"""Roles whose axes mean something."""


def layout(module: type | str) -> Callable[[F], F]:
    """Register how the parameters of a module class are laid out.

    Args:
        module: the class, or its name (bare or dotted) where it is not to be imported.

    The decorated function takes the module, the parameter's name within it and the parameter (whose values it must not read),
    and returns a Layout, or None to leave the parameter to the base class.

    >>> import initconf, torch
    >>> class InOut(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = torch.nn.Parameter(torch.empty(3, 5))
    >>> @initconf.layout(InOut)
    ... def in_out(module, name, parameter):
    ...     return initconf.Layout(in_axes=(0,), out_axes=(1,))
    >>> initconf.compile(InOut(), "lecun")["weight"].fan_in
    3.0

    Axes may be counted from the end. The class itself is asked before its dotted name, that before the bare one, and all three
    before its base classes. Raises InitConfError for a class that has a layout already, for what is no class, and for a
    function that does not take these three.
    """
    if not inspect.isclass(module) and not isinstance(module, str):
        remedy = "write @initconf.layout(MyModule), with the module's class or its name"
        raise InitConfError(Problem(f"a layout is for a class, and this is a {type(module).__name__}", remedy=remedy))
    title = module if isinstance(module, str) else module.__qualname__

    def add(fn: F) -> F:
        if module in _layouts:
            raise InitConfError(f"there is a layout for {title} already")
        try:
            inspect.signature(fn).bind("module", "name", "parameter")
        except TypeError as error:
            remedy = "let it take the module, the parameter's name and the parameter, and return an initconf.Layout"
            raise InitConfError(Problem(f"the layout of {title}: {error}", remedy=remedy)) from None
        _layouts[module] = fn
        return fn

    return add


def find(module: nn.Module, name: str, parameter: Tensor, known: dict[type, list[Describe]] | None = None) -> Layout:
    """The layout of a parameter: the registered one of the nearest base class, else an assumption, marked as such.

    `known` remembers who describes a class, for those who ask for many modules.
    """
    kind, known = own_class(module), {} if known is None else known
    if kind not in known:
        keys = [key for cls in kind.__mro__ for key in (cls, f"{cls.__module__}.{cls.__qualname__}", cls.__name__)]
        dotted = f"{kind.__module__}.{kind.__qualname__}"
        known[kind] = [_layouts[key] for key in keys if key in _layouts]
        known[kind] += [describe for pattern, describe in _families if pattern.fullmatch(dotted)]
    for describe in known[kind]:
        try:
            found = describe(module, name, parameter)
        except Exception as error:
            text = f"the layout of {kind.__qualname__}.{name} cannot be told: {type(error).__name__}: {error}"
            raise InitConfError(Problem(text, remedy="mend the function that initconf.layout was given")) from error
        if found is not None:
            where = kind.__qualname__, name
            if not isinstance(found, Layout):
                raise InitConfError(f"the layout of {'.'.join(where)} is {found!r}, not a Layout")
            carrier, own = found.fans_of, module._parameters
            if isinstance(carrier, str) and carrier not in own and "parametrizations" not in module._modules:
                text = f"the layout of {'.'.join(where)}: its owner has no parameter {carrier!r} to take the fans of"
                raise InitConfError(Problem(text, remedy=did_you_mean(carrier, own)))
            try:
                return _fitted(found, parameter.shape)
            except InitConfError as error:
                wrong = error.problems
            except TypeError:  # a list has no hash to be looked up by
                wrong = tuple(_mistyped(found))
            raise InitConfError(
                replace(p, text=f"the layout of {'.'.join(where)}: {p.text}", path=None) for p in wrong
            ) from None
    return assume(module, name, parameter)


def within(
    parent: nn.Module | None, held: str, name: str, parameter: Tensor, own: Layout, known: dict[type, list[Part]]
) -> Layout:
    """The layout of a parameter whose owner's parent knows more than the owner: that a Linear holds q, k and v."""
    if parent is None:
        return own
    kind = own_class(parent)
    if kind not in known:
        dotted = f"{kind.__module__}.{kind.__qualname__}"
        known[kind] = [describe for pattern, describe in _parts if pattern.fullmatch(dotted)]
    for describe in known[kind]:
        if (found := describe(parent, held, name, parameter, own)) is not None:
            return _fitted(found, parameter.shape)
    return own


def part(pattern: str) -> Callable[[G], G]:
    """Register what the classes whose dotted names fit a regex know of the modules that they hold."""

    def add(fn: G) -> G:
        _parts.append((re.compile(pattern), fn))
        return fn

    return add


def family(pattern: str) -> Callable[[F], F]:
    """Register how the parameters of all classes whose dotted names fit a regex are laid out, where no class of theirs says."""

    def add(fn: F) -> F:
        _families.append((re.compile(pattern), fn))
        return fn

    return add


def declared(said: DeclaredLayout, where: str, parameter: Tensor) -> Layout:
    """The layout that a spec declares under the path `where`, for a parameter that it matches.

    Axes may be counted from the end. Where `out` or `in` is left out, it is the first axis that is free: {in: 0} is (in, out),
    and {batch: 0} of three axes is (batch, out, in). An embedding's vectors lie along the last axis. Raises CompileError where
    the layout does not fit the shape.
    """
    shape, role, axes, blocks = tuple(parameter.shape), said.role or "weight", said.axes, said.blocks
    given: dict[str, tuple[int, ...]] = dict(axes) if axes or role in HAVE_AXES else {"out": (0,), "in": (1,)}
    taken = {axis + len(shape) if axis < 0 else axis for named in axes.values() for axis in named}
    free = [axis for axis in range(len(shape)) if axis not in taken]
    if not given and role == "embedding":
        given = {"out": tuple(free[-1:]), "in": (), "batch": tuple(free[:-1])}
    for key in ("out", "in"):
        if key not in given:
            given[key], free = tuple(free[:1]), free[1:]
    layout = Layout(
        role=role,
        out_axes=given["out"],
        in_axes=given["in"],
        batch_axes=given.get("batch", ()),
        groups=said.groups or 1,
        stride=said.stride or 1,
        transposed=said.transposed,
        block_axis=blocks.get("axis") or 0,
        block_names=blocks.get("names", ()),
        block_sizes=blocks.get("sizes", ()),
        zero_row=said.zero_row,
        fans_of=said.fans_of,
    )
    try:
        return _fitted(layout, shape)
    except InitConfError as error:
        raise CompileError(replace(p, path=f"{where}.{p.path}") for p in error.problems) from None


def least_axes(said: DeclaredLayout) -> int:
    """How many axes a parameter has at least of which a layout names these; 2 where it names fewer."""
    axes = [axis for named in said.axes.values() for axis in named]
    reach = [axis + 1 if axis >= 0 else -axis for axis in (*axes, said.blocks.get("axis") or 0)]
    return max(2, len(axes), *reach)


def names() -> list[str]:
    """The classes that have a layout, as they were registered: dotted, or by the bare name; sorted."""
    return sorted(key if isinstance(key, str) else f"{key.__module__}.{key.__qualname__}" for key in _layouts)


@lru_cache(maxsize=4096)
def _fitted(layout: Layout, shape: tuple[int, ...]) -> Layout:
    """The layout with axes and rows counted from the front.

    Raises InitConfError where it does not fit the shape; the paths of its problems are the keys that declare what is wrong.
    """
    shape = tuple(shape)
    if problems := [*_mistyped(layout)] or [*_roles_and_axes(layout, shape), *_blocks_and_rows(layout, shape)]:
        raise InitConfError(problems)
    if min(*layout.all_axes, layout.block_axis, layout.zero_row or 0, 0) == 0:
        return layout
    n = max(len(shape), 1)
    return replace(
        layout,
        out_axes=tuple(axis % n for axis in layout.out_axes),
        in_axes=tuple(axis % n for axis in layout.in_axes),
        batch_axes=tuple(axis % n for axis in layout.batch_axes),
        block_axis=layout.block_axis % n,
        zero_row=None if layout.zero_row is None else layout.zero_row % shape[0],
    )


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _wholes(value: object) -> bool:
    return isinstance(value, tuple) and all(map(_whole, value))


def _texts(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, str) for one in value)


_KINDS: dict[str, tuple[str, str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("out_axes", "in_axes", "batch_axes"), ("axes", "a tuple of integers", _wholes)),
    **dict.fromkeys(("groups", "stride"), ("", "a positive integer", lambda n: _whole(n) and n >= 1)),
    "block_axis": ("blocks", "an integer", _whole),
    "block_names": ("blocks", "a tuple of strings", _texts),
    "block_sizes": ("blocks", "a tuple of integers", _wholes),
    "zero_row": ("", "an integer", lambda n: n is None or _whole(n)),
    "fans_of": ("", "a parameter's name", lambda name: name is None or isinstance(name, str)),
    "assumed": ("", "a tuple of strings", _texts),
}
"""What each field of a layout is: the key that declares it (its own where that is empty), in words, and as a test."""


def _mistyped(layout: Layout) -> Iterator[Problem]:
    """What is of another kind than a layout has; a function may return anything."""
    for key, (path, kind, fits) in _KINDS.items():
        if not fits(value := getattr(layout, key)):
            yield Problem(f"{key} is {value!r}, not {kind}", path or key)


def _roles_and_axes(layout: Layout, shape: tuple[int, ...]) -> Iterator[Problem]:
    if layout.role not in ROLES:
        yield Problem(f"no role is named {layout.role!r}", "role", remedy=did_you_mean(str(layout.role), ROLES))
    named = layout.all_axes if layout.role in HAVE_AXES else ()
    beyond = [axis for axis in named if not -len(shape) <= axis < len(shape)]
    for axis in beyond:
        yield Problem(f"the shape {shape} has no axis {axis}", "axes")
    if beyond or not named:
        return
    counted = [axis % len(shape) for axis in named]
    for axis in sorted({axis for axis in counted if counted.count(axis) > 1}):
        yield Problem(f"axis {axis} is named twice", "axes")
    side, axes = ("in", layout.in_axes) if layout.transposed else ("out", layout.out_axes)
    size = math.prod(shape[axis] for axis in axes)
    if size % layout.groups:
        yield Problem(f"{layout.groups} groups do not divide {size}, the size of the {side} axes", "groups")


def _blocks_and_rows(layout: Layout, shape: tuple[int, ...]) -> Iterator[Problem]:
    row, axis, names = layout.zero_row, layout.block_axis, layout.block_names
    if len(set(names)) < len(names) or "" in names:
        yield Problem(f"the blocks {', '.join(map(repr, names))} do not have a name each", "blocks")
    elif min(layout.block_sizes, default=1) < 1:
        yield Problem(f"the sizes {list(layout.block_sizes)} of the blocks are not all positive", "blocks")
    elif names and not -len(shape) <= axis < len(shape):
        yield Problem(f"the shape {shape} has no axis {axis}", "blocks")
    elif names and not layout.block_sizes and shape[axis] % len(names):
        text = f"{len(names)} blocks of one size do not divide {shape[axis]}, the size of axis {axis}"
        yield Problem(text, "blocks", remedy=f"give the sizes of {', '.join(names)}")
    elif names:
        try:
            layout.blocks(shape)
        except InitConfError as error:
            yield Problem(str(error), "blocks")
    elif layout.block_sizes:
        yield Problem(f"the blocks of sizes {list(layout.block_sizes)} have no names", "blocks", remedy="give them block_names")
    if row is not None and not (shape and -shape[0] <= row < shape[0]):
        yield Problem(f"the shape {shape} has no row {row}", "zero_row")
    elif row is not None and names and axis % len(shape) == 0:
        text = "the rows are in blocks, and one of them is to stay zero"
        yield Problem(text, "zero_row", remedy="leave out the blocks, or zero_row")


# --- torch.nn --------------------------------------------------------------------------------------------------------------


@layout("torch.nn.modules.linear.Linear")
def _linear(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return LINEAR.get(name)


@dataclass(frozen=True)
class Multilinear(Layout):
    """Of a map that multiplies several inputs, one to each in axis.

    An output sums over all tuples of inputs. An element of the input i reaches every output, by way of the product of the other
    inputs' sizes: fan_out is the mean over the elements of all inputs, out * n * prod(in) / sum(in) for n inputs.
    """

    def fans(self, shape: tuple[int, ...]) -> tuple[float, float]:
        fan_in, out = super().fans(shape)
        sizes = [shape[axis] for axis in self.in_axes]
        return fan_in, out * len(sizes) * fan_in / max(sum(sizes), 1)


@layout("torch.nn.modules.linear.Bilinear")
def _bilinear(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return {"weight": Multilinear(in_axes=(1, 2)), "bias": BIAS}.get(name)


@layout("torch.nn.modules.conv._ConvNd")
def _conv(module: Any, name: str, parameter: Tensor) -> Layout | None:
    weight = Layout(groups=module.groups, stride=math.prod(module.stride))
    return {"weight": weight, "bias": BIAS}.get(name)


@layout("torch.nn.modules.conv._ConvTransposeNd")
def _conv_transposed(module: Any, name: str, parameter: Tensor) -> Layout | None:
    weight = Layout(out_axes=(1,), in_axes=(0,), groups=module.groups, stride=math.prod(module.stride), transposed=True)
    return {"weight": weight, "bias": BIAS}.get(name)


@layout("torch.nn.modules.sparse.Embedding")
@layout("torch.nn.modules.sparse.EmbeddingBag")
def _embedding(module: Any, name: str, parameter: Tensor) -> Layout | None:
    padding = module.padding_idx
    row = None if padding is None else padding % max(parameter.shape[0], 1)
    return replace(EMBEDDING, zero_row=row) if name == "weight" else None


@layout("torch.nn.modules.batchnorm._NormBase")
@layout("torch.nn.modules.normalization.LayerNorm")
@layout("torch.nn.modules.normalization.GroupNorm")
@layout("torch.nn.modules.normalization.RMSNorm")
def _norm(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return NORM.get(name)


@layout("torch.nn.modules.activation.PReLU")
def _prelu(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return Layout(role="gate_scale")


@layout("torch.nn.modules.rnn.RNNBase")
@layout("torch.nn.modules.rnn.RNNCellBase")
def _recurrent(module: Any, name: str, parameter: Tensor) -> Layout | None:
    if name.startswith("weight_hr"):  # the projection of an LSTM with proj_size
        return Layout(role="weight")
    if not name.startswith(("weight_ih", "weight_hh", "bias_ih", "bias_hh")):
        return None
    own = next(cls.__name__ for cls in type(module).__mro__ if cls.__module__ == "torch.nn.modules.rnn")
    kind = next((kind for kind in ("LSTM", "GRU") if own.startswith(kind) or getattr(module, "mode", "") == kind), "RNN")
    role = "recurrent" if name.startswith("weight_hh") else "weight" if name.startswith("weight") else "bias"
    carrier = name.replace("bias", "weight") if role == "bias" else None
    return Layout(role=role, block_names=GATES[kind], fans_of=carrier)  # type: ignore[arg-type]


@layout("torch.nn.modules.activation.MultiheadAttention")
def _attention(module: Any, name: str, parameter: Tensor) -> Layout | None:
    qkv = ("q", "k", "v")
    if name == "in_proj_weight":
        return Layout(block_names=qkv)
    if name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        return Layout()
    if name == "in_proj_bias":
        return Layout(role="bias", block_names=qkv, fans_of="in_proj_weight" if module._qkv_same_embed_dim else None)
    return Layout(role="bias") if name in ("bias_k", "bias_v") else None

"""How the parameters of known modules are laid out, by module class; and what is assumed of unknown ones.

Classes are known by name, so that nothing is imported to recognise a third party's module; a user's own class is registered
with `initconf.layout(MyModule)`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from initconf.errors import InitConfError
from initconf.sites import Layout, own_class
from initconf.spec import Role

if TYPE_CHECKING:
    from torch import Tensor, nn

    from initconf.spec import DeclaredLayout

Describe = Callable[["nn.Module", str, "Tensor"], "Layout | None"]
"""(module, name of the parameter within it, the parameter) -> its layout, None where the base class knows better."""
F = TypeVar("F", bound=Describe)

_layouts: dict[type | str, Describe] = {}
_families: list[tuple[re.Pattern[str], Describe]] = []

BIAS = Layout(role="bias", fans_of="weight")
EMBEDDING = Layout(role="embedding", out_axes=(1,), in_axes=(), batch_axes=(0,))
LINEAR = {"weight": Layout(), "bias": BIAS}
NORM = {"weight": Layout(role="norm_scale"), "bias": Layout(role="norm_shift")}
GATES = {"RNN": (), "LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n")}


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

    Raises InitConfError for a class that has a layout already.
    """

    def add(fn: F) -> F:
        if module in _layouts:
            raise InitConfError(f"there is a layout for {module if isinstance(module, str) else module.__qualname__} already")
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
        if (found := describe(module, name, parameter)) is not None:
            _check(found, module, name, parameter)
            return found
    return _assume(module, name, parameter)


def family(pattern: str) -> Callable[[F], F]:
    """Register how the parameters of all classes whose dotted names fit a regex are laid out, where no class of theirs says."""

    def add(fn: F) -> F:
        _families.append((re.compile(pattern), fn))
        return fn

    return add


def declared(said: DeclaredLayout, where: str, parameter: Tensor) -> Layout:
    """The layout that a spec declares, checked against the parameter's shape. Raises InitConfError where they do not fit."""
    axes, blocks, shape = said.axes, said.blocks, tuple(parameter.shape)
    found = Layout(
        role=said.role or "weight",
        out_axes=axes.get("out", (0,)),
        in_axes=axes.get("in", (1,) if axes.get("out") != (1,) else (0,)),
        batch_axes=axes.get("batch", ()),
        groups=said.groups or 1,
        stride=said.stride or 1,
        transposed=said.transposed,
        block_axis=blocks.get("axis", 0),
        block_names=blocks.get("names", ()),
        block_sizes=blocks.get("sizes", ()),
        zero_row=said.zero_row,
        fans_of=said.fans_of,
    )
    has_axes = len(shape) >= 2 or said.axes
    for axis in (*(found.all_axes if has_axes else ()), *((found.block_axis,) if found.block_names else ())):
        if not 0 <= axis < len(shape):
            raise InitConfError(f"{where} names axis {axis}, and the shape is {shape}")
    if has_axes and len(set(found.all_axes)) < len(found.all_axes):
        raise InitConfError(f"{where} names an axis twice")
    if found.zero_row is not None and not 0 <= found.zero_row < shape[0]:
        raise InitConfError(f"{where} names row {found.zero_row}, and the shape is {shape}")
    found.blocks(shape)
    return found


def names() -> list[str]:
    """The classes that have a layout, as they were registered: dotted, or by the bare name; sorted."""
    return sorted(key if isinstance(key, str) else f"{key.__module__}.{key.__qualname__}" for key in _layouts)


def _check(found: Any, module: nn.Module, name: str, parameter: Tensor) -> None:
    where = f"the layout of {type(module).__qualname__}.{name}"
    if not isinstance(found, Layout):
        raise InitConfError(f"{where} is {found!r}, not a Layout")
    if found.role in ("weight", "recurrent", "embedding"):
        for axis in found.all_axes:
            if not 0 <= axis < parameter.ndim:
                raise InitConfError(f"{where} names axis {axis}, and the shape is {tuple(parameter.shape)}")


# --- torch.nn --------------------------------------------------------------------------------------------------------------


@layout("torch.nn.modules.linear.Linear")
def _linear(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return LINEAR.get(name)


@layout("torch.nn.modules.linear.Bilinear")
def _bilinear(module: Any, name: str, parameter: Tensor) -> Layout | None:
    # Every output sums over all pairs of inputs.
    return {"weight": Layout(in_axes=(1, 2)), "bias": BIAS}.get(name)


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
    return Layout(**{**EMBEDDING.__dict__, "zero_row": row}) if name == "weight" else None


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
        return Layout(role="bias", block_names=qkv, fans_of="in_proj_weight" if module.in_proj_weight is not None else None)
    return Layout(role="bias") if name in ("bias_k", "bias_v") else None


# --- what is assumed of others ---------------------------------------------------------------------------------------------

_BY_NAME: list[tuple[re.Pattern[str], Role, bool]] = [
    (re.compile(r"(pos_)?bias_[uv]|r_[rsw]_bias"), "bias", True),  # what Transformer-XL adds to its queries, for each head
    (
        re.compile(
            r"A_log|dt_bias|(\w+_)?logit_(scale|bias)(_\w)?|(log_)?temperature|t_prime|b_prime|inv_freq|(\w+_)?decay|"
            r"time_(?!pos|emb)\w+"
        ),
        "state",
        True,
    ),
    (re.compile(r"D"), "state", False),
    (
        re.compile(
            r"(?!.*(alpha|scale|const))(\w*pos(ition)?(al)?_?(emb|embed|embedding|enc|encoding|bias)\w*|"
            r"\w*relative_(position|attention_bias)\w*|\w*rel_pos\w*|attention_biases|rpb|(\w+_)?(temporal|time)_embed\w*)"
        ),
        "position",
        True,
    ),
    (re.compile(r"(\w*_)?(bias|beta)(_\w*)?|b\d?|sinks"), "bias", False),
    (re.compile(r"gamma_\w+|(\w+_)?layer_?scale\w*"), "gate_scale", True),
    (
        re.compile(
            r"(\w+_)?(gamma|alpha|gate|scale|scaling)(_\w+)?|lambdas?_?\d?|ls_?\d|resweight|skip_gain|(\w+_)?residual|layer_weights"
        ),
        "gate_scale",
        False,
    ),
    (
        re.compile(
            r"(\w+_)?tokens?(_\w+)?|(\w+_)?emb(ed|eds|edding|eddings)?|(\w+_)?latents?(_(\d\w|query))?|null_embed\w*|"
            r"(codevector|codebook|prototype)s?|queries|probe|image_newline|view_separator"
        ),
        "embedding",
        True,
    ),
]
"""What an attribute's name says; and whether of a tensor of any shape, or only of a vector or a number."""


def by_name(name: str, shape: tuple[int, ...]) -> Layout | None:
    """What the name of a bare parameter says of it: gates, scalars, position tables, learned tokens and biases."""
    ndim, vector = len(shape), sum(n != 1 for n in shape) <= 1  # a vector may lie along any axis: (1, C, 1, 1)
    for pattern, role, of_any_shape in _BY_NAME:
        if (vector or of_any_shape) and pattern.fullmatch(name):
            return vectors(ndim) if role == "embedding" else Layout(role=role)
    return None


def vectors(ndim: int) -> Layout:
    """Learned vectors along the last axis."""
    return Layout(role="embedding", out_axes=(max(ndim, 1) - 1,), in_axes=(), batch_axes=tuple(range(ndim - 1)))


def _assume(module: nn.Module, name: str, parameter: Tensor) -> Layout:
    """The guess for a module that nobody declared: by the class's and the attribute's name, and the number of axes."""
    kind, guess = own_class(module).__name__, ("role",)
    if "norm" in kind.lower() and parameter.ndim <= 1:
        return Layout(role="norm_shift" if name in ("bias", "beta", "shift") else "norm_scale", assumed=guess)
    if (found := by_name(name, tuple(parameter.shape))) is not None:
        carries = found.role == "bias" and isinstance(getattr(module, "weight", None), type(parameter))
        return replace(found, fans_of="weight" if carries else None, assumed=guess)
    if "embedding" in kind.lower() and parameter.ndim == 2 and name == "weight":
        return Layout(**{**EMBEDDING.__dict__, "assumed": guess})
    if parameter.ndim >= 2:
        return Layout(assumed=("role", "layout"))
    return Layout(role="other", assumed=guess)

"""What each function of torch does to the origins of its tensors: the rules of `nonlinearity: auto`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from initconf.feeding import MEETS, Call, Fed, disguised, origins_in, strange, table
from initconf.origins import Nonlinearity, Origin, activated, added, fresh, joined, multiplied, normalised, scaled, unknown


def follow(function: str, args: Sequence[Any], kwargs: Mapping[str, Any], fed: Fed) -> Origin | None:
    """The origin of a call's result, None where no tensor has part in it; `fed` is told of each weight that meets its input."""
    call = Call(_plain(function), args, kwargs, fed)
    if not call.tensors:
        return None
    if (rule := MEETS.get(call.name)) is not None:
        return rule(call)
    if not call.moving:
        return disguised(call)
    if (rule := _RULES.get(call.name)) is not None:
        return rule(call)
    return strange(call)


def _plain(function: str) -> str:
    """One name for what is written in several ways: add, add_, +, +=."""
    name = function if function.startswith("__") else function.rstrip("_")
    return _SPELLINGS.get(name, name)


_SPELLINGS = {
    spelling: name
    for name, spellings in {
        "add": "__add__ __radd__ __iadd__ iadd",
        "sub": "__sub__ __rsub__ __isub__ isub rsub subtract",
        "mul": "__mul__ __rmul__ __imul__ imul multiply",
        "div": "__truediv__ __itruediv__ truediv itruediv true_divide divide",
        "matmul": "__matmul__ __rmatmul__ __imatmul__ imatmul",
        "getitem": "__getitem__",
        "setitem": "__setitem__",
        "pow": "__pow__ __ipow__ ipow float_power",
        "neg": "__neg__ negative",
        "clamp": "clip",
        "cat": "concat concatenate stack hstack vstack dstack column_stack",
    }.items()
    for spelling in spellings.split()
}


# --- activations -----------------------------------------------------------------------------------------------------------

_PLAIN = "relu relu6 selu silu mish tanh sigmoid softsign hardswish hardsigmoid logsigmoid tanhshrink erf sin cos"
_ARGUED: dict[str, dict[str, tuple[int, Any]]] = {
    "gelu": {"approximate": (1, "none")},
    "leaky_relu": {"negative_slope": (1, 0.01)},
    "elu": {"alpha": (1, 1.0)},
    "celu": {"alpha": (1, 1.0)},
    "hardtanh": {"min_val": (1, -1.0), "max_val": (2, 1.0)},
    "softshrink": {"lambd": (1, 0.5)},
    "hardshrink": {"lambd": (1, 0.5)},
}
"""The arguments of an activation, as torch and we call them: where they stand, and torch's default."""


def _activation(call: Call) -> Origin:
    given = {key: (call.argument(place, key, usual), usual) for key, (place, usual) in _ARGUED.get(call.name, {}).items()}
    changed = {key: value for key, (value, usual) in given.items() if value != usual}
    return activated({"name": call.name, **changed} if changed else call.name, call.first, call.name)


def _softplus(call: Call) -> Origin:
    plain = call.argument(1, "beta", 1.0) == 1
    return activated("softplus", call.first, "softplus") if plain else unknown(f"softplus with a beta on {call.first.what}")


def _clamp(call: Call) -> Origin:
    low, high = call.argument(1, "min"), call.argument(2, "max")
    if low == 0 and high is None:
        return activated("relu", call.first, "relu")
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        return activated({"name": "hardtanh", "min_val": low, "max_val": high}, call.first, call.name)
    return strange(call)


def _threshold(call: Call) -> Origin:
    zero = call.argument(1, "threshold") == 0 and call.argument(2, "value") == 0
    return activated("relu", call.first, "relu") if zero else strange(call)


def _power(call: Call) -> Origin:
    if call.first.nonlinearity != "relu" or (call.name == "pow" and call.argument(1, "exponent") != 2):
        return strange(call)
    return replace(call.first, nonlinearity="squared_relu", what="squared_relu", of=fresh())


def _softmax(call: Call) -> Origin:
    return Origin("softmax", f"a {call.name}", of=fresh())


# --- what changes nothing, or little ----------------------------------------------------------------------------------------


def _first(call: Call) -> Origin:
    return call.first


def _attribute(call: Call) -> Origin:
    """Of a tensor that torch.fx traces; `values` is half of what max and the like return."""
    name = call.argument(1, "name")
    if name in ("T", "mT", "H", "mH", "data", "real", "values"):
        return call.first
    return Origin.constant() if name in ("shape", "dtype", "device", "ndim", "is_cuda", "requires_grad") else strange(call)


def _taken(call: Call) -> Origin:
    """A piece of a tensor."""
    which = [*call.args[1:], *call.kwargs.values()]
    return call.first.part(fresh() if origins_in(which) else repr(which))


def _filled(call: Call) -> Origin:
    """masked_fill: where the mask depends on what it masks, it may be an activation."""
    return next((t for t in call.moving if t.kind == "unknown"), call.first)


def _chosen(call: Call) -> Origin:
    """where"""
    condition = call.origin(0, "condition")
    return condition if condition.kind == "unknown" else joined([call.origin(1, "input"), call.origin(2, "other")])


def _written(call: Call) -> Origin:
    """x[...] = value, of which nothing but the origin of all of x is to be known."""
    return joined([call.first, call.origin(2, "value")])


def _copied(call: Call) -> Origin:
    return call.origin(1, "src")


def _compared(call: Call) -> Origin:
    """A mask, or places: of the data it is no signal."""
    return Origin.constant() if all(t.kind == "data" for t in call.moving) else strange(call)


def _still(call: Call) -> Origin:
    """Values that no input has part in, or none at all."""
    return Origin.constant()


def _pooled(call: Call) -> Origin:
    if len(call.moving) > 1 and call.name in ("max", "amax"):
        return strange(call)
    return call.first.through(call.name) if call.first.kind != "unknown" else call.first


# --- arithmetic ------------------------------------------------------------------------------------------------------------


def _sum(call: Call) -> Origin:
    return added(call.tensors, number=bool(_number(call)))


def _number(call: Call) -> float | None:
    """The operand that is a number."""
    operands = [*call.args[:2], call.kwargs.get("other")]
    return next((a for a in operands if isinstance(a, (int, float)) and not isinstance(a, bool)), None)


def _product(call: Call) -> Origin:
    return multiplied(call.tensors, _number(call))


def _quotient(call: Call) -> Origin:
    divisor = call.origin(1, "other")
    if divisor.kind == "data" and call.first.kind != "data":  # the size of a mask
        return scaled(call.first, f"1 / {divisor.what}", None)
    if divisor.moves:
        return strange(call)
    number = _number(call)
    return multiplied(call.tensors, 1 / number if number else None)


def _negative(call: Call) -> Origin:
    return scaled(call.first, "-1", -1)


def _multiplied_add(call: Call) -> Origin:
    """addcmul(x, a, b) and lerp are too rare to be told apart: sums."""
    return added(call.tensors, number=True)


_RULES = table(
    (_activation, f"{_PLAIN} {' '.join(_ARGUED)}"),
    (_softplus, "softplus"),
    (_clamp, "clamp clamp_min"),
    (_threshold, "threshold _threshold"),
    (_power, "pow square"),
    (_softmax, "softmax log_softmax softmin"),
    (
        lambda call: activated({"name": "prelu", "init": 0.25}, call.first, "prelu", assumed=True),
        "prelu _prelu_kernel",
    ),
    (lambda call: activated("glu", call.first, "glu"), "glu"),
    (
        _first,
        """dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout reshape view flatten
        unflatten permute transpose t swapaxes swapdims movedim moveaxis contiguous squeeze unsqueeze expand expand_as view_as
        reshape_as sum_to_size to float half bfloat16 double type type_as clone detach roll flip repeat repeat_interleave tile
        identity rearrange pixel_shuffle pixel_unshuffle channel_shuffle cpu cuda requires_grad __get__ pad pad_sequence
        _pack_padded_sequence _pad_packed_sequence nan_to_num atleast_1d atleast_2d atleast_3d ravel diagonal""",
    ),
    (
        _taken,
        """chunk split split_with_sizes tensor_split unbind getitem narrow index_select gather select take take_along_dim
        masked_select unfold as_strided hsplit vsplit dsplit""",
    ),
    (_filled, "masked_fill"),
    (_chosen, "where"),
    (_written, "setitem"),
    (_copied, "copy"),
    (_compared, "gt ge lt le eq ne __gt__ __ge__ __lt__ __le__ __eq__ __ne__ isnan isinf isfinite bool argmax argmin argsort"),
    (_still, "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty new_tensor"),
    (_still, "zero fill size dim numel stride ndimension item tolist"),
    (_attribute, "getattr"),
    (
        _pooled,
        """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
        adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d
        fractional_max_pool3d lp_pool1d lp_pool2d lp_pool3d max_unpool1d max_unpool2d max_unpool3d interpolate upsample mean
        amax max grid_sample local_response_norm fold cumsum sum""",
    ),
    (lambda call: joined(call.tensors), "cat"),
    (_sum, "add sub"),
    (_multiplied_add, "addcmul lerp"),
    (_product, "mul"),
    (_quotient, "div"),
    (_negative, "neg"),
)

VIEWS = {name for name, rule in _RULES.items() if rule in (_first, _taken)}
"""Functions whose result may be a view of their first argument."""


# --- modules ---------------------------------------------------------------------------------------------------------------

_GELU_TANH: Nonlinearity = {"name": "gelu", "approximate": "tanh"}
_BY_CLASS: dict[str, Nonlinearity] = {
    **dict.fromkeys(("NewGELUActivation", "NewGELU", "GELUTanh", "PytorchGELUTanh", "FastGELUActivation"), _GELU_TANH),
    **dict.fromkeys(("AccurateGELUActivation", "BloomGelu"), _GELU_TANH),
    "GELUActivation": "gelu",
    "QuickGELUActivation": "quick_gelu",
    "QuickGELU": "quick_gelu",
    "ReLUSquaredActivation": "squared_relu",
}
"""Classes that write their activation out in arithmetic."""


def of_module(kind: str, normalises: bool, source: Origin, made: Origin) -> Origin:
    """What a module makes of its input, where its class says more than the functions that it calls (`made`)."""
    if kind in _BY_CLASS and source.moves and made.kind != "activation":
        return activated(_BY_CLASS[kind], source, kind)
    if normalises and made.moves and made.kind not in ("activation", "softmax"):
        return normalised(f"a normalisation ({kind})")
    return made

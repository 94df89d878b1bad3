"""How the origin of a tensor passes through the functions of torch: the rules behind `nonlinearity: auto`.

An origin says what a tensor's values look like to the layer that they feed: the data, a linear map's output, an activation of
one, or what a normalisation made. What leaves a normalisation has second moment 1 and counts as linear; dropout, reshaping and
the like do not count at all. What is a matter of judgement (a residual sum, a pooling) is said in the reason and marked as
assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Nonlinearity = str | dict[str, Any]


@dataclass(frozen=True)
class Feed:
    """What feeds a weight."""

    nonlinearity: Nonlinearity | None
    """None where it cannot be known."""
    reason: str
    assumed: bool = False

    @property
    def said(self) -> str:
        return str(self.nonlinearity)


@dataclass(frozen=True)
class Origin:
    """Where a tensor came from."""

    kind: str
    """data | linear | activation | normalised | parameter | constant | unknown"""
    reason: str
    nonlinearity: Nonlinearity = "linear"
    of: int = 0
    """For an activation the identity of what it was applied to, so that x * sigmoid(x) is known for what it is."""
    name: str | None = None
    """Of a parameter."""
    assumed: bool = False

    @staticmethod
    def given() -> Origin:
        return Origin("data", "the model's input")

    @staticmethod
    def constant() -> Origin:
        return Origin("constant", "a constant")

    @staticmethod
    def parameter(name: str) -> Origin:
        return Origin("parameter", f"the parameter {name}", name=name)

    def feed(self) -> Feed:
        if self.kind == "unknown":
            return Feed(None, self.reason)
        return Feed(self.nonlinearity, self.reason, self.assumed)


_counter = iter(range(1, 1 << 62))


def _linear(reason: str, assumed: bool = False) -> Origin:
    return Origin("linear", reason, of=next(_counter), assumed=assumed)


_PLAIN = "relu relu6 selu silu mish tanh sigmoid softsign hardswish hardsigmoid logsigmoid tanhshrink erf sin cos".split()
# name of the torch function -> (name of the activation, {argument of ours: (position, keyword, default of torch)})
_ACTIVATIONS: dict[str, tuple[str, dict[str, tuple[int, str, Any]]]] = {
    **{name: (name, {}) for name in _PLAIN},
    "gelu": ("gelu", {"approximate": (1, "approximate", "none")}),
    "leaky_relu": ("leaky_relu", {"negative_slope": (1, "negative_slope", 0.01)}),
    "elu": ("elu", {"alpha": (1, "alpha", 1.0)}),
    "celu": ("celu", {"alpha": (1, "alpha", 1.0)}),
    "hardtanh": ("hardtanh", {"min_val": (1, "min_val", -1.0), "max_val": (2, "max_val", 1.0)}),
    "softshrink": ("softshrink", {"lambd": (1, "lambd", 0.5)}),
    "hardshrink": ("hardshrink", {"lambd": (1, "lambd", 0.5)}),
}
_MODULES: dict[str, Nonlinearity] = {
    "NewGELUActivation": {"name": "gelu", "approximate": "tanh"},
    "GELUTanh": {"name": "gelu", "approximate": "tanh"},
    "PytorchGELUTanh": {"name": "gelu", "approximate": "tanh"},
    "FastGELUActivation": {"name": "gelu", "approximate": "tanh"},
    "QuickGELUActivation": "quick_gelu",
    "QuickGELU": "quick_gelu",
    "ReLUSquaredActivation": "squared_relu",
}
_GATES = {"sigmoid": "glu", "silu": "swiglu", "gelu": "geglu", "relu": "reglu", "linear": "bilinear"}
_NORMS = {"layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm", "normalize"}
_UNCHANGED = set(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout reshape view flatten unflatten "
    "permute transpose t swapaxes movedim contiguous squeeze unsqueeze expand expand_as view_as reshape_as chunk split "
    "tensor_split unbind getitem __getitem__ narrow index_select gather select to float half bfloat16 double type type_as "
    "clone "
    "detach roll flip repeat repeat_interleave tile unfold masked_select identity rearrange pixel_shuffle pixel_unshuffle "
    "cpu cuda requires_grad_ __get__ as_strided pad masked_fill masked_fill_ where channel_shuffle sum_to_size".split()
)
_POOLS = set(
    "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d interpolate upsample mean amax max "
    "lp_pool1d lp_pool2d grid_sample logsumexp fold embedding_bag cumsum sum".split()
)
_WEIGHTED = {"linear", "bilinear", *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3))}
_PRODUCTS = {"matmul", "__matmul__", "mm", "bmm", "baddbmm", "addmm", "addbmm", "einsum", "tensordot", "__rmatmul__"}
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}

Fed = Callable[[str, Feed], None]


def of_module(kind: str, args: Sequence[Any]) -> Origin | None:
    """The origin of a module's output where its class says more than the functions it calls; else None."""
    if kind in _MODULES:
        source = next((a for a in args if isinstance(a, Origin)), Origin.constant())
        return _activated(_MODULES[kind], source, kind)
    if "Norm" in kind and not kind.startswith(("Norm", "WeightNorm", "SpectralNorm")):
        return Origin("normalised", f"a normalisation ({kind})", of=next(_counter))
    return None


def follow(function: str, args: Sequence[Any], kwargs: Mapping[str, Any], fed: Fed) -> Origin | None:
    """The origin of a call's result; tells `fed` about each parameter that meets its input here."""
    name = function.rstrip("_") if not function.startswith("__") else function
    tensors = [a for a in _flat([*args, *kwargs.values()]) if isinstance(a, Origin)]
    if not tensors:
        return None
    first = next((a for a in _flat(args) if isinstance(a, Origin)), tensors[0])
    if (
        name in _WEIGHTED
        or name == "bilinear"
        or name == "multi_head_attention_forward"
        or name in _RECURRENT
        or name in _PRODUCTS
    ):
        return _weighted(name, args, kwargs, tensors, fed)
    if name == "embedding":
        return _linear("an embedding")
    if name in _ACTIVATIONS:
        return _activation(name, args, kwargs, first)
    if name == "softplus":
        plain = _argument(args, kwargs, 1, "beta", 1.0) == 1
        return (
            _activated("softplus", first, name) if plain else _unknown(f"softplus with another beta than 1, on {first.reason}")
        )
    if name in ("prelu", "_prelu_kernel"):
        return replace(_activated({"name": "prelu", "init": 0.25}, first, name), assumed=True)
    if name == "glu":
        return _activated("glu", first, name)
    if name in ("square", "pow", "__pow__") and first.nonlinearity == "relu" and _argument(args, kwargs, 1, "exponent", 2) == 2:
        return _activated("squared_relu", first, name)
    if name in _NORMS:
        return Origin("normalised", f"a normalisation ({name})", of=next(_counter))
    if name == "scaled_dot_product_attention":
        return _linear("attention's mean of the values", assumed=True)
    if name in ("softmax", "log_softmax"):
        return Origin("unknown", f"a {name}", nonlinearity=name)
    if name in _UNCHANGED:
        return first
    if name in _POOLS:
        return replace(first, reason=f"{first.reason}, through {name}", assumed=True)
    if name in ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"):
        return _joined(tensors)
    if name in ("add", "__add__", "__radd__", "__iadd__", "sub", "__sub__", "__isub__", "__rsub__", "rsub"):
        return _sum(tensors)
    if name in ("mul", "__mul__", "__rmul__", "__imul__", "multiply", "div", "__truediv__", "__itruediv__", "true_divide"):
        return _product(tensors)
    moving = [t for t in tensors if t.kind not in ("constant", "parameter")]
    return _unknown(f"the function {name} on {moving[0].reason}") if moving else None


def _flat(values: Any) -> list[Any]:
    out = []
    for value in values:
        out += _flat(value) if isinstance(value, (list, tuple)) else [value]
    return out


def _argument(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, key: str, default: Any) -> Any:
    return kwargs.get(key, args[place] if len(args) > place else default)


def _unknown(reason: str) -> Origin:
    return Origin("unknown", reason)


def _activation(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], first: Origin) -> Origin:
    ours, parameters = _ACTIVATIONS[name]
    given = {key: _argument(args, kwargs, place, word, default) for key, (place, word, default) in parameters.items()}
    changed = {key: given[key] for key, (_, _, default) in parameters.items() if given[key] != default}
    return _activated({"name": ours, **changed} if changed else ours, first, name)


def _activated(nonlinearity: Nonlinearity, source: Origin, said: str) -> Origin:
    if source.kind in ("constant", "parameter"):
        return Origin.constant()
    if source.kind == "activation" and nonlinearity not in ("squared_relu",):
        return _unknown(f"{said} of {source.reason}")
    return Origin("activation", said, nonlinearity, of=source.of, assumed=source.kind == "unknown")


def _joined(tensors: list[Origin]) -> Origin:
    moving = [t for t in tensors if t.kind not in ("constant", "parameter")]
    kinds = {str(t.nonlinearity) if t.kind != "unknown" else "?" for t in moving}
    if not moving:
        return Origin.constant()
    if len(kinds) == 1:
        return moving[0]
    return _unknown("a concatenation of " + " and ".join(sorted({t.reason for t in moving})))


def _sum(tensors: list[Origin]) -> Origin:
    moving = [t for t in tensors if t.kind not in ("constant", "parameter")]
    if len(moving) <= 1:
        return moving[0] if moving else Origin.constant()
    if unknown := next((t for t in moving if t.kind == "unknown"), None):
        return unknown
    # A sum of branches is no activation of anything; its second moment is the sum of theirs, whatever a gain does.
    return _linear("a sum of " + " and ".join(dict.fromkeys(t.reason for t in moving)), assumed=True)


def _product(tensors: list[Origin]) -> Origin:
    moving = [t for t in tensors if t.kind not in ("constant", "parameter")]
    if len(moving) <= 1:
        return replace(moving[0], assumed=True) if moving and len(tensors) > 1 else (moving[0] if moving else Origin.constant())
    if len(moving) == 2:
        gate = next((t for t in moving if t.kind == "activation"), None)
        other = next((t for t in moving if t is not gate), None)
        if gate is not None and other is not None and other.kind in ("linear", "normalised", "data"):
            if gate.of == other.of and gate.of:
                return (
                    Origin("activation", "silu", "silu", of=gate.of)
                    if gate.nonlinearity == "sigmoid"
                    else _unknown(f"the product of a tensor and its own {gate.reason}")
                )
            name = gate.nonlinearity if isinstance(gate.nonlinearity, str) else gate.nonlinearity["name"]
            if name in _GATES:
                approximate = {"approximate": "tanh"} if isinstance(gate.nonlinearity, dict) and name == "gelu" else {}
                named: Nonlinearity = {"name": _GATES[name], **approximate} if approximate else _GATES[name]
                return Origin("activation", f"a gated unit ({gate.reason})", named, of=next(_counter))
        if all(t.kind == "linear" for t in moving):
            return Origin("activation", "a product of two linear maps", "bilinear", of=next(_counter), assumed=True)
    return _unknown("a product of " + " and ".join(dict.fromkeys(t.reason for t in moving)))


def _weighted(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], tensors: list[Origin], fed: Fed) -> Origin:
    parameters = [t for t in tensors if t.kind == "parameter" and t.name]
    moving = [t for t in tensors if t.kind != "parameter"]
    moving = [t for t in moving if t.kind != "constant"] or moving
    if name == "multi_head_attention_forward":
        source = moving[0] if moving else Origin.constant()
        for p in parameters:
            last = (p.name or "").rpartition(".")[2]
            out = "out_proj" in (p.name or "")
            fed(
                p.name or "",
                Feed("linear", "attention's mean of the values", True) if out and last == "weight" else source.feed(),
            )
        return _linear("an attention")
    if name in _RECURRENT:
        source = moving[0] if moving else Origin.constant()
        for p in parameters:
            recurrent = "weight_hh" in (p.name or "") or "weight_hr" in (p.name or "")
            kind = "relu" if "relu" in name else "tanh"
            fed(p.name or "", Feed(kind, f"the state of {name}", True) if recurrent else source.feed())
        return Origin(
            "activation", f"the state of {name}", "relu" if "relu" in name else "tanh", of=next(_counter), assumed=True
        )
    if parameters and moving:
        source = next((t for t in moving if t.kind != "constant"), moving[0])
        for p in parameters:
            fed(p.name or "", source.feed())
        return _linear("a linear map")
    if name in _PRODUCTS and any(t.nonlinearity == "softmax" for t in moving):
        return _linear("attention's mean of the values", assumed=True)
    return _linear("a product of matrices", assumed=True)

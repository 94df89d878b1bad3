"""The layers of a Keras model, by their names: a rule for each of their variables.

Source: keras 3.15.1, layers/; what `model.to_json()` of Keras 2 writes is read too. The layers of the PyTorch model are taken
to have the same names, and to be those of torch.nn that Keras' layers correspond to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from initconf.errors import listed
from initconf.porting.documents import At, Document, spelled
from initconf.porting.drafts import Draft
from initconf.porting.keras_laws import (
    CONVOLUTION,
    DENSE,
    EMBEDDING,
    VECTOR,
    Kernel,
    Lost,
    depthwise,
    gated,
    heads,
    initializer,
    name_of,
    seed_of,
)

HOW = "write the model out as JSON: open('FILE.json', 'w').write(model.to_json())"
SYSTEM = "the layers of a Keras model (keras 3.15.1)"


@dataclass(frozen=True)
class Slot:
    """A variable of a layer."""

    key: str
    """The argument that names its initializer, without `_initializer`."""
    parameter: str
    """Torch's parameter, a regex behind the layer's name."""
    kernel: Kernel
    default: str
    flag: str | None = None
    """The argument that takes the variable away where it is false."""


_BIAS = Slot("bias", r"\.bias", VECTOR, "zeros", "use_bias")
_DENSE = (Slot("kernel", r"\.weight", DENSE, "glorot_uniform"), _BIAS)
_CONVOLUTION = (Slot("kernel", r"\.weight", CONVOLUTION, "glorot_uniform"), _BIAS)
_NORM = (Slot("gamma", r"\.weight", VECTOR, "ones", "scale"), Slot("beta", r"\.bias", VECTOR, "zeros", "center"))
_SLOTS: dict[str, tuple[Slot, ...]] = {
    "Dense": _DENSE,
    **{f"Conv{n}D{ending}": _CONVOLUTION for n in (1, 2, 3) for ending in ("", "Transpose")},
    "Embedding": (Slot("embeddings", r"\.weight", EMBEDDING, "uniform"),),
    "BatchNormalization": _NORM,
    "LayerNormalization": _NORM,
    "GroupNormalization": _NORM,
    "PReLU": (Slot("alpha", r"\.weight", VECTOR, "zeros"),),
}
_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
_GUESSES = (
    ("unit_forget_bias", "LSTM"),
    ("reset_after", "GRU"),
    ("recurrent_initializer", "SimpleRNN"),
    ("embeddings_initializer", "Embedding"),
    ("pointwise_initializer", "SeparableConv"),
    ("depthwise_initializer", "DepthwiseConv2D"),
    ("moving_mean_initializer", "BatchNormalization"),
    ("gamma_initializer", "LayerNormalization"),
    ("alpha_initializer", "PReLU"),
    ("key_dim", "MultiHeadAttention"),
    ("equation", "EinsumDense"),
    ("kernel_size", "Conv2D"),
    ("kernel_initializer", "Dense"),
)
"""What a bare configuration is taken for, by the first of these keys that it has."""


def port(document: Document) -> Draft:
    """The scheme of a model, or of a single layer.

    Raises SpecError where there are no layers, and for what Keras would refuse.
    """
    work = _Port(Draft(document, SYSTEM, {"initializer": "keep", "unmatched": "keep"}))
    found = list(_layers(document, (), "", None))
    if not found:
        remedy = "to_json() of a subclassed model says nothing of its layers: give those of its parts"
        raise document.wrong((), "holds no layers of a Keras model", remedy)
    for layer in found:
        work.layer(layer)
    return work.done()


@dataclass(frozen=True)
class Layer:
    """A layer that has variables of its own."""

    kind: str
    at: At
    """The path of its configuration."""
    name: str
    """The name of its module in the model."""
    direction: str = r"(_l0(_reverse)?)?"
    """How torch's names of a recurrent layer's parameters end, a regex."""
    own: bool = False
    """Whether its class is none of Keras'."""


def _layers(document: Document, at: At, prefix: str, outer: Layer | None) -> Iterator[Layer]:
    """The layers of a model or a layer; `outer` is the wrapper around it, whose name it goes by."""
    node = document.value(at)
    if not isinstance(node, dict):
        return
    config = node.get("config")
    if "class_name" not in node or not isinstance(config, (dict, list)):
        if (kind := next((kind for key, kind in _GUESSES if key in node), None)) is not None:
            yield Layer(kind, at, _joined(prefix, str(node.get("name", kind.lower()))))
        return
    kind, inside = str(node["class_name"]), (*at, "config")
    own = config if isinstance(config, dict) else {}
    name = _joined(prefix, str(own.get("name", node.get("name", kind.lower()))))
    here = Layer(kind, inside, name) if outer is None else replace(outer, kind=kind, at=inside)
    parts = inside if isinstance(config, list) else (*inside, "layers")
    if isinstance(listed_layers := document.value(parts), list):
        for i in range(len(listed_layers)):
            yield from _layers(document, (*parts, i), here.name if at else "", None)
    elif isinstance(own.get("backward_layer"), dict):
        yield from _layers(document, (*inside, "layer"), "", replace(here, direction="_l0"))
        yield from _layers(document, (*inside, "backward_layer"), "", replace(here, direction="_l0_reverse"))
    elif (wrapped := next((key for key in ("layer", "cell") if isinstance(own.get(key), dict)), None)) is not None:
        yield from _layers(document, (*inside, wrapped), "", here)
    else:
        # Keras 3 says where a class is from, Keras 2 does not.
        yield replace(here, own=not str(node.get("module", "keras")).startswith("keras"))


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _initializers(config: Any) -> Iterator[str]:
    """The arguments that name initializers, wherever in a configuration."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key.endswith("_initializer") and value is not None:
                yield key
            else:
                yield from _initializers(value)
    elif isinstance(config, list):
        for value in config:
            yield from _initializers(value)


@dataclass
class _Port:
    draft: Draft
    seeds: list[str] = field(default_factory=list)
    masked: bool = False
    """Whether an embedding has a row that is skipped."""
    identities: bool = False
    """Whether an identity's gain is taken for 1."""

    def done(self) -> Draft:
        """The draft, with what is to be said of all layers."""
        if self.seeds:
            what = f"the seed{'s' * (len(self.seeds) > 1)} of {listed(self.seeds)}"
            self.draft.lose((), f"{what}: here a parameter's values come from the spec's seed and its name")
        self.draft.remarks.append(
            "the modules of the PyTorch model are taken to have the layers' names; all others keep their values"
        )
        if self.identities:
            self.draft.remarks.append(
                "the gain of an Identity is 1 here; Keras writes none into its JSON, and reads 1 back itself"
            )
        if self.masked:
            self.draft.remarks.append(
                "a row that is the padding_idx of an Embedding stays zero here; Keras draws it, mask_zero or not"
            )
        return self.draft

    def layer(self, layer: Layer) -> None:
        """The rules of one layer."""
        kind, at, name = layer.kind, layer.at, layer.name
        config = self.draft.document.value(at)
        bare = kind.removeprefix("CuDNN").removesuffix("Cell")
        self.masked = self.masked or bool(config.get("mask_zero"))
        if layer.own:
            self.draft.lose(at, f"{kind} {name!r} is no class of Keras: what variables it has is not in the file; write a rule")
        elif bare in _GATES:
            self._recurrent(bare, layer, config)
        elif kind == "MultiHeadAttention":
            self._attention(at, name, config)
        elif kind in ("DepthwiseConv1D", "DepthwiseConv2D"):
            multiplier = config.get("depth_multiplier", 1)
            kernel = depthwise(multiplier if isinstance(multiplier, int) and multiplier > 0 else 1)
            self._slots(at, name, config, (Slot("depthwise", r"\.weight", kernel, "glorot_uniform"), _BIAS))
        elif kind in _SLOTS:
            self._slots(at, name, config, _SLOTS[kind])
            self._buffers(at, config)
        elif keys := list(dict.fromkeys(_initializers(config))):
            self.draft.lose(at, f"{kind} {name!r} ({', '.join(keys)}): no module of torch.nn is known for it; write a rule")

    def _slots(self, at: At, name: str, config: Mapping[str, Any], slots: tuple[Slot, ...]) -> None:
        for slot in slots:
            if slot.flag is None or config.get(slot.flag, True):
                self._rule(at, name, config, slot)

    def _rule(self, at: At, name: str, config: Mapping[str, Any], slot: Slot, suffix: str = "") -> None:
        """The rule of one variable; where the initializer cannot be carried over, the parameter keeps its values."""
        key = f"{slot.key}_initializer"
        said = config.get(key, slot.default)
        if said is None:
            said = "glorot_uniform"  # what Keras gives a variable that has no initializer, be it a bias
        where, called = (*at, key), f"{name}_{slot.key}{suffix}"
        selectors = {"match": re.escape(name) + slot.parameter}
        if seed_of(said) is not None and not suffix:
            self.seeds.append(f"{name}.{key}")
        try:
            made = initializer(self.draft.document, where, said, slot.kernel)
            silent = isinstance(said, dict) and "gain" not in (said.get("config") or {})
            self.identities = self.identities or (silent and name_of(said) == "identity")
            self.draft.add(called, where, {**selectors, "initializer": made})
        except Lost as reason:
            self.draft.keep(called, where, selectors, str(reason))

    def _buffers(self, at: At, config: Mapping[str, Any]) -> None:
        for key, usual in (("moving_mean_initializer", "zeros"), ("moving_variance_initializer", "ones")):
            said = config.get(key, usual)
            if (said.get("class_name") if isinstance(said, dict) else said) not in (usual, usual.title()):
                self.draft.lose((*at, key), "running statistics are buffers, and initconf writes parameters")

    def _recurrent(self, kind: str, layer: Layer, config: Mapping[str, Any]) -> None:
        """torch has a second bias, which it adds to the first; only Keras' GRU with `reset_after` has two as well."""
        at, end = layer.at, layer.direction
        name = f"{layer.name}_reverse" if end == "_l0_reverse" else layer.name
        kernel, module = gated(_GATES[kind]), re.escape(layer.name)

        def rule(slot: Slot) -> None:
            self._rule(at, layer.name, config, slot, "_reverse" if name != layer.name else "")

        rule(Slot("kernel", rf"\.weight_ih{end}", kernel, "glorot_uniform"))
        rule(Slot("recurrent", rf"\.weight_hh{end}", kernel, "orthogonal"))
        if not config.get("use_bias", True):
            return
        where, both = (*at, "bias_initializer"), {"match": rf"{module}\.bias_[ih]h{end}"}
        forget = kind == "LSTM" and config.get("unit_forget_bias", True)
        try:
            made = initializer(self.draft.document, where, config.get("bias_initializer", "zeros"), VECTOR)
            if "numel" in str(made):
                raise Lost("the length of Keras' bias is that of several gates, or of some of them")
        except Lost as reason:
            self.draft.keep(f"{name}_bias", where, both, str(reason))
            return
        if made == "zeros":
            self.draft.add(f"{name}_bias", where, {**both, "initializer": "forget_bias" if forget else "zeros"})
            return
        second = kind == "GRU" and config.get("reset_after", True)
        rule(Slot("bias", rf"\.bias_{'[ih]' if second else 'i'}h{end}", VECTOR, "zeros"))
        if not second:
            self.draft.add(f"{name}_second_bias", where, {"match": rf"{module}\.bias_hh{end}", "initializer": "zeros"})
        if forget:
            selectors = {"match": rf"{module}\.bias_ih{end}", "block": "f"}
            self.draft.add(f"{name}_forget_bias", (*at, "unit_forget_bias"), {**selectors, "initializer": "ones"})

    def _attention(self, at: At, name: str, config: Mapping[str, Any]) -> None:
        number, size = config.get("num_heads"), config.get("key_dim")
        if not isinstance(number, int) or not isinstance(size, int) or config.get("value_dim", size) not in (size, None):
            self.draft.lose(at, f"MultiHeadAttention {name!r}: torch's has heads of one size for keys and values")
            return
        said = config.get("kernel_initializer")
        # Keras writes this key since its EinsumDense says which axes are the inputs; before, it took one for a receptive field.
        inner = said.get("config") if isinstance(said, dict) else None
        whole = isinstance(inner, dict) and "input_axes" in inner
        if not whole:
            self.draft.remarks.append(
                f"{spelled(at)}: no `input_axes`, so its fans are those of Keras before it, heads * model and size * model"
            )
        for output, parameter in ((False, r"\.(in|q|k|v)_proj_weight"), (True, r"\.out_proj\.weight")):
            kernel = heads(number, size, output=output, whole=whole)
            self._rule(at, name, config, Slot("kernel", parameter, kernel, "glorot_uniform"), "_output" if output else "")
        if config.get("use_bias", True):
            self._rule(at, name, config, Slot("bias", r"\.(in_proj_bias|out_proj\.bias)", VECTOR, "zeros"))

"""Where weights meet their inputs, and what comes of it: linear maps, attention, recurrent layers, norms, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from initconf.origins import Feed, Origin, fresh, joined, linear, listed, normalised, unknown

Fed = Callable[[str, Feed], None]


@dataclass
class Call:
    """A call with its tensors replaced by their origins."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    fed: Fed
    """To be told of each parameter that meets its input here."""

    @cached_property
    def tensors(self) -> list[Origin]:
        return origins_in([*self.args, *self.kwargs.values()])

    @property
    def first(self) -> Origin:
        given = origins_in(self.args[:1]) or origins_in([self.kwargs.get("input")]) or self.tensors
        return given[0]

    @property
    def moving(self) -> list[Origin]:
        return [t for t in self.tensors if t.moves]

    def argument(self, place: int, key: str, default: Any = None) -> Any:
        return self.kwargs.get(key, self.args[place] if len(self.args) > place else default)

    def origin(self, place: int, key: str) -> Origin:
        """Of an argument; that it is a constant where it is none."""
        said = self.argument(place, key)
        return said if isinstance(said, Origin) else Origin.constant()

    def feed(self, parameter: Any, source: Origin) -> None:
        if isinstance(parameter, Origin) and parameter.name is not None:
            self.fed(parameter.name, source.feed())


Rule = Callable[[Call], Origin]


def origins_in(values: Any) -> list[Origin]:
    found = []
    for value in values:
        if isinstance(value, (list, tuple)):
            found += origins_in(value)
        elif isinstance(value, Origin):
            found.append(value)
    return found


def disguised(call: Call) -> Origin:
    """What is made of weights alone: of one, it is still that weight."""
    names = {t.name for t in call.tensors if t.name is not None}
    return Origin.parameter(names.pop()) if len(names) == 1 else Origin.constant()


def strange(call: Call) -> Origin:
    """What a function without a rule makes: nobody knows, unless of the data, which are not ours to judge."""
    if all(t.kind == "data" for t in call.moving):
        return call.moving[0].through(call.name)
    lost = next((t for t in call.moving if t.kind == "unknown"), None)
    return lost or unknown(f"the function {call.name} on {call.moving[0].what}")


# --- where weights meet their inputs ---------------------------------------------------------------------------------------


def _weighted(call: Call) -> Origin:
    """linear, conv*: (input, weight, bias, ...)"""
    call.feed(call.argument(1, "weight"), call.origin(0, "input"))
    return linear("a linear map")


def _bilinear(call: Call) -> Origin:
    call.feed(call.argument(2, "weight"), joined([call.origin(0, "input1"), call.origin(1, "input2")]))
    return linear("a linear map")


def _matrices(call: Call) -> Origin:
    """A product of matrices, of which one may be a weight, or the shares of an attention."""
    weights = [t for t in call.tensors if t.name is not None]
    others = [t for t in call.tensors if t.name is None]
    if weights and others:
        for weight in weights:
            call.feed(weight, joined(others))
        return linear("a linear map")
    if not call.moving:
        return disguised(call)
    if lost := next((t for t in call.moving if t.kind == "unknown"), None):
        return lost
    values = [t for t in call.moving if t.kind != "softmax"]
    if len(values) < len(call.moving):
        return attended(joined(values)) if values else strange(call)
    bent = [t for t in values if not t.signal]
    if len(values) == 1 or len(bent) == 1:  # an average over neighbours, or the like
        return (bent or values)[0].through(call.name)
    return unknown(f"a product of {listed(bent)}") if bent else linear("a product of matrices", assumed=True)


def attended(values: Origin) -> Origin:
    """Attention's mean of the values."""
    if not values.moves:
        return Origin.constant()
    return linear("attention's mean of the values", assumed=True) if values.signal else values.through("attention")


def _shared(call: Call) -> Origin:
    """scaled_dot_product_attention(query, key, value)"""
    return attended(call.origin(2, "value"))


def _attention(call: Call) -> Origin:
    """multi_head_attention_forward(query, key, value, ...)"""
    sources = [call.origin(place, name) for place, name in enumerate(("query", "key", "value"))]
    fused, apart = joined(sources), list(zip("qkv", sources, strict=True))
    if len({source.what for source in sources}) > 1 and not any(source.kind == "unknown" for source in sources):
        fused = replace(fused, why=", ".join(f"{name} is fed by {source.what}" for name, source in apart))
    call.feed(call.argument(5, "in_proj_weight"), fused)
    for name, source in apart:
        call.feed(call.kwargs.get(f"{name}_proj_weight"), source)
    call.feed(call.argument(11, "out_proj_weight"), linear("attention's mean of the values", assumed=True))
    return linear("an attention")


def _recurrent(call: Call) -> Origin:
    """lstm(input, hx, weights, has_biases, num_layers, dropout, train, bidirectional, ...), of a packed sequence with the
    batch sizes before hx: for each layer and direction w_ih, w_hh, two biases and the projection."""
    state = Origin(
        "activation", f"the state of {call.name}", "relu" if "relu" in call.name else "tanh", of=fresh(), assumed=True
    )
    if call.name.endswith("_cell"):
        call.feed(call.argument(2, "w_ih"), call.first)
        call.feed(call.argument(3, "w_hh"), state)
        return state
    place = max(n for n, a in enumerate(call.args) if isinstance(a, (list, tuple)))
    flat, biases, layers, directions = call.args[place], *call.args[place + 1 : place + 3], 1 + bool(call.args[place + 5])
    size = len(flat) // (layers * directions)
    projected = size == (5 if biases else 3)
    handed = linear(f"the projected state of {call.name}", assumed=True) if projected else state
    for n in range(0, len(flat), size):
        call.feed(flat[n], call.first if n < size * directions else handed)
        call.feed(flat[n + 1], handed)
        if projected:
            call.feed(flat[n + size - 1], state)
    return handed


def _normalised(call: Call) -> Origin:
    others = [t for t in call.tensors[1:] if t.name is not None]
    if not call.first.moves and not others:  # a weight that is standardised
        return call.first
    return normalised(f"a normalisation ({call.name})")


def _unit(call: Call) -> Origin:
    if not call.first.moves:
        return call.first
    return replace(linear("vectors of length 1", assumed=True), kind="normalised")


def _embedded(call: Call) -> Origin:
    return linear("an embedding" if call.name == "embedding" else "a bag of embeddings", assumed=call.name != "embedding")


_CONVOLUTIONS = " ".join(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3))


def table(*rows: tuple[Rule, str]) -> dict[str, Rule]:
    return {name: rule for rule, names in rows for name in names.split()}


MEETS = table(
    (_weighted, f"linear {_CONVOLUTIONS} grouped_mm _grouped_mm grouped_mm_fallback"),
    (_bilinear, "bilinear"),
    (_matrices, "matmul mm bmm mv dot addmm addmv baddbmm addbmm einsum tensordot chain_matmul linalg_multi_dot _sparse_mm"),
    (_shared, "scaled_dot_product_attention"),
    (_attention, "multi_head_attention_forward"),
    (_recurrent, "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"),
    (_embedded, "embedding embedding_bag"),
    (_normalised, "layer_norm batch_norm group_norm instance_norm rms_norm"),
    (_unit, "normalize"),
)
"""What may meet a weight, or make a signal of parameters alone."""

"""flax.linen: the scheme `flax` against its layers, and gains against jax.nn's activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from comparing import exact, fails, planned, same, values
from torch import nn

from initconf import activations

jax = pytest.importorskip("jax", reason="jax is not installed: pip install 'initconf[parity]'")
flax = pytest.importorskip("flax", reason="flax is not installed: pip install 'initconf[parity]'")
import jax.numpy as jnp  # noqa: E402  after it is known to be there
from flax import linen  # noqa: E402

PEER = f"flax {flax.__version__}"


class Twins(nn.Module):
    """The layers in torch."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(500, 600)
        self.conv = nn.Conv2d(64, 128, 3, stride=2)
        self.grouped = nn.Conv2d(64, 128, 3, groups=4)
        self.up = nn.ConvTranspose2d(64, 32, 4, stride=2)
        self.embedding = nn.Embedding(4000, 100)
        self.rnn = nn.RNN(300, 200)
        self.lstm = nn.LSTM(300, 200)
        self.gru = nn.GRU(300, 200)
        self.attention = nn.MultiheadAttention(512, 8)
        self.batch_norm = nn.BatchNorm2d(64)
        self.layer_norm = nn.LayerNorm(64)
        self.group_norm = nn.GroupNorm(4, 64)
        self.rms_norm = nn.RMSNorm(64)
        self.prelu = nn.PReLU()


def leaves(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    if not isinstance(tree, dict):
        return {prefix: values(tree)}
    return {name: leaf for key, sub in tree.items() for name, leaf in leaves(sub, f"{prefix}/{key}" if prefix else key).items()}


def built(layer: Any, *inputs: Any) -> dict[str, np.ndarray]:
    return leaves(layer.init(jax.random.key(5), *inputs)["params"])


def recurrent(cell: Any) -> dict[str, np.ndarray]:
    carry = cell.initialize_carry(jax.random.key(0), (2, 300))
    return built(cell, carry, jnp.zeros((2, 300), jnp.float32))


@pytest.fixture(scope="module")
def flax_layers() -> dict[str, np.ndarray]:
    """Flax's parameters, by the name of the torch parameter (or block of it) that they are."""
    image = jnp.zeros((1, 9, 9, 64), jnp.float32)
    found: dict[str, np.ndarray] = {}
    for name, weights in {
        "dense": built(linen.Dense(600), jnp.zeros((1, 500), jnp.float32)),
        "conv": built(linen.Conv(128, (3, 3), strides=2), image),
        "grouped": built(linen.Conv(128, (3, 3), feature_group_count=4), image),
        "up": built(linen.ConvTranspose(32, (4, 4), strides=(2, 2)), image),
    }.items():
        found[f"{name}.weight"], found[f"{name}.bias"] = weights["kernel"], weights["bias"]
    found["embedding.weight"] = built(linen.Embed(4000, 100), jnp.zeros((1,), jnp.int32))["embedding"]
    lstm, gru, rnn = (recurrent(cell(200)) for cell in (linen.LSTMCell, linen.GRUCell, linen.SimpleCell))
    for gate in "ifgo":
        found[f"lstm.weight_ih_l0[{gate}]"] = lstm[f"i{gate}/kernel"]
        found[f"lstm.weight_hh_l0[{gate}]"] = lstm[f"h{gate}/kernel"]
        found[f"lstm.bias_hh_l0[{gate}]"] = lstm[f"h{gate}/bias"]
    for gate in "rzn":
        found[f"gru.weight_ih_l0[{gate}]"] = gru[f"i{gate}/kernel"]
        found[f"gru.weight_hh_l0[{gate}]"] = gru[f"h{gate}/kernel"]
        found[f"gru.bias_ih_l0[{gate}]"] = gru[f"i{gate}/bias"]
    found["rnn.weight_ih_l0"], found["rnn.weight_hh_l0"] = rnn["i/kernel"], rnn["h/kernel"]
    attention = built(linen.MultiHeadDotProductAttention(8), jnp.zeros((1, 3, 512), jnp.float32))
    for part, name in {"query": "q", "key": "k", "value": "v"}.items():
        found[f"attention.in_proj_weight[{name}]"] = attention[f"{part}/kernel"]
        found[f"attention.in_proj_bias[{name}]"] = attention[f"{part}/bias"]
    found["attention.out_proj.weight"], found["attention.out_proj.bias"] = attention["out/kernel"], attention["out/bias"]
    for name, layer in {
        "batch_norm": linen.BatchNorm(use_running_average=True),
        "layer_norm": linen.LayerNorm(),
        "group_norm": linen.GroupNorm(4),
    }.items():
        weights = built(layer, image)
        found[f"{name}.weight"], found[f"{name}.bias"] = weights["scale"], weights["bias"]
    found["rms_norm.weight"] = built(linen.RMSNorm(), image)["scale"]
    found["prelu.weight"] = built(linen.PReLU(), image)["negative_slope"]
    return found


def test_layers(flax_layers: dict[str, np.ndarray]) -> None:
    plan = planned(Twins(), "flax")
    for name, theirs in flax_layers.items():
        same(PEER, f"scheme flax: {name}", theirs, plan[name].law)


def test_recurrent_kernels_are_orthogonal_gate_by_gate(flax_layers: dict[str, np.ndarray]) -> None:
    model = Twins()
    planned(model, "flax")
    for layer, gates in {"lstm": "ifgo", "gru": "rzn", "rnn": ""}.items():
        own = values(getattr(model, layer).weight_hh_l0).reshape(-1, 200, 200)
        theirs = [flax_layers[f"{layer}.weight_hh_l0[{gate}]" if gate else "rnn.weight_hh_l0"] for gate in gates or [""]]
        for matrix in (*own, *theirs):
            assert np.abs(matrix @ matrix.T - np.eye(200)).max() < 1e-5


def test_exact_fans_of_layers(flax_layers: dict[str, np.ndarray]) -> None:
    plan = planned(Twins(), "flax")
    for name in "dense conv grouped up".split():
        *field, inside, _ = flax_layers[f"{name}.weight"].shape
        exact(PEER, f"scheme flax: std of {name}", math.sqrt(1 / (math.prod(field) * inside)), plan[f"{name}.weight"].std)
    exact(PEER, "scheme flax: std of embedding", 0.1, plan["embedding.weight"].std)


def test_a_wrong_scheme_is_found(flax_layers: dict[str, np.ndarray]) -> None:
    model = Twins()
    for scheme, expected in {
        "keras": {"dense.weight", "conv.weight", "embedding.weight", "prelu.weight"},
        "haiku": {"dense.weight", "conv.weight", "up.weight", "embedding.weight", "rnn.weight_hh_l0"},
        "lecun": {"up.weight", "embedding.weight"},
        "he": {"dense.weight", "lstm.weight_ih_l0[i]", "attention.in_proj_weight[q]"},
    }.items():
        plan = planned(model, scheme)
        wrong = {
            name
            for name, theirs in flax_layers.items()
            if name in plan and plan[name].std is not None and fails(same, PEER, "", theirs, plan[name].law)
        }
        assert expected <= wrong, (scheme, expected - wrong)
        assert not {"dense.bias", "layer_norm.weight"} & wrong


# --- gains -----------------------------------------------------------------------------------------------------------

GAINS: dict[str, tuple[str | dict[str, Any], Callable[[Any], Any]]] = {
    "identity": ("linear", jax.nn.identity),
    "relu": ("relu", jax.nn.relu),
    "leaky_relu": ("leaky_relu", jax.nn.leaky_relu),
    "relu6": ("relu6", jax.nn.relu6),
    "elu": ("elu", jax.nn.elu),
    "celu 1.5": ({"name": "celu", "alpha": 1.5}, lambda x: jax.nn.celu(x, 1.5)),
    "selu": ("selu", jax.nn.selu),
    "gelu": ("gelu", lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu, its default": ({"name": "gelu", "approximate": "tanh"}, jax.nn.gelu),
    "silu": ("silu", jax.nn.silu),
    "swish": ("swish", jax.nn.swish),
    "mish": ("mish", jax.nn.mish),
    "tanh": ("tanh", jax.nn.tanh),
    "sigmoid": ("sigmoid", jax.nn.sigmoid),
    "log_sigmoid": ("logsigmoid", jax.nn.log_sigmoid),
    "softplus": ("softplus", jax.nn.softplus),
    "soft_sign": ("softsign", jax.nn.soft_sign),
    "hard_tanh": ("hardtanh", jax.nn.hard_tanh),
    "hard_sigmoid": ("hardsigmoid", jax.nn.hard_sigmoid),
    "hard_silu": ("hardswish", jax.nn.hard_silu),
    "hard_swish": ("hardswish", jax.nn.hard_swish),
}


def second_moments(function: Callable[[Any], Any]) -> tuple[float, float]:
    """E[f(z)^2] and E[f'(z)^2] by a Gauss-Legendre rule in each of the intervals between half integers, in float64."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    edges = np.arange(-12, 12.25, 0.5)
    z = (edges[:-1, None] + 0.25 * (nodes + 1)).ravel()
    density = np.tile(0.25 * weights, len(edges) - 1) * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    slope = jax.vmap(jax.grad(function))
    f, df = (np.asarray(g(jnp.asarray(z, jnp.float64)), np.float64) for g in (function, slope))
    return float((density * f * f).sum()), float((density * df * df).sum())


@pytest.mark.parametrize("name", GAINS)
def test_gains(name: str) -> None:
    said, function = GAINS[name]
    forward, backward = second_moments(function)
    # JAX writes some of its constants (of hard_sigmoid, 1/6) in double precision, so nothing but the rule is left to differ.
    exact(f"jax {jax.__version__}", f"gain of {name}", 1 / math.sqrt(forward), activations.gain(said), rel=1e-10)
    exact(
        f"jax {jax.__version__}",
        f"backward gain of {name}",
        1 / math.sqrt(backward),
        activations.gain(said, "backward"),
        rel=1e-10,
    )


def test_the_gain_of_a_gated_unit() -> None:
    # glu halves its input: u sigmoid(v), and the two are independent
    forward, _ = second_moments(lambda v: jax.nn.glu(jnp.stack([jnp.ones_like(v), v], -1), -1)[..., 0])
    exact(f"jax {jax.__version__}", "gain of glu", 1 / math.sqrt(forward), activations.gain("glu"), rel=1e-10)


def test_the_rule_is_good_enough_to_tell_activations_apart() -> None:
    tanh_gelu, _ = second_moments(jax.nn.gelu)
    assert fails(exact, "", "", 1 / math.sqrt(tanh_gelu), activations.gain("gelu"), rel=1e-10)
    assert not fails(exact, "", "", 1 / math.sqrt(tanh_gelu), activations.gain("gelu"), rel=1e-4)

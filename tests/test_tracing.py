"""`nonlinearity: auto`: what feeds each weight, found by running or tracing the model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import initconf
from initconf.tracing import trace
from tests.small_models import gpt, untouched


def feeds(model, example=None):
    return {name: (feed.nonlinearity, feed.assumed) for name, feed in trace(model, example).items() if "bias" not in name}


class Gated(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.norm, self.up, self.gate, self.out = nn.RMSNorm(4), nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 4)
        self.activation = activation

    def forward(self, x):
        h = self.norm(x)
        return x + self.out(self.activation(self.gate(h)) * self.up(h))


class Function(nn.Module):
    """Two linear maps with a function between them."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 4), nn.Linear(4, 4), function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


ACTIVATIONS = [
    (F.relu, "relu"),
    (torch.relu, "relu"),
    (lambda x: x.relu(), "relu"),
    (F.relu6, "relu6"),
    (F.gelu, "gelu"),
    (lambda x: F.gelu(x, approximate="tanh"), {"name": "gelu", "approximate": "tanh"}),
    (F.silu, "silu"),
    (lambda x: x * torch.sigmoid(x), "silu"),
    (F.mish, "mish"),
    (torch.tanh, "tanh"),
    (torch.sigmoid, "sigmoid"),
    (F.elu, "elu"),
    (lambda x: F.elu(x, 0.5), {"name": "elu", "alpha": 0.5}),
    (F.selu, "selu"),
    (F.softplus, "softplus"),
    (lambda x: F.leaky_relu(x, 0.2), {"name": "leaky_relu", "negative_slope": 0.2}),
    (F.leaky_relu, "leaky_relu"),
    (lambda x: F.relu(x).square(), "squared_relu"),
    (lambda x: F.relu(x) ** 2, "squared_relu"),
    (torch.sin, "sin"),
    (lambda x: x, "linear"),
    (lambda x: F.dropout(F.relu(x), 0.5), "relu"),
    (lambda x: F.relu(x).reshape(-1, 4).contiguous(), "relu"),
    (lambda x: F.layer_norm(F.relu(x), (4,)), "linear"),
    (lambda x: x.clamp(min=0), "relu"),
    (lambda x: torch.clip(x, -0.5, 2.0), {"name": "hardtanh", "min_val": -0.5, "max_val": 2.0}),
    (lambda x: F.threshold(x, 0.0, 0.0), "relu"),
    (lambda x: F.relu(F.relu(x)), "relu"),
    (lambda x: -F.gelu(-x), "gelu"),
    (lambda x: x * torch.sigmoid(1.702 * x), "quick_gelu"),
    (lambda x: x * F.hardsigmoid(x), "hardswish"),
    (lambda x: torch.cat([F.relu(x)[:, :2], F.relu(-x)[:, 2:]], -1), "relu"),
    (lambda x: torch.where(torch.ones(4) > 0, F.relu(x), F.relu(-x)), "relu"),
]


@pytest.mark.parametrize(("function", "expected"), ACTIVATIONS, ids=range(len(ACTIVATIONS)))
@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["symbolic", "example"])
def test_the_activation_between_two_layers(function, expected, example):
    assert feeds(Function(function), example) == {"a.weight": ("linear", False), "b.weight": (expected, False)}


class Fused(nn.Module):
    """Two linear maps, and between them the halves of the first, one of which is a gate."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 8), nn.Linear(4, 4), function

    def forward(self, x):
        return self.b(self.function(self.a(x)))


class Applied(nn.Module):
    """A function as a module, with a class of any name."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def halves(function):
    def apply(x):
        a, b = x.chunk(2, -1)
        return function(a, b)

    return apply


def named(kind, function):
    return type(kind, (Applied,), {})(function)


def rms(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True))


JUDGED = [
    # what is scaled, shifted, pooled or summed is assumed to be as it was, and said
    (lambda x: F.relu(x) * 2, "relu", "relu, times 2"),
    (lambda x: F.relu(x) / 4, "relu", "relu, times 0.25"),
    (lambda x: F.relu(x) + 1, "relu", "relu, plus a number"),
    (lambda x: torch.tanh(3 * x), "tanh", "tanh of a linear map, times 3"),
    (lambda x: F.relu(x).cumsum(-1), "relu", "relu, through cumsum"),
    (lambda x: F.avg_pool1d(F.relu(x), 3, 1, 1), "relu", "relu, through avg_pool1d"),
    (lambda x: F.local_response_norm(F.relu(x).unsqueeze(1), 2).squeeze(1), "relu", "relu, through local_response_norm"),
    (lambda x: F.relu(x + F.gelu(x)), "relu", "relu of a sum of a linear map and gelu"),
    (lambda x: F.relu(x) + x, "linear", "a sum of relu and a linear map"),
    (lambda x: torch.softmax(x, -1) * F.relu(x), "relu", "relu, through a product with a softmax"),
    (lambda x: F.normalize(F.relu(x)), "linear", "vectors of length 1"),
    (lambda x: torch.cat([F.relu(x)[:, :3], torch.zeros_like(x)[:, :1]], -1), "relu", "relu, beside a constant"),
    (lambda x: x.t().softmax(-1) @ x @ torch.eye(4), "linear", "attention's mean of the values, through matmul"),
    (lambda x: torch.eye(3) @ F.relu(x), "relu", "relu, through matmul"),
    (F.prelu, {"name": "prelu", "init": 0.25}, "prelu"),
    # what has no name is not guessed
    (lambda x: x.cumprod(0), None, "the function cumprod on a linear map"),
    (lambda x: F.relu(x.cumprod(0)).exp(), None, "the function exp on relu"),
    (lambda x: F.softplus(x, 2.0), None, "softplus with a beta on a linear map"),
    (lambda x: torch.tanh(F.relu(x)), None, "tanh of relu"),
    (lambda x: x * torch.tanh(x), None, "a product of a tensor and its own tanh"),
    (lambda x: x * torch.sigmoid(2 * x), None, "a product of a tensor and its own sigmoid"),
    (lambda x: x * x, None, "the square of a linear map"),
    (lambda x: x * (x > 0), None, "the function gt on a linear map"),
    (lambda x: x.masked_fill(x < 0, 0.0), None, "the function lt on a linear map"),
    (lambda x: torch.where(x > 0, x, 0.1 * x), None, "the function gt on a linear map"),
    (lambda x: torch.maximum(x, 0.1 * x), None, "the function maximum on a linear map"),
    (lambda x: torch.cat([x[:, :2], F.relu(x)[:, 2:]], -1), None, "a concatenation of a linear map and relu"),
    (lambda x: x.softmax(-1), None, "a softmax"),
    (lambda x: 1 / x, None, None),
    (lambda x: x / x.norm(), None, None),
    (lambda x: F.relu(x).logsumexp(-1, keepdim=True).expand(-1, 4), None, "the function logsumexp on relu"),
]


@pytest.mark.parametrize(("function", "expected", "reason"), JUDGED, ids=range(len(JUDGED)))
@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["symbolic", "example"])
def test_what_is_a_matter_of_judgement_is_said(function, expected, reason, example):
    if function is F.prelu:
        model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 4))
        feed = trace(model, example)["2.weight"]
    else:
        feed = trace(Function(function), example)["b.weight"]
    assert (feed.nonlinearity, feed.assumed) == (expected, expected is not None)
    assert reason in (None, feed.reason)


GATED = [
    (halves(lambda a, b: F.silu(a) * b), "swiglu"),
    (halves(lambda a, b: a * F.gelu(b, approximate="tanh")), {"name": "geglu", "approximate": "tanh"}),
    (lambda x: x[..., :4] * torch.sigmoid(x[..., 4:]), "glu"),
    (lambda x: x[..., :4] * torch.sigmoid(x)[..., 4:], "glu"),
    (lambda x: x[..., :4] * torch.sigmoid(x[..., :4]), "silu"),
    (lambda x: x[..., :4] * torch.sigmoid(x)[..., :4], "silu"),
    (lambda x: F.glu(x, -1), "glu"),
    (halves(lambda a, b: torch.tanh(a) * torch.sigmoid(b)), None),
    (halves(lambda a, b: F.relu(a) * F.silu(b)), None),
]


@pytest.mark.parametrize(("function", "unit"), GATED, ids=range(len(GATED)))
@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["symbolic", "example"])
def test_the_halves_of_one_map(function, unit, example):
    assert feeds(Fused(function), example)["b.weight"] == (unit, False)


IN_PLACE = [
    (lambda x: (x.relu_(), x)[1], "relu"),
    (lambda x: (F.silu(x, inplace=True), x)[1], "silu"),
    (lambda x: (F.elu(x, 1.0, True), x)[1], "elu"),
    (lambda x: (torch.tanh_(x), x)[1], "tanh"),
    (lambda x: (torch.sigmoid(x, out=(y := torch.empty_like(x))), y)[1], "sigmoid"),
]


@pytest.mark.parametrize(("function", "expected"), IN_PLACE, ids=range(len(IN_PLACE)))
@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["symbolic", "example"])
def test_what_is_written_in_place(function, expected, example):
    assert feeds(Function(function), example)["b.weight"] == (expected, False)


def partly(x):
    x[:, :2] = F.relu(x[:, :2])
    return x


def into_zeros(x):
    y = torch.zeros(3, 4)
    y[:, :3] = F.relu(x)[:, :3]
    return y


VIEWS = [
    (lambda x: (x.view(-1).relu_(), x)[1], "relu", False),
    (lambda x: (x[:, :2].relu_(), x)[1], None, False),
    (partly, None, False),
    (into_zeros, "relu", True),
    (lambda x: torch.empty(3, 4).copy_(F.relu(x)), "relu", False),
    (lambda x: (x.mul_(2), x)[1], "linear", True),
]


@pytest.mark.parametrize(("function", "expected", "assumed"), VIEWS, ids=range(len(VIEWS)))
def test_views_and_parts_that_are_written(function, expected, assumed):
    assert feeds(Function(function), torch.randn(3, 4))["b.weight"] == (expected, assumed)


@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["symbolic", "example"])
def test_a_sum_under_two_names(example):
    def summed(x):
        y = other = F.relu(x)
        other += x
        return y

    assert trace(Function(summed), example)["b.weight"].reason == "a sum of relu and a linear map"


def test_a_view_that_is_written_symbolically_is_not_guessed_at():
    feed = trace(Function(lambda x: (x.view(-1, 4).relu_(), x)[1]))["b.weight"]
    assert (feed.nonlinearity, feed.reason) == (None, "a tensor that relu_ writes to by another name")


CLASSES = [
    ("MyRMSNorm", rms, "linear", "a normalisation (MyRMSNorm)"),
    ("ScaleNormalization", rms, "linear", "a normalisation (ScaleNormalization)"),
    ("BatchNormAct", lambda x: F.relu(rms(x)), "relu", None),  # its activation was seen
    ("NormalNoise", rms, None, "the function pow on a linear map"),
    ("NewGELU", lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * x**3))), {"name": "gelu", "approximate": "tanh"}, None),
]


@pytest.mark.parametrize(("kind", "function", "expected", "reason"), CLASSES, ids=[row[0] for row in CLASSES])
@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["symbolic", "example"])
def test_what_a_class_is_called(kind, function, expected, reason, example):
    feed = trace(Function(named(kind, function)), example)["b.weight"]
    assert feed.nonlinearity == expected
    assert reason in (None, feed.reason)


def test_a_block_with_norm_in_its_name_is_no_norm():
    """torchvision's Conv2dNormActivation, and PreNorm as many transformers write it: other modules are in them."""
    inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
    block = type("LinearNormActivation", (nn.Sequential,), {})(*inner)
    for example in (None, torch.randn(3, 4)):
        assert feeds(nn.Sequential(block, nn.Linear(4, 4)), example) == {
            "0.0.weight": ("linear", False),
            "1.weight": ("relu", False),
        }


@pytest.mark.parametrize(
    ("activation", "unit"), [(F.silu, "swiglu"), (F.gelu, "geglu"), (torch.sigmoid, "glu"), (F.relu, "reglu")], ids=range(4)
)
@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["symbolic", "example"])
def test_gated_units(activation, unit, example):
    found = feeds(Gated(activation), example)
    assert found == {"up.weight": ("linear", False), "gate.weight": ("linear", False), "out.weight": (unit, False)}


def test_a_convolutional_net():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 2)
    )
    example = torch.randn(2, 3, 8, 8)
    with untouched(model):
        found = feeds(model, example)
    assert found == {"0.weight": ("linear", False), "4.weight": ("relu", True), "6.weight": ("linear", False)}
    assert all(module.training for module in model.modules())


def test_a_transformer():
    found = feeds(gpt(), torch.zeros(1, 6, dtype=torch.long))
    assert found["blocks.0.attn.q_proj.weight"] == ("linear", False)
    assert found["blocks.0.attn.out_proj.weight"] == ("linear", True)
    assert found["blocks.0.mlp.c_proj.weight"][0] == "gelu"
    assert found["lm_head.weight"] == ("linear", False)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation=F.gelu)
    assert feeds(layer, torch.randn(1, 3, 8))["linear2.weight"] == ("gelu", False)


class Recurrent(nn.Module):
    def __init__(self, cell, packed=False):
        super().__init__()
        self.words, self.cell, self.packed = nn.Embedding(9, 4), cell, packed
        self.head = nn.Linear(cell.proj_size or cell.hidden_size * (1 + cell.bidirectional), 2)

    def forward(self, ids):
        x = self.words(ids)
        if self.packed:
            x = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 2]), batch_first=True)
        y, _ = self.cell(x)
        if self.packed:
            y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
        return self.head(y[:, -1])


LAYERS = [
    (lambda: nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True), "tanh", "tanh"),
    (lambda: nn.GRU(4, 5, 2, batch_first=True, bias=False), "tanh", "tanh"),
    (lambda: nn.RNN(4, 5, 2, batch_first=True, nonlinearity="relu"), "relu", "relu"),
    (lambda: nn.LSTM(4, 5, 2, batch_first=True, proj_size=3), "tanh", "linear"),
]


@pytest.mark.parametrize(("make", "state", "handed"), LAYERS, ids=range(len(LAYERS)))
@pytest.mark.parametrize("way", ["symbolic", "example", "packed"])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_the_upper_layers_are_fed_by_the_state(make, state, handed, way):
    model = Recurrent(make(), way == "packed")
    found = feeds(model, None if way == "symbolic" else torch.zeros(2, 3, dtype=torch.long))
    assert found.pop("cell.weight_ih_l0") == ("linear", False)
    found.pop("cell.weight_ih_l0_reverse", None)
    expected = {name: (state if "weight_hr" in name else handed, True) for name in found}
    assert found == expected
    assert {"cell.weight_ih_l1", "cell.weight_hh_l1", "head.weight"} <= set(found)


class Cells(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.cell, self.head = cell, nn.Linear(5, 2)

    def forward(self, x):
        h = self.cell(x)
        return self.head(h[0] if isinstance(self.cell, nn.LSTMCell) else h)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["symbolic", "example"])
def test_cells(kind, example):
    found = feeds(Cells(getattr(nn, kind)(4, 5)), example)
    state = ("tanh", True)
    assert found == {"cell.weight_ih": ("linear", False), "cell.weight_hh": state, "head.weight": state}


class Cross(nn.Module):
    def __init__(self, **sizes):
        super().__init__()
        self.memory, self.attn, self.head = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, **sizes), nn.Linear(4, 2)

    def forward(self, x):
        memory = F.relu(self.memory(x))
        return self.head(self.attn(x, memory, memory)[0])


@pytest.mark.parametrize("example", [None, torch.randn(3, 2, 4)], ids=["symbolic", "example"])
def test_attention_to_something_else(example):
    found = trace(Cross(), example)
    fused = found["attn.in_proj_weight"]
    assert fused.nonlinearity is None
    assert fused.reason == "q is fed by the model's input, k is fed by relu, v is fed by relu"
    assert (found["attn.out_proj.weight"].nonlinearity, found["head.weight"].nonlinearity) == ("linear", "linear")
    apart = Cross(kdim=6, vdim=6)
    apart.memory = nn.Linear(4, 6)
    apart = trace(apart, example)
    assert [apart[f"attn.{name}_proj_weight"].nonlinearity for name in "qkv"] == ["linear", "relu", "relu"]


def test_the_plan_says_what_was_found_and_why():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    plan = initconf.compile(model, initconf.load("he", overrides=["nonlinearity=auto"]))
    stds = [plan[f"{i}.weight"].std for i in (0, 2, 4)]
    assert stds == pytest.approx([(1 / 4) ** 0.5, (2 / 8) ** 0.5, 1.592537419722831 / 8**0.5], rel=1e-9)
    assert [plan[f"{i}.weight"].fed_by for i in (0, 2, 4)] == ["the model's input", "relu", "tanh"]
    assert plan["2.weight"].settings["nonlinearity"] == "relu"
    assert initconf.Plan.from_dict(plan.to_dict()) == plan
    bent = initconf.load("he", overrides=["rules.last={match: 4.weight, nonlinearity: auto}"])
    assert initconf.compile(model, bent)["4.weight"].std == pytest.approx(stds[2])


# --- weights in another guise ----------------------------------------------------------------------------------------------


class Standardised(nn.Linear):
    def forward(self, x):
        weight = (self.weight - self.weight.mean(1, keepdim=True)) / self.weight.std(1, keepdim=True)
        return F.linear(x, weight, self.bias)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Parameter(torch.zeros(3, 8, 4)), nn.Parameter(torch.zeros(3, 4, 8))

    def forward(self, x):
        x = self.norm(x)
        return sum(F.linear(F.silu(F.linear(x, self.up[n])), self.down[n]) for n in range(3))


class Learned(nn.Module):
    """Learned vectors, and not the data, are what feeds a layer."""

    def __init__(self):
        super().__init__()
        self.latents, self.q = nn.Parameter(torch.zeros(2, 4)), nn.Linear(4, 4)

    def forward(self, x):
        return x @ self.q(self.latents).t()


def weight_norm(**sizes):
    return nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))


class Table(nn.Module):
    """A weight that a fixed table meets, and the data only thereafter."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(4, 4))
        self.register_buffer("table", torch.zeros(3, 4))

    def forward(self, x):
        return x.relu() @ (self.table @ self.positions).t()


GUISES = [
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), weight_norm(), nn.GELU(), weight_norm()), ["relu", "gelu"]),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))), ["relu"]),
    (lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), Standardised(4, 4)), ["tanh"]),
    (Experts, ["linear", "silu"]),
    (Learned, ["linear"]),
    (Table, ["linear"]),
]


@pytest.mark.parametrize(("make", "expected"), GUISES, ids=range(len(GUISES)))
@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["symbolic", "example"])
def test_a_weight_in_another_guise_is_still_that_weight(make, expected, example):
    found = [feed for name, (feed, _) in feeds(make(), example).items() if name != "0.weight"]
    assert found == expected


def test_a_parametrised_weight_gets_the_gain_of_what_feeds_it():
    model = nn.Sequential(weight_norm(), nn.ReLU(), weight_norm())
    plan = initconf.compile(model, initconf.load("he", overrides=["nonlinearity=auto"]))
    assert [plan[f"{n}.weight"].std for n in (0, 2)] == pytest.approx([0.5, 0.5**0.5])


# --- the run ---------------------------------------------------------------------------------------------------------------


class Busy(nn.Module):
    """A model that changes itself: when its mode is set, and whenever it runs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.seen = nn.Linear(4, 4), nn.Linear(4, 4), []
        self.register_buffer("count", torch.zeros(()))

    def train(self, mode=True):
        with torch.no_grad():
            self.a.weight.add_(1)  # as adapters that are merged
        return super().train(mode)

    def forward(self, x, scale=None, *, flip=False):
        self.count += 1
        self.hidden = self.a(x)
        if scale is not None:  # which a Proxy never is
            self.hidden = torch.tanh(self.hidden)
        return self.b(F.dropout(-F.relu(self.hidden) if flip else F.relu(self.hidden)))


@pytest.mark.parametrize("example", [None, torch.randn(3, 4), {"x": torch.randn(3, 4)}], ids=["symbolic", "example", "keyword"])
def test_a_model_is_left_as_it_was(example):
    model = Busy()
    model.b.eval()
    with untouched(model):
        assert feeds(model, example) == {"a.weight": ("linear", False), "b.weight": ("relu", False)}
    assert not hasattr(model, "hidden")
    assert [module.training for module in model.modules()] == [True, True, False]
    assert not any(module._forward_hooks for module in model.modules())


class Prepared(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.a((x - x.mean()) / x.std()) + self.b(2 * x - 1)


@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["symbolic", "example"])
def test_what_is_made_of_the_data_alone_is_data(example):
    found = trace(Prepared(), example)
    assert [(found[name].nonlinearity, found[name].reason) for name in ("a.weight", "b.weight")] == [
        ("linear", "the model's input, through div"),
        ("linear", "the model's input"),
    ]
    assert (found["a.weight"].assumed, found["b.weight"].assumed) == (True, False)


def test_a_model_that_cannot_be_surveyed_is_not_run():
    with pytest.raises(initconf.CompileError, match="lazy"):
        trace(nn.Sequential(nn.LazyLinear(2)), torch.randn(3, 4))


def test_what_is_left_out_of_an_example_is_left_out():
    assert feeds(Busy(), (torch.randn(3, 4), 2.0))["b.weight"] == (None, False)  # relu of tanh


def test_what_is_not_seen_is_not_guessed():
    away = named("Away", lambda x: torch.from_numpy(x.detach().numpy().clip(0)))
    feed = trace(Function(away), torch.randn(3, 4))["b.weight"]
    assert (feed.nonlinearity, feed.reason) == (None, "what Away does, which is not seen")


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * torch.sigmoid(x)


def test_functions_that_hide_their_inside_from_autograd():
    def checkpointed(x):
        return torch.utils.checkpoint.checkpoint(F.relu, x, use_reentrant=False)

    assert feeds(Function(checkpointed), torch.randn(3, 4))["b.weight"] == ("relu", False)
    assert feeds(Function(Swish.apply), torch.randn(3, 4))["b.weight"] == ("silu", False)


@pytest.mark.parametrize("row", ["whole", "part", "average"])
def test_wrapped_models(row):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    if row == "part":
        model[2] = torch.compile(model[2], backend="eager")
    else:
        model = torch.compile(model, backend="eager") if row == "whole" else torch.optim.swa_utils.AveragedModel(model)
    assert feeds(model, torch.randn(3, 4)) == {"0.weight": ("linear", False), "2.weight": ("relu", False)}


@pytest.mark.parametrize(("model", "example"), [("meta", "cpu"), ("cpu", "meta")])
def test_an_example_on_another_device_is_refused(model, example):
    """torch would take it, and say nothing."""
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False)).to(model)
    spec = initconf.load("he", overrides=["nonlinearity=auto"])
    assert initconf.compile(net, spec, example=torch.randn(3, 4, device=model))["2.weight"].fed_by == "relu"
    with pytest.raises(initconf.CompileError) as caught:
        initconf.compile(net, spec, example=torch.randn(3, 4, device=example))
    assert str(caught.value).endswith(
        f"0.weight, 2.weight: variance_scaling cannot serve it: the activation that feeds it is not known: "
        f"the example is on {example}, and the model on {model}\n  -> give both the same device"
    )


class Wide(nn.Module):
    """Branches, gates and norms, wide enough to be measured."""

    def __init__(self):
        super().__init__()
        sizes = {"stem": (64, 256), "up": (256, 1024), "down": (512, 256), "a": (256, 256), "b": (256, 256), "c": (256, 256)}
        self.maps = nn.ModuleDict({name: nn.Linear(*size) for name, size in sizes.items()})
        self.norm, self.last = nn.RMSNorm(256), nn.LayerNorm(256)

    def forward(self, x):
        x = self.maps["stem"](x)
        gate, value = self.maps["up"](self.norm(x)).chunk(2, -1)
        x = self.last(x + self.maps["down"](F.silu(gate) * value))
        x = F.mish(self.maps["a"](x)).clone()
        x = self.maps["b"](x).clamp(-0.5, 0.7)
        return self.maps["c"](x)


def test_what_is_not_assumed_is_measured():
    """Where no assumption is said, gain^2 times the second moment of what enters a weight is 1."""
    torch.manual_seed(0)
    model, x, measured = Wide(), torch.randn(512, 64), {}
    plan = initconf.initialize(model, {"defaults": ["lecun"], "nonlinearity": "auto"}).plan
    for name, module in model.maps.items():
        module.register_forward_hook(
            lambda _, args, __, name=f"maps.{name}.weight": measured.update({name: args[0].pow(2).mean().item()})
        )
    model(x)
    assert not any(entry.assumed for entry in plan)
    gains = {name: plan[name].std * plan[name].fan_in ** 0.5 for name in measured}
    assert {name: gains[name] ** 2 * measured[name] for name in measured} == pytest.approx(dict.fromkeys(measured, 1), abs=0.08)


# --- what a plan says ------------------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """One layer, fed by the data and by a ReLU."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(F.relu(self.layer(x)))


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x + 1 if x.sum() > 0 else x)


ERRORS = [
    (
        Function(lambda x: x.cumprod(0)),
        None,
        "init.initializer  (FILE): b.weight: variance_scaling cannot serve it: "
        "the activation that feeds it is not known: the function cumprod on a linear map\n"
        "  -> say it in a rule: {match: 'b.weight', nonlinearity: relu}",
    ),
    (
        Twice(),
        None,
        "init.initializer  (FILE): layer.weight: variance_scaling cannot serve it: the activation that feeds it is not known: "
        "it is used twice, fed by linear (the model's input) and by relu (relu)\n"
        "  -> say it in a rule: {match: 'layer.weight', nonlinearity: relu}",
    ),
    (
        Branching(),
        None,
        "init.initializer  (FILE): layer.weight: variance_scaling cannot serve it: the activation that feeds it is not known: "
        "the model cannot be traced without an example input (symbolically traced variables cannot be used as inputs to "
        "control flow)\n  -> give an example input that the model takes, or name the activation",
    ),
    (
        Branching(),
        torch.randn(2, 3),
        "init.initializer  (FILE): layer.weight: variance_scaling cannot serve it: the activation that feeds it is not known: "
        "the model cannot be run on the example: RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x4)\n"
        "  -> give an example input that the model takes, or name the activation",
    ),
]


@pytest.mark.parametrize(("model", "example", "text"), ERRORS, ids=range(len(ERRORS)))
def test_what_cannot_be_known_is_an_error(model, example, text):
    spec = initconf.load("he", overrides=["nonlinearity=auto"])
    with untouched(model), pytest.raises(initconf.CompileError) as caught:
        initconf.compile(model, spec, example=example)
    assert str(caught.value).replace(spec.source("initializer"), "FILE") == text


def test_an_example_serves_what_cannot_be_traced():
    spec = initconf.load("he", overrides=["nonlinearity=auto"])
    for example in (torch.ones(2, 4), (torch.ones(2, 4),), {"x": torch.ones(2, 4)}):
        assert initconf.compile(Branching(), spec, example=example)["layer.weight"].fed_by == "the model's input"
    report = initconf.initialize(Branching(), spec, example=torch.ones(2, 4))
    assert report.verify().plan["layer.weight"].std == 0.5

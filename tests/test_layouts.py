"""Layouts of known modules: fans by table and by measurement, blocks, roles, and what is assumed of the unknown."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import initconf
from initconf import layouts
from initconf.errors import CompileError, InitConfError
from initconf.layouts import find, names
from initconf.sites import Layout
from initconf.survey import survey


def sites(module, **more):
    return {site.name: site for site in survey(module, **more)}


def fans(module, name="weight"):
    site = sites(module)[name]
    return site.fan_in, site.fan_out


# --- fans ------------------------------------------------------------------------------------------------------------------

TRUE_FANS = [
    (lambda: nn.Linear(64, 256), (64, 256)),
    (lambda: nn.Conv2d(32, 64, 3), (288, 576)),
    (lambda: nn.Conv2d(32, 64, 3, stride=2), (288, 144)),
    (lambda: nn.Conv2d(32, 64, 3, dilation=2), (288, 576)),
    (lambda: nn.Conv2d(32, 64, 3, groups=4), (72, 144)),
    (lambda: nn.Conv2d(32, 32, 3, groups=32), (9, 9)),
    (lambda: nn.ConvTranspose2d(64, 32, 4, stride=2), (256, 512)),
    (lambda: nn.ConvTranspose2d(64, 32, 3, stride=1), (576, 288)),
    (lambda: nn.ConvTranspose2d(64, 32, 4, stride=2, groups=4), (64, 128)),
    (lambda: nn.ConvTranspose1d(64, 32, 3, stride=2), (96, 96)),
    (lambda: nn.Conv1d(8, 16, 5, stride=5), (40, 16)),
    (lambda: nn.Conv3d(4, 8, (1, 2, 3), stride=(1, 2, 3)), (24, 8)),
    (lambda: nn.ConvTranspose3d(4, 8, (1, 2, 3), stride=(1, 2, 3)), (4, 48)),
    (lambda: nn.Bilinear(5, 7, 11), (35, 11)),
    (lambda: nn.Embedding(1000, 64), (1, 64)),
    (lambda: nn.EmbeddingBag(1000, 64), (1, 64)),
]


@pytest.mark.parametrize(("make", "expected"), TRUE_FANS, ids=[str(make()) for make, _ in TRUE_FANS])
def test_true_fans_and_those_that_a_bias_carries(make, expected):
    module = make()
    found = sites(module)
    assert (found["weight"].fan_in, found["weight"].fan_out) == expected
    assert not found["weight"].layout.assumed
    if getattr(module, "bias", None) is not None:
        bias = found["bias"]
        assert (bias.role, bias.fan_in, bias.fan_out) == ("bias", *expected)
        assert not bias.layout.assumed


@pytest.mark.parametrize("make", [make for make, _ in TRUE_FANS], ids=[str(make()) for make, _ in TRUE_FANS])
def test_torch_s_fans_where_they_are_asked_for(make):
    module = make()
    found = sites(module, torch_fans=True)["weight"]
    assert (found.fan_in, found.fan_out) == nn.init._calculate_fan_in_and_fan_out(module.weight)
    assert found.layout.zero_row is None
    assert found.blocks == ()


MEASURED = {
    "linear": lambda: nn.Linear(64, 160, bias=False),
    "conv1d": lambda: nn.Conv1d(32, 48, 5, bias=False),
    "conv1d, stride 3": lambda: nn.Conv1d(32, 48, 5, stride=3, bias=False),
    "conv1d, stride 4 over kernel 2": lambda: nn.Conv1d(32, 48, 2, stride=4, bias=False),
    "conv1d, dilation 3": lambda: nn.Conv1d(32, 48, 3, dilation=3, bias=False),
    "conv1d, padding": lambda: nn.Conv1d(32, 48, 5, padding=2, bias=False),
    "conv2d": lambda: nn.Conv2d(32, 24, 3, bias=False),
    "conv2d, stride 2": lambda: nn.Conv2d(32, 64, 3, stride=2, bias=False),
    "conv2d, stride (1, 2)": lambda: nn.Conv2d(32, 24, (2, 3), stride=(1, 2), bias=False),
    "conv2d, dilation 2": lambda: nn.Conv2d(32, 24, 3, dilation=2, bias=False),
    "conv2d, groups 4": lambda: nn.Conv2d(32, 64, 3, groups=4, bias=False),
    "conv2d, groups 4, stride 2": lambda: nn.Conv2d(32, 64, 3, groups=4, stride=2, bias=False),
    "conv2d, depthwise": lambda: nn.Conv2d(64, 64, 3, groups=64, bias=False),
    "conv2d, depthwise, twice as many": lambda: nn.Conv2d(64, 128, 3, groups=64, bias=False),
    "conv3d": lambda: nn.Conv3d(24, 32, 2, bias=False),
    "conv3d, stride 2, groups 2": lambda: nn.Conv3d(24, 32, 3, stride=2, groups=2, bias=False),
    "transposed 1d": lambda: nn.ConvTranspose1d(32, 48, 3, bias=False),
    "transposed 1d, stride 2": lambda: nn.ConvTranspose1d(32, 48, 3, stride=2, bias=False),
    "transposed 1d, stride 3, output padding": lambda: nn.ConvTranspose1d(32, 48, 5, stride=3, output_padding=2, bias=False),
    "transposed 1d, stride 3 over kernel 2": lambda: nn.ConvTranspose1d(32, 48, 2, stride=3, bias=False),
    "transposed 2d, stride 2": lambda: nn.ConvTranspose2d(32, 24, 4, stride=2, bias=False),
    "transposed 2d, stride 2, padding": lambda: nn.ConvTranspose2d(32, 24, 4, stride=2, padding=1, bias=False),
    "transposed 2d, dilation 2": lambda: nn.ConvTranspose2d(32, 24, 3, dilation=2, bias=False),
    "transposed 2d, stride 2, groups 4": lambda: nn.ConvTranspose2d(64, 32, 4, stride=2, groups=4, bias=False),
    "transposed 3d, stride 2": lambda: nn.ConvTranspose3d(24, 32, 2, stride=2, bias=False),
}
WEIGHTS = 100_000
"""So many random weights: the second moments then stray by half a percent."""


def second_moment(tensor, module, strided):
    """Of what lies far from the edges; on the strided side, where positions take turns, over whole numbers of turns."""
    for axis in range(2, tensor.ndim):
        k, d, s, p = (getattr(module, name)[axis - 2] for name in ("kernel_size", "dilation", "stride", "padding"))
        margin, turn = (d * (k - 1) + p + s, s) if strided else (p, 1)
        length = (tensor.shape[axis] - 2 * margin) // turn * turn
        assert length >= 4 * turn
        tensor = tensor.narrow(axis, margin, length)
    return float(tensor.square().mean())


@pytest.mark.parametrize("row", MEASURED)
def test_measured_fans(row):
    """With weights, inputs and gradients of second moment 1, a fan is what comes out: forwards fan_in, backwards fan_out."""
    module = MEASURED[row]()
    transposed = "Transpose" in type(module).__name__
    generator = torch.Generator().manual_seed(0)
    forwards, backwards = [], []
    for _ in range(math.ceil(WEIGHTS / module.weight.numel())):
        if isinstance(module, nn.Linear):
            x = torch.randn(256, module.in_features, generator=generator)
        else:
            size = {"1d": (8, 64), "2d": (2, 18, 18), "3d": (1, 18, 18, 18)}[type(module).__name__[-2:]]
            x = torch.randn(size[0], module.in_channels, *size[1:], generator=generator)
        with torch.no_grad():
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
        y = module(x.requires_grad_())
        (dx,) = torch.autograd.grad(y, x, torch.randn(y.shape, generator=generator))
        forwards.append(second_moment(y.detach(), module, transposed))
        backwards.append(second_moment(dx, module, not transposed))
    fan_in, fan_out = fans(module)
    assert sum(forwards) / len(forwards) == pytest.approx(fan_in, rel=0.03)
    assert sum(backwards) / len(backwards) == pytest.approx(fan_out, rel=0.03)


def test_measured_fans_of_bilinear_and_embedding():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    module = nn.Bilinear(20, 30, 50, bias=False)
    module.weight.data = normal(50, 20, 30)
    y = module(normal(2000, 20), normal(2000, 30))
    assert float(y.detach().square().mean()) == pytest.approx(fans(module)[0], rel=0.03)
    module = nn.Embedding(2000, 64)
    module.weight.data = normal(2000, 64)
    assert float(module(torch.arange(2000)).detach().square().mean()) == pytest.approx(fans(module)[0], rel=0.03)
    dx = normal(500, 64) @ module.weight.detach().T
    assert float(dx.square().mean()) == pytest.approx(fans(module)[1], rel=0.03)


# --- roles -----------------------------------------------------------------------------------------------------------------

ROLES = {
    "Linear": (lambda: nn.Linear(2, 3), {"weight": "weight", "bias": "bias"}),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), {"weight": "norm_scale", "bias": "norm_shift"}),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(3), {"weight": "norm_scale", "bias": "norm_shift"}),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(3, affine=True), {"weight": "norm_scale", "bias": "norm_shift"}),
    "LayerNorm": (lambda: nn.LayerNorm((3, 4)), {"weight": "norm_scale", "bias": "norm_shift"}),
    "GroupNorm": (lambda: nn.GroupNorm(1, 3), {"weight": "norm_scale", "bias": "norm_shift"}),
    "RMSNorm": (lambda: nn.RMSNorm(3), {"weight": "norm_scale"}),
    "PReLU": (lambda: nn.PReLU(), {"weight": "gate_scale"}),
    "Embedding": (lambda: nn.Embedding(3, 4), {"weight": "embedding"}),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True),
        {
            "in_proj_weight": "weight",
            "in_proj_bias": "bias",
            "bias_k": "bias",
            "bias_v": "bias",
            "out_proj.weight": "weight",
            "out_proj.bias": "bias",
        },
    ),
    "GRUCell": (
        lambda: nn.GRUCell(2, 3),
        {"weight_ih": "weight", "weight_hh": "recurrent", "bias_ih": "bias", "bias_hh": "bias"},
    ),
    "AdaptiveLogSoftmaxWithLoss": (
        lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 10, [3]),
        {"head.weight": "weight", "tail.0.0.weight": "weight", "tail.0.1.weight": "weight"},
    ),
    "Bilinear": (lambda: nn.Bilinear(2, 3, 4), {"weight": "weight", "bias": "bias"}),
}


@pytest.mark.parametrize("row", ROLES)
def test_roles_of_torch_s_modules_are_known(row):
    make, expected = ROLES[row]
    found = sites(make())
    assert {name: site.role for name, site in found.items()} == expected
    assert not any(site.layout.assumed for site in found.values())


def test_every_module_of_torch_has_a_layout():
    """Those with parameters of their own, of torch 2.13; containers and transformers consist of others."""
    made = {
        "AdaptiveLogSoftmaxWithLoss": lambda c: c(4, 10, [3]),
        "Bilinear": lambda c: c(2, 2, 2),
        "EmbeddingBag": lambda c: c(2, 2),
        "Embedding": lambda c: c(2, 2),
        "GroupNorm": lambda c: c(1, 2),
        "Linear": lambda c: c(2, 2),
        "MultiheadAttention": lambda c: c(2, 1),
        "LayerNorm": lambda c: c(2),
        "RMSNorm": lambda c: c(2),
        "PReLU": lambda c: c(),
        "TransformerEncoderLayer": lambda c: c(2, 1),
        "TransformerDecoderLayer": lambda c: c(2, 1),
        "Transformer": lambda c: c(2, 2, 1, 1, batch_first=True),
        **{f"BatchNorm{n}d": lambda c: c(2) for n in (1, 2, 3)},
        **{f"InstanceNorm{n}d": lambda c: c(2, affine=True) for n in (1, 2, 3)},
        "SyncBatchNorm": lambda c: c(2),
        **{f"Conv{kind}{n}d": lambda c: c(2, 2, 1) for n in (1, 2, 3) for kind in ("", "Transpose")},
        **{name: lambda c: c(2, 2) for name in ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")},
    }
    classes = {name: getattr(nn, name) for name in dir(nn) if isinstance(getattr(nn, name), type)}
    without, assumed = [], []
    for name, cls in classes.items():
        if name in made:
            assumed += [site.label for site in survey(made[name](cls)) if site.layout.assumed]
            continue
        try:
            module = cls()
        except (TypeError, FutureWarning):  # it needs arguments, or is deprecated
            continue
        if not name.startswith("Lazy") and isinstance(module, nn.Module) and [*module.parameters()]:
            without.append(name)
    assert assumed == []
    assert without == []


def test_norms_that_multiply_by_one_plus_weight_start_at_zero():
    class Gemma2RMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4))

    site = sites(Gemma2RMSNorm())["weight"]
    assert (site.role, site.layout.assumed) == ("norm_shift", ())


# --- recurrent modules -----------------------------------------------------------------------------------------------------

GATES = {"RNN": (), "LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n")}


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("cell", [False, True])
def test_gates_are_blocks(kind, cell):
    module = getattr(nn, f"{kind}Cell" if cell else kind)(7, 5)
    gates, end = GATES[kind], "" if cell else "_l0"
    found = sites(module)
    for name, inside in (("ih", 7), ("hh", 5)):
        weight, bias = found[f"weight_{name}{end}"], found[f"bias_{name}{end}"]
        assert weight.role == ("weight" if name == "ih" else "recurrent")
        assert bias.role == "bias"
        assert [b.block for b in weight.blocks] == [b.block for b in bias.blocks] == list(gates)
        assert [b.start for b in weight.blocks] == [5 * i for i in range(len(gates))]
        for part in weight.blocks or [weight]:
            assert (part.shape, part.fan_in, part.fan_out) == ((5, inside), inside, 5)
        for part in bias.blocks or [bias]:
            assert (part.shape, part.fan_in, part.fan_out) == ((5,), inside, 5)
        assert weight.fan_in == inside


def test_lstm_with_projection_two_layers_and_two_directions():
    found = sites(nn.LSTM(7, 5, num_layers=2, bidirectional=True, proj_size=3))
    assert len(found) == 2 * 2 * 5
    for end, inside in (("l0", 7), ("l0_reverse", 7), ("l1", 6), ("l1_reverse", 6)):
        ih, hh, hr = (found[f"weight_{name}_{end}"] for name in ("ih", "hh", "hr"))
        assert {(b.fan_in, b.fan_out) for b in ih.blocks} == {(inside, 5)}
        assert {(b.fan_in, b.fan_out) for b in hh.blocks} == {(3, 5)}
        assert (hr.role, hr.blocks, hr.fan_in, hr.fan_out) == ("weight", (), 5, 3)
        assert {b.fan_in for b in found[f"bias_hh_{end}"].blocks} == {3}


def test_subclasses_have_the_gates_of_their_base():
    class RNNStack(nn.LSTM):
        pass

    class MyCell(nn.LSTMCell):
        def __init__(self, *sizes):
            super().__init__(*sizes)
            self.peephole = nn.Parameter(torch.zeros(5))
            self.attention = nn.Parameter(torch.zeros(5, 5))

    class GRULike(nn.RNN):
        pass

    class LSTMLike(nn.GRU):
        pass

    for cls, gates in ((RNNStack, "ifgo"), (GRULike, ""), (LSTMLike, "rzn")):
        found = sites(cls(7, 5))
        assert "".join(b.block for b in found["weight_ih_l0"].blocks) == gates
    found = sites(MyCell(7, 5))
    assert "".join(b.block for b in found["weight_hh"].blocks) == "ifgo"
    assert (found["peephole"].role, found["peephole"].blocks) == ("other", ())
    assert (found["attention"].role, found["attention"].blocks, found["attention"].layout.assumed) == (
        "weight",
        (),
        ("role", "layout"),
    )


# --- attention and embeddings ----------------------------------------------------------------------------------------------


def test_fused_attention_has_the_fans_of_its_parts():
    fused = sites(nn.MultiheadAttention(8, 2))
    weight, bias = fused["in_proj_weight"], fused["in_proj_bias"]
    assert [(b.block, b.start, b.fan_in, b.fan_out) for b in weight.blocks] == [("q", 0, 8, 8), ("k", 8, 8, 8), ("v", 16, 8, 8)]
    assert [(b.block, b.start, b.fan_in, b.fan_out) for b in bias.blocks] == [("q", 0, 8, 8), ("k", 8, 8, 8), ("v", 16, 8, 8)]
    assert (fused["out_proj.weight"].fan_in, fused["out_proj.weight"].fan_out) == (8, 8)


def test_separate_attention():
    apart = sites(nn.MultiheadAttention(8, 2, kdim=6, vdim=4))
    assert [(apart[f"{x}_proj_weight"].fan_in, apart[f"{x}_proj_weight"].fan_out) for x in "qkv"] == [(8, 8), (6, 8), (4, 8)]
    assert [b.block for b in apart["in_proj_bias"].blocks] == ["q", "k", "v"]
    assert apart["in_proj_bias"].fan_in is None  # its three parts belong to three weights


@pytest.mark.parametrize("cls", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize(("given", "row"), [(None, None), (0, 0), (3, 3), (-1, 9)])
def test_padding_rows(cls, given, row):
    site = sites(cls(10, 4, padding_idx=given))["weight"]
    assert site.layout.zero_row == row
    assert site.role == "embedding"


# --- modules that nobody declared ------------------------------------------------------------------------------------------


def unknown(name, tensor, kind="Mixer"):
    module = type(kind, (nn.Module,), {})()
    module.register_parameter(name, nn.Parameter(tensor))
    return sites(module)[name]


ASSUMED = [
    # attribute, shape, class, role, what is marked as assumed
    ("weight", (6, 4), "Mixer", "weight", ("role", "layout")),
    ("kernel", (6, 4, 3), "Mixer", "weight", ("role", "layout")),
    ("w", (2, 6, 4, 3, 3), "Mixer", "weight", ("role", "layout")),
    ("bias", (6,), "Mixer", "bias", ("role",)),
    ("b", (6,), "Mixer", "bias", ("role",)),
    ("bias_q", (6,), "Mixer", "bias", ("role",)),
    ("rel_bias", (6,), "Mixer", "bias", ("role",)),
    ("bias", (6, 4), "Mixer", "weight", ("role", "layout")),
    ("weight", (6,), "MyRMSNorm", "norm_scale", ("role",)),
    ("scale", (6,), "LayerNorm2d", "norm_scale", ("role",)),
    ("beta", (6,), "MyNorm", "norm_shift", ("role",)),
    ("bias", (6,), "MyNorm", "norm_shift", ("role",)),
    ("gamma", (6,), "Scaler", "gate_scale", ("role",)),
    ("alpha", (), "ReZero", "gate_scale", ("role",)),
    ("layer_scale_1", (6,), "Block", "gate_scale", ("role",)),
    ("pos_embed", (1, 9, 4), "ViT", "position", ("role",)),
    ("position_embedding", (9, 4), "Net", "position", ("role",)),
    ("A_log", (6, 4), "Scan", "state", ("role",)),
    ("dt_bias", (6,), "Scan", "state", ("role",)),
    ("D", (6,), "Scan", "state", ("role",)),
    ("weight", (9, 4), "TokenEmbedding", "embedding", ("role",)),
    ("temperature", (), "Head", "state", ("role",)),
    ("cls_token", (1, 1, 8), "ViT", "embedding", ("role",)),
    ("D", (6, 4), "Dictionary", "weight", ("role", "layout")),
    ("x", (6,), "Mixer", "other", ("role",)),
]


@pytest.mark.parametrize(("name", "shape", "kind", "role", "marked"), ASSUMED, ids=[f"{r[2]}.{r[0]}{r[1]}" for r in ASSUMED])
def test_what_is_assumed_is_marked(name, shape, kind, role, marked):
    site = unknown(name, torch.zeros(shape), kind)
    assert (site.role, site.layout.assumed) == (role, marked)
    if role == "weight":
        assert (site.fan_in, site.fan_out) == nn.init._calculate_fan_in_and_fan_out(torch.zeros(shape))


def test_an_unknown_bias_carries_the_fans_of_its_weight():
    module = type("Dense", (nn.Module,), {})()
    module.weight, module.bias = nn.Parameter(torch.zeros(6, 4)), nn.Parameter(torch.zeros(6))
    found = sites(module)
    assert (found["bias"].fan_in, found["bias"].fan_out) == (4, 6)


def test_the_plan_marks_what_is_assumed():
    module = type("Mixer", (nn.Module,), {})()
    module.w = nn.Parameter(torch.zeros(6, 4))
    plan = initconf.compile(nn.ModuleDict({"a": module, "b": nn.Linear(2, 2)}), "he")
    assert plan["a.w"].assumed == ("role", "layout")
    assert plan["b.weight"].assumed == ()
    assert "weight~" in str(plan)
    assert "1 assumed (~)" in plan.summary()


# --- registering -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_layouts(monkeypatch):
    monkeypatch.setattr(layouts, "_layouts", dict(layouts._layouts))


class InOut(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))


class InOutChild(InOut):
    pass


def test_a_layout_serves_a_class_and_its_subclasses(own_layouts):
    @initconf.layout(InOut)
    def in_out(module, name, parameter):
        return Layout(in_axes=(0,), out_axes=(1,))

    assert fans(InOut(3, 5)) == fans(InOutChild(3, 5)) == (3, 5)
    assert sites(InOut(3, 5))["weight"].layout.assumed == ()
    assert any(name.endswith("InOut") for name in names())


def test_a_layout_by_name_bare_or_dotted(own_layouts):
    initconf.layout("InOut")(lambda module, name, parameter: Layout(in_axes=(0,), out_axes=(1,)))
    assert fans(InOut(3, 5)) == (3, 5)
    initconf.layout(f"{__name__}.InOutChild")(lambda module, name, parameter: Layout())
    assert fans(InOutChild(3, 5)) == (5, 3)


def test_a_layout_may_leave_a_parameter_to_the_base_class(own_layouts):
    class Odd(nn.Linear):
        pass

    initconf.layout(Odd)(lambda module, name, parameter: Layout(role="other") if name == "bias" else None)
    found = sites(Odd(3, 5))
    assert (found["weight"].fan_in, found["bias"].role) == (3, "other")


def test_stacked_experts(own_layouts):
    initconf.layout(InOut)(
        lambda module, name, parameter: Layout(batch_axes=(0,), in_axes=(1,), out_axes=(2,), block_names=("a", "b", "c"))
    )
    (site,) = survey(InOut(3, 8, 5))
    assert [(b.block, b.shape, b.fan_in, b.fan_out) for b in site.blocks] == [(x, (1, 8, 5), 8, 5) for x in "abc"]


def test_bad_layouts_are_refused(own_layouts):
    with pytest.raises(InitConfError) as caught:
        initconf.layout("torch.nn.modules.linear.Linear")(lambda *_: None)
    assert str(caught.value) == "there is a layout for torch.nn.modules.linear.Linear already"
    with pytest.raises(InitConfError, match="there is a layout for InOut already"):
        initconf.layout(InOut)(initconf.layout(InOut)(lambda *_: None))
    layouts._layouts[InOut] = lambda *_: Layout(in_axes=(2,))
    with pytest.raises(CompileError) as caught:
        survey(InOut(3, 5))
    assert caught.value.problems[0].text == "the layout of InOut.weight names axis 2, and the shape is (3, 5)"
    layouts._layouts[InOut] = lambda *_: "fan_in"
    with pytest.raises(CompileError) as caught:
        survey(InOut(3, 5))
    assert caught.value.problems[0].text == "the layout of InOut.weight is 'fan_in', not a Layout"
    layouts._layouts[InOut] = lambda *_: Layout(block_names=("a", "b"))
    with pytest.raises(CompileError) as caught:
        survey(InOut(3, 5))
    assert caught.value.problems[0].text == "the blocks a, b of sizes [1, 1] do not add up to 3, the size of axis 0"


def test_the_nearest_class_is_asked_first():
    assert find(nn.Conv2d(4, 4, 3, groups=2), "weight", torch.zeros(4, 2, 3, 3)).groups == 2
    assert find(nn.Conv2d(4, 4, 3), "extra", torch.zeros(4)).assumed == ("role",)

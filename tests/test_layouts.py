"""Layouts of known modules: fans by table and by measurement, blocks, roles, and what is assumed of the unknown."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import warnings

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
    (lambda: nn.Bilinear(5, 7, 11), (35, pytest.approx(2 * 11 * 5 * 7 / (5 + 7)))),
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


# --- every module of torch.nn ------------------------------------------------------------------------------------------------

LINEAR = {"weight": "weight, out 0, in 1", "bias": "bias of weight"}
CONV = {"weight": "weight, out 0, in 1, groups 2, stride {}", "bias": "bias of weight"}
TRANSPOSED = {"weight": "weight, out 1, in 0, groups 2, stride {}, transposed", "bias": "bias of weight"}
NORM = {"weight": "norm_scale", "bias": "norm_shift"}
ATTENTION = {
    "in_proj_weight": "weight, out 0, in 1, q k v",
    "in_proj_bias": "bias of in_proj_weight, q k v",
    "out_proj.weight": "weight, out 0, in 1",
    "out_proj.bias": "bias of weight",
}


def inside(prefix, expected):
    return {f"{prefix}.{name}": said for name, said in expected.items()}


def gates(said, end="_l0"):
    return {
        f"weight_ih{end}": f"weight, out 0, in 1{said}",
        f"weight_hh{end}": f"recurrent, out 0, in 1{said}",
        f"bias_ih{end}": f"bias of weight_ih{end}{said}",
        f"bias_hh{end}": f"bias of weight_hh{end}{said}",
    }


def layer(*attentions, norms):
    parts = [inside(name, ATTENTION) for name in attentions]
    parts += [inside("linear1", LINEAR), inside("linear2", LINEAR), *(inside(f"norm{n + 1}", NORM) for n in range(norms))]
    return {name: said for part in parts for name, said in part.items()}


ENCODER, DECODER = layer("self_attn", norms=2), layer("self_attn", "multihead_attn", norms=3)


def lazy(make, *shape):
    """A lazy module that has seen an example."""

    def made(cls):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are an experiment, torch says
            module = make(cls)
        module(torch.zeros(shape))
        return module

    return made


MODULES = {
    "Linear": (lambda c: c(2, 3), LINEAR),
    "NonDynamicallyQuantizableLinear": (lambda c: c(2, 3), LINEAR),
    "LazyLinear": (lazy(lambda c: c(3), 1, 2), LINEAR),
    "LinearCrossEntropyLoss": (lambda c: c(2, 3, bias=True), inside("linear", LINEAR)),
    "AdaptiveLogSoftmaxWithLoss": (
        lambda c: c(16, 10, [3, 6], div_value=2.0, head_bias=True),
        {
            **inside("head", LINEAR),
            **{f"tail.{i}.{j}.weight": "weight, out 0, in 1" for i in (0, 1) for j in (0, 1)},
        },
    ),
    "Bilinear": (lambda c: c(2, 3, 4), {"weight": "weight, out 0, in 1 2", "bias": "bias of weight"}),
    **{
        f"{lazily}Conv{kind}{n}d": (
            lazy(lambda c: c(4, 3, stride=2, groups=2), 1, 4, *[5] * n) if lazily else lambda c: c(4, 4, 3, stride=2, groups=2),
            {name: said.format(2**n) for name, said in (TRANSPOSED if kind else CONV).items()},
        )
        for n in (1, 2, 3)
        for kind in ("", "Transpose")
        for lazily in ("", "Lazy")
    },
    **{f"BatchNorm{n}d": (lambda c: c(2), NORM) for n in (1, 2, 3)},
    **{f"LazyBatchNorm{n}d": (lazy(lambda c: c(), 2, 4, *[5] * n), NORM) for n in (1, 2, 3)},
    "SyncBatchNorm": (lambda c: c(2), NORM),
    **{f"InstanceNorm{n}d": (lambda c: c(2, affine=True), NORM) for n in (1, 2, 3)},
    **{f"LazyInstanceNorm{n}d": (lazy(lambda c: c(affine=True), 1, 4, *[5] * n), NORM) for n in (1, 2, 3)},
    "LayerNorm": (lambda c: c((2, 3)), NORM),
    "GroupNorm": (lambda c: c(1, 2), NORM),
    "RMSNorm": (lambda c: c(2), {"weight": "norm_scale"}),
    "PReLU": (lambda c: c(3), {"weight": "gate_scale"}),
    "Embedding": (lambda c: c(5, 2, padding_idx=-1), {"weight": "embedding, out 1, batch 0, row 4 zero"}),
    "EmbeddingBag": (lambda c: c(5, 2, padding_idx=3), {"weight": "embedding, out 1, batch 0, row 3 zero"}),
    "MultiheadAttention": (
        lambda c: c(4, 2, add_bias_kv=True),
        {**ATTENTION, "bias_k": "bias", "bias_v": "bias"},
    ),
    "MultiheadAttention, separate": (
        lambda c: c(4, 2, kdim=3, vdim=5),
        {
            **{f"{x}_proj_weight": "weight, out 0, in 1" for x in "qkv"},
            **ATTENTION,
            "in_proj_bias": "bias, q k v",  # of three weights
            "in_proj_weight": None,
        },
    ),
    "TransformerEncoderLayer": (lambda c: c(4, 2, 6), ENCODER),
    "TransformerDecoderLayer": (lambda c: c(4, 2, 6), DECODER),
    "TransformerEncoder": (lambda c: c(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 1), inside("layers.0", ENCODER)),
    "TransformerDecoder": (lambda c: c(nn.TransformerDecoderLayer(4, 2, 6), 1), inside("layers.0", DECODER)),
    "Transformer": (
        lambda c: c(4, 2, 1, 1, 6, batch_first=True),
        {
            **inside("encoder.layers.0", ENCODER),
            **inside("encoder.norm", NORM),
            **inside("decoder.layers.0", DECODER),
            **inside("decoder.norm", NORM),
        },
    ),
    "RNN": (lambda c: c(2, 3), gates("")),
    "LSTM": (lambda c: c(2, 3), gates(", i f g o")),
    "LSTM, proj_size": (lambda c: c(2, 3, proj_size=1), {**gates(", i f g o"), "weight_hr_l0": "weight, out 0, in 1"}),
    "GRU": (lambda c: c(2, 3), gates(", r z n")),
    "GRU, two ways": (
        lambda c: c(2, 3, num_layers=2, bidirectional=True),
        {k: v for end in ("_l0", "_l0_reverse", "_l1", "_l1_reverse") for k, v in gates(", r z n", end).items()},
    ),
    "RNNBase": (lambda c: c("GRU", 2, 3), gates(", r z n")),
    "RNNCell": (lambda c: c(2, 3), gates("", "")),
    "LSTMCell": (lambda c: c(2, 3), gates(", i f g o", "")),
    "GRUCell": (lambda c: c(2, 3), gates(", r z n", "")),
    "RNNCellBase": (lambda c: c(2, 3, True, num_chunks=1), gates("", "")),
    # They know nothing of what they hold, and that is said.
    "ParameterList": (lambda c: c([torch.zeros(3, 2)]), {"0": "weight, out 0, in 1, assumed role layout"}),
    "ParameterDict": (lambda c: c({"bias": torch.zeros(3)}), {"bias": "bias, assumed role"}),
}
"""Each class of torch.nn with parameters: how it is made, and what is known of each of its parameters."""
DEPRECATED = ("Container", "NLLLoss2d")
ARGUMENTS = [(), (1,), (2, 2), (1, 1, 1), (1, (1, 1)), ((1, 1), (1, 1)), (0, 1), (torch.relu,)]
"""What a class without parameters is made with; one of these will do."""


def classes_of_torch():
    homes = [importlib.import_module(found.name) for found in pkgutil.iter_modules(nn.modules.__path__, "torch.nn.modules.")]
    members = [(name, thing, home) for home in homes for name, thing in vars(home).items() if isinstance(thing, type)]
    return {
        name: thing
        for name, thing, home in members
        if issubclass(thing, nn.Module) and thing.__module__ == home.__name__ and not name.startswith("_")
    }


def known(site):
    """What the layout of a site says, in words."""
    told, lay = site.role, site.layout
    if site.role in ("weight", "recurrent", "embedding"):
        axes = {"out": lay.out_axes, "in": lay.in_axes, "batch": lay.batch_axes}
        told += "".join(f", {name} {' '.join(map(str, which))}" for name, which in axes.items() if which)
        told += f", groups {lay.groups}" * (lay.groups > 1) + f", stride {lay.stride}" * (lay.stride > 1)
        told += ", transposed" * lay.transposed
    told += f" of {lay.fans_of}" if lay.fans_of else ""
    told += f", {' '.join(block.block for block in site.blocks)}" if site.blocks else ""
    told += f", row {lay.zero_row} zero" if lay.zero_row is not None else ""
    return told + (f", assumed {' '.join(lay.assumed)}" if lay.assumed else "")


@pytest.mark.parametrize("row", MODULES)
def test_every_parameter_of_torch_s_modules_is_known(row):
    make, expected = MODULES[row]
    cls = classes_of_torch().get(row.partition(",")[0])
    if cls is None:
        pytest.skip("this torch does not have it")
    assert {name: known(site) for name, site in sites(make(cls)).items()} == {n: said for n, said in expected.items() if said}


def test_no_module_of_torch_is_missing():
    """A class with parameters has a row above; one without is made here, to see that it has none."""
    with_parameters, unmade = [], []
    for name, cls in classes_of_torch().items():
        if name in MODULES or name in DEPRECATED:
            continue
        for arguments in ARGUMENTS:
            with contextlib.suppress(Exception):
                if [*cls(*arguments).parameters()]:
                    with_parameters.append(name)
                break
        else:
            unmade.append(name)
    assert (with_parameters, unmade) == ([], [])


def test_lazy_modules_are_refused_until_they_know_their_shapes():
    for name in (name for name in MODULES if name.startswith("Lazy")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cls = getattr(nn, name)
            module = cls(4, 3) if "Conv" in name else cls(4) if "Linear" in name else cls()
        with pytest.raises(CompileError, match="the parameter is lazy and has no shape yet"):
            survey(module)


def test_quantised_weights_are_refused_when_compiled():
    module = nn.Linear(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to remove these tensors
        quantised = torch.quantize_per_tensor(torch.zeros(4, 3), 0.1, 0, torch.qint8)
    for weight, dtype in ((quantised, "qint8"), (torch.zeros(4, 3, dtype=torch.int8), "int8")):
        module.weight = nn.Parameter(weight, requires_grad=False)
        with pytest.raises(CompileError) as caught:
            initconf.compile(module, "he")
        remedy = "keep them: 'init.rules.kept={glob: weight, initializer: keep}'"
        assert str(caught.value) == f"weight: values of dtype {dtype} are not drawn\n  -> {remedy}"


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


def test_axes_and_rows_may_be_counted_from_the_end(own_layouts):
    initconf.layout(InOut)(lambda module, name, parameter: Layout(in_axes=(-2,), out_axes=(-1,), zero_row=-1))
    (site,) = survey(InOut(3, 5))
    assert (site.layout.in_axes, site.layout.out_axes, site.layout.zero_row) == ((0,), (1,), 2)
    layouts._layouts[InOut] = lambda *_: Layout(
        block_names=("a", "b"), block_axis=-1, batch_axes=(-3,), out_axes=(1,), in_axes=(2,)
    )
    (site,) = survey(InOut(2, 3, 4))
    assert (site.layout.block_axis, site.layout.batch_axes) == (2, (0,))
    assert [(b.start, b.shape, b.fan_in) for b in site.blocks] == [(0, (2, 3, 2), 2), (2, (2, 3, 2), 2)]


def refused(wrong, *shape):
    """What is said of a module of this shape, of which a function returns the layout."""
    layouts._layouts[InOut] = wrong
    with pytest.raises(CompileError) as caught:
        survey(InOut(*shape))
    (problem,) = caught.value.problems
    assert problem.path == "weight"
    return problem.text


BAD_LAYOUTS = [
    (Layout(in_axes=(2,)), "the shape (3, 6) has no axis 2"),
    (Layout(in_axes=(-3,)), "the shape (3, 6) has no axis -3"),
    (Layout(in_axes=(0,)), "axis 0 is named twice"),
    (Layout(out_axes=(0, -1), in_axes=(1,)), "axis 1 is named twice"),
    (Layout(role="wieght"), "no role is named 'wieght'\n  -> did you mean 'weight'?"),
    (Layout(role="gate_scale", in_axes=(7,)), None),  # it has no axes
    (Layout(groups=2), "2 groups do not divide 3, the size of the out axes"),
    (Layout(groups=4, transposed=True), "4 groups do not divide 6, the size of the in axes"),
    (Layout(groups=0), "groups is 0, not a positive integer"),
    (Layout(stride=0), "stride is 0, not a positive integer"),
    (Layout(stride=2.5), "stride is 2.5, not a positive integer"),  # type: ignore[arg-type]
    (Layout(block_names=("a", "a", "b")), "the blocks 'a', 'a', 'b' do not have a name each"),
    (Layout(block_names=("a", "b"), block_sizes=(4, -1)), "the sizes [4, -1] of the blocks are not all positive"),
    (Layout(in_axes=1), "in_axes is 1, not a tuple of integers"),  # type: ignore[arg-type]
    (Layout(in_axes=[1]), "in_axes is [1], not a tuple of integers"),  # type: ignore[arg-type]
    (Layout(in_axes=("in",)), "in_axes is ('in',), not a tuple of integers"),  # type: ignore[arg-type]
    (Layout(block_names="qkv"), "block_names is 'qkv', not a tuple of strings"),  # type: ignore[arg-type]
    (Layout(block_axis=None), "block_axis is None, not an integer"),  # type: ignore[arg-type]
    (Layout(zero_row="0"), "zero_row is '0', not an integer"),  # type: ignore[arg-type]
    (Layout(fans_of=0), "fans_of is 0, not a parameter's name"),  # type: ignore[arg-type]
    (Layout(assumed="role"), "assumed is 'role', not a tuple of strings"),  # type: ignore[arg-type]
    (Layout(block_names=("a", "b")), "2 blocks of one size do not divide 3, the size of axis 0\n  -> give the sizes of a, b"),
    (
        Layout(block_names=("a", "b"), block_sizes=(1, 1)),
        "the blocks a, b of sizes [1, 1] do not add up to 3, the size of axis 0",
    ),
    (
        Layout(block_names=("a", "b"), block_sizes=(3,)),
        "the blocks a, b of sizes [3] do not add up to 3, the size of axis 0",
    ),
    (Layout(block_names=("a", "b"), block_axis=2), "the shape (3, 6) has no axis 2"),
    (Layout(block_sizes=(1, 2)), "the blocks of sizes [1, 2] have no names\n  -> give them block_names"),
    (Layout(zero_row=3), "the shape (3, 6) has no row 3"),
    (Layout(zero_row=-4), "the shape (3, 6) has no row -4"),
    (
        Layout(zero_row=1, block_names=("a", "b", "c")),
        "the rows are in blocks, and one of them is to stay zero\n  -> leave out the blocks, or zero_row",
    ),
    (Layout(zero_row=1, block_names=("a", "b", "c"), block_axis=1), None),
]


@pytest.mark.parametrize(("found", "text"), BAD_LAYOUTS, ids=[str(text or found)[:40] for found, text in BAD_LAYOUTS])
def test_layouts_that_do_not_fit_are_refused(found, text, own_layouts):
    if text is None:
        layouts._layouts[InOut] = lambda *_: found
        survey(InOut(3, 6))
    else:
        assert refused(lambda *_: found, 3, 6) == f"the layout of InOut.weight: {text}"


def test_what_is_no_layout_is_refused(own_layouts):
    for wrong in ("fan_in", {}):
        assert refused(lambda *_, wrong=wrong: wrong, 3, 6) == f"the layout of InOut.weight is {wrong!r}, not a Layout"


def test_fans_of_a_parameter_that_the_owner_lacks_are_refused(own_layouts):
    assert refused(lambda *_: Layout(role="bias", fans_of="wieght"), 3, 6) == (
        "the layout of InOut.weight: its owner has no parameter 'wieght' to take the fans of\n  -> did you mean 'weight'?"
    )


def test_a_layout_function_that_raises_is_named(own_layouts):
    def fails(module, name, parameter):
        return Layout(groups=module.n_groups)

    assert refused(fails, 3, 6) == (
        "the layout of InOut.weight cannot be told: AttributeError: 'InOut' object has no attribute 'n_groups'\n"
        "  -> mend the function that initconf.layout was given"
    )


def test_what_cannot_be_registered(own_layouts):
    with pytest.raises(InitConfError) as caught:
        initconf.layout("torch.nn.modules.linear.Linear")(lambda *_: None)
    assert str(caught.value) == "there is a layout for torch.nn.modules.linear.Linear already"
    with pytest.raises(InitConfError, match="there is a layout for InOut already"):
        initconf.layout(InOut)(initconf.layout(InOut)(lambda *_: None))
    initconf.layout("InOut")(lambda *_: None)  # a name of its own; the class goes first
    with pytest.raises(InitConfError) as caught:

        @initconf.layout  # the class is missing
        def bare(module, name, parameter):
            return None

    remedy = "\n  -> write @initconf.layout(MyModule), with the module's class or its name"
    assert str(caught.value) == f"a layout is for a class, and this is a function{remedy}"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda module: None, "too many positional arguments"),
        (lambda module, name, parameter, more: None, "missing a required argument: 'more'"),
        (7, "7 is not a callable object"),
    ],
    ids=["one", "four", "no function"],
)
def test_a_layout_function_takes_three(wrong, text, own_layouts):
    with pytest.raises(InitConfError) as caught:
        initconf.layout(InOut)(wrong)
    remedy = "let it take the module, the parameter's name and the parameter, and return an initconf.Layout"
    assert str(caught.value) == f"the layout of InOut: {text}\n  -> {remedy}"
    assert find(InOut(2, 3), "weight", torch.zeros(2, 3)).assumed == ("role", "layout")  # nothing was registered


def test_the_nearest_class_is_asked_first():
    assert find(nn.Conv2d(4, 4, 3, groups=2), "weight", torch.zeros(4, 2, 3, 3)).groups == 2
    assert find(nn.Conv2d(4, 4, 3), "extra", torch.zeros(4)).assumed == ("role",)

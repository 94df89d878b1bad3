"""The schemes of the frameworks and of depth, and the rule files for parts of a model, against formulas of their own.

What is expected is written here from the frameworks' sources and the papers, in terms of sizes, not of anything in initconf.
"""

from __future__ import annotations

import inspect
import math
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import initconf
from initconf.lab.hypernet import Hypernet
from initconf.lab.models import GPT, MLP, ResNet
from initconf.laws import Constant, ModuleDefault, Normal, Orthogonal, TruncatedNormal, Uniform

CONF = Path(__file__).resolve().parent.parent / "conf" / "init"
FRAMEWORKS = "alf flax haiku keras lingvo returnn_tf returnn_theano tensor2tensor torch torch_proposed".split()
DEPTH = "deepnorm fixup gpt2 megatron mitchell neox tfixup".split()
OTHERS = "glorot he lecun orthogonal".split()
SCHEMES = sorted(FRAMEWORKS + DEPTH + OTHERS)
HYPER = "bias_hyperinit chunked_hyperfan hyperfan".split()  # for hypernetworks alone
PARTS = "layer_scale lora mamba rezero zero_gamma".split()

CUT2 = 0.87962566103423978  # the std of a unit normal cut off at two sigma
CUT3 = 0.98657839255810883


@cache
def load(scheme: str, *overrides: str) -> initconf.InitSpec:
    return initconf.load(scheme, overrides)


# --- models ----------------------------------------------------------------------------------------------------------


class Everything(nn.Module):
    """One layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(50, 24, padding_idx=3)
        self.dense = nn.Linear(24, 40)
        self.conv = nn.Conv2d(8, 12, 3, stride=2)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.up = nn.ConvTranspose2d(8, 12, 4, stride=2)
        self.lstm = nn.LSTM(24, 16)
        self.gru = nn.GRU(24, 16)
        self.rnn = nn.RNN(24, 16)
        self.attention = nn.MultiheadAttention(24, 4)
        self.cross = nn.MultiheadAttention(24, 4, kdim=10, vdim=14)
        self.norm = nn.LayerNorm(24)
        self.prelu = nn.PReLU()
        self.head = nn.Linear(40, 10)


class FixupBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias1a, self.bias1b, self.bias2a, self.bias2b = (nn.Parameter(torch.full((1,), 9.0)) for _ in range(4))
        self.scale = nn.Parameter(torch.full((1,), 9.0))
        self.conv1 = nn.Conv2d(width, width, 3, stride=2, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, bias=False)


class Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4 * width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = nn.Sequential(nn.Conv2d(4 * width, 4 * width, 1, stride=2), nn.BatchNorm2d(4 * width))


class Staged(nn.Module):
    """A residual net with a Sequential for each stage, as in torchvision."""

    def __init__(self, block: Callable[[int], nn.Module], depth: int, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, bias=False)
        self.bias1 = nn.Parameter(torch.full((1,), 9.0))
        self.layer1 = nn.Sequential(*(block(width) for _ in range(depth // 3)))
        self.layer2 = nn.Sequential(*(block(width) for _ in range(depth // 3)))
        self.layer3 = nn.Sequential(*(block(width) for _ in range(depth - 2 * (depth // 3))))
        self.fc = nn.Linear(width, 10)


class Mamba(nn.Module):
    def __init__(self, d: int = 16, states: int = 4, rank: int = 3) -> None:
        super().__init__()
        self.in_proj = nn.Linear(d, 4 * d, bias=False)
        self.conv1d = nn.Conv1d(2 * d, 2 * d, 4, groups=2 * d)
        self.x_proj = nn.Linear(2 * d, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, 2 * d)
        self.A_log = nn.Parameter(torch.full((2 * d, states), torch.nan))
        self.D = nn.Parameter(torch.full((2 * d,), torch.nan))
        self.out_proj = nn.Linear(2 * d, d, bias=False)


class Mamba2(nn.Module):
    def __init__(self, d: int = 16, heads: int = 40) -> None:
        super().__init__()
        self.in_proj = nn.Linear(d, 4 * d, bias=False)
        self.dt_bias, self.A_log, self.D = (nn.Parameter(torch.full((heads,), torch.nan)) for _ in range(3))
        self.out_proj = nn.Linear(2 * d, d, bias=False)


class Adapted(nn.Module):
    """A linear layer and an embedding with peft's adapters, in its names."""

    def __init__(self, r: int = 4) -> None:
        super().__init__()
        self.base_layer = nn.Linear(20, 30)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(20, r, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(r, 30, bias=False)})
        self.lora_embedding_A = nn.ParameterDict({"default": nn.Parameter(torch.full((r, 50), 9.0))})
        self.lora_embedding_B = nn.ParameterDict({"default": nn.Parameter(torch.full((24, r), 9.0))})
        self.lora_magnitude_vector = nn.ParameterDict({"default": nn.Parameter(torch.full((30,), 9.0))})


class Scaled(nn.Module):
    """LayerScale as it is called in timm, torchvision, Hugging Face and ConvNeXt."""

    def __init__(self, d: int = 6) -> None:
        super().__init__()
        self.ls1 = nn.Module()
        self.ls1.gamma = nn.Parameter(torch.full((d,), 9.0))
        self.layer_scale = nn.Parameter(torch.full((d, 1, 1), 9.0))
        self.layer_scale1 = nn.Module()
        self.layer_scale1.lambda1 = nn.Parameter(torch.full((d,), 9.0))
        self.gamma = nn.Parameter(torch.full((d,), 9.0))
        self.gamma_1 = nn.Parameter(torch.full((d,), 9.0))
        self.lambda_1 = nn.Parameter(torch.full((d,), 9.0))
        self.norm = nn.LayerNorm(d)


class OwnNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))


def transformer(d: int, n: int, m: int, ff: int = 0) -> nn.Transformer:
    return nn.Transformer(d, 4, n, m, ff or 4 * d, batch_first=True)


ZOO: dict[str, Callable[[], nn.Module]] = {
    "everything": Everything,
    "mlp": lambda: MLP(12, 5, width=24, depth=3),
    "resnet": lambda: ResNet(3, 10, widths=(8, 16), depth=2),
    "bottleneck": lambda: Staged(Bottleneck, 3, 4),
    "fixup": lambda: Staged(FixupBlock, 3, 4),
    "gpt": lambda: GPT(40, 8, 2, 2, 16),
    "gpt_untied": lambda: GPT(40, 8, 2, 2, 16, tie=False),
    "transformer": lambda: transformer(16, 2, 2, 32),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_serves_every_model(scheme: str) -> None:
    for name, make in ZOO.items():
        if name == "everything" and scheme in DEPTH:
            continue  # an attention in no stack has no depth
        report = initconf.initialize(make(), load(scheme), seed=0).verify()
        if name in ("mlp", "gpt", "gpt_untied"):  # on plain models a scheme has nothing to warn of
            assert report.plan.warnings == ()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_other_rule_files_may_be_chosen_under_every_scheme(scheme: str) -> None:
    name = "gpt" if scheme in DEPTH else "everything"
    initconf.compile(ZOO[name](), load(scheme, "init/rules=[roles,lora,mamba,layer_scale,rezero,zero_gamma]"))


def test_the_schemes_are_those_that_are_tested() -> None:
    assert initconf.loading.schemes() == sorted(SCHEMES + HYPER)
    rules = set(initconf.loading.rule_files())
    assert rules == {*PARTS, "biases", "embeddings", "head", "none", "norms", "roles"}


USED = [
    (path.relative_to(CONF).as_posix(), line.removeprefix("# use: python train.py "))
    for path in sorted(CONF.rglob("*.yaml"))
    for line in path.read_text().splitlines()
    if line.startswith("# use:")
]


def test_every_scheme_says_its_use() -> None:
    assert {name for name, _ in USED} >= {*(f"{s}.yaml" for s in SCHEMES + HYPER), *(f"rules/{p}.yaml" for p in PARTS)}


@pytest.mark.parametrize(("name", "line"), USED)
def test_the_use_of_a_scheme_works(name: str, line: str) -> None:
    overrides = shlex.split(line)
    scheme = overrides.pop(0).removeprefix("init=") if overrides[0].startswith("init=") else "he"
    spec = load(scheme, *overrides)
    if name.startswith("rule/"):  # for a layer of the user's
        named = line.partition("@init.rules.")[2].partition("=")[0]
        assert spec.rules[named].initializer is not None
        return
    model = Everything() if "kernel" in line or "embedding" in line else MLP(12, 5)
    if name.removesuffix(".yaml") in HYPER:
        model = hypernet(name.removesuffix(".yaml"))
    initconf.initialize(model, spec).verify()


# --- hypernetworks ---------------------------------------------------------------------------------------------------


def hypernet(scheme: str) -> Hypernet:
    """Its main network has 13-16-16-5 features; 4 tasks, hidden layers of 32, embeddings of 8."""
    return Hypernet(14, 5, num_tasks=4, width=16, depth=2, chunk_size=100 if scheme == "chunked_hyperfan" else None)


def test_hyperfan() -> None:
    plan = initconf.compile(hypernet("hyperfan"), load("hyperfan"))
    check(plan["task_emb.weight"], N(1))
    check(plan["body.0.weight"], N((2 / 8) ** 0.5))
    sizes = {"body.0": 13, "body.2": 16, "head": 16}
    expected = {f"{name}.weight": N((1 / fan_in / 32) ** 0.5) for name, fan_in in sizes.items()}
    expected |= {f"{name}.bias": N((1 / 32) ** 0.5) for name in sizes}
    assert {block.block for block in plan["head.weight"].blocks} == expected.keys()
    for block in plan["head.weight"].blocks:
        check(block, expected[block.block or ""])
    for block in plan["head.bias"].blocks:
        check(block, C(0))


def test_bias_hyperinit_generates_one_network_for_all_tasks() -> None:
    model = hypernet("bias_hyperinit")
    plan = initconf.initialize(model, load("bias_hyperinit"), seed=3).verify().plan
    own = initconf.compile(model.main, load("he"))
    for block in plan["head.bias"].blocks:
        assert block.law == own[block.block or ""].law
    weights = model.generate()
    assert all(torch.equal(w[0], w[3]) for w in weights.values())
    assert float(weights["body.2.weight"].detach().std()) == pytest.approx((2 / 16) ** 0.5, rel=0.15)


def test_chunked_hyperfan() -> None:
    plan = initconf.compile(hypernet("chunked_hyperfan"), load("chunked_hyperfan"))
    check(plan["head.weight"], N((1 / 32) ** 0.5))
    check(plan["head.bias"], C(0))
    # The last chunk is the smallest: 76 values of the last weight, 5 of its bias, and 19 that are not used.
    smallest = (76 * 2 / 16 + 24 / (3 * 16)) / 100
    check(plan["task_emb.weight"], N(smallest**0.5))
    blocks = plan["chunk_emb.weight"].blocks
    assert [block.block for block in blocks] == ["0-1", "2", "3", "4", "5"]
    check(blocks[0], N((2 * 2 / 13 - smallest) ** 0.5))
    check(blocks[-1], N(smallest**0.5))


@pytest.mark.parametrize("scheme", HYPER)
def test_a_model_that_is_no_hypernetwork_is_refused(scheme: str) -> None:
    with pytest.raises(initconf.CompileError, match="the model has no 'main'"):
        initconf.compile(MLP(12, 5), load(scheme))


# --- gains bend them -------------------------------------------------------------------------------------------------

# What stands in the scheme already, and is replaced by a gain that is said: not 1.
OWN_GAIN = {"torch": 1 / math.sqrt(3), "lingvo": 1.000001}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gains_of_the_spec_and_of_the_head(scheme: str) -> None:
    overrides = ["gain=0.5"] if scheme == "fixup" else ["gain=0.5", "rules.head.gain=0.1"]
    plain, bent = (initconf.compile(MLP(12, 5), load(scheme, *o)) for o in ([], overrides))
    own = OWN_GAIN.get(scheme, 1)
    assert bent["body.2.weight"].std == pytest.approx(0.5 / own * plain["body.2.weight"].std, rel=1e-12)
    if scheme != "fixup":  # whose head is zero
        assert bent["head.weight"].std == pytest.approx(0.1 / own * plain["head.weight"].std, rel=1e-12)
        # A convolution for a head is in reach as well.
        conv = nn.ModuleDict({"classifier": nn.Sequential(nn.ReLU(), nn.Conv2d(8, 5, 1))})
        assert initconf.compile(conv, load(scheme, *overrides))["classifier.1.weight"].rule == "head"


def test_a_zero_head_takes_no_gain() -> None:
    with pytest.raises(initconf.CompileError, match="zeros does not take 'gain'"):
        initconf.compile(MLP(12, 5), load("fixup", "rules.head.gain=0.1"))


# --- what each framework's layers start with -------------------------------------------------------------------------

Expected = tuple[str, float] | tuple[str, float, float]


def U(bound: float) -> Expected:
    return ("uniform", bound)


def N(std: float) -> Expected:
    return ("normal", std)


def T(std: float, bound: float) -> Expected:
    return ("truncated", std, bound)


def O(std: float) -> Expected:  # noqa: E743  a matrix with orthonormal rows or columns
    return ("orthogonal", std)


def C(value: float) -> Expected:
    return ("constant", value)


def cut2(sigma: float) -> Expected:
    """A normal law cut off at two sigma, not corrected for it."""
    return T(CUT2 * sigma, 2 * sigma)


def cut3(sigma: float) -> Expected:
    return T(CUT3 * sigma, 3 * sigma)


def tn(std: float) -> Expected:
    """A normal law cut off at two sigma, with this std after it."""
    return T(std, 2 * std / CUT2)


def glorot(fan_in: float, fan_out: float) -> Expected:
    return U(math.sqrt(6 / (fan_in + fan_out)))


def check(entry: initconf.Entry, expected: Expected) -> None:
    law, label = entry.law, entry.label
    kind, number = expected[:2]
    if kind == "uniform":
        assert isinstance(law, Uniform), (label, law)
        assert (law.low, law.high) == pytest.approx((-number, number), rel=1e-12), label
    elif kind == "normal":
        assert isinstance(law, Normal), (label, law)
        assert (law.mean, law.std) == pytest.approx((0, number), rel=1e-12), label
    elif kind == "truncated":
        assert isinstance(law, TruncatedNormal), (label, law)
        assert law.mean == 0
        assert (law.std, *law.bounds) == pytest.approx((number, -expected[2], expected[2]), rel=1e-12), label
    elif kind == "orthogonal":
        assert isinstance(law, Orthogonal), (label, law)
        assert law.std == pytest.approx(number, rel=1e-12), label
    else:
        assert law == Constant(number), label


def lstm_bias(forget: float) -> dict[str, Expected]:
    both = {f"lstm.bias_{kind}_l0[{gate}]": C(0) for kind in ("ih", "hh") for gate in "ifgo"}
    return {**both, "lstm.bias_ih_l0[f]": C(forget)}


def projections(q: Expected, k: Expected, v: Expected) -> dict[str, Expected]:
    return {f"cross.{name}_proj_weight": law for name, law in zip("qkv", (q, k, v), strict=True)}


def gates(layer: str, names: str, input: Expected, state: Expected) -> dict[str, Expected]:
    """The blocks of a recurrent layer's two matrices."""
    pairs = {f"{layer}.weight_{kind}_l0": law for kind, law in (("ih", input), ("hh", state))}
    return {f"{name}[{gate}]": law for name, law in pairs.items() for gate in names} if names else pairs


ZERO_BIASES = {name: C(0) for name in "dense.bias conv.bias up.bias gru.bias_ih_l0[r] attention.out_proj.bias".split()}
NORM = {"norm.weight": C(1), "norm.bias": C(0)}
RELU_ALF = 1.4142246250  # 1/sqrt(sum of p(z) relu(z)^2 dz) over arange(-5, 5, 0.01), in float32

FRAMEWORK_LAWS: dict[str, dict[str, Expected]] = {
    "keras": {
        "emb.weight": U(0.05),
        "dense.weight": glorot(24, 40),
        "conv.weight": glorot(8 * 9, 12 * 9),
        "grouped.weight": glorot(2 * 9, 12 * 9),
        "up.weight": glorot(12 * 16, 8 * 16),
        "lstm.weight_ih_l0": glorot(24, 64),
        "lstm.weight_hh_l0": O(1 / 8),
        "gru.weight_ih_l0": glorot(24, 48),
        "gru.weight_hh_l0": O(1 / math.sqrt(48)),
        "rnn.weight_ih_l0": glorot(24, 16),
        "rnn.weight_hh_l0": O(1 / 4),
        **{f"attention.in_proj_weight[{b}]": glorot(24, 24) for b in "qkv"},
        "attention.out_proj.weight": glorot(24, 24),
        **projections(glorot(24, 24), glorot(10, 24), glorot(14, 24)),
        "head.weight": glorot(40, 10),
        "prelu.weight": C(0),
        **lstm_bias(1),
        **ZERO_BIASES,
        **NORM,
    },
    "flax": {
        "emb.weight": N(math.sqrt(1 / 24)),
        "dense.weight": tn(math.sqrt(1 / 24)),
        "conv.weight": tn(math.sqrt(1 / 72)),
        "grouped.weight": tn(math.sqrt(1 / 18)),
        "up.weight": tn(math.sqrt(1 / 128)),
        **gates("lstm", "ifgo", tn(math.sqrt(1 / 24)), O(1 / 4)),
        **gates("gru", "rzn", tn(math.sqrt(1 / 24)), O(1 / 4)),
        **gates("rnn", "", tn(math.sqrt(1 / 24)), O(1 / 4)),
        **{f"attention.in_proj_weight[{b}]": tn(math.sqrt(1 / 24)) for b in "qkv"},
        "attention.out_proj.weight": tn(math.sqrt(1 / 24)),
        **projections(tn(math.sqrt(1 / 24)), tn(math.sqrt(1 / 10)), tn(math.sqrt(1 / 14))),
        "head.weight": tn(math.sqrt(1 / 40)),
        "prelu.weight": C(0.01),
        **lstm_bias(0),
        **ZERO_BIASES,
        **NORM,
    },
    "haiku": {
        "emb.weight": cut2(1),
        "dense.weight": cut2(math.sqrt(1 / 24)),
        "conv.weight": cut2(math.sqrt(1 / 72)),
        "grouped.weight": cut2(math.sqrt(1 / 18)),
        "up.weight": cut2(math.sqrt(1 / 128)),
        **gates("lstm", "ifgo", cut2(math.sqrt(1 / (24 + 16))), cut2(math.sqrt(1 / (16 + 16)))),
        **gates("gru", "rzn", tn(math.sqrt(1 / 24)), tn(math.sqrt(1 / 16))),
        **gates("rnn", "", cut2(math.sqrt(1 / 24)), cut2(math.sqrt(1 / 16))),
        "head.weight": cut2(math.sqrt(1 / 40)),
        **lstm_bias(1),
        **ZERO_BIASES,
        **NORM,
    },
    "lingvo": {
        "emb.weight": N(math.sqrt(1 / 24)),
        "dense.weight": U(1.000001 * math.sqrt(6 / 64)),
        "conv.weight": U(1.000001 * math.sqrt(6 / (20 * 9))),
        "grouped.weight": U(1.000001 * math.sqrt(6 / (14 * 9))),
        "up.weight": U(1.000001 * math.sqrt(6 / (20 * 16))),
        **gates("lstm", "ifgo", U(1.000001 * math.sqrt(6 / (24 + 16 + 64))), U(1.000001 * math.sqrt(6 / (16 + 16 + 64)))),
        **gates("gru", "rzn", U(1.000001 * math.sqrt(6 / (24 + 16 + 16))), U(1.000001 * math.sqrt(6 / (16 + 16 + 16)))),
        "head.weight": U(1.000001 * math.sqrt(6 / 50)),
        **lstm_bias(0),
        **ZERO_BIASES,
        **NORM,
    },
    "returnn_tf": {
        "emb.weight": glorot(50, 24),
        "dense.weight": glorot(24, 40),
        "conv.weight": glorot(8 * 9, 12 * 9),
        "grouped.weight": glorot(2 * 9, 12 * 9),
        "up.weight": glorot(12 * 16, 8 * 16),
        "lstm.weight_ih_l0": glorot(24, 64),
        "lstm.weight_hh_l0": glorot(16, 64),
        "gru.weight_ih_l0": glorot(24, 48),
        "attention.in_proj_weight": glorot(24, 72),
        "attention.out_proj.weight": glorot(24, 24),
        # the variances of cross attention: 1/2 for queries, 3/4 for keys and values in one matrix
        **projections(
            U(math.sqrt(1 / 2 * 6 / (24 + 24))), U(math.sqrt(3 / 4 * 6 / (10 + 48))), U(math.sqrt(3 / 4 * 6 / (14 + 48)))
        ),
        "head.weight": glorot(40, 10),
        **lstm_bias(0),
        **ZERO_BIASES,
        **NORM,
    },
    "returnn_theano": {
        "emb.weight": N(math.sqrt(12 / (50 + 24))),
        "dense.weight": N(math.sqrt(12 / (24 + 40))),
        "lstm.weight_ih_l0": N(math.sqrt(12 / (24 + 64))),
        "lstm.weight_hh_l0": N(math.sqrt(12 / (16 + 64))),
        "rnn.weight_hh_l0": N(math.sqrt(12 / 32)),
        "head.weight": N(math.sqrt(12 / 50)),
        **lstm_bias(0),
        **ZERO_BIASES,
        **NORM,
    },
    "tensor2tensor": {
        "emb.weight": N(math.sqrt(1 / 24)),
        "dense.weight": glorot(24, 40),
        **{f"attention.in_proj_weight[{b}]": glorot(24, 24) for b in "qkv"},
        "attention.out_proj.weight": glorot(24, 24),
        "head.weight": N(math.sqrt(1 / 40)),
        **ZERO_BIASES,
        **NORM,
    },
    "torch_proposed": {
        "dense.weight": N(math.sqrt(2 / 24)),
        "conv.weight": N(math.sqrt(2 / 72)),
        "grouped.weight": N(math.sqrt(2 / 18)),
        "up.weight": N(math.sqrt(2 / (12 * 16))),  # torch's fan_in of a transposed convolution
        "head.weight": N(math.sqrt(2 / 40)),
        "dense.bias": C(0),
        "up.bias": C(0),
    },
}


def entries(plan: initconf.Plan) -> Iterator[tuple[str, initconf.Entry]]:
    for entry in plan:
        yield entry.name, entry
        for block in entry.blocks:
            yield block.label, block


@pytest.mark.parametrize("scheme", FRAMEWORK_LAWS)
def test_the_laws_of_a_framework(scheme: str) -> None:
    found = dict(entries(initconf.compile(Everything(), load(scheme))))
    for name, expected in FRAMEWORK_LAWS[scheme].items():
        check(found[name], expected)
    report = initconf.initialize(model := Everything(), load(scheme)).verify()
    assert not model.emb.weight[3].any()
    assert report.plan == initconf.compile(Everything(), load(scheme))


def test_the_laws_of_alf() -> None:
    # Its sums are in float32, so its numbers are good to seven digits.
    plan = initconf.compile(Everything(), load("alf"))
    for name, std in {
        "dense.weight": RELU_ALF / math.sqrt(24),
        "conv.weight": RELU_ALF / math.sqrt(72),
        "grouped.weight": RELU_ALF / math.sqrt(18),
        "up.weight": RELU_ALF / math.sqrt(8 * 16),
        "head.weight": 1.000007629 / math.sqrt(40),
    }.items():
        assert isinstance(plan[name].law, TruncatedNormal)
        assert plan[name].std == pytest.approx(std, rel=1e-6), name
    check(plan["emb.weight"], N(1))
    check(plan["attention.out_proj.weight"], glorot(24, 24))
    for block in plan["attention.in_proj_weight"].blocks:
        check(block, glorot(24, 24))
    assert isinstance(plan["lstm.weight_hh_l0"].law, ModuleDefault)
    tanh = initconf.compile(Everything(), load("alf", "nonlinearity=tanh"))
    assert tanh["dense.weight"].std == pytest.approx(1.592538595 / math.sqrt(24), rel=1e-6)


def test_the_laws_can_fail() -> None:
    found = dict(entries(initconf.compile(Everything(), load("flax"))))
    wrong = [name for name, law in FRAMEWORK_LAWS["haiku"].items() if name in found and not _holds(found[name], law)]
    assert {"emb.weight", "dense.weight", "up.weight", "lstm.bias_ih_l0[f]"} <= {*wrong}
    assert not {"dense.bias", "norm.weight", "gru.weight_ih_l0[r]"} & {*wrong}


def _holds(entry: initconf.Entry, expected: Expected) -> bool:
    try:
        check(entry, expected)
    except AssertionError:
        return False
    return True


# --- torch: every module ---------------------------------------------------------------------------------------------

r24, r32, r40 = (1 / math.sqrt(n) for n in (24, 32, 40))
NORM_OF_32 = {"weight": C(1), "bias": C(0)}


def rnn_laws(make: Callable[[], nn.Module], hidden: int) -> dict[str, Expected]:
    return {name: U(1 / math.sqrt(hidden)) for name, _ in make().named_parameters()}


def attention_laws(prefix: str = "", fused: bool = True) -> dict[str, Expected]:
    """Of a MultiheadAttention(32): q, k and v as one matrix, whose Xavier bound so is smaller by sqrt(2)."""
    whole = {"in_proj_weight": U(math.sqrt(6 / (32 + 96)))}
    apart = {"q_proj_weight": glorot(32, 32), "k_proj_weight": glorot(20, 32), "v_proj_weight": glorot(12, 32)}
    own = {"in_proj_bias": C(0), "out_proj.weight": U(r32), "out_proj.bias": C(0)}
    return {f"{prefix}{name}": law for name, law in {**(whole if fused else apart), **own}.items()}


def layer_laws(prefix: str, decoder: bool) -> dict[str, Expected]:
    """Of a layer of width 32 with 48 in between."""
    norms = {f"{prefix}norm{i}.{name}": law for i in range(1, 4 if decoder else 3) for name, law in NORM_OF_32.items()}
    return {
        **attention_laws(f"{prefix}self_attn."),
        **(attention_laws(f"{prefix}multihead_attn.") if decoder else {}),
        f"{prefix}linear1.weight": U(r32),
        f"{prefix}linear1.bias": U(r32),
        f"{prefix}linear2.weight": U(1 / math.sqrt(48)),
        f"{prefix}linear2.bias": U(1 / math.sqrt(48)),
        **norms,
    }


def whole_transformer_laws() -> dict[str, Expected]:
    laws = {**layer_laws("encoder.layers.0.", False), **layer_laws("decoder.layers.0.", True)}
    laws |= {f"{side}.norm.{name}": law for side in ("encoder", "decoder") for name, law in NORM_OF_32.items()}
    for name in laws:
        if name.endswith("in_proj_weight"):
            laws[name] = glorot(32, 96)
        elif name.endswith("out_proj.weight"):
            laws[name] = glorot(32, 32)
        elif "linear" in name and name.endswith("weight"):
            laws[name] = glorot(32, 48)
    return laws


def transformer_of_torch() -> nn.Module:
    return nn.Transformer(32, 4, 1, 1, 48, batch_first=True)


TORCH: dict[str, tuple[Callable[[], nn.Module], dict[str, Expected]]] = {
    "Linear": (lambda: nn.Linear(24, 60), {"weight": U(r24), "bias": U(r24)}),
    "Bilinear": (lambda: nn.Bilinear(24, 10, 9), {"weight": U(r24), "bias": U(r24)}),
    "Conv1d": (lambda: nn.Conv1d(8, 60, 3, stride=2), {"weight": U(r24), "bias": U(r24)}),
    "Conv2d": (lambda: nn.Conv2d(8, 40, (3, 4), groups=4), {"weight": U(r24), "bias": U(r24)}),
    "Conv3d": (lambda: nn.Conv3d(3, 40, 2, padding=1), {"weight": U(r24), "bias": U(r24)}),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(30, 8, 3, stride=2), {"weight": U(r24), "bias": U(r24)}),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(40, 8, (3, 4), groups=4), {"weight": U(r24), "bias": U(r24)}),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(40, 3, 2), {"weight": U(r24), "bias": U(r24)}),
    "Embedding": (lambda: nn.Embedding(60, 24, padding_idx=-1), {"weight": N(1)}),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(60, 24, padding_idx=2), {"weight": N(1)}),
    "RNN": (lambda: nn.RNN(20, 24, 2), rnn_laws(lambda: nn.RNN(20, 24, 2), 24)),
    "LSTM": (
        lambda: nn.LSTM(20, 24, bidirectional=True, proj_size=10),
        rnn_laws(lambda: nn.LSTM(20, 24, bidirectional=True, proj_size=10), 24),
    ),
    "GRU": (lambda: nn.GRU(20, 24), rnn_laws(lambda: nn.GRU(20, 24), 24)),
    "RNNCell": (lambda: nn.RNNCell(20, 24), rnn_laws(lambda: nn.RNNCell(20, 24), 24)),
    "LSTMCell": (lambda: nn.LSTMCell(20, 24), rnn_laws(lambda: nn.LSTMCell(20, 24), 24)),
    "GRUCell": (lambda: nn.GRUCell(20, 24), rnn_laws(lambda: nn.GRUCell(20, 24), 24)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(32, 4), attention_laws()),
    "MultiheadAttention, three widths": (
        lambda: nn.MultiheadAttention(32, 4, kdim=20, vdim=12, add_bias_kv=True),
        {**attention_laws(fused=False), "bias_k": N(r32), "bias_v": N(r32)},
    ),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), layer_laws("", False)),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(32, 4, 48), layer_laws("", True)),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), 1),
        layer_laws("layers.0.", False),
    ),
    "TransformerDecoder": (
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 48), 1),
        layer_laws("layers.0.", True),
    ),
    "Transformer": (transformer_of_torch, whole_transformer_laws()),
    "AdaptiveLogSoftmaxWithLoss": (
        lambda: nn.AdaptiveLogSoftmaxWithLoss(32, 200, [20, 80], div_value=2.0, head_bias=True),
        {
            "head.weight": U(r32),
            "head.bias": U(r32),
            "tail.0.0.weight": U(r32),
            "tail.0.1.weight": U(1 / 4),
            "tail.1.0.weight": U(r32),
            "tail.1.1.weight": U(1 / math.sqrt(8)),
        },
    ),
    "LinearCrossEntropyLoss": (
        lambda: nn.LinearCrossEntropyLoss(32, 40, bias=True),
        {"linear.weight": U(r32), "linear.bias": U(r32)},
    ),
    "PReLU": (lambda: nn.PReLU(5, init=0.1), {"weight": C(0.1)}),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(8), NORM_OF_32),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(8), NORM_OF_32),
    "BatchNorm3d": (lambda: nn.BatchNorm3d(8), NORM_OF_32),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(8), NORM_OF_32),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(8, affine=True), NORM_OF_32),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(8, affine=True), NORM_OF_32),
    "InstanceNorm3d": (lambda: nn.InstanceNorm3d(8, affine=True), NORM_OF_32),
    "GroupNorm": (lambda: nn.GroupNorm(2, 8), NORM_OF_32),
    "LayerNorm": (lambda: nn.LayerNorm((4, 8)), NORM_OF_32),
    "RMSNorm": (lambda: nn.RMSNorm((4, 8)), {"weight": C(1)}),
    "CrossMapLRN2d": (lambda: nn.CrossMapLRN2d(2), {}),
}
BASES = {"RNNBase", "RNNCellBase", "ParameterList", "ParameterDict"}
DRAWS = 8


def test_every_module_of_torch_with_parameters_is_tested() -> None:
    makes = re.compile(r"\bParameter\(|register_parameter\(|_get_clones\(|\b(Linear|LayerNorm)\(\s*\w")
    with_parameters = set()
    for name, kind in vars(nn).items():
        if not inspect.isclass(kind) or not issubclass(kind, nn.Module) or name.startswith("Lazy") or name == "DataParallel":
            continue  # a lazy module becomes its plain self once it knows its sizes
        own = [c.__init__ for c in kind.__mro__ if c.__module__.startswith("torch.nn.modules") and c is not nn.Module]
        if any(makes.search(inspect.getsource(init)) for init in own if inspect.isfunction(init)):
            with_parameters.add(name)
    assert {"Linear", "LinearCrossEntropyLoss", "SyncBatchNorm", "LSTMCell", "TransformerDecoder"} <= with_parameters
    assert with_parameters - BASES <= TORCH.keys()


def drawn(make: Callable[[], nn.Module], write: Callable[[nn.Module, int], object]) -> dict[str, Tensor]:
    """The values of each parameter over several draws, one row each, without the row that is padding."""
    rows: dict[str, list[Tensor]] = {}
    for seed in range(DRAWS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make()
        write(model, seed)
        for name, parameter in model.named_parameters():
            values = parameter.detach()
            if isinstance(model, (nn.Embedding, nn.EmbeddingBag)):
                assert not values[model.padding_idx].any()
                values = torch.cat([values[: model.padding_idx], values[model.padding_idx :][1:]])
            rows.setdefault(name, []).append(values.flatten().double())
    return {name: torch.cat(values) for name, values in rows.items()}


def check_values(label: str, values: Tensor, expected: Expected) -> None:
    """Bounds to rounding, reached to a few spacings; mean and std within five of their own standard errors."""
    kind, number = expected[:2]
    n = values.numel()
    if kind == "constant":
        assert bool((values == torch.tensor(number, dtype=torch.float32).double()).all()), label
        return
    std = number / math.sqrt(3) if kind == "uniform" else number
    kurtosis = 1.8 if kind == "uniform" else 3
    if kind == "uniform":
        assert values.abs().max() <= number * (1 + 1e-6), label
        assert values.abs().max() >= number * (1 - 25 / n), label
    assert abs(values.mean()) < 5 * std / math.sqrt(n), label
    assert abs(values.square().mean().sqrt() / std - 1) < 5 * math.sqrt((kurtosis - 1) / (4 * n)), label


@pytest.mark.parametrize("kind", TORCH)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")  # said by the constructor of TransformerEncoder
def test_the_scheme_torch_is_the_constructor(kind: str) -> None:
    make, laws = TORCH[kind]
    plan = initconf.compile(make(), load("torch"))
    assert {entry.name for entry in plan} == laws.keys()
    for entry in plan:
        if not any(isinstance(leaf.law, ModuleDefault) for leaf in entry.leaves()):
            check(entry, laws[entry.name])
    constructed = drawn(make, lambda model, seed: None)
    planned = drawn(make, lambda model, seed: initconf.initialize(model, load("torch"), seed=seed).verify())
    for name, law in laws.items():
        check_values(f"constructor: {name}", constructed[name], law)
        check_values(f"plan: {name}", planned[name], law)
        if law[0] != "constant":
            assert not torch.equal(constructed[name], planned[name])  # the plan has streams of its own


def test_the_check_of_constructors_can_fail() -> None:
    values = drawn(lambda: nn.Linear(24, 60), lambda model, seed: None)["weight"]
    check_values("right", values, U(r24))
    for wrong in (U(r24 * 1.04), U(r24 * 0.999), N(r24 / math.sqrt(3) * 1.05), C(0)):
        with pytest.raises(AssertionError):
            check_values("wrong", values, wrong)


def test_a_lazy_module_is_its_plain_self_once_it_knows_its_sizes() -> None:
    lazy = nn.LazyConv2d(12, 3)
    lazy(torch.zeros(1, 8, 5, 5))
    check(initconf.compile(lazy, load("torch"))["weight"], U(1 / math.sqrt(72)))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
def test_layers_without_inputs() -> None:
    model = nn.Linear(0, 5)
    initconf.initialize(model, load("torch")).verify()
    assert not model.bias.any()


def test_a_transformer_within_a_model() -> None:
    model = nn.ModuleDict({"core": transformer(16, 1, 1, 32), "out": nn.Linear(16, 9)})
    for scheme in ("torch", "torch_proposed"):
        plan = initconf.compile(model, load(scheme))
        check(plan["core.encoder.layers.0.linear1.weight"], glorot(16, 32))
        check(plan["core.encoder.layers.0.self_attn.in_proj_weight"], glorot(16, 48))
    check(initconf.compile(model, load("torch"))["out.weight"], U(1 / 4))

    class Transformer(nn.Module):  # somebody's own, which has no such habit
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 32)

    check(initconf.compile(Transformer(), load("torch"))["linear.weight"], U(1 / 4))


# --- depth -----------------------------------------------------------------------------------------------------------

# For depth 6, 12, 24, 48, computed outside of initconf and of Python's float expressions here.
DEPTHS = (6, 12, 24, 48)
GPT2 = (0.005773503, 0.004082483, 0.002886751, 0.002041241)
WANG_768 = (0.01202813, 0.006014065, 0.003007033, 0.001503516)
FIXUP_2 = (0.4082483, 0.2886751, 0.2041241, 0.1443376)
FIXUP_3 = (0.6389431, 0.5372850, 0.4518010, 0.3799178)
TFIXUP_ENCODER = (0.4280919, 0.3599809, 0.3027067, 0.2545450)
TFIXUP_DECODER = (0.3688940, 0.3102016, 0.2608474, 0.2193457)
DEEPNORM_BETA = {6: 0.3799178, 12: 0.3194716, 24: 0.2686425, 100: 0.1880302}
SMALL_768 = 0.02282177
BRANCH_ENDS = ("attn.out_proj.weight", "mlp.c_proj.weight")


def gpt(depth: int) -> nn.Module:
    with torch.device("meta"):
        return GPT(100, 16, depth, 4, 768, tie=False)


@pytest.mark.parametrize(("depth", "residual", "wang"), list(zip(DEPTHS, GPT2, WANG_768, strict=True)))
def test_depth_of_gpts(depth: int, residual: float, wang: float) -> None:
    model = gpt(depth)
    gpt2, neox, megatron = (initconf.compile(model, load(scheme)) for scheme in ("gpt2", "neox", "megatron"))
    for layer in {0, depth - 1}:
        for name in BRANCH_ENDS:
            assert gpt2[f"blocks.{layer}.{name}"].std == pytest.approx(residual, rel=1e-6)
            check(megatron[f"blocks.{layer}.{name}"], cut3(0.02 / math.sqrt(2 * depth)))
            assert neox[f"blocks.{layer}.{name}"].std == pytest.approx(wang, rel=1e-6)
        for name in ("attn.q_proj.weight", "mlp.c_fc.weight"):
            assert neox[f"blocks.{layer}.{name}"].std == pytest.approx(SMALL_768, rel=1e-6)
            check(megatron[f"blocks.{layer}.{name}"], cut3(0.02))
    for name in ("tok_emb.weight", "pos_emb.weight", "lm_head.weight"):
        assert neox[name].std == pytest.approx(SMALL_768, rel=1e-6)
    check(megatron["lm_head.weight"], cut3(1 / math.sqrt(768)))
    check(megatron["tok_emb.weight"], cut3(0.02))


def test_depth_of_mitchell() -> None:
    plan = initconf.compile(gpt(12), load("mitchell"))
    for name in "tok_emb pos_emb lm_head blocks.5.attn.q_proj blocks.11.mlp.c_fc".split():
        assert plan[f"{name}.weight"].std == pytest.approx(0.03560008, rel=1e-6)
        assert plan[f"{name}.weight"].law.parent[1] == pytest.approx(0.03608439, rel=1e-6)
    for name, sigma in {
        "blocks.0.attn.out_proj.weight": 0.02551552,
        "blocks.0.mlp.c_proj.weight": 0.01275776,
        "blocks.11.attn.out_proj.weight": 0.007365696,
        "blocks.11.mlp.c_proj.weight": 0.003682848,
    }.items():
        assert plan[name].law.parent[1] == pytest.approx(sigma, rel=1e-6)
        assert plan[name].law.bounds[1] == pytest.approx(3 * sigma, rel=1e-6)


@pytest.mark.parametrize(
    "name",
    """transformer.blocks.1.attn_out blocks.1.ff_out h.1.attn.c_proj h.1.mlp.c_proj layers.1.self_attn.o_proj
    layers.1.mlp.down_proj layers.1.attention.wo layers.1.feed_forward.w2 layers.1.attention.dense
    layers.1.mlp.dense_4h_to_h blocks.1.attn.proj blocks.1.mlp.fc2 layers.1.fc2 layers.1.linear2
    encoder.layer.1.output.dense encoder.layer.1.attention.output.dense layers.1.self_attn.out_proj""".split(),
)
def test_what_ends_a_branch(name: str) -> None:
    for scheme in ("neox", "mitchell", "megatron"):
        rule = load(scheme).rules["residual"]
        assert re.search(rule.search, f"{name}.weight")
        assert re.search(rule.search, f"model.{name}.weight")
        assert not re.search(rule.search, f"{name}.bias")


@pytest.mark.parametrize("name", "fc2 conv2 ff_out layers.1.attn.proj_in layers.1.intermediate.dense dense w1".split())
def test_what_does_not(name: str) -> None:
    for scheme in ("neox", "mitchell", "megatron"):
        assert not re.search(load(scheme).rules["residual"].search, f"{name}.weight")


@pytest.mark.parametrize(("depth", "two", "three"), list(zip(DEPTHS, FIXUP_2, FIXUP_3, strict=True)))
def test_depth_of_fixup(depth: int, two: float, three: float) -> None:
    plan = initconf.compile(Staged(FixupBlock, depth, 4), load("fixup"))
    he = math.sqrt(2 / (4 * 9))  # on fan_out, and the stride counts for nothing
    for name in ("layer1.0", f"layer3.{depth // 3 - 1}"):
        assert plan[f"{name}.conv1.weight"].std / he == pytest.approx(two, rel=1e-6)
        check(plan[f"{name}.conv2.weight"], C(0))
        check(plan[f"{name}.bias1a"], C(0))
        check(plan[f"{name}.scale"], C(1))
    check(plan["conv1.weight"], N(he))
    check(plan["bias1"], C(0))
    check(plan["fc.weight"], C(0))
    plan = initconf.compile(Staged(Bottleneck, depth, 4), load("fixup"))
    assert plan["layer2.1.conv1.weight"].std / math.sqrt(2 / 4) == pytest.approx(three, rel=1e-6)
    assert plan["layer2.1.conv2.weight"].std / math.sqrt(2 / 36) == pytest.approx(three, rel=1e-6)
    check(plan["layer2.1.conv3.weight"], C(0))
    check(plan["layer2.1.downsample.0.weight"], N(math.sqrt(2 / 16)))


def test_the_branches_of_fixup_may_be_counted_otherwise() -> None:
    model = ResNet(3, 10, widths=(8, 16), depth=3)
    assert initconf.compile(model, load("fixup"))["blocks.5.conv1.weight"].std == pytest.approx(math.sqrt(2 / (16 * 9) / 6))
    spec = load("fixup", r'layers="(blocks\.[012])\..*"')
    assert initconf.compile(model, spec)["blocks.0.conv1.weight"].std == pytest.approx(math.sqrt(2 / (8 * 9) / 3))


class Translator(nn.Module):
    def __init__(self, d: int, n: int, m: int) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(20, d)
        self.pos_emb = nn.Embedding(9, d)
        self.core = transformer(d, n, m)
        self.head = nn.Linear(d, 20)


@pytest.mark.parametrize(("depth", "encoder", "decoder"), list(zip(DEPTHS, TFIXUP_ENCODER, TFIXUP_DECODER, strict=True)))
def test_depth_of_tfixup(depth: int, encoder: float, decoder: float) -> None:
    with torch.device("meta"):
        model = Translator(16, depth, depth)
    plan = initconf.compile(model, load("tfixup", r'layers="(?:.*\.)?layers\.(\d+)\..*"'))
    found = dict(entries(plan))
    last = depth - 1
    for side, factor in (("encoder", encoder), ("decoder", decoder)):
        prefix = f"core.{side}.layers.{last}"
        for name, fans in {"linear1.weight": 80, "linear2.weight": 80, "self_attn.out_proj.weight": 32}.items():
            assert found[f"{prefix}.{name}"].law.high / math.sqrt(6 / fans) == pytest.approx(factor, rel=1e-6)
        assert found[f"{prefix}.self_attn.in_proj_weight[v]"].law.high / math.sqrt(6 / 32) == pytest.approx(factor, rel=1e-6)
        check(found[f"{prefix}.self_attn.in_proj_weight[q]"], U(math.sqrt(6 / 32 / 2)))
    cross = f"core.decoder.layers.{last}.multihead_attn"
    assert found[f"{cross}.in_proj_weight[v]"].law.high / math.sqrt(6 / 32) == pytest.approx(decoder, rel=1e-6)
    assert found["tok_emb.weight"].std == pytest.approx(decoder / 4, rel=1e-6)  # (9N)^(-1/4) too
    check(found["pos_emb.weight"], N(1 / 4))


def test_tfixup_asks_which_stack_an_embedding_belongs_to() -> None:
    with pytest.raises(initconf.CompileError, match="say which with `layers"):
        initconf.compile(Translator(16, 2, 3), load("tfixup"))
    plan = initconf.compile(transformer(16, 2, 3), load("tfixup"))  # without embeddings each stack knows its depth
    assert plan["encoder.layers.0.linear1.weight"].law.high / math.sqrt(6 / 80) == pytest.approx(0.67 * 2**-0.25)
    assert plan["decoder.layers.0.linear1.weight"].law.high / math.sqrt(6 / 80) == pytest.approx(27**-0.25)


@pytest.mark.parametrize(("depth", "beta"), list(DEEPNORM_BETA.items()))
def test_depth_of_deepnorm(depth: int, beta: float) -> None:
    with torch.device("meta"):
        layer = nn.TransformerEncoderLayer(16, 4, 64, batch_first=True)
        model = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    found = dict(entries(initconf.compile(model, load("deepnorm"))))
    prefix = f"layers.{depth - 1}"
    for name, fans in {"linear1.weight": 80, "linear2.weight": 80, "self_attn.out_proj.weight": 32}.items():
        assert found[f"{prefix}.{name}"].law.high / math.sqrt(6 / fans) == pytest.approx(beta, rel=1e-6)
    assert found[f"{prefix}.self_attn.in_proj_weight[v]"].law.high / math.sqrt(6 / 32) == pytest.approx(beta, rel=1e-6)
    check(found[f"{prefix}.self_attn.in_proj_weight[q]"], glorot(16, 16))
    check(found[f"{prefix}.self_attn.in_proj_weight[k]"], glorot(16, 16))


def test_deepnorm_of_two_stacks_as_its_comment_says() -> None:
    text = (CONF / "deepnorm.yaml").read_text()
    lines = re.findall(r"^#   (\w+: \{.*\})$", text, re.MULTILINE)
    assert len(lines) == 4
    import yaml

    rules = {name: rule for line in lines for name, rule in yaml.safe_load(line).items()}
    for rule in rules.values():
        rule["gain"] = rule["gain"].replace("6**-0.0625", "12**-0.0625")
    found = dict(entries(initconf.compile(transformer(16, 12, 12), {"defaults": ["deepnorm"], "rules": rules})))
    for name in ("linear1.weight", "self_attn.out_proj.weight", "self_attn.in_proj_weight[v]"):
        xavier = math.sqrt(6 / (80 if "linear" in name else 32))
        assert found[f"encoder.layers.3.{name}"].law.high / xavier == pytest.approx(0.4001982, rel=3e-3)  # 0.87 is rounded
        assert found[f"encoder.layers.3.{name}"].law.high / xavier == pytest.approx(0.87 * 12 ** (-5 / 16), rel=1e-9)
        assert found[f"decoder.layers.3.{name}"].law.high / xavier == pytest.approx(0.2886751, rel=1e-6)
    check(found["decoder.layers.0.self_attn.in_proj_weight[q]"], glorot(16, 16))


# --- rule files for parts of models ----------------------------------------------------------------------------------


def with_rules(scheme: str, part: str) -> initconf.InitSpec:
    return load(scheme, f"+init/rules@init.rules={part}")


@pytest.mark.parametrize("part", PARTS)
def test_rule_files_leave_other_models_alone(part: str) -> None:
    for name in ("everything", "mlp", "gpt", "transformer"):
        plan = initconf.compile(ZOO[name](), with_rules("he", part))
        assert plan == initconf.compile(ZOO[name](), load("he"))


def test_lora() -> None:
    model = Adapted()
    plan = initconf.compile(model, with_rules("he", "lora"))
    check(plan["lora_A.default.weight"], U(1 / math.sqrt(20)))
    check(plan["lora_B.default.weight"], C(0))
    check(plan["lora_embedding_A.default"], C(0))
    check(plan["lora_embedding_B.default"], N(1))
    initconf.apply(model, plan).verify()
    assert bool((model.lora_magnitude_vector["default"] == 9).all())


def test_lora_gaussian_as_its_comment_says() -> None:
    import yaml

    line = next(x for x in (CONF / "rules/lora.yaml").read_text().splitlines() if x.startswith("#   lora_a:"))
    spec = with_rules("he", "lora").model_dump(exclude_none=True, mode="json")
    rule = yaml.safe_load(line.removeprefix("#   "))
    plan = initconf.compile(Adapted(r=8), {"defaults": ["he", {"/init/rules@rules": ["lora"]}], "rules": rule})
    check(plan["lora_A.default.weight"], N(1 / 8))
    assert "lora_a" in spec["rules"]


def softplus(x: Tensor) -> Tensor:
    return x.detach().double().exp().log1p()


def test_mamba() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([Mamba(), Mamba(), Mamba()]), "norm": nn.LayerNorm(16)})
    plan = initconf.compile(model, with_rules("torch", "mamba"))
    initconf.apply(model, plan).verify()
    layer = model["layers"][1]
    assert torch.equal(layer.A_log, torch.log(torch.arange(1.0, 5.0).double()).float().expand(32, 4))
    assert bool((layer.D == 1).all())
    dt = softplus(layer.dt_proj.bias)
    assert 0.001 * (1 - 1e-5) < float(dt.min()) <= float(dt.max()) < 0.1 * (1 + 1e-5)
    check(plan["layers.1.dt_proj.weight"], U(1 / math.sqrt(3)))
    check(plan["layers.1.out_proj.weight"], U(1 / math.sqrt(32 * 3)))
    check(plan["layers.1.in_proj.weight"], U(1 / 4))


def test_mamba_2() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([Mamba2(), Mamba2()])})
    initconf.initialize(model, with_rules("torch", "mamba")).verify()
    layer = model["layers"][0]
    a = layer.A_log.detach().double().exp()
    assert 1 - 1e-6 <= float(a.min()) <= float(a.max()) <= 16 * (1 + 1e-6)
    assert float(a.std()) > 1
    assert bool((layer.D == 1).all())
    assert float(softplus(layer.dt_bias).min()) > 0.001 * (1 - 1e-5)


def test_mamba_guards_its_steps() -> None:
    spec = load("he", "+init/rules@init.rules=mamba", "rules.zero={search: bias, initializer: zeros}")
    model = nn.ModuleDict({"layers": nn.ModuleList([Mamba()])})
    plan = initconf.compile(model, spec)
    assert plan["layers.0.dt_proj.bias"].rule == "dt_bias"
    assert plan["layers.0.conv1d.bias"].rule == "zero"
    bent = load("he", "+init/rules@init.rules=mamba", "rules.zero={search: bias, initializer: zeros, priority: 2}")
    assert initconf.compile(model, bent)["layers.0.dt_proj.bias"].rule == "zero"


def test_an_out_projection_is_mambas_only_within_mamba() -> None:
    plan = initconf.compile(ZOO["gpt"](), with_rules("he", "mamba"))
    assert plan["blocks.0.attn.out_proj.weight"].rule is None


def test_rezero() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.resweight, self.alpha = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(()))

    plan = initconf.compile(nn.Sequential(Branch(), nn.Linear(2, 2)), with_rules("he", "rezero"))
    assert [plan[name].mean for name in ("0.resweight", "0.alpha")] == [0.0, 0.0]


def test_layer_scale() -> None:
    model = nn.ModuleDict({"block": Scaled(), "own_norm": OwnNorm(), "act": nn.PReLU()})
    plan = initconf.compile(model, with_rules("he", "layer_scale"))
    initconf.apply(model, plan).verify()
    for name in "ls1.gamma layer_scale layer_scale1.lambda1 gamma gamma_1 lambda_1".split():
        check(plan[f"block.{name}"], C(1e-4))
    check(plan["block.norm.weight"], C(1))
    assert plan["own_norm.gamma"].rule == "norm_scale"
    assert plan["act.weight"].rule == "gate_scale"
    smaller = load("he", "+init/rules@init.rules=layer_scale", "rules.layer_scale.initializer.value=1e-6")
    check(initconf.compile(model, smaller)["block.layer_scale"], C(1e-6))


def test_zero_gamma() -> None:
    plan = initconf.compile(ZOO["resnet"](), with_rules("he", "zero_gamma"))
    for i in range(4):
        check(plan[f"blocks.{i}.bn2.weight"], C(0))
        check(plan[f"blocks.{i}.bn1.weight"], C(1))
    check(plan["blocks.2.shortcut.1.weight"], C(1))
    check(plan["bn.weight"], C(1))
    plan = initconf.compile(ZOO["bottleneck"](), with_rules("he", "zero_gamma"))
    check(plan["layer1.0.bn3.weight"], C(0))
    check(plan["layer1.0.bn2.weight"], C(1))
    check(plan["layer1.0.downsample.1.weight"], C(1))

"""Output layers of hypernetworks: which rows generate what, and what they receive."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initconf
from initconf.errors import ApplyError, CompileError, InitConfError
from initconf.hyper.targets import declared
from initconf.hyper.variances import wanted
from initconf.laws import Constant, Flat, Normal, Orthogonal, TruncatedNormal, Uniform
from initconf.registry import find
from initconf.survey import survey

SHAPES = {"w1": (30, 20), "b1": (30,), "g": (30,), "s": (30,), "w2": (10, 30), "b2": (10,)}
KINDS = {"w1": ("weight", 0), "b1": ("bias", 0), "g": ("norm_scale", None), "s": ("norm_shift", None), "w2": ("weight", 1),
         "b2": ("bias", 1)}  # fmt: skip
LIST = [
    {"name": name, "kind": kind, "layer": layer, "shape": list(SHAPES[name]), "nonlinearity": "relu"}
    for name, (kind, layer) in KINDS.items()
]
SIZES = [math.prod(shape) for shape in SHAPES.values()]
TOTAL = sum(SIZES)
WIDTH = 16
VARIANCES = {"w1": 1 / 20, "b1": 1.0, "g": 0.0, "s": 0.0, "w2": 1 / 30, "b2": 1.0}
"""What `fan_in` wants with half a share for biases, c = 2."""


class Fused(nn.Module):
    def __init__(self, total: int = TOTAL, bias: bool = True, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.emb = nn.Embedding(5, 8)
        self.body = nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, total, bias=bias, dtype=dtype)

    def forward(self, i: Tensor) -> Tensor:
        return self.head(self.body(self.emb(i)))


class Separate(nn.Module):
    def __init__(self, sizes: Sequence[int] = SIZES, bias: bool = True) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(WIDTH, n, bias=bias) for n in sizes)


SCHEME = {"initializer": "variance_scaling", "distribution": "untruncated_normal", "nonlinearity": "relu", "seed": 0}
ROLES = {
    "bias": {"role": "bias", "initializer": "zeros", "optional": True},
    "norm_scale": {"role": "norm_scale", "initializer": "ones", "optional": True},
    "norm_shift": {"role": "norm_shift", "initializer": "zeros", "optional": True},
    "embedding": {"role": "embedding", "initializer": {"name": "normal", "std": 1}, "optional": True},
}
"""As `he` has them, but composed by nobody."""


def spec(initializer: Any = "hyperfan", targets: Any = LIST, match: str = r"heads?\..*", **more: Any) -> dict[str, Any]:
    """A scheme with an initializer for the output layer."""
    rules = {**ROLES, **more.pop("rules", {}), "hyper": {"match": match, "initializer": initializer}}
    return {**SCHEME, "rules": rules, "targets": {"main": targets} if targets else {}, **more}


def hyperfan(**arguments: Any) -> dict[str, Any]:
    return {"name": "hyperfan", **arguments}


def refused(model: nn.Module, said: Mapping[str, Any], **arguments: Any) -> str:
    with pytest.raises(CompileError) as caught:
        initconf.compile(model, said, **arguments)
    return str(caught.value)


# --- which rows generate what ----------------------------------------------------------------------------------------------


def test_each_target_is_a_block_of_weight_and_bias() -> None:
    plan = initconf.compile(Fused(), spec(hyperfan(input_second_moment=0.5)))
    for name, shape in (("head.weight", (WIDTH,)), ("head.bias", ())):
        entry = plan[name]
        assert [b.block for b in entry.blocks] == list(SHAPES)
        assert [b.shape for b in entry.blocks] == [(n, *shape) for n in SIZES]
        assert [b.start for b in entry.blocks] == [sum(SIZES[:i]) for i in range(6)]
        assert {(b.rule, b.initializer, b.axis, b.name, b.role) for b in entry.blocks} == {
            ("hyper", "hyperfan", 0, name, name.partition(".")[2])
        }
    stds = [b.std for b in plan["head.weight"].blocks]
    assert stds == pytest.approx([math.sqrt(VARIANCES[name] / (WIDTH * 0.5)) for name in SHAPES])
    assert [b.law for b in plan["head.bias"].blocks] == [Constant(float(name == "g")) for name in SHAPES]
    assert [type(b.law) for b in plan["head.weight"].blocks] == [Normal, Normal, Constant, Constant, Normal, Normal]
    assert plan.warnings == ()


def test_values_are_those_of_the_plan() -> None:
    model = Fused()
    report = initconf.initialize(model, spec()).verify()
    assert initconf.Plan.from_dict(json.loads(json.dumps(report.plan.to_dict()))) == report.plan
    w, b = (dict(zip(SHAPES, p.split(SIZES), strict=True)) for p in (model.head.weight, model.head.bias))
    assert torch.equal(b["g"], torch.ones(30))
    assert not w["g"].any()
    assert not w["s"].any()
    assert not torch.cat([b[name] for name in SHAPES if name != "g"]).any()
    assert float(w["w1"].detach().std()) == pytest.approx(math.sqrt(VARIANCES["w1"] / WIDTH), rel=0.05)


def test_a_head_for_each_target_receives_the_same() -> None:
    fused, separate = (initconf.compile(model, spec()) for model in (Fused(), Separate()))
    for i, name in enumerate(SHAPES):
        for part in ("weight", "bias"):
            (block,) = separate[f"heads.{i}.{part}"].blocks
            assert (block.block, block.start) == (name, 0)
            assert block.law == fused[f"head.{part}"].blocks[i].law


def test_heads_may_hold_several_targets_each() -> None:
    plan = initconf.compile(Separate([sum(SIZES[:3]), SIZES[3], sum(SIZES[4:])]), spec())
    assert [[b.block for b in plan[f"heads.{i}.weight"].blocks] for i in range(3)] == [["w1", "b1", "g"], ["s"], ["w2", "b2"]]
    assert [[b.block for b in plan[f"heads.{i}.bias"].blocks] for i in range(3)] == [["w1", "b1", "g"], ["s"], ["w2", "b2"]]


def test_a_bias_goes_with_the_weight_of_its_owner() -> None:
    model = Separate()
    for i in (0, 1, 3, 4, 5):
        model.heads[i].bias = None  # only the norm's scale needs one
    plan = initconf.compile(model, spec())
    assert [b.block for b in plan["heads.2.bias"].blocks] == ["g"]
    assert plan["heads.2.bias"].blocks[0].law == Constant(1.0)


def test_the_order_may_be_another_one() -> None:
    order = ["b2", "w2", "s", "g", "b1", "w1"]
    first = Fused()
    initconf.initialize(first, spec())
    second = Fused()
    plan = initconf.initialize(second, spec(targets={"tensors": LIST, "order": order})).plan
    assert [b.block for b in plan["head.weight"].blocks] == order
    rows = dict(zip(order, second.head.weight.split([math.prod(SHAPES[name]) for name in order]), strict=True))
    for name, part in zip(SHAPES, first.head.weight.split(SIZES), strict=True):
        assert torch.equal(rows[name], part)  # a block's values depend on its name alone


def test_rows_may_lie_along_the_other_axis() -> None:
    class InOut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Parameter(torch.empty(WIDTH, TOTAL))

    layouts = {"head": {"match": "head", "axes": {"in": 0, "out": 1}}}
    free = [t for t in LIST if t["name"] != "g"] + [{"name": "g", "kind": "norm_shift", "shape": [30]}]
    plan = initconf.compile(InOut(), spec(targets=free, match="head", layouts=layouts))
    assert {(b.axis, b.shape[0]) for b in plan["head"].blocks} == {(1, WIDTH)}
    assert plan["head"].blocks[0].std == pytest.approx(math.sqrt(VARIANCES["w1"] / WIDTH))
    model = InOut()
    initconf.initialize(model, spec(targets=free, match="head", layouts=layouts)).verify()
    assert not model.head[:, plan["head"].blocks[2].start : plan["head"].blocks[2].start + 30].any()


def test_targets_of_a_main_network() -> None:
    main = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.LayerNorm(30), nn.Linear(30, 10))
    plan = initconf.compile(Fused(), spec(targets=None), targets={"main": main})
    listed = initconf.compile(Fused(), spec())
    assert [b.law for b in plan["head.weight"].blocks] == [b.law for b in listed["head.weight"].blocks]
    assert [b.block for b in plan["head.bias"].blocks] == [name for name, _ in main.named_parameters()]


ADD_UP = "\n  -> let the rule match the output layers alone, and let `order` name the targets as they are generated"
PATH = "init.rules.hyper.initializer  (python): hyperfan for the targets 'main': "


@pytest.mark.parametrize(
    ("model", "said", "problem"),
    [
        (Fused(1000), spec(), PATH + "the targets have 1,000 values, and what is to hold them has 1,000 rows"),
        (
            Fused(1001),
            spec(),
            PATH + "the targets have 1,000 values, and what is to hold them has 1,001 rows: head.weight 1,001" + ADD_UP,
        ),
        (
            Separate([600, 30, 30, 30, 10, 300]),
            spec(),
            PATH + "heads.4.weight has 10 rows, and the target w2 goes beyond its last one" + ADD_UP,
        ),
        (
            Separate([600, 30, 30]),
            spec(),
            PATH + "the targets have 1,000 values, and what is to hold them has 660 rows: heads.0.weight 600, heads.1.weight "
            "30, heads.2.weight 30" + ADD_UP,
        ),
        (
            Fused(),
            spec(match=".*bias"),
            PATH + "the targets have 1,000 values, and what is to hold them has 1,016 rows: body.0.bias 16, head.bias 1,000"
            + ADD_UP,
        ),
        (
            Fused(bias=False),
            spec(),
            "init.rules.hyper.initializer  (python): head.weight[g]: hyperfan cannot serve it: g is to have the mean 1, and no "
            "bias of the output layer is served that could give it\n"
            "  -> construct the output layer with a bias, and let the rule match it too",
        ),
        (
            nn.Sequential(nn.Conv1d(3, 4, 5)),
            spec(match=".*"),
            PATH + "0.weight has 3 axes, and an output layer has a weight of 2 and a bias of 1\n"
            "  -> let the rule match the output layers alone",
        ),
        (
            Fused(),
            spec(hyperfan(targets="mian")),
            "init.rules.hyper.initializer.targets = 'mian'  (python): no targets are named 'mian'\n  -> did you mean 'main'?",
        ),
        (
            Fused(),
            spec(targets=None),
            "init.rules.hyper.initializer  (python): hyperfan is to know which targets are generated, and there are none\n"
            "  -> say them: targets: {main: {module: PATH}}, a list or shapes; or in Python, targets={'main': net}",
        ),
        (
            Fused(),
            spec() | {"targets": {"a": LIST, "b": LIST}},
            "init.rules.hyper.initializer  (python): hyperfan is to know which targets are generated, and there are 2: a, b\n"
            "  -> write initializer: {name: hyperfan, targets: a}",
        ),
        (
            Fused(),
            spec(targets=[*LIST[:1], {**LIST[1], "layer": 7}, *LIST[2:]]),
            PATH + "b1: it is a bias of layer 7, and no target is the weight of that layer\n"
            "  -> say its layer, the same as that of its weight; or its var",
        ),
        (
            nn.MultiheadAttention(4, 1, bias=False),
            spec(targets=[{"name": "w", "kind": "weight", "shape": [3, 4]}], match="out_proj.*")
            | {"rules": {"q": {"block": "q", "initializer": "hyperfan"}}},
            "init.rules.q.initializer  (python): in_proj_weight: hyperfan serves whole parameters, and not some of their "
            "blocks\n  -> let the rule claim all of them; targets are bent by their own mean and var",
        ),
        (
            Fused(),
            spec(targets={"module": "mian"}),
            "init.targets.main  (python): module: the model has no 'mian'\n  -> known: body, emb, head",
        ),
    ],
    ids=[
        "fits", "total", "boundary", "too-few", "bias-total", "no-bias", "axes", "unknown", "none", "several", "layer",
        "blocks", "path",
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_before_any_write(model: nn.Module, said: Any, problem: str) -> None:
    if "1,000 values, and what is to hold them has 1,000" in problem:
        assert initconf.compile(model, said)
        return
    before = [p.clone() for p in model.parameters()]
    assert refused(model, said) == problem
    with pytest.raises(CompileError):
        initconf.initialize(model, said)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_unused_targets_are_a_warning() -> None:
    said = {**SCHEME, "rules": ROLES, "targets": {"main": LIST, "off": None}}
    plan = initconf.compile(Fused(), said, targets={"other": nn.Linear(1, 1)})
    assert plan.warnings == (
        "init.targets.main: no parameter's initializer uses these targets",
        "init.targets.other: no parameter's initializer uses these targets",
    )
    assert initconf.compile(Fused(), said) == initconf.compile(Fused(), {**SCHEME, "rules": ROLES})


def test_guessed_targets_are_a_warning_and_a_mark() -> None:
    plan = initconf.compile(Fused(), spec(targets={"shapes": [[30, 20], [30], [9, 30], [10]]}, match="none") | {"rules": ROLES})
    assert plan.warnings == ("init.targets.main: no parameter's initializer uses these targets",)
    plan = initconf.compile(Fused(910), spec(targets={"shapes": [[30, 20], [30], [9, 30], [10]]}))
    assert plan.warnings == (
        "init.targets.main: the kind and layer and fans of 0.weight, 2.weight are assumed; a list of targets would say",
        "init.targets.main: the kind and layer of 1.bias, 3.bias are assumed; a list of targets would say",
    )
    weight, bias = (plan[f"head.{part}"].blocks[0].assumed for part in ("weight", "bias"))
    marks = ("target kind", "target layer", "target nonlinearity", "target fans")
    assert weight == (*marks, "input_second_moment")
    assert bias == marks


# --- hyperfan --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fan_in", "fan_out", "harmonic", "geometric"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_methods_and_shares(method: str, share: float) -> None:
    plan = initconf.compile(Fused(), spec(hyperfan(method=method, bias_share=share)))
    stds = [b.std for b in plan["head.weight"].blocks]
    assert stds == pytest.approx([math.sqrt(var / WIDTH) for _, var in wanted(declared(LIST), method, share)])


@pytest.mark.parametrize(
    ("distribution", "law"), [("uniform", Uniform), ("untruncated_normal", Normal), ("truncated_normal", TruncatedNormal)]
)
def test_distributions(distribution: str, law: type) -> None:
    plan = initconf.compile(Fused(), spec(hyperfan(distribution=distribution)))
    (block, *_) = plan["head.weight"].blocks
    assert type(block.law) is law
    assert block.std == pytest.approx(math.sqrt(VARIANCES["w1"] / WIDTH))
    assert block.mean == 0


@pytest.mark.parametrize(
    ("moment", "value"), [(0.25, 0.25), ("1/4", 0.25), ([[8, 1.0], [4, 0.25]], 0.75), ([[5, 0.5]], 0.5)],
    ids=["number", "expression", "inputs", "input"],
)  # fmt: skip
def test_the_second_moment_of_the_input(moment: Any, value: float) -> None:
    plan = initconf.compile(Fused(), spec(hyperfan(input_second_moment=moment)))
    (block, *_) = plan["head.weight"].blocks
    assert block.std == pytest.approx(math.sqrt(VARIANCES["w1"] / (WIDTH * value)))
    assert "input_second_moment" not in block.assumed


def test_overrides_of_kinds_and_targets() -> None:
    said = {
        "w_val": {"bias": 0, "w2": 0.5},
        "w_var": {"bias": 0, "w2": 0.04},
        "b_val": {"bias": 0.1, "w2": 2},
        "b_var": {"bias": 0, "w2": 0.01},
    }
    plan = initconf.compile(Fused(), spec(hyperfan(distribution="uniform", **said)))
    weight, bias = ({b.block: b.law for b in plan[f"head.{part}"].blocks} for part in ("weight", "bias"))
    assert (weight["b1"], bias["b1"]) == (Constant(0.0), Constant(0.1))
    assert weight["w2"] == Uniform(0.5 - math.sqrt(0.12), 0.5 + math.sqrt(0.12))
    assert bias["w2"] == Uniform(2 - math.sqrt(3) * 0.1, 2 + math.sqrt(3) * 0.1)
    assert weight["w1"].std == pytest.approx(math.sqrt(VARIANCES["w1"] / WIDTH))  # its layer still has a bias
    listed = {name: [None, 1.0, None, None, None, None] for name in said}
    plan = initconf.compile(Fused(), spec(hyperfan(**listed)))
    assert [b.mean for b in plan["head.bias"].blocks] == [0, 1, 1, 0, 0, 0]


def test_what_is_said_outright_needs_neither_fans_nor_a_layer() -> None:
    odd = [*LIST[:1], {**LIST[1], "layer": None}, *LIST[2:4], {**LIST[4], "shape": [300]}, LIST[5]]
    none = {"b1": 0, "w2": 0, "b2": 0}
    plan = initconf.compile(Fused(), spec(hyperfan(w_val=none, w_var=none, b_val=none, b_var=none), targets=odd))
    assert plan["head.weight"].blocks[4].law == Constant(0.0)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            {"w_val": {"weight": 0}, "b_val": {"weight": 0}},
            "w1: w_var and b_var are not said of it, and the others are\n    -> say all of w_val, w_var, b_val, b_var, or none",
        ),
        ({"b_val": {"wieght": 1}}, "b_val: no target and no kind is named 'wieght'; did you mean 'weight'?"),
        ({"b_val": [1, 2]}, "b_val: 2 items, and 6 targets"),
        ({"b_var": {"weight": -1}}, "b_var: a variance is not negative"),
        ({"compat": "hypnettorch", "bias_share": 0.25}, "hypnettorch has a bias share of one half, and not 0.25"),
    ],
    ids=["partial", "name", "length", "negative", "share"],
)
def test_bad_overrides(arguments: Any, problem: str) -> None:
    assert problem in refused(Fused(), spec(hyperfan(**arguments)))


# --- what enters the output layer ------------------------------------------------------------------------------------------

MEASURED = hyperfan(input_second_moment="measured")


def test_the_second_moment_is_measured_on_a_copy() -> None:
    model, said = Fused(), spec(MEASURED, nonlinearity="relu")
    before, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    plan = initconf.compile(model, said, conditions=torch.arange(5))
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    report = initconf.initialize(model, said, conditions=torch.arange(5))
    assert report.plan == plan
    h = model.body(model.emb.weight)
    moment = plan["head.weight"].blocks[0].settings["input_second_moment"]
    assert moment == pytest.approx(float(h.detach().double().square().mean()), rel=1e-6)
    assert plan["head.weight"].blocks[0].std == pytest.approx(math.sqrt(VARIANCES["w1"] / (WIDTH * moment)))
    assert plan["head.weight"].blocks[0].assumed == ()


def test_conditions_may_be_several_of_any_form() -> None:
    said = spec(MEASURED)
    one = initconf.compile(Fused(), said, conditions=torch.arange(4))
    for form in ([torch.arange(2), torch.arange(2, 4)], (torch.arange(4),), {"i": torch.arange(4)}):
        moments = [
            plan["head.weight"].blocks[0].settings["input_second_moment"]
            for plan in (one, initconf.compile(Fused(), said, conditions=form))
        ]
        assert moments[0] == pytest.approx(moments[1], rel=1e-6)


def test_a_model_on_meta_is_measured_in_memory() -> None:
    with torch.device("meta"):
        model = Fused()
    assert initconf.compile(model, spec(MEASURED), conditions=torch.arange(5)) == initconf.compile(
        Fused(), spec(MEASURED), conditions=torch.arange(5)
    )


@pytest.mark.parametrize("form", ["linear", "matmul", "transposed", "keyword"])
def test_output_layers_that_are_no_modules(form: str) -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(TOTAL, WIDTH))
            self.bias = nn.Parameter(torch.empty(TOTAL))

        def forward(self, h: Tensor) -> Tensor:
            if form == "matmul":
                return self.weight @ h.T
            if form == "transposed":
                return torch.matmul(h, self.weight.t())
            if form == "keyword":
                return F.linear(h, weight=self.weight, bias=self.bias)
            return F.linear(h, self.weight, self.bias)

    plan = initconf.compile(Raw(), spec(MEASURED, match=".*"), conditions=torch.full((3, WIDTH), 0.5))
    assert plan["weight"].blocks[0].settings["input_second_moment"] == 0.25


def test_each_output_layer_has_its_own() -> None:
    class Two(Separate):
        def forward(self, h: Tensor) -> list[Tensor]:
            return [head(h * (i + 1)) for i, head in enumerate(self.heads)]

    plan = initconf.compile(Two(), spec(MEASURED), conditions=torch.ones(1, WIDTH))
    moments = [plan[f"heads.{i}.weight"].blocks[0].settings["input_second_moment"] for i in range(6)]
    assert moments == [(i + 1) ** 2 for i in range(6)]


NO_LINEAR = (
    "init.rules.hyper.initializer  (python): heads.5.weight[b2]: hyperfan cannot serve it: no linear map of the run over \
the conditions uses it\n  -> say input_second_moment as a number"
)


@pytest.mark.parametrize(
    ("model", "conditions", "problem"),
    [
        (
            Fused(),
            None,
            "init.rules.hyper.initializer.input_second_moment = 'measured'  (python): the second moment is to be measured, and "
            "there are no conditions to measure it over\n  -> give conditions=, inputs that the model takes (on a command line "
            "--conditions PKG.MOD:NAME), or a number",
        ),
        (
            Fused(),
            torch.full((3,), 7),
            "conditions: the model does not run on them: IndexError: index out of range in self\n"
            "  -> give inputs that it takes: a tensor, a tuple, a mapping of keywords, or a list of such",
        ),
        (
            Fused(),
            [torch.arange(5), 3],
            "conditions[1]: the model does not run on them: TypeError: ",
        ),
        (
            Separate(),
            torch.ones(1),
            "conditions: the model does not run on them: NotImplementedError: Module [Separate] is missing the required",
        ),
    ],
    ids=["none", "range", "list", "forward"],
)
def test_what_cannot_be_measured(model: nn.Module, conditions: Any, problem: str) -> None:
    assert refused(model, spec(MEASURED), conditions=conditions).startswith(problem)


def test_an_output_layer_that_the_run_does_not_use() -> None:
    class Part(Separate):
        def forward(self, h: Tensor) -> list[Tensor]:
            return [head(h) for head in self.heads[:-1]]

    class Nothing(Separate):
        def forward(self, h: Tensor) -> Tensor:
            return h

    assert refused(Part(), spec(MEASURED), conditions=torch.ones(1, WIDTH)) == NO_LINEAR
    assert refused(Nothing(), spec(MEASURED), conditions=torch.ones(1, WIDTH)) == (
        "conditions: no linear map uses heads.0.bias, heads.0.weight, heads.1.bias and 9 more while the model runs on the "
        "conditions\n  -> say input_second_moment as a number"
    )


def test_under_the_condition_that_was_measured_generated_variances_are_exact() -> None:
    main = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 80))
    hyper, condition = Fused(sum(p.numel() for p in main.parameters())), torch.tensor([2])
    initconf.initialize(hyper, spec(MEASURED, None), targets={"main": main}, conditions=condition)
    generated = hyper(condition)[0].detach().split([p.numel() for p in main.parameters()])
    for w, p in zip(generated, main.parameters(), strict=True):
        fan_in = p.shape[1] if p.ndim == 2 else 1
        assert float(w.square().mean()) * fan_in == pytest.approx(1.0, abs=6 * math.sqrt(2 / w.numel()))


# --- an ordinary network in a hypernetwork ---------------------------------------------------------------------------------

MAIN = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.LayerNorm(30), nn.Linear(30, 10))


def test_bias_hyperinit_is_an_ordinary_network_under_every_condition() -> None:
    model = Fused()
    scheme = {
        "initializer": "orthogonal",
        "rules": {**ROLES, "bias": {"role": "bias", "initializer": {"name": "normal", "std": 0.5}}},
    }
    said = spec({"name": "bias_hyperinit", "scheme": scheme}, None)
    report = initconf.initialize(model, said, targets={"main": MAIN}).verify()
    laws = {b.block: b.law for b in report.plan["head.bias"].blocks}
    assert laws["0.weight"] == Flat(Orthogonal(1.0, (30, 20)), (30, 20))
    assert laws["3.bias"] == Normal(0.0, 0.5)
    out = model(torch.arange(5))
    assert torch.equal(out, out[:1].expand(5, -1))
    made = dict(zip(dict(MAIN.named_parameters()), out[0].split(SIZES), strict=True))
    w = made["0.weight"].view(30, 20)
    assert torch.allclose(w.T @ w, torch.eye(20), atol=1e-5)
    assert torch.equal(made["2.weight"], torch.ones(30))


def test_bias_hyperinit_may_add_a_little() -> None:
    said = spec({"name": "bias_hyperinit", "scheme": "lecun", "epsilon": 0.01, "input_second_moment": 0.5})
    plan = initconf.compile(Fused(), said)
    assert plan["head.weight"].blocks[0].std == pytest.approx(0.01 / math.sqrt(20 * WIDTH * 0.5))
    assert plan["head.bias"].blocks[0].std == pytest.approx(1 / math.sqrt(20))


def test_without_a_scheme_the_settings_of_the_spec_count() -> None:
    rules = {
        "bias": {"role": "bias", "initializer": {"name": "normal", "std": 0.3}},
        "table": {"role": "embedding", "initializer": {"name": "normal", "std": 2}, "expect": 1},
        "body": {"match": "body.*weight", "gain": 7},
    }
    plan = initconf.compile(Fused(), spec("bias_hyperinit", rules=rules, gain=0.5))
    laws = {b.block: b.law for b in plan["head.bias"].blocks}
    assert laws["w1"].std == pytest.approx(0.5 * math.sqrt(2 / 20))
    assert laws["b1"] == Normal(0.0, 0.3)
    assert laws["g"] == Constant(1.0)


def test_the_layers_of_a_main_network_count_for_its_scheme() -> None:
    main = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    scheme = {"initializer": {"name": "normal", "std": "0.1*(layer+1)/n_layers"}}
    said = spec({"name": "bias_hyperinit", "scheme": scheme}, None)
    plan = initconf.compile(Fused(32), said, targets={"main": main})
    assert [b.std for b in plan["head.bias"].blocks] == pytest.approx([0.05, 0.1])


def test_a_scheme_may_be_fed_by_what_the_targets_say() -> None:
    targets = [{**LIST[0], "nonlinearity": "selu"}, {**LIST[4], "nonlinearity": "relu"}]
    scheme = {"initializer": "variance_scaling", "nonlinearity": "auto"}
    plan = initconf.compile(Fused(900), spec({"name": "bias_hyperinit", "scheme": scheme}, targets))
    assert [b.std for b in plan["head.bias"].blocks] == pytest.approx([math.sqrt(1 / 20), math.sqrt(2 / 30)])


def test_gates_and_padding_rows_of_generated_tensors() -> None:
    main = nn.ModuleDict({"table": nn.Embedding(6, 4, padding_idx=1), "lstm": nn.LSTM(4, 5)})
    total = sum(p.numel() for p in main.parameters())
    scheme = {
        "initializer": "orthogonal",
        "rules": {
            **ROLES,
            "recurrent": {"role": "recurrent", "initializer": "orthogonal"},
            "forget": {"glob": "*.bias_*", "initializer": {"name": "chrono", "t_max": 50}},
        },
    }
    model = Fused(total)
    initconf.initialize(model, spec({"name": "bias_hyperinit", "scheme": scheme}, None), targets={"main": main}).verify()
    sizes = [p.numel() for p in main.parameters()]
    made = {n: part.view(p.shape) for (n, p), part in zip(main.named_parameters(), model.head.bias.split(sizes), strict=True)}
    assert not made["table.weight"][1].any()
    assert bool(made["table.weight"][0].all())
    for gate in made["lstm.weight_hh_l0"].split(5):
        assert torch.allclose(gate @ gate.T, torch.eye(5), atol=1e-5)
    i, f, g, o = made["lstm.bias_ih_l0"].split(5)
    assert torch.equal(i, -f)
    assert bool((f > 0).all())
    assert not torch.cat([g, o]).any()


@pytest.mark.parametrize("name", ["bias_hyperinit", "weight_hyperinit"])
def test_a_target_bends_the_law_of_its_scheme(name: str) -> None:
    targets = [{**LIST[0], "var": 0.09}, {**LIST[1], "mean": -2}, *LIST[2:]]
    plan = initconf.compile(Fused(), spec({"name": name, "distribution": "uniform"}, targets))
    w, b = ({block.block: block for block in plan[f"head.{part}"].blocks} for part in ("weight", "bias"))
    first = b["w1"].std if name == "bias_hyperinit" else w["w1"].std * math.sqrt(WIDTH)
    assert first == pytest.approx(0.3)
    assert (w["b1"].law, b["b1"].law) == (Constant(0.0), Constant(-2.0))
    assert type((b if name == "bias_hyperinit" else w)["w1"].law) is Uniform


def test_weight_hyperinit_has_the_moments_of_a_scheme() -> None:
    model = Fused()
    said = spec({"name": "weight_hyperinit", "scheme": "orthogonal", "input_second_moment": 0.5, "distribution": "uniform"})
    plan = initconf.initialize(model, said).verify().plan
    assert [b.std for b in plan["head.weight"].blocks] == pytest.approx(
        [1 / math.sqrt(30 * WIDTH * 0.5), 0, 0, 0, 1 / math.sqrt(30 * WIDTH * 0.5), 0]
    )
    assert type(plan["head.weight"].blocks[0].law) is Uniform
    assert [b.law for b in plan["head.bias"].blocks] == [Constant(float(name == "g")) for name in SHAPES]


@pytest.mark.parametrize("shapes", [[(1000,)], list(SHAPES.values())], ids=["flat", "each"])
def test_residual_hyperinit_serves_the_output_layer_and_what_it_is_added_to(shapes: list[tuple[int, ...]]) -> None:
    model = Fused()
    model.base = nn.ParameterList(nn.Parameter(torch.empty(shape)) for shape in shapes)
    residual = {"name": "residual_hyperinit", "scheme": "orthogonal", "input_second_moment": 0.5}
    said = spec(residual, rules={"base": {"match": r"base\..*", "initializer": {**residual, "base": True}}})
    plan = initconf.initialize(model, said).verify().plan
    assert plan["head.weight"].blocks[0].std == pytest.approx(0.1 / math.sqrt(30 * WIDTH * 0.5))
    assert all(b.law == Constant(0.0) for b in plan["head.bias"].blocks)
    w1 = model.base[0][:600].view(30, 20) if len(shapes) == 1 else model.base[0]
    assert torch.allclose(w1.T @ w1, torch.eye(20), atol=1e-5)
    g = model.base[0][630:660] if len(shapes) == 1 else model.base[2]
    assert torch.equal(g, torch.ones(30))
    if len(shapes) > 1:
        assert plan["base.0"].law == Orthogonal(1.0, (30, 20))
        assert plan["base.0"].blocks == ()


@pytest.mark.parametrize(
    ("initializer", "more", "problem"),
    [
        (
            {"name": "bias_hyperinit", "scheme": "hee"},
            {},
            "init.rules.hyper.initializer.scheme  (python): its scheme: init = 'hee': no scheme has this name",
        ),
        (
            {"name": "bias_hyperinit", "scheme": {"initializer": "he_normal"}},
            {},
            "3 problems:\n- init.rules.hyper.initializer.scheme  (python): its scheme: b1, b2: no rule claims it (role bias)\n",
        ),
        (
            {"name": "bias_hyperinit", "scheme": {**SCHEME, "initializer": "hyperfan", "rules": ROLES}},
            {},
            "init.rules.hyper.initializer.scheme  (python): its scheme: init.initializer: hyperfan is to know which targets "
            "are generated, and there are none",
        ),
        (
            {
                "name": "bias_hyperinit",
                "scheme": {**SCHEME, "rules": {**ROLES, "bias": {"role": "bias", "initializer": "module_default"}}},
            },
            {},
            "init.rules.hyper.initializer.scheme  (python): its scheme: init.rules.bias.initializer: b1, b2: module_default "
            "cannot serve it: ",
        ),
        (
            {"name": "residual_hyperinit", "scheme": "he"},
            {
                "rules": {
                    "more": {
                        "match": "head.bias",
                        "priority": 1,
                        "initializer": {"name": "residual_hyperinit", "scheme": "lecun"},
                    }
                }
            },
            "init.rules.hyper.initializer.scheme  (python): the targets 'main' have two schemes",
        ),
    ],
    ids=["name", "unclaimed", "hyperfan", "default", "two"],
)
def test_schemes_that_give_no_laws(initializer: Any, more: Any, problem: str) -> None:
    assert refused(Fused(), spec(initializer, **more)).startswith(problem)


def test_a_law_of_values_that_are_not_known_is_refused() -> None:
    scheme = {**SCHEME, "rules": {**ROLES, "bias": {"role": "bias", "initializer": "module_default"}}}
    said = spec({"name": "bias_hyperinit", "scheme": scheme}, None)
    assert refused(Fused(), said, targets={"main": MAIN}) == (
        "2 problems:\n"
        "- init.rules.hyper.initializer  (python): bias_hyperinit for the targets 'main': 0.bias: the scheme gives it "
        "ModuleDefault(reset=reset_parameters), whose values are not known here\n"
        "    -> give it a law of its own in the scheme, such as zeros\n"
        "- init.rules.hyper.initializer  (python): bias_hyperinit for the targets 'main': 3.bias: the scheme gives it "
        "ModuleDefault(reset=reset_parameters), whose values are not known here\n"
        "    -> give it a law of its own in the scheme, such as zeros"
    )


def test_an_output_layer_without_a_bias_holds_no_network() -> None:
    text = refused(Fused(bias=False), spec("bias_hyperinit"))
    assert (
        "head.weight[w1]: bias_hyperinit cannot serve it: w1 is to have the law Normal(mean=0, std=0.316228), and no " in text
    )


# --- as others do it -------------------------------------------------------------------------------------------------------


def test_compat_is_uniform_and_names_the_mistakes() -> None:
    model = Fused(910)
    said = spec(hyperfan(compat="hypnettorch"), {"shapes": [[30, 20], [30], [9, 30], [10]]}, distribution="truncated_normal")
    plan = initconf.initialize(model, said).verify().plan
    bound = math.sqrt(3 * 2 / (2 * 20 * WIDTH))
    law = plan["head.weight"].blocks[0].law
    assert type(law) is Uniform
    assert law.bounds == pytest.approx((-bound, bound))
    assert (
        "init.rules.hyper.initializer: compat: hypnettorch: it draws uniform values, whatever the distribution" in plan.warnings
    )
    assert any(
        text.startswith("init.rules.hyper.initializer: compat: hypnettorch: it takes every tensor of one axis for a bias")
        for text in plan.warnings
    )


def test_compat_divides_by_zero_where_the_original_does() -> None:
    text = refused(Fused(), spec(hyperfan(compat="hypnettorch", method="harmonic")))
    assert text == (
        "init.rules.hyper.initializer  (python): hyperfan for the targets 'main': b2: hypnettorch divides by zero here: "
        "fan_out leaves this bias the variance 0, as fan_in is not below it\n  -> leave compat out"
    )


def test_compat_drops_what_is_said_in_part() -> None:
    plan = initconf.compile(Fused(), spec(hyperfan(compat="hypnettorch", w_val={"weight": 0.0})))
    assert plan.warnings[1:] == (
        "init.rules.hyper.initializer: compat: hypnettorch: it drops what w_val, w_var, b_val, b_var say of a weight or bias "
        "unless all four do: w1, w2",
    )


def test_a_generator_of_torch_does_not_write_rows() -> None:
    with pytest.raises(ApplyError, match=r"head\.weight, head\.bias: its blocks have laws of their own"):
        initconf.initialize(Fused(), spec(compat="torch"), generator=torch.Generator())


@pytest.mark.parametrize("name", ["hyperfan", "bias_hyperinit", "weight_hyperinit", "residual_hyperinit"])
def test_these_are_for_output_layers(name: str) -> None:
    site, _ = survey(nn.Linear(2, 3))
    with pytest.raises(InitConfError, match=f"^{name} serves the output layer of a hypernetwork$"):
        find(name).law(site, {})

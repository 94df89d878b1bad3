"""Chunked hypernetworks: which variance each embedding has, what is refused, and constants that serve every target."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import initconf
from initconf.errors import CompileError, InitConfError
from initconf.hyper.chunks import Chunk, chunks, embedding_variance, largest_input_variance, through_relu, variances
from initconf.hyper.targets import Target, declared, from_shapes
from initconf.laws import Constant, Normal, Uniform

MLP_A = [[300, 784], [300], [100, 300], [100], [10, 100], [10]]


def found(method: str = "fan_in") -> list[Chunk]:
    targets = from_shapes(MLP_A)
    return chunks(targets, variances(targets, method), 5000)


# --- the numbers of hypnettorch's own example, 784-300-100-10 in chunks of 5000, 8 entries and 8 further inputs --------------

WANTED = {
    "fan_in": [0.00255102, 0.00042517, 0.00666667, 0.00111111, 0.02, 0.00333333],
    "fan_out": [0.00666667, 0.00042517, 0.02, 0.00111111, 0.2, 0.00333333],
    "harmonic": [0.00369004, 0.00042517, 0.01, 0.00111111, 0.0363636, 0.00333333],
}
CHUNKS = {  # of the chunks 0, 46, 47, 48, 53; and the largest Var(e)
    "fan_in": ([0.0025510204, 0.0025510204, 0.006127551, 0.0066666667, 0.0069555556], 0.00510204),
    "fan_out": ([0.0066666667, 0.0066666667, 0.018292177, 0.02, 0.044288889], 0.0133333),
    "harmonic": ([0.0036900369, 0.0036900369, 0.0091731117, 0.01, 0.010561616], 0.00738007),
}
EMBEDDINGS = {  # Var(c) of the chunks 0, 47, 53
    ("fan_in", 1.0): [-0.99489796, -0.9877449, -0.98608889],
    ("fan_in", 0.001): [0.0041020408, 0.011255102, 0.012911111],
    ("fan_in", 0.0): [0.0051020408, 0.012255102, 0.013911111],
    ("fan_out", 1.0): [-0.98666667, -0.96341565, -0.91142222],
    ("fan_out", 0.001): [0.012333333, 0.035584354, 0.087577778],
    ("fan_out", 0.0): [0.013333333, 0.036584354, 0.088577778],
    ("harmonic", 1.0): [-0.99261993, -0.98165378, -0.97887677],
    ("harmonic", 0.001): [0.0063800738, 0.017346223, 0.020123232],
    ("harmonic", 0.0): [0.0073800738, 0.018346223, 0.021123232],
}


@pytest.mark.parametrize("method", WANTED)
def test_the_variances_of_chunks(method: str) -> None:
    assert variances(from_shapes(MLP_A), method) == pytest.approx(WANTED[method], rel=2e-6)
    each, largest = CHUNKS[method]
    assert len(found(method)) == 54
    assert [found(method)[i].var for i in (0, 46, 47, 48, 53)] == pytest.approx(each, rel=5e-8)
    assert largest_input_variance(found(method), 8, 8) == pytest.approx(largest, rel=1e-5)


@pytest.mark.parametrize(("method", "input_variance"), EMBEDDINGS)
def test_the_variances_of_embeddings(method: str, input_variance: float) -> None:
    each = [embedding_variance(chunk.var, 8, 8, input_variance) for chunk in found(method)]
    assert [each[i] for i in (0, 47, 53)] == pytest.approx(EMBEDDINGS[method, input_variance], rel=5e-8)
    assert sum(var < 1e-5 for var in each) == (54 if input_variance == 1 else 0)


def test_what_is_in_a_chunk() -> None:
    each = found()
    assert [i for i, chunk in enumerate(each) if chunk.mixed] == [47, 53]
    assert [(name, n) for name, n, _ in each[47].parts] == [("0.weight", 200), ("1.bias", 300), ("2.weight", 4500)]
    assert [(name, n) for name, n, _ in each[53].parts][-1] == ("5.bias", 10 + 54 * 5000 - 266610)  # the filler
    assert {each[i].var for i in range(47)} == {variances(from_shapes(MLP_A))[0]}  # exactly, whatever the sum
    exact = chunks([Target("w", "weight", (4, 3))], [0.5], 6)
    assert [chunk.parts for chunk in exact] == [(("w", 6, 0.5),), (("w", 6, 0.5),)]
    whole = chunks([Target("w", "weight", (4, 3)), Target("b", "bias", (4,))], [0.5, 1.5], 100)
    assert whole == [Chunk((12 * 0.5 + 88 * 1.5) / 100, (("w", 12, 0.5), ("b", 88, 1.5)))]


@pytest.mark.parametrize(
    ("correlation", "each"),
    [
        (0.0, [0.3183098861837907, 0.4937310902003716, 0.6048257201129446, 0.6809535333557364]),
        (0.5, [0.6089977810442293, 0.6839056508987058, 0.7381281923010004, 0.7788951373943318]),
        (1.0, [1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_correlation_behind_relus(correlation: float, each: list[float]) -> None:
    for after in each:
        correlation = through_relu(correlation)
        assert correlation == pytest.approx(after, abs=1e-15)


def test_biases_and_own_variances() -> None:
    given = [
        {"name": "w", "kind": "weight", "shape": [10, 50], "layer": 0},
        {"name": "b", "kind": "bias", "shape": [10], "layer": 0},
        {"name": "e", "kind": "embedding", "shape": [7, 3]},
        {"name": "s", "kind": "norm_scale", "shape": [7], "mean": 0.0, "var": 0.25},
    ]
    targets = declared(given, "relu")
    assert variances(targets) == pytest.approx([2 / 50, 1 / 150, 1, 0.25])
    assert variances(targets, bias_share=0.5) == pytest.approx([1 / 50, 1, 1, 0.25])


@pytest.mark.parametrize(
    ("more", "bias_share", "names"),
    [
        ([{"name": "g", "kind": "norm_scale", "shape": [7]}, {"name": "h", "kind": "norm_shift", "shape": [7]}], None, "g, h"),
        ([{"name": "a", "kind": "scalar", "shape": []}], None, "a"),
        ([{"name": "m", "kind": "embedding", "shape": [7, 3], "mean": 0.5}], None, "m"),
        ([{"name": "b", "kind": "bias", "shape": [10], "layer": 0}], 0.0, "b"),
    ],
)
def test_what_no_chunk_can_give(more: list[dict[str, Any]], bias_share: float | None, names: str) -> None:
    targets = declared([{"name": "w", "kind": "weight", "shape": [10, 50], "layer": 0}, *more], "relu")
    with pytest.raises(InitConfError) as caught:
        variances(targets, bias_share=bias_share)
    assert str(caught.value) == (
        f"{names}: chunks give values of mean 0 and of a variance above 0, which is not what it is to be\n"
        "  -> multiply and shift the output by constants (chunk_scale), or say a mean of 0 and a variance for these targets"
    )


# --- hypernetworks ---------------------------------------------------------------------------------------------------


def trunk(inputs: int, width: int = 32, depth: int = 1, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    net = nn.Sequential()
    for i in range(depth):
        net.extend([nn.Linear(width if i else inputs, width), activation()])
    return net


class Chunked(nn.Module):
    """Embeddings as a table or as vectors, for one condition or several; inputs from outside or from a table."""

    def __init__(
        self, chunks: int, size: int, kind: str = "table", conditions: int = 0, others: int = 8, own: bool = False, **body: Any
    ) -> None:
        super().__init__()
        n, c, few = chunks, 8, max(conditions, 1)
        self.chunk_emb: Any = {
            "table": lambda: nn.Embedding(n, c),
            "vectors": lambda: nn.ParameterList(nn.Parameter(torch.zeros(c)) for _ in range(few * n)),
            "tables": lambda: nn.ParameterList(nn.Parameter(torch.zeros(n, c)) for _ in range(few)),
            "block": lambda: nn.Parameter(torch.zeros(few, n, c)),
        }[kind]()
        if own:
            self.task_emb = nn.Embedding(3, others)
        self.body = trunk(c + others, **body)
        self.head = nn.Linear(32, size)

    def forward(self, e: Tensor | None = None) -> Tensor:
        """All values of all chunks in a row, for each of the further inputs."""
        c = self.chunk_emb.weight
        if e is not None:
            c = torch.cat([e[:, None].expand(-1, len(c), -1), c.expand(len(e), -1, -1)], -1)
        return self.head(self.body(c)).flatten(-2)


HE = {"distribution": "untruncated_normal", "nonlinearity": "relu", "unmatched": "keep"}
"""The scheme, without the time that it takes to compose it."""


def spec(**more: Any) -> dict[str, Any]:
    """Rules for the parts, with the arguments that hold for all of them at the embeddings."""
    chunk = {"name": "chunked_hyperfan", "part": "chunks", **more}
    return {
        **HE,
        "targets": {"main": {"shapes": MLP_A, "nonlinearity": "relu"}},
        "rules": {
            "bias": {"role": "bias", "initializer": "zeros"},
            "chunks": {"search": r"^chunk_emb", "initializer": chunk},
            "head": {"match": r"head\..*", "initializer": "chunked_hyperfan"},
        },
    }


GIVEN = {"input_size": 8, "input_variance": 0.001}


@pytest.mark.parametrize("method", WANTED)
@pytest.mark.parametrize("input_variance", [0.0, 0.001])
def test_a_table_in_blocks_of_rows(method: str, input_variance: float) -> None:
    plan = initconf.compile(Chunked(54, 5000), spec(method=method, input_size=8, input_variance=input_variance))
    blocks = plan["chunk_emb.weight"].blocks
    assert [(block.block, block.shape) for block in blocks] == [
        ("0-46", (47, 8)), ("47", (1, 8)), ("48-52", (5, 8)), ("53", (1, 8))
    ]  # fmt: skip
    each = [blocks[i].law for i in (0, 1, 3)]
    assert all(isinstance(law, Normal) for law in each)  # the scheme's distribution
    assert [law.std**2 for law in each] == pytest.approx(EMBEDDINGS[method, input_variance], rel=5e-8)
    assert plan["head.weight"].law == Normal(0.0, 32**-0.5)  # gain 1, whatever feeds it
    assert plan["head.bias"].law == Constant(0.0)
    assert plan["body.0.weight"].std == pytest.approx((2 / 16) ** 0.5)  # by the hypernetwork's own activation


@pytest.mark.parametrize(
    ("kind", "conditions", "names"),
    [
        ("vectors", 0, ["chunk_emb.0", "chunk_emb.46", "chunk_emb.47", "chunk_emb.53"]),
        ("vectors", 2, ["chunk_emb.54", "chunk_emb.100", "chunk_emb.101", "chunk_emb.107"]),
        ("tables", 3, ["chunk_emb.2[0-46]", "chunk_emb.1[0-46]", "chunk_emb.0[47]", "chunk_emb.2[53]"]),
        ("block", 3, ["chunk_emb[0-46]", "chunk_emb[0-46]", "chunk_emb[47]", "chunk_emb[53]"]),
    ],
)
def test_the_forms_of_embeddings(kind: str, conditions: int, names: list[str]) -> None:
    model = Chunked(54, 5000, kind, conditions)
    report = initconf.initialize(model, spec(**GIVEN, distribution="uniform")).verify()
    entries = {entry.label: entry for entry in report.plan.leaves()}
    first, _, third = EMBEDDINGS["fan_in", 0.001][0], 0, EMBEDDINGS["fan_in", 0.001]
    assert [entries[name].law.std ** 2 for name in names] == pytest.approx([first, first, *third[1:]], rel=5e-8)
    assert isinstance(entries[names[0]].law, Uniform)
    if kind == "block":
        assert entries["chunk_emb[48-52]"].shape == (3, 5, 8)


def test_inputs_that_are_served_have_half_of_what_the_smallest_chunk_allows() -> None:
    served = spec()
    served["rules"]["inputs"] = {"glob": "task_emb.*", "initializer": {"name": "chunked_hyperfan", "part": "inputs"}}
    plan = initconf.compile(Chunked(54, 5000, own=True), served)
    v_e = largest_input_variance(found(), 8, 8) / 2
    assert plan["task_emb.weight"].std == pytest.approx(v_e**0.5)
    assert plan["chunk_emb.weight"].blocks[0].std == pytest.approx(embedding_variance(2 / 784, 8, 8, v_e) ** 0.5)
    served["rules"]["inputs"]["initializer"]["input_variance"] = 0.002
    assert initconf.compile(Chunked(54, 5000, own=True), served)["task_emb.weight"].std == pytest.approx(0.002**0.5)


def test_no_further_inputs_is_a_guess() -> None:
    plan = initconf.compile(Chunked(54, 5000, others=0), spec())
    assert plan["chunk_emb.weight"].blocks[0].assumed == ("input_size",)
    assert plan["chunk_emb.weight"].blocks[0].std == pytest.approx((2 / 784) ** 0.5)
    plan = initconf.compile(Chunked(54, 5000, others=0), spec(input_size=0))
    assert plan["chunk_emb.weight"].blocks[0].assumed == ()


def test_what_is_said_of_chunks() -> None:
    own = "init.rules.chunks.initializer: "
    warnings = initconf.compile(Chunked(54, 5000), spec(**GIVEN)).warnings
    mixed, correlated = (text.removeprefix(own) for text in warnings if text.startswith(own))
    assert mixed == (
        "2 of 54 chunks hold values of several variances and give all of them the mean (chunk 47: 0.weight 0.00255, 1.bias "
        "0.000425, 2.weight 0.00667); constants behind the output (chunk_scale) give each its own"
    )
    assert correlated == (
        "all chunks come from one output layer, and the values of two of them correlate: by 0.41, 0.55, 0.64 after 1, 2, 3 "
        "hidden layers with relu, where their inputs do by 0.18; initconf.hyper.measure says by how much. It is less with an "
        "odd activation such as tanh, and does no harm where an ordinary initialisation is added to what is generated "
        "(residual_hyperinit)"
    )


INFEASIBLE = """init.rules.chunks.initializer  (python): chunked_hyperfan for the targets 'main': 8 inputs of variance 1 give \
more alone than 54 of 54 chunks are to have (chunk 0, 0.weight: 0.002551)
  -> give these inputs a variance below 0.00510204 and say it, input_variance: 0.002; or let a rule with part: inputs serve \
them; or multiply the output by constants (chunk_scale); hypnettorch does on_infeasible: clip"""


def test_what_cannot_be_is_refused_or_clipped() -> None:
    with pytest.raises(CompileError) as caught:
        initconf.compile(Chunked(54, 5000), spec(input_size=8))
    assert str(caught.value) == INFEASIBLE.replace("\\\n", "")
    plan = initconf.compile(Chunked(54, 5000), spec(input_size=8, on_infeasible="clip"))
    assert plan["chunk_emb.weight"].std == pytest.approx(1e-5**0.5)
    assert plan["chunk_emb.weight"].blocks == ()  # all alike
    plan = initconf.compile(Chunked(54, 5000), spec(input_size=8, input_variance=0.006, on_infeasible="clip"))
    assert [block.std**2 for block in plan["chunk_emb.weight"].blocks] == pytest.approx(
        [1e-5, 2 * 0.006127551 - 0.006, 2 * 0.0066666667 - 0.006, 2 * 0.0069555556 - 0.006], rel=1e-6
    )


def without(rule: str) -> dict[str, Any]:
    made = spec(**GIVEN)
    del made["rules"][rule]
    return made


def with_rule(**rule: Any) -> dict[str, Any]:
    made = spec(**GIVEN)
    made["rules"]["more"] = rule
    return made


def with_targets(*more: dict[str, Any]) -> dict[str, Any]:
    made = spec(**GIVEN)
    made["targets"] = {"main": [{"name": "w", "kind": "weight", "shape": [300, 784], "nonlinearity": "relu"}, *more]}
    return made


class Normalised(Chunked):
    def __init__(self) -> None:
        super().__init__(54, 5000)
        self.body.insert(1, nn.BatchNorm1d(32))


@pytest.mark.parametrize(
    ("make", "said", "text"),
    [
        (lambda: Chunked(50, 5000), spec(**GIVEN), "the targets fill 54 chunks, and chunk_emb.weight has 50 embeddings"),
        (lambda: Chunked(50, 5000, "vectors"), spec(**GIVEN), "the targets fill 54 chunks, and there are 50 vectors"),
        (
            lambda: Chunked(54, 5000),
            spec(**GIVEN, chunk_size=4000),
            "a chunk has as many values as the output layer has rows, and these are several numbers: head.weight 5,000, "
            "head.bias 5,000, chunk_size 4,000",
        ),
        (lambda: Chunked(54, 5000), without("head"), "how many values a chunk has is not known"),
        (lambda: Chunked(54, 5000), without("chunks"), "there are no chunk embeddings"),
        (
            lambda: Chunked(54, 5000),
            with_rule(glob="head.*", initializer={"name": "chunked_hyperfan", "input_variance": 0.002}),
            "head.weight: input_variance is 0.002, and for other parts of this hypernetwork 0.001",
        ),
        (
            lambda: nn.ModuleDict({"chunk_emb": nn.PReLU(8), "head": nn.Linear(8, 5000)}),
            {**spec(), "rules": {"x": {"glob": "chunk_emb.weight", "initializer": "chunked_hyperfan"}}},
            "chunk_emb.weight, a 1-D tensor of role gate_scale, is no part of a chunked hypernetwork that is known",
        ),
        (
            lambda: Chunked(54, 5000, own=True),
            with_rule(glob="*_emb.*", initializer={"name": "chunked_hyperfan", "part": "chunks", **GIVEN}),
            "the targets fill 54 chunks, and task_emb.weight has 3 embeddings",
        ),
        (
            lambda: Chunked(48, 5000),
            with_targets({"name": "g", "kind": "norm_scale", "shape": [32]}),
            "g: chunks give values of mean 0 and of a variance above 0, which is not what it is to be",
        ),
        (Normalised, spec(**GIVEN), "body.1 takes the scale of the embeddings out again, so that no chunk can have its own"),
    ],
    ids=range(10),
)
def test_what_is_refused(make: Any, said: dict[str, Any], text: str) -> None:
    with pytest.raises(CompileError) as caught:
        initconf.compile(make(), said)
    assert f"chunked_hyperfan for the targets 'main': {text}" in str(caught.value)
    assert "\n  -> " in str(caught.value)


def test_a_normalisation_elsewhere_is_no_concern() -> None:
    plain = Chunked(54, 5000)
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(3), "hyper": plain, "main": nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))})
    said = spec(**GIVEN)
    said["rules"]["chunks"]["search"] = "hyper.chunk_emb"
    said["rules"]["head"]["match"] = r"hyper\.head\..*"
    assert initconf.compile(model, said)["hyper.head.weight"].initializer == "chunked_hyperfan"


# --- what comes out --------------------------------------------------------------------------------------------------


SMALL = [[60, 80], [60], [50, 60], [50]]
"""7910 values, in chunks of 400 one in 12 of which is mixed."""
E = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)) * 0.001**0.5


def test_what_is_generated_has_the_variance_that_is_wanted() -> None:
    said = {**spec(**GIVEN), "targets": {}}
    found = initconf.hyper.measure(Chunked(20, 400, depth=2), SMALL, said, conditions=E, seeds=60)
    first, b1, second, _ = found.tensors
    assert first.wanted_var == pytest.approx(2 / 80)
    assert (first.ratio, second.ratio) == pytest.approx((1, 1), abs=0.08)
    assert b1.ratio > 4  # in a chunk of others
    assert (found.seeds, found.conditions) == (60, 4)


def test_the_output_layer_makes_up_for_what_is_measured() -> None:
    model = Chunked(20, 400, depth=2)
    said = {**spec(**GIVEN), "targets": {"main": {"shapes": SMALL}}}
    said["rules"]["head"]["initializer"] = {"name": "chunked_hyperfan", "input_second_moment": "measured"}
    report = initconf.initialize(model, said, conditions=E, seed=3)
    inside = model.body(torch.cat([E[:, None].expand(-1, 20, -1), model.chunk_emb.weight.expand(4, -1, -1)], -1))
    targets = from_shapes(SMALL)
    wanted = sum(chunk.var for chunk in chunks(targets, variances(targets), 400)) / 20
    assert report.plan["head.weight"].std == pytest.approx((wanted / 32 / inside.square().mean().item()) ** 0.5, rel=1e-5)
    assert model(E).square().mean().item() == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize(("depth", "correlation"), [(1, 0.318), (2, 0.494)])
def test_chunks_correlate_as_theory_has_it(depth: int, correlation: float) -> None:
    said = {**spec(input_size=0), "targets": {}}
    found = initconf.hyper.measure(Chunked(20, 400, others=0, depth=depth), SMALL, said, seeds=40)
    assert found.chunk_correlation == pytest.approx(correlation, abs=0.03)
    odd = Chunked(20, 400, others=0, depth=depth, activation=nn.Tanh)
    assert initconf.hyper.measure(odd, SMALL, said, seeds=20).chunk_correlation == pytest.approx(0, abs=0.02)


# --- one kind of layer at a time -------------------------------------------------------------------------------------


class Structured(nn.Module):
    """Blocks of two kinds, each with embeddings and a head of its own: every chunk is a whole block."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.ModuleDict(
            {
                "conv": nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4)) for _ in range(3)),
                "fc": nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)]),
            }
        )
        self.conv_emb, self.fc_emb = nn.Embedding(3, 8), nn.Embedding(2, 8)
        self.conv_head, self.fc_head = nn.Linear(8, 4 * 4 * 9 + 8), nn.Linear(8, 17 * 16)


def test_structured_chunks_are_full_heads_over_one_block_each() -> None:
    rules = {
        "embedding": {"role": "embedding", "initializer": {"name": "normal", "std": 1.0}},
        "conv": {"glob": "conv_head.*", "initializer": {"name": "hyperfan", "targets": "conv"}},
        "fc": {"glob": "fc_head.*", "initializer": {"name": "hyperfan", "targets": "fc"}},
    }
    targets = {"conv": {"module": "main.conv.0", "nonlinearity": "relu"}, "fc": {"module": "main.fc.0", "nonlinearity": "relu"}}
    plan = initconf.compile(Structured(), {**HE, "targets": targets, "rules": rules})
    assert {block.block: block.std for block in plan["conv_head.weight"].blocks} == pytest.approx(
        {"0.weight": (2 / 36 / 8) ** 0.5, "1.weight": 0, "1.bias": 0}
    )
    assert [block.mean for block in plan["conv_head.bias"].blocks] == [0, 1, 0]
    assert [block.std for block in plan["fc_head.weight"].blocks] == pytest.approx([(1 / 16 / 8) ** 0.5, (1 / 8) ** 0.5])


# --- constants -------------------------------------------------------------------------------------------------------


class Scaled(nn.Module):
    """Chunks of 1000 values for a net with biases and norms, behind constants."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(nn.Linear(40, 50), nn.LayerNorm(50), nn.ReLU(), nn.Linear(50, 30, bias=False))
        total = sum(p.numel() for p in self.main.parameters())
        self.chunk_emb = nn.Embedding(-(-total // 1000), 8)
        self.body = trunk(16, depth=2)
        self.head = nn.Linear(32, 1000)
        self.output = initconf.hyper.OutputScale(total)

    def forward(self, e: Tensor) -> Tensor:
        c = self.chunk_emb.weight
        inputs = torch.cat([e[:, None].expand(-1, len(c), -1), c.expand(len(e), -1, -1)], -1)
        flat: Tensor = self.output(self.head(self.body(inputs)).flatten(1))
        return flat


SCALED: dict[str, Any] = {
    **HE,
    "targets": {"main": {"module": "main", "nonlinearity": "relu"}},
    "rules": {
        "embedding": {"role": "embedding", "initializer": {"name": "normal", "std": 1.0}},
        "bias": {"role": "bias", "initializer": "zeros"},
        "head": {"match": r"head\.weight", "nonlinearity": "linear"},
        "scale": {"glob": "*.scale", "initializer": {"name": "chunk_scale", "input_second_moment": 1.0}},
        "shift": {"glob": "*.shift", "initializer": {"name": "chunk_scale", "gives": "mean"}},
    },
}


def test_constants_serve_every_target() -> None:
    model = Scaled()
    plan = initconf.initialize(model, SCALED).verify().plan
    names = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight"]
    blocks = plan["output.scale"].blocks
    assert [block.block for block in blocks] == names
    assert [block.law.mean for block in blocks] == pytest.approx([(1 / 40) ** 0.5, 1, 0, 0, (2 / 50) ** 0.5])
    assert [block.law.mean for block in plan["output.shift"].blocks] == [0, 0, 1, 0, 0]
    assert plan.warnings == ()
    assert {block.role for block in blocks} == {"gate_scale"}
    made = model(torch.randn(5, 8))
    assert torch.equal(made[:, 2050:2150], torch.tensor([1.0] * 50 + [0.0] * 50).expand(5, 100))
    conditions = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    found = initconf.hyper.measure(model, model.main, SCALED, conditions=conditions, seeds=20)
    assert [row.ratio for row in found.tensors] == pytest.approx([1, 1, 1, 1, 1], abs=0.15)
    assert [row.mean for row in found.tensors][2:4] == [1, 0]


def test_constants_make_up_for_what_is_measured() -> None:
    said = {**SCALED, "rules": {**SCALED["rules"]}}
    said["rules"]["scale"] = {"glob": "*.scale", "initializer": {"name": "chunk_scale", "input_second_moment": "measured"}}
    model, e = Scaled(), torch.randn(16, 8)
    scale = initconf.initialize(model, said, conditions=e).plan["output.scale"]
    raw = model.head(model.body(torch.cat([e[:, None].expand(-1, 4, -1), model.chunk_emb.weight.expand(16, -1, -1)], -1)))
    second = raw.flatten(1)[:, :3650].square().mean().item()
    assert scale.blocks[0].law.mean == pytest.approx((1 / 40 / second) ** 0.5, rel=1e-5)


def test_a_guess_of_what_is_multiplied_is_marked() -> None:
    said = {**SCALED, "rules": {**SCALED["rules"], "scale": {"glob": "*.scale", "initializer": "chunk_scale"}}}
    plan = initconf.compile(Scaled(), said)
    assert plan["output.scale"].blocks[0].assumed == ("input_second_moment",)
    assert plan["output.shift"].blocks[0].assumed == ()


def test_constants_for_the_filler_too_and_what_does_not_fit() -> None:
    model = Scaled()
    model.output = initconf.hyper.OutputScale(4000)
    plan = initconf.compile(model, SCALED)
    assert (plan["output.scale"].blocks[-1].block, plan["output.scale"].blocks[-1].shape) == ("unused", (350,))
    model.output = initconf.hyper.OutputScale(3000)
    with pytest.raises(CompileError) as caught:
        initconf.compile(model, SCALED)
    assert "output.scale has the shape (3000,), and the targets 3,650 values" in str(caught.value)
    assert "make it a vector of 3,650 values, or of as many as all chunks have" in str(caught.value)

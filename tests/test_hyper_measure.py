"""Measuring hypernetworks: what is counted, and that the networks which they generate keep what they are to keep."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from initconf.errors import CompileError, InitConfError
from initconf.hyper import measure
from initconf.hyper.targets import Target
from initconf.measurement import LayerRow, Measurement, TensorRow
from initconf.measuring import by_name, moments
from tests.small_models import untouched


def mlp(*sizes: int) -> nn.Sequential:
    net = nn.Sequential()
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        if i:
            net.append(nn.ReLU())
        net.append(nn.Linear(n_in, n_out))
    return net


class Hyper(nn.Module):
    """From an embedding of 8 numbers to all values in a row."""

    def __init__(self, main: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, sum(p.numel() for p in main.parameters()))

    def forward(self, e: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(e))
        return out


def unit(*shape: int) -> Tensor:
    """Normal numbers with a second moment of exactly 1."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return x / x.square().mean().sqrt()


def spec(**more: Any) -> dict[str, Any]:
    head = {"name": "hyperfan", "input_second_moment": "measured", **more}
    rules = {"bias": {"role": "bias", "initializer": "zeros"}, "head": {"glob": "head.*", "initializer": head}}
    return {"nonlinearity": "relu", "distribution": "uniform", "rules": rules}


# --- what a hypernetwork may return ----------------------------------------------------------------------------------

W, B = Target("w", "weight", (2, 3)), Target("b", "bias", (2,))
FLAT = torch.arange(20.0).reshape(2, 10)
EXPECTED = {"w": torch.stack([FLAT[i, :6].reshape(2, 3) for i in (0, 1)]), "b": FLAT[:, 6:8]}


@pytest.mark.parametrize(
    "made",
    [
        FLAT,  # two values more than are wanted: filler
        FLAT.reshape(2, 1, 10),
        {"b": EXPECTED["b"], "w": EXPECTED["w"], "other": 3},
        [EXPECTED["w"], EXPECTED["b"]],
        [[EXPECTED["w"][i], EXPECTED["b"][i]] for i in (0, 1)],
        ({"w": EXPECTED["w"][0], "b": EXPECTED["b"][0]}, {"w": EXPECTED["w"][1], "b": EXPECTED["b"][1]}),
    ],
    ids=["flat", "deeper", "mapping", "list", "lists", "mappings"],
)
def test_forms_of_what_is_generated(made: Any) -> None:
    found = by_name(made, [W, B])
    assert list(found) == ["w", "b"]
    assert all(torch.equal(found[name], EXPECTED[name]) for name in found)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (FLAT[:, :7], "the hypernetwork returned a Tensor, and not 2 tensors of 8 values in all"),
        ([EXPECTED["w"]], "the hypernetwork returned a list, and not 2 tensors of 8 values in all"),
        (None, "the hypernetwork returned a NoneType, and not 2 tensors of 8 values in all"),
        ({"w": EXPECTED["b"], "b": EXPECTED["b"]}, "w: it is generated with the shape (2, 2), and not (2, 3)"),
    ],
)
def test_what_is_not_understood(made: Any, text: str) -> None:
    with pytest.raises(InitConfError) as caught:
        by_name(made, [W, B])
    assert str(caught.value).splitlines()[0] == text


# --- what is counted -------------------------------------------------------------------------------------------------


def test_moments_of_signals_and_gradients() -> None:
    """Against the same by hand, with an activation that works in place."""
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
    weights = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    x = unit(7, 5)
    with untouched(net):
        found = moments(net, weights, x, ["0", "2"], torch.Generator().manual_seed(3))
    assert list(found) == ["0", "2"]
    z = x @ weights["0.weight"].T + weights["0.bias"]
    out = z.relu() @ weights["2.weight"].T + weights["2.bias"]
    seed = torch.randn(7, 3, generator=torch.Generator().manual_seed(3))
    g = (seed @ weights["2.weight"]) * (z > 0)
    by_hand = {"0": (z.square().mean(), g.square().mean()), "2": (out.square().mean(), seed.square().mean())}
    for name, pair in by_hand.items():
        assert found[name] == pytest.approx([float(number) for number in pair], rel=1e-5)


def test_a_hypernetwork_as_it_is() -> None:
    main, conditions = mlp(6, 5, 3), [unit(2, 8), unit(3, 8)]
    hyper = Hyper(main)
    with untouched(hyper, main):
        found = measure(hyper, main, conditions=conditions)
    flat = torch.cat([hyper(e) for e in conditions]).detach().double()
    assert (found.seeds, found.conditions, found.layers, found.chunk_correlation) == (1, 5, (), None)
    first = found.tensors[0]
    assert (first.name, first.kind, first.wanted_mean, first.spread) == ("0.weight", "weight", 0, 0)
    assert first.wanted_var == pytest.approx(2 / 6)  # of an ordinary initialisation
    assert first.mean == pytest.approx(float(flat[:, :30].mean()))
    assert first.var == pytest.approx(float(flat[:, :30].square().mean()))
    assert first.ratio == pytest.approx(first.var / (2 / 6))
    assert found.tensors[1].wanted_var == 0
    assert found.tensors[1].ratio == math.inf


def test_what_is_asked_for() -> None:
    main, e = mlp(6, 5, 3), unit(1, 8)
    hyper = Hyper(main)

    def asked(said: Any, **more: Any) -> list[float]:
        found = measure(hyper, main, said, conditions=e, seeds=2, **more)
        assert found.seeds == 2
        return [row.wanted_var for row in found.tensors]

    assert asked(spec()) == pytest.approx([1 / 6, 1, 1 / 5, 1])
    assert asked(spec(method="fan_out", bias_share=0)) == pytest.approx([2 / 5, 0, 2 / 3, 0])
    assert asked(spec(), method="fan_out", bias_share=0.0) == pytest.approx([2 / 5, 0, 2 / 3, 0])
    own = spec()
    own["rules"]["head"]["initializer"] = {"name": "bias_hyperinit", "scheme": {"nonlinearity": "relu", "unmatched": "keep"}}
    own["rules"]["head"]["initializer"]["scheme"]["rules"] = {"b": {"role": "bias", "initializer": "zeros"}}
    assert asked(own) == pytest.approx([2 / 6, 0, 2 / 5, 0])


def test_seeds_conditions_and_ways_to_generate() -> None:
    main = mlp(6, 5, 3)
    hyper = Hyper(main)
    one = measure(hyper, main, spec(), conditions=unit(2, 8), seeds=[7, 8])
    other = measure(hyper, main, spec(), conditions=unit(2, 8), seeds=[7, 8], generate=lambda net, e: net.head(net.body(e)))
    assert one == other
    assert one != measure(hyper, main, spec(), conditions=unit(2, 8), seeds=[8, 9])
    whole = nn.ModuleDict({"main": main, "hyper": hyper})
    said = {**spec(), "targets": {"net": {"module": "main", "nonlinearity": "relu"}}, "unmatched": "keep"}
    said["rules"]["head"]["glob"] = "hyper.head.*"
    said["rules"]["head"]["initializer"]["input_second_moment"] = 1.0
    inner = measure(whole, None, said, inputs=unit(4, 6), generate=lambda net, _: net.hyper(unit(2, 8)), seeds=2)
    assert [row.name for row in inner.layers] == ["0", "2"]


def test_where_the_main_network_is_known_from() -> None:
    main, e = mlp(6, 5, 3), unit(1, 8)
    hyper = Hyper(main)

    def found(target: Any, **targets: Any) -> tuple[list[str], list[float], int]:
        said = {**spec(bias_share=0), "targets": targets}
        rows = measure(hyper, target, said, conditions=e, seeds=1, inputs=unit(4, 6))
        return [row.name for row in rows.tensors], [row.wanted_var for row in rows.tensors], len(rows.layers)

    names = [name for name, _ in main.named_parameters()]
    assert found(main) == (names, pytest.approx([1 / 3, 0, 2 / 5, 0]), 2)
    # A path that is nowhere is passed over for what is given; what the spec says beside it holds.
    assert found(main, main={"module": "nowhere", "nonlinearity": "linear"}) == (names, pytest.approx([1 / 6, 0, 1 / 5, 0]), 2)
    listed = [{"name": name, "kind": "weight", "shape": list(p.shape), "var": 0.5} for name, p in main.named_parameters()]
    assert found(main, net=listed) == (names, [0.5] * 4, 2)
    assert (
        measure(hyper, listed, {**spec(), "targets": {"net": {"shapes": [[5, 6]]}}}, conditions=e, seeds=1)
        .tensors[3]
        .wanted_var
        == 0.5
    )


def test_a_table_and_a_picture() -> None:
    tensors = TensorRow("0.weight", "weight", 0.0, 0.001, 0.25, 0.2, 0.1), TensorRow("n", "norm_shift", 0.0, 0.0, 0.0, 0.0, 0.0)
    layers = (LayerRow("0", 2.0, 0.98, 0.97, 0.1, 0.5),)
    found = Measurement(tensors, layers, 10, 3, 0.318)
    assert str(found) == (
        "generated  kind         mean  wanted  variance  wanted  ratio  spread\n"
        "0.weight   weight      0.001       0       0.2    0.25    0.8     0.1\n"
        "n          norm_shift      0       0         0       0      1       0\n"
        "\n"
        "layer  c  E[z^2]/c  median  spread  E[g^2]\n"
        "0      2      0.98    0.97     0.1     0.5\n"
        "\n"
        "correlation of two chunks: 0.318\n"
        "10 seeds, 3 conditions"
    )
    pytest.importorskip("matplotlib")
    figure = found.plot()
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["0.weight"]  # nothing to show of constants
    assert [list(line.get_ydata()) for line in right.get_lines()[:1]] == [[0.98]]
    assert len(Measurement(tensors).plot().axes) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "target: what is generated is not known: there are no targets 'main'"),
        ({"target": [[5, 6], [5]], "inputs": torch.zeros(1, 6)}, "target: there is no main network to run"),
        ({"target": mlp(6, 5), "seeds": 0}, "seeds: there is none"),
        (
            {"target": mlp(6, 5), "spec": {**spec(), "targets": {"net": [{"name": "w", "kind": "weight", "shape": [35, 1]}]}},
             "targets": "net", "inputs": torch.zeros(1, 6)},
            "target: the main network has no parameters w",
        ),
    ],
    ids=["nothing", "no network", "no seeds", "names"],
)  # fmt: skip
def test_what_cannot_be_measured(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(InitConfError) as caught:
        measure(Hyper(mlp(6, 5)), conditions=unit(1, 8), **arguments)
    assert str(caught.value).splitlines()[0] == text


@pytest.mark.parametrize("value", [0.0, math.inf])
def test_a_second_moment_that_nothing_can_be_divided_by(value: float) -> None:
    main = mlp(6, 5)
    with pytest.raises(CompileError) as caught:
        measure(Hyper(main), main, spec(), conditions=torch.full((1, 8), value), seeds=1)
    said, remedy = str(caught.value).splitlines()
    assert said.startswith("conditions: E[h^2] of what enters head.weight is ")
    assert remedy == "  -> give others; where hidden units are all inactive, another seed or a wider layer"


def test_norms_start_at_exactly_1_and_0() -> None:
    main = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
    found = measure(Hyper(main), main, spec(), conditions=unit(5, 8), seeds=3)
    scale, shift = found.tensors[1:3]
    assert (scale.kind, scale.mean, scale.var) == ("norm_scale", 1, 0)
    assert (shift.kind, shift.mean, shift.var) == ("norm_shift", 0, 0)


# --- generated networks, over 100 seeds ------------------------------------------------------------------------------

FUNNEL, DECODER, DEEP = (784, 300, 100, 10), (8, 64, 512, 784), (128,) * 11


def conv() -> nn.Sequential:
    """Each norm follows an activation, and pads go round, so that every sum has as many terms as its fan says."""
    wrap: dict[str, Any] = {"padding": 1, "padding_mode": "circular"}
    first, second = nn.Conv2d(3, 16, 3, **wrap), nn.Conv2d(16, 32, 3, bias=False, **wrap)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.BatchNorm2d(32), nn.Flatten(), nn.Linear(2048, 10))


def generated(main: nn.Module, inputs: Tensor, seeds: int = 100, **more: Any) -> Measurement:
    e = unit(1, 8)
    return measure(
        Hyper(main), {"module": main, "nonlinearity": "relu"}, spec(**more), conditions=e, inputs=inputs, seeds=seeds
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("main", "inputs"),
    [(mlp(*FUNNEL), (64, 784)), (mlp(*DECODER), (64, 8)), (conv(), (16, 3, 8, 8)), (mlp(*DEEP), (64, 128))],
    ids=["funnel", "decoder", "conv", "deep"],
)
def test_fan_in_keeps_the_signal(main: nn.Module, inputs: tuple[int, ...]) -> None:
    found = generated(main, unit(*inputs))
    assert [row.forward for row in found.layers] == pytest.approx([1] * len(found.layers), abs=0.05)
    weights = [row.ratio for row in found.tensors if row.kind == "weight"]
    assert weights == pytest.approx([1] * len(weights), abs=0.01)
    for row in found.tensors:
        if row.kind.startswith("norm"):
            assert (row.mean, row.var) == (row.wanted_mean, 0)


@pytest.mark.slow
def test_fan_out_keeps_the_gradient_and_lets_the_signal_of_a_funnel_grow() -> None:
    found = generated(mlp(*FUNNEL), unit(64, 784), method="fan_out")
    assert [row.gradient for row in found.layers] == pytest.approx([1, 1, 1], abs=0.05)
    growth = [784 / 300, 784 / 100, 784 / 10]  # the products of fan_in / fan_out
    assert [row.forward for row in found.layers] == pytest.approx(growth, rel=0.05)
    assert [(row.var, row.wanted_var) for row in found.tensors if row.kind == "bias"] == [(0, 0)] * 3


@pytest.mark.slow
def test_fan_out_of_a_decoder_keeps_both() -> None:
    found = generated(mlp(*DECODER), unit(64, 8), method="fan_out")
    assert [row.gradient for row in found.layers] == pytest.approx([1, 1, 1], abs=0.05)
    assert [row.forward for row in found.layers] == pytest.approx([1, 1, 1], abs=0.05)


@pytest.mark.parametrize("method", ["harmonic", "geometric"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("main", "inputs"),
    [(mlp(40, 30, 20, 10), (64, 40)), (mlp(4, 16, 32), (64, 4)), (conv(), (4, 3, 8, 8)), (mlp(16, 16, 16), (64, 16))],
    ids=["funnel", "decoder", "conv", "deep"],
)
def test_means_of_both_never_raise(main: nn.Module, inputs: tuple[int, ...], method: str, share: float) -> None:
    found = generated(main, unit(*inputs), seeds=3, method=method, bias_share=share)
    assert all(math.isfinite(row.forward) for row in found.layers)
    assert [row.ratio for row in found.tensors] == pytest.approx([1] * len(found.tensors), abs=0.75)

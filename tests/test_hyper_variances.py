"""What generated tensors are to be like, and what hypnettorch and hypercl make of them."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest

from initconf.errors import InitConfError
from initconf.hyper.compat import mistakes, seed_moments
from initconf.hyper.targets import Target, declared, from_shapes
from initconf.hyper.variances import second_moment, wanted

MLP = [[300, 784], [300], [100, 300], [100], [10, 100], [10]]
DECODER = [[64, 8], [64], [512, 64], [512], [784, 512], [784]]
CNN = [[16, 3, 3, 3], [16], [32, 16, 3, 3], [32], [32], [10, 2048], [10]]
CNN_KINDS: list[tuple[Any, int | None]] = [
    ("weight", 0), ("bias", 0), ("weight", 1), ("norm_scale", None), ("norm_shift", None), ("weight", 2), ("bias", 2),
]  # fmt: skip
D_K = 100
"""The fan_in of the output layer in the tables; what enters it has second moment 1, so a row generates a hundred times its own
variance."""


def listed(shapes: Sequence[Sequence[int]], kinds: Sequence[tuple[Any, int | None]] | None = None) -> list[Target]:
    kinds = kinds or [("weight" if len(shape) > 1 else "bias", i // 2) for i, shape in enumerate(shapes)]
    rows = [
        {"name": str(i), "kind": kind, "shape": shape, "layer": layer, "nonlinearity": "relu"}
        for i, (shape, (kind, layer)) in enumerate(zip(shapes, kinds, strict=True))
    ]
    return declared(rows)


TARGETS = {"mlp": listed(MLP), "decoder": listed(DECODER), "cnn": listed(CNN, CNN_KINDS)}
# The variance of the rows of the output layer, of correct Hyperfan, to the six digits of a published comparison.
CORRECT = {
    ("mlp", "fan_in"): [1.27551e-05, 0.01, 3.33333e-05, 0.01, 0.0001, 0.01],
    ("mlp", "fan_out"): [6.66667e-05, 0, 0.0002, 0, 0.002, 0],
    ("mlp", "harmonic"): [2.14133e-05, 0.00321199, 5.71429e-05, 0.00285714, 0.000190476, 0.000952381],
    ("decoder", "fan_in"): [0.00125, 0.01, 0.00015625, 0.01, 1.95313e-05, 0.01],
    ("decoder", "fan_out"): [0.0003125, 0.0175, 3.90625e-05, 0.0175, 2.55102e-05, 0.00693878],
    ("decoder", "harmonic"): [0.0005, 0.016, 6.25e-05, 0.016, 2.21239e-05, 0.00867257],
    ("cnn", "fan_in"): [0.00037037, 0.01, 0.000138889, 0, 0, 4.88281e-06, 0.01],
    ("cnn", "fan_out"): [0.000138889, 0.01625, 6.94444e-05, 0, 0, 0.002, 0],
    ("cnn", "harmonic"): [0.00020202, 0.0145455, 9.25926e-05, 0, 0, 9.74184e-06, 4.87092e-05],
}


@pytest.mark.parametrize(("net", "method"), CORRECT, ids=["-".join(key) for key in CORRECT])
def test_the_rows_of_the_output_layer_have_the_right_variances(net: str, method: str) -> None:
    found = [var / D_K for _, var in wanted(TARGETS[net], method)]
    assert found == pytest.approx(CORRECT[net, method], rel=4e-6)


def exactly(targets: Sequence[Target], method: str, share: Fraction) -> list[float]:
    """The definition once more, in fractions (but for the root of the geometric mean); c = 2."""
    biased = {t.layer for t in targets if t.kind == "bias"}
    weights: dict[Any, tuple[Fraction, Any]] = {}
    for t in targets:
        if t.kind != "weight":
            continue
        out, inside, field = t.shape[0], t.shape[1], math.prod(t.shape[2:])
        fan_in, fan_out = Fraction(inside * field), Fraction(out * field)
        a, b = 2 * (1 - (share if t.layer in biased else 0)) / fan_in, 2 / fan_out
        var = {"fan_in": a, "fan_out": b, "harmonic": 2 * a * b / (a + b), "geometric": math.sqrt(a * b)}[method]
        weights[t.layer] = fan_in, var
    return [
        float(weights[t.layer][1])
        if t.kind == "weight"
        else max(0.0, float(2 - weights[t.layer][0] * weights[t.layer][1]))
        if t.kind == "bias"
        else 0.0
        for t in targets
    ]


@pytest.mark.parametrize("share", [Fraction(0), Fraction(1, 10), Fraction(1, 2)], ids=["none", "tenth", "half"])
@pytest.mark.parametrize("method", ["fan_in", "fan_out", "harmonic", "geometric"])
@pytest.mark.parametrize("net", TARGETS)
def test_all_methods_follow_their_definition(net: str, method: str, share: Fraction) -> None:
    found = wanted(TARGETS[net], method, float(share))
    assert [var for _, var in found] == pytest.approx(exactly(TARGETS[net], method, share), rel=1e-12, abs=1e-15)
    assert [mean for mean, _ in found] == [float(t.kind == "norm_scale") for t in TARGETS[net]]


@pytest.mark.parametrize("net", TARGETS)
def test_without_a_share_hyperfan_is_kaiming_and_glorot(net: str) -> None:
    weights = [t for t in TARGETS[net] if t.kind == "weight"]
    means = {
        m: dict(zip([t.name for t in TARGETS[net]], wanted(TARGETS[net], m, 0.0), strict=True)) for m in ("fan_in", "harmonic")
    }
    for t in weights:
        assert t.fan_in is not None
        assert t.fan_out is not None
        assert means["fan_in"][t.name][1] == pytest.approx(2 / t.fan_in, rel=1e-12)
        assert means["harmonic"][t.name][1] == pytest.approx(4 / (t.fan_in + t.fan_out), rel=1e-12)
    assert all(means["fan_in"][t.name] == (0.0, 0.0) for t in TARGETS[net] if t.kind == "bias")


@pytest.mark.parametrize("method", ["fan_in", "fan_out", "harmonic", "geometric"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_weights_and_bias_together_give_c_where_the_weights_leave_any(method: str, share: float) -> None:
    for f in ("relu", "tanh", {"name": "leaky_relu", "negative_slope": 0.2}):
        w = Target("w", "weight", (50, 20), "a", 20.0, 50.0, f)
        b = Target("b", "bias", (50,), "a", nonlinearity=f)
        (_, weight), (_, bias) = wanted([w, b], method, share)
        c = second_moment(w)
        assert 20 * weight + bias == pytest.approx(max(c, 20 * weight), rel=1e-12)


def test_what_nothing_is_summed_over_is_what_an_ordinary_network_starts_with() -> None:
    kinds: list[Any] = ["norm_scale", "norm_shift", "embedding", "scalar"]
    targets = [Target(kind, kind, (7, 3)) for kind in kinds]
    assert wanted(targets) == [(1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.0, 0.0)]


def test_a_target_is_bent_by_its_own_mean_and_variance() -> None:
    w = Target("w", "weight", (50, 20), "a", 20.0, 50.0, var=0.05)
    b = Target("b", "bias", (50,), "a", mean=-1.0)
    scale = Target("g", "norm_scale", (50,), mean=0.5, var=0.01)
    assert wanted([w, b, scale]) == [(0.0, 0.05), (-1.0, pytest.approx(2 - 20 * 0.05)), (0.5, 0.01)]


def test_two_weights_of_a_layer_share_what_is_left_to_its_bias() -> None:
    ih = Target("ih", "weight", (40, 30), "lstm", 30.0, 10.0, "linear")
    hh = Target("hh", "weight", (40, 10), "lstm", 10.0, 10.0, "linear")
    b = Target("b", "bias", (40,), "lstm")
    assert [var for _, var in wanted([ih, hh, b], "fan_in", 0.6)] == pytest.approx([0.4 / 30, 0.04, 0.2])
    assert [var for _, var in wanted([ih, hh, b], "fan_in", 0.5)] == pytest.approx([0.5 / 30, 0.05, 0.0])


@pytest.mark.parametrize(
    ("targets", "arguments", "problem"),
    [
        (
            [Target("b", "bias", (3,))],
            {},
            "b: it is a bias without its layer: which weight it belongs to is not known\n"
            "  -> say its layer, the same as that of its weight; or its var",
        ),
        (
            [Target("w", "weight", (3, 2), 0, 2.0, 3.0), Target("b", "bias", (3,), 1)],
            {},
            "b: it is a bias of layer 1, and no target is the weight of that layer\n"
            "  -> say its layer, the same as that of its weight; or its var",
        ),
        (
            [Target("w", "weight", (3,), 0), Target("b", "bias", (3,), 0)],
            {},
            "w: a weight of shape (3,) has no fans to scale by\n  -> say its fan_in and fan_out, or its var",
        ),
        (
            [Target("w", "weight", (3,), 0, var=1.0), Target("b", "bias", (3,), 0)],
            {},
            "b: the fan_in of its weight w is not known\n  -> say it, or the var of this bias",
        ),
        (
            [Target("w", "weight", (3, 2), 0, 2.0, 3.0, "rellu")],
            {},
            "w: no activation is named 'rellu'\n  -> did you mean 'relu'?",
        ),
        ([], {"method": "harmonc"}, "no method is named 'harmonc'\n  -> did you mean 'harmonic'?"),
        ([], {"bias_share": 1.5}, "bias_share is 1.5, and lies between 0 and 1"),
    ],
    ids=["no-layer", "no-weight", "no-fans", "bias-without-fan", "activation", "method", "share"],
)
def test_targets_that_no_variance_can_be_given(targets: list[Target], arguments: Any, problem: str) -> None:
    with pytest.raises(InitConfError) as caught:
        wanted(targets, **arguments)
    assert str(caught.value).startswith(problem)


# --- hypnettorch and hypercl -----------------------------------------------------------------------------------------------

GUESSED = {"mlp": from_shapes(MLP), "decoder": from_shapes(DECODER), "cnn": from_shapes(CNN)}
ZERO = None
"""Where the original raises ZeroDivisionError."""
AS_CODED: dict[tuple[str, str, str], list[float | None]] = {
    ("mlp", "fan_in", "hypnettorch"): [1.27551e-05, 0.01, 3.33333e-05, 0.01, 0.0001, 0.01],
    ("mlp", "fan_out", "hypnettorch"): [6.66667e-05, 0, 0.0002, 0, 0.002, 0],
    ("mlp", "harmonic", "hypnettorch"): [186800, ZERO, 70000, ZERO, 21000, ZERO],
    ("mlp", "fan_in", "hypercl"): [1.27551e-05, ZERO, 3.33333e-05, ZERO, 0.0001, ZERO],
    ("mlp", "fan_out", "hypercl"): [6.66667e-05, ZERO, 0.0002, ZERO, 0.002, ZERO],
    ("mlp", "harmonic", "hypercl"): [186800, ZERO, 70000, ZERO, 21000, ZERO],
    ("decoder", "fan_in", "hypnettorch"): [0.00125, 0.01, 0.00015625, 0.01, 1.95313e-05, 0.01],
    ("decoder", "fan_out", "hypnettorch"): [0.0003125, 0.0175, 3.90625e-05, 0.0175, 2.55102e-05, 0.00693878],
    ("decoder", "harmonic", "hypnettorch"): [8000, 314.286, 64000, 314.286, 180800, 488.235],
    ("decoder", "fan_in", "hypercl"): [0.00125, 0.01, 0.00015625, 0.01, 1.95313e-05, 0.01],
    ("decoder", "fan_out", "hypercl"): [0.0003125, 114.286, 3.90625e-05, 114.286, 2.55102e-05, 288.235],
    ("decoder", "harmonic", "hypercl"): [8000, 200.018, 64000, 200.018, 180800, 200.007],
    ("cnn", "fan_in", "hypnettorch"): [0.00037037, 0.01, 6.94444e-05, 0.01, 0.01, 4.88281e-06, 0.01],
    ("cnn", "fan_out", "hypnettorch"): [0.000138889, 0, 6.94444e-05, 0, 0, 0.002, 0],
    ("cnn", "harmonic", "hypnettorch"): [19800, ZERO, 57600, ZERO, ZERO, 410600, ZERO],
    ("cnn", "fan_in", "hypercl"): [0.00037037, ZERO, 6.94444e-05, ZERO, ZERO, 4.88281e-06, ZERO],
    ("cnn", "fan_out", "hypercl"): [0.000138889, ZERO, 6.94444e-05, ZERO, ZERO, 0.002, ZERO],
    ("cnn", "harmonic", "hypercl"): [19800, ZERO, 57600, ZERO, ZERO, 410600, ZERO],
}


@pytest.mark.parametrize(("net", "method", "compat"), AS_CODED, ids=["-".join(key) for key in AS_CODED])
def test_compat_has_the_variances_of_the_original(net: str, method: str, compat: str) -> None:
    targets, numbers = GUESSED[net], AS_CODED[net, method, compat]
    failing = [t.name for t, number in zip(targets, numbers, strict=True) if number is None]
    if failing:
        with pytest.raises(InitConfError) as caught:
            seed_moments(targets, method, compat, D_K)
        assert [(p.path, p.text) for p in caught.value.problems] == [
            (name, f"{compat} divides by zero here: fan_out leaves this bias the variance 0, as fan_in is not below it")
            for name in failing
        ]
    # Each by itself, where that is possible: the others are said outright.
    for i, number in enumerate(numbers):
        if number is not None:
            given = [None if j == i else (0.0, 0.0, 0.0, 0.0) for j in range(len(targets))]
            found = seed_moments(targets, method, compat, D_K, given)[i]
            assert found == pytest.approx((0, number, 0, 0), rel=4e-6)


def test_with_meta_data_hypnettorch_knows_norms_and_draws_embeddings_in_the_bias() -> None:
    targets = [*TARGETS["cnn"], Target("table", "embedding", (5, 4))]
    found = seed_moments(targets, "fan_in", "hypnettorch", D_K)
    assert found[2] == pytest.approx((0, 0.000138889, 0, 0), rel=4e-6)
    assert found[3:5] == [(0, 0, 1, 0), (0, 0, 0, 0)]
    assert found[7] == (0, 0, 0, 1)


def test_use_xavier_is_what_linear_targets_say() -> None:
    linear = from_shapes(MLP, "linear")
    half = [var / 2 for _, var, _, _ in seed_moments(GUESSED["mlp"], "fan_in", "hypnettorch", D_K)]
    assert [var for _, var, _, _ in seed_moments(linear, "fan_in", "hypnettorch", D_K)] == pytest.approx(half)


@pytest.mark.parametrize(
    ("targets", "method", "compat", "problem"),
    [
        (from_shapes(MLP), "geometric", "hypnettorch", "method = 'geometric': hypnettorch has no geometric mean"),
        ([Target("s", "scalar", ())], "fan_in", "hypnettorch", "s: hypnettorch knows no scalars"),
        ([Target("s", "scalar", ())], "fan_in", "hypercl", "s: hypercl cannot read fans off the shape ()"),
        ([Target("w", "weight", (3,), 0)], "fan_in", "hypnettorch", "w: hypnettorch cannot read fans off the shape (3,)"),
        ([Target("b", "bias", (3,), 7)], "fan_in", "hypnettorch", "b: no target is the weight of its layer 7"),
        (
            [Target("w", "weight", (3, 2), 0, var=1.0)],
            "fan_in",
            "hypnettorch",
            "w: hypnettorch knows no mean and no var of a target",
        ),
    ],
    ids=["geometric", "scalar", "scalar-hypercl", "fans", "layer", "var"],
)
def test_what_the_originals_have_no_answer_to(targets: list[Target], method: str, compat: str, problem: str) -> None:
    with pytest.raises(InitConfError) as caught:
        seed_moments(targets, method, compat)
    assert str(caught.value).partition("\n")[0] == problem


HARMONIC = "its harmonic mean is 2 (1/a + 1/b) instead of 2 / (1/a + 1/b): generated values have variances of thousands"


@pytest.mark.parametrize(
    ("targets", "method", "compat", "said"),
    [
        (TARGETS["mlp"], "fan_in", "hypnettorch", []),
        (TARGETS["mlp"], "harmonic", "hypnettorch", [HARMONIC]),
        (
            GUESSED["mlp"],
            "fan_in",
            "hypnettorch",
            [
                "it takes every tensor of one axis for a bias (1.bias, 3.bias, 5.bias): the scale of a norm would be drawn "
                "about 0 instead of being 1, and the weight before it would have half its variance"
            ],
        ),
        (
            TARGETS["cnn"],
            "fan_out",
            "hypnettorch",
            [
                "the fan_out of a bias is its number of channels, and its fan_in that with the receptive field: 1 generated as "
                "0 where fan_in of the convolution is below its fan_out"
            ],
        ),
        (
            TARGETS["cnn"],
            "fan_in",
            "hypercl",
            [
                "it knows no weight for 4 and takes fan_in = fan_out: a variance of c/2, and 0 for fan_out",
                "it takes every tensor of one axis for a bias: 3, 4 generated about 0, with a bias's variance",
                "one bias anywhere halves the variance of all weights: 2 without a bias too",
            ],
        ),
        (
            TARGETS["decoder"],
            "harmonic",
            "hypercl",
            [HARMONIC, "it divides c by the variance that fan_out leaves to a bias: biases have thousands of times too much"],
        ),
        (
            [Target("w", "weight", (64, 8, 3, 3), 0, 72.0, 144.0), Target("e", "embedding", (5, 4))],
            "fan_in",
            "hypnettorch",
            [
                "it reads fans off shapes, which is wrong for groups, strides and transposition: w",
                "it draws e in the head's bias: generated alike under every condition",
            ],
        ),
        (
            [Target("b", "bias", (3,))],
            "fan_out",
            "hypnettorch",
            ["it knows no weight for b and takes fan_in = fan_out: a variance of c/2, and 0 for fan_out"],
        ),
    ],
    ids=["none", "harmonic", "guess", "conv", "hypercl", "hypercl-harmonic", "fans-embedding", "alone"],
)
def test_each_mistake_is_named(targets: list[Target], method: str, compat: str, said: list[str]) -> None:
    assert mistakes(targets, method, compat, [None] * len(targets)) == said

"""Laws against scipy and 30-digit integrals: moments, bounds, quantiles, the shape of samples, and JSON there and back."""

from __future__ import annotations

import itertools
import json
import math
from functools import cache

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import hadamard
from scipy.special import ndtr

import initconf
from initconf import laws, registry, sampling
from initconf.errors import InitConfError
from initconf.laws import (
    Blocks,
    ComplexNormal,
    ComplexTruncatedNormal,
    ComplexUniform,
    Constant,
    InverseSoftplus,
    Law,
    LogOfUniform,
    LogUniform,
    Normal,
    TruncatedNormal,
    Uniform,
    truncated_moments,
)
from initconf.laws.base import Straight

INF = math.inf
WINDOWS = [
    (-2.0, 2.0),
    (-1.0, 1.0),
    (-0.5, 0.5),
    (-3.0, 3.0),
    (-1.0, 3.0),
    (-0.25, 4.0),
    (0.0, 1.0),
    (0.5, 2.5),
    (-4.0, -1.0),
    (1.99, 9.0),
    (-INF, INF),
    (-INF, 1.5),
    (-1.5, INF),
    (0.0, INF),
    (3.0, INF),
    (9.0, INF),
    (36.0, INF),
    (-INF, -9.0),
    (-INF, -36.5),
    *((float(k), k + 1.0) for k in range(2, 10)),
    *((-k - 1.0, float(-k)) for k in range(2, 10)),
    (5.0, 9.0),
    (-0.01, 0.01),
    (1.0, 1.001),
    (-7.0, -6.9995),
    (-1e-5, 2e-5),
    (1.0, 1.00001),
]
WINDOW_NAMES = [f"{low:g}..{high:g}" for low, high in WINDOWS]


@cache
def exact_moments(low, high):
    """Mean and standard deviation of a truncated standard normal in 30 digits."""
    with mpmath.workdps(30):
        a, b = mpmath.mpf(low), mpmath.mpf(high)
        peak = min(max(mpmath.mpf(0), a), b)
        left, right = max(a, peak - 14) - peak, min(b, peak + 14) - peak
        parts = mpmath.linspace(left, right, 17 if right - left > 1 else 2)

        def integral(f):
            return mpmath.quad(lambda t: f(t) * mpmath.exp(-t * (2 * peak + t) / 2), parts)

        total = integral(lambda t: 1)
        mean = integral(lambda t: t) / total
        variance = integral(lambda t: (t - mean) ** 2) / total
        return float(peak + mean), float(mpmath.sqrt(variance))


def drawn(law, n, dtype=torch.float32, name="a sample"):
    return torch.cat([made.clone() for _, made in sampling.chunks(law, sampling.key(0, name), n, dtype)])


def grid(dtype, n=4001):
    """Symmetric uniforms, the extremes of the stream among them."""
    edge = 1 - 2.0 ** (-53 if dtype == torch.float64 else -24)
    return torch.cat([torch.tensor([-edge, edge], dtype=dtype), torch.linspace(-0.9999, 0.9999, n, dtype=dtype)])


# --- moments and bounds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "factor"),
    [(1, 0.539560093754897), (2, 0.879625661034240), (2.5, 0.954597486344581), (3, 0.986578392558109), (4, 0.999464501807080)],
)
def test_truncation_factors(a, factor):
    mean, std = truncated_moments(-a, a)
    assert mean == 0.0
    assert std == pytest.approx(factor, rel=2e-15)


def test_truncation_factor_of_two_sigma_to_the_last_digit():
    assert truncated_moments(-2.0, 2.0)[1] == 0.87962566103423978


@pytest.mark.parametrize(("low", "high"), WINDOWS, ids=WINDOW_NAMES)
def test_moments_of_windows(low, high):
    mean, std = exact_moments(low, high)
    found = truncated_moments(low, high)
    assert found[0] == pytest.approx(mean, rel=1e-13, abs=1e-13 * std)
    assert found[1] == pytest.approx(std, rel=1e-10)


@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (-1.0, 3.0), (0.0, INF), (-INF, 1.5), (2.5, 3.5), (-INF, INF)])
def test_moments_of_windows_as_scipy_has_them(low, high):
    peer = stats.truncnorm(low, high)
    assert truncated_moments(low, high) == pytest.approx((peer.mean(), peer.std()), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("low", "high"), WINDOWS, ids=WINDOW_NAMES)
def test_truncated_normal_delivers_its_mean_and_std_within_its_bounds(low, high):
    law = TruncatedNormal(mean=0.3, std=0.02, low=low, high=high)
    shift, shrink = exact_moments(low, high)
    mean, std = law.parent
    assert std * shrink == pytest.approx(0.02, rel=1e-10)
    assert mean + std * shift == pytest.approx(0.3, rel=1e-10, abs=1e-10 * std)
    for bound, sigmas in zip(law.bounds, (low, high), strict=True):
        expected = 0.3 + 0.02 * (sigmas - shift) / shrink
        assert bound == pytest.approx(expected, rel=1e-10) or bound == expected
    assert (law.mean, law.std) == (0.3, 0.02)


@pytest.mark.parametrize(("low", "high"), [(40.0, 50.0), (-INF, -37.1), (1.0, 1.0), (2.0, 1.0), (0.0, 1e-7), (math.nan, 1.0)])
def test_windows_that_cannot_be_computed_are_refused(low, high):
    with pytest.raises(InitConfError) as caught:
        truncated_moments(low, high)
    assert str(caught.value) == f"between {low:g} and {high:g} sigmas nothing of a normal law is left that can be computed"


@pytest.mark.parametrize(
    ("mean", "std", "low", "high"), [(0, 1, -2, 2), (0.1, 0.02, -2, 2), (0, 0.02, -0.04, 0.04), (0, 5, -2, 2), (1, 2, -1, INF)]
)
def test_absolute_bounds_are_those_of_scipy(mean, std, low, high):
    law, peer = (
        TruncatedNormal.absolute(mean, std, low, high),
        stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std),
    )
    assert (law.mean, law.std) == pytest.approx((peer.mean(), peer.std()), rel=1e-10, abs=1e-12)
    assert law.bounds == pytest.approx((low, high), rel=1e-10)
    assert law.parent == pytest.approx((mean, std), rel=1e-10, abs=1e-12)


SCIPY = {
    "Constant": (Constant(-1.5), None),
    "Uniform": (Uniform(-0.3, 0.7), stats.uniform(-0.3, 1.0)),
    "Uniform far from zero": (Uniform(100.0, 100.5), stats.uniform(100.0, 0.5)),
    "Normal": (Normal(0.0, 0.02), stats.norm(0, 0.02)),
    "Normal with a mean": (Normal(-2.0, 3.0), stats.norm(-2, 3)),
    "LogUniform": (LogUniform(1e-3, 0.1), stats.loguniform(1e-3, 0.1)),
    "LogUniform, wide": (LogUniform(1e-6, 1e3), stats.loguniform(1e-6, 1e3)),
}


@pytest.mark.parametrize("row", [row for row in SCIPY if row != "Constant"])
def test_moments_and_bounds_as_scipy_has_them(row):
    law, peer = SCIPY[row]
    assert law.mean == pytest.approx(peer.mean(), rel=1e-10)
    assert law.std == pytest.approx(peer.std(), rel=1e-10)
    assert law.bounds == pytest.approx(peer.support(), rel=1e-10)
    assert law.kurtosis >= peer.stats("k") + 3 - 1e-9


def test_a_constant():
    law = Constant(-1.5)
    assert (law.mean, law.std, law.bounds) == (-1.5, 0.0, (-1.5, -1.5))
    assert law.quantile(torch.zeros(3)).tolist() == [-1.5] * 3


@pytest.mark.parametrize(
    ("law", "function"),
    [
        (LogOfUniform(1.0, 99.0), lambda u: mpmath.log(1 + 98 * u)),
        (LogOfUniform(1.0, 16.0, -1), lambda u: -mpmath.log(1 + 15 * u)),
        (LogOfUniform(0.01, 3.0), lambda u: mpmath.log(0.01 + 2.99 * u)),
        (LogUniform(0.2, 0.3), lambda u: mpmath.exp(mpmath.log(0.2) + u * mpmath.log(1.5))),
        (InverseSoftplus(0.001, 0.1, 1e-4), lambda u: mpmath.log(mpmath.expm1(mpmath.mpf("0.001") * 100**u))),
    ],
    ids=lambda value: "exact" if callable(value) else str(value),  # an address would differ from worker to worker
)
def test_moments_are_the_integrals_of_the_quantile(law, function):
    with mpmath.workdps(30):
        parts = mpmath.linspace(0, 1, 9)
        mean = mpmath.quad(function, parts)
        variance = mpmath.quad(lambda u: (function(u) - mean) ** 2, parts)
        fourth = mpmath.quad(lambda u: (function(u) - mean) ** 4, parts)
        assert law.mean == pytest.approx(float(mean), rel=1e-10)
        assert law.std == pytest.approx(float(mpmath.sqrt(variance)), rel=1e-10)
        assert law.kurtosis >= float(fourth / variance**2) * (1 - 1e-9)
        v = torch.linspace(-0.99, 0.99, 23, dtype=torch.float64)
        expected = torch.tensor([float(function((x + 1) / 2)) for x in v.tolist()], dtype=torch.float64)
    assert torch.allclose(law.quantile(v.clone()), expected, rtol=1e-10, atol=1e-12)


def test_inverse_softplus_holds_its_floor():
    law = InverseSoftplus(1e-5, 0.1, 1e-3)
    sample = torch.nn.functional.softplus(drawn(law, 100_000, torch.float64))
    assert float(sample.min()) == pytest.approx(1e-3, rel=1e-9)
    assert float((sample < 1.0001e-3).double().mean()) == pytest.approx(0.5, abs=0.01)  # half of the decades lie below
    assert law.mean == pytest.approx(float(drawn(law, 1_000_000, torch.float64).mean()), abs=5 * law.std / 1000)


# --- moments of constructions that draw nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 3), (16, 16), (17, 40), (64, 33), (100, 127), (128, 1), (0, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_hadamard_matrices_as_scipy_has_them(rows, columns, dtype):
    theirs = torch.from_numpy(hadamard(1 << max(rows, columns).bit_length(), dtype=float))[:rows, :columns]
    made = laws.Hadamard((rows, columns), gain=0.3).build(None, dtype)
    assert torch.equal(made.to(dtype), (theirs * (0.3 / math.sqrt(max(rows, columns)))).to(dtype))


PLACED = [(*shape, *kernel) for shape in itertools.product(range(1, 20), range(1, 20, 3)) for kernel in ((), (2, 3))]
PLACED += [(*shape, 5) for shape in ((64, 40), (40, 64), (100, 257), (256, 128), (300, 700))]
SINUSOIDS = list(itertools.product((1, 2, 3, 64, 1001), (1, 2, 3, 10, 33), (10000.0, 1.0, 0.5, 1e30)))
FIXED = {
    "hadamard": [laws.Hadamard(shape, *axes, 0.7) for shape in PLACED for axes in ((0, 1), (1, 0))],
    "zer_o": [laws.ZerO(shape, *axes, 0.7) for shape in PLACED for axes in ((0, 1), (1, 0))],
    "identity": [laws.Identity(shape, 0, 1, 0.1) for shape in PLACED] + [laws.Identity((6, 2, 3), 0, 1, 0.3, 3)],
    "dirac": [laws.Dirac(shape) for shape in PLACED if len(shape) > 2] + [laws.Dirac((6, 2, 3), 3)],
    "sinusoid": [laws.Sinusoid((positions, channels), base, 0.7) for positions, channels, base in SINUSOIDS],
    "table": [laws.Table((3, 4), (1.0, 2.0, 5.0, -1.0))],
    "flat": [laws.Flat(laws.Hadamard((5, 7)), (5, 7))],
}


@pytest.mark.parametrize("name", FIXED)
def test_moments_of_what_draws_nothing_are_those_of_what_it_builds(name):
    for law in FIXED[name]:
        built = law.build(None, torch.float64).double()
        mean, std = float(built.mean()), float(built.std(correction=0))
        assert law.deterministic
        assert law.mean == pytest.approx(mean, abs=1e-12), law
        assert law.std == pytest.approx(std, abs=1e-7), law  # identities are built in float32
        assert std or law.std < 1e-12, law


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4, 4, 0)], ids=str)
@pytest.mark.parametrize("kind", [laws.Hadamard, laws.ZerO, laws.Identity, laws.Dirac, laws.Sinusoid])
def test_what_has_no_values_has_moments(kind, shape):
    assert kind(shape).std == 0.0


@pytest.mark.parametrize("name", ["hadamard", "zer_o", "identity", "sinusoidal", "delta_orthogonal", "orthogonal", "sparse"])
def test_nothing_is_built_to_plan(monkeypatch, name):
    def built(*args, **kwargs):
        raise AssertionError("it was built")

    for kind in Law._kinds.values():
        if issubclass(kind, laws.Construction):
            monkeypatch.setattr(kind, "build", built)
    monkeypatch.setattr(laws.kernels, "hadamard", built)
    monkeypatch.setattr(laws.Sinusoid, "_table", built)
    said = {"name": "sparse", "sparsity": 0.1, "std": 1.0} if name == "sparse" else name
    with torch.device("meta"):
        model = torch.nn.Embedding(300_000, 8192) if name == "sinusoidal" else torch.nn.Linear(8192, 300_000, bias=False)
    plan = initconf.compile(model, {"rules": {"all": {"glob": "*", "initializer": said}}})
    assert name in str(plan)
    assert plan["weight"].std > 0


# --- quantiles -------------------------------------------------------------------------------------------------------------


def ppf(peer, v):
    """scipy's quantile at v = 2u - 1, from the nearer end so that no digits are lost."""
    u = (1 + v.abs().neg().double().numpy()) / 2
    return torch.from_numpy(peer.ppf(u)).where(v < 0, torch.from_numpy(peer.isf(u)))


@pytest.mark.parametrize("row", [row for row in SCIPY if row != "Constant"])
def test_quantiles_as_scipy_has_them(row):
    law, peer = SCIPY[row]
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 3e-6)):
        v = grid(dtype)
        assert torch.allclose(law.quantile(v.clone()).double(), ppf(peer, v), rtol=tolerance, atol=tolerance * law.std)


# scipy's own quantiles lose their digits in windows under a hundredth of a sigma.
@pytest.mark.parametrize(("low", "high"), [w for w in WINDOWS if w[1] - w[0] > 0.01])
def test_truncated_quantiles_as_scipy_has_them(low, high):
    shift, shrink = exact_moments(low, high)
    law, peer = TruncatedNormal(0.0, 1.0, low, high), stats.truncnorm(low, high, -shift / shrink, 1 / shrink)
    v = grid(torch.float64)[2:]  # the two extremes, where a cdf in float64 ends, are held to the bounds below
    assert torch.allclose(law.quantile(v.clone()), ppf(peer, v), rtol=1e-9, atol=1e-9)
    # In float32 the far end of a wide window is as coarse as the uniforms are: held to their probabilities.
    v = grid(torch.float32)[2:]
    off = peer.cdf(law.quantile(v.clone()).double().numpy()) - (v.double().numpy() + 1) / 2
    assert abs(off).max() < 4e-6


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.001), (-7.0, -6.9995), (-1e-5, 2e-5), (1.0, 1.00001)])
def test_quantiles_of_narrow_windows(low, high):
    """In a window of width w the law is uniform but for a tilt exp(-c t), with c its middle."""
    law, width, middle = TruncatedNormal(0.0, 1.0, low, high), high - low, (low + high) / 2
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 2e-6)):
        v = grid(dtype)
        u = (v.double() + 1) / 2
        t = -torch.log1p(u * math.expm1(-middle * width)) / middle - width / 2
        shift, shrink = exact_moments(low, high)
        expected = (t + (middle - shift)) / shrink
        assert torch.allclose(law.quantile(v.clone()).double(), expected, atol=max(tolerance, width**2 / 5))


ELEMENTWISE = [
    *(law for law, _ in SCIPY.values()),
    *(TruncatedNormal(0.5, 0.1, low, high) for low, high in WINDOWS),
    TruncatedNormal(0.0, 0.0),
    TruncatedNormal(1.0, 0.0, 3.0, INF),
    Normal(1.0, 0.0),
    Uniform(2.0, 2.0),
    LogOfUniform(1.0, 99.0),
    LogOfUniform(1.0, 16.0, -1),
    LogUniform(1e-3, 0.1),
    InverseSoftplus(0.001, 0.1, 1e-4),
    ComplexNormal(0.5, 2.0),
    ComplexUniform(2.0),
    ComplexTruncatedNormal(2.0),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("law", ELEMENTWISE, ids=str)
def test_extremes_are_finite_and_within_bounds(law, dtype):
    v = grid(dtype)
    made = law.quantile(v.repeat_interleave(law.per_value))
    assert made.shape == v.shape
    size = made.abs() if made.is_complex() else made
    assert bool(torch.isfinite(size).all())
    low, high = law.bounds
    slack = torch.finfo(dtype).eps * 2 * max(abs(b) for b in (low, high, law.mean) if math.isfinite(b))
    assert low - slack <= float(size.min()) <= float(size.max()) <= high + slack


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("law", [law for law in ELEMENTWISE if law.per_value == 1], ids=str)
def test_quantiles_rise_and_are_made_in_place(law, dtype):
    v = torch.linspace(-0.99999, 0.99999, 1001, dtype=dtype)
    made = law.quantile(v)
    assert made.data_ptr() == v.data_ptr()
    steps = made.diff()
    steps = -steps if getattr(law, "sign", 1) < 0 else steps
    assert bool((steps >= 0).all())
    if law.std > 1e-3:
        assert float((steps > 0).double().mean()) > (0.99 if dtype == torch.float64 else 0.2)


def test_normal_extremes_are_those_of_the_stream():
    edge = torch.tensor([1 - 2.0**-24])
    assert Normal(0.0, 1.0).quantile(edge).item() == pytest.approx(5.42, abs=0.01)
    edge = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    assert Normal(0.0, 1.0).quantile(edge).item() == pytest.approx(8.21, abs=0.1)


# --- samples ---------------------------------------------------------------------------------------------------------------

SAMPLED = {
    "uniform": (Uniform(-0.3, 0.7), stats.uniform(-0.3, 1.0), Uniform(-0.3, 0.704)),
    "normal": (Normal(0.1, 0.02), stats.norm(0.1, 0.02), Normal(0.1, 0.0202)),
    "truncated": (TruncatedNormal(0.0, 1.0), None, Normal(0.0, 1.0)),
    "skewed": (TruncatedNormal(0.0, 1.0, -0.5, 3.0), None, TruncatedNormal(0.0, 1.0, -0.5, 2.8)),
    "tail": (TruncatedNormal(0.0, 1.0, 4.0, INF), None, TruncatedNormal(0.0, 1.0, 3.0, INF)),
    "lower tail": (TruncatedNormal(0.0, 1.0, -8.0, -5.0), None, TruncatedNormal(0.0, 1.0, -5.5, -5.0)),
    "narrow": (TruncatedNormal(0.0, 1.0, 1.0, 1.05), None, Uniform(-math.sqrt(3), math.sqrt(3))),
    "log uniform": (LogUniform(1e-3, 0.1), stats.loguniform(1e-3, 0.1), LogUniform(1e-3, 0.103)),
    "log of uniform": (LogOfUniform(1.0, 99.0), None, LogOfUniform(1.6, 99.0)),
}


def kolmogorov_smirnov(sample, cdf):
    """The chance that a sample of this law strays as far; `stats.kstest` does the same more slowly."""
    n = sample.numel()
    share = torch.from_numpy(cdf(sample.double().sort().values.numpy()))
    ranks = torch.arange(n + 1, dtype=torch.float64) / n
    far = max(float((ranks[1:] - share).max()), float((share - ranks[:-1]).max()))
    return float(stats.kstwobign.sf(far * math.sqrt(n)))


def test_kolmogorov_smirnov_is_that_of_scipy():
    sample = drawn(Normal(0.0, 1.0), 5000)
    for cdf in (ndtr, lambda x: ndtr(x * 1.02), lambda x: ndtr(x - 0.02)):
        peer = stats.kstest(sample.double().numpy(), cdf, method="asymp").pvalue
        assert kolmogorov_smirnov(sample, cdf) == pytest.approx(peer, rel=1e-9)


def truncated_cdf(law):
    """scipy's own truncnorm.cdf is the same, and ten times as slow."""
    shift, shrink = exact_moments(law.low, law.high)
    side = -1 if law.low > 0 else 1  # from the lower tail, where probabilities keep their digits
    first, last = ndtr(side * law.low), ndtr(side * law.high)
    return lambda x: (ndtr(side * ((x - law.mean) * shrink / law.std + shift)) - first) / (last - first)


@pytest.mark.parametrize("row", SAMPLED)
def test_a_million_samples_have_the_law_s_shape_and_a_wrong_law_s_do_not(row):
    law, peer, wrong = SAMPLED[row]
    cdf = peer.cdf if peer else truncated_cdf(law) if isinstance(law, TruncatedNormal) else lambda x: (math.e**x - 1) / 98
    assert kolmogorov_smirnov(drawn(law, 1_000_000), cdf) > 1e-4
    assert kolmogorov_smirnov(drawn(wrong, 1_000_000), cdf) < 1e-6


@pytest.mark.parametrize("row", SAMPLED)
def test_a_million_samples_have_the_law_s_moments(row):
    law = SAMPLED[row][0]
    sample = drawn(law, 1_000_000).double()
    assert float(sample.mean()) == pytest.approx(law.mean, abs=5 * law.std / 1000)
    spread = math.sqrt((law.kurtosis - 1) / 4) / 1000
    assert float(sample.std()) == pytest.approx(law.std, rel=5 * spread)
    low, high = law.bounds
    assert low - 1e-6 <= float(sample.min()) <= float(sample.max()) <= high + 1e-6


@pytest.mark.parametrize("law", [ComplexNormal(0.0, 2.0), ComplexUniform(2.0), ComplexTruncatedNormal(2.0)], ids=str)
def test_complex_samples(law):
    sample = drawn(law, 500_000, torch.complex128)
    assert sample.dtype == torch.complex128
    squares = sample.abs().square()
    assert float(squares.mean()) == pytest.approx(4.0, rel=0.01)
    assert float((sample.real * sample.imag).mean()) == pytest.approx(0.0, abs=0.02)
    assert float(sample.abs().max()) <= law.bounds[1]
    # round: the angle is uniform, and independent of the modulus
    turn = (sample.angle().numpy() / (2 * math.pi)) % 1
    assert kolmogorov_smirnov(torch.from_numpy(turn), lambda x: x) > 1e-4
    share = {
        "ComplexNormal": -torch.expm1(-squares / 4),
        "ComplexUniform": squares / 8,
        "ComplexTruncatedNormal": torch.expm1(-squares / (2.0 / 0.96196182800821) ** 2) / math.expm1(-4),
    }[type(law).__name__]
    assert kolmogorov_smirnov(share, lambda x: x) > 1e-4


# --- blocks ----------------------------------------------------------------------------------------------------------------


def test_blocks_have_the_moments_of_the_mixture():
    law = Blocks(0, ("a", "b", "c"), (2, 3, 5), (Normal(1.0, 2.0), Constant(-1.0), Uniform(0.0, 6.0)))
    mean = (2 * 1 + 3 * -1 + 5 * 3) / 10
    second = (2 * (4 + 1) + 3 * 1 + 5 * (3 + 9)) / 10
    assert law.mean == pytest.approx(mean, rel=1e-14)
    assert law.std == pytest.approx(math.sqrt(second - mean**2), rel=1e-14)
    sample = torch.cat([drawn(of, n * 100_000) for of, n in zip(law.laws, law.sizes, strict=True)]).double()
    assert float(sample.mean()) == pytest.approx(law.mean, abs=0.02)
    assert float(sample.std()) == pytest.approx(law.std, rel=0.01)


@pytest.mark.parametrize("part", [laws.Keep(), laws.ModuleDefault("reset_parameters"), laws.Custom("fn")])
def test_blocks_that_cannot_know_say_so(part):
    law = Blocks(0, ("a", "b"), (1, 1), (Normal(0.0, 1.0), part))
    assert (law.mean, law.std) == (None, None)
    assert (Blocks(0, (), (), ()).mean, Blocks(0, ("a",), (0,), (Constant(1.0),)).std) == (None, None)


# --- JSON ------------------------------------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=False) | st.integers(-(10**6), 10**6)
names = st.text(max_size=8)
shapes = st.lists(st.integers(0, 9), min_size=2, max_size=5).map(tuple)
axes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
plain = st.none() | st.booleans() | numbers | names
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=2), max_leaves=5
)
ELEMENTS = {
    "Constant": st.builds(Constant, numbers),
    "Uniform": st.builds(Uniform, numbers, numbers),
    "Normal": st.builds(Normal, numbers, numbers),
    "TruncatedNormal": st.builds(TruncatedNormal, numbers, numbers, numbers, numbers),
    "LogUniform": st.builds(LogUniform, numbers, numbers),
    "LogOfUniform": st.builds(LogOfUniform, numbers, numbers, st.sampled_from([-1, 1]), st.none() | names),
    "InverseSoftplus": st.builds(InverseSoftplus, numbers, numbers, numbers),
    "ComplexNormal": st.builds(ComplexNormal, numbers, numbers),
    "ComplexUniform": st.builds(ComplexUniform, numbers),
    "ComplexTruncatedNormal": st.builds(ComplexTruncatedNormal, numbers),
}
placed = {
    name: st.builds(getattr(laws, name), shapes, st.integers(0, 1), st.integers(0, 1), numbers)
    for name in ("DeltaOrthogonal", "Identity", "Hadamard", "ZerO", "ConvolutionOrthogonal")
}
OTHERS = {
    "Orthogonal": st.builds(laws.Orthogonal, numbers, shapes, axes, axes),
    "Dirac": st.builds(laws.Dirac, shapes, st.integers(1, 4)),
    "Sparse": st.builds(laws.Sparse, shapes, numbers, numbers, st.integers(0, 4)),
    "Table": st.builds(laws.Table, shapes, st.lists(numbers, max_size=4).map(tuple)),
    "Sinusoid": st.builds(laws.Sinusoid, shapes, numbers, numbers),
    "Keep": st.builds(laws.Keep),
    "ModuleDefault": st.builds(laws.ModuleDefault, names),
    "Values": st.builds(laws.Values, names, names),
    "Custom": st.builds(laws.Custom, names, st.lists(st.tuples(names, values), max_size=3).map(tuple)),
    **placed,
}
element = st.one_of(*ELEMENTS.values())
ALL = {
    **ELEMENTS,
    **OTHERS,
    "Flat": st.builds(laws.Flat, element, shapes, st.none() | st.integers(0, 4)),
    "Blocks": st.lists(st.tuples(names, st.integers(0, 9), element), max_size=3).map(
        lambda rows: Blocks(0, *(tuple(row[i] for row in rows) for i in range(3)))
    ),
}


def shipped():
    """The classes of laws that can be made: bases, such as Construction, have no values."""
    kinds = {name: kind for name, kind in Law._kinds.items() if kind.__module__.startswith("initconf.")}
    return {name for name, kind in kinds.items() if not name.startswith("_") and kind not in (laws.Construction, Straight)}


def test_every_law_is_in_the_table():
    assert shipped() == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_laws_survive_json(name):
    @given(ALL[name])
    def there_and_back(law):
        # JSON proper, which has no Infinity
        text = json.dumps(law.to_dict(), allow_nan=False)
        back = Law.from_dict(json.loads(text))
        assert back == law
        assert type(back) is type(law)
        assert back.to_dict() == law.to_dict()
        assert json.loads(text)["law"] == name

    there_and_back()


def test_an_unknown_law_is_refused():
    with pytest.raises(InitConfError, match="no law named 'Cauchy'"):
        Law.from_dict({"law": "Cauchy"})


def test_laws_print_short_numbers():
    assert str(Normal(0.0, 1 / 3)) == "Normal(mean=0, std=0.333333)"
    assert str(laws.Orthogonal(math.sqrt(2), (8, 4, 3))) == "Orthogonal(gain=1.41421, 8x12)"


# --- a user's own law ------------------------------------------------------------------------------------------------------


def test_a_name_of_a_law_cannot_be_taken_twice():
    with pytest.raises(InitConfError) as caught:

        class Normal(Law):
            pass

    assert str(caught.value) == "there is a law named 'Normal' already, in initconf.laws.elementwise"
    assert Law._kinds["Normal"] is laws.Normal


def test_the_same_law_may_be_defined_again(monkeypatch):
    monkeypatch.setattr(Law, "_kinds", dict(Law._kinds))

    def cell():
        class Triangular(Law):
            elementwise = True
            mean, std = 0.0, math.sqrt(1 / 6)

            def quantile(self, v):
                return v.sign() * (1 - (1 - v.abs()).sqrt())

        return Triangular

    cell()
    law = cell()()
    assert Law.from_dict(law.to_dict()) == law
    registry.names()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    initconf.register("triangular")(lambda site: law)
    model = torch.nn.Linear(50, 40, bias=False)
    initconf.initialize(model, {"initializer": "triangular"}).verify()
    assert float(model.weight.detach().std()) == pytest.approx(law.std, rel=0.05)

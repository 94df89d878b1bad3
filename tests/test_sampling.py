"""The stream: defined by integers alone, the same for every chunk and thread, and guarded by golden values."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from initconf import laws, sampling
from initconf.laws import (
    ComplexNormal,
    ComplexTruncatedNormal,
    ComplexUniform,
    Constant,
    ConvolutionOrthogonal,
    DeltaOrthogonal,
    Dirac,
    Hadamard,
    Identity,
    InverseSoftplus,
    LogOfUniform,
    LogUniform,
    Normal,
    Orthogonal,
    Sinusoid,
    Sparse,
    Table,
    TruncatedNormal,
    Uniform,
    ZerO,
)
from tests.streams import by_numpy, generator

NAME = "blocks.0.fc.weight"


# --- the definition, in Python's integers ----------------------------------------------------------------------------------

MASK64, MASK128 = (1 << 64) - 1, (1 << 128) - 1
MULTIPLIER = 0xDA942042E4DD58B5


def written_out_key(seed, name, block=""):
    return hashlib.sha256(f"initconf 1\0{seed}\0{name}\0{block}".encode()).digest()


def pcg64dxsm(state, increment):
    """The 64-bit outputs of PCG64DXSM (O'Neill's 'double xorshift multiply'), of the state before each step."""
    while True:
        high, low = state >> 64, (state & MASK64) | 1
        high ^= high >> 32
        high = high * MULTIPLIER & MASK64
        high ^= high >> 48
        yield high * low & MASK64
        state = (state * MULTIPLIER + increment) & MASK128


def written_out_raw(key):
    return pcg64dxsm(int.from_bytes(key[:16], "little"), int.from_bytes(key[16:], "little") | 1)


def written_out_uniforms(key, n, double=False):
    """The symmetric uniforms of a stream; Python's floats are float64, in which these sums are exact."""
    raw, made = written_out_raw(key), []
    while len(made) < n:
        r = next(raw)
        if double:
            made.append(2 * ((r >> 11) * 2.0**-53 - 0.5) + 2.0**-53)
        else:
            made += [2 * ((h >> 8) * 2.0**-24) - 1 + 2.0**-24 for h in (r & 0xFFFFFFFF, r >> 32)]
    return made[:n]


@given(st.integers(-(2**70), 2**70), st.text(st.characters(codec="utf-8"), max_size=12), st.none() | st.text(max_size=3))
def test_the_key_is_a_hash_of_version_seed_name_and_block(seed, name, block):
    name, block = name.replace("\ud800", ""), block and "".join(c for c in block if not "\ud800" <= c <= "\udfff")
    assert sampling.key(seed, name, block) == written_out_key(seed, name, block or "")


def test_keys_in_numbers():
    assert sampling.key(7, NAME).hex() == "2f5f16b3ce298c0a758f0a61c2dc01b07fcf3cf2e89b173cf773b5e15be62d1a"
    assert sampling.key(0, "fc.weight").hex() == "1e1a7aa3738f02d787f5461af7abdf6fe38c6a2787e2f8ba6cb452d26fcc29ee"
    of_block = sampling.key(0, "attn.in_proj_weight", "q")
    assert of_block.hex() == "413ce74b40a98fe3416dc59379a2d769754911cb68ff39115b59ebd67be13171"


def test_every_part_of_the_key_matters():
    base = sampling.key(0, "a.weight", "q")
    others = [(1, "a.weight", "q"), (0, "b.weight", "q"), (0, "a.weight", "k"), (0, "a.weight", None), (-1, "a.weight", "q")]
    assert base not in {sampling.key(*other) for other in others}
    assert len({sampling.key(*other) for other in others}) == len(others)


@pytest.mark.parametrize("seed", range(4))
def test_raw_outputs_are_those_of_the_generator_written_out(seed):
    key = sampling.key(seed, NAME)  # half of the keys have an even increment, which is made odd
    raw = written_out_raw(key)
    assert generator(key).random_raw(500).tolist() == [next(raw) for _ in range(500)]


def test_raw_outputs_in_numbers():
    first = [15706135240729149028, 17033946450322442474, 1202035725854187798, 10498572784414003803]
    assert generator(sampling.key(7, NAME)).random_raw(4).tolist() == first


@pytest.mark.parametrize("name", ["a", NAME, "ключ"])
@pytest.mark.parametrize("n", [1, 2, 1001])
def test_uniforms_are_the_halves_of_the_raw_outputs_low_half_first(name, n):
    key = sampling.key(3, name)
    made = by_numpy(key, torch.empty(n))
    assert made.dtype == torch.float32
    assert made.tolist() == written_out_uniforms(key, n)  # to the last bit: every one of them fits a float32
    raw = generator(key).random_raw((n + 1) // 2)
    halves = np.stack([raw & 0xFFFFFFFF, raw >> 32], axis=1).reshape(-1)[:n]
    wide = (2 * (halves >> 8).astype(np.float64) * 2.0**-24 - 1) + 2.0**-24
    assert made.numpy().tobytes() == wide.astype(np.float32).tobytes()


def test_float64_has_a_stream_of_its_own():
    key = sampling.key(3, NAME)
    made = by_numpy(key, torch.empty(1001, dtype=torch.float64))
    assert made.tolist() == written_out_uniforms(key, 1001, double=True)
    raw = generator(key).random_raw(1001) >> 11
    # 2u - 1 + 2^-53 in integers: (2k + 1 - 2^53) / 2^53
    assert [x * 2**53 for x in made.tolist()] == [2 * int(k) + 1 - 2**53 for k in raw]


@pytest.mark.parametrize("n", [4095, 4096, 4097, 10_001])
@pytest.mark.parametrize("first", [0, 1, 4096, 5001])
def test_many_uniforms_are_those_of_the_short_way(first, n):
    key = sampling.key(3, NAME)
    whole = torch.cat([by_numpy(key, torch.empty(1000), start) for start in range(0, first + n, 1000)])
    assert torch.equal(by_numpy(key, torch.empty(n), first), whole[first : first + n])


def test_an_odd_element_lies_in_the_high_half_of_its_step():
    key = sampling.key(0, NAME)
    whole = by_numpy(key, torch.empty(100))
    for i in (0, 1, 38, 99):
        bits = generator(key)
        bits.advance(i // 2)
        h = int(bits.random_raw()) >> 32 * (i % 2) & 0xFFFFFFFF
        assert whole[i] == 2 * ((h >> 8) * 2.0**-24) - 1 + 2.0**-24
        assert by_numpy(key, torch.empty(1), i) == whole[i]


def test_uniforms_are_symmetric_and_never_reach_one():
    made = by_numpy(sampling.key(0, NAME), torch.empty(1 << 20))
    assert -1 < float(made.min()) < float(made.max()) < 1
    assert float(made.mean()) == pytest.approx(0, abs=5 / math.sqrt(3 << 20))
    # what the smallest and the largest raw number become
    ends = torch.tensor([0, 1 - 2.0**-24]).sub_(0.5 - 2.0**-25).mul_(2)
    assert ends.tolist() == [-1 + 2.0**-24, 1 - 2.0**-24]
    ends = torch.tensor([0, 1 - 2.0**-53], dtype=torch.float64).sub_(0.5 - 2.0**-54).mul_(2)
    assert ends.tolist() == [-1 + 2.0**-53, 1 - 2.0**-53]


def test_a_normal_made_of_float32_uniforms_has_the_moments_that_are_promised():
    """By all of the 2^24 uniforms that there are: what a sample's moments tend to."""
    second = fourth = 0.0
    for start in range(0, 1 << 23, 1 << 20):  # the positive half; the other is its mirror image
        v = (torch.arange(start, start + (1 << 20)) * 2.0**-23 + 2.0**-24).float()
        squares = Normal(0.0, 1.0).quantile(v).double().square()
        second, fourth = second + float(squares.sum()) / (1 << 23), fourth + float(squares.square().sum()) / (1 << 23)
    assert math.sqrt(second) == pytest.approx(1, abs=1e-5)
    assert fourth / second**2 == pytest.approx(3, abs=1e-4)


# --- golden values ---------------------------------------------------------------------------------------------------------
# Indices 262143 and 262144 lie on both sides of the first chunk's end. These numbers are a promise to users: they hold on all
# machines, exactly for `Uniform` and to two units in the last place for the others. Where a change makes them differ on
# purpose, raise STREAM in initconf/plan.py, say so in CHANGELOG.md, and only then write the new numbers here. Never adapt them
# otherwise.

INDICES = [0, 1, 2, 1000, 262143, 262144, 300001]
UNIFORM = "-0x1.618418p-4 0x1.67dd9ap-2 0x1.f9fb22p-2 -0x1.008f38p-4 -0x1.55b12ep-2 -0x1.f91d1ap-2 0x1.f32292p-2"
GOLDEN = {
    "U(0.25, 3)": (
        Uniform(0.25, 3.0),
        [1.38765407, 2.59143591, 2.9838357, 1.45274937, 0.707369804, 0.268493533, 2.96545053],
        [2.5914360680355815, 2.7893832402731844, 2.2922324301878607],
    ),
    "N(0, 0.02)": (
        Normal(0.0, 0.02),
        [-0.00436113821, 0.0208518319, 0.0503877699, -0.00315314648, -0.0193764959, -0.0494326092, 0.0447889268],
        [0.02085183529154477, 0.02856806493134829, 0.01302949563974551],
    ),
    "N(1, 2)": (
        Normal(1.0, 2.0),
        [0.563886166, 3.08518314, 6.03877687, 0.684685349, -0.937649608, -3.94326067, 5.4788928],
        [3.085183529154477, 3.856806493134829, 2.302949563974551],
    ),
    "truncated at two sigma": (
        TruncatedNormal(0.0, 0.02),
        [-0.00472899759, 0.022188805, 0.0433241688, -0.00342027773, -0.0206830539, -0.0430444069, 0.0412734784],
        [0.022188809230005786, 0.029684156962455303, 0.014043010796994576],
    ),
    "truncated at -1 and 3": (
        TruncatedNormal(0.0, 1.0, -1.0, 3.0),
        [-0.340606272, 1.09817588, 2.81905293, -0.277052373, -1.03434896, -1.60483074, 2.51922274],
        [1.0981759260636537, 1.561822940717836, 0.6341119013401899],
    ),
    "past four sigma": (
        TruncatedNormal(0.0, 1.0, 4.0, math.inf),
        [-0.467547596, 0.947427809, 3.96679592, -0.423686147, -0.8459903, -1.03689897, 3.29008985],
        [0.947427897241841, 1.5993029868402666, 0.392080151727357],
    ),
    "a narrow window": (
        TruncatedNormal(0.0, 1.0, 1.0, 1.05),
        [-0.305650175, 1.22088885, 1.72613513, -0.22397992, -1.1533469, -1.69472253, 1.70237648],
        [1.2208888933605038, 1.4752801974174266, 0.8382055785199729],
    ),
    "log-uniform": (
        LogUniform(0.001, 0.1),
        [0.00672023976, 0.0504501611, 0.0973294154, 0.00749422656, 0.00215096143, 0.00103145395, 0.0943785086],
        [0.05045016546188293, 0.07027877368288941, 0.03056750199533055],
    ),
    "log of uniform": (
        LogOfUniform(1.0, 99.0),
        [3.7267015, 4.43604422, 4.58928442, 3.78103948, 2.85064864, 0.506240666, 4.58260536],
        [4.436044386781528, 4.516277599496156, 4.301057026371004],
    ),
    "inverse softplus": (
        InverseSoftplus(0.001, 0.1, 1e-4),
        [-4.99926949, -2.96143818, -2.28059459, -4.88987303, -6.14076471, -6.87627029, -2.31288147],
        [-2.9614381211862453, -2.619940290378961, -3.472495177801101],
    ),
}


def made(law, n, dtype=torch.float32, seed=7, name=NAME):
    return torch.cat([part.clone() for _, part in sampling.chunks(law, sampling.key(seed, name), n, dtype)])


def test_golden_uniforms_to_the_last_bit():
    assert made(Uniform(-0.5, 0.5), 300_002)[INDICES].tolist() == [float.fromhex(x) for x in UNIFORM.split()]


@pytest.mark.parametrize("row", GOLDEN)
def test_golden_values(row):
    law, single, double = GOLDEN[row]
    found = made(law, 300_002)[INDICES].numpy()
    expected = np.array(single, dtype=np.float32)
    if isinstance(law, Uniform):
        assert found.tolist() == expected.tolist()
    np.testing.assert_array_max_ulp(found, expected, maxulp=2)
    found = made(law, 300_002, torch.float64)[[0, 1, 300_001]].numpy()
    np.testing.assert_allclose(found, double, rtol=1e-13)


COMPLEX = {
    "complex normal": (ComplexNormal(1.0, 2.0), [0.6916209 + 1.4744473j, 4.5629535 + 2.0200675j, 1.9342797 - 2.1394527j]),
    "in a disk": (ComplexUniform(0.5), [-0.2706248 + 0.3655248j, -0.6249578 + 0.3263262j, -0.5601001 - 0.2430562j]),
    "complex truncated": (
        ComplexTruncatedNormal(0.5),
        [-0.2232566 + 0.3015459j, -0.8893789 + 0.4643956j, -0.5470825 - 0.2374072j],
    ),
}
CONSTRUCTED = {
    "orthogonal": (Orthogonal(1.0, (3, 2)), [-0.0834, 0.5218, 0.9639, 0.2583, 0.2528, -0.813]),
    "delta-orthogonal": (DeltaOrthogonal((2, 2, 3)), [0.0, -0.0862, 0.0, 0.0, 0.9963, 0.0, 0.0, 0.9963, 0.0, 0.0, 0.0862, 0.0]),
    "orthogonal convolution": (
        ConvolutionOrthogonal((2, 2, 2, 2)),
        [
            0.0217,
            -0.0605,
            -0.2946,
            -0.5956,
            -0.0516,
            -0.0255,
            0.6985,
            -0.2512,
            -0.2512,
            0.6985,
            -0.0255,
            -0.0516,
            0.5956,
            0.2946,
            0.0605,
            -0.0217,
        ],
    ),
    "sparse": (Sparse((4, 2), 0.5, 1.0), [0.0, 0.0, 1.0426, 0.0, 0.0, 1.0032, 1.4284, 0.1742]),
}


@pytest.mark.parametrize("row", COMPLEX)
def test_golden_complex_values(row):
    law, expected = COMPLEX[row]
    assert torch.allclose(made(law, 3, torch.complex64), torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("row", CONSTRUCTED)
def test_golden_constructions(row):
    law, expected = CONSTRUCTED[row]
    found = sampling.construct(law, sampling.key(7, NAME), torch.float32)
    assert torch.allclose(found.flatten(), torch.tensor(expected), atol=1e-4)


def test_every_law_that_draws_has_golden_values():
    """A new law that draws needs a row above; what is the same for every key needs none."""

    class Forbidden:
        def uniform(self, *shape):
            raise LookupError

        normal = uniform

    fixed = {
        Constant(1.0), Identity((2, 2)), Dirac((2, 2, 3)), Hadamard((2, 2)), ZerO((2, 2)), Sinusoid((3, 4)),
        Table((2,), (1.0, 2.0)),
    }  # fmt: skip
    for law in fixed - {Constant(1.0)}:
        law.build(Forbidden(), torch.float32)  # draws nothing
    golden = {type(law) for law, *_ in (*GOLDEN.values(), *COMPLEX.values(), *CONSTRUCTED.values())}
    elsewhere = {"Blocks", "Flat", "Keep", "ModuleDefault", "Custom", "Values", "Law", "Construction"}
    known = {name for name, value in vars(laws).items() if isinstance(value, type) and issubclass(value, laws.Law)}
    assert known - elsewhere == {kind.__name__ for kind in golden | {type(law) for law in fixed}}


# --- what values do not depend on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [Uniform(-1.0, 2.0), Normal(0.0, 1.0), TruncatedNormal(0.0, 1.0, 1.0), ComplexNormal(0.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1, 7, 64, 999, 1000, 5000])
def test_chunking_does_not_change_values(monkeypatch, law, dtype, size):
    whole = made(law, 1000, dtype)
    monkeypatch.setattr(sampling, "CHUNK", size)
    starts = [start for start, _ in sampling.chunks(law, sampling.key(7, NAME), 1000, dtype)]
    assert starts == list(range(0, 1000, size))
    assert torch.equal(made(law, 1000, dtype), whole)


def test_a_longer_parameter_begins_with_the_values_of_a_shorter_one():
    for n in (1, 2, 333):
        assert torch.equal(made(Normal(0.0, 1.0), 1000)[:n], made(Normal(0.0, 1.0), n))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_made_in_float32(dtype):
    assert sampling.working_dtype(dtype) == torch.float32
    assert made(Normal(0.0, 1.0), 10, dtype).dtype == torch.float32


def test_parameters_and_blocks_have_independent_values():
    n, law = 100_000, Normal(0.0, 1.0)
    a = made(law, n)
    for other in (made(law, n, seed=8), made(law, n, name="blocks.1.fc.weight"), a.roll(1), a.roll(2)):
        assert abs(float(torch.corrcoef(torch.stack([a, other]))[0, 1])) < 5 / math.sqrt(n)
    p = stats.kstest(torch.stack([made(law, 1, name=f"p{i}") for i in range(5000)]).flatten().numpy(), "norm").pvalue
    assert p > 1e-4  # the first values of many parameters


# --- orthogonal ------------------------------------------------------------------------------------------------------------


def orthogonal(law, dtype=torch.float64, name=NAME):
    return sampling.construct(law, sampling.key(0, name), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gain", [1.0, math.sqrt(2), 0.0])
@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (64, 16), (16, 64), (1, 30), (30, 1), (12, 3, 5, 5), (5, 2, 2, 2, 2)])
def test_rows_or_columns_are_orthonormal(shape, gain, dtype):
    law = Orthogonal(gain, shape)
    found = orthogonal(law, dtype)
    assert found.shape == shape
    assert found.dtype == dtype
    matrix = found.reshape(shape[0], -1)
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    expected, tolerance = gain**2 * torch.eye(len(small), dtype=dtype), 1e-5 if dtype == torch.float32 else 1e-13
    assert torch.allclose(small @ small.T, expected, atol=tolerance)
    assert float(matrix.square().mean().sqrt()) == pytest.approx(law.std, rel=1e-5)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_orthogonal_of_nothing(shape):
    assert orthogonal(Orthogonal(1.0, shape)).shape == shape


@pytest.mark.parametrize(
    ("shape", "out", "batch"),
    [((7, 4, 6), (1,), (0,)), ((4, 7, 6), (2,), (1,)), ((3, 2, 4, 5), (3,), (0, 2)), ((6, 5, 2), (0, 2), ())],
)
def test_any_axes_may_be_out_or_batch(shape, out, batch):
    law = Orthogonal(2.0, shape, out, batch)
    found = orthogonal(law)
    assert found.shape == shape
    rest = [axis for axis in range(len(shape)) if axis not in (*out, *batch)]
    matrices = found.permute(*batch, *out, *rest).reshape(-1, law.rows, law.columns)
    small = matrices if law.rows <= law.columns else matrices.mT
    gram = small @ small.mT
    assert torch.allclose(gram, 4 * torch.eye(small.shape[-2], dtype=found.dtype).expand_as(gram))
    assert law.std == pytest.approx(float(found.square().mean().sqrt()), rel=1e-12)
    if len(matrices) > 1:
        assert not torch.allclose(matrices[0], matrices[1])


def haar_surprises(q):
    """How many standard errors the moments of (many, n, n) matrices lie from those of the Haar measure (Weingarten)."""
    many, n, _ = q.shape
    one, trace, sign = q[:, 0, 0], q.diagonal(dim1=1, dim2=2).sum(1), torch.linalg.det(q)
    expected = {
        "entries": (q.mean(dim=(1, 2)), 0.0),
        "diagonal's signs": (q.diagonal(dim1=1, dim2=2).sign().mean(1), 0.0),
        "determinant": (sign, 0.0),
        "trace": (trace, 0.0),
        "trace squared": (trace**2, 1.0),
        "trace to the fourth": (trace**4, 3.0),
        "fourth powers": (one**4, 3 / (n * (n + 2))),
        "squares of a row": (q[:, 0, 0] ** 2 * q[:, 0, 1] ** 2, 1 / (n * (n + 2))),
        "squares of a block": (q[:, 0, 0] ** 2 * q[:, 1, 1] ** 2, (n + 1) / (n * (n - 1) * (n + 2))),
    }
    return {what: abs(float(x.mean()) - wanted) / float(x.std()) * math.sqrt(many) for what, (x, wanted) in expected.items()}


def test_orthogonal_matrices_are_haar_distributed():
    q = orthogonal(Orthogonal(1.0, (20_000, 4, 4), (1,), (0,)))
    far = haar_surprises(q)
    assert max(far.values()) < 4.5, far
    # the distribution of an entry of a 4 x 4 matrix: (1 + q) / 2 is Beta(3/2, 3/2)
    assert stats.kstest(((q[:, 2, 1] + 1) / 2).numpy(), stats.beta(1.5, 1.5).cdf).pvalue > 1e-4


def test_without_the_signs_of_r_the_test_fails():
    draws = sampling.Draws(sampling.key(0, NAME), torch.float64)
    plain = torch.linalg.qr(draws.normal(20_000, 4, 4))[0]
    far = haar_surprises(plain)
    assert far["diagonal's signs"] > 20
    assert far["determinant"] > 20


def test_a_construction_draws_from_the_parameter_s_own_stream():
    draws = sampling.Draws(sampling.key(0, NAME), torch.float32)
    first, second = draws.uniform(3, 5), draws.normal(4)
    whole = torch.tensor(written_out_uniforms(sampling.key(0, NAME), 19))
    assert torch.equal(torch.cat([first.flatten()]), whole[:15])
    assert torch.allclose(second, whole[15:].erfinv() * math.sqrt(2))
    wide = torch.tensor(written_out_uniforms(sampling.key(0, NAME), 12, double=True), dtype=torch.float64)
    q, r = torch.linalg.qr(wide.erfinv().view(4, 3))
    expected = q * r.diagonal().sign()
    assert torch.allclose(orthogonal(Orthogonal(1.0, (4, 3))), expected)
    assert torch.allclose(orthogonal(Orthogonal(1.0, (3, 4))), expected.T)


# What a process may have said before initconf is first used; torch's defaults are no defaults of the stream.
BEFORE = {
    "nothing": "pass",
    "bfloat16": "torch.set_default_dtype(torch.bfloat16)",
    "float16": "torch.set_default_dtype(torch.float16)",
    "float64": "torch.set_default_dtype(torch.float64)",
    "default device meta": "torch.set_default_device('meta')",
    "with device meta": "torch.device('meta').__enter__()",
    "inference mode": "torch.inference_mode().__enter__()",
}
FIRST_USE = """
import hashlib, torch
{before}
import initconf
from initconf import laws, sampling
key, source = sampling.key(0, "w"), sampling.Source()
for law in (laws.Uniform(-1.0, 2.0), laws.Normal(0.0, 0.02), laws.TruncatedNormal(0.0, 0.02, -1.0, 3.0)):
    for dtype in (torch.float32, torch.float64):
        made = sampling.values(law, key, 0, 20_000, dtype, source)
        print(hashlib.sha256(made.numpy().tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def first_uses() -> dict[str, str]:
    """What each process prints; they run side by side."""
    crew = {
        name: subprocess.Popen(
            [sys.executable, "-c", FIRST_USE.format(before=before)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for name, before in BEFORE.items()
    }
    return {name: process.communicate()[0] for name, process in crew.items()}


@pytest.mark.parametrize("name", list(BEFORE)[1:])
def test_torch_s_defaults_at_the_first_use_change_nothing(name, first_uses):
    assert first_uses["nothing"].count("\n") == 6
    assert first_uses[name] == first_uses["nothing"]

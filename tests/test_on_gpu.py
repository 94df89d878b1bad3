"""The stream on a GPU has the bits of the stream on the CPU.

The kernel runs on a GPU where there is one, and else, where triton is installed, in triton's interpreter.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import initconf
from initconf import on_gpu, sampling
from initconf.laws import (
    ComplexNormal,
    InverseSoftplus,
    LogOfUniform,
    LogUniform,
    Normal,
    TruncatedNormal,
    Uniform,
)
from initconf.stream import Streams
from tests.streams import by_numpy, generator

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
KEY = sampling.key(7, "blocks.0.fc.weight")
# One value; the ends of a block of 1,024 steps; three blocks.
SIZES = [1, 2, 7, 2047, 2048, 2049, 5001]
FIRST = [0, 1, 2, 5_000_001]


def same_bits(device: str) -> None:
    """The uniforms of one stream and of many are those of the CPU, from any place on, in both precisions."""
    for dtype in (torch.float32, torch.float64):
        for first in FIRST:
            for n in SIZES:
                expected = by_numpy(KEY, torch.empty(n, dtype=dtype), first)
                found = on_gpu.uniforms([KEY], [n], torch.empty(n, dtype=dtype, device=device), first)
                assert torch.equal(found.cpu(), expected), (dtype, first, n)
        counts = [(i * 37) % 3000 + 1 for i in range(20)]
        keys = [sampling.key(0, f"p{i}") for i in range(20)]
        expected = Streams().uniforms(keys, counts, torch.empty(sum(counts), dtype=dtype))
        found = on_gpu.uniforms(keys, counts, torch.empty(sum(counts), dtype=dtype, device=device))
        assert torch.equal(found.cpu(), expected), dtype


def runs(device: str, monkeypatch) -> None:
    """Pieces of one stream in one launch, and in several where they are too many for one."""
    pieces = [(0, 3), (3, 1), (8, 5), (2047, 2), (5000, 2050), (9001, 1)]
    for dtype in (torch.float32, torch.float64):
        whole = by_numpy(KEY, torch.empty(10_000, dtype=dtype), 0)
        expected = torch.cat([whole[first : first + n] for first, n in pieces])
        for most in (1 << 15, 4):
            monkeypatch.setattr(on_gpu, "_STREAMS", most)
            out = torch.empty(expected.numel(), dtype=dtype, device=device)
            on_gpu.uniforms([KEY] * len(pieces), [n for _, n in pieces], out, [first for first, _ in pieces])
            assert torch.equal(out.cpu(), expected), (dtype, most)


def far_blocks(device: str) -> None:
    """Past a million steps the number of a block has a second digit."""
    n = 2 * 1024 * 1030 + 5
    found = on_gpu.uniforms([KEY], [n], torch.empty(n, device=device)).cpu()
    assert torch.equal(found, by_numpy(KEY, torch.empty(n), 0))


def a_model_written_there(monkeypatch) -> None:
    """The whole way through `initialize`, with the interpreter in the place of a GPU: the CPU's bits."""

    def make() -> nn.Module:
        net = nn.Sequential(
            nn.Embedding(30, 8, padding_idx=3), nn.Linear(8, 700), nn.LayerNorm(700), nn.MultiheadAttention(8, 2)
        )
        net.append(nn.Linear(4, 3, dtype=torch.bfloat16)).append(nn.Linear(5, 3, dtype=torch.float64))
        net[1].weight.data = net[1].weight.data.t().contiguous().t()  # not contiguous
        return net

    plain = initconf.initialize(make(), "he", threads=1).model
    assert on_gpu.works(torch.device("cpu"))
    calls = []
    monkeypatch.setattr(on_gpu, "serves", lambda device: True)
    real = on_gpu.uniforms
    monkeypatch.setattr(on_gpu, "uniforms", lambda *args: calls.append(1) or real(*args))
    there = initconf.initialize(make(), "he", threads=1).model
    for (name, a), b in zip(plain.named_parameters(), there.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert calls


def test_the_tables_are_the_powers_of_the_step():
    """By jumping in Python with the table's numbers, held to NumPy's own `advance`."""
    table = on_gpu._table(torch.device("cpu")).view(-1, 4).numpy().view("uint64")
    bits = generator(KEY)
    start = bits.state["state"]
    for level, digit in [(0, 0), (0, 1), (0, 1023), (1, 1), (1, 1000), (2, 3)]:
        a, a_high, c, c_high = (int(x) for x in table[level * 1024 + digit])
        jumped = ((a | a_high << 64) * start["state"] + (c | c_high << 64) * start["inc"]) % (1 << 128)
        other = generator(KEY)
        other.advance(digit * 1024**level)
        assert jumped == other.state["state"]["state"], (level, digit)


def test_without_cuda_nothing_is_computed_there():
    assert not on_gpu.serves(torch.device("cpu"))
    assert not on_gpu.serves(torch.device("meta"))


@pytest.mark.parametrize("kernel", ["missing", "failing", "other bits"])
def test_where_the_kernel_does_not_run_the_values_are_made_on_the_cpu(kernel, monkeypatch, caplog):
    """As it is found out on a GPU; here the device is the CPU, which `works` does not ask about."""

    class Launched:
        def __getitem__(self, grid):
            return lambda out, *_, **__: out.zero_()

    def failing():
        if kernel == "missing":
            raise ModuleNotFoundError("No module named 'triton'")
        if kernel == "failing":
            raise RuntimeError("Failed to find C compiler")
        return Launched()

    monkeypatch.setattr(on_gpu, "_kernel", failing)
    on_gpu.works.cache_clear()
    assert not on_gpu.works(torch.device("cpu"))
    on_gpu.works.cache_clear()
    said = {
        "missing": "ModuleNotFoundError: No module named 'triton'",
        "failing": "RuntimeError: Failed to find C compiler",
        "other bits": "ArithmeticError: it gives other bits than the CPU",
    }
    assert caplog.messages == [
        "values for cpu are made on the CPU and copied, which takes longer: the kernel does not run there: " + said[kernel]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("check", ["same_bits", "runs", "far_blocks", "a_model_written_there"])
def test_in_tritons_interpreter(check):
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed (it comes with torch's builds for CUDA)")
    patch = "pytest.MonkeyPatch()"
    arguments = {"runs": f"'cpu', {patch}", "a_model_written_there": patch}.get(check, "'cpu'")
    script = f"import pytest, test_on_gpu; test_on_gpu.{check}({arguments})"
    here = str(Path(__file__).parent)
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@needs_gpu
def test_the_bits_of_the_uniforms_are_the_cpus():
    same_bits("cuda")
    far_blocks("cuda")
    with pytest.MonkeyPatch.context() as patch:
        runs("cuda", patch)


@needs_gpu
@pytest.mark.parametrize(
    "law",
    [
        Uniform(-1.0, 2.0),
        Normal(0.0, 1.0),
        TruncatedNormal(0.0, 1.0),
        TruncatedNormal(0.0, 1.0, -1.0, 3.0),
        TruncatedNormal(0.0, 1.0, 4.0, float("inf")),
        LogUniform(0.001, 0.1),
        LogOfUniform(1.0, 99.0),
        InverseSoftplus(0.001, 0.1, 1e-4),
        ComplexNormal(0.0, 1.0),
    ],
    ids=lambda law: type(law).__name__,
)
def test_quantiles_agree(law):
    n = (1 << 20) * law.per_value
    expected = law.quantile(by_numpy(KEY, torch.empty(n), 0))
    found = law.quantile(on_gpu.uniforms([KEY], [n], torch.empty(n, device="cuda"))).cpu()
    assert float((found - expected).abs().max()) <= 1e-6 * max(1.0, float(expected.abs().max()))


@needs_gpu
@pytest.mark.parametrize("rng_device", ["auto", "cpu"])
def test_a_model_on_a_gpu_has_the_values_of_one_on_the_cpu(rng_device):
    def make() -> nn.Module:
        net = nn.Sequential(
            nn.Embedding(30, 8, padding_idx=3), nn.Linear(8, 700), nn.LayerNorm(700), nn.MultiheadAttention(8, 2)
        )
        return net.append(nn.Linear(64, 32, dtype=torch.bfloat16))

    spec = {"defaults": ["he"], "rng_device": rng_device}
    plain = initconf.initialize(make(), spec).model
    there = initconf.initialize(make().cuda(), spec).verify().model
    for (name, a), b in zip(plain.named_parameters(), there.parameters(), strict=True):
        tolerance = 0.0 if rng_device == "cpu" else 1e-6 if a.dtype == torch.float32 else 1e-2
        assert float((a - b.cpu()).abs().max()) <= tolerance, name
    meta = initconf.initialize(make().to("meta"), spec, device="cuda").model
    assert all(torch.equal(a, b) for a, b in zip(there.parameters(), meta.parameters(), strict=True))


class Noise(nn.Module):
    """Its buffer is drawn when it is reset."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("phase", torch.empty(64))
        self.weight = nn.Parameter(torch.ones(4, 4))

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.phase)
        nn.init.ones_(self.weight)


@needs_gpu
def test_what_is_drawn_for_a_gpu_is_the_cpus_and_leaves_cuda_s_random_state():
    def make() -> nn.Module:
        return nn.Sequential(Noise(), nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)))

    plain = initconf.initialize(make().to("meta"), "he", device="cpu").model
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    there = initconf.initialize(make().to("meta"), "he", device="cuda").model
    initconf.compile(make().cuda(), "he")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert torch.equal(there[0].phase.cpu(), plain[0].phase)


@needs_gpu
def test_threads_work_in_the_caller_s_stream():
    """What the caller has queued before is done before, also where the CPU makes the values."""
    spec = {"defaults": ["he"], "rng_device": "cpu"}
    plain = initconf.initialize(nn.Linear(2048, 2048), spec).model.weight.detach()
    model, noise = nn.Linear(2048, 2048).cuda(), torch.randn(4096, 4096, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        for _ in range(50):
            noise = (noise @ noise).clamp_(-1, 1)
        model.weight.copy_(noise[:2048, :2048])
        initconf.initialize(model, spec, threads=2)
        stream.synchronize()
    assert torch.equal(model.weight.detach().cpu(), plain)

"""Compiled code and NumPy make the same uniforms, to the last bit; where there is no compiler, NumPy makes all of them."""

from __future__ import annotations

import logging
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

import initconf
from initconf import native, sampling, shards
from initconf.laws import Normal, TruncatedNormal, Uniform
from initconf.laws.base import Line
from initconf.native.build import compiled
from initconf.stream import Streams
from initconf.writing import draw
from tests.streams import by_numpy

KEYS = [sampling.key(seed, "blocks.0.fc.weight") for seed in range(4)]  # half of them have an even increment
wanted = os.environ.get(native.VARIABLE) != "0"
compiles = pytest.mark.skipif(not (wanted and native.LIBRARY.exists()), reason="initconf was installed without a C compiler")
either = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@pytest.fixture
def anew(monkeypatch):
    """What was found out about the library is forgotten, before and after."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    native._library.cache_clear()
    yield
    native._library.cache_clear()


@compiles
def test_what_was_compiled_serves():
    assert native.serves()


# --- the same bits -----------------------------------------------------------------------------------------------------------


@compiles
@either
@given(st.sampled_from(KEYS), st.integers(0, 70) | st.integers(0, 2**70 - 1).map(lambda n: n % 2**40), st.integers(0, 70))
def test_any_run_of_a_stream_is_numpy_s(dtype, key, first, count):
    expected = by_numpy(key, torch.empty(count, dtype=dtype), first)
    assert torch.equal(native.uniforms([key], [count], torch.empty(count, dtype=dtype), first), expected)


@compiles
@either
@pytest.mark.parametrize("first", [0, 1, 2**33 + 1])
@pytest.mark.parametrize("count", [4095, 4096, 1 << 18, (1 << 18) + 3])
def test_long_runs_are_numpy_s(dtype, first, count):
    expected = by_numpy(KEYS[1], torch.empty(count, dtype=dtype), first)
    assert torch.equal(native.uniforms([KEYS[1]], [count], torch.empty(count, dtype=dtype), first), expected)


@compiles
@either
def test_several_streams_and_runs_are_numpy_s(dtype):
    counts, firsts = [5, 0, 1, 300, 6, 2], [0, 3, 7, 1, 301, 4]
    keys = [KEYS[0], KEYS[1], KEYS[2], KEYS[3], KEYS[3], KEYS[3]]  # three runs of one stream, the last before the others
    expected = torch.cat([by_numpy(k, torch.empty(n, dtype=dtype), a) for k, n, a in zip(keys, counts, firsts, strict=True)])
    for made in (native.uniforms, Streams().uniforms):
        assert torch.equal(made(keys, counts, torch.empty(sum(counts), dtype=dtype), firsts), expected)


@either
def test_runs_of_one_stream_after_a_long_one(dtype):
    """NumPy's way for many numbers is for a single run."""
    counts, firsts = [5000, 3, 4096], [0, 5001, 6000]
    whole = by_numpy(KEYS[1], torch.empty(11_000, dtype=dtype))
    expected = torch.cat([whole[a : a + n] for n, a in zip(counts, firsts, strict=True)])
    assert torch.equal(Streams().uniforms([KEYS[1]] * 3, counts, torch.empty(sum(counts), dtype=dtype), firsts), expected)


@compiles
def test_nothing_is_written_beside_the_tensor():
    for first, count in [(0, 1), (1, 1), (1, 2), (0, 7), (3, 1001)]:
        room = torch.full((count + 2,), 7.0)
        native.uniforms([KEYS[0]], [count], room[1:-1], first)
        assert room[0] == room[-1] == 7
        assert room[1:-1].abs().max() < 1


LINES = {
    "plain": Line(0.3),
    "shifted": Line(0.3, -0.07),
    "cut off": Line(0.3, 0.1, -0.15, 0.35),
    "cut off above": Line(1.0, 0.0, -math.inf, 0.35),
    "cut off far away": Line(0.3, 0.1, -1e39, 1e39),
    "to nothing": Line(0.0, 0.25),
    "subnormal": Line(1e-42),
    "underflow": Line(1e-46),  # to zeros of both signs
    "huge": Line(3.3e38),  # in bfloat16 some are infinite
}


def bits(x):
    return x.view(torch.int16 if x.element_size() == 2 else torch.int32)


@compiles
@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("count", [1, 31, 4097])
def test_a_line_is_torch_s(name, count):
    x = torch.linspace(-1, 1, count)
    expected = LINES[name].of(x.clone())
    half = native.line(x, LINES[name], torch.empty(count, dtype=torch.bfloat16))
    assert torch.equal(bits(half), bits(expected.bfloat16()))
    assert torch.equal(bits(native.line(x, LINES[name], x)), bits(expected))


@compiles
def test_bfloat16_is_rounded_to_the_nearest_and_of_two_to_the_even_one():
    """All that can be cut off of some numbers: the sixteen low bits in every state."""
    low = torch.arange(1 << 16, dtype=torch.int32)
    for high in (0, 0x3F80, 0x3F81, 0x3FFF, 0x7F7F, 0x0001, -0x8000, -0x407F):
        x = (low | high << 16).view(torch.float32)
        half = native.line(x, Line(1.0), torch.empty(1 << 16, dtype=torch.bfloat16))
        assert torch.equal(bits(half), bits(x.bfloat16())), high


@compiles
@pytest.mark.parametrize("first", [0, 1, 4096, 2**33 + 1])
@pytest.mark.parametrize("count", [1, 2, 4095, 4096, 4097, 10_001])
def test_uniform_lines_are_lines_of_uniforms(first, count):
    law = Uniform(-0.2, 0.3)
    expected = law.quantile(by_numpy(KEYS[2], torch.empty(count), first)).bfloat16()
    room = torch.full((count + 2,), 7.0, dtype=torch.bfloat16)
    assert torch.equal(native.uniform_line(KEYS[2], first, law.line, room[1:-1]), expected)
    assert room[0] == room[-1] == 7


LAWS = [
    Uniform(-0.2, 0.3),
    Normal(0.0, 0.02),
    Normal(0.5, 0.02),
    TruncatedNormal(0.0, 0.02),
    TruncatedNormal(0.1, 0.02, -1.0, 3.0),
    TruncatedNormal(0.0, 0.02, 3.0, 4.0),
]


@compiles
@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("measured", [False, True])
def test_laws_are_written_as_without_it(law, dtype, measured, monkeypatch):
    """Whole and transposed tensors, and one that begins in the middle of a step; with and without being measured."""

    def written():
        source, made = sampling.Source(), []
        for tensor in (torch.empty(70, 99, dtype=dtype), torch.empty(99, 70, dtype=dtype).t()):
            for piece in shards.here(tensor).pieces(1 << 11):
                draw(law, KEYS[0], piece, sampling.CPU, "w" if measured else None, source)
            made.append(tensor)
        later = torch.empty(33, dtype=dtype)
        draw(law, KEYS[0], shards.Piece(later, 5), sampling.CPU, "w" if measured else None, source)
        return [*made, later]

    there = written()
    monkeypatch.setattr(native, "serves", lambda: False)
    for a, b in zip(there, written(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(there[0], there[1])
    assert torch.equal(there[0].view(-1)[5:38], there[2])


@compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_law_with_a_quantile_of_its_own_keeps_it(dtype):
    @dataclass(frozen=True)
    class Doubled(Uniform):
        def quantile(self, v):
            return super().quantile(v).mul_(2)

    @dataclass(frozen=True)
    class Squared(Uniform):
        def standard(self, v):
            return v.square()  # in memory of its own

    made = torch.empty(1 << 13, dtype=dtype)
    draw(Doubled(-1.0, 1.0), KEYS[0], shards.Piece(made, 0), sampling.CPU, None, sampling.Source())
    assert made.max() > 1.5
    draw(Squared(-1.0, 1.0), KEYS[0], shards.Piece(made, 0), sampling.CPU, None, sampling.Source())
    assert made.min() >= 0
    assert made.float().mean() == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("initializer", [{"name": "uniform", "low": -1.0, "high": 1.0}, "normal"], ids=["uniform", "normal"])
def test_a_backward_pass_notices_that_its_weights_are_gone(dtype, initializer):
    layer = torch.nn.Linear(100, 100, bias=False, dtype=dtype)
    loss = layer(torch.ones(2, 100, dtype=dtype, requires_grad=True)).sum()
    initconf.initialize(layer, {"initializer": initializer})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@compiles
def test_a_model_has_the_same_bits_without_it():
    """The whole way through `initialize`, in a process that is told to do without; over all kinds of laws."""
    code = (
        "import hashlib, torch, initconf; from initconf import native; from tests.small_models import ZOO\n"
        "print(native.serves())\n"
        "for name, make in sorted(ZOO.items()):\n"
        "    for spec in ('he', 'torch', 'orthogonal'):\n"
        "        model = initconf.initialize(make(), spec).model\n"
        "        flat = (p.detach().contiguous().view(-1).view(torch.uint8) for p in model.parameters())\n"
        "        state = b''.join(part.numpy().tobytes() for part in flat)\n"
        "        print(name, spec, hashlib.sha256(state).hexdigest())\n"
    )
    printed = []
    for said in ("1", "0"):
        environment = {**os.environ, native.VARIABLE: said}
        root = Path(initconf.__file__).parent.parent
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, check=True
        )
        printed.append(done.stdout.splitlines())
    assert (printed[0][0], printed[1][0]) == ("True", "False")
    assert len(printed[0]) > 10
    assert printed[0][1:] == printed[1][1:]


# --- where it cannot be used -------------------------------------------------------------------------------------------------


def test_without_the_library_numpy_makes_the_values(anew, tmp_path, monkeypatch, caplog):
    expected = by_numpy(KEYS[0], torch.empty(50), 3)
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "values.so")
    assert not native.serves()
    assert torch.equal(sampling.Source().at(KEYS[0], 3, torch.empty(50)), expected)
    assert not caplog.records  # nothing is wrong


def test_a_library_of_another_platform_is_not_used_and_it_is_said(anew, tmp_path, monkeypatch, caplog):
    library = tmp_path / "values.so"
    library.write_bytes(b"not for this machine")
    monkeypatch.setattr(native, "LIBRARY", library)
    with caplog.at_level(logging.WARNING, "initconf"):
        assert not native.serves()
        assert not native.serves()
    (record,) = caplog.records  # once
    assert record.getMessage().startswith(f"values are made by way of NumPy, which takes longer: {library} cannot be used: ")


WRONG = {
    "float": ("NumPy", "(float)(int32_t)(h >> 8)", "(float)(int32_t)(h >> 8 | 1)"),
    "double": ("NumPy", "(double)(int64_t)(r >> 11)", "(double)(int64_t)(r >> 11 | 1)"),
    "far": ("NumPy", "for (; steps; steps >>= 1)", "for (steps &= 0xFFFFFFFF; steps; steps >>= 1)"),
    "bounds": ("torch", "y = y < l.low ? l.low : y;", ""),
    "rounding": ("torch", "+ 0x7FFF +", "+"),
    "first": ("torch", "begin(key, first / 2)", "begin(key, first)"),
    "in place": ("torch", "x[i] = on(l, x[i])", "x[i] = x[i] * scale"),
}


@compiles
@pytest.mark.parametrize("name", WRONG)
def test_a_library_with_other_bits_is_not_used(name, anew, other_library, caplog):
    whose, right, wrong = WRONG[name]
    other_library(right, wrong)
    with caplog.at_level(logging.WARNING, "initconf"):
        assert not native.serves()
    assert caplog.records[0].getMessage().endswith(f"cannot be used: it gives other bits than {whose}")


@compiles
def test_a_library_of_an_older_source_is_not_used(anew, other_library, caplog):
    source = other_library("", "")
    assert native.serves()
    native._library.cache_clear()
    source.write_text(source.read_text() + "/* newer */")
    with caplog.at_level(logging.WARNING, "initconf"):
        assert not native.serves()
    assert caplog.records[0].getMessage().endswith("it was compiled from another values.c; install initconf again")


@pytest.fixture
def other_library(tmp_path, monkeypatch):
    """A library of a source in which something is replaced; gives that source."""

    def make(right, wrong):
        source, text = tmp_path / "values.c", native.LIBRARY.with_suffix(".c").read_text()
        assert right in text
        source.write_text(text.replace(right, wrong))
        assert compiled(source, tmp_path / "values.so") is None
        monkeypatch.setattr(native, "LIBRARY", tmp_path / "values.so")
        return source

    return make


@compiles
def test_what_has_no_memory_of_its_own_is_left_to_torch():
    """Their values cannot be written by an address: a view that negates, a tensor on meta, a fake one."""
    assert native.takes(torch.empty(3))
    assert native.takes(torch.empty(0))
    assert not native.takes(torch._neg_view(torch.zeros(3)))
    assert not native.takes(torch.empty(3, device="meta"))
    with FakeTensorMode():
        assert not native.takes(torch.empty(3))
    for dtype in (torch.float32, torch.bfloat16):
        for shape in ((100, 100), (3, 3)):
            plain, negated = (torch.nn.Module() for _ in range(2))
            plain.weight = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
            negated.weight = torch.nn.Parameter(torch._neg_view(torch.zeros(shape, dtype=dtype)))
            for model in (plain, negated):
                initconf.initialize(model, {"initializer": {"name": "uniform", "low": 1.0, "high": 2.0}})
            assert torch.equal(plain.weight, negated.weight)


@compiles
@pytest.mark.parametrize("mode", ["torch._subclasses.FakeTensorMode()", "torch.device('meta')", "torch.inference_mode()"])
def test_it_is_tried_whatever_mode_torch_is_in(mode):
    code = f"import torch; from initconf import native\nwith {mode}: print(native.serves())\nprint(native.serves())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["True", "True"]


# --- compiling ---------------------------------------------------------------------------------------------------------------


def test_a_compiler_that_is_missing_or_fails_says_why(tmp_path, monkeypatch):
    source, target, odd = tmp_path / "values.c", tmp_path / "values.so", tmp_path / "odd"
    source.write_text("this is not C\n")
    odd.write_bytes(b"#!/bin/sh\nprintf 'w\344rning\\n' >&2\n")
    odd.chmod(0o755)
    said = {
        "no-such-compiler": "No such file or directory: 'no-such-compiler'",
        'cc "-DX': "No closing quotation",
        "false": "false ended with 1",
        "true": "true ended with 0",  # and made nothing
        str(odd): "odd ended with 0 w\ufffdrning",
    } | ({"cc": "error:"} if shutil.which("cc") else {})
    for compiler, why in said.items():
        monkeypatch.setenv("CC", compiler)
        assert why in compiled(source, target), compiler
    assert not target.exists()


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_flags_that_make_a_process_flush_subnormals_are_undone(tmp_path, monkeypatch):
    monkeypatch.setenv("CC", "cc -ffast-math")
    assert compiled(native.LIBRARY.with_suffix(".c"), tmp_path / "values.so") is None
    code = (
        f"import ctypes, torch; ctypes.CDLL({str(tmp_path / 'values.so')!r}); print((torch.tensor([1e-40]) * 0.5).item() > 0)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "values.so")]
    assert subprocess.check_output(command, text=True).split() == ["True"]

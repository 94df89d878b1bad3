"""Compiled code and NumPy make the same uniforms, to the last bit; where there is no compiler, NumPy makes all of them."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import initconf
from initconf import native, sampling
from initconf.native.build import compiled
from initconf.stream import Streams
from tests.streams import by_numpy

KEYS = [sampling.key(seed, "blocks.0.fc.weight") for seed in range(4)]  # half of them have an even increment
compiles = pytest.mark.skipif(not native.serves(), reason="initconf was installed without a C compiler")
either = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@pytest.fixture
def anew():
    """What was found out about the library is forgotten, before and after."""
    native._fill.cache_clear()
    yield
    native._fill.cache_clear()


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


@compiles
def test_nothing_is_written_beside_the_tensor():
    for first, count in [(0, 1), (1, 1), (1, 2), (0, 7), (3, 1001)]:
        room = torch.full((count + 2,), 7.0)
        native.uniforms([KEYS[0]], [count], room[1:-1], first)
        assert room[0] == room[-1] == 7
        assert room[1:-1].abs().max() < 1


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
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "uniforms.so")
    assert not native.serves()
    assert torch.equal(sampling.Source().at(KEYS[0], 3, torch.empty(50)), expected)
    assert not caplog.records  # nothing is wrong


def test_a_library_of_another_platform_is_not_used_and_it_is_said(anew, tmp_path, monkeypatch, caplog):
    library = tmp_path / "uniforms.so"
    library.write_bytes(b"not for this machine")
    monkeypatch.setattr(native, "LIBRARY", library)
    with caplog.at_level(logging.WARNING, "initconf"):
        assert not native.serves()
        assert not native.serves()
    (record,) = caplog.records  # once
    assert record.getMessage().startswith(f"values are made by way of NumPy, which takes longer: {library} cannot be used: ")


@compiles
def test_a_library_with_other_bits_is_not_used(anew, tmp_path, monkeypatch, caplog):
    source = tmp_path / "uniforms.c"
    text = native.LIBRARY.with_suffix(".c").read_text()
    assert "(h >> 8)" in text
    source.write_text(text.replace("(int32_t)(h >> 8)", "(int32_t)(h >> 8 | 1)"))
    assert compiled(source, tmp_path / "uniforms.so") is None
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "uniforms.so")
    with caplog.at_level(logging.WARNING, "initconf"):
        assert not native.serves()
    assert caplog.records[0].getMessage().endswith("cannot be used: it gives other bits than NumPy")


# --- compiling ---------------------------------------------------------------------------------------------------------------


def test_a_compiler_that_is_missing_or_fails_says_why(tmp_path, monkeypatch):
    source, target = tmp_path / "uniforms.c", tmp_path / "uniforms.so"
    source.write_text("this is not C\n")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert "no-such-compiler" in compiled(source, target)
    if shutil.which("cc"):
        monkeypatch.setenv("CC", "cc")
        assert "error" in compiled(source, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["uniforms.c"]

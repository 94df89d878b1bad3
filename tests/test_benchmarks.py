"""The benchmarks run, in tiny sizes, and keep what they measure: numbers as numbers, and the machine without its name."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
SLOW = pytest.mark.slow
RATES = ("values", "ms", "values/s")
AGAINST_TORCH = (*RATES, "fill_ ms", "share of fill_", "torch.nn.init ms", "torch.nn.init runs", "times as fast")
# The columns of each part that hold finite numbers above zero. A part in brackets needs packages that may not be there.
COLUMNS = {
    "elementwise": {
        "laws": (*AGAINST_TORCH, "threads", "of one thread"),
        "sizes": (*AGAINST_TORCH, "threads"),
        "(peers)": (*RATES, "threads", "peer ms", "peer values/s", "times as fast"),
        "small": (*RATES, "parameters", "loop over torch.nn.init ms", "times as fast"),
    },
    "matrices": {"routes": ("rows", "columns", "values", "ms", "of Householder", "off float64")},
    "models": {
        "(planning on meta)": ("values", "lines", "compile and print s"),
        "gpt2 large": ("values", "eager s", "runs", "initconf s", "skip_init alone s", "values/s", "times as fast"),
    },
    "on_gpu": {"laws": AGAINST_TORCH},
    "planning": {
        "times": ("parameters", "s", "of the walk"),
        "memory": ("width", "parameters", "values", "peak MiB of compile"),
    },
    "rules": {
        "matching": ("names", "characters", "patterns", "s", "runs"),
        "compiling": ("names", "characters", "s"),
    },
    "sharded": {"ranks": (*RATES, "processes", "most of one", "of one process")},
    "skip_init": {"constructors": ("values", "ms", "inside skip_init ms", "times as fast")},
}
PLOTS = {"elementwise": ["laws.svg", "sizes.svg", "threads.svg"], "sharded": ["ranks.svg"]}
QUICKEST = ("matrices", "on_gpu", "planning")


def run(name: str, results: Path) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "INITCONF_RESULTS": str(results)}
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_benchmark_stands_in_the_table():
    assert {path.stem for path in FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")} == set(COLUMNS)


@pytest.mark.parametrize("name", [name if name in QUICKEST else pytest.param(name, marks=SLOW) for name in COLUMNS])
def test_a_benchmark_keeps_its_numbers(tmp_path, name):
    said = run(name, tmp_path)
    if name == "on_gpu" and not torch.cuda.is_available():
        assert said == "no GPU\n"
        assert not list(tmp_path.iterdir())
        return
    text = (tmp_path / f"{name}.json").read_text(encoding="utf-8")
    found = json.loads(text)
    assert found["quick"]
    parts = {row["part"] for row in found["rows"]}
    for part, columns in COLUMNS[name].items():
        if part.startswith("("):
            part = part.strip("()")
        else:
            assert part in parts
        assert f"\n{part}\n" in said
        for row in (row for row in found["rows"] if row["part"] == part):
            for column in columns:
                assert type(row[column]) in (int, float), (part, column)
                assert math.isfinite(row[column]), (part, column)
                assert row[column] > 0, (part, column)

    machine = found["machine"]
    assert {"processor", "system", "cores", "usable cores", "memory GiB", "gpu", "date", "commit"} <= set(machine)
    assert machine["versions"]["torch"] == torch.__version__
    assert {"python", "initconf", "numpy"} <= set(machine["versions"])
    assert all(free > 0 for free in machine["free cores of two"])
    assert ("the machine is busy" in said) == (min(machine["free cores of two"]) < 1.7)
    assert str(FOLDER.parent) not in text
    assert f'"{platform.node()}"' not in text

    plots = PLOTS.get(name, []) if importlib.util.find_spec("matplotlib") else []
    assert sorted(path.name for path in tmp_path.glob("*.svg")) == plots
    for plot in plots:
        drawn = (tmp_path / plot).read_text(encoding="utf-8")
        assert drawn.startswith("<?xml")
        assert len(drawn) < 60_000


# --- what they share, in this process -----------------------------------------------------------------------------------


@pytest.fixture
def beside(monkeypatch):
    """Modules of the benchmarks by name, and none of them afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]


@pytest.mark.parametrize(("options", "kept"), [([], True), (["--quick"], False)], ids=["whole", "quick"])
@pytest.mark.parametrize(("free", "busy"), [([1.9, 1.8], False), ([1.9, 1.65], True)], ids=["idle", "busy"])
def test_what_is_said_and_where_it_is_kept(beside, monkeypatch, tmp_path, capsys, options, kept, free, busy):
    measuring, probe = beside("measuring"), iter(free)
    monkeypatch.delenv("INITCONF_RESULTS", raising=False)
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    monkeypatch.setattr(measuring, "cores", lambda quick: next(probe))
    monkeypatch.setattr(sys, "argv", ["measured.py", *options])
    row = {"law": "normal", "ms": 1234.5678, "MiB": None}
    measuring.main("measured", None, {"laws": lambda quick: [row | {"quick": quick}], "peers": lambda quick: []})
    assert capsys.readouterr().out == (
        f"\nlaws\nlaw     ms        MiB  quick\nnormal  1.23e+03  -    {not kept}\n"
        "\npeers\nnothing to measure: what it needs is not installed\n"
        f"\ntwo threads had {free[0]:.2f} cores before, and have {free[1]:.2f} now\n"
        + "the machine is busy: two threads have 1.65 cores. Measure again when it is idle.\n"
        * busy
    )
    assert [path.name for path in tmp_path.iterdir()] == ["measured.json"] * kept
    if kept:
        found = json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))
        assert found["rows"] == [{"part": "laws", **row, "quick": False}]
        assert found["machine"]["free cores of two"] == free


@pytest.mark.parametrize(("cores", "counts"), [(1, [1, 2]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])], ids=str)
def test_numbers_of_threads(beside, monkeypatch, cores, counts):
    measuring = beside("measuring")
    monkeypatch.setattr(measuring, "usable", lambda: cores)
    assert measuring.thread_counts() == counts


@pytest.mark.parametrize(("takes", "runs", "done"), [(1.0, 3, 4), (0.04, 3, 5), (0.0001, 3, 2 + 3 * 20)], ids=str)
def test_seconds_are_those_of_one_piece_of_work(beside, monkeypatch, takes, runs, done):
    """On a clock that only work moves."""
    measuring = beside("measuring")
    now, times = [0.0], []
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])

    def work():
        times.append(now[0])
        now[0] += takes

    assert measuring.seconds(work, runs) == pytest.approx(takes)
    assert abs(len(times) - done) <= runs * (takes < 0.002)  # rounding


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's mark is read from /proc")
def test_extra_memory_counts_what_is_given_back(beside):
    def work():
        torch.zeros(1 << 23).add_(1)

    assert beside("measuring").extra_memory(work) == pytest.approx(32, abs=3)


def test_the_rows_of_a_gpu(beside, monkeypatch):
    """Measured on the CPU, since there may be no GPU."""
    on_gpu, asked = beside("on_gpu"), []
    one = on_gpu.one
    monkeypatch.setattr(on_gpu, "one", lambda n, dtype, device: asked.append(device) or one(n, dtype))
    monkeypatch.setattr(on_gpu, "RUNS", 1)
    rows = on_gpu.laws(True)
    assert asked == ["cuda", "cuda"]
    assert [(row["law"], row["dtype"]) for row in rows] == [
        (law, dtype) for dtype in ("float32", "bfloat16") for law in ("uniform", "normal", "truncated_normal")
    ]
    for row in rows:
        assert set(row) == {"law", "dtype", *AGAINST_TORCH}
        assert row["times as fast"] == pytest.approx(row["torch.nn.init ms"] / row["ms"])
        assert row["share of fill_"] == pytest.approx(row["fill_ ms"] / row["ms"])
        assert row["values/s"] == pytest.approx(1e3 * row["values"] / row["ms"])

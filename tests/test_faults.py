"""What goes wrong half way: the error says what was written and what not, and to apply the plan again mends it."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import initconf
from initconf import report, sampling, shards, threads, writing
from initconf.errors import ApplyError, InitConfError
from initconf.laws import Law
from initconf.moments import Moments
from initconf.plan import Plan
from tests.small_models import mlp, padded

# --- a law that fails where it is told to ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moody(Law):
    """Uniforms times `times`; what `at` says is done before some value is given."""

    times: float
    elementwise = True

    @property
    def mean(self):
        return 0.0

    @property
    def std(self):
        return self.times / 3**0.5

    @property
    def bounds(self):
        return (-self.times, self.times)

    def quantile(self, v):
        TROUBLE.before(self.times)
        return v.mul_(self.times)


class _Trouble:
    do = None

    def before(self, times):
        if self.do is not None:
            self.do(times)


TROUBLE = _Trouble()


@pytest.fixture
def trouble(monkeypatch):
    def cause(do):
        monkeypatch.setattr(TROUBLE, "do", do)

    monkeypatch.setattr(sampling, "CHUNK", 1 << 10)
    monkeypatch.setattr(writing, "SMALL", 0)
    return cause


@pytest.fixture(autouse=True)
def _moody():
    @initconf.register("moody")
    def moody(site, times: float = 1.0):
        return Moody(times)


SIZES = {"a": 3000, "b": 5000, "c": 2000, "d": 100}


def rule(match, times):
    return {"match": match, "initializer": {"name": "moody", "times": times}}


class Four(nn.Module):
    """Parameters of several chunks each; b is the one that things happen to."""

    def __init__(self):
        super().__init__()
        for name, size in SIZES.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(size)))


class Disturbed:
    """A model and its plan, and the values that a run gives which nothing disturbs."""

    def __init__(self):
        self.model, other = Four(), Four()
        self.plan = initconf.compile(self.model, {"rules": {"b": rule("b", 2.0), "rest": rule("[acd]", 1.0)}})
        initconf.apply(other, self.plan)
        self.expected = dict(other.named_parameters())

    def right(self):
        """The parameters whose values are as planned."""
        return {name for name, p in self.model.named_parameters() if torch.equal(p, self.expected[name])}

    def mended(self):
        """Whether to apply the plan again gives all values."""
        TROUBLE.do = None
        initconf.apply(self.model, self.plan).verify()
        return self.right() == set(SIZES)

    def holds(self, said):
        """Whether a text names what is not written whole, and the rest is."""
        number, _, names = said.partition(" parameters are written whole, and not ")
        rest = names.partition("\n")[0].split(", ")
        assert number.endswith(f" {4 - len(rest)} of 4")
        return "b" in rest and set(SIZES) - set(rest) <= self.right()


# --- an exception ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crew", [1, 3])
@pytest.mark.parametrize("chunk", [0, 1])
def test_a_law_that_fails_in_a_thread(trouble, chunk, crew):
    it = Disturbed()
    calls = []

    def no(times):
        if times == 2.0:
            calls.append(1)
            if len(calls) > chunk:
                raise ZeroDivisionError("not today")

    trouble(no)
    with pytest.raises(ApplyError) as caught:
        initconf.apply(it.model, it.plan, threads=crew)
    said = str(caught.value)
    assert said.startswith("b: moody: ZeroDivisionError: not today; ")
    assert said.endswith("\n  -> mend it and apply the plan again")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert it.holds(said)
    if crew == 1:
        assert "; 1 of 4 parameters are written whole, and not b, c, d\n" in said
    assert it.mended()


@pytest.mark.parametrize("crew", [1, 3])
def test_an_initializer_that_fails_half_way(trouble, crew):
    """Plain functions go first, one after the other; what comes after them is not begun."""
    calls = []

    def own(tensor, generator):
        calls.append(tensor.numel())
        if len(calls) == 2:
            tensor.fill_(7)
            raise ValueError("not today")
        tensor.uniform_(1, 2, generator=generator)

    initconf.register("own")(own)
    model = Four()
    rules = {"ab": {"match": "a|b", "initializer": "own"}, "cd": {"match": "c|d", "initializer": "ones"}}
    plan = initconf.compile(model, {"rules": rules})
    with pytest.raises(ApplyError) as caught:
        initconf.apply(model, plan, threads=crew)
    text = "b: own: ValueError: not today; 1 of 4 parameters are written whole, and not b, c, d"
    assert str(caught.value) == f"{text}\n  -> mend it and apply the plan again"
    assert not model.b.any()
    first = model.a.detach().clone()
    initconf.apply(model, plan)
    assert torch.equal(model.a, first)
    assert bool((model.b >= 1).all())
    assert bool((model.c == 1).all())


@pytest.mark.parametrize("crew", [1, 3])
def test_what_fails_while_tasks_are_made_is_told_of_its_parameter(trouble, monkeypatch, crew):
    it = Disturbed()
    here = shards.here

    def no(parameter):
        if parameter is it.model.b:
            raise MemoryError("no more")
        return here(parameter)

    monkeypatch.setattr(shards, "here", no)
    with pytest.raises(ApplyError) as caught:
        initconf.apply(it.model, it.plan, threads=crew)
    assert str(caught.value).startswith("b: moody: MemoryError: no more; ")
    assert it.holds(str(caught.value))
    monkeypatch.setattr(shards, "here", here)
    assert it.mended()


def test_a_padding_row_that_is_not_yet_zero_is_not_written_whole(trouble, monkeypatch):
    """Its values are drawn first; until the row is zeroed again, the parameter is not as planned."""
    model = padded()
    plan = initconf.compile(model, {"rules": {"table": rule(r"0\..*", 1), "linear": rule(r"1\..*", 2)}})

    def no(times):
        if times == 2:
            raise ValueError("not today")

    trouble(no)
    with pytest.raises(ApplyError) as caught:
        initconf.apply(model, plan, threads=1)
    assert "; 0 of 3 parameters are written whole, and not 0.weight, 1.weight, 1.bias\n" in str(caught.value)
    trouble(None)
    initconf.apply(model, plan).verify()
    assert not model[0].weight[2].any()


def test_an_assignment_that_fails(monkeypatch):
    """A parametrised weight is assigned when its values are there."""
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    plan = initconf.compile(model, "he")
    kind, calls = type(model[0].parametrizations.weight[0]), []
    inverse = kind.right_inverse

    def no(self, weight):
        calls.append(weight)
        if len(calls) == 2:  # the first call tries whether it can be assigned to, before anything is written
            raise ValueError("not today")
        return inverse(self, weight)

    monkeypatch.setattr(kind, "right_inverse", no)
    with pytest.raises(ApplyError) as caught:
        initconf.apply(model, plan)
    text = "0.weight: variance_scaling: ValueError: not today; 0 of 4 parameters are written whole, and not 0.bias, 0.weight"
    assert str(caught.value).startswith(text) or "ValueError: not today; 0 of 4" in str(caught.value)
    initconf.apply(model, plan).verify()


def test_a_listener_that_fails_leaves_a_model_that_can_be_mended(trouble, monkeypatch):
    it = Disturbed()

    def no(self, task, made):
        raise OSError("closed")

    monkeypatch.setattr(writing.Writer, "done", no)
    with pytest.raises(OSError, match="closed"):
        initconf.apply(it.model, it.plan, threads=3)
    monkeypatch.undo()
    assert it.mended()


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------------


def interrupted(it, crew):
    with pytest.raises(KeyboardInterrupt) as caught:
        initconf.apply(it.model, it.plan, threads=crew)
    return str(caught.value)


@pytest.mark.parametrize("crew", [1, 3])
def test_an_interrupt_inside_a_task(trouble, crew):
    it = Disturbed()

    def stop(times):
        if times == 2.0:
            raise KeyboardInterrupt

    trouble(stop)
    said = interrupted(it, crew)
    assert said.startswith("initconf was interrupted; ")
    if crew == 1:
        assert said == "initconf was interrupted; 1 of 4 parameters are written whole, and not b, c, d"
    assert it.mended()


@pytest.mark.parametrize("crew", [1, 3])
def test_a_signal_while_threads_write(trouble, monkeypatch, crew):
    """The signal comes from a task; the main thread hears of it, all threads stop, and no later task is begun."""
    it, begun, crews = Disturbed(), [], []

    class Crew(threads._Crew):
        def __init__(self, *args):
            super().__init__(*args)
            crews.append(self)

    def stop(times):
        begun.append(times)
        if 2.0 in begun:
            if begun.count(2.0) == 1 and times == 2.0:
                os.kill(os.getpid(), signal.SIGINT)
            for _ in range(3000):  # of 10 ms
                if crews[0].stop:
                    break
                time.sleep(0.01)

    monkeypatch.setattr(threads, "_Crew", Crew)
    trouble(stop)
    said = interrupted(it, crew)
    assert said.startswith("initconf was interrupted; ")
    assert it.holds(said)
    assert len(begun) <= 3 + 3  # those of `a`, and what three threads do next
    assert not [t for t in threading.enumerate() if t.name.startswith("initconf-")]
    assert it.mended()


LONG = """
import sys, threading, time, torch, initconf
from torch import nn
from dataclasses import dataclass
from initconf.laws import Law

@dataclass(frozen=True)
class Slow(Law):
    elementwise = True
    mean = std = None
    def quantile(self, v):
        sys.stdout.write("begun\\n")
        sys.stdout.flush()
        time.sleep(0.05)
        return v

initconf.register("slow")(lambda site: Slow())
torch.set_num_threads(2)
model = torch.nn.utils.skip_init(nn.Linear, 1 << 14, 1 << 14)
try:
    initconf.initialize(model, {"initializer": "slow", "rules": {"bias": {"role": "bias", "initializer": "ones"}}}, threads=2)
except KeyboardInterrupt as stop:
    print("stopped:", stop, torch.get_num_threads(), threading.active_count(), flush=True)
    sys.exit(3)
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_long_write():
    """1,024 chunks of 50 ms in two threads; it is interrupted during the first ones."""
    with subprocess.Popen(
        [sys.executable, "-c", LONG], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
    ) as run:
        try:
            for _ in range(4):
                assert run.stdout.readline() == "begun\n"
            run.send_signal(signal.SIGINT)
            out, _ = run.communicate(timeout=20)
        finally:
            run.kill()
    *begun, last = out.splitlines()
    assert run.returncode == 3
    assert last == "stopped: initconf was interrupted; 0 of 2 parameters are written whole, and not weight, bias 2 1"
    assert len(begun) < 200


# --- values that change afterwards -----------------------------------------------------------------------------------------


def test_a_parameter_that_another_thread_changes_meanwhile_is_told_by_verify(trouble):
    it = Disturbed()
    ready, changed = threading.Event(), threading.Event()

    def meddle():
        ready.wait(30)
        with torch.no_grad():
            it.model.a[17] = 9.0
        changed.set()

    def wait(times):
        if times == 2.0:  # b comes after a
            ready.set()
            changed.wait(30)

    other = threading.Thread(target=meddle)
    other.start()
    trouble(wait)
    made = initconf.apply(it.model, it.plan, threads=1)
    other.join()
    with pytest.raises(ApplyError) as caught:
        made.verify()
    said = str(caught.value)
    assert said.startswith("a: values from -")
    assert said.endswith(" to 9, outside of the law's bounds [-1, 1]")
    assert it.mended()


def test_values_that_cannot_be_read_are_told_of_their_parameter(monkeypatch):
    it = Disturbed()
    made = initconf.apply(it.model, it.plan)

    def no(about, piece, source):
        if piece.numel() == SIZES["b"]:
            raise MemoryError("no more")
        return Moments(about).add(piece)

    monkeypatch.setattr(report, "_gather", no)
    with pytest.raises(ApplyError) as caught:
        made.verify()
    assert str(caught.value) == "b: MemoryError: no more"


# --- a plan that cannot be saved -------------------------------------------------------------------------------------------


@pytest.fixture
def plan() -> Plan:
    return initconf.compile(mlp(), "he")


def refused(plan, path):
    with pytest.raises(InitConfError) as caught:
        plan.save(path)
    return str(caught.value)


def test_a_full_disk_is_told_and_leaves_the_old_plan(tmp_path, plan):
    """A limit on the size of files stands for the disk."""
    path = tmp_path / "plan.json"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        said = refused(plan, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert said == f"{path}: cannot be written: File too large"
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    plan.save(path)
    assert Plan.load(path) == plan


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_what_is_no_file_is_written_to_and_stays(plan):
    assert refused(plan, "/dev/full") == "/dev/full: cannot be written: No space left on device"
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
    plan.save("/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


@pytest.mark.parametrize(
    ("where", "why"),
    [("no/plan.json", "No such file or directory"), (".", "Is a directory"), ("file/plan.json", "Not a directory")],
)
def test_places_that_are_none(tmp_path, plan, where, why):
    (tmp_path / "file").touch()
    assert refused(plan, tmp_path / where) == f"{tmp_path / where}: cannot be written: {why}"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_links_and_permissions_stay(tmp_path, plan):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    plan.save(link)
    assert link.is_symlink()
    assert Plan.load(real) == plan
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    fresh = tmp_path / "fresh.json"
    plan.save(fresh)
    (tmp_path / "plain").touch()
    assert fresh.stat().st_mode == (tmp_path / "plain").stat().st_mode

"""Threads: the same bits for any number of them and any chunk size, torch's own setting put back, tasks done once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import nn

import initconf
from initconf import laws, sampling, shards, threads, writing
from initconf.errors import ApplyError
from initconf.laws import Law
from initconf.plan import Entry, Plan
from initconf.threads import Failed, Task, run
from tests.streams import by_numpy


@dataclass(frozen=True)
class Watched(Law):
    """Uniforms as they are, given while somebody looks on."""

    elementwise = True
    mean = None
    std = None

    def quantile(self, v):
        seen = WATCH.get()
        if seen is not None:
            seen()
        return v


class _Watch:
    seen = None

    def get(self):
        return self.seen


WATCH = _Watch()


@pytest.fixture
def watched(monkeypatch):
    def watch(seen):
        monkeypatch.setattr(WATCH, "seen", seen)

    return watch


def entry(name, parameter, law):
    dtype = str(parameter.dtype).removeprefix("torch.")
    return Entry(
        name, (), None, (), "weight", "torch.nn.Linear", tuple(parameter.shape), dtype, 1.0, 1.0, None, "all", "mine", {}, law
    )


def plan_of(model, law):
    return Plan(tuple(entry(name, p, law) for name, p in model.named_parameters()))


class Holder(nn.Module):
    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor))


# --- equal bits ------------------------------------------------------------------------------------------------------------


MEMORY = {
    "plain": lambda t: t,
    "channels_last": lambda t: t.to(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(0, 2).contiguous().transpose(0, 2),
    "strided": lambda t: torch.stack([t, t], -1)[..., 1],
    "sliced": lambda t: torch.zeros(9, 9, 9, 9, dtype=t.dtype)[1:8, ::2, 2:5, :4],
    "offset": lambda t: torch.zeros(t.numel() + 3, dtype=t.dtype)[3:].view(t.shape),
}
SHAPE = (7, 5, 3, 4)
LAWS = [laws.Normal(0.5, 2.0), laws.TruncatedNormal(0.0, 1.0, 1.0), laws.Uniform(-1.0, 2.0), laws.Constant(3.0)]
COMPLEX = [laws.ComplexNormal(0.0, 1.0), laws.ComplexUniform(1.0)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]


def reference(name, law, dtype):
    """The definition: the quantile of the uniforms, cast."""
    if isinstance(law, laws.Constant):
        return torch.full(SHAPE, law.value, dtype=dtype)
    v = torch.empty(420 * law.per_value, dtype=sampling.working_dtype(dtype))
    return law.quantile(by_numpy(sampling.key(0, name), v)).view(SHAPE).to(dtype)


@pytest.mark.parametrize(("chunk", "small"), [(1, 0), (13, 0), (100, 0), (1 << 18, 0), (1 << 18, 1 << 12)])
@pytest.mark.parametrize("crew", [1, 2, 3, 8])
def test_values_are_the_definition_s_for_any_threads_chunks_memory_and_dtype(monkeypatch, crew, chunk, small):
    monkeypatch.setattr(sampling, "CHUNK", chunk)
    monkeypatch.setattr(writing, "SMALL", small)
    tensors, wanted = {}, {}
    for dtype in DTYPES if chunk > 1 else DTYPES[2:3]:
        for i, law in enumerate(COMPLEX if dtype.is_complex else LAWS):
            for memory, make in MEMORY.items():
                name = f"{memory}-{str(dtype)[6:]}-{i}"
                tensors[name], wanted[name] = make(torch.zeros(SHAPE, dtype=dtype)), law
    model = Holder(**tensors)
    strides = {name: p.stride() for name, p in model.named_parameters()}
    plan = Plan(tuple(entry(name, p, wanted[name]) for name, p in model.named_parameters()))
    initconf.apply(model, plan, threads=crew)
    for name, p in model.named_parameters():
        assert torch.equal(p.detach(), reference(name, wanted[name], p.dtype)), name
    assert strides == {name: p.stride() for name, p in model.named_parameters()}


@pytest.mark.parametrize("crew", [1, 3])
def test_small_parameters_are_made_together_as_alone(monkeypatch, crew):
    """600 of one law: more than go into one task."""
    law = laws.Normal(0.0, 1.0)

    def made():
        model = Holder(**{f"p{i}": torch.zeros(i % 5 + 1, 3) for i in range(600)})
        initconf.apply(model, plan_of(model, law), threads=crew)
        return [p.detach() for p in model.parameters()]

    monkeypatch.setattr(sampling, "CHUNK", 1 << 9)
    together = made()
    monkeypatch.setattr(writing, "SMALL", 0)
    assert all(map(torch.equal, together, made()))


@pytest.mark.parametrize("scheme", ["he", "orthogonal"])
def test_whole_models_are_equal_for_any_threads(monkeypatch, scheme):
    monkeypatch.setattr(sampling, "CHUNK", 1 << 8)
    spec, found = initconf.load(scheme), []
    for crew in (1, 2, 3, 8):
        model = nn.ModuleDict(
            {"a": nn.Linear(60, 40), "r": nn.LSTM(20, 30), "c": nn.Conv2d(8, 16, 3), "e": nn.Embedding(50, 9, 3)}
        )
        initconf.initialize(model, spec, threads=crew, verify="stats")
        found.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


# --- torch's own setting ---------------------------------------------------------------------------------------------------


@pytest.fixture
def own_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def big():
    return Holder(**{f"p{i}": torch.zeros(writing.SMALL) for i in range(6)})


@pytest.mark.parametrize("own", [1, 2, 3])
@pytest.mark.parametrize("crew", [1, 3])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit], ids=["none", "error", "interrupt", "exit"])
def test_torch_s_threads_are_put_back(monkeypatch, own_threads, watched, error, crew, own):
    monkeypatch.setattr(sampling, "CHUNK", 1 << 10)
    model, calls, inside = big(), [], set()

    def seen():
        calls.append(threading.current_thread().name)
        inside.add(torch.get_num_threads())
        if error is not None and len(calls) == 4:
            raise error("no")

    watched(seen)
    torch.set_num_threads(own)
    plan = plan_of(model, Watched())
    if error is None:
        initconf.apply(model, plan, threads=crew)
    else:
        with pytest.raises(ApplyError if error is ValueError else error):
            initconf.apply(model, plan, threads=crew)
    assert torch.get_num_threads() == own
    assert inside == {1}
    other = []
    late = threading.Thread(target=lambda: other.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert other == [own]


def test_models_may_be_written_by_several_threads_at_once(monkeypatch, own_threads):
    monkeypatch.setattr(sampling, "CHUNK", 1 << 8)
    torch.set_num_threads(2)
    models = [big() for _ in range(4)]
    plan = plan_of(models[0], laws.Normal(0.0, 1.0))
    crew = [threading.Thread(target=initconf.apply, args=(model, plan), kwargs={"threads": 2}) for model in models]
    for each in crew:
        each.start()
    for each in crew:
        each.join()
    assert all(torch.equal(models[0].p5, model.p5) for model in models)
    assert torch.get_num_threads() == 2


def test_what_runs_at_once_puts_back_torch_s_threads_and_not_each_other_s(own_threads):
    torch.set_num_threads(2)
    first_begun, second_begun, first_over = threading.Event(), threading.Event(), threading.Event()

    def first(source):
        first_begun.set()
        second_begun.wait(0.3)  # it waits for its turn

    def second(source):
        second_begun.set()
        first_over.wait(30)

    def late():
        first_begun.wait(30)
        run([task(1, second)], 2, lambda task, made: None)

    other = threading.Thread(target=late)
    other.start()
    run([task(0, first)], 2, lambda task, made: None)
    first_over.set()
    other.join()
    seen = []
    last = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    last.start()
    last.join()
    assert seen == [2]
    assert torch.get_num_threads() == 2


def test_as_many_threads_work_as_are_asked_for(monkeypatch, watched):
    monkeypatch.setattr(sampling, "CHUNK", 1 << 8)
    meeting, names = threading.Barrier(3, timeout=30), set()

    def seen():
        if (name := threading.current_thread().name) not in names:
            names.add(name)
            meeting.wait()

    watched(seen)
    model = big()
    initconf.apply(model, plan_of(model, Watched()), threads=3)
    assert names == {"initconf-0", "initconf-1", "initconf-2"}


def test_little_work_is_done_by_the_caller(watched):
    names = set()
    watched(lambda: names.add(threading.current_thread().name))
    model = big()
    initconf.apply(model, plan_of(model, Watched()), threads=3)
    assert names == {threading.current_thread().name}


# --- how many --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "shown"), [(0, "0"), (-2, "-2"), (1.5, "1.5"), (True, "True"), ("2", "'2'"), ("x", "'x'")])
def test_bad_numbers_of_threads_in_python(said, shown):
    with pytest.raises(ApplyError) as caught:
        initconf.initialize(nn.Linear(2, 2), "he", threads=said)
    assert str(caught.value) == f"threads = {shown}: not a number of threads\n  -> give 1 or more"


@pytest.mark.parametrize("said", ["0", "-1", "1.5", "many", "true"])
def test_bad_numbers_of_threads_in_the_environment(monkeypatch, said):
    monkeypatch.setenv("INITCONF_THREADS", said)
    with pytest.raises(ApplyError) as caught:
        threads.count(None)
    assert str(caught.value) == f"INITCONF_THREADS = {said!r}: not a number of threads\n  -> give 1 or more"
    assert threads.count(2) == 2


def test_the_argument_is_stronger_than_the_environment_and_that_than_torch(monkeypatch, own_threads):
    import numpy as np

    torch.set_num_threads(3)
    monkeypatch.delenv("INITCONF_THREADS", raising=False)
    assert threads.count(None) == 3
    monkeypatch.setenv("INITCONF_THREADS", "")
    assert threads.count(None) == 3
    monkeypatch.setenv("INITCONF_THREADS", "5")
    assert threads.count(None) == 5
    assert threads.count(7) == 7
    assert threads.count(np.int64(7)) == 7


# --- tasks -----------------------------------------------------------------------------------------------------------------


def task(i, work=lambda source: None):
    return Task(work, 1, (i,))


@pytest.mark.parametrize("crew", [1, 2, 5])
def test_each_task_is_done_once_and_told_of_one_at_a_time(crew):
    inside, told = [], []

    def done(task, made):
        inside.append(1)
        assert len(inside) == 1
        told.append((task.entries[0], made))
        inside.pop()

    run((task(i, lambda source, i=i: -i) for i in range(500)), crew, done)
    assert sorted(told) == [(i, -i) for i in range(500)]
    run([], crew, done)
    assert len(told) == 500


@pytest.mark.parametrize("crew", [1, 3])
def test_a_failure_is_that_of_its_task_and_stops_the_others(crew):
    begun, told = [], []

    def work(source, i):
        begun.append(i)
        if i == 10:
            raise ValueError("no")

    with pytest.raises(Failed) as caught:
        run((task(i, lambda source, i=i: work(source, i)) for i in range(10_000)), crew, lambda task, made: told.append(task))
    assert caught.value.entries == (10,)
    assert isinstance(caught.value.__cause__, ValueError)
    assert len(begun) < 10_000
    assert sorted(t.entries[0] for t in told) == sorted(set(begun) - {10})
    assert not [t for t in threading.enumerate() if t.name.startswith("initconf-")]


@pytest.mark.parametrize("crew", [1, 3])
def test_what_the_iterator_or_the_listener_raises_is_raised(crew):
    def tasks():
        yield task(0)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        run(tasks(), crew, lambda task, made: None)

    def done(task, made):
        raise OSError("nobody listens")

    with pytest.raises(OSError, match="nobody listens"):
        run([task(i) for i in range(5)], crew, done)
    assert not [t for t in threading.enumerate() if t.name.startswith("initconf-")]


# --- instruction sets ------------------------------------------------------------------------------------------------------

SCRIPT = """
import json, torch
from initconf import laws, sampling
torch.set_num_threads(1)
made = {}
for law in (laws.Normal(0.0, 1.0), laws.TruncatedNormal(0.0, 1.0, 1.0), laws.Uniform(-1.0, 1.0), laws.LogUniform(0.1, 10.0)):
    for dtype in (torch.float32, torch.float64):
        values = sampling.values(law, sampling.key(0, "a"), 0, 1 << 17, dtype, sampling.Source())
        made[f"{law} {dtype}"] = values.double().tolist()
print(json.dumps(made))
"""


@cache
def under(instructions):
    environment = os.environ | {"MKL_ENABLE_INSTRUCTIONS": instructions, "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    return json.loads(answer.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["SSE4_2", "AVX2", "AVX512"])
def test_instruction_sets_differ_by_two_ulp_at_most(instructions):
    first, other = under("SSE4_2"), under(instructions)
    for name, values in first.items():
        dtype = torch.float64 if "float64" in name else torch.float32
        a, b = torch.tensor(values, dtype=dtype), torch.tensor(other[name], dtype=dtype)
        ulp = torch.nextafter(a.abs(), torch.full_like(a, torch.inf)) - a.abs()
        assert bool(((a - b).abs() <= 2 * ulp).all()), name
        if name.startswith("Uniform"):
            assert torch.equal(a, b)


# --- what the caller's thread has said, and what the machine lends ----------------------------------------------------------


def large() -> nn.Module:
    """Enough for two threads."""
    return nn.Sequential(nn.Conv2d(16, 16, 3), nn.Linear(1024, 1100, bias=False))


@pytest.mark.parametrize("crew", [1, 2])
def test_autocast_changes_nothing(crew):
    spec = {"defaults": ["he"], "rules": {"conv": {"match": "0\\.weight", "initializer": "convolution_orthogonal"}}}
    plain = initconf.initialize(large(), spec).model
    linear = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        model = initconf.initialize(large(), spec, threads=crew).verify().model
        initconf.initialize(linear, "he")
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("crew", [1, 2])
def test_what_was_made_in_inference_mode_is_written_in_it(crew):
    plain = initconf.initialize(large(), "he").model
    with torch.inference_mode():
        model = initconf.initialize(large(), "he", threads=crew).model
        assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("lent", [0, 1])
def test_where_the_machine_lends_no_more_threads_those_there_are_do_the_work(monkeypatch, lent):
    plain, starts, start = initconf.initialize(large(), "he").model, [], threading.Thread.start

    def limited(thread):
        starts.append(thread.name)
        if len(starts) > lent:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    model = initconf.initialize(large(), "he", threads=3).model
    assert len(starts) == 3
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


def test_no_more_threads_are_started_than_there_are_chunks(monkeypatch):
    starts, start = [], threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda thread: starts.append(thread.name) or start(thread))
    initconf.initialize(large(), "he", threads=3000)
    assert 2 <= len(starts) <= 6


FORKED = """
import os, signal, threading, torch, initconf
from initconf import threads
from torch import nn

inside, over = threading.Event(), threading.Event()

def work(source):
    inside.set()
    over.wait()

task = threads.Task(work, 1, (0,))
held = threading.Thread(target=threads.run, args=([task], 1, lambda *_: None))
held.start()
inside.wait()
child = os.fork()
if not child:
    signal.alarm(20)
    initconf.initialize(nn.Linear(3, 3), "he", threads=1)
    os._exit(7)
over.set()
held.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_forked_while_another_thread_writes_can_write():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("7\n", 0), done.stderr


TWICE = """
import os, signal, threading, time, torch, initconf
from initconf import threads

begun, over, written = threading.Event(), threading.Event(), []

def slow(source):
    begun.set()
    over.wait()
    written.append("old")

def press():
    begun.wait()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
    time.sleep(0.5)
    over.set()

threading.Thread(target=press).start()
try:
    threads.run([threads.Task(slow, 1, (0,))] * 2, 2, lambda *_: None)
except KeyboardInterrupt:
    assert not over.is_set()  # it did not wait
threads.run([threads.Task(lambda source: written.append("new"), 1, (0,))], 1, lambda *_: None)
print(written[0], written[-1], threads._unended)
"""


def test_what_a_second_interrupt_left_running_does_not_write_over_the_next():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", TWICE], capture_output=True, text=True, timeout=60)
    assert done.stdout == "old new []\n", done.stderr


def test_a_law_may_itself_initialise_something():
    """In a thread of a crew, whose caller waits for it."""

    @dataclass(frozen=True)
    class Nested(Law):
        elementwise = True
        mean = None
        std = None

        def quantile(self, v):
            inner = initconf.initialize(nn.Linear(40, 40), "he", threads=2).model
            return v.fill_(inner.weight[0, 0].item())

    expected = initconf.initialize(nn.Linear(40, 40), "he").model.weight[0, 0]
    tensor = torch.empty(1 << 13)
    work = partial(writing.draw, Nested(), sampling.key(0, "w"), shards.Piece(tensor, 0), sampling.CPU, None)
    run([Task(work, tensor.numel(), (0,))] * 2, 2, lambda *_: None)
    assert bool((tensor == expected).all())

"""The bar: it goes to the end, whatever part of a plan is written here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

import initconf
from initconf import progress
from initconf.laws import Keep
from initconf.owners import parameters
from tests.ranks import pretended
from tests.sharded_cases import CASES, along, fsdp


class Bar:
    """What rich is told."""

    total = done = None

    def __init__(self, *columns, **settings):
        Bar.total = Bar.done = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def add_task(self, text, total):
        Bar.total = total

    def advance(self, task, size):
        Bar.done += size


@pytest.fixture
def bar(monkeypatch):
    monkeypatch.setattr("rich.progress.Progress", Bar)
    monkeypatch.setattr(Bar, "total", None)
    monkeypatch.setattr(Bar, "done", None)
    return Bar


def total(model, plan, wanted=True):
    with progress.shown(plan, wanted, owners=parameters(model)) as step:
        step(1)
    return Bar.total


def test_the_values_of_a_plan_are_counted(bar):
    model = nn.Linear(4, 3)
    plan = initconf.compile(model, {"initializer": "he_normal", "rules": {"b": {"role": "bias", "initializer": "keep"}}})
    with progress.shown(plan, True) as step:
        step(5)
    assert (bar.total, bar.done) == (15, 5)
    assert total(model, plan) == 12


def test_blocks_that_are_kept_are_not_counted(bar):
    model = nn.MultiheadAttention(8, 2)
    plan = initconf.compile(model, {"defaults": ["he"], "rules": {"v": {"block": "v", "initializer": "keep"}}})
    kept = sum(entry.numel for entry in plan.leaves() if isinstance(entry.law, Keep))
    assert kept == 8 * 8 + 8
    assert total(model, plan) == sum(p.numel() for p in model.parameters()) - kept


@pytest.mark.parametrize("shard", [fsdp, along(0), along(-1)], ids=["fsdp", "axis 0", "last axis"])
def test_of_shards_what_lies_here_is_counted(bar, shard):
    whole = CASES["fsdp"].build()
    plan, counted = initconf.compile(whole, CASES["fsdp"].spec), 0
    for mesh in pretended((3,)):
        model = CASES["fsdp"].build()
        shard(model, mesh)
        counted += total(model, plan)
    assert counted == sum(p.numel() for p in whole.parameters()) + 2  # the scalar is everywhere


def test_for_little_work_and_away_from_terminals_there_is_none(bar, monkeypatch):
    model = nn.Linear(4, 3)
    plan = initconf.compile(model, "he")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert total(model, plan, None) is None
    monkeypatch.setattr(progress, "LONG", 15)
    assert total(model, plan, None) == 15
    assert total(model, plan, False) == 15  # that of before
    monkeypatch.setattr(bar, "total", None)
    assert total(model, plan, False) is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    assert total(model, plan, None) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_behind_stderr_ends_the_bar_and_not_the_work(monkeypatch):
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - what closes it fails, too
    monkeypatch.setattr(sys, "stderr", full)
    initconf.initialize(nn.Linear(300, 300), "he", progress=True).verify()
    with pytest.raises(OSError, match="No space left"):
        full.close()

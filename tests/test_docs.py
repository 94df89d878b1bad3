"""Every example in a docstring runs, and gives what it says."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import initconf
from initconf import activations, layouts, registry

PACKAGE = Path(initconf.__file__).resolve().parent
FLAGS = doctest.ELLIPSIS


def modules():
    """The names of the package's own modules, without what runs when it is imported."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] not in ("__main__", "stream_kernel") and "ns" not in parts and "conf" not in parts:  # needs triton
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def examples(module: ModuleType):
    return [test for test in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__) if test.examples]


FOUND = {name: examples(importlib.import_module(name)) for name in modules()}
CASES = [pytest.param(test, id=test.name) for tests in FOUND.values() for test in tests]


def run(test: doctest.DocTest) -> list[str]:
    """What went wrong, as doctest tells it."""
    said: list[str] = []
    test.globs = {**test.globs, **namespace()}
    doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=said.append)
    return said


def namespace():
    """What every example may use without a word."""
    return {
        "initconf": initconf,
        "torch": torch,
        "nn": nn,
        "model": nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),
    }


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch):
    """Examples may register things."""
    registry.names()
    for module, table in (
        (registry, "_registered"),
        (registry, "_aliases"),
        (layouts, "_layouts"),
        (activations, "_REGISTERED"),
    ):
        monkeypatch.setattr(module, table, dict(getattr(module, table)))


@pytest.mark.parametrize("test", CASES)
def test_examples(test):
    assert run(test) == []


def test_examples_are_found():
    assert len(CASES) >= 15
    assert {"initconf.loading.load", "initconf.apply.compile", "initconf.registry.register"} <= {c.id for c in CASES}


def test_a_wrong_example_is_found():
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert "Expected:\n    3\nGot:\n    2\n" in run(wrong)[0]


@pytest.mark.parametrize("name", initconf.__all__)
def test_every_public_name_is_documented(name):
    thing = getattr(initconf, name)
    if isinstance(thing, str):
        return
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        own = {key: value for key, value in vars(thing).items() if not key.startswith("_") and inspect.isfunction(value)}
        undocumented = [key for key, value in own.items() if not value.__doc__]
        # what is inherited or obvious from its type needs no words
        assert [key for key in undocumented if key not in ("from_dict", "to_dict")] == []


def test_every_shipped_initializer_is_documented():
    for name in registry.names():
        assert inspect.getdoc(registry.find(name).fn), name

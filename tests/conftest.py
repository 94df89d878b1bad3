"""How tests run: how hypothesis looks for examples, what memory holds, and what a test may leave behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from initconf import activations, layouts, registry, survey  # noqa: F401 - survey registers the layouts of third parties
from tests import command_line

# The same examples in every run, and no time limit for a single one: a suite that fails by luck teaches nobody anything.
# `pytest --hypothesis-profile=explore` looks for new ones.
settings.register_profile("initconf", deadline=None, derandomize=True, max_examples=60)
settings.register_profile("explore", deadline=None)
settings.load_profile("initconf")


# Workers of pytest-xdist share the cores: threads of their own would only wait for one another.
torch.set_num_threads(1)

# What nobody wrote is NaN: a test that reads memory of `torch.empty` fails here, and not on another machine. (On a GPU torch
# would warn of every product of matrices, and a warning is an error.)
torch.use_deterministic_algorithms(not torch.cuda.is_available(), warn_only=True)
torch.utils.deterministic.fill_uninitialized_memory = True


# --- what a test may leave behind --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """What a test registers, and torch's random state, is gone after it: tests may run in any order."""
    registry.names()  # the shipped ones are loaded once, outside of every test
    tables = [registry._registered, registry._aliases, layouts._layouts, activations._REGISTERED]
    before, state = [dict(table) for table in tables], torch.get_rng_state()
    yield
    for table, old in zip(tables, before, strict=True):
        if table != old:
            table.clear()
            table.update(old)
    torch.set_rng_state(state)


# --- a user at the command line ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the user stands, with what they have there."""
    yield from command_line.user(tmp_path_factory.mktemp("user"))


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *words: command_line.Run(capsys, *words)

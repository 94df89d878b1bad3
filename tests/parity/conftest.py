"""Before a peer is imported: Keras on torch, JAX on the CPU and able to do float64. After all tests: the tables."""

import os
import sys

import pytest

os.environ["KERAS_BACKEND"] = "torch"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"  # configurations are enough
os.environ["JAX_ENABLE_X64"] = "1"  # every parameter's dtype is said; without it float64 would be float32 in silence


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    comparing = sys.modules.get("comparing")
    if comparing is not None and comparing.ROWS:
        terminalreporter.section("differences from the peers (se: standard errors)")
        for line in comparing.table():
            terminalreporter.write_line(line)
    models = sys.modules.get("test_against_transformers")
    if models is not None and models.SURVEYED:
        terminalreporter.section("parameters of the models of transformers")
        for line in models.table():
            terminalreporter.write_line(line)

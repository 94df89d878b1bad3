"""Before a peer is imported: Keras on torch, JAX on the CPU and able to do float64. After all tests: the table."""

import os
import sys

import pytest

os.environ["KERAS_BACKEND"] = "torch"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_X64"] = "1"  # every parameter's dtype is said; without it float64 would be float32 in silence


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    comparing = sys.modules.get("comparing")
    if comparing is not None and comparing.ROWS:
        terminalreporter.section("differences from the peers (se: standard errors)")
        for line in comparing.table():
            terminalreporter.write_line(line)

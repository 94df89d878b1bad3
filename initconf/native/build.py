"""Compiles `values.c` where initconf is built and there is a C compiler; without one the wheel is pure Python.

What is made needs nothing of Python's or of a C library, so that one wheel serves all versions of Python on a platform.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

LIBRARY = "initconf/native/values.so"


def compiled(source: Path, target: Path) -> str | None:
    """Compile a shared library. Gives the reason where that cannot be done."""
    if sys.platform == "win32":
        return "nobody has tried it on Windows"
    compilers = [os.environ["CC"]] if "CC" in os.environ else [sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]
    new, why = target.with_suffix(f".{os.getpid()}"), ""
    for compiler in filter(None, compilers):
        command = [*shlex.split(compiler), "-O3", "-ffp-contract=off", "-shared", "-fPIC", "-o", str(new), str(source)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            why = why or str(error)
            continue
        if done.returncode == 0:
            new.replace(target)  # at once: another process may have the old one loaded
            return None
        why = done.stderr.strip() or f"{command[0]} ended with {done.returncode}"
    return why or "there is no C compiler"


class Compile(BuildHookInterface[Any]):
    """Adds the library to a wheel, and to the checkout that an editable install reads."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        target = Path(self.root, LIBRARY)
        if why := compiled(target.with_suffix(".c"), target):
            target.unlink(missing_ok=True)
            self.app.display_warning(f"initconf makes its values by way of NumPy, up to three times as slowly: {why}")
            return
        platform = next(tag.platform for tag in sys_tags() if "linux" not in tag.platform or tag.platform.startswith("linux_"))
        build_data.update(pure_python=False, tag=f"py3-none-{platform}")
        build_data["artifacts"].append(LIBRARY)

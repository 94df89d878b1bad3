"""Compiles `values.c` where initconf is built and there is a C compiler; without one the wheel is pure Python.

What is made needs nothing of Python's or of a C library, so that one wheel serves all versions of Python on a platform.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

LIBRARY = "initconf/native/values.so"
# Whatever the user's flags say: no fused products, and no library that makes a process flush subnormal numbers.
FLAGS = ("-O3", "-fno-fast-math", "-ffp-contract=off", "-shared", "-fPIC")


def compiled(source: Path, target: Path) -> str | None:
    """Compile a shared library, which knows what it was made of. Gives the reason where that cannot be done."""
    if sys.platform == "win32":
        return "nobody has tried it on Windows"
    said = os.environ.get("CC")
    compilers = [said] if said else [sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]
    digest, reasons = hashlib.sha256(source.read_bytes()).hexdigest(), []
    for compiler in filter(None, compilers):
        try:
            command = [*shlex.split(compiler), *FLAGS, f'-DSOURCE="{digest}"', "-o", str(target), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except (OSError, ValueError) as error:
            reasons.append(f"{compiler}: {error}")
            continue
        if done.returncode == 0 and target.exists():
            return None
        reasons.append(f"{compiler} ended with {done.returncode} {done.stderr.strip()}".strip())
    return "; ".join(reasons)


class Compile(BuildHookInterface[Any]):
    """Adds the library to a wheel, and to the checkout where an editable install reads it; nowhere else is anything left."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        self.folder = Path(tempfile.mkdtemp(prefix="initconf-"))
        made, there = self.folder / "values.so", Path(self.root, LIBRARY)
        why = compiled(there.with_suffix(".c"), made)
        if why is None and version == "editable":
            try:
                new = there.with_suffix(f".{os.getpid()}.so")
                shutil.copy(made, new)
                new.replace(there)  # at once: another process may have the old one loaded
            except OSError as error:
                why = str(error)
        if why is not None:
            self.app.display_warning(f"initconf makes uniforms by way of NumPy, two to three times as slowly: {why}")
            return
        platform = next(tag.platform for tag in sys_tags() if "linux" not in tag.platform or tag.platform.startswith("linux_"))
        build_data.update(pure_python=False, tag=f"py3-none-{platform}")
        if version != "editable":
            build_data["force_include"][str(made)] = LIBRARY

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self.target_name == "wheel":
            shutil.rmtree(self.folder, ignore_errors=True)

"""What was measured, on what, and when; nothing that says whose machine it is."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from contextlib import suppress
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from initconf import native

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("initconf", "numpy", "jax", "mmengine", "transformers")


def usable() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Versions: of what is installed. Commit: of a checkout, with a "+" where it was edited."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "usable cores": usable(),
        "memory GiB": pages and round(pages / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "compiled code": native.serves(),
        "versions": _versions(),
        "date": date.today().isoformat(),
        "commit": _commit(),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}  # which names the build, +cpu or +cu130
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _commit() -> str | None:
    if not (ROOT / ".git").exists():
        return None

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)

    try:
        commit = git("rev-parse", "--short=12", "HEAD").stdout.strip()
        edited = git("diff", "--quiet", "HEAD", "--", "initconf", "benchmarks/*.py").returncode
    except OSError:  # there is no git
        return None
    return f"{commit}{'+' if edited else ''}" if commit else None

"""The house keeps its order: who may import whom, how long a file is, and what importing it costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "initconf"

# A file imports only from those that stand before it. A name that ends in "/" is a folder, whose files are free among
# themselves as long as they do not go round in circles.
ORDER = """
    errors files expressions patterns docstrings laws/ quadrature curves callables activations
    checks spec registry
    sites guessing layouts third_party aside parametrized owners marks resets skipping survey
    origins feeding calls tracing
    initializers/
    hyper/
    schema
    reading provenance refusals limits composing validating loading
    rules choices diagnosis addresses plan generated heads compiler
    stream native/ stream_kernel on_gpu sampling shards moments threads writing
    by_torch report comparison progress materialise fitting choosing conditions apply measurement measuring
    porting/
    lab/ cli/ _hydra/ __main__
""".split()
DOORS = {"cli/", "lab/", "_hydra/"}  # they may use the public names, `import initconf`, as a user would
LONGEST = 450  # 400 is the sign that a file holds two things; this is where it is taken down


# --- layers ----------------------------------------------------------------------------------------------------------


def modules(package: Path) -> dict[str, Path]:
    """The files of a package by dotted name inside it; the name of the package's own `__init__` is empty."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        *folders, stem = path.relative_to(package).with_suffix("").parts
        found[".".join(folders if stem == "__init__" else [*folders, stem])] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path], root: str) -> Iterator[tuple[int, str]]:
    """(line, module inside the package) of each import of the package's own files, wherever in the file it stands."""
    folder = [root, *name.split(".")] if name else [root]
    if path.name != "__init__.py":
        folder.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = folder[: len(folder) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from initconf import laws` imports the module `laws`, `from initconf import load` the package itself
            targets = [
                full if (full := f"{base}.{alias.name}").removeprefix(f"{root}.") in known else base for alias in node.names
            ]
        else:
            continue
        for target in dict.fromkeys(targets):
            if target == root or target.startswith(f"{root}."):
                yield node.lineno, target[len(root) + 1 :]


def layer_of(name: str) -> str:
    first = name.split(".")[0]
    return f"{first}/" if f"{first}/" in ORDER else first


def broken_layers(package: Path) -> list[str]:
    """What is wrong with the imports of a package, one line each."""
    known, problems, inside = modules(package), [], {}
    for name, path in known.items():
        if not name:
            continue  # the package's own `__init__` names everything, lazily; nobody but the doors imports it
        own = layer_of(name)
        where = path.relative_to(package.parent)
        if own not in ORDER:
            problems.append(f"{where}: not in the order of layers: give it a place there")
            continue
        for line, target in imports(name, path, known, package.name):
            other = layer_of(target)
            if own == other:
                inside.setdefault(name, set()).add(target)
            elif not target:
                if own not in DOORS:
                    problems.append(f"{where}:{line}: imports the package itself, which holds all layers")
            elif other not in ORDER or ORDER.index(other) > ORDER.index(own):
                problems.append(f"{where}:{line}: {own} may not import {other}")
    try:
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        problems.append(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")
    return problems


def test_layers() -> None:
    assert broken_layers(PACKAGE) == []


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"patterns.py": "from initconf.sites import Site"}, "initconf/patterns.py:1: patterns may not import sites"),
        ({"patterns.py": "\nimport initconf.plan"}, "initconf/patterns.py:2: patterns may not import plan"),
        ({"patterns.py": "from . import plan"}, "initconf/patterns.py:1: patterns may not import plan"),
        ({"patterns.py": "from .plan import Plan"}, "initconf/patterns.py:1: patterns may not import plan"),
        ({"patterns.py": "def f():\n    from initconf import plan"}, "initconf/patterns.py:2: patterns may not import plan"),
        ({"hyper/fans.py": "from ..cli import main"}, "initconf/hyper/fans.py:1: hyper/ may not import cli"),
        (
            {"initializers/a.py": "from initconf.hyper import x"},
            "initializers/a.py:1: initializers/ may not import hyper/",
        ),
        ({"report.py": "from initconf import load"}, "initconf/report.py:1: imports the package itself"),
        ({"things.py": ""}, "initconf/things.py: not in the order of layers"),
        (
            {"lab/a.py": "from initconf.lab.b import x", "lab/b.py": "from .a import y"},
            "a circle of imports: lab.",
        ),
    ],
)
def test_layers_can_fail(files: dict[str, str], problem: str, tmp_path: Path) -> None:
    rooms = {"__init__.py": "", "sites.py": "", "plan.py": "", "cli.py": "", "hyper/__init__.py": "x = 1"}
    for name, text in (rooms | files).items():
        (tmp_path / "initconf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "initconf" / name).write_text(text)
    found = broken_layers(tmp_path / "initconf")
    assert len(found) == 1
    assert problem in found[0]


def test_layers_allow_what_they_should(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from initconf.cli import main",
        "patterns.py": "import math\nfrom torch import nn",
        "sites.py": "from initconf import patterns",
        "initializers/__init__.py": "from initconf.initializers import a, b",
        "initializers/a.py": "from ..sites import Site",
        "initializers/b.py": "from .a import x\nfrom initconf.initializers import a",
        "cli.py": "import initconf\nfrom initconf import load",
    }
    for name, text in files.items():
        (tmp_path / "initconf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "initconf" / name).write_text(text)
    assert broken_layers(tmp_path / "initconf") == []


def test_no_file_is_two_files() -> None:
    long = {str(path): n for path in PACKAGE.rglob("*.py") if (n := len(path.read_text().splitlines())) > LONGEST}
    assert long == {}


# --- what is loaded --------------------------------------------------------------------------------------------------


def run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=120)


def loaded(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded when it has run some code."""
    done = run(f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


PLUGIN = """
from hydra import initialize, compose
from hydra.core.plugins import Plugins
with initialize(version_base="1.3", config_path=None):
    compose()
"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import initconf", {"torch", "pydantic", "hydra", "numpy", "rich"}),
        ("import initconf; initconf.load('he')", {"torch"}),
        (PLUGIN, {"torch", "pydantic", "numpy", "rich"}),
        (
            "from hydra._internal.config_search_path_impl import ConfigSearchPathImpl as Path\n"
            "from initconf._hydra.plugin import InitconfSearchPathPlugin as Plugin\n"
            "Plugin().manipulate_search_path(Path())",
            {"torch", "pydantic", "numpy", "rich"},
        ),
    ],
    ids=["import", "load", "application", "plugin"],
)
def test_loads_no_torch(code: str, absent: set[str]) -> None:
    assert loaded(code) & absent == set()


def test_the_application_of_the_torch_test_does_load_the_plugin() -> None:
    assert "initconf" in loaded(PLUGIN)


@pytest.mark.parametrize("code", ["import torch", "import initconf, torch.nn; initconf.load('he')", f"import torch{PLUGIN}"])
def test_torch_check_can_fail(code: str) -> None:
    assert "torch" in loaded(code)


# --- what it costs ---------------------------------------------------------------------------------------------------


def best(code: str, good_enough: float, tries: int = 12) -> float:
    """The smallest number of seconds that some code prints, over fresh interpreters; the machine may be busy."""
    seconds = float("inf")
    for _ in range(tries):
        done = run(code)
        assert done.returncode == 0, done.stderr
        seconds = min(seconds, float(done.stdout))
        if seconds < good_enough:
            break
    return seconds


TIMED = "import time\n{before}\nstart = time.perf_counter()\n{code}\nprint(time.perf_counter() - start)"


def test_import_time() -> None:
    assert best(TIMED.format(before="", code="import initconf"), 0.15) < 0.15


def test_plugin_time() -> None:
    """What the plugin adds to an application: its import, its base node and its entry in the search path."""
    before = """
from hydra.core.plugins import Plugins
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
import hydra.main, hydra.conf, importlib.util
path = ConfigSearchPathImpl()
assert "initconf" not in __import__("sys").modules"""
    code = "from initconf._hydra.plugin import InitconfSearchPathPlugin as Plugin; Plugin().manipulate_search_path(path)"
    assert best(TIMED.format(before=before, code=code), 0.010) < 0.010


# --- the plugin in other people's applications -----------------------------------------------------------------------

APPLICATION = """
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    print("ran", sorted(cfg))

main()
"""
BREAK_STORE = """
from hydra.core.config_store import ConfigStore
keep = ConfigStore.store
def store(self, *args, group=None, **kwargs):
    if group and group.startswith("init"):
        raise TypeError("the store has\\nchanged")
    keep(self, *args, group=group, **kwargs)
ConfigStore.store = store
"""
BREAK_CONF = """
import importlib.util
keep = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "initconf.conf" else keep(name, *rest)
"""


def application(folder: Path, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run a Hydra application that knows nothing of initconf, with every warning an error."""
    (folder / "app.py").write_text(before + APPLICATION)
    quiet = ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    return subprocess.run(
        [sys.executable, "-W", "error", "app.py", *arguments, *quiet],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("sabotage", "reason"),
    [
        (BREAK_STORE, "(TypeError: the store has changed)"),
        (BREAK_CONF, "(ModuleNotFoundError: the package initconf.conf is missing, reinstall initconf)"),
    ],
    ids=["store", "conf"],
)
def test_plugin_survives_its_own_failure(sabotage: str, reason: str, tmp_path: Path) -> None:
    done = application(tmp_path, "+a=1", before=sabotage)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ran ['a']\n"
    assert done.stderr == f"initconf: Hydra's group 'init' is missing or incomplete here {reason}\n"


def test_a_sweep_says_a_failure_once(tmp_path: Path) -> None:
    done = application(tmp_path, "-m", "+a=1,2,3", before=BREAK_STORE)
    assert done.stdout.count("ran ['a']") == 3, done.stderr
    assert done.stderr.count("initconf:") == 1


def test_plugin_is_silent_when_all_is_well(tmp_path: Path) -> None:
    done = application(tmp_path, "+init=he", "init.rules.head.gain=0.1", "init.misspelled=2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran ['init']\n", "")


def test_base_node_lists_every_key_of_a_spec() -> None:
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    from initconf._hydra.plugin import register_base
    from initconf.spec import InitSpec

    register_base()
    register_base()  # a second time is no collision
    node = ConfigStore.instance().load("init/schema/base.yaml").node
    assert set(node) == set(InitSpec.model_fields)
    assert not OmegaConf.is_struct(node)


def test_base_node_leaves_a_foreign_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.core.config_store import ConfigStore

    from initconf._hydra.plugin import register_base

    monkeypatch.setattr(ConfigStore.instance(), "repo", {})
    ConfigStore.instance().store(group="init/schema", name="base", node={"theirs": 1}, provider="somebody")
    register_base()
    assert ConfigStore.instance().load("init/schema/base.yaml").node == {"theirs": 1}

"""What is installed works: the wheel and the editable install, in a fresh environment, from an application elsewhere.

No index is needed: initconf is built with the hatchling at hand and installed without its dependencies, which the fresh
environment borrows from this one.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ["pyproject.toml", "README.md", ".gitignore", "conf", "initconf", "tests"]

# The foreign application: what it composed and where its initconf came from, as JSON.
TRAIN = """
import json, sys
import hydra
from omegaconf import OmegaConf

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    import initconf, initconf.conf
    plugin = sys.modules["hydra_plugins.initconf.plugin"]  # Hydra found it
    print(json.dumps({
        "init": OmegaConf.to_container(cfg.init),
        "loaded": initconf.load(cfg.init).mode,
        "files": [m.__file__ for m in (initconf, initconf.conf, plugin)],
        "path": sys.path,
    }))

main()
"""
CONFIG = "defaults: [{init: glorot}, _self_]\nhydra: {output_subdir: null, run: {dir: .}}\n"


def checked(*command: str | Path, cwd: Path, **more: str) -> str:
    ours = ("PYTHON", "PIP_", "COV_", "INITCONF_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | more
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Machine:
    """A fresh virtual environment that sees this one's packages, but neither its initconf nor the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.python = folder, folder / "venv" / "bin" / "python"
        checked(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=folder)
        self.site = next((folder / "venv" / "lib").glob("python*/site-packages"))
        borrowed = folder / "borrowed"
        (borrowed / "hydra_plugins").mkdir(parents=True)
        parent = Path(sysconfig.get_path("purelib"))
        for entry in [*parent.iterdir(), *parent.glob("hydra_plugins/*")]:
            inside = entry.relative_to(parent)
            if "initconf" not in entry.name and entry.suffix != ".pth" and entry.name != "hydra_plugins":
                (borrowed / inside).symlink_to(entry)
        (self.site / "borrowed.pth").write_text(f"{borrowed}\n")

    def install(self, *what: str | Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", "install"]
        checked(*pip, "--no-index", "--no-build-isolation", "--no-deps", *what, cwd=self.folder)

    def compose(self, *overrides: str) -> dict:
        """What the foreign application composes under some overrides."""
        app = self.folder / "elsewhere"
        (app / "conf").mkdir(parents=True, exist_ok=True)
        (app / "train.py").write_text(TRAIN)
        (app / "conf" / "config.yaml").write_text(CONFIG)
        seen = json.loads(checked(self.python, "-W", "error", "train.py", *overrides, cwd=app))
        assert str(ROOT) not in seen["path"]
        return seen


def copy_of_the_sources(folder: Path) -> Path:
    """A copy of the checkout, so that building leaves nothing in it and edits touch nothing."""
    for name in SOURCES:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return folder


def build(folder: Path, **environment: str) -> Path:
    """A wheel of a copy of the checkout."""
    sources = copy_of_the_sources(folder / "sources")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index", "--no-build-isolation"]
    checked(*pip, "--no-deps", "--wheel-dir", folder, sources, cwd=folder, **environment)
    (built,) = folder.glob("initconf-*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


def test_wheel_content(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    for name in ROOT.joinpath("conf").rglob("*.yaml"):
        assert f"initconf/conf/{name.relative_to(ROOT / 'conf').as_posix()}" in names
    for name in ROOT.joinpath("initconf").rglob("*.yaml"):
        assert name.relative_to(ROOT).as_posix() in names
    assert {
        "initconf/py.typed",
        "initconf/conf/__init__.py",
        "initconf/conf/init/he.yaml",
        "initconf/conf/init/rules/roles.yaml",
        "initconf/_hydra/plugin.py",
        "hydra_plugins/initconf/__init__.py",
        "hydra_plugins/initconf/plugin.py",
    } <= names
    assert any(name.startswith("initconf/lab/conf/") for name in names)
    # The namespace is shared with other plugins: an __init__ there would hide them. All that Hydra's search path gets
    # is the group `init`.
    assert "hydra_plugins/__init__.py" not in names
    assert {name.split("/")[2] for name in names if name.startswith("initconf/conf/")} == {"__init__.py", "init"}
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"initconf", "hydra_plugins"}
    assert not [name for name in names if "/ns/" in name or name.endswith(".pyc")]
    assert "initconf = initconf.cli:main" in entry_points
    assert "initconf = initconf._hydra.plugin:InitconfSearchPathPlugin" in entry_points


def test_wheel_serves_a_foreign_application(wheel: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.install(wheel)
    seen = machine.compose("init=he", "init.rules.head.gain=0.1")
    assert [Path(file).relative_to(machine.site).as_posix() for file in seen["files"]] == [
        "initconf/__init__.py",
        "initconf/conf/__init__.py",
        "hydra_plugins/initconf/plugin.py",
    ]
    assert (seen["init"]["initializer"], seen["init"]["mode"]) == ("variance_scaling", "fan_in")
    assert seen["init"]["rules"]["head"]["gain"] == 0.1
    assert seen["loaded"] == "fan_in"
    assert (machine.folder / "venv" / "bin" / "initconf").exists()


def test_editable_install_serves_a_foreign_application(tmp_path: Path) -> None:
    machine, checkout = Machine(tmp_path), copy_of_the_sources(tmp_path / "checkout")
    machine.install("--editable", checkout)
    seen = machine.compose("init=he", "init.rules.head.gain=0.1")
    assert seen["files"] == [
        str(checkout / "initconf" / "__init__.py"),
        str(checkout / "conf" / "__init__.py"),
        str(machine.site / "hydra_plugins" / "initconf" / "plugin.py"),
    ]
    assert (seen["init"]["mode"], seen["init"]["rules"]["head"]["gain"]) == ("fan_in", 0.1)
    scheme = checkout / "conf" / "init" / "he.yaml"
    scheme.write_text(scheme.read_text().replace("mode: fan_in", "mode: fan_out"))
    assert machine.compose("init=he")["loaded"] == "fan_out"
    scheme.rename(scheme.with_name("mine.yaml"))
    assert machine.compose("init=mine")["loaded"] == "fan_out"


# Whether compiled code serves, and the first bits that are drawn.
DRAWN = """
import torch, initconf
from initconf import native
model = initconf.initialize(torch.nn.Linear(100, 100, dtype=torch.bfloat16), "he").model
print(native.serves(), model.weight.view(torch.int16).sum().item())
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_with_a_compiler_or_without_the_values_are_the_same(wheel: Path, tmp_path: Path) -> None:
    """With one the wheel is of a platform, and of every Python 3 there; without one it is pure Python."""
    (tmp_path / "plain").mkdir()
    plain, drawn = build(tmp_path / "plain", CC="false"), []
    assert "-py3-none-any" in plain.name
    assert "-py3-none-" in wheel.name
    assert "-any" not in wheel.name
    for built in (plain, wheel):
        folder = tmp_path / str(len(drawn))
        folder.mkdir()
        machine = Machine(folder)
        machine.install(built)
        drawn.append(checked(machine.python, "-W", "error", "-c", DRAWN, cwd=folder).split())
    assert [said for said, _ in drawn] == ["False", "True"]
    assert drawn[0][1] == drawn[1][1]


def test_a_machine_is_really_fresh(tmp_path: Path) -> None:
    """The check can fail: without an install there is no initconf and no group `init`."""
    machine = Machine(tmp_path)
    with pytest.raises(AssertionError, match="Could not find 'init/glorot'"):
        machine.compose()

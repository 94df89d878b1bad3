"""README.md, executed: its files are written down, its commands run, its outputs compared, its tables held against the code.

How it is read: a line that is a code span alone (`train.py`) names the file in the block after it; a `text` block after a block
is its output; a command whose comment begins with `refused:` must fail and say the rest of the comment, with `warns:` say it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

import initconf
from initconf import expressions, layouts, registry
from initconf.spec import ROLES, SELECTORS, SETTINGS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = {"train.steps=300": "train.steps=5"}
"""What takes long is run in short: the texts replaced, all of which must be found."""
ELSEWHERE = ("make ", "pip install ")
"""Commands that are not run: other tests do what they do (packaging), or they are this test's own caller."""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int
    file: str | None
    output: str | None
    """The `text` block that follows."""


def _blocks() -> list[Block]:
    found: list[Block] = []
    before, lines = "", README.splitlines()
    numbers = iter(range(len(lines)))
    for n in numbers:
        if lines[n].startswith("```"):
            language = lines[n][3:]
            end = lines.index("```", n + 1)
            text = "\n".join(lines[n + 1 : end]) + "\n"
            named = re.fullmatch(r"`([^`]+)`", before)
            if language == "text" and lines[n - 1] == "```":
                last = found.pop()
                found.append(Block(last.language, last.text, last.line, last.file, text))
            else:
                found.append(Block(language, text, n + 1, named[1] if named else None, None))
            next(itertools.islice(numbers, end - n - 1, None), None)
            before = ""
        elif lines[n].strip():
            before = lines[n]
    return found


BLOCKS = _blocks()
FILES = {block.file: block.text for block in BLOCKS if block.file}
SCRIPTS = [block for block in BLOCKS if block.language == "bash"]


def commands(block: Block) -> list[str]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def table(first: str) -> list[dict[str, str]]:
    """The rows of the table whose first column has this title."""
    lines = README.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    ]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def settled(output: str) -> str:
    """An output without what may differ between two machines: fingerprints, and spaces at the ends of lines."""
    return re.sub(r"plan [0-9a-f]{16}", "plan ...", re.sub(r" +$", "", output, flags=re.MULTILINE)).strip()


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of the README and nothing else, from which Python imports; afterwards all is forgotten."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    registry.names()  # loads the shipped ones
    for table, attribute in ((registry, "_registered"), (registry, "_aliases"), (layouts, "_layouts")):
        monkeypatch.setattr(table, attribute, dict(getattr(table, attribute)))
    with torch.random.fork_rng(devices=[]):
        torch.seed()  # as in a fresh process: `plan.warnings` speaks of a seed that somebody set
        yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def run(command: str, where: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Several processes with several threads each on few cores wait for each other: 20 s instead of 2 for a small model.
    environment = {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        ["bash", "-c", command], cwd=where, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


# --- what is executed ------------------------------------------------------------------------------------------------------


def test_the_readme_is_read_as_it_is_meant() -> None:
    assert set(FILES) >= {"model.py", "train.py", "conf/config.yaml", "conf/init/rules/mine.yaml"}
    assert {block.language for block in BLOCKS} == {"bash", "python", "yaml", "text"}
    assert sum(block.output is not None for block in BLOCKS) >= 4
    assert len(FILES["train.py"].split("def main(cfg):")[1].split("\n\n")[0].strip().splitlines()) <= 12
    assert len(FILES["conf/config.yaml"].splitlines()) <= 12
    for long in SHORTER:
        assert README.count(long) >= 1


def _scripts() -> list[Any]:
    """The blocks of commands. Those that train several models, or another one, are slow; test_lab.py has some of it in fast."""
    long = re.compile(r"lab -m |train\.py -m |_target_|(python train\.py.*\n){4}")
    slow = {script.line for script in SCRIPTS if long.search(script.text)}
    assert len(slow) == 7
    return [
        pytest.param(script, id=f"line-{script.line}", marks=[pytest.mark.slow] if script.line in slow else [])
        for script in SCRIPTS
    ]


@pytest.mark.parametrize("script", _scripts())
def test_the_commands_do_what_they_say(script: Block, application: Path) -> None:
    done = None
    for command in commands(script):
        if command.startswith(ELSEWHERE):
            continue
        for long, short in SHORTER.items():
            command = command.replace(long, short)
        refusal = re.search(r"# refused: (.*)$", command)
        done = run(command, application)
        assert done.returncode == (1 if refusal else 0), f"{command}\n{done.stdout}{done.stderr}"
        told = refusal or re.search(r"# warns: (.*)$", command)
        if told:
            assert told[1] in done.stdout + done.stderr, f"{command}\n{done.stdout}{done.stderr}"
        else:
            assert "warning" not in (done.stdout + done.stderr).lower(), f"{command}\n{done.stderr}"
    if script.output is not None:
        assert done is not None
        assert settled(done.stdout) == settled(script.output)


@pytest.mark.usefixtures("application")
def test_the_python_blocks_run_in_order(caplog: pytest.LogCaptureFixture) -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    blocks = [block for block in BLOCKS if block.language == "python" and not block.file]
    assert len(blocks) >= 4
    for block in blocks:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), caplog.at_level(logging.WARNING):
            # Line numbers of a traceback are those of the README.
            exec(compile("\n" * block.line + block.text, str(ROOT / "README.md"), "exec"), names)
        assert settled(said.getvalue()) == settled(block.output or ""), f"line {block.line}"
        assert not caplog.records, f"line {block.line}"


@pytest.mark.parametrize(
    ("typed", "changes"),
    [
        ("init=he init.nonlinearity=auto", {"stem.weight": 0.5**0.5, "head.weight": 0.5**0.5}),
        ("init.rules.head.gain=0.1", {"head.weight": 0.1}),
        ("'init.rules.stem={match: \"stem\\.weight\", nonlinearity: linear}'", {"stem.weight": 0.5**0.5}),
        (
            "'init.rules.small={glob: body.*, ndim: 2, initializer: {name: normal, std: 0.01}}'",
            {"body.weight": 0.01 / 32**-0.5},
        ),
        ("'init/rules=[roles,head,mine]'", {"stem.weight": 0.5**0.5, "head.weight": 0.5}),
        ("+init/rules@init.rules=mine", {"stem.weight": 0.5**0.5, "head.weight": 0.5}),
    ],
)
def test_an_override_changes_what_it_says_and_nothing_else(typed: str, changes: dict[str, float], application: Path) -> None:
    assert any(f"train.py {typed}" in command for script in SCRIPTS for command in commands(script))
    net = import_module("model").Net()
    plain = initconf.compile(net, "he")
    bent = initconf.compile(net, initconf.load("he", shlex.split(typed), config_dir=application / "conf"))
    for entry in plain:
        assert bent[entry.name].mean == entry.mean
        assert bent[entry.name].std == pytest.approx(changes.get(entry.name, 1.0) * entry.std)


# --- what is held against the code -----------------------------------------------------------------------------------------


def shipped(folder: str) -> dict[str, Any]:
    return {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in (ROOT / "conf" / folder).glob("*.yaml")}


def test_the_tables_of_schemes_are_those_of_conf() -> None:
    schemes = shipped("init")
    rows = {spans(row["`init=`"])[0]: row for row in table("`init=`")}
    others = [name for row in table("to start as") for name in spans(row["`init=`"])]
    assert sorted([*rows, *others]) == sorted(schemes)
    for name, row in rows.items():
        for key in ("initializer", "mode", "distribution", "nonlinearity"):
            said = yaml.safe_load(spans(row[key])[0]) if row[key] != "-" else None
            assert said == schemes[name].get(key), f"{name}: {key}"


def test_the_table_of_rule_files_is_that_of_conf() -> None:
    files = shipped("init/rules")
    rows = {spans(row["rule file"])[0]: row["its rules"] for row in table("rule file")}
    assert sorted(rows) == sorted(files)
    for name, rules in rows.items():
        assert sorted(spans(rules)) == sorted(files[name]), name
    (sentence,) = re.findall(r"Every scheme uses (.*), but (.*), which have rules of their own and use (.*)\.", README)
    most, exceptions, less = map(spans, sentence)
    for name, body in shipped("init").items():
        assert body["defaults"][1]["rules"] == (less if name in exceptions else most), name


def test_selectors_settings_roles_and_expressions_are_all_named() -> None:
    rows = {spans(row["selector"])[0]: row for row in table("selector")}
    assert tuple(rows) == SELECTORS
    assert tuple(spans(rows["role"]["holds where"])) == ROLES
    (settings,) = (line for line in README.splitlines() if line.startswith("- **Settings**"))
    assert tuple(spans(settings))[: len(SETTINGS)] == SETTINGS
    (numbers,) = (line for line in README.splitlines() if line.startswith("- **A number may be an expression**"))
    known = {*expressions.VARIABLES, *expressions.FUNCTIONS, *expressions.CONSTANTS}
    assert set(spans(numbers)[:-1]) == known


def test_examples_in_yaml_are_of_the_form_that_is_asked_for() -> None:
    examples = [block for block in BLOCKS if block.language == "yaml" and block.file is None]
    assert examples
    for block in examples:
        said = yaml.safe_load(block.text)
        whole = {"layouts", "targets"} & set(said)  # else the rules alone
        initconf.load({"defaults": ["he"], **(said if whole else {"rules": said})})


def test_make_targets_extras_and_files_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = [command.split()[1] for script in SCRIPTS for command in commands(script) if command.startswith("make ")]
    assert {"demo", "test"} <= set(named) <= set(targets)
    extras = metadata("initconf").get_all("Provides-Extra") or []
    assert {"lab"} <= set(re.findall(r"\[(\w+)\]'", README)) <= set(extras)
    for file in spans(README.split("## Further")[1]):
        assert (ROOT / file).is_file(), file

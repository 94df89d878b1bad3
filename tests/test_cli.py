"""The command line: what is typed, what is printed where, and with which exit code it ends."""

import importlib
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import initconf
from initconf.cli import COMMANDS, catalogue, main
from initconf.lab import results
from initconf.spec import ROLES
from initconf.survey import survey

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8, tie=False):
        super().__init__()
        self.emb = nn.Embedding(5, width, padding_idx=0)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 5, bias=False)
        if tie:
            self.head.weight = self.emb.weight

def build(width=8, tie=False):
    print("building a net")
    return Net(width, tie)

def parts():
    net = nn.Module()
    net.conv = nn.Conv2d(8, 12, 3, stride=2, groups=2)
    net.up = nn.ConvTranspose2d(8, 12, 3, stride=2, groups=2)
    net.attn = nn.MultiheadAttention(4, 2)
    net.two = nn.Bilinear(3, 4, 5)
    net.table = nn.Embedding(7, 4)
    net.gru = nn.GRU(3, 4)
    return net

def wide():
    net = nn.Module()
    net.a_module_with_a_rather_long_name = nn.Module()
    net.a_module_with_a_rather_long_name.another_module_with_a_long_name = nn.Linear(1000, 100_000, device="meta")
    return net

ready = Net()
number = 3

def fails(): raise ValueError("no data\\nand a second line")
def stops(): raise SystemExit("usage: train.py")
def seven(): return 7
def reseeded():
    torch.manual_seed(3)
    return nn.Linear(4, 4)
"""
REGISTERS = """
import initconf

@initconf.register
def tiny(site, size: float = 1e-3):
    \"\"\"Every element is tiny. Or so.\"\"\"
    return initconf.laws.Constant(size)
"""
MINE = """# yaml-language-server: $schema=schema.json
# My own scheme, which
# takes two lines to say. And more.
defaults:
  - optional schema@_here_: base
  - rules: [mine]
  - _self_
initializer: variance_scaling
mode: fan_in
distribution: uniform
nonlinearity: linear
gain: sqrt(n_layers)
"""
RULES = """norm: {role: [norm_scale, norm_shift], initializer: module_default, optional: true}
bias: {role: bias, initializer: zeros, optional: true}
emb: {role: embedding, initializer: {name: normal, std: 0.02}, optional: true}
"""
CONFIG = """
defaults: [{init: mine}, _self_]
init: {seed: "${seed}"}
seed: 7
generator: {init: {initializer: lecun_normal, unmatched: keep}}
nothing: 3
"""
PLAN = ["plan", "--model", "cli_nets:build", "init=he"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the user stands: models, a module that registers an initializer, and the configuration of an application."""
    folder = tmp_path_factory.mktemp("user")
    files = {
        "cli_nets.py": NETS,
        "cli_own.py": REGISTERS,
        "cli_broken.py": "import cli_nothing_such\n",
        "cli_exits.py": "raise SystemExit(3)\n",
        "conf/init/mine.yaml": MINE,
        "conf/init/rules/mine.yaml": RULES,
        "conf/config.yaml": CONFIG,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    sys.path.insert(0, str(folder))
    importlib.import_module("cli_nets")  # so that every test has it, whatever ran before
    sys.path.remove(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("cli_")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


class Run:
    """What one call of `main` did."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str):
        self.code = main(words)
        self.out, self.err = capsys.readouterr()
        self.lines = self.out.splitlines()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *words: Run(capsys, *words)


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line in bash, with this environment's `initconf` first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    bare = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env=bare | environment | {"PATH": path},
    )


def net(**arguments: Any) -> nn.Module:
    import cli_nets

    return cli_nets.Net(**arguments)


def planned(*overrides: str, scheme: str = "he", **arguments: Any) -> initconf.Plan:
    return initconf.compile(net(**arguments), initconf.load(scheme, overrides))


# --- plan ------------------------------------------------------------------------------------------------------------------


def test_plan_in_a_pipe_is_the_plan_as_text(run: Any) -> None:
    done = run(*PLAN)
    assert (done.code, done.out, done.err) == (0, f"{planned()}\n", "building a net\n")


@pytest.mark.parametrize(
    "words",
    [
        "--model cli_nets:build init=he init.gain=0.5 --model-arg width=4 rules.head.gain=2",
        "init=he --model cli_nets:build init.gain=0.5 rules.head.gain=2 --model-arg=width=4",
        "gain=0.5 --model-arg width=4 init=glorot --model cli_nets:build init.rules.head.gain=2 init=he",
        "+init=he gain=0.5 rules.head.gain=2 --model-arg width=16 --model-arg width=4 --model cli_nets:build",
    ],
)
def test_flags_and_overrides_in_any_order(words: str, run: Any) -> None:
    done = run("plan", *words.split())
    assert done.out == f"{planned('gain=0.5', 'rules.head.gain=2', width=4)}\n"


def test_plan_as_json(run: Any) -> None:
    done = run(*PLAN, "--json")
    assert done.code == 0
    assert json.loads(done.out) == planned().to_dict()
    assert done.err == "building a net\n"  # what the model prints is not the answer


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("cli_nets:Net", []),
        ("cli_nets:ready", []),
        ("cli_nets:build", ["--model-arg", "tie=false"]),
        ("cli_nets:build", ["--model-arg", "width=8"]),
        ("cli_nets:torch.nn.Identity", ["--model-arg", "x=1e-3"]),
    ],
)
def test_models(model: str, arguments: list[str], run: Any) -> None:
    expected = "0 parameters, 0 values" if "Identity" in model else str(planned()).splitlines()[-1]
    done = run("plan", "--model", model, "init=he", "init.rules.head=null", *arguments)
    assert done.code == 0, done.err
    assert done.lines[-1].startswith(expected.partition(", seed")[0])


def test_model_arguments_are_yaml(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    import cli_nets

    monkeypatch.setattr(cli_nets, "echo", lambda **words: seen.update(words) or nn.Linear(1, 1), raising=False)
    words = ["a=1e-3", "b=[1,2]", "c=true", "d=x", "e={f: null}", "g=${oc.env:HOME}", "h=", "i=a=b"]
    done = run("plan", "--model", "cli_nets:echo", "init=lecun", "init/rules=[roles]", *(f"--model-arg={w}" for w in words))
    assert done.code == 0, done.err
    assert seen.pop("h") in ("", None)
    assert seen == {"a": 1e-3, "b": [1, 2], "c": True, "d": "x", "e": {"f": None}, "g": "${oc.env:HOME}", "i": "a=b"}


def test_the_search_path_is_put_back(run: Any) -> None:
    before = list(sys.path)
    run(*PLAN)
    run("plan", "--model", "cli_nets:fails", "init=he")
    assert sys.path == before


WRONG_MODELS = {
    "cli_none:build": "--model = 'cli_none:build': there is no module 'cli_none'\n"
    "  -> modules are looked for in the current directory and among what is installed\n",
    "cli_nets.inner:build": "--model = 'cli_nets.inner:build': there is no module 'cli_nets.inner'\n"
    "  -> modules are looked for in the current directory and among what is installed\n",
    "cli_broken:build": "--model = 'cli_broken:build'  (cli_broken.py:1): importing cli_broken failed: ModuleNotFoundError: "
    "No module named 'cli_nothing_such'\n",
    "cli_exits:build": "--model = 'cli_exits:build'  (cli_exits.py:1): importing cli_exits failed: SystemExit: 3\n",
    "cli_nets:biuld": "--model = 'cli_nets:biuld': cli_nets has no 'biuld'\n  -> did you mean 'build'?\n",
    "cli_nets:Net.xyz": "--model = 'cli_nets:Net.xyz': Net has no 'xyz'\n",
    "cli_nets:number": "--model = 'cli_nets:number': number is neither a module nor what makes one: its type is int\n",
    "cli_nets:seven": "--model = 'cli_nets:seven': seven(...) gave no torch.nn.Module: its type is int\n"
    "  -> name a class or a function that gives the module alone\n",
    "cli_nets:fails": "--model = 'cli_nets:fails'  (cli_nets.py:38): building it failed: ValueError: no data\n",
    "cli_nets:stops": "--model = 'cli_nets:stops'  (cli_nets.py:39): building it failed: SystemExit: usage: train.py\n",
}


@pytest.mark.parametrize("model", WRONG_MODELS)
def test_wrong_models(model: str, run: Any) -> None:
    done = run("plan", "--model", model, "init=he", "--json")
    assert (done.code, done.out, done.err) == (1, "", WRONG_MODELS[model])


def test_a_model_that_does_not_take_the_argument(run: Any) -> None:
    done = run("plan", "--model", "cli_nets:Net", "--model-arg", "depth=2", "init=he")
    assert done.code == 1
    assert done.err.startswith("--model = 'cli_nets:Net': building it failed: TypeError: ")
    assert "'depth'" in done.err


def test_errors_of_spec_and_plan(run: Any) -> None:
    done = run("plan", "--model", "cli_nets:build", "init=hee", "--json")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("init = 'hee': no scheme has this name\n  -> did you mean 'he'? there are: ")
    done = run(*PLAN, "init.rules.lora.search=lora", "init.rules.lora.gain=0")
    assert done.code == 1
    assert done.err == (
        "building a net\n"
        "init.rules.lora  (override 'init.rules.lora.gain=0'): it matches nothing: no parameter's name fits search 'lora'\n"
        "  -> names are such as emb.weight, blocks.0.weight\n"
    )


def test_warnings_go_to_stderr(run: Any) -> None:
    state = torch.get_rng_state()
    try:
        done = run("plan", "--model", "cli_nets:reseeded", "init=lecun", "init/rules=[roles]", "--json")
    finally:
        torch.set_rng_state(state)
    assert done.code == 0
    assert json.loads(done.out)["seed"] == 0
    assert done.err.startswith("warning: init.seed was left out and is 0, while torch.manual_seed(3) was called")


def test_own_initializers(run: Any) -> None:
    words = ["--model", "cli_nets:ready", "--import", "cli_own", "init=he", "init.rules.head.initializer=tiny"]
    done = run("plan", *words, "--json")
    assert done.code == 0, done.err
    law = {e["name"]: e["law"] for e in json.loads(done.out)["parameters"]}["head.weight"]
    assert law == {"law": "Constant", "value": 1e-3}
    listed = json.loads(run("list", "initializers", "--import", "cli_own", "--json").out)["initializers"]
    assert listed["tiny"] == {"doc": "Every element is tiny.", "arguments": {"size": 1e-3}, "aliases": []}
    done = run("list", "--import", "cli_none")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("--import = 'cli_none': there is no module 'cli_none'\n")


# --- the application's own configuration -----------------------------------------------------------------------------------


def test_own_schemes_are_found_first(run: Any) -> None:
    done = run("plan", "--model", "cli_nets:ready", "--config-dir", "conf", "init=mine", "gain=2")
    assert done.out == f"{initconf.compile(net(), initconf.load('mine', ['gain=2'], config_dir='conf'))}\n"
    by_path = run("plan", "--model", "cli_nets:ready", "init=conf/init/mine.yaml", "gain=2")
    assert by_path.out == done.out


def test_a_whole_application(run: Any) -> None:
    words = ["--config-dir", "conf", "--config-name", "config"]
    shown = json.loads(run("show", *words, "--json").out)
    assert (shown["mode"], shown["seed"]) == ("fan_in", 7)
    done = run("show", *words, "seed=8", "init=glorot", "init.gain=0.5")
    lines = [re.sub(r" +#", "  #", line) for line in done.lines]
    assert "gain: 0.5  # override 'init.gain=0.5'" in lines
    assert "seed: 8  # conf/config.yaml:3" in lines
    assert any(line.startswith("mode: fan_avg  # initconf/conf/init/glorot.yaml:") for line in lines)
    other = run("show", *words, "--node", "generator.init")
    assert [line.split()[:2] for line in other.lines] == [["initializer:", "lecun_normal"], ["unmatched:", "keep"]]
    done = run("plan", "--model", "cli_nets:ready", *words, "--json")
    assert json.loads(done.out)["seed"] == 7


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--config-dir confg --config-name config", "--config-dir = 'confg': there is no such directory\n"),
        (
            "--config-dir conf --config-name confg",
            "--config-name = 'confg': there is no such configuration\n  -> did you mean 'config'?\n",
        ),
        (
            "--config-dir conf --config-name config --node generator.inti",
            "generator.inti: the configuration 'config' has no such node\n  -> did you mean 'generator'?\n",
        ),
        (
            "--config-dir conf --config-name config --node nothing",
            "nothing: the configuration 'config' has no such node\n  -> did you mean 'nothing'?\n",
        ),
    ],
)
def test_wrong_applications(words: str, text: str, run: Any) -> None:
    done = run("show", *words.split())
    assert (done.code, done.out, done.err) == (1, "", text)


@pytest.mark.parametrize(
    ("override", "texts"),
    [
        ("init=hee", ["'init=hee'", "glorot, ", " he, "]),
        ("init.gain=[", ["'init.gain=['", "does not parse"]),
        ("init.gian=2", ["init.gian", "'init.gian=2'", "did you mean 'gain'?"]),
    ],
)
def test_wrong_overrides_of_an_application(override: str, texts: list[str], run: Any) -> None:
    done = run("show", "--config-dir", "conf", "--config-name", "config", override)
    assert (done.code, done.out) == (1, "")
    assert [text for text in texts if text not in done.err] == []
    assert "Traceback" not in done.err


# --- files -----------------------------------------------------------------------------------------------------------------


def test_save_and_check(run: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "plan.json")
    done = run(*PLAN, "--save", file)
    assert (done.code, done.err) == (0, f"building a net\nthe plan is in {file}\n")
    assert initconf.Plan.load(file) == planned()
    done = run(*PLAN, "--check", file)
    assert (done.code, done.out) == (0, f"no difference: {planned().summary()}\n")
    done = run(*PLAN, "--check", file, "rules.head.gain=0.1", "seed=2", "--model-arg", "width=8")
    assert done.code == 1
    short = re.sub(r"  +", "  ", done.out.replace(file, "FILE")).splitlines()
    assert short[0] == "parameter  what  FILE  now"
    assert short[1:3] == ["seed  seed  0  2", "head.weight  settings.gain  -  0.1"]
    assert short[3].startswith("head.weight  law  Normal(mean=0, std=0.5)  Normal(mean=0, std=0.05)")
    assert short[4:] == ["1 of 8 parameters differ", "to accept it: initconf plan ... --save FILE"]


def test_check_as_json(run: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "plan.json")
    planned().save(file)
    done = run(*PLAN, "--check", file, "--json")
    assert (done.code, json.loads(done.out)) == (0, {"equal": True, "sides": [file, "now"], "differences": []})
    done = run(
        "plan", "--model", "cli_nets:build", "--model-arg", "tie=true", "init=he", "rules.head=null", "--check", file, "--json"
    )
    assert done.code == 1
    found = {(d["name"], d["what"]): (d["first"], d["second"]) for d in json.loads(done.out)["differences"]}
    assert found["head.weight", "parameter"] == (True, False) or found["emb.weight", "aliases"] == ([], ["head.weight"])


def test_differences_that_look_alike_are_told_apart(run: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "plan.json")
    planned("rules.head.gain=0.1").save(file)
    done = run(*PLAN, "--check", file, "rules.head.gain=0.1000000001")
    assert re.search(r"settings\.gain +0\.1 +0\.1000000001\n", done.out)


@pytest.mark.parametrize(
    ("option", "name", "content", "text"),
    [
        ("--check", "none.json", None, "there is no such file (initconf plan ... --save FILE writes one)"),
        ("--check", "other.json", "{}", "not a plan of initconf"),
        ("--check", "torn.json", '{"format": ', "Expecting value: line 1 column 12 (char 11)"),
        ("--save", "none/plan.json", None, "cannot be written: No such file or directory"),
    ],
)
def test_wrong_files(option: str, name: str, content: str | None, text: str, run: Any, tmp_path: Path) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    done = run("plan", "--model", "cli_nets:ready", "init=he", option, str(file))
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith(f": {text}\n")
    assert str(file) in done.err


def test_infinity_is_said_as_the_plan_says_it(run: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "plan.json")
    planned().save(file)
    bent = "init.rules.head.initializer={name: truncated_normal, low: -inf}"
    done = run(*PLAN, bent, "--check", file, "--json")
    rows = {row["what"]: row for row in json.loads(done.out, parse_constant=pytest.fail)["differences"]}
    assert rows["settings.low"]["second"] == {"float": "-inf"}
    assert re.search(r"settings\.low +- +-inf\n", run(*PLAN, bent, "--check", file).out)
    explained = run("explain", "head.weight", *PLAN[1:], bent, "--json")
    assert json.loads(explained.out, parse_constant=pytest.fail)["settings"]["low"]["value"] == {"float": "-inf"}


# --- diff ------------------------------------------------------------------------------------------------------------------


def test_diff(run: Any) -> None:
    done = run("diff", "he", "--model", "cli_nets:ready", "conf/init/mine.yaml")
    assert done.code == 1
    assert done.lines[0].split() == ["parameter", "what", "he", "conf/init/mine.yaml"]
    assert re.search(r"^head\.weight +settings\.distribution +untruncated_normal +uniform$", done.out, re.MULTILINE)
    assert done.lines[-1] == "6 of 8 parameters differ"
    done = run("diff", "he", "he", "--model", "cli_nets:ready")
    assert (done.code, done.out) == (0, f"no difference: {planned().summary()}\n")


def test_overrides_hold_for_both_sides(run: Any) -> None:
    done = run("diff", "he", "glorot", "--model", "cli_nets:ready", "initializer=zeros", "--json")
    assert done.code == 0
    assert json.loads(done.out) == {"equal": True, "sides": ["he", "glorot"], "differences": []}
    assert {line.partition(": ")[2].partition(":")[0] for line in done.err.splitlines()} == {"he", "glorot"}  # warnings


def test_diff_of_saved_plans_needs_no_model(run: Any, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    planned().save(files[0])
    planned(width=4).save(files[1])
    done = run("diff", *files)
    assert done.code == 1
    assert re.search(r"^head\.weight +shape +5x8 +5x4$", done.out, re.MULTILINE)
    done = run("diff", files[0], "he", "--model", "cli_nets:ready")
    assert done.code == 0
    done = run("diff", files[0], "c.json")
    assert (done.code, done.err) == (1, "diff = 'c.json': there is no such file\n")


# --- explain ---------------------------------------------------------------------------------------------------------------

EXPLAINED = """\
blocks.1.weight
  module   torch.nn.modules.linear.Linear
  role     weight
  shape    8x8 float32
  axes     out 0, in 1
  fan_in   in = 8
  fan_out  out = 8
  layer    1 of 2

rules, the strongest first
  last  wins                      override 'init.rules.last.glob=*.1.weight'
  emb   does not match: role      conf/init/rules/mine.yaml:3
  norm  does not match: role      conf/init/rules/mine.yaml:1
  bias  switched off              override 'init.rules.bias=null'

settings (rule last)
  initializer   lecun_uniform    init.rules.last.initializer  override 'init.rules.last.initializer=lecun_uniform'
  gain          1.5 = 3/n_layers  init.gain                   conf/init/mine.yaml:12, then override 'init.gain=3/n_layers'
  gain_method   second_moment    default

law
  Uniform(low=-0.918559, high=0.918559): mean 0, std 0.530330086
"""


def test_explain(run: Any) -> None:
    bent = ["rules.bias=null", "unmatched=keep", "rules.last.glob=*.1.weight", "rules.last.initializer=lecun_uniform"]
    words = ["--config-dir", "conf", "init=mine", "gain=3/n_layers", *bent]
    done = run("explain", "blocks.1.weight", "--model", "cli_nets:ready", *words)
    assert (done.code, done.err) == (0, "")
    squeeze = re.compile(r"(?<=\S) +")
    assert squeeze.sub(" ", done.out) == squeeze.sub(" ", EXPLAINED)
    data = json.loads(run("explain", *words, "--json", "blocks.1.weight", "--model", "cli_nets:ready").out)
    assert data["settings"]["gain"] == {
        "value": 1.5,
        "expression": "3/n_layers",
        "path": "init.gain",
        "sources": ["conf/init/mine.yaml:12", "override 'init.gain=3/n_layers'"],
    }
    assert (data["fan_in"], data["layer"], data["n_layers"], data["rule"]) == (8, 1, 2, "last")
    assert data["std"] == pytest.approx(1.5 / 8**0.5)


def test_explain_what_nothing_claims(run: Any) -> None:
    words = ["--model", "cli_nets:ready", "init=he", "init.rules.bias=null", "init.unmatched=keep"]
    done = run("explain", "blocks.0.bias", *words)
    assert "settings (no rule claims it)" in done.lines
    assert "  initializer  keep  init.unmatched  override 'init.unmatched=keep'" in done.lines
    assert done.lines[-1] == "  Keep(): mean and std are not known beforehand"
    done = run("explain", "blocks.0.weight", *words)
    assert "settings (no rule claims it)" in done.lines
    assert "  initializer   variance_scaling" in done.out


def test_explain_blocks(run: Any) -> None:
    words = ["--model", "cli_nets:parts", "init=he", "init/rules=[roles]"]
    done = run("explain", "attn.in_proj_weight", *words)
    assert "  blocks  q 4x4, k 4x4, v 4x4" in done.lines
    assert [line for line in done.lines if "[" in line and line[0] != " "] == [
        f"attn.in_proj_weight[{block}]" for block in "qkv"
    ]
    done = run("explain", "attn.in_proj_bias[k]", *words)  # as `plan` prints it
    assert "attn.in_proj_bias[k]" in done.lines
    assert "attn.in_proj_bias[q]" not in done.lines
    assert "  fan_in   in = 4, of attn.in_proj_weight[k]" in done.lines
    data = json.loads(run("explain", "gru.weight_hh_l0", *words, "--json").out)
    assert [(part["block"], part["shape"], part["initializer"]) for part in data["blocks"]] == [
        (block, [4, 4], "orthogonal") for block in "rzn"
    ]
    assert "law" not in data


def test_explain_ties_and_padding(run: Any) -> None:
    words = ["--model", "cli_nets:Net", "--model-arg", "tie=true", "init=he", "init.rules.head=null"]
    done = run("explain", "head.weight", *words)
    assert done.code == 0, done.err
    assert done.lines[0] == "emb.weight"
    assert "  also     head.weight (torch.nn.modules.linear.Linear)" in done.lines
    assert "  padding  row 0 stays zero, whatever the law" in done.lines
    assert "  axes     out 1, batch 0" in done.lines


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("blocks.0.wieght", "the model has no parameter 'blocks.0.wieght'; near names: blocks.0.weight, blocks.1.weight, "),
        ("emb", "the model has no parameter 'emb'; near names: emb.weight\n"),
        ("zzz", "the model has no parameter 'zzz'; names are such as emb.weight, blocks.0.weight, blocks.0.bias\n"),
        ("emb.weight[q]", "emb.weight has no block 'q'; it has none\n"),
    ],
)
def test_explain_an_unknown_name(name: str, text: str, run: Any) -> None:
    done = run("explain", name, "--model", "cli_nets:ready", "init=he", "--json")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(text)


def test_explain_an_unknown_block(run: Any) -> None:
    done = run("explain", "attn.in_proj_weight[w]", "--model", "cli_nets:parts", "init=he", "init/rules=[roles]")
    assert (done.code, done.err) == (1, "attn.in_proj_weight has no block 'w'; it has q, k, v\n")


def test_formulas_are_those_of_the_fans(run: Any) -> None:
    import cli_nets

    words = ["--model", "cli_nets:parts", "init=lecun", "init/rules=[roles]", "--json"]
    data = json.loads(run("explain", "conv.weight", *words).out)
    assert data["fan_in_formula"] == "in * k = 4 * 9 = 36"
    assert data["fan_out_formula"] == "out / g * k / s = 12 / 2 * 9 / 4 = 13.5"
    data = json.loads(run("explain", "up.bias", *words).out)
    assert data["fan_in_formula"] == "in / g * k / s = 8 / 2 * 9 / 4 = 9, of up.weight"
    assert data["fan_out_formula"] == "out * k = 6 * 9 = 54, of up.weight"
    for site in survey(cli_nets.parts()):
        data = json.loads(run("explain", site.name, *words).out)
        for part in data["blocks"] or [data]:
            for fan in ("fan_in", "fan_out"):
                if part[fan] is not None:
                    _, numbers, *_ = part[f"{fan}_formula"].partition(",")[0].split(" = ")
                    assert eval(numbers) == pytest.approx(part[fan]), site.name


# --- list and show ---------------------------------------------------------------------------------------------------------


def test_list_names_everything(run: Any) -> None:
    listed = json.loads(run("list", "--json").out)
    assert list(listed) == ["initializers", "schemes", "rules", "activations", "roles", "layouts"]
    assert listed["initializers"]["he_normal"]["aliases"] == ["kaiming_normal"]
    assert listed["initializers"]["uniform"]["arguments"] == {"low": "required", "high": "required", "gain": 1.0}
    assert all(row["doc"].endswith(".") for row in listed["initializers"].values())
    assert listed["schemes"]["he"]["file"] == "initconf/conf/init/he.yaml"
    assert listed["schemes"]["he"]["doc"].startswith("He et al., 2015 (arXiv:1502.01852): every layer keeps")
    assert listed["rules"]["head"]["rules"] == ["head"]
    assert listed["activations"]["silu"]["aliases"] == ["swish"]
    assert listed["activations"]["leaky_relu"]["arguments"] == {"negative_slope": 0.01}
    assert tuple(listed["roles"]) == ROLES
    assert "torch.nn.modules.linear.Linear" in listed["layouts"]
    whole = run("list")
    for kind, rows in listed.items():
        assert any(line.split()[:1] == [kind] for line in whole.lines)
        assert all(any(line.split()[:1] == [name] for line in whole.lines) for name in rows)


def test_list_of_own_schemes(run: Any) -> None:
    done = run("list", "schemes", "rules", "--config-dir", "conf", "--json")
    listed = json.loads(done.out)
    assert listed["schemes"]["mine"] == {
        "doc": "My own scheme, which takes two lines to say.",
        "file": "conf/init/mine.yaml",
    }
    assert listed["rules"]["mine"] == {"doc": "", "rules": ["norm", "bias", "emb"], "file": "conf/init/rules/mine.yaml"}
    assert {"he", "glorot"} < set(listed["schemes"])


def test_every_role_is_told() -> None:
    assert tuple(catalogue._ROLES) == ROLES


@pytest.mark.parametrize("scheme", ["he", "glorot", "lecun", "orthogonal", "gpt2", "torch"])
def test_what_show_prints_can_be_loaded(scheme: str, run: Any, tmp_path: Path) -> None:
    words = [f"init={scheme}", "gain=0.5", "rules.head.expect=1", "rules.bias=null", 'layers="(\\d+)"']
    done = run("show", *words)
    assert done.code == 0, done.err
    (tmp_path / "shown.yaml").write_text(done.out)
    spec = initconf.load(scheme, words[1:])
    again = initconf.load(tmp_path / "shown.yaml")
    assert again.model_dump() == spec.model_dump()
    assert list(again.rules) == list(spec.rules)
    assert initconf.load(json.loads(run("show", *words, "--json").out)).model_dump() == spec.model_dump()


def test_show_says_where_each_line_comes_from(run: Any) -> None:
    done = run("show", "--config-dir", "conf", "init=mine", "init.rules.emb.initializer.std=1e-3", "init.rules.x.match=a")
    lines = [re.sub(r" +#", "  #", line) for line in done.lines]
    assert lines == [
        "initializer: variance_scaling  # conf/init/mine.yaml:8",
        "mode: fan_in  # conf/init/mine.yaml:9",
        "distribution: uniform  # conf/init/mine.yaml:10",
        "gain: 'sqrt(n_layers)'  # conf/init/mine.yaml:12",
        "nonlinearity: linear  # conf/init/mine.yaml:11",
        "rules:",
        "  norm:  # conf/init/rules/mine.yaml:1",
        "    role: [norm_scale, norm_shift]  # conf/init/rules/mine.yaml:1",
        "    initializer: module_default  # conf/init/rules/mine.yaml:1",
        "    optional: true  # conf/init/rules/mine.yaml:1",
        "  bias:  # conf/init/rules/mine.yaml:2",
        "    role: bias  # conf/init/rules/mine.yaml:2",
        "    initializer: zeros  # conf/init/rules/mine.yaml:2",
        "    optional: true  # conf/init/rules/mine.yaml:2",
        "  emb:  # conf/init/rules/mine.yaml:3",
        "    role: embedding  # conf/init/rules/mine.yaml:3",
        "    initializer:  # conf/init/rules/mine.yaml:3",
        "      name: normal  # conf/init/rules/mine.yaml:3",
        "      std: 0.001  # override 'init.rules.emb.initializer.std=1e-3'",
        "    optional: true  # conf/init/rules/mine.yaml:3",
        "  x:  # override 'init.rules.x.match=a'",
        "    match: a  # override 'init.rules.x.match=a'",
    ]


@pytest.mark.parametrize(
    "value",
    ["a", "on", "No", "null", "1e-3", "1", "", " a ", "a: b", "a #b", "'", '"', "*.bias", "[q]", "{q,k}", "${x}", "é", "a\nb",
     "a\tb", "\\d+", "~", "-", "=", "0x1f", "12:30", 1, 1.5, 1e-7, float("inf"), -float("inf"), True, None, [1, "a"],
     {"a": ["on"]}, [[300, 784], []], {}],
)  # fmt: skip
def test_values_as_yaml(value: Any) -> None:
    from omegaconf import OmegaConf

    node = OmegaConf.create(f"key: {catalogue._yaml(value)}")
    assert OmegaConf.to_container(node, resolve=True) == {"key": value}


# --- gains and results -----------------------------------------------------------------------------------------------------


def test_gains(run: Any) -> None:
    done = run("gains", "relu", "swish")
    assert done.code == 0
    assert [line.split()[:2] for line in done.lines[:3]] == [
        ["name", "second_moment"],
        ["relu", "1.414214"],
        ["silu", "1.676532"],
    ]
    rows = json.loads(run("gains", "--json", "leaky_relu").out)
    assert [row["name"] for row in rows] == ["leaky_relu(negative_slope=0.01)", "leaky_relu(negative_slope=0.2)"]
    assert len(json.loads(run("gains", "--json").out)) > 20
    done = run("gains", "rellu")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("no activation is named 'rellu'\n  -> did you mean 'relu'?")


def test_gains_drawn(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "gains.svg"
    done = run("gains", "relu", "tanh", "--plot", str(file))
    assert (done.code, done.err) == (0, f"the drawing is in {file}\n")
    assert file.read_text().startswith("<?xml")
    done = run("gains", "relu", "--plot", str(tmp_path / "gains.xyz"))
    assert (done.code, done.out) == (1, "")
    assert "gains.xyz': cannot be drawn: Format 'xyz' is not supported" in done.err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run("gains", "relu", "--plot", str(file))
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "--plot: drawing needs matplotlib, which is not installed\n"
        "  -> pip install 'initconf[lab]', or pip install matplotlib\n"
    )


def test_results(run: Any, tmp_path: Path) -> None:
    common = {"model": "mlp", "data": "digits", "objective": "accuracy", "seconds": 1.0}
    for num, (init, accuracy) in enumerate([("he", 0.8), ("glorot", 0.9), ("zeros", None)]):
        metrics = None if accuracy is None else {"test_accuracy": accuracy, "test_loss": 1.0}
        state = {"status": "completed" if metrics else "failed", "error": None if metrics else "no way"}
        results.append(tmp_path, {"num": num, "overrides": [], "init": init, "metrics": metrics, **state, **common})
    done = run("results", str(tmp_path))
    assert done.code == 0
    order = [done.out.index(text) for text in ("glorot", "zeros", "no way")]
    assert order == sorted(order)
    ranked = json.loads(run("results", "--json", str(tmp_path)).out)
    assert [row["init"] for row in ranked] == ["glorot", "he", "zeros"]
    (tmp_path / "empty").mkdir()
    for name, text in (("none", "there is no such directory"), ("empty", "no run left results here")):
        done = run("results", str(tmp_path / name))
        assert (done.code, done.out) == (1, "")
        assert f"{name}': {text}\n" in done.err


# --- usage -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", "initconf: error: the following arguments are required: COMMAND"),
        ("plna", "initconf: error: argument COMMAND: invalid choice: 'plna'"),
        ("plan init=he", "initconf plan: error: the following arguments are required: --model"),
        ("explain emb.weight init=he", "initconf explain: error: the following arguments are required: --model"),
        ("diff he glorot", "initconf diff: error: the following arguments are required: --model"),
        (
            "plan --model cli_nets:build",
            "initconf plan: error: no scheme is chosen: add init=NAME; there are: ",
        ),
        ("show", "initconf show: error: no scheme is chosen: add init=NAME; there are: "),
        ("show --config-dir conf", "initconf show: error: no scheme is chosen: add init=NAME; there are: "),
        ("show he", "initconf show: error: 'he' is no override: write key=value, such as init=he or init.gain=0.5"),
        ("show init=he --node init", "initconf show: error: --node goes with --config-name"),
        (
            "show --config-name config",
            "initconf show: error: --config-name needs --config-dir DIR, the folder of your application's configuration",
        ),
        ("show init=he --jsn", "initconf show: error: unrecognized arguments: --jsn"),
        ("show init=he --config c", "initconf show: error: unrecognized arguments: --config"),
        ("explain init=he --model cli_nets:build", "initconf explain: error: explain takes the name of one parameter"),
        (
            "explain a b init=he --model cli_nets:build",
            "initconf explain: error: explain takes the name of one parameter, and there are 2",
        ),
        ("diff he --model cli_nets:build", "initconf diff: error: diff compares two sides, and there are 1; schemes: "),
        (
            "diff init=he glorot --model cli_nets:build",
            "initconf diff: error: init=he: name the sides without it: initconf diff he glorot",
        ),
        (
            "list rolls",
            "initconf list: error: nothing to list is called 'rolls'; there are: "
            "initializers, schemes, rules, activations, roles, layouts",
        ),
        ("results", "initconf results: error: the following arguments are required: DIR"),
        (
            "plan init=he --model cli_nets",
            "initconf plan: error: --model cli_nets: write package.module:name, the name of a class, a function or a module",
        ),
        ("plan init=he --model cli_nets:build --model-arg x", "initconf plan: error: --model-arg x: write name=value"),
        ("plan init=he --model cli_nets:build --model-arg x=[", "initconf plan: error: --model-arg x=[: the value is not YAML"),
        (
            "plan init=he --model cli_nets:ready --model-arg x=1",
            "initconf plan: error: --model-arg: ready is a module already and is not called",
        ),
    ],
)
def test_usage(words: str, text: str, run: Any) -> None:
    done = run(*words.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("usage: initconf")
    assert done.err.splitlines()[-1].startswith(text)


def test_help(run: Any) -> None:
    done = run("--help")
    assert (done.code, done.err) == (0, "")
    assert all(f"    {name} " in done.out for name in COMMANDS)
    for name, command in COMMANDS.items():
        done = run(name, "--help")
        assert done.code == 0
        assert done.out.endswith(f"example:\n  {command.example}\n")
        assert command.example.startswith(f"initconf {name} ")
    assert run("--version").out == f"initconf {initconf.__version__}\n"


# --- terminals -------------------------------------------------------------------------------------------------------------

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs commands on a terminal of a given width; gives what stands there."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def shown(width: int, *words: str) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        screen = Terminal()
        monkeypatch.setattr(sys, "stdout", screen)
        main(words)
        return screen.getvalue()

    return shown


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize(
    "words",
    [
        "plan --model cli_nets:ready init=he",
        "plan --model cli_nets:parts init=he init/rules=[roles]",
        "plan --model cli_nets:wide init=he init/rules=[roles]",
        "diff he glorot --model cli_nets:ready",
        "list initializers rules roles activations",
        "gains",
    ],
)
def test_tables_fit_the_terminal(words: str, width: int, terminal: Any) -> None:
    shown = terminal(width, *words.split())
    lines = [ESCAPE.sub("", line).rstrip() for line in shown.splitlines()]
    tables = [
        line for line in lines if not line.startswith(("(left out", "The gain", "std of", "normalisation drift", "a better"))
    ]
    assert len(lines) > 3
    assert "\x1b[1m" in shown
    # the summary of a plan, a fact of layouts and what was left out are sentences, which the terminal may break
    assert [line for line in tables if len(line) > width and " parameters, " not in line] == []


def test_what_a_narrow_terminal_keeps(terminal: Any) -> None:
    shown = ESCAPE.sub("", terminal(80, "plan", "--model", "cli_nets:parts", "init=he", "init/rules=[roles]"))
    lines = [line.rstrip() for line in shown.splitlines()]
    assert lines[0].split() == ["parameter", "shape", "rule", "initializer", "fan_in", "std"]
    assert "attn.in_proj_weight[q]  4x4" in shown  # a block in brackets is no markup
    assert lines[-1] == "(left out: law, fan_out, role; widen the terminal, or add | cat)"
    shown = ESCAPE.sub("", terminal(60, "plan", "--model", "cli_nets:wide", "init=he", "init/rules=[roles]"))
    assert shown.splitlines()[1].rstrip() == "a_module_with_…dule_with_a_long_name.weight  -     0.0447214"
    wide = terminal(200, "plan", "--model", "cli_nets:parts", "init=he", "init/rules=[roles]")
    assert "left out" not in wide
    assert "Normal(mean=0" in wide


def test_long_lists_are_stacked(terminal: Any) -> None:
    lines = ESCAPE.sub("", terminal(80, "list", "initializers")).splitlines()
    i = lines.index("he_normal")
    assert lines[0] == "INITIALIZERS"
    assert lines[i + 1].startswith("    Variance scaling with mode fan_in")
    assert "    aliases: kaiming_normal" in lines[i:]


def test_no_color(terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" in terminal(80, "gains", "relu")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in terminal(80, "gains", "relu")


def test_json_on_a_terminal_is_json(terminal: Any) -> None:
    assert json.loads(terminal(80, "gains", "relu", "--json"))[0]["name"] == "relu"


def test_a_real_terminal(folder: Path) -> None:
    import fcntl
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    bare = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
    command = [sys.executable, "-m", "initconf", "list", "roles"]
    subprocess.run(command, cwd=folder, stdin=theirs, stdout=theirs, check=True, timeout=120, env=bare | {"TERM": "xterm"})
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    lines = shown.decode().splitlines()
    assert "\x1b[1m" in shown.decode()
    assert len(lines) > len(ROLES)
    assert max(len(ESCAPE.sub("", line).rstrip()) for line in lines) <= 80


def _read(handle: int) -> bytes:
    try:
        return os.read(handle, 1 << 16)
    except OSError:  # Linux says so where others say end of file
        return b""


# --- as a process ----------------------------------------------------------------------------------------------------------


def test_a_regex_through_bash(folder: Path) -> None:
    """As the README prints it: single quotes for bash, double quotes for Hydra."""
    done = shell(
        r"""initconf plan --model cli_nets:build init=he --json \
            'init.rules.qkv.match="^blocks\.(\d+)\.(weight|bias)$"' init.rules.qkv.initializer=zeros | cat""",
        folder,
    )
    assert done.stderr.startswith("building a net\nwarning: init.rules.bias: ")  # every bias there is a qkv now
    rules = {entry["name"]: entry["rule"] for entry in json.loads(done.stdout)["parameters"]}
    assert [name for name, rule in rules.items() if rule == "qkv"] == [
        f"blocks.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")
    ]


def test_exit_codes_and_plain_pipes(folder: Path) -> None:
    codes = """
        initconf show init=he > /dev/null; echo $?
        initconf show init=hee 2> /dev/null; echo $?
        initconf show 2> /dev/null; echo $?
        initconf list roles | head -1; echo ${PIPESTATUS[0]}
        python -m initconf --version
    """
    done = shell(codes, folder, FORCE_COLOR="1")
    assert done.stdout == f"0\n1\n2\nroles       doc\n0\ninitconf {initconf.__version__}\n"
    assert done.stderr == ""


def test_a_reader_that_goes_away(folder: Path) -> None:
    done = shell("set -o pipefail; initconf list | true; echo $?", folder)
    assert (done.stdout, done.stderr) == ("0\n", "")


TORCH_FREE = [
    ["--help"],
    ["list"],
    ["show", "init=he", "init.gain=0.5"],
    ["show", "--config-dir", "conf", "--config-name", "config"],
    ["gains"],
    ["results", "."],
    ["plan", "init=he"],
    ["plan", "--model", "cli_nets:build", "init=hee"],
]


def torch_after(words: list[list[str]], folder: Path) -> str:
    code = f"import sys\nfrom initconf.cli import main\nfor words in {words!r}: main(words)\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_commands_without_a_model_load_no_torch(folder: Path) -> None:
    assert torch_after(TORCH_FREE, folder) == "False"


def test_the_torch_check_can_fail(folder: Path) -> None:
    assert torch_after([["plan", "--model", "cli_nets:ready", "init=he"]], folder) == "True"


def test_help_loads_next_to_nothing() -> None:
    code = "import sys\nfrom initconf.cli import main\nmain(['plan', '--help'])\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert loaded & {"torch", "numpy", "pydantic", "hydra", "omegaconf", "rich", "yaml"} == set()

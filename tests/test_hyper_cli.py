"""Hypernetworks at the command line: what they generate, measured plans, explanations and guesses."""

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import initconf
from tests.command_line import Run

NET = """
import torch
from torch import nn

class Hyper(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.PReLU())
        self.emb = nn.Embedding(3, 2)
        self.head = nn.Linear(2, 16)

    def forward(self, task):
        return self.head(self.emb(task))

def on_meta():
    with torch.device("meta"):
        return Hyper()

tasks = torch.arange(3)
def each(): return [(task,) for task in tasks]
wrong = [tasks, 3]
late = torch.tensor([7])
"""
SCHEME = """
initializer: variance_scaling
nonlinearity: relu
rules:
  bias: {role: bias, initializer: zeros}
  gate_scale: {role: gate_scale, initializer: zeros}
  embedding: {role: embedding, initializer: {name: normal, std: 1}}
  head: {match: 'head\\..*', initializer: hyperfan}
targets:
  main: {module: main}
"""
MEASURED = "init.rules.head.initializer={name: hyperfan, input_second_moment: measured}"
HYPER = ["--model", "hyper_nets:Hyper", "init=hyper.yaml"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    where = tmp_path_factory.mktemp("user")
    (where / "hyper_nets.py").write_text(NET)
    (where / "hyper.yaml").write_text(SCHEME)
    yield where
    sys.modules.pop("hyper_nets", None)


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(folder)
    return lambda *words: Run(capsys, *words)


def test_targets_are_shown_as_a_table_and_as_json(run: Any) -> None:
    done = run("targets", *HYPER, "init.targets.main.nonlinearity={name: leaky_relu, negative_slope: 0.2}")
    assert (done.code, done.err) == (0, "")
    assert done.lines == [
        "main:     kind    shape  layer  fan_in  fan_out  nonlinearity                    mean  var  assumed",
        "0.weight  weight  3x4    0           4        3  leaky_relu(negative_slope=0.2)     -    -  -",
        "0.bias    bias    3      0           4        3  leaky_relu(negative_slope=0.2)     -    -  -",
        "2.weight  scalar  1      -           -        -  -                                  -    -  mean",
        "3 targets, 16 values, 1 with something assumed",
    ]
    assert json.loads(run("targets", *HYPER, "--json").out)["main"][0] == {
        "name": "0.weight", "kind": "weight", "shape": [3, 4], "layer": "0", "fan_in": 4.0, "fan_out": 3.0,
        "nonlinearity": "relu", "mean": None, "var": None, "assumed": ["nonlinearity"],
    }  # fmt: skip


def test_a_spec_without_targets_has_none_to_show(run: Any) -> None:
    done = run("targets", *HYPER, "init.targets.main=null")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "init.targets: the spec has no targets\n"
        "  -> say what the hypernetwork generates: 'init.targets.main={module: main}', a list or shapes\n"
    )
    done = run("targets", *HYPER, "init.targets.main.module=mian")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "init.targets.main  (override 'init.targets.main.module=mian'): module: the model has no 'mian'\n"
        "  -> did you mean 'main'?\n"
    )


@pytest.mark.parametrize("model", ["Hyper", "on_meta"])
def test_a_plan_is_measured_over_conditions(model: str, run: Any) -> None:
    words = ("--model", f"hyper_nets:{model}", "init=hyper.yaml", MEASURED)
    plans = []
    for conditions in ("tasks", "each"):
        done = run("plan", *words, "--conditions", f"hyper_nets:{conditions}", "--json")
        assert done.code == 0
        plans.append(initconf.Plan.from_dict(json.loads(done.out)))
    import hyper_nets

    net = hyper_nets.Hyper()
    report = initconf.initialize(net, initconf.load("hyper.yaml", [MEASURED]), conditions=hyper_nets.tasks)
    assert report.plan == plans[0]
    moments = [plan["head.weight"].blocks[0].settings["input_second_moment"] for plan in plans]
    assert moments == pytest.approx([float(net.emb.weight.detach().square().mean())] * 2, rel=1e-6)


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        (
            None,
            f"init.rules.head.initializer.input_second_moment = 'measured'  (override {MEASURED!r}): the second moment is to "
            "be measured, and there are no conditions to measure it over\n  -> give conditions=, inputs that the model takes "
            "(on a command line --conditions PKG.MOD:NAME), or a number\n",
        ),
        (
            "hyper_nets:wrong",
            "--conditions = 'hyper_nets:wrong': wrong[1] is no input of a model: its type is int\n"
            "  -> give a tensor, a tuple of positional inputs, or a mapping of inputs by keyword\n",
        ),
        (
            "hyper_nets:late",
            "--conditions = 'hyper_nets:late': the model does not run on them: IndexError: index out of range in self\n"
            "  -> give inputs that it takes: a tensor, a tuple, a mapping of keywords, or a list of such\n",
        ),
    ],
    ids=["none", "type", "range"],
)
def test_conditions_that_are_none(conditions: str | None, said: str, run: Any) -> None:
    done = run("plan", *HYPER, MEASURED, *(["--conditions", conditions] if conditions else []))
    assert (done.code, done.out, done.err) == (1, "", said)


def test_conditions_for_nothing_are_a_warning(run: Any) -> None:
    done = run("plan", *HYPER, "--conditions", "hyper_nets:tasks")
    assert done.code == 0
    assert done.err.splitlines()[0] == (
        "warning: init.targets.main: the mean of 2.weight is assumed; a list of targets would say"
    )
    assert done.err.splitlines()[1] == (
        "warning: --conditions: no parameter asks for input_second_moment: measured, so that the model was not run on them"
    )


def test_a_block_of_rows_is_explained(run: Any) -> None:
    done = run("explain", "head.weight[0.bias]", *HYPER)
    assert done.code == 0
    assert done.lines[0] == "head.weight[0.bias]"
    assert "  block    0.bias 3x2, 12 to 14 along axis 0" in done.lines
    assert done.lines[-2:] == ["law", "  Uniform(low=-1.22474, high=1.22474): mean 0, std 0.707106781"]
    done = run("explain", "head.bias", *HYPER)
    assert "  blocks  0.weight 12, 0.bias 3, 2.weight 1" in done.lines
    done = run("explain", "head.weight[w]", *HYPER)
    assert (done.code, done.err) == (1, "head.weight has no block 'w'\n  -> its blocks are 0.weight, 0.bias, 2.weight\n")


@pytest.mark.parametrize("targets", [[], ["init.targets.main={module: null, shapes: [[3, 4], [4]]}"]], ids=["module", "shapes"])
def test_what_strict_refuses_can_be_declared_as_it_says(targets: list[str], run: Any) -> None:
    words = ["plan", *HYPER, *targets]
    before = initconf.Plan.from_dict(json.loads(run(*words, "--json").out))
    refused = run(*words, "--strict")
    assert refused.code == 1
    problems = [line for line in refused.err.splitlines() if "what was guessed is" in line]
    said = [line.split("what was guessed is ")[1].rpartition(" (in YAML")[0] for line in problems]
    done = run(*words, *shlex.split(" ".join(said)), "--strict", "--json")
    assert (done.code, done.err) == (0, "")
    after = initconf.Plan.from_dict(json.loads(done.out))
    assert [leaf.law for leaf in after.leaves()] == [leaf.law for leaf in before.leaves()]
    assert not any(leaf.assumed for leaf in after.leaves())

"""The command line: what is typed, what is printed where, and with which exit code it ends."""

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
from omegaconf import OmegaConf
from torch import nn

import initconf
from initconf.cli import COMMANDS, catalogue, main
from initconf.lab import results
from initconf.spec import ROLE_MEANINGS, ROLES
from tests.command_line import net, planned, shell

pytestmark = pytest.mark.usefixtures("here")


PLAN = ["plan", "--model", "cli_nets:build", "init=he"]


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
    done = run("plan", "--model", "cli_nets:Net", "--model-arg", "widht=2", "--model-arg", "colour=2", "init=he")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "2 problems:\n"
        "- --model-arg = widht=2: the model takes no 'widht'\n    -> did you mean 'width'?\n"
        "- --model-arg = colour=2: the model takes no 'colour'\n    -> known: tie, width\n"
    )
    done = run("plan", "--model", "cli_nets:picky", "--model-arg", "depth=2", "init=he")
    assert done.code == 1
    assert done.err.startswith("--model = 'cli_nets:picky'  (cli_nets.py:")
    assert "building it failed: TypeError: " in done.err


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
    assert short[4:] == ["1 of 8 parameters differ", "to accept it: the same command with --update"]


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


def test_check_and_update(run: Any, tmp_path: Path) -> None:
    """As snapshots elsewhere: the first update makes the file, and each shows what it changes."""
    file = str(tmp_path / "plan.json")
    updated = [*PLAN, "--check", file, "--update"]
    done = run(*updated)
    assert (done.code, done.out) == (0, f"{planned()}\n")
    assert done.err == f"building a net\nthe plan is in {file}\n"
    written = Path(file).stat().st_mtime_ns
    done = run(*updated)  # what is the same is not written again
    assert (done.code, done.err, Path(file).stat().st_mtime_ns) == (0, "building a net\n", written)
    done = run(*updated, "rules.head.gain=0.1")
    assert (done.code, done.err) == (0, f"building a net\nthe plan is in {file}\n")
    assert re.search(r"^head\.weight +settings\.gain +- +0\.1$", done.out, re.MULTILINE)
    assert done.lines[-1] == "1 of 8 parameters differ"
    assert initconf.Plan.load(file) == planned("rules.head.gain=0.1")
    assert run(*PLAN, "--check", file, "rules.head.gain=0.1").code == 0
    done = run("plan", "--model", "cli_nets:mixers", "init=he", "--check", file, "--update", "--strict")
    assert done.code == 1
    assert "the plan is not saved: it has guesses\n" in done.err
    assert initconf.Plan.load(file) == planned("rules.head.gain=0.1")
    Path(file).write_text("print('no plan')\n")  # another file, named by mistake
    done = run(*updated)
    assert (done.code, done.err) == (1, f"--check = {file!r}: not a plan of initconf: it is not JSON\n")
    assert Path(file).read_text() == "print('no plan')\n"


def test_differences_that_look_alike_are_told_apart(run: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "plan.json")
    planned("rules.head.gain=0.1").save(file)
    done = run(*PLAN, "--check", file, "rules.head.gain=0.1000000001")
    assert re.search(r"settings\.gain +0\.1 +0\.1000000001\n", done.out)


@pytest.mark.parametrize(
    ("option", "name", "content", "text"),
    [
        ("--check", "none.json", None, "there is no such file (--save FILE writes one, and so does --update here)"),
        ("--check", "other.json", "{}", "not a plan of initconf"),
        ("--check", "torn.json", '{"format": ', "not a plan of initconf: it is not JSON"),
        ("--check", "list.json", "[]", "not a plan of initconf"),
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


def test_saved_plans_are_not_bent(run: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "a.json")
    planned().save(file)
    done = run("diff", file, file, "gain=2")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == "initconf diff: error: 'gain=2': a plan that is saved is not bent"
    done = run("diff", file, "he", "--model", "cli_nets:ready", "rules.head.gain=2")
    assert (done.code, done.lines[-1]) == (1, "1 of 8 parameters differ")


# --- standard input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a text on standard input."""

    def fed(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return fed


SCHEME = "defaults: [he]\ngain: 2\n"


def test_a_scheme_on_standard_input(run: Any, feed: Any) -> None:
    feed(SCHEME)
    done = run("plan", "--model", "cli_nets:ready", "init=-", "rules.head.gain=3")
    assert done.out == f"{planned('gain=2', 'rules.head.gain=3')}\n"
    feed(SCHEME)
    assert re.match(r"initializer: variance_scaling +# initconf/conf/init/he\.yaml:7\n", run("show", "init=-").out)
    feed(SCHEME)
    assert "gain: 2  # <stdin>:2" in re.sub(" +#", "  #", run("show", "init=-").out)
    feed(SCHEME)
    done = run("explain", "head.weight", "--model", "cli_nets:ready", "init=-")
    assert re.search(r"^  gain +2 +init\.gain +<stdin>:2$", done.out, re.MULTILINE), done.out
    for text, said in (
        ("gian: 2", "init.gian = 2  (<stdin>:1): 'gian' is"),
        ("a: [", "<stdin>:1: not YAML: "),
        ("- a", "<stdin>: "),
    ):
        feed(text)
        done = run("show", "init=-")
        assert (done.code, done.out, done.err[: len(said)]) == (1, "", said)


def test_either_side_of_a_difference_on_standard_input(run: Any, feed: Any, tmp_path: Path) -> None:
    file = str(tmp_path / "plan.json")
    planned("gain=2").save(file)
    feed(SCHEME)
    done = run("diff", "-", file, "--model", "cli_nets:ready")
    assert (done.code, done.out) == (0, f"no difference: {planned('gain=2').summary()}\n")
    feed(Path(file).read_text())
    assert run("diff", file, "-").code == 0
    feed(Path(file).read_text())
    done = run("diff", "he", "-", "--model", "cli_nets:ready", "--json")
    assert (done.code, json.loads(done.out)["sides"]) == (1, ["he", "-"])
    feed(Path(file).read_text())
    assert run(*PLAN, "gain=2", "--check", "-").code == 0
    feed(Path(file).read_text())
    done = run(*PLAN, "--check", "-")
    assert (done.code, done.lines[-1]) == (1, "3 of 8 parameters differ")
    feed("{}")
    assert run(*PLAN, "--check", "-").err == "--check = '-': not a plan of initconf\n"
    feed(run("show", "init=he", "--json").out)  # a scheme as JSON is a scheme
    assert run("diff", "-", "he", "--model", "cli_nets:ready").code == 0


@pytest.mark.parametrize("words", ["diff - - --model cli_nets:ready", "plan --model cli_nets:ready init=- --check -"])
def test_standard_input_is_read_once(words: str, run: Any, feed: Any) -> None:
    feed(SCHEME)
    done = run(*words.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith(": error: -: standard input can be read once\n")


def test_a_model_built_on_meta_needs_no_memory(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import cli_nets

    def huge() -> nn.Module:
        return nn.Sequential(nn.Linear(1_000_000, 1_000_000, bias=False), nn.Linear(1_000_000, 10))

    monkeypatch.setattr(cli_nets, "huge", huge, raising=False)
    words = ["--model", "cli_nets:huge", "--device", "meta", "init=lecun", "init/rules=[roles]"]
    done = run("plan", *words)
    assert (done.code, done.err) == (0, "")
    assert done.lines[-1].startswith("3 parameters, 1,000,010,000,010 values")
    assert run("explain", "0.weight", *words).code == run("check", *words).code == 0
    done = run("plan", "--model", "cli_nets:build", "--device", "meta", "init=he")
    assert done.out == f"{planned()}\n"  # the same plan, fingerprint and all


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
    assert tuple(ROLE_MEANINGS) == ROLES


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
     "a\tb", "\\d+", "\\${x}", "a\\\\${x}", "\\\\",
     "~", "-", "=", "0x1f", "12:30", 1, 1.5, 1e-7, float("inf"), -float("inf"), True, None, [1, "a"],
     {"a": ["on"]}, [[300, 784], []], {}],
)  # fmt: skip
def test_values_as_yaml(value: Any) -> None:
    node = OmegaConf.create(f"key: {catalogue.as_yaml(value)}")
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
        ("show he", "initconf show: error: 'he' is no override: did you mean init=he?"),
        ("show hee", "initconf show: error: 'hee' is no override: write key=value, such as init=he or init.gain=0.5"),
        ("show mine.yaml", "initconf show: error: 'mine.yaml' is no override: did you mean init=mine.yaml?"),
        (
            "plan cli_nets:build init=he",
            "initconf plan: error: the following arguments are required: --model; did you mean --model cli",
        ),
        ("plan --model cli_nets:build he", "initconf plan: error: 'he' is no override: did you mean init=he?"),
        ("plan init=he --modle=x", "initconf plan: error: unrecognized arguments: --modle=x; did you mean --model?"),
        ("chek", "initconf: error: argument COMMAND: invalid choice: 'chek' (choose from "),
        (
            "plan --model cli_nets:build init=he --update",
            "initconf plan: error: --update goes with --check FILE, which it rewrites",
        ),
        ("plan --model cli_nets:build init=he --save -", "initconf plan: error: --save writes a file; --json prints the plan"),
        ("plan --model cli_nets:build init=he --device", "initconf plan: error: argument --device: expected one argument"),
        ("plan --model cli_nets:build init=he --device mta", "initconf plan: error: --device mta: write meta, cpu or cuda"),
        ("plan --model cli_nets:ready init=he --device cpu", "initconf plan: error: --device: ready is a module already"),
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
            "initconf list: error: nothing to list is called 'rolls'; did you mean 'roles'? there are: "
            "initializers, schemes, rules, activations, roles, layouts",
        ),
        ("results", "initconf results: error: the following arguments are required: DIR"),
        (
            "plan init=he --model cli_nets",
            "initconf plan: error: --model cli_nets: write package.module:name, the name of a class, a function or a module",
        ),
        (
            "plan init=he --model cli_nets.Net",
            "initconf plan: error: --model cli_nets.Net: write package.module:name, the name of a class, a function or "
            "a module; did you mean cli_nets:Net?",
        ),
        (
            "plan init=he --model cli_nets.py:Net",
            "initconf plan: error: --model cli_nets.py:Net: write the module and not its file",
        ),
        (
            "plan init=he --model ./a/b.py:Net",
            "initconf plan: error: --model ./a/b.py:Net: write the module and not its file: a.b:Net",
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


NET = "--model cli_nets:ready"
CODES = {
    "plan": (f"{NET} init=he", f"{NET} init=hee", "init=he"),
    "explain": (f"emb.weight {NET} init=he", f"emb.wieght {NET} init=he", f"{NET} init=he"),
    "targets": (f"{NET} init=he init.targets.main={{shapes:[[3,4],[3]]}}", f"{NET} init=he", "init=he"),
    "diff": (f"he he {NET}", f"he glorot {NET}", f"he {NET}"),
    "check": ("init=he", "init=hee", ""),
    "verify": ("--plan plan.json --checkpoint right.pt", "--plan plan.json --checkpoint wrong.pt", "--plan plan.json"),
    "list": ("roles", "roles --import cli_none", "rolls"),
    "show": ("init=he", "init=he gian=2", "he"),
    "import": ("keras net.json", "keras none.json", "keras"),
    "schema": ("rules", "--import cli_none", "ruless"),
    "gains": ("relu", "rellu", "relu --plott x"),
    "results": ("runs", "none", ""),
    "completion": ("bash", None, "tcsh"),
}
"""Of each command what ends with exit code 0, with 1 and with 2."""


@pytest.fixture(scope="module")
def answered(folder: Path) -> None:
    """The files that the commands of CODES read."""
    planned().save(folder / "plan.json")
    values = {name: p.detach() for name, p in initconf.initialize(net(), "he").model.named_parameters()}
    torch.save(values, folder / "right.pt")
    torch.save({**values, "norm.bias": torch.ones(8)}, folder / "wrong.pt")
    layer = {"class_name": "Dense", "config": {"name": "d", "units": 3, "kernel_initializer": "he_normal"}}
    (folder / "net.json").write_text(json.dumps(layer))
    run = {"num": 0, "overrides": [], "init": "he", "metrics": {"test_accuracy": 1.0, "test_loss": 0.0}, "status": "completed"}
    what = {"error": None, "model": "mlp", "data": "digits", "objective": "accuracy", "seconds": 1.0}
    results.append(folder / "runs", run | what)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("answered")
def test_exit_codes_of_every_command(command: str, run: Any) -> None:
    """What is for programs is on stdout, whole or not at all, and what is for people on stderr."""
    for code, words in enumerate(CODES[command]):
        if words is None:
            continue
        done = run(command, *words.split())
        assert done.code == code, f"{words}: {done.err}"
        if code == 2:
            assert done.out == ""
            assert done.err.startswith(f"usage: initconf {command} ")
            continue
        as_json = run(command, *words.split(), "--json")
        assert (as_json.code, as_json.err) == (code, done.err)
        if done.out:
            json.loads(as_json.out, parse_constant=pytest.fail)
        else:
            assert (as_json.out, bool(done.err)) == ("", True)


def test_help(run: Any) -> None:
    done = run("--help")
    assert (done.code, done.err) == (0, "")
    assert all(re.search(rf"^    {name}\s", done.out, re.MULTILINE) for name in COMMANDS)
    for name, command in COMMANDS.items():
        done = run(name, "--help")
        assert done.code == 0
        assert done.out.endswith(f"example:\n  {command.example}\n")
        assert f"initconf {name} " in command.example
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
        "check --model cli_nets:ready conf/init/mine.yaml rules.bias=null rules.hed.glob=hed.* unmatched=keep",
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
    assert [line for line in tables if len(line) > width and " parameters" not in line] == []


@pytest.mark.parametrize("width", [30, 80, 200])
@pytest.mark.parametrize("words", ["init=gpt2", "--config-dir conf --config-name config gain=${seed}"])
def test_composed_schemes_fit_the_terminal(words: str, width: int, terminal: Any, run: Any) -> None:
    plain = run("show", *words.split()).out
    shown = terminal(width, "show", *words.split())
    assert OmegaConf.create(shown) == OmegaConf.create(plain)
    assert [line.strip() for line in re.findall("#.*", shown)] == re.findall("#.*", plain)  # the sources, all of them
    # What is to be copied is not broken: only a pattern that is longer alone, or a source, goes on in the next line.
    long = [line for line in shown.splitlines() if len(line) > width]
    assert [line for line in long if "  #" in line.strip() and not line.lstrip().startswith("#")] == []
    if width == 200 and words != "init=gpt2":
        assert shown.count("\n") == plain.count("\n")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_explanations_fit_the_terminal(width: int, terminal: Any) -> None:
    shown = terminal(width, "explain", "0.mix", "--model", "cli_nets:mixers", "init=he")
    lines = [ESCAPE.sub("", line).rstrip() for line in shown.splitlines()]
    assert "  role     weight (assumed)" in lines
    # What is to be copied is not broken; the law is a sentence, which the terminal may break.
    long = [line for line in lines if len(line) > width and not line.startswith(("  Normal(", "(left out"))]
    declared = "  'init.layouts.Mixer={module: Mixer, axes: {out: 0, in: 1}}'"
    assert declared in lines
    assert set(long) <= {declared}


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


def test_a_folder_that_goes_away(folder: Path) -> None:
    done = shell("mkdir gone; cd gone; rmdir ../gone; initconf list roles; echo $?", folder)
    assert done.stdout == "2\n"
    assert done.stderr.endswith("initconf list: error: the current directory is no longer there\n")


def test_a_reader_that_goes_away(folder: Path) -> None:
    done = shell("set -o pipefail; initconf list | true; echo $?", folder)
    assert (done.stdout, done.stderr) == ("0\n", "")


TORCH_FREE = [
    ["--help"],
    ["list"],
    ["show", "init=he", "init.gain=0.5"],
    ["show", "--config-dir", "conf", "--config-name", "config"],
    ["check", "conf/init/mine.yaml", "conf/init/rules/mine.yaml"],
    ["check", "init=torch", "--strict"],
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [["list", "schemes"], ["show", "init=he", "--json"]], ids=" ".join)
def test_a_full_disk_behind_stdout_is_told(words):
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        command = [sys.executable, "-m", "initconf", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "the answer cannot be written: No space left on device\n")

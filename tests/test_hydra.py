"""initconf in somebody else's Hydra application: nothing but `initconf` installed, and everything said by overrides."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra import compose, initialize, initialize_config_dir, initialize_config_module
from omegaconf import DictConfig, OmegaConf

import initconf
from initconf.loading import catalogue
from tests.small_models import gpt, mlp, tied_gpt

VERSION = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}

TRAIN = """
import hydra, json, sys

@hydra.main(config_path="conf", config_name="config", **{version})
def main(cfg):
    import initconf
    from torch import nn

    model = nn.Sequential()
    model.add_module("stem", nn.Linear(4, 8))
    model.add_module("head", nn.Linear(8, 2))
    try:
        spec = initconf.load(cfg.init)
        report = initconf.initialize(model, spec).verify()
    except initconf.InitConfError as error:
        sys.exit(str(error))
    sources = {path: spec.sources(path) for path in cfg.get("ask", [])}
    print(json.dumps({**report.plan.to_dict(), "sources": sources}))

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An application: train.py, conf/config.yaml, an experiment and a rule file of its own."""
    conf = tmp_path / "conf"
    (conf / "experiment").mkdir(parents=True)
    (conf / "init" / "rules").mkdir(parents=True)
    (conf / "config.yaml").write_text("defaults: [{init: he}, _self_]\nwidth: 3\n")
    (conf / "experiment" / "small.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /init: glorot\ninit:\n  rules:\n    head: {gain: 0.5}\n"
    )
    (conf / "init" / "rules" / "mine.yaml").write_text("stem: {match: 'stem\\.weight', gain: 3}\n")
    (tmp_path / "train.py").write_text(TRAIN.replace("{version}", repr(VERSION)))
    return tmp_path


def compose_in(app: Path, *overrides: str, config: str = "config") -> DictConfig:
    with initialize_config_dir(str(app / "conf"), **VERSION):
        return compose(config, list(overrides))


def run(app: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"}
    command = [sys.executable, "-W", "error", "train.py", *arguments]
    return subprocess.run(command, cwd=app, capture_output=True, text=True, env=environment, check=False)


def stds(model: object, cfg: DictConfig) -> dict[str, float | None]:
    return {entry.label: entry.std for entry in initconf.compile(model, cfg.init).leaves()}  # type: ignore[arg-type]


# --- a real process -------------------------------------------------------------------------------------------------------


def test_a_foreign_application_runs(app: Path) -> None:
    done = run(app, "init=he", "init.rules.head.gain=0.1", "hydra.run.dir=out")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["parameters"]}
    assert rows["head.weight"]["law"]["std"] == pytest.approx(0.1 * (2 / 8) ** 0.5)
    assert rows["stem.weight"]["law"]["std"] == pytest.approx((2 / 4) ** 0.5)


def test_its_errors_have_addresses(app: Path) -> None:
    done = run(app, "init.rules.bias=null", "init.gain=abc", "hydra.run.dir=out")
    assert done.returncode == 1
    assert "init.gain = 'abc'  (override 'init.gain=abc'): 'abc' in 'abc' is not known in expressions" in done.stderr, (
        done.stderr
    )


ASKED = """
import contextlib, io, json, os, sys
import hydra
from hydra.core.global_hydra import GlobalHydra

@hydra.main(config_path="conf", config_name="config", **{version})
def main(cfg):
    print(cfg.db.name, cfg.port)

told = []
for typed, line in json.load(sys.stdin):
    sys.argv = ["app.py", *typed]
    os.environ.update(COMP_LINE=line, COMP_POINT=str(len(line)))
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main()
    GlobalHydra.instance().clear()
    told.append(out.getvalue())
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "numpy", "pydantic", "re2", "rich"})
print(json.dumps([told, heavy]))
"""


def ask(folder: Path, *questions: str) -> list[str]:
    """What an application prints to each; `? LINE` asks for the completion of a line. All in one process, under -W error."""
    (folder / "app.py").write_text(ASKED.replace("{version}", repr(VERSION)))
    lines = [(["-sc", "query=bash"], q[2:]) if q.startswith("? ") else (q.split(), "") for q in questions]
    command = [sys.executable, "-W", "error", "app.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, input=json.dumps(lines), check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    told, heavy = json.loads(done.stdout)
    assert heavy == []
    return [str(text).strip() for text in told]


def groups(help: str) -> set[str]:
    said = help.partition("== Configuration groups ==")[2].partition("== Config ==")[0]
    return {line.partition(":")[0] for line in said.splitlines() if ": " in line}


def test_an_application_that_has_never_heard_of_initconf(tmp_path: Path) -> None:
    """It sees the group `init`, and nothing else has changed for it: not what it composes, completes, shows and sweeps."""
    (tmp_path / "conf" / "db").mkdir(parents=True)
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [{db: mysql}, _self_]\nport: 1\n")
    for name in ("mysql", "pg"):
        (tmp_path / "conf" / "db" / f"{name}.yaml").write_text(f"name: {name}\n")
    told = ask(
        tmp_path,
        "--help",
        "--cfg job --resolve",
        "--info defaults",
        "--info searchpath",
        "-m db=mysql,pg port=1,2 hydra.sweep.dir=out",
        "port=3 hydra.run.dir=out",
        "? python app.py ",
        "? python app.py db=",
        "? python app.py init=he",
    )
    help, job, defaults, path, sweep, one, keys, options, schemes = told
    assert groups(help) == {"db", "init", "init/rule", "init/rules", "init/schema"}
    assert job == "db:\n  name: mysql\nport: 1"
    assert [line.split()[1] for line in defaults.splitlines()[4:-1] if "hydra" not in line] == ["db/mysql", "config"]
    assert [line.split()[1] for line in path.splitlines()[4:-1]] == ["hydra", "main", "initconf", "schema"]
    assert [line for line in sweep.splitlines() if not line.startswith("[")] == ["mysql 1", "mysql 2", "pg 1", "pg 2"]
    assert one == "mysql 3"
    assert keys.split() == ["db.", "db=", "hydra", "hydra.", "init", "port="]
    assert options.split() == ["db=mysql", "db=pg"]
    assert schemes.split() == ["init=he"]


def test_an_application_that_chooses_a_scheme(app: Path) -> None:
    told = ask(
        app,
        "--help",
        "--cfg job --resolve -p init.rules.bias",
        "? python app.py init=g",
        "? python app.py init/rules=m",
        "? python app.py init.rules.h",
        "? python app.py init.rules.head.",
        "? python app.py init.ga",
    )
    help, bias, *completed = told
    assert groups(help) == {"experiment", "init", "init/rule", "init/rules", "init/schema"}
    assert bias.splitlines()[1:] == ["role: bias", "initializer: zeros", "optional: true"]
    assert [words.split() for words in completed] == [
        ["init=glorot", "init=gpt2"],
        ["init/rules=mamba", "init/rules=mine"],
        ["init.rules.head."],
        ["init.rules.head.role=", "init.rules.head.search="],
        ["init.gain=", "init.gain_method="],
    ]


def test_every_value_has_an_address(app: Path) -> None:
    """Of a scheme, a rule file, the application's own files, an experiment and the command line; two jobs of a sweep."""
    (app / "conf" / "config.yaml").write_text(
        "defaults: [{init: he}, _self_]\ninit:\n  seed: 3\n"
        "ask: [mode, seed, gain, rules.head.gain, rules.bias.role, rules.new.glob]\n"
    )
    done = run(
        app,
        "-m",
        "init=he,orthogonal",
        "+experiment=small",
        "init.gain=2",
        "init.rules.new={glob: stem.bias, initializer: zeros}",
        "hydra.sweep.dir=out",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # The experiment chooses glorot; the sweep's `init=` is stronger.
    plans = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [plan["parameters"][0]["initializer"] for plan in plans] == ["variance_scaling", "orthogonal"]
    common = {
        "seed": ["conf/config.yaml:3"],
        "gain": ["override 'init.gain=2'"],
        "rules.head.gain": ["conf/experiment/small.yaml:6"],
        "rules.bias.role": ["initconf/conf/init/rules/roles.yaml:4"],
        "rules.new.glob": ["override 'init.rules.new={glob:stem.bias,initializer:zeros}'"],
    }
    assert plans[0]["sources"] == {"mode": ["initconf/conf/init/he.yaml:8"], **common}
    assert plans[1]["sources"] == {"mode": [], **common}


def test_hydra_says_which_files_it_took(app: Path) -> None:
    done = run(app, "--info", "defaults", "init=gpt2")
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in done.stdout.splitlines() if line.startswith("| init")]
    assert rows == [
        ["init/schema/base", "init"],
        ["init/rules/roles", "init.rules"],
        ["init/rules/head", "init.rules"],
        ["init/gpt2", "init"],
    ], done.stdout + done.stderr


# --- the shipped single rules ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(catalogue("init/rule")))
def test_a_single_rule_is_used_as_its_head_says(name: str) -> None:
    text = catalogue("init/rule")[name][1]
    (line,) = (line for line in text.splitlines() if line.startswith("# use: "))
    command, script, *words = shlex.split(line.removeprefix("# use: "))
    assert (command, script, words[0].partition("=")[2]) == ("python", "train.py", name)
    spec = initconf.load({}, words)
    (rule,) = spec.rules.values()
    said = OmegaConf.create(text)
    assert rule.initializer == said.initializer
    assert spec.sources(f"rules.{next(iter(spec.rules))}.initializer") == [
        f"initconf/conf/init/rule/{name}.yaml:{3 + ('role' in said)}"
    ]


def test_settings_alone_are_no_rule() -> None:
    with pytest.raises(initconf.SpecError) as caught:
        initconf.load("he", ["+init/rule@init.rules.out=zeros"])
    assert str(caught.value) == (
        "init.rules.out  (initconf/conf/init/rule/zeros.yaml): the rule selects nothing: it has no selector\n"
        "  -> give it one of match, search, glob, module, inside, role, ndim, block"
    )


# --- composed in this process ------------------------------------------------------------------------------------------------


def test_one_layer_is_bent_without_a_plus(app: Path) -> None:
    before, after = compose_in(app, "init=gpt2"), compose_in(app, "init=gpt2", "init.rules.head.gain=0.1")
    changed = initconf.compile(gpt(), before.init).diff(initconf.compile(gpt(), after.init))
    assert {(d.name, d.what) for d in changed} == {("lm_head.weight", "settings"), ("lm_head.weight", "law")}
    assert stds(gpt(), after)["lm_head.weight"] == pytest.approx(0.002)


def test_a_tied_head_is_no_head(app: Path) -> None:
    cfg = compose_in(app, "init=gpt2", "init.rules.head.gain=0.1")
    with pytest.raises(initconf.CompileError) as caught:
        initconf.compile(tied_gpt(), cfg.init)
    assert str(caught.value) == (
        "init.rules.head: it matches nothing: lm_head.weight has role embedding, because it is tied to tok_emb.weight\n"
        "  -> bend its rule instead: init.rules.embedding.gain=0.1"
    )
    bent = compose_in(app, "init=gpt2", "init.rules.embedding.gain=0.1")
    assert stds(tied_gpt(), bent)["lm_head.weight"] == pytest.approx(0.002)


def test_a_model_without_a_head_says_so(app: Path) -> None:
    from torch import nn

    cfg = compose_in(app, "init=gpt2", "init.rules.head.gain=0.1")
    with pytest.raises(initconf.CompileError, match="no parameter's name fits search"):
        initconf.compile(nn.Sequential(nn.Linear(2, 3)), cfg.init)
    assert initconf.compile(nn.Sequential(nn.Linear(2, 3)), compose_in(app, "init=gpt2").init)


@pytest.mark.parametrize("plus", ["", "+"])
def test_a_new_rule_from_the_command_line_comes_last(app: Path, plus: str) -> None:
    cfg = compose_in(app, f"{plus}init.rules.new={{match: '^head\\.weight$', initializer: ones}}")
    plan = initconf.compile(mlp(), cfg.init)
    assert plan["head.weight"].rule == "new"
    assert list(cfg.init.rules)[-1] == "new"


def test_a_new_rule_key_by_key(app: Path) -> None:
    cfg = compose_in(app, "init.rules.new.glob=head.*", "init.rules.new.initializer=ones")
    assert {e.name: e.rule for e in initconf.compile(mlp(), cfg.init)}["head.bias"] == "new"


def test_own_rule_files_replace_or_join(app: Path) -> None:
    replaced = compose_in(app, "init/rules=[roles,mine]")
    assert "head" not in replaced.init.rules
    joined = compose_in(app, "+init/rules@init.rules=mine")
    assert list(joined.init.rules)[-1] == "stem"
    assert initconf.load(joined.init).rules["stem"].gain == 3  # type: ignore[union-attr]


def test_rule_files_of_another_directory(app: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    (folder / "init" / "rules").mkdir(parents=True)
    (folder / "init" / "rules" / "theirs.yaml").write_text("out: {glob: 'head.*', initializer: ones}\n")
    done = run(app, "--config-dir", str(folder), "init/rules=[roles,theirs]", "hydra.run.dir=out")
    assert done.returncode == 0, done.stderr
    assert {row["name"]: row["rule"] for row in json.loads(done.stdout)["parameters"]}["head.weight"] == "out"


def test_an_experiment_chooses_another_scheme(app: Path) -> None:
    cfg = compose_in(app, "+experiment=small")
    plan = initconf.compile(mlp(), cfg.init)
    assert plan["head.weight"].settings["mode"] == "fan_avg"
    assert plan["head.weight"].settings["gain"] == 0.5


def test_unclaimed_parameters_are_kept_only_when_that_is_said(app: Path) -> None:
    cfg = compose_in(app, "init.rules.bias=null", "init.unmatched=keep")
    assert initconf.compile(mlp(), cfg.init)["head.bias"].initializer == "keep"
    cfg = compose_in(app, "init.rules.bias=null")
    with pytest.raises(initconf.CompileError) as caught:
        initconf.compile(mlp(), cfg.init)
    assert str(caught.value) == (
        "body.0.bias, body.2.bias, head.bias: no rule claims it (role bias); the rule 'bias' is switched off\n"
        "  -> init.unmatched=keep leaves it as it is; or give it a rule, 'init.rules.bias={role: bias, initializer: zeros}'"
    )


def test_two_inits_in_one_application(app: Path) -> None:
    (app / "conf" / "gan.yaml").write_text("defaults:\n  - init@gen.init: he\n  - init@disc.init: orthogonal\n  - _self_\n")
    cfg = compose_in(app, "gen.init.gain=0.5", "disc.init.rules.head.gain=2", config="gan")
    assert initconf.compile(mlp(), cfg.gen.init)["head.weight"].initializer == "variance_scaling"
    assert initconf.compile(mlp(), cfg.disc.init)["head.weight"].settings["gain"] == 2
    with pytest.raises(initconf.SpecError, match=r"^gen\.init\.mode = 'fan'"):
        initconf.load(compose_in(app, "gen.init.mode=fan", config="gan").gen.init)


def test_a_misspelled_key_reaches_initconf(app: Path) -> None:
    with pytest.raises(initconf.SpecError) as caught:
        initconf.load(compose_in(app, "init.gian=3").init)
    assert str(caught.value) == "init.gian = 3: 'gian' is not a key of a spec\n  -> did you mean 'gain'?"


def test_interpolations_reach_the_whole_configuration(app: Path) -> None:
    cfg = compose_in(app, "init.gain=${width}")
    assert initconf.load(cfg.init).gain == 3


@pytest.mark.parametrize("how", ["module", "nothing", "primary"])
def test_in_a_notebook(how: str) -> None:
    """Hydra's compose API, without an application: with the shipped configurations, without any, and a scheme by itself."""
    lines = ["+init=he"] if how != "primary" else []
    shipped = how != "nothing"
    with initialize_config_module("initconf.conf", **VERSION) if shipped else initialize(config_path=None, **VERSION):
        cfg = compose("init/he" if how == "primary" else None, [*lines, "init.rules.bias=null", "init.unmatched=keep"])
    assert initconf.compile(mlp(), cfg.init)["head.bias"].initializer == "keep"
    assert initconf.load(cfg.init) == initconf.load("he", ["rules.bias=null", "unmatched=keep"])


def test_loading_leaves_a_running_application_alone(app: Path) -> None:
    with initialize_config_dir(str(app / "conf"), **VERSION):
        initconf.load("glorot", overrides=["gain=2"])
        assert compose("config", ["width=7"]).width == 7

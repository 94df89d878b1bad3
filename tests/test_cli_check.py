"""`initconf check`: what becomes of each rule, what is wrong with a file, and when a hook or CI fails."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import initconf
from tests.command_line import Run, user

pytestmark = pytest.mark.usefixtures("here")


FILES = {
    "conf/init/rules/bends.yaml": "emb: {initializer: {std: 0.1}}\nnorm: {gain: 2}\nblocks: {glob: 'blocks.*', gain: 2}\n",
    "conf/init/rules/wrong.yaml": "emb: {initializer: {std: 0.1}}\nx: {glob: a, gian: 3}\ny: {glob: a, initializer: zerso}\n",
    "conf/init/rule/one.yaml": "initializer: zeros\n",
    "conf/init/rule/bad.yaml": "initializer: zerso\n",
    "conf/init/follows.yaml": "defaults: [he]\nseed: ${seed}\n",
    "conf/init/open.yaml": "initializer: zeros\nseed: ???\n",
    "conf/init/other.yml": "defaults: [he]\n",
    "conf/config.yaml": "defaults: [{init: mine}, {init@gen.init: he}, _self_]\nseed: 7\n",
    "elsewhere/scheme.yaml": "defaults: [lecun]\ngain: 2\n",
    "none/config.yaml": "gain: 2\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    for path in user(tmp_path_factory.mktemp("user")):
        for name, text in FILES.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        yield path


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *words: Run(capsys, "check", *words)


NET = ["--model", "cli_nets:ready"]


# --- against a model -------------------------------------------------------------------------------------------------------

SPEC = """
initializer: he_normal
unmatched: keep
rules:
  bias: {role: bias, initializer: zeros}
  rare: {role: [position, state], initializer: zeros, optional: true}
  blocks: {glob: 'blocks.*', initializer: ones, expect: [3, 4]}
  all_biases: {search: 'bias$', initializer: zeros, priority: 1, expect: 3}
  norms: {glob: norm.*, initializer: ones}
  head: {glob: head.weight}
  haed: {glob: haed.*, gain: 2}
  gone: null
"""
TABLE = """\
rule        matches  wins  expects  note                                                                   source
bias              2     0        -  shadowed by all_biases (priority 1)                                    spec.yaml:5
rare              0     0        -  matches nothing, as it may: no parameter has role position or state    spec.yaml:6
blocks            4     2   3 to 4  2 won by all_biases (priority 1)                                       spec.yaml:7
norms             2     1        -  1 won by all_biases (priority 1)                                       spec.yaml:9
head              1     1        -                                                                         spec.yaml:10
haed              0     0        -  dead: no parameter's name fits glob 'haed.*'; near names: head.weight  spec.yaml:11
all_biases        3     3        3                                                                         spec.yaml:8
gone              -     -        -  switched off                                                           spec.yaml:12
"""
SUMMARY = (
    "8 rules: 4 win, 1 shadowed, 1 dead, 1 match nothing, as they may, 1 switched off; "
    "8 parameters: 7 won by rules, 1 claimed by nothing; 2 problems\n"
)
PROBLEMS = """\
2 problems:
- init.rules.blocks.expect = [3, 4]  (spec.yaml:7): it wins 2 parameters, and 2 that it matches go to init.rules.all_biases
    -> if that is right, write init.rules.blocks.expect=2
- init.rules.haed  (spec.yaml:11): it matches nothing: no parameter's name fits glob 'haed.*'
    -> near names: head.weight
"""


def test_what_became_of_each_rule(check: Any, folder: Path) -> None:
    (folder / "spec.yaml").write_text(SPEC)
    done = check("spec.yaml", *NET)
    assert (done.code, done.out, done.err) == (1, TABLE + SUMMARY, PROBLEMS)


def rows(done: Run) -> dict[str, dict[str, Any]]:
    return {row["rule"]: row for row in json.loads(done.out)["specs"][0]["rules"]}


BASE: dict[str, Any] = {
    "bias": {"role": "bias", "initializer": "zeros"},
    "norm": {"role": ["norm_scale", "norm_shift"], "initializer": "ones"},
    "position": {"role": "position", "initializer": "zeros", "optional": True},
    "head": {"glob": "head.weight"},
}


@pytest.mark.parametrize(
    ("x", "rule", "expected"),
    [
        (None, "bias", {"status": "wins", "matched": 2, "won": 2, "lost_to": {}, "may_be_dead": False, "sources": 1}),
        (None, "position", {"status": "dead", "matched": 0, "won": 0, "may_be_dead": True}),
        (None, "x", {"status": "off", "matched": None, "won": None, "sources": 1}),
        ({"glob": "head.*"}, "x", {"status": "wins", "matched": 1, "won": 1, "may_be_dead": True}),
        ({"glob": "head.*"}, "head", {"status": "shadowed", "matched": 1, "won": 0, "lost_to": {"x": 1}}),
        ({"glob": "blocks.0.*", "initializer": "ones"}, "bias", {"status": "wins", "won": 1, "lost_to": {"x": 1}}),
        (
            {"glob": "*", "initializer": "ones", "priority": -1},
            "x",
            {"matched": 8, "won": 3, "priority": -1, "lost_to": {"bias": 2, "norm": 2, "head": 1}},
        ),
        (
            {"glob": "hed.*", "gain": 2},
            "x",
            {
                "status": "dead",
                "may_be_dead": False,
                "reason": "it matches nothing: no parameter's name fits glob 'hed.*'",
                "remedy": "near names: head.weight",
            },
        ),
        ({"module": "Conv2d", "gain": 2}, "x", {"status": "dead", "remedy": "there are: Embedding, LayerNorm, Linear"}),
        ({"glob": "hed.*", "gain": 2, "optional": True}, "x", {"status": "dead", "may_be_dead": True}),
        ({"glob": "hed.*"}, "x", {"status": "dead", "may_be_dead": True}),
        ({"glob": "head.*", "expect": [1, 2]}, "x", {"status": "wins", "won": 1, "expect": [1, 2]}),
    ],
)
def test_rows(x: dict[str, Any] | None, rule: str, expected: dict[str, Any], check: Any, folder: Path) -> None:
    spec = {"unmatched": "keep", "rules": {**BASE, "x": x}}
    (folder / "spec.yaml").write_text(json.dumps(spec))
    row = rows(check("spec.yaml", *NET, "--json"))[rule]
    row["sources"] = len(row["sources"])
    assert {key: row[key] for key in expected} == expected


def test_an_optional_rule_that_somebody_bends_may_not_be_dead(check: Any) -> None:
    done = check("init=he", "rules.position.gain=2", *NET, "--json")
    assert (done.code, rows(done)["position"]["may_be_dead"], rows(done)["state"]["may_be_dead"]) == (1, False, True)
    assert len(rows(done)["position"]["sources"]) == 2


UNUSED = "initializer: zeros\ngain: 2\n"
SHADOWED = "rules: {a: {role: bias, initializer: zeros}, b: {role: bias, initializer: ones}}\nunmatched: keep\n"
AUTO = "nonlinearity: auto\n"


@pytest.mark.parametrize(
    ("text", "words", "code", "said"),
    [
        ("unmatched: keep", "", 0, ""),
        ("unmatched: keep", "--strict", 0, ""),
        # A warning, which --strict does not let pass.
        (f"{UNUSED}unmatched: keep", "", 0, "warning: init.gain: no parameter uses this setting\n"),
        (f"{UNUSED}unmatched: keep", "--strict", 1, "init.gain: no parameter uses this setting\n"),
        (SHADOWED, "", 0, "warning: init.rules.a: everything it matches is won by what stands after it: b\n"),
        (SHADOWED, "--strict", 1, "init.rules.a: everything it matches is won by what stands after it: b\n"),
        # A guess, which is none of the configuration's mistakes.
        ("unmatched: keep", "--model cli_nets:mixers", 0, "warning: what 0.mix, 0.gamma, 0.bias and 3 more are was assumed"),
        ("unmatched: keep", "--model cli_nets:mixers --strict", 1, "3 problems:\n- 0.mix, 2.mix: role weight and axes out 0,"),
        # Mistakes.
        ("gain: 2", "--model cli_nets:Branching", 0, ""),
        ("unmatched: error", "", 1, "4 problems:\n- emb.weight: no rule claims it (role embedding)"),
        ("gian: 2", "", 1, "init.gian = 2  (spec.yaml:1): 'gian' is not a key of a spec"),
        ("layouts: {x: {glob: emb.weight, axes: {out: 5}}}", "", 1, "init.layouts.x"),
        ("gain: 2", "--model cli_nets:fails", 1, "--model = 'cli_nets:fails'"),
        (AUTO, "--model cli_nets:Branching", 1, "init.initializer: stem.weight, head.weight: variance_scaling cannot serve it"),
        (AUTO, "--model cli_nets:Branching --example cli_nets:batch", 0, ""),
        ("gain: 2", "--model cli_nets:Branching --example cli_nets:batch", 0, "warning: --example: no parameter asks for"),
        ("initializer: tiny\nunmatched: keep", "--import cli_own", 0, ""),
        ("initializer: tinny\nunmatched: keep", "", 1, "init.initializer = 'tinny'  (spec.yaml:1): no initializer is named"),
    ],
)
def test_exit_codes_and_strictness(text: str, words: str, code: int, said: str, check: Any, folder: Path) -> None:
    (folder / "spec.yaml").write_text(f"{text}\n")
    done = check("spec.yaml", *words.split(), *([] if "--model" in words else NET))
    assert done.code == code, done.err
    assert done.err.startswith(said) if said else done.err == ""


def test_strict_says_a_guess_once(check: Any) -> None:
    done = check("init=he", "--model", "cli_nets:mixers", "--strict")
    assert "was assumed from names and shapes" not in done.err
    assert done.err.count("0.mix") == 1


def test_json_is_the_whole_answer(check: Any) -> None:
    done = check("init=he", "rules.bias=null", *NET, "--json")
    data = json.loads(done.out)
    assert (done.code, data["ok"]) == (1, False)
    (spec,) = data["specs"]
    assert {key: spec[key] for key in ("spec", "ok", "parameters", "warnings")} == {
        "spec": "he",
        "ok": False,
        "parameters": {"rules": 4, "scheme": 2, "nothing": 2},
        "warnings": [],
    }
    assert [problem["text"] for problem in spec["problems"]] == [
        "no rule claims it (role bias); the rule 'bias' is switched off"
    ]


def test_several_files_against_one_model(check: Any) -> None:
    done = check(
        "conf/init/mine.yaml", "elsewhere/scheme.yaml", "conf/init/rules/bends.yaml", *NET, "rules.x={glob: no, gain: 1}"
    )
    assert done.code == 1
    assert [line for line in done.lines if line.endswith(":")] == ["conf/init/mine.yaml:", "elsewhere/scheme.yaml:"]
    assert done.lines[-1] == "conf/init/rules/bends.yaml: 4 rules; nothing wrong in its form"
    assert done.err.startswith("init.rules.x  (override")  # of both, and said once
    done = check("conf/init/mine.yaml", "elsewhere/scheme.yaml", *NET, "~rules.bias")
    assert done.err.startswith(  # what has no address of its own is at least of a file
        "2 problems:\n- blocks.0.bias, blocks.1.bias  (conf/init/mine.yaml): no rule claims it (role bias)\n"
    )


def test_a_whole_application_against_a_model(check: Any) -> None:
    done = check("--config-dir", "conf", "--config-name", "config", *NET, "--json")
    assert (done.code, json.loads(done.out)["specs"][0]["spec"]) == (0, "config")
    assert set(rows(done)) == {"norm", "bias", "emb"}


def test_a_saved_word_of_the_scheme_itself_is_no_warning() -> None:
    """`initializer: keep` is for what no rule claims, of which there may be nothing; somebody's override is another thing."""
    import cli_nets

    rules = {"all": {"glob": "*", "initializer": "zeros"}}
    said = "init.initializer: no parameter uses this setting"
    for initializer in ("keep", {"name": "module_default", "otherwise": "keep"}):
        assert initconf.compile(cli_nets.ready, {"initializer": initializer, "rules": rules}).warnings == ()
    bent = initconf.load({"initializer": "keep", "rules": rules}, ["initializer=keep"])
    assert initconf.compile(cli_nets.ready, bent).warnings == (said,)
    assert initconf.compile(cli_nets.ready, {"initializer": "zeros", "rules": rules}).warnings == (said,)


# --- without a model -------------------------------------------------------------------------------------------------------

FORMS = {
    "conf/init/mine.yaml": (0, "conf/init/mine.yaml: 3 rules; nothing wrong in its form\n", ""),
    "elsewhere/scheme.yaml": (0, "elsewhere/scheme.yaml: 10 rules; nothing wrong in its form\n", ""),
    "conf/init/rules/mine.yaml": (0, "conf/init/rules/mine.yaml: 3 rules; nothing wrong in its form\n", ""),
    "conf/init/rules/bends.yaml": (0, "conf/init/rules/bends.yaml: 3 rules; nothing wrong in its form\n", ""),
    "conf/init/rule/one.yaml": (0, "conf/init/rule/one.yaml: 1 rule; nothing wrong in its form\n", ""),
    "conf/init/rule/bad.yaml": (
        1,
        "conf/init/rule/bad.yaml: 1 rule; 1 problem\n",
        "init.rules.bad.initializer = 'zerso'  (conf/init/rule/bad.yaml:1): no initializer is named 'zerso'; "
        "did you mean 'zeros'?\n  -> `initconf list` shows them all\n",
    ),
    "conf/init/rules/wrong.yaml": (
        1,
        "conf/init/rules/wrong.yaml: cannot be read; 1 problem\n",
        "init.rules.x.gian = 3  (conf/init/rules/wrong.yaml:2): 'gian' is not a key of a rule\n  -> did you mean 'gain'?\n",
    ),
    "conf/init/other.yml": (
        1,
        "conf/init/other.yml: cannot be read; 1 problem\n",
        "conf/init/other.yml: Hydra finds files that end in .yaml, and no others\n  -> call it other.yaml\n",
    ),
    "conf/init/none.yaml": (
        1,
        "conf/init/none.yaml: cannot be read; 1 problem\n",
        "conf/init/none.yaml: there is no such file\n  -> a scheme by name has no suffix: init=he\n",
    ),
    "conf/init/rules/none.yaml": (
        1,
        "conf/init/rules/none.yaml: cannot be read; 1 problem\n",
        "conf/init/rules/none.yaml: there is no such file\n  -> a scheme by name has no suffix: init=he\n",
    ),
    "none": (
        1,
        "none: cannot be read; 1 problem\n",
        "none: no schemes and no rule files are in it\n  -> they are init/*.yaml and init/rules/*.yaml\n",
    ),
    "conf/init/open.yaml": (
        1,
        "conf/init/open.yaml: cannot be read; 1 problem\n",
        "init.seed  (conf/init/open.yaml:2): it must be given a value, and has none (???)\n"
        "  -> write init.seed=VALUE on the command line\n",
    ),
    "conf/init/open.yaml init.seed=3": (0, "conf/init/open.yaml: 0 rules; nothing wrong in its form\n", ""),
    # What a scheme takes from its application is known where that is.
    "conf/init/follows.yaml --config-dir conf --config-name config": (
        0,
        "conf/init/follows.yaml: 10 rules; nothing wrong in its form\n",
        "",
    ),
    "conf/init/mine.yaml --config-dir conf --config-name config --node gen.init": (
        0,
        "conf/init/mine.yaml: 3 rules; nothing wrong in its form\n",
        "",
    ),
    "--config-dir conf --config-name config": (0, "config: 3 rules; nothing wrong in its form\n", ""),
    "init=he": (0, "he: 10 rules; nothing wrong in its form\n", ""),
    "init=elsewhere/scheme.yaml rules.bias=null": (0, "elsewhere/scheme.yaml: 10 rules; nothing wrong in its form\n", ""),
}


@pytest.mark.parametrize("words", FORMS)
def test_files_and_schemes_by_themselves(words: str, check: Any) -> None:
    done = check(*words.split())
    assert (done.code, done.out, done.err) == FORMS[words]


WRONG = """
defaults: [he]
initializer: {name: normal, std: 1/0}
rules:
  a: {glob: x, initializer: he_normall}
  b: {glob: x, initializer: {name: normal, sdt: 1}}
  c: {glob: y, initializer: variance_scaling, nonlinearity: rellu}
  d: {glob: z, optional: true, initializer: of_another_package}
  e: {glob: w, initializer: {name: he_normal, gain: sqrt(fan_in)}, gain: 2}
  f: {glob: v, initializer: {name: normal, std: yes}}
  g: {glob: u, initializer: constant}
  h: {glob: t, initializer: {name: orthogonal, nonlinearity: auto}}
"""


def test_all_that_is_wrong_with_a_file_without_a_model(check: Any, folder: Path) -> None:
    (folder / "wrong.yaml").write_text(WRONG)
    done = check("wrong.yaml")
    assert (done.code, done.out) == (1, "wrong.yaml: 18 rules; 6 problems\n")
    said = [line for line in done.err.splitlines() if line.startswith("- ")]
    assert [line.partition(": ")[0] for line in said] == [
        "- init.initializer.std = '1/0'  (wrong.yaml:3)",
        "- init.rules.a.initializer = 'he_normall'  (wrong.yaml:5)",
        "- init.rules.b.initializer.sdt = 1  (wrong.yaml:6)",
        "- init.rules.c.nonlinearity = 'rellu'  (wrong.yaml:7)",
        "- init.rules.f.initializer.std = True  (wrong.yaml:10)",
        "- init.rules.g.initializer  (wrong.yaml:11)",
    ]
    warned = done.err.splitlines()[:4]
    assert warned[0].startswith("warning: init.rules.d.initializer = 'of_another_package'  (wrong.yaml:8): no initializer")
    assert warned[2] == (
        "warning: init.rules.e.gain: init.rules.e.initializer.gain is stronger; write init.rules.e.initializer.gain=..."
    )
    assert warned[3] == "warning: init.rules.a: b stands after it, selects the same, and wins all of it"


def test_folders_and_several_files(check: Any) -> None:
    done = check("conf", "elsewhere/scheme.yaml", "init.seed=1")
    assert done.code == 1
    assert [line.partition(":")[0] for line in done.lines] == [
        *(f"conf/init/{name}" for name in ("follows.yaml", "mine.yaml", "open.yaml", "other.yml")),
        *(f"conf/init/rule/{name}.yaml" for name in ("bad", "one")),
        *(f"conf/init/rules/{name}.yaml" for name in ("bends", "mine", "wrong")),
        "elsewhere/scheme.yaml",
    ]
    assert done.err.startswith("3 problems:\n- conf/init/other.yml: Hydra finds")


def test_a_scheme_on_standard_input(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def feed(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    feed("defaults: [he]\ngain: 2\n")
    assert check("-").out == "<stdin>: 10 rules; nothing wrong in its form\n"
    feed("gian: 2\n")
    done = check("-", *NET)
    assert (done.code, done.out) == (1, "<stdin>: cannot be read; 1 problem\n")
    assert done.err == "init.gian = 2  (<stdin>:1): 'gian' is not a key of a spec\n  -> did you mean 'gain'?\n"
    feed("")
    done = check("-", "-")
    assert (done.code, done.err.splitlines()[-1]) == (2, "initconf check: error: -: standard input can be read once")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", "say what to check: FILE ..., init=SCHEME, or --config-name NAME of an application; schemes: alf, "),
        ("he", "there is no file 'he': did you mean init=he?"),
        ("my_scheme", "there is no file 'my_scheme': write FILE.yaml, or init=SCHEME"),
        ("conf/init/mine.yaml init=he", "init=he: a scheme or files, one of them"),
        ("conf/init/mine.yaml --node init", "--node goes with --config-name"),
        ("conf/init/mine.yaml --config-name config", "--config-name needs --config-dir DIR, the folder of your"),
        ("init=he --srict", "unrecognized arguments: --srict; did you mean --strict?"),
    ],
)
def test_usage(words: str, text: str, check: Any) -> None:
    done = check(*words.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith(f"initconf check: error: {text}")


@pytest.mark.slow
def test_what_is_shipped_is_right(check: Any) -> None:
    conf = Path(initconf.__file__).parents[1] / "conf"
    done = check(str(conf), "--strict")
    assert (done.code, done.err) == (0, "")
    assert len(done.lines) == len(list(conf.rglob("*.yaml")))

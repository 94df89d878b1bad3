"""Shell completion: what is offered at each place, and that the shells' scripts hand it on as it is."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import initconf
from initconf import activations, registry
from initconf.cli import COMMANDS, main, parsers
from initconf.cli.completion import candidates, complete
from initconf.cli.typed import unquoted
from initconf.loading import rule_files, schemes
from initconf.spec import ROLES, InitSpec, Rule
from tests.command_line import shell, user


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield from user(tmp_path_factory.mktemp("user"))


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "plans" / "old").mkdir(parents=True, exist_ok=True)
    (folder / "plans" / "plan.json").touch()
    (folder / "plans" / ".hidden").touch()


def offered(line: str) -> list[str]:
    """The words that are offered at the end of a line (which begins after `initconf`)."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert complete(["--", *line.split(" ")], *parsers()) == 0
    return [one.partition("\t")[0] for one in out.getvalue().splitlines()]


# --- what is offered -------------------------------------------------------------------------------------------------------

OPEN = {"rules": ".", "targets": ".", "layouts": "."}
OFFERED = {
    # commands, flags and their values
    "pl": "plan",
    "--v": "--version",
    "nonsense ": "",
    "plan --mo": "--model --model-arg",
    "plan --model m:f --mo": "--model-arg",  # once is enough
    "plan --import a --import b --imp": "--import",
    "plan --json --js": "",
    "show --model": "",
    "list r": "rules roles",
    "list roles r": "rules",
    "schema ": "scheme rules rule spec",
    "schema rules r": "",
    "completion ": "bash zsh fish",
    "gains rel": "relu relu6 relu_squared",
    # files, folders, modules
    "plan --save pl": "plans/",
    "plan --save plans/": "plans/old/ plans/plan.json",
    "plan --save plans/.": "plans/.hidden",
    "plan --save=plans/p": "--save=plans/plan.json",
    "plan --config-dir ": "conf/ plans/",
    "plan --config-dir conf --config-name ": "config",
    "results pl": "plans/",
    "plan --import cli_n": "cli_nets",
    "plan --model cli_n": "cli_nets:",
    "plan --model cli_nets:N": "cli_nets:Net",
    "plan --model=cli_nets:buil": "--model=cli_nets:build",
    "plan --model nowhere:N": "",
    "plan --model-arg wid": "",
    "diff mega": "megatron",
    "diff he plans/": "plans/old/ plans/plan.json",
    # keys
    "plan ": "init= init/rules= init.",
    "plan +": "+init= +init/rules= +init. +init/rules@init.rules= +init/rule@init.rules.",
    "plan init.": " ".join(f"init.{key}{OPEN.get(key, '=')}" for key in InitSpec.model_fields),
    "plan init.initializer": "init.initializer= init.initializer.",
    "plan init.ga": "init.gain= init.gain_method=",
    "plan gai": "gain= gain_method=",
    "plan ~init.rules.he": "~init.rules.head.",
    "plan init.rules.he": "init.rules.head.",
    "plan init.rules.head": "init.rules.head. init.rules.head=",
    "plan init.rules.head.": " ".join(f"init.rules.head.{key}=" for key in Rule.model_fields),
    "plan init=gpt2 init.rules.res": "init.rules.residual.",
    "plan init=he init.rules.res": "",
    "plan init=gpt2 init.initializer.": " ".join(f"init.initializer.{key}=" for key in ("name", "mean", "std", "gain")),
    "plan init.rules.embedding.initializer.s": "init.rules.embedding.initializer.std=",
    "plan init.rules.bias.initializer=uniform init.rules.bias.initializer.l": "init.rules.bias.initializer.low=",
    "plan init.nonlinearity=leaky_relu init.nonlinearity.": "init.nonlinearity.name= init.nonlinearity.negative_slope=",
    "plan init.rules.mine.glob=x init.rules.m": "init.rules.mine.",
    "plan init.layouts.qkv.match=x init.layouts.": "init.layouts.qkv.",
    "plan 'init.rules.a\nb.glob=x' init.rules.a": "",  # a line is a candidate
    "plan init.layouts.qkv.t": "init.layouts.qkv.transposed=",
    "plan init.gain.": "",
    "plan init.nonsense.": "",
    "explain head.weight init.se": "init.seed=",
    # values
    "plan init=ne": "init=neox",
    "plan --config-dir conf init=mi": "init=mine init=mitchell",
    "plan init/rules=no": "init/rules=none init/rules=norms",
    "plan 'init/rules=[no": "init/rules=[none init/rules=[norms",
    "plan 'init/rules=[roles,he": "init/rules=[roles,head",
    "plan init/rules=[roles,head": "init/rules=[roles,head] init/rules=[roles,head,",
    "plan init/rules=[roles,ro": "",
    "plan +init/rules@init.rules=lo": "+init/rules@init.rules=lora",
    "plan +init/rule@init.rules.mine=zero": "+init/rule@init.rules.mine=zero_bias +init/rule@init.rules.mine=zeros",
    "plan init.mode=": " ".join(f"init.mode={mode}" for mode in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg", "null")),
    "plan mode=fan_g": "mode=fan_geo_avg",
    "plan init.gain=": "init.gain=null",
    "plan init.compat=": "init.compat=torch init.compat=null",
    "plan init.nonlinearity=au": "init.nonlinearity=auto",
    "plan init.nonlinearity.name=leaky": "init.nonlinearity.name=leaky_relu",
    "plan init.initializer=kaiming_u": "init.initializer=kaiming_uniform init.initializer=kaiming_uniform_",
    "plan init.initializer.name=kaiming_normal_": "init.initializer.name=kaiming_normal_",
    "plan init.initializer=sparse init.initializer.per=in": "init.initializer.per=input",
    "plan init.rules.bias.optional=": " ".join(f"init.rules.bias.optional={word}" for word in ("true", "false", "null")),
    "plan init.rules.bias.role=": " ".join(f"init.rules.bias.role={role}" for role in (*ROLES, "null")),
    "plan init.layouts.x.role=st": "init.layouts.x.role=state",
    "plan init.rules.head=": "init.rules.head=null",
    "plan init.nonsense=": "",
    "plan init.initializer.nonsense=": "",
}  # fmt: skip


@pytest.mark.parametrize("line", OFFERED)
def test_what_is_offered(line: str) -> None:
    assert offered(line) == OFFERED[line].split()


def test_every_command_and_every_name_is_offered() -> None:
    assert offered("") == list(COMMANDS)
    known = {*registry.names(), *(alias for name in registry.names() for alias in registry.aliases_of(name))}
    assert {word.partition("=")[2] for word in offered("plan init.initializer=")} == {*known, "null"}
    assert {word.partition("=")[2] for word in offered("plan init.nonlinearity=")} == {*activations.names(), "auto", "null"}
    assert {word.partition("=")[2] for word in offered("plan init=")} == set(schemes())
    assert {word.partition("=")[2] for word in offered("plan init/rules=")} == set(rule_files())


def test_every_value_that_is_offered_can_be_loaded() -> None:
    tried = 0
    for key in InitSpec.model_fields:
        for word in offered(f"plan init.{key}="):
            value = word.partition("=")[2]
            initconf.load({key: None if value == "null" else value})
            tried += 1
    assert tried > 100


RULES = {
    "init=he": ["he"],
    "init=gpt2": ["gpt2"],
    "init=torch init.rules.own.ndim=1": ["torch"],
    "init=alf init/rules=[norms,biases]": ["alf", ["init/rules=[norms,biases]"]],
    "init=he init/rules=none": ["he", ["init/rules=none"]],
    "init=he +init/rules@init.rules=lora": ["he", ["+init/rules@init.rules=lora"]],
    "init=he +init/rule@init.rules.mine=zero_bias": ["he", ["+init/rule@init.rules.mine=zero_bias"]],
    "init=mine --config-dir conf": ["mine", [], "conf"],
}


@pytest.mark.parametrize("line", RULES)
def test_the_rules_that_are_offered_are_those_of_the_composed_scheme(line: str) -> None:
    scheme, overrides, config_dir = [*RULES[line], *([], None)[len(RULES[line]) - 1 :]]
    spec = initconf.load(scheme, overrides, config_dir=config_dir)
    assert set(offered(f"plan {line} init.rules.")) == {f"init.rules.{name}." for name in spec.rules}


def test_the_rules_of_an_application_are_offered(folder: Path) -> None:
    assert offered("show --config-dir conf --config-name config init.rules.") == [
        f"init.rules.{n}." for n in ("norm", "bias", "emb")
    ]
    assert offered("show --config-dir conf --config-name config init=gpt2 init.rules.res") == ["init.rules.residual."]
    assert offered("show --config-dir conf --config-name nothing init.rules.he") == ["init.rules.head."]


def explained(words: list[str]) -> dict[str, str]:
    return dict(candidates(words, *parsers()))


def test_candidates_are_explained() -> None:
    told = explained(["plan", "init.rules.bias."])
    assert told["init.rules.bias.glob="] == "A pattern with `*`, `?`, `[...]` for the whole name."
    assert explained(["plan", "init=he"])["init=he"].startswith("He et al., 2015 (arXiv:1502.01852): every layer keeps")
    assert explained(["plan", "init.initializer=zeros"])["init.initializer=zeros"] == "Every element is 0."
    assert explained(["plan", "init.rules.bias.role=state"])["init.rules.bias.role=state"].startswith("parameters of state")
    assert explained(["sho"]) == {"show": COMMANDS["show"].help}


# --- what cannot happen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("", ""),
        ("init=he", "init=he"),
        ("'init/rules=[ro", "init/rules=[ro"),
        ('"init=h', "init=h"),
        ("init/rules=\\[ro", "init/rules=[ro"),
        ("init.x='a b", "init.x=a b"),
        ("'", ""),
    ],
)
def test_quotes_may_be_open(word: str, read: str) -> None:
    assert unquoted(word) == read


PIECES = [
    "plan",
    "init",
    ".",
    "=",
    "rules",
    "head",
    "/",
    "@",
    "[",
    ",",
    "'",
    '"',
    "+",
    "~",
    "--model",
    "--save",
    ":",
    " ",
    "\\",
    "é",
    "\n",
    "-",
    "{",
]
WORDS = st.lists(st.one_of(st.lists(st.sampled_from(PIECES), max_size=7).map("".join), st.text(max_size=8)), max_size=4)


@given(words=st.one_of(WORDS, st.tuples(st.sampled_from(list(COMMANDS)), WORDS).map(lambda pair: [pair[0], *pair[1]])))
def test_nothing_fails_and_nothing_else_is_printed(words: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert complete(["--", *words], *parsers()) == 0
    assert err.getvalue() == ""
    lines = out.getvalue().split("\n")
    assert lines.pop() == ""
    assert all(line.count("\t") == 1 and not line.startswith("\t") for line in lines)


def test_broken_files_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "init" / "rules").mkdir(parents=True)
    for name, text in {
        "bad": b"rules: [",
        "list": b"- a",
        "bytes": b"\xff\xfe\x00",
        "round": b"defaults: [round]\ngain: 1",
    }.items():
        (tmp_path / "init" / f"{name}.yaml").write_bytes(text)
        assert main(["__complete", "--", "plan", "--config-dir", str(tmp_path), f"init={name}", "init.ga"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert out == "" if name == "round" else out.startswith("init.gain=\t")


def test_neither_torch_nor_hydra_is_loaded() -> None:
    lines = [
        ["pl"],
        ["plan", "init="],
        ["plan", "init.mode="],
        ["plan", "init.initializer="],
        ["plan", "init.rules.head.initializer."],
        ["list", ""],
    ]
    code = f"import sys\nfrom initconf.cli import main\nfor words in {lines}: main(['__complete', '--', *words])"
    code += "\nprint({'torch', 'hydra', 'omegaconf', 'rich'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr == "set()\n"
    assert "init.rules.head.initializer.nonlinearity=\t" in done.stdout


# --- the shells ------------------------------------------------------------------------------------------------------------

# The line up to the cursor, the words that bash makes of it, and its answers: what is to stand in place of the last word.
BASH = [
    ("initconf plan init.compat=", ["initconf", "plan", "init.compat", "="], ["torch", "null"]),
    ("initconf plan init.rules.he", ["initconf", "plan", "init.rules.he"], ["init.rules.head."]),
    ("initconf  plan --model cli_nets:N", ["initconf", "plan", "--model", "cli_nets", ":", "N"], ["Net"]),
    ("initconf plan +init/rules@init.rules=lo", ["initconf", "plan", "+init/rules", "@", "init.rules", "=", "lo"], ["lora"]),
    ("initconf plan init/rules=[ro", ["initconf", "plan", "init/rules", "=", "[ro"], ["\\[roles"]),
    ("initconf plan 'init.mode=fan_g", ["initconf", "plan", "'init.mode=fan_g"], ["init.mode=fan_geo_avg"]),
    ("initconf plan 'init/rules=[ro", ["initconf", "plan", "'init/rules=[ro"], ["init/rules=[roles", "init/rules=[roles..."]),
    ('initconf plan init="gl', ["initconf", "plan", "init", "=", '"gl'], ["glorot"]),
    ("initconf plan --save plans/", ["initconf", "plan", "--save", "plans/"], ["plans/old/", "plans/plan.json"]),
    ("initconf nonsense x", ["initconf", "nonsense", "x"], []),
]  # fmt: skip
ASK = r"""
source <(initconf completion bash)
ask() {
    COMP_LINE="$1 and more" COMP_POINT=${#1}
    shift
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
    _initconf
    printf '%s|' "${COMPREPLY[@]}"
    echo
}
"""


def test_bash_completes(folder: Path) -> None:
    def quoted(word: str) -> str:
        return "'" + word.replace("'", "'\\''") + "'"

    asked = "\n".join(f"ask {' '.join(map(quoted, [line, *words]))}" for line, words, _ in BASH)
    done = shell(ASK + asked, folder)
    assert done.stderr == ""
    for (line, _, answers), said in zip(BASH, done.stdout.splitlines(), strict=True):
        assert said == "".join(f"{answer}|" for answer in answers or [""]), line


def installed(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("bash", "-n"),
        pytest.param("zsh", "-n", marks=installed("zsh")),
        pytest.param("fish", "--no-execute", marks=installed("fish")),
    ],
    ids=["bash", "zsh", "fish"],
)
def test_scripts_are_scripts(name: str, check: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", name]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    done = subprocess.run([name, check, tmp_path / "script"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@installed("fish")
def test_fish_completes(folder: Path) -> None:
    def asked(line: str) -> list[str]:
        ask = "initconf completion fish | source; complete -C $argv[1]"
        done = shell(f"fish --no-config -c '{ask}' {line}", folder)
        assert done.stderr == ""
        return [one.partition("\t")[0] for one in done.stdout.splitlines()]

    assert asked('"initconf plan init=gl"') == ["init=glorot"]
    assert asked('"initconf plan \'init/rules=[no"') == ["init/rules=[none", "init/rules=[norms"]


TYPED = {
    "initconf pl": "[initconf][plan]",
    "initconf plan init=gl": "[initconf][plan][init=glorot]",
    "initconf plan --model cli_nets:N": "[initconf][plan][--model][cli_nets:Net]",
    "initconf plan init.rules.he": "[initconf][plan][init.rules.head.]",
    "initconf plan 'init.mode=fan_g": "[initconf][plan][init.mode=fan_geo_avg]",
    "initconf plan +init/rules@init.rules=lo": "[initconf][plan][+init/rules@init.rules=lora]",
}
SHELLS = {
    "bash": ("bash --norc --noprofile", "bind 'set enable-bracketed-paste off'; source <(initconf completion bash)"),
    "zsh": ("zsh -f", "unset zle_bracketed_paste; autoload -Uz compinit; compinit -u -D; source <(initconf completion zsh)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bash", pytest.param("zsh", marks=installed("zsh"))])
def test_a_key_is_pressed(name: str, folder: Path) -> None:
    """In a real terminal: what is typed, a press of the tab key, and the words that a command then gets."""
    pexpect = pytest.importorskip("pexpect")
    command, prepare = SHELLS[name]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TERM": "dumb", "HOME": str(folder)}
    child = pexpect.spawn(command, env=environment, cwd=folder, encoding="utf-8", timeout=60, dimensions=(50, 250))
    child.sendline(f"PS1=; {prepare}; show() {{ printf '[%s]' \"$@\"; echo \" shown\"; }}; echo rea''dy")
    child.expect("ready")
    for line, words in TYPED.items():
        child.send(f"{line}\t")
        child.expect_exact(words.rpartition("[")[2].strip("]")[-3:])  # it is there
        child.send("\x01show \r")
        child.expect(r"\r?\n(\[.*\]) shown")
        assert child.match[1] == words
    child.close(force=True)

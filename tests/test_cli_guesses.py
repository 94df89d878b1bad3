"""`plan --strict`: what was guessed, and words that say it; `--example`: an input for `nonlinearity: auto`."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import initconf
from initconf.cli.guesses import Guess, guesses
from initconf.cli.inputs import read_sites
from initconf.layouts import layout
from tests.small_models import gpt

pytestmark = pytest.mark.usefixtures("here")


# --- plan --strict ---------------------------------------------------------------------------------------------------------

MIXERS = ["plan", "--model", "cli_nets:mixers", "init=he"]
GUESSED = """\
3 problems:
- 0.mix, 2.mix: role weight and axes out 0, in 1 are a guess: no known layout of cli_nets.Mixer says it
    -> declare what is right; what was guessed is 'init.layouts.Mixer={module: Mixer, axes: {out: 0, in: 1}}' \
(in YAML the same under `layouts`), or register one with @initconf.layout(Mixer)
- 0.gamma, 2.gamma: role gate_scale is a guess: no known layout of cli_nets.Mixer says it
    -> declare what is right; what was guessed is \
'init.layouts.Mixer_gamma={module: Mixer, glob: "*.gamma", role: gate_scale}' \
(in YAML the same under `layouts`), or register one with @initconf.layout(Mixer)
- 0.bias, 2.bias: role bias is a guess: no known layout of cli_nets.Mixer says it
    -> declare what is right; what was guessed is 'init.layouts.Mixer_bias={module: Mixer, glob: "*.bias", role: bias}' \
(in YAML the same under `layouts`), or register one with @initconf.layout(Mixer)
"""
SAID = [
    "init.layouts.Mixer={module: Mixer, axes: {out: 0, in: 1}}",
    'init.layouts.Mixer_gamma={module: Mixer, glob: "*.gamma", role: gate_scale}',
    'init.layouts.Mixer_bias={module: Mixer, glob: "*.bias", role: bias}',
]


def test_strict_refuses_guesses_and_says_what_to_declare(run: Any) -> None:
    plain, strict = run(*MIXERS), run(*MIXERS, "--strict")
    assert (plain.code, strict.code) == (0, 1)
    assert strict.out == plain.out
    assert strict.err == plain.err + GUESSED
    declared = run(*MIXERS, "--strict", *SAID)
    assert (declared.code, declared.err) == (0, "")
    assert [line.split() for line in declared.lines[:-1]] == [line.replace("~", "").split() for line in plain.lines[:-1]]


def test_a_plan_without_guesses_passes(run: Any) -> None:
    words = ["plan", "--model", "cli_nets:ready", "init=he", "--json"]
    strict, plain = run(*words, "--strict"), run(*words)
    assert (strict.code, strict.err, plain.err) == (0, "", "")
    assert json.loads(strict.out) == json.loads(plain.out) | {"problems": []}


def test_the_same_in_yaml(run: Any, tmp_path: Path) -> None:
    lines = [line.removeprefix("init.layouts.").replace("=", ": ", 1) for line in SAID]
    (tmp_path / "mine.yaml").write_text("defaults: [he]\nlayouts:\n" + "".join(f"  {line}\n" for line in lines))
    done = run("plan", "--model", "cli_nets:mixers", f"init={tmp_path / 'mine.yaml'}", "--strict")
    assert (done.code, done.err) == (0, "")


def test_strict_as_json(run: Any) -> None:
    done = run(*MIXERS, "--strict", "--json")
    assert done.code == 1
    assert done.err.endswith(GUESSED)
    data = json.loads(done.out)
    assert initconf.Plan.from_dict(data)["0.mix"].assumed == ("role", "layout")
    assert [(row["parameters"], row["override"]) for row in data["problems"]] == [
        (["0.mix", "2.mix"], f"'{SAID[0]}'"),
        (["0.gamma", "2.gamma"], f"'{SAID[1]}'"),
        (["0.bias", "2.bias"], f"'{SAID[2]}'"),
    ]
    assert data["problems"][0] | {"remedy": ""} == {
        "path": "0.mix, 2.mix",
        "text": "role weight and axes out 0, in 1 are a guess: no known layout of cli_nets.Mixer says it",
        "value": None,
        "source": None,
        "remedy": "",
        "parameters": ["0.mix", "2.mix"],
        "override": f"'{SAID[0]}'",
        "declaration": {"layouts": {"Mixer": {"module": "Mixer", "axes": {"out": 0, "in": 1}}}},
    }


def test_strict_with_check_and_save(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    done = run(*MIXERS, "--strict", "--save", str(file))
    assert (done.code, file.exists()) == (1, False)
    assert "the plan is not saved: it has guesses\n" in done.err
    run(*MIXERS, "--save", str(file))
    done = run(*MIXERS, "--strict", "--check", str(file))
    assert (done.code, done.out.partition(":")[0]) == (1, "no difference")
    assert done.err.endswith(GUESSED)
    done = run(*MIXERS, "--strict", "--check", str(file), "--json", "seed=1")
    data = json.loads(done.out)
    assert (done.code, data["equal"], len(data["problems"])) == (1, False, 3)
    done = run(*MIXERS, "--strict", "--save", str(file), *SAID)
    assert (done.code, done.err) == (0, f"the plan is in {file}\n")
    assert run(*MIXERS, "--strict", "--check", str(file), *SAID).code == 0


def test_an_application(run: Any) -> None:
    words = ["plan", "--model", "cli_nets:mixers", "--config-dir", "conf", "--config-name", "config", "--strict", "--json"]
    bent = ["init.unmatched=keep", "init.gain=1"]
    done = run(*words, *bent)
    overrides = [shlex.split(row["override"])[0] for row in json.loads(done.out)["problems"]]
    assert (done.code, overrides) == (1, SAID)
    assert run(*words, *bent, *overrides).code == 0
    done = run(*words, "--node", "generator.init")
    (said, *_) = [row["override"] for row in json.loads(done.out)["problems"]]
    assert said == "'generator.init.layouts.Mixer={module: Mixer, axes: {out: 0, in: 1}}'"


# --- the words make the plan clean, and change nothing else ----------------------------------------------------------------


class Fused(nn.Module):
    """What is registered, with a part that is a guess; and a matrix beside a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Parameter(torch.empty(12, 4))
        self.w1, self.w2 = nn.Parameter(torch.empty(4, 4)), nn.Parameter(torch.empty(4, 4, 3))
        self.cls_token = nn.Parameter(torch.empty(1, 1, 4))


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(12, 4))


class RowsEmbedding(Rows):
    """Read as an embedding because of its name."""


class Other:
    class Rows(Rows):
        """Of the same bare name, with a vector beside the matrix."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.empty(4))

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 4))


def listed_parameters() -> nn.Module:
    net = nn.Module()
    net.many = nn.ParameterList([torch.empty(3, 3) for _ in range(12)] + [torch.empty(3)])
    net.named = nn.ParameterDict({"a-b": torch.empty(2, 2), "x y": torch.empty(3), "q'": torch.empty(3), "5": torch.empty(3)})
    net.alone = nn.Parameter(torch.empty(3, 4))
    return net


def tied_to_a_guess() -> nn.Module:
    net = nn.ModuleDict({"wte": RowsEmbedding(), "head": nn.Linear(4, 12, bias=False)})
    net["head"].weight = net["wte"].weight  # type: ignore[index,union-attr]
    return net


def two_of_a_name() -> nn.Module:
    return nn.Sequential(Rows(), Other.Rows(), nn.Sequential(Rows()))


def named_as_torchs() -> nn.Module:
    return nn.Sequential(Other.Linear(), nn.Linear(4, 4))


def fused() -> nn.Module:
    return nn.ModuleList([Fused(), Fused(), nn.Linear(4, 4)])


def apart(plan: initconf.Plan) -> dict[str, Any]:
    """A plan without its marks, and without the names of rules."""

    def strip(entry: dict[str, Any]) -> dict[str, Any]:
        entry = {key: value for key, value in entry.items() if key not in ("assumed", "fed_by", "rule")}
        return entry | {"blocks": [strip(block) for block in entry["blocks"]]}

    return {entry["name"]: strip(entry) for entry in plan.to_dict()["parameters"]}


def said_of(model: nn.Module, spec: Any, example: Any = None) -> tuple[initconf.Plan, list[Guess]]:
    plan = initconf.compile(model, spec, example=example)
    return plan, guesses(model, spec, read_sites(model, spec), plan)


def assert_mended(model: nn.Module, words: list[str], example: Any = None) -> list[str]:
    """The guesses of a plan cover its marks; with all that is proposed there are none, and nothing else has changed."""
    spec = initconf.load("lecun", words)
    plan, found = said_of(model, spec, example)
    marked = {entry.name for entry in plan if any(leaf.assumed for leaf in entry.leaves())}
    assert {label.partition("[")[0] for guess in found for label in guess.parameters} == marked != set()
    overrides = [word for guess in found for word in shlex.split(guess.override)]
    again, left = said_of(model, initconf.load("lecun", [*words, *overrides]), example)
    assert left == []
    assert not any(leaf.assumed for leaf in again.leaves())
    assert apart(again) == apart(plan)
    data = spec.model_dump(exclude_defaults=True)
    for guess in found:  # the same as data
        for kind, said in guess.declaration.items():
            there = data.setdefault(kind, {})
            there |= {name: (there.get(name) or {}) | body for name, body in said.items()}
    assert apart(initconf.compile(model, data, example=example)) == apart(plan)
    return overrides


SHORT = {
    listed_parameters: [
        "init.layouts.Module_alone={glob: alone, role: weight, axes: {out: 0, in: 1}}",
        "init.layouts.ParameterList={module: ParameterList, axes: {out: 0, in: 1}}",
        'init.layouts.ParameterList_12={module: ParameterList, glob: "*.12", role: other}',
        'init.layouts.ParameterDict_other={module: ParameterDict, match: "(.*[.])?(5|q.|x[ ]y)", role: other}',
        "init.layouts.ParameterDict={module: ParameterDict, axes: {out: 0, in: 1}}",
    ],
    tied_to_a_guess: ["init.layouts.RowsEmbedding={module: RowsEmbedding, role: embedding, axes: {out: 1, in: [], batch: 0}}"],
    two_of_a_name: [
        "init.layouts.Rows={module: Rows, axes: {out: 0, in: 1}}",
        'init.layouts.Rows_scale={module: Rows, glob: "*.scale", role: gate_scale}',
    ],
    named_as_torchs: [f"init.layouts.Linear={{module: {__name__}.Other.Linear, axes: {{out: 0, in: 1}}}}"],
    fused: [
        'init.layouts.Fused_weight={module: Fused, match: "(.*[.])?(qkv|w1|w2)", role: weight, axes: {out: 0, in: 1}}',
        'init.layouts.Fused_cls_token={module: Fused, glob: "*.cls_token", role: embedding, '
        "axes: {out: 2, in: [], batch: [0, 1]}}",
    ],
}


@pytest.mark.parametrize("make", SHORT, ids=[make.__name__ for make in SHORT])
def test_declarations_mend_and_change_nothing(make: Any) -> None:
    assert assert_mended(make(), ["rules.head=null"]) == SHORT[make]


def test_declarations_are_whole_where_torchs_fans_are_asked_for() -> None:
    assert assert_mended(tied_to_a_guess(), ["rules.head=null", "compat=torch"]) == SHORT[tied_to_a_guess]


def test_a_registered_layout_may_be_a_guess() -> None:
    @layout(Fused)
    def _(module: nn.Module, name: str, parameter: torch.Tensor) -> initconf.Layout | None:
        blocks = ("q", "k", "v")
        return initconf.Layout(block_names=blocks, block_sizes=(6, 4, 2), assumed=("layout",)) if name == "qkv" else None

    assert assert_mended(fused(), [])[0] == (
        'init.layouts.Fused_qkv={module: Fused, glob: "*.qkv", role: weight, axes: {out: 0, in: 1}, '
        "blocks: {axis: 0, names: [q, k, v], sizes: [6, 4, 2]}}"
    )


def test_what_is_declared_already_stays() -> None:
    """A declaration of some is not overruled by that of the rest, and its name is not taken."""
    words = ['layouts.Fused_weight={glob: "0.w?", axes: {out: 1, in: 0}}']
    assert assert_mended(fused(), words)[0] == (
        'init.layouts.Fused_weight_2={match: "(0[.]qkv|1[.]qkv|1[.]w1|1[.]w2)", role: weight, axes: {out: 0, in: 1}}'
    )


# --- nonlinearity: auto ----------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.b(self.a(x).relu())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


AUTO = ["--model", "cli_nets:Branching", "init=lecun", "nonlinearity=auto"]
FED = 'init.rules.fed_linear={match: "(blocks[.]1[.]a[.]weight|blocks[.]2[.]a[.]weight)", nonlinearity: linear}'
HEAD = 'init.rules.fed_linear_2={match: "head[.]weight", '


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        ([], [FED, HEAD + "nonlinearity: linear}"]),
        (
            ["rules.head.gain=1/2", "rules.head.expect=1", "rules.head.priority=2"],
            [FED, HEAD + 'gain: "1/2", nonlinearity: linear, priority: 2}', "init.rules.head.expect=null"],
        ),
        (
            ["rules.head.initializer={name: orthogonal, nonlinearity: auto, gain: 2}"],
            [FED, HEAD + "initializer: {name: orthogonal, gain: 2}, nonlinearity: linear}"],
        ),
    ],
    ids=["scheme", "expect", "mapping"],
)
def test_rules_mend_and_change_nothing(words: list[str], overrides: list[str]) -> None:
    assert assert_mended(Residual(), ["nonlinearity=auto", *words]) == overrides


def test_blocks_that_are_served_apart() -> None:
    """One rule serves two gates of three; the third is left to the scheme."""
    model = nn.Sequential(nn.GRU(4, 4, batch_first=True))
    words = ["nonlinearity=auto", 'rules.x={search: weight_hh, block: "[rn]", initializer: orthogonal}', "rules.recurrent=null"]
    words += ["rules.z={search: weight_hh, block: z, initializer: zeros}"]
    overrides = assert_mended(model, words, torch.zeros(1, 2, 4))
    assert overrides == [
        f'init.rules.fed_tanh{n}={{match: "0[.]weight_hh_l0", block: {block}, initializer: orthogonal, nonlinearity: tanh}}'
        for n, block in (("", "r"), ("_2", '"n"'))
    ]


def test_attention() -> None:
    assert assert_mended(gpt(), ["nonlinearity=auto"], torch.zeros(1, 6, dtype=torch.long)) == [
        'init.rules.fed_linear={match: "blocks[.][0-9]+[.]attn[.]out_proj[.]weight", nonlinearity: linear}'
    ]


def test_strict_names_the_activation(run: Any) -> None:
    words = [
        "plan",
        "--model",
        "cli_nets:Branching",
        "init=lecun",
        "nonlinearity=auto",
        "--example",
        "cli_nets:batch",
        "--strict",
    ]
    done = run(*words)
    assert (done.code, done.err) == (
        1,
        "head.weight: nonlinearity linear is a guess: it is fed by a sum of the model's input and relu\n"
        "  -> declare what is right; what was guessed is "
        "'init.rules.fed_linear={match: \"head[.]weight\", nonlinearity: linear}' (in YAML the same under `rules`)\n",
    )
    done = run(*words, 'init.rules.fed_linear={match: "head[.]weight", nonlinearity: linear}')
    assert done.code == 0
    assert "warning: init.rules.head" not in done.err


# --- --example -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["batch", "positional", "keywords"])
def test_examples(name: str, run: Any) -> None:
    done = run("explain", "stem.weight", *AUTO, "--example", f"cli_nets:{name}", "--json")
    assert (done.code, done.err, json.loads(done.out)["fed_by"]) == (0, "", "the model's input")


def test_examples_for_plan_and_diff(run: Any) -> None:
    import cli_nets

    example = ["--example", "cli_nets:batch"]
    done = run("plan", *AUTO, *example)
    spec = initconf.load("lecun", ["nonlinearity=auto"])
    assert done.out == f"{initconf.compile(cli_nets.Branching(), spec, example=cli_nets.batch)}\n"
    sides = run("diff", "lecun", "lecun", *AUTO[:2], "nonlinearity=auto", *example)
    assert (done.code, done.err, sides.code, sides.err) == (0, "", 0, "")


WRONG_EXAMPLES = {
    "cli_none:x": "--example = 'cli_none:x': there is no module 'cli_none'\n"
    "  -> modules are looked for in the current directory and among what is installed\n",
    "cli_broken:x": "--example = 'cli_broken:x'  (cli_broken.py:1): importing cli_broken failed: ModuleNotFoundError: "
    "No module named 'cli_nothing_such'\n",
    "cli_nets:bach": "--example = 'cli_nets:bach': cli_nets has no 'bach'\n  -> did you mean 'batch' or 'no_batch'?\n",
    "cli_nets:no_batch": "--example = 'cli_nets:no_batch'  (cli_nets.py:80): calling it failed: OSError: the data are gone\n",
    "cli_nets:stops": "--example = 'cli_nets:stops'  (cli_nets.py:39): calling it failed: SystemExit: usage: train.py\n",
    "cli_nets:seven": "--example = 'cli_nets:seven': seven() is no input of a model: its type is int\n"
    "  -> give a tensor, a tuple of positional inputs, or a mapping of inputs by keyword\n",
    "cli_nets:ready": "--example = 'cli_nets:ready': ready is no input of a model: its type is Net\n"
    "  -> give a tensor, a tuple of positional inputs, or a mapping of inputs by keyword\n",
    "cli_nets:too_wide": "--example = 'cli_nets:too_wide'  (cli_nets.py:65): the model cannot be run on it, {x: float32 2x5}: "
    "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x5 and 4x4)\n",
    "cli_nets:on_nothing": "--example = 'cli_nets:on_nothing': it is on meta, and the model on cpu\n"
    "  -> give both the same device\n",
}


@pytest.mark.parametrize("name", WRONG_EXAMPLES)
def test_wrong_examples(name: str, run: Any) -> None:
    done = run("plan", *AUTO, "--example", name, "--json")
    assert (done.code, done.out, done.err) == (1, "", WRONG_EXAMPLES[name])


def test_other_problems_are_said_beside_that_of_the_example(run: Any) -> None:
    done = run("plan", *AUTO, "--example", "cli_nets:too_wide", "rules.x.glob=y", "rules.x.gain=2")
    first, second, *_ = done.err.splitlines()[1:]
    assert first.startswith("- --example = 'cli_nets:too_wide'  (cli_nets.py:65): the model cannot be run on it")
    assert second.startswith("- init.rules.x  (override 'init.rules.x.gain=2'): it matches nothing")


def test_a_model_that_needs_an_example_says_so(run: Any) -> None:
    done = run("plan", *AUTO)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "init.initializer  (initconf/conf/init/lecun.yaml:7): stem.weight, head.weight: variance_scaling cannot serve it: "
        "the activation that feeds it is not known: the model cannot be traced without an example input "
        "(symbolically traced variables cannot be used as inputs to control flow)\n"
        "  -> name an input that the model takes, --example PKG.MOD:NAME; or name the activation\n"
    )


def test_an_example_for_nothing_is_said(run: Any) -> None:
    words = ["--model", "cli_nets:Branching", "--example", "cli_nets:batch"]
    said = "warning: --example: no parameter asks for nonlinearity: auto, so that the model was not run on it\n"
    for command in (["plan", "init=lecun"], ["explain", "stem.weight", "init=lecun"]):
        done = run(*command, *words)
        assert (done.code, done.err) == (0, said)


def test_an_example_is_named_by_module_and_name(run: Any) -> None:
    done = run("plan", *AUTO, "--example", "cli_nets")
    assert (done.code, done.out) == (2, "")
    text = "--example cli_nets: write package.module:name, the name of an input, or a function that gives one"
    assert done.err.endswith(f"initconf plan: error: {text}\n")

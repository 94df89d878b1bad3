"""`initconf verify`: checkpoints, models and plans, what is said of each, and with which exit code."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import initconf
from tests.command_line import Run, net, planned, user

pytestmark = pytest.mark.usefixtures("here")


State = dict[str, Tensor]
VALUES = """
import initconf
from cli_nets import Net

def written(seed=0):
    return initconf.initialize(Net(), initconf.load("he", [f"seed={seed}"])).model

def nudged():
    net = written()
    net.blocks[0].bias.data[3] = 0.5
    return net
"""


class Payload:
    """What a pickle may hold: a call."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("it_ran"),)


@pytest.fixture(scope="module")
def state() -> State:
    model = initconf.initialize(net(), "he").model
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    for path in user(tmp_path_factory.mktemp("user")):
        (path / "cli_values.py").write_text(VALUES)
        planned().save(path / "plan.json")
        yield path


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *words: Run(capsys, "verify", *words)


PLAN = ["--plan", "plan.json"]
EQUAL = "8 parameters and blocks: 8 equal bit for bit\n"


# --- checkpoints that are right --------------------------------------------------------------------------------------------


def in_halves(state: State, ending: str, save: Callable[[State, str], None]) -> str:
    """Two files and their index."""
    names = list(state)
    parts = {f"a{ending}": names[:3], f"b{ending}": names[3:]}
    for file, part in parts.items():
        save({name: state[name] for name in part}, file)
    where = {name: file for file, part in parts.items() for name in part}
    Path(f"model{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return f"model{ending}.index.json"


def saved(kind: str, state: State) -> str:
    """The name of the file that holds the state now."""
    if kind == "safetensors":
        save_file(state, "x.safetensors")
        return "x.safetensors"
    if kind == "index of safetensors":
        return in_halves(state, ".safetensors", save_file)
    if kind == "index of torch":
        return in_halves(state, ".bin", torch.save)
    held = {"torch": state, "under state_dict": {"state_dict": state, "epoch": 0}, "under model": {"model": state, "step": 1}}
    torch.save(held[kind], "x.pt")
    return "x.pt"


@pytest.mark.parametrize(
    "kind", ["safetensors", "torch", "under state_dict", "under model", "index of safetensors", "index of torch"]
)
def test_what_was_written_is_equal_in_every_kind_of_file(kind: str, state: State, verify: Any) -> None:
    done = verify("--checkpoint", saved(kind, state), *PLAN)
    assert (done.code, done.out, done.err) == (0, EQUAL, "")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda s: {f"module.{n}": t for n, t in s.items()}, "the names there begin with 'module.'"),
        (lambda s: {f"net.model.{n}": t for n, t in s.items()}, "the names there begin with 'net.model.'"),
        (lambda s: {**s, "ema": torch.ones(2), "step": torch.ones(())}, "the plan does not know ema, step"),
    ],
    ids=["DataParallel", "a part of another model", "more than the model"],
)
def test_what_is_odd_is_warned_of(change: Callable[[State], State], note: str, state: State, verify: Any) -> None:
    save_file(change(state), "x.safetensors")
    done = verify("--checkpoint", "x.safetensors", *PLAN)
    assert (done.code, done.out, done.err) == (0, EQUAL, f"warning: {note}\n")


# --- and those that are not ------------------------------------------------------------------------------------------------


def without(state: State, name: str) -> State:
    return {other: tensor for other, tensor in state.items() if other != name}


def changed(state: State, name: str, change: Callable[[Tensor], Tensor]) -> State:
    return {**state, name: change(state[name].clone())}


@pytest.mark.parametrize(
    ("change", "row"),
    [
        (lambda s: changed(s, "norm.weight", lambda t: t * 2), "norm.weight  differs  element 0 is 2, and the plan's is 1"),
        (lambda s: changed(s, "blocks.0.bias", lambda t: t + 1), "blocks.0.bias  differs  element 0 is 1, and the plan's is 0"),
        (lambda s: changed(s, "head.weight", lambda t: t[:, :7]),
         "head.weight  differs  its shape is (5, 7), and the plan's (5, 8)"),
        (lambda s: without(s, "norm.bias"), "norm.bias  differs  it is not there"),
        (lambda s: changed(s, "emb.weight", lambda t: t.index_fill(0, torch.tensor([0]), 3)),
         "emb.weight  differs  element 0 is 3, and the plan's is 0"),
    ],
    ids=["a norm", "a bias", "a shape", "a name", "a padding row"],
)  # fmt: skip
def test_what_differs(change: Callable[[State], State], row: str, state: State, verify: Any) -> None:
    save_file({name: tensor.contiguous() for name, tensor in change(state).items()}, "x.safetensors")
    done = verify("--checkpoint", "x.safetensors", *PLAN)
    assert (done.code, done.err) == (1, "")
    assert [re.sub(r"  +", "  ", line) for line in done.lines] == [
        "parameter  verdict  note",
        row,
        "8 parameters and blocks: 7 equal bit for bit, 1 different",
    ]


def test_rounding_is_no_difference(state: State, verify: Any) -> None:
    def nudged(tensor: Tensor) -> Tensor:
        tensor.view(torch.int32).view(-1)[2] += 1
        return tensor

    save_file(changed(state, "head.weight", nudged), "x.safetensors")
    done = verify("--checkpoint", "x.safetensors", *PLAN)
    assert (done.code, done.lines[-1]) == (0, "8 parameters and blocks: 7 equal bit for bit, 1 equal but for rounding")
    assert re.fullmatch(r"head\.weight +close +to [01](\.\d+)? units in the last place", done.lines[1])


def test_what_the_plan_alone_cannot_know(state: State, verify: Any) -> None:
    bent = ["rules.x={glob: head.*, initializer: keep}", "rules.norm_scale.initializer=module_default"]
    planned(*bent).save("kept.json")
    save_file(state, "x.safetensors")
    done = verify("--checkpoint", "x.safetensors", "--plan", "kept.json")
    assert (done.code, done.lines[-1]) == (0, "8 parameters and blocks: 6 equal bit for bit, 2 not known from the plan alone")
    assert re.search(r"^head\.weight +not known +keep depends on more than the plan$", done.out, re.MULTILINE)


def test_json(state: State, verify: Any) -> None:
    save_file(changed(state, "norm.bias", lambda t: t + 1), "x.safetensors")
    done = verify("--checkpoint", "x.safetensors", *PLAN, "--json")
    data = json.loads(done.out)
    assert (done.code, done.err, data["ok"], data["notes"]) == (1, "", False, [])
    assert data["counts"] == {"equal": 7, "close": 0, "differs": 1, "not known": 0}
    rows = {row.pop("name"): row for row in data["parameters"]}
    assert list(rows) == [entry.name for entry in planned()]
    assert rows["norm.bias"] == {"verdict": "differs", "note": "element 0 is 1, and the plan's is 0"}
    save_file(state, "x.safetensors")
    assert json.loads(verify("--checkpoint", "x.safetensors", *PLAN, "--json").out)["ok"] is True


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("gone.pt", None, "there is no file gone.pt"),
        ("torn.safetensors", b"\x10\x00\x00", "torn.safetensors cannot be read: "),
        ("text.pt", b"hello", "text.pt is not a file of plain tensors ("),
        ("model.index.json", b"{}", "model.index.json is not an index of safetensors or torch files"),
        ("list.pt", [torch.ones(2)], "list.pt holds no mapping of names to tensors"),
        ("code.pt", {"x": Payload()}, "code.pt is not a file of plain tensors (UnpicklingError); nothing else is loaded"),
        ("pipe", None, "pipe is not a file"),
        ("conf", None, "conf is a folder with none of model.safetensors, model.safetensors.index.json, pytorch_model.bin, "),
        ("none.pt", {"epoch": 3, "args": {}}, "none.pt holds no mapping of names to tensors: it has epoch, args\n"),
    ],
)
def test_files_that_are_no_checkpoints(name: str, content: Any, text: str, verify: Any) -> None:
    if name == "pipe":
        os.mkfifo(name)  # whoever opens it waits for a writer, in vain
    if isinstance(content, bytes):
        Path(name).write_bytes(content)
    elif content is not None:
        torch.save(content, name)
    done = verify("--checkpoint", name, *PLAN, "--json")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"--checkpoint = {name!r}: {text}")
    assert not Path("it_ran").exists()


def test_a_remedy_is_a_line_of_its_own(verify: Any) -> None:
    torch.save({"net": {"w": torch.ones(2)}, "ema": {"w": torch.ones(2)}}, "two.pt")
    done = verify("--checkpoint", "two.pt", *PLAN)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "--checkpoint = 'two.pt': two.pt holds several mappings of tensors: net, ema\n"
        "  -> save the one that is meant in a file of its own, or under 'state_dict'\n"
    )


def test_another_dtype_is_told(state: State, verify: Any) -> None:
    save_file(changed(state, "head.weight", Tensor.bfloat16), "x.safetensors")
    done = verify("--checkpoint", "x.safetensors", *PLAN)
    assert (done.code, done.lines[-1]) == (0, "8 parameters and blocks: 7 equal bit for bit, 1 equal but for rounding")
    row = "head.weight  close  stored in bfloat16, planned in float32: the plan's values rounded to it"
    assert re.sub(r"  +", "  ", done.lines[1]) == row


def test_what_cannot_be_read_is_not_missing(state: State, verify: Any) -> None:
    torch.save(changed(state, "norm.bias", lambda t: t.to("meta")), "x.pt")
    done = verify("--checkpoint", "x.pt", *PLAN)
    assert (done.code, re.sub(r"  +", "  ", done.lines[1])) == (1, "norm.bias  differs  it is stored on meta, without values")


def test_a_checkpoint_of_another_model(verify: Any) -> None:
    save_file({"w": torch.ones(2)}, "x.safetensors")
    done = verify("--checkpoint", "x.safetensors", *PLAN)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "none of the plan's parameters is there: it has emb.weight, blocks.0.weight, blocks.0.bias and 5 more, "
        "and there are w\n"
    )


# --- plans -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("none.json", None, "there is no such file"),
        ("text.json", b"hello", "not a plan of initconf: it is not JSON"),
        ("binary.json", b"\x80\x02", "not a plan of initconf: it is not JSON"),
        ("list.json", b"[1]", "not a plan of initconf"),
        ("other.json", b"{}", "not a plan of initconf"),
        (
            "old.json",
            b'{"format": "initconf plan", "rng": 0}',
            "the plan was made for stream 0, and this version of initconf has",
        ),
        ("part.json", b'{"format": "initconf plan", "rng": 1}', "not a whole plan: 'parameters'"),
    ],
)
def test_files_that_are_no_plans(name: str, content: bytes | None, text: str, state: State, verify: Any) -> None:
    save_file(state, "x.safetensors")
    if content is not None:
        Path(name).write_bytes(content)
    done = verify("--checkpoint", "x.safetensors", "--plan", name)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"--plan = {name!r}: {text}")


def test_a_plan_on_standard_input(state: State, verify: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(state, "x.safetensors")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("plan.json").read_bytes())))
    assert verify("--checkpoint", "x.safetensors", "--plan", "-").out == EQUAL
    monkeypatch.setattr(sys, "stdin", None)
    done = verify("--checkpoint", "x.safetensors", "--plan", "-")
    assert (done.code, done.err.splitlines()[-1]) == (2, "initconf verify: error: -: there is no standard input")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("init=he --model cli_nets:ready", 0, EQUAL),
        ("init=he --model cli_nets:ready --device meta", 2, "initconf verify: error: --device: ready is a module already"),
        ("init=he --model cli_nets:build --device meta", 0, EQUAL),
        ("init=he seed=1 --model cli_nets:ready", 1, "8 parameters and blocks: 4 equal bit for bit, 4 different\n"),
        ("init=he --model cli_nets:ready nonlinearity=auto", 1, "without an example input"),
    ],
)
def test_a_scheme_in_place_of_a_plan(words: str, code: int, said: str, state: State, verify: Any) -> None:
    save_file(state, "x.safetensors")
    done = verify("--checkpoint", "x.safetensors", *words.split())
    assert done.code == code, done.err
    assert said in done.out + done.err


# --- models ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "last"),
    [
        ("--model cli_values:written", 0, EQUAL.strip()),
        ("--model cli_values:written --model-arg seed=1", 1, "8 parameters and blocks: 4 equal bit for bit, 4 different"),
        ("--model cli_values:nudged", 1, "8 parameters and blocks: 7 equal bit for bit, 1 different"),
        ("--model cli_nets:build", 1, "8 parameters and blocks: 2 equal bit for bit, 6 different"),
    ],
)
def test_models_as_they_are_built(words: str, code: int, last: str, verify: Any) -> None:
    done = verify(*words.split(), *PLAN)
    assert (done.code, done.lines[-1]) == (code, last), done.err
    done = verify(*words.split(), "init=he")
    assert (done.code, done.lines[-1]) == (code, last), done.err


def test_a_model_on_meta_has_nothing_to_verify(verify: Any) -> None:
    done = verify("--model", "cli_nets:Net", "--device", "meta", *PLAN)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "--model = 'cli_nets:Net': it has no values on meta: emb.weight, blocks.0.weight, blocks.0.bias and 5 more\n"
        "  -> --device cpu builds it with values; --checkpoint FILE verifies those of a file\n"
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("", "say what to verify: --checkpoint FILE, or --model PKG.MOD:NAME"),
        ("--plan plan.json", "say what to verify: --checkpoint FILE, or --model PKG.MOD:NAME"),
        ("--checkpoint x.safetensors", "the following arguments are required: --model"),
        ("--checkpoint x.safetensors --model cli_nets:ready", "no scheme is chosen: add init=NAME; there are: "),
        (
            "--checkpoint x.safetensors --plan plan.json init=he",
            "'init=he': a plan that is saved is not bent; give init=SCHEME and --model instead of --plan",
        ),
        ("--checkpoint x.safetensors --model cli_nets:ready he", "'he' is no override: did you mean init=he?"),
        ("--checkpoint x.safetensors --plan plan.json cli_nets:ready", "'cli_nets:ready' is no override: did you mean --model"),
        ("--chekpoint x.safetensors", "unrecognized arguments: --chekpoint; did you mean --checkpoint?"),
        ("--model cli_nets:Net --device mta init=he", "--device mta: write meta, cpu or cuda"),
    ],
)  # fmt: skip
def test_usage(words: str, text: str, verify: Any) -> None:
    done = verify(*words.split())
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith(f"initconf verify: error: {text}")

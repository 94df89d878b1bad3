"""`--model hf:KIND` with the real transformers: the class that is built, its size, and a plan that needs no memory."""

from __future__ import annotations

import json
import math
import socket
from typing import Any, NoReturn

import pytest

import initconf.survey  # noqa: F401 - it registers layouts, which are to outlive the first test
from initconf.cli import main

pytest.importorskip("transformers", minversion="5")


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> NoReturn:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refused)


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], str]:
    code = main(["plan", *words, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else {}, err


@pytest.mark.parametrize(
    ("model", "arguments", "values", "first"),
    [
        ("hf:gpt2", [], 124_439_808, "lm_head.weight"),
        ("hf:gpt2", ["n_layer=2", "n_embd=64", "n_head=4"], 3_382_080, "lm_head.weight"),
        ("hf:gpt2:GPT2Model", ["n_layer=1"], 46_473_216, "wte.weight"),
        ("hf:llama", [], 6_738_415_616, "model.embed_tokens.weight"),
        ("hf:bert", ["num_hidden_layers=1"], 32_139_836, "bert.embeddings.word_embeddings.weight"),
        ("hf:t5", [], 60_506_624, "decoder.embed_tokens.weight"),
        ("hf:vit", ["num_labels=10"], 85_806_346, "vit.embeddings.cls_token"),
        ("hf:llama4", [], 108_225_039_360, "vision_model.class_embedding"),  # made of a text and a vision model
    ],
)
def test_models(model: str, arguments: list[str], values: int, first: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for argument in arguments for word in ("--model-arg", argument)]
    code, plan, err = planned(capsys, "--model", model, *words, "init=he")
    assert code == 0, err
    count = sum(math.prod(entry["shape"]) for entry in plan["parameters"])
    assert (count, plan["parameters"][0]["name"]) == (values, first)


@pytest.mark.parametrize(
    ("model", "argument", "text"),
    [
        ("hf:gtp2", None, "did you mean hf:gpt2"),
        ("hf:openai-community/gpt2-xl", None, "did you mean hf:gpt2?"),
        ("hf:gpt2:GPT2Modle", None, "did you mean hf:gpt2:GPT2Model?"),
        ("hf:gpt2:LlamaModel", None, "LlamaModel is no model of the kind 'gpt2'"),
        ("hf:gpt2", "n_layers=2", "GPT2Config has no 'n_layers'\n  -> did you mean 'n_layer'?"),
        (
            "hf:gpt2",
            "n_layer=x",
            "building it failed: StrictDataclassFieldValidationError: Validation error for field 'n_layer': ",
        ),
    ],
)
def test_mistakes(model: str, argument: str | None, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model-arg", argument] if argument else []
    code, _, err = planned(capsys, "--model", model, *words, "init=he")
    assert (code, text in err) == (1, True), err

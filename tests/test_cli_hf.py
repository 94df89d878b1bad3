"""`--model hf:KIND`, with a package `transformers` that has just enough: its tables, two configurations, a few classes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Run, user

FILES = {
    "__init__.py": """
import os
assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
from .classes import *
""",
    "classes.py": """
import torch
from torch import nn

class Config:
    attribute_map = {"hidden_size": "n_embd"}
    def __init__(self, n_embd=4, n_layer=2, text=None, dtype=None, **others):
        if not isinstance(n_layer, int):
            raise TypeError("Wrong value for field 'n_layer':\\n    TypeError: expected int\\nand more")
        self.n_embd, self.n_layer, self.dtype = n_embd, n_layer, dtype and getattr(torch, dtype)
        vars(self).update(others)  # as transformers does: whatever it is called
    hidden_size = property(lambda self: self.n_embd)
    def to_dict(self):
        return {"n_embd": self.n_embd, "n_layer": self.n_layer, "dtype": self.dtype}

class GPT2Config(Config): pass
class LlamaConfig(Config): pass
class PairConfig(Config):
    def __init__(self, parts=None):
        if parts is None:
            raise ValueError("a pair has parts")
        super().__init__()
class LonelyConfig(Config): pass

class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.h = nn.ModuleList(nn.Linear(config.n_embd, config.n_embd) for _ in range(config.n_layer))

class GPT2Model(Model):
    config_class = GPT2Config
class GPT2LMHeadModel(GPT2Model): pass
class LlamaModel(Model):
    config_class = LlamaConfig
class LlamaForCausalLM(LlamaModel): pass
class PairTextModel(Model):
    config_class = GPT2Config
class PairModel(Model):
    config_class = PairConfig

class NeedsValues(GPT2Model):
    def __init__(self, config):
        super().__init__(config)
        self.rate = torch.linspace(0, 1, 2)[1].item()

class AutoModel:
    @classmethod
    def from_config(cls, config):
        return GPT2Model(config)

def from_pretrained(*args, **kwargs):
    raise AssertionError("the network was asked for")
""",
    "models/__init__.py": "",
    "models/auto/__init__.py": "",
    "models/auto/configuration_auto.py": """
from transformers import classes
CONFIG_MAPPING = {
    "gpt2": classes.GPT2Config, "llama": classes.LlamaConfig, "pair": classes.PairConfig, "lonely": classes.LonelyConfig
}
""",
    "models/auto/modeling_auto.py": """
CONFIG_MAPPING_NAMES = {"gpt2": "GPT2Config"}
MODEL_MAPPING_NAMES = {"gpt2": ("GPT2Model", "NeedsValues"), "llama": "LlamaModel", "pair": "PairModel"}
MODEL_FOR_PRETRAINING_MAPPING_NAMES = {"gpt2": "GPT2LMHeadModel"}
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "pair": "PairTextModel"}
MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES = {"gpt2": "GPT2ForTokenClassification"}
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    for path in user(tmp_path_factory.mktemp("user")):
        for name, text in FILES.items():
            (path / "transformers" / name).parent.mkdir(parents=True, exist_ok=True)
            (path / "transformers" / name).write_text(text)
        (path / "cli_inputs.py").write_text("import torch\nids = {'x': torch.zeros(1, 2, dtype=torch.long)}\n")
        yield path


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where the user stands, with no transformers but that one; those that were imported before are put back."""
    monkeypatch.chdir(folder)
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "transformers"}
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda model, *words: Run(capsys, "plan", "--model", model, "init=lecun", "init.rules.head=null", *words)


@pytest.mark.parametrize(
    ("model", "words", "parameters"),
    [
        ("hf:gpt2", (), 4),
        ("hf:gpt2", ("--model-arg", "n_layer=3"), 6),
        ("hf:gpt2", ("--model-arg", "hidden_size=8", "--model-arg", "n_layer=1"), 2),
        ("hf:gpt2:GPT2Model", (), 4),
        ("hf:gpt2:AutoModel", (), 4),
        ("hf:llama", ("--device", "cpu"), 4),
        ("hf:pair", ("--model-arg", "parts=[a,b]"), 4),
        ("hf:gpt2:NeedsValues", ("--device", "cpu"), 4),
    ],
)
def test_models_of_transformers(model: str, words: tuple[str, ...], parameters: int, plan: Any) -> None:
    before = dict(os.environ)
    done = plan(model, *words)
    assert (done.code, done.err) == (0, ""), done.err
    assert done.lines[-1].startswith(f"{parameters} parameters, ")
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("model", "made"),
    [
        ("hf:gpt2", "GPT2LMHeadModel"),
        ("hf:llama", "LlamaForCausalLM"),
        ("hf:gpt2:GPT2Model", "GPT2Model"),
        ("hf:pair", "PairModel"),  # the class of a task may take the configuration of a part
    ],
)
def test_which_class_is_built_and_where(model: str, made: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    from argparse import Namespace

    from initconf.cli.inputs import build_model

    monkeypatch.syspath_prepend(folder)
    arguments = ["parts=[a,b]"] if model == "hf:pair" else ["dtype=bfloat16"]
    built = build_model(Namespace(model=model, model_arg=arguments, device=None))
    assert type(built).__name__ == made
    (device, dtype) = {(str(p.device), str(p.dtype)) for p in built.parameters()}.pop()
    assert (device, dtype) == ("meta", "torch.float32" if model == "hf:pair" else "torch.bfloat16")


KINDS = "a kind is the `model_type` of a configuration, such as gpt2, llama or bert; sizes are said by --model-arg"
THOSE = "GPT2LMHeadModel, GPT2Model, NeedsValues, GPT2ForTokenClassification"


@pytest.mark.parametrize(
    ("model", "arguments", "text"),
    [
        ("hf:gtp2", "", f"transformers knows no kind of model called 'gtp2'\n  -> did you mean hf:gpt2? {KINDS}"),
        ("hf:a/Llama-2", "", f"transformers knows no kind of model called 'a/Llama-2'\n  -> did you mean hf:llama? {KINDS}"),
        ("hf:", "", f"transformers knows no kind of model called ''\n  -> {KINDS}"),
        ("hf:gpt2:GPT2Modle", "", "transformers has no class 'GPT2Modle'\n  -> did you mean hf:gpt2:GPT2Model?"),
        ("hf:gpt2:Xyz", "", f"transformers has no class 'Xyz'\n  -> those of gpt2 are {THOSE}"),
        ("hf:gpt2:LlamaModel", "", f"LlamaModel is no model of the kind 'gpt2'\n  -> those of gpt2 are {THOSE}"),
        ("hf:gpt2:GPT2Config", "", f"GPT2Config is no model of the kind 'gpt2'\n  -> those of gpt2 are {THOSE}"),
        ("hf:gpt2:from_pretrained", "", f"transformers has no class 'from_pretrained'\n  -> those of gpt2 are {THOSE}"),
        ("hf:lonely", "", "transformers has no model of the kind 'lonely' alone\n  -> name its class: hf:lonely:CLASS"),
        ("hf:pair", "", "building it failed: ValueError: a pair has parts"),
        ("hf:gpt2", "n_layer=x", "building it failed: TypeError: Wrong value for field 'n_layer': TypeError: expected int"),
        (
            "hf:gpt2:NeedsValues",
            "",
            "building it failed: RuntimeError: Tensor.item() cannot be called on meta tensors\n"
            "  -> --device cpu builds it with its values",
        ),
    ],
)  # fmt: skip
def test_what_there_is_not(model: str, arguments: str, text: str, plan: Any) -> None:
    done = plan(model, *(["--model-arg", arguments] if arguments else []))
    assert (done.code, done.out) == (1, "")
    place = "  (transformers/classes.py:" if "building it failed" in text else ""
    assert done.err.startswith(f"--model = {model!r}{place}")
    assert done.err.endswith(f": {text}\n")


def test_settings_that_a_configuration_does_not_have(plan: Any) -> None:
    done = plan("hf:gpt2", "--model-arg", "n_layers=2", "--model-arg", "hiden_size=2", "--model-arg", "xyz=1")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "3 problems:\n"
        "- --model-arg = n_layers=2: GPT2Config has no 'n_layers'\n    -> did you mean 'n_layer'?\n"
        "- --model-arg = hiden_size=2: GPT2Config has no 'hiden_size'\n    -> did you mean 'hidden_size'?\n"
        "- --model-arg = xyz=1: GPT2Config has no 'xyz'\n    -> its settings are those that transformers documents\n"
    )


def test_without_transformers(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    done = plan("hf:gpt2")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "--model = 'hf:gpt2': it needs the package transformers, which is not installed\n  -> pip install transformers\n"
    )


def test_what_keeps_its_values_is_built_with_them(plan: Any) -> None:
    keep = "init.rules.kept={glob: h.0.*, initializer: keep}"
    done = plan("hf:gpt2", keep)
    assert done.code == 1
    assert done.err.endswith("a parameter on meta has no values to keep\n  -> --device cpu builds it with its values\n")
    assert plan("hf:gpt2", keep, "--device", "cpu").code == 0


def test_an_example_goes_where_the_model_is(plan: Any) -> None:
    done = plan("hf:gpt2", "--example", "cli_inputs:ids")
    said = "warning: --example: no parameter asks for nonlinearity: auto, so that the model was not run on it\n"
    assert (done.code, done.err) == (0, said)

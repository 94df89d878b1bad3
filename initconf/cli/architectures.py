"""Models of Hugging Face transformers by the name of their kind, from its configuration class alone: nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from initconf.errors import InitConfError, Problem, near

PREFIX = "hf:"
_FIRST = ("PRETRAINING", "CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "IMAGE_CLASSIFICATION")
"""The tasks whose class is taken, the first that a kind has: for a `GPT2Config` that is `GPT2LMHeadModel`."""


def build(said: str, arguments: Mapping[str, Any]) -> Any:
    """The model that `hf:KIND` or `hf:KIND:CLASS` names, with the settings of its configuration.

    Raises InitConfError for a kind, a class or a setting that there is not, and where transformers is not installed; whatever
    the constructors raise passes.
    """
    kind, _, named = said.removeprefix(PREFIX).partition(":")
    with _offline():
        transformers = _transformers(said)
        models = vars(import_module("transformers.models.auto.modeling_auto"))
        configurations = import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
        if kind not in configurations:
            raise _unknown(said, kind, list(configurations.keys()))
        tables = {name: table for name, table in models.items() if name.startswith("MODEL") and name.endswith("_MAPPING_NAMES")}
        names = _classes(kind, tables)
        configuration = _configured(configurations[kind], arguments)
        chosen = _chosen(said, kind, named, names, configuration, transformers)
        if hasattr(chosen, "from_config"):  # an Auto class
            return chosen.from_config(configuration)
        model = chosen(configuration)
        return model.to(dtype) if (dtype := getattr(configuration, "dtype", None)) is not None else model


def _chosen(said: str, kind: str, named: str, names: list[str], configuration: Any, transformers: Any) -> Any:
    """The class that is named, or the first of `names` that takes the configuration."""

    def refused(text: str, remedy: str) -> InitConfError:
        return InitConfError(Problem(text, "--model", repr(said), None, remedy))

    if not named:
        classes = [found for name in names if isinstance(found := getattr(transformers, name, None), type)]
        if not classes:
            raise refused(f"transformers has no model of the kind {kind!r} alone", f"name its class: {PREFIX}{kind}:CLASS")
        # A kind that is made of others may stand in a table with a class for one of its parts.
        return next((one for one in classes if _takes(one, configuration)), classes[0])
    found = getattr(transformers, named, None)
    those = f"those of {kind} are {', '.join(names)}"
    if not isinstance(found, type):
        close = near(named, names, 1)
        remedy = f"did you mean {PREFIX}{kind}:{close[0]}?" if close else those
        raise refused(f"transformers has no class {named!r}", remedy)
    if named not in names and not hasattr(found, "from_config") and not _takes(found, configuration):
        raise refused(f"{named} is no model of the kind {kind!r}", those)
    return found


def _takes(made: type, configuration: Any) -> bool:
    wants = getattr(made, "config_class", None)
    return wants is not None and isinstance(configuration, wants)


@contextmanager
def _offline() -> Iterator[None]:
    """Nobody asks the network meanwhile: neither the import of transformers nor a constructor."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _transformers(said: str) -> Any:
    try:
        return import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        text = "it needs the package transformers, which is not installed"
        raise InitConfError(Problem(text, "--model", repr(said), None, "pip install transformers")) from None


def _unknown(said: str, kind: str, known: list[str]) -> InitConfError:
    text = f"transformers knows no kind of model called {kind!r}"
    remedy = "a kind is the `model_type` of a configuration, such as gpt2, llama or bert; sizes are said by --model-arg"
    plain = kind.rpartition("/")[2].lower()  # somebody may have written the name of a checkpoint: meta-llama/Llama-2-7b
    if close := near(plain, known) or sorted((one for one in known if plain.startswith(one)), key=len, reverse=True):
        remedy = f"did you mean {' or '.join(PREFIX + one for one in close[:3])}? {remedy}"
    return InitConfError(Problem(text, "--model", repr(said), None, remedy))


def _classes(kind: str, tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of the classes for a kind of model, that first which is taken where none is named."""
    order = [*(f"MODEL_FOR_{task}_MAPPING_NAMES" for task in _FIRST), "MODEL_MAPPING_NAMES", *sorted(tables)]
    found = [tables[task][kind] for task in order if kind in tables.get(task, {})]
    names = [name for one in found for name in ([one] if isinstance(one, str) else one)]
    return list(dict.fromkeys(names))


def _configured(kind: Any, arguments: Mapping[str, Any]) -> Any:
    """The configuration, whose class would take any name whatever without a word."""
    try:
        default = kind()
    except Exception:  # noqa: BLE001 - one that is made of others has no defaults; its own constructor speaks of what is given
        return kind(**arguments)
    problems = []
    for name, value in arguments.items():
        if not hasattr(default, name):
            close = near(name, [*default.to_dict(), *getattr(kind, "attribute_map", {})], 1)
            remedy = f"did you mean {close[0]!r}?" if close else "its settings are those that transformers documents"
            problems.append(Problem(f"{kind.__name__} has no {name!r}", "--model-arg", f"{name}={value}", None, remedy))
    if problems:
        raise InitConfError(problems)
    return kind(**arguments) if arguments else default

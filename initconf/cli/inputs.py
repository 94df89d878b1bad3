"""What the commands work on: the spec, the model and the modules that the command line names."""

from __future__ import annotations

import os
import re
import traceback
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from initconf.errors import InitConfError, Problem, near

if TYPE_CHECKING:
    from torch import nn

    from initconf.spec import InitSpec

_CHOICE = re.compile(r"\+{0,2}init=(?P<scheme>.*)", re.DOTALL)


class Usage(Exception):
    """The command line itself is wrong; the text says what to type instead."""


def is_override(word: str) -> bool:
    """Whether a word is a Hydra override: `key=value`, `~key`."""
    return "=" in word or word.startswith("~")


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names and overrides, which stand among each other."""
    return [w for w in words if not is_override(w)], [w for w in words if is_override(w)]


def import_modules(args: Namespace) -> None:
    """The modules of `--import`, which register what they define."""
    for name in args.imports:
        _imported(name, "--import", name)


# --- the spec --------------------------------------------------------------------------------------------------------------


def read_spec(args: Namespace, overrides: Sequence[str]) -> InitSpec:
    """The spec that the overrides choose and bend; of a whole application's configuration with `--config-name`."""
    from initconf.loading import load, load_application

    if args.config_name is not None:
        if args.config_dir is None:
            raise Usage("--config-name needs --config-dir DIR, the folder of your application's configuration")
        return load_application(args.config_dir, args.config_name, overrides, node=args.node or "init")
    if args.node is not None:
        raise Usage("--node goes with --config-name")
    chosen, rest = choice(overrides)
    if chosen is None:
        raise Usage(f"no scheme is chosen: add init=NAME; there are: {', '.join(known_schemes(args))}")
    return load(chosen, rest, config_dir=args.config_dir)


def choice(overrides: Sequence[str]) -> tuple[str | None, list[str]]:
    """The scheme that the last `init=...` chooses, and the other overrides."""
    found = [match["scheme"] for word in overrides if (match := _CHOICE.fullmatch(word))]
    return (found[-1] if found else None), [word for word in overrides if not _CHOICE.fullmatch(word)]


def known_schemes(args: Namespace) -> list[str]:
    """The names that `init=` may have."""
    from initconf.loading import schemes

    return schemes(args.config_dir)


def only_overrides(words: Sequence[str]) -> list[str]:
    """The words, all of which must be overrides."""
    names, overrides = split_words(words)
    if names:
        raise Usage(f"{names[0]!r} is no override: write key=value, such as init=he or init.gain=0.5")
    return overrides


# --- the model -------------------------------------------------------------------------------------------------------------


def require_model(args: Namespace) -> None:
    """Said before anything is done that takes time."""
    if args.model is None:
        raise Usage("the following arguments are required: --model")


def build_model(args: Namespace) -> nn.Module:
    """The model of `--model`, called with the arguments of `--model-arg`."""
    module_name, _, path = args.model.partition(":")
    if not module_name or not path:
        raise Usage(f"--model {args.model}: write package.module:name, the name of a class, a function or a module")
    arguments = dict(_argument(word) for word in args.model_arg)
    found = _attribute(_imported(module_name, "--model", args.model), path, args.model)
    from torch import nn

    if isinstance(found, nn.Module):
        if arguments:
            raise Usage(f"--model-arg: {path} is a module already and is not called")
        return found
    if not callable(found):
        raise _wrong(args.model, f"{path} is neither a module nor what makes one: its type is {type(found).__name__}")
    try:
        made = found(**arguments)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the user's code, and may raise anything
        raise _wrong(args.model, f"building it failed: {_brief(error)}", source=_place(error)) from None
    if not isinstance(made, nn.Module):
        remedy = "name a class or a function that gives the module alone"
        raise _wrong(args.model, f"{path}(...) gave no torch.nn.Module: its type is {type(made).__name__}", remedy)
    return made


def _argument(word: str) -> tuple[str, Any]:
    """`k=v` with v as YAML, as it is read everywhere here (1e-3 is a number)."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    name, equals, _ = word.partition("=")
    if not equals or not name.isidentifier():
        raise Usage(f"--model-arg {word}: write name=value")
    try:
        return name, OmegaConf.to_container(OmegaConf.from_dotlist([word]))[name]  # type: ignore[index,call-overload]
    except (YAMLError, OmegaConfBaseException):
        raise Usage(f"--model-arg {word}: the value is not YAML") from None


def _imported(name: str, option: str, said: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            remedy = "modules are looked for in the current directory and among what is installed"
            raise InitConfError(Problem(f"there is no module {error.name!r}", option, repr(said), None, remedy)) from None
        raise _import_failed(name, option, said, error) from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the user's code, and may raise anything
        raise _import_failed(name, option, said, error) from None


def _import_failed(name: str, option: str, said: str, error: BaseException) -> InitConfError:
    return InitConfError(Problem(f"importing {name} failed: {_brief(error)}", option, repr(said), _place(error)))


def _attribute(module: ModuleType, path: str, said: str) -> Any:
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            there = [name for name in dir(found) if not name.startswith("_")]
            close = near(part, there)
            where = getattr(found, "__name__", type(found).__name__)
            raise _wrong(said, f"{where} has no {part!r}", f"did you mean {' or '.join(map(repr, close))}?" if close else None)
        found = getattr(found, part)
    return found


def _wrong(said: str, text: str, remedy: str | None = None, source: str | None = None) -> InitConfError:
    return InitConfError(Problem(text, "--model", repr(said), source, remedy))


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _place(error: BaseException) -> str | None:
    """Where an error came up: the innermost line of a file below the current directory."""
    here = f"{Path.cwd()}{os.sep}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(here) and f.filename != __file__]
    own = [f"{f.filename.removeprefix(here)}:{f.lineno}" for f in frames if "site-packages" not in f.filename]
    return own[-1] if own else None

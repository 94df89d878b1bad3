"""What the commands work on: the spec, the model and the modules that the command line names."""

from __future__ import annotations

import inspect
import re
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from initconf.cli.objects import Usage as Usage  # the commands raise it, too
from initconf.cli.objects import brief, found_by, imported, place
from initconf.errors import CompileError, InitConfError, Problem, did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from initconf.plan import Plan
    from initconf.sites import Site
    from initconf.spec import InitSpec

_CHOICE = re.compile(r"\+{0,2}init=(?P<scheme>.*)", re.DOTALL)
_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.:-]*")
STDIN = "<stdin>"
"""What standard input is called in errors."""


def is_override(word: str) -> bool:
    """Whether a word is a Hydra override: `key=value`, `~key`."""
    return "=" in word or word.startswith("~")


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names and overrides, which stand among each other."""
    return [w for w in words if not is_override(w)], [w for w in words if is_override(w)]


def import_modules(args: Namespace) -> None:
    """The modules of `--import`, which register what they define."""
    for name in args.imports:
        imported(name, "--import", name)


def standard_input(args: Namespace) -> bytes:
    """What is on standard input, for which `-` stands."""
    if args.stdin_taken:
        raise Usage("-: standard input can be read once")
    if sys.stdin is None:
        raise Usage("-: there is no standard input")
    args.stdin_taken = True
    return sys.stdin.buffer.read()


# --- the spec --------------------------------------------------------------------------------------------------------------


def read_spec(args: Namespace, overrides: Sequence[str]) -> InitSpec:
    """The spec that the overrides choose and bend; of a whole application's configuration with `--config-name`."""
    from initconf.loading import load_application

    if args.config_name is not None:
        if args.config_dir is None:
            raise Usage("--config-name needs --config-dir DIR, the folder of your application's configuration")
        return load_application(args.config_dir, args.config_name, overrides, node=args.node or "init")
    if args.node is not None:
        raise Usage("--node goes with --config-name")
    chosen, rest = choice(overrides)
    if chosen is None:
        raise Usage(f"no scheme is chosen: add init=NAME; there are: {', '.join(known_schemes(args))}")
    return load_side(args, chosen, rest)


def load_side(args: Namespace, said: str, overrides: Sequence[str]) -> InitSpec:
    """The spec of a scheme, a YAML file, or what is on standard input."""
    from initconf.loading import load

    if said == "-":
        return spec_of(args, standard_input(args), overrides)
    return load(said, overrides, config_dir=args.config_dir)


def spec_of(args: Namespace, content: bytes, overrides: Sequence[str]) -> InitSpec:
    """The spec on standard input."""
    from initconf.loading import load_text
    from initconf.reading import decoded

    return load_text(decoded(content, STDIN), STDIN, overrides, config_dir=args.config_dir)


def choice(overrides: Sequence[str]) -> tuple[str | None, list[str]]:
    """The scheme that the last `init=...` chooses, and the other overrides."""
    found = [match["scheme"] for word in overrides if (match := _CHOICE.fullmatch(word))]
    return (found[-1] if found else None), [word for word in overrides if not _CHOICE.fullmatch(word)]


def known_schemes(args: Namespace) -> list[str]:
    """The names that `init=` may have."""
    from initconf.loading import schemes

    return schemes(args.config_dir)


def only_overrides(args: Namespace) -> list[str]:
    """The words, all of which must be overrides."""
    names, overrides = split_words(args.words)
    if names:
        raise Usage(f"{names[0]!r} is no override: {_instead(args, names[0])}")
    return overrides


def _instead(args: Namespace, word: str) -> str:
    """What may have been meant by a word that is no override."""
    if _OBJECT.fullmatch(word) and getattr(args, "model", "") is None:
        return f"did you mean --model {word}?"
    if word == "-" or word.endswith((".yaml", ".yml")) or word in known_schemes(args):
        return f"did you mean init={word}?"
    return "write key=value, such as init=he or init.gain=0.5"


# --- the model -------------------------------------------------------------------------------------------------------------


def require_model(args: Namespace) -> None:
    """Said before anything is done that takes time."""
    if args.model is None:
        meant = next((word for word in split_words(args.words)[0] if _OBJECT.fullmatch(word)), None)
        hint = f"; did you mean --model {meant}?" if meant is not None else ""
        raise Usage(f"the following arguments are required: --model{hint}")


def build_model(args: Namespace) -> nn.Module:
    """The model of `--model`, called with the arguments of `--model-arg` on `--device`."""
    arguments = dict(_argument(word) for word in args.model_arg)
    found, path = _maker(args)
    import torch
    from torch import nn

    device = _device(args)
    if isinstance(found, nn.Module):
        for option, given in (("--model-arg", arguments), ("--device", device)):
            if given:
                raise Usage(f"{option}: {path} is a module already and is not called")
        return found
    if unknown := _not_taken(found, arguments):
        raise InitConfError(unknown)
    if not callable(found):
        text = f"{path} is neither a module nor what makes one: its type is {type(found).__name__}"
        raise InitConfError(Problem(text, "--model", repr(args.model)))
    try:
        with torch.device(device) if device is not None else nullcontext():
            made = found(**arguments)
    except (Exception, SystemExit) as error:
        if isinstance(error, InitConfError) and path == args.model:  # a kind of transformers; it says itself what is wrong
            raise
        text = f"building it failed: {brief(error)}"
        remedy = "--device cpu builds it with its values" if device == "meta" and "meta" in str(error) else None
        raise InitConfError(Problem(text, "--model", repr(args.model), place(error), remedy)) from None
    if not isinstance(made, nn.Module):
        text = f"{path}(...) gave no torch.nn.Module: its type is {type(made).__name__}"
        remedy = "name a class or a function that gives the module alone"
        raise InitConfError(Problem(text, "--model", repr(args.model), None, remedy))
    return made


def _not_taken(found: Any, arguments: Mapping[str, Any]) -> list[Problem]:
    """The arguments that a function or a class does not take, where it says what it takes."""
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):
        return []
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return []
    return [
        Problem(f"the model takes no {name!r}", "--model-arg", f"{name}={value}", None, did_you_mean(name, parameters))
        for name, value in arguments.items()
        if name not in parameters
    ]


def _maker(args: Namespace) -> tuple[Any, str]:
    """What makes the model, and its name."""
    from initconf.cli import architectures

    if args.model.startswith(architectures.PREFIX):
        return lambda **arguments: architectures.build(args.model, arguments), args.model
    return found_by("--model", args.model, "a class, a function or a module")


def _device(args: Namespace) -> str | None:
    """Where the model is to be built; None where its maker says so. A kind of transformers has no values worth their memory."""
    from initconf.cli import architectures

    if args.device is None:
        return "meta" if args.model.startswith(architectures.PREFIX) else None
    import torch

    try:
        torch.device(args.device)
    except RuntimeError:
        raise Usage(f"--device {args.device}: write meta, cpu or cuda") from None
    return str(args.device)


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


def build_example(args: Namespace, model: nn.Module) -> Any:
    """The example input of `--example`: a tensor, a tuple (positional) or a mapping (keywords); None where none is named."""
    if args.example is None:
        return None
    found, path = _input(args, "--example")
    _refuse_other(found, path, "--example", args.example)
    if (device := _device(args)) is not None:
        found = _moved(found, device)
    _refuse_elsewhere(found, model, "--example", args.example)
    return found


def build_conditions(args: Namespace, model: nn.Module) -> Any:
    """The inputs of `--conditions`, or a list of them; None where none are named."""
    if args.conditions is None:
        return None
    found, path = _input(args, "--conditions")
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    for n, one in enumerate(found if isinstance(found, list) else [found]):
        _refuse_other(one, f"{path}[{n}]" if isinstance(found, list) else path, "--conditions", args.conditions)
        if not on_meta:  # else it is run on a copy in memory
            _refuse_elsewhere(one, model, "--conditions", args.conditions)
    return found


def _input(args: Namespace, option: str) -> tuple[Any, str]:
    """What an option names as an input of the model, and the name; a function is called."""
    said = getattr(args, option.removeprefix("--"))
    found, path = found_by(option, said, "an input, or a function that gives one")
    from torch import Tensor, nn

    if callable(found) and not isinstance(found, (Tensor, nn.Module)):
        path += "()"
        try:
            found = found()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the user's code, and may raise anything
            text = f"calling it failed: {brief(error)}"
            raise InitConfError(Problem(text, option, repr(said), place(error))) from None
    return found, path


def _refuse_other(found: Any, path: str, option: str, said: str) -> None:
    """Refuse what is no input of a model."""
    from torch import Tensor

    if not isinstance(found, (Tensor, tuple, Mapping)):
        text = f"{path} is no input of a model: its type is {type(found).__name__}"
        remedy = "give a tensor, a tuple of positional inputs, or a mapping of inputs by keyword"
        raise InitConfError(Problem(text, option, repr(said), None, remedy))


def _refuse_elsewhere(found: Any, model: nn.Module, option: str, said: str) -> None:
    """Refuse an input that is not where the model is."""
    from initconf.tracing import arguments

    positional, keywords = arguments(found)
    inputs, weights = _devices([*positional, *keywords.values()]), _devices(model.parameters())
    # torch multiplies a tensor on meta and one on the CPU without a word, and what comes out is whatever lies in memory.
    if inputs and weights and not inputs <= weights:
        text = f"it is on {' and '.join(sorted(inputs))}, and the model on {' and '.join(sorted(weights))}"
        raise InitConfError(Problem(text, option, repr(said), None, "give both the same device"))


def make_plan(args: Namespace, model: nn.Module, spec: InitSpec, example: Any) -> Plan:
    """The plan of a model."""
    from initconf.apply import compile as compile_plan

    try:
        return compile_plan(model, spec, example=example, conditions=build_conditions(args, model))
    except CompileError as error:
        raise CompileError(with_words(args, model, example, error.problems)) from None


def with_words(args: Namespace, model: nn.Module, example: Any, problems: Sequence[Problem]) -> list[Problem]:
    """Problems of `compile`, what concerns the example and the device said with the words of the command line."""
    problems = [
        replace(p, remedy="--device cpu builds it with its values") if "on meta has no values to keep" in p.text else p
        for p in problems
    ]
    conditions = [p.path is not None and p.path.startswith("conditions") for p in problems]
    problems = [
        replace(p, path=f"--{p.path}", value=repr(args.conditions)) if yes else p
        for p, yes in zip(problems, conditions, strict=True)
    ]
    if example is None:
        remedy = "name an input that the model takes, --example PKG.MOD:NAME; or name the activation"
        return [replace(p, remedy=remedy) if "without an example input" in p.text else p for p in problems]
    others = [p for p in problems if "cannot be run on the example" not in p.text]
    return others if len(others) == len(problems) else [_why_not_run(args, model, example), *others]


def read_sites(model: nn.Module, spec: InitSpec) -> list[Site]:
    """The sites of a model as `compile` sees them: with the layouts that the spec declares, and with its fans."""
    from initconf.addresses import surveyed

    return surveyed(model, spec)


def unused(args: Namespace, plans: Sequence[Plan]) -> list[str]:
    """A warning where `--example` or `--conditions` was named for nothing."""
    leaves = [leaf for made in plans for leaf in made.leaves()]
    said = []
    if args.example is not None and all(leaf.fed_by is None for leaf in leaves):
        said.append("--example: no parameter asks for nonlinearity: auto, so that the model was not run on it")
    if args.conditions is not None and all("input_second_moment" not in leaf.settings for leaf in leaves):
        said.append("--conditions: no parameter asks for input_second_moment: measured, so that the model was not run on them")
    return said


def _why_not_run(args: Namespace, model: nn.Module, example: Any) -> Problem:
    """Why a model that `compile` could not run on the example cannot be, with the user's own line."""
    from initconf.tracing import trace

    reason: BaseException | None = None
    try:
        trace(model, example)
    except InitConfError as error:
        reason = error.__cause__
    text = f"the model cannot be run on it, {_described(example)}" + (f": {brief(reason)}" if reason else "")
    return Problem(text, "--example", repr(args.example), place(reason) if reason else None)


def _moved(example: Any, device: str) -> Any:
    """An input where the model is."""
    if isinstance(example, Mapping):
        return {name: _moved(value, device) for name, value in example.items()}
    if type(example) in (tuple, list):
        return type(example)(_moved(value, device) for value in example)
    return example.to(device) if hasattr(example, "to") else example


def _devices(values: Iterable[Any]) -> set[str]:
    return {value.device.type for value in values if hasattr(value, "device")}


def _described(example: Any) -> str:
    """An input in a few words, such as `{ids: int64 2x8}`."""
    if isinstance(example, Mapping):
        return "{" + ", ".join(f"{name}: {_described(value)}" for name, value in example.items()) + "}"
    if isinstance(example, tuple):
        return f"({', '.join(map(_described, example))})"
    if hasattr(example, "shape") and hasattr(example, "dtype"):
        return f"{str(example.dtype).removeprefix('torch.')} {'x'.join(map(str, example.shape)) or '()'}"
    return type(example).__name__

"""The command `initconf`: what may be typed, and what comes of it.

Only words are taken apart here, so that `initconf --help` costs nothing; each command is imported when it is asked for. A
command computes its whole answer before a word of it is printed: where there is none, stdout stays empty. Where a check of it
fails, the answer is on stdout and the problems are on stderr.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import initconf
from initconf.errors import InitConfError, near

FAILED, USAGE = 1, 2
"""Exit codes: the configuration is wrong or a check failed; the command line itself is wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `initconf` with these words (None: those of the process); returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["__complete"]:  # what the scripts of `initconf completion` call
        from initconf.cli.completion import complete

        return complete(words[1:], *parsers())
    try:
        return _run(_parse(words))
    except SystemExit as stop:  # argparse: help was shown, or the words make no command
        return stop.code if isinstance(stop.code, int) else USAGE


def _run(args: Namespace) -> int:
    from initconf.cli.answers import say
    from initconf.cli.inputs import Usage

    home, _, name = args.command.home.partition(":")
    stdout = sys.stdout
    try:
        here = str(Path.cwd())
    except OSError:
        args.parser.error("the current directory is no longer there")
    try:
        # What the user's own modules print is not the answer.
        with redirect_stdout(sys.stderr), _importable(here):
            answer = getattr(import_module(f"initconf.cli.{home}"), name)(args)
    except Usage as error:
        args.parser.error(str(error))
    except InitConfError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    for warning in answer.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    try:
        say(answer, stdout, as_json=args.json)
    except InitConfError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    if answer.problems:
        sys.stderr.write(f"{InitConfError(answer.problems)}\n")
    return int(answer.code) or (FAILED if answer.problems else 0)


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Modules in a folder can be imported meanwhile, as they can be by `python -m`."""
    before = list(sys.path)
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path[:] = before


class _Parser(ArgumentParser):
    """A parser that says what may have been meant."""

    def error(self, message: str) -> NoReturn:
        known: list[str] = []
        if wrong := re.match(r"unrecognized arguments: (--[\w-]+)", message):
            known = [option for option in self._option_string_actions if option.startswith("--")]
        elif wrong := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            known = re.findall(r"[\w-]+", wrong[2])
        if wrong and (close := near(wrong[1], known, 1)):
            message += f"; did you mean {close[0]}?"
        super().error(message)


# --- what may be typed -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """One command: what it is for, and where it is."""

    home: str
    """`module:function` in this package; the function takes the parsed words and returns an Answer."""
    help: str
    example: str
    options: tuple[Callable[[ArgumentParser], Any], ...]


def _overrides(parser: ArgumentParser) -> None:
    text = "init=SCHEME and Hydra overrides: gain=0.5 init.rules.head.gain=0.1 'init/rules=[roles,my_rules]'"
    parser.add_argument("words", nargs="*", metavar="OVERRIDE", help=text)


def _checked(parser: ArgumentParser) -> None:
    text = "files or folders of schemes and rule files; or init=SCHEME; - is standard input; overrides hold for all"
    parser.add_argument("words", nargs="*", metavar="FILE | OVERRIDE", help=text)


def _name(parser: ArgumentParser) -> None:
    parser.add_argument("words", nargs="+", metavar="NAME | OVERRIDE", help="the parameter's name; init=SCHEME and overrides")


def _sides(parser: ArgumentParser) -> None:
    text = "the two sides, each a scheme, a YAML file or a saved plan (.json); overrides hold for both"
    parser.add_argument("words", nargs="+", metavar="SIDE | OVERRIDE", help=text)


def _kinds(parser: ArgumentParser) -> None:
    text = "initializers, schemes, rules, activations, roles, layouts (default: all)"
    parser.add_argument("words", nargs="*", metavar="KIND", help=text)


def _activations(parser: ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="ACTIVATION", help="its name (default: all)")


def _directory(parser: ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="the folder of a run or of a sweep")


def _model(parser: ArgumentParser) -> None:
    text = "class, function or module, the current directory being importable; or hf:KIND[:CLASS] of transformers (hf:gpt2)"
    parser.add_argument("--model", metavar="PKG.MOD:NAME", help=text)
    text = "argument of NAME, or setting of KIND's configuration, its value as YAML (repeatable)"
    parser.add_argument("--model-arg", metavar="K=V", action="append", default=[], help=text)
    text = "build it there; meta takes no memory and has no values (default: meta for hf:, else as NAME does)"
    parser.add_argument("--device", metavar="DEVICE", help=text)


def _example(parser: ArgumentParser) -> None:
    text = "input for nonlinearity: auto: a tensor, a tuple (positional), a mapping (keywords), or a function that gives one"
    parser.add_argument("--example", metavar="PKG.MOD:NAME", help=text)
    text = "inputs for input_second_moment: measured, likewise, or a list of such: what a hypernetwork will be conditioned on"
    parser.add_argument("--conditions", metavar="PKG.MOD:NAME", help=text)


def _modules(parser: ArgumentParser) -> None:
    text = "import a module first, which registers initializers, activations, layouts (repeatable)"
    parser.add_argument("--import", dest="imports", metavar="MODULE", action="append", default=[], help=text)


def _config_dir(parser: ArgumentParser) -> None:
    parser.add_argument("--config-dir", metavar="DIR", help="its init/*.yaml are found before the shipped schemes")


def _application(parser: ArgumentParser) -> None:
    text = "compose this configuration of your application (in --config-dir) and take its spec"
    parser.add_argument("--config-name", metavar="NAME", help=text)
    parser.add_argument("--node", metavar="PATH", help="where in it the spec stands (default: init)")


def _strict(parser: ArgumentParser) -> None:
    text = "refuse guesses (~): exit code 1, and what to declare; nothing is saved"
    parser.add_argument("--strict", action="store_true", help=text)


def _stricter(parser: ArgumentParser) -> None:
    parser.add_argument("--strict", action="store_true", help="count warnings and guesses (~) as wrong, too")


def _files(parser: ArgumentParser) -> None:
    parser.add_argument("--save", metavar="FILE", help="write the plan as JSON, to be committed")
    parser.add_argument("--check", metavar="FILE", help="compare with a saved plan; exit code 1 where they differ")
    parser.add_argument("--update", action="store_true", help="with --check: then rewrite the file; exit code 0")


def _stored(parser: ArgumentParser) -> None:
    text = "tensors to verify: safetensors or torch files, the .index.json of several, or its folder (default: of --model)"
    parser.add_argument("--checkpoint", metavar="FILE", help=text)
    parser.add_argument("--plan", metavar="FILE", help="the saved plan (default: what init=SCHEME gives --model)")


def _foreign(parser: ArgumentParser) -> None:
    parser.add_argument("system", metavar="SYSTEM", help="allennlp, mmengine, llm-foundry or keras")
    parser.add_argument("file", metavar="FILE", help="its configuration, as JSON or YAML; - is standard input")


def _output(parser: ArgumentParser) -> None:
    parser.add_argument("--output", metavar="FILE", help="write the scheme there: conf/init/NAME.yaml for init=NAME")


def _kind(parser: ArgumentParser) -> None:
    text = "scheme (default), rules (a rule file), rule (a single one), spec (a whole one, as show prints it)"
    kinds = ("scheme", "rules", "rule", "spec")
    parser.add_argument("kind", nargs="?", choices=kinds, default=kinds[0], metavar="KIND", help=text)
    parser.add_argument("--output", metavar="FILE", help="write the schema there")


def _shell(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="whose script is printed")


def _plot(parser: ArgumentParser) -> None:
    parser.add_argument("--plot", metavar="FILE", help="draw them too (needs matplotlib)")


_SPEC = (_modules, _config_dir, _application)
COMMANDS = {
    "plan": Command(
        "plans:plan",
        "show how every parameter of a model will start",
        "initconf plan --model my_pkg.models:build init=gpt2 init.rules.head.gain=0.1",
        (_overrides, _model, _example, *_SPEC, _strict, _files),
    ),
    "explain": Command(
        "explain:explain",
        "show why one parameter gets what it gets",
        "initconf explain blocks.3.attn.out_proj.weight --model my_pkg.models:build init=gpt2",
        (_name, _model, _example, *_SPEC),
    ),
    "targets": Command(
        "targets:targets",
        "show the tensors that a hypernetwork generates, and what is known and assumed of them",
        "initconf targets --model my_pkg.models:hypernet init=hyperfan",
        (_overrides, _model, *_SPEC),
    ),
    "diff": Command(
        "plans:diff",
        "compare two schemes, YAML files or saved plans on one model; exit code 1 where they differ",
        "initconf diff he glorot --model my_pkg.models:build",
        (_sides, _model, _example, _modules, _config_dir),
    ),
    "check": Command(
        "checking:check",
        "check schemes and rule files, and with a model what each rule wins; exit code 1 where something is wrong",
        "initconf check conf/init/*.yaml",
        (_checked, _model, _example, *_SPEC, _stricter),
    ),
    "verify": Command(
        "verifying:verify",
        "hold a checkpoint, or a model as it is built, against the values of a plan; exit code 1 where they differ",
        "initconf verify --checkpoint step0.safetensors --plan plan.json",
        (_overrides, _stored, _model, _example, *_SPEC),
    ),
    "list": Command(
        "catalogue:names",
        "list what a configuration may name",
        "initconf list initializers schemes",
        (_kinds, _modules, _config_dir),
    ),
    "show": Command(
        "catalogue:show",
        "show a composed scheme as YAML, with the source of each line",
        "initconf show init=he init.gain=0.5",
        (_overrides, *_SPEC),
    ),
    "import": Command(
        "porting:scheme",
        "write the initialisation of another system's configuration as a scheme",
        "initconf import allennlp config.json --output conf/init/mine.yaml",
        (_foreign, _output),
    ),
    "schema": Command(
        "schema:schema",
        "print the JSON Schema of schemes or rule files, with which editors check and complete them",
        "initconf schema scheme --output conf/scheme.schema.json",
        (_kind, _modules),
    ),
    "gains": Command(
        "catalogue:gains",
        "show the gains of activations",
        "initconf gains relu gelu --plot gains.png",
        (_activations, _modules, _plot),
    ),
    "results": Command(
        "catalogue:results",
        "show what the lab's runs left behind as one table, best first",
        "initconf results multirun/2030-01-01/12-00-00",
        (_directory,),
    ),
    "completion": Command(
        "completion:script",
        "print a script that makes a shell complete commands, schemes, rules and settings",
        "source <(initconf completion bash)",
        (_shell,),
    ),
}


def parsers() -> tuple[ArgumentParser, Mapping[str, ArgumentParser]]:
    """The parser of the whole command line, and that of each command."""
    parser = _Parser(
        prog="initconf",
        description="Say in configuration how the parameters of a PyTorch model start, and be sure of it.",
        epilog="initconf COMMAND --help says more. Exit codes: 0; 1, the configuration is wrong or a check failed; 2, usage.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"initconf {initconf.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog=f"example:\n  {command.example}",
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for option in command.options:
            option(sub)
        sub.add_argument("--json", action="store_true", help="print JSON, and nothing else on stdout")
        sub.set_defaults(command=command, parser=sub, stdin_taken=False)
    return parser, commands.choices


def _parse(argv: list[str]) -> Namespace:
    parser, commands = parsers()
    if argv and argv[0] in commands:
        # Not through `parser`: only so may flags and overrides stand in any order.
        return commands[argv[0]].parse_intermixed_args(argv[1:])
    return parser.parse_args(argv)

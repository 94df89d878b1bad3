"""`initconf completion SHELL`, and `initconf __complete -- WORDS`, which its script calls at every press of the key.

The last of the words is the one at the cursor. Its candidates are printed one per line, each a whole word, a tab and what it
means. Files are read for it, but neither Hydra nor torch is loaded and no module of the user's is imported; and whatever goes
wrong, nothing else is printed.
"""

from __future__ import annotations

import ast
import sys
import warnings
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from initconf.cli.answers import Answer
from initconf.cli.typed import Candidate, Typed, read, unquoted


def script(args: Namespace) -> Answer:
    """The script that teaches a shell to complete."""
    text = Path(__file__).with_suffix(f".{args.shell}").read_text(encoding="utf-8")
    return Answer(text, [text.rstrip("\n")])


def complete(words: Sequence[str], parser: ArgumentParser, commands: Mapping[str, ArgumentParser]) -> int:
    """Print the candidates for the last of these words, which a `--` may stand in front of."""
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = candidates([unquoted(word) for word in words[words[:1] == ["--"] :]], parser, commands)
        sys.stdout.write("".join(f"{word}\t{' '.join(text.split())}\n" for word, text in found))
    except (Exception, SystemExit):  # noqa: BLE001 - half a command line may be anything, and a prompt is no place to say so
        pass
    return 0


def candidates(words: Sequence[str], parser: ArgumentParser, commands: Mapping[str, ArgumentParser]) -> list[Candidate]:
    """What the last of these words may become, given those before it and the parsers of the whole and of each command."""
    *before, current = words or [""]
    found: Iterable[Candidate] = []
    if before and before[0] in commands:
        found = _arguments(commands[before[0]], before[1:], current)
    elif not before and current.startswith("-"):  # flags are offered to those who begin one
        found = _flags(parser)
    elif not before:
        found = ((name, one.get_default("command").help) for name, one in commands.items())
    return [one for one in found if one[0].startswith(current) and one[0].isprintable()]


# --- flags and arguments ---------------------------------------------------------------------------------------------------


def _arguments(parser: ArgumentParser, before: Sequence[str], current: str) -> Iterator[Candidate]:
    typed = read(parser, before)
    if typed.waiting is not None:
        yield from _values(typed.waiting, typed, current)
        return
    option, equals, value = current.partition("=")
    if equals and (action := parser._option_string_actions.get(option)) is not None:
        for word, text in _values(action, typed, value):
            yield f"{option}={word}", text
        return
    if current.startswith("-"):
        yield from _flags(parser, typed.options)
        return
    positional = [action for action in parser._actions if not action.option_strings]
    if len(typed.words) < len(positional) or any(action.nargs in ("*", "+") for action in positional):
        yield from _values(positional[min(len(typed.words), len(positional) - 1)], typed, current)


def _flags(parser: ArgumentParser, given: Mapping[str, str] | None = None) -> Iterator[Candidate]:
    for action in parser._actions:
        repeatable = isinstance(action.default, list)
        if action.option_strings and (repeatable or action.dest not in (given or {})):
            yield action.option_strings[-1], action.help or ""


def _values(action: Action, typed: Typed, current: str) -> Iterator[Candidate]:
    """What an argument may be, by its choices or by what its help calls it."""
    if action.choices is not None:
        yield from ((str(choice), "") for choice in action.choices)
        return
    names = action.metavar if isinstance(action.metavar, str) else ""
    for name in names.split(" | "):
        if name in _SOURCES:
            yield from _SOURCES[name](typed, current)
        elif action.dest == "config_name":
            folder = Path(typed.options.get("config_dir", ".")).expanduser()
            yield from ((file.stem, "") for file in sorted(folder.glob("*.yaml")))


def _files(typed: Typed, current: str, *suffixes: str) -> Iterator[Candidate]:
    """Files that begin so (with one of these suffixes), and folders."""
    head, slash, name = current.rpartition("/")
    for path in sorted((Path(head + slash).expanduser() if slash else Path()).iterdir()):
        if path.name.startswith(name) and (name.startswith(".") or not path.name.startswith(".")):
            if path.name == "__pycache__":  # nobody means it
                continue
            if path.is_dir():
                yield f"{head}{slash}{path.name}/", ""
            elif not suffixes or path.suffix in suffixes:
                yield f"{head}{slash}{path.name}", ""


def _directories(typed: Typed, current: str) -> Iterator[Candidate]:
    return (one for one in _files(typed, current) if one[0].endswith("/"))


def _modules(typed: Typed, current: str) -> Iterator[Candidate]:
    """Modules in the current directory, which the command line can import."""
    package = current.rpartition(".")[0]
    for path in sorted(Path(*package.split(".")).iterdir()):
        name = f"{package}.{path.stem}" if package else path.stem
        if path.suffix == ".py" and path.stem.isidentifier() and path.stem != "__init__":
            yield name, ""
        elif path.is_dir() and path.name.isidentifier() and any(path.glob("*.py")):
            yield f"{name}.", ""


def _objects(typed: Typed, current: str) -> Iterator[Candidate]:
    """Classes and functions of those modules, which are read but not run."""
    module, colon, _ = current.partition(":")
    if not colon:
        yield from ((name if name.endswith(".") else f"{name}:", text) for name, text in _modules(typed, current))
        return
    base = Path(*module.split("."))
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            yield f"{module}:{node.name}", (ast.get_docstring(node) or "").partition("\n")[0]


def _kinds(typed: Typed, current: str) -> Iterator[Candidate]:
    from initconf.cli.catalogue import KINDS

    return ((kind, "") for kind in KINDS if kind not in typed.words)


def _activations(typed: Typed, current: str) -> Iterator[Candidate]:
    from initconf import activations

    return ((name, "") for name in activations.names())


def _sides(typed: Typed, current: str) -> Iterator[Candidate]:
    from initconf.cli.keys import configurations

    yield from configurations(typed, "init")
    if current:
        yield from _files(typed, current, ".yaml", ".yml", ".json")


def _overrides(typed: Typed, current: str) -> Iterator[Candidate]:
    from initconf.cli.keys import overrides

    return overrides(typed, current)


_SOURCES: dict[str, Callable[[Typed, str], Iterator[Candidate]]] = {
    "OVERRIDE": _overrides,
    "SIDE": _sides,
    "KIND": _kinds,
    "ACTIVATION": _activations,
    "FILE": _files,
    "DIR": _directories,
    "MODULE": _modules,
    "PKG.MOD:NAME": _objects,
}
"""What may stand where the help says so."""

"""What `package.module:name` names, and what is said of the user's own code where it fails."""

from __future__ import annotations

import os
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from initconf.errors import InitConfError, Problem, near


class Usage(Exception):
    """The command line itself is wrong; the text says what to type instead."""


def found_by(option: str, said: str, what: str) -> tuple[Any, str]:
    """What `package.module:name` names, and the name."""
    module, _, path = said.partition(":")
    if not module or not path:
        before, _, name = module.rpartition(".")
        hint = f"; did you mean {before}:{name}?" if before and not path else ""
        raise Usage(f"{option} {said}: write package.module:name, the name of {what}{hint}")
    if "/" in module or module.endswith(".py"):
        plain = module.removeprefix("./").removesuffix(".py").replace("/", ".")
        raise Usage(f"{option} {said}: write the module and not its file: {plain}:{path}")
    found: Any = imported(module, option, said)
    for part in path.split("."):
        if not hasattr(found, part):
            close = near(part, [name for name in dir(found) if not name.startswith("_")])
            where = getattr(found, "__name__", type(found).__name__)
            remedy = f"did you mean {' or '.join(map(repr, close))}?" if close else None
            raise InitConfError(Problem(f"{where} has no {part!r}", option, repr(said), None, remedy))
        found = getattr(found, part)
    return found, path


def imported(name: str, option: str, said: str) -> ModuleType:
    """A module of the user's. InitConfError for whatever its import raises."""
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
    return InitConfError(Problem(f"importing {name} failed: {brief(error)}", option, repr(said), place(error)))


def brief(error: BaseException) -> str:
    """What an error says, on one line."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    said = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def place(error: BaseException) -> str | None:
    """Where an error came up: the innermost line of a file below the current directory."""
    here, ours = f"{Path.cwd()}{os.sep}", f"{Path(__file__).parent}{os.sep}"
    names = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    own = [f"{name.removeprefix(here)}:{line}" for name, line in names if name.startswith(here) and not name.startswith(ours)]
    own = [one for one in own if "site-packages" not in one]
    return own[-1] if own else None

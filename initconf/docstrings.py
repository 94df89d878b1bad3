"""What docstrings say, for those who ask at a prompt or in an editor."""

from __future__ import annotations

import ast
import inspect
import re
from itertools import pairwise
from textwrap import dedent

from pydantic import BaseModel


def summary(doc: str | None) -> str:
    """The first paragraph, on one line."""
    return " ".join((doc or "").strip().partition("\n\n")[0].split())


def arguments(doc: str | None) -> dict[str, str]:
    """What a section `Args:` says of each argument."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?)+)", inspect.cleandoc(doc or ""), re.MULTILINE)
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", dedent(section[1]).strip()) if section else ():
        names, _, text = entry.partition(":")
        found |= dict.fromkeys(re.split(r",\s*", names), " ".join(text.split()))
    return found


def fields(model: type[BaseModel]) -> dict[str, str]:
    """The docstrings that stand below the fields of a model, inherited ones too."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls is not BaseModel:
            body = ast.parse(dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
            for field, doc in pairwise(body):
                match field, doc:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        found[name] = " ".join(text.split())
    return found

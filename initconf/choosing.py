"""Which parameters of a model are written, where not all of them are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from initconf import patterns
from initconf.errors import ApplyError, InitConfError, Problem, listed, near
from initconf.owners import Found

if TYPE_CHECKING:
    from torch import nn

Names = str | Iterable[str]
"""A regex for whole names, or names."""


def choose(
    found: Mapping[str, Found], model: nn.Module, only: Names | None, skip: Names | None
) -> tuple[set[str] | None, tuple[str, ...]]:
    """The parameters to write, by all their names (None: all of them), and what is to be said of the choice.

    A tensor under several names is meant by any of them. Raises ApplyError for a choice that means nothing.
    """
    if only is None and skip is None:
        return None, ()
    whole: dict[int, set[str]] = {}
    for name, where in found.items():
        whole.setdefault(where.identity, set()).add(name)
    chosen = set(found)
    notes: tuple[str, ...] = ()
    if only is not None:
        meant, unknown = _meant("only", only, found)
        if unknown:
            raise ApplyError(
                Problem("the model has no such parameter", "only", repr(unknown[0]), remedy=_hint(unknown[0], list(found)))
            )
        chosen = {alias for name in meant for alias in whole[found[name].identity]}
    if skip is not None:
        meant, unknown = _meant("skip", skip, found)
        chosen -= {alias for name in meant for alias in whole[found[name].identity]}
        buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
        if others := [name for name in unknown if name not in buffers]:
            notes = (f"skip names what the model has not: {listed(others)}",)
    return chosen, notes


def _meant(argument: str, said: Names, found: Mapping[str, Found]) -> tuple[list[str], list[str]]:
    """The parameters that are meant, and the names that there are none of."""
    names = list(found)
    if isinstance(said, str):
        try:
            meant = [names[n] for n in sorted(patterns.match_names([("match", said)], names)[0])]
        except InitConfError as error:
            raise ApplyError(Problem(str(error), argument, repr(said))) from None
        unknown = []
    else:
        asked: list[object] = list(said)
        if wrong := next((name for name in asked if not isinstance(name, str)), None):
            raise ApplyError(Problem("not a regex or names", argument, repr(wrong)))
        meant = [name for name in asked if isinstance(name, str) and name in found]
        unknown = [str(name) for name in asked if name not in found]
        if not asked:
            return [], []
    if not meant:
        first = said if isinstance(said, str) else unknown[0]
        raise ApplyError(Problem("it matches no parameter", argument, repr(first), remedy=_hint(first, names)))
    return meant, unknown


def _hint(said: str, names: list[str]) -> str | None:
    close = near(said, names)
    return f"near names: {', '.join(close)}" if close else f"names are such as {listed(names)}" if names else None

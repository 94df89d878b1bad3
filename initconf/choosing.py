"""Which parameters of a model are written, where not all of them are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from initconf import patterns
from initconf.errors import ApplyError, InitConfError, Problem, brief, listed, near
from initconf.owners import Found, called, plain

if TYPE_CHECKING:
    from torch import nn

Names = str | Iterable[str]
"""A regex for whole names, or names."""


def choose(
    found: Mapping[str, Found], model: nn.Module, only: Names | None, skip: Names | None
) -> tuple[set[str] | None, tuple[str, ...]]:
    """The parameters to write, by all their names (None: all of them), and what is to be said of the choice.

    A tensor under several names is meant by any of them, also by those that `named_parameters()` and `state_dict()` have for
    what is wrapped or parametrised. Raises ApplyError for a choice that means nothing, and for a name to be skipped that is
    the name of a parameter but for what wrappers add.
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
        buffers = _buffers(model) if unknown else set()
        if own := [name for name in unknown if {name, plain(name)} & buffers]:
            notes = (f"only names buffers, which stay as they are: {listed(own)}",)
            unknown = [name for name in unknown if name not in own]
        if unknown:
            raise ApplyError(
                Problem("the model has no such parameter", "only", repr(unknown[0]), remedy=_hint(unknown[0], list(found)))
            )
        chosen = {alias for name in meant for alias in whole[found[name].identity]}
    if skip is not None:
        meant, unknown = _meant("skip", skip, found)
        chosen -= {alias for name in meant for alias in whole[found[name].identity]}
        notes += _unknown(unknown, model, chosen)
    return chosen, notes


def _meant(argument: str, said: Names, found: Mapping[str, Found]) -> tuple[list[str], list[str]]:
    """The parameters that are meant, and the names that there are none of."""
    names, given, unknown = list(found), cast("object", said), list[str]()
    if isinstance(said, str):
        try:
            meant = [names[n] for n in sorted(patterns.match_names([("match", said)], names)[0])]
        except InitConfError as error:
            raise ApplyError(Problem(str(error), argument, repr(said))) from None
    else:
        asked: list[object] = list(given) if isinstance(given, Iterable) and not isinstance(given, bytes) else [given]
        if wrong := [name for name in asked if not isinstance(name, str)]:
            remedy = "give names, such as named_parameters() has"
            raise ApplyError(Problem("not a regex or names", argument, brief(wrong[0]), remedy=remedy))
        known, meant = called(found), []
        for name in map(str, asked):
            several = sorted(known.get(name, ()))
            if len(several) > 1 and argument == "only":  # to skip, both: what is skipped by mistake is not lost
                raise ApplyError(Problem(f"it may mean {' or '.join(several)}", argument, repr(name)))
            meant += several
            if not several:
                unknown.append(name)
        if not asked:
            return [], []
    if not meant:
        first = said if isinstance(said, str) else unknown[0]
        raise ApplyError(Problem("it matches no parameter", argument, repr(first), remedy=_hint(first, names)))
    return meant, unknown


def _unknown(names: list[str], model: nn.Module, written: set[str]) -> tuple[str, ...]:
    """What is to be said of names to be skipped that are no parameters': a checkpoint may have more than the model."""
    buffers = _buffers(model)
    known = {name for name in names if {name, plain(name)} & buffers or name.rpartition(".")[2] == "_extra_state"}
    others = [name for name in names if name not in known]
    wrapped = {plain(name): name for name in sorted(written)}
    if bad := next((name for name in others if plain(name) in wrapped), None):
        right = wrapped[plain(bad)]
        text, remedy = f"the model has no such parameter, and {right} would be written", f"name what stays as it is: {right}"
        raise ApplyError(Problem(text, "skip", repr(bad), remedy=remedy))
    if not others:
        return ()
    close = {name: difflib.get_close_matches(name, sorted(written), 1, 0.9) for name in others[:3]}
    near_by = [f"{name} is near {right[0]}, which is written" for name, right in close.items() if right]
    return (f"skip names what the model has not: {'; '.join([listed(others), *near_by])}",)


def _buffers(model: nn.Module) -> set[str]:
    names: set[str] = set()
    for name, _ in model.named_buffers(remove_duplicate=False):
        # Those of a parametrisation are not the weight that `plain` calls them by.
        names |= {name} if ".parametrizations." in name else {name, plain(name)}
    return names


def _hint(said: str, names: list[str]) -> str | None:
    close = near(said, names)
    return f"near names: {', '.join(close)}" if close else f"names are such as {listed(names)}" if names else None

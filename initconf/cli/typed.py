"""What stands on a command line that is being typed."""

from __future__ import annotations

import shlex
from argparse import Action, ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass

Candidate = tuple[str, str]
"""A whole word that may stand at the cursor, and what it means."""


@dataclass(frozen=True)
class Typed:
    """What stands on the line before the word at the cursor."""

    options: dict[str, str]
    """The values of options, by where argparse keeps them."""
    words: list[str]
    """All others."""
    waiting: Action | None
    """The option whose value is due."""


def read(parser: ArgumentParser, before: Sequence[str]) -> Typed:
    """What stands before the cursor, past the command."""
    options, words, waiting = {}, [], None
    for word in before:
        option, equals, value = word.partition("=")
        action = parser._option_string_actions.get(option)
        if waiting is not None:
            options[waiting.dest], waiting = word, None
        elif action is None:
            words.append(word)
        elif equals or action.nargs == 0:
            options[action.dest] = value
        else:
            waiting = action
    return Typed(options, words, waiting)


def unquoted(word: str) -> str:
    """A word as the shell will give it, whose quote may still be open."""
    for close in ("", "'", '"'):
        try:
            return "".join(shlex.split(word + close)[:1])
        except ValueError:
            continue
    return word

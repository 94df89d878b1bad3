"""`initconf import`: the initialisation that another system's configuration asks for, as a scheme."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from initconf.cli.answers import Answer
from initconf.errors import InitConfError, Problem
from initconf.porting import port, system_of
from initconf.reading import LARGEST, decoded, text_of


def scheme(args: Namespace) -> Answer:
    """The scheme as YAML, and as warnings what could not be carried over."""
    system_of(args.system)  # before anything is waited for
    if args.file == "-":
        label = "<stdin>"
        text = decoded(sys.stdin.buffer.read(LARGEST + 1), label)
    else:
        label = args.file
        text = text_of(Path(label))
    draft = port(args.system, text, label)
    answer = Answer({"scheme": draft.scheme, "not_carried": draft.lost}, [draft.text.rstrip("\n")])
    answer.warnings = [*(f"not carried over: {text}" for text in draft.lost), *draft.warnings]
    if args.output is not None:
        try:
            Path(args.output).write_text(draft.text, encoding="utf-8")
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise InitConfError(Problem(f"cannot be written: {said}", "--output", repr(args.output))) from None
        answer.parts = []
        answer.notes.append(f"the scheme is in {args.output}")
    return answer

"""`initconf schema`: what an editor needs to check and complete YAML files."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from initconf.cli.answers import Answer
from initconf.cli.inputs import import_modules
from initconf.errors import InitConfError, Problem


def schema(args: Namespace) -> Answer:
    """The JSON Schema of one kind of file, printed, or written where `--output` says."""
    from initconf.schema import schema as generate

    import_modules(args)
    made = generate(args.kind)
    text = json.dumps(made, indent=2)
    if args.output is None:
        return Answer(made, [text])
    try:
        Path(args.output).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise InitConfError(Problem(f"cannot be written: {error.strerror}", "--output", repr(args.output))) from None
    return Answer(made, [], notes=[f"the schema is in {args.output}"])

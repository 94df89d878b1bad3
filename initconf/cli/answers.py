"""What a command answers, and how it is printed: as JSON, as plain text in a pipe, fitted to the width of a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import IO, TYPE_CHECKING, Any

from initconf.errors import InitConfError

if TYPE_CHECKING:
    from rich.table import Table

    from initconf.errors import Problem

GAP = 2
"""Spaces between columns."""
NAME, TEXT = 12, 24
"""To how few columns a name is cut, and how many flowing text gets at least."""


@dataclass
class Grid:
    """A table, and what becomes of it where the terminal is too narrow."""

    titles: list[str]
    rows: list[list[str]]
    right: frozenset[str] = frozenset()
    """Columns of numbers, aligned to the right."""
    drop: tuple[str, ...] = ()
    """Columns that may be left out, the least needed first."""
    flow: tuple[str, ...] = ()
    """Columns of words, which may take several lines."""
    stack: bool = False
    """Whether the cells of a row are set under each other where the table has no room."""
    header: bool = True

    @staticmethod
    def of(table: Table, drop: tuple[str, ...] = (), flow: tuple[str, ...] = ()) -> Grid:
        """The grid of a table of rich, whose cells are strings or Texts."""
        titles = [str(column.header) for column in table.columns]
        rows = [list(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)]
        right = frozenset(str(column.header) for column in table.columns if column.justify == "right")
        return Grid(titles, rows, right, drop, flow)

    def __str__(self) -> str:
        from initconf.plan import align

        rows = [self.titles, *self.rows] if self.header else self.rows
        return "\n".join(align(rows, [title in self.right for title in self.titles])) if rows else ""

    def fitted(self, width: int) -> tuple[Table, list[str]]:
        """The table for a terminal of this width, and the columns that were left out."""
        from rich.table import Table
        from rich.text import Text

        widths, gone = self._kept(width)
        name = self.titles[0]
        others = sum(self._least(title, widths[title], width) for title in widths if title != name)
        cut = max(NAME, width - others - GAP * (len(widths) - 1))
        table = Table(box=None, pad_edge=False, show_header=self.header, header_style="bold", padding=(0, GAP, 0, 0))
        for title in widths:
            flows = title in self.flow
            justify = "right" if title in self.right else "left"
            table.add_column(title, justify=justify, no_wrap=not flows, overflow="fold" if flows else "ellipsis")  # type: ignore[arg-type]
        for row in self.rows:
            cells = dict(zip(self.titles, row, strict=True))
            cells[name] = _shortened(cells[name], cut)
            table.add_row(*(Text(cells[title]) for title in widths))
        return table, gone

    def stacked(self, width: int) -> list[str]:
        """Each row as its name and, below it, its other cells with their titles (that of the first goes without saying)."""
        lines = [self.titles[0].upper()] if self.header else []
        for name, *cells in self.rows:
            lines.append(name)
            for i, (title, cell) in enumerate(zip(self.titles[1:], cells, strict=True)):
                if cell:
                    text = f"{title}: {cell}" if i else cell
                    lines += wrap(text, width, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False)
        return lines

    def fits(self, width: int) -> bool:
        """Whether a terminal of this width has room for the table, once what may be left out is."""
        return self._needed(self._kept(width)[0], width) <= width

    def _kept(self, width: int) -> tuple[dict[str, int], list[str]]:
        """The columns that stay in a terminal of this width, with their own widths; and those that go."""
        lines = [self.titles, *self.rows] if self.header else self.rows
        widths = {title: max((len(line[i]) for line in lines), default=0) for i, title in enumerate(self.titles)}
        gone: list[str] = []
        for title in self.drop:
            if title in widths and self._needed(widths, width) > width:
                del widths[title]
                gone.append(title)
        return widths, gone

    def _needed(self, widths: Mapping[str, int], width: int) -> int:
        return sum(self._least(title, n, width) for title, n in widths.items()) + GAP * (len(widths) - 1)

    def _least(self, title: str, own: int, width: int) -> int:
        """How few columns will do: half of the terminal for a name, a narrow column for words."""
        if title == self.titles[0]:
            return min(own, max(NAME, width // 2))
        return min(own, TEXT) if title in self.flow else own


@dataclass
class Commented:
    """Lines of YAML, most with a comment."""

    lines: list[tuple[str, str | None]]

    COLUMN = 48
    """Up to which column comments are aligned."""

    def __str__(self) -> str:
        return "\n".join(self._with_comments(max((len(line) for line, _ in self.lines if len(line) < self.COLUMN), default=0)))

    def fitted(self, width: int) -> list[str]:
        """The lines for a terminal of this width: a comment for which there is no room stands above its line."""
        widest = max((len(comment) for _, comment in self.lines if comment), default=0)
        room = width - GAP - len("# ") - widest
        column = max((len(line) for line, _ in self.lines if len(line) <= room), default=0)
        above = [line if len(line) > column else None for line, _ in self.lines]
        told: list[str] = []
        for line, long, (_, comment) in zip(self._with_comments(column), above, self.lines, strict=True):
            if long is None or comment is None:
                told.append(line)
            else:
                told += [f"{long[: len(long) - len(long.lstrip())]}# {comment}", long]
        return told

    def _with_comments(self, column: int) -> list[str]:
        return [f"{line:<{column}}{' ' * GAP}# {comment}" if comment else line for line, comment in self.lines]


def _shortened(text: str, width: int) -> str:
    """A name without its middle: what tells names apart stands at both ends."""
    if len(text) <= width:
        return text
    tail = (width - 1) * 2 // 3
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


@dataclass
class Answer:
    """What a command found out."""

    data: Any
    """For `--json`."""
    parts: Sequence[str | Grid | Commented]
    """For people: texts and tables in order."""
    warnings: Sequence[str] = ()
    code: int = 0
    notes: list[str] = field(default_factory=list)
    """What was done besides, such as files written; for stderr."""
    problems: Sequence[Problem] = ()
    """What is wrong with what is shown nevertheless; for stderr, after the answer."""


def say(answer: Answer, out: IO[str], *, as_json: bool) -> None:
    """Print an answer. Raises InitConfError where nothing can be written there: on a full disk, say."""
    for note in answer.notes:
        sys.stderr.write(f"{note}\n")
    try:
        if as_json:
            from initconf.laws.base import to_json

            out.write(json.dumps(to_json(answer.data), indent=2, default=str) + "\n")
        elif out.isatty():
            _to_terminal(answer, out)
        else:
            out.writelines(f"{part}\n" for part in answer.parts)
        out.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # or Python would try it again at its end
        if not isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            raise InitConfError(f"the answer cannot be written: {error.strerror}") from error


def _to_terminal(answer: Answer, out: IO[str]) -> None:
    from rich.console import Console

    # rich alone would still print bold under NO_COLOR.
    colours: Any = None if os.environ.get("NO_COLOR") else "auto"
    console = Console(file=out, highlight=False, markup=False, emoji=False, color_system=colours)
    left_out: list[str] = []
    for part in answer.parts:
        if isinstance(part, str):
            console.print(part, soft_wrap=True)
        elif isinstance(part, Commented):
            for line in part.fitted(console.width):
                console.print(line, soft_wrap=True)
        elif part.stack and not part.fits(console.width):
            for line in part.stacked(console.width):
                console.print(line, soft_wrap=True, style=None if line.startswith("    ") else "bold")
        else:
            table, gone = part.fitted(console.width)
            console.print(table)
            left_out += gone
    if left_out:
        console.print(f"(left out: {', '.join(dict.fromkeys(left_out))}; widen the terminal, or add | cat)", soft_wrap=True)

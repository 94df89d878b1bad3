"""The plan: what will be done to every parameter, as plain data that can be printed, compared, saved and committed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from initconf.errors import InitConfError, Problem, did_you_mean
from initconf.laws import Blocks, Law
from initconf.laws.base import from_json, to_json

if TYPE_CHECKING:
    from rich.table import Table

STREAM = 1
"""The version of the stream that the values are made from."""
FORMAT = "initconf plan"


@dataclass(frozen=True)
class Entry:
    """What one parameter, or one block of it, will receive, and why."""

    name: str
    aliases: tuple[str, ...]
    """Its other names, of a tied parameter."""
    block: str | None
    """The block's name; None for a whole parameter."""
    blocks: tuple[Entry, ...]
    """An entry for each block; none for a plain parameter."""
    role: str
    module: str
    """The owner's class, dotted."""
    shape: tuple[int, ...]
    dtype: str
    fan_in: float | None
    fan_out: float | None
    layer: int | None
    rule: str | None
    """The rule that won it; None where the spec's own initializer serves it, or nothing claims it."""
    initializer: str | None
    """None for a parameter whose blocks have initializers of their own."""
    settings: Mapping[str, Any]
    """The arguments that the initializer received, expressions evaluated."""
    law: Law
    axis: int = 0
    """The axis along which a block is cut out."""
    start: int = 0
    """Where it starts on that axis."""
    zero_row: int | None = None
    """A row that stays zero, whatever the law (`padding_idx`)."""
    assumed: tuple[str, ...] = ()
    """What was guessed: `role`, `layout`, `nonlinearity`."""
    effective: str | None = None
    """Of a parametrised weight: `exact`, or `transformed` where what is assigned does not come back (spectral_norm)."""
    fed_by: str | None = None
    """For `nonlinearity: auto`: what the trace found to feed the parameter."""
    frozen: bool = False
    """Whether it takes no gradient; it is initialised like any other."""

    @property
    def mean(self) -> float | None:
        """The mean that the law delivers; None where it cannot know."""
        return self.law.mean

    @property
    def std(self) -> float | None:
        """The standard deviation that the law delivers; None where it cannot know."""
        return self.law.std

    @property
    def label(self) -> str:
        """The name, with the block in brackets."""
        return f"{self.name}[{self.block}]" if self.block else self.name

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def leaves(self) -> tuple[Entry, ...]:
        """The entries that are written: the blocks, or the entry itself."""
        return self.blocks or (self,)

    def to_dict(self) -> dict[str, Any]:
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data |= {
            "aliases": list(self.aliases),
            "shape": list(self.shape),
            "assumed": list(self.assumed),
            "settings": to_json(self.settings),
            "blocks": [block.to_dict() for block in self.blocks],
            "law": self.law.to_dict(),
        }
        return data

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Entry:
        data = dict(data)
        for name in ("aliases", "shape", "assumed"):
            data[name] = tuple(data[name])
        data["settings"] = from_json(data["settings"])
        data["blocks"] = tuple(Entry.from_dict(block) for block in data["blocks"])
        data["law"] = Law.from_dict(data["law"])
        return Entry(**data)


@dataclass(frozen=True)
class Difference:
    """One thing in which two plans differ."""

    name: str
    """The parameter (with its block), or `seed`."""
    what: str
    """The field of its entry, or `parameter` where only one plan has it."""
    mine: Any
    other: Any

    def __str__(self) -> str:
        if self.what == "parameter":
            return f"{self.name}: only in the {'first' if self.mine else 'second'} plan"
        return f"{self.name}: {self.what} {_show(self.mine)} -> {_show(self.other)}"


@dataclass(frozen=True, eq=False)
class Plan:
    """What `compile` decided: an ordered table of entries. Plans are equal if their dictionaries are."""

    entries: tuple[Entry, ...]
    seed: int = 0
    warnings: tuple[str, ...] = ()
    """What the user should know; not part of the dictionary."""
    compat: str | None = None
    """`torch` where fans are torch's, and a generator may be given to `apply`."""
    rng_device: str = "auto"
    """`auto`: what lives on a GPU is computed there, to 1e-6; `cpu`: all values are made on the CPU, bit for bit."""

    def __post_init__(self) -> None:
        index = {name: entry for entry in self.entries for name in (entry.name, *entry.aliases)}
        object.__setattr__(self, "_index", index)

    def __getitem__(self, name: str) -> Entry:
        """The entry of a parameter, by any of its names. Raises InitConfError (a KeyError would lose the near names)."""
        index: dict[str, Entry] = self._index  # type: ignore[attr-defined]
        if name not in index:
            raise InitConfError(f"the plan has no parameter {name!r}; {did_you_mean(name, index)}")
        return index[name]

    def __contains__(self, name: object) -> bool:
        return name in self._index  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def leaves(self) -> Iterator[Entry]:
        """Every entry that is written: blocks in place of the parameters that consist of them."""
        for entry in self.entries:
            yield from entry.leaves()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping; `from_dict` is its inverse."""
        return {
            "format": FORMAT,
            "rng": STREAM,
            "seed": self.seed,
            "compat": self.compat,
            "rng_device": self.rng_device,
            "parameters": [entry.to_dict() for entry in self.entries],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Plan:
        """The plan that `to_dict` wrote. Raises InitConfError for anything else, and for another version of the stream."""
        if data.get("format") != FORMAT:
            raise InitConfError("not a plan of initconf")
        if data.get("rng") != STREAM:
            raise InitConfError(
                f"the plan was made for stream {data.get('rng')}, and this version of initconf has stream {STREAM}"
            )
        try:
            entries = tuple(Entry.from_dict(entry) for entry in data["parameters"])
            return Plan(entries, data["seed"], (), data["compat"], data["rng_device"])
        except (KeyError, TypeError) as error:
            raise InitConfError(f"not a whole plan: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, a line for each parameter so that it can be compared.

        Raises InitConfError where that fails; a file that was there is then as it was.
        """
        data = self.to_dict()
        rows = ",\n  ".join(json.dumps(row) for row in data.pop("parameters"))
        head = json.dumps(data)[:-1]
        _write(Path(path), f'{head}, "parameters": [\n  {rows}\n]}}\n')

    @staticmethod
    def load(path: str | Path) -> Plan:
        """The plan in a file that `save` wrote. Raises InitConfError with the file's name."""
        try:
            return Plan.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, InitConfError, AttributeError) as error:
            raise InitConfError(f"{path}: {error}") from None

    def fingerprint(self) -> str:
        """A hash of the whole plan: equal plans, equal fingerprints, in every process."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def diff(self, other: Plan) -> list[Difference]:
        """In what the other plan differs from this one."""
        found = [] if self.seed == other.seed else [Difference("seed", "seed", self.seed, other.seed)]
        both = [(what, getattr(self, what), getattr(other, what)) for what in ("compat", "rng_device")]
        found += [Difference(what, what, x, y) for what, x, y in both if x != y]
        mine = {entry.label: entry for entry in self.leaves()}
        theirs = {entry.label: entry for entry in other.leaves()}
        for name in dict.fromkeys([*mine, *theirs]):
            if name not in mine or name not in theirs:
                found.append(Difference(name, "parameter", name in mine, name in theirs))
                continue
            a, b = mine[name], theirs[name]
            pairs = ((f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(Entry) if f.name != "blocks")
            found += [Difference(name, what, x, y) for what, x, y in pairs if x != y]
        if not found and self != other:
            found.append(Difference("parameters", "order", [e.name for e in self.entries], [e.name for e in other.entries]))
        return found

    def table(self) -> Table:
        """The plan as a table of the library rich."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        for title, right in COLUMNS.items():
            table.add_column(title, justify="right" if right else "left", overflow="fold")
        for entry in self.leaves():
            table.add_row(*map(Text, _cells(entry)))  # Text: in `in_proj_weight[q]` the block is no markup
        return table

    def __str__(self) -> str:
        lines = [list(COLUMNS), *(_cells(entry) for entry in self.leaves())]
        return "\n".join([*align(lines, list(COLUMNS.values())), self.summary()])

    def summary(self) -> str:
        """One line: how many parameters and values, the seed, what was assumed."""
        values = sum(entry.numel for entry in self.entries)
        guessed = sum(bool(entry.assumed) for entry in self.entries)
        said = f"{len(self.entries)} parameters, {values:,} values, seed {self.seed}, plan {self.fingerprint()}"
        return said + (f", {guessed} assumed (~)" if guessed else "")


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all: first beside it, then in its place. What is no file, such as a pipe, is written to."""
    target = Path(os.path.realpath(path))  # a link stays one
    whole = target.is_file() or not target.exists()
    beside = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}") if whole else target
    try:
        beside.write_text(text, encoding="utf-8")
        if whole:
            if target.exists():
                shutil.copymode(target, beside)
            beside.replace(target)
    except OSError as error:
        raise InitConfError(Problem(f"cannot be written: {error.strerror}", str(path))) from None
    finally:
        if whole:
            with suppress(OSError):
                beside.unlink()


COLUMNS = {
    "parameter": False,
    "shape": False,
    "role": False,
    "rule": False,
    "initializer": False,
    "fan_in": True,
    "fan_out": True,
    "std": True,
    "law": False,
}
"""The columns of a printed plan, and whether they are aligned to the right."""


def _cells(entry: Entry) -> list[str]:
    return [
        entry.label + (f" (= {', '.join(entry.aliases)})" if entry.aliases else ""),
        "x".join(map(str, entry.shape)) or "()",
        entry.role + ("~" if entry.assumed else "") + (" (frozen)" if entry.frozen else ""),
        entry.rule or "-",
        entry.initializer or "-",
        _show(entry.fan_in),
        _show(entry.fan_out),
        _show(entry.std),
        (type(entry.law).__name__ if entry.std is None else str(entry.law))
        + (" (before its parametrisation)" if entry.effective == "transformed" else ""),
    ]


def align(rows: Iterable[list[str]], right: list[bool]) -> list[str]:
    """Rows of cells as lines of text with aligned columns."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(right))]
    return [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip() for row in rows
    ]


def _show(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def joined(blocks: tuple[Entry, ...], axis: int) -> Blocks:
    """The law of a parameter that consists of blocks."""
    return Blocks(
        axis, tuple(b.block or "" for b in blocks), tuple(b.shape[axis] for b in blocks), tuple(b.law for b in blocks)
    )

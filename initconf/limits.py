"""What a configuration may not do to the program that reads it: call its resolvers, and grow without end.

Each is a window in which a table or a function of OmegaConf or Hydra is another one, for this thread alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf.base import Container
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import InterpolationResolutionError

from initconf.provenance import label
from initconf.reading import check, text_of
from initconf.refusals import RESOLVERS, TOO_MANY

LOCK = threading.RLock()
_MOST = 10_000
"""How many parts of texts the interpolations of one configuration may stand for; five times as many mappings and lists."""


@contextmanager
def few_interpolations() -> Iterator[None]:
    """In this thread, inside, interpolations come to an end: ten lines of them can stand for a million million values."""
    thread, left = threading.get_ident(), float(_MOST)
    resolve, convert = Container.resolve_parse_tree, BaseContainer._to_content

    def spend(parts: float) -> None:
        nonlocal left
        left -= parts * (threading.get_ident() == thread)
        if left < 0 and threading.get_ident() == thread:
            raise InterpolationResolutionError(TOO_MANY)

    def resolved(self: Container, parse_tree: Any, *args: Any, **kwargs: Any) -> Any:
        spend(1 + parse_tree.getChild(0).getChildCount())
        value = resolve(self, parse_tree, *args, **kwargs)
        spend(len(value) // 100 if isinstance(value, str) else 0)
        return value

    def converted(*args: Any, **kwargs: Any) -> Any:
        spend(0.2)  # there may be many without any interpolation
        return convert(*args, **kwargs)

    with LOCK:
        Container.resolve_parse_tree = resolved  # type: ignore[method-assign]
        BaseContainer._to_content = staticmethod(converted)  # type: ignore[method-assign]
        try:
            yield
        finally:
            Container.resolve_parse_tree = resolve  # type: ignore[method-assign]
            BaseContainer._to_content = staticmethod(convert)  # type: ignore[method-assign]


@contextmanager
def resolvers_of_schemes() -> Iterator[None]:
    """In this thread, inside, an interpolation calls none but RESOLVERS.

    An application may register whatever it likes, `eval` for one: that is for its own configuration, and a scheme may come from
    elsewhere. The table is OmegaConf's own and the same for all threads, so it is hidden from this one, and not emptied.
    """
    with LOCK:
        kept = BaseContainer._resolvers
        BaseContainer._resolvers = _Hidden(kept)  # type: ignore[assignment]
        try:
            yield
        finally:
            BaseContainer._resolvers = kept


class _Hidden(MutableMapping[str, Any]):
    def __init__(self, table: MutableMapping[str, Any]) -> None:
        self.table, self.thread = table, threading.get_ident()

    def __getitem__(self, name: str) -> Any:
        if name not in RESOLVERS and threading.get_ident() == self.thread:
            raise KeyError(name)
        return self.table[name]

    def __setitem__(self, name: str, resolver: Any) -> None:
        self.table[name] = resolver

    def __delitem__(self, name: str) -> None:
        del self.table[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.table if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Checked(FileConfigSource):
    """YAML of a directory, looked at before Hydra builds anything of it."""

    def load_config(self, config_path: str) -> ConfigResult:
        place = label(Path(self.path) / self._normalize_file_name(config_path))
        group = config_path.rpartition("/")[0]
        check(text_of(Path(place)), place, group.replace("/", "."), scheme=group.partition("/")[0] == "init")
        return super().load_config(config_path)


@contextmanager
def checked_files() -> Iterator[None]:
    """Inside, every YAML file that Hydra opens is looked at before anything is built of it."""
    Plugins.instance()  # registers Hydra's own sources, once in a process
    known = SourcesRegistry.instance().types
    kept = known["file"]
    known["file"] = _Checked
    try:
        yield
    finally:
        known["file"] = kept

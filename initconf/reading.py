"""From the bytes of a file and the objects of a program to plain data: mappings, lists, strings, numbers, and nothing else."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import BaseModel

from initconf.errors import Problem, SpecError

_LARGEST = 4 << 20
_MOST = 200_000
_DEEPEST = 60


def read(path: Path) -> tuple[dict[str, Any], str]:
    """The mapping in a YAML file, interpolations unresolved, and the file's text. SpecError whatever its bytes are."""
    label = str(path)
    try:
        if path.stat().st_size > _LARGEST:
            raise SpecError(Problem(f"cannot be read: it has more than {_LARGEST >> 20} MiB", label))
        text = path.read_text(encoding="utf-8-sig")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise SpecError(Problem("not a mapping of settings", label, remedy="write key: value in each line"))
        # Aliases are counted as often as they are used: ten lines of them can stand for a million million values.
        if _size(root, {}) > _MOST:
            raise SpecError(Problem("cannot be read: it holds too many values, or an alias of itself", label))
        # OmegaConf's own reader takes 1e-3 for a number, which PyYAML's takes for a string.
        data = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except FileNotFoundError:
        remedy = "a scheme by name has no suffix: init=he"
        raise SpecError(Problem("there is no such file", label, remedy=remedy)) from None
    except yaml.MarkedYAMLError as error:
        raise SpecError(yaml_problem(error, label)) from None
    except UnicodeError:
        raise SpecError(Problem("cannot be read: it is not UTF-8 text", label)) from None
    except RecursionError:
        raise SpecError(Problem("cannot be read: it is nested too deeply", label)) from None
    except SpecError:
        raise
    except OSError as error:
        raise SpecError(Problem(f"cannot be read: {error.strerror}", label)) from None
    except Exception as error:  # noqa: BLE001 - tags such as !!int and !!timestamp raise whatever they stumble over
        raise SpecError(Problem(f"cannot be read: {first_line(error)}", label)) from None
    return plain(data, "init", label), text


def _size(node: yaml.Node | None, known: dict[int, int]) -> int:
    if id(node) not in known:
        known[id(node)] = _MOST + 1  # what holds itself is endless
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = [child for pair in children for child in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = min(1 + sum(_size(child, known) for child in pairs), _MOST + 1)
    return known[id(node)]


def yaml_problem(error: yaml.MarkedYAMLError, label: str | None = None) -> Problem:
    """What is wrong with a YAML text, and in which line."""
    mark = error.problem_mark
    label = label or (mark.name if mark else "init")
    said = " ".join(part for part in (error.context, error.problem) if part)
    remedy = "patterns, and whatever holds : # , * & ! [ ] { }, stand in single quotes: '...'"
    return Problem(f"not YAML: {said}", f"{label}:{mark.line + 1}" if mark else label, remedy=remedy)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, else its name."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(":") if lines else type(error).__name__


def plain(value: Any, where: str, source: str | None = None) -> Any:
    """A value as plain data; `where` is its config path. SpecError for what no configuration can hold."""
    return _Plain(source).of(value, where)


class _Plain:
    def __init__(self, source: str | None) -> None:
        self.source = source
        self.left = _MOST

    def of(self, value: Any, where: str, depth: int = 0) -> Any:
        self.left -= 1
        if depth > _DEEPEST:
            raise self.refused("the configuration is nested too deeply", f"{where[:60]}...")
        if self.left < 0:
            raise self.refused("the configuration holds too many values", where)
        if isinstance(value, (DictConfig, ListConfig)):
            value = OmegaConf.to_container(value, resolve=False)
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_unset=True, warnings=False)
        if isinstance(value, Mapping):
            return {self.key(key, where): self.of(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.of(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, numbers.Integral):  # NumPy's numbers too
            return int(value)
        if isinstance(value, numbers.Real):
            return float(value)
        raise self.refused(f"a value of type {type(value).__name__} is nothing that a configuration can hold", where)

    def key(self, key: Any, where: str) -> str:
        if isinstance(key, str):
            return str.__str__(key)
        shown = repr(key) if isinstance(key, (bool, int, float, bytes, type(None))) else f"of type {type(key).__name__}"
        remedy = "YAML reads on, off, yes and no as true and false: put the key in quotes" if isinstance(key, bool) else None
        raise self.refused(f"the key {shown} is not a string", where, remedy)

    def refused(self, text: str, where: str, remedy: str | None = None) -> SpecError:
        return SpecError(Problem(text, where, None, self.source, remedy))

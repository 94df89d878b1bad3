"""From the bytes of a file and the objects of a program to plain data: mappings, lists, strings, numbers, and nothing else."""

from __future__ import annotations

import numbers as abstract
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import GrammarParseError
from pydantic import BaseModel

from initconf.errors import Problem, SpecError

LARGEST = 4 << 20
"""How many bytes a configuration may have."""
_MOST = 200_000
_DEEPEST = 60
_LONGEST = 100_000
_REFERENCES = 100


def read(path: Path) -> tuple[dict[str, Any], str]:
    """The mapping in a YAML file, interpolations unresolved, and the file's text. SpecError whatever its bytes are."""
    text = text_of(path, "a scheme by name has no suffix: init=he")
    data: dict[str, Any] = parse(text, str(path))
    return data, text


def text_of(path: Path, if_missing: str | None = None) -> str:
    """The text of a file. SpecError (with the remedy `if_missing`) where there is none, for what is no text and too large."""
    label = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise SpecError(Problem("there is no such file", label, remedy=if_missing)) from None
    except (OSError, ValueError) as error:
        raise SpecError(Problem(f"cannot be read: {getattr(error, 'strerror', None) or first_line(error)}", label)) from None
    return decoded(content, label)


def decoded(content: bytes, label: str) -> str:
    """The text that bytes stand for. SpecError for too many of them, and for what is not UTF-8."""
    if len(content) > LARGEST:
        raise SpecError(Problem(f"cannot be read: it has more than {LARGEST >> 20} MiB", label))
    try:
        return content.decode("utf-8-sig")
    except UnicodeError:
        raise SpecError(Problem("cannot be read: it is not UTF-8 text", label)) from None


def parse(text: str, label: str, where: str = "init", *, lists: bool = False) -> Any:
    """The mapping (or, if `lists`, the list) that a YAML text holds, as plain data, interpolations unresolved.

    `label` names the text and `where` the config path of its root. SpecError whatever the text is.
    """
    try:
        check(text, label, where, lists=lists)
        # OmegaConf's own reader takes 1e-3 for a number, which PyYAML's takes for a string.
        data = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except yaml.MarkedYAMLError as error:  # what only OmegaConf minds, such as a key that stands twice
        raise SpecError(yaml_problem(error, label)) from None
    except RecursionError:
        raise SpecError(Problem("cannot be read: it is nested too deeply", label)) from None
    except SpecError:
        raise
    except Exception as error:  # noqa: BLE001 - tags such as !!int and !!timestamp raise whatever they stumble over
        raise SpecError(Problem(f"cannot be read: {first_line(error)}", label)) from None
    return plain(data, where, label)


def check(text: str, label: str, where: str = "init", *, lists: bool = False, scheme: bool = True) -> None:
    """Refuse, before anything is built of it, a YAML text that is none, or that would be something else than it seems.

    SpecError for what is no YAML and no mapping (or, if `lists`, no list), for what grows without end, for a `${` that begins
    no interpolation; and of a scheme also for a defaults list that leads out of its folder, for keys that are no strings and
    for numbers that YAML misreads.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and not isinstance(root, yaml.CollectionNode if lists else yaml.MappingNode):
            raise SpecError(Problem("not a mapping of settings", label, remedy="write key: value in each line"))
        # Aliases are counted as often as they are used: ten lines of them can stand for a million million values.
        if _size(root, {}) > _MOST:
            raise SpecError(Problem("cannot be read: it holds too many values, or an alias of itself", label))
    except yaml.MarkedYAMLError as error:
        raise SpecError(yaml_problem(error, label)) from None
    except yaml.YAMLError as error:  # characters that no YAML may hold
        raise SpecError(Problem(f"cannot be read: {first_line(error)}", label)) from None
    except RecursionError:
        raise SpecError(Problem("cannot be read: it is nested too deeply", label)) from None
    found: list[tuple[tuple[str, str] | None, str, yaml.Node]] = []
    for path, node in _nodes(root, where):
        if isinstance(node, yaml.ScalarNode):
            found.append((_misread(node, scheme), path, node))
        elif isinstance(node, yaml.MappingNode) and scheme:
            found += [(_no_key(key), path, key) for key, _ in node.value]
    if scheme:
        found += [(OUTSIDE, f"{where}.defaults", entry) for entry in entries(root) if leads_out(entry.value)]
    problems = []
    for said, path, node in found:
        if said is not None:
            value = repr(node.value)[:100] if isinstance(node, yaml.ScalarNode) else None
            problems.append(Problem(said[0], path, value, f"{label}:{node.start_mark.line + 1}", said[1]))
    if problems:
        raise SpecError(problems)


def entries(root: yaml.Node | None) -> list[yaml.ScalarNode]:
    """All names in a defaults list."""
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    listed = [node for key, value in pairs if key.value == "defaults" for _, node in _nodes(value, "")]
    keys = [key for node in listed if isinstance(node, yaml.MappingNode) for key, _ in node.value]
    return [node for node in (*listed, *keys) if isinstance(node, yaml.ScalarNode)]


OUTSIDE = (
    "a defaults list does not lead out of its folder",
    "name a scheme, or files of a group: [he, {rules: [roles, mine]}]",
)


def leads_out(name: str) -> bool:
    """Whether Hydra 1.3 would follow the entry of a defaults list to any YAML file of the machine."""
    return ".." in re.split(r"[/\s]", name)


_OCTAL = re.compile(r"[-+]?0[0-7_]*[1-7][0-7_]*")
_SIXTIES = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


def _no_key(node: yaml.Node) -> tuple[str, str] | None:
    """What is wrong with a key that is no string, and the remedy."""
    if node.tag in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
        return None
    if not isinstance(node, yaml.ScalarNode):
        return "a key is a string", "patterns are values: {match: '...'}"
    kind = node.tag.rpartition(":")[2]
    named = {"bool": "true or false", "int": "a number", "float": "a number", "null": "null"}
    return f"YAML reads this key as {named.get(kind, kind)}", "put it in quotes"


def _misread(node: yaml.ScalarNode, scheme: bool) -> tuple[str, str] | None:
    """What is wrong with a scalar that would be read as something else, and the remedy."""
    if (said := too_much(node.value)) is not None:
        return said
    if "${" in node.value:
        try:
            OmegaConf.create({"it": node.value})
        except (GrammarParseError, RecursionError):
            return NO_INTERPOLATION
    if scheme and node.style is None and node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
        if _OCTAL.fullmatch(node.value):
            return "YAML reads a number that begins with 0 in base 8", "leave the 0 out, or put it in quotes"
        if _SIXTIES.fullmatch(node.value):
            return "YAML reads a number with colons in base 60", "put it in quotes"
    return None


NO_INTERPOLATION = (
    "not an interpolation",
    r"write ${key}, ${.key} or ${oc.env:NAME}; a $ that is meant as such before a { is \$",
)


def _size(node: yaml.Node | None, known: dict[int, int]) -> int:
    """How many values a node stands for, or _MOST + 1."""
    if id(node) not in known:
        known[id(node)] = _MOST + 1  # what holds itself is endless
        known[id(node)] = min(1 + sum(_size(child, known) for child in _children(node)), _MOST + 1)
    return known[id(node)]


def _children(node: yaml.Node | None) -> list[yaml.Node]:
    parts = node.value if isinstance(node, yaml.CollectionNode) else []
    return [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]


def too_much(text: str) -> tuple[str, str] | None:
    """What is wrong with a text that is too long, or refers to too many values, and the remedy."""
    if len(text) > _LONGEST:
        return f"the text has more than {_LONGEST} characters", "a pattern, a name and an expression are shorter"
    if text.count("${") > _REFERENCES:
        return f"the text refers to more than {_REFERENCES} values", "name them by fewer interpolations"
    return None


def _nodes(root: yaml.Node | None, where: str) -> Iterator[tuple[str, yaml.Node]]:
    """Every node that is a value, once, in the order of the text, with its path."""
    seen, todo = set(), [(where, root)]
    while todo:
        path, node = todo.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        yield path, node
        if isinstance(node, yaml.MappingNode):
            todo += [(f"{path}.{key.value}".lstrip("."), value) for key, value in reversed(node.value)]
        elif isinstance(node, yaml.SequenceNode):
            todo += [(f"{path}[{i}]", value) for i, value in reversed([*enumerate(node.value)])]


def yaml_problem(error: yaml.MarkedYAMLError, label: str | None = None) -> Problem:
    """What is wrong with a YAML text, and in which line."""
    mark = error.problem_mark
    label = label or (mark.name if mark else "init")
    said = " ".join(part for part in (error.context, error.problem) if part)
    remedy = "patterns, and whatever holds : # , * & ! [ ] { }, stand in single quotes: '...'"
    if "duplicate key" in said:
        remedy = "a key stands once, or only the last would count"
    elif "another document" in said:
        remedy = "a file holds one document: take out the line ---"
    elif "'\\t'" in said:
        remedy = "indent with spaces: YAML does not take tabs"
    elif "python/" in said:
        remedy = "a configuration holds plain values, and calls nothing"
    return Problem(f"not YAML: {said}", f"{label}:{mark.line + 1}" if mark else label, remedy=remedy)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, else its name."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(":") if lines else type(error).__name__


def plain(value: Any, where: str, source: str | None = None) -> Any:
    """A value as plain data; `where` is its config path. SpecError for what no configuration can hold."""
    try:
        return _Plain(source).of(value, where)
    except SpecError:
        raise
    except Exception as error:  # noqa: BLE001 - a mapping or a number may be of any class, and do anything when it is asked
        said = type(error).__name__
        raise SpecError(Problem(f"cannot be read: its {type(value).__name__} raised {said}", where, None, source)) from None


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
            if (said := too_much(text := str.__str__(value))) is not None:
                raise self.refused(said[0], where, said[1])
            return text
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, abstract.Integral):  # NumPy's numbers too
            return int(value)
        if isinstance(value, abstract.Real):
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

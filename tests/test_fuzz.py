"""Nothing whatever makes `load` raise anything but SpecError, hang, or run anybody's code; errors are in words of our own."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from initconf import InitSpec, Rule, SpecError, load
from initconf.loading import load_application

RAW = re.compile(
    r"pydantic|[Ii]nput should|validation error|omegaconf|DictConfig with|Got NoneType|full_key|object_type|Traceback|"
    r"Interpolation key|resolving interpolation|Recursive interpolation|token recognition|mismatched input|is not iterable|"
    r"Could not override|Could not delete|Error merging|object has no attribute"
)
RAN: list[Any] = []
"""What was called that should not have been."""


@pytest.fixture(autouse=True, scope="module")
def _canary() -> Iterator[None]:
    """An application's own resolver, which a scheme may not call."""
    register = OmegaConf.register_resolver  # of 2.3 a function of another kind
    if "replace" not in inspect.signature(register).parameters:
        register = OmegaConf.register_new_resolver
    register("sing", lambda *words: RAN.append(words) or 1, replace=True)
    yield
    OmegaConf.clear_resolver("sing")


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(SpecError) as caught:
        load(*args, **kwargs)
    return str(caught.value)


def only_a_spec_error(*args: Any, load: Any = load, **kwargs: Any) -> None:
    try:
        load(*args, **kwargs)
    except SpecError as error:
        said = str(error)
        assert said
        assert not RAW.search(re.sub(r"'[^']*'|\"[^\"]*\"", "", said)), said
    assert not RAN


# --- what there is -----------------------------------------------------------------------------------------------------------


class Odd:
    """Nothing can be done with it."""

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    __hash__ = object.__hash__


class OddMapping(Mapping):  # type: ignore[type-arg]
    """Says that it has a key, and fails when it is asked for it."""

    def __getitem__(self, key: Any) -> Any:
        raise ZeroDivisionError

    def __iter__(self) -> Iterator[str]:
        return iter(["gain"])

    def __len__(self) -> int:
        return 1


class Endless(Mapping):  # type: ignore[type-arg]
    """Holds itself, under a name that is never the same."""

    def __getitem__(self, key: Any) -> Any:
        return self

    def __iter__(self) -> Iterator[str]:
        return (f"key{i}" for i in range(10**9))

    def __len__(self) -> int:
        return 10**9


class OddNumber(int):
    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __int__(self) -> int:
        raise RuntimeError("int")


class OddText(str):
    def __str__(self) -> str:
        raise RuntimeError("str")

    def strip(self, *args: Any) -> str:
        raise RuntimeError("strip")


class Colour(enum.Enum):
    red = 1


WORDS = (
    "he error keep normal fan_in relu second_moment ${gain} ${nope} ${oc.env:NOBODY_SETS_THIS} ${ ${} ??? ${init.gain} ${..} "
    "${rules.head} ${init} ${oc.create:{a:1}} ${.} 1/sqrt(2) ' weight bias ( [a *.w \ud800 \0 auto torch \\${x} __mapping__ "
    "None ${sing:1} ${oc.decode:'\\${sing:1}'} ${${gain}:1} ${oc.select:gain} ${oc.env:HOME} ../he ${oc.deprecated:gain} on "
    "1e3 017"
).split(" ")
words = st.sampled_from(WORDS)
THINGS = [10**400, 1j, object(), Colour.red, int, print, ..., range(3), {1}, np.float32(2), np.zeros(2), Path("a")]
THINGS += [InitSpec(gain=2), OmegaConf.create({"gain": "${nope}"}), b"he"]
# What cannot even be printed.
odd = st.sampled_from([Odd, OddMapping, lambda: OddNumber(3), lambda: OddText("he"), lambda: 10**5000]).flatmap(st.builds)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | words
    | st.binary(max_size=3)
    | st.sampled_from(THINGS)
    | odd
)
KEYS = [*InitSpec.model_fields, *Rule.model_fields, "defaults", "_target_", "name", "std", "a.b", "", "x y", "init", "_self_"]
keys = (
    st.sampled_from(KEYS)
    | st.sampled_from(KEYS)
    | st.text(max_size=4)
    | st.sampled_from([1, 1.5, True, None, b"x", (1,), Colour.red])
    | st.builds(Odd)
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=6,
)
rules = st.none() | st.dictionaries(st.sampled_from([*Rule.model_fields]), trees, max_size=3)
layouts = st.dictionaries(st.sampled_from("match axes blocks groups fans_of role zero_row nope".split()), trees, max_size=3)
specs = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(InitSpec.model_fields, trees | words),
        "rules": trees | st.dictionaries(st.sampled_from(["head", "bias", "a b"]), rules, max_size=2),
        "layouts": trees | st.dictionaries(st.sampled_from(["a", "a.b"]), layouts | trees, max_size=2),
    },
)
entries = words | st.dictionaries(
    words | st.sampled_from(["rules", "override rules", "/init", "optional x", "rule@rules.a", "/hydra/launcher"]),
    words | leaves,
    max_size=1,
)


# --- mappings ----------------------------------------------------------------------------------------------------------------


def test_endless_and_enormous_mappings() -> None:
    nested: dict[str, Any] = {}
    nested["rules"] = nested
    assert refused(nested) == f"init{'.rules' * 9}.r...: the configuration is nested too deeply"
    loop: list[Any] = []
    loop.append(loop)
    assert refused({"targets": {"a": loop}}).endswith("the configuration is nested too deeply")
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"targets": deep}
    assert refused(deep).endswith("the configuration is nested too deeply")
    wide: list[Any] = [1]
    for _ in range(50):
        wide = [wide, wide]
    assert refused({"targets": {"a": wide}}).endswith("the configuration holds too many values")
    assert refused(Endless()).endswith("the configuration is nested too deeply")
    assert refused({"targets": {str(i): 0 for i in range(300_000)}}).endswith("the configuration holds too many values")


def test_enormous_values() -> None:
    huge = 10**5000
    assert refused({"gain": huge}).startswith("init.gain = an integer of 16610 bits  (python): the number is too large")
    assert load({"seed": huge}).seed == huge
    assert refused({"gain": "1" * 10**5}).endswith("(python): the expression is longer than 200 characters" + NUMBER)
    assert refused({"mode": "x" * 10**5}).startswith(f"init.mode = '{'x' * 96}...  (python): not a mode")
    assert refused({"rules": {"a": {"match": "a" * 10**6}}}).startswith("init.rules.a.match: the text has more than 100000 ")
    assert refused({"gain": "${" * 50}).startswith("init.gain = '${${")
    assert refused({"gain": "${seed}" * 101, "seed": 1}) == (
        "init.gain: the text refers to more than 100 values\n  -> name them by fewer interpolations"
    )


NUMBER = '\n  -> write a number, or an expression such as "1/sqrt(2*n_layers)"'


@pytest.mark.slow
@pytest.mark.parametrize("text", [False, True])
def test_interpolations_that_grow(text: bool) -> None:
    """Forty lines, each of which stands for several of the one before it."""
    said: dict[str, Any] = {"x0": "z" * 64 if text else {"a": 1}}
    for i in range(1, 40):
        refers = f"${{init.initializer.x{i - 1}}}"
        said[f"x{i}"] = refers * 8 if text else {"a": refers, "b": refers}
    source = {"initializer": said} if text else OmegaConf.create({"init": {"initializer": said}}).init
    assert refused(source) == "init: the interpolations stand for too many values"
    many = {"name": "x", **{f"x{i}": "${init.seed}" for i in range(1000)}}
    assert load({"initializer": many, "seed": 3}).initializer["x999"] == 3  # type: ignore[index]


@settings(max_examples=400)
@given(specs | st.dictionaries(keys, trees, max_size=4))
def test_any_mapping(mapping: dict[Any, Any]) -> None:
    mapping.pop("defaults", None)
    only_a_spec_error(mapping)


@settings(max_examples=30)
@given(specs, st.lists(entries | leaves, max_size=3) | trees)
@example({"gain": 2}, [{"override /hydra/launcher": "x"}, "he"])
def test_any_mapping_with_any_defaults(mapping: dict[Any, Any], defaults: Any) -> None:
    only_a_spec_error({**mapping, "defaults": defaults})


# --- overrides ---------------------------------------------------------------------------------------------------------------

SIGNS = ["", "", "+", "++", "~"]
TARGETS = (
    "gain init.gain rules rules.head rules.head.gain init/rules init initializer initializer.std defaults init/schema "
    "init/rule init@init init/rules@init.rules init/rule@init.rules.a a.b seed.x init.rules.bias targets.x layouts "
    "hydra.x hydra/x +"
).split()
VALUES = (
    "null he [head] {a:1} {match:a} [] ${gain} ${init} ${.} ??? 'a,b' a,b roles range(1,3) {name:normal,std:1} __mapping__ "
    "${init.rules} ${oc.env:X} 1e400 [${x}] base 'x 1 0.5 \ud800 ${oc.decode:x} ${sing:1} ../he zeros [../x] extend_list(1) "
    "{a:{b:[1,{c:2}]}} glob(*) int(x) sort(1,2) [[]] {} '${sing:1}' None"
).split(" ")
EQUALS = ["=", "=", "=", "", "@x="]
overrides = st.text(max_size=12) | st.tuples(*map(st.sampled_from, (SIGNS, TARGETS, EQUALS, VALUES))).map("".join)


@settings(max_examples=60)
@given(st.lists(overrides, min_size=1, max_size=2), st.sampled_from(["he", {"gain": 1}, OmegaConf.create({"gain": 1})]))
def test_any_override(lines: list[str], source: Any) -> None:
    only_a_spec_error(source, lines)


@given(st.lists(leaves, max_size=2) | leaves)
def test_what_is_no_list_of_overrides(lines: Any) -> None:
    only_a_spec_error({"gain": 1}, lines)


@given(trees)
def test_what_is_no_source(source: Any) -> None:
    only_a_spec_error(source)


@given(st.text(max_size=30) | words)
def test_any_name(name: str) -> None:
    only_a_spec_error(name)


# --- files -------------------------------------------------------------------------------------------------------------------

TOKENS = (
    "gain rules defaults init : - \n [ ] { } , &a *a !!set !!omap !!binary !!python/name:os.system <<: | > ' \" # ? --- ... "
    "%YAML !!timestamp 2020-01-01 1e3 0x1F 1_0 ~ null yes .inf .nan 12:30 he ${gain} ??? \t \0 \ufeff !foo !!int !!float x "
    "017 ${sing:1} ../he on"
).split(" ")
texts = st.lists(st.sampled_from([*TOKENS, " ", ": ", "\n  ", "- "]), max_size=14).map("".join)
contents = (
    st.binary(max_size=40)
    | texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | texts.map(lambda text: text.encode("utf-16"))
    | st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass"))
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=contents)
@example(data=b"gain: !!int '" + b"9" * 5000 + b"'")
@example(data=b"a: !!timestamp 2020-99-99")
@example(data=b"? [a]\n: 1")
@example(data=b"? {a: b}\n: 1")
@example(data=b"<<: 3")
def test_any_bytes(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(data)
    only_a_spec_error(file)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scheme=contents | st.just(b"defaults: [{rules: [rules]}, _self_]"), rules=contents, config=contents)
def test_any_bytes_in_a_directory(scheme: bytes, rules: bytes, config: bytes, tmp_path: Path) -> None:
    """As a scheme and a rule file, found by name, and as the configuration of an application."""
    config = b"defaults: [{init: scheme}]\n" + config
    for name, data in {"init/scheme.yaml": scheme, "init/rules/rules.yaml": rules, "config.yaml": config}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    only_a_spec_error("scheme", config_dir=tmp_path)
    only_a_spec_error(tmp_path, "config", load=load_application)

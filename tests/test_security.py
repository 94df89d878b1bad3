"""A configuration from elsewhere runs nothing, reads no file that it does not name, and does not fill the memory.

What is decided: a scheme reads environment variables (`oc.env`) and other values, and calls nothing else; in an application's
own configuration its own resolvers work as everywhere in Hydra. A path in a configuration is any path of the machine, and
what stands there is read as tensors or refused.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer
from safetensors.torch import save_file

import initconf
from initconf import CompileError, InitConfError, SpecError, files, load
from initconf.files import contents
from initconf.limits import resolvers_of_schemes
from initconf.loading import load_application
from tests.small_models import mlp
from tests.test_loading import refused, write

VERSION = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resolver(name: str, function: Callable[..., Any]) -> None:
    register = OmegaConf.register_resolver  # of 2.3 a function of another kind
    if "replace" not in inspect.signature(register).parameters:
        register = OmegaConf.register_new_resolver
    register(name, function, replace=True)


@pytest.fixture(autouse=True)
def _canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module that whoever imports it leaves in `sys.modules`, and a resolver that remembers its calls."""
    (tmp_path / "sung.py").write_text("def sing(*args, **kwargs):\n    raise SystemExit('sung')\n")
    monkeypatch.syspath_prepend(tmp_path)
    calls: list[Any] = []
    resolver("sing", lambda *words: calls.append(words) or 3)
    yield
    OmegaConf.clear_resolver("sing")
    assert "sung" not in sys.modules
    assert not calls


# --- names of code -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("override", ["hydra.searchpath=[pkg://sung]", "++hydra.searchpath=[pkg://sung]", "_target_=sung.sing"])
def test_no_override_imports_anything(override: str) -> None:
    with pytest.raises(SpecError):
        load("he", [override, "seed=x"])


@pytest.mark.parametrize("tag", ["module:sung", "name:sung.sing", "object/new:sung.sing []", "object/apply:sung.sing []"])
def test_no_tag_imports_anything(tag: str, here: Path) -> None:
    for name in ("x.yaml", "init/x.yaml", "init/rules/x.yaml"):
        write(name, f"a: !!python/{tag}")
    assert refused("x.yaml").startswith("x.yaml:1: not YAML: could not determine a constructor for the tag")
    assert refused("x", config_dir=".").startswith("init/x.yaml:1: not YAML: could not determine a constructor")
    assert refused("he", ["init/rules=x"], config_dir=".").startswith("init/rules/x.yaml:1: not YAML: could not determine")


def test_no_name_is_an_import_path() -> None:
    keys = {"_target_": "sung.sing", "_recursive_": True, "_partial_": True, "_convert_": "all"}
    assert load({**keys, "gain": 2}) == load({"gain": 2})
    for spec in (
        {"initializer": "sung.sing"},
        {"initializer": {"name": "sung:sing"}},
        {"initializer": {"name": "normal", "std": {"_target_": "sung.sing"}}},
        {"nonlinearity": "sung.sing"},
        {"rules": {"a": {"module": "sung.sing", "initializer": "zeros"}}},
        {"layouts": {"a": {"module": "sung.sing"}}, "rules": {"a": {"glob": "*", "initializer": {"_target_": "sung.sing"}}}},
    ):
        with pytest.raises((SpecError, CompileError)):
            initconf.compile(mlp(), spec)


def test_no_configuration_of_hydra_s_own_is_run(here: Path) -> None:
    """A scheme may say `hydra`, as any file of a group may: it is composed, and nothing is made of it."""
    hydra_s = "hydra: {callbacks: {a: {_target_: sung.sing}}, launcher: {_target_: sung.sing}}\n"
    write("init/x.yaml", f"# @package _global_\n{hydra_s}init: {{gain: 2}}\n")
    assert load("x", config_dir=".").gain == 2
    write("config.yaml", f"defaults: [{{init: x}}, _self_]\n{hydra_s}")
    assert load_application(".", "config").gain == 2
    for entry in ({"override /hydra/launcher": "sung"}, "pkg://sung", {"/hydra/searchpath": "pkg://sung"}):
        assert refused({"defaults": [entry], "seed": "x"})


# --- resolvers ---------------------------------------------------------------------------------------------------------------

CALLS = [
    "${sing:1}",
    "x${sing:1}",
    "${oc.decode:'\\${sing:1}'}",
    "${oc.create:{a: '\\${sing:1}'}}",
    "${oc.select:'nope','${sing:1}'}",
    "${oc.env:NOBODY_SETS_THIS,${sing:1}}",
    "${${init.nonlinearity}:1}",
    "${now:%Y}",
    "${hydra:job.num}",
    "${oc.deprecated:seed}",
]


@pytest.mark.parametrize("call", CALLS)
def test_a_scheme_calls_no_resolver_but_those_that_run_nothing(call: str, here: Path) -> None:
    spec = {"initializer": {"name": "x", "a": call}, "nonlinearity": "sing"}
    text = OmegaConf.to_yaml(OmegaConf.create(spec))
    for name in ("x.yaml", "init/x.yaml"):
        write(name, text)
    write("init/rules/x.yaml", OmegaConf.to_yaml(OmegaConf.create({"a": {"glob": "*", **spec}})))
    ways = [lambda: load(spec), lambda: load("x.yaml")]
    if call == CALLS[0]:  # the others compose, which takes its time
        ways += [
            lambda: load({"defaults": ["he"], **spec}),
            lambda: load("x", config_dir="."),
            lambda: load("he", ["init/rules=x", "nonlinearity=sing"], config_dir="."),
        ]
    for source in ways:
        with pytest.raises(
            SpecError, match=r"a scheme cannot call the resolver '[\w.]+', only oc\.env, oc\.decode, oc\.select, "
        ):
            source()


def test_nor_does_an_override() -> None:
    lines = ["gain=${sing:1}", "rules.head.gain=${sing:1}", "++seed=${sing:1}", "initializer='x${sing:1}'"]
    for source in ("he", {"initializer": {"name": "x"}}, load({"initializer": {"name": "x"}})):
        assert refused(source, lines).count("a scheme cannot call the resolver 'sing'") == 4


def test_a_defaults_list_calls_nothing(here: Path) -> None:
    write("init/x.yaml", "defaults: [{rules: '${sing:1}'}]\n")
    assert refused("x", config_dir=".").startswith("init")
    for entry in ("${sing:1}", {"rules": "${sing:1}"}, {"rules": ["${sing:1}"]}):
        assert refused({"defaults": [entry]})
    assert refused("he", ["init/rules=${sing:1}"])


def test_what_was_resolved_is_not_resolved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_SOMEBODY_ELSE", "${sing:1}")
    spec = load({"initializer": {"name": "x", "a": "${oc.env:OF_SOMEBODY_ELSE}"}})
    for again in (spec, load(spec, ["gain=2"]), load(load(spec, ["gain=2"]), ["seed=1"])):
        assert again.initializer == {"name": "x", "a": "${sing:1}"}


def test_what_a_scheme_may_call(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setenv("STD", "0.5")
    said = {
        "${oc.env:STD}": "0.5",
        "${oc.decode:${oc.env:STD}}": 0.5,
        "${oc.env:NOBODY_SETS_THIS,2}": "2",
        "${oc.select:nope,3}": 3,
        "${oc.create:{b: 1}}": {"b": 1},
    }
    for text, value in said.items():
        mapping = {"initializer": {"name": "x", "a": text}}
        write("init/x.yaml", OmegaConf.to_yaml(OmegaConf.create(mapping)))
        for spec in (load(mapping), load("init/x.yaml"), load("x", config_dir=".")):
            assert spec.initializer == {"name": "x", "a": value}


def test_an_application_calls_its_own(here: Path) -> None:
    resolver("next", lambda word: int(word) + 1)
    write("config.yaml", "init: {gain: '${next:1}'}\n")
    with hydra.initialize_config_dir(str(here), **VERSION):
        assert load(hydra.compose("config").init).gain == 2
    assert load_application(here, "config").gain == 2
    OmegaConf.clear_resolver("next")
    with pytest.raises(SpecError, match=r"^init\.gain = '\$\{next:1\}'  \(config\.yaml:1\): no resolver is named 'next'"):
        load_application(here, "config")


def test_what_an_application_s_resolver_raises_is_an_error_with_an_address(here: Path) -> None:
    def broken() -> int:
        raise ZeroDivisionError("nothing to divide by")

    resolver("broken", broken)
    with pytest.raises(SpecError) as caught:
        load(OmegaConf.create({"init": {"gain": "${broken:}"}}).init)
    OmegaConf.clear_resolver("broken")
    assert (
        str(caught.value) == "init.gain = '${broken:}'  (python): its resolver raised ZeroDivisionError: nothing to divide by"
    )


def test_other_threads_keep_their_resolvers() -> None:
    table, said = BaseContainer._resolvers, []
    resolver("next", lambda word: int(word) + 1)
    with resolvers_of_schemes(), resolvers_of_schemes():
        thread = threading.Thread(target=lambda: said.append(OmegaConf.create({"a": "${next:1}"}).a))
        thread.start()
        thread.join()
        assert "next" not in BaseContainer._resolvers
        assert "oc.env" in BaseContainer._resolvers
    OmegaConf.clear_resolver("next")
    assert said == [2]
    assert BaseContainer._resolvers is table


# --- files -------------------------------------------------------------------------------------------------------------------


def test_a_defaults_list_stays_in_its_folder(here: Path) -> None:
    """Hydra 1.3 would follow it to any YAML file, whose words would stand in the error."""
    write("secret.yaml", "password: hunter2\n")
    write("conf/init/x.yaml", "defaults: [../../secret]\n")
    write("conf/init/rules/y.yaml", "defaults: [../../../secret]\n")
    up = "../" * 8 + str(here).lstrip("/") + "/secret"
    for said in (
        refused("x", config_dir="conf"),
        refused("he", ["init/rules=[y]"], config_dir="conf"),
        refused("he", [f"init/rules=[{up}]"]),
        refused("he", [f"+init/rule@init.rules.a={up}"]),
        refused("conf/init/x.yaml"),
        refused({"defaults": [up]}),
        refused({"defaults": [{"rules": ["roles", up]}]}),
        refused({"defaults": ["he", {"optional rules/../..": "secret"}]}),
    ):
        assert "a defaults list does not lead out of its folder" in said
        assert "hunter2" not in said
    assert "hunter2" not in refused(up)


def test_a_link_is_the_file_that_it_leads_to(here: Path) -> None:
    write("elsewhere/mine.yaml", "gain: 3\n")
    Path("conf/init").mkdir(parents=True)
    Path("conf/init/mine.yaml").symlink_to(here / "elsewhere" / "mine.yaml")
    Path("conf/init/loop.yaml").symlink_to("loop.yaml")
    assert load("mine", config_dir="conf").gain == 3
    assert load("conf/init/mine.yaml").gain == 3
    assert refused("loop", config_dir="conf").startswith("init = 'loop': no scheme has this name")
    assert refused("conf/init/loop.yaml").startswith("conf/init/loop.yaml: cannot be read: Too many levels of symbolic links")


LAUGHS = "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20))])


@pytest.mark.parametrize("text", [LAUGHS, "a: &a [*a]", "a: &a {b: *a}"], ids=["laughs", "list", "mapping"])
def test_aliases_that_grow(text: str, here: Path) -> None:
    """In each file that is read: the one named, a scheme, a rule file, what a scheme names, an application's configuration."""
    for name in ("x.yaml", "init/x.yaml", "init/rules/x.yaml", "init/rule/x.yaml", "other/x.yaml"):
        write(name, text)
    write("init/names.yaml", "defaults: [/other/x]\n")
    said = "cannot be read: it holds too many values, or an alias of itself"
    assert refused("x.yaml") == f"x.yaml: {said}"
    assert refused("x", config_dir=".") == f"init/x.yaml: {said}"
    assert refused("he", ["init/rules=x"], config_dir=".") == f"init/rules/x.yaml: {said}"
    assert refused("he", ["+init/rule@init.rules.x=x"], config_dir=".") == f"init/rule/x.yaml: {said}"
    assert refused("names", config_dir=".") == f"other/x.yaml: {said}"
    with pytest.raises(SpecError) as caught:
        load_application(here, "x")
    assert str(caught.value) == f"x.yaml: {said}"


def test_files_of_a_directory_that_are_no_files(here: Path) -> None:
    Path("init").mkdir()
    Path("init/large.yaml").write_bytes(b"#" * (5 << 20))
    Path("init/bytes.yaml").write_bytes(b"\xff")
    Path("init/folder.yaml").mkdir()
    os.mkfifo("init/pipe.yaml")  # whoever opens it waits for a writer, in vain
    assert refused("large", config_dir=".") == "init/large.yaml: cannot be read: it has more than 4 MiB"
    assert refused("bytes", config_dir=".") == "init/bytes.yaml: cannot be read: it is not UTF-8 text"
    for name in ("folder", "pipe"):
        assert refused(name, config_dir=".").startswith(f"init = '{name}': no scheme has this name")
    assert refused("/dev/zero").startswith("init = '/dev/zero': no scheme has this name")


# --- tensors -----------------------------------------------------------------------------------------------------------------


class Sings:
    def __reduce__(self) -> tuple[Any, ...]:
        return __import__, ("sung",)


def test_no_file_of_tensors_runs_code(here: Path) -> None:
    """Pickled code in each kind of file, also inside what is a mapping of tensors otherwise."""
    weight, model = torch.ones(3, 8), mlp()
    torch.save({"head.weight": weight, "extra": Sings()}, "zip.pt")
    torch.save({"head.weight": weight, "extra": Sings()}, "legacy.pt", _use_new_zipfile_serialization=False)
    Path("bare.pt").write_bytes(pickle.dumps({"head.weight": Sings()}))
    np.save("objects.npy", np.array([Sings()], dtype=object), allow_pickle=True)
    Path("pickled.npy").write_bytes(pickle.dumps(Sings()))
    Path("x.safetensors").write_bytes(pickle.dumps(Sings()))
    torch.save(mlp(), "module.pt")
    for name in ("zip.pt", "legacy.pt", "bare.pt", "objects.npy", "pickled.npy", "x.safetensors", "module.pt"):
        with pytest.raises(InitConfError):
            contents(name)
        for initializer in ({"name": "pretrained", "path": name}, {"name": "values", "path": name, "key": "head.weight"}):
            with pytest.raises(CompileError, match=name):
                initconf.compile(
                    model, {"rules": {"head": {"glob": "head.weight", "initializer": initializer}}, "unmatched": "keep"}
                )


def test_an_index_reaches_the_files_beside_it_and_no_others(here: Path) -> None:
    for folder in ("checkpoint", "secret", "cache"):
        Path(folder).mkdir()
        save_file({"head.weight": torch.ones(3, 8)}, f"{folder}/blob.safetensors")
    Path("checkpoint/link.safetensors").symlink_to(here / "cache" / "blob.safetensors")
    index = Path("checkpoint/model.safetensors.index.json")
    for name in ("blob.safetensors", "link.safetensors"):
        index.write_text(json.dumps({"weight_map": {"head.weight": name}}))
        assert contents(str(index))["head.weight"].shape == (3, 8)
        os.utime(index, ns=(1, 1))
    for name in (
        "../secret/blob.safetensors",
        str(here / "secret" / "blob.safetensors"),
        "a/../blob.safetensors",
        ".safetensors/",
    ):
        index.write_text(json.dumps({"weight_map": {"head.weight": name}}))
        with pytest.raises(InitConfError) as caught:
            contents(str(index))
        assert str(caught.value) in (
            f"{index} names {name!r}, which is not a file beside it",
            f"{index} is not an index of safetensors or torch files",
        )


@pytest.mark.parametrize("path", ["", ".", "..", "/", "/dev/zero", "/etc/passwd", "nope.pt", "a\0b", "~nobody/x", "x" * 5000])
def test_a_path_that_leads_to_no_tensors(path: str, here: Path) -> None:
    for kind in ("", ".npy", ".safetensors", ".index.json"):
        with pytest.raises(InitConfError):
            contents(path + kind)
    with pytest.raises(CompileError):
        initconf.compile(mlp(), {"rules": {"head": {"glob": "head.weight", "initializer": {"name": "values", "path": path}}}})


def _saved() -> dict[str, bytes]:
    npy, pt, legacy = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(npy, np.arange(12.0).reshape(3, 4))
    torch.save({"a": torch.ones(3, 4), "b": torch.zeros(2)}, pt)
    torch.save({"a": torch.ones(3, 4)}, legacy, _use_new_zipfile_serialization=False)
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    return {
        "x.npy": npy.getvalue(),
        "x.pt": pt.getvalue(),
        "legacy.pt": legacy.getvalue(),
        "x.safetensors": len(header).to_bytes(8, "little") + header + bytes(8),
        "x.index.json": b'{"weight_map": {"a": "x.safetensors"}}',
    }


SAVED = _saved()
edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 4), st.binary(max_size=4)), max_size=5)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([*SAVED]), edits=edits)
@example(name="x.index.json", edits=[(0, 400, b"[" * 4)])
def test_a_damaged_file_is_refused_or_read(name: str, edits: list[tuple[int, int, bytes]], tmp_path: Path) -> None:
    data = bytearray(SAVED[name])
    for at, length, new in edits:
        data[at : at + length] = new
    path = tmp_path / name
    (tmp_path / "x.safetensors").write_bytes(SAVED["x.safetensors"])
    path.write_bytes(data)
    files._contents.cache_clear()
    with contextlib.suppress(InitConfError):
        for stored in contents(str(path)).values():
            assert tuple(stored.read().shape) == stored.shape

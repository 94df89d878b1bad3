"""Where every key came from: files in merge order with their lines, then overrides, or `python`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import initconf
from initconf import InitSpec, load

VERSION = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}
HE, ROLES, ZEROS = "initconf/conf/init/he.yaml", "initconf/conf/init/rules/roles.yaml", "initconf/conf/init/rule/zeros.yaml"
OURS = "conf/init/ours.yaml"

FILES = {
    "conf/config.yaml": "defaults:\n  - init: he\n  - _self_\nwidth: 3\n"
    "init:\n  seed: 1\n  rules:\n    head: {search: head, gain: 2}\n",
    "conf/two.yaml": "defaults: [{init@gen.init: ours}, {init@disc.init: he}, _self_]\ngen:\n  init: {mode: fan_out}\n",
    "conf/lent.yaml": "defaults: [{init: lent}, _self_]\nhydra: {searchpath: ['file://lent']}\n",
    "conf/stored.yaml": "defaults: [{init: stored}, _self_]\n",
    "conf/experiment/small.yaml": "# @package _global_\n"
    "defaults:\n  - override /init: glorot\ninit:\n  rules:\n    head: {gain: 5}\n",
    "conf/init/ours.yaml": "# ours\n"
    "defaults: [he, {override rules: [roles, ours]}, _self_]\ngain: 2\nrules: {bias: {gain: null}}\n",
    "conf/init/rules/ours.yaml": "stem:\n  match: stem\n  initializer:\n    name: normal\n    std: 1e-3\n",
    "conf/init/merged.yaml": "rules:\n  a: &a {glob: x, gain: 2}\n  b: {<<: *a, ndim: 1}\n",
    "lent/init/lent.yaml": "defaults: [{rules: [lent]}, _self_]\nseed: 4\n",
    "lent/init/rules/lent.yaml": "lent: {glob: x}\n",
}

# In an application: its configuration, what is typed, the spec's node, a path in the spec, and who set it.
TABLE: list[tuple[str, list[str], str, str, list[str]]] = [
    # Its own files, and what they choose.
    ("config", [], "init", "mode", [f"{HE}:8"]),
    ("config", [], "init", "seed", ["conf/config.yaml:6"]),
    ("config", [], "init", "gain", []),
    ("config", [], "init", "rules.bias.initializer", [f"{ROLES}:4"]),
    ("config", [], "init", "rules.head.gain", ["conf/config.yaml:8"]),
    ("config", [], "init", "rules.head", ["initconf/conf/init/rules/head.yaml:2", "conf/config.yaml:8"]),
    ("config", [], "init", "rules.embedding.initializer.std", [f"{ROLES}:5"]),
    ("config", ["init=ours"], "init", "mode", [f"{HE}:8"]),
    ("config", ["init=ours"], "init", "gain", [f"{OURS}:3"]),
    ("config", ["init=ours"], "init", "rules.bias.gain", [f"{OURS}:4"]),
    ("config", ["init=ours"], "init", "rules.bias.role", [f"{ROLES}:4"]),
    ("config", ["init=ours"], "init", "rules.stem.initializer.std", ["conf/init/rules/ours.yaml:5"]),
    ("config", ["init=merged"], "init", "rules.b.ndim", ["conf/init/merged.yaml:3"]),
    ("config", ["init=merged"], "init", "rules.b.gain", ["conf/init/merged.yaml"]),
    ("config", ["+experiment=small"], "init", "mode", ["initconf/conf/init/glorot.yaml:8"]),
    ("config", ["+experiment=small"], "init", "rules.head.gain", ["conf/config.yaml:8", "conf/experiment/small.yaml:6"]),
    # Overrides.
    ("config", ["init.gain=2"], "init", "gain", ["override 'init.gain=2'"]),
    (
        "config",
        ["init.seed=2", "init.seed=3"],
        "init",
        "seed",
        ["conf/config.yaml:6", "override 'init.seed=2'", "override 'init.seed=3'"],
    ),
    ("config", ["init.gain=${width}"], "init", "gain", ["override 'init.gain=${width}'"]),
    (
        "config",
        ["+experiment=small", "init.rules.head.gain=1"],
        "init",
        "rules.head.gain",
        ["conf/config.yaml:8", "conf/experiment/small.yaml:6", "override 'init.rules.head.gain=1'"],
    ),
    (
        "config",
        ["init.rules.embedding.initializer.std=1"],
        "init",
        "rules.embedding.initializer.std",
        [f"{ROLES}:5", "override 'init.rules.embedding.initializer.std=1'"],
    ),
    (
        "config",
        ["init.rules.embedding.initializer={std: 1}"],
        "init",
        "rules.embedding.initializer.std",
        [f"{ROLES}:5", "override 'init.rules.embedding.initializer={std: 1}'"],
    ),
    ("config", ["init.rules.embedding.initializer={std: 1}"], "init", "rules.embedding.initializer.name", [f"{ROLES}:5"]),
    (
        "config",
        ["init.rules.embedding.initializer=zeros"],
        "init",
        "rules.embedding.initializer",
        [f"{ROLES}:5", "override 'init.rules.embedding.initializer=zeros'"],
    ),
    (
        "config",
        ["+init.rules.new={glob: x, initializer: {name: normal, std: 1}}"],
        "init",
        "rules.new.initializer.std",
        ["override '+init.rules.new={glob: x, initializer: {name: normal, std: 1}}'"],
    ),
    ("config", ["init.rules.bias=null"], "init", "rules.bias", [ROLES + ":4", "override 'init.rules.bias=null'"]),
    ("config", ["init/rules=[ours]"], "init", "rules.stem.match", ["conf/init/rules/ours.yaml:2"]),
    ("config", ["+init/rules@init.rules=ours"], "init", "rules.stem", ["conf/init/rules/ours.yaml:1"]),
    ("config", ["+init/rule@init.rules.out=zeros", "init.rules.out.ndim=1"], "init", "rules.out.initializer", [f"{ZEROS}:3"]),
    (
        "config",
        ["+init/rule@init.rules.out=zeros", "init.rules.out.ndim=1"],
        "init",
        "rules.out",
        [ZEROS, "override 'init.rules.out.ndim=1'"],
    ),
    # Several specs in one configuration.
    ("two", [], "gen.init", "gain", [f"{OURS}:3"]),
    ("two", [], "gen.init", "mode", [f"{HE}:8", "conf/two.yaml:3"]),
    ("two", [], "disc.init", "mode", [f"{HE}:8"]),
    ("two", ["gen.init.mode=fan_avg"], "gen.init", "mode", [f"{HE}:8", "conf/two.yaml:3", "override 'gen.init.mode=fan_avg'"]),
    ("two", ["gen.init.mode=fan_avg"], "disc.init", "mode", [f"{HE}:8"]),
    ("two", ["init@disc.init=glorot"], "disc.init", "mode", ["initconf/conf/init/glorot.yaml:8"]),
    ("two", ["init/rules@disc.init.rules=[ours]"], "disc.init", "rules.stem.match", ["conf/init/rules/ours.yaml:2"]),
    # Directories that somebody else brings.
    (
        "config",
        ["hydra.searchpath=['file://lent']", "init=lent"],
        "init",
        "seed",
        ["lent/init/lent.yaml:2", "conf/config.yaml:6"],
    ),
    (
        "config",
        ["hydra.searchpath=['file://lent']", "init/rules=[lent]"],
        "init",
        "rules.lent.glob",
        ["lent/init/rules/lent.yaml:1"],
    ),
    ("lent", [], "init", "rules.lent.glob", ["lent/init/rules/lent.yaml:1"]),
    # What is in no file.
    ("stored", [], "init", "gain", ["ConfigStore init/stored"]),
    ("stored", ["init.gain=3"], "init", "gain", ["ConfigStore init/stored", "override 'init.gain=3'"]),
]


@pytest.fixture(autouse=True, scope="module")
def _application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This process runs in an application's folder."""
    folder = tmp_path_factory.mktemp("app")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ConfigStore.instance().store(group="init", name="stored", node={"gain": 2})
        yield
        del ConfigStore.instance().repo["init"]["stored.yaml"]


@pytest.fixture(scope="module")
def running(_application: None) -> Iterator[Any]:
    """What `@hydra.main` does before it calls its function."""

    @cache
    def start(name: str, *typed: str) -> Any:
        return compose(name, [*typed], return_hydra_config=True)

    def run(name: str, *typed: str) -> Any:
        cfg = start(name, *typed)
        HydraConfig.instance().set_config(cfg)
        return cfg.copy()

    with initialize_config_dir(str(Path("conf").absolute()), **VERSION):
        yield run
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize(("config", "typed", "node", "path", "chain"), TABLE, ids=[f"{row[:3]} {row[3]}" for row in TABLE])
def test_in_an_application(config: str, typed: list[str], node: str, path: str, chain: list[str], running: Any) -> None:
    spec = load(OmegaConf.select(running(config, *typed), node))
    assert spec.sources(path) == chain
    assert spec.source(path) == (chain[-1] if chain else None)
    assert spec.path(path) == f"{node}.{path}"


def test_what_a_program_changes_after_it_was_composed(running: Any) -> None:
    cfg = running("config", "init.rules.stem={glob: x, initializer: zeros}")
    cfg.init.mode = "fan_out"
    cfg.init.gain = 3
    cfg.init.rules.stem.initializer = "ones"
    cfg.init.rules.mine = {"glob": "y", "initializer": {"name": "normal", "std": 1}}
    spec = load(cfg.init)
    assert spec.sources("mode") == [f"{HE}:8", "python"]
    assert spec.sources("gain") == ["python"]
    assert spec.sources("nonlinearity") == [f"{HE}:10"]
    assert spec.source("rules.stem.initializer") == "python"
    assert spec.source("rules.stem.glob") == "override 'init.rules.stem={glob: x, initializer: zeros}'"
    assert spec.source("rules.mine.initializer.std") == "python"
    cfg.init.gain = "x"
    with pytest.raises(initconf.SpecError, match=r"^init\.gain = 'x'  \(python\): "):
        load(cfg.init)


def test_of_a_program_s_own_nodes_mappings_and_specs() -> None:
    data = {"gain": 2, "rules": {"a": {"glob": "x", "initializer": {"name": "normal", "std": 1}}}}
    for spec in (load(data), load(OmegaConf.create({"init": data}).init), InitSpec(**data)):
        assert spec.sources("gain") == spec.sources("rules.a.initializer.std") == ["python"]
        assert spec.sources("seed") == []
    assert load({"defaults": ["he"], **data}).sources("mode") == [f"{HE}:8"]


@pytest.mark.usefixtures("running")
def test_composed_in_a_notebook_only_what_is_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra forgets what was typed, and a wrong address is worse than none."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    spec = load(compose("config", ["init.gain=2"]).init)
    assert (spec.gain, spec.sources("gain"), spec.sources("mode")) == (2, [], [])


def test_of_overrides_in_load(running: Any) -> None:
    """Over each kind of source; the spec's own path stays what it was."""
    for spec in (load("ours", ["gain=3"], config_dir="conf"), load(OURS, ["gain=3"])):
        assert spec.sources("gain") == [f"{OURS}:3", "override 'init.gain=3'"]
        assert spec.sources("mode") == [f"{HE}:8"]
        assert spec.sources("rules.stem.initializer.std") == ["conf/init/rules/ours.yaml:5"]
    assert load("he", ["init=ours"], config_dir="conf").sources("gain") == [f"{OURS}:3"]
    spec = load(running("two", "gen.init.gain=1").gen.init, ["gain=3"])
    assert spec.sources("gain") == [f"{OURS}:3", "override 'gen.init.gain=1'", "override 'init.gain=3'"]
    assert spec.path("gain") == "gen.init.gain"
    again = load(spec, ["seed=1", "+init/rules@init.rules=lora"])
    assert again.sources("gain") == spec.sources("gain")
    assert again.sources("seed") == ["override 'init.seed=1'"]
    assert again.sources("rules.lora_b.search") == ["initconf/conf/init/rules/lora.yaml:9"]
    with pytest.raises(initconf.SpecError, match=r"^gen\.init\.gain = 'x'  \(override 'init\.gain=x'\): "):
        load(spec, ["gain=x"])
    assert load(spec, ["init=glorot"]).sources("mode") == ["initconf/conf/init/glorot.yaml:8"]


# --- what must be given ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "overrides", "path"),
    [
        ({"defaults": ["he"], "seed": "???"}, [], "init.seed"),
        ({"defaults": ["he"], "mode": "???"}, [], "init.mode"),  # over a value of the scheme's
        ({"defaults": ["he"], "rules": {"head": {"gain": "???"}}}, [], "init.rules.head.gain"),
        ({"defaults": ["he"], "seed": "???"}, ["gain=2"], "init.seed"),
    ],
    ids=["a null", "a value", "in a rule", "beside an override"],
)
def test_what_must_be_given_is_not_lost_over_a_scheme(source, overrides, path):
    """OmegaConf merges no ??? over a value."""
    with pytest.raises(initconf.SpecError) as caught:
        initconf.load(source, overrides)
    assert str(caught.value).startswith(f"{path}  (python): it must be given a value, and has none (???)")


def test_what_must_be_given_may_be_given_by_an_override():
    assert initconf.load({"defaults": ["he"], "seed": "???"}, ["seed=3"]).seed == 3

"""The shipped files: their form, what they compose to, and that they serve every model, on meta as in memory.

What the schemes of the frameworks must give, number by number, stands in test_framework_schemes.
"""

import json
from functools import cache, partial
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_module

import initconf
from initconf.composing import _HYDRA
from initconf.lab.hypernet import Hypernet
from initconf.laws import Keep, ModuleDefault
from initconf.loading import rule_files, schemes
from initconf.spec import ROLES, Rule
from tests.small_models import ZOO, mlp, untouched

CONF = Path(__file__).resolve().parent.parent / "conf"
SCHEMES, RULE_FILES = schemes(), rule_files()


def hypernet(chunk_size: int | None = None) -> Hypernet:
    return Hypernet(5, 3, num_tasks=3, width=8, depth=1, chunk_size=chunk_size)


HYPER = {"hyperfan": hypernet, "bias_hyperinit": hypernet, "chunked_hyperfan": partial(hypernet, 40)}
"""Schemes for hypernetworks alone, and one that each serves."""


@cache
def load(scheme: str) -> initconf.InitSpec:
    return initconf.load(scheme)


def text_of(name: str) -> str:
    return (CONF / "init" / f"{name}.yaml").read_text(encoding="utf-8")


# --- their form ------------------------------------------------------------------------------------------------------


def test_nothing_but_the_group_init_is_shipped() -> None:
    assert sorted(path.name for path in CONF.iterdir() if path.name != "__pycache__") == ["__init__.py", "init"]
    assert (CONF / "__init__.py").read_text() == ""
    assert sorted(path.stem for path in CONF.glob("init/*.yaml")) == SCHEMES
    assert sorted(path.stem for path in CONF.glob("init/rules/*.yaml")) == RULE_FILES


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_form_of_a_scheme(scheme: str) -> None:
    text = text_of(scheme)
    data = yaml.safe_load(text)
    first, second, *_, last = data["defaults"]
    assert first == {"optional schema@_here_": "base"}  # every key is known, so that overrides need no `+`
    assert [*second] == ["rules"]  # a slot, so that `init/rules=[...]` works
    assert last == "_self_"
    assert "seed" not in data
    assert text.startswith("# ")
    assert f"\n# use: python train.py init={scheme}" in text
    assert load(scheme).source("initializer" if "initializer" in data else [*data][-1]) is not None


@pytest.mark.parametrize("name", RULE_FILES)
def test_the_form_of_a_rule_file(name: str) -> None:
    rules = yaml.safe_load(text_of(f"rules/{name}"))
    spec = initconf.load({"defaults": [{"rules": [name]}]})
    assert [*spec.rules] == [*rules]
    for rule in spec.rules.values():
        assert rule is not None
        assert rule.optional or not rule.settings()  # it stays silent where a model has no such parameters


def test_the_pieces_of_roles() -> None:
    roles = initconf.load({"defaults": [{"rules": ["roles"]}]}).rules
    assert {*roles} == {*ROLES} - {"weight"}
    for name, rule in roles.items():
        assert rule == Rule(role=name, initializer=rule and rule.initializer, optional=True)
    pieces = initconf.load({"defaults": [{"rules": ["norms", "biases", "embeddings"]}]}).rules
    assert pieces == {name: roles[name] for name in ("norm_scale", "norm_shift", "bias", "embedding", "position")}
    assert initconf.load({"defaults": [{"rules": "none"}]}).rules == {}


def test_patterns_stand_in_single_quotes() -> None:
    for path in CONF.rglob("*.yaml"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for key in ("match: ", "search: ", "glob: "):
                _, found, rest = line.partition(key)
                if found and not line.lstrip().startswith("#"):
                    assert rest.startswith("'"), f"{path.name}:{number}"


# --- what they compose to --------------------------------------------------------------------------------------------


def test_each_composes_alone_too() -> None:
    with initialize_config_module("initconf.conf", **_HYDRA):
        for scheme in SCHEMES:
            assert initconf.load(compose(f"init/{scheme}").init) == load(scheme)
        assert "base" not in SCHEMES  # a sweep over `init=glob(*)` meets schemes alone


def test_a_spec_survives_json() -> None:
    for scheme in SCHEMES:
        assert initconf.load(json.loads(load(scheme).model_dump_json())) == load(scheme)


# --- what they serve -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_on_meta_as_in_memory(scheme: str) -> None:
    """Plans are equal, values equal to the bit, and verified; nothing but the parameters is touched."""
    spec = load(scheme).model_copy(update={"seed": 3})
    for name, make in ({scheme: HYPER[scheme]} if scheme in HYPER else ZOO).items():
        with torch.device("meta"):
            unmade = make()
        made = make()
        try:
            with untouched(made):
                plan = initconf.compile(made, spec)
        except initconf.CompileError as error:
            # A scheme of depth asks how deep the model is.
            assert (name, "no ModuleList or Sequential to count layers in" in str(error)) == ("attention", True)  # noqa: PT017
            continue
        kept = {entry.name for entry in plan.leaves() if isinstance(entry.law, Keep)}
        assert kept == set()
        state = torch.get_rng_state()
        assert initconf.apply(made, plan).verify().plan is plan
        assert torch.equal(state, torch.get_rng_state())
        assert initconf.compile(unmade, spec) == plan
        initconf.apply(unmade, plan, device="cpu").verify()
        for (key, one), (other, two) in zip(made.named_parameters(), unmade.named_parameters(), strict=True):
            assert key == other
            assert torch.equal(one, two), (name, key)


def test_every_law_has_its_numbers() -> None:
    for scheme in SCHEMES:
        for entry in initconf.compile(HYPER.get(scheme, mlp)(), load(scheme)).leaves():
            assert (entry.std is None) == isinstance(entry.law, ModuleDefault)

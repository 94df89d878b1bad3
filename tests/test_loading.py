"""Loading: every way in, where each value came from, and that nothing whatever raises anything but SpecError."""

import enum
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import hydra
import numpy as np
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase
from omegaconf import OmegaConf

from initconf import InitSpec, Rule, SpecError, load
from initconf.loading import catalogue, load_application, rule_files, schemes

HE = load("he")
SCHEMES, RULE_FILES = ", ".join(schemes()), ", ".join(rule_files())
VERSION = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> str:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(SpecError) as caught:
        load(*args, **kwargs)
    return str(caught.value)


# --- every way in ----------------------------------------------------------------------------------------------------


def test_by_name() -> None:
    assert (HE.initializer, HE.mode, HE.distribution, HE.nonlinearity) == (
        "variance_scaling",
        "fan_in",
        "untruncated_normal",
        "relu",
    )
    assert [*HE.rules] == ("norm_scale norm_shift bias embedding position recurrent gate_scale state other head".split())


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ""])
def test_by_path(suffix: str, here: Path) -> None:
    text = "defaults: [he]\ngain: 1e-3\nrules:\n  a: {search: '\\.w$', initializer: zeros}\n"
    name = write(f"mine{suffix}", text)
    for source in (name, Path(name), here / name):
        spec = load(source)
        assert (spec.gain, spec.mode, [*spec.rules][-1]) == (0.001, "fan_in", "a")
    assert spec.source("gain") == f"{name}:2"
    assert load(write(f"plain{suffix}", "gain: 2")).settings() == {"gain": 2}


def test_a_file_named_as_a_scheme_does_not_hide_it(here: Path) -> None:
    write("he", "gain: 9")
    assert load("he") == HE
    assert load("./he").gain == 9
    assert load(Path("he")).gain == 9


def test_a_file_in_a_folder_init_knows_its_neighbours(here: Path) -> None:
    write("conf/init/base_mine.yaml", "gain: 3\nseed: 1")
    write("conf/init/rules/mine.yaml", "mine: {glob: '*.w', gain: 4}")
    name = write("conf/init/mine.yaml", "defaults: [base_mine, {rules: mine}, _self_]\nseed: 2")
    spec = load(name)
    assert (spec.gain, spec.seed, [*spec.rules]) == (3, 2, ["mine"])
    assert spec.sources("seed") == ["conf/init/base_mine.yaml:2", "conf/init/mine.yaml:2"]


@pytest.mark.parametrize(
    ("mapping", "settings", "rules"),
    [
        ({}, {}, []),
        ({"gain": 0.5}, {"gain": 0.5}, []),
        ({"defaults": None, "gain": 2}, {"gain": 2}, []),
        ({"defaults": []}, {}, []),
        ({"defaults": "he"}, HE.settings(), [*HE.rules]),
        ({"defaults": ["he"], "gain": 2}, {**HE.settings(), "gain": 2}, [*HE.rules]),
        ({"defaults": ["_self_", "he"], "mode": "fan_out"}, HE.settings(), [*HE.rules]),
        ({"defaults": ["he", {"override rules": ["head"]}]}, HE.settings(), ["head"]),
        ({"defaults": [{"rules": ["head", "biases"]}]}, {}, ["head", "bias"]),
        ({"defaults": ["rules/head"]}, {}, ["head"]),
        ({"defaults": ["he"], "rules": {"bias": None, "a": {"glob": "*"}}}, HE.settings(), [*HE.rules, "a"]),
    ],
)
def test_by_mapping(mapping: dict, settings: dict, rules: list) -> None:
    spec = load(mapping)
    assert (spec.settings(), [*spec.rules]) == (settings, rules)


def test_a_mapping_may_hold_what_programs_hold() -> None:
    class Scale(str, enum.Enum):
        root = "1/sqrt(2)"

    mapping = MappingProxyType(
        {
            "gain": np.float32(0.5),
            "seed": np.int64(7),
            "rules": {
                "a": Rule(role="weight", gain=Scale.root),
                "b": {"module": ("Linear",), "initializer": {"name": "x", "path": Path("a/b")}},
                "c": OmegaConf.create({"glob": "*", "gain": "${init.gain}"}),
            },
        }
    )
    spec = load(mapping)
    assert (spec.gain, type(spec.gain), spec.seed, type(spec.seed)) == (0.5, float, 7, int)
    assert spec.rules["a"].gain == "1/sqrt(2)"
    assert spec.rules["b"].initializer == {"name": "x", "path": "a/b"}
    assert spec.rules["c"].gain == 0.5


def test_by_spec() -> None:
    assert load(HE) is HE
    spec = load({"defaults": ["he"], "rules": {"bias": None, "a": {"match": r"w\${x"}}})
    bent = load(spec, overrides=["seed=3"])
    assert bent.rules == spec.rules
    assert bent.rules["a"].match == "w${x"  # no interpolation: it was resolved already
    assert bent.sources("mode") == spec.sources("mode") != []
    assert bent.source("seed") == "override 'init.seed=3'"
    assert load(InitSpec(gain=2), overrides=["seed=3"]) == InitSpec(gain=2, seed=3)


def test_what_is_no_spec() -> None:
    for nothing in (3, None, ["he"], b"he", OmegaConf.create(["he"])):
        assert refused(nothing) == (
            f"not a spec: its type is {type(nothing).__name__}\n"
            "  -> give the name of a scheme, a path, a mapping, a DictConfig or an InitSpec"
        )


def test_lists() -> None:
    assert {"glorot", "gpt2", "he", "lecun", "orthogonal", "torch"} <= {*schemes()}
    assert {"biases", "embeddings", "head", "none", "norms", "roles"} <= {*rule_files()}
    assert schemes() == sorted(schemes()) == [*catalogue("init")]
    assert catalogue("init/rules")["biases"] == (
        "initconf/conf/init/rules/biases.yaml",
        "bias: {role: bias, initializer: zeros, optional: true}\n",
    )


def test_a_directory_of_ones_own_comes_first(here: Path) -> None:
    write("conf/init/he.yaml", "gain: 7")
    write("conf/init/rules/mine.yaml", "mine: {glob: '*.w', gain: 4}")
    assert load("he", config_dir="conf").settings() == {"gain": 7}
    assert load("he").gain is None
    assert [*load("lecun", ["init/rules=[head,mine]"], config_dir="conf").rules] == ["head", "mine"]
    assert load({"defaults": ["he"]}, config_dir=here / "conf").source("gain") == "conf/init/he.yaml:1"
    assert "mine" in rule_files("conf")
    assert refused("he", config_dir="nope") == "--config-dir = 'nope': there is no such directory"


# --- overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("gain=0.5", "gain", 0.5),
        ("init.gain=0.5", "gain", 0.5),
        ("+gain=0.5", "gain", 0.5),
        ("++init.gain=1e-3", "gain", 0.001),
        ('gain="1/sqrt(2*n_layers)"', "gain", "1/sqrt(2*n_layers)"),
        ("mode=null", "mode", None),
        ("~mode", "mode", None),
        ("initializer=zeros", "initializer", "zeros"),
        ("initializer={name: normal, std: 0.1}", "initializer", {"name": "normal", "std": 0.1}),
        ("rules.head.gain=0.1", "rules.head.gain", 0.1),
        ("init.rules.head.gain=0.1", "rules.head.gain", 0.1),
        ("rules.head={gain: 0.1}", "rules.head.gain", 0.1),
        ("rules.new={glob: *.w, initializer: zeros}", "rules.new.glob", "*.w"),
        ('rules.new={match: "^head\\.(a|b)$"}', "rules.new.match", r"^head\.(a|b)$"),
        ("rules.bias=null", "rules.bias", None),
        ("~rules.bias", "rules", [name for name in HE.rules if name != "bias"]),
        ("init/rules=[head,biases]", "rules", ["head", "bias"]),
        ("init/rules=head", "rules", ["head"]),
        ("init/rules=[]", "rules", []),
        ("init/rules=none", "rules", []),
        ("+init/rules@init.rules=biases", "rules", [*HE.rules]),
        ("init=lecun", "distribution", "truncated_normal"),
        ("gain=${init.seed}", "gain", None),
    ],
)
def test_overrides(override: str, path: str, value: Any) -> None:
    found: Any = load("he", [override])
    for part in path.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert ([*found] if path == "rules" else found) == value


def test_overrides_over_every_source(here: Path) -> None:
    name = write("mine.yaml", "gain: 2\nrules:\n  a: {glob: '*'}\n")
    overrides = ["gain=3", "rules.a.gain=4", "init/rules=[biases]", "rules.b={role: bias}"]
    for source in (name, {"gain": 2, "rules": {"a": {"glob": "*"}}}):
        spec = load(source, overrides)
        assert (spec.gain, spec.rules["a"].gain, [*spec.rules]) == (3, 4, ["bias", "a", "b"])
    node = OmegaConf.create({"gain": 2, "rules": {"a": {"glob": "*"}}})
    for source in (load(name), node):
        spec = load(source, overrides)
        assert (spec.gain, spec.rules["a"].gain, [*spec.rules]) == (3, 4, ["bias", "a", "b"])
    assert load("he", "gain=3").gain == 3  # one override needs no list
    assert load("glorot", ["init=he", "gain=2"]) == load("he", ["gain=2"])


@pytest.mark.parametrize(
    ("override", "text"),
    [
        (
            "gain",
            "(override 'init.gain'): the override does not parse: it has no value\n  -> write init.gain=VALUE",
        ),
        (
            "rules.a.match=^head(b)$",
            "(override 'init.rules.a.match=^head(b)$'): the override does not parse at '^'\n"
            "  -> single quotes for the shell, double quotes for Hydra: 'init.rules.a.match=\"^head(b)$\"'",
        ),
        (
            "gain=1/sqrt(2)",
            "(override 'init.gain=1/sqrt(2)'): the override does not parse at '('\n"
            "  -> single quotes for the shell, double quotes for Hydra: 'init.gain=\"1/sqrt(2)\"'",
        ),
        (
            "rules.a={match: (a|b)}",
            "(override 'init.rules.a={match: (a|b)}'): the override does not parse at "
            "'{match: ('\n"
            '  -> put strings inside it in double quotes: {match: "^head\\.(a|b)$", gain: "1/sqrt(2)"}',
        ),
        (
            "rules.a b=3",
            "(override 'init.rules.a b=3'): the override does not parse at ' '\n"
            "  -> write key=value, where the key is names with dots between them: init.rules.head.gain=0.1",
        ),
        (
            "gain=0.5,1",
            "(override 'init.gain=0.5,1'): the override gives several values, and a spec has one\n"
            "  -> a sweep is run by Hydra, with -m; a list is written init.gain=[...]",
        ),
        (
            "hydra.run.dir=x",
            "(override 'hydra.run.dir=x'): the override does not reach the spec\n"
            "  -> an override is relative to the spec (gain=0.5), or begins with init. or init/",
        ),
        (
            "+init@gen.init=he",
            "(override '+init@gen.init=he'): the override does not reach the spec\n"
            "  -> an override is relative to the spec (gain=0.5), or begins with init. or init/",
        ),
        (
            "rules=[roles,head]",
            "init  (override 'init.rules=[roles,head]'): the rules are a mapping\n"
            "  -> rule files are chosen with a slash: init/rules=[roles,head]",
        ),
        (
            "init/rules=nope",
            "init/rules = 'nope'  (override 'init/rules=nope'): no rule file has this name\n"
            f"  -> did you mean 'none'? there are: {RULE_FILES}",
        ),
        (
            "init/rules=[head,rols]",
            "init/rules = 'rols'  (override 'init/rules=[head,rols]'): no rule file has this name\n"
            f"  -> did you mean 'roles'? there are: {RULE_FILES}",
        ),
        (
            "init/rules=null",
            "init/rules = null  (override 'init/rules=null'): files are chosen by their names\n"
            "  -> for no rules, init/rules=none",
        ),
        (
            "~rules.nope",
            "init  (override '~init.rules.nope'): init.rules.nope is not there to be deleted\n"
            "  -> to switch a rule off, init.rules.NAME=null",
        ),
        (
            "init=hee",
            f"init = 'hee'  (override 'init=hee'): no scheme has this name\n  -> did you mean 'he'? there are: {SCHEMES}",
        ),
        ("~init", "init: the spec is empty\n  -> choose a scheme: init=he"),
        ("gian=1", "init.gian = 1  (override 'init.gian=1'): 'gian' is not a key of a spec\n  -> did you mean 'gain'?"),
        (
            "initializer.std=3",
            "init.initializer  (override 'init.initializer.std=3'): the initializer mapping has no name\n"
            "  -> write {name: normal, std: 0.02}; an override such as initializer.std=3 over a plain string loses the "
            "name: set initializer.name too",
        ),
        (
            "gain=???",
            "init.gain  (override 'init.gain=???'): it must be given a value, and has none (???)\n"
            "  -> write init.gain=VALUE on the command line",
        ),
        (
            "gain=${nope}",
            "init.gain = '${nope}'  (override 'init.gain=${nope}'): it refers to 'nope', which is not there\n"
            "  -> ${...} begins at the root of the whole configuration (${init.gain}), or is relative: ${.gain}",
        ),
    ],
)
def test_what_an_override_may_not_say(override: str, text: str) -> None:
    assert refused("he", [override]) == text


def test_an_override_is_a_string() -> None:
    assert refused("he", [3]) == "an override is a string, not a int"


# --- interpolations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", ["${seed}", "${init.seed}", "${.seed}", "${oc.decode:${oc.env:NOBODY_SETS_THIS,3}}"])
def test_interpolations_are_the_same_in_every_way(gain: str, here: Path) -> None:
    name = write(
        "mine.yaml", f"gain: {gain}\nseed: 3\nrules:\n  a: {{glob: '*', gain: '${{..b.gain}}'}}\n  b: {{ndim: 2, gain: 5}}\n"
    )
    data = OmegaConf.to_container(OmegaConf.load(name), resolve=False)
    assert isinstance(data, dict)
    for source, overrides in ((name, []), (data, []), (name, ["compat=null"]), ({"defaults": ["he"], **data}, [])):
        spec = load(source, overrides)
        assert (spec.gain, spec.rules["a"].gain) == (3, 5)


def test_mandatory_values_have_to_be_given(here: Path) -> None:
    name = write("mine.yaml", "seed: ???\n")
    assert refused(name) == (
        "init.seed  (mine.yaml:1): it must be given a value, and has none (???)\n  -> write init.seed=VALUE on the command line"
    )
    assert load(name, ["seed=3"]).seed == 3


# --- files that are wrong --------------------------------------------------------------------------------------------

STREAM = "while parsing a flow sequence expected ',' or ']', but got '<stream end>'"
QUOTE = "\n  -> patterns, and whatever holds : # , * & ! [ ] { }, stand in single quotes: '...'"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [1", f"x.yaml:1: not YAML: {STREAM}{QUOTE}"),
        (
            "a: {match: *.w}",
            "x.yaml:1: not YAML: while scanning an alias expected alphabetic or numeric character, but found '.'" + QUOTE,
        ),
        (
            "\na: {match: [ab]c}",
            "x.yaml:2: not YAML: while parsing a flow mapping expected ',' or '}', but got '<scalar>'" + QUOTE,
        ),
        ("- 1", "x.yaml: not a mapping of settings\n  -> write key: value in each line"),
        ("he", "x.yaml: not a mapping of settings\n  -> write key: value in each line"),
        ("a: &a [*a]", "x.yaml: cannot be read: it holds too many values, or an alias of itself"),
        ("a: " + "[" * 3000, "x.yaml: cannot be read: it is nested too deeply"),
        ("a: \0", "x.yaml: cannot be read: unacceptable character #x0000: special characters are not allowed"),
    ],
)
def test_files_that_are_wrong(text: str, error: str, here: Path) -> None:
    assert refused(write("x.yaml", text)) == error


def test_files_that_cannot_be_read(here: Path) -> None:
    assert refused("nope.yaml") == "nope.yaml: there is no such file\n  -> a scheme by name has no suffix: init=he"
    Path("folder.yaml").mkdir()
    assert refused("folder.yaml") == "folder.yaml: cannot be read: Is a directory"
    Path("bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert refused("bytes.yaml") == "bytes.yaml: cannot be read: it is not UTF-8 text"
    Path("large.yaml").write_bytes(b"#" * (5 << 20))
    assert refused("large.yaml") == "large.yaml: cannot be read: it has more than 4 MiB"
    laughs = "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20))])
    assert refused(write("laughs.yaml", laughs)) == (
        "laughs.yaml: cannot be read: it holds too many values, or an alias of itself"
    )


def test_files_in_a_directory_that_are_wrong(here: Path) -> None:
    write("init/broken.yaml", "gain: [")
    assert re.match(r"init/broken\.yaml:\d: not YAML: ", refused("broken", config_dir="."))
    write("init/lost.yaml", "defaults: [{rules: nope}]")
    assert refused("lost", config_dir=".") == (
        "init.defaults = 'nope'  (init/lost.yaml:1): no rule file has this name\n"
        f"  -> did you mean 'none'? there are: {RULE_FILES}"
    )
    Path("init/bytes.yaml").write_bytes(b"\xff")
    assert refused("bytes", config_dir=".") == "init/bytes.yaml: cannot be read: it is not UTF-8 text"
    write("init/noslot.yaml", "gain: 2")
    assert refused("noslot", ["init/rules=[head]"], config_dir=".") == (
        "init  (override 'init/rules=[head]'): its defaults choose no init/rules\n"
        "  -> add to them: +init/rules@init.rules=...; a scheme that begins with `rules: []` in its defaults needs no +"
    )


# --- where a value came from -----------------------------------------------------------------------------------------


def test_addresses_of_a_scheme() -> None:
    spec = load("gpt2", ["gain=2", "rules.head={gain: 0.1}", "rules.mine.glob=x", "init/rules=[biases,head]"])
    assert spec.source("initializer") == "initconf/conf/init/gpt2.yaml:8"
    assert spec.source("initializer.std") == "initconf/conf/init/gpt2.yaml:8"
    assert spec.source("rules.residual.gain") == "initconf/conf/init/gpt2.yaml:12"
    assert spec.source("rules.bias.role") == "initconf/conf/init/rules/biases.yaml:1"
    assert spec.sources("rules.head.gain") == ["override 'init.rules.head={gain: 0.1}'"]
    # The override names the rule, but not its selector.
    assert spec.source("rules.head.search") == "initconf/conf/init/rules/head.yaml:2"
    assert spec.sources("rules.head") == ["initconf/conf/init/rules/head.yaml:2", "override 'init.rules.head={gain: 0.1}'"]
    assert spec.source("gain") == "override 'init.gain=2'"
    assert spec.sources("rules.mine") == spec.sources("rules.mine.glob") == ["override 'init.rules.mine.glob=x'"]
    assert spec.source("seed") is None
    assert spec.sources("nothing.there") == []


def test_addresses_of_ones_own_file_and_mapping(here: Path) -> None:
    name = write("sub/mine.yaml", "# a comment\ndefaults: [he]\n\nmode: fan_out\nrules:\n  head: {gain: 0.1}\n")
    spec = load(name, ["seed=1"])
    assert spec.sources("mode") == ["initconf/conf/init/he.yaml:8", "sub/mine.yaml:4"]
    assert spec.sources("rules.head.gain") == ["sub/mine.yaml:6"]
    assert spec.source("seed") == "override 'init.seed=1'"
    assert load(here / name).source("mode") == "sub/mine.yaml:4"
    plain = load(write("plain.yaml", "gain: 2"))
    assert (plain.source("gain"), plain.source("seed")) == ("plain.yaml:1", None)
    for mapping in ({"gain": 2}, {"defaults": ["he"], "gain": 2}):
        assert load(mapping).source("gain") == "python"
    assert load({"defaults": ["he"], "gain": 2}).source("mode") == "initconf/conf/init/he.yaml:8"


# --- Hydra's own nodes -----------------------------------------------------------------------------------------------


@pytest.fixture
def composed(here: Path) -> Callable[..., Any]:
    write(
        "conf/config.yaml",
        "defaults: [{init: he}, _self_]\nwidth: 4\ninit: {gain: '${width}'}\ngen: {init: {gain: 3, seed: '???'}}",
    )

    def compose(*overrides: str) -> Any:
        with hydra.initialize_config_dir(str(here / "conf"), **VERSION):
            return hydra.compose("config", [*overrides])

    return compose


def test_by_node(composed: Callable[..., Any]) -> None:
    cfg = composed("width=5", "init.rules.head.gain=0.1")
    spec = load(cfg.init)
    assert (spec.gain, spec.rules["head"].gain) == (5, 0.1)
    assert load(cfg.init, ["gain=7"]).gain == 7
    assert spec.path("gain") == "init.gain"
    assert refused(cfg.gen.init) == (
        "gen.init.seed: it must be given a value, and has none (???)\n  -> write gen.init.seed=VALUE on the command line"
    )
    cfg.gen.init.seed = "x"
    assert refused(cfg.gen.init) == "gen.init.seed = 'x': not an integer\n  -> write an integer, such as 3"
    assert load(OmegaConf.create({"gain": "${seed}", "seed": 3})).gain == 3
    for empty in (OmegaConf.create({"init": None}), OmegaConf.create({"init": "???"})):
        assert "init" in refused(empty._get_node("init")) if isinstance(empty._get_node("init"), dict) else True


def test_the_whole_configuration_of_an_application(composed: Callable[..., Any]) -> None:
    spec = load_application("conf", "config", ["width=9", "gen.init.seed=4"])
    assert (spec.gain, spec.source("gain")) == (9, "conf/config.yaml:3")
    assert load_application("conf", "config.yaml", ["gen.init.seed=4"], node="gen.init").seed == 4
    with pytest.raises(SpecError) as caught:
        load_application("conf", "config", node="inti")
    assert str(caught.value) == "inti: the configuration 'config' has no such node\n  -> did you mean 'init'?"


def test_a_running_application_is_left_as_it_was(composed: Callable[..., Any]) -> None:
    class Callback:
        lock = threading.Lock()  # what cannot be copied is not copied

    with hydra.initialize_config_module("initconf.conf", **VERSION):
        running, version = GlobalHydra.instance(), VersionBase.instance()
        inside, base = running.hydra, version.getbase()
        running.hydra.callback = Callback()  # type: ignore[union-attr]
        options = ConfigStore.instance().list("init")
        for source, overrides in (("he", []), ({"defaults": ["he"]}, ["gain=2"])):
            load(source, overrides)
            for wrong in ("gian=2", "init/rules=nope", "gain=???"):
                refused(source, [wrong])
        assert GlobalHydra.instance() is running
        assert running.hydra is inside
        assert VersionBase.instance() is version
        assert version.getbase() == base
        assert ConfigStore.instance().list("init") == options
        assert hydra.compose(overrides=["+init=glorot"]).init.mode == "fan_avg"
    assert not GlobalHydra.instance().is_initialized()


def test_loads_from_several_threads_do_not_meet() -> None:
    found: dict[int, Any] = {}
    work = [
        threading.Thread(target=lambda i=i: found.update({i: load({"defaults": ["he"], "seed": i}).seed})) for i in range(6)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert found == {i: i for i in range(6)}

"""The JSON Schemas of YAML files: they take what initconf takes, and underline what it refuses."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from jsonschema.exceptions import ValidationError
from omegaconf import OmegaConf

import initconf
from initconf import activations, docstrings, expressions, registry
from initconf.cli import main, parsers
from initconf.errors import InitConfError
from initconf.schema import DRAFT, KINDS, schema
from initconf.spec import ROLES, SELECTORS, DeclaredLayout, InitSpec, Rule

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = {kind: schema(kind) for kind in KINDS}
VALIDATORS = {kind: Draft7Validator(made) for kind, made in SCHEMAS.items()}
FOLDERS = {"init": "scheme", "init/rules": "rules", "init/rule": "rule"}
SHIPPED = {f"{folder}/{file.stem}": file for folder in FOLDERS for file in sorted((ROOT / "conf" / folder).glob("*.yaml"))}


def read(text: str) -> Any:
    """A YAML text as initconf and Hydra read it."""
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def wrong(kind: str, data: Any) -> list[str]:
    """Where something is wrong: of alternatives that all fail, the place to which one of them comes."""

    def furthest(error: ValidationError) -> ValidationError:
        return max([error, *map(furthest, error.context or [])], key=lambda one: len(one.absolute_path))

    return sorted({furthest(error).json_path for error in VALIDATORS[kind].iter_errors(data)})


def loads(data: Any) -> bool:
    try:
        initconf.load(data)
    except initconf.SpecError:
        return False
    return True


# --- what is taken ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_schemas_are_schemas(kind: str) -> None:
    made = SCHEMAS[kind]
    assert made["$schema"] == DRAFT == Draft7Validator.META_SCHEMA["$schema"]
    Draft7Validator.check_schema(made)
    assert made == json.loads(json.dumps(made))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_file_is_valid(name: str) -> None:
    assert wrong(FOLDERS[name.rpartition("/")[0]], read(SHIPPED[name].read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("name", ["he", "gpt2", "alf", "torch"])
def test_a_composed_scheme_is_a_whole_spec(name: str) -> None:
    spec = initconf.load(name).model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    assert wrong("spec", spec) == []


def test_the_examples_of_the_readme_are_valid() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tried = {"scheme": 0, "rules": 0}
    for data in map(read, re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)):
        if "init" in data:  # an application's own configuration, or an experiment of it
            kind, data = "scheme", data["init"]
        elif loads({"defaults": ["he"], "rules": data}):
            kind = "rules"
        elif isinstance(data, dict) and loads({"defaults": ["he"], **data}):
            kind = "scheme"
        else:
            continue  # another system's
        tried[kind] += 1
        assert wrong(kind, data) == [], data
    assert tried["scheme"] >= 2
    assert tried["rules"] >= 2


PARTIAL = {
    "scheme": """
defaults: [optional schema@_here_: base, {rules: [roles, head, mine]}, he, _self_]
initializer: {std: 0.1, low: null}
mode: ${my_mode}
gain: 1/sqrt(2*n_layers)
nonlinearity: {negative_slope: 0.3}
seed: ???
layers: '(\\d+)\\..*'
targets: {main: {shapes: [[3, 4], [4]]}}
rules:
  head: {gain: 0.1, expect: [1, '${most}']}
  bias: null
  emb: {initializer: {std: '${oc.env:STD}'}, role: [embedding, '${role}']}
  off: ${other.rule}
  conv: {module: Conv2d, initializer: {name: variance_scaling, scale: 1e-3, in_axes: [1, '${axis}'], mode: '${mode}'}}
  auto: {nonlinearity: auto, initializer: {name: '${which}', std: 1}}
layouts:
  qkv: {axes: {in: '${i}', out: [1, '${j}']}, blocks: {axis: 1, names: [q, k, v], sizes: null}}
""",
    "rules": """
defaults: [roles]
head: {gain: 0.5 * fan_in ** -1}
my-rule_2: {glob: '*', initializer: {name: zeros, std: null}}
""",
    "rule": "gain: ${..gain}\ninitializer: {std: 0.1}",
}


@pytest.mark.parametrize("kind", PARTIAL)
def test_files_may_be_partial_and_hold_interpolations(kind: str) -> None:
    data = read(PARTIAL[kind])
    assert wrong(kind, data) == []
    assert wrong("spec", data if kind == "scheme" else {"rules": {"a": data} if kind == "rule" else data}) != []


def keys() -> dict[str, tuple[tuple[str, ...], Any]]:
    """Each key of a spec, a rule and a layout, and where it stands."""
    places: dict[str, tuple[tuple[str, ...], type]] = {
        "spec": ((), InitSpec),
        "rule": (("rules", "a"), Rule),
        "layout": (("layouts", "a"), DeclaredLayout),
    }
    return {f"{what}.{key}": (path, key) for what, (path, model) in places.items() for key in model.model_fields}


KEYS = keys()


def placed(place: str, value: Any) -> dict[str, Any]:
    """A spec with a value at a place such as `rule.gain`, and a selector beside it where one is needed."""
    path, key = KEYS[place]
    data: Any = {"glob": "*", key: value} if path and key not in SELECTORS else {key: value}
    for step in reversed(path):
        data = {step: data}
    return data


@pytest.mark.parametrize("place", KEYS)
def test_every_key_may_be_left_open(place: str) -> None:
    for value in ("${a.b}", "???", None):
        assert wrong("scheme", placed(place, value)) == [], value
    selector = place.partition(".")[2] in SELECTORS
    assert loads(placed(place, None)) == (wrong("spec", placed(place, None)) == []) == (not selector or "spec" in place)


# --- what is refused -------------------------------------------------------------------------------------------------------

WRONG = {
    "scheme": {
        "gian: 0.5": "$",
        "mode: fan_inn": "$.mode",
        "distribution: normal": "$.distribution",
        "gain: [1]": "$.gain",
        "gain: 0.02x": "$.gain",
        "seed: 1.5": "$.seed",
        "layers: 3": "$.layers",
        "rules: [roles]": "$.rules",
        "rules: {a b: {glob: x}}": "$.rules",
        "rules: {a: {rol: weight}}": "$.rules.a",
        "rules: {a: {role: wieght}}": "$.rules.a.role",
        "rules: {a: {role: [weight, 3]}}": "$.rules.a.role[1]",
        "rules: {a: {expect: [1]}}": "$.rules.a.expect",
        "{rules: {a: {ndim: '2'}}, gain: {}}": "$.gain $.rules.a.ndim",
        "rules: {a: {initializer: nromal}}": "$.rules.a.initializer",
        "initializer: {name: normal, stdd: 1}": "$.initializer.stdd",
        "initializer: {name: normal, std: -1}": "$.initializer.std",
        "initializer: {name: normal, std: wide}": "$.initializer.std",
        "initializer: {name: he_normal, mode: fan_in}": "$.initializer.mode",
        "initializer: {name: sparse, sparsity: 0.1, per: row}": "$.initializer.per",
        "initializer: {name: nromal}": "$.initializer.name",
        "initializer: {stdd: 1}": "$.initializer.stdd",
        "nonlinearity: {name: relu, slope: 1}": "$.nonlinearity",
        "nonlinearity: {name: elu, alpha: one}": "$.nonlinearity.alpha",
        "layouts: {a: {axes: {inn: 1}}}": "$.layouts.a.axes",
        "layouts: {a: {blocks: {names: [q, q]}}}": "$.layouts.a.blocks.names",
        "layouts: {a: {groups: 0}}": "$.layouts.a.groups",
        "compat: jax": "$.compat",
        "targets: [a]": "$.targets",
        "defaults: [3]": "$.defaults[0]",
        "defaults: [{rules: 3}]": "$.defaults[0].rules",
        "[]": "$",
    },
    "rules": {"head: {gian: 1}": "$.head", "head: true": "$.head", "a.b: {glob: x}": "$"},
    "rule": {"rules: {}": "$", "role: wieght": "$.role"},
    "spec": {
        "defaults: [he]": "$",
        "rules: {head: {gain: 0.1}}": "$.rules.head",
        "rules: {head: {role: null}}": "$.rules.head.role",
        "layouts: {a: {role: weight}}": "$.layouts.a",
        "initializer: {std: 0.1}": "$.initializer",
        "gain: '${x}'": "$.gain",
        "seed: '???'": "$.seed",
    },
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in WRONG.items() for text in texts])
def test_what_is_wrong_is_refused_where_it_stands(kind: str, text: str) -> None:
    assert " ".join(wrong(kind, yaml.safe_load(text))) == WRONG[kind][text]


# --- what `load` says of it ------------------------------------------------------------------------------------------------

# Values by key, right and wrong. Left out is what a schema cannot know: whether a pattern compiles, whether the least of
# `expect` is below the most. Names of initializers and activations are known ones: `load` takes any, for they may be
# registered later.
PATTERNS: list[Any] = ["a.*", "[qk]", "", 3, ["a"], {"a": None}, True, None]
INTEGERS: list[Any] = [0, 3, -1, 2**80, 1.5, "3", True, [1], None]
FLAGS: list[Any] = [True, False, "yes", 1, None]
CLASSES: list[Any] = ["Linear", ["Linear", "torch.nn.Conv2d"], [], [3], [""], "", 3, {"a": 1}, None]
POSITIVE: list[Any] = [1, 12, 0, -1, 1.5, True, "1", None]
NUMBERS: list[Any] = [0, 0.5, -1, 1e300, "1/2", "sqrt(fan_in)", "2*foo", "wide", "", True, [1], {}, None]
INITIALIZERS: list[Any] = [
    "he_normal",
    "ZerO",
    {"name": "normal", "std": 0.02, "low": None},
    {"std": 0.02},
    3,
    [],
    "",
    True,
    None,
]
NONLINEARITIES: list[Any] = [
    "relu",
    "auto",
    {"name": "leaky_relu", "negative_slope": 0.2},
    {"negative_slope": 0.2},
    3,
    [],
    "",
    None,
]
AXES: list[Any] = [
    {},
    {"out": 0, "in": [1, 2]},
    {"batch": []},
    {"inn": 0},
    {"out": "0"},
    {"out": None},
    {"out": True},
    [0],
    3,
    None,
]
BLOCKS: list[Any] = [
    {"names": ["q", "k"]}, {"axis": 1, "names": ["q"], "sizes": [3]}, {"axis": None, "names": ["q"], "sizes": None}, {},
    {"axis": 0}, {"names": []}, {"names": ["q", "q"]}, {"names": ["q", 3]}, {"names": "qk"}, {"names": ["q"], "sizes": [-1]},
    {"names": ["q"], "sizes": 3}, {"names": ["q"], "axis": "0"}, {"names": ["q"], "size": [3]}, ["q", "k"], 3, None,
]  # fmt: skip
SETTINGS_VALUES: dict[str, list[Any]] = {
    "initializer": INITIALIZERS,
    "mode": ["fan_in", "fan_geo_avg", "fan_sum", "", 1, ["fan_in"], True, None],
    "distribution": ["uniform", "truncated_normal", "normal", None],
    "gain": NUMBERS,
    "nonlinearity": NONLINEARITIES,
    "gain_method": ["second_moment", "torch", "centered", {}, None],
}
VALUES: dict[str, list[Any]] = {
    **{f"spec.{key}": values for key, values in SETTINGS_VALUES.items()},
    **{f"rule.{key}": values for key, values in SETTINGS_VALUES.items()},
    **dict.fromkeys([f"rule.{key}" for key in ("match", "search", "glob", "block")], PATTERNS),
    **dict.fromkeys([f"layout.{key}" for key in ("match", "search", "glob")], PATTERNS),
    **dict.fromkeys(["rule.module", "rule.inside", "layout.module"], CLASSES),
    **dict.fromkeys(["rule.ndim", "rule.priority", "layout.zero_row", "spec.seed"], INTEGERS),
    **dict.fromkeys(["rule.optional", "layout.transposed"], FLAGS),
    **dict.fromkeys(["layout.groups", "layout.stride"], POSITIVE),
    "rule.role": [*ROLES, list(ROLES), [], ["weight", "wieght"], "wieght", "", 3, None],
    "rule.expect": [0, 12, [0, 3], [2, 2], -1, [1], [1, 2, 3], [1, "2"], [-1, 2], "3", True, 1.5, {}, None],
    "layout.role": ["weight", "state", "wieght", ["weight"], 3, None],
    "layout.axes": AXES,
    "layout.blocks": BLOCKS,
    "layout.fans_of": ["weight", 3, ["weight"], None],
    "spec.unmatched": ["error", "keep", "ignore", True, None],
    "spec.rules": [{}, {"a": None}, {"a-b_1": {"glob": "*"}}, {"a b": {"glob": "*"}}, {"a": {}}, {"a": 3}, [], "roles", None],
    "spec.targets": [{}, {"main": {"module": "net"}}, [], "main", 3, None],
    "spec.layouts": [{}, {"a": {"match": "x"}}, {"a": {"role": "weight"}}, {"a": []}, [], None],
    "spec.layers": [r"h\.(\d+)\..*", "", 3, ["(a)"], None],
    "spec.compat": ["torch", "jax", True, None],
    "spec.rng_device": ["cpu", "auto", "cuda", 0, None],
}  # fmt: skip


def test_every_key_is_tried() -> None:
    assert set(VALUES) == set(KEYS)


@pytest.mark.parametrize("place", VALUES)
def test_a_schema_takes_what_load_takes(place: str) -> None:
    for value in VALUES[place]:
        data = placed(place, value)
        assert (wrong("spec", data) == []) == loads(data), value
        assert not loads(data) or wrong("scheme", data) == [], value


TARGET = {"name": "w", "kind": "weight", "shape": [3, 4]}
TARGETS = [
    {"module": "net.0"}, {"module": ""}, {"module": 3}, {"module": "net", "shapes": [[1]]}, {"modul": "net"}, {}, [], 3, "net",
    None,
    {"module": "net", "nonlinearity": "tanh", "order": ["a", "b"]}, {"module": "net", "nonlinearity": 3},
    {"module": "net", "order": "a"}, {"module": "net", "order": [3]}, {"module": "net", "order": []},
    {"shapes": [[3, 4], []]}, {"shapes": []}, {"shapes": [3]}, {"shapes": [[0]]}, {"shapes": [[1.5]]}, {"shapes": [[None]]},
    [TARGET], {"tensors": [TARGET, TARGET]}, {"tensors": []}, {"tensors": TARGET}, [3], [TARGET, None], [{**TARGET, "x": 1}],
    *([{**TARGET, key: value}] for key, values in {
        "name": ["b.c", "", 3, None],
        "kind": ["bias", "norm_scale", "scalar", "wieght", None],
        "shape": [[], [3], "3", [-1], [True], None],
        "layer": [0, "a", None, 1.5, True, []],
        "fan_in": [3, 0.5, 0, -1, "3", True, None],
        "fan_out": [3, 0, None],
        "mean": [0, -1.5, "0", True, None],
        "var": [0, 1.5, -1, "1", None],
        "nonlinearity": ["relu", {"name": "elu", "alpha": 2}, 3, None],
    }.items() for value in values),
]  # fmt: skip


@pytest.mark.parametrize("i", range(len(TARGETS)))
def test_a_schema_takes_the_targets_that_load_takes(i: int) -> None:
    data = {"targets": {"main": TARGETS[i]}}
    assert (wrong("spec", data) == []) == loads(data)
    assert not loads(data) or wrong("scheme", data) == []


def bodies(what: str) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings of a few keys of a spec, a rule or a layout, and now and then of one that does not exist."""
    found = {place.partition(".")[2]: values for place, values in VALUES.items() if place.startswith(f"{what}.")}
    pairs = [st.tuples(st.just(key), st.sampled_from(values)) for key, values in {**found, "gian": [1, None]}.items()]
    return st.lists(st.one_of(pairs), max_size=4).map(dict)


@settings(max_examples=100)
@given(
    spec=bodies("spec"),
    rules=st.dictionaries(st.sampled_from(["a", "b-1", "_c", "1d", "e f"]), st.one_of(st.none(), bodies("rule")), max_size=2),
    layouts=st.dictionaries(st.text(max_size=3), st.one_of(st.none(), bodies("layout")), max_size=2),
)
@example(spec={}, rules={"a": {"glob": "*", "match": None}}, layouts={"": {"module": "M"}})
def test_specs_that_a_schema_takes_are_those_that_load(spec: dict, rules: dict, layouts: dict) -> None:
    for data in (spec, {**spec, "rules": rules}, {"layouts": layouts}):
        assert (wrong("spec", data) == []) == loads(data), data


NAMES = st.sampled_from(
    [*expressions.VARIABLES[:7], "pi", "shape[0]", "2", "0.5", ".5", "5.", "1e-3", "1E5", "1_000", "2.5e+3"]
)
EXPRESSIONS = st.recursive(
    NAMES,
    lambda inner: st.one_of(
        st.builds("{} {} {}".format, inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]), inner),
        st.builds("{}({})".format, st.sampled_from(["", "-", "+", "sqrt", "log", "exp"]), inner),
        st.builds("{}({}, {})".format, st.sampled_from(["min", "max"]), inner, inner),
    ),
    max_leaves=6,
)


@given(text=EXPRESSIONS, before=st.sampled_from(["", " ", "-"]))
def test_every_expression_is_taken(text: str, before: str) -> None:
    expressions.parse(before + text)
    assert wrong("spec", {"gain": before + text}) == []


@pytest.mark.parametrize(
    "text", ["2*foo", "0.02x", "fan_inn", "fanin", "wide", "1/sqrt(2*n_layer)", "__import__('os')", "a.b", "1e", "sqrt2"]
)
def test_no_misspelled_expression_is_taken(text: str) -> None:
    with pytest.raises(InitConfError):
        expressions.parse(text)
    assert wrong("spec", {"gain": text}) != []


# --- what it says ----------------------------------------------------------------------------------------------------------


def test_every_key_is_explained() -> None:
    made = SCHEMAS["scheme"]
    definitions = made["definitions"]
    for properties in (made["properties"], definitions["rule"]["properties"], definitions["layout"]["properties"]):
        for key, value in properties.items():
            assert value["title"] == key
            assert re.fullmatch(r"[A-Z`].*[.]", value["description"]), f"{key}: {value['description']}"


def test_names_and_their_meanings_are_those_of_the_registries() -> None:
    definitions = SCHEMAS["scheme"]["definitions"]
    known = definitions["initializer"]["enum"]
    assert sorted(known) == sorted([*registry.names(), *(a for name in registry.names() for a in registry.aliases_of(name))])
    told = dict(zip(known, definitions["initializer"]["enumDescriptions"], strict=True))
    assert told["zeros"] == "Every element is 0."
    assert told["kaiming_normal"] == told["he_normal"]
    assert set(definitions["nonlinearity"]["enum"]) == {*activations.names(), "auto"}
    for mapping, names in (
        ("initializer", registry.names()),
        ("nonlinearity", {activations.normalise(n)[0] for n in activations.names()}),
    ):
        *each, rest = definitions[f"{mapping}_mapping"]["allOf"]
        assert {one["if"]["properties"]["name"]["enum"][0] for one in each} <= set(rest["if"]["properties"]["name"]["enum"])
        assert len(each) == len(names)


def test_arguments_have_their_docstrings_and_defaults() -> None:
    each = SCHEMAS["scheme"]["definitions"]["initializer_mapping"]["allOf"]
    taken = {one["if"]["properties"]["name"]["enum"][0]: one["then"]["properties"] for one in each[:-1]}
    assert taken["variance_scaling"]["scale"]["description"] == (
        "of the variance, as in TensorFlow and JAX; it replaces gain and nonlinearity. Default: null."
    )
    assert taken["variance_scaling"]["in_axes"]["description"].startswith("an axis or a list of axes (negative ones count")
    assert taken["variance_scaling"]["in_axes"]["description"] != taken["variance_scaling"]["scale"]["description"]
    assert taken["constant"]["value"]["description"] == "Required."
    assert taken["truncated_normal"]["absolute"]["description"] == "Default: false."


def test_sections_of_docstrings() -> None:
    doc = "One.\n\nArgs:\n    a: first\n        line two.\n    b, c: both.\n\nMore: not of it."
    assert docstrings.arguments(doc) == {"a": "first line two.", "b": "both.", "c": "both."}
    assert docstrings.arguments("One line.") == docstrings.arguments(None) == {}


# --- one's own -------------------------------------------------------------------------------------------------------------


def test_own_initializers_and_activations_appear() -> None:
    class Opaque:
        pass

    @initconf.register
    def mine(site: Any, power: float = 0.5, how: Opaque | None = None, parts: tuple[int, int] = (1, 2)) -> Any:
        """Mine.

        Args:
            power: of the fan.
        """

    @initconf.activation
    def swish2(x: Any, beta: float = 1.0) -> Any:
        return x

    own = Draft7Validator(schema("scheme"))
    right = {"initializer": {"name": "mine", "power": 1, "how": {"any": 1}}, "nonlinearity": {"name": "swish2", "beta": 2}}
    assert own.is_valid(right)
    assert not own.is_valid({"initializer": {"name": "mine", "powre": 1}})
    assert not own.is_valid({"initializer": {"name": "mine", "power": True}})
    assert not own.is_valid({"nonlinearity": {"name": "swish2", "beta": "x"}})
    assert wrong("scheme", right) != []


# --- the command -----------------------------------------------------------------------------------------------------------

OWN = """
import initconf

print("imported")

@initconf.register
def of_mine(site, power: float = 0.5):
    \"\"\"Of mine.\"\"\"
    return initconf.laws.Constant(power)
"""


def test_command_writes_the_schema_with_what_a_module_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_of_schema.py").write_text(OWN)
    assert main(["schema", "rules", "--import", "own_of_schema", "--output", "rules.json"]) == 0
    assert capsys.readouterr() == ("", "imported\nthe schema is in rules.json\n")
    made = json.loads((tmp_path / "rules.json").read_text(encoding="utf-8"))
    assert made == schema("rules")
    assert "of_mine" in made["definitions"]["initializer"]["enum"]
    sys.modules.pop("own_of_schema")


@pytest.mark.parametrize(
    ("words", "kind"), [([], "scheme"), (["rule"], "rule"), (["spec", "--json"], "spec")], ids=["none", "rule", "json"]
)
def test_command_prints_the_schema(words: list[str], kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", *words]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (SCHEMAS[kind], "")


def test_command_knows_the_kinds() -> None:
    (action,) = [action for action in parsers()[1]["schema"]._actions if action.dest == "kind"]
    assert list(action.choices or ()) == list(KINDS)


def test_command_says_what_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr() == ("", f"--output = '{tmp_path}': cannot be written: Is a directory\n")


def test_no_torch_is_loaded_for_it() -> None:
    said = "print({'torch', 'hydra'} & set(sys.modules), file=sys.stderr)"
    code = f"import sys; from initconf.cli import main; main(['schema']); {said}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr == "set()\n"


# --- in an editor ----------------------------------------------------------------------------------------------------------


class Editor:
    """A client of the YAML language server, which is what editors ask."""

    def __init__(self, server: subprocess.Popen[bytes], folder: Path, schemas: dict[str, str]) -> None:
        self.server, self.folder, self.sent = server, folder, 0
        self.settings = {
            "schemas": schemas,
            "schemaStore": {"enable": False},
            "validate": True,
            "hover": True,
            "completion": True,
        }
        self.ask(
            "initialize",
            {"processId": None, "rootUri": folder.as_uri(), "capabilities": {"workspace": {"configuration": True}}},
        )
        self.write(method="initialized", params={})

    def write(self, **message: Any) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self.server.stdin is not None
        self.server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self.server.stdin.flush()

    def until(self, key: str, value: Any) -> Any:
        """The next message of this id or method; questions of the server's own are answered on the way."""
        assert self.server.stdout is not None
        while True:
            length = 0
            while line := self.server.stdout.readline().strip():
                length = int(line.partition(b":")[2]) if line.lower().startswith(b"content-length") else length
            message = json.loads(self.server.stdout.read(length))
            if "method" in message and "id" in message:
                items = message["params"].get("items", []) if message["method"] == "workspace/configuration" else []
                answer = [self.settings if item.get("section") == "yaml" else None for item in items]
                self.write(id=message["id"], result=answer or None)
            elif message.get(key) == value:
                return message

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        self.sent += 1
        self.write(id=self.sent, method=method, params=params)
        return self.until("id", self.sent)["result"]

    def opened(self, name: str, text: str) -> list[str]:
        """What is underlined in a file: line, and what is said of it."""
        document = {"uri": (self.folder / name).as_uri(), "languageId": "yaml", "version": 1, "text": text}
        self.write(method="textDocument/didOpen", params={"textDocument": document})
        while True:
            said = self.until("method", "textDocument/publishDiagnostics")["params"]
            if said["uri"] == document["uri"]:
                return [f"{d['range']['start']['line'] + 1}: {d['message']}" for d in said["diagnostics"]]

    def at(self, what: str, name: str, line: int, character: int) -> str:
        place = {"textDocument": {"uri": (self.folder / name).as_uri()}, "position": {"line": line - 1, "character": character}}
        return json.dumps(self.ask(f"textDocument/{what}", place))


@pytest.fixture
def editor(tmp_path: Path) -> Iterator[Editor]:
    for kind in FOLDERS.values():
        (tmp_path / f"{kind}.json").write_text(json.dumps(SCHEMAS[kind]), encoding="utf-8")
    schemas = {(tmp_path / f"{kind}.json").as_uri(): f"{folder}/*.yaml" for folder, kind in FOLDERS.items()}
    with subprocess.Popen(["yaml-language-server", "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        yield Editor(server, tmp_path, schemas)
        server.kill()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("yaml-language-server") is None, reason="yaml-language-server is not installed")
def test_an_editor_checks_explains_and_completes(editor: Editor) -> None:
    for name, file in SHIPPED.items():
        assert editor.opened(f"{name}.yaml", file.read_text(encoding="utf-8")) == [], name
    for folder, kind in FOLDERS.items():
        assert editor.opened(f"{folder}/partial.yaml", PARTIAL[kind]) == []
        for i, text in enumerate(WRONG[kind]):
            assert len(editor.opened(f"{folder}/wrong{i}.yaml", text)) == len(WRONG[kind][text].split()), text
    assert editor.opened("init/a.yaml", "gian: 1\nmode: fan_inn\ninitializer: {name: normal, stdd: 1}\nrules: {1a: null}") == [
        "3: Not an argument of this initializer (null takes back one that was merged in).",
        '2: Value is not accepted. Valid values: "fan_in", "fan_out", "fan_avg", "fan_geo_avg".',
        "4: Not a rule's name: letters, digits, _ and -, and a letter first.",
        "1: Property gian is not allowed.",
    ]
    assert editor.opened("init/b.yaml", "initializer: {name: normal, std: 1}\nrules:\n  a:\n    role: \n") == []
    assert "Which fan" not in editor.at("hover", "init/b.yaml", 1, 3)
    assert "the initializer's own arguments" in editor.at("hover", "init/b.yaml", 1, 3)
    assert "Default: 1.0" in editor.at("hover", "init/b.yaml", 1, 30).replace("\\", "")
    assert "tied heads too" in editor.at("completion", "init/b.yaml", 4, 10)

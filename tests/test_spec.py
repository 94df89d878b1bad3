"""The spec: what may be said, in which form, and what it amounts to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from initconf import InitSpec, Rule, SpecError, load
from initconf.spec import ROLES, SELECTORS, SETTINGS


def refused(data: dict) -> str:
    with pytest.raises(SpecError) as caught:
        load(data)
    return str(caught.value)


def test_left_out_means_null() -> None:
    empty = load({})
    assert empty.settings() == {}
    assert (empty.rules, empty.targets, empty.layouts) == ({}, {}, {})
    assert all(getattr(empty, key) is None for key in ("seed", "unmatched", "layers", "compat", "rng_device", *SETTINGS))
    nulls = dict.fromkeys([*SETTINGS, "seed", "unmatched", "layers", "compat", "rng_device", "rules", "targets", "layouts"])
    assert load(nulls) == empty
    rule = dict.fromkeys(Rule.model_fields) | {"glob": "*"}
    assert load({"rules": {"a": rule}}).rules["a"] == Rule(glob="*")


def test_settings_are_those_that_are_set() -> None:
    spec = load({"gain": 0, "mode": "fan_out", "rules": {"a": {"glob": "*", "gain": "1/2", "initializer": "zeros"}}})
    assert spec.settings() == {"gain": 0, "mode": "fan_out"}
    assert spec.rules["a"].settings() == {"gain": "1/2", "initializer": "zeros"}


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("initializer", ["he_normal", {"name": "normal", "std": 0.02}, {"name": "zeros"}]),
        ("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"]),
        ("distribution", ["uniform", "untruncated_normal", "truncated_normal"]),
        ("gain", [0, 1, 0.5, -1, 1e300, "1/sqrt(2*n_layers)", "2", "fan_in"]),
        ("nonlinearity", ["relu", "auto", {"name": "leaky_relu", "negative_slope": 0.2}]),
        ("gain_method", ["second_moment", "torch", "backward", "centred", "numeric_grid"]),
        ("seed", [0, 3, -1, 2**80]),
        ("unmatched", ["error", "keep"]),
        ("layers", [r"blocks\.(\d+)\..*", r"(?:a|b)(\w)", r"h(?!x)(.)"]),
        ("compat", ["torch"]),
        ("rng_device", ["cpu", "auto"]),
    ],
)
def test_what_a_key_may_be(key: str, values: list) -> None:
    for value in values:
        assert getattr(load({key: value}), key) == value


@pytest.mark.parametrize(
    ("rule", "field", "value"),
    [
        ({"match": "a|b"}, "match", "a|b"),
        ({"module": "Linear"}, "module", ("Linear",)),
        ({"module": ["Linear", "torch.nn.modules.conv.Conv2d"]}, "module", ("Linear", "torch.nn.modules.conv.Conv2d")),
        ({"inside": "Block"}, "inside", ("Block",)),
        ({"role": "weight"}, "role", ("weight",)),
        ({"role": list(ROLES)}, "role", ROLES),
        ({"ndim": 2}, "ndim", 2),
        ({"block": "[qk]"}, "block", "[qk]"),
        ({"glob": "*", "expect": 12}, "expect", (12, 12)),
        ({"glob": "*", "expect": [0, 3]}, "expect", (0, 3)),
        ({"glob": "*", "optional": True}, "optional", True),
        ({"glob": "*", "priority": -3}, "priority", -3),
    ],
)
def test_what_a_rule_may_be(rule: dict, field: str, value: object) -> None:
    assert getattr(load({"rules": {"a-b_1": rule}}).rules["a-b_1"], field) == value


NUMBER = '\n  -> write a number, or an expression such as "1/sqrt(2*n_layers)"'
QUOTE = "\n  -> put it in single quotes: '...' in YAML, and in Hydra quotes (\"...\") on a command line"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"gain": True}, "init.gain = True  (python): neither a number nor an expression" + NUMBER),
        ({"gain": [1]}, "init.gain = [1]  (python): neither a number nor an expression" + NUMBER),
        ({"gain": ""}, "init.gain = ''  (python): '' is neither a number nor an expression" + NUMBER),
        (
            {"gain": "fanin"},
            "init.gain = 'fanin'  (python): 'fanin' in 'fanin' is not known in expressions; did you mean 'fan_in'?" + NUMBER,
        ),
        ({"gain": float("nan")}, "init.gain = nan  (python): not a finite number\n  -> write a finite one"),
        ({"gain": float("-inf")}, "init.gain = -inf  (python): not a finite number\n  -> write a finite one"),
        ({"gain": 10**400}, f"init.gain = 1{'0' * 96}...  (python): the number is too large\n  -> write one below 2e+308"),
        ({"mode": "fan_inn"}, "init.mode = 'fan_inn'  (python): not a mode\n  -> did you mean 'fan_in'?"),
        ({"mode": "fan_sum"}, "init.mode = 'fan_sum'  (python): not a mode\n  -> fan_avg is half of it"),
        (
            {"mode": 2},
            "init.mode = 2  (python): not a mode\n  -> one of fan_in, fan_out, fan_avg, fan_geo_avg",
        ),
        (
            {"distribution": "normal"},
            "init.distribution = 'normal'  (python): not a distribution\n  -> normal means truncated in "
            "TensorFlow and untruncated in torch: write truncated_normal or untruncated_normal",
        ),
        (
            {"gain_method": "centered"},
            "init.gain_method = 'centered'  (python): not a gain method\n  -> it is spelled centred",
        ),
        (
            {"initializer": 3},
            "init.initializer = 3  (python): not an initializer\n"
            "  -> write a name, or a mapping such as {name: normal, std: 0.02}",
        ),
        (
            {"initializer": {"std": 3}},
            "init.initializer  (python): the initializer mapping has no name\n  -> write {name: normal, std: "
            "0.02}; an override such as initializer.std=3 over a plain string loses the name: set initializer.name too",
        ),
        (
            {"nonlinearity": ["relu"]},
            "init.nonlinearity = ['relu']  (python): not a nonlinearity\n"
            "  -> write a name, or a mapping such as {name: leaky_relu, negative_slope: 0.2}",
        ),
        ({"seed": "3"}, "init.seed = '3'  (python): not an integer\n  -> write 3, without quotes"),
        ({"seed": True}, "init.seed = True  (python): not an integer\n  -> write an integer, such as 3"),
        ({"seed": 1.0}, "init.seed = 1.0  (python): not an integer\n  -> write 1"),
        (
            {"unmatched": "kep"},
            "init.unmatched = 'kep'  (python): not a way to treat unmatched parameters\n  -> did you mean 'keep'?",
        ),
        ({"compat": "tf"}, "init.compat = 'tf'  (python): not a compat\n  -> known: torch"),
        ({"rng_device": "gpu"}, "init.rng_device = 'gpu'  (python): not a rng_device\n  -> did you mean 'cpu'?"),
        (
            {"layers": r"blocks\.\d+"},
            r"init.layers = 'blocks\\.\\d+'  (python): the pattern has 0 groups"
            "\n  -> give it one group, the layer's number: 'blocks\\.(\\d+)\\..*'",
        ),
        (
            {"targets": 3},
            "init.targets = 3  (python): not a mapping of targets\n  -> write targets by name: {name: ...}",
        ),
        (
            {"rules": ["a"]},
            "init.rules = ['a']  (python): not a mapping of rules\n  -> write rules by name: {name: ...}",
        ),
        (
            {"rules": {"a": 3}},
            "init.rules.a = 3  (python): a rule is a mapping\n"
            "  -> write {glob: '...', initializer: ...}, or null to switch it off",
        ),
        (
            {"rules": {"*.bias": {"glob": "*"}}},
            "init.rules.*.bias = '*.bias': not a rule's name\n  -> a name begins with a letter and holds letters, digits, _ "
            "and -; patterns stand in match, search or glob",
        ),
        (
            {"rules": {"a": {"gain": 2}}},
            f"init.rules.a  (python): the rule selects nothing: it has no selector\n  -> give it one of {', '.join(SELECTORS)}",
        ),
        (
            {"rules": {"head": {"glob": "*"}, "haed": {"gain": 2}}},
            "init.rules.haed  (python): the rule selects nothing: it has no selector\n"
            f"  -> did you mean the rule 'head'? a new rule needs one of {', '.join(SELECTORS)}",
        ),
        (
            {"rules": {"a": {"match": ["ab"]}}},
            "init.rules.a.match = ['ab']  (python): YAML read the pattern as a list" + QUOTE,
        ),
        ({"rules": {"a": {"glob": 3}}}, "init.rules.a.glob = 3  (python): a pattern is a string" + QUOTE),
        (
            {"rules": {"a": {"search": ""}}},
            "init.rules.a.search = ''  (python): the pattern is empty\n"
            "  -> write null where none is meant, and * as a glob for everything",
        ),
        (
            {"rules": {"a": {"match": "head.("}}},
            "init.rules.a.match = 'head.('  (python): the pattern does not compile: missing ), "
            "unterminated subpattern at position 5\n"
            "  -> it is a regex of Python's `re`, in which ( [ { . * + ? | ^ $ that are meant as such have a \\ in front",
        ),
        (
            {"rules": {"a": {"role": "weights"}}},
            "init.rules.a.role = 'weights'  (python): no role is named 'weights'\n  -> did you mean 'weight'?",
        ),
        (
            {"rules": {"a": {"module": []}}},
            "init.rules.a.module = []  (python): not a class name\n  -> write a class name, or a list of them",
        ),
        ({"rules": {"a": {"ndim": "2"}}}, "init.rules.a.ndim = '2'  (python): not an integer\n  -> write 2, without quotes"),
        (
            {"rules": {"a": {"glob": "*", "priority": 1.5}}},
            "init.rules.a.priority = 1.5  (python): not an integer\n  -> write an integer, such as 3",
        ),
        (
            {"rules": {"a": {"glob": "*", "optional": "yes"}}},
            "init.rules.a.optional = 'yes'  (python): neither true nor false\n  -> write true or false",
        ),
        (
            {"rules": {"a": {"glob": "*", "expect": [3, 2]}}},
            "init.rules.a.expect = [3, 2]  (python): not a number of parameters\n  -> write a count such as 12, or [min, max]",
        ),
        ({"gian": 2}, "init.gian = 2  (python): 'gian' is not a key of a spec\n  -> did you mean 'gain'?"),
        (
            {"std": 2},
            "init.std = 2  (python): 'std' is not a key of a spec\n  -> known: compat, distribution, gain, "
            "gain_method, initializer, layers, layouts, mode, nonlinearity, rng_device, rules, seed, targets, unmatched; "
            "an argument of an initializer stands in initializer: {name: ..., std: ...}",
        ),
        (
            {"rules": {"a": {"glob": "*", "initialiser": "zeros"}}},
            "init.rules.a.initialiser = 'zeros'  (python): 'initialiser' is not a key of a rule\n"
            "  -> did you mean 'initializer'?",
        ),
    ],
)
def test_what_is_refused(data: dict, text: str) -> None:
    assert refused(data) == text


def test_all_problems_are_said_together() -> None:
    assert refused({"gain": True, "mode": "x", "rules": {"a": {"ndim": "2"}, "b": 3}}).startswith("4 problems:\n- init.mode")


def test_hydra_keys_are_ignored() -> None:
    keys = {"_target_": "os.system", "_convert_": "all", "_recursive_": False, "_partial_": True}
    assert load({**keys, "gain": 2}) == load({"gain": 2})
    assert InitSpec(gain=2, **keys) == InitSpec(gain=2)


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValidationError):
        load({}).gain = 2  # type: ignore[misc]


def test_live_rules_are_sorted_by_priority_and_then_as_said() -> None:
    rules = {
        "first": {"glob": "*", "priority": 1},
        "off": None,
        "second": {"glob": "*"},
        "third": {"glob": "*", "priority": 1},
        "fourth": {"glob": "*", "priority": -1},
    }
    assert [name for name, _ in load({"rules": rules}).live_rules()] == ["fourth", "second", "first", "third"]


def test_paths() -> None:
    spec = load({"gain": 2})
    assert (spec.path("gain"), spec.path("")) == ("init.gain", "init")
    assert InitSpec().path("rules.a") == "init.rules.a"
    assert (InitSpec(gain=2).source("gain"), InitSpec(gain=2).source("seed")) == ("python", None)


plain = st.text(max_size=5).filter(lambda text: "${" not in text)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | plain,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


shapes = st.lists(st.integers(1, 9), max_size=3)
targets = st.none() | st.one_of(
    st.fixed_dictionaries({"module": st.just("net.0")}, optional={"nonlinearity": st.none() | st.just("tanh")}),
    st.fixed_dictionaries({"shapes": st.lists(shapes, min_size=1, max_size=2)}, optional={"order": st.just(["0.weight"])}),
    st.lists(
        st.fixed_dictionaries(
            {"name": st.sampled_from("wb"), "kind": st.sampled_from(["weight", "bias", "scalar"]), "shape": shapes},
            optional={"layer": st.none() | st.integers() | st.just("l"), "var": st.floats(0, 9), "fan_in": st.integers(1, 9)},
        ),
        min_size=1,
        max_size=2,
    ),
)


@settings(max_examples=30)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "initializer": st.builds(lambda own: {**own, "name": "normal"}, st.dictionaries(st.sampled_from("abc"), values)),
            "gain": st.floats(-9, 9) | st.integers() | st.just("1/fan_in"),
            "seed": st.integers(),
            "unmatched": st.sampled_from(["error", "keep", None]),
            "rules": st.dictionaries(
                st.from_regex("[a-z]{1,3}", fullmatch=True), st.none() | st.just({"glob": "*.w", "expect": [1, 2]}), max_size=3
            ),
            "targets": st.dictionaries(st.sampled_from("abc"), targets),
        },
    )
)
def test_a_dumped_spec_is_the_same_spec(data: dict) -> None:
    spec = load(data)
    assert load(spec.model_dump()) == spec
    assert load(spec.model_dump(exclude_unset=True)) == spec
    assert InitSpec.model_validate_json(spec.model_dump_json()) == spec
    assert load(spec, overrides=["compat=torch"]) == spec.model_copy(update={"compat": "torch"})

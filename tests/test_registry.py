"""Registering initializers: what is taken, what is refused and with which words, and how arguments are checked."""

from __future__ import annotations

import functools
import math
from typing import Annotated, Any, Literal, Optional

import pytest
import torch
from pydantic import BaseModel, Field
from torch import nn

import initconf
from initconf import registry
from initconf.errors import CompileError, InitConfError
from initconf.laws import Blocks, Constant, Custom, Law, Normal, Orthogonal, Uniform


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    registry.names()
    for table in ("_registered", "_aliases", "_broken"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


def refused(register, *args, **kwargs):
    with pytest.raises(InitConfError) as caught:
        register(*args, **kwargs)
    return str(caught.value)


def law_of(model, initializer, name="weight", **spec):
    return initconf.compile(model, {"initializer": initializer, "unmatched": "keep", **spec})[name].law


# --- forms -----------------------------------------------------------------------------------------------------------------


def test_bare_decorator():
    @initconf.register
    def halves(site):
        return Constant(0.5)

    assert halves(None) == Constant(0.5)  # the function itself comes back
    assert registry.find("halves").fn is halves
    assert "halves" in registry.names()
    assert law_of(nn.Linear(2, 2), "halves") == Constant(0.5)


def test_decorator_with_a_name_and_aliases():
    @initconf.register("my halves", aliases=("h1", "h2"))
    def anything(site):
        return Constant(0.5)

    assert [registry.find(name).name for name in ("my halves", "h1", "h2")] == ["my halves"] * 3
    assert registry.aliases_of("my halves") == ["h1", "h2"]
    assert "h1" not in registry.names()
    assert "anything" not in registry.names()


def test_decorator_with_empty_parentheses():
    @initconf.register()
    def quarters(site):
        return Constant(0.25)

    assert registry.find("quarters").fn is quarters


def test_called_on_a_function():
    initconf.register("thirds")(lambda site: Constant(1 / 3))
    initconf.register("by torch")(torch.nn.init.normal_)
    assert law_of(nn.Linear(2, 2), "thirds") == Constant(1 / 3)
    assert [registry.find(name).plain for name in ("thirds", "by torch")] == [False, True]
    assert law_of(nn.Linear(2, 2), {"name": "by torch", "std": 0.1}) == Custom("by torch", (("std", 0.1),))


def test_names_are_sorted_and_without_aliases():
    found = registry.names()
    assert found == sorted(found)
    assert len(found) == len(set(found))
    assert {"he_normal", "orthogonal", "keep", "module_default"} <= set(found)
    assert "kaiming_normal" not in found
    assert registry.find("kaiming_normal") is registry.find("he_normal")


def test_shipped_ones_are_told_from_others():
    initconf.register("mine")(lambda site: Constant(0.0))
    assert registry.find("zeros").shipped
    assert not registry.find("mine").shipped


def test_an_unknown_name_has_a_near_one():
    assert refused(registry.find, "he_nromal") == "no initializer is named 'he_nromal'; did you mean 'he_normal'?"
    assert refused(registry.find, "xavier_unifrm") == "no initializer is named 'xavier_unifrm'; did you mean 'xavier_uniform'?"


# --- refusals at registration ----------------------------------------------------------------------------------------------


def nothing():
    return Constant(0.0)


def without_generator(tensor, std: float = 1.0):
    tensor.fill_(std)


def with_args(site, *numbers: float):
    return Constant(0.0)


def with_kwargs(site, **settings: float):
    return Constant(0.0)


def positional_only(site, std: float, /):
    return Constant(std)


def unreadable(site, std: NoSuchType):  # noqa: F821
    return Constant(std)


FIRST = "; call it `site` (the function returns a law) or `tensor` (the function writes the values)"


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (nothing, "the first parameter of the initializer 'mine' is None" + FIRST),
        (lambda weight: None, "the first parameter of the initializer 'mine' is 'weight'" + FIRST),
        (lambda std, site: None, "the first parameter of the initializer 'mine' is 'std'" + FIRST),
        (
            without_generator,
            "the initializer 'mine' has no parameter `generator`; it must draw from the generator that it is given",
        ),
        (with_args, "the initializer 'mine' takes *numbers: 'float'; every setting must be a named parameter"),
        (with_kwargs, "the initializer 'mine' takes **settings: 'float'; every setting must be a named parameter"),
        (
            unreadable,
            "the annotations of the initializer 'mine' cannot be read: name 'NoSuchType' is not defined",
        ),
    ],
)
def test_a_bad_signature_is_refused(fn, text):
    assert refused(initconf.register("mine"), fn) == text
    assert "mine" not in registry.names()


def test_a_positional_only_setting_is_refused():
    def fn(site, std: float, /):
        return Constant(std)

    assert "every setting must be a named parameter" in refused(initconf.register("mine"), fn)


def test_a_signature_that_cannot_be_read_is_refused():
    assert refused(initconf.register("mine"), max).startswith("the signature of the initializer 'mine' cannot be read: ")


@pytest.mark.parametrize("fn", [lambda site: None, functools.partial(lambda site, a: None, a=1)])
def test_what_has_no_name_must_be_given_one(fn):
    assert refused(initconf.register, fn).endswith(
        " has no name of its own; register it with one: initconf.register('name')(...)"
    )
    initconf.register("named")(fn)
    assert "named" in registry.names()


def test_duplicates_are_refused():
    def mine(site):
        return Constant(0.0)

    initconf.register(mine)
    assert refused(initconf.register, mine) == "an initializer named 'mine' is already registered"
    assert refused(initconf.register("normal"), mine) == "an initializer named 'normal' is already registered"
    assert refused(initconf.register("kaiming_normal"), mine) == "an initializer named 'kaiming_normal' is already registered"
    assert refused(initconf.register("new", aliases=("normal",)), mine) == "an initializer named 'normal' is already registered"
    assert refused(initconf.register("new", aliases=("xavier_normal",)), mine).startswith(
        "an initializer named 'xavier_normal'"
    )
    assert "new" not in registry.names()


# --- arguments -------------------------------------------------------------------------------------------------------------


class Window(BaseModel):
    low: float
    high: float = 1.0


NUMBER = "it should be a valid number"
INTEGER = "it should be a valid integer"
ROWS = [
    # annotation, what is taken, what is refused and why, whether an expression may stand for it
    (float, [1.5, -2, 0, 1e300], {"a": NUMBER, True: NUMBER, None: NUMBER, (1,): NUMBER}, True),
    (int, [1, -2, 0], {1.5: INTEGER, "1": INTEGER, True: INTEGER, None: INTEGER}, True),
    (bool, [True, False], {1: "it should be a valid boolean", "yes": "it should be a valid boolean"}, False),
    (str, ["a", ""], {1: "it should be a valid string", None: "it should be a valid string"}, False),
    (Annotated[float, Field(gt=0)], [1e-9, 3], {0: "it should be greater than 0", -1.0: "it should be greater than 0"}, True),
    (Annotated[float, Field(ge=0, le=1)], [0, 1, 0.5], {1.01: "it should be less than or equal to 1"}, True),
    (Annotated[float, Field(allow_inf_nan=False)], [1.0], {math.inf: "it should be a finite number"}, True),
    (Annotated[int, Field(ge=2)], [2, 100], {1: "it should be greater than or equal to 2"}, True),
    (Annotated[float, Field(gt=100)], [101.0], {100.0: "it should be greater than 100"}, True),
    (Annotated[float, Field(lt=-3)], [-4.0], {0.0: "it should be less than -3"}, True),
    (Literal["in", "out"], ["in", "out"], {"avg": "it should be 'in' or 'out'", 1: "it should be 'in' or 'out'"}, False),
    (Optional[float], [None, 1.0], {"a": NUMBER}, True),  # noqa: UP045 - this form too
    (float | None, [None, 1.0], {"a": NUMBER}, True),
    (float | str, [1.0, "auto"], {None: f"{NUMBER}, or it should be a valid string"}, False),
    (list[int], [[1, 2], []], {1: "it should be a valid list", (1.5,): "it should be a valid list"}, False),
    (dict[str, float], [{"a": 1.0}], {1: "it should be a valid dictionary"}, False),
    (Any, [1, "a", None, [1]], {}, False),
]


@pytest.mark.parametrize(("annotation", "good", "bad", "numeric"), ROWS, ids=[str(row[0]) for row in ROWS])
def test_arguments_are_checked_against_their_annotations(annotation, good, bad, numeric):
    def fn(site, x):
        return Constant(0.0)

    fn.__annotations__["x"] = annotation
    initconf.register("mine")(fn)
    entry = registry.find("mine")
    assert entry.arguments["x"].numeric is numeric
    assert entry.arguments["x"].default is registry.MISSING
    for value in good:
        taken, problems = entry.validate({"x": value})
        assert (taken, problems) == ({"x": value}, [])
        if value is not None:
            assert isinstance(taken["x"], float) or type(taken["x"]) is type(value)
    for value, text in bad.items():
        assert entry.validate({"x": value}) == ({}, [("x", text)])


def test_integers_become_floats_where_floats_are_wanted():
    def fn(site, x: float, n: int):
        return Constant(0.0)

    initconf.register("mine")(fn)
    taken, _ = registry.find("mine").validate({"x": 2, "n": 2})
    assert [type(value) for value in taken.values()] == [float, int]


def test_models_check_themselves():
    def fn(site, window: Window):
        return Uniform(window.low, window.high)

    initconf.register("mine")(fn)
    assert law_of(nn.Linear(2, 2), {"name": "mine", "window": {"low": 0.5}}) == Uniform(0.5, 1.0)


def test_defaults_without_annotations_say_the_type():
    def fn(site, std=1, gain=0.5, name="a", flag=False, other=None, must=registry.MISSING):
        return Constant(0.0)

    initconf.register("mine")(fn)
    entry = registry.find("mine")
    assert entry.validate({"std": 1, "gain": 2, "name": "b", "flag": True, "other": [1]})[1] == []
    assert entry.validate({"std": 0.5})[0] == {"std": 0.5}
    assert [name for name, _ in entry.validate({"std": "x", "gain": "x", "name": 1, "flag": 1})[1]] == [
        "std",
        "gain",
        "name",
        "flag",
    ]
    assert [a.name for a in entry.arguments.values() if a.numeric] == ["std", "gain"]


def test_an_expression_may_stand_for_a_number_of_any_range():
    def fn(site, n: Annotated[int, Field(ge=20)], x: Annotated[float, Field(lt=0)]):
        return Normal(x, n)

    initconf.register("mine")(fn)
    assert law_of(nn.Linear(3, 7), {"name": "mine", "n": "fan_in*fan_out", "x": "-1/fan_in"}) == Normal(-1 / 3, 21)


def test_keyword_only_settings_are_fine():
    def fn(site, *, std: float = 2.0):
        return Normal(0.0, std)

    initconf.register("mine")(fn)
    assert law_of(nn.Linear(2, 2), {"name": "mine", "std": 3}) == Normal(0.0, 3.0)


def test_a_plain_function_s_generator_is_no_setting():
    def mine(tensor, generator=None, std: float = 1.0, extra=(1, 2)):
        tensor.normal_(0, std, generator=generator)

    initconf.register(mine)
    entry = registry.find("mine")
    assert entry.plain
    assert list(entry.arguments) == ["std", "extra"]
    assert law_of(nn.Linear(2, 2), {"name": "mine", "std": 3}) == Custom("mine", (("std", 3.0),))


# --- what an initializer may return ----------------------------------------------------------------------------------------


def compile_error(fn, model=None, **spec):
    initconf.register("mine")(fn)
    with pytest.raises(CompileError) as caught:
        initconf.compile(model or nn.Linear(4, 3, bias=False), {"initializer": "mine", **spec})
    return caught.value.problems[0].text


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (lambda site: 0.5, "the initializer 'mine' returned 0.5, not a law"),
        (lambda site: None, "the initializer 'mine' returned None, not a law"),
        (lambda site: 1 / 0, "it raised ZeroDivisionError: division by zero"),
        (lambda site: {}["x"], "it raised KeyError: 'x'"),
        (lambda site: Normal(0.0, math.nan), "its law has mean 0 and standard deviation nan"),
        (lambda site: Normal(math.inf, 1.0), "its law has mean inf and standard deviation 1"),
        (lambda site: Normal(0.0, -1.0), "its law has mean 0 and standard deviation -1"),
        (lambda site: Constant(1e39), "values of up to 1e+39 do not fit float32, which ends at 3.40282e+38"),
        (lambda site: Orthogonal(1.0, (4, 3)), "the law is for the shape (4, 3), and the parameter has (3, 4)"),
        (lambda site: Blocks(0, ("a",), (3,), (Constant(0.0),)), "Blocks is not a law of a single parameter"),
    ],
)
def test_what_cannot_be_written_is_said_when_compiling(fn, text):
    assert compile_error(fn) == f"weight: mine cannot serve it: {text}"


def test_a_law_of_neither_kind_is_refused(monkeypatch):
    monkeypatch.setattr(Law, "_kinds", dict(Law._kinds))

    class Odd(Law):
        mean, std = 0.0, 1.0

    assert compile_error(lambda site: Odd()) == "weight: mine cannot serve it: Odd is not a law of a single parameter"


@pytest.mark.parametrize(
    ("dtype", "law", "fits"),
    [
        (torch.float16, Constant(65504.0), True),
        (torch.float16, Constant(-65505.0), False),
        (torch.bfloat16, Constant(65505.0), True),
        (torch.float16, Normal(0.0, 10000.0), True),
        (torch.float16, Normal(0.0, 11000.0), False),
        (torch.float16, Uniform(0.0, 65000.0), True),
        (torch.float64, Normal(1e300, 1e299), True),
        (torch.complex64, Uniform(0.0, 1.0), False),
        (torch.complex64, Constant(1.0), True),
    ],
)
def test_laws_must_fit_the_dtype(dtype, law, fits):
    model = nn.Linear(4, 3, bias=False, dtype=dtype)
    if fits:
        initconf.register("mine")(lambda site: law)
        assert law_of(model, "mine") == law
    else:
        assert "cannot serve it: " in compile_error(lambda site: law, model)


def test_a_user_s_function_sees_every_site_itself():
    """Parameters that look alike (q, k, v; layers of one shape) are not given one another's law."""

    def mine(site):
        return Constant(float(sum(map(ord, site.name + (site.block or "") + site.dtype))))

    initconf.register(mine)
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4, dtype=torch.float64)})
    model["d"] = nn.MultiheadAttention(4, 2)
    plan = initconf.compile(model, {"initializer": "mine", "unmatched": "keep"})
    values = [entry.law.value for entry in plan.leaves() if isinstance(entry.law, Constant)]
    assert len(values) == 7
    assert len(set(values)) == 7


def test_sites_of_two_dtypes_are_judged_apart():
    model = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False, dtype=torch.float16)])
    with pytest.raises(CompileError) as caught:
        initconf.compile(model, {"initializer": {"name": "constant", "value": 1e6}})
    assert [p.text for p in caught.value.problems] == [
        "1.weight: constant cannot serve it: values of up to 1e+06 do not fit float16, which ends at 65504"
    ]
    with pytest.raises(CompileError) as caught:
        initconf.compile(model, {"initializer": {"name": "normal", "std": 1e-9}})
    assert [p.text for p in caught.value.problems] == [
        "1.weight: normal cannot serve it: values of up to 6e-09 are all 0 in float16, whose least is 5.96046e-08"
    ]


# --- entry points ----------------------------------------------------------------------------------------------------------


class EntryPoint:
    def __init__(self, name, load):
        self.name, self.value, self._load = name, f"package.module:{name}", load

    def load(self):
        return self._load()


@pytest.fixture
def installed(monkeypatch):
    offered = []

    def entry_points(group):
        assert group == "initconf.initializers"
        return offered

    monkeypatch.setattr(registry, "entry_points", entry_points)
    monkeypatch.setattr(registry, "_complete", False)
    return offered


def test_packages_offer_initializers(installed):
    def anything(site, value: float = 2.0):
        return Constant(value)

    installed.append(EntryPoint("offered", lambda: anything))
    assert "offered" in registry.names()
    assert law_of(nn.Linear(2, 2), "offered") == Constant(2.0)


def test_an_entry_point_may_be_a_module_that_registers_by_itself(installed):
    installed.append(EntryPoint("module", lambda: initconf.register("from a module")(lambda site: Constant(3.0)) and registry))
    assert "from a module" in registry.names()
    assert "module" not in registry.names()


def test_an_entry_point_whose_function_registered_itself_is_no_duplicate(installed):
    installed.append(EntryPoint("twice", lambda: initconf.register("twice")(lambda site: Constant(3.0))))
    assert law_of(nn.Linear(2, 2), "twice") == Constant(3.0)


def test_a_broken_package_harms_nobody_who_does_not_use_it(installed):
    def missing():
        raise ImportError("No module named 'gone'")

    installed += [
        EntryPoint("gone", missing),
        EntryPoint("bad", lambda: lambda weight: None),
        EntryPoint("kaiming_normal", lambda: lambda site: Constant(0.0)),
        EntryPoint("good", lambda: lambda site: Constant(5.0)),
    ]
    assert law_of(nn.Linear(2, 2), "good") == Constant(5.0)
    assert law_of(nn.Linear(2, 2, bias=False), "kaiming_normal").std == 1.0
    assert refused(registry.find, "gone") == (
        "the initializer 'gone' of package.module:gone cannot be used: No module named 'gone'"
    )
    assert refused(registry.find, "bad").startswith("the initializer 'bad' of package.module:bad cannot be used: the first ")
    assert not {"gone", "bad"} & set(registry.names())
    with pytest.raises(CompileError) as caught:
        initconf.compile(nn.Linear(2, 2), {"initializer": "gone"})
    assert "No module named 'gone'" in str(caught.value)


def test_a_shipped_name_is_not_taken_by_a_package(installed):
    installed.append(EntryPoint("zeros", lambda: lambda site: Constant(1.0)))
    assert law_of(nn.Linear(2, 2), "zeros") == Constant(0.0)

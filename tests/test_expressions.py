"""Expressions: arithmetic over a few names, and nothing else, whatever the text is."""

import ast
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initconf import InitConfError
from initconf.expressions import FUNCTIONS, VARIABLES, evaluate, names_in, parse

HERE = {
    "fan_in": 6.0,
    "fan_out": 2.0,
    "fan_avg": 4.0,
    "n_layers": 8,
    "layer": 3,
    "numel": 12,
    "ndim": 2,
    "shape": (2, 6),
}
KNOWN = "fan_in, fan_out, fan_avg, n_layers, layer, numel, ndim, shape, sqrt, log, exp, min, max, pi"


def outcome(text: str) -> float | str:
    """The value of an expression, or why it has none."""
    try:
        return evaluate(text, HERE)
    except InitConfError as error:
        return str(error)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        (" 2 ", 2),
        ("0x10", 16),
        ("1_000", 1000),
        ("-3", -3),
        ("--3", 3),
        ("+3", 3),
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("7 // 2", 3),
        ("7 % 4", 3),
        ("7 / 2", 3.5),
        ("2 ** 10", 1024),
        ("2 ** -1", 0.5),
        ("2 ** 3 ** 2", 512),
        ("-2 ** 2", -4),
        ("pi", math.pi),
        ("sqrt(2)", math.sqrt(2)),
        ("log(8, 2)", 3),
        ("exp(0)", 1),
        ("min(3, 1, 2)", 1),
        ("max(3)", 3),
        ("fan_in", 6),
        ("1/sqrt(2*n_layers)", 0.25),
        ("1/sqrt(fan_in)", 1 / math.sqrt(6)),
        ("sqrt(2/(fan_in+fan_out))", 0.5),
        ("(layer + 1) ** -0.5", 0.5),
        ("min(fan_in, fan_out) / fan_avg", 0.5),
        ("numel / ndim", 6),
        ("shape[0]", 2),
        ("shape[-1]", 6),
        ("shape[ndim - 1]", 6),
        ("shape[layer // 2]", 6),
        ("max(shape)", 6),
        ("min(shape) + 1", 3),
        ("1e300 * 1e8", 1e308),
    ],
)
def test_values(text: str, value: float) -> None:
    result = evaluate(text, HERE)
    assert math.isclose(result, value, rel_tol=1e-15)
    assert type(result) is float


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is neither a number nor an expression"),
        ("1 +", "'1 +' is neither a number nor an expression"),
        ("1\n+2", "'1\\n+2' is neither a number nor an expression"),
        ("0777", "'0777' is neither a number nor an expression"),
        ("a" * 201, "the expression is longer than 200 characters"),
        ("fanin", "'fanin' in 'fanin' is not known in expressions; did you mean 'fan_in'?"),
        ("1/width", f"'width' in '1/width' is not known in expressions; known: {', '.join(sorted(KNOWN.split(', ')))}"),
        ("sqrt", "'sqrt' in 'sqrt' is a function: write sqrt(...)"),
        ("layer(2)", "'layer' in 'layer(2)' is not a function of expressions; a multiplication is written layer * (...)"),
        ("sqr(2)", "'sqr' in 'sqr(2)' is not a function of expressions; did you mean 'sqrt'?"),
        (
            "__import__('os')",
            "'__import__' in \"__import__('os')\" is not a function of expressions; known: exp, log, max, min, sqrt",
        ),
    ],
)
def test_what_does_not_parse(text: str, why: str) -> None:
    with pytest.raises(InitConfError) as caught:
        parse(text)
    assert str(caught.value) == why


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("True", "True"),
        ("1j", "1j"),
        ("'2'", "'2'"),
        ("f'{1}'", "f'{1}'"),
        ("None", "None"),
        ("...", "..."),
        ("not 1", "not 1"),
        ("~1", "~1"),
        ("1 << 2", "1 << 2"),
        ("1 @ 2", "1 @ 2"),
        ("1 < 2", "1 < 2"),
        ("1 if 2 else 3", "1 if 2 else 3"),
        ("1 and 2", "1 and 2"),
        ("(1, 2)", "(1, 2)"),
        ("[1]", "[1]"),
        ("{1: 2}", "{1: 2}"),
        ("[x for x in shape]", "[x for x in shape]"),
        ("lambda: 1", "lambda: 1"),
        ("(x := 1)", "(x := 1)"),
        ("min()", "min()"),
        ("min(*shape)", "*shape"),
        ("sqrt(x=2)", "sqrt(x=2)"),
        ("sqrt(2)(3)", "sqrt(2)(3)"),
        ("fan_in.real", "fan_in.real"),
        ("pi.__class__", "pi.__class__"),
        ("shape.__class__", "shape.__class__"),
        ("min(shape).real", "min(shape).real"),
        ("fan_in[0]", "fan_in[0]"),
        ("shape[0][0]", "shape[0][0]"),
        ("shape[0:1]", "0:1"),
        ("shape[0, 1]", "(0, 1)"),
    ],
)
def test_what_is_not_arithmetic(text: str, part: str) -> None:
    with pytest.raises(InitConfError) as caught:
        parse(text)
    assert str(caught.value) == f"{part!r} is not allowed in an expression; numbers, + - * / // % **, and {KNOWN} are"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1/0", "'1/0' has no value here: 1 / 0 divides by zero"),
        ("1 / (layer - 3)", "'1 / (layer - 3)' has no value here: 1 / (layer - 3) divides by zero"),
        ("5 % 0", "'5 % 0' has no value here: 5 % 0 divides by zero"),
        ("0 ** -1", "'0 ** -1' has no value here: 0 ** (-1) divides by zero"),
        ("sqrt(-layer)", "'sqrt(-layer)' has no value here: sqrt(-layer) is not defined at -3"),
        ("log(0)", "'log(0)' has no value here: log(0) is not defined at 0"),
        ("log(2, 1)", "'log(2, 1)' has no value here: log(2, 1) divides by zero"),
        ("(-8) ** 0.5", "'(-8) ** 0.5' has no value here: a negative number has no such power"),
        ("exp(1000)", "'exp(1000)' has no value here: exp(1000) is too large"),
        ("10.0 ** 64 ** 1 * 10 ** 60 ** 2", "'10.0 ** 64 ** 1 * 10 ** 60 ** 2' raises to the power 3600; at most 64"),
        ("2 ** 65", "'2 ** 65' raises to the power 65; at most 64"),
        ("9**9**9**9", "'9**9**9**9' raises to the power 3.8742e+08; at most 64"),
        ("(10 ** 60) ** 60", "'(10 ** 60) ** 60' has no value here: (10 ** 60) ** 60 is too large"),
        ("1e400", "'1e400' has no finite value here: it gives inf"),
        ("1e200 * 1e200", "'1e200 * 1e200' has no finite value here: it gives inf"),
        ("sqrt(1, 2)", "'sqrt(1, 2)' has no value here: sqrt(1, 2) has too many arguments"),
        ("shape", "'shape' has no value here: shape is a tuple of numbers, not a number; shape[0] is its first"),
        ("2 * shape", "'2 * shape' has no value here: shape is a tuple of numbers, not a number; shape[0] is its first"),
        ("shape[2]", "'shape[2]' has no value here: shape[2] is not there: the shape is (2, 6)"),
        ("shape[-3]", "'shape[-3]' has no value here: shape[-3] is not there: the shape is (2, 6)"),
        ("shape[0.5]", "'shape[0.5]' has no value here: shape[0.5] is not there: the shape is (2, 6)"),
    ],
)
def test_what_has_no_value(text: str, why: str) -> None:
    with pytest.raises(InitConfError) as caught:
        evaluate(text, HERE)
    assert str(caught.value) == why


def test_what_a_parameter_does_not_have() -> None:
    for text in ("fan_in + 1", "shape[0]", "min(shape)"):
        with pytest.raises(InitConfError) as caught:
            evaluate(text, {"fan_in": None})
        name = names_in(text).pop()
        assert str(caught.value) == f"{text!r} uses {name}, which this parameter does not have"
    with pytest.raises(InitConfError) as caught:
        evaluate("layer / 2", {"layer": InitConfError("the parameter is in no ModuleList or Sequential")})
    assert str(caught.value) == "'layer / 2' uses layer: the parameter is in no ModuleList or Sequential"
    with pytest.raises(InitConfError) as caught:
        evaluate("min(shape)", {"shape": ()})
    assert str(caught.value) == "'min(shape)' has no value here: the shape has no axes"


def test_names() -> None:
    assert names_in("sqrt(fan_in * pi) + shape[layer]") == {"fan_in", "shape", "layer"}
    assert names_in("2") == set()
    for name in VARIABLES:
        assert names_in(name) == {name}


def test_what_python_warns_about_warns_nobody() -> None:
    for text in ("1or 2", "1 is 1", "'\\d'", "0x1for x in 2"):
        with pytest.raises(InitConfError):
            parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 99 + "1" + ")" * 99,
        "(" * 200,
        "-" * 199 + "1",
        "9" * 200,
        "**".join("9" * 60),
        "sqrt(" * 33 + "2" + ")" * 33,
        "min(" * 40 + "2" + ")" * 39,
        "2**64" * 30,
        "shape[" * 25 + "0" + "]" * 25,
        "1e308*10-1e308*10",
        "[" * 200,
        "lambda:" * 28,
    ],
)
def test_nothing_hangs(text: str) -> None:
    result = outcome(text)
    assert isinstance(result, str) or math.isfinite(result)


# --- any text, and any tree ------------------------------------------------------------------------------------------

PIECES = (
    "1 0 1.5 1e300 1_0 0x1F 1or fan_in shape layer sqrt ( ) [ ] , + - * ** // / % pi min( max( exp( log( shape[ "
    "'a' \\d lambda f'{1}' if else 1j True ... := ~ not \n \0 \ud800 é 0777 ** ** == ; # @ . __class__ __import__('os')"
).split(" ")
texts = st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=14).map("".join)

numbers = st.integers(-3, 99).map(str) | st.floats(0, 1e300).map(repr) | st.sampled_from([*VARIABLES[:-1], "pi", "shape[0]"])


def combine(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(inner, st.sampled_from("+ - * / // % **".split()), inner).map(lambda x: f"({x[0]} {x[1]} {x[2]})")
    calls = st.tuples(st.sampled_from(sorted(FUNCTIONS)), inner).map(lambda x: f"{x[0]}({x[1]})")
    return pairs | calls | inner.map(lambda x: f"-({x})")


@settings(max_examples=500)
@given(texts)
def test_any_text_gives_a_number_or_the_error(text: str) -> None:
    result = outcome(text)
    assert (isinstance(result, str) and result) or math.isfinite(result)


@settings(max_examples=300)
@given(st.recursive(numbers, combine, max_leaves=12))
def test_any_arithmetic_is_what_python_makes_of_it(text: str) -> None:
    result = outcome(text)
    if isinstance(result, str):
        assert any(why in result for why in ("no value here", "no finite value", "raises to the power", "longer than"))
        return
    # Python computes with integers where this computes with floats.
    wide = {name: value if isinstance(value, tuple) else float(value) for name, value in HERE.items()}
    floats = ast.unparse(_Floats().visit(ast.parse(text, mode="eval")))
    expected = eval(floats, {"__builtins__": {}}, {**FUNCTIONS, **wide, "pi": math.pi, "min": _first, "max": _first})
    assert result == expected


class _Floats(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(float(node.value))

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        return ast.Constant(float(HERE["shape"][0]))


def _first(value: float) -> float:
    return value

"""Numbers written as expressions, such as `1/sqrt(2*n_layers)`: arithmetic over a few names, and nothing else.

The text is parsed by Python's own parser and evaluated over a whitelist of syntax nodes: no attribute, no
subscript, no call but of the listed functions, bounded length and exponents. It cannot run code.
"""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from initconf.errors import InitConfError, did_you_mean

VARIABLES = ("fan_in", "fan_out", "fan_avg", "n_layers", "layer", "numel", "ndim", "shape")
FUNCTIONS: dict[str, Any] = {"sqrt": math.sqrt, "log": math.log, "exp": math.exp, "min": min, "max": max}
CONSTANTS = {"pi": math.pi}
_KNOWN = (*VARIABLES, *FUNCTIONS, *CONSTANTS)

_BINARY: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type, Any] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_MAX_LENGTH = 200
_MAX_EXPONENT = 64


@lru_cache(maxsize=512)
def parse(text: str) -> ast.expr:
    """The syntax tree of an expression, checked to hold nothing but arithmetic.

    Raises InitConfError for anything else, with the part that is not allowed.
    """
    if len(text) > _MAX_LENGTH:
        raise InitConfError(f"the expression is longer than {_MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python finds odd, such as `1or 2`, is refused below
            tree = ast.parse(text.strip(), mode="eval").body
        _check(tree, text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InitConfError(f"{text!r} is neither a number nor an expression") from None
    return tree


def _check(node: ast.expr, text: str) -> None:
    match node:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float()):
            return
        case ast.Name(id=name):
            if name in VARIABLES or name in CONSTANTS:
                return
            if name in FUNCTIONS:
                raise InitConfError(f"{name!r} in {text!r} is a function: write {name}(...)")
            raise InitConfError(f"{name!r} in {text!r} is not known in expressions; {did_you_mean(name, _KNOWN)}")
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            _check(operand, text)
            return
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
            _check(left, text)
            _check(right, text)
            return
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if args:
            if name not in FUNCTIONS:
                known = f"a multiplication is written {name} * (...)" if name in _KNOWN else did_you_mean(name, FUNCTIONS)
                raise InitConfError(f"{name!r} in {text!r} is not a function of expressions; {known}")
            for arg in args:
                _check(arg, text)
            return
        case ast.Subscript(value=ast.Name(id="shape"), slice=index):
            _check(index, text)
            return
    part = ast.unparse(node)
    raise InitConfError(f"{part!r} is not allowed in an expression; numbers, + - * / // % **, and {', '.join(_KNOWN)} are")


def names_in(text: str) -> set[str]:
    """The variables that an expression uses.

    >>> sorted(names_in("1/sqrt(2*n_layers)"))
    ['n_layers']
    """
    return {node.id for node in ast.walk(parse(text)) if isinstance(node, ast.Name) and node.id in VARIABLES}


def evaluate(text: str, variables: Mapping[str, Any]) -> float:
    """The value of an expression.

    `variables` holds those of VARIABLES that are known at this place; a value may be an InitConfError, raised if it is used
    (why `layer` is not known here, say).

    >>> evaluate("1/sqrt(2*n_layers)", {"n_layers": 8})
    0.25
    """
    tree = parse(text)
    try:
        value = _number(_value(tree, text, variables))
    except _NoValue as error:
        raise InitConfError(f"{text!r} has no value here: {error}") from None
    if not math.isfinite(value):
        raise InitConfError(f"{text!r} has no finite value here: it gives {value}")
    return value


class _NoValue(Exception):
    """Why an expression has no value."""


def _number(value: Any) -> float:
    if isinstance(value, tuple):
        raise _NoValue("shape is a tuple of numbers, not a number; shape[0] is its first")
    if isinstance(value, complex):
        raise _NoValue("a negative number has no such power")
    try:
        return float(value)
    except OverflowError:
        raise _NoValue("a number is too large") from None


def _value(node: ast.expr, text: str, variables: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.Name(id=name):
            value = variables.get(name)
            if value is None:
                raise InitConfError(f"{text!r} uses {name}, which this parameter does not have")
            if isinstance(value, InitConfError):
                raise InitConfError(f"{text!r} uses {name}: {value}")
            return value
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_number(_value(operand, text, variables)))
        case ast.BinOp(op=op, left=left, right=right):
            # As floats, so that repeated powers of integers overflow instead of filling the memory.
            a, b = _number(_value(left, text, variables)), _number(_value(right, text, variables))
            if isinstance(op, ast.Pow) and abs(b) > _MAX_EXPONENT:
                raise InitConfError(f"{text!r} raises to the power {b:g}; at most {_MAX_EXPONENT}")
            return _computed(node, _BINARY[type(op)], a, b)
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_value(arg, text, variables) for arg in args]
            if name in ("min", "max"):
                if len(values) == 1 and isinstance(values[0], tuple):  # the one place where the whole shape is a value
                    values = list(values[0])
                if not values:
                    raise _NoValue("the shape has no axes")
                return FUNCTIONS[name](map(_number, values))
            return _computed(node, FUNCTIONS[name], *map(_number, values))
        case ast.Subscript(slice=index):
            place = _number(_value(index, text, variables))
            shape = _value(ast.Name(id="shape"), text, variables)
            if not place.is_integer() or not -len(shape) <= place < len(shape):
                raise _NoValue(f"shape[{place:g}] is not there: the shape is {shape}")
            return shape[int(place)]
    raise AssertionError(ast.dump(node))  # parse() let nothing else through


def _computed(node: ast.expr, function: Any, *values: float) -> Any:
    try:
        return function(*values)
    except ZeroDivisionError:
        raise _NoValue(f"{ast.unparse(node)} divides by zero") from None
    except OverflowError:
        raise _NoValue(f"{ast.unparse(node)} is too large") from None
    except TypeError:
        raise _NoValue(f"{ast.unparse(node)} has too many arguments") from None
    except ValueError:
        at = " and ".join(f"{value:g}" for value in values)
        raise _NoValue(f"{ast.unparse(node)} is not defined at {at}") from None

"""Where a tensor came from, and what becomes of it in sums, products and concatenations: the heart of `nonlinearity: auto`.

An origin says what a tensor's values look like to the layer that they feed: the data, a linear map's output, an activation of
one, or what a normalisation made. What leaves a normalisation has second moment 1 and counts as linear; dropout, reshaping and
the like do not count at all. What is a matter of judgement (a residual sum, a pooling, a factor) is said in the reason and
marked as assumed; what has no name is unknown, never a guess.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

Nonlinearity = str | dict[str, Any]

GATES = {"sigmoid": "glu", "silu": "swiglu", "gelu": "geglu", "relu": "reglu"}
SELF_GATES = {"sigmoid": "silu", "hardsigmoid": "hardswish"}
"""x * f(x) by f."""


@dataclass(frozen=True)
class Feed:
    """What feeds a weight."""

    nonlinearity: Nonlinearity | None
    """None where it cannot be known."""
    reason: str
    assumed: bool = False

    @property
    def said(self) -> str:
        return str(self.nonlinearity)


@dataclass(frozen=True)
class Origin:
    """Where a tensor came from."""

    kind: str
    """data | linear | activation | normalised | softmax | parameter | constant | unknown"""
    what: str
    """In a few words, of which the reasons of other origins are made."""
    nonlinearity: Nonlinearity = "linear"
    of: Hashable = 0
    """What the values are: the same for two tensors of the same values. An activation has that of what it was applied to, so
    that x * sigmoid(x) is known for what it is."""
    name: str | None = None
    """Of a parameter."""
    assumed: bool = False
    why: str = ""
    """The reason in full, where `what` does not say it all."""

    @staticmethod
    def constant() -> Origin:
        return Origin("constant", "a constant", assumed=True)

    @staticmethod
    def parameter(name: str) -> Origin:
        return Origin("parameter", f"the parameter {name}", name=name, assumed=True)

    @property
    def moves(self) -> bool:
        """Whether the values depend on the model's input."""
        return self.kind not in ("constant", "parameter")

    @property
    def signal(self) -> bool:
        """Whether the values count as a linear map's: with mean 0 and second moment 1."""
        return self.kind in ("data", "linear", "normalised")

    @property
    def reason(self) -> str:
        return self.why or self.what

    def feed(self) -> Feed:
        known = self.kind not in ("unknown", "softmax")
        return Feed(self.nonlinearity, self.reason, self.assumed) if known else Feed(None, self.reason)

    def through(self, function: str) -> Origin:
        """What a pooling or the like leaves of it: taken to be as it was."""
        return replace(self, why=f"{self.what}, through {function}", assumed=True, of=fresh())

    def part(self, which: Hashable) -> Origin:
        """A piece: other values of the same kind."""
        return replace(self, of=("part", which, self.of))


_numbers = count(1)


def fresh() -> int:
    """What no other values have been called."""
    return next(_numbers)


def given() -> Origin:
    return Origin("data", "the model's input", of=fresh())


def linear(what: str, assumed: bool = False) -> Origin:
    return Origin("linear", what, of=fresh(), assumed=assumed)


def normalised(what: str) -> Origin:
    return Origin("normalised", what, of=fresh())


def unknown(what: str) -> Origin:
    return Origin("unknown", what, of=fresh())


def listed(origins: Sequence[Origin]) -> str:
    """What several tensors are, each said once."""
    said = list(dict.fromkeys(origin.what for origin in origins))
    return " and ".join(said if len(said) > 1 or len(origins) < 2 else [*said, "another"])


# --- activations -----------------------------------------------------------------------------------------------------------


def activated(nonlinearity: Nonlinearity, source: Origin, said: str, assumed: bool = False) -> Origin:
    """An activation of a tensor that moves. Of an activation it is one that has no name, but for ReLU of ReLU."""
    if source.kind in ("activation", "softmax"):
        same = source.nonlinearity == nonlinearity == "relu"
        return source if same else unknown(f"{said} of {source.what}")
    why = f"{said} of {source.reason}" if source.assumed or source.kind == "unknown" else ""
    assumed = assumed or bool(why)
    return Origin("activation", said, nonlinearity, of=("activation", said, source.of), assumed=assumed, why=why)


def _root(of: Hashable) -> Hashable:
    """The values that something was made of by activations, factors and summands."""
    if isinstance(of, tuple):
        return ("part", of[1], _root(of[2])) if of[0] == "part" else _root(of[-1])
    return of


def _inside(of: Hashable, name: str) -> Hashable:
    """What an activation was applied to, or a part of it was; None where these values are none of the name."""
    if not isinstance(of, tuple) or of[:2] == ("activation", name):
        return of[-1] if isinstance(of, tuple) else None
    return ("part", of[1], _inside(of[2], name)) if of[0] == "part" else None


# --- several tensors -------------------------------------------------------------------------------------------------------


def joined(tensors: Sequence[Origin]) -> Origin:
    """A concatenation, or what is taken now from one tensor and now from another."""
    moving = [t for t in tensors if t.moves]
    if not moving:
        return Origin.constant()
    if mystery := _unknown(moving):
        return mystery
    if len({(t.kind == "softmax", str(t.nonlinearity)) for t in moving}) > 1:
        return unknown(f"a concatenation of {listed(moving)}")
    chosen = next((t for t in moving if t.assumed), moving[0])
    if any(t.what != chosen.what for t in moving):
        chosen = replace(chosen, what="a concatenation", why=f"a concatenation of {listed(moving)}")
    if still := next((t for t in tensors if not t.moves), None):
        chosen = replace(chosen, why=f"{chosen.what}, beside {still.what}", assumed=True)
    return replace(chosen, of=fresh())


def _unknown(tensors: Sequence[Origin]) -> Origin | None:
    """The first that is not known: it is what is to be said of all that is made of it."""
    return next((t for t in tensors if t.kind == "unknown"), None)


def added(tensors: Sequence[Origin], number: bool) -> Origin:
    """A sum or a difference; `number` says whether one that is no tensor has part in it."""
    moving = [t for t in tensors if t.moves]
    if not moving:
        return Origin.constant()
    if mystery := _unknown(moving):
        return mystery
    if len(moving) > 1 and all(t.kind == "data" for t in moving):
        return moving[0].through("a sum")
    if len(moving) > 1:
        # A sum of branches is no activation of anything; its second moment is the sum of theirs, whatever a gain does.
        return replace(linear("a sum", assumed=True), why=f"a sum of {listed(moving)}")
    (one,) = moving
    if one.kind == "data":  # which is not ours to judge
        return replace(one, of=("plus", fresh(), one.of))
    still = next((t for t in tensors if t.kind == "constant"), None)
    if not number and still is None and one.signal:  # parameters: a bias
        return replace(one, of=("plus", fresh(), one.of))
    plus = "a number" if number else (still or next(t for t in tensors if not t.moves)).what
    return replace(one, of=("plus", fresh(), one.of), why=f"{one.what}, plus {plus}", assumed=True)


def scaled(one: Origin, by: str, factor: float | None) -> Origin:
    """A tensor times what does not move; `factor` where it is a number."""
    if factor == 1:
        return one
    of = ("times", fresh() if factor is None else factor, one.of)
    if factor == -1 or one.kind == "data":  # the second moment is the same, also of an activation; data are not ours to judge
        return replace(one, of=of)
    return replace(one, of=of, why=f"{one.what}, times {by}", assumed=True)


def multiplied(tensors: Sequence[Origin], number: float | None) -> Origin:
    """A product, entry by entry; with a number among the factors or not."""
    moving = [t for t in tensors if t.moves]
    if not moving:
        return Origin.constant()
    if len(moving) == 1:
        if len(tensors) > 1:
            return scaled(moving[0], next(t for t in tensors if not t.moves).what, None)
        return scaled(moving[0], f"{number:g}" if number is not None else "a number", number)
    if mystery := _unknown(moving):
        return mystery
    if all(t.kind == "data" for t in moving):
        return moving[0].through("a product")
    softmax, others = [t for t in moving if t.kind == "softmax"], [t for t in moving if t.kind != "softmax"]
    if softmax and len(others) == 1:
        return others[0].through("a product with a softmax")
    a, b = sorted(moving[:2], key=lambda t: (t.kind != "activation", t.kind == "data"))
    if len(moving) > 2 or not b.signal or not (a.signal or a.kind == "activation"):
        return unknown(f"a product of {listed(moving)}")
    if _root(a.of) == _root(b.of):
        return _by_itself(a, b)
    if b.kind == "data":  # a mask
        return scaled(a, b.what, None)
    if a.signal:
        why = f"a product of {listed(moving)}"
        return Origin("activation", "a product", "bilinear", of=fresh(), assumed=True, why=why)
    return _gated(a, b)


def _by_itself(gate: Origin, other: Origin) -> Origin:
    """A product with something that was made of the same values."""
    for name, named in SELF_GATES.items():
        if gate.nonlinearity == name and _inside(gate.of, name) == other.of:
            return activated(named, other, named)
    if gate.nonlinearity == "sigmoid" and _inside(gate.of, "sigmoid") == ("times", 1.702, other.of):
        return activated("quick_gelu", other, "quick_gelu")
    return unknown(f"a product of a tensor and its own {gate.what}" if gate is not other else f"the square of {gate.what}")


def _gated(gate: Origin, other: Origin) -> Origin:
    form = gate.nonlinearity if isinstance(gate.nonlinearity, dict) else {"name": gate.nonlinearity}
    if form["name"] not in GATES:
        return unknown(f"a product of {gate.what} and {other.what}")
    named: Nonlinearity = GATES[form["name"]] if len(form) == 1 else {**form, "name": GATES[form["name"]]}
    what, doubtful = f"a gated unit ({gate.what})", gate.assumed or other.assumed
    why = f"a gated unit ({gate.reason}, times {other.reason})" if doubtful else ""
    return Origin("activation", what, named, of=fresh(), assumed=doubtful, why=why)

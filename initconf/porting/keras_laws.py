"""Keras' initializers as initconf's, for torch's parameters in place of Keras' variables.

Keras takes the last axis of a variable for the outputs, the one before it for the inputs, and all others for the receptive
field; strides and groups count for nothing, and fused gates and heads are one variable. Source: keras 3.15.1,
initializers/random_initializers.py (`compute_fans`) and initializers/constant_initializers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from initconf.porting.documents import At, Document
from initconf.porting.drafts import Formula

CUT = "0.87962566103423978"
"""The std of a unit normal that is cut off at two sigma, as Keras' truncated normals are."""
_SCALED = {
    "glorot": (1.0, "fan_avg"),
    "he": (2.0, "fan_in"),
    "lecun": (1.0, "fan_in"),
}
_ALIASES = {
    "zero": "zeros",
    "one": "ones",
    "normal": "randomnormal",
    "uniform": "randomuniform",
    "orthogonalinitializer": "orthogonal",
    "identityinitializer": "identity",
}
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "zeros": {},
    "ones": {},
    "constant": {"value": 0.0},
    "randomnormal": {"mean": 0.0, "stddev": 0.05},
    "randomuniform": {"minval": -0.05, "maxval": 0.05},
    "truncatednormal": {"mean": 0.0, "stddev": 0.05},
    "variancescaling": {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"},
    "orthogonal": {"gain": 1.0},
    "identity": {"gain": 1.0},
    **{f"{name}{ending}": {} for name in _SCALED for ending in ("uniform", "normal")},
}
"""The initializers, in small letters without underscores, and their arguments with their defaults."""
_BESIDES = ("seed", "dtype", "input_axes", "output_axes")


class Lost(Exception):
    """Why an initializer cannot be carried over."""


@dataclass(frozen=True)
class Kernel:
    """How a variable of Keras lies in a parameter of torch."""

    axes: tuple[int, int] | None = None
    """Which of the parameter's axes Keras takes for inputs and for outputs, where that is not the layer's own view."""
    factor: Mapping[str, str] = field(default_factory=dict)
    """By mode, our number of terms divided by Keras'; left out, they are the same."""
    vector: bool = False
    """Whether it has one axis: its length is both fans."""
    matrix: bool = True
    """Whether Keras' matrix of outputs by all else is torch's too."""
    square: bool = False
    """Whether it is one matrix from inputs to outputs, which may be an identity."""


DENSE = Kernel(square=True)
CONVOLUTION = Kernel(axes=(1, 0))
EMBEDDING = Kernel(axes=(0, 1), square=True)
VECTOR = Kernel(vector=True, matrix=False)


def depthwise(multiplier: int) -> Kernel:
    """(k, k, in, multiplier) there, (in * multiplier, 1, k, k) here."""
    m = str(multiplier)
    factor = {"fan_in": m, "fan_out": f"1/{m}", "fan_avg": f"(shape[0]+1)/(shape[0]/{m}+{m})"}
    return Kernel(axes=(0, 1), factor=factor if multiplier != 1 else {}, matrix=False)


def gated(gates: int) -> Kernel:
    """(in, gates * units) there; here each gate is a block with fans of its own."""
    factor = {"fan_out": f"1/{gates}", "fan_avg": f"(fan_in+fan_out)/(fan_in+{gates}*fan_out)"}
    return Kernel(factor=factor if gates > 1 else {}, square=gates == 1)


def heads(number: int, size: int, *, output: bool, whole: bool) -> Kernel:
    """(model, heads, size), of the output (heads, size, model); `whole`: with the fans of the whole, as Keras has them now."""
    if whole:
        return Kernel(matrix=False)
    if output:
        factor = {"fan_out": f"1/{number}", "fan_avg": f"(fan_in+fan_out)/(fan_in+{number}*fan_out)"}
    else:
        factor = {
            "fan_in": f"1/{number}",
            "fan_out": f"fan_out/({size}*fan_in)",
            "fan_avg": f"(fan_in+fan_out)/({number + size}*fan_in)",
        }
    return Kernel(factor=factor, matrix=False)


def name_of(said: Any) -> str:
    """Which of Keras' initializers an identifier (a name, or a mapping with `class_name`) means. Lost for any other."""
    name = said.get("class_name") if isinstance(said, dict) else said
    bare = str(name).lower().replace("_", "")
    bare = _ALIASES.get(bare, bare)
    if not isinstance(name, str) or bare not in _ARGUMENTS:
        raise Lost(f"the initializer {name!r} is not one of Keras' own that initconf knows")
    return bare


def seed_of(said: Any) -> Any:
    """The seed of an identifier, None where it has none."""
    config = said.get("config") if isinstance(said, dict) else None
    return config.get("seed") if isinstance(config, dict) else None


def initializer(document: Document, at: At, said: Any, kernel: Kernel) -> Any:
    """The initializer of a parameter.

    Raises Lost for what cannot be carried over, and SpecError for what Keras would refuse.
    """
    name = name_of(said)
    config = said.get("config") if isinstance(said, dict) else None
    config = config if isinstance(config, dict) else {}
    if odd := [key for key in config if key not in (*_ARGUMENTS[name], *_BESIDES)]:
        raise Lost(f"{name} has an argument {odd[0]!r} that is not known here")
    if config.get("input_axes") is not None or config.get("output_axes") is not None:
        raise Lost("input_axes and output_axes are axes of Keras' variable; say `in_axes` and `out_axes` of the parameter")
    inside = (*at, "config")

    def number(key: str) -> int | float:
        return document.number((*inside, key)) if key in config else _ARGUMENTS[name][key]

    if name in ("zeros", "ones"):
        return name
    if name == "constant":
        if isinstance(config.get("value"), (list, dict)):
            raise Lost("the values are an array; write them into a file for the initializer `values`")
        return {"name": "constant", "value": number("value")}
    if name == "randomnormal":
        return {"name": "normal", "mean": number("mean"), "std": number("stddev")}
    if name == "randomuniform":
        return {"name": "uniform", "low": number("minval"), "high": number("maxval")}
    if name == "truncatednormal":
        return {"name": "truncated_normal", "mean": number("mean"), "std": Formula(f"{CUT}*{number('stddev')!r}")}
    if name == "orthogonal":
        if not kernel.matrix:
            raise Lost("Keras' matrix is not one of the parameter's here")
        return {"name": "orthogonal_", "gain": number("gain")}
    if name == "identity":
        if not kernel.square:
            raise Lost("Keras' identity lies across gates, heads or a receptive field")
        return {"name": "identity", "gain": number("gain")}
    if name == "variancescaling":
        return _scaling(document, inside, number("scale"), *_choices(document, inside, config), kernel)
    family = next(family for family in _SCALED if name.startswith(family))
    scale, mode = _SCALED[family]
    return _scaling(document, inside, scale, mode, "uniform" if name.endswith("uniform") else "truncated_normal", kernel)


def _choices(document: Document, at: At, config: Mapping[str, Any]) -> tuple[str, str]:
    """Mode and distribution of a VarianceScaling."""
    defaults = _ARGUMENTS["variancescaling"]
    mode, distribution = config.get("mode", defaults["mode"]), str(config.get("distribution", defaults["distribution"])).lower()
    if mode not in ("fan_in", "fan_out", "fan_avg"):
        raise document.wrong((*at, "mode"), "not a mode of Keras")
    distribution = "truncated_normal" if distribution == "normal" else distribution  # what Keras means by it
    if distribution not in ("uniform", "truncated_normal", "untruncated_normal"):
        raise document.wrong((*at, "distribution"), "not a distribution of Keras")
    return mode, distribution


def _scaling(document: Document, at: At, scale: float, mode: str, distribution: str, kernel: Kernel) -> Any:
    if not scale > 0:
        raise document.wrong((*at, "scale"), "not above 0")
    if kernel.vector:
        std = f"sqrt({scale!r}/numel)"
        if distribution == "uniform":
            return {"name": "uniform", "low": Formula(f"-sqrt(3)*{std}"), "high": Formula(f"sqrt(3)*{std}")}
        return {"name": "normal" if distribution == "untruncated_normal" else "truncated_normal", "std": Formula(std)}
    factor = kernel.factor.get(mode)
    said: dict[str, Any] = {"scale": scale if factor is None else Formula(f"{scale!r}*{factor}"), "mode": mode}
    axes = {"in_axes": kernel.axes[0], "out_axes": kernel.axes[1]} if kernel.axes else {}
    return {"name": "variance_scaling", **said, "distribution": distribution, **axes}

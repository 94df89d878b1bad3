"""The built-in activations and their derivatives, as NumPy functions; closed forms where they are simple."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from initconf.quadrature import ROOT_2_PI, Array, Function, Moments

_SELU, _ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
_erf: Function = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(z: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * z))  # cannot overflow


def _leaky(z: Array, slope: float = 0.0) -> Array:
    return np.where(z > 0, z, slope * z)


def _step(z: Array, slope: float = 0.0) -> Array:
    return np.where(z > 0, 1.0, slope)


def _exponential(z: Array, alpha: float, width: float = 1.0) -> Array:
    return np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0.0) / width))


def _exponential_slope(z: Array, alpha: float, width: float = 1.0) -> Array:
    return np.where(z > 0, 1.0, alpha / width * np.exp(np.minimum(z, 0.0) / width))


def _phi(z: Array, approximate: str = "none") -> tuple[Array, Array]:
    """The normal distribution function by which GELU multiplies, or its tanh approximation; and its derivative."""
    if approximate == "none":
        return 0.5 * (1.0 + _erf(z / math.sqrt(2.0))), np.exp(-0.5 * z * z) / ROOT_2_PI
    t = np.tanh(2.0 / ROOT_2_PI * (z + 0.044715 * z**3))
    return 0.5 * (1.0 + t), (1.0 - t * t) / ROOT_2_PI * (1.0 + 3.0 * 0.044715 * z * z)


def _gelu(z: Array, approximate: str) -> Array:
    return z * _phi(z, approximate)[0]


def _gelu_slope(z: Array, approximate: str) -> Array:
    value, slope = _phi(z, approximate)
    return value + z * slope


def _swish(z: Array, beta: float = 1.0) -> Array:
    return z * _sigmoid(beta * z)


def _swish_slope(z: Array, beta: float = 1.0) -> Array:
    return _sigmoid(beta * z) * (1.0 + beta * z * _sigmoid(-beta * z))


def _mish(z: Array) -> Array:
    return z * np.tanh(np.logaddexp(0.0, z))


def _mish_slope(z: Array) -> Array:
    t = np.tanh(np.logaddexp(0.0, z))
    return t + z * (1.0 - t * t) * _sigmoid(z)


CURVES: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, float | int | bool | str | None]]] = {
    "linear": (lambda z: z, np.ones_like, {}),
    "relu": (_leaky, _step, {}),
    "leaky_relu": (_leaky, _step, {"negative_slope": 0.01}),
    "prelu": (_leaky, _step, {"init": 0.25}),
    "relu6": (lambda z: np.clip(z, 0.0, 6.0), lambda z: _step(z) - _step(z - 6.0), {}),
    "elu": (_exponential, _exponential_slope, {"alpha": 1.0}),
    "celu": (lambda z, a: _exponential(z, a, a), lambda z, a: _exponential_slope(z, a, a), {"alpha": 1.0}),
    # Klambauer et al. 2017: the constants are those for which E[f] = 0 and E[f^2] = 1.
    "selu": (lambda z: _SELU * _exponential(z, _ALPHA), lambda z: _SELU * _exponential_slope(z, _ALPHA), {}),
    "gelu": (_gelu, _gelu_slope, {"approximate": "none"}),
    "quick_gelu": (lambda z: _swish(z, 1.702), lambda z: _swish_slope(z, 1.702), {}),
    "silu": (_swish, _swish_slope, {}),
    "mish": (_mish, _mish_slope, {}),
    "tanh": (np.tanh, lambda z: 1.0 - np.tanh(z) ** 2, {}),
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * _sigmoid(-z), {}),
    "softplus": (lambda z: np.logaddexp(0.0, z), _sigmoid, {}),
    "logsigmoid": (lambda z: -np.logaddexp(0.0, -z), lambda z: _sigmoid(-z), {}),
    "softsign": (lambda z: z / (1.0 + np.abs(z)), lambda z: (1.0 + np.abs(z)) ** -2.0, {}),
    "hardtanh": (np.clip, lambda z, low, high: _step(z - low) - _step(z - high), {"min_val": -1.0, "max_val": 1.0}),
    "hardsigmoid": (lambda z: np.clip(z / 6.0 + 0.5, 0.0, 1.0), lambda z: _step(3.0 - np.abs(z)) / 6.0, {}),
    "hardswish": (
        lambda z: z * np.clip(z / 6.0 + 0.5, 0.0, 1.0),
        lambda z: np.where(np.abs(z) < 3.0, z / 3.0 + 0.5, _step(z)),
        {},
    ),
    "tanhshrink": (lambda z: z - np.tanh(z), lambda z: np.tanh(z) ** 2, {}),
    "softshrink": (lambda z, lambd: z - np.clip(z, -lambd, lambd), lambda z, a: _step(np.abs(z) - a), {"lambd": 0.5}),
    "hardshrink": (lambda z, a: np.where(np.abs(z) > a, z, 0.0), lambda z, a: _step(np.abs(z) - a), {"lambd": 0.5}),
    "erf": (_erf, lambda z: 2.0 / math.sqrt(math.pi) * np.exp(-z * z), {}),
    "sin": (lambda z, omega: np.sin(omega * z), lambda z, omega: omega * np.cos(omega * z), {"omega": 1.0}),
    "cos": (np.cos, lambda z: -np.sin(z), {}),
    "squared_relu": (lambda z: _leaky(z) ** 2, lambda z: 2.0 * _leaky(z), {}),
    "gaussian": (lambda z: np.exp(-z * z), lambda z: -2.0 * z * np.exp(-z * z), {}),
}
"""Name: the function, its derivative, and the arguments (in this order) that both take after z."""


def _rectified(slope: float = 0.0) -> Moments:
    """Closed form for max(z, 0) + slope * min(z, 0): He et al. 2015, section 2.2."""
    mean, m2 = (1.0 - slope) / ROOT_2_PI, 0.5 * (1.0 + slope * slope)
    return Moments(mean=mean, m2=m2, var=m2 - mean * mean, bwd_m2=m2, growth=m2)


def _sine(omega: float) -> Moments:
    """Closed form for sin(omega z), which no quadrature follows to any omega."""
    w2 = omega * omega
    m2, bwd_m2 = -0.5 * math.expm1(-2.0 * w2), 0.5 * w2 * (1.0 + math.exp(-2.0 * w2))
    return Moments(mean=0.0, m2=m2, var=m2, bwd_m2=bwd_m2, growth=w2 * math.exp(-2.0 * w2))


CLOSED: dict[str, Callable[..., Moments]] = {
    "linear": lambda: Moments(mean=0.0, m2=1.0, var=1.0, bwd_m2=1.0, growth=1.0),
    "relu": _rectified,
    "leaky_relu": _rectified,
    "prelu": _rectified,
    "sin": _sine,
}
"""The moments of those that have a closed form, as functions of the arguments."""

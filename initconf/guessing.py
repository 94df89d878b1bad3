"""What is assumed of a parameter that no layout knows: by its name, its owner's class and the number of its axes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from initconf.sites import Layout, own_class

if TYPE_CHECKING:
    from torch import Tensor, nn

    from initconf.spec import Role

_BY_NAME: list[tuple[re.Pattern[str], Role, bool]] = [
    (re.compile(r"(pos_)?bias_[uv]|r_[rsw]_bias"), "bias", True),  # what Transformer-XL adds to its queries, for each head
    (
        re.compile(
            r"A_log|dt_bias|(\w+_)?logit_(scale|bias)(_\w)?|(log_)?temperature|t_prime|b_prime|inv_freq|(\w+_)?decay|"
            r"time_(?!pos|emb)\w+"
        ),
        "state",
        True,
    ),
    (re.compile(r"D"), "state", False),
    (
        re.compile(
            r"(?!.*(alpha|scale|const))(\w*pos(ition)?(al)?_?(emb|embed|embedding|enc|encoding|bias)\w*|"
            r"\w*relative_(position|attention_bias)\w*|\w*rel_pos\w*|attention_biases|rpb|(\w+_)?(temporal|time)_embed\w*)"
        ),
        "position",
        True,
    ),
    (re.compile(r"(\w*_)?(bias|beta)(_\w*)?|b\d?|sinks"), "bias", False),
    (re.compile(r"gamma_\w+|(\w+_)?layer_?scale\w*"), "gate_scale", True),
    (
        re.compile(
            r"(\w+_)?(gamma|alpha|gate|scale|scaling)(_\w+)?|lambdas?_?\d?|ls_?\d|resweight|skip_gain|(\w+_)?residual|layer_weights"
        ),
        "gate_scale",
        False,
    ),
    (
        re.compile(
            r"(\w+_)?tokens?(_\w+)?|(\w+_)?emb(ed|eds|edding|eddings)?|(\w+_)?latents?(_(\d\w|query))?|null_embed\w*|"
            r"(codevector|codebook|prototype)s?|queries|probe|image_newline|view_separator"
        ),
        "embedding",
        True,
    ),
]
"""What an attribute's name says; and whether of a tensor of any shape, or only of a vector or a number."""


def by_name(name: str, shape: tuple[int, ...]) -> Layout | None:
    """What the name of a bare parameter says of it: gates, scalars, position tables, learned tokens and biases."""
    ndim, vector = len(shape), sum(n != 1 for n in shape) <= 1  # a vector may lie along any axis: (1, C, 1, 1)
    for pattern, role, of_any_shape in _BY_NAME:
        if (vector or of_any_shape) and pattern.fullmatch(name):
            return vectors(ndim) if role == "embedding" else Layout(role=role)
    return None


def vectors(ndim: int) -> Layout:
    """Learned vectors along the last axis."""
    return Layout(role="embedding", out_axes=(max(ndim, 1) - 1,), in_axes=(), batch_axes=tuple(range(ndim - 1)))


def assume(module: nn.Module, name: str, parameter: Tensor) -> Layout:
    """The guess for a module that nobody declared: by the class's and the attribute's name, and the number of axes."""
    kind, guess = own_class(module).__name__, ("role",)
    if "norm" in kind.lower() and parameter.ndim <= 1:
        return Layout(role="norm_shift" if name in ("bias", "beta", "shift") else "norm_scale", assumed=guess)
    if (found := by_name(name, tuple(parameter.shape))) is not None:
        # Not `module.weight`: of a parametrised one that would be computed, and spectral_norm learns from every call.
        chains: Any = module._modules.get("parametrizations") or ()
        carries = found.role == "bias" and ("weight" in chains or module._parameters.get("weight") is not None)
        return replace(found, fans_of="weight" if carries else None, assumed=guess)
    if "embedding" in kind.lower() and parameter.ndim == 2 and name == "weight":
        return replace(vectors(2), assumed=guess)
    if parameter.ndim >= 2:
        return Layout(assumed=("role", "layout"))
    return Layout(role="other", assumed=guess)

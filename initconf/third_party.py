"""The layouts of well-known packages, recognised by dotted class names: none of them is imported."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from initconf.layouts import BIAS, by_name, family, layout
from initconf.sites import Layout, own_class

if TYPE_CHECKING:
    from torch import Tensor

ONE_PLUS = re.compile(
    r"(Gemma\d?n?|RecurrentGemma|T5Gemma\d?|VaultGemma|ShieldGemma\d?|Qwen3Next|Qwen3_5(Moe)?|Nemotron|OlmoHybrid|Lfm2Next)\w*Norm\w*"
)
"""Norms that multiply by 1 + weight, which so starts at 0."""


def norm(kind: str, name: str, ndim: int) -> Layout | None:
    """The parameters of a normalisation, by the class's name."""
    if "norm" not in kind.lower() or ndim > 1:
        return None
    if name == "bias":
        return Layout(role="norm_shift")
    return Layout(role="norm_shift" if ONE_PLUS.fullmatch(kind) else "norm_scale") if name in ("weight", "scale") else None


@layout("transformers.pytorch_utils.Conv1D")
def _conv1d(module: Any, name: str, parameter: Tensor) -> Layout | None:
    # A linear map that stores (in, out); GPT-2's c_attn holds q, k and v side by side.
    fused = ("q", "k", "v") if parameter.shape[-1] == 3 * parameter.shape[0] and name == "weight" else ()
    weight = Layout(out_axes=(1,), in_axes=(0,), block_axis=1, block_names=fused)
    return {"weight": weight, "bias": BIAS}.get(name)


@family(r"transformers\.models\.xlnet\..*\.XLNetRelativeAttention")
def _xlnet(module: Any, name: str, parameter: Tensor) -> Layout | None:
    if name in ("q", "k", "v", "r"):  # (model, heads, head)
        return Layout(out_axes=(1, 2), in_axes=(0,))
    if name == "o":
        return Layout(out_axes=(0,), in_axes=(1, 2))
    return Layout(role="bias") if name.endswith("_bias") else None


@family(r"transformers\.models\.(gpt_oss|llama4)\..*Experts")
def _experts_in_out(module: Any, name: str, parameter: Tensor) -> Layout | None:
    # Stored (experts, in, out), and multiplied as they stand.
    if name in ("gate_up_proj", "down_proj"):
        return Layout(out_axes=(2,), in_axes=(1,), batch_axes=(0,))
    return Layout(role="bias") if name.endswith("_bias") else None


@family(r"transformers\.models\..*Experts")
def _experts(module: Any, name: str, parameter: Tensor) -> Layout | None:
    if parameter.ndim == 3 and name in ("gate_up_proj", "down_proj", "up_proj", "gate_proj", "w1", "w2", "w3"):
        fused = ("gate", "up") if name == "gate_up_proj" else ()
        return Layout(out_axes=(1,), in_axes=(2,), batch_axes=(0,), block_axis=1, block_names=fused)
    return Layout(role="bias") if name.endswith("_bias") else None


@family(r"transformers\.models\..*(Router|Gate|Gating)\w*")
def _router(module: Any, name: str, parameter: Tensor) -> Layout | None:
    if name == "weight" and parameter.ndim == 2:
        return Layout()
    return Layout(role="state") if name == "e_score_correction_bias" else None


@family(r"(transformers|timm|mamba_ssm|dinov2|diffusers|flash_attn|peft)\..*")
def _package(module: Any, name: str, parameter: Tensor) -> Layout | None:
    kind = own_class(module).__name__
    if name == "bias" and parameter.ndim == 1 and "norm" not in kind.lower():
        return BIAS
    return norm(kind, name, parameter.ndim) or by_name(name, parameter.ndim)


@layout("GemmaRMSNorm")
@layout("Gemma2RMSNorm")
@layout("Gemma3RMSNorm")
def _gemma(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return norm(own_class(module).__name__, name, parameter.ndim)


@layout("LayerScale")
def _layer_scale(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return Layout(role="gate_scale") if parameter.ndim <= 1 or name == "gamma" else None


@family(r".*\.(Mamba|Mamba2|MambaMixer|Mamba2Mixer|\w*MambaMixer|\w*SelectiveSSM)")
def _mamba(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return Layout(role="state") if name in ("A_log", "D", "dt_bias") else None

"""The layouts of well-known packages, recognised by dotted class names: none of them is imported."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from initconf.guessing import by_name, vectors
from initconf.layouts import BIAS, EMBEDDING, family, layout, part
from initconf.sites import Layout, own_class

if TYPE_CHECKING:
    from torch import Tensor

IN_OUT = Layout(out_axes=(1,), in_axes=(0,))
STACKED = Layout(out_axes=(1,), in_axes=(2,), batch_axes=(0,))  # (n, out, in)
STACKED_IN_OUT = Layout(out_axes=(2,), in_axes=(1,), batch_axes=(0,))  # (n, in, out)
TO_HEADS = Layout(out_axes=(1, 2), in_axes=(0,))  # (model, heads, head)
GATE, STATE, POSITION = Layout(role="gate_scale"), Layout(role="state"), Layout(role="position")


# --- normalisation ---------------------------------------------------------------------------------------------------------

ONE_PLUS = """
    GemmaRMSNorm Gemma2RMSNorm Gemma3RMSNorm RecurrentGemmaRMSNorm T5GemmaRMSNorm T5Gemma2RMSNorm VaultGemmaRMSNorm
    Qwen3NextRMSNorm Qwen3_5RMSNorm Qwen3_5MoeRMSNorm Qwen4ExpTextRMSNorm MiniMaxM3VLRMSNorm Step3p7RMSNorm
    MuseGlimmerTextCenteredRMSNorm MuseSparkTextCenteredRMSNorm MuseSparkTextInputScaledRMSNorm NemotronLayerNorm1P
    VideoPrismLayerNorm
""".split()
"""Norms that multiply by 1 + weight, which so starts at 0. (Gemma3n, Gemma4, NemotronH and the gated norms do not.)"""


def norm(module: Any, name: str, parameter: Tensor) -> Layout | None:
    """The parameters of a normalisation, by the class's name."""
    if "norm" not in own_class(module).__name__.lower() or sum(n != 1 for n in parameter.shape) > 1:
        return None
    if name in ("bias", "beta"):
        return Layout(role="norm_shift")
    if name in ("weight", "scale", "gamma"):
        return Layout(role="norm_shift" if getattr(module, "unit_offset", False) else "norm_scale")
    return None


def _one_plus(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return Layout(role="norm_shift") if name in ("weight", "scale", "bias") else None


for _name in ONE_PLUS:  # by the bare name: models are often copied, class by class, into other packages
    layout(_name)(_one_plus)


# --- transformers ----------------------------------------------------------------------------------------------------------


@layout("transformers.pytorch_utils.Conv1D")
def _conv1d(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return {"weight": IN_OUT, "bias": BIAS}.get(name)  # a linear map that stores (in, out)


@layout("DeepseekV4GroupedLinear")
def _grouped_linear(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return Layout(groups=module.n_groups) if name == "weight" else None


@layout("transformers.models.ibert.quant_modules.QuantEmbedding")
def _quantised_embedding(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return replace(EMBEDDING, zero_row=module.padding_idx) if name == "weight" else None


def _sinusoidal(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return STATE if name == "weight" else None  # a table of sines, which is not learned


for _name in "Marian Pegasus RoFormer Autoformer Informer TimeSeries".split():
    layout(f"{_name}SinusoidalPositionalEmbedding")(_sinusoidal)
layout("transformers.models.fsmt.modeling_fsmt.SinusoidalPositionalEmbedding")(_sinusoidal)


@family(r"transformers\.models\..*(Experts|ExpertGLU)")
def _experts(module: Any, name: str, parameter: Tensor) -> Layout | None:
    """Weights of all experts in one tensor: (experts, out, in), or (experts, in, out) in the classes that are named here."""
    kind = own_class(module).__name__
    if kind == "DbrxExpertGLU":  # (experts * hidden, model): w1 and v1 read the second axis, w2 writes it
        names = tuple(str(i) for i in range(module.moe_num_experts))
        return replace(IN_OUT if name == "w2" else Layout(), block_names=names) if name in ("w1", "v1", "w2") else None
    weight = name.removesuffix("_bias")
    if weight not in ("gate_up_proj", "gate_proj", "up_proj", "down_proj"):
        return None
    turned = getattr(module, "is_transposed", kind in ("GptOssExperts", "Llama4TextExperts"))
    # GPT-OSS alternates the columns of gate and up, and so has no blocks.
    fused = weight == "gate_up_proj" and getattr(module, "is_concatenated", kind != "GptOssExperts")
    names = ("gate", "up") if fused else ()
    if weight != name:
        return Layout(role="bias", fans_of=weight, block_axis=1, block_names=names)
    return replace(STACKED_IN_OUT if turned else STACKED, block_axis=2 if turned else 1, block_names=names)


_ROWS: list[tuple[Layout | None, str]] = [
    (
        Layout(),
        """*Router.weight *Gate.weight *Gating.weight QuantLinear.weight *HyperConnection.fn *HyperHead.hc_fn
        EsmFold2Parcae.input_matrix_continuous Glm5NextTextIndexer.index_kpool_compress_gate""",
    ),
    (
        IN_OUT,
        """AMSoftmaxLoss.weight *RelativeLogits.proj Gemma3MultiModalProjector.mm_input_projection_weight
        T5Gemma2MultiModalProjector.mm_input_projection_weight XCLIPModel.prompts_visual_projection
        OmDetTurboLanguageBackbone.text_projection SwiftFormerEfficientAdditiveAttention.w_g""",
    ),
    (STACKED, "*ParallelExperts.weight *FlexibleLinear.weight ZambaMambaMixer.x_proj_weight ZambaMambaMixer.dt_proj_weight"),
    (
        STACKED_IN_OUT,
        """GroupedLinearLayer.weight CsmCodebooksHead.weight RecurrentGemmaRglru.input_gate_weight
        RecurrentGemmaRglru.recurrent_gate_weight EsmFold2ConfidenceHead.plddt_weight EsmFold2ConfidenceHead.resolved_weight""",
    ),
    (
        TO_HEADS,
        """XLNetRelativeAttention.q XLNetRelativeAttention.k XLNetRelativeAttention.v XLNetRelativeAttention.r
        FunnelRelMultiheadAttention.r_kernel""",
    ),
    (Layout(in_axes=(1, 2)), "XLNetRelativeAttention.o"),
    (Layout(out_axes=(), in_axes=(), batch_axes=(1,)), "Inkling2DynamicShortConvolution.static_weight"),  # (kernel, channels)
    (
        None,
        """AriaProjector.query *Downsampler.query *EncoderProjector.query Inkling2BlockAttentionResidual.query
        *ImageToTextProjection.latent_query *PoolingHead.pooling_attention_query *RelationExtractor.dummy_node
        *Model.no_memory_embedding *VideoModel.no_object_pointer *VideoModel.occlusion_spatial_embedding_parameter
        *PerceiverResampler.latents_1d *PerceiverResampler.latents_2d *Model.bos_latent *Classification.silence_embeds
        *PatchMerger.image_begin *PatchMerger.image_end *PatchMerger.image_sep TvpModel.text_prompt
        *ImageEmbedding.global_img_feature_extensor *ImageEmbedding.sub_img_feature_extensor
        UniSpeechSatForPreTraining.label_embeddings_concat""",
    ),
    (
        POSITION,
        """*PositionEmbedding.embedding VitsAttention.emb_rel_k VitsAttention.emb_rel_v *Indexer.index_kpool_compress_ape
        *Prompter.pad_up *Prompter.pad_down *Prompter.pad_left *Prompter.pad_right *Downsampler.image_positions""",
    ),
    (  # numbers with a start of their own, which `_init_weights` knows
        STATE,
        """DogeAttention.A *HyperConnection.base *HyperHead.hc_base *Decoder.up *Integral.up HrmTextModel.z_L_init
        RecurrentGemmaRglru.recurrent_param EsmFold2Parcae.log_delta *AsinhCompression.log_k *PointAttention.head_weights
        DiffLlamaAttention.lambda_q1 DiffLlamaAttention.lambda_k1 DiffLlamaAttention.lambda_q2 DiffLlamaAttention.lambda_k2
        SamPositionalEmbedding.positional_embedding SamHQPositionalEmbedding.positional_embedding ZambaMambaMixer.dt_proj_bias
        *SoftmaxScaling.scale *SoftmaxScaling.bias *ContrastiveEmbedding.bias""",
    ),
    (
        GATE,
        """ZayaQKNorm.temp *FusionLayer.text_param *FusionLayer.vision_param *S2RFusion.closure_weight *ScaledL2Clip.scale
        WavLMAttention.gru_rel_pos_const EsmForProteinFolding.esm_s_combine Snake1d.alpha *SnakeBeta.beta""",
    ),
    (Layout(role="norm_shift"), "ConvNextV2GRN.weight"),  # what it scales is added to its input: it starts at 0
    (Layout(role="bias"), "VitsElementwiseAffine.translate"),
]
"""`Class.attribute`, or `*end of the class's name.attribute`; None stands for learned vectors along the last axis."""
_BY_ATTRIBUTE: dict[str, list[tuple[str, Layout | None]]] = {}
for _found, _names in _ROWS:
    for _name in _names.split():
        _class, _, _attribute = _name.partition(".")
        _BY_ATTRIBUTE.setdefault(_attribute, []).append((_class, _found))
_BIASES = re.compile(r"(\w+_)?bias")


@family(r"transformers\.models\..*")
def _transformers(module: Any, name: str, parameter: Tensor) -> Layout | None:
    kind = own_class(module).__name__
    for wanted, found in _BY_ATTRIBUTE.get(name, ()):
        if kind.endswith(wanted[1:]) if wanted.startswith("*") else kind == wanted:
            return found if found is not None else vectors(parameter.ndim)
    if name == "e_score_correction_bias":
        return STATE  # it balances the experts, and is not learned by gradients
    said = by_name(name, tuple(parameter.shape))
    if _BIASES.fullmatch(name) and "norm" not in kind.lower() and (said is None or said.role == "bias"):
        stem = name.removesuffix("_bias")
        carriers = (other for other in (stem, f"{stem}_weight", "weight") if other in module._parameters and other != name)
        return Layout(role="bias", fans_of=next(carriers, None))
    if said is not None and said.role == "position" and not parameter.requires_grad:
        return STATE  # a table of sines
    return None


# --- fused projections -----------------------------------------------------------------------------------------------------

QKV, KV, GLU = ("q", "k", "v"), ("k", "v"), ("gate", "up")
"""Blocks in the order in which they are stored. The gate is the half that goes through the activation."""


def _sizes(parent: Any, kind: str, held: str) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """The blocks of a fused projection, and their sizes where they are not equal; None where the rows are not in blocks.

    Interleaved head by head, and so no blocks: GPTNeoX, BLOOM, Persimmon, MiniMax, DeBERTa and Qwen3Next; CodeGen interleaves
    in four parts; Falcon and GPTBigCode do so without multi_query.
    """
    if held == "qkv":
        return QKV, (parent.q_dim, parent.kv_dim, parent.kv_dim) if hasattr(parent, "kv_dim") else ()
    if f"{kind}.{held}" in EQUAL:
        return QKV, ()
    if held == "c_attn" and kind in ("GPT2Attention", "ImageGPTAttention", "DecisionTransformerGPT2Attention"):
        return (KV if parent.is_cross_attention else QKV), ()
    if held == "c_attn" and kind == "GPTBigCodeAttention" and parent.multi_query and not parent.is_cross_attention:
        return QKV, (parent.embed_dim, parent.kv_dim, parent.kv_dim)
    if held == "qkv_proj" and kind in ("Phi3Attention", "Phi4MultimodalAttention"):
        kv = parent.num_key_value_heads * parent.head_dim
        return QKV, (parent.config.num_attention_heads * parent.head_dim, kv, kv)
    if held == "Wqkv" and kind == "DbrxAttention":
        kv = parent.num_key_value_heads * parent.head_dim
        return QKV, (parent.hidden_size, kv, kv)
    if held == "query_key_value" and kind == "FalconAttention" and parent.multi_query and not parent.new_decoder_architecture:
        return QKV, (parent.num_heads * parent.head_dim, parent.head_dim, parent.head_dim)
    if held == "in_proj_qkv" and kind.endswith("GatedDeltaNet"):
        return QKV, (parent.key_dim, parent.key_dim, parent.value_dim)
    if held == "to_kv":
        return KV, ()
    if held in ("gate_up_proj", "input_linear", "Wi") and kind.endswith(("MLP", "SwiGLU")):
        return (("up", "gate") if kind == "Phi4MultimodalAudioMLP" else GLU), ()
    if held == "fc1" and kind in ("MoonshineDecoderMLP", "MoonshineStreamingDecoderMLP"):
        return ("up", "gate"), ()
    return None


EQUAL = """
    ModernBertAttention.Wqkv MptAttention.Wqkv BarkSelfAttention.att_proj Attention.c_attn LayoutLMv2SelfAttention.qkv_linear
""".split()


@part(r"transformers\.models\..*")
def _held(parent: Any, held: str, name: str, parameter: Tensor, own: Layout) -> Layout | None:
    if held == "embed_positions" and own.role == "embedding" and not parameter.requires_grad:
        return STATE  # Whisper's table of sines
    if held == "weights" and own_class(parent).__name__ == "AxialPositionEmbeddings":  # Reformer's list of tables
        return POSITION
    if name not in ("weight", "bias") or own.role not in ("weight", "bias"):
        return None
    fused = _sizes(parent, own_class(parent).__name__, held)
    if fused is None:
        return None
    axis = own.out_axes[0] if own.role == "weight" else 0
    return replace(own, block_axis=axis, block_names=fused[0], block_sizes=fused[1])


# --- these and others ------------------------------------------------------------------------------------------------------


@family(r"(transformers|timm|mamba_ssm|dinov2|diffusers|flash_attn|peft)\..*")
def _package(module: Any, name: str, parameter: Tensor) -> Layout | None:
    if (found := norm(module, name, parameter)) is not None:
        return found
    return BIAS if name == "bias" and parameter.ndim == 1 else None


@family(r"transformers\..*")
def _checked(module: Any, name: str, parameter: Tensor) -> Layout | None:
    """Of these alone all names were held against what they are for (tests/parity); elsewhere they are a guess."""
    return by_name(name, tuple(parameter.shape))


@layout("LayerScale")
def _layer_scale(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return GATE if parameter.ndim <= 1 or name == "gamma" else None


@family(r".*\.(Mamba|Mamba2|MambaMixer|Mamba2Mixer|\w*MambaMixer|\w*SelectiveSSM)")
def _mamba(module: Any, name: str, parameter: Tensor) -> Layout | None:
    return STATE if name in ("A_log", "D", "dt_bias") else None

"""Models of transformers in small sizes, by their configurations alone: nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import transformers
from torch import nn
from transformers import PretrainedConfig

SIZES: dict[str, int] = {
    **dict.fromkeys("hidden_size d_model n_embd dim embed_dim embedding_size emb_dim".split(), 32),
    **dict.fromkeys(
        "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers".split(), 2
    ),
    **dict.fromkeys("num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads".split(), 4),
    **dict.fromkeys("intermediate_size d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim hidden_dim d_inner n_inner".split(), 48),
    **dict.fromkeys("head_dim d_kv d_head state_size qk_rope_head_dim qk_nope_head_dim v_head_dim mamba_d_state".split(), 8),
    **dict.fromkeys("moe_intermediate_size shared_expert_intermediate_size".split(), 24),
    **dict.fromkeys("num_experts num_local_experts n_routed_experts time_step_rank mamba_dt_rank rotary_dim".split(), 4),
    **dict.fromkeys("kv_lora_rank q_lora_rank projection_dim".split(), 16),
    **dict.fromkeys("num_key_value_heads num_experts_per_tok eos_token_id".split(), 2),
    **dict.fromkeys("n_group topk_group first_k_dense_replace bos_token_id decoder_start_token_id".split(), 1),
    "vocab_size": 99,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "image_size": 32,
    "patch_size": 8,
    "pad_token_id": 0,
}
"""What sizes are called in the configurations of transformers."""


def small(kind: type[PretrainedConfig], said: dict[str, Any]) -> PretrainedConfig:
    """A configuration with the sizes above, where it has them as whole numbers, and with what is said of it."""
    default = kind()
    # Some configurations refuse to be asked for what differs between layers, or for what they do not use.
    known = {**{name: getattr(kind, name, None) for name in SIZES}, **vars(default)}
    given = {name: size for name, size in SIZES.items() if type(known[name]) is int}
    for name in getattr(kind, "sub_configs", {}):
        if isinstance(inner := known.get(name), PretrainedConfig):
            given[name] = small(type(inner), {}).to_dict()
    return kind(**{**given, **said})


@dataclass(frozen=True)
class Architecture:
    """A model class of transformers, and what its configuration needs beside the sizes."""

    name: str
    said: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def build(self) -> nn.Module:
        kind = getattr(transformers, self.name)
        return kind(small(kind.config_class, self.said))  # type: ignore[no-any-return]


SWIN = {"embed_dim": 24, "num_heads": [2, 4], "depths": [1, 1], "window_size": 4}
STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1]}
AUDIO = {
    "conv_dim": (16, 16),
    "conv_kernel": (4, 3),
    "conv_stride": (2, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
DECODED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
ALTERNATING = ["sliding_attention", "full_attention"]

ENCODERS = [
    *map(Architecture, "BertForPreTraining RobertaForMaskedLM AlbertForPreTraining ElectraForPreTraining".split()),
    *map(Architecture, "DebertaForMaskedLM DebertaV2ForMaskedLM DistilBertForMaskedLM ModernBertForMaskedLM".split()),
    *map(Architecture, "LongformerForMaskedLM BigBirdForPreTraining ConvBertForMaskedLM FNetForPreTraining".split()),
    Architecture("FunnelForPreTraining", {"block_sizes": [1, 1]}),
    Architecture("XLNetLMHeadModel", {"n_layer": 2, "d_model": 32, "n_head": 4, "d_inner": 48}),
    Architecture("EsmForMaskedLM", {"vocab_size": 33}),
]
DECODERS = [
    *map(Architecture, "GPT2LMHeadModel GPTJForCausalLM GPTNeoXForCausalLM GPTBigCodeForCausalLM CodeGenForCausalLM".split()),
    *map(Architecture, "LlamaForCausalLM MistralForCausalLM Qwen2ForCausalLM Qwen3ForCausalLM Olmo2ForCausalLM".split()),
    *map(Architecture, "GemmaForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM GraniteForCausalLM CohereForCausalLM".split()),
    *map(Architecture, "PhiForCausalLM Phi3ForCausalLM OPTForCausalLM BloomForCausalLM MptForCausalLM".split()),
    *map(Architecture, "PersimmonForCausalLM StableLmForCausalLM Glm4ForCausalLM DiffLlamaForCausalLM".split()),
    Architecture("FalconForCausalLM"),
    Architecture("GPTNeoForCausalLM", {"attention_types": [[["global", "local"], 1]]}),
    Architecture("NemotronForCausalLM", {"head_dim": 8, "num_key_value_heads": 2}),
    Architecture("Gemma3nForCausalLM", {
        "num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": 2 * ALTERNATING,
        "activation_sparsity_pattern": [0.0] * 4, "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 99, "laurel_rank": 4,
    }),
    Architecture("Gemma4ForCausalLM", {
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 99, "num_kv_shared_layers": 0,
    }),
]  # fmt: skip
EXPERTS = [
    *map(Architecture, "MixtralForCausalLM Qwen2MoeForCausalLM Qwen3MoeForCausalLM DeepseekV3ForCausalLM".split()),
    *map(Architecture, "GptOssForCausalLM Llama4ForCausalLM OlmoeForCausalLM GraniteMoeForCausalLM".split()),
    *map(Architecture, "PhimoeForCausalLM JetMoeForCausalLM".split()),
    *map(Architecture, "SwitchTransformersForConditionalGeneration NllbMoeForConditionalGeneration".split()),
    Architecture("DbrxForCausalLM", {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    }),
]  # fmt: skip
STATE_SPACES = [
    *map(Architecture, "MambaForCausalLM FalconMambaForCausalLM RwkvForCausalLM JambaForCausalLM".split()),
    *map(Architecture, "RecurrentGemmaForCausalLM Qwen3NextForCausalLM xLSTMForCausalLM".split()),
    Architecture("Mamba2ForCausalLM", {"num_heads": 8, "head_dim": 8, "n_groups": 2}),
    Architecture("ZambaForCausalLM", {"num_hidden_layers": 6, "layer_types": ["mamba", "mamba", "hybrid"] * 2}),
    Architecture("Zamba2ForCausalLM", {
        "num_hidden_layers": 4, "layer_types": ["mamba", "hybrid"] * 2,
        "mamba_headdim": 8, "n_mamba_heads": 8, "mamba_ngroups": 1,
    }),
    Architecture("BambaForCausalLM", {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1], "mamba_n_groups": 1}),
    Architecture("NemotronHForCausalLM", {"mamba_num_heads": 8, "mamba_head_dim": 8}),
]  # fmt: skip
PAIRS = [
    *map(Architecture, "T5ForConditionalGeneration MT5ForConditionalGeneration LongT5ForConditionalGeneration".split()),
    *map(Architecture, "BartForConditionalGeneration MBartForConditionalGeneration T5GemmaForConditionalGeneration".split()),
    *map(Architecture, "PegasusForConditionalGeneration MarianMTModel".split()),
    Architecture("ProphetNetForConditionalGeneration", {"num_encoder_layers": 2, "num_decoder_layers": 2}),
]
VISION = [
    *map(Architecture, "ViTForImageClassification DeiTForImageClassification BeitForImageClassification".split()),
    *map(Architecture, "Dinov2ForImageClassification DINOv3ViTModel SamModel TimesformerForVideoClassification".split()),
    Architecture("ViTMAEForPreTraining", {f"decoder_{name}": SIZES[name] for name in DECODED}),
    Architecture("SegformerForSemanticSegmentation", {"hidden_sizes": [8, 16, 24, 32], "decoder_hidden_size": 32}),
    Architecture("SwinForImageClassification", SWIN),
    Architecture("Swinv2ForImageClassification", SWIN),
    Architecture("ConvNextForImageClassification", {**STAGES, "num_stages": 2}),
    Architecture("ConvNextV2ForImageClassification", {**STAGES, "num_stages": 2}),
    Architecture("ResNetForImageClassification", {**STAGES, "embedding_size": 16, "layer_type": "basic"}),
    Architecture("RegNetForImageClassification", {**STAGES, "embedding_size": 16, "groups_width": 8}),
    Architecture("MobileNetV2ForImageClassification", {"depth_multiplier": 0.35}),
    Architecture("SwiftFormerForImageClassification", {"depths": [1, 1, 1, 1], "embed_dims": [16, 24, 32, 48]}),
]
AUDIO_MODELS = [
    Architecture("Wav2Vec2ForPreTraining", AUDIO),
    Architecture("Wav2Vec2ConformerForPreTraining", AUDIO),
    Architecture("HubertForCTC", AUDIO),
    Architecture("WavLMForCTC", AUDIO),
    Architecture("WhisperForConditionalGeneration"),
    Architecture("SpeechT5ForTextToSpeech", AUDIO),
    Architecture("ASTForAudioClassification"),
    Architecture("DacModel", {"encoder_hidden_size": 8, "decoder_hidden_size": 32, "downsampling_ratios": [2, 2]}),
    Architecture("EncodecModel", {"num_filters": 4, "hidden_size": 16, "codebook_size": 32, "codebook_dim": 16}),
]
SEVERAL = [
    *map(Architecture, "CLIPModel SiglipModel BlipForConditionalGeneration Blip2ForConditionalGeneration".split()),
    *map(
        Architecture, "LlavaForConditionalGeneration PaliGemmaForConditionalGeneration Gemma3ForConditionalGeneration".split()
    ),
    *map(Architecture, "Idefics3ForConditionalGeneration Qwen2VLForConditionalGeneration AriaForConditionalGeneration".split()),
    *map(Architecture, "MllamaForConditionalGeneration InternVLForConditionalGeneration FlavaForPreTraining".split()),
    Architecture("PatchTSTForPrediction"),
]
ALL = [*ENCODERS, *DECODERS, *EXPERTS, *STATE_SPACES, *PAIRS, *VISION, *AUDIO_MODELS, *SEVERAL]

"""Layouts of well-known packages, by the names of their classes: none of the packages is needed here."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import initconf
from initconf.sites import Site
from initconf.survey import survey
from initconf.third_party import ONE_PLUS


def made(dotted: str, parameters: dict[str, tuple[int, ...]], base: type[nn.Module] = nn.Module, **own: object) -> nn.Module:
    """A module with the class's name and with its parameters, which is all that a layout looks at."""
    package, _, name = dotted.rpartition(".")
    module = type(name, (base,), {"__module__": package})
    instance = module.__new__(module)
    nn.Module.__init__(instance)
    for key, shape in parameters.items():
        instance.register_parameter(key, nn.Parameter(torch.zeros(shape)))
    for key, value in own.items():
        setattr(instance, key, value)
    return instance


def sites(module: nn.Module) -> dict[str, Site]:
    return {site.name: site for site in survey(module)}


# --- experts and other stacked weights ---------------------------------------------------------------------------------------

FUSED, DOWN = {"gate_up_proj": (3, 16, 5), "down_proj": (3, 5, 8)}, {"is_transposed": False, "is_concatenated": True}
TURNED = {"gate_up_proj": (3, 5, 16), "down_proj": (3, 8, 5)}
GATES = ("gate", "up")

STACKED = {
    # class, parameters, attributes; per parameter the fans of each block
    "experts": (
        "mixtral.modeling_mixtral.MixtralExperts",
        FUSED,
        DOWN,
        {"gate_up_proj": (5, 8, GATES), "down_proj": (8, 5, ())},
    ),
    "experts without attributes": (
        "qwen3_moe.modeling_qwen3_moe.Qwen3MoeExperts",
        FUSED,
        {},
        {"gate_up_proj": (5, 8, GATES), "down_proj": (8, 5, ())},
    ),
    "turned experts": (
        "aria.modeling_aria.AriaExperts",
        TURNED,
        {"is_transposed": True, "is_concatenated": True},
        {"gate_up_proj": (5, 8, GATES), "down_proj": (8, 5, ())},
    ),
    "Llama 4": (
        "llama4.modeling_llama4.Llama4TextExperts",
        TURNED,
        {},
        {"gate_up_proj": (5, 8, GATES), "down_proj": (8, 5, ())},
    ),
    "GPT-OSS alternates gate and up": (
        "gpt_oss.modeling_gpt_oss.GptOssExperts",
        {**TURNED, "gate_up_proj_bias": (3, 16), "down_proj_bias": (3, 5)},
        {},
        {"gate_up_proj": (5, 16, ()), "gate_up_proj_bias": (5, 16, ()), "down_proj": (8, 5, ()), "down_proj_bias": (8, 5, ())},
    ),
    "biases of concatenated experts": (
        "openai_privacy_filter.modeling_openai_privacy_filter.OpenAIPrivacyFilterExperts",
        {**TURNED, "gate_up_proj_bias": (3, 16)},
        {"is_transposed": True, "is_concatenated": True},
        {"gate_up_proj_bias": (5, 8, GATES)},
    ),
    "DBRX": (
        "dbrx.modeling_dbrx.DbrxExpertGLU",
        {"w1": (24, 5), "v1": (24, 5), "w2": (24, 5)},
        {"moe_num_experts": 3},
        {"w1": (5, 8, ("0", "1", "2")), "v1": (5, 8, ("0", "1", "2")), "w2": (8, 5, ("0", "1", "2"))},
    ),
    "JetMoE": ("jetmoe.modeling_jetmoe.JetMoeParallelExperts", {"weight": (3, 8, 5)}, {}, {"weight": (5, 8, ())}),
    "heads": ("csm.modeling_csm.CsmCodebooksHead", {"weight": (3, 5, 8)}, {}, {"weight": (5, 8, ())}),
    "router": ("mixtral.modeling_mixtral.MixtralTopKRouter", {"weight": (3, 5)}, {}, {"weight": (5, 3, ())}),
    "XLNet": (
        "xlnet.modeling_xlnet.XLNetRelativeAttention",
        {"q": (6, 2, 4), "o": (6, 2, 4)},
        {},
        {"q": (6, 8, ()), "o": (8, 6, ())},
    ),
    "RG-LRU": (
        "recurrent_gemma.modeling_recurrent_gemma.RecurrentGemmaRglru",
        {"input_gate_weight": (2, 5, 8), "input_gate_bias": (2, 8)},
        {},
        {"input_gate_weight": (5, 8, ()), "input_gate_bias": (5, 8, ())},
    ),
}


@pytest.mark.parametrize("row", STACKED)
def test_stacked_weights(row: str) -> None:
    name, parameters, own, expected = STACKED[row]
    found = sites(made(f"transformers.models.{name}", parameters, **own))
    for key, (fan_in, fan_out, blocks) in expected.items():
        site = found[key]
        assert site.layout.assumed == ()
        assert site.role == ("bias" if "bias" in key else "weight")
        assert tuple(part.block for part in site.blocks) == blocks
        assert {(part.fan_in, part.fan_out) for part in site.blocks or (site,)} == {(fan_in, fan_out)}


def test_experts_in_one_matrix_are_orthogonal_each() -> None:
    module = made("transformers.models.dbrx.modeling_dbrx.DbrxExpertGLU", {"w2": (24, 5)}, moe_num_experts=3)
    initconf.initialize(module, {"initializer": "orthogonal", "seed": 0}).verify()
    for part in module.w2.detach().split(8):
        torch.testing.assert_close(part.T @ part, torch.eye(5))


def test_gpt2_s_linear_map_stores_in_out() -> None:
    module = made("transformers.pytorch_utils.Conv1D", {"weight": (4, 12), "bias": (12,)})
    found = sites(module)
    assert (found["weight"].fan_in, found["weight"].fan_out, found["weight"].blocks) == (4, 12, ())
    assert (found["bias"].role, found["bias"].fan_in) == ("bias", 4)


# --- fused projections -------------------------------------------------------------------------------------------------------

CONV1D = "transformers.pytorch_utils.Conv1D"
LINEAR = "torch.nn.modules.linear.Linear"
PARTS = {
    # parent, attributes; child, its class, its shape; names and sizes of the blocks
    "GPT-2": ("gpt2.GPT2Attention", {"is_cross_attention": False}, "c_attn", CONV1D, (4, 12), {"q": 4, "k": 4, "v": 4}),
    "GPT-2, cross": ("gpt2.GPT2Attention", {"is_cross_attention": True}, "c_attn", CONV1D, (4, 8), {"k": 4, "v": 4}),
    "GPT-2's MLP": ("gpt2.GPT2MLP", {}, "c_fc", CONV1D, (4, 12), {}),
    "MPT": ("mpt.MptAttention", {}, "Wqkv", LINEAR, (12, 4), {"q": 4, "k": 4, "v": 4}),
    "DBRX": (
        "dbrx.DbrxAttention",
        {"num_key_value_heads": 1, "head_dim": 2, "hidden_size": 8},
        "Wqkv",
        LINEAR,
        (12, 8),
        {"q": 8, "k": 2, "v": 2},
    ),
    "Falcon": (
        "falcon.FalconAttention",
        {"multi_query": True, "new_decoder_architecture": False, "num_heads": 4, "head_dim": 2},
        "query_key_value",
        LINEAR,
        (12, 8),
        {"q": 8, "k": 2, "v": 2},
    ),
    "Falcon, interleaved": (
        "falcon.FalconAttention",
        {"multi_query": True, "new_decoder_architecture": True},
        "query_key_value",
        LINEAR,
        (12, 8),
        {},
    ),
    "GPTBigCode": (
        "gpt_bigcode.GPTBigCodeAttention",
        {"multi_query": True, "is_cross_attention": False, "embed_dim": 8, "kv_dim": 2},
        "c_attn",
        LINEAR,
        (12, 8),
        {"q": 8, "k": 2, "v": 2},
    ),
    "GPT-NeoX, interleaved": ("gpt_neox.GPTNeoXAttention", {}, "query_key_value", LINEAR, (12, 4), {}),
    "vision": ("qwen2_vl.VisionAttention", {}, "qkv", LINEAR, (12, 4), {"q": 4, "k": 4, "v": 4}),
    "EXAONE": ("exaone4_5.Some", {"q_dim": 8, "kv_dim": 2}, "qkv", LINEAR, (12, 4), {"q": 8, "k": 2, "v": 2}),
    "gated MLP": ("phi3.Phi3MLP", {}, "gate_up_proj", LINEAR, (12, 4), {"gate": 6, "up": 6}),
    "up first": ("phi4_multimodal.Phi4MultimodalAudioMLP", {}, "gate_up_proj", LINEAR, (12, 4), {"up": 6, "gate": 6}),
    "linear attention": (
        "qwen3_5.Qwen3_5GatedDeltaNet",
        {"key_dim": 2, "value_dim": 8},
        "in_proj_qkv",
        LINEAR,
        (12, 4),
        {"q": 2, "k": 2, "v": 8},
    ),
}


@pytest.mark.parametrize("row", PARTS)
def test_fused_projections(row: str) -> None:
    parent, own, held, child, shape, expected = PARTS[row]
    width = shape[1] if child == CONV1D else shape[0]
    if child == CONV1D:
        part = made(child, {"weight": shape, "bias": (width,)})
    else:
        part = nn.Linear(shape[1], shape[0])
    package, _, name = parent.partition(".")
    model = made(f"transformers.models.{package}.modeling_{package}.{name}", {}, **own)
    model.add_module(held, part)
    for site in survey(model):
        assert {str(block.block): block.shape[block.layout.block_axis] for block in site.blocks} == expected
        assert [block.start for block in site.blocks] == [sum([*expected.values()][:i]) for i in range(len(expected))]
        for block in site.blocks:
            assert (block.fan_in, block.fan_out) == (4 if 4 in shape else 8, expected[str(block.block)])


# --- norms -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_PLUS)
@pytest.mark.parametrize("package", ["transformers.models.some", "their.own"])
def test_norms_that_multiply_by_one_plus_weight_start_at_zero(name: str, package: str) -> None:
    base = nn.LayerNorm if "LayerNorm" in name else nn.Module
    found = sites(made(f"{package}.{name}", {"weight": (4,), "bias": (4,)}, base))
    assert {key: (site.role, site.layout.assumed) for key, site in found.items()} == {
        "weight": ("norm_shift", ()),
        "bias": ("norm_shift", ()),
    }


@pytest.mark.parametrize("name", "Gemma3nRMSNorm Gemma4RMSNorm NemotronHRMSNorm Qwen3NextRMSNormGated LlamaRMSNorm".split())
def test_other_norms_start_at_one(name: str) -> None:
    assert sites(made(f"transformers.models.some.{name}", {"weight": (4,)}))["weight"].role == "norm_scale"


@pytest.mark.parametrize(("offset", "role"), [(1.0, "norm_shift"), (0.0, "norm_scale")])
def test_a_norm_whose_unit_offset_says_it(offset: float, role: str) -> None:
    dotted = "transformers.models.moonshine_streaming.modeling_moonshine_streaming.MoonshineStreamingLayerNorm"
    assert sites(made(dotted, {"gamma": (4,)}, unit_offset=offset))["gamma"].role == role


# --- what the name of a bare parameter says ---------------------------------------------------------------------------------

NAMED = [
    # attribute, shape, role
    ("cls_token", (1, 1, 4), "embedding"),
    ("segment_token_input", (1, 1, 1, 4), "embedding"),
    ("level_embed", (3, 4), "embedding"),
    ("codevectors", (1, 6, 4), "embedding"),
    ("position_embeddings", (1, 5, 4), "position"),
    ("time_embeddings", (1, 5, 4), "position"),
    ("relative_position_bias_table", (9, 4), "position"),
    ("attention_biases", (2, 9), "position"),
    ("rel_pos_h", (9, 4), "position"),
    ("pos_emb_alpha", (1,), "gate_scale"),
    ("alpha", (1, 4, 1), "gate_scale"),
    ("layer_scale_1", (4, 1, 1), "gate_scale"),
    ("layer_scale_parameters", (2, 4), "gate_scale"),
    ("per_dim_scale", (4,), "gate_scale"),
    ("gate_ffn", (1,), "gate_scale"),
    ("input_residual", (4,), "gate_scale"),
    ("latent_scaling_factor", (), "gate_scale"),
    ("logit_scale", (), "state"),
    ("text_audio_logit_bias", (1,), "state"),
    ("A_log", (4, 2), "state"),
    ("time_decay", (4,), "state"),
    ("pos_bias_u", (2, 4), "bias"),
    ("bias_v", (2, 4), "bias"),
    ("r_w_bias", (2, 4), "bias"),
    ("sinks", (4,), "bias"),
    ("gate_bias", (4,), "bias"),
]


@pytest.mark.parametrize(("name", "shape", "role"), NAMED, ids=[row[0] for row in NAMED])
def test_names(name: str, shape: tuple[int, ...], role: str) -> None:
    """In transformers, whose names were held against their use, they are no guess; elsewhere they are marked as one."""
    known = sites(made("transformers.models.some.modeling_some.Some", {name: shape}))[name]
    assert (known.role, known.layout.assumed) == (role, ())
    for package in ("their.own", "timm.models.vision_transformer"):
        unknown = sites(made(f"{package}.Some", {name: shape}))[name]
        assert (unknown.role, unknown.layout.assumed) == (role, ("role",))
    if role == "embedding":
        assert (known.fan_in, known.fan_out) == (1, 4)


def test_a_bias_of_any_shape_carries_the_fans_of_its_weight() -> None:
    module = made("transformers.models.some.modeling_some.Some", {"gate_weight": (6, 4), "gate_bias": (2, 3)})
    assert (sites(module)["gate_bias"].role, sites(module)["gate_bias"].fan_in) == ("bias", 4)


def test_tables_of_sines_are_state() -> None:
    table = made("transformers.models.vit_mae.modeling_vit_mae.ViTMAEEmbeddings", {"position_embeddings": (1, 5, 4)})
    assert sites(table)["position_embeddings"].role == "position"
    table.position_embeddings.requires_grad_(False)
    assert sites(table)["position_embeddings"].role == "state"
    dotted = "transformers.models.marian.modeling_marian.MarianSinusoidalPositionalEmbedding"
    assert sites(made(dotted, {"weight": (5, 4)}, nn.Embedding, padding_idx=None))["weight"].role == "state"

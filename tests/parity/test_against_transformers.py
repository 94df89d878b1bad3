"""Models of transformers: every parameter recognised, fans measured by forward passes, norms held to their source."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import initconf
from initconf.laws import Keep
from initconf.layouts import find
from initconf.sites import Site
from initconf.survey import survey
from initconf.third_party import ONE_PLUS

transformers = pytest.importorskip("transformers", minversion="5.23")
from architectures import ALL, Architecture  # noqa: E402
from transformers.models.auto import configuration_auto, modeling_auto  # noqa: E402

transformers.logging.set_verbosity_error()
SOURCES = Path(transformers.__file__).parent / "models"


@dataclass
class Surveyed:
    """What was recognised of an architecture."""

    name: str
    parameters: int
    assumed: tuple[str, ...]
    kept: tuple[str, ...] = ()
    """What keeps the values of its constructor: nothing but gates and state may."""


SURVEYED: list[Surveyed] = []
OTHERS: list[str] = []
"""Lines about the architectures that have no row of their own."""


def table() -> Iterator[str]:
    """A line for each architecture, and the sums."""
    width = max(len(row.name) for row in SURVEYED)
    for row in SURVEYED:
        notes = f"  assumed: {', '.join(row.assumed)}" if row.assumed else ""
        notes += f"  kept: {', '.join(row.kept)}" if row.kept else ""
        yield f"{row.name:<{width}}  {row.parameters - len(row.assumed):>5} recognised  {len(row.assumed):>3} assumed{notes}"
    total, assumed = sum(row.parameters for row in SURVEYED), sum(len(row.assumed) for row in SURVEYED)
    yield f"{len(SURVEYED)} architectures, {total} parameters, {assumed} assumed ({assumed / total:.2%})"
    yield from OTHERS


# --- architectures ---------------------------------------------------------------------------------------------------------

UNWRITTEN = 977.0
"""A value that no law gives; whatever is not written still has it."""
ORIGINAL = re.compile(r"\.parametrizations\.(\w+)\.original\d?$")


def names_by_tensor(model: nn.Module) -> set[frozenset[str]]:
    """Which names are names of one tensor; a parametrised weight counts by its own name."""
    found: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), set()).add(ORIGINAL.sub(r".\1", name))
    return {frozenset(names) for names in found.values()}


loaded = cache(initconf.load)


@pytest.mark.parametrize("scheme", ["he", "lecun"])
@pytest.mark.parametrize("architecture", ALL, ids=str)
def test_every_parameter_of_an_architecture_is_claimed_and_written(architecture: Architecture, scheme: str) -> None:
    model = architecture.build()
    tied = names_by_tensor(model)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(UNWRITTEN)
    plan = initconf.compile(model, loaded(scheme))
    assert {frozenset((entry.name, *entry.aliases)) for entry in plan} == tied
    if getattr(model.config, "tie_word_embeddings", False) and model.get_output_embeddings() is not None:
        assert any(entry.aliases for entry in plan if entry.role == "embedding")
    kept = tuple(entry.name for entry in plan if isinstance(entry.law, Keep))
    assert all(plan[name].role in ("gate_scale", "state") for name in kept)
    initconf.apply(model, plan).verify()
    assert names_by_tensor(model) == tied
    left = {ORIGINAL.sub(r".\1", name) for name, parameter in model.named_parameters() if bool((parameter == UNWRITTEN).any())}
    assert left == set(kept)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None and plan[f"{name}.weight"].role == "embedding":
            assert not module.weight[module.padding_idx].any()
    if scheme == "he":
        SURVEYED.append(Surveyed(architecture.name, len(plan.entries), tuple(e.name for e in plan if e.assumed), kept))


def test_less_than_a_hundredth_is_assumed() -> None:
    sites = [site for architecture in ALL for site in survey(architecture.build())]
    assumed = [f"{site.name} ({site.module})" for site in sites if site.layout.assumed]
    assert len(ALL) >= 100
    assert len(assumed) < 0.01 * len(sites), assumed


@pytest.mark.parametrize(
    "name", ["LlamaForCausalLM", "GPT2LMHeadModel", "MixtralForCausalLM", "BertForPreTraining", "T5ForConditionalGeneration"]
)
def test_the_same_bits_from_meta(name: str) -> None:
    (architecture,) = [row for row in ALL if row.name == name]
    eager = architecture.build()
    with torch.device("meta"):
        model = architecture.build()
    initconf.initialize(eager, "he")
    initconf.initialize(model, "he", device="cpu").verify()
    assert names_by_tensor(model) == names_by_tensor(eager)
    for (one, expected), (other, got) in zip(eager.named_parameters(), model.named_parameters(), strict=True):
        assert one == other
        assert torch.equal(expected, got)


KINDS = ("PRETRAINING", "CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM")
TABLES = [getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES") for kind in KINDS] + [modeling_auto.MODEL_MAPPING_NAMES]
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers")


def shallow(config: transformers.PretrainedConfig) -> None:
    """At most four layers, where a configuration says their number."""
    for name in DEPTHS:
        deep = vars(config).get(name)
        if isinstance(deep, int) and deep > 4:
            setattr(config, name, 4)
            for kinds, said in vars(config).items():
                if isinstance(said, list) and len(said) == deep:
                    setattr(config, kinds, said[:4])
    for inner in vars(config).values():
        if isinstance(inner, transformers.PretrainedConfig):
            shallow(inner)


def on_meta(model_type: str) -> nn.Module | None:
    """The first model of a type that its default configuration builds, without memory."""
    for names in filter(None, (table.get(model_type) for table in TABLES)):
        for deep in (False, True):
            try:
                config = configuration_auto.CONFIG_MAPPING[model_type]()
                if not deep:
                    shallow(config)
                with torch.device("meta"):
                    return getattr(transformers, names if isinstance(names, str) else names[0])(config)
            except Exception:  # noqa: BLE001 - a package that is not installed, or a configuration that is not complete
                continue
    return None


def test_every_architecture_that_its_default_configuration_builds() -> None:
    """On meta, where size does not matter. Gates and states are given a law, as there are no values to keep."""
    given = {"role": ["gate_scale", "state"], "initializer": "ones", "optional": True}
    spec = initconf.load({"defaults": ["he"], "rules": {"given": given}})
    types = [name for name in configuration_auto.CONFIG_MAPPING if any(name in table for table in TABLES)]
    built, entries, assumed = 0, 0, []
    for name in types:
        if (model := on_meta(name)) is not None:
            plan = initconf.compile(model, spec)
            built, entries = built + 1, entries + len(plan.entries)
            assumed += [f"{name}: {entry.name}" for entry in plan if entry.assumed]
    line = f"{built} of {len(types)} model types by their default configurations: {entries} parameters, {len(assumed)} assumed"
    OTHERS.append(f"{line}: {', '.join(assumed)}" if assumed else line)
    assert built > 500
    assert len(assumed) < 0.001 * entries


# --- fans ------------------------------------------------------------------------------------------------------------------

WIDE, NARROW, EXPERTS = 160, 96, 3
"""Sizes that differ, so that a fan tells which of them it is."""


def made(dotted: str, *given: object) -> nn.Module:
    """A module of transformers, its weights of second moment 1 and its biases zero."""
    module, _, name = dotted.rpartition(".")
    instance: nn.Module = getattr(importlib.import_module(f"transformers.{module}"), name)(*given).eval()
    with torch.no_grad():
        for seed, (key, parameter) in enumerate(instance.named_parameters()):
            parameter.copy_(normal(*parameter.shape, seed=seed) * ("bias" not in key))
    return instance


def normal(*shape: int, seed: int = 100) -> Tensor:
    """Normal values of second moment 1, and not only nearly so."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.square().mean().sqrt()


def moment(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean())


LINEAR: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Callable[[nn.Module, Tensor], Tensor]]] = {
    "pytorch_utils.Conv1D": (lambda: made("pytorch_utils.Conv1D", WIDE, NARROW), (900, NARROW), lambda f, x: f(x)),
    "JetMoeParallelExperts": (
        lambda: made("models.jetmoe.modeling_jetmoe.JetMoeParallelExperts", EXPERTS, NARROW, WIDE),
        (900, NARROW),
        lambda f, x: f(x, [300] * EXPERTS),
    ),
    "MoshiFlexibleLinear": (
        lambda: made("models.moshi.modeling_moshi.MoshiFlexibleLinear", NARROW, WIDE, EXPERTS),
        (300, EXPERTS, NARROW),
        lambda f, x: f(x),
    ),
    "CsmCodebooksHead": (
        lambda: made("models.csm.modeling_csm.CsmCodebooksHead", NARROW, EXPERTS + 1, WIDE),
        (300, EXPERTS, NARROW),
        lambda f, x: f(x, torch.arange(1, EXPERTS + 1)),
    ),
    "GroupedLinearLayer": (
        lambda: made("models.convbert.modeling_convbert.GroupedLinearLayer", EXPERTS * NARROW, EXPERTS * WIDE, EXPERTS),
        (30, 10, EXPERTS * NARROW),
        lambda f, x: f(x),
    ),
    "DeepseekV4GroupedLinear": (
        lambda: made("models.deepseek_v4.modeling_deepseek_v4.DeepseekV4GroupedLinear", NARROW, EXPERTS * WIDE, EXPERTS),
        (300, EXPERTS, NARROW),
        lambda f, x: f(x),
    ),
    "MixtralTopKRouter": (
        lambda: made("models.mixtral.modeling_mixtral.MixtralTopKRouter", sizes(num_local_experts=WIDE)),
        (900, NARROW),
        lambda f, x: f(x)[0],
    ),
    "GptOssTopKRouter": (
        lambda: made("models.gpt_oss.modeling_gpt_oss.GptOssTopKRouter", sizes(num_local_experts=WIDE)),
        (900, NARROW),
        lambda f, x: f(x)[0],
    ),
}
"""Linear maps of transformers: the module, the shape of its inputs, what it makes of them."""


def sizes(**more: object) -> SimpleNamespace:
    """A configuration, by every name that experts ask for."""
    said = {
        **dict.fromkeys("hidden_size moe_latent_size moe_hidden_size".split(), NARROW),
        **dict.fromkeys("intermediate_size moe_intermediate_size expert_ffn_hidden_size ffn_hidden_size".split(), WIDE),
        **dict.fromkeys("num_experts num_local_experts n_routed_experts moe_num_experts n_shared_experts".split(), EXPERTS),
        **dict.fromkeys("hidden_act hidden_activation mlp_hidden_act".split(), "silu"),
        **dict.fromkeys(
            "num_experts_per_tok swiglu_alpha swiglu_limit post_norm_eps mlp_gate_softcap mlp_up_softcap".split(), 1
        ),
        **dict.fromkeys("zero_expert_num router_jitter_noise".split(), 0),
        "ffn_act_fn": {"name": "silu"},
        "_experts_implementation": "eager",
    }
    return SimpleNamespace(**{**said, **more})


@pytest.mark.parametrize("row", LINEAR)
def test_fans_of_linear_maps(row: str) -> None:
    """With weights, inputs and gradients of second moment 1, a fan is what comes out: forwards fan_in, backwards fan_out."""
    make, shape, run = LINEAR[row]
    module, inputs = make(), normal(*shape).requires_grad_()
    outputs = run(module, inputs)
    (gradient,) = torch.autograd.grad(outputs, inputs, normal(*outputs.shape))
    (site,) = (site for site in survey(module) if site.role == "weight")
    assert not site.layout.assumed
    assert moment(outputs) == pytest.approx(site.fan_in, rel=0.03)
    assert moment(gradient) == pytest.approx(site.fan_out, rel=0.03)


def expert_classes() -> dict[str, str]:
    """Every class of transformers that holds the weights of experts in one tensor: its name, and the dotted one."""
    found = {}
    for path in sorted(SOURCES.glob("*/modeling_*.py")):
        for name in re.findall(r"^class (\w*Experts)\(nn\.Module\)", path.read_text(), re.MULTILINE):
            found[name] = f"models.{path.parent.name}.{path.stem}.{name}"
    return {name: dotted for name, dotted in found.items() if name not in LINEAR}


class Watched(nn.Module):
    """In the place of an activation: remembers what all experts give it, and lets what it gates through as it is."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.gated, self.given = gated, list[Tensor]()

    def forward(self, inputs: Tensor, up: Tensor | None = None) -> Tensor:
        self.given.append(inputs)
        if up is not None:
            return up
        return torch.ones_like(inputs) if self.gated else inputs


@pytest.mark.parametrize("name", expert_classes())
def test_fans_and_blocks_of_experts(name: str) -> None:
    """What the experts' own forward pass makes of N(0, 1): before the activation, and after the last weights."""
    module = made(expert_classes()[name], sizes())
    inner = module.mlp if name == "DbrxExperts" else module
    tokens = 400 * EXPERTS
    inputs, chosen = normal(tokens, NARROW), torch.arange(tokens) % EXPERTS
    watched = Watched(gated=getattr(module, "has_gate", True))
    if hasattr(module, "post_expert_norm"):
        module.post_expert_norm = nn.Identity()
    own_gate = vars(type(module)).get("_apply_gate")
    if own_gate is not None and own_gate.__module__ == type(module).__module__:  # most have bounds, which are in the way here
        module._apply_gate = lambda fused: watched(*fused.chunk(2, dim=-1))
    else:
        setattr(inner, "act_fn" if hasattr(inner, "act_fn") else "activation_fn", watched)

    def run() -> Tensor:
        with torch.no_grad():
            if name == "Llama4TextExperts":
                return module(inputs)  # type: ignore[no-any-return]
            if name == "InklingSharedExperts":
                return module(inputs, torch.eye(EXPERTS)[chosen])  # type: ignore[no-any-return]
            return module(inputs, chosen[:, None].expand(-1, 2), torch.full((tokens, 2), 0.5))  # type: ignore[no-any-return]

    outputs = run()
    given = moment(torch.cat([*map(torch.flatten, watched.given)]))
    found = {site.name.rpartition(".")[2]: site for site in survey(module)}
    first = next(found[key] for key in ("gate_up_proj", "up_proj", "w1") if key in found)
    last = next(found[key] for key in ("down_proj", "w2") if key in found)
    for site in found.values():
        assert not site.layout.assumed
    for fans, measured in ((first, given), (last, moment(outputs) / given)):
        parts = fans.blocks or (fans,)
        assert [part.fan_in for part in parts] == pytest.approx([measured] * len(parts), rel=0.03)
    for site, wide in ((first, WIDE), (last, NARROW)):
        fused = site.name == "gate_up_proj" and not site.blocks  # alternating columns
        assert {part.fan_out for part in site.blocks or (site,)} == {wide * (2 if fused else 1)}
    if [block.block for block in first.blocks] == ["gate", "up"]:
        gate = first.blocks[0]
        with torch.no_grad():
            inner.get_parameter("gate_up_proj").narrow(gate.layout.block_axis, gate.start, WIDE).zero_()
        watched.given.clear()
        run()
        assert not any(inputs.any() for inputs in watched.given)


def test_fans_of_xlnet() -> None:
    config = transformers.XLNetConfig(d_model=NARROW, n_head=4)
    module = made("models.xlnet.modeling_xlnet.XLNetRelativeAttention", config)
    module.layer_norm = nn.Identity()
    seen: dict[str, Tensor] = {}

    def core(q: Tensor, k: Tensor, v: Tensor, r: Tensor, **_: object) -> Tensor:
        seen.update(q=q, k=k, v=v, r=r)
        return normal(*v.shape)

    module.rel_attn_core = core
    with torch.no_grad():
        module(normal(50, 8, NARROW), None, None, None, normal(50, 8, NARROW), None)
        seen["o"] = module.post_attention(normal(50, 8, NARROW), normal(50, 8, 4, NARROW // 4), residual=False)
    found = {site.name: site for site in survey(module)}
    for name in "qkvro":
        assert moment(seen[name]) == pytest.approx(found[name].fan_in, rel=0.03)
        assert found[name].fan_out == NARROW


def test_fans_of_recurrent_gemma_s_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    config = transformers.RecurrentGemmaConfig(hidden_size=192, num_attention_heads=4, lru_width=192)
    module = made("models.recurrent_gemma.modeling_recurrent_gemma.RecurrentGemmaRglru", config)
    made_of: list[Tensor] = []
    plain = torch.baddbmm
    monkeypatch.setattr(torch, "baddbmm", lambda *given: made_of.append(plain(*given)) or made_of[-1])
    with torch.no_grad():
        module(normal(2, 60, 192), torch.arange(60)[None].expand(2, -1))
    found = {site.name: site for site in survey(module)}
    for name, outputs in zip(("input_gate_weight", "recurrent_gate_weight"), made_of, strict=True):
        assert moment(outputs) == pytest.approx(found[name].fan_in, rel=0.03)
        assert (found[name].fan_in, found[name].fan_out) == (48, 48)
        assert found[name.replace("weight", "bias")].fan_in == 48


# --- norms that multiply by 1 + weight -------------------------------------------------------------------------------------

ADDS_ONE = re.compile(r"\(?\b1(\.0)?\s*\+\s*self\.weight|self\.weight\s*\+\s*1|self\.gamma\s*\+\s*self\.unit_offset")


@cache
def norm_classes() -> dict[str, type[nn.Module]]:
    """The classes of transformers that normalise with a weight of their own, by dotted name."""
    found = {}
    for path in sorted(SOURCES.glob("*/modeling_*.py")):
        names = re.findall(r"^class (\w*[Nn]orm\w*)\(", path.read_text(), re.MULTILINE)
        if not names:
            continue
        try:
            module = importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}")
        except ImportError:  # of a package that is not here
            continue
        for name in names:
            cls = getattr(module, name)
            plain = issubclass(cls, (nn.LayerNorm, nn.GroupNorm)) and cls.__module__.startswith("transformers.")
            if re.search(r"self\.(weight|gamma) = nn\.Parameter", inspect.getsource(cls)) or plain:
                found[f"{path.parent.name}.{name}"] = cls
    return found


def bare(cls: type[nn.Module], attribute: str) -> nn.Module:
    """A module of a class, without its constructor: a layout looks at no more."""
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    module.unit_offset = 1.0
    module.register_parameter(attribute, nn.Parameter(torch.empty(4)))
    return module


def test_norms_start_as_the_source_says() -> None:
    wrong, adding = [], 0
    for name, cls in norm_classes().items():
        source = inspect.getsource(cls)
        attribute = "gamma" if "self.gamma = " in source else "weight"
        expected = "norm_shift" if ADDS_ONE.search(source) else "norm_scale"
        module = bare(cls, attribute)
        if expected == "norm_scale":
            module.unit_offset = 0.0
        layout = find(module, attribute, module.get_parameter(attribute))
        adding += expected == "norm_shift"
        if layout.role != expected or layout.assumed:
            wrong.append(f"{name}.{attribute} is {layout.role}, and the source says {expected}")
    assert wrong == []
    assert len(norm_classes()) > 200
    assert adding == len(ONE_PLUS) + 1  # and MoonshineStreamingLayerNorm, which has `unit_offset`


def test_norms_start_as_plain_normalisation() -> None:
    """Of those that can be built from a width: what comes out has second moment 1 as initconf starts them, and not before."""
    before, after = {}, {}
    for name, cls in norm_classes().items():
        try:
            module, inputs = cls(64), 3 * normal(50, 64)
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.fill_(0.5)
                before[name] = moment(module(inputs))
        except (TypeError, RuntimeError, ValueError, AttributeError):  # it wants more than a width, or other inputs
            continue
        initconf.initialize(module, loaded("he"))
        with torch.no_grad():
            after[name] = moment(module(inputs))
    plain = {name for name, got in after.items() if abs(got - 1) < 0.05}
    assert set(after) - plain == {"mobilebert.NoNorm"}  # it only scales and shifts
    # That one scales its inputs before it normalises them.
    assert {name for name, got in before.items() if abs(got - 1) < 0.05} == {"muse_spark.MuseSparkTextInputScaledRMSNorm"}
    assert len(after) > 100


# --- roles -----------------------------------------------------------------------------------------------------------------

ROLES = [
    # architecture, the end of the parameter's name, role, (fan_in, fan_out) of it or of its first block
    ("MambaForCausalLM", "layers.0.mixer.A_log", "state", None),
    ("MambaForCausalLM", "layers.0.mixer.D", "state", None),
    ("MambaForCausalLM", "layers.0.mixer.conv1d.weight", "weight", (4, 4)),  # one kernel for each channel
    ("Mamba2ForCausalLM", "layers.0.mixer.dt_bias", "state", None),
    ("JambaForCausalLM", "layers.0.mamba.A_log", "state", None),
    ("ZambaForCausalLM", "layers.0.mamba.x_proj_weight", "weight", (32, 20)),
    ("ZambaForCausalLM", "layers.0.mamba.dt_proj_bias", "state", None),
    ("RwkvForCausalLM", "blocks.0.attention.time_decay", "state", None),
    ("RwkvForCausalLM", "blocks.0.attention.time_mix_key", "state", None),
    ("RecurrentGemmaForCausalLM", "layers.0.temporal_block.rg_lru.recurrent_param", "state", None),
    ("RecurrentGemmaForCausalLM", "layers.0.temporal_block.conv_1d.weight", "weight", (4, 4)),
    ("GPT2LMHeadModel", "h.0.mlp.c_fc.weight", "weight", (32, 128)),
    ("GPT2LMHeadModel", "h.0.mlp.c_proj.weight", "weight", (128, 32)),
    ("GPT2LMHeadModel", "h.0.attn.c_attn.weight", "weight", (32, 32)),
    ("GptOssForCausalLM", "layers.0.self_attn.sinks", "bias", None),
    ("GptOssForCausalLM", "layers.0.mlp.experts.down_proj_bias", "bias", (48, 32)),
    ("GptOssForCausalLM", "layers.0.mlp.router.weight", "weight", (32, 4)),
    ("MixtralForCausalLM", "layers.0.mlp.experts.gate_up_proj", "weight", (32, 48)),
    ("MixtralForCausalLM", "layers.0.mlp.experts.down_proj", "weight", (48, 32)),
    ("Llama4ForCausalLM", "experts.gate_up_proj", "weight", (32, 48)),
    ("DbrxForCausalLM", "experts.mlp.w1", "weight", (32, 48)),
    ("DbrxForCausalLM", "experts.mlp.w2", "weight", (48, 32)),
    ("Gemma2ForCausalLM", "layers.0.input_layernorm.weight", "norm_shift", None),
    ("NemotronForCausalLM", "layers.0.input_layernorm.weight", "norm_shift", None),
    ("Gemma4ForCausalLM", "layers.0.input_layernorm.weight", "norm_scale", None),
    ("Gemma3nForCausalLM", "layers.0.input_layernorm.weight", "norm_scale", None),
    ("NemotronHForCausalLM", "layers.0.norm.weight", "norm_scale", None),
    ("Qwen3NextForCausalLM", "layers.0.linear_attn.norm.weight", "norm_scale", None),
    ("Qwen3NextForCausalLM", "layers.0.input_layernorm.weight", "norm_shift", None),
    ("DiffLlamaForCausalLM", "layers.0.self_attn.lambda_q1", "state", None),
    ("T5ForConditionalGeneration", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "embedding", (1, 4)),
    ("XLNetLMHeadModel", "layer.0.rel_attn.r_w_bias", "bias", None),
    ("FunnelForPreTraining", "blocks.0.0.attention.r_kernel", "weight", (32, 32)),
    ("ViTForImageClassification", "embeddings.cls_token", "embedding", (1, 32)),
    ("ViTForImageClassification", "embeddings.position_embeddings", "position", None),
    ("ViTMAEForPreTraining", "vit.embeddings.position_embeddings", "state", None),  # sines
    ("Dinov2ForImageClassification", "layer.0.layer_scale1.lambda1", "gate_scale", None),
    ("BeitForImageClassification", "0.lambda_1", "gate_scale", None),
    ("ConvNextForImageClassification", "stages.0.layers.0.layer_scale_parameter", "gate_scale", None),
    ("ConvNextForImageClassification", "stages.0.layers.0.dwconv.weight", "weight", (49, 49)),
    ("ConvNextV2ForImageClassification", "stages.0.layers.0.grn.weight", "norm_shift", None),
    ("ConvNextV2ForImageClassification", "stages.0.layers.0.grn.bias", "bias", None),
    ("SwinForImageClassification", "relative_position_bias_table", "position", None),
    ("Swinv2ForImageClassification", "layers.0.blocks.0.attention.self.logit_scale", "state", None),
    ("SwiftFormerForImageClassification", "layer_scale_1", "gate_scale", None),
    ("TimesformerForVideoClassification", "embeddings.time_embeddings", "position", None),
    ("SamModel", "shared_image_embedding.positional_embedding", "state", None),
    ("CLIPModel", "logit_scale", "state", None),
    ("CLIPModel", "vision_model.embeddings.class_embedding", "embedding", (None, None)),
    ("SiglipModel", "logit_bias", "state", None),
    ("Blip2ForConditionalGeneration", "query_tokens", "embedding", (1, 32)),
    ("Wav2Vec2ForPreTraining", "quantizer.codevectors", "embedding", (1, 128)),
    ("Wav2Vec2ConformerForPreTraining", "layers.0.self_attn.pos_bias_u", "bias", None),
    ("SpeechT5ForTextToSpeech", "encode_positions.alpha", "gate_scale", None),
    ("DacModel", "snake1.alpha", "gate_scale", None),
    ("MarianMTModel", "encoder.embed_positions.weight", "state", None),  # sines
    ("BertForPreTraining", "predictions.bias", "bias", None),
    ("Gemma3ForConditionalGeneration", "mm_input_projection_weight", "weight", (32, 32)),
]


@cache
def sites_of(architecture: str) -> dict[str, Site]:
    (row,) = (row for row in ALL if row.name == architecture)
    return {name: site for site in survey(row.build()) for name in (site.name, *site.aliases)}


@pytest.mark.parametrize(("architecture", "end", "role", "fans"), ROLES, ids=[f"{row[0]}-{row[1]}" for row in ROLES])
def test_roles_and_fans(architecture: str, end: str, role: str, fans: tuple[float, float] | None) -> None:
    site = next(site for name, site in sites_of(architecture).items() if name.endswith(end))
    assert (site.role, site.layout.assumed) == (role, ())
    if fans is not None:
        part = site.blocks[0] if site.blocks else site
        assert (part.fan_in, part.fan_out) == fans


def test_frequencies_are_no_parameters() -> None:
    assert not [name for row in ALL for name in sites_of(row.name) if "inv_freq" in name]


# --- fused projections -----------------------------------------------------------------------------------------------------


def fused(model: nn.Module, name: str) -> dict[str, Site]:
    """The blocks of the first parameter of a name."""
    site = next(site for site in survey(model) if site.name.endswith(name))
    return {str(block.block): block for block in site.blocks}


FUSED = [
    ("GPT2LMHeadModel", "c_attn.weight", {"q": 32, "k": 32, "v": 32}),
    ("Phi3ForCausalLM", "qkv_proj.weight", {"q": 32, "k": 16, "v": 16}),
    ("MptForCausalLM", "Wqkv.weight", {"q": 32, "k": 32, "v": 32}),
    ("DbrxForCausalLM", "Wqkv.weight", {"q": 32, "k": 16, "v": 16}),
    ("FalconForCausalLM", "query_key_value.weight", {"q": 32, "k": 8, "v": 8}),
    ("GPTBigCodeForCausalLM", "c_attn.weight", {"q": 32, "k": 8, "v": 8}),
    ("ModernBertForMaskedLM", "Wqkv.weight", {"q": 32, "k": 32, "v": 32}),
]


@pytest.mark.parametrize(("architecture", "name", "sizes"), FUSED, ids=[row[0] for row in FUSED])
def test_fused_attention(architecture: str, name: str, sizes: dict[str, int]) -> None:
    """What attends to what depends on q and k and not on v: so the blocks are where the forward pass reads them."""
    (row,) = (row for row in ALL if row.name == architecture)
    model = row.build().eval()
    model.set_attn_implementation("eager")
    initconf.initialize(model, loaded("lecun"))
    blocks = fused(model, name)
    assert {key: block.fan_out for key, block in blocks.items()} == sizes
    assert {block.fan_in for block in blocks.values()} == {32}
    weight = next(parameter for key, parameter in model.named_parameters() if key.endswith(name))

    def attention() -> Tensor:
        with torch.no_grad():
            return model(torch.arange(3, 15)[None], output_attentions=True).attentions[0]  # type: ignore[no-any-return]

    before = attention()
    for key, block in blocks.items():
        part = weight.detach().narrow(block.layout.block_axis, block.start, sizes[key])
        kept = part.clone()
        part.copy_(normal(*part.shape))
        assert torch.equal(attention(), before) is (key == "v")
        part.copy_(kept)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("GPTNeoXForCausalLM", "query_key_value.weight"),
        ("BloomForCausalLM", "query_key_value.weight"),
        ("PersimmonForCausalLM", "query_key_value.weight"),
        ("CodeGenForCausalLM", "qkv_proj.weight"),
        ("DebertaForMaskedLM", "in_proj.weight"),
        ("Qwen3NextForCausalLM", "in_proj_qkvz.weight"),
    ],
)
def test_what_is_interleaved_has_no_blocks(architecture: str, name: str) -> None:
    (row,) = (row for row in ALL if row.name == architecture)
    assert fused(row.build(), name) == {}


def test_every_child_called_qkv_holds_them_side_by_side() -> None:
    """The output is read as (..., 3, heads, head), or split: whatever class it is that holds it."""
    wrong, seen = [], 0
    for path in sorted(SOURCES.glob("*/modeling_*.py")):
        for source in re.split(r"^class ", path.read_text(), flags=re.MULTILINE)[1:]:
            if re.search(r"self\.qkv = ", source):
                seen += 1
                if not re.search(
                    r"(reshape|view)\([^()]*?,\s*3,|split\(\s*\[self\.q_dim, self\.kv_dim, self\.kv_dim\]", source
                ):
                    wrong.append(f"{path.parent.name}.{source.partition('(')[0]}")
    assert wrong == []
    assert seen >= 39


def test_cross_attention_of_gpt2() -> None:
    config = transformers.GPT2Config(n_embd=32, n_head=4, n_layer=1, add_cross_attention=True, vocab_size=99)
    model = transformers.GPT2LMHeadModel(config)
    assert list(fused(model, "crossattention.c_attn.weight")) == ["k", "v"]
    assert list(fused(model, "crossattention.c_attn.bias")) == ["k", "v"]
    assert fused(model, "crossattention.q_attn.weight") == {}
    # An MLP of three times the width is no attention.
    wide = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=32, n_head=4, n_layer=1, n_inner=96, vocab_size=99))
    assert fused(wide, "c_fc.weight") == {}


GATED = ["Phi3ForCausalLM", "Glm4ForCausalLM", "ModernBertForMaskedLM"]


@pytest.mark.parametrize("architecture", GATED)
def test_fused_gates(architecture: str) -> None:
    """With the rows of `gate` at zero, the activation is given zeros."""
    (row,) = (row for row in ALL if row.name == architecture)
    model = row.build().eval()
    initconf.initialize(model, loaded("lecun"))
    site = next(site for site in survey(model) if site.name.endswith(("gate_up_proj.weight", "Wi.weight")))
    gate, up = site.blocks
    assert (gate.block, up.block) == ("gate", "up")
    assert gate.fan_out == up.fan_out == site.shape[0] / 2
    path, _, _ = site.name.rpartition(".")
    holder, watched = model.get_submodule(path.rpartition(".")[0]), Watched(gated=True)
    setattr(holder, next(name for name in ("activation_fn", "act_fn", "act") if hasattr(holder, name)), watched)
    with torch.no_grad():
        model.get_parameter(site.name)[gate.start : gate.start + gate.shape[0]].zero_()
        model(torch.arange(3, 15)[None])
    assert watched.given
    assert not any(inputs.any() for inputs in watched.given)


def test_tables_of_sines_stay() -> None:
    for name, table in (
        ("WhisperForConditionalGeneration", "model.encoder.embed_positions"),
        ("MarianMTModel", "model.encoder.embed_positions"),
    ):
        (row,) = (row for row in ALL if row.name == name)
        model = row.build()
        held = next(parameter for key, parameter in model.named_parameters() if key.startswith(table))
        before = held.detach().clone()
        assert before.std() > 0.3
        initconf.initialize(model, loaded("he"))
        assert torch.equal(held, before)

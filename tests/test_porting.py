"""Schemes made of other systems' configurations, against those systems' own loops.

The loops are written here from the sources: allennlp 2.10.1 and 0.9.0 (nn/initializers.py), mmengine 0.10.7
(model/weight_init.py, model/base_module.py), llm-foundry 0.22.0 (models/utils/param_init_fns.py), keras 3.15.1
(initializers/random_initializers.py).
"""

from __future__ import annotations

import copy
import io
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import init

import initconf
from initconf.cli import main
from initconf.errors import InitConfError
from initconf.laws import Constant, Identity, Normal, Orthogonal, TruncatedNormal, Uniform
from initconf.porting import SYSTEMS, port
from initconf.porting.drafts import Draft

DATA = Path(__file__).parent / "data" / "porting"
CUT = 0.87962566103423978  # the std of a unit normal that is cut off at two sigma


def ported(system: str, config: Any, label: str = "config.json") -> Draft:
    return port(system, config if isinstance(config, str) else json.dumps(config), label)


def of_file(system: str, name: str) -> Draft:
    return port(system, (DATA / name).read_text(encoding="utf-8"), name)


def refused(system: str, config: Any, label: str = "config.json") -> str:
    with pytest.raises(InitConfError) as caught:
        ported(system, config, label)
    return str(caught.value)


def without_defaults(draft: Draft) -> dict[str, Any]:
    """The scheme without what Hydra composes: the same, and faster."""
    return {key: value for key, value in draft.scheme.items() if key != "defaults"}


class Last:
    """The calls of a loop, of which the last for each parameter counts: made again in the order of the parameters."""

    def __init__(self) -> None:
        self.calls: dict[int, Callable[..., Any]] = {}

    def __call__(self, function: Callable[..., Any], tensor: Tensor, *args: Any, **keywords: Any) -> None:
        self.calls[id(tensor)] = partial(function, tensor, *args, **keywords)

    def claims(self, model: nn.Module) -> set[str]:
        return {name for name, parameter in model.named_parameters() if id(parameter) in self.calls}

    @torch.no_grad()
    def write(self, model: nn.Module) -> None:
        for parameter in model.parameters():
            self.calls.get(id(parameter), lambda: None)()


def same_bits(model: nn.Module, draft: Draft, last: Last) -> None:
    """What the scheme writes is what the loop writes, bit for bit, and what the loop leaves alone keeps its values."""
    ours = copy.deepcopy(model)
    plan = initconf.compile(ours, without_defaults(draft))
    assert {entry.name for entry in plan if entry.initializer != "keep"} == last.claims(model) != set()
    initconf.apply(ours, plan, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(3)
    last.write(model)
    for (name, mine), theirs in zip(ours.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


# --- AllenNLP --------------------------------------------------------------------------------------------------------


def uniform_unit_scaling(tensor: Tensor, nonlinearity: str = "linear") -> None:
    size = 1.0
    for dimension in list(tensor.size())[:-1]:
        size *= dimension
    bound = math.sqrt(3 / size) * init.calculate_gain(nonlinearity)
    tensor.uniform_(-bound, bound)


ALLENNLP: dict[str, Callable[..., Any]] = {
    "normal": init.normal_,
    "uniform": init.uniform_,
    "orthogonal": init.orthogonal_,
    "constant": init.constant_,
    "dirac": init.dirac_,
    "xavier_normal": init.xavier_normal_,
    "xavier_uniform": init.xavier_uniform_,
    "kaiming_normal": init.kaiming_normal_,
    "kaiming_uniform": init.kaiming_uniform_,
    "eye": init.eye_,
    "zero": init.zeros_,
    "uniform_unit_scaling": uniform_unit_scaling,
}


def applicator(model: nn.Module, config: Any) -> Last:
    """`InitializerApplicator.__call__`, and its `from_params` of 0.9 for a list."""
    last, old = Last(), isinstance(config, list)
    pairs = [pair for pair in config if pair[1]] if old else config.get("regexes", [])
    prevents = [] if old else list(config.get("prevent_regexes", []))
    prevents += [pattern for pattern, said in pairs if said in ("prevent", {"type": "prevent"})]
    prevent = "(" + ")|(".join(prevents) + ")" if prevents else None
    for name, parameter in model.named_parameters():
        for pattern, said in pairs:
            allow = prevent is None or not re.search(prevent, name)
            if allow and re.search(pattern, name):
                keywords = {"type": said} if isinstance(said, str) else dict(said)
                kind = keywords.pop("type", "normal")
                if kind == "normal" and not old:
                    keywords = {"mean": 0.0, "std": 0.1, **keywords}
                last(ALLENNLP[kind], parameter, **keywords)
                break
    return last


def reader() -> nn.Module:
    return nn.ModuleDict(
        {
            "text_field_embedder": nn.Embedding(9, 6, padding_idx=2),
            "linear_1": nn.Linear(6, 8),
            "linear_10": nn.Linear(8, 8),
            "conv": nn.Conv2d(4, 6, 3, groups=2),
            "up": nn.ConvTranspose2d(4, 6, 3),
            "encoder": nn.LSTM(6, 5, bidirectional=True),
            "norm": nn.LayerNorm(8),
            "attention": nn.MultiheadAttention(8, 2),
            "projection": nn.Linear(8, 3),
        }
    )


CONFIGS: dict[str, Any] = {
    "an unescaped dot": {"regexes": [["linear_1.+weight", {"type": "xavier_uniform", "gain": 2}], ["linear", "zero"]]},
    "the padding row": {"regexes": [["embedder", "normal"]]},
    "prevented": {
        "regexes": [["weight", "normal"], ["bias", {"type": "constant", "val": 0.5}]],
        "prevent_regexes": ["norm", "embedder", "nothing at all"],
    },
    "prevented in the list": {"regexes": [["linear.*weight", "orthogonal"], [".", "uniform"], ["conv", "prevent"]]},
    "lookaround": {"regexes": [["(?<!norm)\\.weight$", {"std": 0.02}], ["^(?!projection).*bias$", "zero"]]},
    "kernels": {"regexes": [["(conv|up).weight", {"type": "kaiming_normal", "mode": "fan_out", "nonlinearity": "relu"}]]},
    "gates as one matrix": {"regexes": [["weight_ih", "xavier_normal"], ["weight_hh", "orthogonal"], ["in_proj_w", "normal"]]},
    "the empty regex": {"regexes": [["projection.weight", {"type": "kaiming_uniform", "a": 0.2}], ["", "uniform"]]},
    "unit scaling": {
        "regexes": [["conv.*", {"type": "uniform_unit_scaling", "nonlinearity": "tanh"}], ["linear_1", "uniform_unit_scaling"]]
    },
    "no randomness": {"regexes": [["conv.weight", "dirac"], ["linear_10.weight", "eye"], ["in_proj_bias", "zero"]]},
    "a shadowed rule": {"regexes": [["linear", {"type": "constant", "val": 1}], ["linear_1", {"type": "constant", "val": 2}]]},
    "0.9": [["linear_\\d\\.", "normal"], ["bias", {"type": "prevent"}], ["projection", "uniform"], ["nothing", None]],
}  # fmt: skip


@pytest.mark.parametrize("config", [pytest.param(config, id=name) for name, config in CONFIGS.items()])
def test_allennlp(config: Any) -> None:
    model = reader()
    same_bits(model, ported("allennlp", config), applicator(model, config))


PATTERNS = ["", *"weight bias linear_1 linear_1\\. (conv|up)\\.weight$ ^(?!norm) \\d e.*t proj weight_[ih]h".split()]


@settings(max_examples=25)
@given(st.permutations(PATTERNS), st.integers(1, 6), st.lists(st.sampled_from(PATTERNS[2:]), max_size=2))
def test_the_first_regex_wins(patterns: list[str], count: int, prevents: list[str]) -> None:
    model = reader()
    pairs = [[pattern, {"type": "constant", "val": i + 1}] for i, pattern in enumerate(patterns[:count])]
    config = {"regexes": pairs, "prevent_regexes": prevents}
    wanted: dict[int, Any] = dict(applicator(model, config).calls)
    plan = initconf.compile(model, without_defaults(ported("allennlp", config)))
    for name, parameter in model.named_parameters():
        call = wanted.get(id(parameter))
        law = plan[name].law
        value = law.value if isinstance(law, Constant) else None
        assert value == (call.keywords["val"] if call else None), name


def test_regexes_that_match_nothing_are_errors_and_those_that_prevent_nothing_are_none() -> None:
    draft = ported("allennlp", {"regexes": [["linear_7", "zero"]], "prevent_regexes": ["nothing"]})
    with pytest.raises(initconf.CompileError) as caught:
        initconf.compile(reader(), without_defaults(draft))
    assert "init.rules.regex_0" in str(caught.value)
    assert "no parameter's name fits search 'linear_7'" in str(caught.value)
    assert "prevent" not in str(caught.value)


def test_forget_gates() -> None:
    model = nn.ModuleDict({"encoder": nn.LSTM(6, 5, num_layers=2), "norm": nn.LayerNorm(4), "table": nn.Embedding(7, 4, 1)})
    pairs = [
        ["bias_hh_l1", {"type": "constant", "val": 2}],
        ["bias_hh", "lstm_hidden_bias"],
        ["bias_ih", "zero"],
        ["table", "normal"],
    ]
    draft = ported("allennlp", {"regexes": pairs})
    assert "compat" not in draft.settings
    assert "the padding row of an embedding stays zero here; AllenNLP overwrites it" in draft.remarks
    initconf.initialize(model, draft.scheme)
    wanted = torch.zeros(20)
    wanted[5:10] = 1
    assert torch.equal(model["encoder"].bias_hh_l0, wanted)
    assert torch.equal(model["encoder"].bias_hh_l1, torch.full((20,), 2.0))
    assert torch.equal(model["encoder"].bias_ih_l0, torch.zeros(20))
    wrong = ported("allennlp", {"regexes": [["bias", "lstm_hidden_bias"]]})
    with pytest.raises(initconf.CompileError, match="forget_bias is for the bias of gates f, and this has no gates"):
        initconf.compile(model, without_defaults(wrong))


def test_pretrained(tmp_path: Path) -> None:
    model, path = reader(), str(tmp_path / "best.th")
    torch.save({"conv.weight": torch.full((6, 2, 3, 3), 2.0), "old": torch.full((6,), 3.0, dtype=torch.float64)}, path)
    said = {
        "type": "pretrained",
        "weights_file_path": path,
        "parameter_name_overrides": {"conv.bias": "old", "norm.bias": "not there"},
    }
    draft = ported("allennlp", {"regexes": [["up", "zero"], ["conv|up", said]]})
    initconf.initialize(model, draft.scheme)
    assert model["conv"].weight.unique().tolist() == [2]
    assert model["conv"].bias.unique().tolist() == [3]
    assert model["up"].weight.unique().tolist() == [0]
    archive = ported("allennlp", {"regexes": [["conv", {**said, "weights_file_path": "model.tar.gz"}]]})
    assert archive.rules["regex_0"] == {"search": "conv", "initializer": "keep"}
    assert archive.lost == [
        "regexes[0] (config.json:1): pretrained reads no archive: unpack 'model.tar.gz', and name the file of weights in it"
    ]


def test_sparse() -> None:
    draft = ported("allennlp", {"regexes": [["linear_1.weight", {"type": "sparse", "sparsity": 0.5}]]})
    entry = initconf.compile(reader(), without_defaults(draft))["linear_1.weight"]
    assert (entry.initializer, dict(entry.settings)) == ("sparse_", {"sparsity": 0.5})


def test_a_training_of_allennlp() -> None:
    draft = of_file("allennlp", "esim.json")
    assert [*draft.rules][::-1] == (
        "prevent_1 prevent_0 regex_0 regex_1 regex_2 regex_3 regex_4 regex_5_forget regex_5 regex_6 regex_7".split()
    )
    assert draft.lost[0].startswith("model.initializer.regexes[7] (esim.json:17): block_orthogonal splits a tensor by sizes")
    assert draft.lost[1].startswith("model.encoder.initializer (esim.json:21): the names in it begin at the module")
    assert len(draft.lost) == 2
    assert draft.rules["regex_7"] == {"search": "blocks", "initializer": "keep"}
    assert draft.rules["regex_6"] == {"search": r"(?<!norm)\.weight", "initializer": {"name": "normal_", "std": 0.02}}


# --- MMEngine --------------------------------------------------------------------------------------------------------

WEIGHTS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Constant": (init.constant_, {}),
    "Normal": (init.normal_, {"mean": 0, "std": 1}),
    "TruncNormal": (init.trunc_normal_, {"mean": 0, "std": 1, "a": -2, "b": 2}),
    "Uniform": (init.uniform_, {"a": 0, "b": 1}),
}


def mmengine_call(last: Last, cfg: dict[str, Any], module: nn.Module, whole: bool) -> None:
    """One initializer over a module: `BaseInit` and its subclasses."""
    cfg = dict(cfg)
    kind, layer = cfg.pop("type"), cfg.pop("layer", [])
    bias, prior, distribution = cfg.pop("bias", 0), cfg.pop("bias_prob", None), cfg.pop("distribution", "normal")
    bias = -math.log((1 - prior) / prior) if prior is not None else bias
    layers = [layer] if isinstance(layer, str) else layer
    if kind == "Xavier":
        function, keywords = getattr(init, f"xavier_{distribution}_"), {"gain": 1, **cfg}
    elif kind == "Kaiming":
        keywords = {"a": 0, "mode": "fan_out", "nonlinearity": "relu", **cfg}
        function = getattr(init, f"kaiming_{distribution}_")
    elif kind == "Caffe2Xavier":
        function, keywords = init.kaiming_uniform_, {"a": 1, "mode": "fan_in", "nonlinearity": "leaky_relu"}
    else:
        function, keywords = WEIGHTS[kind][0], {**WEIGHTS[kind][1], **cfg}

    def apply(m: nn.Module) -> None:
        names = [type(m).__name__, *(base.__name__ for base in type(m).__bases__)]
        if whole or set(layers) & set(names):
            if getattr(m, "weight", None) is not None:
                last(function, m.weight, **keywords)
            if getattr(m, "bias", None) is not None:
                last(init.constant_, m.bias, bias)

    module.apply(apply)


def mmengine_initialize(last: Last, module: nn.Module, cfgs: Any) -> None:
    for cfg in cfgs if isinstance(cfgs, list) else [cfgs]:
        cfg = dict(cfg)
        override = cfg.pop("override", None)
        if cfg["type"] != "Pretrained":
            mmengine_call(last, cfg, module, False)
        cfg.pop("layer", None)
        for one in [override] if isinstance(override, dict) else override or []:
            one = dict(one)
            child = getattr(module, one.pop("name"))
            mmengine_call(last, one or cfg, child, True)


class Module(nn.Module):
    """MMEngine's BaseModule: its own init_cfg first, then those of its children."""

    def __init__(self, init_cfg: Any = None, **children: nn.Module) -> None:
        super().__init__()
        self.init_cfg = init_cfg
        for name, child in children.items():
            self.add_module(name, child)

    def init_weights(self, last: Last) -> None:
        if self.init_cfg:
            mmengine_initialize(last, self, self.init_cfg)
        for child in self.children():
            if hasattr(child, "init_weights"):
                child.init_weights(last)


class OwnConv(nn.Conv2d):
    pass


def flat(init_cfg: Any) -> Module:
    return Module(
        init_cfg,
        stem=nn.Conv2d(3, 4, 3),
        own=OwnConv(4, 6, 3, groups=2, bias=False),
        up=nn.ConvTranspose2d(6, 4, 3),
        norm=nn.BatchNorm2d(4),
        group=nn.GroupNorm(2, 4),
        table=nn.Embedding(5, 6, padding_idx=1),
        attention=nn.MultiheadAttention(8, 2),
        rnn=nn.LSTM(4, 5),
        branch=nn.Sequential(nn.Linear(6, 5), nn.Sequential(nn.Linear(5, 7, bias=False), nn.LayerNorm(7))),
        cls=nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)),
        reg=nn.Linear(5, 4),
    )


INIT_CFGS: dict[str, Any] = {
    "one layer": {"type": "Kaiming", "layer": "Conv2d"},
    "with all it takes": {"type": "Kaiming", "layer": ["Conv2d", "Linear"], "mode": "fan_in", "distribution": "uniform",
                          "a": 0.1, "nonlinearity": "leaky_relu", "bias": 0.2},
    "base classes": {"type": "Constant", "val": 2, "layer": ["_BatchNorm", "GroupNorm", "LayerNorm"], "bias": 1},
    "the padding row": {"type": "Normal", "mean": 0.5, "std": 0.01, "layer": "Embedding"},
    "the last wins": [{"type": "Xavier", "layer": ["Linear", "Conv2d"], "gain": 0.5},
                      {"type": "Uniform", "a": -1, "layer": "Linear"}],
    "overridden": {"type": "Normal", "std": 0.01, "layer": "Linear",
                   "override": {"type": "TruncNormal", "std": 0.5, "a": -0.6, "b": 1, "name": "cls", "bias_prob": 0.01}},
    "overridden by name": {"type": "Caffe2Xavier", "bias": 3, "override": [{"name": "cls"}, {"name": "stem"}]},
    "overridden, and overruled": [
        {"type": "Normal", "layer": "Linear", "override": {"type": "Constant", "val": 5, "name": "reg"}},
        {"type": "Xavier", "distribution": "uniform", "layer": "Linear"},
    ],
    "what is not there": [{"type": "Constant", "val": 1, "layer": "Conv3d"}, {"type": "Xavier", "layer": "ConvTranspose2d"}],
}  # fmt: skip


@pytest.mark.parametrize("init_cfg", [pytest.param(cfg, id=name) for name, cfg in INIT_CFGS.items()])
def test_mmengine(init_cfg: Any) -> None:
    model, last = flat(init_cfg), Last()
    model.init_weights(last)
    same_bits(model, ported("mmengine", init_cfg), last)


def test_init_cfgs_of_parents_and_children() -> None:
    draft = of_file("mmengine", "detector.json")
    config = json.loads((DATA / "detector.json").read_text())["model"]
    branches = Module(None)
    for i, one in enumerate(config["head"]["branches"]):
        branches.add_module(str(i), Module(one.get("init_cfg"), conv=nn.Conv2d(2, 3, 3), linear=nn.Linear(3, 4)))
    model = Module(
        config["init_cfg"],
        backbone=Module(config["backbone"]["init_cfg"], conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), out=nn.Linear(4, 4)),
        neck=nn.Linear(4, 5),
        head=Module(
            config["head"]["init_cfg"], conv=nn.Conv2d(4, 2, 1), cls=nn.Conv2d(2, 3, 1), reg=nn.Linear(4, 4), branches=branches
        ),
    )
    last = Last()
    model.init_weights(last)
    same_bits(model, draft, last)
    assert draft.lost == [
        "model.backbone.init_cfg[2] (detector.json:11): Pretrained loads what fits from 'torchvision://resnet50' into the "
        "module 'backbone'. Do that after initconf.initialize, with load_state_dict(..., strict=False); or write a rule with "
        "initializer: pretrained"
    ]


def test_module_is_more_than_a_direct_base() -> None:
    """The one difference that no rule can make up for, which the scheme says."""

    class OwnOwn(OwnConv):
        pass

    model, last = Module({"type": "Normal", "layer": "Conv2d"}, conv=OwnOwn(2, 2, 1)), Last()
    model.init_weights(last)
    draft = ported("mmengine", model.init_cfg)
    assert last.claims(model) == set()
    assert initconf.compile(model, without_defaults(draft))["conv.weight"].initializer == "normal_"
    assert any("MMEngine asks for the class itself or a direct base" in remark for remark in draft.remarks)


@pytest.mark.parametrize(
    ("init_cfg", "lost"),
    [
        (
            {"type": "Xavier"},
            "config.json: it has neither `layer` nor `override`: MMEngine does nothing with it, and so does this",
        ),
        (
            [{"type": "Normal", "layer": ["torch.nn.Linear", "Linear"]}],
            "[0].layer (config.json:1): the name of a class has no dots: MMEngine finds no torch.nn.Linear",
        ),
    ],
    ids=["nothing", "dots"],
)
def test_what_mmengine_does_nothing_with(init_cfg: Any, lost: str) -> None:
    assert ported("mmengine", init_cfg).lost == [lost]


# --- llm-foundry -----------------------------------------------------------------------------------------------------


class SharedEmbedding(nn.Embedding):
    pass


class MiniMPT(nn.Module):
    """The names, flags and shapes of MPT: what `param_init_fn` looks at."""

    def __init__(self, d: int = 48, heads: int = 4, layers: int = 3, glu: bool = False, fused: bool = True, tied: bool = False):
        super().__init__()
        self.n_layers, self.d_model = layers, d
        self.wte = SharedEmbedding(20, d, padding_idx=3)
        self.wpe = nn.Embedding(10, d)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            attention, ffn = nn.Module(), nn.Module()
            splits = [i * (d // heads) for i in range(1, 3 * heads)]
            if fused:
                attention.Wqkv = nn.Linear(d, 3 * d)
                attention.Wqkv._fused = (0, splits)
            else:
                for name in ("Wq", "Wk", "Wv"):
                    attention.add_module(name, nn.Linear(d, d))
                    getattr(attention, name)._fused = (0, splits[: heads - 1])
            attention.out_proj = nn.Linear(d, d)
            ffn.up_proj, ffn.down_proj = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
            if glu:
                ffn.gate_proj = nn.Linear(d, 4 * d)
            attention.out_proj._is_residual = ffn.down_proj._is_residual = True
            block = nn.ModuleDict({"norm_1": nn.LayerNorm(d), "attn": attention, "norm_2": nn.RMSNorm(d), "ffn": ffn})
            self.blocks.append(block)
        self.norm_f = nn.LayerNorm(d, bias=False)
        if not tied:
            self.lm_head = nn.Linear(d, 20, bias=False)


def moments(config: dict[str, Any], d_model: int) -> Callable[[Tensor], tuple[str, float, float]]:
    """`init_fn_` of a name: the law of a tensor as (kind, mean, std)."""
    name = config["name"]

    def kaiming(kind: str) -> Callable[[Tensor], tuple[str, float, float]]:
        gain = init.calculate_gain(config["init_nonlinearity"], config["init_gain"])
        return lambda w: (kind, 0.0, gain / math.sqrt(w.shape[1] if config["fan_mode"] == "fan_in" else w.shape[0]))

    def xavier(kind: str) -> Callable[[Tensor], tuple[str, float, float]]:
        return lambda w: (kind, 0.0, config["init_gain"] * math.sqrt(2 / (w.shape[0] + w.shape[1])))

    made: dict[str, Callable[[Tensor], tuple[str, float, float]]] = {
        "baseline_": lambda w: ("normal", 0.0, config["init_std"]),
        "small_init_": lambda w: ("normal", 0.0, math.sqrt(2 / (5 * d_model))),
        "neox_init_": lambda w: ("normal", 0.0, math.sqrt(2 / (5 * d_model))),
        "kaiming_normal_": kaiming("normal"),
        "kaiming_uniform_": kaiming("uniform"),
        "xavier_normal_": xavier("normal"),
        "xavier_uniform_": xavier("uniform"),
    }
    return made[name]


def param_init_fn(model: MiniMPT, said: dict[str, Any]) -> dict[str, tuple[str, float, float]]:
    """`generic_param_init_fn_` over all modules: the law of each parameter."""
    defaults = {"name": "kaiming_normal_", "fan_mode": "fan_in", "init_nonlinearity": "relu", "init_div_is_residual": True}
    config = {**defaults, "emb_init_std": None, "emb_init_uniform_lim": None, "init_std": None, "init_gain": 0.0, **said}
    init_fn = moments(config, model.d_model)
    divided = config["init_div_is_residual"]
    if config["name"] == "neox_init_":
        divided = model.n_layers / math.sqrt(10)
    divisor = math.sqrt(2 * model.n_layers) if divided is True else 1.0 if divided is False else float(divided)
    laws: dict[str, tuple[str, float, float]] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            w = module.weight
            if hasattr(module, "_fused"):
                dim, splits = module._fused
                pieces = {init_fn(w[s:e]) for s, e in zip((0, *splits), (*splits, w.size(dim)), strict=True)}
                assert dim == 0
                (law,) = pieces
            else:
                law = init_fn(w)
            if getattr(module, "_is_residual", False):
                law = (law[0], law[1], law[2] / divisor)
            laws[f"{path}.weight"] = law
        elif isinstance(module, nn.Embedding):
            lim = config["emb_init_uniform_lim"]
            if config["emb_init_std"] is not None:
                laws[f"{path}.weight"] = ("normal", 0.0, config["emb_init_std"])
            elif lim is not None:
                low, high = lim if isinstance(lim, list) else (-lim, lim)
                laws[f"{path}.weight"] = ("uniform", (low + high) / 2, (high - low) / math.sqrt(12))
            else:
                laws[f"{path}.weight"] = init_fn(module.weight)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            laws[f"{path}.weight"] = ("constant", 1.0, 0.0)
        if getattr(module, "bias", None) is not None:
            laws[f"{path}.bias"] = ("constant", 0.0, 0.0)
    return laws


INIT_CONFIGS: dict[str, dict[str, Any]] = {
    "the default": {},
    "normal, fan_out": {"name": "kaiming_normal_", "fan_mode": "fan_out", "init_div_is_residual": False},
    "uniform, leaky": {"name": "kaiming_uniform_", "init_nonlinearity": "leaky_relu", "init_gain": 0.3,
                       "init_div_is_residual": 4},
    "uniform, fan_out": {"name": "kaiming_uniform_", "fan_mode": "fan_out", "init_nonlinearity": "tanh", "emb_init_std": 0.1},
    "xavier normal": {"name": "xavier_normal_", "init_gain": 1.0, "emb_init_uniform_lim": 0.2},
    "xavier uniform": {"name": "xavier_uniform_", "init_gain": 0.7, "init_div_is_residual": "16",
                       "emb_init_uniform_lim": [-0.1, 0.3]},
    "xavier with its default gain": {"name": "xavier_normal_"},
    "small": {"name": "small_init_"},
    "small, divided": {"name": "small_init_", "init_div_is_residual": 2.5, "emb_init_std": 0.02},
    "neox": {"name": "neox_init_", "init_div_is_residual": False},
    "baseline": {"name": "baseline_", "init_std": 0.03},
}  # fmt: skip
MODELS = {"fused": {}, "apart": {"fused": False, "glu": True, "tied": True}}


@pytest.mark.parametrize("around", [True, False], ids=["model", "bare"])
@pytest.mark.parametrize("shape", [pytest.param(shape, id=name) for name, shape in MODELS.items()])
@pytest.mark.parametrize("said", [pytest.param(said, id=name) for name, said in INIT_CONFIGS.items()])
def test_llm_foundry(said: dict[str, Any], shape: dict[str, bool], around: bool) -> None:
    model = MiniMPT(**shape)
    whole = {"model": {"name": "mpt_causal_lm", "d_model": 48, "n_heads": 4, "n_layers": 3, "init_config": said}}
    if not around and not said:
        whole, around = {"d_model": 48, "n_heads": 4}, True  # no init_config at all: its defaults
    draft = ported("llm-foundry", whole if around else said)
    plan = initconf.compile(model, without_defaults(draft))
    wanted = param_init_fn(model, said)
    assert {entry.name for entry in plan} == set(wanted)
    headless = not around and (said["name"].startswith("xavier") or said.get("fan_mode") == "fan_out")
    assert bool(draft.lost) == headless
    for name, (kind, mean, std) in wanted.items():
        law = plan[name].law
        if headless and re.search("Wq|Wk|Wv", name):
            continue  # the size of a head is not in the file, as is said
        assert plan[name].mean == pytest.approx(mean, abs=1e-12), name
        assert plan[name].std == pytest.approx(std, rel=1e-12), name
        assert isinstance(law, {"normal": Normal, "uniform": Uniform, "constant": Constant}[kind]), name


def test_the_padding_row_is_zero_in_llm_foundry_too() -> None:
    model = MiniMPT()
    initconf.initialize(model, of_file("llm-foundry", "mpt.yaml").scheme)
    assert not model.wte.weight[3].any()
    assert model.wte.weight[2].any()


def test_what_llm_foundry_does_not_initialise_is_refused_here_too() -> None:
    model = MiniMPT()
    model.scale = nn.Parameter(torch.ones(3))
    with pytest.raises(initconf.CompileError, match="scale: no rule claims it"):
        initconf.compile(model, without_defaults(of_file("llm-foundry", "mpt.yaml")))


def test_default_is_every_modules_own() -> None:
    model = MiniMPT()
    plan = initconf.compile(model, without_defaults(ported("llm-foundry", {"name": "default_"})))
    assert {entry.initializer for entry in plan} == {"module_default"}


def test_a_gain_of_zero_is_said() -> None:
    draft = ported("llm-foundry", {"name": "xavier_uniform_"})
    text = "init_gain (config.json): init_gain is 0, its default: Xavier weights are all 0, here as there. 1 is Xavier's own"
    assert draft.warnings == [text]
    assert f"# - {text}" in draft.text.replace("\n#   ", " ")
    assert ported("llm-foundry", {"name": "xavier_uniform_", "init_gain": 1}).warnings == []


@pytest.mark.parametrize("kind", ["te_ln_mlp", "mb_moe", "mb_dmoe"])
def test_other_feed_forward_layers(kind: str) -> None:
    model = {"d_model": 8, "n_heads": 2, "ffn_config": {"ffn_type": kind}, "init_config": {"name": "neox_init_", "verbose": 0}}
    lost = ported("llm-foundry", {"model": model}).lost
    assert lost[0].startswith("model.init_config.verbose (config.json:1): llm-foundry takes no notice of 'verbose'")
    assert lost[1].startswith("model.ffn_config.ffn_type (config.json:1): ")
    assert ported("llm-foundry", {"model": {**model, "ffn_config": {"ffn_type": "mptglu"}, "init_config": {}}}).lost == []


# --- Keras -----------------------------------------------------------------------------------------------------------


def keras_fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """`compute_fans`."""
    if len(shape) == 1:
        return shape[0], shape[0]
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field


FAMILIES = {"Glorot": (1.0, "fan_avg"), "He": (2.0, "fan_in"), "Lecun": (1.0, "fan_in")}


def keras_law(said: dict[str, Any], shape: tuple[int, ...]) -> tuple[type, float, float]:
    """What an initializer gives a variable: (kind of law, mean, std)."""
    name, config = said["class_name"], said.get("config", {})
    if name == "TruncatedNormal":
        return TruncatedNormal, config["mean"], CUT * config["stddev"]
    if name == "RandomNormal":
        return Normal, config["mean"], config["stddev"]
    if name == "RandomUniform":
        return Uniform, (config["minval"] + config["maxval"]) / 2, (config["maxval"] - config["minval"]) / math.sqrt(12)
    family = next((f for f in FAMILIES if name.startswith(f)), None)
    scale, mode = FAMILIES[family] if family else (config["scale"], config["mode"])
    kind = name.removeprefix(family) if family else config["distribution"]
    fan_in, fan_out = keras_fans(shape)
    n = max(1.0, {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode])
    laws = {"Uniform": Uniform, "Normal": TruncatedNormal, "uniform": Uniform, "normal": TruncatedNormal}
    laws |= {"truncated_normal": TruncatedNormal, "untruncated_normal": Normal}
    return laws[kind], 0.0, math.sqrt(scale / n)


def scaling(scale: float, mode: str, distribution: str) -> dict[str, Any]:
    return {
        "class_name": "VarianceScaling",
        "config": {"scale": scale, "mode": mode, "distribution": distribution, "seed": None},
    }


RANDOM: dict[str, dict[str, Any]] = {
    **{name: {"class_name": name, "config": {"seed": None}} for f in FAMILIES for name in (f"{f}Uniform", f"{f}Normal")},
    "fan_out": scaling(0.3, "fan_out", "untruncated_normal"),
    "fan_avg": scaling(2.0, "fan_avg", "normal"),
    "truncated": {"class_name": "TruncatedNormal", "config": {"mean": 0.1, "stddev": 0.02}},
    "normal": {"class_name": "RandomNormal", "config": {"mean": 0.1, "stddev": 0.02}},
    "uniform": {"class_name": "RandomUniform", "config": {"minval": -0.1, "maxval": 0.3}},
}
# A layer of Keras: its configuration, the torch module in its place, and for torch's parameters Keras' variables:
# the argument that names the initializer, and the shape.
LAYERS: dict[str, tuple[dict[str, Any], Callable[[], nn.Module], dict[str, tuple[str, tuple[int, ...]]]]] = {
    "Dense": ({}, lambda: nn.Linear(24, 96), {"weight": ("kernel", (24, 96)), "bias": ("bias", (96,))}),
    "Conv1D": ({}, lambda: nn.Conv1d(6, 8, 5), {"weight": ("kernel", (5, 6, 8)), "bias": ("bias", (8,))}),
    "Conv2D": (
        {"groups": 2, "strides": [2, 2]},
        lambda: nn.Conv2d(6, 8, 3, stride=2, groups=2),
        {"weight": ("kernel", (3, 3, 3, 8)), "bias": ("bias", (8,))},
    ),
    "Conv2DTranspose": ({}, lambda: nn.ConvTranspose2d(6, 8, 3, stride=2), {"weight": ("kernel", (3, 3, 8, 6))}),
    "DepthwiseConv2D": (
        {"depth_multiplier": 3},
        lambda: nn.Conv2d(6, 18, 3, groups=6),
        {"weight": ("depthwise", (3, 3, 6, 3)), "bias": ("bias", (18,))},
    ),
    "DepthwiseConv1D": ({"depth_multiplier": 1}, lambda: nn.Conv1d(6, 6, 3, groups=6), {"weight": ("depthwise", (3, 6, 1))}),
    "Embedding": ({}, lambda: nn.Embedding(30, 5), {"weight": ("embeddings", (30, 5))}),
    "LSTM": (
        {},
        lambda: nn.LSTM(6, 8),
        {"weight_ih_l0": ("kernel", (6, 32)), "weight_hh_l0": ("recurrent", (8, 32))},
    ),
    "LSTMCell": ({}, lambda: nn.LSTMCell(6, 8), {"weight_ih": ("kernel", (6, 32)), "weight_hh": ("recurrent", (8, 32))}),
    "GRU": ({}, lambda: nn.GRU(6, 8), {"weight_ih_l0": ("kernel", (6, 24)), "weight_hh_l0": ("recurrent", (8, 24))}),
    "SimpleRNN": ({}, lambda: nn.RNN(6, 8), {"weight_ih_l0": ("kernel", (6, 8)), "weight_hh_l0": ("recurrent", (8, 8))}),
    "MultiHeadAttention": (
        {"num_heads": 4, "key_dim": 6},
        lambda: nn.MultiheadAttention(24, 4),
        {"in_proj_weight": ("kernel", (24, 4, 6)), "out_proj.weight": ("kernel", (4, 6, 24))},
    ),
    "PReLU": ({}, lambda: nn.PReLU(7), {"weight": ("alpha", (7,))}),
    "LayerNormalization": ({}, lambda: nn.LayerNorm(7), {"weight": ("gamma", (7,)), "bias": ("beta", (7,))}),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_keras(kind: str) -> None:
    """Every random initializer in every variable of a layer."""
    config, module, variables = LAYERS[kind]
    for name, said in RANDOM.items():
        initializers = {f"{key}_initializer": said for key, _ in variables.values()}
        layer = {"class_name": kind, "config": {"name": "it", **config, **initializers}}
        draft = ported("keras", layer)
        plan = initconf.compile(nn.ModuleDict({"it": module()}), without_defaults(draft))
        assert draft.lost == []
        for parameter, (_, shape) in variables.items():
            law, mean, std = keras_law(said, shape)
            leaves = plan[f"it.{parameter}"].blocks or (plan[f"it.{parameter}"],)
            for leaf in leaves:
                assert isinstance(leaf.law, law), (name, parameter)
                assert leaf.mean == pytest.approx(mean, abs=1e-12), (name, parameter)
                assert leaf.std == pytest.approx(std, rel=1e-12), (name, parameter)


def test_attention_since_input_axes() -> None:
    """Since keras 3.15 the kernels of attention have the fans of a dense layer, and their initializers say `input_axes`."""
    config, module, _ = LAYERS["MultiHeadAttention"]
    said = {"class_name": "HeNormal", "config": {"seed": None, "input_axes": None, "output_axes": None}}
    draft = ported(
        "keras", {"class_name": "MultiHeadAttention", "config": {"name": "it", **config, "kernel_initializer": said}}
    )
    plan = initconf.compile(nn.ModuleDict({"it": module()}), without_defaults(draft))
    assert plan["it.out_proj.weight"].std == pytest.approx(math.sqrt(2 / 24))
    assert [block.std for block in plan["it.in_proj_weight"].blocks] == pytest.approx([math.sqrt(2 / 24)] * 3)


def test_a_convolutional_net_of_keras() -> None:
    """What keras 3.15.1 wrote of a Sequential model."""
    draft = of_file("keras", "keras_convnet.json")
    model = nn.ModuleDict(
        {
            "stem": nn.Conv2d(6, 8, 3, stride=2, groups=2),
            "norm": nn.BatchNorm2d(8),
            "dw": nn.Conv2d(8, 16, 3, groups=8),
            "up": nn.ConvTranspose2d(16, 10, 3),
            "act": nn.PReLU(10),
            "body": nn.Linear(196, 12),
            "ln": nn.LayerNorm(12),
            "mid": nn.Linear(12, 12, bias=False),
            "orth": nn.Linear(12, 12),
            "head": nn.Linear(12, 5),
            "mine": nn.Linear(5, 5),
        }
    )
    plan = initconf.compile(model, draft.scheme)
    stds = {
        "stem.weight": math.sqrt(2 / (3 * 9)),
        "norm.weight": 0,
        "dw.weight": math.sqrt(2 / (8 * 9 + 2 * 9)),
        "up.weight": math.sqrt(2 / (10 * 9)),
        "act.weight": 0,
        "body.weight": math.sqrt(0.3 / 12),
        "body.bias": 0.1,
        "mid.weight": 0.02 * CUT,
        "orth.weight": 1 / math.sqrt(12),
        "head.bias": 0,
    }
    for name, std in stds.items():
        assert plan[name].std == pytest.approx(std), name
    assert (plan["norm.weight"].mean, plan["head.bias"].mean) == (1, -1.5)
    assert isinstance(plan["orth.weight"].law, Orthogonal)
    assert isinstance(plan["head.weight"].law, Identity)
    assert {plan["mine.weight"].initializer, plan["mine.bias"].initializer} == {"keep"}
    assert draft.lost == [
        "config.layers[6].config (keras_convnet.json:1): SeparableConv2D 'sep' (depthwise_initializer, pointwise_initializer, "
        "bias_initializer): no module of torch.nn is known for it; write a rule",
        "keras_convnet.json: the seed of stem.kernel_initializer: here a parameter's values come from the spec's seed and its "
        "name",
    ]


def test_a_recurrent_net_of_keras() -> None:
    """What keras 3.15.1 wrote of a functional model."""
    inner = nn.ModuleDict({"lstm": nn.LSTM(4, 3), "out": nn.Linear(3, 3)})
    model = nn.ModuleDict(
        {
            "tokens": nn.Embedding(20, 6, padding_idx=0),
            "bi": nn.LSTM(6, 5, bidirectional=True),
            "gru": nn.GRU(10, 4),
            "rnn": nn.RNN(4, 4),
            "attention": nn.MultiheadAttention(4, 2),
            "inner": inner,
        }
    )
    draft = of_file("keras", "keras_sequence.json")
    assert draft.lost == []
    plan = initconf.initialize(model, draft.scheme).verify().plan
    forget = torch.zeros(20)
    forget[5:10] = 1
    for name in ("bias_ih_l0", "bias_ih_l0_reverse"):
        assert torch.equal(getattr(model["bi"], name), forget)
    assert not model["bi"].bias_hh_l0.any()
    assert torch.allclose(model["bi"].weight_hh_l0.T @ model["bi"].weight_hh_l0, torch.eye(5), atol=1e-6)
    assert torch.equal(model["rnn"].weight_hh_l0, torch.eye(4))
    assert plan["gru.bias_hh_l0"].std == pytest.approx(0.4 / math.sqrt(12))
    assert torch.equal(inner["lstm"].bias_ih_l0, torch.full((12,), 0.5))
    assert not inner["lstm"].bias_hh_l0.any()
    assert any("padding_idx" in remark for remark in draft.remarks)


@pytest.mark.parametrize(
    ("kind", "config", "ih", "hh"),
    [
        ("LSTM", {"bias_initializer": "ones", "unit_forget_bias": False}, [1] * 4, [0] * 4),
        ("LSTM", {"bias_initializer": {"class_name": "Constant", "config": {"value": 3}}}, [3, 1, 3, 3], [0] * 4),
        ("LSTM", {"unit_forget_bias": False}, [0] * 4, [0] * 4),
        ("LSTM", {}, [0, 1, 0, 0], [0] * 4),
        ("GRU", {"bias_initializer": "ones"}, [1] * 3, [1] * 3),
        ("GRU", {"bias_initializer": "ones", "reset_after": False}, [1] * 3, [0] * 3),
        ("SimpleRNN", {"bias_initializer": "ones"}, [1], [0]),
    ],
    ids=["ones", "constant", "none", "forget", "gru", "before", "rnn"],
)
def test_torch_adds_two_biases(kind: str, config: dict[str, Any], ih: list[int], hh: list[int]) -> None:
    module = {"LSTM": nn.LSTM, "GRU": nn.GRU, "SimpleRNN": nn.RNN}[kind](3, 2)
    initconf.initialize(
        nn.ModuleDict({"it": module}), ported("keras", {"class_name": kind, "config": {"name": "it", **config}}).scheme
    )
    assert module.bias_ih_l0.tolist() == [n for n in ih for _ in range(2)]
    assert module.bias_hh_l0.tolist() == [n for n in hh for _ in range(2)]


@pytest.mark.parametrize(
    ("layer", "lost"),
    [
        ({"kernel_initializer": {"class_name": "Mine", "config": {}}}, "the initializer 'Mine' is not one of Keras' own"),
        ({"kernel_initializer": {"class_name": "Constant", "config": {"value": [1, 2]}}}, "the values are an array"),
        ({"kernel_initializer": {"class_name": "HeNormal", "config": {"input_axes": [0]}}}, "input_axes and output_axes"),
        ({"kernel_initializer": {"class_name": "HeNormal", "config": {"fan": 3}}}, "an argument 'fan' that is not known here"),
        ({"depthwise_initializer": "orthogonal"}, "Keras' matrix is not one of the parameter's here"),
        ({"unit_forget_bias": True, "recurrent_initializer": "identity"}, "Keras' identity lies across gates"),
        ({"unit_forget_bias": True, "bias_initializer": "glorot_uniform"}, "the length of Keras' bias"),
        ({"num_heads": 2, "key_dim": 3, "value_dim": 4}, "torch's has heads of one size"),
        ({"moving_mean_initializer": "ones", "moving_variance_initializer": "ones"}, "running statistics are buffers"),
        ({"equation": "ab,bc->ac", "kernel_initializer": "zeros"}, "no module of torch.nn is known for it"),
    ],
    ids=["custom", "array", "axes", "argument", "depthwise", "identity", "bias", "heads", "buffers", "einsum"],
)  # fmt: skip
def test_what_keras_has_and_torch_has_not(layer: dict[str, Any], lost: str) -> None:
    draft = ported("keras", {"name": "it", **layer})
    assert len(draft.lost) == 1
    assert lost in draft.lost[0]
    kept = [name for name, rule in draft.rules.items() if rule["initializer"] == "keep"]
    assert kept == [*draft.reasons]


@pytest.mark.parametrize(
    ("layer", "lost"),
    [
        (
            {"class_name": "Mine", "module": "my.layers", "config": {"name": "it"}, "registered_name": "My>Mine"},
            "config (config.json:1): Mine 'it' is no class of Keras",
        ),
        (
            {"class_name": "RNN", "config": {"name": "it", "cell": {"class_name": "StackedRNNCells", "config": {"cells": [
                {"class_name": "LSTMCell", "config": {"kernel_initializer": "zeros", "bias_initializer": None}}]}}}},
            "StackedRNNCells 'it' (kernel_initializer): no module of torch.nn is known for it",
        ),
        ({"class_name": "Dropout", "module": "keras.layers", "config": {"name": "it", "rate": 0.5}}, ""),
    ],
    ids=["own class", "stacked cells", "no variables"],
)  # fmt: skip
def test_layers_that_are_not_known(layer: dict[str, Any], lost: str) -> None:
    draft = ported("keras", layer)
    assert draft.rules == {}
    assert lost in "".join(draft.lost)
    assert bool(lost) == bool(draft.lost)


def test_a_variable_without_an_initializer_is_glorot_uniform_in_keras() -> None:
    draft = ported(
        "keras", {"class_name": "Dense", "config": {"name": "it", "kernel_initializer": None, "bias_initializer": None}}
    )
    plan = initconf.compile(nn.ModuleDict({"it": nn.Linear(6, 8)}), without_defaults(draft))
    assert plan["it.weight"].std == pytest.approx(math.sqrt(2 / 14))
    assert plan["it.bias"].std == pytest.approx(math.sqrt(1 / 8))
    assert isinstance(plan["it.bias"].law, Uniform)


# --- the scheme as a file --------------------------------------------------------------------------------------------

EVIL = [
    "${oc.env:HOME}",
    r"\${x}",
    r"\\${x}",
    "a'b",
    'a"b',
    "1e3",
    "null",
    "a: b",
    "#",
    "[",
    "\u2028",
    "ünïcode",
    "-",
    "? x",
    "a\nb",
    "{",
    "%",
]


def test_whatever_a_name_holds_the_file_says_the_same_as_the_mapping(tmp_path: Path) -> None:
    path = tmp_path / "ported.yaml"
    regexes: list[Any] = [[re.escape(text), "zero"] for text in EVIL]
    regexes += [["x", {"type": "pretrained", "weights_file_path": text}] for text in EVIL]
    odd = [
        {"class_name": "Dense", "config": {"name": text, "kernel_initializer": {"class_name": text, "config": {}}}}
        for text in EVIL
    ]
    drafts = [
        ported("allennlp", {"regexes": regexes}, "\n".join(["a", *EVIL])),
        ported("keras", {"class_name": "Sequential", "config": {"name": "x", "layers": odd}}),
        ported("mmengine", {"type": "Normal", "layer": [text for text in EVIL if "." not in text]}),
        ported("mmengine", [{"type": "Normal", "layer": text} for text in EVIL if "." not in text]),
    ]
    for draft in drafts:
        path.write_text(draft.text, encoding="utf-8")
        assert initconf.load(path) == initconf.load(without_defaults(draft))
        assert all(line.isprintable() for line in draft.text.split("\n"))
    rules = initconf.load(without_defaults(drafts[0])).rules
    for i, text in enumerate(EVIL):
        assert rules[f"regex_{i}"].search == re.escape(text)
        assert rules[f"regex_{i + len(EVIL)}"].initializer["path"] == text


def test_text() -> None:
    draft = ported(
        "allennlp",
        {"regexes": [["a", {"type": "block_orthogonal", "split_sizes": [2, 2]}], ["b", {"type": "constant", "val": 1}]]},
        "conf.json",
    )
    assert draft.text == (
        "# From conf.json: AllenNLP's InitializerApplicator (allennlp 2.10.1; lists of pairs: 0.9.0).\n"
        "# Not carried over:\n"
        "# - regexes[0] (conf.json:1): block_orthogonal splits a tensor by sizes, initconf by gates. Where split_sizes are "
        "the\n"
        "#   gates of an LSTM or a GRU write initializer: {name: orthogonal, gain: 1.0}, without `compat: torch`\n"
        "# To be known:\n"
        "# - a regex that matches nothing is an error here and was a warning there; `optional: true` allows it\n"
        "# - of a tied parameter a regex may match any name; AllenNLP looks at the first alone\n"
        "defaults:\n"
        "  - 'optional schema@_here_': base\n"
        "  - _self_\n"
        "initializer: keep\n"
        "unmatched: keep\n"
        "compat: torch\n"
        "rules:\n"
        "  regex_1: {search: b, initializer: {name: constant_, val: 1}}\n"
        "  # not carried over: block_orthogonal splits a tensor by sizes, initconf by gates. Where split_sizes are the gates "
        "of an\n"
        "  # LSTM or a GRU write initializer: {name: orthogonal, gain: 1.0}, without `compat: torch`\n"
        "  regex_0: {search: a, initializer: keep}\n"
    )
    spec = initconf.load(draft.scheme, ["gain=0.5", "rules.regex_1.initializer=zeros"])  # no `+` is needed
    assert (spec.gain, spec.rules["regex_1"].initializer) == (0.5, "zeros")


def test_rules_of_one_name_are_told_apart() -> None:
    config = {"type": "Normal", "layer": "Linear"}
    assert [*ported("mmengine", [config, config]).rules] == ["Linear", "Linear_bias", "Linear_2", "Linear_bias_2"]


# --- what is refused -------------------------------------------------------------------------------------------------

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
READING: list[tuple[str, str, str]] = [
    ("nothing", "", "config.json: it is empty"),
    ("a word", "hello", "config.json: not a mapping of settings"),
    ("a number", "3", "config.json: neither a mapping nor a list"),
    ("an empty list", "[]", "config.json: it is empty"),
    ("half", '{"regexes": [\n["a", "zero"]\n', "config.json:3: not YAML: while parsing a flow sequence"),
    ("a bomb", BOMB, "config.json: cannot be read: it holds too many values, or an alias of itself"),
    ("code", "a: !!python/object/apply:os.system ['true']", "could not determine a constructor for the tag"),
    ("deep", '{"a":' * 5000 + "1" + "}" * 5000, "config.json: cannot be read: it is nested too deeply"),
    ("too deep", '{"a":' * 100 + "1" + "}" * 100, "the configuration is nested too deeply"),
    ("an integer of many digits", '{"a": ' + "1" * 5000 + "}", "config.json: cannot be read"),
    ("a control character", '{"a": "\x07"}', "config.json: cannot be read"),
]


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(("text", "said"), [pytest.param(text, said, id=name) for name, text, said in READING])
def test_what_cannot_be_read(text: str, said: str, system: str) -> None:
    assert said in refused(system, text)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ('{\n"a": 1 + 2}', 2, None),
        ('local x = 3;\n{"regexes": []}', None, None),
        ('{\n  local x = 3,\n"regexes": []}', 2, "'local'"),
        ('{"regexes":\n std.extVar("X")}', 2, "'std'"),
        ('{"regexes":\n [["a" + "b", "zero"]]}', 2, "'\" +'"),
        ('{"regexes": [],\n hidden:: 3}', 2, "'::'"),
        ("{\n'regexes': [['a\\\\.b', 'zero']]}", 2, "a string in single quotes with a backslash"),
    ],
    ids=["sum", "local", "inside", "std", "concatenation", "hidden", "quotes"],
)
def test_jsonnet_is_not_evaluated(text: str, line: int | None, what: str | None) -> None:
    said = refused("allennlp", text, "config.jsonnet")
    assert "evaluate Jsonnet first: jsonnet FILE > FILE.json" in said
    if what is not None:
        assert f"config.jsonnet:{line}: it is Jsonnet ({what}), which is not evaluated here" in said


def test_what_looks_like_jsonnet_in_strings_and_comments_is_read() -> None:
    text = (
        '{"regexes": [ // local x = 3; it\'s "fine"\n\t["local:: $", "zero"], /* std.x */ # for y in z\n'
        '["http://x", "zero"],\n]}'
    )
    assert [rule["search"] for rule in ported("allennlp", text).rules.values()] == ["http://x", "local:: $"]
    assert ported("allennlp", "regexes:\n- ['a\\.b', zero]\n", "a.yaml").rules["regex_0"]["search"] == r"a\.b"


WRONG: dict[str, dict[str, tuple[Any, str]]] = {
    "allennlp": {
        "no applicator": ({"model": {"type": "x"}}, "config.json: holds no initializer: neither `regexes`"),
        "only inside": ({"model": {"encoder": {"initializer": {"regexes": []}}}}, "there is one at model.encoder.initializer"),
        "a key": ({"regexes": [], "prevent": []}, "prevent  (config.json:1): not a key of an applicator"),
        "no pair": ({"regexes": [["a"]]}, "regexes[0]  (config.json:1): not a pair of a regex and an initializer"),
        "no list": ({"regexes": "a"}, "regexes = 'a'  (config.json:1): not a list"),
        "no regex": ({"regexes": [[3, "zero"]]}, "regexes[0][0] = 3  (config.json:1): a regex is a string"),
        "a bad regex": (
            '{"regexes": [\n["(", "zero"]]}',
            "regexes[0], search = '('  (config.json:2): the pattern does not compile",
        ),
        "no initializer": ({"regexes": [["a", "zeroo"]]}, "AllenNLP has no initializer 'zeroo'\n  -> did you mean 'zero'?"),
        "null": ({"regexes": [["a", None]]}, "regexes[0][1] = None  (config.json:1): not an initializer"),
        "an argument": ('{"regexes": [\n\n["a", {"type": "normal", "sd": 3}]]}', "(config.json:3): normal_ does not take 'sd'"),
        "a value": ({"regexes": [["a", {"type": "normal", "std": -1}]]}, "regexes[0], std = -1  (config.json:1): it should be"),
        "an expression": ({"regexes": [["a", {"type": "normal", "std": "1/fan_in"}]]}, "regexes[0], std = '1/fan_in'"),
        "an infinite value": ('{"regexes": [["a", {"type": "normal", "std": 1e999}]]}', "regexes[0], std = inf"),
        "a missing value": ({"regexes": [["a", "constant"]]}, "constant_ needs val"),
        "a gain": ({"regexes": [["a", {"type": "uniform_unit_scaling", "nonlinearity": "gelu"}]]}, "nonlinearity = 'gelu'"),
        "an own argument": ({"regexes": [["a", {"type": "lstm_hidden_bias", "x": 1}]]}, "lstm_hidden_bias does not take 'x'"),
        "no file": ({"regexes": [["a", "pretrained"]]}, "pretrained needs weights_file_path"),
    },
    "mmengine": {
        "no init_cfg": ({"model": {"type": "ResNet"}}, "config.json: holds no init_cfg"),
        "a type": ({"type": "Kaming", "layer": "Conv2d"}, "type = 'Kaming'  (config.json:1): MMEngine has no such initializer"),
        "no type": ({"init_cfg": {"layer": "Linear"}}, "init_cfg  (config.json:1): not a mapping with a `type`"),
        "another argument": (
            {"type": "Normal", "stdd": 1, "layer": "Linear"},
            "stdd = 1  (config.json:1): Normal does not take",
        ),
        "another value": (
            {"type": "Normal", "std": "x", "layer": "Linear"},
            "std = 'x'  (config.json): it should be a valid number",
        ),
        "a bias": ({"type": "Normal", "bias": "x", "layer": "Linear"}, "val = 'x'"),
        "a layer": ({"type": "Normal", "layer": [3]}, "layer  (config.json:1): not the name of a class"),
        "a distribution": ({"type": "Xavier", "distribution": "n", "layer": "Linear"}, "neither 'uniform' nor 'normal'"),
        "no value": ({"type": "Constant", "layer": "Linear"}, "config.json: Constant needs `val`"),
        "no name": ({"type": "Xavier", "override": {"type": "Normal"}}, "an override is a mapping with the `name`"),
        "a dotted name": ({"type": "Xavier", "override": {"name": "a.b"}}, "a name has no dots"),
        "no type but more": ({"type": "Xavier", "override": {"name": "a", "gain": 3}}, "needs a `type`"),
        "no override": ({"type": "Xavier", "override": 3}, "override = 3  (config.json:1): not a mapping"),
    },
    "llm-foundry": {
        "no model": ({"optimizer": {}}, "config.json: holds no init_config, and no model of MPT's kind (d_model)"),
        "another name": ({"name": "kaiming_"}, "name = 'kaiming_'  (config.json:1): llm-foundry has no initialisation"),
        "no std": ({"name": "baseline_"}, "baseline_ needs init_std"),
        "a negative std": ({"name": "baseline_", "init_std": -1}, "std = -1  (config.json): it should be"),
        "a huge model": ({"model": {"d_model": 10**300, "init_config": {"name": "small_init_"}}}, "longer than 200 characters"),
        "a mode": ({"fan_mode": "fan_avg"}, "neither 'fan_in' nor 'fan_out'"),
        "a nonlinearity": ({"init_nonlinearity": "gelu"}, "calculate_gain of torch does not know it"),
        "a division": ({"init_div_is_residual": "4.5"}, "init_div_is_residual = '4.5'  (config.json:1): not a number"),
        "a division by zero": ({"init_div_is_residual": 0}, "nothing to divide by"),
        "an interpolation": ({"emb_init_std": "${x.std}"}, "not a number\n  -> interpolations are not resolved here"),
        "limits": ({"emb_init_uniform_lim": [1, 2, 3]}, "not two limits"),
        "limits the wrong way round": ({"emb_init_uniform_lim": "x"}, "not a limit, nor a list of two"),
    },
    "keras": {
        "no layers": ({"class_name": "Mine", "config": {"name": "x", "layers": []}}, "holds no layers of a Keras model"),
        "no layer": ({"units": 3}, "holds no layers of a Keras model"),
        "a scale": (
            {"kernel_initializer": scaling(0, "fan_in", "uniform")},
            "kernel_initializer.config.scale = 0  (config.json:1): not above 0",
        ),
        "a mode of Keras": ({"kernel_initializer": scaling(1, "fan_sum", "uniform")}, "not a mode of Keras"),
        "a distribution of Keras": ({"kernel_initializer": scaling(1, "fan_in", "cauchy")}, "not a distribution of Keras"),
        "an infinite number": (
            '{"kernel_initializer": {"class_name": "TruncatedNormal", "config": {"stddev": 1e999}}}',
            "kernel_initializer.config.stddev = inf  (config.json:1): not a finite number",
        ),
        "a number of Keras": (
            {"kernel_initializer": {"class_name": "RandomNormal", "config": {"stddev": "x"}}},
            "stddev = 'x'",
        ),
        "a negative std": (
            {"kernel_initializer": {"class_name": "RandomNormal", "config": {"stddev": -1}}},
            "kernel_initializer, std = -1",
        ),
    },
}


@pytest.mark.parametrize(
    ("system", "name"), [pytest.param(system, name, id=f"{system}-{name}") for system, rows in WRONG.items() for name in rows]
)
def test_what_the_other_system_would_refuse(system: str, name: str) -> None:
    config, said = WRONG[system][name]
    assert said in refused(system, config)


def test_configurations_in_python_are_not_run() -> None:
    said = refused("mmengine", "model = dict(init_cfg=dict(type='Kaiming'))", "retinanet.py")
    assert said.startswith("retinanet.py: a configuration in Python is not run\n  -> write it out as JSON: ")


WORDS = (
    "Kaiming Constant Dense LSTM Bidirectional zero normal prevent orthogonal glorot_uniform xavier_normal_ small_init_".split()
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=6
)
WHOLE: dict[str, Any] = {
    "allennlp": [{"model": {"initializer": config}} for config in CONFIGS.values()],
    "mmengine": [*INIT_CFGS.values(), json.loads((DATA / "detector.json").read_text())],
    "llm-foundry": [{"model": {"d_model": 8, "n_heads": 2, "init_config": said}} for said in INIT_CONFIGS.values()],
    "keras": [json.loads((DATA / f"keras_{name}.json").read_text()) for name in ("convnet", "sequence")],
}


def spoilt(data: Any, value: Any, draw: Callable[[int], int]) -> Any:
    """The data with something in it replaced by a value; `draw(n)` is a number below n."""
    if not isinstance(data, (dict, list)) or not data or draw(4) == 0:
        return value
    key = list(data)[draw(len(data))] if isinstance(data, dict) else draw(len(data))
    copied = copy.copy(data)
    copied[key] = spoilt(data[key], value, draw)
    return copied


@pytest.mark.parametrize("system", SYSTEMS)
@settings(max_examples=30)
@given(data=st.data())
def test_nothing_but_an_initconf_error(system: str, data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(WHOLE[system]))
    config = spoilt(config, data.draw(VALUES), lambda n: data.draw(st.integers(0, n - 1)))
    try:
        draft = ported(system, config)
    except InitConfError:
        return
    initconf.load(without_defaults(draft))


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(DATA)

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["import", *words])
        return code, *capsys.readouterr()

    return run


FILES = {"allennlp": "esim.json", "mmengine": "detector.json", "llm-foundry": "mpt.yaml", "keras": "keras_sequence.json"}


@pytest.mark.parametrize("system", SYSTEMS)
def test_command(system: str, command: Any, tmp_path: Path) -> None:
    code, out, err = command(system, FILES[system])
    assert code == 0
    draft = of_file(system, FILES[system])
    assert out == draft.text
    assert err == "".join(f"warning: not carried over: {text}\n" for text in draft.lost)
    target = tmp_path / "ported.yaml"
    assert command(system, FILES[system], "--output", str(target)) == (0, "", f"{err}the scheme is in {target}\n")
    assert target.read_text(encoding="utf-8") == out
    spec = initconf.load(target)
    code, out, _ = command(system, FILES[system], "--json")
    told = json.loads(out)
    assert (code, told["not_carried"]) == (0, draft.lost)
    assert initconf.load(told["scheme"]) == spec


def test_standard_input(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (DATA / "esim.json").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    code, out, err = command("allennlp", "-")
    assert code == 0
    assert out.startswith("# From <stdin>: AllenNLP's")
    assert out.partition("\nrules:")[2] == of_file("allennlp", "esim.json").text.partition("\nrules:")[2]
    assert "(<stdin>:17)" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["alennlp", "esim.json"], "SYSTEM = 'alennlp': initconf knows no such system\n  -> did you mean 'allennlp'?\n"),
        (["keras", "nothing.json"], "nothing.json: there is no such file\n"),
        (["keras", "."], ".: cannot be read: Is a directory\n"),
        (["keras", "esim.json", "--output", "no/such/place.yaml"], "holds no layers of a Keras model"),
        (
            ["llm-foundry", "mpt.yaml", "--output", "no/such/place.yaml"],
            "'no/such/place.yaml': cannot be written: No such file",
        ),
        (["keras", sys.executable], "cannot be read: it "),
    ],
    ids=["system", "missing", "folder", "kind", "output", "binary"],
)
def test_command_refuses(words: list[str], said: str, command: Any) -> None:
    code, out, err = command(*words)
    assert (code, out) == (1, "")
    assert said in err


def test_it_loads_no_torch() -> None:
    calls = "\n".join(f"main(['import', {system!r}, {str(DATA / name)!r}])" for system, name in FILES.items())
    code = f"import sys\nfrom initconf.cli import main\n{calls}\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "False"

"""llm-foundry's `init_config` of MPT models: one function for all weights, some divided, embeddings on their own.

Source: llm-foundry 0.22.0, models/utils/param_init_fns.py, models/utils/config_defaults.py, models/layers/attention.py and
models/layers/ffn.py: `out_proj` and `down_proj` are what it marks as residual, `Wq`, `Wk`, `Wv` and `Wqkv` as fused by heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, get_args

from initconf.errors import did_you_mean
from initconf.initializers.torch_init import TorchGain
from initconf.porting.documents import At, Document
from initconf.porting.drafts import Draft, Formula

HOW = "take the YAML of the training run or the checkpoint's config.json"
SYSTEM = "llm-foundry's init_config of MPT (llm-foundry 0.22.0)"

_DEFAULTS: dict[str, Any] = {
    "name": "kaiming_normal_",
    "fan_mode": "fan_in",
    "init_nonlinearity": "relu",
    "init_div_is_residual": True,
    "emb_init_std": None,
    "emb_init_uniform_lim": None,
    "init_std": None,
    "init_gain": 0.0,
}
_NAMES = "default_ baseline_ small_init_ neox_init_ kaiming_uniform_ kaiming_normal_ xavier_uniform_ xavier_normal_".split()
_TORCH_GAINS: tuple[str, ...] = get_args(TorchGain)
_RESIDUAL = r"(^|\.)(out_proj|down_proj)\.weight$"
_FUSED = r"(^|\.)W(q|k|v|qkv)\.weight$"
_ROLES: dict[str, dict[str, Any]] = {
    "norm_scale": {"role": "norm_scale", "initializer": "ones", "optional": True},
    "norm_shift": {"role": "norm_shift", "initializer": "zeros", "optional": True},
    "bias": {"role": "bias", "initializer": "zeros", "optional": True},
}


def port(document: Document) -> Draft:
    """The scheme of an `init_config`, of a model's configuration or of a training's.

    Raises SpecError where there is none, and for what llm-foundry would refuse.
    """
    at, around = _place(document)
    said = document.value(at)
    if said is not None and not isinstance(said, dict):
        raise document.wrong(at, "not a mapping")
    draft = Draft(document, SYSTEM, {}, at)
    config = {**_DEFAULTS, **(said or {})}
    for key in said or {}:
        if key not in _DEFAULTS:
            draft.lose((*at, key), f"llm-foundry takes no notice of {key!r}; {did_you_mean(key, _DEFAULTS)}")
    if config["name"] not in _NAMES:
        raise document.wrong(
            (*at, "name"), "llm-foundry has no initialisation of this name", did_you_mean(str(config["name"]), _NAMES)
        )
    if config["name"] == "default_":
        rule = {"glob": "*", "initializer": {"name": "module_default", "otherwise": "keep"}}
        draft.settings.update(initializer=rule["initializer"], unmatched="keep")
        draft.add("all", at, rule)
        return draft
    work = _Port(draft, at, config, around)
    work.weights()
    work.embeddings()
    work.residual()
    draft.remarks.append("layers are known by MPT's names: residual are out_proj and down_proj, fused Wq, Wk, Wv and Wqkv")
    for key, text in _FEED_FORWARD.items():
        if isinstance(around.get("ffn_config"), Mapping) and around["ffn_config"].get("ffn_type") == key:
            draft.lose((*at[:-1], "ffn_config", "ffn_type"), text)
    return draft


_FEED_FORWARD = {
    "te_ln_mlp": "llm-foundry itself fails to initialise te_ln_mlp; here its layers get the scheme's own initializer",
    "mb_moe": "megablocks' experts are stacked: their fans have to be said in `layouts`",
    "mb_dmoe": "megablocks' experts are stacked: their fans have to be said in `layouts`",
}


def _place(document: Document) -> tuple[At, Mapping[str, Any]]:
    """Where the init_config stands, and the model's configuration around it."""
    data = document.data
    if isinstance(data, dict):
        for at in (("model",), ()):
            model = document.value(at)
            if isinstance(model, dict) and ("init_config" in model or "d_model" in model):
                return (*at, "init_config"), model
        if set(data) & set(_DEFAULTS) and not isinstance(data.get("model"), dict):
            return (), {}
    raise document.wrong((), "holds no init_config, and no model of MPT's kind (d_model)")


class _Port:
    """The settings and rules of one init_config."""

    def __init__(self, draft: Draft, at: At, config: dict[str, Any], around: Mapping[str, Any]) -> None:
        self.draft, self.document, self.at = draft, draft.document, at
        self.config, self.around = config, around
        self.name: str = config["name"]

    def weights(self) -> None:
        """What every linear layer receives, and norms and biases."""
        settings = self.draft.settings
        if self.name == "baseline_":
            if self.config["init_std"] is None:
                raise self.document.wrong((*self.at, "init_std"), "baseline_ needs init_std")
            settings["initializer"] = {"name": "normal", "std": self._number("init_std")}
        elif self.name in ("small_init_", "neox_init_"):
            settings["initializer"] = {"name": "normal", "std": Formula(f"sqrt(2/(5*{self._width('fan_in')}))")}
        else:
            settings.update(self._scaled())
        settings["unmatched"] = "error"
        for name, rule in _ROLES.items():
            self.draft.add(name, self.at, rule)
        if "initializer" in settings and settings["initializer"] == "variance_scaling" and settings["mode"] != "fan_in":
            self._heads(settings)

    def _scaled(self) -> dict[str, Any]:
        kind, ending = self.name.split("_")[:2]
        distribution = {"uniform": "uniform", "normal": "untruncated_normal"}[ending]
        gain = self._number("init_gain")
        scaled: dict[str, Any] = {"initializer": "variance_scaling", "distribution": distribution}
        if kind == "xavier":
            if gain == 0:
                text = "init_gain is 0, its default: Xavier weights are all 0, here as there. 1 is Xavier's own"
                self.draft.warn((*self.at, "init_gain"), text)
            return {**scaled, "mode": "fan_avg", "nonlinearity": "linear", "gain": abs(gain)}
        mode, nonlinearity = self.config["fan_mode"], self.config["init_nonlinearity"]
        if mode not in ("fan_in", "fan_out"):
            raise self.document.wrong((*self.at, "fan_mode"), "neither 'fan_in' nor 'fan_out'")
        if nonlinearity not in _TORCH_GAINS:
            known = did_you_mean(str(nonlinearity), _TORCH_GAINS)
            raise self.document.wrong((*self.at, "init_nonlinearity"), "calculate_gain of torch does not know it", known)
        if nonlinearity == "leaky_relu":
            nonlinearity = {"name": "leaky_relu", "negative_slope": gain}
        return {**scaled, "mode": mode, "nonlinearity": nonlinearity, "gain_method": "torch"}

    def _heads(self, settings: Mapping[str, Any]) -> None:
        """The projections of attention, each head of which has fans of its own there: fan_out is the head's size."""
        size = self._head_size()
        where = (*self.at, "name")
        if size is None:
            self.draft.lose(
                where, "Wqkv has the fans of single heads there; the size of a head is d_model / n_heads, not in the file"
            )
            return
        wider = f"fan_out/{size}" if settings["mode"] == "fan_out" else f"(fan_in+fan_out)/(fan_in+{size})"
        own = settings.get("gain", 1)
        gain = f"sqrt({wider})" if own == 1 else f"{own!r}*sqrt({wider})"
        self.draft.add("heads", where, {"search": _FUSED, "gain": Formula(gain), "optional": True})

    def _head_size(self) -> int | None:
        size, width, heads = (self.around.get(key) for key in ("head_dim", "d_model", "n_heads"))
        if isinstance(size, int):
            return size
        return width // heads if isinstance(width, int) and isinstance(heads, int) and heads > 0 else None

    def embeddings(self) -> None:
        """Tables, tied heads too."""
        std, limits = self.config["emb_init_std"], self.config["emb_init_uniform_lim"]
        initializer: dict[str, Any]
        if std is not None:
            initializer, where = {"name": "normal", "std": self._number("emb_init_std")}, "emb_init_std"
        elif limits is not None:
            where = "emb_init_uniform_lim"
            low, high = self._limits(limits)
            initializer = {"name": "uniform", "low": low, "high": high}
        elif self.draft.settings["initializer"] == "variance_scaling":
            where, initializer = "name", {"name": "variance_scaling", "in_axes": 1, "out_axes": 0}  # (V, D) as torch reads it
        elif self.name == "baseline_":
            where, initializer = "name", dict(self.draft.settings["initializer"])
        else:
            where, initializer = "name", {"name": "normal", "std": Formula(f"sqrt(2/(5*{self._width('fan_out')}))")}
        self.draft.add("embedding", (*self.at, where), {"role": "embedding", "initializer": initializer, "optional": True})

    def _limits(self, limits: Any) -> tuple[float, float]:
        at = (*self.at, "emb_init_uniform_lim")
        if not isinstance(limits, list):
            limit = abs(self.document.number(at, "a limit, nor a list of two"))
            return -limit, limit
        if len(limits) != 2:
            raise self.document.wrong(at, "not two limits")
        low, high = (self.document.number((*at, i)) for i in range(2))
        return low, high

    def residual(self) -> None:
        """The layers that end a residual branch, whose weights are divided."""
        divided = self.config["init_div_is_residual"]
        at = (*self.at, "init_div_is_residual")
        if self.name == "neox_init_":
            factor = "sqrt(10)/n_layers"
        elif divided is False:
            return
        elif divided is True:
            factor = "1/sqrt(2*n_layers)"
        else:
            number = float(divided) if isinstance(divided, str) and divided.isnumeric() else self.document.number(at)
            if not number > 0 or not math.isfinite(number):
                raise self.document.wrong(at, "nothing to divide by")
            factor = f"1/{number!r}"
        own = self.draft.settings.get("gain", 1)
        rule: dict[str, Any] = {"search": _RESIDUAL, "gain": Formula(factor if own == 1 else f"{own!r}*{factor}")}
        if "fan_in" in str(self.draft.settings["initializer"]):  # of these layers it is the output that has the model's width
            del rule["gain"]
            rule["initializer"] = {
                "name": "normal",
                "std": Formula(f"sqrt(2/(5*{self._width('fan_out')}))"),
                "gain": Formula(factor),
            }
        self.draft.add("residual", at, rule)

    def _width(self, fan: str) -> str:
        """The model's width: as it is said beside the init_config, else the side of the layer that has it."""
        width = self.around.get("d_model")
        return str(width) if isinstance(width, int) and width > 0 else fan

    def _number(self, key: str) -> int | float:
        return self.document.number((*self.at, key)) if key in (self.document.value(self.at) or {}) else self.config[key]

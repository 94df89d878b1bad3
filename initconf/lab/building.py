"""From a node with `_target_` to an object, and from the node `model` to a model that fits the data."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

import hydra
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from initconf.errors import InitConfError, Problem, did_you_mean

log = logging.getLogger(__name__)

HYDRA_1_4 = tuple(map(int, hydra.__version__.split(".")[:2])) >= (1, 4)

OTHER_DATA = {
    "vocab_size": "choose data=text",
    "in_features": "choose data=digits",
    "in_channels": "choose data=digits",
    "num_tasks": "choose data=digits_tasks",
}


def make(node: DictConfig) -> Any:
    """Instantiate `node`. Raises Hydra's InstantiationException."""
    # Hydra 1.4 wants to be told which targets may be called. Whoever starts the lab chose all of them.
    whitelist = {"_execution_whitelist_": _targets(OmegaConf.to_container(node))} if HYDRA_1_4 else {}
    return instantiate(node, **whitelist)


def build(cfg: DictConfig, sizes: Mapping[str, int], typed: Collection[str] = ()) -> nn.Module:
    """Build `cfg.model`, with the data's `sizes` for those arguments that it takes and the configuration leaves open.

    `typed` names the arguments that stand on the command line. If `_target_` is one of them, the chosen file was
    written for another model: those of its arguments that the new one does not take are dropped, and a log line says
    which. Raises InitConfError for any other argument that the model does not take and for one that nothing gives.
    """
    node: DictConfig = deepcopy(cfg).model  # a copy of the whole, for interpolations to other nodes
    target = node._target_
    try:
        takes = inspect.signature(get_object(target)).parameters
    except (ImportError, ValueError, TypeError) as err:
        remedy = "a class or function by its dotted path; the folder you start from is on the path of `python -m`"
        raise InitConfError(Problem(str(err), "model._target_", str(target), remedy=remedy)) from err
    named = {n for n, p in takes.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in takes.values())

    given = [str(key) for key in node if not (str(key).startswith("_") and str(key).endswith("_"))]
    unknown = [key for key in given if key not in named]
    # What the command line says for `**kwargs` is passed on; what another model's file says for them is not.
    foreign = [key for key in unknown if "_target_" in typed and key not in typed]
    refused = [] if open_ended else [key for key in unknown if key not in foreign]
    if refused:
        raise InitConfError(
            Problem(f"{target} takes no argument {key!r}", f"model.{key}", str(node[key]), remedy=did_you_mean(key, named))
            for key in refused
        )
    if foreign:
        log.info("model: %s takes no %s: dropped from the chosen model file", target, ", ".join(foreign))
    with open_dict(node):
        for key in foreign:
            del node[key]
        for key in named & set(sizes):
            if node.get(key) is None:
                node[key] = sizes[key]
    _refuse_missing(node, takes, sizes)
    model = make(node)
    if not isinstance(model, nn.Module):
        raise InitConfError(Problem(f"made a {type(model).__name__}, not a torch.nn.Module", "model._target_", target))
    return model


def _refuse_missing(node: DictConfig, takes: Mapping[str, inspect.Parameter], sizes: Mapping[str, int]) -> None:
    """Raise InitConfError if an argument without a default is neither in the configuration nor one of the sizes."""
    required = [n for n, p in takes.items() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    missing = [name for name in required if name not in node]
    if missing and "_args_" not in node:
        known = ", ".join(f"{name}={size}" for name, size in sizes.items())
        remedy = f"the data gives {known}; " + OTHER_DATA.get(missing[0], f"give the rest yourself: +model.{missing[0]}=…")
        raise InitConfError(Problem(f"{node._target_} needs {', '.join(missing)}", "model", remedy=remedy))


def _targets(node: Any) -> list[str]:
    """Every `_target_` in a plain container, at whatever depth."""
    if isinstance(node, list):
        return [target for item in node for target in _targets(item)]
    if not isinstance(node, dict):
        return []
    own = [node["_target_"]] if isinstance(node.get("_target_"), str) else []
    return own + [target for value in node.values() for target in _targets(value)]

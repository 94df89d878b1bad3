"""MMEngine's `init_cfg`: initializers by class name, and for single attributes, applied one after the other.

Source: mmengine 0.10.7, model/weight_init.py and model/base_module.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from initconf.errors import did_you_mean
from initconf.porting.documents import At, Document
from initconf.porting.drafts import Draft

HOW = "write it out as JSON: python -c \"from mmengine import Config; Config.fromfile('FILE.py').dump('FILE.json')\""
SYSTEM = "MMEngine's init_cfg (mmengine 0.10.7)"

_TYPES: dict[str, tuple[str, ...]] = {
    "Constant": ("val",),
    "Xavier": ("gain", "distribution"),
    "Normal": ("mean", "std"),
    "TruncNormal": ("mean", "std", "a", "b"),
    "Uniform": ("a", "b"),
    "Kaiming": ("a", "mode", "nonlinearity", "distribution"),
    "Caffe2Xavier": (),
    "Pretrained": ("checkpoint", "prefix", "map_location"),
}
"""The initializers and their own arguments; all but the last take `bias` and `bias_prob` too."""


def port(document: Document) -> Draft:
    """The scheme of an `init_cfg`, of a model's configuration or of a whole one.

    Raises SpecError where there is no `init_cfg`, and for what MMEngine would refuse.
    """
    draft = Draft(document, SYSTEM, {"initializer": "keep", "unmatched": "keep", "compat": "torch"})
    found = list(_found(document.data))
    if not found:
        remedy = "an init_cfg that a module sets in its own code is in no file: write it into one"
        raise document.wrong((), "holds no init_cfg", remedy)
    for at, prefix, last in found:
        _apply(draft, at, prefix, last)
    draft.remarks.append(
        "`module` also holds for classes that are derived at second hand; MMEngine asks for the class itself or a direct base"
    )
    draft.remarks.append("what modules do in their own code (an init_cfg or an init_weights of theirs) is not in the file")
    if any(prefix for _, prefix, _ in found):
        draft.remarks.append(
            "a module's name is taken for its path in the configuration; MMEngine passes by what is inside of a plain container"
        )
    return draft


def _found(data: Any) -> Iterator[tuple[At, tuple[str, ...], bool]]:
    """(path, the module's name in parts, whether to load what is pretrained) of each init_cfg, in order.

    A module's own comes before those of its children, which are so stronger; what is pretrained comes last.
    """
    if _is_init_cfg(data):
        yield from (((), (), last) for last in (False, True))
    elif isinstance(data, dict) and "init_cfg" not in data and isinstance(data.get("model"), dict):
        yield from _below(data["model"], ("model",), ())
    else:
        yield from _below(data, (), ())


def _below(data: Any, here: At, prefix: tuple[str, ...]) -> Iterator[tuple[At, tuple[str, ...], bool]]:
    own = isinstance(data, dict) and bool(data.get("init_cfg"))
    if own:
        yield (*here, "init_cfg"), prefix, False
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in children:
        if key != "init_cfg":
            yield from _below(value, (*here, key), (*prefix, str(key)))
    if own:
        yield (*here, "init_cfg"), prefix, True


def _is_init_cfg(data: Any) -> bool:
    first = data[0] if isinstance(data, list) else data
    return isinstance(first, dict) and (_kind(first.get("type")) in _TYPES or bool({"layer", "override"} & set(first)))


def _kind(said: Any) -> str:
    """The name of an initializer; a class may be said by its dotted path."""
    return str(said).rpartition(".")[2].removesuffix("Init")


def _apply(draft: Draft, at: At, prefix: tuple[str, ...], pretrained: bool) -> None:
    """The rules of one init_cfg: of its checkpoints, or of all else."""
    document, said = draft.document, draft.document.value(at)
    for where in [(*at, i) for i in range(len(said))] if isinstance(said, list) else [at]:
        one = document.value(where)
        if not isinstance(one, dict) or "type" not in one:
            raise document.wrong(where, "not a mapping with a `type`")
        if (_kind(one["type"]) == "Pretrained") == pretrained:
            _one(draft, where, prefix)


def _one(draft: Draft, at: At, prefix: tuple[str, ...]) -> None:
    document, said = draft.document, draft.document.value(at)
    if _kind(said["type"]) == "Pretrained":
        _pretrained(draft, at, prefix)
        return
    weight, bias = _initializers(document, at, said)
    layers = said.get("layer") or []
    layers = [layers] if isinstance(layers, str) else layers
    if not isinstance(layers, list) or not all(isinstance(layer, str) for layer in layers):
        raise document.wrong((*at, "layer"), "not the name of a class, nor a list of such names")
    overrides = said.get("override")
    if not layers and overrides is None:
        draft.lose(at, "it has neither `layer` nor `override`: MMEngine does nothing with it, and so does this")
    if dotted := [layer for layer in layers if "." in layer]:
        draft.lose((*at, "layer"), f"the name of a class has no dots: MMEngine finds no {' and no '.join(dotted)}")
        layers = [layer for layer in layers if layer not in dotted]
    name = "_".join(prefix) or "init_cfg"
    if layers:
        label = "_".join([*prefix, *layers]) if len(layers) < 4 else name
        _rules(draft, label, at, {"module": layers}, prefix, (weight, bias), optional=True)
    for where in _overrides(document, at, overrides):
        own = document.value(where)
        if not isinstance(own, dict) or not isinstance(own.get("name"), str) or not own["name"]:
            raise document.wrong(where, "an override is a mapping with the `name` of an attribute")
        if "." in own["name"]:
            raise document.wrong((*where, "name"), "MMEngine looks for an attribute of this very name, and a name has no dots")
        if len(own) > 1 and "type" not in own:
            raise document.wrong(where, "an override with arguments of its own needs a `type`")
        inner = (*prefix, own["name"])
        if _kind(own.get("type")) == "Pretrained":
            _pretrained(draft, where, inner)
        else:
            both = _initializers(document, where, own) if "type" in own else (weight, bias)
            _rules(draft, f"{name}_{own['name']}", where, {}, inner, both, optional=False)


def _pretrained(draft: Draft, at: At, prefix: tuple[str, ...]) -> None:
    said = draft.document.value(at)
    _checked(draft.document, at, said)
    whole = f"the module {'.'.join(prefix)!r}" if prefix else "the model"
    text = (
        f"Pretrained loads what fits from {said.get('checkpoint')!r} into {whole}. Do that after initconf.initialize, with "
        "load_state_dict(..., strict=False); or write a rule with initializer: pretrained"
    )
    draft.lose(at, text)


def _overrides(document: Document, at: At, overrides: Any) -> list[At]:
    if overrides is None:
        return []
    if not isinstance(overrides, (dict, list)):
        raise document.wrong((*at, "override"), "not a mapping, nor a list of mappings")
    return [(*at, "override", i) for i in range(len(overrides))] if isinstance(overrides, list) else [(*at, "override")]


def _rules(
    draft: Draft,
    name: str,
    at: At,
    selectors: dict[str, Any],
    prefix: tuple[str, ...],
    both: tuple[Any, Any],
    *,
    optional: bool,
) -> None:
    """One rule for what is called weight and one for what is called bias, of a module and of all below it."""
    inside = "".join(rf"{re.escape(part)}\." for part in prefix)
    may_miss = {"optional": True} if optional else {}
    draft.add(name, at, {**selectors, "match": rf"{inside}(.*\.)?weight", "initializer": both[0], **may_miss})
    draft.add(f"{name}_bias", at, {**selectors, "match": rf"{inside}(.*\.)?bias", "initializer": both[1], "optional": True})


# --- initializers ----------------------------------------------------------------------------------------------------------


def _checked(document: Document, at: At, said: dict[str, Any]) -> str:
    kind = _kind(said["type"])
    if kind not in _TYPES:
        raise document.wrong((*at, "type"), "MMEngine has no such initializer", did_you_mean(kind, _TYPES))
    others = ("type", "name", "layer", "override", *(("bias", "bias_prob") if kind != "Pretrained" else ()))
    for key in said:
        if key not in (*_TYPES[kind], *others):
            takes = ", ".join([*_TYPES[kind], *others[4:], "layer", "override"])
            raise document.wrong((*at, key), f"{kind} does not take {key!r}; it takes {takes}")
    return kind


def _initializers(document: Document, at: At, said: dict[str, Any]) -> tuple[Any, Any]:
    """What weights and biases receive."""
    kind = _checked(document, at, said)
    own = {key: said[key] for key in _TYPES[kind] if key in said and key != "distribution"}
    uniform = said.get("distribution", "normal")
    if uniform not in ("uniform", "normal"):
        raise document.wrong((*at, "distribution"), "neither 'uniform' nor 'normal'")
    if kind == "Constant" and "val" not in own:
        raise document.wrong(at, "Constant needs `val`")
    functions: dict[str, tuple[str, dict[str, Any]]] = {
        "Constant": ("constant_", {}),
        "Xavier": (f"xavier_{uniform}_", {}),
        "Normal": ("normal_", {}),
        "TruncNormal": ("trunc_normal_", {}),
        "Uniform": ("uniform_", {}),
        "Kaiming": (f"kaiming_{uniform}_", {"mode": "fan_out", "nonlinearity": "relu"}),
        "Caffe2Xavier": ("kaiming_uniform_", {"a": 1, "mode": "fan_in", "nonlinearity": "leaky_relu"}),
    }
    function, defaults = functions[kind]
    weight = {"name": function, **defaults, **own}
    prior = said.get("bias_prob")
    if prior is not None:
        return weight, {"name": "prior_bias", "prior": prior}
    return weight, {"name": "constant_", "val": said.get("bias", 0)}

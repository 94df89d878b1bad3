"""AllenNLP's `InitializerApplicator`: regexes over names, of which the first that is found wins.

Source: allennlp 2.10.1, nn/initializers.py; for lists of pairs, as AllenNLP before 1.0 reads them, allennlp 0.9.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from initconf import activations
from initconf.errors import InitConfError, did_you_mean
from initconf.porting.documents import At, Document, spelled
from initconf.porting.drafts import Draft, Formula

HOW = "evaluate Jsonnet first: jsonnet FILE > FILE.json"
SYSTEM = "AllenNLP's InitializerApplicator (allennlp 2.10.1; lists of pairs: 0.9.0)"

_FUNCTIONS = {
    "normal": "normal_",
    "uniform": "uniform_",
    "orthogonal": "orthogonal_",
    "constant": "constant_",
    "dirac": "dirac_",
    "xavier_normal": "xavier_normal_",
    "xavier_uniform": "xavier_uniform_",
    "kaiming_normal": "kaiming_normal_",
    "kaiming_uniform": "kaiming_uniform_",
    "sparse": "sparse_",
    "eye": "eye_",
    "zero": "zeros_",
}
"""Its names for functions of torch.nn.init, whose arguments it passes on."""
_OWN = {
    "uniform_unit_scaling": ("nonlinearity",),
    "lstm_hidden_bias": (),
    "block_orthogonal": ("split_sizes", "gain"),
    "pretrained": ("weights_file_path", "parameter_name_overrides"),
}
_PREVENT = ("prevent", {"type": "prevent"})


def port(document: Document) -> Draft:
    """The scheme of an applicator, of a model's configuration or of a training's.

    Raises SpecError where there is no applicator, and for what AllenNLP would refuse.
    """
    at = _applicator(document)
    settings = {"initializer": "keep", "unmatched": "keep", "compat": "torch"}
    draft = Draft(document, SYSTEM, settings)
    pairs, prevents = _said(document, at)
    # There the first match wins and here the last.
    for where, pattern, initializer in reversed(pairs):
        _rule(draft, where, pattern, initializer, old=isinstance(document.value(at), list))
    for where, pattern in prevents:
        draft.add(_name(where), where, {**_found(pattern), "initializer": "keep", "optional": True})
    if any(rule.get("block") for rule in draft.rules.values()):
        del draft.settings["compat"]  # which knows no gates
        draft.remarks.append("the padding row of an embedding stays zero here; AllenNLP overwrites it")
    draft.remarks += [
        "a regex that matches nothing is an error here and was a warning there; `optional: true` allows it",
        "of a tied parameter a regex may match any name; AllenNLP looks at the first alone",
    ]
    for other in _others(document.data, (), at):
        draft.lose(other, "the names in it begin at the module that it belongs to; port it by itself, and put them in front")
    return draft


def _applicator(document: Document) -> At:
    """Where the applicator of the whole model stands."""
    if isinstance(document.data, list) or {"regexes", "prevent_regexes"} & set(document.data):
        return ()
    for at in (("initializer",), ("model", "initializer")):
        if isinstance(document.value(at), (list, dict)):
            return at
    text = "holds no initializer: neither `regexes`, nor `initializer`, nor `model.initializer`"
    there = [spelled(at) for at in _others(document.data, (), ())]
    raise document.wrong((), text, f"there is one at {', '.join(there)}: give it in a file of its own" if there else None)


def _others(data: Any, here: At, known: At) -> Iterator[At]:
    """Where else applicators stand."""
    if isinstance(data, dict):
        for key, value in data.items():
            at = (*here, key)
            if "initializer" in key and at != known and _looks_like_one(value):
                yield at
            elif at != known:
                yield from _others(value, at, known)
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from _others(value, (*here, i), known)


def _looks_like_one(value: Any) -> bool:
    if isinstance(value, dict):
        return "regexes" in value
    return isinstance(value, list) and bool(value) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)


def _said(document: Document, at: At) -> tuple[list[tuple[At, str, Any]], list[tuple[At, str]]]:
    """The pairs of a regex and an initializer in order, and the regexes of what is left alone whatever else matches."""
    applicator = document.value(at)
    if isinstance(applicator, dict):
        for key in applicator:
            if key not in ("regexes", "prevent_regexes"):
                raise document.wrong((*at, key), "not a key of an applicator", "it has regexes and prevent_regexes")
        listed = _list(document, (*at, "regexes"))
        prevents = [(where, _string(document, where)) for where in _list(document, (*at, "prevent_regexes"))]
    else:
        listed, prevents = [(*at, i) for i in range(len(applicator))], []
    pairs = []
    for where in listed:
        pair = document.value(where)
        if not isinstance(pair, list) or len(pair) != 2:
            raise document.wrong(where, "not a pair of a regex and an initializer")
        pattern = _string(document, (*where, 0))
        if pair[1] in _PREVENT:
            prevents.append((where, pattern))
        elif pair[1] or isinstance(applicator, dict):  # 0.9 leaves out what has nothing
            pairs.append((where, pattern, pair[1]))
    return pairs, prevents


def _list(document: Document, at: At) -> list[At]:
    value = document.value(at)
    if value is not None and not isinstance(value, list):
        raise document.wrong(at, "not a list")
    return [(*at, i) for i in range(len(value or []))]


def _string(document: Document, at: At) -> str:
    value = document.value(at)
    if not isinstance(value, str):
        raise document.wrong(at, "a regex is a string")
    return value


# --- rules -----------------------------------------------------------------------------------------------------------------


def _name(at: At) -> str:
    return f"prevent_{at[-1]}" if "prevent_regexes" in at else f"regex_{at[-1]}"


def _found(pattern: str) -> dict[str, Any]:
    return {"search": pattern} if pattern else {"glob": "*"}  # the empty regex is found everywhere


def _rule(draft: Draft, at: At, pattern: str, said: Any, *, old: bool) -> None:
    """The rules of one pair; `old`: read by AllenNLP before 1.0."""
    document, name, found = draft.document, _name(at), _found(pattern)
    if not isinstance(said, (str, dict)):
        raise document.wrong((*at, 1), "not an initializer", "write its name, or a mapping with its name as `type`")
    arguments: dict[str, Any] = {} if isinstance(said, str) else {key: value for key, value in said.items() if key != "type"}
    kind = said if isinstance(said, str) else said.get("type", "normal")
    if kind not in (*_FUNCTIONS, *_OWN):
        raise document.wrong((*at, 1), f"AllenNLP has no initializer {kind!r}", did_you_mean(str(kind), [*_FUNCTIONS, *_OWN]))
    if kind in _FUNCTIONS:
        if kind == "normal" and not old:
            arguments = {"std": 0.1, **arguments}  # its own default since 1.0
        draft.add(
            name, at, {**found, "initializer": {"name": _FUNCTIONS[kind], **arguments} if arguments else _FUNCTIONS[kind]}
        )
        return
    for key in arguments:
        if key not in _OWN[kind]:
            takes = ", ".join(_OWN[kind]) or "nothing"
            raise document.wrong((*at, 1, key), f"{kind} does not take {key!r}; it takes {takes}")
    if kind == "uniform_unit_scaling":
        _unit_scaling(draft, name, at, found, arguments.get("nonlinearity", "linear"))
    elif kind == "lstm_hidden_bias":
        # forget_bias refuses what has no gates. AllenNLP takes any bias, bias_ih as well as bias_hh.
        draft.add(name, at, {**found, "initializer": {"name": "forget_bias", "value": 0}})
        draft.add(f"{name}_forget", at, {**found, "block": "f", "initializer": "ones"})
    elif kind == "block_orthogonal":
        lost = (
            "block_orthogonal splits a tensor by sizes, initconf by gates. Where split_sizes are the gates of an LSTM or a GRU "
            f"write initializer: {{name: orthogonal, gain: {arguments.get('gain', 1.0)}}}, without `compat: torch`"
        )
        draft.keep(name, at, found, lost)
    else:
        _pretrained(draft, name, at, found, arguments)


def _unit_scaling(draft: Draft, name: str, at: At, found: Mapping[str, Any], nonlinearity: Any) -> None:
    """U(+-gain sqrt(3 / n)), where n is the product of all axes but the last (so that of a Linear it is the outputs)."""
    if nonlinearity == "leaky_relu":
        draft.keep(name, at, found, "uniform_unit_scaling with leaky_relu fails in AllenNLP itself, whatever the torch")
        return
    try:
        gain = activations.gain(str(nonlinearity), "torch")
    except InitConfError as error:
        raise draft.document.wrong((*at, 1, "nonlinearity"), str(error)) from None
    bound = f"{'' if gain == 1 else f'{gain!r}*'}sqrt(3/(numel/shape[-1]))"
    draft.add(name, at, {**found, "initializer": {"name": "uniform_", "a": Formula(f"-{bound}"), "b": Formula(bound)}})


def _pretrained(draft: Draft, name: str, at: At, found: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    path, others = arguments.get("weights_file_path"), arguments.get("parameter_name_overrides") or {}
    document = draft.document
    if not isinstance(path, str) or not path:
        raise document.wrong((*at, 1), "pretrained needs weights_file_path, the path of a file")
    if not isinstance(others, dict) or not all(isinstance(old, str) for old in others.values()):
        raise document.wrong((*at, 1, "parameter_name_overrides"), "not a mapping from names to names")
    if path.endswith((".tar.gz", ".tgz", ".tar")):
        draft.keep(name, at, found, f"pretrained reads no archive: unpack {path!r}, and name the file of weights in it")
        return
    draft.add(name, at, {**found, "initializer": {"name": "pretrained", "path": path, "cast": True}})
    for new, old in others.items():
        rule = {**found, "match": re.escape(new), "initializer": {"name": "values", "path": path, "key": old, "cast": True}}
        draft.add(f"{name}_{new}", at, {**rule, "optional": True})

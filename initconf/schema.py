"""JSON Schemas of what may be written in YAML, for editors: keys, values and their meanings while somebody types.

They are generated: keys, types and descriptions from the models of `spec`, names and arguments from the registries. Files are
partial (a rule may bend one of another file, a value may be an interpolation or wait for the command line), so nothing is
required in them. What no schema can say (whether a regex compiles, whether a rule matches) is left to `load` and `compile`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from initconf import activations, docstrings, expressions, registry
from initconf.spec import ROLE_MEANINGS, RULE_NAME, SELECTORS, DeclaredLayout, DeclaredTarget, DeclaredTargets, InitSpec, Rule

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The draft that every editor and validator knows; those after it bring nothing that is needed here."""
KINDS = {
    "scheme": "A scheme, conf/init/NAME.yaml: how every parameter of a model starts.",
    "rules": "A rule file, conf/init/rules/NAME.yaml: rules by name.",
    "rule": "A single rule, or settings of one, conf/init/rule/NAME.yaml.",
    "spec": "A whole spec, as `initconf show` prints it: nothing in it is left to be merged or resolved.",
}
"""What there is a schema of, and what it is."""

_REF = "#/definitions/"
_INTERPOLATION = {"$ref": f"{_REF}interpolation"}
_NULL = {"type": "null"}
_NAME = {"type": "string", "minLength": 1}


def schema(kind: str) -> Schema:
    """The JSON Schema of one of KINDS, with the initializers and activations that are registered now."""
    partial = kind != "spec"
    defaults = {"defaults": _defaults()}
    bodies: dict[str, Schema] = {
        "scheme": _object(defaults | _properties(InitSpec)),
        "rules": _RULES | {"properties": defaults},
        "rule": _object(defaults | _properties(Rule)),
        "spec": _object(_properties(InitSpec)),
    }
    head = {"$schema": DRAFT, "title": f"initconf {kind}", "description": KINDS[kind]}
    return {**head, **bodies[kind], "definitions": _definitions(partial)}


# --- values that may be left open ------------------------------------------------------------------------------------------


def _value(title: str, description: str, *forms: Schema) -> Schema:
    """What a key holds: one of these, or nothing yet."""
    return {"title": title, "description": description, "anyOf": [*map(_inside, forms), _NULL, _INTERPOLATION]}


def _inside(form: Schema) -> Schema:
    """A form whose own items may be interpolations."""
    for key in ("items", "additionalProperties"):
        if isinstance(inner := form.get(key), dict) and "$ref" not in inner:
            form = {**form, key: {"anyOf": [inner, _INTERPOLATION]}}
    return form


def _forms(generated: Schema) -> list[Schema]:
    """The alternatives of a type as pydantic describes it, without null (which may stand anywhere) and without its titles."""
    forms = [{k: v for k, v in form.items() if k not in ("title", "default")} for form in generated.get("anyOf", [generated])]
    return [form for form in forms if form != _NULL]


def _object(properties: Mapping[str, Any]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}


def _by_name(what: str) -> Schema:
    return {"type": "object", "additionalProperties": {"anyOf": [{"$ref": _REF + what}, _NULL, _INTERPOLATION]}}


# --- specs, rules, layouts -------------------------------------------------------------------------------------------------

_COUNT = {"type": "integer", "minimum": 0}
_POSITIVE = {"type": "integer", "minimum": 1}
_NAMES = {"type": "array", "items": _NAME, "minItems": 1}
_ROLE = {"enum": list(ROLE_MEANINGS), "enumDescriptions": list(ROLE_MEANINGS.values())}
_RULES = _by_name("rule") | {
    "propertyNames": {
        "pattern": f"^{RULE_NAME.pattern}$",
        "patternErrorMessage": "Not a rule's name: letters, digits, _ and -, and a letter first.",
    }
}
_AXIS = {"anyOf": [{"type": "integer"}, _inside({"type": "array", "items": {"type": "integer"}}), _INTERPOLATION]}
_BLOCKS = _object(
    {
        "axis": _value("axis", "The axis that holds them; left out, 0.", {"type": "integer"}),
        "names": _value("names", "Their names, in order.", {**_NAMES, "uniqueItems": True}),
        "sizes": _value("sizes", "Their sizes, where they are not equal.", {"type": "array", "items": _COUNT}),
    }
) | {"required": ["names"]}
_SHAPE = {"type": "array", "items": _POSITIVE}
_OWN_FORMS: dict[str, list[Schema]] = {
    "initializer": [{"$ref": f"{_REF}initializer"}, {"$ref": f"{_REF}initializer_mapping"}],
    "nonlinearity": [{"$ref": f"{_REF}nonlinearity"}, {"$ref": f"{_REF}nonlinearity_mapping"}],
    "gain": [{"type": "number"}, {"$ref": f"{_REF}expression"}],
    "rules": [_RULES],
    "layouts": [_by_name("layout")],
    "targets": [_by_name("targets")],
    "tensors": [{"type": "array", "items": {"$ref": f"{_REF}target"}, "minItems": 1}],
    "shapes": [{"type": "array", "items": _SHAPE, "minItems": 1}],
    "shape": [_SHAPE],
    "fan_in": [{"type": "number", "exclusiveMinimum": 0}],
    "fan_out": [{"type": "number", "exclusiveMinimum": 0}],
    "var": [{"type": "number", "minimum": 0}],
    "layer": [{"type": "integer"}, {"type": "string"}],
    "expect": [_COUNT, {"type": "array", "items": _COUNT, "minItems": 2, "maxItems": 2}],
    "axes": [_object(dict.fromkeys(("out", "in", "batch"), _AXIS))],
    "blocks": [_BLOCKS],
    "groups": [_POSITIVE],
    "stride": [_POSITIVE],
}
"""What may stand where validators take more, or less, than the type of the field says."""


def _properties(model: type[BaseModel]) -> Schema:
    generated, docs = model.model_json_schema()["properties"], docstrings.fields(model)
    return {name: _value(name, docs.get(name, ""), *_field(name, generated[name])) for name in model.model_fields}


def _field(name: str, generated: Schema) -> list[Schema]:
    if name in _OWN_FORMS:
        return _OWN_FORMS[name]
    forms = _forms(generated)
    if (many := "items" in forms[0]) or name == "role":
        one = _ROLE if name == "role" else _NAME
        return [one, {"type": "array", "items": one, "minItems": 1}] if many else [one]  # one needs no brackets
    return [_NAME if form == {"type": "string"} else form for form in forms]


def _defaults() -> Schema:
    """A defaults list of Hydra: names, and choices from groups."""
    choice = {"type": ["string", "array", "null"], "items": {"type": "string"}}
    entry = {"anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": choice}]}
    text = "What this file starts from, later entries over earlier ones: `_self_` is the file itself."
    return {"title": "defaults", "description": text, "anyOf": [{"type": "array", "items": entry}, _NULL]}


# --- what is shared --------------------------------------------------------------------------------------------------------


def _definitions(partial: bool) -> Schema:
    rule, layout = _object(_properties(Rule)), _object(_properties(DeclaredLayout))
    target, targets = _object(_properties(DeclaredTarget)), _object(_properties(DeclaredTargets))
    if not partial:
        target |= {"allOf": _said(("name", "kind", "shape"))}
        targets |= {"oneOf": _said(("module", "tensors", "shapes"))}
        rule |= {"anyOf": _said(SELECTORS)}
        layout |= {"anyOf": _said(("match", "search", "glob", "module"))}
    taken = {name: _initializer(name) for name in registry.names()}
    initializers = {alias: name for name in taken for alias in (name, *registry.aliases_of(name))}
    curves = {name: activations.normalise(name)[0] for name in activations.names()}
    told = [docstrings.summary(registry.find(name).fn.__doc__) for name in initializers]
    return {
        "interpolation": _OPEN if partial else False,
        "expression": _expression(),
        "rule": rule | {"description": docstrings.summary(Rule.__doc__)},
        "layout": layout | {"description": docstrings.summary(DeclaredLayout.__doc__)},
        "target": target | {"description": docstrings.summary(DeclaredTarget.__doc__)},
        "targets": {
            "description": docstrings.summary(DeclaredTargets.__doc__),
            "anyOf": [targets, *_OWN_FORMS["tensors"]],
        },
        "initializer": {"enum": list(initializers), "enumDescriptions": told},
        "initializer_mapping": _mapping("initializer", initializers, taken, partial, _LEFT_OVER),
        "nonlinearity": {"enum": [*curves, "auto"]},
        "nonlinearity_mapping": _mapping(
            "nonlinearity", curves, {name: _curve(name) for name in curves.values()}, partial, False
        ),
    }


_OPEN = {"type": "string", "pattern": r"\$\{|^\?\?\?$", "errorMessage": "Not a value of this key."}
"""What is resolved later: an interpolation, `${seed}`, or `???` for a value that must be given on the command line."""
_LEFT_OVER = {**_NULL, "errorMessage": "Not an argument of this initializer (null takes back one that was merged in)."}
"""What is said of an argument that an initializer does not take; `null` undoes one of the mapping that this is merged over."""


def _expression() -> Schema:
    """A string of numbers, operators and names that are known; whether they make sense is seen when it is parsed."""
    known = [*expressions.VARIABLES, *expressions.FUNCTIONS, *expressions.CONSTANTS]
    token = r"[\d.][eE](?=[-+\d])|[\d.]_(?=\d)|[-+\s\d.*/%(),\[\]]|(?:" + "|".join(known) + r")(?!\w)"
    said = f"Neither a number nor an expression over {', '.join(known)}."
    return {"type": "string", "pattern": f"^(?:{token})+$", "errorMessage": said}


def _said(keys: Iterable[str]) -> list[Schema]:
    """That each of these keys is there, and is not null."""
    return [{"required": [key], "properties": {key: {"not": _NULL}}} for key in keys]


def _mapping(
    what: str, names: Mapping[str, str], taken: Mapping[str, Schema], partial: bool, left_over: Schema | bool
) -> Schema:
    """A mapping of a name and the arguments that it takes; of a name or an alias, `names` has the one that `taken` knows."""

    def named(choices: list[str]) -> Schema:
        return {"required": ["name"], "properties": {"name": {"enum": choices}}}

    def arguments(properties: Schema) -> Schema:
        return {"properties": {"name": {}, **properties}, "additionalProperties": left_over}

    any_of: dict[str, list[Schema]] = {}
    for properties in taken.values():
        for key, value in properties.items():
            any_of.setdefault(key, []).extend([value] if value not in any_of.get(key, []) else [])
    union = {key: forms[0] if len(forms) == 1 else {"anyOf": forms} for key, forms in any_of.items()}
    each = [
        {"if": named([n for n, own in names.items() if own == name]), "then": arguments(properties)}
        for name, properties in taken.items()
    ]
    name = {"title": "name", "description": f"Which {what}.", "anyOf": [{"$ref": _REF + what}, _INTERPOLATION]}
    # Without a name that is known, the mapping is merged over one that has it.
    return {
        "type": "object",
        "properties": {"name": name},
        "required": [] if partial else ["name"],
        "allOf": [*each, {"if": named(list(names)), "else": arguments(union)}],
    }


def _initializer(name: str) -> Schema:
    """The arguments of an initializer."""
    one = registry.find(name)
    told = docstrings.arguments(one.fn.__doc__)
    return {a.name: _argument(a, told.get(a.name, "")) for a in one.arguments.values()}


def _argument(argument: registry.Argument, told: str) -> Schema:
    try:
        generated = argument.type.json_schema()
    except PydanticInvalidForJsonSchema:
        generated = {}  # a type of which JSON knows nothing
    forms = _forms({} if "$defs" in generated else generated)
    if argument.name == "nonlinearity" and {"type": "string"} in forms:
        forms = _OWN_FORMS["nonlinearity"]
    if argument.numeric:
        forms = [*forms, {"$ref": f"{_REF}expression"}]
    default = "Required." if argument.default is registry.MISSING else f"Default: {_yaml(argument.default)}."
    return _value(argument.name, f"{told} {default}".strip(), *forms)


def _curve(name: str) -> Schema:
    """The arguments of an activation; a default's type is that of the argument."""
    types = {bool: "boolean", str: "string", int: "number", float: "number"}
    found = {}
    for key, default in activations.describe(name).items():
        form: Schema = {} if default is None else {"type": types[type(default)]}
        text = f"Default: {_yaml(default)}."
        found[key] = {"title": key, "description": text, "anyOf": [form, _INTERPOLATION]}
    return found


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else f"{value}"

"""What configurations of other systems say of initialisation, as schemes; and what of it could not be carried over."""

from __future__ import annotations

from types import ModuleType

from initconf.errors import InitConfError, Problem, did_you_mean
from initconf.porting import allennlp, keras, llm_foundry, mmengine
from initconf.porting.documents import document
from initconf.porting.drafts import Draft

SYSTEMS: dict[str, ModuleType] = {"allennlp": allennlp, "mmengine": mmengine, "llm-foundry": llm_foundry, "keras": keras}


def port(system: str, text: str, label: str) -> Draft:
    """The scheme that a configuration of another system amounts to.

    Args:
        system: allennlp, mmengine, llm-foundry or keras.
        text: its configuration, JSON or YAML.
        label: what to call the text: the path of its file.

    Raises InitConfError for an unknown system, and SpecError, with the line where it is known, for a text that is not such a
    configuration or that the system itself would refuse.
    """
    found = system_of(system)
    draft: Draft = found.port(document(text, label, found.HOW))
    draft.check()
    return draft


def system_of(name: str) -> ModuleType:
    """The port of this name."""
    if name not in SYSTEMS:
        raise InitConfError(Problem("initconf knows no such system", "SYSTEM", repr(name), None, did_you_mean(name, SYSTEMS)))
    return SYSTEMS[name]

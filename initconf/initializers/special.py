"""Initializers that leave the values to others."""

from __future__ import annotations

from typing import Literal

from initconf.errors import InitConfError, Problem
from initconf.laws import Keep, Law, ModuleDefault
from initconf.registry import register
from initconf.sites import Site


@register("keep")
def keep(site: Site) -> Law:
    """The parameter keeps the values it has. Raises InitConfError on meta, where there are none."""
    if site.on_meta:
        remedy = "construct the model in skip_init, which keeps them, or give it an initializer that writes values"
        raise InitConfError(Problem("a parameter on meta has no values to keep", remedy=remedy))
    return Keep()


@register("module_default", whole=True)
def module_default(site: Site, otherwise: Literal["error", "keep"] = "error") -> Law:
    """What the owning module's own `reset_parameters` (else `_reset_parameters`) gives, run on a copy with a keyed generator.

    Where the owner has neither and lies in a model of transformers, that model's `_init_weights` is run on the copy, if it sets
    the parameter. `otherwise` says what happens where nothing sets it: an InitConfError, or the values are kept.
    """
    if site.reset is not None:
        return ModuleDefault(site.reset)
    if otherwise == "keep":
        return keep(site)
    text = f"{site.module.rpartition('.')[2]} has neither reset_parameters nor _reset_parameters"
    raise InitConfError(Problem(text, remedy="{name: module_default, otherwise: keep} keeps the values that are there"))

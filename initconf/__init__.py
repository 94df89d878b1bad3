"""initconf: say in configuration how the parameters of a PyTorch model start, and be sure of it.

The public names are loaded when they are first used, so that importing the package costs a few milliseconds
and brings in neither torch nor pydantic (Hydra imports it in every application of the environment).
"""

import sys as _sys
from importlib import import_module as _import_module
from pathlib import Path as _Path
from types import ModuleType as _ModuleType

__version__ = "0.1.0"

_HOMES = {
    "load": "loading",
    "compile": "apply",
    "apply": "apply",
    "initialize": "apply",
    "skip_init": "skipping",
    "InitSpec": "spec",
    "Rule": "spec",
    "Plan": "plan",
    "Entry": "plan",
    "Report": "report",
    "Site": "sites",
    "Layout": "layouts",
    "layout": "layouts",
    "register": "registry",
    "activation": "activations",
    "InitConfError": "errors",
    "SpecError": "errors",
    "CompileError": "errors",
    "ApplyError": "errors",
    "Problem": "errors",
}

__all__ = sorted([*_HOMES, "hyper", "laws", "__version__"])

# In a source checkout (and so in an editable install) the schemes lie beside the package, in a wheel inside it.
_root = _Path(__file__).resolve().parent
if not (_root / "conf").is_dir() and (_root.parent / "conf" / "__init__.py").is_file():
    __path__.append(str(_root.parent))
del _root, _Path


def __getattr__(name: str) -> object:
    if name in ("laws", "hyper"):
        return _import_module(f"initconf.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'initconf' has no attribute {name!r}")
    return getattr(_import_module(f"initconf.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


class _Package(_ModuleType):
    """Importing the submodule `initconf.apply` would hide the function `initconf.apply`: the function wins."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "apply" and isinstance(value, _ModuleType):
            value = value.apply
        super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package

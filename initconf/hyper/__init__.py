"""Hypernetworks: the tensors that one generates, and how its output layer starts so that they come out as they should.

Importing registers the initializers. `measure` and `OutputScale` are loaded when they are first used: they need torch.
"""

from importlib import import_module as _import_module

from initconf.hyper import chunked, hyperfan, ordinary

__all__ = ["OutputScale", "chunked", "hyperfan", "measure", "ordinary"]

_HOMES = {"measure": "initconf.measuring", "OutputScale": "initconf.hyper.modules"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'initconf.hyper' has no attribute {name!r}")
    return getattr(_import_module(_HOMES[name]), name)

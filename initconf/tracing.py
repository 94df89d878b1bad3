"""Which activation feeds each weight: the model is run (or traced) once, and every tensor carries where it came from.

Two front ends, one set of rules. With an example input the model runs under a torch function mode that sees every call; without
one, torch.fx traces it symbolically. Either way each call is handed to `initconf.origins.follow` with its tensors replaced by
their origins, and when a parameter meets an input in a linear map, the input's origin is what feeds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from initconf.errors import InitConfError
from initconf.origins import Feed, Origin, follow, of_module
from initconf.owners import SHARDED, tensor_class
from initconf.sites import own_class

if TYPE_CHECKING:
    from torch import nn


class Trace:
    """What is known of the tensors of one run."""

    def __init__(self, names: Mapping[int, str]):
        self.names = names
        """The canonical name of each parameter, by identity."""
        self.feeds: dict[str, Feed] = {}
        self.origins: dict[int, Origin] = {}
        self.alive: list[Any] = []
        """Keeps every tensor of the run, so that no identity is used twice."""

    def origin(self, value: Any) -> Any:
        """The origin of a tensor; of anything else the value itself, with the tensors inside it replaced."""
        import torch

        if isinstance(value, torch.Tensor) or type(value).__name__ == "Proxy":
            if id(value) in self.names:
                return Origin.parameter(self.names[id(value)])
            return self.origins.get(id(value), Origin.constant())
        if isinstance(value, (list, tuple)):
            return type(value)(map(self.origin, value)) if type(value) in (list, tuple) else [self.origin(v) for v in value]
        return value

    def mark(self, value: Any, origin: Origin) -> None:
        """Give an origin to a result: a tensor, or all tensors in a sequence."""
        import torch

        if isinstance(value, torch.Tensor):
            self.origins[id(value)] = origin
            self.alive.append(value)
        elif isinstance(value, (list, tuple)):
            for part in value:
                self.mark(part, origin)
        elif isinstance(value, Mapping):
            for part in value.values():
                self.mark(part, origin)

    def call(self, function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        """Take note of one call."""
        known = {key: self.origin(value) for key, value in kwargs.items()}
        origin = follow(getattr(function, "__name__", str(function)), [self.origin(a) for a in args], known, self._fed)
        if origin is not None:
            self.mark(result, origin)

    def _fed(self, parameter: str, feed: Feed) -> None:
        before = self.feeds.get(parameter)
        if before is None or before.nonlinearity == feed.nonlinearity:
            self.feeds[parameter] = before or feed
        else:
            both = f"it is used twice, fed by {before.said} ({before.reason}) and by {feed.said} ({feed.reason})"
            self.feeds[parameter] = Feed(None, both)


def trace(model: nn.Module, names: Mapping[int, str], example: Any = None) -> dict[str, Feed]:
    """What feeds each parameter of a linear map, by canonical name.

    Args:
        model: run in evaluation mode, without gradients; its training flag and torch's random state are put back.
        names: the canonical name of each parameter, by `id`.
        example: a tensor, a tuple (positional) or a mapping (keywords) of inputs; without one the model is traced symbolically.

    Raises InitConfError where the run fails, or where the model cannot be traced without an example.
    """
    return _run(model, names, example) if example is not None else _symbolic(model, names)


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(positional, keyword) inputs of an example.

    >>> arguments({"x": 1})
    ((), {'x': 1})
    """
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, tuple) else ((example,), {})


def _run(model: nn.Module, names: Mapping[int, str], example: Any) -> dict[str, Feed]:
    import torch
    from torch.overrides import TorchFunctionMode

    if any(tensor_class(p) == SHARDED for p in model.parameters()):
        raise InitConfError("a sharded model is not run; compile the plan before it is sharded, and apply it afterwards")
    found = Trace(names)
    args, kwargs = arguments(example)
    for value in (*args, *kwargs.values()):
        found.mark(value, Origin.given())

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            found.call(func, args, kwargs or {}, result)
            return result

    def after(module: nn.Module, args: Any, result: Any) -> None:
        if (origin := of_module(own_class(module).__name__, [found.origin(a) for a in args])) is not None:
            found.mark(result, origin)

    hooks = [module.register_forward_hook(after) for module in model.modules()]
    training = [module for module in model.modules() if module.training]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), Watch():
            model.eval()
            model(*args, **kwargs)
    except Exception as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise InitConfError(f"the model cannot be run on the example: {type(error).__name__}: {text[0]}") from error
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return found.feeds


def _symbolic(model: nn.Module, names: Mapping[int, str]) -> dict[str, Feed]:
    import torch

    class Through(torch.fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return of_module(own_class(m).__name__, []) is not None

        def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
            # Without hooks: FSDP's would gather the parameters, those of tensor parallelism take no proxies.
            return super().call_module(m, m.forward, args, kwargs)

    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            graph = Through().trace(model)
    except Exception as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise InitConfError(f"the model cannot be traced without an example input ({text[0]})") from error
    found = Trace(names)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules())
    origins: dict[Any, Any] = {}

    def known(value: Any) -> Any:
        return torch.fx.node.map_arg(value, lambda node: origins.get(node, Origin.constant()))

    for node in graph.nodes:
        args = [known(a) for a in node.args]
        kwargs = {key: known(value) for key, value in node.kwargs.items()}
        if node.op == "placeholder":
            origins[node] = Origin.given()
        elif node.op == "get_attr":
            name = names.get(id(parameters.get(str(node.target))))
            origins[node] = Origin.parameter(name) if name else Origin.constant()
        elif node.op == "call_module":
            origins[node] = of_module(own_class(modules[str(node.target)]).__name__, args)
        elif node.op in ("call_function", "call_method"):
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
            origins[node] = follow(name, args, kwargs, found._fed) or Origin.constant()
    return found.feeds

"""Which activation feeds each weight: the model is run (or traced) once, and every tensor carries where it came from.

Two front ends, one set of rules. With an example input the model runs under a torch function mode that sees every call; without
one, torch.fx traces it symbolically. Either way each call is handed to `initconf.calls.follow` with its tensors replaced by
their origins, and when a weight meets an input in a linear map, the input's origin is what feeds it.
"""

from __future__ import annotations

import inspect
import operator
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

from initconf.calls import VIEWS, follow, of_module
from initconf.errors import CompileError, InitConfError, Problem
from initconf.origins import Feed, Origin, given, joined, unknown
from initconf.owners import SHARDED, tensor_class, unwrapped, walk
from initconf.parametrized import identity, parametrised
from initconf.sites import own_class

_NORM = re.compile(r".*([Nn]orm(?!al)|Normali[sz]).*")


def trace(model: nn.Module, example: Any = None) -> dict[str, Feed]:
    """What feeds each parameter of a linear map, by canonical name.

    Args:
        model: run in evaluation mode, without gradients. What a run changes is put back: its modes, its buffers, the attributes
            of its modules, torch's random state.
        example: a tensor, a tuple (positional) or a mapping (keywords) of inputs; without one the model is traced symbolically.

    Raises InitConfError where the run fails, where the model cannot be traced without an example, and for an example on another
    device than the model; CompileError for what `survey` refuses too.
    """
    walked = walk(model)
    if walked.problems:
        raise CompileError(walked.problems)
    if example is not None and any(tensor_class(each.parameter) == SHARDED for each in walked.found):
        raise InitConfError("a sharded model is not run; compile the plan before it is sharded, and apply it afterwards")
    found = sorted(walked.found, key=lambda each: each.place.name, reverse=True)
    names = {each.identity: each.place.name for each in found}
    model = unwrapped(model)
    with _put_back(model):
        return _run(model, names, example) if example is not None else _symbolic(model, names)


def arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(positional, keyword) inputs of an example.

    >>> arguments({"x": 1})
    ((), {'x': 1})
    """
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, tuple) else ((example,), {})


@contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, with copies of its buffers; afterwards it and torch's random state are as before.

    The flags are set one by one: `eval` and `train` of a user's module may do more (merge adapters, for one).
    """
    modules = list(model.modules())
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in modules]
    accelerators = {p.device for p in model.parameters() if p.device.type not in ("cpu", "meta")}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if "torch._dynamo" in sys.modules:  # a part that torch.compile made is run as it was written
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for device in accelerators:
            stack.enter_context(torch.random.fork_rng([device], device_type=device.type))
        try:
            for module in modules:
                module.training = False
                for name, buffer in module._buffers.items():
                    module._buffers[name] = buffer.clone() if buffer is not None else None
            yield
        finally:
            for module, attributes, buffers in before:
                vars(module).clear()
                vars(module).update(attributes)
                module._buffers.clear()
                module._buffers.update(buffers)


def _failed(text: str) -> InitConfError:
    return InitConfError(Problem(text, remedy="give an example input that the model takes, or name the activation"))


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Trace:
    """What is known of the tensors of one run."""

    def __init__(self, names: Mapping[int, str]):
        self.names = names
        """The canonical name of each parameter, by identity."""
        self.feeds: dict[str, Feed] = {}
        self.origins: dict[int, Origin] = {}
        self.memory: dict[int, list[Tensor]] = {}
        """The tensors of each storage. They stay alive, so that no identity is used twice."""
        self.hidden = 0
        """Inside how many parametrisations the run is, which make a weight of other tensors."""

    def parameter(self, module: nn.Module, attribute: str) -> Origin:
        chain = parametrised(module).get(attribute)
        return self._named(module._parameters.get(attribute)) if chain is None else self.computed(chain)

    def computed(self, chain: ParametrizationList) -> Origin:
        """Of a weight that is computed from others."""
        return self._named(identity(chain))

    def _named(self, tensor: Tensor | None) -> Origin:
        name = self.names.get(id(tensor))
        return Origin.parameter(name) if name is not None else Origin.constant()

    def origin(self, value: Any) -> Any:
        """The origin of a tensor; of anything else the value itself, with the tensors inside it replaced."""
        if isinstance(value, Tensor):
            named = self._named(value)
            return named if named.name is not None else self.origins.get(id(value), named)
        if isinstance(value, (list, tuple)):
            return tuple(map(self.origin, value)) if isinstance(value, tuple) else list(map(self.origin, value))
        return value

    def mark(self, value: Any, origin: Origin) -> None:
        """Give an origin to a result: a tensor, or all tensors in a sequence."""
        if isinstance(value, Tensor):
            self.origins[id(value)] = origin
            self.memory.setdefault(_storage(value), []).append(value)
        elif isinstance(value, (list, tuple, Mapping)):
            for n, part in enumerate(value.values() if isinstance(value, Mapping) else value):
                self.mark(part, origin.part(n))

    def call(self, function: str, args: Any, kwargs: Mapping[str, Any], result: Any, written: Sequence[Tensor]) -> None:
        """Take note of one call, and of the tensors that it wrote to."""
        known = {key: self.origin(value) for key, value in kwargs.items()}
        origin = follow(function, [self.origin(a) for a in args], known, self.fed) or Origin.constant()
        for target in {_storage(target): target for target in reversed(written)}.values():
            for other in self.memory.get(_storage(target), ()):
                if other is not target:
                    whole = other.numel() == target.numel()
                    self.origins[id(other)] = origin if whole else joined([self.origin(other), origin])
            self.mark(target, origin)
        if not any(result is target for target in written):
            self.mark(result, origin)

    def fed(self, parameter: str, feed: Feed) -> None:
        """A weight that is used several times is fed by what is the most doubtful."""
        before = self.feeds.setdefault(parameter, feed)
        if before.nonlinearity is None or feed.nonlinearity is None or before.nonlinearity == feed.nonlinearity:
            self.feeds[parameter] = max(before, feed, key=lambda one: (one.nonlinearity is None, one.assumed))
        else:
            both = f"it is used twice, fed by {before.said} ({before.reason}) and by {feed.said} ({feed.reason})"
            self.feeds[parameter] = Feed(None, both)

    def leave(self, module: nn.Module, inputs: Iterable[Origin], made: Origin) -> Origin:
        """The origin of what a module gives, by its class and by what its functions made of it."""
        source = next((origin for origin in inputs if origin.moves), Origin.constant())
        return of_module(own_class(module).__name__, normalises(module), source, made)


def normalises(module: nn.Module) -> bool:
    """Whether a class is a normalisation by its name: with vectors alone, and no other modules in it."""
    kind = own_class(module).__name__
    plain = not module._modules and all(sum(n != 1 for n in p.shape) <= 1 for p in module.parameters())
    return plain and _NORM.fullmatch(kind) is not None and kind != "LocalResponseNorm"


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse and nested ones have none
        return -id(tensor)


# --- with an example -------------------------------------------------------------------------------------------------------


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)


def _versions(values: Any) -> list[tuple[Tensor, int]]:
    return [(t, t._version) for t in _tensors(values) if not t.is_inference()]


def _run(model: nn.Module, names: Mapping[int, str], example: Any) -> dict[str, Feed]:
    found = Trace(names)
    args, kwargs = arguments(example)
    _on_one_device(model, example)
    for value in (*args, *kwargs.values()):
        found.mark(value, given())

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            before = _versions([args, kwargs])
            result = func(*args, **kwargs)
            written = [t for t, version in before if t._version != version]
            if not found.hidden:
                found.call(getattr(func, "__name__", str(func)), args, kwargs, result, written)
            return result

    def before(module: nn.Module, args: Any) -> None:
        found.hidden += isinstance(module, ParametrizationList)

    def after(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        if isinstance(module, ParametrizationList):
            found.hidden -= 1
            found.mark(result, found.computed(module))
            return
        inputs = [*map(found.origin, _tensors([args, kwargs]))]
        for tensor in _tensors(result):
            if id(tensor) not in found.origins and id(tensor) not in names and any(origin.moves for origin in inputs):
                found.mark(tensor, unknown(f"what {type(module).__name__} does, which is not seen"))
        first = next(_tensors(result), None)
        if first is not None and not any(first is value for value in args):
            made = found.origin(first)
            if (now := found.leave(module, inputs, made)) is not made:
                found.mark(first, now)

    hooks = [module.register_forward_hook(after, with_kwargs=True) for module in model.modules()]
    hooks += [module.register_forward_pre_hook(before) for module in model.modules()]
    try:
        with Watch():
            model(*args, **kwargs)
    except Exception as error:
        raise _failed(f"the model cannot be run on the example: {type(error).__name__}: {_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return found.feeds


def _on_one_device(model: nn.Module, example: Any) -> None:
    """Raise InitConfError for an example that is elsewhere than the model.

    Between the CPU and meta torch does not say so itself: it multiplies by whatever lies in memory.
    """
    inputs, weights = ({t.device.type for t in tensors} for tensors in (_tensors(example), model.parameters()))
    mixed = "meta" in inputs | weights and len(inputs | weights) > 1
    if inputs and weights and (mixed or inputs.isdisjoint(weights)):
        text = f"the example is on {' and '.join(sorted(inputs))}, and the model on {' and '.join(sorted(weights))}"
        raise InitConfError(Problem(text, remedy="give both the same device"))


# --- without ---------------------------------------------------------------------------------------------------------------

_LEAVES = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, ParametrizationList)
"""What torch.fx cannot look into, or need not."""


def _symbolic(model: nn.Module, names: Mapping[int, str]) -> dict[str, Feed]:
    left: dict[Any, list[tuple[nn.Module, Any]]] = {}
    """The modules that give a node, innermost first, with their inputs."""

    class Written(torch.fx.Proxy):
        """What x += y writes to is still x by its other names."""

        def __iadd__(self, other: Any) -> Any:
            return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

        def __isub__(self, other: Any) -> Any:
            return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

        def __imul__(self, other: Any) -> Any:
            return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

        def __itruediv__(self, other: Any) -> Any:
            return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})

    class Through(torch.fx.Tracer):
        def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
            return Written(node, self)

        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return isinstance(m, _LEAVES) or (m.__module__.startswith("torch.nn") and normalises(m))

        def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            try:
                # Without hooks: FSDP's would gather the parameters, those of tensor parallelism take no proxies.
                result = super().call_module(m, m.forward, args, kwargs)
            except Exception:
                if not normalises(m):
                    raise
                result = self.create_proxy("call_module", self.path_of_module(m), args, kwargs)
            first = result[0] if isinstance(result, tuple) and result else result
            if isinstance(first, torch.fx.Proxy) and not any(first is value for value in args):
                left.setdefault(first.node, []).append((m, [*args, *kwargs.values()]))
            return result

    # As it is called without them: what is left out is no Proxy, and `is None` is told.
    parameters = inspect.signature(model.forward).parameters.values()
    usual = {p.name: p.default for p in parameters if p.default is not p.empty}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no assertion is made of an unusual default
            graph = Through().trace(model, concrete_args=usual)
    except Exception as error:
        raise _failed(f"the model cannot be traced without an example input ({_line(error)})") from error
    found, modules = Trace(names), dict(model.named_modules())
    origins: dict[Any, Any] = {}
    views: dict[Any, set[Any]] = {}
    """The nodes that may have the same memory."""

    def known(value: Any) -> Any:
        return torch.fx.node.map_arg(value, lambda node: origins.get(node, Origin.constant()))

    for node in graph.nodes:
        args = [known(a) for a in node.args]
        kwargs = {key: known(value) for key, value in node.kwargs.items()}
        if node.op == "placeholder":
            origins[node] = given()
        elif node.op == "get_attr":
            owner, _, attribute = str(node.target).rpartition(".")
            origins[node] = found.parameter(modules[owner], attribute)
        elif node.op == "call_module":
            origins[node] = _leaf(found, modules[str(node.target)], args, kwargs)
        elif node.op in ("call_function", "call_method"):
            name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
            origins[node] = follow(name, args, kwargs, found.fed) or Origin.constant()
            views[node] = {node} if name not in VIEWS else views.get(node.args[0], set()) | {node}
            for view in views[node]:
                views[view] = views[node]
            if (target := _target(node)) is not None:
                for view in views.get(target, ()):
                    origins[view] = unknown(f"a tensor that {name} writes to by another name")
                origins[target] = origins[node]
        for module, inputs in left.get(node, ()):
            inside = [known(value.node) for value in inputs if isinstance(value, torch.fx.Proxy)]
            origins[node] = found.leave(module, inside, origins[node])
    return found.feeds


def _leaf(found: Trace, module: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> Origin:
    """What a module that was not looked into makes of its inputs."""
    given = (*args, *kwargs.values())
    if isinstance(module, ParametrizationList):
        return found.computed(module)
    if isinstance(module, nn.RNNBase):
        flat = [found.parameter(module, name) for name in module._flat_weights_names]
        said = (given[0], None, flat, module.bias, module.num_layers, 0.0, False, module.bidirectional)
        return follow(module.mode.lower(), said, {}, found.fed) or Origin.constant()
    if isinstance(module, nn.RNNCellBase):
        kind = {nn.LSTMCell: "lstm", nn.GRUCell: "gru"}.get(type(module), f"rnn_{getattr(module, 'nonlinearity', 'tanh')}")
        cell = [found.parameter(module, name) for name in ("weight_ih", "weight_hh")]
        return follow(f"{kind}_cell", (given[0], None, *cell), {}, found.fed) or Origin.constant()
    if isinstance(module, nn.MultiheadAttention):
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        weights = {name: found.parameter(module, name) for name in names}
        weights["out_proj_weight"] = found.parameter(module.out_proj, "weight")
        return follow("multi_head_attention_forward", args, {**kwargs, **weights}, found.fed) or Origin.constant()
    return next((unknown(type(module).__name__) for value in given if value.moves), given[0])


def _target(node: Any) -> Any:
    """The node that a call writes to: by x.relu_(), relu(x, inplace=True), f(x, out=y), x += y; None if its result is new."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    said = dict(node.kwargs)
    if not isinstance(node.target, str):
        with suppress(TypeError, ValueError):  # what is written in C tells nothing of its arguments
            said = inspect.signature(node.target).bind(*node.args, **node.kwargs).arguments
    if isinstance(said.get("out"), torch.fx.Node):
        return said["out"]
    writes = said.get("inplace") is True or re.fullmatch(r"[a-z]\w*[a-z0-9]_|i(add|sub|mul|truediv)", name) is not None
    return node.args[0] if node.args and writes else None

"""What a hypernetwork really generates, and what becomes of signals and gradients in the networks that it makes."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from initconf import generated
from initconf.apply import apply, compile
from initconf.errors import InitConfError, Problem, listed
from initconf.hyper import chunks
from initconf.hyper.targets import Target
from initconf.hyper.variances import second_moment, wanted
from initconf.loading import load
from initconf.measurement import LayerRow, Measurement, TensorRow
from initconf.plan import Entry, Plan
from initconf.spec import InitSpec
from initconf.tracing import arguments


def measure(
    hypernet: nn.Module,
    target: Any = None,
    spec: Any = None,
    *,
    conditions: Any = None,
    inputs: Any = None,
    seeds: int | Iterable[int] = 20,
    generate: Callable[[nn.Module, Any], Any] | None = None,
    targets: str | None = None,
    method: str | None = None,
    bias_share: float | None = None,
    chunk_size: int | None = None,
) -> Measurement:
    """What a hypernetwork generates over seeds and conditions, and what becomes of signals and gradients in what it generates.

    Args:
        hypernet: it is copied, and stays as it is.
        target: the main network, a list of targets, or whatever else `initialize` takes as targets; left out, the spec's own.
        spec: whatever `load` takes, with which a copy is initialised under each seed; left out, the hypernetwork is measured as
            it is.
        conditions: an input of the hypernetwork: a tensor, a tuple of positional ones, a mapping of keywords; or a list.
        inputs: an input of the main network, with E[x^2] = 1 for each feature; left out, only generated tensors are measured.
        seeds: how many, or which.
        generate: from the hypernetwork and one of the conditions to the generated tensors; left out, the hypernetwork is called
            on it. They are a mapping by name, a list in the targets' order, or one tensor `(..., values)` of all of them.
        targets: their name in the spec, where it has several.
        method, bias_share: what is asked for, where it is not what the spec's initializer says. For one without a method it is
            an ordinary initialisation: fan_in, and biases 0.
        chunk_size: how many values a chunk has, where the spec's initializer does not know.

    Raises InitConfError where it is not known what is generated, or something else is; and what `initialize` raises.
    """
    spec = None if spec is None else load(spec)
    about, given = _described(hypernet, target, spec, targets)
    net, main = copy.deepcopy(hypernet), copy.deepcopy(about.module)
    layers = _layers(main, about.targets) if inputs is not None else {}
    given_conditions = conditions if isinstance(conditions, list) else [conditions]
    chosen = list(range(seeds) if isinstance(seeds, int) else seeds)
    found: _Found | None = None
    for seed in chosen if spec is not None else chosen[:1]:
        plan = None
        if spec is not None:
            plan = compile(net, spec.model_copy(update={"seed": seed}), targets=given, conditions=conditions)
            apply(net, plan)
        if found is None:
            size = chunk_size or _chunk_size(plan)
            found = _Found(about.targets, _asked(plan, about.targets, method, bias_share), size)
        with torch.no_grad():
            each = [by_name(_generated(net, one, generate), about.targets) for one in given_conditions]
        made = {t.name: torch.cat([one[t.name] for one in each]) for t in about.targets}
        found.add(made)
        if main is not None and layers:
            found.run(main, made, inputs, layers, torch.Generator().manual_seed(seed))
    if found is None:
        raise InitConfError(Problem("there is none", "seeds"))
    return found.measurement(layers)


def _described(
    hypernet: nn.Module, target: Any, spec: InitSpec | None, name: str | None
) -> tuple[generated.Described, dict[str, Any] | None]:
    """The targets with the network that is to run, and what `compile` is to be given beside the spec."""
    there = [] if spec is None else generated.names(spec)
    name = name or (there[0] if len(there) == 1 else "main")
    said = spec.targets.get(name) if spec is not None else None
    spec = load({}) if spec is None else spec
    if said is not None and (target is None or (said.module is None and isinstance(target, nn.Module))):
        about = generated.described(spec, hypernet, name)
        return (about if target is None else replace(about, module=target)), None
    if target is None:
        text = f"what is generated is not known: there are no targets {name!r}"
        raise InitConfError(Problem(text, "target", remedy="give the main network, or say targets in the spec"))
    if said is not None and isinstance(target, nn.Module):  # the spec may know more of it
        more = {"nonlinearity": said.nonlinearity, "order": said.order}
        target = {"module": target, **{key: value for key, value in more.items() if value is not None}}
    given = {name: target}
    return generated.described(spec, hypernet, name, given), given


def _layers(main: nn.Module | None, targets: Sequence[Target]) -> dict[str, Target]:
    """The weights of modules whose outputs are what the weight sums up, by the module's name."""
    if main is None:
        raise InitConfError(Problem("there is no main network to run", "target", remedy="give it as a module"))
    names = {name for name, _ in main.named_parameters()}
    if unknown := [target.name for target in targets if target.name not in names]:
        text = f"the main network has no parameters {listed(unknown)}"
        raise InitConfError(Problem(text, "target", remedy="name the targets as its parameters"))
    weights = [target for target in targets if target.kind == "weight" and target.name.endswith(".weight")]
    return {target.name.removesuffix(".weight"): target for target in weights}


def _serving(plan: Plan | None) -> list[Entry]:
    """The entries of a plan whose initializers go by a method."""
    entries = [] if plan is None else list(plan.leaves())
    return [entry for entry in entries if entry.initializer in ("hyperfan", "chunked_hyperfan", "chunk_scale")]


def _asked(
    plan: Plan | None, targets: Sequence[Target], method: str | None, bias_share: float | None
) -> list[tuple[float, float]]:
    """The (mean, variance) of each target that the initializer of a plan goes for."""
    serving = _serving(plan)
    said = {key: value for entry in serving for key, value in entry.settings.items()}
    method = method or said.get("method", "fan_in")
    share = said.get("bias_share") if bias_share is None else bias_share
    if share is None and any(entry.initializer == "chunked_hyperfan" for entry in serving):
        return [(0.0, var) for var in chunks.variances(targets, method)]
    return wanted(targets, method, (0.5 if serving else 0.0) if share is None else share)


def _chunk_size(plan: Plan | None) -> int | None:
    """How many values a chunk has, where an entry of a plan says."""
    for entry in _serving(plan):
        if entry.initializer == "chunked_hyperfan":
            if (size := entry.settings.get("chunk_size")) is not None:
                return int(size)
            if entry.role == "weight" and len(entry.shape) == 2 and entry.settings.get("part", "output") == "output":
                return entry.shape[0]
    return None


@dataclass
class _Found:
    """What is gathered over the seeds."""

    targets: Sequence[Target]
    asked: Sequence[tuple[float, float]]
    chunk_size: int | None = None
    conditions: int = 0
    seeds: int = 0
    tensors: list[list[tuple[float, float]]] = field(default_factory=list)
    """For each seed the mean of each tensor, and its mean square distance from what its mean is to be."""
    layers: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """For each layer, and each seed, E[z^2] and E[g^2]."""
    correlations: list[float] = field(default_factory=list)

    def add(self, made: Mapping[str, Tensor]) -> None:
        self.seeds += 1
        row = []
        for target, (mean, _) in zip(self.targets, self.asked, strict=True):
            values = made[target.name].double()
            row.append((float(values.mean()), float((values - mean).square().mean())))
            self.conditions = len(values)
        self.tensors.append(row)
        if self.chunk_size is not None and sum(t.numel for t in self.targets) >= 2 * self.chunk_size:
            self.correlations.append(self._correlation(made, self.chunk_size))

    def _correlation(self, made: Mapping[str, Tensor], size: int) -> float:
        """The mean over all pairs of chunks, each target to its own scale, without what is left for a last, partial one."""
        asked = [var or 1.0 for _, var in self.asked]
        flat = torch.cat(
            [made[t.name].flatten(1).double() / math.sqrt(var) for t, var in zip(self.targets, asked, strict=True)], 1
        )
        n = flat.shape[1] // size
        rows = torch.nn.functional.normalize(flat[:, : n * size].reshape(-1, n, size), dim=-1)
        total = rows.sum(1).square().sum(-1).mean()  # of all products, those with themselves too
        return float((total - n) / (n * (n - 1)))

    def run(
        self, main: nn.Module, made: Mapping[str, Tensor], inputs: Any, layers: Mapping[str, Target], generator: torch.Generator
    ) -> None:
        sums: dict[str, list[tuple[float, float]]] = {}
        for k in range(self.conditions):
            found = moments(main, {name: values[k] for name, values in made.items()}, inputs, list(layers), generator)
            for name, two in found.items():
                sums.setdefault(name, []).append(two)
        for name, each in sums.items():
            forward, backward = (math.fsum(two[i] for two in each) / len(each) for i in (0, 1))
            self.layers.setdefault(name, []).append((forward, backward))

    def measurement(self, layers: Mapping[str, Target]) -> Measurement:
        tensors = []
        for i, (target, (mean, var)) in enumerate(zip(self.targets, self.asked, strict=True)):
            means, squares = zip(*(row[i] for row in self.tensors), strict=True)
            tensors.append(TensorRow(target.name, target.kind, mean, _mean(means), var, _mean(squares), _spread(squares)))
        rows = []
        for name, each in self.layers.items():
            c = second_moment(layers[name])
            ratios = [forward / c for forward, _ in each]
            rows.append(
                LayerRow(name, c, _mean(ratios), statistics.median(ratios), _spread(ratios), _mean([g for _, g in each]))
            )
        correlation = _mean(self.correlations) if self.correlations else None
        return Measurement(tuple(tensors), tuple(rows), self.seeds, self.conditions, correlation)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _spread(values: Sequence[float]) -> float:
    mean = _mean(values)
    return statistics.pstdev(values) / abs(mean) if mean else 0.0


# --- the generated tensors -------------------------------------------------------------------------------------------


def by_name(made: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
    """What a hypernetwork returned, as `{name: (conditions, *shape)}`.

    It may be a mapping by name, a tensor `(..., values)` of all targets one after the other, a list in their order, or a list
    of such lists, one for each condition. Raises InitConfError for anything else.
    """
    total = sum(target.numel for target in targets)
    if isinstance(made, Mapping) and all(target.name in made for target in targets):
        return {t.name: _stacked(made[t.name], t) for t in targets}
    if isinstance(made, Tensor) and made.ndim and made.shape[-1] >= total:
        parts = torch.split(made.reshape(-1, made.shape[-1])[:, :total], [t.numel for t in targets], 1)
        return {t.name: part.reshape(-1, *t.shape) for t, part in zip(targets, parts, strict=True)}
    if isinstance(made, (list, tuple)) and made:
        if all(isinstance(one, Tensor) for one in made) and len(made) == len(targets):
            return {t.name: _stacked(one, t) for t, one in zip(targets, made, strict=True)}
        if all(isinstance(one, (list, tuple, Mapping)) for one in made):
            each = [by_name(one, targets) for one in made]
            return {t.name: torch.cat([one[t.name] for one in each]) for t in targets}
    text = f"the hypernetwork returned a {type(made).__name__}, and not {len(targets)} tensors of {total} values in all"
    raise InitConfError(Problem(text, remedy="give `generate`, a function from the hypernetwork and the conditions to them"))


def _generated(net: nn.Module, condition: Any, generate: Callable[[nn.Module, Any], Any] | None) -> Any:
    if generate is not None:
        return generate(net, condition)
    if condition is None:
        return net()
    positional, keywords = arguments(condition)
    return net(*positional, **keywords)


def _stacked(made: Tensor, target: Target) -> Tensor:
    if tuple(made.shape[made.ndim - len(target.shape) :]) != target.shape:
        raise InitConfError(Problem(f"it is generated with the shape {tuple(made.shape)}, and not {target.shape}", target.name))
    return made.reshape(-1, *target.shape)


# --- signals and gradients -------------------------------------------------------------------------------------------


@contextmanager
def _listening(net: nn.Module, names: Sequence[str]) -> Iterator[dict[str, tuple[Tensor, float]]]:
    """The outputs z of the modules of these names, as they come about, with E[z^2]: {name: (z, E[z^2])}."""
    heard: dict[str, tuple[Tensor, float]] = {}

    def hook(name: str) -> Callable[..., Any]:
        def keep(module: nn.Module, given: Any, out: Any) -> Any:
            if not isinstance(out, Tensor):
                return out
            heard[name] = out, _square(out)
            return out.clone()  # an activation may work in place

        return keep

    handles = [net.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def moments(
    net: nn.Module, weights: Mapping[str, Tensor], inputs: Any, names: Sequence[str], generator: torch.Generator
) -> dict[str, tuple[float, float]]:
    """E[z^2] and E[g^2] of the outputs of some modules in the network with these weights, in the order in which they run.

    g is the gradient of what the network gives, weighted by standard normals of the generator: at its output E[g^2] = 1.
    """
    positional, keywords = arguments(inputs)
    with torch.enable_grad(), _listening(net, names) as heard:
        given = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        out = functional_call(net, given, positional, keywords)
        if not heard:
            return {}
        seed = torch.randn(out.shape, generator=generator).to(out)
        gradients: Sequence[Tensor | None] = torch.autograd.grad(out, [z for z, _ in heard.values()], seed, allow_unused=True)
    return {
        name: (second, math.nan if g is None else _square(g))
        for (name, (_, second)), g in zip(heard.items(), gradients, strict=True)
    }


def _square(x: Tensor) -> float:
    return float(x.detach().double().square().mean())

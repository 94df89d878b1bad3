"""hypnettorch's ChunkedHMLP, initialised by configuration alone: its own variances, but for what is wrong with them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import initconf
from initconf.laws import Constant, Uniform

with warnings.catch_warnings():  # of its own libraries
    warnings.simplefilter("ignore")
    pytest.importorskip("hypnettorch", reason="hypnettorch is not installed: make parity installs it, without its dependencies")
    from hypnettorch.hnets.chunked_mlp_hnet import ChunkedHMLP

SHAPES = [[300, 784], [300], [100, 300], [100], [10, 100], [10]]
CHUNKS = {"name": "chunked_hyperfan", "part": "chunks", "input_size": 8}


def hypernetwork(**more: Any) -> Any:
    return ChunkedHMLP(SHAPES, 5000, verbose=False, **{"cond_in_size": 8, "num_cond_embs": 3, **more})


def spec(first: int = 0, **more: Any) -> dict[str, Any]:
    """`first` is the number of the first weight among the parameters."""
    output = {"name": "chunked_hyperfan", "part": "output"}
    return {
        "nonlinearity": "relu",
        "distribution": "uniform",
        "targets": {"main": {"shapes": SHAPES, "nonlinearity": "relu"}},
        "rules": {
            "bias": {"search": r"_layer_bias_vectors\.\d+$", "initializer": "zeros"},
            "conditions": {"match": r"_hnet\._internal_params\.[0-2]", "initializer": {"name": "normal", "std": 1.0}},
            "chunks": {"match": rf"_internal_params\.({first + 6}|7|8)", "initializer": {**CHUNKS, **more}},
            "head": {"match": r"_layer_(weight_tensors|bias_vectors)\.2", "initializer": output},
        },
    }


def bounds_of_its_own(monkeypatch: pytest.MonkeyPatch, net: Any, **arguments: Any) -> list[float]:
    """The bounds from which `apply_chunked_hyperfan_init` draws the embeddings, chunk by chunk."""
    drawn: list[float] = []

    def note(tensor: torch.Tensor, low: float, high: float, generator: Any = None) -> torch.Tensor:
        if tensor.ndim == 1:  # a chunk's; weights come here too
            drawn.append(high)
        return tensor

    with monkeypatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched.setattr(torch.nn.init, "_no_grad_uniform_", note)
        net.apply_chunked_hyperfan_init(**arguments)
    return drawn


def bounds(plan: initconf.Plan, name: str) -> list[float]:
    entry = plan[name]
    return [leaf.law.high for leaf in entry.leaves() if isinstance(leaf.law, Uniform) for _ in range(leaf.shape[0])]


@pytest.mark.parametrize("method", ["in", "out"])
@pytest.mark.parametrize("variance", [0.001, 1e-8, 1.0])
def test_the_bounds_of_embeddings(method: str, variance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    net = hypernetwork()
    own = bounds_of_its_own(monkeypatch, net, method=method, cond_var=variance)
    more: dict[str, Any] = {"method": f"fan_{method}", "input_variance": variance, "on_infeasible": "clip"}
    plan = initconf.compile(net, spec(3, **more))
    assert len(own) == 54
    assert bounds(plan, "_internal_params.9") == pytest.approx(own, rel=1e-12)
    if variance == 1:
        assert own == pytest.approx([(3e-5) ** 0.5] * 54)  # all of them clipped, which is refused unless it is wanted
        with pytest.raises(initconf.CompileError, match="give more alone than 54 of 54 chunks"):
            initconf.compile(net, spec(3, method=f"fan_{method}", input_variance=variance))


def test_embeddings_that_are_conditional(monkeypatch: pytest.MonkeyPatch) -> None:
    net = hypernetwork(cond_in_size=0, cond_chunk_embs=True)
    own = bounds_of_its_own(monkeypatch, net)
    said = spec(0, input_size=0)
    said["rules"].pop("conditions")
    plan = initconf.initialize(net, said).verify().plan
    for name in ("_internal_params.6", "_internal_params.7", "_internal_params.8"):
        assert bounds(plan, name) == pytest.approx(own[::3], rel=1e-12)


def test_what_it_generates_is_right_where_its_own_is_twice_as_large() -> None:
    net, variance = hypernetwork(), 0.001
    said = spec(3, input_variance=variance)
    said["rules"]["conditions"]["initializer"] = {"name": "chunked_hyperfan", "part": "inputs"}
    plan = initconf.initialize(net, said).verify().plan
    assert plan["_hnet._internal_params.7"].std == pytest.approx(0.1)  # gain 1
    assert plan["_hnet._internal_params.8"].law == Constant(0.0)
    assert plan["_hnet._internal_params.0"].std == pytest.approx(variance**0.5)

    def generate(net: Any, condition: Any) -> Any:
        return [net(cond_id=i) for i in range(3)]

    found = initconf.hyper.measure(net, SHAPES, {**said, "targets": {}}, generate=generate, seeds=10)
    assert found.tensors[0].ratio == pytest.approx(1, abs=0.1)
    ratios = []
    for seed in range(10):
        torch.manual_seed(seed)
        net = hypernetwork()
        for embedding in net.conditional_params:
            torch.nn.init.normal_(embedding, std=variance**0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            net.apply_chunked_hyperfan_init(cond_var=variance)
        ratios.append(initconf.hyper.measure(net, SHAPES, generate=generate).tensors[0].ratio)
    assert sum(ratios) / 10 == pytest.approx(2, abs=0.25)


def test_a_normalising_one_is_refused_as_by_itself() -> None:
    net = hypernetwork(use_batch_norm=True)
    with pytest.raises(RuntimeError):
        net.apply_chunked_hyperfan_init()
    said = {**spec(3, input_variance=0.001), "unmatched": "keep"}
    names = dict(net.named_parameters())
    last = [name for name, p in names.items() if p.shape == (54, 8)]
    said["rules"]["chunks"]["match"] = last[0].replace(".", r"\.")
    with pytest.raises(initconf.CompileError, match="takes the scale of the embeddings out again"):
        initconf.compile(net, said)

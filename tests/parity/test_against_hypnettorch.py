"""hypnettorch's full hypernetworks: initialised by configuration alone, and with `compat` as they initialise themselves."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import initconf

pytest.importorskip("hypnettorch", reason="hypnettorch is not installed: make parity installs it, without its dependencies")
from hypnettorch.hnets import HMLP
from hypnettorch.mnets import MLP, LeNet

HIDDEN = (20, 30)
COND = 5


def mlp(**more: Any) -> Any:
    sizes = {"n_in": 28, "n_out": 10, "hidden_layers": [30, 12], **more}
    return MLP(**sizes, no_weights=True, verbose=False)


def lenet() -> Any:
    return LeNet(in_shape=(28, 28, 1), num_classes=10, no_weights=True, verbose=False)


NETS = {
    "funnel": mlp,
    "decoder": lambda: mlp(n_in=8, hidden_layers=[16, 40], n_out=60),
    "no-bias": lambda: mlp(use_bias=False),
    "norms": lambda: mlp(use_batch_norm=True),
    "lenet": lenet,
}


def hypernet(main: Any, **more: Any) -> Any:
    return HMLP(main.param_shapes, cond_in_size=COND, layers=HIDDEN, num_cond_embs=3, verbose=False, **more)


def spec(arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The seed's own rules: N(0, 1) for embeddings, Kaiming's uniform law for hidden layers, biases 0, and hyperfan."""
    hidden = {"name": "variance_scaling", "distribution": "uniform", "nonlinearity": "relu"}
    return {
        "unmatched": "keep",
        "rules": {
            "embeddings": {"match": r"_internal_params\.[012]", "initializer": {"name": "normal", "std": 1}},
            "hidden": {"match": r"_layer_weight_tensors\.[01]", "initializer": hidden},
            "hidden_bias": {"match": r"_layer_bias_vectors\.[01]", "initializer": "zeros"},
            "head": {"match": r"_layer_(weight_tensors|bias_vectors)\.2", "initializer": {"name": "hyperfan", **arguments}},
        },
        **more,
    }


def rows(head: torch.Tensor, main: Any) -> list[torch.Tensor]:
    return list(head.detach().split([math.prod(shape) for shape in main.param_shapes]))


@pytest.mark.parametrize("meta", [True, False], ids=["meta", "guess"])
@pytest.mark.parametrize("method", ["in", "out"])
@pytest.mark.parametrize("name", NETS)
def test_the_bounds_of_the_head_are_those_of_apply_hyperfan_init(name: str, method: str, meta: bool) -> None:
    main = NETS[name]()
    theirs = hypernet(main)
    theirs.apply_hyperfan_init(method=method, cond_var=0.5, mnet=main if meta else None)
    targets = {"main": main if meta else [list(shape) for shape in main.param_shapes]}
    arguments = {"compat": "hypnettorch", "method": f"fan_{method}", "input_second_moment": 0.5}
    ours = hypernet(main)
    plan = initconf.initialize(ours, spec(arguments), targets=targets).verify().plan
    weight, bias = theirs.layer_weight_tensors[-1], theirs.layer_bias_vectors[-1]
    entries = [next(e for e in plan if e.shape == tuple(p.shape)) for p in (weight, bias)]
    pairs = [*zip(entries[0].blocks, rows(weight, main), strict=True), *zip(entries[1].blocks, rows(bias, main), strict=True)]
    for block, drawn in pairs:
        low, high = block.law.bounds if block.std else (block.mean, block.mean)
        size = max(abs(low), abs(high))
        assert float(drawn.abs().max()) <= size * (1 + 1e-6)
        # the largest of n uniform values: that all are below (1 - x) of the bound has probability (1 - x)^n
        assert float(drawn.abs().max()) >= size * (1 - 25 / drawn.numel())
        assert float(drawn.mean()) == pytest.approx(block.mean, abs=6 * block.std / math.sqrt(drawn.numel()) + 1e-9)


def test_the_harmonic_mean_is_the_one_of_the_original() -> None:
    main = NETS["decoder"]()
    theirs = hypernet(main)
    theirs.apply_hyperfan_init(method="harmonic", mnet=main)
    plan = initconf.compile(hypernet(main), spec({"compat": "hypnettorch", "method": "harmonic"}), targets={"main": main})
    head = next(e for e in plan if e.shape == tuple(theirs.layer_weight_tensors[-1].shape))
    for block, drawn in zip(head.blocks, rows(theirs.layer_weight_tensors[-1], main), strict=True):
        assert float(drawn.abs().max()) == pytest.approx(block.law.bounds[1], rel=25 / drawn.numel())
    assert any("harmonic" in text for text in plan.warnings)
    with pytest.raises(ZeroDivisionError):
        hypernet(funnel := mlp()).apply_hyperfan_init(method="harmonic", mnet=funnel)
    with pytest.raises(initconf.CompileError, match="hypnettorch divides by zero here"):
        initconf.compile(hypernet(funnel), spec({"compat": "hypnettorch", "method": "harmonic"}), targets={"main": funnel})


def test_values_said_outright() -> None:
    main = mlp()
    said = {"w_val": {"bias": 0}, "w_var": {"bias": 0.25}, "b_val": {"bias": 0.5}, "b_var": {"bias": 0}}
    theirs = hypernet(main)
    theirs.apply_hyperfan_init(mnet=main, **said)
    plan = initconf.compile(hypernet(main), spec({"compat": "hypnettorch", **said}), targets={"main": main})
    weight, bias = (
        next(e for e in plan if e.shape == tuple(p[-1].shape)) for p in (theirs.layer_weight_tensors, theirs.layer_bias_vectors)
    )
    for i in (1, 3, 5):
        drawn = rows(theirs.layer_weight_tensors[-1], main)[i]
        assert float(drawn.abs().max()) == pytest.approx(weight.blocks[i].law.bounds[1], rel=25 / drawn.numel())
        assert torch.equal(rows(theirs.layer_bias_vectors[-1], main)[i], torch.full((main.param_shapes[i][0],), 0.5))
        assert bias.blocks[i].law == initconf.laws.Constant(0.5)


@pytest.mark.parametrize("name", NETS)
def test_by_configuration_alone_the_generated_tensors_have_the_right_variances(name: str) -> None:
    """E[h^2] is measured over one condition, so that every tensor has its variance up to its own draws."""
    main = NETS[name]()
    net = hypernet(main)
    condition = {"cond_id": [1]}
    plan = initconf.initialize(
        net, spec({"input_second_moment": "measured"}), targets={"main": main}, conditions=condition
    ).plan
    generated = net.forward(**condition)
    head = next(e for e in plan if len(e.blocks) and len(e.shape) == 2)
    from initconf.hyper.targets import of_object
    from initconf.hyper.variances import wanted

    for (mean, var), tensor, block in zip(wanted(of_object(main)), generated, head.blocks, strict=True):
        values = tensor.detach().double()
        assert float((values - mean).square().mean()) == pytest.approx(var, rel=6 * math.sqrt(2 / values.numel())), block.label


def test_its_own_target_shapes_serve() -> None:
    main = mlp()
    shapes = {"main": [list(shape) for shape in main.param_shapes]}
    plan = initconf.compile(hypernet(main), spec({}, targets={"main": {"module": "."}}))
    assert plan == initconf.compile(hypernet(main), spec({}), targets=shapes)


def test_a_scheme_nests_in_its_bias() -> None:
    main = mlp()
    net = hypernet(main)
    said = spec({})
    said["rules"]["head"]["initializer"] = {"name": "bias_hyperinit", "scheme": "he"}
    initconf.initialize(net, said, targets={"main": main}).verify()
    first, second = ([w.detach() for w in generated] for generated in net.forward(cond_id=[0, 2]))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert float(first[0].std()) == pytest.approx(math.sqrt(2 / 28), rel=0.15)
    assert not any(part.any() for part in first[1::2])

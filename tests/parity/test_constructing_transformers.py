"""Models of transformers, constructed inside skip_init and on meta: they start with the same bits, and nothing else is lost."""

from __future__ import annotations

import pytest
import torch

import initconf
from tests.constructing import compare, skipped, tensors

transformers = pytest.importorskip("transformers", minversion="5.23")
from architectures import ALL, Architecture  # noqa: E402

transformers.logging.set_verbosity_error()
SPEC = {"rules": {"all": {"glob": "*", "initializer": {"name": "normal", "std": 0.02}}}}


@pytest.mark.parametrize("architecture", ALL, ids=str)
def test_constructing_without_random_numbers(architecture: Architecture) -> None:
    model, eager, _, _ = compare(architecture.build)
    assert skipped(model)
    initconf.initialize(model, SPEC)
    initconf.initialize(eager, SPEC)
    values, found = dict(eager.named_parameters()), dict(model.named_parameters())
    assert all(torch.equal(found[name], values[name]) for name in values)


@pytest.mark.parametrize("architecture", ALL, ids=str)
def test_constructing_on_meta(architecture: Architecture) -> None:
    """Buffers too: `_init_weights` sets those that a model of transformers has."""
    with torch.device("meta"):
        model = architecture.build()
    eager = architecture.build()
    assert initconf.initialize(model, SPEC, device="cpu").notes == ()
    initconf.initialize(eager, SPEC)
    values, found = tensors(eager), tensors(model)
    assert found.keys() == values.keys()
    assert all(torch.equal(found[name], values[name]) for name in values)

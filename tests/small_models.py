"""What the tests share: small models, and what must not change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from initconf.lab.models import GPT, MLP

# --- models ----------------------------------------------------------------------------------------------------------


def mlp() -> nn.Module:
    """body.0, body.2 and head, each with weight and bias; 6 parameters."""
    return MLP(6, 3, width=8, depth=2)


def convnet() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))


def lstm() -> nn.Module:
    return nn.ModuleDict({"rnn": nn.LSTM(5, 7, num_layers=2, bidirectional=True), "head": nn.Linear(14, 3)})


def attention() -> nn.Module:
    return nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2), "cross": nn.MultiheadAttention(8, 2, kdim=6, vdim=4)})


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def gpt(tie: bool = False, n_layer: int = 2) -> nn.Module:
    return GPT(vocab_size=11, context=6, n_layer=n_layer, n_head=2, d_model=8, tie=tie)


def tied_gpt() -> nn.Module:
    return gpt(tie=True)


def padded() -> nn.Module:
    """An embedding whose row 2 stays zero."""
    return nn.Sequential(nn.Embedding(9, 4, padding_idx=2), nn.Linear(4, 2))


ZOO = {make.__name__: make for make in (mlp, convnet, lstm, attention, encoder, gpt, tied_gpt, padded)}


# --- what must not change --------------------------------------------------------------------------------------------


@contextmanager
def untouched(*models: nn.Module) -> Iterator[None]:
    """Neither the bits of the models nor torch's random state change inside."""
    tensors = [tensor for model in models for tensor in [*model.parameters(), *model.buffers()]]
    tensors = [tensor for tensor in tensors if not hasattr(tensor, "materialize") and not tensor.is_meta]
    before, state = [tensor.detach().clone() for tensor in tensors], torch.get_rng_state()
    yield
    assert all(torch.equal(old, new.detach()) for old, new in zip(before, tensors, strict=True))
    assert torch.equal(state, torch.get_rng_state())

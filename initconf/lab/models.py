"""Three small models with what initialisation is about: depth, convolutions, norms, residuals, a tied head."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "selu": nn.SELU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}


class MLP(nn.Module):
    """`depth` hidden layers of `width`, each followed by `activation`, and a linear `head`.

    `(batch, *)` with `in_features` numbers for each example -> logits `(batch, num_classes)`.
    Raises ValueError for an unknown activation.
    """

    def __init__(self, in_features: int, num_classes: int, width: int = 256, depth: int = 2, activation: str = "relu") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation}: choose one of {', '.join(ACTIVATIONS)}")
        sizes = [in_features] + [width] * depth
        self.body = nn.Sequential()
        for n_in, n_out in pairwise(sizes):
            self.body.append(nn.Linear(n_in, n_out))
            self.body.append(ACTIVATIONS[activation]())
        self.head = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x.flatten(1)))
        return logits


class ResidualBlock(nn.Module):
    """conv-norm-relu-conv-norm plus a shortcut, then relu: `(n, n_in, h, w)` -> `(n, n_out, h/stride, w/stride)`."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, `depth` residual blocks for each of `widths` (each width after the first halves the image), mean, `head`.

    Images `(batch, in_channels, h, w)` -> logits `(batch, num_classes)`.
    """

    def __init__(self, in_channels: int, num_classes: int, widths: Sequence[int] = (16, 32), depth: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList()
        n_in = widths[0]
        for stage, width in enumerate(widths):
            for i in range(depth):
                self.blocks.append(ResidualBlock(n_in, width, stride=2 if stage and not i else 1))
                n_in = width
        self.head = nn.Linear(n_in, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn(self.stem(x)))
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(h.mean(dim=(2, 3)))
        return logits


class Attention(nn.Module):
    """Causal self-attention, `(batch, time, d_model)` -> the same; `d_model` must be a multiple of `n_head`."""

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        if d_model % n_head:
            raise ValueError(f"d_model={d_model} is not a multiple of n_head={n_head}")
        self.n_head = n_head
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        def heads(h: Tensor) -> Tensor:
            return h.reshape(*h.shape[:2], self.n_head, -1).transpose(1, 2)

        q, k, v = heads(self.q_proj(x)), heads(self.k_proj(x)), heads(self.v_proj(x))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out_proj(h.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """`c_fc` to four times the width, gelu, `c_proj` back."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(d_model, 4 * d_model)
        self.act = nn.GELU()
        self.c_proj = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(self.act(self.c_fc(x)))
        return out


class Block(nn.Module):
    """A transformer block with its norms before attention and feed-forward."""

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(d_model)
        self.attn = Attention(d_model, n_head)
        self.ln_2 = nn.LayerNorm(d_model)
        self.mlp = FeedForward(d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class GPT(nn.Module):
    """A decoder: tokens `(batch, time)`, `time <= context`, -> logits `(batch, time, vocab_size)`.

    With `tie` the head's weight is the token embedding's: one tensor, two names.
    """

    def __init__(
        self,
        vocab_size: int,
        context: int,
        n_layer: int = 2,
        n_head: int = 4,
        d_model: int = 96,
        tie: bool = True,
    ) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(vocab_size, d_model)
        self.pos_emb = nn.Embedding(context, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_head) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        if tie:
            self.lm_head.weight = self.tok_emb.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.tok_emb(tokens) + self.pos_emb(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.lm_head(self.ln_f(h))
        return logits

"""A module for those who write hypernetworks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class OutputScale(nn.Module):
    """The last step of a hypernetwork that generates in chunks: each value times a constant, plus another one.

    `(..., n)` -> `(..., size)`, where n may be more than size, by the filler of the last chunk. `scale` and `shift` are
    parameters that do not learn; the initializer `chunk_scale` gives them what each target wants, `{gives: std}` and
    `{gives: mean}`.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size), requires_grad=False)
        self.shift = nn.Parameter(torch.zeros(size), requires_grad=False)

    def forward(self, generated: Tensor) -> Tensor:
        return generated[..., : len(self.scale)] * self.scale + self.shift

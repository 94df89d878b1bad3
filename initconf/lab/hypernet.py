"""A hypernetwork: from the embedding of a task to the weights of a small network for it, whole or in chunks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from initconf.lab.models import ACTIVATIONS, MLP


class Hypernet(nn.Module):
    """An embedding for each task, a body, and a head that generates the parameters of `main`, an MLP, in their order.

    With a `chunk_size` the head gives that many values at a time, for each of the chunk embeddings; what the last chunk has too
    much is not used. The parameters of `main` itself are never used: it says how the generated ones are put together.

    `(batch, in_features)`, of which the first is the number of the task -> logits `(batch, num_classes)`.
    Raises ValueError for an unknown activation.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_tasks: int,
        width: int = 32,
        depth: int = 1,
        hyper_width: int = 32,
        hyper_depth: int = 2,
        embedding: int = 8,
        activation: str = "relu",
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation}: choose one of {', '.join(ACTIVATIONS)}")
        self.main = MLP(in_features - 1, num_classes, width, depth).requires_grad_(False)
        self.shapes = {name: p.shape for name, p in self.main.named_parameters()}
        total = sum(shape.numel() for shape in self.shapes.values())
        self.task_emb = nn.Embedding(num_tasks, embedding)
        inputs = embedding
        if chunk_size is not None:
            self.chunk_emb = nn.Embedding(-(-total // chunk_size), embedding)
            inputs += embedding
        self.body = nn.Sequential()
        for i in range(hyper_depth):
            self.body.append(nn.Linear(hyper_width if i else inputs, hyper_width))
            self.body.append(ACTIVATIONS[activation]())
        self.head = nn.Linear(hyper_width if hyper_depth else inputs, chunk_size or total)

    def generate(self) -> dict[str, Tensor]:
        """The parameters of the main network for all tasks: name -> `(tasks, *shape)`."""
        e = self.task_emb.weight
        if hasattr(self, "chunk_emb"):
            c = self.chunk_emb.weight
            e = torch.cat([e[:, None].expand(-1, len(c), -1), c.expand(len(e), -1, -1)], -1)
        flat = self.head(self.body(e)).flatten(1)
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = flat[:, : sum(sizes)].split(sizes, 1)
        return {name: part.unflatten(1, shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def forward(self, x: Tensor) -> Tensor:
        task, pixels = x[:, 0].long(), x[:, 1:]
        every = torch.vmap(lambda weights: functional_call(self.main, weights, (pixels,)))(self.generate())
        logits: Tensor = every[task, torch.arange(len(x), device=x.device)]
        return logits

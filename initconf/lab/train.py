"""One training loop for all models: cross entropy, batches in an order that only the seed decides."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from initconf.lab.data import Dataset

log = logging.getLogger(__name__)


class Settings(BaseModel, frozen=True, extra="forbid"):
    """The node `train` of the configuration. Raises pydantic's ValidationError where a value cannot be used."""

    steps: int = Field(300, ge=0)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(2e-3, ge=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    seed: int = 0
    device: str = "cpu"  # or cuda, or auto: cuda where there is one


@dataclass(frozen=True)
class Metrics:
    """What a run is judged by; a loss that is not finite stays so."""

    initial_loss: float  # on the test set, before the first step
    train_loss: float  # on as many training examples as the test set has
    test_loss: float
    test_accuracy: float
    steps: int  # steps made: fewer than asked for where the loss ceased to be finite


def train(model: nn.Module, data: Dataset, settings: Settings, *, progress: bool = False) -> Metrics:
    """Train `model` in place and measure it; with `progress` a bar is drawn on standard error.

    Raises what the model raises.
    """
    # Dropout in a user's model draws from the global generator: it gets the seed, and gives back what it had.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return _train(model, data, settings, progress)


def _train(model: nn.Module, data: Dataset, settings: Settings, progress: bool) -> Metrics:
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    train_x, train_y = data.train_x.to(device), data.train_y.to(device)
    test_x, test_y = data.test_x.to(device), data.test_y.to(device)
    optimizer = _optimizer(model, settings)
    initial_loss, _ = evaluate(model, test_x, test_y)
    model.train()
    done = 0
    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not progress,
    )
    with bar:
        task = bar.add_task("training", total=settings.steps, loss=initial_loss)
        for batch in _batches(len(train_x), settings):
            rows = batch.to(device)
            loss = cross_entropy(model(train_x[rows]), train_y[rows])
            value = loss.item()
            if not math.isfinite(value):
                log.warning("training stopped after %d steps: the loss is %s", done, value)
                break
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1
            bar.update(task, advance=1, loss=value)
    train_loss, _ = evaluate(model, train_x[: len(test_x)], train_y[: len(test_x)])
    test_loss, accuracy = evaluate(model, test_x, test_y)
    return Metrics(initial_loss, train_loss, test_loss, accuracy, done)


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    if settings.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)


def _batches(n: int, settings: Settings) -> Iterator[Tensor]:
    """`steps` index tensors of `min(batch_size, n)` examples: one permutation after another, remainders left out."""
    generator = torch.Generator().manual_seed(settings.seed)
    size = min(settings.batch_size, n)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(settings.steps):
        if len(order) < size:
            order = torch.randperm(n, generator=generator)
        yield order[:size]
        order = order[size:]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over all positions: logits `(..., classes)`, targets `(...)`."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 256) -> tuple[float, float]:
    """Loss and accuracy, each the mean over all positions, in evaluation mode; the model's mode is left as it was."""
    mode = model.training
    model.eval()
    loss = hits = 0.0
    for part_x, part_y in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
        logits = model(part_x)
        loss += cross_entropy(logits, part_y).item() * part_y.numel()
        hits += (logits.argmax(-1) == part_y).sum().item()
    model.train(mode)
    return loss / y.numel(), hits / y.numel()

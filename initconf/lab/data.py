"""Data sets that need no download: scikit-learn's digits, also as several tasks, and the text of Python's own help topics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Examples along the first axis of every tensor. A data set of your own: `data._target_=my_pkg.data`."""

    train_x: Tensor
    train_y: Tensor  # class indices: (examples,), or (examples, time) where every position is predicted
    test_x: Tensor
    test_y: Tensor
    sizes: Mapping[str, int]  # arguments for the models that take them, such as in_features
    objective: str = "accuracy"  # accuracy | loss: by which runs are ranked


def digits(flat: bool = False) -> Dataset:
    """1,797 handwritten digits of 8x8 pixels, `(n, 1, 8, 8)` or flat `(n, 64)`, with mean 0 and standard deviation 1.

    Raises ModuleNotFoundError, with the remedy, where scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as err:
        raise ModuleNotFoundError("the digits come with scikit-learn: pip install 'initconf[lab]'") from err
    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).float()
    y = torch.from_numpy(labels).long()
    # Every fifth block of ten, not every fifth digit: the labels run 0, 1, ..., 9, 0, 1, ... over long stretches.
    test = torch.arange(len(y)) // 10 % 5 == 4
    # One mean and one deviation for all pixels: some pixels are nearly always 0, and their own deviation would blow
    # a rare stroke up to forty sigma.
    x = (x - x[~test].mean()) / x[~test].std()
    if not flat:
        x = x.reshape(-1, 1, 8, 8)
    sizes = {"in_features": 64, "in_channels": 1, "image_size": 8, "num_classes": 10}
    return Dataset(x[~test], y[~test], x[test], y[test], sizes)


def digits_tasks(tasks: int = 5, kind: Literal["permuted", "rotated"] = "permuted", seed: int = 0) -> Dataset:
    """The digits as several tasks: `(n, 1 + 64)`, the number of the task and the pixels; every task has all digits.

    Task 0 are the digits themselves. In the others the pixels are permuted, by a permutation of its own for each, which `seed`
    decides; or the images are rotated, by `360 / tasks` degrees more for each. Raises ValueError for another kind or fewer
    than one task.
    """
    if kind not in ("permuted", "rotated") or tasks < 1:
        raise ValueError(f"kind={kind}, tasks={tasks}: choose permuted or rotated, and one task or more")
    plain, generator = digits(), torch.Generator().manual_seed(seed)
    orders = [torch.arange(64), *(torch.randperm(64, generator=generator) for _ in range(tasks - 1))]

    def as_task(x: Tensor, task: int) -> Tensor:
        pixels = x.flatten(1)[:, orders[task]] if kind == "permuted" else _rotated(x, 2 * math.pi * task / tasks).flatten(1)
        return torch.cat([torch.full((len(x), 1), float(task)), pixels], 1)

    train_x, test_x = (torch.cat([as_task(x, task) for task in range(tasks)]) for x in (plain.train_x, plain.test_x))
    sizes = {"in_features": 65, "num_classes": 10, "num_tasks": tasks}
    # The tests take the first examples of the training set for its loss: every task is to be among them.
    mixed = torch.randperm(len(train_x), generator=generator)
    train_y, test_y = plain.train_y.repeat(tasks), plain.test_y.repeat(tasks)
    return Dataset(train_x[mixed], train_y[mixed], test_x, test_y, sizes)


def _rotated(x: Tensor, angle: float) -> Tensor:
    """Images `(n, 1, h, w)` turned about their middle by `angle` in radians; what comes in from outside is background."""
    if angle == 0:
        return x
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
    grid = F.affine_grid(turn.expand(len(x), 2, 3), list(x.shape), align_corners=False)
    background = x.min()
    return F.grid_sample(x - background, grid, align_corners=False) + background


# Newline and printable ASCII, whatever the text holds: the sizes of a model do not depend on Python's version.
VOCABULARY = "\n" + "".join(map(chr, range(32, 127)))


def text(characters: int = 400_000, context: int = 64) -> Dataset:
    """The first `characters` of Python's help topics as windows `(n, context)`; the target is the next character."""
    from pydoc_data.topics import topics

    code = {ord(char): i for i, char in enumerate(VOCABULARY)}
    source = "\n".join(topics[name] for name in sorted(topics))[:characters]
    ids = torch.tensor([code.get(byte, code[ord("?")]) for byte in source.encode("ascii", "replace")])
    windows = ids[: (len(ids) - 1) // context * context + 1].unfold(0, context + 1, context)
    x, y = windows[:, :-1].contiguous(), windows[:, 1:].contiguous()
    test = torch.arange(len(x)) % 10 == 9
    sizes = {"vocab_size": len(VOCABULARY), "context": context}
    return Dataset(x[~test], y[~test], x[test], y[test], sizes, objective="loss")

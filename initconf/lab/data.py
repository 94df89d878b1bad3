"""Two data sets that need no download: scikit-learn's digits and the text of Python's own help topics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
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

"""What constructing costs, outside of skip_init and inside; benchmarks/models.py has the way to initialised weights.

    python benchmarks/skip_init.py [--quick]

Inside, every operation passes through Python: many small layers are the worst case, large ones the best. What is left out are
the random numbers, and with them the first touch of the memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from measuring import Row, main, seconds
from torch import nn

import initconf
from initconf.lab.models import GPT


def encoder() -> nn.Module:
    """Six layers, of which five are copies of the first."""
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(512, 8, batch_first=True), 6, enable_nested_tensor=False)


def orthogonal() -> nn.Module:
    layers = nn.Sequential(*(nn.Linear(512, 512) for _ in range(4)))
    for layer in layers:
        nn.init.orthogonal_(layer.weight)
    return layers


def with_a_teacher() -> nn.Module:
    student = GPT(vocab_size=5000, context=256, n_layer=4, n_head=4, d_model=256)
    return nn.ModuleList([student, copy.deepcopy(student)])


CONSTRUCTORS: dict[str, Callable[[], nn.Module]] = {
    "2,000 linear layers, 8 to 8": lambda: nn.ModuleList(nn.Linear(8, 8) for _ in range(2000)),
    "20 linear layers, 1024 to 1024": lambda: nn.ModuleList(nn.Linear(1024, 1024) for _ in range(20)),
    "torch's transformer encoder, 6 layers of width 512": encoder,
    "4 orthogonal layers, 512 to 512": orthogonal,
    "a GPT and its copy, 4 layers of width 256": with_a_teacher,
    "a GPT of 12 layers of width 768": lambda: GPT(
        vocab_size=50257, context=1024, n_layer=12, n_head=12, d_model=768, tie=True
    ),
}
QUICK = "4 orthogonal layers, 512 to 512"


def constructors(quick: bool) -> list[Row]:
    """Each constructor, outside and inside."""
    rows = []
    for name in [QUICK] if quick else CONSTRUCTORS:
        make = CONSTRUCTORS[name]
        inside = initconf.skip_init()(make)
        eager, skipped = seconds(make, 3), seconds(inside, 3)
        rows.append({"constructor": name, "values": sum(p.numel() for p in inside().parameters()), "ms": 1e3 * eager})
        rows[-1] |= {"inside skip_init ms": 1e3 * skipped, "times as fast": eager / skipped}
    return rows


if __name__ == "__main__":
    main("skip_init", __doc__, {"constructors": constructors})

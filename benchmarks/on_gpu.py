"""How fast values are written on a GPU: against torch.nn.init there, and against `fill_`.

python benchmarks/on_gpu.py [--quick]
"""

from __future__ import annotations

import torch
from elementwise import LAWS, compared, most, one
from measuring import Row, main

CPU_ONLY = ("threads", "of one thread")
RUNS = 20


def laws(quick: bool) -> list[Row]:
    """Each law, for one parameter of 2^26 values."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        model = one(most(quick), dtype, "cuda")
        rows += [row for law in LAWS for row in compared(model, law, [1], RUNS)]
    return [{column: value for column, value in row.items() if column not in CPU_ONLY} for row in rows]


if __name__ == "__main__":
    if torch.cuda.is_available():
        main("on_gpu", __doc__, {"laws": laws})
    else:
        print("no GPU")

"""Routes from Gaussian matrices to orthonormal columns: how fast each is, and how exact in float32.

python benchmarks/matrices.py [--quick]

initconf takes Householder's, which serves every matrix. CholeskyQR2 gives the same Q, and fails where the square of the
condition number is more than float32 can hold, as it may be of square matrices. Newton-Schulz gives another orthonormal matrix,
the polar factor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measuring import Row, intra_op, main, seconds
from torch import Tensor

SHAPES = [(512, 512), (2048, 512), (1024, 1024), (4096, 1024), (50257, 768)]
QUICK = [(48, 48), (96, 16)]
LARGE = 1 << 22
STEPS = 40
"""Of Newton-Schulz: the smallest singular value of a square matrix grows by half with each."""


def householder(a: Tensor) -> Tensor:
    q, r = torch.linalg.qr(a)
    return q * torch.sgn(r.diagonal())


def cholesky_twice(a: Tensor) -> Tensor:
    for _ in range(2):
        r = torch.linalg.cholesky(a.mT @ a, upper=True)
        a = torch.linalg.solve_triangular(r, a, upper=True, left=False)
    return a


def newton_schulz(a: Tensor) -> Tensor:
    a = a / torch.linalg.matrix_norm(a, 2)
    for _ in range(STEPS):
        a = 1.5 * a - 0.5 * a @ (a.mT @ a)
    return a


ROUTES: dict[str, Callable[[Tensor], Tensor]] = {
    "Householder": householder,
    "CholeskyQR2": cholesky_twice,
    "Newton-Schulz": newton_schulz,
}


def routes(quick: bool) -> list[Row]:
    """Each route for each shape: in one thread on the CPU, as in initconf, and on a GPU, where there is one."""
    rows: list[Row] = []
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for m, n in QUICK if quick else SHAPES:
            a = torch.randn(m, n, generator=torch.Generator().manual_seed(0)).to(device)
            first = 0.0
            for name, route in ROUTES.items():
                if route is newton_schulz and m * n > LARGE:  # minutes
                    continue
                where = {"route": name, "device": device, "rows": m, "columns": n, "values": m * n}
                try:
                    off = float((route(a).double() - route(a.double())).abs().max())
                    with intra_op(1):
                        taken = seconds(lambda a=a, route=route: route(a), 1 if m * n > LARGE else 3)
                except torch.linalg.LinAlgError:
                    rows.append(where | {"ms": None, "of Householder": None, "off float64": None})
                    continue
                first = first or taken
                rows.append(where | {"ms": 1e3 * taken, "of Householder": taken / first, "off float64": off})
    return rows


if __name__ == "__main__":
    main("matrices", __doc__, {"routes": routes})

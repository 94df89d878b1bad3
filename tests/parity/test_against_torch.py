"""torch.nn.init: bit for bit where it is asked for, and the same laws from our own streams."""

from __future__ import annotations

import math

import pytest
import torch
from comparing import ROWS, Row, difference, fails, is_none, line, same, values
from torch import nn

import initconf

PEER = f"torch {torch.__version__.split('+')[0]}"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SPACING = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 1.2e-7, torch.float64: 1e-15}

# Each function with its arguments, and the number of axes that it takes.
CALLS = [
    ("uniform_", {}, (1, 2, 4)),
    ("uniform_", {"a": -0.3, "b": 0.2}, (1, 2, 4)),
    ("normal_", {}, (1, 2, 4)),
    ("normal_", {"mean": 0.5, "std": 0.02}, (1, 2, 4)),
    ("trunc_normal_", {}, (1, 2, 4)),
    ("trunc_normal_", {"mean": 0.1, "std": 0.5, "a": -0.4, "b": 0.3}, (1, 2, 4)),
    ("constant_", {"val": 0.3}, (1, 2, 4)),
    ("ones_", {}, (1, 2, 4)),
    ("zeros_", {}, (1, 2, 4)),
    ("eye_", {}, (2,)),
    ("dirac_", {}, (3, 4, 5)),
    ("dirac_", {"groups": 2}, (3, 4, 5)),
    ("xavier_uniform_", {"gain": 1.3}, (2, 3, 4)),
    ("xavier_normal_", {}, (2, 3, 4)),
    ("kaiming_uniform_", {"a": math.sqrt(5)}, (2, 3, 4)),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "tanh"}, (2, 3, 4)),
    ("kaiming_normal_", {"nonlinearity": "relu"}, (2, 3, 4)),
    ("kaiming_normal_", {"a": 0.2, "mode": "fan_out"}, (2, 3, 4)),
    ("orthogonal_", {}, (2, 3, 4)),
    ("orthogonal_", {"gain": 0.7}, (2, 3, 4)),
    ("sparse_", {"sparsity": 0.3, "std": 0.02}, (2,)),
]
SHAPES = {1: (70,), 2: (12, 34), 3: (8, 6, 3), 4: (8, 6, 3, 4), 5: (8, 4, 3, 2, 3)}


class Several(nn.Module):
    """A tensor of each of these numbers of axes, in this order."""

    def __init__(self, axes: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        for n in axes:
            self.register_parameter(f"p{n}", nn.Parameter(torch.full(SHAPES[n], torch.nan, dtype=dtype)))


def test_every_function_is_compared() -> None:
    there = {name for name in vars(nn.init) if name.endswith("_") and not name.startswith("_")}
    assert there == {name for name, _, _ in CALLS}


def said(name: str, arguments: dict[str, object]) -> str:
    return f"{name}({', '.join(f'{k}={v:.4g}' if isinstance(v, float) else f'{k}={v}' for k, v in arguments.items())})"


def by_torch(model: nn.Module, name: str, arguments: dict[str, object]) -> bool:
    """Write a model as a script with torch.nn.init would; False where torch has no such function for the dtype."""
    random = name not in ("constant_", "ones_", "zeros_", "eye_", "dirac_")
    drawn = {"generator": torch.Generator().manual_seed(7)} if random else {}
    try:
        for parameter in model.parameters():
            getattr(nn.init, name)(parameter, **arguments, **drawn)
    except RuntimeError as refusal:
        return "not implemented for" not in str(refusal)
    return True


@pytest.mark.parametrize(("name", "arguments", "axes"), CALLS)
def test_bit_for_bit(name: str, arguments: dict[str, object], axes: tuple[int, ...]) -> None:
    spec = {"compat": "torch", "rules": {"all": {"glob": "*", "initializer": {"name": name, **arguments}}}}
    different, count, notes = 0, 0, []
    for dtype in DTYPES:
        reference, model = Several(axes, dtype), Several(axes, dtype)
        served = by_torch(reference, name, arguments)
        if not served:  # torch has no QR in half precision; our own streams have
            with pytest.raises(initconf.ApplyError, match="torch's orthogonal_ does not serve"):
                initconf.initialize(model, spec, generator=torch.Generator().manual_seed(7))
            initconf.initialize(model, {**spec, "compat": None}).verify()
            notes.append(f"torch refuses {str(dtype).removeprefix('torch.')}")
            continue
        state = torch.get_rng_state()
        initconf.initialize(model, spec, generator=torch.Generator().manual_seed(7))
        assert torch.equal(torch.get_rng_state(), state)
        pairs = list(zip(reference.parameters(), model.parameters(), strict=True))
        if name == "sparse_":  # torch places the zeros from the global state, whatever generator it is given
            notes = ["the places of the zeros are drawn from the generator here"]
            theirs, own = pairs[0]
            assert torch.equal((theirs == 0).sum(0), (own == 0).sum(0))
            both = (theirs != 0) & (own != 0)
            assert int(both.sum()) > both.numel() / 4
            pairs = [(theirs[both], own[both])]
        count += sum(a.numel() for a, _ in pairs)
        different += sum(int((a != b).sum()) for a, b in pairs)
    ROWS.append(
        Row(PEER, f"bits of {said(name, arguments)}", f"{count} values", f"{count} values", str(different), ", ".join(notes))
    )
    assert different == 0, ROWS[-1]


def test_the_comparison_of_bits_can_fail() -> None:
    reference, model = Several((2,), torch.float32), Several((2,), torch.float32)
    nn.init.normal_(reference.p2, generator=torch.Generator().manual_seed(7))
    spec = {"compat": "torch", "initializer": "normal_"}
    initconf.initialize(model, spec, generator=torch.Generator().manual_seed(8))
    assert not torch.equal(reference.p2, model.p2)
    initconf.initialize(model, spec, generator=torch.Generator().manual_seed(7))
    assert torch.equal(reference.p2, model.p2)


class Large(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(500, 800, dtype=dtype))


@pytest.mark.parametrize(
    ("name", "arguments"), [call[:2] for call in CALLS if 2 in call[2] and call[0] not in ("eye_", "sparse_")]
)
def test_the_same_laws_from_our_own_streams(name: str, arguments: dict[str, object]) -> None:
    found = []
    for dtype in DTYPES:
        reference, model = Large(dtype), Large(dtype)
        if not by_torch(reference, name, arguments):
            continue
        law = initconf.initialize(model, {"initializer": {"name": name, **arguments}}).verify().plan["weight"].law
        # Half-precision values sit on a grid of their own, on which ties would look like another shape.
        own = None if dtype.itemsize == 2 else values(model.weight)
        theirs = values(reference.weight)
        off = difference(theirs, law, own, SPACING[dtype])
        assert is_none(off), (dtype, off)
        found.append((abs(float(off.split()[1])), off, theirs, law))
    _, off, theirs, law = max(found, key=lambda row: row[0])
    line(PEER, f"law of {said(name, arguments)}", theirs, law, off, "the worst of its dtypes")


def test_a_wrong_law_is_found() -> None:
    reference = Large(torch.float32)
    nn.init.kaiming_normal_(reference.weight, generator=torch.Generator().manual_seed(1))
    sample = values(reference.weight)

    def law(initializer: str | dict[str, object]) -> initconf.laws.Law:
        return initconf.compile(Large(torch.float32), {"initializer": initializer})["weight"].law

    assert not fails(same, "", "", sample, law("kaiming_normal_"))
    assert not fails(same, "", "", sample, law("he_normal"))
    for wrong in (
        {"name": "kaiming_normal_", "a": 0.1},  # 0.5 percent
        {"name": "he_normal", "gain": 1.01},
        "he_uniform",
        "xavier_normal_",
        "zeros",
        {"name": "normal", "std": 0.05, "mean": 0.001},
    ):
        assert fails(same, "", "", sample, law(wrong)), wrong
    right = law("kaiming_normal_")
    uniform = torch.empty(500, 800).uniform_(-1, 1).mul_(math.sqrt(3) * right.std)
    assert difference(values(uniform), right, sample).startswith("another shape")

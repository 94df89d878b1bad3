"""Fans measured, not believed: weights, inputs and gradients of second moment 1 go through the real modules.

What comes out forwards has the second moment fan_in, what comes out backwards fan_out; where positions differ (a stride, a
kernel that it does not divide), their mean.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import initconf
from initconf.survey import survey

ENOUGH = 120_000
"""So many random weights, inputs and outputs: the second moments then stray by less than one percent."""
SMALL = 1e-5
"""The size of inputs to what is not linear but has a slope."""


@dataclass(frozen=True)
class Row:
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    """Of an input: what is drawn from the normal distribution."""
    name: str = "weight"
    block: str | None = None
    run: Callable[[Any, Tensor], Tensor] = lambda module, x: module(x)
    small: bool = False
    """The module is not linear: what counts is its response to small inputs, beyond that of a weight of zero, in units of the
    response of a weight that passes its first input on."""
    layouts: dict[str, Any] = field(default_factory=dict)
    terms: int = 1
    """So many inputs are summed outside of the weight."""


# --- convolutions --------------------------------------------------------------------------------------------------------

SPACE = {"1": (8, 64), "2": (2, 18, 18), "3": (1, 18, 18, 18)}


def conv(kind: str, inside: int, out: int, kernel: Any, **more: Any) -> Row:
    """`1`, `2`, `3`: a convolution of so many axes; with a `t`: a transposed one."""
    cls = getattr(nn, f"Conv{'Transpose' if 't' in kind else ''}{kind[-1]}d")
    batch, *space = SPACE[kind[-1]]
    return Row(lambda: cls(inside, out, kernel, bias=False, **more), (batch, inside, *space))


CONVOLUTIONS = {
    "conv1d": conv("1", 32, 48, 5),
    "conv1d, kernel 1": conv("1", 32, 48, 1),
    "conv1d, stride 3": conv("1", 32, 48, 5, stride=3),
    "conv1d, stride 4 over kernel 2": conv("1", 32, 48, 2, stride=4),
    "conv1d, dilation 3": conv("1", 32, 48, 3, dilation=3),
    "conv1d, dilation 2, stride 2": conv("1", 32, 48, 3, dilation=2, stride=2),
    "conv1d, padding": conv("1", 32, 48, 5, padding=2),
    "conv1d, padding same": conv("1", 32, 48, 5, padding="same"),
    "conv1d, padding circular": conv("1", 32, 48, 5, padding=2, padding_mode="circular"),
    "conv1d, padding reflect": conv("1", 32, 48, 5, padding=2, padding_mode="reflect"),
    "conv1d, padding replicate, stride 2": conv("1", 32, 48, 5, padding=2, padding_mode="replicate", stride=2),
    "conv1d, depthwise": conv("1", 256, 256, 5, groups=256),
    "conv2d": conv("2", 32, 24, 3),
    "conv2d, stride 2": conv("2", 32, 64, 3, stride=2),
    "conv2d, kernel (2, 3), stride (1, 2)": conv("2", 32, 24, (2, 3), stride=(1, 2)),
    "conv2d, kernel (1, 5), stride (3, 1)": conv("2", 32, 24, (1, 5), stride=(3, 1)),
    "conv2d, dilation 2": conv("2", 32, 24, 3, dilation=2),
    "conv2d, groups 4": conv("2", 32, 64, 3, groups=4),
    "conv2d, groups 4, stride 2": conv("2", 32, 64, 3, groups=4, stride=2),
    "conv2d, depthwise": conv("2", 256, 256, 3, groups=256),
    "conv2d, depthwise, twice as many": conv("2", 128, 256, 3, groups=128),
    "conv3d": conv("3", 24, 32, 2),
    "conv3d, stride 2, groups 2": conv("3", 24, 32, 3, stride=2, groups=2),
    "conv3d, kernel and stride (1, 2, 3)": conv("3", 16, 24, (1, 2, 3), stride=(1, 2, 3)),
    "transposed 1d": conv("t1", 32, 48, 3),
    "transposed 1d, stride 2": conv("t1", 32, 48, 3, stride=2),
    "transposed 1d, stride 3, output padding": conv("t1", 32, 48, 5, stride=3, output_padding=2),
    "transposed 1d, stride 3 over kernel 2": conv("t1", 32, 48, 2, stride=3),
    "transposed 1d, stride 2, dilation 2": conv("t1", 32, 48, 3, stride=2, dilation=2),
    "transposed 1d, groups 4": conv("t1", 32, 48, 3, groups=4),
    "transposed 2d, stride 2": conv("t2", 32, 24, 4, stride=2),
    "transposed 2d, stride 2, padding": conv("t2", 32, 24, 4, stride=2, padding=1),
    "transposed 2d, kernel (3, 2), stride (2, 1)": conv("t2", 32, 24, (3, 2), stride=(2, 1)),
    "transposed 2d, dilation 2": conv("t2", 32, 24, 3, dilation=2),
    "transposed 2d, stride 2, groups 4": conv("t2", 64, 32, 4, stride=2, groups=4),
    "transposed 2d, stride 2, depthwise": conv("t2", 256, 256, 4, stride=2, groups=256),
    "transposed 3d, stride 2": conv("t3", 24, 32, 2, stride=2),
}


def interior(tensor: Tensor, module: Any, strided: bool) -> Tensor:
    """What lies far from the edges; on the strided side, where positions take turns, over whole numbers of turns."""
    for axis in range(2, tensor.ndim):
        k, d, s = (getattr(module, name)[axis - 2] for name in ("kernel_size", "dilation", "stride"))
        p = d * (k - 1) if isinstance(module.padding, str) else module.padding[axis - 2]
        margin, turn = (d * (k - 1) + p + s, s) if strided else (p, 1)
        length = (tensor.shape[axis] - 2 * margin) // turn * turn
        assert length >= 2 * turn
        tensor = tensor.narrow(axis, margin, length)
    return tensor


# --- attention and recurrent modules ---------------------------------------------------------------------------------------


def first(weight: Tensor) -> None:
    """Every unit passes the first input on."""
    weight.zero_()[:, 0] = 1


class Probe(nn.Module):
    """Self-attention whose heads have one channel each: a small query, key or value is what comes out."""

    def __init__(self, **more: Any):
        super().__init__()
        self.it = nn.MultiheadAttention(64, 64, bias=False, batch_first=True, **more)
        fused = self.it.in_proj_weight
        parts = fused.chunk(3) if fused is not None else [getattr(self.it, f"{x}_proj_weight") for x in "qkv"]
        with torch.no_grad():
            for part in parts:
                first(part)
            self.it.out_proj.weight.copy_(torch.eye(64))

    def forward(self, x: Tensor, part: str) -> Tensor:
        # Two keys and two values, 1 and -1: softmax(q, -q) times (1, -1) is tanh(q).
        n, signs = len(x), torch.tensor([1.0, -1.0], dtype=x.dtype)[:, None]
        q, k, v = (torch.ones(n, 1, size, dtype=x.dtype) for size in (64, self.it.kdim, self.it.vdim))
        given = {"q": q, "k": k * signs, "v": v * signs}
        given[part] = x[:, None] * signs if part == "k" else x[:, None]
        if part == "v":
            given["k"] = k
        return self.it(given["q"], given["k"], given["v"], need_weights=False)[0][:, 0]


class Identity(nn.Module):
    """Attention that passes its input on to out_proj."""

    def __init__(self) -> None:
        super().__init__()
        self.it = nn.MultiheadAttention(64, 4, bias=False, batch_first=True)
        with torch.no_grad():
            self.it.in_proj_weight.copy_(torch.eye(64).repeat(3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.it(x[:, None], x[:, None], x[:, None], need_weights=False)[0][:, 0]


ATTENTION = {
    "attention, out_proj": Row(Identity, (64, 64), "it.out_proj.weight"),
}
for part, inside in (("q", 64), ("k", 48), ("v", 32)):
    run = partial(Probe.forward, part=part)
    ATTENTION[f"attention, {part}"] = Row(Probe, (64, 64), "it.in_proj_weight", part, run, part != "v")
    apart = partial(Probe, kdim=48, vdim=32)
    ATTENTION[f"attention, {part} of its own"] = Row(apart, (64, inside), f"it.{part}_proj_weight", None, run, part != "v")


def recurrent(make: Callable[[], Any]) -> Callable[[], nn.Module]:
    """All weights zero, all biases one half: every gate is open, and no unit differs from another."""

    def made() -> nn.Module:
        module: nn.Module = make()
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.fill_(0.5 if "bias" in name else 0)
                if "weight_hr" in name:
                    p.copy_(torch.eye(*p.shape))
        return module

    return made


def step(module: Any, x: Tensor, into: str, out: str = "h") -> Tensor:
    """One step from states of one half. `into`: which of x, h and c the input is; `out`: h, or an LSTM's c."""
    layers = (2 if getattr(module, "bidirectional", False) else 1,) if isinstance(module, nn.RNNBase) else ()
    sizes = {"x": module.input_size, "c": module.hidden_size, "h": getattr(module, "proj_size", 0) or module.hidden_size}
    given = {key: torch.full((len(x), size), 0.5, dtype=x.dtype) for key, size in sizes.items()} | {into: x}
    h, c = (given[key].expand(*layers, *given[key].shape).contiguous() for key in "hc")
    if layers:
        y, last = module(given["x"][None], (h, c) if isinstance(module, nn.LSTM) else h)
        return last[1][-1] if out == "c" else y[0, :, -module.hidden_size :] if layers == (2,) else y[0]
    return module(given["x"], (h, c))[0] if isinstance(module, nn.LSTMCell) else module(given["x"], h)


GATES = {"RNN": (None,), "LSTM": ("i", "f", "g", "o"), "GRU": ("r", "z", "n")}
RECURRENT = {
    "LSTM with projection, hh[f]": Row(
        recurrent(lambda: nn.LSTM(32, 64, proj_size=48)), (64, 48), "weight_hh_l0", "f", partial(step, into="h", out="c"), True
    ),
    "LSTM with projection, hr": Row(
        recurrent(lambda: nn.LSTM(32, 64, proj_size=48)), (64, 64), "weight_hr_l0", None, partial(step, into="c"), True
    ),
    "GRU, backwards, ih[n]": Row(
        recurrent(lambda: nn.GRU(48, 64, bidirectional=True)),
        (64, 48),
        "weight_ih_l0_reverse",
        "n",
        partial(step, into="x"),
        True,
    ),
}
for kind, gates in GATES.items():
    for gate in gates:
        for end, size in (("ih", 48), ("hh", 64)):
            run = partial(step, into="x" if end == "ih" else "h")
            for suffix, cell in (("_l0", ""), ("", "Cell")):
                if cell and gate not in (None, "f", "n"):
                    continue
                make = recurrent(lambda kind=kind, cell=cell: getattr(nn, f"{kind}{cell}")(48, 64))
                title = f"{kind}{cell}, {end}" + (f"[{gate}]" if gate else "")
                RECURRENT[title] = Row(make, (64, size), f"weight_{end}{suffix}", gate, run, True)


# --- what a spec declares --------------------------------------------------------------------------------------------------


class Bare(nn.Module):
    """A parameter `w`, zero where a row writes no block, and what is to be done with it."""

    def __init__(self, *shape: int):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(shape))


def bare(shape: tuple[int, ...], x: tuple[int, ...], run: Callable[..., Tensor], block: str | None = None, **said: Any) -> Row:
    """A module that nobody knows, with the layout that a spec declares for it."""
    return Row(lambda: Bare(*shape), x, "w", block, lambda m, x: run(m.w, x), layouts={"it": {"match": "w", **said}})


QKV = {"axis": 0, "names": ["q", "k", "v"], "sizes": [64, 16, 16]}
DECLARED = {
    "stored (in, out)": bare((48, 64), (256, 48), lambda w, x: x @ w, axes={"in": 0, "out": 1}),
    "stored (in, out), from the end": bare((48, 64), (256, 48), lambda w, x: x @ w, axes={"in": -2, "out": -1}),
    "experts (expert, in, out)": bare((4, 32, 48), (4, 128, 32), lambda w, x: x @ w, axes={"batch": 0, "in": 1, "out": 2}),
    "experts (expert, out, in)": bare(
        (4, 48, 32), (128, 4, 32), lambda w, x: torch.einsum("eoi,bei->beo", w, x), axes={"batch": 0, "out": 1, "in": 2}
    ),
    "heads (in, head, channel)": bare(
        (32, 6, 8), (256, 32), lambda w, x: torch.einsum("ihc,bi->bhc", w, x), axes={"in": 0, "out": [1, 2]}
    ),
    "heads (head, channel, out)": bare(
        (6, 8, 32), (256, 6, 8), lambda w, x: torch.einsum("hco,bhc->bo", w, x), axes={"in": [0, 1], "out": 2}
    ),
    "fused, q": bare((96, 64), (256, 64), lambda w, x: (x @ w.T)[:, :64], "q", axes={"out": 0, "in": 1}, blocks=QKV),
    "fused, k of fewer": bare((96, 64), (256, 64), lambda w, x: (x @ w.T)[:, 64:80], "k", axes={"out": 0, "in": 1}, blocks=QKV),
    "fused (in, out), v": bare(
        (64, 96), (256, 64), lambda w, x: (x @ w)[:, 64:], "v", axes={"in": 0}, blocks={"axis": 1, "names": ["q", "k", "v"]}
    ),
    "experts, fused gate and up": bare(
        (4, 32, 96),
        (4, 128, 32),
        lambda w, x: (x @ w)[..., 48:],
        "up",
        axes={"batch": 0, "in": 1, "out": 2},
        blocks={"axis": -1, "names": ["gate", "up"]},
    ),
    "grouped (out, in of a group)": bare(
        (64, 12), (256, 4, 12), lambda w, x: torch.einsum("goi,bgi->bgo", w.view(4, 16, 12), x), groups=4
    ),
    "unfolded convolution": bare(
        (48, 32, 3),
        (8, 32, 64),
        lambda w, x: nn.functional.conv1d(x, w, stride=2)[..., 2:-2],
        stride=2,
    ),
}


# --- all others ------------------------------------------------------------------------------------------------------------


def lazy(cls: Any, *args: Any, example: tuple[int, ...], **more: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules are an experiment, torch says
        module: nn.Module = cls(*args, bias=False, **more)
    module(torch.zeros(example))
    return module


def adaptive() -> nn.Module:
    return nn.AdaptiveLogSoftmaxWithLoss(64, 200, [60, 120], div_value=2.0)


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(40, 4, 96, dropout=0.0, bias=False, batch_first=True)


def bags(module: Any, x: Tensor) -> Tensor:
    """Bags of as many rows as x has columns; x weighs them."""
    rows = torch.arange(x.numel()).view(x.shape) % module.num_embeddings
    return module(rows, per_sample_weights=x)  # type: ignore[no-any-return]


OTHERS = {
    "linear": Row(lambda: nn.Linear(64, 160, bias=False), (256, 64)),
    "linear, over sequences": Row(lambda: nn.Linear(160, 64), (16, 16, 160), run=lambda m, x: m(x) - m.bias),
    "bilinear": Row(
        lambda: nn.Bilinear(20, 40, 30, bias=False), (1024, 60), run=lambda m, x: m(*x.split([20, 40], dim=1))
    ),  # the gradient is that of both inputs
    "bilinear, of equal sizes": Row(
        lambda: nn.Bilinear(30, 30, 30, bias=False), (1024, 60), run=lambda m, x: m(*x.split(30, dim=1))
    ),
    "embedding": Row(lambda: nn.Embedding(16_384, 8), (16_384,), run=lambda m, x: m(torch.arange(len(x))) * x[:, None]),
    "embedding bag": Row(lambda: nn.EmbeddingBag(16_384, 8, mode="sum"), (16_384, 1), run=bags),
    "embedding bag, sums of 3": Row(lambda: nn.EmbeddingBag(30_000, 8, mode="sum"), (10_000, 3), run=bags, terms=3),
    "lazy linear": Row(lambda: lazy(nn.LazyLinear, 160, example=(1, 64)), (256, 64)),
    "lazy conv2d, stride 2": Row(
        lambda: lazy(nn.LazyConv2d, 64, 3, stride=2, example=(1, 32, 9, 9)), (2, 32, 18, 18)
    ),
    "lazy transposed 1d, stride 2": Row(
        lambda: lazy(nn.LazyConvTranspose1d, 48, 4, stride=2, example=(1, 32, 9)), (8, 32, 64)
    ),
    "adaptive softmax, head": Row(adaptive, (256, 64), "head.weight", run=lambda m, x: m.head(x)),
    "adaptive softmax, into the tail": Row(adaptive, (256, 64), "tail.0.0.weight", run=lambda m, x: m.tail[0][0](x)),
    "adaptive softmax, the tail": Row(adaptive, (256, 32), "tail.0.1.weight", run=lambda m, x: m.tail[0][1](x)),
    "weight_norm": Row(lambda: parametrizations.weight_norm(nn.Linear(64, 160, bias=False)), (256, 64)),
    "weight_norm, transposed 1d, stride 2": Row(
        lambda: parametrizations.weight_norm(nn.ConvTranspose1d(32, 48, 3, stride=2, bias=False)), (8, 32, 64)
    ),
    "encoder layer, linear1": Row(encoder_layer, (256, 40), "linear1.weight", run=lambda m, x: m.linear1(x)),
    "encoder layer, linear2": Row(encoder_layer, (256, 96), "linear2.weight", run=lambda m, x: m.linear2(x)),
    "encoder layer, v": Row(
        encoder_layer,
        (256, 40),
        "self_attn.in_proj_weight",
        "v",
        lambda m, x: nn.functional.linear(
            m.self_attn(x[:, None], x[:, None], x[:, None])[0][:, 0], torch.linalg.inv(m.self_attn.out_proj.weight)
        ),
    ),
}  # fmt: skip

ROWS = CONVOLUTIONS | ATTENTION | RECURRENT | DECLARED | OTHERS


# --- measuring -------------------------------------------------------------------------------------------------------------


def weight_of(module: nn.Module, row: Row) -> tuple[nn.Module, str, Any]:
    """The owner of a row's weight, its attribute there, and its site: that of the block if the row names one."""
    declared = initconf.load({"layouts": row.layouts}).layouts
    site = next(site for site in survey(module, declared=declared) if site.name == row.name)
    owner, _, attribute = row.name.rpartition(".")
    return module.get_submodule(owner), attribute, next((b for b in site.blocks if b.block == row.block), site)


def write(owner: nn.Module, attribute: str, site: Any, part: Tensor) -> None:
    with torch.no_grad():
        if parametrize.is_parametrized(owner, attribute):
            setattr(owner, attribute, part)
        else:
            getattr(owner, attribute).narrow(site.layout.block_axis, site.start, part.shape[site.layout.block_axis]).copy_(part)


@cache
def measured(title: str) -> tuple[float, float]:
    """The second moments of what comes out forwards and backwards, weights, inputs and gradients having 1."""
    row, generator = ROWS[title], torch.Generator().manual_seed(0)
    dtype = torch.float64 if row.small else torch.float32
    module = row.make().to(dtype)
    owner, attribute, site = weight_of(module, row)
    write(owner, attribute, site, torch.zeros(site.shape, dtype=dtype))
    silent, scale = copy.deepcopy(module), 1.0

    def run(x: Tensor) -> Tensor:
        if not row.small:
            return row.run(module, x)
        with_weight, without = (row.run(net, SMALL * x) - row.run(net, 0 * x[:1]) for net in (module, silent))
        return (with_weight - without) / (SMALL * scale)

    if row.small:
        passing = torch.zeros(site.shape, dtype=dtype)
        first(passing)
        write(owner, attribute, site, passing)
        scale = float(run(torch.ones(1, *row.shape[1:], dtype=dtype)).detach().square().mean().sqrt())
    drawn, forwards, backwards = {"w": 0, "x": 0, "y": 0}, [], []
    while min(drawn.values()) < ENOUGH:
        write(owner, attribute, site, torch.randn(site.shape, generator=generator).to(dtype))
        x = torch.randn(row.shape, generator=generator).to(dtype).requires_grad_()
        y = run(x)
        (dx,) = torch.autograd.grad(y, x, torch.randn(y.shape, generator=generator).to(dtype))
        y = y.detach()
        if isinstance(module, nn.modules.conv._ConvNd):
            y, dx = interior(y, module, module.transposed), interior(dx, module, not module.transposed)
        elif title == "unfolded convolution":
            dx = dx[..., 8:-8]
        drawn = {key: drawn[key] + n for key, n in zip("wxy", (math.prod(site.shape), dx.numel(), y.numel()), strict=True)}
        forwards.append(float(y.square().mean()))
        backwards.append(float(dx.square().mean()))
    return sum(forwards) / len(forwards) / row.terms, sum(backwards) / len(backwards)


@pytest.mark.parametrize("title", ROWS)
def test_measured_fans(title):
    row = ROWS[title]
    site = weight_of(row.make(), row)[2]
    assert site.layout.assumed == ()
    assert site.block == row.block
    assert measured(title) == (pytest.approx(site.fan_in, rel=0.03), pytest.approx(site.fan_out, rel=0.03))


TORCH_IS_WRONG = {
    # what torch.nn.init would scale by, and which of the two that is refuted by the measurement
    "conv1d, stride 3": (160, 240, "out"),
    "conv1d, stride 4 over kernel 2": (64, 96, "out"),
    "conv2d, groups 4": (72, 576, "out"),
    "conv2d, depthwise": (9, 2304, "out"),
    "transposed 1d": (144, 96, "in out"),
    "transposed 2d, stride 2": (384, 512, "in out"),
    "transposed 2d, stride 2, groups 4": (128, 1024, "in out"),
    "attention, k": (64, 192, "out"),
    "LSTM, ih[f]": (48, 256, "out"),
    "GRU, hh[n]": (64, 192, "out"),
    "experts (expert, in, out)": (1536, 192, "in out"),
    "embedding": (8, 16_384, "in out"),
    "bilinear": (800, 1200, "out"),
    "linear": (64, 160, ""),
}


@pytest.mark.parametrize("title", TORCH_IS_WRONG)
def test_the_measurement_refutes_wrong_fans(title):
    row = ROWS[title]
    fan_in, fan_out, refuted = TORCH_IS_WRONG[title]
    site = next(site for site in survey(row.make(), torch_fans=True) if site.name == row.name)
    assert (site.fan_in, site.fan_out) == (fan_in, fan_out)
    agree = [found == pytest.approx(fan, rel=0.03) for found, fan in zip(measured(title), (fan_in, fan_out), strict=True)]
    assert agree == ["in" not in refuted, "out" not in refuted]


def test_the_two_inputs_of_a_bilinear_map():
    """The gradients of its inputs have second moments of their own; fan_out is their mean over all elements."""
    module, generator = nn.Bilinear(20, 40, 30, bias=False), torch.Generator().manual_seed(0)
    with torch.no_grad():
        module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
    inputs = [torch.randn(4000, size, generator=generator).requires_grad_() for size in (20, 40)]
    y = module(*inputs)
    first, second = torch.autograd.grad(y, inputs, torch.randn(y.shape, generator=generator))
    assert float(first.square().mean()) == pytest.approx(30 * 40, rel=0.03)
    assert float(second.square().mean()) == pytest.approx(30 * 20, rel=0.03)
    (site,) = survey(module)
    assert (site.fan_in, site.fan_out) == (20 * 40, pytest.approx((20 * 30 * 40 + 40 * 30 * 20) / (20 + 40)))


def test_a_stride_over_the_kernel_leaves_positions_out():
    """Half of the inputs reach nothing and the others both outputs' worth: a fan is the mean, and such a fan may be below 1."""
    module, generator = nn.ConvTranspose1d(1, 64, 1, stride=3, bias=False), torch.Generator().manual_seed(0)
    with torch.no_grad():
        module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
    y = module(torch.randn(40, 1, 300, generator=generator)).detach()
    taken = y.square().mean((0, 1))[:897].view(-1, 3).mean(0)
    assert taken.tolist() == [pytest.approx(1, rel=0.25), 0, 0]
    (site,) = survey(module)
    assert site.fan_in == pytest.approx(1 / 3)
    assert site.fan("fan_in") == 1  # what is scaled by: no initializer makes more of less than one term

# mypy: ignore-errors
"""The kernel of `on_gpu`. Importing it needs triton."""

import triton
import triton.language as tl


@triton.jit
def times(a_low, a_high, b_low, b_high):
    return a_low * b_low, tl.umulhi(a_low, b_low) + a_low * b_high + a_high * b_low


@triton.jit
def jump(low, high, c_low, c_high, table, place):
    """x -> A x + C c, with the A and C of one place of the tables."""
    a0 = tl.load(table + place * 4).to(tl.uint64, bitcast=True)
    a1 = tl.load(table + place * 4 + 1).to(tl.uint64, bitcast=True)
    s0 = tl.load(table + place * 4 + 2).to(tl.uint64, bitcast=True)
    s1 = tl.load(table + place * 4 + 3).to(tl.uint64, bitcast=True)
    x0, x1 = times(a0, a1, low, high)
    y0, y1 = times(s0, s1, c_low, c_high)
    total = x0 + y0
    return total, x1 + y1 + (total < x0).to(tl.uint64)


@triton.jit
def fill(out, streams, table, DOUBLE: tl.constexpr, LANES: tl.constexpr):
    """Symmetric uniforms of one block of steps (axis 0) of one stream (axis 1).

    A stream is seven numbers: state (low, high), increment (low, high), where its values start in `out`, how many there
    are, and whether the first half of its first step is dropped.
    """
    block = tl.program_id(0)
    stream = streams + tl.program_id(1).to(tl.int64) * 7
    low = tl.load(stream).to(tl.uint64, bitcast=True)
    high = tl.load(stream + 1).to(tl.uint64, bitcast=True)
    c_low = tl.load(stream + 2).to(tl.uint64, bitcast=True)
    c_high = tl.load(stream + 3).to(tl.uint64, bitcast=True)
    start = tl.load(stream + 4)
    count = tl.load(stream + 5)
    odd = tl.load(stream + 6)
    low, high = jump(low, high, c_low, c_high, table, 2 * LANES + block // LANES)
    low, high = jump(low, high, c_low, c_high, table, LANES + block % LANES)
    lanes = tl.arange(0, LANES)
    low, high = jump(low, high, c_low, c_high, table, lanes)
    # DXSM, of the state before the step.
    multiplier = tl.full((LANES,), 0xDA942042E4DD58B5, tl.uint64)
    low = low | 1
    high = high ^ (high >> 32)
    high = high * multiplier
    high = high ^ (high >> 48)
    raw = high * low
    if DOUBLE:
        place = block.to(tl.int64) * LANES + lanes
        u = (raw >> 11).to(tl.float64) * 1.1102230246251565e-16
        tl.store(out + start + place, (u - (0.5 - 5.551115123125783e-17)) * 2, mask=place < count)
    else:
        first = (raw & 0xFFFFFFFF) >> 8
        second = raw >> 40
        halves = tl.interleave(first.to(tl.int32), second.to(tl.int32)).to(tl.float32)
        place = block.to(tl.int64) * (2 * LANES) + tl.arange(0, 2 * LANES) - odd
        v = (halves * 5.9604644775390625e-08 - (0.5 - 2.9802322387695312e-08)) * 2
        tl.store(out + start + place, v, mask=(place >= 0) & (place < count))

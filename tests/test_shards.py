"""Which elements of a parameter lie here: held against brute force, and against what torch itself cuts out."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from torch import nn

from initconf import sampling, shards, writing
from initconf.errors import InitConfError
from initconf.laws import ComplexNormal, Normal
from initconf.shards import Here, here
from tests.ranks import pretended

KEY = sampling.key(0, "a")


def numbered(shape):
    return torch.arange(math.prod(shape)).view(shape)


def indices(held):
    return [i for start, stop in held for i in range(start, stop)]


def taken(whole, ranges):
    for axis, held in enumerate(ranges or ()):
        whole = whole.index_select(axis, torch.tensor(indices(held), dtype=torch.int64))
    return whole


def parts(seed, count=45):
    """Shapes, and which indices of their axes lie here: all, one range, several, none."""
    dice = random.Random(seed)
    for _ in range(count):
        shape = tuple(dice.choice([1, 2, 3, 5, 8, 13]) for _ in range(dice.choice([1, 2, 2, 3, 4])))
        ranges = []
        for n in shape:
            cuts = sorted(dice.sample(range(n + 1), min(n + 1, dice.choice([2, 2, 4]))))
            held = tuple(zip(cuts[::2], cuts[1::2], strict=False))
            ranges.append(dice.choice([((0, n),), held]))
        if any(held != ((0, n),) for held, n in zip(ranges, shape, strict=True)):
            yield shape, tuple(ranges)


PARTS = list(parts(0))


def test_the_cases_are_of_all_kinds():
    several = [len(held) for _, ranges in PARTS for held in ranges]
    assert {1, 2} <= set(several)
    assert {len(shape) for shape, _ in PARTS} == {1, 2, 3, 4}


# --- a part of a tensor ----------------------------------------------------------------------------------------------------


def test_of_is_what_lies_here():
    for shape, ranges in PARTS:
        whole = numbered(shape)
        part = Here(taken(whole, ranges), shape, ranges)
        assert torch.equal(part.of(whole), part.tensor)
    assert torch.equal(Here(whole, whole.shape).of(whole), whole)
    assert Here(torch.zeros(0, 2), (3, 2), ((), ((0, 2),))).of(numbered((3, 2))).shape == (0, 2)


def test_a_block_is_narrowed_as_far_as_it_lies_here():
    for shape, ranges in PARTS:
        whole = numbered(shape)
        part = Here(taken(whole, ranges), shape, ranges)
        for axis, n in enumerate(shape):
            for start, stop in itertools.combinations_with_replacement(range(n + 1), 2):
                block = part.narrow(axis, start, stop - start)
                assert block.shape == (*shape[:axis], stop - start, *shape[axis + 1 :])
                there = set(whole.narrow(axis, start, stop - start).flatten().tolist())
                assert block.tensor.flatten().tolist() == [i for i in part.tensor.flatten().tolist() if i in there]
                assert torch.equal(block.of(whole.narrow(axis, start, stop - start)), block.tensor)


def test_a_block_that_lies_here_whole_is_whole():
    part = Here(numbered((6, 2))[:4], (6, 2), (((0, 4),), ((0, 2),)))
    assert part.narrow(0, 1, 2).ranges is None
    assert part.narrow(0, 3, 2).ranges == (((0, 1),), ((0, 2),))


def test_rows():
    for shape, ranges in PARTS:
        whole = numbered(shape)
        part = Here(taken(whole, ranges), shape, ranges)
        for row in range(shape[0]):
            mine = taken(whole[row : row + 1], (((0, 1),), *ranges[1:]))
            if row in indices(ranges[0]) and mine.numel():
                assert torch.equal(part.row(row), mine)
            else:
                assert part.row(row) is None
            rest = [i for piece in part.without(row) for i in piece.flatten().tolist()]
            assert rest == [i for i in part.tensor.flatten().tolist() if i // math.prod(shape[1:]) != row]
        assert part.without(None) == [part.tensor]


LOCAL = {
    "contiguous": lambda t: t.contiguous(),
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
}


@pytest.mark.parametrize("gap", [0, 4, 1 << 20])
@pytest.mark.parametrize("chunk", [3, 64, 1 << 18])
@pytest.mark.parametrize("local", LOCAL)
def test_each_element_receives_its_own_value(monkeypatch, local, chunk, gap):
    monkeypatch.setattr(shards, "GAP", gap)
    monkeypatch.setattr(sampling, "CHUNK", chunk)
    laws = [(Normal(0.0, 1.0), torch.float32), (Normal(0.0, 1.0), torch.float64), (Normal(0.0, 1.0), torch.bfloat16)]
    laws.append((ComplexNormal(0.0, 1.0), torch.complex64))
    source = sampling.Source()
    for (shape, ranges), (law, dtype) in zip(PARTS, itertools.cycle(laws), strict=False):
        count = math.prod(shape)
        whole = sampling.values(law, KEY, 0, count, dtype, sampling.Source()).view(shape).to(dtype)
        part = Here(LOCAL[local](torch.zeros_like(taken(whole, ranges))), shape, ranges)
        pieces = list(part.pieces(chunk))
        assert all(piece.tensor.numel() <= chunk for piece in pieces)
        for piece in pieces:
            writing.draw(law, KEY, piece, sampling.CPU, None, source)
        assert torch.equal(part.tensor, part.of(whole))


def test_rows_with_small_gaps_are_made_whole_and_large_gaps_jumped_over():
    def rows(n):
        part = Here(torch.zeros(5, n // 4), (5, n), (((0, 5),), ((0, n // 4),)))
        (piece,) = part.pieces(1 << 18)
        return piece.rows

    assert rows(2048).through
    assert not rows(4096).through
    assert rows(4096).within(1000, 100) == [(1000, 24), (4096, 76)]
    assert list(rows(2048).together(512, 1024, 10)) == [(2048, 2)]
    assert list(rows(2048).together(512, 1024, 1)) == [(2048, 1), (4096, 1)]


def test_a_million_short_runs_cost_no_list_of_them():
    part = Here(torch.zeros(1 << 20, 1), (1 << 20, 1 << 12), (((0, 1 << 20),), ((5, 6),)))
    first = next(iter(part.pieces(1 << 8)))
    assert first.rows.within(first.first, 3) == [(5, 1), (4101, 1), (8197, 1)]
    assert first.rows.axes == ((1 << 12, ((0, 1 << 20),)),)


# --- a sharded parameter ---------------------------------------------------------------------------------------------------


MESHES = [(2,), (3,), (4,), (2, 2), (2, 3), (2, 2, 2)]
SHAPES = [(8, 4), (7, 5), (1, 3), (5,), (3, 2, 5), (0, 4)]


def placements(mesh, ndim):
    from torch.distributed.tensor import Replicate, Shard

    choices = [Replicate(), *(Shard(axis) for axis in range(ndim))]
    return itertools.product(choices, repeat=len(mesh))


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_shards_are_cut_as_torch_cuts_them(mesh):
    from torch.distributed.tensor import distribute_tensor

    for there in pretended(mesh):
        for shape in SHAPES if len(mesh) < 3 else SHAPES[1:4]:
            whole = numbered(shape)
            for placed in placements(mesh, len(shape)):
                parameter = distribute_tensor(whole, there, placed, src_data_rank=None)
                found = here(parameter)
                assert torch.equal(found.of(whole), parameter.to_local())
                assert found.tensor.data_ptr() == parameter.to_local().data_ptr()
                assert found.shape == shape


@pytest.mark.parametrize("n", [1, 5, 8, 9, 12, 17])
@pytest.mark.parametrize("mesh", [(2, 2), (2, 3), (4, 2)], ids=str)
def test_strided_shards_are_those_of_torch(mesh, n):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    from torch.distributed.tensor.placement_types import _StridedShard

    whole = numbered((n, 2))
    for there in pretended(mesh):
        for placed in (
            [_StridedShard(0, split_factor=mesh[1]), Shard(0)],
            [_StridedShard(0, split_factor=5), Replicate()],
            [Replicate(), _StridedShard(0, split_factor=3)],
        ):
            parameter = distribute_tensor(whole, there, placed, src_data_rank=None)
            assert torch.equal(here(parameter).of(whole), parameter.to_local())


@pytest.mark.parametrize("n", [1, 5, 8, 9, 12, 17, 33])
@pytest.mark.parametrize("mesh", [(2, 2), (4, 2), (2, 3), (8, 2)], ids=str)
def test_fsdp_over_tensor_parallel_shards_what_lies_on_each_process(mesh, n):
    """Whether the rows can be shared out evenly or not."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    def chunk(t, parts, at):
        chunks = t.chunk(parts)
        return chunks[at] if at < len(chunks) else t[:0]

    whole = torch.arange(2.0 * n).view(n, 2)
    for there in pretended(mesh):
        dp, tp = there.get_coordinate()
        model = nn.Module()
        model.weight = nn.Parameter(distribute_tensor(whole, there["b"], [Shard(0)], src_data_rank=None))
        fully_shard(model, mesh=there["a"])
        mine = chunk(chunk(whole, mesh[1], tp), mesh[0], dp)
        assert torch.equal(model.weight.to_local(), mine)
        assert torch.equal(here(model.weight).of(whole), mine)


def test_three_cuts_of_one_axis():
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.distributed.tensor.placement_types import _StridedShard

    whole = numbered((16,))
    placed = [_StridedShard(0, split_factor=2), _StridedShard(0, split_factor=2), Shard(0)]
    for there in pretended((2, 2, 2)):
        parameter = distribute_tensor(whole, there, placed, src_data_rank=None)
        assert torch.equal(here(parameter).of(whole), parameter.to_local())


def test_scalars_are_replicated():
    from torch.distributed.tensor import Replicate, distribute_tensor

    for there in pretended((2,)):
        found = here(distribute_tensor(torch.tensor(3.0), there, [Replicate()], src_data_rank=None))
        assert (found.shape, found.ranges, found.tensor.item()) == ((), None, 3.0)


def test_a_process_outside_of_the_mesh_holds_nothing():
    from torch.distributed.tensor import DeviceMesh, Shard, distribute_tensor

    for shape in ((4, 3), (4,)):
        for there in pretended((3,)):
            mesh = DeviceMesh("cpu", [0, 1])
            found = here(distribute_tensor(numbered(shape), mesh, [Shard(0)], src_data_rank=None))
            assert found.tensor.numel() == (0 if there.get_rank() == 2 else math.prod(shape) // 2)
            if there.get_rank() == 2:
                assert list(found.pieces(10)) == []
                assert found.row(1) is None
                assert found.narrow(len(shape) - 1, 1, 2).tensor.numel() == 0


def refused(parameter):
    with pytest.raises(InitConfError) as caught:
        here(parameter)
    return str(caught.value)


def test_what_no_process_holds_is_refused():
    from torch.distributed.tensor import DTensor, Partial, Shard

    for there in pretended((2,)):
        mine = DTensor.from_local(torch.zeros(2, 3), there, [Partial()], run_check=False)
        assert refused(mine) == "its placement is P(sum): no process holds its values"
        wrong = DTensor.from_local(torch.zeros(2, 3), there, [Shard(0)], run_check=False, shape=(7, 3), stride=(3, 1))
        there_are = 4 if there.get_rank() == 0 else 3
        text = f"its placements (Shard(dim=0),) leave ({there_are}, 3) here, and there is (2, 3)"
        assert refused(wrong) == text


def test_placements_and_tensors_of_unknown_classes_are_refused():
    from torch.distributed.tensor import DTensor, Shard

    class Diagonal(Shard):
        pass

    class Tagged(torch.Tensor):
        pass

    for there in pretended((2,)):
        mine = DTensor.from_local(torch.zeros(2, 3), there, [Shard(0)], run_check=False)
        mine._spec.placements = (Diagonal(0),)
        assert refused(mine) == "its placement is S(0), which this version does not know"
        tagged = DTensor.from_local(torch.zeros(2, 3).as_subclass(Tagged), there, [Shard(0)], run_check=False)
        assert refused(tagged) == "it is a Tagged, which this version cannot write"
    assert refused(torch.zeros(2).as_subclass(Tagged)) == "it is a Tagged, which this version cannot write"

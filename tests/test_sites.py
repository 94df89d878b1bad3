"""What a parameter is: fans from axes, blocks along an axis, and what initializers and expressions may ask a site."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initconf import expressions
from initconf.errors import InitConfError
from initconf.sites import HAS_NO_FANS, Layout, Place, Site
from initconf.spec import ROLES

WEIGHT = Place("a.weight", "weight", ("torch.nn.modules.linear.Linear", "torch.nn.modules.module.Module"), ())


def site(shape=(6, 4), layout=None, **more):
    layout = layout or Layout()
    fans = layout.fans(shape) if len(shape) > 1 else (None, None)
    return Site("a.weight", (WEIGHT,), shape, "float32", layout, *fans, **more)


# --- fans ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "shape", "fans"),
    [
        (Layout(), (5, 3), (3, 5)),
        (Layout(in_axes=(0,), out_axes=(1,)), (3, 5), (3, 5)),
        (Layout(), (16, 8, 3, 3), (72, 144)),
        (Layout(in_axes=(2,), out_axes=(3,)), (3, 3, 8, 16), (72, 144)),
        (Layout(groups=4, stride=4), (64, 8, 3, 3), (72, 36)),
        (Layout(in_axes=(0,), out_axes=(1,), transposed=True, stride=4), (64, 32, 4, 4), (256, 512)),
        (Layout(in_axes=(0,), out_axes=(1,), transposed=True, stride=4, groups=4), (64, 8, 4, 4), (64, 128)),
        (Layout(in_axes=(1,), out_axes=(2,), batch_axes=(0,)), (4, 64, 32), (64, 32)),
        (Layout(in_axes=(0,), out_axes=(1, 2)), (512, 8, 64), (512, 512)),
        (Layout(in_axes=(0, 1), out_axes=(2,)), (8, 64, 512), (512, 512)),
        (Layout(in_axes=(), out_axes=(1,), batch_axes=(0,)), (1000, 64), (1, 64)),
        (Layout(in_axes=(1, 2)), (7, 3, 5), (15, 7)),
        (Layout(), (0, 5), (5, 0)),
        (Layout(), (1, 1), (1, 1)),
    ],
)
def test_fans_of_axes(layout, shape, fans):
    assert layout.fans(shape) == fans
    assert all(isinstance(fan, float) for fan in layout.fans(shape))


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5).map(tuple), st.permutations(range(5)))
def test_fans_do_not_depend_on_where_axes_are_stored(shape, order):
    order = [axis for axis in order if axis < len(shape)]
    moved = tuple(shape[axis] for axis in order)
    layout = Layout(out_axes=(order.index(0),), in_axes=(order.index(1),))
    assert layout.fans(moved) == Layout().fans(shape)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_a_transposed_convolution_is_the_other_one_backwards(inside, out, kernel, stride, groups):
    """What is fan_in forwards is fan_out backwards, for the same stored kernel."""
    shape = (inside * groups, out, kernel)
    forwards = Layout(out_axes=(0,), in_axes=(1,), groups=groups, stride=stride).fans(shape)
    transposed = Layout(out_axes=(1,), in_axes=(0,), groups=groups, stride=stride, transposed=True).fans(shape)
    assert transposed == pytest.approx((forwards[1], forwards[0]), rel=1e-14)


# --- blocks ----------------------------------------------------------------------------------------------------------------


def test_blocks_of_equal_and_of_other_sizes():
    assert Layout().blocks((6, 4)) == []
    assert Layout(block_names=("q", "k", "v")).blocks((6, 4)) == [("q", 0, 2), ("k", 2, 2), ("v", 4, 2)]
    layout = Layout(block_axis=1, block_names=("a", "b"), block_sizes=(3, 1))
    assert layout.blocks((6, 4)) == [("a", 0, 3), ("b", 3, 1)]
    assert layout.blocks((6, 4)) == layout.blocks((99, 4))


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (
            Layout(block_names=("q", "k", "v")),
            "the blocks q, k, v of sizes [2, 2, 2] do not add up to 7, the size of axis 0",
        ),
        (
            Layout(block_axis=1, block_names=("a", "b"), block_sizes=(3, 2)),
            "the blocks a, b of sizes [3, 2] do not add up to 4, the size of axis 1",
        ),
        (
            Layout(block_names=("a", "b"), block_sizes=(7,)),
            "the blocks a, b of sizes [7] do not add up to 7, the size of axis 0",
        ),
    ],
)
def test_blocks_that_do_not_add_up(layout, text):
    with pytest.raises(InitConfError) as caught:
        layout.blocks((7, 4))
    assert str(caught.value) == text


# --- sites -----------------------------------------------------------------------------------------------------------------


def test_fan_modes():
    it = site((6, 24))
    assert [it.fan(mode) for mode in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")] == [24, 6, 15, 12]


def test_fans_are_at_least_one():
    it = site((0, 0))
    assert [it.fan(mode) for mode in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")] == [1, 1, 1, 1]
    assert site((2, 2), Layout(in_axes=(0,), out_axes=(1,), transposed=True, stride=4)).fan("fan_in") == 1


@pytest.mark.parametrize("role", HAS_NO_FANS)
def test_roles_without_fans(role):
    """A bias carries the fans of its weight, and still there is nothing to scale it by."""
    assert role in ROLES
    for it in (site((6, 4), Layout(role=role)), site((6,), Layout(role=role))):
        with pytest.raises(InitConfError) as caught:
            it.fan("fan_in")
        assert caught.value.problems[0].text == f"a {it.ndim}-D tensor of role {role} has no fans to scale by"


def test_roles_with_fans():
    for role in set(ROLES) - set(HAS_NO_FANS):
        assert site((6, 4), Layout(role=role)).fan("fan_in") == 4
    with pytest.raises(InitConfError):
        site((6,)).fan("fan_in")


def test_what_a_site_says_of_itself():
    alias = Place("b.weight", "weight", ("my.Head",), (("my.Model",),))
    it = dataclasses.replace(site((6, 4, 2)), places=(WEIGHT, alias), block="q", dtype="complex64")
    assert (it.role, it.module, it.aliases) == ("weight", "torch.nn.modules.linear.Linear", ("b.weight",))
    assert (it.ndim, it.numel, it.label, it.is_complex) == (3, 48, "a.weight[q]", True)
    assert site().label == "a.weight"
    assert not site().is_complex
    with pytest.raises(dataclasses.FrozenInstanceError):
        it.name = "other"
    assert hash(it) == hash(dataclasses.replace(it))


def test_variables_of_expressions():
    it = site((6, 4), layer=2, n_layers=5)
    values = it.variables()
    assert {name: values[name] for name in ("fan_in", "fan_out", "fan_avg", "layer", "n_layers", "numel", "ndim", "shape")} == {
        "fan_in": 4,
        "fan_out": 6,
        "fan_avg": 5,
        "layer": 2,
        "n_layers": 5,
        "numel": 24,
        "ndim": 2,
        "shape": (6, 4),
    }
    assert set(expressions.VARIABLES) <= set(values)
    assert expressions.evaluate("1/sqrt(2*n_layers)*(layer+1)/fan_in", values) == 3 / math.sqrt(10) / 4
    assert expressions.evaluate("shape[1]", values) == 4


def test_a_depth_that_is_not_known_says_why():
    values = site(depth_note="the parameter is in no ModuleList or Sequential").variables()
    with pytest.raises(InitConfError, match="uses layer: the parameter is in no ModuleList or Sequential"):
        expressions.evaluate("1/layer", values)
    with pytest.raises(InitConfError, match="uses fan_in, which this parameter does not have"):
        expressions.evaluate("1/fan_in", site((3,)).variables())

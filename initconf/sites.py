"""What a parameter is: a tensor in its surroundings, with axes, fans, role, blocks and depth. Plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from initconf.errors import InitConfError, Problem
from initconf.spec import Role

if TYPE_CHECKING:
    from torch import nn

HAS_NO_FANS = ("bias", "norm_scale", "norm_shift", "gate_scale", "state", "other", "position")
"""Roles that nothing is summed over."""


T = TypeVar("T")


def twin(of: T, **changes: Any) -> T:
    """`dataclasses.replace` for plain data: nothing is checked anew, and it takes a fifth of the time."""
    made = object.__new__(type(of))
    made.__dict__.update(of.__dict__, **changes)
    return made


EXPLICIT = "give it an initializer of explicit scale, such as zeros or {name: normal, std: 0.02}"


@dataclass(frozen=True)
class Layout:
    r"""How the axes of a parameter are to be read.

    An output element of the layer is a sum over `fan_in` products, and an input element reaches `fan_out` outputs. With the
    receptive field k (the product of all axes that are neither out, in nor batch), groups g and stride s:

        ordinary:    fan_in = in * k             fan_out = out / g * k / s
        transposed:  fan_in = in / g * k / s     fan_out = out * k

    where `in` and `out` are the stored sizes (an ordinary convolution stores in/g, a transposed one out/g).
    """

    role: Role = "weight"
    out_axes: tuple[int, ...] = (0,)
    in_axes: tuple[int, ...] = (1,)
    batch_axes: tuple[int, ...] = ()
    """Axes over which whole weights are stacked (experts, the rows of an embedding)."""
    groups: int = 1
    stride: int = 1
    """The product of the strides over all spatial axes."""
    transposed: bool = False
    block_axis: int = 0
    block_names: tuple[str, ...] = ()
    """Names of equal blocks that follow each other along `block_axis`; none: a plain parameter."""
    block_sizes: tuple[int, ...] = ()
    """Their sizes where they are not equal."""
    zero_row: int | None = None
    """A row that stays zero (`padding_idx`)."""
    fans_of: str | None = None
    """The owner's parameter whose fans this one carries (of a bias: its weight)."""
    assumed: tuple[str, ...] = ()
    """What is a guess: `role`, `layout`."""

    @property
    def all_axes(self) -> tuple[int, ...]:
        """The axes that are out, in or batch; all others are receptive field."""
        return (*self.out_axes, *self.in_axes, *self.batch_axes)

    def fans(self, shape: tuple[int, ...]) -> tuple[float, float]:
        """(fan_in, fan_out) of a tensor of this layout.

        >>> Layout(groups=4, stride=4).fans((64, 8, 3, 3))
        (72.0, 36.0)
        """
        inside = math.prod(shape[axis] for axis in self.in_axes)
        out = math.prod(shape[axis] for axis in self.out_axes)
        taken = {*self.in_axes, *self.out_axes, *self.batch_axes}
        field_size = math.prod(n for axis, n in enumerate(shape) if axis not in taken)
        if self.transposed:
            return inside / self.groups * field_size / self.stride, float(out * field_size)
        return float(inside * field_size), out / self.groups * field_size / self.stride

    def blocks(self, shape: tuple[int, ...]) -> list[tuple[str, int, int]]:
        """(name, start, size) of each block along `block_axis`; InitConfError where they do not add up."""
        if not self.block_names:
            return []
        total = shape[self.block_axis]
        sizes = self.block_sizes or (total // len(self.block_names),) * len(self.block_names)
        if sum(sizes) != total or len(sizes) != len(self.block_names):
            raise InitConfError(
                f"the blocks {', '.join(self.block_names)} of sizes {list(sizes)} do not add up to "
                f"{total}, the size of axis {self.block_axis}"
            )
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return list(zip(self.block_names, starts, sizes, strict=True))


class Place(NamedTuple):
    """One name of a parameter, with its owner. Rules are held against places."""

    name: str
    """The canonical name: wrappers stripped."""
    attribute: str
    """The name within the owner: `weight`."""
    owner: tuple[str, ...]
    """The owner's class and its base classes, dotted: `torch.nn.modules.linear.Linear`."""
    inside: tuple[tuple[str, ...], ...]
    """The same for every ancestor of the owner, outermost first."""


@dataclass(frozen=True)
class Site:
    """One parameter, or one block of it, in its surroundings. Every initializer receives one."""

    name: str
    """The canonical name; of a tied parameter the smallest. It keys the stream."""
    places: tuple[Place, ...]
    """All names with their owners, that of `name` first."""
    shape: tuple[int, ...]
    dtype: str
    """As torch prints it, without the prefix: `float32`."""
    layout: Layout
    fan_in: float | None = None
    fan_out: float | None = None
    layer: int | None = None
    """The 0-based rank within the outermost container; None outside of one."""
    n_layers: int | None = None
    depth_note: str = ""
    """Why `layer` or `n_layers` is not known."""
    block: str | None = None
    """The block's name, None for a whole parameter."""
    start: int = 0
    """Where the block starts on the layout's block axis."""
    blocks: tuple[Site, ...] = ()
    on_meta: bool = field(default=False, compare=False)
    """Whether the parameter has no values to keep."""
    effective: str | None = None
    """Of a parametrised weight: `exact` where the effective weight is what is assigned, else `transformed`."""
    reset: str | None = None
    """The method that gives it its default: the owner's, or the `_init_weights` of its transformers model."""
    tensor: str | None = field(default=None, compare=False)
    """The dotted class of a tensor that is none of torch's plain ones: sharded, quantised."""
    frozen: bool = False
    """Whether it takes no gradient; it is initialised like any other."""
    target: Any = field(default=None, compare=False, repr=False)
    """Of the rows of a hypernetwork's output layer: the tensor that they generate (`initconf.hyper.heads.Rows`)."""
    alike: int = field(default=0, compare=False, repr=False)
    """The same number for all sites of a survey that differ in name and depth alone; 0 where that is not known."""

    @property
    def role(self) -> str:
        return self.layout.role

    @property
    def module(self) -> str:
        """The owner's class, dotted."""
        return self.places[0].owner[0] if self.places else ""

    @property
    def aliases(self) -> tuple[str, ...]:
        return tuple(place.name for place in self.places[1:])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def is_complex(self) -> bool:
        return self.dtype.startswith("complex")

    @property
    def label(self) -> str:
        """The name, with the block in brackets."""
        return f"{self.name}[{self.block}]" if self.block else self.name

    def fan(self, mode: str) -> float:
        """The number of terms that `mode` scales by, at least 1 (as in TensorFlow and Keras).

        Raises InitConfError where there is nothing to scale by: fewer than two axes, a norm, a gate, a bias (which carries its
        weight's fans for expressions only).
        """
        if self.role in HAS_NO_FANS or self.fan_in is None or self.fan_out is None:
            text = f"a {self.ndim}-D tensor of role {self.role} has no fans to scale by"
            raise InitConfError(Problem(text, remedy=EXPLICIT))
        fans = {
            "fan_in": self.fan_in,
            "fan_out": self.fan_out,
            "fan_avg": (self.fan_in + self.fan_out) / 2,
            "fan_geo_avg": math.sqrt(self.fan_in * self.fan_out),
        }
        return max(1.0, fans[mode])

    def variables(self) -> Mapping[str, Any]:
        """What expressions may use."""
        both = self.fan_in is not None and self.fan_out is not None
        unknown = InitConfError(self.depth_note)
        return {
            "fan_in": self.fan_in,
            "fan_out": self.fan_out,
            "fan_avg": (self.fan_in + self.fan_out) / 2 if both else None,  # type: ignore[operator]
            "layer": unknown if self.layer is None else self.layer,
            "n_layers": unknown if self.n_layers is None else self.n_layers,
            "numel": self.numel,
            "ndim": self.ndim,
            "shape": self.shape,
        }


def own_class(module: nn.Module) -> type:
    """A module's class as it was before FSDP put one of its own in front."""
    kind = type(module)
    while kind.__bases__[0].__name__ in ("FSDPModule", "ReplicateModule") and kind.__bases__[0].__module__.startswith("torch."):
        kind = kind.__bases__[1]
    return kind


def is_a(classes: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether one of the dotted classes is wanted: by its bare name, or with a dot by its whole path."""
    for cls in classes:
        bare = cls.rpartition(".")[2]
        # torch.nn.Conv2d is how everybody writes torch.nn.modules.conv.Conv2d.
        public = f"torch.nn.{bare}" if cls.startswith("torch.nn.modules.") else cls
        if any(w in (cls, public) or w == bare for w in wanted):
            return True
    return False

"""The marks that say that a parameter has no values, since `skip_init` left them out.

They are values, since those go wherever the parameter goes: through deepcopy, pickle and `to(dtype)`; and whoever writes the
parameter removes them. A NaN says at once when a model is used that nobody initialised; the number after it, which every
floating dtype has, tells it from the NaN of a training run that went wrong. They are placed by logical index, which a change of
the memory format leaves as it is, at three places, since a constructor may set some rows (`padding_idx`).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from initconf.owners import SHARDED, Found, tensor_class
from initconf.parametrized import parametrised

SKIPPED = "its values were skipped by skip_init"
_AFTER = -224.0


def _step(numel: int) -> int:
    """How far apart the three marks are; 0 where there is room for one."""
    return (max(numel // 2, 1) - 1) // 2 * 2


def _element(tensor: Tensor, place: int) -> Tensor:
    """The element at a logical index, as a view."""
    offset = tensor.storage_offset()
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        place, index = divmod(place, size)
        offset += index * stride
    return tensor.as_strided((), (), offset)


def mark(tensor: Tensor) -> None:
    """Write the marks: a NaN and a number after it, at three places."""
    tensor, step = tensor.detach(), _step(tensor.numel())
    if tensor.is_contiguous() and tensor.numel() > 1:
        size, stride = ((3, 2), (step, 1)) if step else ((1, 2), (2, 1))
        tensor.as_strided(size, stride).copy_(_pair(tensor.dtype, tensor.device))
        return
    for start in {0, step, 2 * step}:
        _element(tensor, start).fill_(torch.nan)
        if start + 1 < tensor.numel():
            _element(tensor, start + 1).fill_(_AFTER)


@cache
def _pair(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor([torch.nan, _AFTER], dtype=dtype, device=device)


def is_skipped(parameter: Tensor) -> bool:
    """Whether a parameter has no values since `skip_init` left them out. Reads three elements.

    Of a sharded one all that lie here are read. A process to whose shard none of the marks has come cannot know it; the one
    that holds the first element does.
    """
    if tensor_class(parameter) == SHARDED:
        return _is_marked(parameter._local_tensor.detach())  # type: ignore[attr-defined]
    if not holds_numbers(parameter):
        return False
    tensor, step = parameter.detach(), _step(parameter.numel())
    for start in {0, step, 2 * step}:
        value = _element(tensor, start).item()
        if value != value and (start + 1 == tensor.numel() or _element(tensor, start + 1).item() == _AFTER):
            return True
    return False


def _is_marked(shard: Tensor) -> bool:
    if not holds_numbers(shard):
        return False
    flat = shard.reshape(-1)
    lost, after = flat.isnan(), flat == _AFTER
    return bool(lost[-1]) or bool((lost[:-1] & after[1:]).any())


def lacks_values(where: Found) -> bool:
    """Whether a parameter has no values since `skip_init` left them out; of a parametrised one, any of those that make it."""
    if where.effective is None:
        return is_skipped(where.parameter)
    return any(map(is_skipped, parametrised(where.module)[where.place.attribute].parameters(recurse=False)))


def holds_numbers(tensor: Tensor) -> bool:
    """Whether a tensor has elements in memory that could be NaN."""
    return (
        is_plain(tensor)
        and not is_lazy(tensor)
        and (tensor.is_floating_point() or tensor.is_complex())
        and not tensor.is_meta
        and tensor.layout is torch.strided
        and tensor.numel() > 0
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether the tensor is memory, and no wrapper around other tensors (DTensor, FakeTensor)."""
    return type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__

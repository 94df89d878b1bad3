"""Processes of a mesh, for tests: pretended ones, one after the other in this process."""

from __future__ import annotations

import math

AXES = "abcd"


def pretended(shape, device="cpu"):
    """The mesh as each of its processes sees it, on a backend that does nothing: for what needs no communication."""
    import torch.distributed as dist
    from torch.distributed.tensor import debug, init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    for rank in range(math.prod(shape)):
        dist.init_process_group("fake", rank=rank, world_size=math.prod(shape), store=FakeStore())
        try:
            yield init_device_mesh(device, shape, mesh_dim_names=tuple(AXES[: len(shape)]))
        finally:
            dist.destroy_process_group()
            debug._clear_sharding_prop_cache()  # which holds meshes, and they know their rank

"""Meta tensors: what fake ones are made of. By a private part of torch, checked with torch 2.13.0."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch._C import _DisableTorchDispatch as DisableTorchDispatch


def copy_with_own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """A meta tensor of the sizes, strides and offset of a meta or fake one, with a storage of its own.

    It costs 4 us; `empty_strided` of symbolic sizes costs 150 us. The copy is lazy, on write, and a meta tensor has nothing to
    write.
    """
    with DisableTorchDispatch():
        copied: torch.Tensor = torch._lazy_clone(tensor)
    return copied


def empty_coo(
    sparse_dim: int, size: Sequence[int | torch.SymInt], dtype: torch.dtype, *, is_coalesced: bool = False
) -> torch.Tensor:
    """Return a meta tensor of the layout `torch.sparse_coo` without elements.

    By the operator that takes symbolic sizes, as torch's MetaConverter does: that of sizes alone makes guards of them.

    Args:
        sparse_dim: How many of the dimensions are sparse, the first ones.
        size: The sizes, symbolic ones too.
        dtype: The type of its elements.
        is_coalesced: Whether it is coalesced.
    """
    indices = torch.empty((sparse_dim, 0), dtype=torch.int64, device="meta")
    values = torch.empty((0, *size[sparse_dim:]), dtype=dtype, device="meta")
    made: torch.Tensor = torch.ops.aten._sparse_coo_tensor_with_dims_and_tensors.default(
        sparse_dim,
        len(size) - sparse_dim,
        size,
        indices,
        values,
        dtype=dtype,
        layout=torch.sparse_coo,
        device="meta",
        is_coalesced=is_coalesced,
    )
    return made

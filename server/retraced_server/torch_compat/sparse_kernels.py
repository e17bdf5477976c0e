"""Fake kernels of operators on sparse tensors that torch has none for.

At export torch executes such operators on zeros. A worker executes no real kernel, so that their results are described here; what is not
here is unsupported by torch's own word. Private parts of torch, checked with 2.13.0.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch

from retraced_server.torch_compat.fake_tensors import (
    DisableTorchDispatch,
    FakeTensor,
    FakeTensorMode,
    empty_coo,
    register_op_impl,
)
from retraced_server.torch_compat.operators import OpOverload

_aten = torch.ops.aten


@cache
def add_sparse_kernels() -> None:
    """Register the kernels, once in a process."""
    register_op_impl(_aten._sparse_addmm.default)(_sparse_addmm)
    register_op_impl([_aten._to_sparse.default, _aten._to_sparse.sparse_dim])(_to_sparse)
    register_op_impl(_aten._coalesce.default)(_coalesce)


# Any: as torch calls kernels.
def _sparse_addmm(
    _mode: FakeTensorMode, _op: OpOverload, self: FakeTensor, mat1: FakeTensor, mat2: FakeTensor, **_: Any
) -> torch.Tensor:
    return self.new_empty((mat1.shape[0], mat2.shape[1]))


def _to_sparse(
    mode: FakeTensorMode, _op: OpOverload, self: FakeTensor, sparse_dim: int | None = None, **options: Any
) -> torch.Tensor:
    dense_dim = options.get("dense_dim") or 0
    if options.get("layout") not in (None, torch.sparse_coo) or options.get("blocksize") is not None:
        return cast(torch.Tensor, NotImplemented)
    return _empty(mode, self, self.dim() - dense_dim if sparse_dim is None else sparse_dim)


def _coalesce(mode: FakeTensorMode, _op: OpOverload, self: FakeTensor) -> torch.Tensor:
    return _empty(mode, self, self.sparse_dim())


def _empty(mode: FakeTensorMode, like: FakeTensor, sparse_dim: int) -> torch.Tensor:
    with DisableTorchDispatch():
        empty = empty_coo(sparse_dim, tuple(like.shape), like.dtype, is_coalesced=True)
    return FakeTensor(mode, empty, like.fake_device)

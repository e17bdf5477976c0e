"""Fake tensors, and the meta tensors that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch._C import _DisableTorchDispatch as DisableTorchDispatch
from torch._decomp import decomposition_table
from torch._dispatch.python import enable_python_dispatcher
from torch._guards import detect_fake_mode
from torch._subclasses.fake_impls import register_op_impl
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    disable_fake_tensor_cache,
    in_kernel_invocation_manager,
)
from torch.fx.passes.shape_prop import TensorMetadata
from torch.fx.passes.shape_prop import _extract_tensor_metadata as extract_tensor_metadata
from torch.utils._mode_utils import no_dispatch

__all__ = [
    "DisableTorchDispatch",
    "FakeTensor",
    "FakeTensorMode",
    "TensorMetadata",
    "UnsupportedFakeTensorException",
    "alias_of",
    "allow_absent_device",
    "can_record_gradients",
    "copy_with_own_storage",
    "detect_fake_mode",
    "disable_fake_tensor_cache",
    "empty_coo",
    "enable_python_dispatcher",
    "extract_tensor_metadata",
    "no_dispatch",
    "register_op_impl",
    "run_no_real_kernels",
    "set_version",
    "storage_id",
    "storage_key",
    "version_of",
    "view_of",
    "with_sizes",
    "wrap_dispatch",
]


def storage_id(tensor: torch.Tensor) -> int:
    """Return the identity of a tensor's storage, for as long as it lives; also of one that has no memory."""
    return storage_key(tensor.untyped_storage())


def storage_key(storage: torch.UntypedStorage) -> int:
    """Return the identity of a storage, as `storage_id` does."""
    key: int = storage._cdata
    return key


def version_of(tensor: torch.Tensor) -> int:
    """Return how often a tensor or an alias of it has been written to."""
    return tensor._version


def set_version(tensor: torch.Tensor, version: int) -> None:
    """Set the counter of writes to a tensor and its aliases."""
    torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))


def alias_of(tensor: FakeTensor) -> FakeTensor:
    """Return a fake tensor with the storage, sizes and strides of another: `detach` without the dispatch, which takes ten times as long."""
    with DisableTorchDispatch():
        meta = tensor.detach()
    return FakeTensor(tensor.fake_mode, meta, tensor.fake_device)


def view_of(tensor: FakeTensor, size: tuple[Any, ...], stride: tuple[Any, ...], offset: Any) -> FakeTensor:
    """Return a fake tensor with the storage of another, and given sizes (int or SymInt), without a guard."""
    mode = tensor.fake_mode
    with in_kernel_invocation_manager(mode), mode.shape_env.suppress_guards() if mode.shape_env else nullcontext():
        meta = torch.ops.aten.as_strided.default(tensor, size, stride, offset)
    if meta.requires_grad:
        # A view of a weight, whatever the gradient mode: below the fake mode nobody asks for it.
        with DisableTorchDispatch():
            meta = meta.detach()
    return FakeTensor(mode, meta, tensor.fake_device)


def copy_with_own_storage(tensor: torch.Tensor) -> torch.Tensor:
    """Return a meta tensor of the sizes, strides and offset of a meta or fake one, with a storage of its own.

    It costs 4 us; `empty_strided` of symbolic sizes costs 150 us. The copy is lazy, on write, and a meta tensor has nothing to write.
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


def with_sizes(description: TensorMetadata, size: Sequence[Any], stride: tuple[Any, ...]) -> TensorMetadata:
    """Return the description of a tensor with other sizes and strides."""
    return description._replace(shape=torch.Size(size), stride=stride)


def can_record_gradients(tensor: torch.Tensor) -> bool:
    """Whether torch can trace a tensor that requires gradients: on a device that this machine does not have, it ends the process."""
    return tensor.device.type == "cpu" or torch.accelerator.is_available()


def allow_absent_device(device: torch.device) -> None:
    """Let torch make fake tensors of a device that this machine does not have."""
    if device.type != "cpu":
        # FakeTensorMode does so on entry; without it, some operators on CUDA fake tensors abort the process.
        torch._C._ensureCUDADeviceGuardSet()
        # A torch that is built without CUDA has no guard at all, and Python's operator `~`, by which torch decomposes this, asks for one.
        decomposition_table[torch.ops.aten.logical_not.default] = _logical_not


def _logical_not(value: torch.Tensor) -> torch.Tensor:
    """Compute what torch/_refs/__init__.py makes of it, by functions in the place of Python's operators."""
    return torch.bitwise_not(value) if value.dtype is torch.bool else torch.eq(value, 0)


def run_no_real_kernels() -> None:
    """Keep fake execution from real kernels, those of operators without a fake one.

    Operators on constants of one element still run for real, since hooks make constants so; `wrap_dispatch` can bound what that takes.
    """
    FakeTensorMode._can_run_unsafe_fallback_allowed_namespaces = {}


# A method of torch, whose arguments are any.
Dispatch = Callable[[FakeTensorMode, Any, Any, Any, Any], Any]


def wrap_dispatch(name: str, wrapper: Callable[[Dispatch], Dispatch]) -> None:
    """Replace how fake modes execute operators, once for each name.

    A monkeypatch: torch has no other way to see a call before it decides to execute it on real tensors.

    Args:
        name: What the wrapper is called, an identifier.
        wrapper: Makes the new method of the one that is there.
    """
    dispatch: Dispatch = FakeTensorMode._dispatch_impl
    if not hasattr(dispatch, name):
        wrapped = wrapper(dispatch)
        vars(wrapped)[name] = True
        FakeTensorMode._dispatch_impl = wrapped  # type: ignore[method-assign,assignment]

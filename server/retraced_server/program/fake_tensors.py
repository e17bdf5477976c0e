"""The fake tensors of a program's recorded values.

Most descriptions in a program repeat. The meta tensor of each distinct one is made once; every value of that description then has a
copy of it, with a storage of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec
import torch
from msgspec import Raw

from retraced_pt2 import schema
from retraced_pt2.limits import MOST_DIMENSIONS
from retraced_server.program.errors import cause, program_invalid, program_unsupported
from retraced_server.program.expressions import expanded_product
from retraced_server.program.scalar_types import read_device, read_dtype, read_layout
from retraced_server.program.symbols import Size, Symbols
from retraced_server.torch_compat.fake_tensors import FakeTensor, allow_absent_device, copy_with_own_storage, empty_coo
from retraced_server.torch_compat.sparse_kernels import add_sparse_kernels
from retraced_server.torch_compat.symbolic_shapes import raw_expression

as_strided = torch.ops.aten.as_strided.default
# A sparse tensor of a file has all its dimensions sparse, and is not coalesced: the file says neither, and this promises least.
_LAYOUTS: Final = frozenset((torch.strided, torch.sparse_coo))
_TENSOR_META = msgspec.json.Decoder(schema.TensorMeta)


@dataclass(slots=True)
class Description:
    """What the file says of a tensor, as values of torch."""

    dtype: torch.dtype
    device: torch.device
    size: tuple[Size, ...]
    stride: tuple[Size, ...]
    offset: Size
    requires_grad: bool
    layout: torch.layout
    symbolic: bool


@dataclass(slots=True)
class _Made:
    # Keeps the tensor alive, so that its address stays its own.
    fake: FakeTensor
    meta: torch.Tensor
    key: bytes


class FakeTensors:
    """Makes the fake tensors of one program.

    Args:
        symbols: Its symbols and fake tensor mode.
    """

    def __init__(self, symbols: Symbols) -> None:
        self._symbols = symbols
        self._described: dict[bytes, Description] = {}
        self._templates: dict[bytes, torch.Tensor] = {}
        self._made: dict[int, _Made] = {}

    def describe(self, raw: Raw) -> Description:
        """Return what a `TensorMeta` of the schema says."""
        key = bytes(raw)
        found = self._described.get(key)
        if found is None:
            found = self._described[key] = self._read(_TENSOR_META.decode(raw))
        return found

    def make(self, raw: Raw, base: FakeTensor | None = None) -> FakeTensor:
        """Return the fake tensor that a `TensorMeta` of the schema describes.

        Args:
            raw: The description.
            base: The tensor whose storage it has; without one it gets its own.
        """
        key = bytes(raw)
        described = self.describe(raw)
        meta = None if base is None else self._view(base, described)
        if meta is None:
            meta = self._own(key, described)
        fake = FakeTensor(self._symbols.mode, meta, described.device, requires_grad=described.requires_grad)
        self._made[id(fake)] = _Made(fake, meta, key)
        return fake

    def key(self, fake: FakeTensor) -> object:
        """Return what tells the description of a tensor that was made here from others."""
        made = self._made.get(id(fake))
        return id(fake) if made is None else made.key

    def _own(self, key: bytes, described: Description) -> torch.Tensor:
        template = self._templates.get(key)
        if template is not None and described.symbolic and described.layout is torch.strided:
            return copy_with_own_storage(template)
        size, stride, offset = described.size, described.stride, described.offset
        made = self._templates[key] = meta_tensor(described.dtype, size, stride, offset, layout=described.layout)
        return made

    def _view(self, base: FakeTensor, described: Description) -> torch.Tensor | None:
        made = self._made.get(id(base))
        if made is None or made.meta.dtype is not described.dtype or described.layout is not torch.strided:
            return None
        try:
            return cast(torch.Tensor, as_strided(made.meta, described.size, described.stride, described.offset))
        # What the file says does not lie in that storage: it is not what the operator makes.
        except RuntimeError:
            return None

    def _read(self, meta: schema.TensorMeta) -> Description:
        layout = read_layout(meta.layout)
        if layout not in _LAYOUTS:
            raise program_unsupported(
                f"values of the layout {layout} are not read: torch itself does not write them", field="layout"
            )
        if len(meta.sizes) != len(meta.strides) or len(meta.sizes) > MOST_DIMENSIONS:
            raise program_invalid(f"a tensor has {len(meta.sizes)} sizes and {len(meta.strides)} strides", field="strides")
        dtype, device = read_dtype(meta.dtype), read_device(meta.device)
        if meta.requires_grad and not (dtype.is_floating_point or dtype.is_complex):
            raise program_invalid(f"a tensor of {dtype} requires a gradient", field="requires_grad")
        allow_absent_device(device)
        if layout is not torch.strided:
            add_sparse_kernels()
        size = tuple(map(self._symbols.sym_int, meta.sizes))
        stride = tuple(map(self._symbols.sym_int, meta.strides))
        offset = self._symbols.offset(meta.storage_offset)
        symbolic = any(isinstance(value, torch.SymInt) for value in (*size, *stride, offset))
        if any(not isinstance(value, torch.SymInt) and value < 0 for value in (*size, *stride, offset)):
            raise program_invalid("a tensor has a negative size, stride or storage offset", field="sizes")
        if symbolic:
            _check_work(size, stride)
        return Description(dtype, device, size, stride, offset, meta.requires_grad, layout, symbolic)


def _check_work(size: Sequence[Size], stride: Sequence[Size]) -> None:
    """Check that torch can multiply the sizes of a value in little time, as it does to see how many elements there are."""

    def expressions(numbers: Iterable[Size]) -> list[Any]:
        return [raw_expression(number) for number in numbers if isinstance(number, torch.SymInt)]

    products = (expressions(size), *(expressions(extent) for extent in zip(size, stride, strict=True)))
    for product in products:
        if excess := expanded_product(product).excess:
            raise program_unsupported(f"the sizes of a value have {excess} when they are multiplied", field="sizes")


def meta_tensor(
    dtype: torch.dtype,
    size: Sequence[Size],
    stride: Sequence[Size],
    offset: Size,
    *,
    layout: torch.layout = torch.strided,
) -> torch.Tensor:
    """Return a meta tensor with a storage of its own.

    Raises:
        RetracedError: PROGRAM_INVALID: no tensor can have these sizes and strides.
    """
    try:
        if layout is torch.sparse_coo:
            return empty_coo(len(size), size, dtype)
        if not isinstance(offset, torch.SymInt) and offset == 0:
            return torch.empty_strided(size, stride, dtype=dtype, device="meta")
        whole = torch.empty_strided((_extent(size, stride, offset),), (1,), dtype=dtype, device="meta")
        return cast(torch.Tensor, as_strided(whole, size, stride, offset))
    # What torch makes of sizes whose product is too large for it.
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise program_invalid(f"no tensor can have the sizes and strides of a recorded value: {cause(error)}") from error


def _extent(sizes: Sequence[Size], strides: Sequence[Size], offset: Size) -> Size:
    """How many elements the storage has, at least."""
    extent: Size = offset + 1
    for size, stride in zip(sizes, strides, strict=True):
        extent = extent + (size - 1) * stride
    concrete = [size for size in sizes if not isinstance(size, torch.SymInt)]
    return offset if 0 in concrete else extent

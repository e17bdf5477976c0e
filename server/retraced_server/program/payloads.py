"""The payloads of a program: parameters, buffers and constants, mapped from the file or absent.

A present payload is mapped copy on write: nothing is read until it is used, and what is written to it stays in this process. An
absent one is a fake tensor of the program's own mode. `Payloads` remembers which record stands behind which tensor, so that a
writer can copy the record, or name it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch

from retraced_pt2 import program_schema, schema
from retraced_pt2.errors import shortened
from retraced_pt2.limits import MOST_DIMENSIONS
from retraced_pt2.payloads import reach
from retraced_pt2.record_names import PAYLOADS
from retraced_server.program.archive import Extent
from retraced_server.program.dirty_pages import is_untouched
from retraced_server.program.errors import cause, program_invalid, program_unsupported
from retraced_server.program.names import check_path
from retraced_server.program.records import RecordSource
from retraced_server.program.scalar_types import read_device, read_dtype, read_layout
from retraced_server.torch_compat.fake_tensors import FakeTensor, FakeTensorMode, allow_absent_device, storage_id, storage_key

_OBJECTS: Final = ("custom_obj_", "opaque_obj_")

# Files that were mapped ahead, by descriptor.
_held: dict[int, mmap.mmap] = {}


def hold_map(fd: int) -> None:
    """Map a file now and for good, for a process whose memory is bounded afterwards: what is mapped copy on write would count whole.

    Where it cannot be mapped, the reader tries again, and says so.
    """
    with contextlib.suppress(OSError):
        if os.fstat(fd).st_size:
            _held[fd] = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)


@dataclass(frozen=True, slots=True)
class Payload:
    """A record with tensor bytes.

    Attributes:
        record: Its name in the archive that the program was read from.
        size: How many bytes it has.
        extent: Where they lie, and None where they are not here.
    """

    record: str
    size: int
    extent: Extent | None


@dataclass(slots=True)
class _Stored:
    payload: Payload
    dtype: torch.dtype
    # The whole of the record: bytes, or elements of a meta tensor.
    whole: torch.Tensor


@dataclass(slots=True)
class Payloads:
    """The payloads behind the tensors of a program that was read."""

    _stored: dict[int, _Stored] = field(default_factory=dict)

    def find(self, tensor: torch.Tensor) -> Payload | None:
        """Return the payload that a tensor's storage was made from, if any; it may have been written to since."""
        found = self._stored.get(storage_id(tensor))
        return None if found is None else found.payload

    def unchanged(self, tensor: torch.Tensor) -> Payload | None:
        """Return the payload whose bytes a tensor's storage still has; None also where that cannot be told."""
        found = self._stored.get(storage_id(tensor))
        if found is None or not (found.whole.is_meta or is_untouched(found.whole)):
            return None
        return found.payload

    def __iter__(self) -> Iterator[Payload]:
        return (stored.payload for stored in self._stored.values())

    def add(self, storage: torch.UntypedStorage, stored: _Stored) -> None:
        """Remember what a storage was made from. `stored` keeps it alive, so that its address is not given away."""
        self._stored[storage_key(storage)] = stored


class PayloadReader:
    """Reads the tensors of one program.

    Args:
        source: Its records.
        mode: The mode of its fake tensors.
        payloads: Where to remember what each tensor was made from.
        absent: Whether to make fake tensors even of payloads that are there.
    """

    def __init__(self, source: RecordSource, mode: FakeTensorMode, payloads: Payloads, *, absent: bool) -> None:
        self._source = source
        self._mode = mode
        self._payloads = payloads
        self._absent = absent
        self._maps: dict[int, mmap.mmap] = {}

    def read(self, config: program_schema.PayloadConfig, directory: str) -> Mapping[str, torch.Tensor]:
        """Return the tensors of a payload config by name; those of one record share a storage.

        Raises:
            RetracedError: PROGRAM_INVALID where a tensor does not fit its record, PROGRAM_UNSUPPORTED where it is pickled or has a name
                that torch cannot quote.
        """
        stored: dict[tuple[str, str], _Stored] = {}
        tensors: dict[str, torch.Tensor] = {}
        for name, meta in config.config.items():
            check_path(name)
            described = _static(name, meta, directory)
            record = directory + meta.path_name
            # All tensors without bytes have one record in what torch writes, also those that share nothing.
            key = (record, "" if self._source.size(record) else name)
            if key not in stored:
                stored[key] = self._store(name, record, described)
            tensors[name] = self._tensor(name, stored[key], meta.is_param, described)
        return tensors

    def _store(self, name: str, record: str, meta: schema.StaticTensorMeta) -> _Stored:
        size = self._source.size(record)
        dtype, device = read_dtype(meta.dtype), read_device(meta.device)
        extent = self._source.extent(record)
        payload = Payload(record, size, extent)
        numel = 1
        for length in meta.sizes:
            numel *= length.as_int
        # A tensor that was fake, or on the device `meta`, when torch saved it has a record of no bytes.
        absent = self._absent or device.type != "cpu" or extent is None or (size == 0 and numel > 0)
        if absent:
            elements = size // dtype.itemsize or _reach(meta)
            if not 0 <= elements < 2**62 // dtype.itemsize:
                raise program_invalid(f"the tensor `{name}` is too large")
            stored = _Stored(payload, dtype, torch.empty(elements, dtype=dtype, device="meta"))
        else:
            assert extent is not None
            stored = _Stored(payload, dtype, self._map(extent, dtype))
        self._payloads.add(stored.whole.untyped_storage(), stored)
        return stored

    def _tensor(self, name: str, stored: _Stored, is_param: bool, meta: schema.StaticTensorMeta) -> torch.Tensor:
        if read_dtype(meta.dtype) is not stored.dtype:
            raise program_invalid(f"the tensor `{name}` has another dtype than others of its record `{stored.payload.record}`")
        if _reach(meta) * stored.dtype.itemsize > stored.whole.untyped_storage().nbytes():
            raise program_invalid(f"the tensor `{name}` does not fit into its record `{stored.payload.record}`", tensor=name)
        size, stride = [length.as_int for length in meta.sizes], [step.as_int for step in meta.strides]
        try:
            if stored.whole.is_meta:
                device = read_device(meta.device)
                allow_absent_device(device)
                view = stored.whole.as_strided(size, stride, meta.storage_offset.as_int)
                if device.type == "meta":
                    return _with_gradient(view, is_param, meta.requires_grad)
                return FakeTensor(self._mode, view, device, requires_grad=meta.requires_grad, _is_param=is_param)
            empty = torch.empty(0, dtype=stored.dtype)
            tensor = empty.set_(stored.whole.untyped_storage(), meta.storage_offset.as_int, size, stride)
            return _with_gradient(tensor, is_param, meta.requires_grad)
        # What torch makes of a gradient of integers, and of sizes that overflow.
        except (RuntimeError, ValueError, TypeError) as error:
            raise program_invalid(f"the tensor `{name}` cannot be made: {cause(error)}", tensor=name) from error

    def _map(self, extent: Extent, dtype: torch.dtype) -> torch.Tensor:
        if extent.size == 0:
            return torch.empty(0, dtype=torch.uint8)
        if extent.offset % dtype.itemsize:
            # torch aligns records; another writer need not.
            copied = bytearray(os.pread(extent.fd, extent.size, extent.offset))
            return torch.frombuffer(copied, dtype=torch.uint8)
        mapped = _held.get(extent.fd, self._maps.get(extent.fd))
        if mapped is None:
            mapped = self._maps[extent.fd] = mmap.mmap(extent.fd, 0, access=mmap.ACCESS_COPY)
        return torch.frombuffer(mapped, dtype=torch.uint8, count=extent.size, offset=extent.offset)


def check_plain(config: program_schema.PayloadConfig) -> None:
    """Check that nothing of a payload config is stored pickled.

    Raises:
        RetracedError: PROGRAM_UNSUPPORTED where something is: an object, or a tensor of a subclass.
    """
    for name, meta in config.config.items():
        if meta.path_name.startswith(_OBJECTS):
            raise program_unsupported(
                f"the constant `{shortened(name, 200)}` is an object of a custom class; objects are stored pickled, so they are not read"
            )
        if meta.use_pickle:
            raise program_unsupported(
                f"the tensor `{shortened(name, 200)}` is of a tensor subclass, such as those of torchao, which torch stores pickled; what "
                "is pickled is not read: take it apart into plain tensors before the export, with torchao's `unwrap_tensor_subclass` or "
                "torch's `unwrap_tensor_subclass_parameters`",
                tensor=name[:200],
            )


def _with_gradient(tensor: torch.Tensor, is_param: bool, requires_grad: bool) -> torch.Tensor:
    if is_param:
        return torch.nn.Parameter(tensor, requires_grad=requires_grad)
    return tensor.requires_grad_() if requires_grad else tensor


def _static(name: str, meta: program_schema.PayloadMeta, directory: str) -> schema.StaticTensorMeta:
    if PAYLOADS[directory].fullmatch(meta.path_name) is None:
        raise program_invalid(f"`{shortened(meta.path_name, 200)}` is no name of a payload")
    described = meta.tensor_meta
    if described is None:
        raise program_invalid(f"the tensor `{name}` has no description", tensor=name)
    if read_layout(described.layout) is not torch.strided:
        raise program_unsupported(f"the tensor `{name}` is not strided", tensor=name)
    if len(described.sizes) != len(described.strides) or len(described.sizes) > MOST_DIMENSIONS:
        raise program_invalid(
            f"the tensor `{name}` has {len(described.sizes)} sizes and {len(described.strides)} strides", tensor=name
        )
    return described


def _reach(meta: schema.StaticTensorMeta) -> int:
    return reach([size.as_int for size in meta.sizes], [stride.as_int for stride in meta.strides], meta.storage_offset.as_int)

"""The numbers that the schema gives to dtypes, layouts and memory formats, both ways (torch/_export/serde/schema.py)."""

from __future__ import annotations

from typing import Final

import torch

from retraced_server.program import schema
from retraced_server.program.errors import program_invalid, program_unsupported, shortened
from retraced_server.torch_compat.fake_tensors import MKLDNN

DTYPE_NUMBERS: Final[dict[torch.dtype, int]] = {
    torch.uint8: 1,
    torch.int8: 2,
    torch.int16: 3,
    torch.int32: 4,
    torch.int64: 5,
    torch.float16: 6,
    torch.float32: 7,
    torch.float64: 8,
    torch.complex32: 9,
    torch.complex64: 10,
    torch.complex128: 11,
    torch.bool: 12,
    torch.bfloat16: 13,
    torch.uint16: 28,
    torch.float8_e4m3fn: 29,
    torch.float8_e5m2: 30,
    torch.float8_e4m3fnuz: 31,
    torch.float8_e5m2fnuz: 32,
    torch.float8_e8m0fnu: 33,
    torch.uint32: 34,
    torch.uint64: 35,
}
LAYOUT_NUMBERS: Final[dict[torch.layout, int]] = {
    torch.sparse_coo: 1,
    torch.sparse_csr: 2,
    torch.sparse_csc: 3,
    torch.sparse_bsr: 4,
    torch.sparse_bsc: 5,
    MKLDNN: 6,
    torch.strided: 7,
}
MEMORY_FORMAT_NUMBERS: Final[dict[torch.memory_format, int]] = {
    torch.contiguous_format: 1,
    torch.channels_last: 2,
    torch.channels_last_3d: 3,
    torch.preserve_format: 4,
}
_DTYPES: Final = {number: dtype for dtype, number in DTYPE_NUMBERS.items()}
_LAYOUTS: Final = {number: layout for layout, number in LAYOUT_NUMBERS.items()}
_MEMORY_FORMATS: Final = {number: memory_format for memory_format, number in MEMORY_FORMAT_NUMBERS.items()}
_DEVICE_TYPES: Final = frozenset(("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla", "meta"))


def read_dtype(number: int) -> torch.dtype:
    """The dtype of a number. Raises `RetracedError` PROGRAM_INVALID where the schema has none."""
    try:
        return _DTYPES[number]
    except KeyError:
        raise program_invalid(f"the schema has no dtype {number}") from None


def read_layout(number: int) -> torch.layout:
    """The layout of a number. Raises `RetracedError` PROGRAM_INVALID where the schema has none."""
    try:
        return _LAYOUTS[number]
    except KeyError:
        raise program_invalid(f"the schema has no layout {number}") from None


def read_memory_format(number: int) -> torch.memory_format:
    """The memory format of a number. Raises `RetracedError` PROGRAM_INVALID where the schema has none."""
    try:
        return _MEMORY_FORMATS[number]
    except KeyError:
        raise program_invalid(f"the schema has no memory format {number}") from None


def read_device(device: schema.Device) -> torch.device:
    """The device of a description.

    Raises:
        RetracedError: PROGRAM_INVALID where torch knows no such type of device, PROGRAM_UNSUPPORTED where this reader does not.
    """
    if device.type not in _DEVICE_TYPES:
        try:
            torch.device(device.type)
        except RuntimeError:
            raise program_invalid(f"`{shortened(device.type, 64)}` is no type of device") from None
        raise program_unsupported(f"devices of type `{shortened(device.type, 64)}` are not read")
    return torch.device(device.type) if device.index is None else torch.device(device.type, device.index)

"""The numbers that the schema gives to dtypes, layouts and memory formats, both ways (torch/_export/serde/schema.py)."""

from __future__ import annotations

from typing import Final

import torch

from retraced_pt2 import scalar_types, schema
from retraced_pt2.errors import shortened
from retraced_server.program.errors import program_invalid, program_unsupported

_DTYPES: Final[dict[int, torch.dtype]] = {number: getattr(torch, name) for number, name in scalar_types.DTYPES.items()}
_LAYOUTS: Final[dict[int, torch.layout]] = {number: getattr(torch, name) for number, name in scalar_types.LAYOUTS.items()}
_MEMORY_FORMATS: Final[dict[int, torch.memory_format]] = {
    number: getattr(torch, name) for number, name in scalar_types.MEMORY_FORMATS.items()
}
DTYPE_NUMBERS: Final = {dtype: number for number, dtype in _DTYPES.items()}
LAYOUT_NUMBERS: Final = {layout: number for number, layout in _LAYOUTS.items()}
MEMORY_FORMAT_NUMBERS: Final = {memory_format: number for number, memory_format in _MEMORY_FORMATS.items()}


def read_dtype(number: int) -> torch.dtype:
    """Return the dtype of a number. Raises `RetracedError` PROGRAM_INVALID where the schema has none."""
    try:
        return _DTYPES[number]
    except KeyError:
        raise program_invalid(f"the schema has no dtype {number}") from None


def read_layout(number: int) -> torch.layout:
    """Return the layout of a number. Raises `RetracedError` PROGRAM_INVALID where the schema has none."""
    try:
        return _LAYOUTS[number]
    except KeyError:
        raise program_invalid(f"the schema has no layout {number}") from None


def read_memory_format(number: int) -> torch.memory_format:
    """Return the memory format of a number. Raises `RetracedError` PROGRAM_INVALID where the schema has none."""
    try:
        return _MEMORY_FORMATS[number]
    except KeyError:
        raise program_invalid(f"the schema has no memory format {number}") from None


def read_device(device: schema.Device) -> torch.device:
    """Return the device of a description.

    Raises:
        RetracedError: PROGRAM_INVALID where torch knows no such type of device, PROGRAM_UNSUPPORTED where this reader does not.
    """
    if device.type not in scalar_types.DEVICES:
        try:
            torch.device(device.type)
        except RuntimeError:
            raise program_invalid(f"`{shortened(device.type, 64)}` is no type of device") from None
        raise program_unsupported(f"devices of type `{shortened(device.type, 64)}` are not read")
    return torch.device(device.type) if device.index is None else torch.device(device.type, device.index)

"""The numbers of dtypes, layouts and memory formats are those of torch's schema."""

from __future__ import annotations

import torch
from torch._export.serde import schema, serialize

from retraced_pt2 import SCHEMA_MAJOR, scalar_types


def test_numbers_are_those_of_torch() -> None:
    for ours, theirs in (
        (scalar_types.DTYPES, serialize._TORCH_TO_SERIALIZE_DTYPE),
        (scalar_types.LAYOUTS, serialize._TORCH_TO_SERIALIZE_LAYOUT),
        (scalar_types.MEMORY_FORMATS, serialize._TORCH_TO_SERIALIZE_MEMORY_FORMAT),
    ):
        assert {getattr(torch, name): number for number, name in ours.items()} == theirs
    assert scalar_types.LAYOUTS[scalar_types.STRIDED] == "strided"
    assert schema.SCHEMA_VERSION[0] == SCHEMA_MAJOR


def test_sizes_of_elements_are_those_of_torch() -> None:
    sizes = {number: getattr(torch, name).itemsize for number, name in scalar_types.DTYPES.items()}
    assert sizes == scalar_types.ITEM_SIZES


def test_devices_are_types_of_torch() -> None:
    for name in scalar_types.DEVICES:
        assert torch.device(name).type == name

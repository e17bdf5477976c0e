"""Payload configs, which say which record holds which tensor. Stock torch unpickles what they call pickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retraced.checks.model import STATIC_TENSOR
from retraced.checks.refusal import Refused, shown
from retraced.checks.shapes import Check, boolean, map_of, record
from retraced_pt2.limits import MOST_DIMENSIONS
from retraced_pt2.payloads import reach
from retraced_pt2.record_names import PAYLOADS
from retraced_pt2.scalar_types import ITEM_SIZES


def check_payloads(config: Any, directory: str, sizes: Mapping[str, int], path: Check) -> set[str]:
    """Return a payload config.

    Args:
        config: What the config's record holds.
        directory: Where its records lie.
        sizes: The sizes of all records by name.
        path: Judges the names of tensors.

    Returns:
        The names of the records that it uses.

    Raises:
        Refused: A tensor is pickled, or does not fit its record.
    """

    def path_name(value: Any) -> None:
        if type(value) is not str or PAYLOADS[directory].fullmatch(value) is None:
            raise Refused(f"{shown(value)} is no record of a plain tensor")
        if directory + value not in sizes:
            raise Refused(f"the record {directory}{value} is missing")

    meta = record(
        "PayloadMeta", {"path_name": path_name, "is_param": boolean, "use_pickle": _plain, "tensor_meta": STATIC_TENSOR}
    )
    schema: Check = record("PayloadConfig", {"config": map_of(path, meta)})
    schema(config)
    # The first tensor of a record says of which dtype it is, and, for one without bytes, how large it would be.
    first: dict[str, tuple[int, int]] = {}
    for tensor, described in config["config"].items():
        name = directory + described["path_name"]
        needed, dtype = _reach(tensor, described["tensor_meta"]), described["tensor_meta"]["dtype"]
        capacity = sizes[name] // ITEM_SIZES[dtype] or needed * (sizes[name] == 0)
        whole = first.setdefault(name, (dtype, capacity))
        if dtype != whole[0] or needed > whole[1]:
            raise Refused(f"the tensor {shown(tensor)} does not fit into its record {name}")
    return set(first)


def _plain(value: Any) -> None:
    if value is not False:
        raise Refused("a tensor is stored pickled")


def _reach(tensor: str, meta: Any) -> int:
    """How many elements of its record a tensor reaches over."""
    sizes, strides = [size["as_int"] for size in meta["sizes"]], [stride["as_int"] for stride in meta["strides"]]
    if len(sizes) != len(strides) or len(sizes) > MOST_DIMENSIONS:
        raise Refused(f"the tensor {shown(tensor)} has {len(sizes)} sizes and {len(strides)} strides")
    return reach(sizes, strides, meta["storage_offset"]["as_int"])

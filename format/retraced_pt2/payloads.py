"""Payloads: how much of its record a tensor needs."""

from __future__ import annotations

from collections.abc import Sequence


def reach(sizes: Sequence[int], strides: Sequence[int], offset: int) -> int:
    """Return how many elements of its storage a tensor reaches over; Python's integers do not overflow."""
    if 0 in sizes:
        return offset
    return offset + 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))

"""Decomposition tables that are there for some tests only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.export import default_decompositions

from retraced_server.passes import register_decomposition_table
from retraced_server.torch_compat import decompositions


@contextmanager
def registered_table(name: str, operator: Any, function: Callable[..., Any]) -> Iterator[None]:
    """Registers a table that is the core ATen one but for one operator."""
    register_decomposition_table(name, lambda: {**dict(default_decompositions()), operator: function})
    try:
        yield
    finally:
        del decompositions._REGISTERED[name]
        decompositions._made.cache_clear()

"""Pytrees: torch's own implementation, whose specs programs carry."""

from __future__ import annotations

from torch.utils import _pytree as pytree
from torch.utils._pytree import KeyPath, TreeSpec, keystr

__all__ = ["KeyPath", "TreeSpec", "keystr", "pytree", "registered_tree_types"]


def registered_tree_types() -> list[str]:
    """Return the serialized names of all types that this process can take apart as arguments and results, named tuples included."""
    return list(pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE)

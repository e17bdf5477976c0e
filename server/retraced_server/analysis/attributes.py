"""Attributes of graph modules by their dotted paths, as the targets of `get_attr` nodes name them."""

from __future__ import annotations

import operator
from typing import Any, Final

import torch

MISSING: Final = object()
"""What `find_attribute` can be asked to return where there is no attribute, and that no attribute is."""


# An attribute is whatever a `get_attr` node reads.
def get_attribute(module: torch.nn.Module, target: object) -> Any:
    """Return an attribute.

    Raises:
        AttributeError: There is none.
    """
    return operator.attrgetter(str(target))(module)


def find_attribute(module: torch.nn.Module, target: object, default: Any = None) -> Any:
    """Return an attribute, or something else where there is none."""
    try:
        return get_attribute(module, target)
    except AttributeError:
        return default


def set_attribute(module: torch.nn.Module, target: object, value: Any) -> None:
    """Set an attribute, making modules on the way."""
    *path, name = str(target).split(".")
    for part in path:
        if getattr(module, part, None) is None:
            module.add_module(part, torch.nn.Module())
        module = getattr(module, part)
    if isinstance(value, torch.nn.Module):
        module.add_module(name, value)
    else:
        setattr(module, name, value)


def delete_attribute(module: torch.nn.Module, target: object) -> None:
    """Delete an attribute; the modules on the way stay.

    Raises:
        AttributeError: There is none.
    """
    *path, name = str(target).split(".")
    delattr(module.get_submodule(".".join(path)), name)

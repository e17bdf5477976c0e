"""Dictionaries and lists in metadata: a pass may write to those that it finds, so it is given copies, compared by what they hold."""

from __future__ import annotations

import operator
from collections import OrderedDict
from typing import Any

_DICTS = frozenset({dict, OrderedDict})
_CONTAINERS = _DICTS | {list, set}


# Metadata is an open dictionary in torch: any key, any value.
def copy_container(value: Any, copies: dict[int, Any]) -> Any:
    """Return a copy of a dictionary, list or set with copies of those in it; any other value as it is.

    Args:
        value: What metadata holds.
        copies: By their ids, copies of containers that were met before, which nodes may share.
    """
    kind = type(value)
    if kind not in _CONTAINERS:
        return value
    if (known := copies.get(id(value))) is None:
        if kind in _DICTS:
            known = kind((key, copy_container(item, copies)) for key, item in value.items())
        else:
            known = kind(copy_container(item, copies) for item in value)
        copies[id(value)] = known
    return known


def own_containers(metadata: dict[str, Any], copies: dict[int, Any]) -> None:
    """Put copies in the place of the containers in metadata. A recorded value stays the object that it is."""
    for key, value in metadata.items():
        if type(value) in _CONTAINERS and key != "val":
            metadata[key] = copy_container(value, copies)


def same_node_metadata(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Return whether two metadata dictionaries hold the same objects, or containers with the same in them."""
    if new.keys() != old.keys():
        return False
    before = list(map(old.__getitem__, new))
    return all(map(operator.is_, new.values(), before)) or all(map(_is_same, new.values(), before))


def _is_same(new: Any, old: Any) -> bool:
    if new is old:
        return True
    kind = type(new)
    if kind is not type(old) or kind not in _CONTAINERS or len(new) != len(old):
        return False
    if kind in _DICTS:
        return new.keys() == old.keys() and all(map(_is_same, new.values(), map(old.__getitem__, new)))
    return bool(new == old) if kind is set else all(map(_is_same, new, old))

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
        # Known before it is filled: it may hold itself.
        known = copies[id(value)] = kind()
        if kind is list:
            known.extend(copy_container(item, copies) for item in value)
        elif kind is set:
            known.update(value)
        else:
            known.update((key, copy_container(item, copies)) for key, item in value.items())
    return known


def is_container(value: Any) -> bool:
    """Return whether a pass may write to what a value holds, so that it is given copies."""
    return type(value) in _CONTAINERS


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
    if all(map(operator.is_, new.values(), before)):
        return True
    compared: set[tuple[int, int]] = set()
    return all(_is_same(one, other, compared) for one, other in zip(new.values(), before, strict=True))


def same_value(new: Any, old: Any) -> bool:
    """Return whether two values in metadata are the same object, or containers with the same in them."""
    return _is_same(new, old, set())


def _is_same(new: Any, old: Any, compared: set[tuple[int, int]]) -> bool:
    """Compare two values; `compared` holds the containers that were compared before, or that these are in."""
    if new is old or (id(new), id(old)) in compared:
        return True
    kind = type(new)
    if kind is not type(old) or kind not in _CONTAINERS or len(new) != len(old):
        return False
    compared.add((id(new), id(old)))
    if kind is set:
        return bool(new == old)
    if kind in _DICTS:
        # The order of entries may mean something, as that of a stack of modules does.
        if list(new) != list(old):
            return False
        new, old = new.values(), old.values()
    return all(_is_same(one, other, compared) for one, other in zip(new, old, strict=True))

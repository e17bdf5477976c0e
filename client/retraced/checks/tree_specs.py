"""Tree specs, which say how arguments and results nest. Stock torch imports the modules that they name for enums and default factories.

Containers are plain ones. A registered node, such as a named tuple, comes back as the caller's own program had it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NamedTuple

from retraced.checks.refusal import Refused, shown
from retraced_pt2.tree_specs import Key, read_tree_spec

Registered = tuple[str, str]
"""A node that is no plain container: its type, and its context as JSON."""


class _Checked(NamedTuple):
    """A node that is taken: its type, the keys of a mapping, its children."""

    kind: str = ""
    keys: list[Key] = []  # noqa: RUF012 - nobody changes it
    children: list[_Checked] = []  # noqa: RUF012 - nobody changes it


class TreeSpecs:
    """Judges tree specs, each distinct one once.

    Args:
        registered: The nodes of the caller's own program that are no plain containers.
        keys: The keys of the caller's own program that are no plain ones.
    """

    def __init__(self, registered: Collection[Registered], keys: Collection[str]) -> None:
        self._registered = registered
        self._keys = keys
        self._taken: dict[str, _Checked] = {}

    def check(self, value: Any) -> None:
        """Check a tree spec.

        Raises:
            FormatError: The text is no tree spec, or holds a node that is not plain.
        """
        if type(value) is not str:
            raise Refused(f"{shown(value)} is no tree spec")
        if value not in self._taken:
            self._taken[value] = read_tree_spec(value, self)

    def check_arguments(self, value: Any) -> None:
        """Check the tree spec of a module's arguments; those by keyword have names that stand in generated source.

        Raises:
            FormatError: The text is no tree spec, or holds a node that is not plain, or a keyword that is no identifier.
        """
        self.check(value)
        children = self._taken[value].children
        if len(children) == 2 and children[1].kind == "builtins.dict":
            for key in children[1].keys:
                if type(key) is not str or not key.isidentifier():
                    raise Refused(f"the keyword {shown(key)} in a tree spec is no identifier")

    def leaf(self) -> _Checked:
        """See `TreeSpecBuilder`."""
        return _Checked()

    def sequence(self, kind: str, children: list[_Checked]) -> _Checked:
        """See `TreeSpecBuilder`."""
        return _Checked(kind, [], children)

    def mapping(self, kind: str, keys: list[Key], factory: str, children: list[_Checked]) -> _Checked:
        """See `TreeSpecBuilder`."""
        for key in keys:
            if type(key) is str and not is_plain_key(key) and key not in self._keys:
                raise Refused(f"the key {shown(key)} in a tree spec could end a quoted text in generated source")
        return _Checked(kind, keys, children)

    def deque(self, longest: int | None, children: list[_Checked]) -> _Checked:
        """See `TreeSpecBuilder`."""
        return _Checked("", [], children)

    def registered(self, kind: str, context: Any, children: list[_Checked]) -> _Checked:
        """See `TreeSpecBuilder`."""
        if registered(kind, context) not in self._registered:
            raise Refused(f"the type {shown(kind)} in a tree spec is no plain container, and not as in the program sent")
        return _Checked(kind, [], children)


def is_plain_key(key: str) -> bool:
    """Whether a key may stand between quotes in generated source: guards name inputs by their keys."""
    return key.isprintable() and not any(mark in key for mark in "'\"\\")


def registered(kind: str, context: Any) -> Registered:
    """Return a node that is no plain container, for comparison."""
    return kind, json.dumps(context, sort_keys=True)

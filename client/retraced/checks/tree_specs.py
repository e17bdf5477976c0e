"""Tree specs, which say how arguments and results nest. Stock torch imports the modules that they name for enums and default factories.

Containers are plain ones. A registered node, such as a named tuple, comes back as the caller's own program had it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from retraced.checks.refusal import Refused, shown
from retraced.checks.shapes import list_of, nullable, record, text

_LONGEST: Final = 1_000_000
_SEQUENCES: Final = frozenset(
    ("builtins.tuple", "builtins.list", "torch.Size", "torch.fx.immutable_collections.immutable_list")
)
_MAPPINGS: Final = frozenset(
    ("builtins.dict", "collections.OrderedDict", "torch.fx.immutable_collections.immutable_dict", "collections.defaultdict")
)
_FACTORIES: Final = frozenset(("list", "dict", "set", "tuple", "int", "float", "bool", "str"))

Registered = tuple[str, str]
"""A node that is no plain container: its type, and its context as JSON."""


def _anything(value: Any) -> None:
    pass


_NODE: Final = record("tree spec", {"type": nullable(text), "context": _anything, "children_spec": list_of(_anything)})
_FACTORY: Final = record(
    "default factory", {"default_factory_module": text, "default_factory_name": text, "dict_context": _anything}
)


class TreeSpecs:
    """Judges tree specs, each distinct one once.

    Args:
        registered: The nodes of the caller's own program that are no plain containers.
        keys: The keys of the caller's own program that are no plain ones.
    """

    def __init__(self, registered: Collection[Registered], keys: Collection[str]) -> None:
        self._registered = registered
        self._keys = keys
        self._taken: dict[str, Any] = {}

    def check(self, value: Any) -> None:
        """A tree spec.

        Raises:
            Refused: It is none, or holds a node that is not plain.
        """
        if type(value) is not str or len(value) > _LONGEST:
            raise Refused(f"{shown(value)} is no tree spec")
        if value not in self._taken:
            self._taken[value] = self._root(value)

    def check_arguments(self, value: Any) -> None:
        """The tree spec of a module's arguments; those by keyword have names that stand in generated source.

        Raises:
            Refused: It is none, or holds a node that is not plain, or a keyword that is no identifier.
        """
        self.check(value)
        children = self._taken[value]["children_spec"]
        if len(children) == 2 and children[1]["type"] == "builtins.dict":
            for key in json.loads(children[1]["context"]):
                if type(key) is not str or not key.isidentifier():
                    raise Refused(f"the keyword {shown(key)} in a tree spec is no identifier")

    def _root(self, value: str) -> Any:
        try:
            spec = json.loads(value)
            if type(spec) is not list or len(spec) != 2 or type(spec[0]) is not int or spec[0] != 1:
                raise Refused(f"the tree spec {shown(value)} is not of protocol 1")
            waiting = [spec[1]]
            while waiting:
                waiting.extend(self._node(waiting.pop()))
        except (ValueError, RecursionError) as error:
            raise Refused(f"the tree spec {shown(value)} is not JSON") from error
        return spec[1]

    def _node(self, node: Any) -> list[Any]:
        """Checks one node, and gives its children."""
        _NODE(node)
        kind, context, children = node["type"], node["context"], node["children_spec"]
        if kind is None:
            if context is not None or children:
                raise Refused("a leaf of a tree spec has a context or children")
        elif kind in _SEQUENCES:
            if context != "null":
                raise Refused(f"{shown(kind)} in a tree spec has a context")
        elif kind in _MAPPINGS:
            self._mapping(kind, context, len(children))
        elif kind == "collections.deque":
            length = _decoded(context)
            if length is not None and (type(length) is not int or length < 0):
                raise Refused("the context of a deque in a tree spec is not its length")
        elif registered(kind, context) not in self._registered:
            raise Refused(f"the type {shown(kind)} in a tree spec is no plain container, and not as in the program sent")
        return list(children)

    def _mapping(self, kind: str, context: Any, count: int) -> None:
        if kind == "collections.defaultdict":
            _FACTORY(context)
            if context["default_factory_module"] != "builtins" or context["default_factory_name"] not in _FACTORIES:
                raise Refused(f"the default factory {shown(context['default_factory_name'])} in a tree spec is not taken")
            keys = context["dict_context"]
        else:
            keys = _decoded(context)
        if type(keys) is not list or len(keys) != count:
            raise Refused(f"{shown(kind)} in a tree spec has not one key for each child")
        for key in keys:
            if type(key) not in (str, int, float, bool, type(None)):
                raise Refused(f"the key {shown(key)} in a tree spec is no plain value")
            if type(key) is str and not is_plain_key(key) and key not in self._keys:
                raise Refused(f"the key {shown(key)} in a tree spec could end a quoted text in generated source")


def is_plain_key(key: str) -> bool:
    """Whether a key may stand between quotes in generated source: guards name inputs by their keys."""
    return key.isprintable() and not any(mark in key for mark in "'\"\\")


def registered(kind: str, context: Any) -> Registered:
    """A node that is no plain container, for comparison."""
    return kind, json.dumps(context, sort_keys=True)


def _decoded(context: Any) -> Any:
    if type(context) is not str:
        raise Refused("a context in a tree spec is not a text")
    return json.loads(context)

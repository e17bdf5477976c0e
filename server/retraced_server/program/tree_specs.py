"""Makes pytree's specs of the texts that it writes, and the texts of its specs; nothing is imported for them.

Default factories are of a closed table, and registered nodes stand in only where they are allowed by name. The grammar is that of
`retraced_pt2.tree_specs`.
"""

from __future__ import annotations

import builtins
import json
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from typing import Any, Final

import torch
from torch.fx.immutable_collections import immutable_dict, immutable_list

from retraced_pt2.errors import invalid, shortened, unsupported
from retraced_pt2.tree_specs import FACTORIES, PROTOCOL, Key, check_count, read_tree_spec, text_of
from retraced_server.program.errors import cause, format_errors
from retraced_server.torch_compat.pytree import TreeSpec, pytree

# Around a node without children, as torch writes it.
_BEFORE_NODE: Final = f"[{PROTOCOL}, "
_AFTER_CHILDREN: Final = "]}]"
_LEAF: Final = pytree.treespec_leaf()
_CONTAINERS: Final[dict[str, type]] = {
    "builtins.tuple": tuple,
    "builtins.list": list,
    "torch.Size": torch.Size,
    "torch.fx.immutable_collections.immutable_list": immutable_list,
    "builtins.dict": dict,
    "collections.OrderedDict": OrderedDict,
    "torch.fx.immutable_collections.immutable_dict": immutable_dict,
}
_FACTORIES: Final[dict[str, type]] = {name: getattr(builtins, name) for name in FACTORIES}


def spec_nodes(spec: TreeSpec) -> list[TreeSpec]:
    """Return all nodes of a tree spec, each behind the one that holds it; the stack bounds no depth."""
    nodes, waiting = [], [spec]
    while waiting:
        nodes.append(node := waiting.pop())
        waiting.extend(node.children())
    return nodes


def dump_tree_spec(spec: TreeSpec) -> str:
    """Return what `pytree.treespec_dumps` gives, which goes only as deep as Python's stack.

    Raises:
        NotImplementedError, TypeError, ValueError: A node has no serialized form.
    """
    dumped: dict[int, str] = {}
    for node in reversed(spec_nodes(spec)):
        alone = pytree.treespec_dumps(TreeSpec(node.type, node.context, []), PROTOCOL)
        children = ", ".join([dumped[id(child)] for child in node.children()])
        dumped[id(node)] = f"{alone.removeprefix(_BEFORE_NODE).removesuffix(_AFTER_CHILDREN)}{children}]}}"
    return f"{_BEFORE_NODE}{dumped[id(spec)]}]"


class TreeSpecs:
    """Reads the tree specs of one program, each distinct one once.

    Args:
        allowed: Serialized names of registered nodes that are allowed beside plain containers.
    """

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed
        self._read: dict[str, TreeSpec] = {}

    def read(self, text: str) -> TreeSpec:
        """Return the tree spec that `pytree.treespec_dumps` wrote as `text`.

        Raises:
            RetracedError: PROGRAM_INVALID where it is none, PROGRAM_UNSUPPORTED where it is too long or deep, or holds a node that is
                not allowed.
        """
        found = self._read.get(text)
        if found is None:
            with format_errors():
                found = self._read[text] = read_tree_spec(text, self)
        return found

    def leaf(self) -> TreeSpec:
        """See `TreeSpecBuilder`."""
        return _LEAF

    def sequence(self, kind: str, children: list[TreeSpec]) -> TreeSpec:
        """See `TreeSpecBuilder`."""
        return TreeSpec(_CONTAINERS[kind], None, children)

    def mapping(self, kind: str, keys: list[Key], factory: str, children: list[TreeSpec]) -> TreeSpec:
        """See `TreeSpecBuilder`."""
        if factory:
            return TreeSpec(defaultdict, [_FACTORIES[factory], keys], children)
        return TreeSpec(_CONTAINERS[kind], keys, children)

    def deque(self, longest: int | None, children: list[TreeSpec]) -> TreeSpec:
        """See `TreeSpecBuilder`."""
        return TreeSpec(deque, longest, children)

    def registered(self, kind: str, context: Any, children: list[TreeSpec]) -> TreeSpec:
        """See `TreeSpecBuilder`."""
        if kind != "collections.namedtuple":
            found = self._registered(kind)
            return TreeSpec(found, _own_context(kind, found, context), children)
        found = self._registered(text_of(kind, context))
        if not pytree.is_namedtuple_class(found):
            raise invalid(f"`{shortened(context, 200)}` in a tree spec is no named tuple")
        check_count(context, len(found._fields), children)
        return TreeSpec(namedtuple, found, children)

    def _registered(self, name: str) -> Any:
        kind = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name)
        if name not in self._allowed:
            raise unsupported(
                f"the type `{shortened(name, 200)}` in a tree spec is not allowed: a server reads it that imports the module which "
                "registers it (`serve --import MODULE`)"
            )
        if kind is None:
            raise unsupported(f"the type `{shortened(name, 200)}` in a tree spec is not registered in the server")
        return kind


def _own_context(name: str, kind: Any, context: Any) -> Any:
    reads: Callable[[Any], Any] | None = pytree.SUPPORTED_SERIALIZED_TYPES[kind].from_dumpable_context
    if reads is None:
        return json.loads(text_of(name, context))
    try:
        return reads(context)
    # The function of an allowed type: it may raise anything.
    except Exception as error:
        raise invalid(f"`{name}` in a tree spec refuses its context: {cause(error)}") from error

"""Reads and writes tree specs, which say how the arguments and results of a call nest; nothing is imported for them.

torch's own reader imports the modules that a text names for enums and default factories. Here containers are plain ones, default
factories are of a closed table, and other registered nodes stand in only where they are allowed by name.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
import torch
from msgspec import Meta, Struct
from torch.fx.immutable_collections import immutable_dict, immutable_list

from retraced_server.program.errors import cause, program_invalid, program_unsupported, shortened
from retraced_server.program.options import LONGEST_TREE_SPEC
from retraced_server.torch_compat.pytree import TreeSpec, pytree

_PROTOCOL: Final = 1
# Around a node without children, as torch writes it.
_BEFORE_NODE: Final = f"[{_PROTOCOL}, "
_AFTER_CHILDREN: Final = "]}]"
_LEAF: Final = pytree.treespec_leaf()
_SEQUENCES: Final[dict[str, type]] = {
    "builtins.tuple": tuple,
    "builtins.list": list,
    "torch.Size": torch.Size,
    "torch.fx.immutable_collections.immutable_list": immutable_list,
}
_MAPPINGS: Final[dict[str, type]] = {
    "builtins.dict": dict,
    "collections.OrderedDict": OrderedDict,
    "torch.fx.immutable_collections.immutable_dict": immutable_dict,
}
_FACTORIES: Final[dict[str, type]] = {made.__name__: made for made in (list, dict, set, tuple, int, float, bool, str)}
_MAXLEN: Final = msgspec.json.Decoder(Annotated[int, Meta(ge=0)] | None)
_KEYS: Final = msgspec.json.Decoder(list[str | int | float | bool | None])


class _Node(Struct, forbid_unknown_fields=True, gc=False):
    type: str | None
    context: Any
    children_spec: list[_Node]


class _DefaultDict(Struct, forbid_unknown_fields=True, gc=False):
    default_factory_module: str
    default_factory_name: str
    dict_context: list[str | int | float | bool | None]


_SPEC: Final = msgspec.json.Decoder(tuple[int, _Node])


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
        alone = pytree.treespec_dumps(TreeSpec(node.type, node.context, []), _PROTOCOL)
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
        """The tree spec that `pytree.treespec_dumps` wrote as `text`.

        Raises:
            RetracedError: PROGRAM_INVALID where it is none, PROGRAM_UNSUPPORTED where it is too long or deep, or holds a node that is
                not allowed.
        """
        found = self._read.get(text)
        if found is None:
            found = self._read[text] = self._parse(text)
        return found

    def _parse(self, text: str) -> TreeSpec:
        if len(text) > LONGEST_TREE_SPEC:
            raise program_unsupported(f"a tree spec has {len(text)} characters, and {LONGEST_TREE_SPEC} are the most")
        try:
            protocol, root = _SPEC.decode(text)
        except msgspec.MsgspecError as error:
            raise program_invalid(f"the tree spec `{shortened(text, 200)}` cannot be read: {cause(error)}") from error
        except RecursionError as error:
            raise program_unsupported(
                "a tree spec nests containers deeper than Python's stack, as it does for torch"
            ) from error
        if protocol != _PROTOCOL:
            raise program_invalid(f"a tree spec is of protocol {protocol}, and {_PROTOCOL} is read")
        # Without recursion, so that the stack bounds no depth here.
        nodes, waiting = [], [root]
        while waiting:
            nodes.append(node := waiting.pop())
            waiting.extend(node.children_spec)
        built: dict[int, TreeSpec] = {}
        for node in reversed(nodes):
            built[id(node)] = self._build(node, [built[id(child)] for child in node.children_spec])
        return built[id(root)]

    def _build(self, node: _Node, children: list[TreeSpec]) -> TreeSpec:
        if node.type is None:
            if node.context is not None or children:
                raise program_invalid("a leaf of a tree spec has a context or children")
            return _LEAF
        try:
            kind, context = self._container(node.type, node.context, len(children))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise program_invalid(
                f"the context of `{shortened(node.type, 200)}` in a tree spec is not its own: {cause(error)}"
            ) from error
        return TreeSpec(kind, context, children)

    def _container(self, name: str, context: Any, count: int) -> tuple[Any, Any]:
        if name in _SEQUENCES:
            if context != "null":
                raise program_invalid(f"`{name}` in a tree spec has a context")
            return _SEQUENCES[name], None
        if name in _MAPPINGS:
            keys = _KEYS.decode(_text(name, context))
            _check_count(name, len(keys), count)
            return _MAPPINGS[name], keys
        if name == "collections.deque":
            return deque, _MAXLEN.decode(_text(name, context))
        if name == "collections.defaultdict":
            described = msgspec.convert(context, _DefaultDict)
            factory = _FACTORIES.get(described.default_factory_name)
            if factory is None or described.default_factory_module != "builtins":
                shown = shortened(f"{described.default_factory_module}.{described.default_factory_name}", 200)
                raise program_unsupported(f"the default factory `{shown}` in a tree spec is not read")
            _check_count(name, len(described.dict_context), count)
            return defaultdict, [factory, described.dict_context]
        if name == "collections.namedtuple":
            kind = self._registered(_text(name, context))
            if not pytree.is_namedtuple_class(kind):
                raise program_invalid(f"`{shortened(context, 200)}` in a tree spec is no named tuple")
            _check_count(context, len(kind._fields), count)
            return namedtuple, kind
        kind = self._registered(name)
        return kind, _own_context(name, kind, context)

    def _registered(self, name: str) -> Any:
        kind = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name)
        if name not in self._allowed:
            raise program_unsupported(
                f"the type `{shortened(name, 200)}` in a tree spec is not allowed: a server reads it that imports the module which "
                "registers it (`serve --import MODULE`)"
            )
        if kind is None:
            raise program_unsupported(f"the type `{shortened(name, 200)}` in a tree spec is not registered in the server")
        return kind


def _own_context(name: str, kind: Any, context: Any) -> Any:
    reads: Callable[[Any], Any] | None = pytree.SUPPORTED_SERIALIZED_TYPES[kind].from_dumpable_context
    if reads is None:
        return msgspec.json.decode(_text(name, context))
    try:
        return reads(context)
    # The function of an allowed type: it may raise anything.
    except Exception as error:
        raise program_invalid(f"`{name}` in a tree spec refuses its context: {cause(error)}") from error


def _text(name: str, context: Any) -> str:
    if not isinstance(context, str):
        raise program_invalid(f"the context of `{shortened(name, 200)}` in a tree spec is not a text")
    return context


def _check_count(name: str, expected: int, count: int) -> None:
    if expected != count:
        raise program_invalid(f"`{shortened(name, 200)}` in a tree spec has {expected} keys and {count} children")

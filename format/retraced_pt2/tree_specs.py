"""The grammar of tree specs, which say how the arguments and results of a call nest, as `pytree.treespec_dumps` writes them.

torch imports the modules that a text names for enums and default factories. Here keys are plain values, and factories of a closed list; nodes
that are no plain containers are the builder's to judge. What is made of the nodes is the builder's too.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NoReturn, Protocol, TypeVar

from retraced_pt2.errors import invalid, shortened, unsupported
from retraced_pt2.limits import LONGEST_TREE_SPEC

PROTOCOL: Final = 1
SEQUENCES: Final = frozenset(("builtins.tuple", "builtins.list", "torch.Size", "torch.fx.immutable_collections.immutable_list"))
MAPPINGS: Final = frozenset(("builtins.dict", "collections.OrderedDict", "torch.fx.immutable_collections.immutable_dict"))
DEQUE: Final = "collections.deque"
DEFAULT_DICT: Final = "collections.defaultdict"
FACTORIES: Final = frozenset(("list", "dict", "set", "tuple", "int", "float", "bool", "str"))

_NODE: Final = {"type", "context", "children_spec"}
_FACTORY: Final = {"default_factory_module", "default_factory_name", "dict_context"}
# Half of a character, which no file in UTF-8 can hold.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_PLAIN: Final = (str, int, float, bool, type(None))

Key = str | int | float | bool | None
_Built = TypeVar("_Built")


class TreeSpecBuilder(Protocol[_Built]):
    """Makes something of a tree spec, from its leaves to its root. Each method may raise a `FormatError`."""

    def leaf(self) -> _Built:
        """Return a value."""
        ...

    def sequence(self, kind: str, children: list[_Built]) -> _Built:
        """One of `SEQUENCES`."""
        ...

    def mapping(self, kind: str, keys: list[Key], factory: str, children: list[_Built]) -> _Built:
        """One of `MAPPINGS`, or a `DEFAULT_DICT` with the name of its factory, with a key for each child."""
        ...

    def deque(self, longest: int | None, children: list[_Built]) -> _Built:
        """Return a deque, with the most that it may hold."""
        ...

    # Any: what json.loads gives.
    def registered(self, kind: str, context: Any, children: list[_Built]) -> _Built:
        """Return a node of any other type, with the context as it stands there."""
        ...


def read_tree_spec(text: str, builder: TreeSpecBuilder[_Built]) -> _Built:
    """Return what a builder makes of a tree spec.

    Raises:
        FormatError: PROGRAM_INVALID where the text is none, PROGRAM_UNSUPPORTED where it is too long or deep, or has a factory that is not
            read; or what the builder raises.
    """
    if len(text) > LONGEST_TREE_SPEC:
        raise unsupported(f"a tree spec has {len(text)} characters, and {LONGEST_TREE_SPEC} are the most")
    try:
        spec = _decoded(text)
    except RecursionError as error:
        raise unsupported("a tree spec nests containers deeper than Python's stack, as it does for torch") from error
    except ValueError as error:
        raise invalid(f"the tree spec `{shortened(text, 200)}` cannot be read: {error}") from error
    if type(spec) is not list or len(spec) != 2 or type(spec[0]) is not int:
        raise invalid(f"the tree spec `{shortened(text, 200)}` cannot be read: it is not a protocol and a node")
    if spec[0] != PROTOCOL:
        raise invalid(f"a tree spec is of protocol {shortened(str(spec[0]), 64)}, and {PROTOCOL} is read")
    # Without recursion, so that the stack bounds no depth here.
    nodes, waiting = [], [spec[1]]
    while waiting:
        nodes.append(node := _node(waiting.pop()))
        waiting.extend(node["children_spec"])
    built: dict[int, _Built] = {}
    for node in reversed(nodes):
        children = [built[id(child)] for child in node["children_spec"]]
        try:
            built[id(node)] = _build(node["type"], node["context"], children, builder)
        except (ValueError, RecursionError) as error:
            raise invalid(f"the context of `{shortened(node['type'], 200)}` in a tree spec is not its own: {error}") from error
    return built[id(spec[1])]


def text_of(kind: str, context: Any) -> str:
    """Return the context of a node that has a text for one. Raises `FormatError` where it is none."""
    if type(context) is not str:
        raise invalid(f"the context of `{shortened(kind, 200)}` in a tree spec is not a text")
    return context


def check_count(kind: str, expected: int, children: list[_Built]) -> None:
    """Raise `FormatError` where a node has not as many children as its context says."""
    if expected != len(children):
        raise invalid(f"`{shortened(kind, 200)}` in a tree spec has {expected} keys and {len(children)} children")


def _build(kind: str | None, context: Any, children: list[_Built], builder: TreeSpecBuilder[_Built]) -> _Built:
    if kind is None:
        if context is not None or children:
            raise invalid("a leaf of a tree spec has a context or children")
        return builder.leaf()
    if kind in SEQUENCES:
        if context != "null":
            raise invalid(f"`{kind}` in a tree spec has a context")
        return builder.sequence(kind, children)
    if kind in MAPPINGS:
        return builder.mapping(kind, _keys(kind, _decoded(text_of(kind, context)), children), "", children)
    if kind == DEFAULT_DICT:
        factory, keys = _factory(context)
        return builder.mapping(kind, _keys(kind, keys, children), factory, children)
    if kind == DEQUE:
        longest = _decoded(text_of(kind, context))
        if longest is not None and (type(longest) is not int or longest < 0):
            raise ValueError("it is not the most that a deque may hold")
        return builder.deque(longest, children)
    return builder.registered(kind, context, children)


# Any: what json.loads gives.
def _node(value: Any) -> dict[str, Any]:
    if (
        type(value) is not dict
        or value.keys() != _NODE
        or type(value["children_spec"]) is not list
        or not (value["type"] is None or type(value["type"]) is str)
    ):
        raise invalid("a node of a tree spec is not an object of a type, a context and children")
    return value


def _factory(context: Any) -> tuple[str, Any]:
    if type(context) is not dict or context.keys() != _FACTORY:
        raise ValueError("it does not say how values are made")
    module, name = context["default_factory_module"], context["default_factory_name"]
    if module != "builtins" or type(name) is not str or name not in FACTORIES:
        raise unsupported(f"the default factory `{shortened(f'{module}.{name}', 200)}` in a tree spec is not read")
    return name, context["dict_context"]


def _keys(kind: str, keys: Any, children: list[_Built]) -> list[Key]:
    if type(keys) is not list or not all(type(key) in _PLAIN and not _SURROGATE.search(str(key)) for key in keys):
        raise ValueError("it is not a list of plain values")
    check_count(kind, len(keys), children)
    return keys


def _decoded(text: str) -> Any:
    return json.loads(text, parse_constant=_no_number, parse_float=_finite)


def _finite(text: str) -> float:
    value = float(text)
    return _no_number(text) if math.isinf(value) else value


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{shortened(word, 64)} is no number of JSON")

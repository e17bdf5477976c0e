"""A node of a transformed program, with everything that is recorded of it.

The classes mirror `retraced/v1/node_metadata.proto` with its tables resolved: a string is a string, a tensor is a tensor.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import SupportsIndex, overload

from retraced._text import ShortRepr, counted


class NodeOp(StrEnum):
    """The operation of a node, as in torch.fx."""

    PLACEHOLDER = "placeholder"
    CALL_FUNCTION = "call_function"
    GET_ATTR = "get_attr"
    OUTPUT = "output"
    UNKNOWN = "unknown"


@dataclass(frozen=True, repr=False)
class Expression(ShortRepr):
    """A symbolic expression.

    Attributes:
        text: For example `2*s77 + 1`.
        hint: Its value at export, where one is known.
        lower: The smallest value it can have; None: no bound, or not an integer.
        upper: The largest value it can have; None: no bound, or not an integer.
    """

    text: str
    hint: int | float | bool | None = None
    lower: int | None = None
    upper: int | None = None

    def __str__(self) -> str:
        return self.text


Dim = int | Expression
"""A size or a stride, as a number or an expression of symbols."""


@dataclass(frozen=True, repr=False)
class TensorValue(ShortRepr):
    """A tensor without its data.

    Attributes:
        dtype: The element type as torch names it, for example `float32`.
        shape: The size of each dimension.
        strides: The stride of each dimension, in elements; empty for layouts without strides.
        storage_offset: The offset of the first element in the storage, in elements; None for layouts without storage.
        device: As torch names it, for example `cuda:0`.
        layout: As torch names it, for example `strided`.
        requires_grad: Whether gradients are tracked.
    """

    dtype: str
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]
    storage_offset: Dim | None
    device: str
    layout: str
    requires_grad: bool

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, repr=False)
class SymbolicValue(ShortRepr):
    """A SymInt, SymFloat or SymBool: `type` is `int`, `float` or `bool`."""

    type: str
    expression: Expression

    def __str__(self) -> str:
        return f"Sym{self.type.capitalize()}({self.expression})"


@dataclass(frozen=True, repr=False)
class OpaqueValue(ShortRepr):
    """A value of another kind, a script object for example, as text."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class NoValue:
    """No value is recorded for the node. A recorded None is None."""


Value = TensorValue | SymbolicValue | OpaqueValue | int | float | bool | str | None | tuple["Value", ...]
"""What is recorded of a node's value. A tuple is the value of an operator with several results, or of a list."""


@dataclass(frozen=True)
class NodeRef:
    """An argument that is the value of another node of the same graph."""

    name: str

    def __str__(self) -> str:
        return f"%{self.name}"


class ConstantKind(StrEnum):
    """What a `Constant` is."""

    DTYPE = "dtype"
    DEVICE = "device"
    LAYOUT = "layout"
    MEMORY_FORMAT = "memory_format"
    OPERATOR = "operator"
    OPAQUE = "opaque"


@dataclass(frozen=True)
class Constant:
    """An argument that is a torch object, or another constant as Python writes it."""

    kind: ConstantKind
    text: str

    def __str__(self) -> str:
        return self.text


Argument = (
    NodeRef | Constant | int | float | bool | str | None | list["Argument"] | tuple["Argument", ...] | dict[str, "Argument"]
)
"""An argument of a node."""


@dataclass(frozen=True)
class ModuleFrame:
    """One frame of a module stack: the key that torch gives it, the module's path and its class."""

    key: str
    path: str
    type: str


@dataclass(frozen=True)
class SourceFn:
    """One frame of a source function stack: the name torch gives the call, and what was called."""

    name: str
    target: str


@dataclass(frozen=True)
class UnbackedBinding:
    """A symbol that a node's value defines, and the path in the value at which it is found, as torch writes it."""

    symbol: str
    path: str


@dataclass(frozen=True, repr=False)
class NodeMetadata(ShortRepr):
    """A node.

    Attributes:
        graph: The path of the graph that it is in: empty for the root graph, `true_graph_0` for a subgraph.
        name: Its name.
        op: Its operation.
        target: An operator, a placeholder's name, an attribute.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        users: Names of the nodes that use it, in the same graph.
        value: Its recorded value.
        unbacked_bindings: The symbols that its value defines.
        stack_trace: Its stack trace; empty where there is none. It is text of the program's author.
        nn_module_stack: The modules it was traced in, outermost first.
        source_fn_stack: The source-level calls it was traced in, outermost first.
        torch_fn: The pair that torch records as `torch_fn`; empty where there is none.
        custom: Its `custom` metadata as JSON text; empty where there is none.
        from_nodes: The nodes of the input program that it came from, each `name`, or `true_graph_0.body_graph_0:name` in a subgraph.
        made_by: The pass that made it, as canonical pipeline text; empty for a node of the input program.
        other: Metadata under any other key as JSON text; empty where there is none.
    """

    graph: str
    name: str
    op: NodeOp
    target: str
    args: tuple[Argument, ...] = ()
    kwargs: tuple[tuple[str, Argument], ...] = ()
    users: tuple[str, ...] = ()
    value: Value | NoValue = NoValue()
    unbacked_bindings: tuple[UnbackedBinding, ...] = ()
    stack_trace: str = ""
    nn_module_stack: tuple[ModuleFrame, ...] = ()
    source_fn_stack: tuple[SourceFn, ...] = ()
    torch_fn: tuple[str, ...] = ()
    custom: str = ""
    from_nodes: tuple[str, ...] = ()
    made_by: str = ""
    other: str = ""

    @property
    def qualified_name(self) -> str:
        """The name as `from_nodes` has it, in a subgraph with the path of the graph and a colon before it."""
        return f"{self.graph}:{self.name}" if self.graph else self.name

    def __str__(self) -> str:
        keywords = [f"{name}={_text(argument)}" for name, argument in self.kwargs]
        arguments = ", ".join([*map(_text, self.args), *keywords])
        match self.op:
            case NodeOp.PLACEHOLDER | NodeOp.GET_ATTR:
                made = f"{self.op}[{self.target}]"
            case _:
                made = f"{self.target}({arguments})"
        value = "" if isinstance(self.value, NoValue) else f" -> {_text(self.value)}"
        return f"{self.qualified_name} = {made}{value}"


class Nodes(tuple[NodeMetadata, ...]):
    """The nodes of a result, in order; a tuple that also gives a node by its name.

    Example::

        nodes["mm"]                 # a node of the root graph
        nodes["true_graph_0:add"]   # a node of a subgraph
        nodes[0], nodes[-1], nodes[2:5], len(nodes), "mm" in nodes

    Raises:
        KeyError: No node has the name, or its metadata was not asked for.
    """

    @overload
    def __getitem__(self, key: str, /) -> NodeMetadata: ...
    @overload
    def __getitem__(self, key: SupportsIndex, /) -> NodeMetadata: ...
    @overload
    def __getitem__(self, key: slice, /) -> tuple[NodeMetadata, ...]: ...
    def __getitem__(self, key: str | SupportsIndex | slice, /) -> NodeMetadata | tuple[NodeMetadata, ...]:
        if not isinstance(key, str):
            return super().__getitem__(key)
        try:
            return self._by_name[key]
        except KeyError:
            raise KeyError(self._missing(key)) from None

    def __contains__(self, key: object, /) -> bool:
        return key in self._by_name if isinstance(key, str) else super().__contains__(key)

    def __repr__(self) -> str:
        graphs = {node.graph for node in self}
        return f"<Nodes: {counted(len(self), 'node', 'nodes')} of {counted(len(graphs), 'graph', 'graphs')}>"

    @cached_property
    def _by_name(self) -> dict[str, NodeMetadata]:
        return {node.qualified_name: node for node in self}

    def _missing(self, name: str) -> str:
        if not self:
            return f"no metadata of {name!r} is here, nor of any node: node_metadata='all' or 'changed' asks for it"
        # In whichever graph it is, or one that is written much like it.
        near = [known for known in self._by_name if known.rpartition(":")[2] == name]
        near = near or difflib.get_close_matches(name, self._by_name)
        hint = f"; did you mean {' or '.join(map(repr, near[:3]))}?" if near else ""
        return f"no metadata of a node {name!r} is here{hint}"


def _text(item: Argument | Value | NoValue) -> str:
    """Return an argument or a value much as torch prints it."""
    match item:
        case list():
            return f"[{_texts(item)}]"
        case tuple():
            return f"({_texts(item)}{',' if len(item) == 1 else ''})"
        case dict():
            return "{" + ", ".join(f"{name!r}: {_text(value)}" for name, value in item.items()) + "}"
        case str():
            return repr(item)
        case _:
            return str(item)


def _texts(items: Iterable[Argument | Value]) -> str:
    return ", ".join(map(_text, items))

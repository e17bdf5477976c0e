"""Value numbers of whole programs: equal for values of two programs that are computed by the same calls of the same inputs.

Names and the order of independent nodes have no part in them. Numbers that programs compute with sizes are expressions: an argument is
what it comes to, and not the nodes that compute it. Symbols in expressions are named by where they come from, a dimension of an input or the
call that gives them, so that those of two shape environments can be compared.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import operator
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Final

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec

from retraced_server.analysis.attributes import find_attribute
from retraced_server.analysis.effects import draws_random_numbers, written_arguments
from retraced_server.analysis.graphs import child_path, subgraph_of
from retraced_server.analysis.targets import SIZE_OPERATORS, SYM_OPERATORS, stated_effect
from retraced_server.analysis.value_numbers import call_key
from retraced_server.torch_compat.fake_tensors import FakeTensor
from retraced_server.torch_compat.operators import HigherOrderOperator, OpOverload
from retraced_server.torch_compat.pytree import pytree
from retraced_server.torch_compat.symbolic_shapes import SYMBOLIC, safe_expand

SIZE_ARITHMETIC: Final = (
    SIZE_OPERATORS | SYM_OPERATORS | frozenset((torch.sym_sum, math.ceil, math.floor, round, max, min, abs))
)
"""What computes numbers of sizes and of other numbers."""

_NUMBERS = (bool, int, float, *SYMBOLIC)
_LARGEST_CONSTANT: Final = 1 << 12
_VIEW = torch.ops.aten.view.default
_ASSERT_SCALAR = torch.ops.aten._assert_scalar.default


class ValueTable:
    """Numbers for keys, one table for all programs that are to be compared."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def number(self, key: Hashable) -> int:
        """Return the number of a key."""
        return self._numbers.setdefault(key, len(self._numbers))


class CanonicalSymbols:
    """Rewrites the expressions of one program with symbols that are named by their origin.

    Attributes:
        named: For each symbol of the program that one.
    """

    def __init__(self) -> None:
        self.named: dict[sympy.Symbol, sympy.Symbol] = {}
        self._expressions: dict[sympy.Basic, sympy.Basic] = {}

    def bind(self, value: object, origin: str) -> bool:
        """Name the symbols of a value that have no name yet by where the value comes from. Whether there were any."""
        fresh = [
            symbol
            for number in _numbers_in(value)
            for symbol in sorted(number.node.expr.free_symbols, key=str)
            if symbol not in self.named
        ]
        for place, symbol in enumerate(dict.fromkeys(fresh)):
            # No more is assumed of it than in every program.
            self.named[symbol] = sympy.Symbol(f"{origin}.{place}", integer=symbol.is_integer or None)
        return bool(fresh)

    def expression(self, expression: sympy.Basic) -> sympy.Basic:
        """Return an expression with the names of origin, the same for all ways to write it that differ in order or brackets only."""
        found = self._expressions.get(expression)
        if found is None:
            found = expression.xreplace(self.named)
            if isinstance(found, sympy.core.relational.Relational):
                found = _in_normal_form(found)
            elif isinstance(found, sympy.Expr):
                found = safe_expand(found)
            self._expressions[expression] = found
        return found

    # A number is of any of six types that share no base.
    def number(self, value: Any) -> tuple[str, Hashable]:
        """Return a key of a number; a symbolic one that is known is the same as the number."""
        expression = value.node.expr if isinstance(value, SYMBOLIC) else value
        if isinstance(value, (bool, torch.SymBool)):
            known = isinstance(expression, bool) or expression in (sympy.true, sympy.false)
            return "bool", bool(expression) if known else self.expression(expression)
        if isinstance(value, (int, torch.SymInt)):
            return "int", self.expression(sympy.sympify(expression))
        if isinstance(expression, (float, int)) or expression.is_number:
            return "float", repr(float(expression))
        return "float", self.expression(expression)

    def description(self, value: object) -> Hashable:
        """Describe a recorded value: of tensors dtype, device, layout, shape, strides, storage offset, and conj and neg."""
        if isinstance(value, torch.Tensor):
            strided = value.layout is torch.strided
            return (
                ("dtype", value.dtype),
                ("device", value.device),
                ("layout", value.layout),
                ("shape", tuple(map(self.number, value.shape))),
                ("strides", tuple(map(self.number, value.stride())) if strided else ()),
                ("storage offset", self.number(value.storage_offset()) if strided else ()),
                ("conj and neg", (value.is_conj(), value.is_neg())),
            )
        if isinstance(value, (list, tuple)):
            return tuple((f"item {place}", self.description(item)) for place, item in enumerate(value))
        if isinstance(value, _NUMBERS):
            return (("number", self.number(value)),)
        return (("type", type(value).__name__),)


@dataclasses.dataclass
class NumberedGraph:
    """A graph with the numbers of its values.

    Attributes:
        path: The path of the graph.
        module: Its graph module.
        nodes: The number of each node but those that compute sizes, and the output.
        descriptions: What is recorded of each of these.
        sizes: The nodes that compute sizes, with their keys.
        outputs: The keys of what it returns.
        subgraphs: The graphs that its `get_attr` nodes stand for.
        undone: The nodes that undo the view that they are of, with what that is of; neither they nor the view are among the nodes.
    """

    path: str
    module: fx.GraphModule
    nodes: dict[fx.Node, int] = dataclasses.field(default_factory=dict)
    descriptions: dict[fx.Node, Hashable] = dataclasses.field(default_factory=dict)
    sizes: dict[fx.Node, tuple[str, Hashable]] = dataclasses.field(default_factory=dict)
    outputs: list[Hashable] = dataclasses.field(default_factory=list)
    subgraphs: dict[fx.Node, NumberedGraph] = dataclasses.field(default_factory=dict)
    undone: dict[fx.Node, fx.Node] = dataclasses.field(default_factory=dict)

    def by_number(self) -> dict[int, list[fx.Node]]:
        """Return the nodes of each number, in order."""
        found: dict[int, list[fx.Node]] = defaultdict(list)
        for node, number in self.nodes.items():
            found[number].append(node)
        return found

    def key(self) -> Hashable:
        """Return what is equal for graphs that compute the same by the same calls and record the same values."""
        calls = Counter((number, self.descriptions[node]) for node, number in self.nodes.items())
        return frozenset(calls.items()), tuple(self.outputs)


def number_program(program: ExportedProgram, table: ValueTable, given: Mapping[fx.Node, int]) -> NumberedGraph:
    """Give all values of a program their numbers.

    Args:
        program: The program.
        table: What gives numbers.
        given: Numbers that nodes are to have whatever they compute.
    """
    specs, places = program.graph_signature.input_specs, Counter[InputKind]()
    roles: list[Hashable] = []
    for spec in specs:
        roles.append(input_role(program, spec, places[spec.kind]))
        places[spec.kind] += 1
    return _Numbering(table, given).graph("", program.graph_module, roles)


def input_role(program: ExportedProgram, spec: InputSpec, place: int) -> Hashable:
    """Say which input one is: what is lifted there, of a small constant its values, or the place among those of its kind."""
    if spec.kind is InputKind.CONSTANT_TENSOR:
        return spec.kind.name, _contents(program.constants.get(str(spec.target)), str(spec.target))
    return spec.kind.name, place if spec.target is None else spec.target


class _Numbering:
    """Numbers the graphs of one program."""

    def __init__(self, table: ValueTable, given: Mapping[fx.Node, int]) -> None:
        self._table = table
        self._given = given
        self._symbols = CanonicalSymbols()
        self._bound: Counter[int] = Counter()
        self._graphs: dict[int, NumberedGraph] = {}

    def graph(self, path: str, module: fx.GraphModule, roles: list[Hashable] | None = None) -> NumberedGraph:
        if id(module) in self._graphs:
            return self._graphs[id(module)]
        graph = self._graphs[id(module)] = NumberedGraph(path, module)
        order: Counter[str] = Counter()
        inputs = 0
        for node in module.graph.nodes:
            if node.op == "output":
                graph.outputs = [self._leaf(graph, leaf) for leaf in pytree.tree_leaves(node.args[0])]
            elif node.op == "placeholder":
                role = ("operand", inputs) if roles is None else roles[inputs]
                self._note(graph, node, ("input", role))
                inputs += 1
            elif node.op == "get_attr":
                self._note(graph, node, self._attribute(graph, node))
            elif computes_size(node):
                graph.sizes[node] = self._symbols.number(node.meta["val"])
            elif (viewed := self._undone(graph, node)) is not None:
                graph.undone[node] = graph.undone.get(viewed, viewed)
            else:
                self._note(graph, node, self._call(graph, node, order))
        for view in {node.args[0] for node in graph.undone}:
            if isinstance(view, fx.Node) and all(user in graph.undone for user in view.users):
                graph.nodes.pop(view, None)
        return graph

    def _undone(self, graph: NumberedGraph, node: fx.Node) -> fx.Node | None:
        """Return what the view is of that a node undoes: functionalization takes a view back, and again, to write through it."""
        view = node.args[0] if node.target is _VIEW else None
        viewed = view.args[0] if isinstance(view, fx.Node) and view.target is _VIEW else None
        if not isinstance(viewed, fx.Node) or viewed not in graph.descriptions:
            return None
        return viewed if self._symbols.description(node.meta.get("val")) == graph.descriptions[viewed] else None

    def _note(self, graph: NumberedGraph, node: fx.Node, key: Hashable) -> None:
        number = self._given.get(node)
        if number is None:
            number = self._table.number(key)
        value = node.meta.get("val")
        # Two equal calls that read data, such as two of `nonzero`, give symbols of their own.
        if self._symbols.bind(value, f"value{number}.{self._bound[number]}"):
            self._bound[number] += 1
        graph.nodes[node] = number
        graph.descriptions[node] = self._symbols.description(value)

    def _attribute(self, graph: NumberedGraph, node: fx.Node) -> Hashable:
        subgraph = subgraph_of(graph.module, node)
        if subgraph is None:
            return "attribute", _contents(find_attribute(graph.module, node.target), str(node.target))
        graph.subgraphs[node] = self.graph(child_path(graph.path, node.target), subgraph)
        return "graph", self._table.number(graph.subgraphs[node].key())

    def _call(self, graph: NumberedGraph, node: fx.Node, order: Counter[str]) -> Hashable:
        # Messages name nodes and symbols.
        args = node.args[:1] if node.target is _ASSERT_SCALAR else node.args
        key = call_key(node.target, args, node.kwargs, lambda leaf: self._leaf(graph, leaf))
        kind = _order_kind(graph.module, node)
        if not kind:
            return key
        order[kind] += 1
        return key, kind, order[kind]

    # Arguments are whatever a graph has.
    def _leaf(self, graph: NumberedGraph, value: Any) -> Hashable | None:
        if isinstance(value, fx.Node):
            recorded = value.meta.get("val")
            if isinstance(recorded, _NUMBERS):
                return self._symbols.number(recorded)
            return "value", graph.nodes[graph.undone.get(value, value)]
        if isinstance(value, _NUMBERS):
            return self._symbols.number(value)
        plain = (list, tuple, dict, slice, str, torch.dtype, torch.layout, torch.memory_format, torch.device, OpOverload)
        if value is None or isinstance(value, plain):
            return None
        if isinstance(value, HigherOrderOperator) or (callable(value) and hasattr(value, "__qualname__")):
            return "callable", getattr(value, "__module__", ""), getattr(value, "__qualname__", str(value))
        text = str(value)
        return "object", type(value).__name__, "" if " at 0x" in text else text


def computes_size(node: fx.Node) -> bool:
    """Whether a node is arithmetic of sizes: a number that is computed of sizes and numbers alone."""
    return node.op == "call_function" and node.target in SIZE_ARITHMETIC and isinstance(node.meta.get("val"), _NUMBERS)


def _order_kind(module: fx.GraphModule, node: fx.Node) -> str:
    """Name the calls whose order matters among one another and which a call is of; empty for any other call."""
    if draws_random_numbers(module, node):
        return "draws"
    # Any order of assertions fails for the same inputs.
    if stated_effect(node.target).keeps_its_place or written_arguments(module, node):
        return "acts"
    return ""


def _numbers_in(value: object) -> Iterator[Any]:
    for leaf in pytree.tree_leaves(value):
        numbers: tuple[Any, ...] = (leaf,)
        if isinstance(leaf, torch.Tensor):
            strided = leaf.layout is torch.strided
            numbers = (*leaf.shape, *leaf.stride(), leaf.storage_offset()) if strided else tuple(leaf.shape)
        yield from (number for number in numbers if isinstance(number, SYMBOLIC))


def _in_normal_form(relation: sympy.core.relational.Relational) -> sympy.Basic:
    """Write a relation as one of the difference of its sides to zero, with `>=` or `>`, or `==` or `!=` and the sign that sympy prefers."""
    if isinstance(relation, (sympy.Le, sympy.Lt)):
        relation = relation.reversed
    difference = sympy.expand(relation.lhs - relation.rhs)
    if isinstance(relation, (sympy.Eq, sympy.Ne)) and difference.could_extract_minus_sign():
        difference = -difference
    return relation.func(difference, 0, evaluate=False)


def _contents(tensor: object, name: str) -> Hashable:
    """Return what is equal for two small constants of equal values; the name of any other constant."""
    if not isinstance(tensor, torch.Tensor) or isinstance(tensor, FakeTensor) or tensor.is_meta or tensor.is_quantized:
        return name
    if tensor.numel() > _LARGEST_CONSTANT or tensor.layout is not torch.strided:
        return name
    data = (
        tensor.detach().cpu().contiguous().flatten().view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
    )
    return tensor.dtype, tensor.device, tuple(tensor.shape), hashlib.sha256(bytes(data.tolist())).hexdigest()


def size_is_right(node: fx.Node) -> bool:
    """Whether a node that computes a size records what its arguments come to, as far as that can be told without a guard."""
    if node.target is operator.pow:
        return True
    symbols = CanonicalSymbols()
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda argument: argument.meta.get("val"))
    computed = node.target(*args, **kwargs)  # type: ignore[operator]  # a function, by `computes_size`
    return symbols.number(computed) == symbols.number(node.meta["val"])

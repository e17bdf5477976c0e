"""Finds or makes the node that computes a symbolic number which a hook gives as an argument without saying where it comes from."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch import fx

from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.hooks import MakesNodes
from retraced_server.retrace.node_metadata import NodeMetadata
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.retrace.values import SYMBOLIC
from retraced_server.torch_compat.graphs import is_erased, root_of
from retraced_server.torch_compat.symbolic_shapes import sympy_functions

# How the functions of expressions are written in graphs, of two arguments each.
_FUNCTIONS: dict[type, Callable[..., Any]] = {
    sympy.Add: operator.add,
    sympy.Mul: operator.mul,
    sympy.Pow: operator.pow,
    sympy_functions.FloorDiv: operator.floordiv,
    sympy_functions.Mod: operator.mod,
    sympy_functions.PythonMod: operator.mod,
    sympy_functions.Max: torch.sym_max,
    sympy_functions.Min: torch.sym_min,
}
# How many of the numbers that were made last a sum may be made of.
_LOOKED_AT = 16


class SymbolicNumbers:
    """The nodes of a graph under construction that compute symbolic numbers, and the tensors whose sizes are symbols.

    Args:
        callback: The pass, which makes nodes.
        graph: The graph.
    """

    def __init__(self, callback: MakesNodes, graph: fx.Graph) -> None:
        self._callback = callback
        self._graph = graph
        self._last: fx.Node = root_of(graph)
        self._nodes: dict[sympy.Basic, fx.Node] = {}
        self._sizes: dict[sympy.Basic, tuple[fx.Node, int]] = {}

    # A symbolic number is of any of three types that share no base.
    def value_of(self, number: Any) -> Any:
        """Return the value of a node that computes a number: one that does already, else new ones, from the sizes of tensors.

        Raises:
            ExportPassError: A symbol of it is neither a size of a tensor in the graph nor computed there, or a function has no operator.
        """
        self._look()
        return self._made(number.node.expr, number)

    def _look(self) -> None:
        """Note what nodes that were made since the last time compute."""
        if is_erased(self._last):
            self._last = root_of(self._graph)
            self._nodes, self._sizes = {}, {}
        node = self._last.next
        while node is not root_of(self._graph):
            value = node.meta.get("val")
            if isinstance(value, SYMBOLIC):
                self._nodes.setdefault(value.node.expr, node)
            elif isinstance(value, torch.Tensor) and value.layout is torch.strided:
                for dim, size in enumerate(value.shape):
                    if isinstance(size, torch.SymInt):
                        self._sizes.setdefault(size.node.expr, (node, dim))
            self._last, node = node, node.next

    def _made(self, expression: sympy.Basic, number: Any) -> Any:
        if isinstance(expression, sympy.Integer):
            return int(expression)
        if self._is_there(expression):
            node = self._nodes[expression]
            return ProxyValue(node.meta["val"], node)
        tensor, dim = self._sizes.get(expression, (None, 0))
        if tensor is not None and not is_erased(tensor):
            return self._called(torch.ops.aten.sym_size.int, (ProxyValue(tensor.meta["val"], tensor), dim))
        function = _FUNCTIONS.get(type(expression))
        if function is None or not expression.args:
            raise ExportPassError(
                f"the symbolic number {number} was given as an argument, but no node computes {expression}: give the ProxyValue instead of "
                "its data, or compute it with call_operator and call_sym"
            )
        if isinstance(expression, sympy.Add):
            return self._sum(expression, number)
        arguments = [self._made(argument, number) for argument in expression.args]
        return functools.reduce(lambda a, b: self._called(function, (a, b)), arguments)

    def _sum(self, expression: sympy.Add, number: Any) -> Any:
        """Make a sum: of two numbers that are there already if it is, else of its terms, those that are negative subtracted."""
        if not all(term.is_Integer or self._is_there(term) for term in expression.args):
            for known in itertools.islice(reversed(self._nodes), _LOOKED_AT):
                rest = expression - known if isinstance(known, sympy.Expr) and self._is_there(known) else None
                if rest is not None and (rest.is_Integer or self._is_there(rest)):
                    return self._called(operator.add, (self._made(known, number), self._made(rest, number)))
        negative = [term for term in expression.args if term.is_Mul and term.args[0] == -1]
        added = [self._made(term, number) for term in expression.args if term not in negative]
        if not added:
            added, negative = [self._made(negative[0], number)], negative[1:]
        total = functools.reduce(lambda a, b: self._called(operator.add, (a, b)), added)
        return functools.reduce(lambda a, b: self._called(operator.sub, (a, self._made(-b, number))), negative, total)

    def _is_there(self, expression: sympy.Basic) -> bool:
        node = self._nodes.get(expression)
        return node is not None and not is_erased(node)

    def _called(self, target: Callable[..., Any], args: tuple[Any, ...]) -> ProxyValue[Any]:
        return self._callback._fx("call_function", target, args, {}, NodeMetadata({}))

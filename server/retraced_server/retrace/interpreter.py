"""Walks an old graph and hands each node to the hook that is for it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from retraced_server.program.functions import stated_effect
from retraced_server.retrace._torch import HigherOrderOperator, OpOverload, OpOverloadPacket
from retraced_server.retrace.arguments import Argument, map_leaves
from retraced_server.retrace.errors import ExportPassError, PassError, innermost_source_line
from retraced_server.retrace.graph_retrace import GraphRetrace
from retraced_server.retrace.graphs import walk_graphs
from retraced_server.retrace.node_metadata import NodeMetadata
from retraced_server.retrace.pass_state import state_of

if TYPE_CHECKING:
    from retraced_server.retrace.export_pass import ExportPass

_SYM_FUNCTIONS: frozenset[Callable[..., Any]] = frozenset(
    {
        torch.sym_int,
        torch.sym_float,
        torch.sym_ite,
        torch.sym_max,
        torch.sym_min,
        torch.sym_not,
        torch.sym_sqrt,
        torch.sym_sum,
    }
)
# Modules whose functions are calls on symbolic numbers: `operator` calls itself `_operator`.
_SYM_MODULES = frozenset({"_operator", "builtins", "math"})


class ExportInterpreter:
    """Visits the nodes of one graph in order.

    Args:
        callback: The pass whose hooks are called.
        retrace: The state of the graph.
    """

    def __init__(self, callback: ExportPass, retrace: GraphRetrace) -> None:
        self.callback = callback
        self.retrace = retrace
        self.module = retrace.module
        self._run = state_of(callback).running

    def run(self, inputs: tuple[Argument, ...]) -> None:
        """Visits every node.

        Args:
            inputs: The data of each placeholder, in order.

        Raises:
            PassError: A hook or an operator failed; the error says at which node.
        """
        remaining = iter(inputs)
        for node in self.module.graph.nodes:
            try:
                self._visit(node, remaining)
            except PassError:
                raise
            except Exception as error:
                raise self._explained(node, error) from error

    def _explained(self, node: fx.Node, error: Exception) -> PassError:
        return PassError(
            str(error) or type(error).__name__,
            pass_name=type(self.callback).__name__,
            graph=self.retrace.path,
            node=node.name,
            target=str(node.target),
            source=innermost_source_line(node.meta.get("stack_trace")),
        )

    def _visit(self, node: fx.Node, inputs: Any) -> None:
        retrace, callback = self.retrace, self.callback
        self._run.context.node = node
        self._run.session.visited()
        if node.op == "get_attr":
            retrace.get_attr(node, _attribute(self.module, str(node.target)))
        elif node.op == "placeholder":
            argument = self._input(node, inputs)
            retrace.begin(node)
            retrace.end(node, callback.placeholder(str(node.target), argument, NodeMetadata(node.meta)))
        elif node.op == "output":
            results = self._load(node.args[0])
            retrace.begin(node, results)
            retrace.end(node, callback.output(results, NodeMetadata(node.meta)))
        elif node.op == "call_function":
            retrace.begin(node)
            if self._has_hook(node.target):
                args, kwargs = self._load(node.args), self._load(node.kwargs)
                retrace.end(node, self._call_function(node.target, args, kwargs, NodeMetadata(node.meta)))
            else:
                retrace.end(node, self._without_hook(node))
        else:
            raise ExportPassError(f"{node.op} is not supported: programs of torch.export have no such nodes")

    def _has_hook(self, target: Any) -> bool:
        # They stay where they are, as they are: no hook of torch's class takes them.
        if stated_effect(target).of_regions and not isinstance(target, OpOverload):
            return False
        only = self._run.only
        # A higher-order operator's hook visits its bodies.
        return only is None or target in only or isinstance(target, HigherOrderOperator)

    def _without_hook(self, node: fx.Node) -> Argument:
        kept = self.retrace.keep(node)
        if kept is not None:
            return kept
        args, kwargs = self._load(node.args), self._load(node.kwargs)
        if node.target is operator.getitem and isinstance(args[0], (tuple, list)):
            # A hook returned a tuple for the operator.
            return args[0][args[1]]
        return self.callback._fx("call_function", node.target, args, kwargs, NodeMetadata(node.meta))

    def _input(self, node: fx.Node, inputs: Any) -> Argument:
        missing = object()
        value = next(inputs, missing)
        if value is not missing:
            return value
        if node.args:
            return node.args[0]
        raise ExportPassError(f"there is no input for placeholder '{node.name}'")

    def _load(self, argument: Any) -> Argument:
        return map_leaves(argument, fx.Node, self.retrace.results.__getitem__)

    def _call_function(self, target: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Argument:
        callback = self.callback
        if target is operator.getitem:
            value, key = args
            return callback.call_getitem(value, key, meta)
        if isinstance(target, (OpOverload, OpOverloadPacket)):
            return callback.call_operator(target, args, kwargs, meta)
        if isinstance(target, HigherOrderOperator):
            return self._call_higher_order(target, args, kwargs, meta)
        if getattr(target, "__module__", None) in _SYM_MODULES or target in _SYM_FUNCTIONS:
            if kwargs:
                return callback._fx("call_function", target, args, kwargs, meta)
            return callback.call_sym(target, args, meta)
        raise ExportPassError(f"Unsupported target type: {target}")

    def _call_higher_order(self, target: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Argument:
        callback, operators = self.callback, torch.ops.higher_order
        if target is operators.cond:
            pred, true_fn, false_fn, *rest = args
            return callback.call_cond(pred, true_fn, false_fn, rest[0] if rest else (), meta)
        if target is operators.map_impl:
            f, mapped, operands = args
            return callback.call_map(f, mapped, operands, meta)
        if target is operators.while_loop:
            condition, body, carried, *rest = args
            return callback.call_while(condition, body, carried, rest[0] if rest else (), meta)
        if target is operators.scan:
            combine, init, xs, *rest = args
            return callback.call_scan(combine, init, xs, rest[0] if rest else (), meta)
        if target.name() == "executorch_call_delegate":
            raise ExportPassError(
                "executorch_call_delegate is not supported: a delegate's program is opaque; run passes before lowering"
            )
        return callback.call_higher_order(target, args, kwargs, meta)


def can_visit(module: fx.GraphModule) -> bool:
    """Return whether every node of a graph and its subgraphs is of a kind, and calls what, a retrace can visit."""
    return all(
        _is_callable(node.target) if node.op == "call_function" else node.op in ("placeholder", "get_attr", "output")
        for _, child in walk_graphs(module)
        for node in child.graph.nodes
    )


# A target of fx may be a name too.
def _is_callable(target: Any) -> bool:
    operators = (OpOverload, OpOverloadPacket, HigherOrderOperator)
    if isinstance(target, operators) or target in _SYM_FUNCTIONS or getattr(target, "__module__", None) in _SYM_MODULES:
        return True
    return bool(stated_effect(target).of_regions)


def _attribute(module: torch.nn.Module, target: str) -> Any:
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    return value

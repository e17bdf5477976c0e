"""Walks an old graph and hands each node to the hook that is for it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

import torch
from torch import fx

from retraced_pt2.stack_traces import innermost_source_line
from retraced_server.analysis.attributes import get_attribute
from retraced_server.analysis.graphs import walk_graphs
from retraced_server.analysis.targets import acts_on_regions, overload_of
from retraced_server.retrace.arguments import Argument, map_leaves
from retraced_server.retrace.errors import (
    ExportPassError,
    InvalidGraphError,
    PassError,
    pass_error,
    place_of,
)
from retraced_server.retrace.hooks import PassHooks
from retraced_server.retrace.node_metadata import NodeMetadata
from retraced_server.retrace.overrides import refuse_overrides
from retraced_server.retrace.pass_state import state_of
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.torch_compat.operators import HigherOrderOperator, OpOverloadPacket, executorch_call_delegate

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
# Modules whose functions are called as they are, without a hook: what ExecuTorch's out variants write to.
_PLAIN_MODULES = frozenset({"executorch.exir.memory"})


class _HookKind(Enum):
    """Which hook is for a call."""

    GETITEM = auto()
    OPERATOR = auto()
    HIGHER_ORDER = auto()
    SYM = auto()
    NONE = auto()


# What torch's class calls of an interpreter and this one does not, with what to override in its place.
_NOT_CALLED = {"_set_current_node": "run_node"}


class ExportInterpreter(fx.Interpreter):
    """Visits the nodes of one graph in order, each by `run_node`, which hands it to the method for its kind, as torch's class does.

    Args:
        callback: The pass whose hooks are called.
        module: The graph module, which is being visited.

    Attributes:
        node: The node that is visited.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        refuse_overrides(cls, ExportInterpreter, _NOT_CALLED)

    def __init__(self, callback: PassHooks, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.callback = callback
        self.node: fx.Node = next(iter(module.graph.nodes))
        state = state_of(callback)
        self._run, self._retrace = state.running, state.retrace
        self.env = self._retrace.results

    # Of fx's options none means anything here.
    def run(self, *args: Argument, **_: Any) -> None:
        """Visit every node.

        Args:
            args: The data of each placeholder, in order.

        Raises:
            PassError: A hook or an operator failed; the error says at which node.
        """
        self.args_iter = iter(args)
        for node in self.graph.nodes:
            try:
                self._visit(node)
            except PassError:
                raise
            except Exception as error:
                raise self._explained(node, error) from error

    def _explained(self, node: fx.Node, error: Exception) -> PassError:
        return pass_error(
            error,
            type(self.callback),
            graph=self._retrace.path,
            node=node.name,
            target=str(node.target),
            source=innermost_source_line(node.meta.get("stack_trace")),
        )

    def _visit(self, node: fx.Node) -> None:
        retrace = self._retrace
        self._run.context.visited = node
        self._run.session.visited()
        retrace.begin(node, self.map_nodes_to_values(node.args[0], node) if node.op == "output" else None)
        has_hook = node.op != "call_function" or self._has_hook(node.target)
        result = self.run_node(node) if has_hook else self._without_hook(node)
        if node.op == "get_attr" and result is get_attribute(self.module, node.target):
            retrace.get_attr(node, result)
        else:
            retrace.end(node, result)

    # -- what a subclass may override, as on torch's class ----------------------------------------------------------------------------

    def run_node(self, n: fx.Node) -> Argument:
        """Visit a node: calls `placeholder`, `get_attr`, `call_function` or `output` with what its arguments have become."""
        self.node = n
        args, kwargs = self._retrace.loaded = self.fetch_args_kwargs_from_env(n)
        return getattr(self, n.op)(n.target, args, kwargs)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[Any, Any]:
        """Give the arguments of a node, with what nodes have become in their place."""
        return self.map_nodes_to_values(n.args, n), self.map_nodes_to_values(n.kwargs, n) if n.kwargs else {}

    def map_nodes_to_values(self, args: Any, n: fx.Node) -> Any:
        """Put what nodes have become in their place among arguments."""
        return map_leaves(args, fx.Node, self.env.__getitem__)

    # A target of fx may be a name or a function, and so its arguments anything.
    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Argument:
        """Hand an input to its hook."""
        missing = object()
        value = next(self.args_iter, missing)
        if value is missing:
            if not args:
                raise ExportPassError(f"there is no input for placeholder '{self.node.name}'")
            value = args[0]
        return self.callback.placeholder(str(target), value, NodeMetadata(self.node.meta))

    def output(self, target: Any, args: Any, kwargs: Any) -> Argument:
        """Hand the outputs to their hook, and return their data."""
        result = self.callback.output(args[0], NodeMetadata(self.node.meta))
        return result.data if isinstance(result, ProxyValue) else result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Argument:
        """Hand a call to the hook for its target."""
        return self._call_function(target, args, kwargs, NodeMetadata(self.node.meta))

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Argument:
        """Refuse: programs of torch.export have no such nodes."""
        raise ExportPassError("call_module is not supported: programs of torch.export have no such nodes")

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Argument:
        """Refuse: programs of torch.export have no such nodes."""
        raise ExportPassError("call_method is not supported: programs of torch.export have no such nodes")

    # -- the ways to a hook -----------------------------------------------------------------------------------------------------------

    def _has_hook(self, target: Any) -> bool:
        # They stay where they are, as they are: no hook of torch's class takes them.
        if acts_on_regions(target) and overload_of(target) is None:
            return False
        only = self._run.only
        # A higher-order operator's hook visits its subgraphs.
        return only is None or target in only or isinstance(target, HigherOrderOperator)

    def _without_hook(self, node: fx.Node) -> Argument:
        kept = self._retrace.reuse_without_hook(node)
        if kept is not None:
            return kept
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if node.target is operator.getitem and isinstance(args[0], (tuple, list)):
            # A hook returned a tuple for the operator.
            return args[0][args[1]]
        return self.callback._fx("call_function", node.target, args, kwargs, NodeMetadata(node.meta))

    def _call_function(self, target: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Argument:
        callback = self.callback
        kind = _hook_kind(target)
        if kind is None:
            raise ExportPassError(f"Unsupported target type: {target}")
        if kind is _HookKind.GETITEM:
            value, key = args
            return callback.call_getitem(value, key, meta)
        if kind is _HookKind.OPERATOR:
            return callback.call_operator(target, args, kwargs, meta)
        if kind is _HookKind.HIGHER_ORDER:
            return self._call_higher_order(target, args, kwargs, meta)
        if kind is _HookKind.SYM and not kwargs:
            return callback.call_sym(target, args, meta)
        return callback._fx("call_function", target, args, kwargs, meta)

    def _call_higher_order(self, target: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Argument:
        callback, operators = self.callback, torch.ops.higher_order
        if target is operators.cond:
            pred, true_fn, false_fn, *rest = args
            return callback.call_cond(pred, true_fn, false_fn, rest[0] if rest else (), meta)
        if target is operators.map_impl:
            f, mapped, operands = args
            return callback.call_map(f, mapped, operands, meta)
        if target is operators.while_loop:
            condition, subgraph, carried, *rest = args
            return callback.call_while(condition, subgraph, carried, rest[0] if rest else (), meta)
        if target is operators.scan:
            combine, init, xs, *rest = args
            return callback.call_scan(combine, init, xs, rest[0] if rest else (), meta)
        if target is executorch_call_delegate:
            lowered, *operands = args
            return callback.call_delegate(lowered, tuple(operands), kwargs, meta)
        return callback.call_higher_order(target, args, kwargs, meta)


def check_visitable(module: fx.GraphModule) -> None:
    """Check that every call of a graph and its subgraphs is of a kind that a retrace can visit.

    Raises:
        InvalidGraphError: One is not.
    """
    for path, child in walk_graphs(module):
        for node in child.graph.nodes:
            if node.op == "call_function" and _hook_kind(node.target) is None:
                where = {"graph": path, "node": node.name, "target": str(node.target)}
                source = innermost_source_line(node.meta.get("stack_trace"))
                raise InvalidGraphError(
                    f"the graph is not valid: no program calls this, {place_of(node, path)}", **where, source=source
                )


# A target of fx may be a name too.
def _hook_kind(target: Any) -> _HookKind | None:
    """Return which hook is for calls of a target; None where no graph that is visited may call it."""
    if target is operator.getitem:
        return _HookKind.GETITEM
    if overload_of(target) is not None or isinstance(target, OpOverloadPacket):
        return _HookKind.OPERATOR
    if isinstance(target, HigherOrderOperator):
        return _HookKind.HIGHER_ORDER
    module = getattr(target, "__module__", None)
    if module in _SYM_MODULES or target in _SYM_FUNCTIONS:
        return _HookKind.SYM
    return _HookKind.NONE if module in _PLAIN_MODULES or acts_on_regions(target) else None

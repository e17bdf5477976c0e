"""The base class of passes that retrace a program. Its hooks are those of torch/_export/pass_base.py, and of ExecuTorch's class after it."""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import torch
from torch import fx

from retraced_server.retrace.arguments import Argument
from retraced_server.retrace.autocast_states import subgraph_autocast
from retraced_server.retrace.batched_values import BatchedValues
from retraced_server.retrace.edge import edge_operators
from retraced_server.retrace.edited_run import current_scope, guard_methods
from retraced_server.retrace.edits import Edits
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.graph_builder import build_input, build_node, build_subgraph
from retraced_server.retrace.graph_retrace import GraphRetrace
from retraced_server.retrace.interpreter import ExportInterpreter as _ExportInterpreter
from retraced_server.retrace.node_metadata import NodeMetadata
from retraced_server.retrace.outcome import RetraceOutcome
from retraced_server.retrace.own_guards import add_own_guards
from retraced_server.retrace.pass_context import pass_context
from retraced_server.retrace.pass_state import STATE_ATTRIBUTE, PassRun, PassState, is_running, state_of
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.retrace.regions import AutocastState, under_autocast
from retraced_server.retrace.session import Session, find_fake_mode
from retraced_server.retrace.subgraphs import (
    find_subgraphs,
    replace_subgraphs,
    settle_inputs,
    slices,
    subgraph_path,
    trailing_operands,
)
from retraced_server.retrace.tracer import ExportTracer as _ExportTracer
from retraced_server.torch_compat.fake_tensors import FakeTensor, FakeTensorMode
from retraced_server.torch_compat.graphs import CodeGen, LazyGraphModule, PassBase, PassResult, codegen_of
from retraced_server.torch_compat.operators import executorch_call_delegate

# What an interpreter for single calls interprets.
_EMPTY = LazyGraphModule(torch.nn.Module(), fx.Graph())


class ExportPass(PassBase):
    """Rewrites a program by visiting its nodes: override the hooks of what is to change, and call `super()` for what is not.

    Every hook is given values (`ProxyValue`) and constants, makes nodes by calling other hooks, and returns the value that stands for the node
    from then on. A pass that changes nothing returns the graph module that it was given. Nodes keep their names, values and metadata unless
    a hook changes them; the name goes with the value that the hook returns.

    An instance can run on any number of programs, one after the other. Attributes of a subclass are its own, whatever their names, but for
    those below and the hooks. What a pass is told and what it tells while it runs goes by `pass_context()`: rewrites, remarks, the node that
    is visited.

    `class MyPass(ExportPass, only={torch.ops.aten.relu.default})` has `call_operator`, `call_sym` and `call_getitem` called for nodes of these
    operators and functions alone, as are those of its subclasses. Other nodes are kept as they are, which takes less time.

    Attributes:
        fake_tensor_mode: The program's fake mode while it runs.
        tracer: What builds the graph that is visited.
        interpreter: Executes operators on data, in a hook that needs what an operator gives without a node.
    """

    ExportTracer: TypeAlias = _ExportTracer
    ExportInterpreter: TypeAlias = _ExportInterpreter

    __only: Collection[Any] | None = None

    # The other keywords are those of further bases.
    def __init_subclass__(cls, *, only: Collection[Any] | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name, base in (("ExportTracer", _ExportTracer), ("ExportInterpreter", _ExportInterpreter)):
            if not issubclass(getattr(cls, name), base):
                raise TypeError(
                    f"{cls.__qualname__}.{name} must be a subclass of retraced's ExportPass.{name}, to be called by it"
                )
        if only is not None:
            cls.__only = frozenset(only)
        guard_methods(cls, ExportPass)

    def __init__(self) -> None:
        self.interpreter = fx.Interpreter(_EMPTY)
        self.tracer: _ExportTracer = self.ExportTracer(self, CodeGen())
        self.fake_tensor_mode: FakeTensorMode | None = None
        state_of(self).initialised = True

    # A copy of a pass, by whatever means, has a state of its own.
    def __getstate__(self) -> dict[str, Any]:
        own = PassState(initialised=state_of(self).initialised)
        return {key: own if key == STATE_ATTRIBUTE else value for key, value in vars(self).items()}

    @staticmethod
    def _create_dummy_node_metadata() -> NodeMetadata:
        return NodeMetadata({"stack_trace": "".join(traceback.format_stack(limit=1))})

    @property
    def node_debug_str(self) -> str | None:
        """The node that is visited, as fx writes it, or what was assigned while it is; None before the first one."""
        state = state_of(self)
        node, assigned = state.node_text
        if assigned is not None and node is state.node:
            return assigned
        return None if state.node is None else state.node.format_node()

    @node_debug_str.setter
    def node_debug_str(self, text: str | None) -> None:
        state = state_of(self)
        state.node_text = state.node, text

    # -- running -----------------------------------------------------------------------------------------------------------------

    def __call__(self, graph_module: fx.GraphModule) -> PassResult:
        """Run `requires`, `call` and `ensures`, the checks on the module that was given, as PassBase does: see `call`.

        A pass that overrides this method, or another that is given a graph module, is given a copy, since it may edit the graph itself.
        What it edits is executed again when nodes are visited next, at the latest when it has returned.
        """
        self.requires(graph_module)
        result = self.call(graph_module)
        self.ensures(graph_module)
        return result

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the pass on a graph module, which is left as it is.

        Called without `__call__`, it executes every node, since of the values that are recorded nobody says that they are right.

        Returns:
            The new graph module and True, or the one that was given and False.

        Raises:
            PassError: A hook failed, or a recorded value is not what its node computes. Nothing is left behind.
            ExportPassError: The pass cannot run on this graph module.
        """
        state = state_of(self)
        if not state.initialised:
            raise ExportPassError("ExportPass is not initialized with __init__().")
        if state.run is not None:
            raise ExportPassError("the pass is running already; use another instance for a pass within a pass")
        context, scope = pass_context(), current_scope()
        try:
            recorded = [node.meta.get("val") for node in graph_module.graph.find_nodes(op="placeholder")]
            # One that is made here is for inputs of which only `tensor_meta` tells.
            self.fake_tensor_mode = find_fake_mode(graph_module, recorded) or FakeTensorMode(allow_non_fake_inputs=True)
            inputs = self.inputs(graph_module)
            session = Session(graph_module, inputs, context.mode, context.on_progress, scope.edits or scope.given)
            state.run = run = PassRun(session, context, type(self).__only)
            self.fake_tensor_mode = self.tracer.fake_tensor_mode = session.fake_mode
            with context, context.lending(run.lend), session.running(), session.transaction.attributing(context.place):
                result = self.call_submodule(graph_module, tuple(inputs))
            if result.modified:
                session.transaction.commit(graph_module, add_own_guards)
                context.new_guards.extend(session.transaction.new_guards)
                if scope.edits is None and any(retrace.correspondence.has_edited_calls() for retrace in run.retraces):
                    scope.edits = Edits()
                    scope.edits.add_given(graph_module)
                if scope.edits is None:
                    state.outcome = RetraceOutcome.of(run.retraces, result.graph_module)
                else:
                    for retrace in run.retraces:
                        retrace.tell(scope.edits)
            else:
                session.transaction.roll_back()
            context.remarks.extend(session.differences.lines())
            return result
        finally:
            state.run = None
            self.fake_tensor_mode = self.tracer.fake_tensor_mode = None

    def call_submodule(self, graph_module: fx.GraphModule, inputs: tuple[Argument, ...]) -> PassResult:
        """Visit a graph: the root, or a subgraph of a higher-order operator.

        A subgraph that was visited with the same inputs is not visited again.

        Args:
            graph_module: The graph module.
            inputs: For each placeholder a ProxyValue or data.

        Returns:
            The new graph module and True, or the one that was given and False.
        """
        if not is_running(self):
            return build_subgraph(self, graph_module)
        run = state_of(self).running
        parent = run.retrace
        data = settle_inputs(graph_module, inputs, parent)
        added = () if parent is None else parent.region_autocast + parent.called_under
        autocast = () if parent is None else parent.autocast + parent.called_under
        result = run.visited.find(graph_module, data, autocast)
        if result is None:
            batched = BatchedValues(None if parent is None else parent.batched, inputs)
            with under_autocast(added):
                result = self.__visit(run, graph_module, data, autocast, batched)
            run.visited.keep(graph_module, data, autocast, result)
        if parent is not None and result.modified:
            # Each graph that calls a subgraph has its result in the subgraph's place.
            parent.replace_subgraph(graph_module, result.graph_module)
        return result

    def __visit(
        self,
        run: PassRun,
        graph_module: fx.GraphModule,
        data: tuple[Any, ...],
        autocast: AutocastState,
        batched: BatchedValues,
    ) -> PassResult:
        tracer = self.ExportTracer(self, codegen_of(graph_module.graph))
        tracer.rebuild(graph_module, run.session.fake_mode, run.session.descriptions)
        path = subgraph_path(graph_module, run.retrace)
        retrace = GraphRetrace(run.session, graph_module, path, tracer, autocast, batched)
        outer = self.tracer
        self.tracer = tracer
        run.visiting.append(retrace)
        try:
            with run.context.visiting(path):
                self.ExportInterpreter(self, graph_module).run(*data)
        finally:
            self.tracer = outer
            run.visiting.pop()
        # What a subgraph is given may well have changed.
        if retrace.finish() and run.retrace is None and self.should_preserve_symbolic_input_metadata():
            retrace.check_symbolic_inputs()
        if run.retrace is not None:
            retrace.add_results_to(run.retrace.batched)
        run.retraces.append(retrace)
        return PassResult(retrace.result, retrace.modified)

    def inputs(self, graph_module: fx.GraphModule) -> list[Argument]:
        """Return each placeholder its data: recorded arguments, recorded values, constants, or what `tensor_meta` describes.

        Raises:
            ExportPassError: Nothing is recorded for a placeholder that is used.
        """
        if (args := graph_module.meta.get("args")) is not None:
            return list(args)
        return [self.__input(graph_module, node) for node in graph_module.graph.nodes if node.op == "placeholder"]

    def __input(self, graph_module: fx.GraphModule, node: fx.Node) -> Argument:
        if "val" in node.meta:
            value = node.meta["val"]
            return value.constant if isinstance(value, FakeTensor) and value.constant is not None else value
        if (described := node.meta.get("tensor_meta")) is not None:
            mode = self.fake_tensor_mode
            if mode is None:
                raise ExportPassError("inputs() can only be called while the pass runs")
            with mode:
                return torch.empty(
                    described.shape,
                    dtype=described.dtype,
                    requires_grad=described.requires_grad,
                    memory_format=described.memory_format or torch.contiguous_format,
                )
        if not node.users:
            return None
        raise ExportPassError(f"Cannot construct an input for placeholder '{node.name}' of graph module: {graph_module}.")

    # -- hooks -------------------------------------------------------------------------------------------------------------------

    def on_attr(self, attr: ProxyValue[Any]) -> None:
        """Hear of each tensor attribute: those that the graph has, and those made because a hook gave a tensor as an argument."""

    def placeholder(self, name: str, arg: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
        """Return an input. Call it with another name to rename the input, twice to add one, not at all to remove it."""
        if not is_running(self):
            return build_input(self, name, arg, meta)
        return state_of(self).retrace.placeholder(name, arg, meta)

    # Operators are of several unrelated types in torch: overloads and overload packets.
    def call_operator(
        self, op: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """Return a call of an operator."""
        return self._fx("call_function", op, args, kwargs, meta)

    def call_size_operator(
        self, tensor_proxy: ProxyValue[Any], dim: int, meta: NodeMetadata, *, edge_dialect: bool = False
    ) -> ProxyValue[Any] | int:
        """Return a size of a tensor as an argument of a node: a number, or the value of a call of `aten.sym_size.int` where it is symbolic.

        With `edge_dialect`, it is ExecuTorch's edge operator that is called.
        """
        size = tensor_proxy.to_tensor().shape[dim]
        if isinstance(size, torch.SymInt):
            op = edge_operators().aten.sym_size.int if edge_dialect else torch.ops.aten.sym_size.int
            return self.call_operator(op, (tensor_proxy, dim), {}, meta)
        return int(size)

    def call_size_operator_all(
        self, tensor_proxy: ProxyValue[Any], meta: NodeMetadata, *, edge_dialect: bool = False
    ) -> list[ProxyValue[Any] | int]:
        """Return all sizes of a tensor as `call_size_operator` does."""
        sizes = range(tensor_proxy.to_tensor().dim())
        return [self.call_size_operator(tensor_proxy, dim, meta, edge_dialect=edge_dialect) for dim in sizes]

    def should_preserve_symbolic_input_metadata(self) -> bool:
        """Whether it is an error when an input's symbolic size or number is recorded as another: override to return False where it is meant."""
        return True

    def call_sym(self, target: Callable[..., Any], args: tuple[Argument, ...], meta: NodeMetadata) -> ProxyValue[Any]:
        """Return a call of a Python function on symbolic numbers."""
        return self._fx("call_function", target, args, {}, meta)

    def call_getitem(self, value: ProxyValue[Any], key: int, meta: NodeMetadata) -> ProxyValue[Any]:
        """One of several values that an operator returned. Where a hook returned a tuple for the operator, it is the tuple's item."""
        if isinstance(value, (tuple, list)):
            return value[key]
        return self._fx("call_function", operator.getitem, (value, key), {}, meta)

    def call_cond(
        self,
        pred: ProxyValue[Any],
        true_fn: fx.GraphModule,
        false_fn: fx.GraphModule,
        inputs: Sequence[Argument],
        meta: NodeMetadata,
    ) -> ProxyValue[Any]:
        """Return a torch.cond: visits both branches with the operands."""
        true_branch = self.call_submodule(true_fn, tuple(inputs)).graph_module
        false_branch = self.call_submodule(false_fn, tuple(inputs)).graph_module
        return self._fx("call_function", torch.ops.higher_order.cond, (pred, true_branch, false_branch, inputs), {}, meta)

    def call_map(
        self, f: fx.GraphModule, mapped_args: Sequence[Argument], operands: Sequence[Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """Return a map: visits the subgraph with one slice of each mapped argument."""
        subgraph = self.call_submodule(f, (*slices(mapped_args, state_of(self).innermost), *operands)).graph_module
        return self._fx("call_function", torch.ops.higher_order.map_impl, (subgraph, mapped_args, operands), {}, meta)

    def call_while(
        self,
        cond_fn: fx.GraphModule,
        body_fn: fx.GraphModule,
        carried_inputs: Sequence[Argument],
        additional_inputs: Sequence[Argument],
        meta: NodeMetadata,
    ) -> ProxyValue[Any]:
        """Return a while loop: visits the condition and the subgraph with what the loop begins with."""
        operands = (*carried_inputs, *additional_inputs)
        condition = self.call_submodule(cond_fn, operands).graph_module
        subgraph = self.call_submodule(body_fn, operands).graph_module
        args = (condition, subgraph, carried_inputs, additional_inputs)
        return self._fx("call_function", torch.ops.higher_order.while_loop, args, {}, meta)

    def call_scan(
        self,
        combine_fn: fx.GraphModule,
        init: Sequence[Argument],
        xs: Sequence[Argument],
        additional_inputs: Sequence[Argument],
        meta: NodeMetadata,
    ) -> ProxyValue[Any]:
        """Return a scan: visits the subgraph with what it begins with and one slice of each scanned argument."""
        inputs = (*init, *slices(xs, state_of(self).innermost), *additional_inputs)
        combine = self.call_submodule(combine_fn, inputs).graph_module
        return self._fx("call_function", torch.ops.higher_order.scan, (combine, init, xs, additional_inputs), {}, meta)

    def call_delegate(
        self, lowered_module: torch.nn.Module, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """Return a call of a program that was lowered to a backend of ExecuTorch: what the backend made of it is not looked into."""
        return self._fx("call_function", executorch_call_delegate, (lowered_module, *args), kwargs, meta)

    # Higher-order operators take whatever they like.
    def call_higher_order(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
        """Visit each subgraph among the arguments of any other higher-order operator.

        Its inputs are the operands that follow it, or those that are recorded.
        """
        visited: dict[fx.GraphModule, fx.GraphModule] = {}
        for subgraph in find_subgraphs((args, kwargs)):
            if subgraph not in visited:
                operands = trailing_operands(args, subgraph)
                if operands is None:
                    operands = tuple(node.meta.get("val") for node in subgraph.graph.nodes if node.op == "placeholder")
                with state_of(self).calling_under(subgraph_autocast(op, args)):
                    visited[subgraph] = self.call_submodule(subgraph, operands).graph_module
        new_args, new_kwargs = replace_subgraphs((args, kwargs), visited)
        return self._fx("call_function", op, new_args, new_kwargs, meta)

    def output(self, results: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
        """Return the outputs. Call it with more or fewer results to add or remove outputs."""
        return self._fx("output", "output", (results,), {}, meta)

    def _fx(
        self, kind: str, target: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        state = state_of(self)
        if state.run is None:
            return build_node(self, kind, target, args, kwargs, meta)
        if kind == "call_function":
            return state.retrace.call_function(target, args, kwargs, meta)
        if kind == "output":
            return state.retrace.output(args[0], meta)
        raise ExportPassError(f"a pass cannot make a node of kind {kind}")


guard_methods(ExportPass, ExportPass)

"""The base class of passes that retrace a program. Its hooks are those of torch/_export/pass_base.py, and of ExecuTorch's class after it."""

from __future__ import annotations

import operator
import traceback
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.graph import CodeGen

from retraced_server.retrace._torch import (
    FakeTensor,
    FakeTensorMode,
    LazyGraphModule,
    PassBase,
    PassResult,
    executorch_call_delegate,
)
from retraced_server.retrace.arguments import Argument
from retraced_server.retrace.bodies import (
    VisitedBodies,
    body_context,
    body_path,
    find_bodies,
    replace_bodies,
    settle_inputs,
    slices,
    trailing_operands,
)
from retraced_server.retrace.copies import copy_with_bodies, returned_graph, same_graphs
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.graph_retrace import GraphRetrace
from retraced_server.retrace.interpreter import ExportInterpreter
from retraced_server.retrace.node_metadata import NodeMetadata
from retraced_server.retrace.outcome import RetraceOutcome
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.retrace.session import RetraceMode, Session, find_fake_mode
from retraced_server.retrace.tracer import ExportTracer


class ExportPass(PassBase):
    """Rewrites a program by visiting its nodes: override the hooks of what is to change, and call `super()` for what is not.

    Every hook is given values (`ProxyValue`) and constants, makes nodes by calling other hooks, and returns the value that stands for the node
    from then on. A pass that changes nothing returns the graph module that it was given. Nodes keep their names, values and metadata unless
    a hook changes them; the name goes with the value that the hook returns.

    An instance can run on any number of programs, one after the other. While it runs it may add to `rewrites` and `remarks`.

    Attributes:
        mode: How nodes are treated that the pass leaves as they are: `incremental` reuses their recorded values, `full` executes them again
            to compare.
        targets: What the pass looks at. Set it in the class, to a set of operators and functions, to have `call_operator`, `call_sym` and
            `call_getitem` called for no other node; None calls them for every one.
        rewrites: How many rewrites the last run made. A run that changed nodes and counted none gets the number of new nodes.
        remarks: What the last run wants its caller to know.
        new_guards: Guards on symbolic shapes that new nodes added in the last run, as expressions.
        outcome: What became of each node in the last run; None if it changed nothing.
        fake_tensor_mode: The program's fake mode while it runs.
        tracer: What builds the graph that is visited.
        on_progress: Called with the number of nodes visited so far, if set.
    """

    ExportTracer = ExportTracer
    ExportInterpreter = ExportInterpreter

    mode: RetraceMode = "incremental"
    targets: Collection[Any] | None = None

    def __init__(self) -> None:
        self.tracer: ExportTracer = self.ExportTracer(self, CodeGen())
        self.fake_tensor_mode: FakeTensorMode | None = None
        self.rewrites = 0
        self.remarks: list[str] = []
        self.new_guards: tuple[str, ...] = ()
        self.outcome: RetraceOutcome | None = None
        self.on_progress: Callable[[int], None] | None = None
        self.visiting: fx.Node | None = None
        self._session: Session | None = None
        self._retrace: GraphRetrace | None = None
        self._visited = VisitedBodies()
        self._retraced: list[GraphRetrace] = []
        self._initialized = True

    @staticmethod
    def _create_dummy_node_metadata() -> NodeMetadata:
        return NodeMetadata({"stack_trace": "".join(traceback.format_stack(limit=1))})

    @property
    def node_debug_str(self) -> str | None:
        """The node that is visited, as fx writes it; None before the first one."""
        return None if self.visiting is None else self.visiting.format_node()

    @property
    def session(self) -> Session:
        """What the graphs of the running call share.

        Raises:
            ExportPassError: The pass is not running.
        """
        if self._session is None:
            raise ExportPassError("hooks can only be called while the pass runs; call the pass with a graph module")
        return self._session

    @property
    def retrace(self) -> GraphRetrace:
        """The graph that is visited.

        Raises:
            ExportPassError: The pass is not running.
        """
        if self._retrace is None:
            raise ExportPassError("hooks can only be called while the pass runs; call the pass with a graph module")
        return self._retrace

    @property
    def graph_path(self) -> str:
        """The path of the graph that is visited: empty for the root graph, `true_graph_0` for a body.

        Raises:
            ExportPassError: The pass is not running.
        """
        return self.retrace.path

    # -- running -----------------------------------------------------------------------------------------------------------------

    def __call__(self, graph_module: fx.GraphModule) -> PassResult:
        """Runs `requires`, `call` and `ensures`, the checks on the module that was given, as PassBase does: see `call`.

        A pass that overrides `call` is given a copy, since it may change the graph itself, before or after its nodes are visited.
        """
        self.requires(graph_module)
        result = self.call(graph_module) if type(self).call is ExportPass.call else self._call_on_copy(graph_module)
        self.ensures(graph_module)
        return result

    def _call_on_copy(self, graph_module: fx.GraphModule) -> PassResult:
        copy = copy_with_bodies(graph_module)
        new = returned_graph(self.call(copy), copy)
        if same_graphs(new, graph_module):
            self.outcome = None
            return PassResult(graph_module, False)
        # What became of nodes is known only where nothing but the visit changed the graph.
        if self.outcome is not None and not (self.outcome.covers(new) and same_graphs(copy, graph_module)):
            self.outcome = None
        return PassResult(new, True)

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Runs the pass on a graph module, which is left as it is.

        Returns:
            The new graph module and True, or the one that was given and False.

        Raises:
            PassError: A hook failed, or a recorded value is not what its node computes. Nothing is left behind.
            ExportPassError: The pass cannot run on this graph module.
        """
        if not getattr(self, "_initialized", False):
            raise ExportPassError("ExportPass is not initialized with __init__().")
        if self._session is not None:
            raise ExportPassError("the pass is running already; use another instance for a pass within a pass")
        self.rewrites, self.remarks, self.new_guards, self.outcome = 0, [], (), None
        try:
            recorded = [node.meta.get("val") for node in graph_module.graph.find_nodes(op="placeholder")]
            # One that is made here is for inputs of which only `tensor_meta` tells.
            self.fake_tensor_mode = find_fake_mode(graph_module, recorded) or FakeTensorMode(allow_non_fake_inputs=True)
            inputs = self.inputs(graph_module)
            self._session = session = Session(graph_module, inputs, self.mode, self.on_progress)
            self.fake_tensor_mode = self.tracer.fake_tensor_mode = session.fake_mode
            self._visited = VisitedBodies()
            self._retraced = []
            with session.running():
                result = self.call_submodule(graph_module, tuple(inputs))
            if result.modified:
                session.transaction.commit()
                with_keys = type(self).call is not ExportPass.call
                self.outcome = RetraceOutcome.of(self._retraced, result.graph_module, with_keys=with_keys)
                self.rewrites = self.rewrites or self.outcome.new_nodes
                self.new_guards = session.transaction.new_guards
            else:
                session.transaction.roll_back()
            self.remarks.extend(session.differences.lines())
            return result
        finally:
            self._session = self._retrace = self.visiting = None
            self._visited, self._retraced = VisitedBodies(), []
            self.tracer = self.ExportTracer(self, CodeGen())
            self.fake_tensor_mode = None

    def call_submodule(self, graph_module: fx.GraphModule, inputs: tuple[Argument, ...]) -> PassResult:
        """Visits a graph: the root, or a body of a higher-order operator. A body that was visited with the same inputs is not visited again.

        Args:
            graph_module: The graph module.
            inputs: For each placeholder a ProxyValue or data.

        Returns:
            The new graph module and True, or the one that was given and False.
        """
        session, parent = self.session, self._retrace
        data = settle_inputs(graph_module, inputs, parent)
        known = self._visited.find(graph_module, data)
        if known is not None:
            return self._in_place_of(graph_module, known)
        reserved = [node.name for node in graph_module.graph.nodes]
        tracer = self.ExportTracer(self, graph_module.graph._codegen, reserved, graph_module)
        tracer.fake_tensor_mode = session.fake_mode
        retrace = GraphRetrace(session, graph_module, body_path(graph_module, parent), tracer)
        outer_tracer, self.tracer, self._retrace = self.tracer, tracer, retrace
        try:
            self.ExportInterpreter(self, retrace).run(data)
        finally:
            self.tracer, self._retrace = outer_tracer, parent
        # Hooks may also change the nodes of values that they are given back.
        retrace.modified |= retrace.account.forget_edited()
        if retrace.modified:
            retrace.drop_unused_bodies()
            module = LazyGraphModule(tracer.root, tracer.graph)
            module.meta.update(graph_module.meta)
            retrace.result = module
        result = PassResult(retrace.result, retrace.modified)
        self._visited.keep(graph_module, data, result)
        self._retraced.append(retrace)
        return self._in_place_of(graph_module, result)

    def _in_place_of(self, body: fx.GraphModule, result: PassResult) -> PassResult:
        """Puts a body's result where the graph that calls it has the body: each graph that does, if there are several."""
        if self._retrace is not None and result.modified:
            self._retrace.replace_body(body, result.graph_module)
        return result

    def inputs(self, graph_module: fx.GraphModule) -> list[Argument]:
        """Gives each placeholder its data: recorded arguments, recorded values, constants, or what `tensor_meta` describes.

        Raises:
            ExportPassError: Nothing is recorded for a placeholder that is used.
        """
        if (args := graph_module.meta.get("args")) is not None:
            return list(args)
        return [self._input(graph_module, node) for node in graph_module.graph.nodes if node.op == "placeholder"]

    def _input(self, graph_module: fx.GraphModule, node: fx.Node) -> Argument:
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
        """Hears of each tensor attribute: those that the graph has, and those made because a hook gave a tensor as an argument."""

    def placeholder(self, name: str, arg: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
        """An input. Call it with another name to rename the input, twice to add one, not at all to remove it."""
        return self.retrace.placeholder(name, arg, meta)

    # Operators are of several unrelated types in torch: overloads and overload packets.
    def call_operator(
        self, op: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """A call of an operator."""
        return self._fx("call_function", op, args, kwargs, meta)

    def call_sym(self, target: Callable[..., Any], args: tuple[Argument, ...], meta: NodeMetadata) -> ProxyValue[Any]:
        """A call of a Python function on symbolic numbers."""
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
        """A torch.cond: visits both branches with the operands."""
        true_branch = self.call_submodule(true_fn, tuple(inputs)).graph_module
        false_branch = self.call_submodule(false_fn, tuple(inputs)).graph_module
        return self._fx("call_function", torch.ops.higher_order.cond, (pred, true_branch, false_branch, inputs), {}, meta)

    def call_map(
        self, f: fx.GraphModule, mapped_args: Sequence[Argument], operands: Sequence[Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """A map: visits the body with one slice of each mapped argument."""
        body = self.call_submodule(f, (*slices(mapped_args, self.retrace), *operands)).graph_module
        return self._fx("call_function", torch.ops.higher_order.map_impl, (body, mapped_args, operands), {}, meta)

    def call_while(
        self,
        cond_fn: fx.GraphModule,
        body_fn: fx.GraphModule,
        carried_inputs: Sequence[Argument],
        additional_inputs: Sequence[Argument],
        meta: NodeMetadata,
    ) -> ProxyValue[Any]:
        """A while loop: visits the condition and the body with what the loop begins with."""
        operands = (*carried_inputs, *additional_inputs)
        condition = self.call_submodule(cond_fn, operands).graph_module
        body = self.call_submodule(body_fn, operands).graph_module
        args = (condition, body, carried_inputs, additional_inputs)
        return self._fx("call_function", torch.ops.higher_order.while_loop, args, {}, meta)

    def call_scan(
        self,
        combine_fn: fx.GraphModule,
        init: Sequence[Argument],
        xs: Sequence[Argument],
        additional_inputs: Sequence[Argument],
        meta: NodeMetadata,
    ) -> ProxyValue[Any]:
        """A scan: visits the body with what it begins with and one slice of each scanned argument."""
        combine = self.call_submodule(combine_fn, (*init, *slices(xs, self.retrace), *additional_inputs)).graph_module
        return self._fx("call_function", torch.ops.higher_order.scan, (combine, init, xs, additional_inputs), {}, meta)

    def call_delegate(
        self, lowered_module: torch.nn.Module, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """A call of a program that was lowered to a backend of ExecuTorch: what the backend made of it is not looked into."""
        return self._fx("call_function", executorch_call_delegate, (lowered_module, *args), kwargs, meta)

    # Higher-order operators take whatever they like.
    def call_higher_order(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
        """Any other higher-order operator: visits each body among its arguments, with the operands that follow it or its recorded inputs."""
        visited: dict[fx.GraphModule, fx.GraphModule] = {}
        for body in find_bodies((args, kwargs)):
            if body not in visited:
                operands = trailing_operands(args, body)
                if operands is None:
                    operands = tuple(node.meta.get("val") for node in body.graph.nodes if node.op == "placeholder")
                with body_context(op, args):
                    visited[body] = self.call_submodule(body, operands).graph_module
        new_args, new_kwargs = replace_bodies((args, kwargs), visited)
        return self._fx("call_function", op, new_args, new_kwargs, meta)

    def output(self, results: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
        """The outputs. Call it with more or fewer results to add or remove outputs."""
        return self._fx("output", "output", (results,), {}, meta)

    def _fx(
        self, kind: str, target: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        if kind == "call_function":
            return self.retrace.call_function(target, args, kwargs, meta)
        if kind == "output":
            return self.retrace.output(args[0], meta)
        raise ExportPassError(f"a pass cannot make a node of kind {kind}")

"""Decomposes a program call by call, each distinct call once, and leaves the rest of the program as it is."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, OutputSpec, TensorArgument

from retraced_server.analysis.effects import written_arguments
from retraced_server.analysis.graphs import walk_graphs
from retraced_server.analysis.targets import SIZE_OPERATORS, SYM_OPERATORS, acts_on_regions, overload_of
from retraced_server.passes.base import MUTATIONS
from retraced_server.passes.decompose.emit import Emitter
from retraced_server.passes.decompose.template import NotLocalError, Template
from retraced_server.passes.decompose.templates import Templates
from retraced_server.passes.decompose.working_copy import runs_without_gradients
from retraced_server.passes.decompose.written_values import WrittenTogether, WrittenValues
from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue, pass_context
from retraced_server.retrace.arguments import Argument, map_leaves
from retraced_server.retrace.edited_run import reads_only
from retraced_server.retrace.fake_result_cache import FakeResult
from retraced_server.retrace.pass_state import state_of
from retraced_server.torch_compat.decompositions import Decompositions, is_preserved
from retraced_server.torch_compat.operators import (
    HigherOrderOperator,
    OpOverload,
    has_effects,
    is_builtin,
    is_composite,
    schema_of,
)

_aten = torch.ops.aten
_higher_order = torch.ops.higher_order
# Their subgraphs are decomposed as the root graph is.
_VISITED = frozenset(
    (_higher_order.cond, _higher_order.while_loop, _higher_order.scan, _higher_order.map_impl, _higher_order.associative_scan)
)
# What functionalization or tracing makes something else of, though no table has them.
_REPLACED = frozenset(
    (
        _aten.detach.default,
        _aten.lift.default,
        _aten.lift_fresh.default,
        _aten.lift_fresh_copy.default,
        _aten.is_nonzero.default,
    )
)
_INPUTS_FOR_TORCH = (InputKind.TOKEN, InputKind.CUSTOM_OBJ)
_OUTPUTS_FOR_TORCH = (
    OutputKind.LOSS_OUTPUT,
    OutputKind.GRADIENT_TO_PARAMETER,
    OutputKind.GRADIENT_TO_USER_INPUT,
    OutputKind.TOKEN,
)
_WRITTEN_BACK_AS = {InputKind.BUFFER: OutputKind.BUFFER_MUTATION, InputKind.USER_INPUT: OutputKind.USER_INPUT_MUTATION}


def rewritten_targets(program: ExportedProgram, table: Decompositions) -> frozenset[Any]:
    """Return what a program calls, in its subgraphs too, of which torch may make something else."""
    nodes = [
        node for _, module in walk_graphs(program.graph_module) for node in module.graph.nodes if node.op == "call_function"
    ]
    return frozenset(target for target in {node.target for node in nodes} if _is_rewritable(target, table))


def _is_rewritable(target: Any, table: Decompositions) -> bool:
    """Whether torch may make something else of a call: a table has it, it is composed of others, or it is no plain function of tensors.

    Any other operator stays as it is: neither functionalization nor the tracer makes something else of it.
    """
    if target in SIZE_OPERATORS:
        return False
    if target in table.python:
        return True
    if target in table.composite:
        return not is_preserved(table, target)
    op = overload_of(target)
    if op is None:
        return isinstance(target, HigherOrderOperator)
    return _is_special(op)


@cache
def _is_special(op: OpOverload) -> bool:
    return not is_builtin(op) or op in _REPLACED or is_composite(op) or schema_of(op).is_mutable or has_effects(op)


def obstacle(program: ExportedProgram, written: WrittenTogether) -> str | None:
    """Return why a program cannot be decomposed call by call; None where nothing is known against it.

    Args:
        program: The program.
        written: What its root graph writes to.
    """
    signature = program.graph_signature
    if written.placeholders and any(spec.kind in MUTATIONS for spec in signature.output_specs):
        return "it writes to an input, and returns what an input becomes"
    for spec in (*signature.input_specs, *signature.output_specs):
        if spec.kind in _INPUTS_FOR_TORCH or spec.kind in _OUTPUTS_FOR_TORCH:
            return f"it has an input or output of kind {spec.kind.name.lower()}"
    for path, module in walk_graphs(program.graph_module):
        for node in module.graph.nodes:
            if node.op != "call_function":
                continue
            is_inlined = runs_without_gradients(node.target, node.args)
            if isinstance(node.target, HigherOrderOperator) and node.target not in _VISITED and not is_inlined:
                return f"it calls the higher-order operator {node.target.name()}"
            op = overload_of(node.target)
            if op is not None and schema_of(op).is_mutable and not is_builtin(op):
                return f"it calls {op}, a custom operator that writes to its arguments"
            if op is not None and has_effects(op):
                return f"torch orders calls of {op} by an effect token"
            if _may_be_lazy(node):
                # A file does not say which values are to be conjugated or negated when they are read.
                return f"'{node.name}' has complex numbers"
            if acts_on_regions(node.target):
                return f"the state that operators run in changes at '{node.name}'"
            if path and written_arguments(module, node):
                return f"'{node.name}' of subgraph {path} writes to a value"
    return None


def _may_be_lazy(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.target is _aten._neg_view.default or (isinstance(value, torch.Tensor) and value.is_complex())


@reads_only
class _Interpreter(ExportPass.ExportInterpreter):
    """Gives every call what values are at its point of the program, whichever hook it is handed to."""

    callback: LocalDecomposition

    # The arguments are fx's own open types.
    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        """Return the arguments of a node."""
        values = self.callback.values
        if values.concern(n) and not values.is_view_or_write(n):
            return values.current((n.args, n.kwargs), NodeMetadata(n.meta))
        return super().fetch_args_kwargs_from_env(n)


class LocalDecomposition(ExportPass):
    """Decomposes each call by itself, and makes writes functional.

    Args:
        templates: What calls decompose to.
        program: The program.
        written: The values of its root graph that share storage with one that is written to.

    Attributes:
        rewrites: How many calls became something else.
        specs: The specs of the outputs that are what inputs become, which come before the program's own outputs.
        values: The values that share storage with one that is written to.
    """

    ExportInterpreter = _Interpreter

    def __init__(self, templates: Templates, program: ExportedProgram, written: WrittenTogether) -> None:
        super().__init__()
        self.rewrites = 0
        self.specs: list[OutputSpec] = []
        self._templates = templates
        self._emitter = Emitter(self)
        inputs = program.graph.find_nodes(op="placeholder")
        self._input_specs = dict(zip(inputs, program.graph_signature.input_specs, strict=True))
        self.values = WrittenValues(written, templates, self._emitter, self._find, lambda: state_of(self).retrace.results)

    # -- hooks -----------------------------------------------------------------------------------------------------------------------

    def call_operator(self, op: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata) -> Any:
        """Make what an operator's call becomes."""
        node = self._view_or_write()
        if node is not None:
            self.rewrites += 1
            return self.values.call(node, meta)
        return self._decomposed(op, args, kwargs, meta)

    def call_getitem(self, value: ProxyValue[Any], key: int, meta: NodeMetadata) -> Any:
        """Take an item, which may be one that is written to."""
        node = self._view_or_write()
        if node is not None:
            return self.values.call(node, meta)
        return super().call_getitem(value, key, meta)

    @reads_only
    def call_higher_order(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> Any:
        """Put the calls of a subgraph that runs without gradients in its place; all of the program does."""
        if runs_without_gradients(op, args):
            return self._inlined(args[1], args[2:])
        return super().call_higher_order(op, args, kwargs, meta)

    def _view_or_write(self) -> fx.Node | None:
        node = pass_context().visited
        return node if node is not None and self.values.concern(node) and self.values.is_view_or_write(node) else None

    def output(self, results: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
        """Return the new values of what is written to, before the program's own outputs."""
        if pass_context().graph_path:
            return super().output(results, meta)
        written = list(self.values.written_inputs(meta))
        self.specs = [self._spec(placeholder) for placeholder, _ in written]
        if not written:
            return super().output(results, meta)
        return super().output((*(value for _, value in written), *results), meta)

    # -- what calls become -----------------------------------------------------------------------------------------------------------

    def _decomposed(self, op: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata) -> Any:
        template, given = self._find(op, args, kwargs)
        if template.is_identity:
            return super().call_operator(op, args, kwargs, meta)
        self.rewrites += 1
        results, written = self._emitter.emit_template(template, given, meta)
        if any(value is not None for value in written):
            raise NotLocalError(f"{op} writes to its arguments")
        return results

    def _find(self, op: Any, args: Any, kwargs: Any) -> tuple[Template, list[Any]]:
        session = state_of(self).running.session
        return self._templates.find(op, args, kwargs, session.transaction, session.fake_result_cache)

    # The subgraph returns a tuple of whatever its nodes compute.
    def _inlined(self, subgraph: fx.GraphModule, operands: tuple[Argument, ...]) -> Any:
        self.rewrites += 1
        env: dict[fx.Node, Any] = dict(zip(subgraph.graph.find_nodes(op="placeholder"), operands, strict=True))
        for node in subgraph.graph.nodes:
            if node.op == "output":
                return _mapped(node.args[0], env)
            if node.op == "get_attr":
                raise NotLocalError("a subgraph without gradients reads an attribute")
            if node.op == "call_function":
                args, kwargs = _mapped(node.args, env), _mapped(node.kwargs, env)
                env[node] = self._called(node.target, args, kwargs, NodeMetadata(node.meta))
        raise NotLocalError("a subgraph has no output")

    def _called(self, target: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
        if target is operator.getitem:
            return self.call_getitem(args[0], args[1], meta)
        if overload_of(target) is not None:
            return self._decomposed(target, args, kwargs, meta)
        if target in SYM_OPERATORS:
            return self.call_sym(target, args, meta)
        raise NotLocalError(f"a subgraph without gradients calls {target}")

    def expect(self, target: Any, args: Any, kwargs: Any, value: FakeResult) -> None:
        """Take what a call gives, so that it need not be executed."""
        args, kwargs = map_leaves((args, kwargs), ProxyValue, lambda proxy: proxy.data)
        state_of(self).running.session.fake_result_cache.expect(target, args, kwargs, value)

    def emit_call(self, target: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
        """Make a call of what a call has become, which is not decomposed again."""
        if target is operator.getitem:
            return super().call_getitem(args[0], args[1], meta)
        if overload_of(target) is not None:
            return super().call_operator(target, args, kwargs, meta)
        return super().call_sym(target, args, meta)

    def _spec(self, placeholder: fx.Node) -> OutputSpec:
        spec = self._input_specs[placeholder]
        kind = _WRITTEN_BACK_AS.get(spec.kind)
        if kind is None:
            raise NotLocalError(f"the program writes to '{placeholder.name}', a {spec.kind.name.lower()}")
        target = spec.target if kind is OutputKind.BUFFER_MUTATION else placeholder.name
        return OutputSpec(kind, TensorArgument(placeholder.name), target)


# Arguments are whatever a graph has.
def _mapped(arguments: Any, env: Mapping[fx.Node, Any]) -> Any:
    return fx.node.map_aggregate(arguments, lambda leaf: env[leaf] if isinstance(leaf, fx.Node) else leaf)

"""Runs passes that may edit graphs by hand: on a copy, with edited nodes executed again, and told where nodes came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

from torch import fx

from retraced_server.analysis.graphs import node_key, walk_graphs
from retraced_server.retrace.arguments import same_arguments
from retraced_server.retrace.copies import copy_with_subgraphs, result_count, returned_graph, same_graphs
from retraced_server.retrace.edits import Edits
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.given_graph import GivenGraph
from retraced_server.retrace.held_programs import lent
from retraced_server.retrace.hooks import PassHooks
from retraced_server.retrace.interpreter import check_visitable
from retraced_server.retrace.metadata_containers import same_node_metadata
from retraced_server.retrace.outcome import RetraceOutcome
from retraced_server.retrace.pass_context import PassContext, pass_context
from retraced_server.retrace.pass_state import state_of
from retraced_server.retrace.recorded_sizes import RecordedSizes
from retraced_server.torch_compat.graphs import PassResult, is_erased
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction
from retraced_server.torch_compat.symbolic_shapes import shape_env_of

_Method = Callable[..., Any]
_M = TypeVar("_M", bound=_Method)

# Methods of a pass that are given a graph module, which they may edit: not `requires` and `ensures`, which check the one that was given.
_GIVEN_GRAPHS = (
    "__call__",
    "call",
    "inputs",
    "call_submodule",
    "call_cond",
    "call_map",
    "call_while",
    "call_scan",
    "call_higher_order",
    "ExportInterpreter",
)


@dataclass
class EditScope:
    """What a running pass edits. A pass that is called within another's `call` works in the other's scope.

    `passes` are those that have been entered. `edits` is None where the pass works on the given graph itself; that is `given`, where hooks
    may have come by it.
    """

    edits: Edits | None = None
    given: GivenGraph | None = None
    passes: list[object] = field(default_factory=list)


_scope: ContextVar[EditScope | None] = ContextVar("retraced_edit_scope", default=None)


def current_scope() -> EditScope:
    """Return the scope of the pass that runs.

    Raises:
        ExportPassError: None does.
    """
    scope = _scope.get()
    if scope is None:
        raise ExportPassError("the pass is not running; call it with a graph module")
    return scope


def pass_name(instance: object) -> str:
    """Return what a pass is called in reports and errors: a function has a name of its own, any other the name of its class."""
    return getattr(instance, "__name__", type(instance).__name__)


def reads_only(method: _M) -> _M:
    """Mark a pass's override, a method or an interpreter, that is given a graph module and does not edit it: the pass needs no copy for it."""
    method.__reads_only__ = method  # type: ignore[attr-defined]  # Other wrappers copy attributes: it must name the function itself.
    return method


def guard_methods(cls: type[PassHooks], base: type[PassHooks]) -> None:
    """Make `__call__` and `call` of a class run as `base` promises it, however they are overridden or inherited."""
    for name in ("__call__", "call"):
        method = getattr(cls, name)
        if getattr(method, "__guarded__", None) is not method:
            setattr(cls, name, _guarded(method, base, is_call=name == "call"))


def _guarded(method: _Method, base: type[PassHooks], *, is_call: bool) -> _Method:
    @wraps(method)
    def guarded(self: PassHooks, graph_module: fx.GraphModule) -> Any:
        scope = _scope.get()
        if scope is not None and any(entered is self for entered in scope.passes):
            return method(self, graph_module)
        if scope is not None and scope.edits is not None:
            if is_call or not _may_edit(self, base):
                with _entered(scope, self):
                    return method(self, graph_module)
            return _nested_on_copy(scope, scope.edits, self, method, graph_module)
        outermost = EditedRun(self, lambda module: method(self, module), base)
        if is_call:
            result = outermost.directly(graph_module)
        elif _may_edit(self, base):
            result = outermost.on_copy(graph_module)
        else:
            result = outermost.on_given(graph_module)
        if outermost.may_edit:
            state_of(self).outcome = outermost.outcome
        return result

    guarded.__guarded__ = guarded  # type: ignore[attr-defined]
    return guarded


def _may_edit(instance: PassHooks, base: type[PassHooks]) -> bool:
    """Whether a class overrides a method that is given a graph module, without saying that it only reads it."""
    return any(_is_overridden(type(instance), name, base) or name in vars(instance) for name in _GIVEN_GRAPHS)


def _is_overridden(cls: type, name: str, base: type) -> bool:
    method = getattr(cls, name)
    if method is getattr(base, name):
        return False
    inner = getattr(method, "__wrapped__", method)
    return getattr(inner, "__reads_only__", None) is not inner


@contextmanager
def _entered(scope: EditScope, instance: object) -> Iterator[None]:
    scope.passes.append(instance)
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)
        scope.passes.pop()


def _nested_on_copy(scope: EditScope, edits: Edits, instance: PassHooks, method: _Method, module: fx.GraphModule) -> PassResult:
    copy = copy_with_subgraphs(module)
    with edits.given_back_unless_modified() as results, _entered(scope, instance):
        edits.add_copy(copy, module)
        new = returned_graph(method(instance, copy), copy)
        results.append(PassResult(module, False) if same_graphs(new, module) else PassResult(new, True))
    return results[0]


class EditedRun:
    """One run of a pass that no other pass runs.

    Args:
        instance: The pass.
        method: What runs it on a graph module.
        base: The base class of passes, whose instance visits nodes that were edited.

    Attributes:
        outcome: What became of the nodes; None where nothing changed, or the outputs were edited so that it cannot be told which is which.
    """

    def __init__(self, instance: object, method: Callable[[fx.GraphModule], Any], base: type[PassHooks]) -> None:
        self._instance = instance
        self._method = method
        self._base = base
        self._scope = EditScope()
        self.outcome: RetraceOutcome | None = None

    @property
    def may_edit(self) -> bool:
        """Whether the pass may have edited the graph, so that its own visits of it do not tell what became of the nodes."""
        return self._scope.edits is not None

    def on_given(self, module: fx.GraphModule) -> Any:
        """Run a pass that is given no graph to edit; its hooks may edit nodes that they have made, or have come by."""
        given = None if type(self._instance) is self._base else GivenGraph(module)
        self._scope.given = given
        try:
            with _entered(self._scope, self._instance):
                result = self._method(module)
        except BaseException:
            if given is not None:
                given.put_back()
            raise
        if given is not None and (given.was_edited or given.is_lent):
            given.put_back()
        if self._scope.edits is None:
            # Of nodes that were visited before they were edited, nothing may be in the result.
            was_undone = given is not None and given.was_edited and isinstance(result, PassResult)
            return PassResult(module, False) if was_undone and same_graphs(result.graph_module, module) else result
        with _entered(self._scope, self._instance):
            return self._finished(self._scope.edits, returned_graph(result, module), module)

    def on_copy(self, module: fx.GraphModule) -> PassResult:
        """Run a pass that may edit the graph that it is given.

        One that was made with the program finds the copy there too. Where it has kept the graph itself, or its nodes, it may edit that
        instead: the result is what that graph became, and it is put back.

        Raises:
            ExportPassError: It has edited both.
        """
        copy = copy_with_subgraphs(module)
        self._scope.edits = Edits()
        self._scope.edits.add_given(copy)
        given, edits_of_given, sizes = GivenGraph(module), Edits(), RecordedSizes(module)
        edits_of_given.add_given(module)
        with _undone_unless_modified(module) as results, _entered(self._scope, self._instance):
            try:
                with lent(self._instance, module, copy):
                    new = returned_graph(self._method(copy), copy)
                if given.has_edits():
                    copy_of_given = copy_with_subgraphs(module)
                    edits_of_given.add_copy(copy_of_given, module)
                    sizes.keep_changes(copy_of_given)
                if new is not module:
                    sizes.keep_changes(new)
            finally:
                given.put_back()
                sizes.put_back()
            if given.was_edited:
                if new is not module and not (new is copy and same_graphs(copy, module)):
                    raise ExportPassError(
                        "it edited the graph of a program that it has kept, and another that it was given as a copy of that; "
                        "edit the graph module that `call` is given"
                    )
                new, self._scope.edits = copy_of_given, edits_of_given
            results.append(self._finished(self._scope.edits, new, module))
        return results[0]

    def directly(self, module: fx.GraphModule) -> PassResult:
        """Run `call` without `__call__`: on the graph itself, which the caller may have edited before, so that every node is executed."""
        before = copy_with_subgraphs(module)
        self._scope.edits = edits = Edits()
        edits.add_given(module, fits=False)
        with _undone_unless_modified(module) as results, _entered(self._scope, self._instance):
            new = returned_graph(self._method(module), module)
            results.append(PassResult(module, False) if same_graphs(new, before) else PassResult(new, True))
        if results[0].modified:
            self.outcome = _outcome(edits, before, new)
        return results[0]

    def _finished(self, edits: Edits, new: fx.GraphModule, given: fx.GraphModule) -> PassResult:
        """Execute what was edited since the last visit, and find what became of the given nodes."""
        if same_graphs(new, given):
            return PassResult(given, False)
        edits.states_values = True
        if edits.has_dirty(new):
            check_visitable(new)
            # Named as the pass, which errors tell of.
            visitor: PassHooks = type(pass_name(self._instance), (self._base,), {})()
            outer = pass_context()
            # Values that were recorded by hand are not compared with what the nodes compute.
            with PassContext("incremental", outer.kept_names, outer.preserved_modules) as own:
                new = visitor.call(new).graph_module
            outer.new_guards.extend(own.new_guards)
            outer.remarks.extend(own.remarks)
            if same_graphs(new, given):
                return PassResult(given, False)
        self.outcome = _outcome(edits, given, new)
        return PassResult(new, True)


@contextmanager
def _undone_unless_modified(module: fx.GraphModule) -> Iterator[list[PassResult]]:
    """Take back what a run does to the shape environment, where it fails or the result that it puts into the list is not modified."""
    transaction = ShapeEnvTransaction(shape_env_of(module))
    results: list[PassResult] = []
    try:
        yield results
    except BaseException:
        transaction.roll_back()
        raise
    if not results[0].modified:
        transaction.roll_back()


def _outcome(edits: Edits, given: fx.GraphModule, new: fx.GraphModule) -> RetraceOutcome | None:
    """Return what became of the nodes of a program; None where its outputs were edited so that it cannot be told which is which."""
    outcome = RetraceOutcome()
    last = next(reversed(new.graph.nodes), None)
    outcome.outputs = None if last is None else edits.outputs_of(last)
    before = result_count(given)
    if before is None or outcome.outputs is None or outcome.outputs == list(range(before)):
        if result_count(new) != before:
            return None
        outcome.outputs = None
    old = {node_key(path, node.name): node for path, module in walk_graphs(given) for node in module.graph.nodes}
    for path, module in walk_graphs(new):
        for node in module.graph.nodes:
            _add_origins(outcome, edits, old, node, node_key(path, node.name))
    nodes = {node.name: node for node in new.graph.nodes}
    for node in given.graph.nodes:
        holder = edits.holder(node.name)
        if holder is None or holder.graph is not new.graph or is_erased(holder):
            # A graph that was put together by hand keeps names, if anything.
            named = nodes.get(node.name)
            holder = None if named is None or edits.knows(named) else named
        name = None if holder is None else holder.name
        if name != node.name:
            outcome.renamed[node.name] = name
    inputs = {node.name for node in given.graph.find_nodes(op="placeholder")}
    for node in new.graph.find_nodes(op="placeholder", sort=True):
        known = edits.input_of(node) if edits.knows(node) else node.name if node.name in inputs else None
        outcome.placeholders.append((node.name, known))
    return outcome


def _add_origins(outcome: RetraceOutcome, edits: Edits, old: dict[str, fx.Node], node: fx.Node, key: str) -> None:
    origins = edits.origins_of(node)
    if origins is None:
        origins = (key,) if key in old else ()
    before = old.get(key if key in origins else origins[0]) if origins else None
    is_copy = before is not None and _is_copy(node, before)
    if is_copy and origins == (key,):
        return
    outcome.origins[key] = origins
    if is_copy:
        outcome.copied.add(key)
    else:
        outcome.new_nodes += 1


def _is_copy(node: fx.Node, old: fx.Node) -> bool:
    if node.name != old.name or node.op != old.op or node.target != old.target or not same_node_metadata(node.meta, old.meta):
        return False
    return same_arguments(node.args, old.args, _is_namesake) and same_arguments(node.kwargs, old.kwargs, _is_namesake)


def _is_namesake(new: Any, old: fx.Node) -> bool:
    return isinstance(new, fx.Node) and new.name == old.name

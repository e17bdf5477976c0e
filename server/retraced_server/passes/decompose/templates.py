"""Traces what a call decomposes to, once for all calls of a program that look the same to torch."""

from __future__ import annotations

import operator
from collections.abc import Container, Hashable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import fx

from retraced_server.analysis.targets import overload_of
from retraced_server.analysis.value_numbers import UnkeyedError, call_key
from retraced_server.errors import RetracedError
from retraced_server.passes.decompose.call_codec import MetaTensors, UnsharedError
from retraced_server.passes.decompose.shared_templates import SharedCall, SharedTemplates
from retraced_server.passes.decompose.template import NotLocalError, NotReplacedError, Template, datum, identity_of, map_inputs
from retraced_server.retrace.arguments import Argument
from retraced_server.retrace.descriptions import Descriptions, UnknownError
from retraced_server.retrace.fake_result_cache import FakeResult, FakeResultCache
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.retrace.values import SYMBOLIC
from retraced_server.torch_compat.decompositions import Decompositions
from retraced_server.torch_compat.fake_tensors import FakeTensorMode
from retraced_server.torch_compat.functional_trace import FunctionalTrace, Number, decomposing
from retraced_server.torch_compat.operators import functional_variant, schema_of
from retraced_server.torch_compat.plain_trace import NotPlainError, PlainTrace
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction

# What needs functionalization, as a trace without it found.
_NOT_PLAIN: set[Any] = set()


class Templates:
    """The templates of one program. Enter it for as long as calls are traced: operators behave then as torch has them while it decomposes.

    Args:
        table: The decompositions.
        fake_mode: The program's fake mode.
        shared: Templates of other programs.

    Attributes:
        fake_mode: The program's fake mode.
    """

    def __init__(self, table: Decompositions, fake_mode: FakeTensorMode, shared: SharedTemplates | None = None) -> None:
        self.fake_mode = fake_mode
        self._table = table
        self._shared = shared
        self._descriptions = Descriptions()
        self._templates: dict[Hashable, Template] = {}
        # Of the results of shared templates.
        self._meta: MetaTensors = {}
        self._modes = ExitStack()

    def __enter__(self) -> Self:
        self._modes.enter_context(decomposing(self._table, self.fake_mode))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._modes.close()

    def trace(self) -> FunctionalTrace:
        """Begin a trace."""
        return FunctionalTrace(self._table)

    # Operators are of several unrelated types in torch.
    def find(
        self,
        target: Any,
        args: tuple[Argument, ...],
        kwargs: dict[str, Argument],
        transaction: ShapeEnvTransaction,
        fake_results: FakeResultCache,
    ) -> tuple[Template, list[Any]]:
        """Find what a call decomposes to.

        Args:
            target: The operator.
            args: What its hook was given.
            kwargs: As well.
            transaction: What happens to the program's shape environment, in which tracing leaves no symbol behind.
            fake_results: Describes what the operators of a trace give.

        Returns:
            The template, and what stands for its inputs.

        Raises:
            NotLocalError: It makes symbols or constants of its own.
            NotReplacedError: It writes to an argument and puts no new tensor of the same layout in its place.
        """
        # Processes share keys in which keyword arguments are sorted: inputs are numbered in that order.
        kwargs = dict(sorted(kwargs.items()))
        given: list[Any] = []
        positions: dict[Hashable, int] = {}
        pattern: list[int] = []

        def note(leaf: Any) -> Any:
            key = identity_of(leaf)
            if key not in positions:
                positions[key] = len(given)
                given.append(leaf)
            pattern.append(positions[key])
            return leaf.data if isinstance(leaf, ProxyValue) else leaf

        data = map_inputs((args, kwargs), note)
        key = self._key(target, data, pattern)
        template = None if key is None else self._templates.get(key)
        if template is None:
            template = None if key is None else self._of_others(target, args, kwargs, given, pattern)
            if template is None:
                known, mark = transaction.symbol_count(), transaction.mark()
                try:
                    template = self._traced(target, args, kwargs, given, pattern)
                    if transaction.mark() == mark:
                        values = tuple(_value(node, fake_results) for node in template.nodes)
                        template = replace(template, values=values)
                finally:
                    made = transaction.symbols_since(known)
                    transaction.forget(made)
                if made and len(template.nodes) > 1:
                    raise NotLocalError(f"the decomposition of {target} makes symbols")
            if key is not None:
                # What its calls give is the same each time, and expected once.
                self._templates[key] = replace(template, values=())
        return template, given

    # As here.
    def _key(self, target: Any, data: Any, pattern: list[int]) -> Hashable | None:
        op = overload_of(target)
        if op is None or not schema_of(op).returns:
            return None
        try:
            # An operator that writes does so to functional tensors: those that are described stay as they are.
            return op, self._descriptions.describe(data), tuple(pattern)
        except UnknownError:
            return None

    def _of_others(self, target: Any, args: Any, kwargs: Any, given: list[Any], pattern: list[int]) -> Template | None:
        if self._shared is None or not self._shared.is_used:
            return None
        try:
            call = SharedCall(self._table.choice, target, args, kwargs, given, pattern, self.fake_mode)
        except UnsharedError:
            return None
        found = self._shared.find(call.key)
        try:
            return None if found is None else call.read(found, self._meta)
        # It is none: the worker that made it was broken. This job does without.
        except (RetracedError, ValueError, LookupError, TypeError):
            return None

    def _traced(self, target: Any, args: Any, kwargs: Any, given: list[Any], pattern: list[int]) -> Template:
        if args and (functional := functional_variant(target)) is not None:
            # What it writes to comes first.
            template = self._traced(functional, args, kwargs, given, pattern)
            new, _ = template.results
            written = tuple(new if place == pattern[0] else None for place in range(len(given)))
            _check_replaced(template.inputs, written)
            return replace(template, results=(new, written), is_identity=False)
        if target not in _NOT_PLAIN:
            try:
                return self._traced_by(PlainTrace(self._table), target, args, kwargs, given, pattern)
            except NotPlainError:
                _NOT_PLAIN.add(target)
        return self._traced_by(self.trace(), target, args, kwargs, given, pattern)

    def _traced_by(
        self, trace: FunctionalTrace | PlainTrace, target: Any, args: Any, kwargs: Any, given: list[Any], pattern: list[int]
    ) -> Template:
        inputs = [trace.input(datum(value, self.fake_mode)) for value in given]
        placeholders = tuple(placeholder for _, placeholder in inputs)
        order = iter(pattern)
        traced_args, traced_kwargs = map_inputs((args, kwargs), lambda _: inputs[next(order)][0])
        results = trace.read(trace.call(target, traced_args, traced_kwargs))
        written = tuple(trace.read(value) if trace.is_written(value) else None for value, _ in inputs)
        _check_replaced(placeholders, written)
        if any(trace.is_resized(value, placeholder.meta["val"]) for value, placeholder in inputs):
            raise NotReplacedError("a call leaves something other in the place of an argument than a new tensor of its layout")
        nodes = tuple(needed((results, written), placeholders, effects_after(trace.graph, None)))
        if any(node.op == "get_attr" for node in nodes):
            raise NotLocalError(f"the decomposition of {target} makes a constant")
        template = Template(placeholders, nodes, (results, written))
        return replace(template, is_identity=_is_identity(template, target, args, kwargs, pattern))


def needed(results: Any, known: Container[fx.Node], effects: Iterable[fx.Node] = ()) -> list[fx.Node]:
    """Return the nodes of a trace that results are made of, in order.

    Args:
        results: Nodes, or containers of nodes.
        known: What need not be made.
        effects: Nodes that are needed besides.
    """
    waiting = list(effects)
    fx.node.map_arg(results, waiting.append)
    found: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in known and node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return sorted(found)


def effects_after(graph: fx.Graph, last: fx.Node | None) -> list[fx.Node]:
    """Return the calls of a trace that have an effect, in order: those after a node, or all."""
    found: list[fx.Node] = []
    for node in reversed(graph.nodes):
        if node is last:
            break
        if node.op == "call_function" and node.is_impure():
            found.append(node)
    return found[::-1]


def _value(node: fx.Node, fake_results: FakeResultCache) -> FakeResult | None:
    """Return what a node of a trace gives, as it was executed there."""

    def datum_of(leaf: Any) -> Any:
        if isinstance(leaf, fx.Node):
            return leaf.meta.get("val")
        return leaf.value if isinstance(leaf, Number) else leaf

    args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), datum_of)
    return fake_results.describe(node.target, args, kwargs, node.meta.get("val"))


def _is_identity(template: Template, target: Any, args: Any, kwargs: Any, pattern: list[int]) -> bool:
    """Whether a template is nothing but the call and the items of its result."""
    calls = [node for node in template.nodes if node.target is not operator.getitem]
    results, written = template.results
    if len(calls) != 1 or calls[0].target is not target or not _is_result(calls[0], results) or any(written):
        return False
    order = iter(pattern)
    given_args, given_kwargs = map_inputs((args, kwargs), lambda _: template.inputs[next(order)])
    try:
        return call_key(target, calls[0].args, calls[0].kwargs, _leaf) == call_key(target, given_args, given_kwargs, _leaf)
    except UnkeyedError:
        return False


def _check_replaced(inputs: Sequence[fx.Node], written: Sequence[Any]) -> None:
    """Check that what inputs become are new tensors of the same dtype, sizes and strides, whatever values the symbols have.

    A new tensor begins where its storage does.

    Raises:
        NotReplacedError: One is not.
    """

    def layout(node: fx.Node) -> Hashable:
        tensor = node.meta["val"]
        numbers = (*tensor.shape, *tensor.stride())
        return tensor.dtype, *(number.node.expr if isinstance(number, torch.SymInt) else number for number in numbers)

    for before, new in zip(inputs, written, strict=True):
        if new is not None and not (isinstance(new, fx.Node) and new not in inputs and layout(new) == layout(before)):
            raise NotReplacedError("a call leaves something other in the place of an argument than a new tensor of its layout")


def _is_result(call: fx.Node, results: Any) -> bool:
    if isinstance(results, (tuple, list)):
        return all(
            isinstance(result, fx.Node) and result.target is operator.getitem and result.args == (call, at)
            for at, result in enumerate(results)
        )
    return results is call or results is None


def _leaf(value: Any) -> Hashable | None:
    number = value.value if isinstance(value, Number) else value
    if isinstance(number, SYMBOLIC):
        return "number", number.node.expr
    return value if isinstance(value, fx.Node) else None

"""What calls do besides computing their result: write to their arguments, draw random numbers, assert, print, change state.

The table `program.functions` says it of every target; here it is said of calls, whose arguments, subgraphs and schemas decide too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

import torch
from torch import fx

from retraced_server.program.functions import Effect, overload_of, stated_effect
from retraced_server.retrace.graphs import subgraph_of
from retraced_server.torch_compat.graphs import Argument
from retraced_server.torch_compat.operators import HigherOrderOperator, OpOverload, base_name, is_impure, schema_of

_higher_order = torch.ops.higher_order
# They run an operator that writes to its arguments on copies of them.
_FUNCTIONALIZED = (_higher_order.auto_functionalized, _higher_order.auto_functionalized_v2)
_RUNNING = ("running_mean", "running_var")
# What operators write to though their schemas do not say so, by the names of the arguments: normalisations update their running statistics.
_UNSTATED_WRITES: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        ("batch_norm", "_batch_norm_impl_index", "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm"), _RUNNING
    ),
    **dict.fromkeys(("batch_norm_update_stats", "batch_norm_gather_stats", "batch_norm_gather_stats_with_counts"), _RUNNING),
    "instance_norm": _RUNNING,
    "_no_grad_embedding_renorm_": ("weight",),
}
# Assertions in functional form: what they return only orders them.
_FUNCTIONAL_ASSERTIONS = ("_functional_assert", "_functional_sym_constrain_range")


def has_effect(module: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a call does more than compute its result, so that it must stay though nothing uses the result.

    Whatever fx takes for impure is (`Node.is_impure`), and what keeps its place by the table. Beyond that: operators without a result,
    operators on objects with a state of their own, assertions in functional form, and higher-order operators with such a call in a
    subgraph or as the operator that they run.
    """
    if node.op != "call_function":
        return False
    target, op = node.target, overload_of(node.target)
    impure = node.is_impure() if op is None else is_impure(op, args=node.args, kwargs=node.kwargs)
    if impure or draws_random_numbers(module, node):
        return True
    if stated_effect(target).keeps_its_place:
        return True
    if op is not None:
        asserts = not schema_of(op).returns or base_name(op).startswith(_FUNCTIONAL_ASSERTIONS)
        return asserts or _takes_object(op) or bool(written_arguments(module, node))
    if not isinstance(target, HigherOrderOperator):
        return False
    if target not in _FUNCTIONALIZED and _runs_mutable_operator(node):
        return True
    return any(has_effect(subgraph, inner) for subgraph in subgraphs(module, node) for inner in subgraph.graph.nodes)


def draws_random_numbers(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a call draws random numbers, so that it gives another result each time and moves the generator on."""
    target = node.target
    if (op := overload_of(target)) is not None:
        return torch.Tag.nondeterministic_seeded in op.tags
    if not isinstance(target, HigherOrderOperator):
        return False
    return any(torch.Tag.nondeterministic_seeded in operator.tags for operator in _operators(node)) or any(
        draws_random_numbers(subgraph, inner) for subgraph in subgraphs(module, node) for inner in subgraph.graph.nodes
    )


def written_arguments(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """Gives the arguments that a call may write to: values, sizes or strides."""
    if node.op != "call_function":
        return []
    target = node.target
    if (op := overload_of(target)) is not None:
        if not schema_of(op).is_mutable and base_name(op) not in _UNSTATED_WRITES:
            return []
        given = arguments_by_name(node, op)
        written: list[fx.Node] = []
        for name in (*_stated_writes(op), *_unstated_writes(op, given)):
            fx.map_arg(given.get(name), written.append)
        return written
    if stated_effect(target) is Effect.UNKNOWN:
        return node.all_input_nodes
    if not isinstance(target, HigherOrderOperator) or target in _FUNCTIONALIZED:
        return []
    writes = "mutation" in target.name() or _runs_mutable_operator(node)
    if writes or any(
        written_arguments(subgraph, inner) for subgraph in subgraphs(module, node) for inner in subgraph.graph.nodes
    ):
        return node.all_input_nodes
    return []


def arguments_by_name(node: fx.Node, target: OpOverload) -> dict[str, Argument]:
    """Gives the arguments of an operator's call by the names that its schema has for them; defaults are left out."""
    names = (argument.name for argument in schema_of(target).arguments)
    return {**node.kwargs, **dict(zip(names, node.args, strict=False))}


@cache
def _stated_writes(target: OpOverload) -> tuple[str, ...]:
    """Give the names of the arguments that an operator writes to by its schema."""
    arguments = schema_of(target).arguments
    return tuple(argument.name for argument in arguments if argument.alias_info is not None and argument.alias_info.is_write)


def _unstated_writes(target: OpOverload, given: Mapping[str, Argument]) -> tuple[str, ...]:
    """Give the names of the arguments that a call writes to without a word of it in the schema, unless it is told not to."""
    is_evaluated = given.get("training", given.get("use_input_stats")) is False
    return () if is_evaluated else _UNSTATED_WRITES.get(base_name(target), ())


def subgraphs(module: fx.GraphModule, node: fx.Node) -> Iterator[fx.GraphModule]:
    """Yields the graphs among the arguments of a call."""
    for argument in node.all_input_nodes:
        subgraph = subgraph_of(module, argument)
        if subgraph is not None:
            yield subgraph


@cache
def _takes_object(operator: OpOverload) -> bool:
    return any(isinstance(argument.type, torch.ClassType) for argument in schema_of(operator).arguments)


def _operators(node: fx.Node) -> Iterator[OpOverload]:
    return (argument for argument in (*node.args, *node.kwargs.values()) if isinstance(argument, OpOverload))


def _runs_mutable_operator(node: fx.Node) -> bool:
    return any(schema_of(operator).is_mutable for operator in _operators(node))

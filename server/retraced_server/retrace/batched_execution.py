"""Executes calls of batched values under autocast, which decides what the results' dtypes are.

Operators are executed on the values of one example, which is what `torch.vmap` promises of them (see `regions`). Autocast makes a difference:
it casts what a batching rule calls. `mv`, which autocast leaves alone, gives `bfloat16` of batched values, since a `bmm` then computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from retraced_server.analysis.graphs import has_calls
from retraced_server.analysis.targets import acts_on_regions
from retraced_server.errors import text_of
from retraced_server.retrace.arguments import map_leaves
from retraced_server.retrace.autocast_states import has_autocast, subgraph_autocast
from retraced_server.retrace.batched_values import BatchedValues
from retraced_server.retrace.entered_regions import entered_regions
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.execute import execute
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.retrace.regions import LEVELS, call_in_region, fresh
from retraced_server.retrace.unbacked import UnbackedSymbols
from retraced_server.retrace.values import logical
from retraced_server.torch_compat.functorch import is_any_autocast_enabled
from retraced_server.torch_compat.operators import HigherOrderOperator


# Targets, arguments and values are whatever a graph has.
def executed_in_levels(
    unbacked: UnbackedSymbols,
    batched: BatchedValues,
    target: Any,
    arguments: Any,
    datum: Callable[[ProxyValue[Any]], Any],
    execute_logically: Callable[[], Any],
) -> Any:
    """Return what a call gives in the levels of functorch that it is in, as a logical value.

    Args:
        unbacked: The program's unbacked symbols.
        batched: Tells which levels these are, and at which of them values are batched.
        target: What is called.
        arguments: Its arguments, with ProxyValues.
        datum: Gives the logical value of a ProxyValue.
        execute_logically: Executes the call on logical values.

    Raises:
        ExportPassError: The call cannot be executed in those levels.
    """
    if acts_on_regions(target) or not _depends_on_levels(target, arguments):
        return execute_logically()
    value = None if isinstance(target, HigherOrderOperator) else execute_logically()
    if value is not None and not batched.of(arguments):
        return value
    try:
        with unbacked.trial(), entered_regions() as called:
            for level in batched.levels:
                called(level.target, call_in_region(level.target, fx.node.map_arg((level.args, level.kwargs), _recorded)))
            args, kwargs = map_leaves(arguments, ProxyValue, lambda proxy: batched.batch(datum(proxy), batched.of(proxy)))
            result = map_leaves(execute(target, args, kwargs).value, torch.Tensor, lambda tensor: fresh(logical(tensor)))
    except Exception as error:
        raise ExportPassError(f"it cannot be executed in its region as it is now: {text_of(error)}") from error
    if value is None:
        return result
    dtypes: list[torch.dtype] = []
    map_leaves(result, torch.Tensor, lambda tensor: dtypes.append(tensor.dtype))
    given = iter(dtypes)
    return map_leaves(value, torch.Tensor, lambda tensor: _with_dtype(tensor, next(given)))


def _recorded(node: fx.Node) -> Any:
    return node.meta["val"]


def _with_dtype(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if tensor.dtype is dtype:
        return tensor
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=dtype, device=tensor.device)


def _depends_on_levels(target: Any, arguments: Any) -> bool:
    """Whether autocast is in effect, or a subgraph enters it or a level of its own."""
    if is_any_autocast_enabled() or subgraph_autocast(target, arguments[0]):
        return True
    subgraphs: list[fx.GraphModule] = []
    map_leaves(arguments, fx.GraphModule, subgraphs.append)
    return any(has_autocast(subgraph) or has_calls(subgraph, LEVELS) for subgraph in subgraphs)

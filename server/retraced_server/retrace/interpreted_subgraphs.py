"""Runs the subgraphs of higher-order operators node by node, so that no code is generated from a program and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from retraced_server.retrace.arguments import Argument, map_leaves
from retraced_server.retrace.entered_regions import entered_regions

# Gives the result of an operator, from the operator, its arguments, and what executes it.
Call = Callable[[Any, Any, Any, Callable[[], Any]], Any]


# Targets and arguments are whatever a graph has.
def plainly(_target: Any, _args: Any, _kwargs: Any, execute: Callable[[], Any]) -> Any:
    """Call an operator by executing it."""
    return execute()


class InterpretedSubgraph(torch.nn.Module):
    """A subgraph that can be called.

    Args:
        subgraph: The graph module.
        call: How its operators are called.
    """

    def __init__(self, subgraph: fx.GraphModule, call: Call) -> None:
        super().__init__()
        self.subgraph = subgraph
        self._call = call

    # A subgraph takes and gives whatever its operator does.
    def forward(self, *operands: Any) -> Any:
        """Run the graph."""
        with entered_regions() as called:
            return _SubgraphInterpreter(self.subgraph, self._call, called).run(*operands)


class _SubgraphInterpreter(fx.Interpreter):
    def __init__(self, subgraph: fx.GraphModule, call: Call, called: Callable[[Any, Any], None]) -> None:
        super().__init__(subgraph)
        self._call = call
        self._called = called

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        result = self._call(target, args, kwargs, lambda: target(*args, **kwargs))
        self._called(target, result)
        return result

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return InterpretedSubgraph(value, self._call) if isinstance(value, fx.GraphModule) else value


def interpreted(arguments: Argument, call: Call) -> Argument:
    """Make every graph module among arguments one that is interpreted."""
    return map_leaves(arguments, fx.GraphModule, lambda subgraph: InterpretedSubgraph(subgraph, call))

"""Runs the bodies of higher-order operators node by node, so that no code is generated from a program and compiled."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from retraced_server.retrace.arguments import Argument, map_leaves


class InterpretedBody(torch.nn.Module):
    """A body that can be called.

    Args:
        body: The graph module.
    """

    def __init__(self, body: fx.GraphModule) -> None:
        super().__init__()
        self.body = body

    # A body takes and gives whatever its operator does.
    def forward(self, *operands: Any) -> Any:
        """Runs the graph."""
        return _BodyInterpreter(self.body).run(*operands)


class _BodyInterpreter(fx.Interpreter):
    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return InterpretedBody(value) if isinstance(value, fx.GraphModule) else value


def interpreted(arguments: Argument) -> Argument:
    """Makes every graph module among arguments one that is interpreted."""
    return map_leaves(arguments, fx.GraphModule, InterpretedBody)

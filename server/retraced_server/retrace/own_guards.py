"""The guards that a program's own nodes need, whoever asks for them again."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import fx

from retraced_server.program.functions import stated_effect
from retraced_server.retrace.execute import execute
from retraced_server.retrace.graphs import walk_graphs
from retraced_server.retrace.regions import Regions, under_autocast
from retraced_server.retrace.session import find_fake_mode
from retraced_server.torch_compat.fake_tensors import disable_fake_tensor_cache, enable_python_dispatcher
from retraced_server.torch_compat.operators import HigherOrderOperator


def add_own_guards(module: fx.GraphModule) -> None:
    """Execute each node of a program on what is recorded for its arguments, so that the shape environment holds the guards that it needs.

    A program that was read from a file has them as code only, which is never evaluated. Subgraphs are executed by themselves. A node that
    cannot be executed adds nothing.

    Args:
        module: The program's root graph module. The caller takes back what its shape environment learns.
    """
    mode = find_fake_mode(module, [])
    if mode is None:
        return
    allowed, mode.allow_non_fake_inputs = mode.allow_non_fake_inputs, True
    # Recorded tensors must not remember symbols of other executions.
    mode.epoch += 1
    try:
        with mode, disable_fake_tensor_cache(mode), enable_python_dispatcher(), torch.no_grad():
            for _, graph in walk_graphs(module):
                regions = Regions()
                for node in graph.graph.nodes:
                    regions.visit(node)
                    if _is_executed(node):
                        # Torch raises what it likes.
                        with suppress(Exception), under_autocast(regions.autocast):
                            execute(node.target, *_recorded((node.args, node.kwargs)))
    finally:
        mode.allow_non_fake_inputs = allowed
        mode.epoch += 1


def _is_executed(node: fx.Node) -> bool:
    if node.op != "call_function" or isinstance(node.target, HigherOrderOperator):
        return False
    return not stated_effect(node.target).of_regions


# A recorded value is whatever an operator returns.
def _recorded(arguments: Any) -> Any:
    return fx.node.map_arg(arguments, lambda node: node.meta["val"])

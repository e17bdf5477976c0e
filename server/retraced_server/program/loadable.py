"""What `torch.export.load` cannot read of what it has written itself, in programs that are otherwise as they should be."""

from __future__ import annotations

import torch
from torch import fx
from torch.export import ExportedProgram

from retraced_server.program.operators import schema_arguments
from retraced_server.torch_compat.operators import OpOverload


def not_loadable(program: ExportedProgram) -> list[str]:
    """Return a remark for each call, in any graph of a program, for which torch refuses the archive that it is written to.

    torch leaves out arguments that have their default, and then looks for those named by keywords of Python all the same
    (`deserialize_inputs` in torch/_export/serde/serialize.py).
    """
    return [
        f"torch {torch.__version__} cannot load the program again: its reader needs the argument `{name}` of `{node.name}` "
        f"({node.target}), which its writer leaves out where it has its default; export it with another value, or with another operator"
        for module in program.graph_module.modules()
        if isinstance(module, fx.GraphModule)
        for node in module.graph.nodes
        for name in _left_out(node)
    ]


def _left_out(node: fx.Node) -> list[str]:
    """Return the arguments of a call that are named by keywords of Python and not given."""
    if not isinstance(node.target, OpOverload):
        return []
    arguments = schema_arguments(node.target)
    return [
        argument.name
        for position, argument in enumerate(arguments)
        if argument.is_keyword and position >= len(node.args) and argument.name not in node.kwargs
    ]

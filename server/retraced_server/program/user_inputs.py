"""Whether sample inputs of one program still fit another."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind


def same_user_inputs(before: ExportedProgram, after: ExportedProgram) -> bool:
    """Whether two programs take the same arguments: count, order, names, types, devices and specialised sizes."""
    if before.call_spec.in_spec != after.call_spec.in_spec:
        return False
    return _described(before) == _described(after)


def _described(program: ExportedProgram) -> list[Any]:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    described: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT:
            continue
        if isinstance(spec.arg, ConstantArgument):
            described.append((spec.arg.name, type(spec.arg.value), repr(spec.arg.value)))
            continue
        value = values.get(spec.arg.name)
        if isinstance(value, torch.Tensor):
            sizes = tuple(None if isinstance(size, torch.SymInt) else size for size in value.shape)
            described.append((spec.arg.name, value.dtype, value.device, sizes))
        else:
            described.append((spec.arg.name, type(value)))
    return described

"""What is said of a program as a whole, as `retraced/v1/program.proto` describes."""

from __future__ import annotations

from collections import Counter

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, ExportGraphSignature, InputKind, OutputKind
from torch.fx import GraphModule

from retraced.v1 import program_pb2 as pb
from retraced_server.analysis.graphs import walk_graphs
from retraced_server.torch_compat.fake_tensors import FakeTensor
from retraced_server.torch_compat.programs import guards_code
from retraced_server.torch_compat.symbolic_shapes import ShapeEnv, backed_values, shape_env_of_value
from retraced_server.worker.describe_symbols import Ranges, bound_text, hint
from retraced_server.worker.describe_text import constant_text, target_text
from retraced_server.worker.texts import utf8

_INPUT_KINDS = {
    InputKind.USER_INPUT: pb.INPUT_KIND_USER_INPUT,
    InputKind.PARAMETER: pb.INPUT_KIND_PARAMETER,
    InputKind.BUFFER: pb.INPUT_KIND_BUFFER,
    InputKind.CONSTANT_TENSOR: pb.INPUT_KIND_CONSTANT_TENSOR,
    InputKind.CUSTOM_OBJ: pb.INPUT_KIND_CUSTOM_OBJ,
    InputKind.TOKEN: pb.INPUT_KIND_TOKEN,
}
_OUTPUT_KINDS = {
    OutputKind.USER_OUTPUT: pb.OUTPUT_KIND_USER_OUTPUT,
    OutputKind.LOSS_OUTPUT: pb.OUTPUT_KIND_LOSS_OUTPUT,
    OutputKind.BUFFER_MUTATION: pb.OUTPUT_KIND_BUFFER_MUTATION,
    OutputKind.PARAMETER_MUTATION: pb.OUTPUT_KIND_PARAMETER_MUTATION,
    OutputKind.GRADIENT_TO_PARAMETER: pb.OUTPUT_KIND_GRADIENT_TO_PARAMETER,
    OutputKind.GRADIENT_TO_USER_INPUT: pb.OUTPUT_KIND_GRADIENT_TO_USER_INPUT,
    OutputKind.USER_INPUT_MUTATION: pb.OUTPUT_KIND_USER_INPUT_MUTATION,
    OutputKind.TOKEN: pb.OUTPUT_KIND_TOKEN,
}


def describe_program(program: ExportedProgram, *, schema_version: tuple[int, int] | None, torch_version: str) -> pb.ProgramInfo:
    """Describe a program: signature, symbols, versions, sizes, guards, and how often each target is called.

    Args:
        program: The program.
        schema_version: Major and minor of the schema that its archive is written in; None where it was not written.
        torch_version: The torch that wrote its archive; empty where that is not known.
    """
    modules = [module for _, module in walk_graphs(program.graph_module)]
    info = pb.ProgramInfo(
        signature=_signature(program.graph_signature),
        symbols=_symbols(program.range_constraints, _shape_env(modules)),
        torch_version=utf8(torch_version),
        node_count=sum(len(module.graph.nodes) for module in modules),
        graph_count=len(modules),
        dialect=program.dialect,
        guards=map(utf8, guards_code(program)),
        targets=_targets(modules),
    )
    if schema_version is not None:
        info.schema_version.major, info.schema_version.minor = schema_version
    return info


def _signature(signature: ExportGraphSignature) -> pb.GraphSignature:
    message = pb.GraphSignature()
    for given in signature.input_specs:
        entry = message.inputs.add(
            kind=_INPUT_KINDS[given.kind],
            name=utf8(given.arg.name),
            target=utf8(given.target or ""),
            persistent=given.persistent,
        )
        if isinstance(given.arg, ConstantArgument):
            entry.constant = utf8(constant_text(given.arg.value))
    for returned in signature.output_specs:
        result = message.outputs.add(
            kind=_OUTPUT_KINDS[returned.kind], name=utf8(returned.arg.name), target=utf8(returned.target or "")
        )
        if isinstance(returned.arg, ConstantArgument):
            result.constant = utf8(constant_text(returned.arg.value))
    return message


def _symbols(ranges: Ranges, shape_env: ShapeEnv | None) -> list[pb.Symbol]:
    values = backed_values(shape_env)
    messages = []
    for symbol, range_ in ranges.items():
        known = hint(symbol, int, values)
        messages.append(
            pb.Symbol(
                name=str(symbol),
                lower=bound_text(range_.lower),
                upper=bound_text(range_.upper),
                hint=None if known is None else int(known),
            )
        )
    return messages


def _shape_env(modules: list[GraphModule]) -> ShapeEnv | None:
    """Find the shape environment of the program, which has one at most, through any recorded value."""
    for module in modules:
        for node in module.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, FakeTensor | torch.SymInt | torch.SymFloat | torch.SymBool):
                return shape_env_of_value(value)
    return None


def _targets(modules: list[GraphModule]) -> list[pb.TargetCount]:
    calls = Counter(node.target for module in modules for node in module.graph.nodes if node.op == "call_function")
    counts: Counter[str] = Counter()
    for target, count in calls.items():
        counts[target_text(target)] += count
    return [
        pb.TargetCount(target=target, count=count)
        for target, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    ]

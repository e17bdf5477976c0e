"""From a program to its model record."""

from __future__ import annotations

import msgspec
from torch.export import ExportedProgram

from retraced_server.program.errors import cause, program_invalid, program_unsupported
from retraced_server.program.write_graph import GraphWriter
from retraced_server.program.write_metadata import write_graph_metadata
from retraced_server.program.write_signature import ModuleCallWriter, write_signature
from retraced_server.program.write_values import ValueWriter, write_ranges
from retraced_server.torch_compat.operators import OPSET_VERSION
from retraced_server.torch_compat.programs import SpecViolationError, guards_code
from retraced_server.torch_compat.serialization import SCHEMA_VERSION, TORCH_VERSION

_ENCODER = msgspec.json.Encoder()


def write_model(program: ExportedProgram) -> bytes:
    """Return the model record of a program: as parsed JSON, what `torch.export.save` writes.

    Raises:
        RetracedError: PROGRAM_INVALID where its verifiers refuse it, PROGRAM_UNSUPPORTED where something in it has no serialized form.
    """
    try:
        program.validate()
    except (SpecViolationError, AssertionError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise program_invalid(f"the program is not valid: {cause(error)}") from error
    graph = GraphWriter(program.graph_module, ValueWriter(), {})
    written = graph.write()
    calls = ModuleCallWriter(graph)
    module_calls = calls.write(program.module_call_graph)
    major, minor = SCHEMA_VERSION
    model = {
        "graph_module": {
            "graph": written,
            "signature": write_signature(program.graph_signature, graph),
            "module_call_graph": module_calls,
            "metadata": write_graph_metadata(program.graph_module.meta),
            "treespec_namedtuple_fields": calls.named_tuples,
        },
        "opset_version": {"aten": OPSET_VERSION},
        "range_constraints": write_ranges(program.range_constraints),
        "schema_version": {"major": major, "minor": minor},
        "verifiers": [verifier.dialect for verifier in program.verifiers],
        "torch_version": TORCH_VERSION,
        "guards_code": guards_code(program),
    }
    try:
        return _ENCODER.encode(model)
    # Lone surrogates, integers of more than 64 bits.
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError) as error:
        raise program_unsupported(f"the program has no serialized form: {cause(error)}") from error

"""What is said of a program as a whole, compared with the program."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import torch

from retraced.v1 import program_pb2 as pb
from retraced_server.worker.describe_program import describe_program
from tests.support.case import ProgramCase
from tests.support.describe import graphs
from tests.support.models import by_name

from .expected import expected_target


def describe(name: str) -> pb.ProgramInfo:
    return describe_program(by_name(name).program, schema_version=(8, 14), torch_version="2.13.0")


def test_description_matches_the_program(any_case: ProgramCase) -> None:
    program = any_case.program
    info = describe_program(program, schema_version=(8, 14), torch_version="2.13.0")
    signature = program.graph_signature
    assert [pb.InputKind.Name(entry.kind) for entry in info.signature.inputs] == [
        f"INPUT_KIND_{spec.kind.name}" for spec in signature.input_specs
    ]
    assert [(entry.name, entry.target) for entry in info.signature.inputs] == [
        (spec.arg.name, spec.target or "") for spec in signature.input_specs
    ]
    assert [entry.persistent if entry.HasField("persistent") else None for entry in info.signature.inputs] == [
        spec.persistent for spec in signature.input_specs
    ]
    assert [pb.OutputKind.Name(entry.kind) for entry in info.signature.outputs] == [
        f"OUTPUT_KIND_{spec.kind.name}" for spec in signature.output_specs
    ]
    assert [(entry.name, entry.target) for entry in info.signature.outputs] == [
        (spec.arg.name or "", spec.target or "") for spec in signature.output_specs
    ]
    assert [symbol.name for symbol in info.symbols] == [str(symbol) for symbol in program.range_constraints]
    assert list(info.guards) == program._guards_code
    assert info.dialect == program.dialect
    modules = [module for _, module in graphs(program.graph_module)]
    assert info.graph_count == len(modules)
    assert info.node_count == sum(len(module.graph.nodes) for module in modules)
    calls = Counter(
        expected_target(node.target) for module in modules for node in module.graph.nodes if node.op == "call_function"
    )
    assert {entry.target: entry.count for entry in info.targets} == calls


def test_constants_of_the_signature_are_written_as_python_writes_them() -> None:
    inputs = describe("only_a_constant_input").signature.inputs
    assert [(entry.name, entry.constant) for entry in inputs if entry.HasField("constant")] == [("n", "3")]
    outputs = describe("odd_outputs").signature.outputs
    constants = [entry.constant for entry in outputs if entry.HasField("constant")]
    specs = by_name("odd_outputs").program.graph_signature.output_specs
    assert constants == [repr(spec.arg.value) for spec in specs if hasattr(spec.arg, "value")]
    assert constants


def test_symbols_have_ranges_and_hints() -> None:
    class Sized(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
            k: Any = n.item()
            torch._check(k >= 3)
            return x.sum() + y.sum() + torch.ones(k).sum()

    shapes = ({0: torch.export.Dim("batch", min=2, max=64)}, {0: torch.export.Dim.AUTO}, None)
    program = torch.export.export(Sized(), (torch.ones(6), torch.ones(5), torch.tensor(4)), dynamic_shapes=shapes)
    symbols = describe_program(program, schema_version=None, torch_version="").symbols
    plain = {
        (
            symbol.lower if symbol.HasField("lower") else None,
            symbol.upper if symbol.HasField("upper") else None,
            symbol.hint if symbol.HasField("hint") else None,
        )
        for symbol in symbols
    }
    assert plain == {("2", "64", 6), ("2", None, 5), ("3", None, None)}
    assert [symbol.name for symbol in symbols if not symbol.HasField("hint")] == ["u0"]


def test_targets_come_most_frequent_first_then_by_name() -> None:
    order = [(-entry.count, entry.target) for entry in describe("everything").targets]
    assert order == sorted(order)


def test_versions_are_those_of_the_archive() -> None:
    info = describe("nothing_at_all")
    assert (info.schema_version.major, info.schema_version.minor, info.torch_version) == (8, 14, "2.13.0")


def test_program_that_was_not_written_has_no_schema_version() -> None:
    info = describe_program(by_name("nothing_at_all").program, schema_version=None, torch_version="")
    assert not info.HasField("schema_version")
    assert info.torch_version == ""


def test_program_read_from_an_archive_is_described_as_before() -> None:
    case = by_name("everything")
    loaded = torch.export.load(io.BytesIO(case.archive))
    assert describe_program(loaded, schema_version=(8, 14), torch_version="2.13.0") == describe("everything")

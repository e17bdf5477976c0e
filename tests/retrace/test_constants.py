"""A constant that a pass creates becomes a constant input, in the root graph and out of subgraphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export.graph_signature import InputKind

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, ProxyValue
from tests.support.case import ProgramCase
from tests.support.compare import assert_equivalent
from tests.support.describe import graphs
from tests.support.models import by_name, by_tag
from tests.support.passes import TorchExportPass, canonical, constants_pass

aten = torch.ops.aten

_BODIES = [case for case in by_tag("higher-order") if case.name not in ("flex_attention", "out_dtype", "cond_with_item")]


class AddsZero(ExportPass):
    """Adds a tensor constant of zero to what each relu gives, in every graph; each a tensor of its own."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        value = super().call_operator(op, args, kwargs, meta)
        if op is not aten.relu.default:
            return value
        return super().call_operator(aten.add.Tensor, (value, torch.tensor(0, dtype=value.to_tensor().dtype)), {}, meta)


def constants_of(program: torch.export.ExportedProgram) -> dict[str, torch.Tensor]:
    """The lifted constants of a program by name."""
    return {name: value for name, value in program.constants.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("case", _BODIES, ids=str)
def test_constant_made_in_a_subgraph_is_given_to_it_as_an_operand(case: ProgramCase) -> None:
    result = run_pipeline(case.program, [AddsZero()])
    assert result.modified
    assert len(constants_of(result.program)) > len(constants_of(case.program))
    for _, graph in graphs(result.program.graph_module):
        assert not list(graph.named_buffers(recurse=False))
    assert_equivalent(case, result.program)


@pytest.mark.parametrize("name", ["custom_ops", "in_place_functional", "tied_weights", "no_tensor_inputs", "nothing_at_all"])
def test_constant_is_an_input_with_a_signature_entry(name: str) -> None:
    class AddsZeros(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            value = super().call_operator(op, args, kwargs, meta)
            if op not in (aten.add.Tensor, aten.embedding.default, aten.relu.default):
                return value
            return super().call_operator(aten.add.Tensor, (value, torch.tensor(0, dtype=value.to_tensor().dtype)), {}, meta)

    case = by_name(name)
    program = run_pipeline(case.program, [AddsZeros()]).program
    specs = [spec for spec in program.graph_signature.input_specs if spec not in case.program.graph_signature.input_specs]
    assert specs
    assert all(spec.kind is InputKind.CONSTANT_TENSOR and spec.target in program.constants for spec in specs)
    kinds = [spec.kind is InputKind.USER_INPUT for spec in program.graph_signature.input_specs]
    assert kinds == sorted(kinds), "constants come before the user's inputs"
    assert_equivalent(case, program)


@pytest.mark.parametrize("name", ["in_place_functional", "cond"])
def test_constant_is_the_attribute_that_it_is_on_torchs_base(name: str) -> None:
    # Torch does not lift it, so that only the graph modules can be compared.
    ours = constants_pass(ExportPass)()(by_name(name).program.graph_module)
    stock = constants_pass(TorchExportPass)()(by_name(name).build().graph_module)
    assert canonical(ours.graph_module) == canonical(stock.graph_module)


class UsesOneTensor(ExportPass):
    """Gives the same tensor object, or the same parameter, at every relu."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.tensor = tensor

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        value = super().call_operator(op, args, kwargs, meta)
        return super().call_operator(aten.add.Tensor, (value, self.tensor), {}, meta) if op is aten.relu.default else value


@pytest.mark.parametrize("tensor", [torch.zeros(()), nn.Parameter(torch.zeros(())), torch.zeros(1, requires_grad=True)])
def test_one_tensor_given_many_times_is_one_constant(tensor: torch.Tensor) -> None:
    case = by_name("cond")
    program = run_pipeline(case.program, [UsesOneTensor(tensor)]).program
    assert len(constants_of(program)) == 1
    (constant,) = constants_of(program).values()
    assert not constant.requires_grad
    assert constant.data_ptr() == tensor.data_ptr()
    assert_equivalent(case, program)


def test_constants_of_several_passes_get_names_of_their_own() -> None:
    case = by_name("everything")
    program = run_pipeline(case.program, [AddsZero(), AddsZero(), AddsZero()]).program
    assert len(constants_of(program)) == len(constants_of(case.program)) + 3
    assert_equivalent(case, program)


def test_constant_that_is_no_longer_used_goes_with_its_signature_entry() -> None:
    class Forgets(ExportPass):
        def placeholder(self, name: str, arg: Any, meta: Any) -> Any:
            if name == "c_lifted_tensor_0":
                return torch.tensor(0.0)
            return super().placeholder(name, arg, meta)

    case = by_name("cond")
    with_constant = run_pipeline(case.program, [UsesOneTensor(torch.zeros(()))]).program
    program = run_pipeline(with_constant, [Forgets()]).program
    assert [spec.target for spec in program.graph_signature.input_specs if spec.kind is InputKind.CONSTANT_TENSOR] == [
        "lifted_tensor_1"
    ]
    assert list(program.constants) == ["lifted_tensor_1"]
    assert_equivalent(case, program)


def test_sizes_of_a_constant_are_never_symbols() -> None:
    case = by_name("unused_input")
    program = run_pipeline(case.program, [UsesOneTensor(torch.zeros(8))]).program
    (name,) = constants_of(program)
    placeholder = next(node for node in program.graph.nodes if node.name == f"c_{name}")
    assert [type(size) for size in placeholder.meta["val"].shape] == [int]
    assert program.range_constraints == case.program.range_constraints


def test_subgraph_that_takes_no_operands_refuses_a_constant_by_name() -> None:
    with pytest.raises(RetracedError, match="in a subgraph of flex_attention") as failure:
        run_pipeline(by_name("flex_attention").program, [AddsZero()])
    assert failure.value.reason is Reason.PASS_OUTPUT_INVALID


def test_fake_tensor_as_a_constant_is_refused_with_the_ways_out() -> None:
    class MakesFake(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            return super().call_operator(aten.add.Tensor, (args[0], torch.zeros(())), {}, meta)

    with pytest.raises(RetracedError, match=r"no node computes it.*torch\.tensor"):
        run_pipeline(by_name("unused_input").program, [MakesFake()])


def test_input_program_keeps_its_constants() -> None:
    case = by_name("everything")
    before = dict(case.program.constants)
    run_pipeline(case.program, [AddsZero()])
    assert {name: id(value) for name, value in case.program.constants.items()} == {n: id(v) for n, v in before.items()}

"""What passes write to a program that they hold, besides its graph: it goes into the result of the pipeline, and the program is put back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from retraced_server.errors import RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, PassResult
from tests.support.compare import saved_and_loaded, validate
from tests.support.describe import describe_program

aten = torch.ops.aten


def _program() -> ExportedProgram:
    torch.manual_seed(0)
    return torch.export.export(nn.Sequential(nn.Conv1d(4, 4, 3), nn.ReLU()), (torch.randn(2, 4, 9),))


class _Holds(ExportPass):
    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.program = program


class _ConvolvesInTwoDimensions(_Holds):
    """Gives the weight another dimension: in the program, and not in the graph, since it is a parameter of the root graph."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        assert graph_module is self.program.graph_module
        graph = graph_module.graph
        (convolution,) = graph.find_nodes(op="call_function", target=aten.conv1d.default)
        x, weight, bias = convolution.args
        name = self.program.graph_signature.inputs_to_parameters[weight.name]
        self.program.state_dict[name] = nn.Parameter(self.program.state_dict[name].unsqueeze(2))
        weight.meta["val"] = weight.meta["val"].unsqueeze(2)
        with graph.inserting_before(convolution):
            wide = graph.call_function(aten.unsqueeze.default, (x, 2))
        convolution.target, convolution.args = aten.conv2d.default, (wide, weight, bias)
        with graph.inserting_after(convolution):
            narrow = graph.call_function(aten.squeeze.dim, (convolution, 2))
        convolution.replace_all_uses_with(narrow)
        narrow.args = (convolution, 2)
        return super().call(graph_module)


class _AddsParameter(_Holds):
    """Scales the result by a parameter that it adds to state dictionary, signature and graph."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        graph = graph_module.graph
        (relu,) = graph.find_nodes(op="call_function", target=aten.relu.default)
        with graph.inserting_before(next(iter(graph.nodes))):
            scale = graph.placeholder("p_scale")
        with graph.inserting_after(relu):
            scaled = graph.call_function(aten.mul.Tensor, (relu, scale))
        relu.replace_all_uses_with(scaled)
        scaled.args = (relu, scale)
        data = nn.Parameter(torch.full((1,), 3.0))
        fake_mode = graph.find_nodes(op="placeholder")[1].meta["val"].fake_mode
        scale.meta["val"] = fake_mode.from_tensor(data, static_shapes=True)
        self.program.state_dict["scale"] = data
        spec = InputSpec(InputKind.PARAMETER, TensorArgument("p_scale"), "scale")
        self.program.graph_signature.input_specs.insert(0, spec)
        return super().call(graph_module)


class _WritesWeights(_Holds):
    def call(self, graph_module: fx.GraphModule) -> PassResult:
        self.program.state_dict["0.bias"] = nn.Parameter(self.program.state_dict["0.bias"] + 1.0)
        return PassResult(graph_module, True)


class _Fails(_AddsParameter):
    def call(self, graph_module: fx.GraphModule) -> PassResult:
        self.program.constants["extra"] = torch.ones(1)
        super().call(graph_module)
        raise ValueError("too late")


def _unchanged(program: ExportedProgram) -> Any:
    return describe_program(program), dict(program.state_dict), dict(program.constants), str(program.graph_signature)


def _assert_unchanged(program: ExportedProgram, before: Any) -> None:
    description, state, constants, signature = before
    assert describe_program(program) == description
    assert list(program.state_dict) == list(state)
    assert all(program.state_dict[name] is value for name, value in state.items())
    assert program.constants == constants
    assert str(program.graph_signature) == signature


def test_weight_that_a_pass_gives_another_dimension_in_the_program_has_it_in_the_result_alone() -> None:
    program = _program()
    before = _unchanged(program)
    result = run_pipeline(program, [_ConvolvesInTwoDimensions(program), "retrace"]).program
    assert result.state_dict["0.weight"].shape == (4, 4, 1, 3)
    assert len([node for node in result.graph.nodes if node.target is aten.unsqueeze.default]) == 1
    validate(result)
    x = torch.randn(2, 4, 9)
    torch.testing.assert_close(saved_and_loaded(result).module()(x), program.module()(x))
    _assert_unchanged(program, before)


def test_parameter_that_a_pass_adds_to_the_program_is_a_parameter_of_the_result_and_no_argument() -> None:
    program = _program()
    before = _unchanged(program)
    result = run_pipeline(program, [_AddsParameter(program), "retrace"]).program
    assert result.graph_signature.inputs_to_parameters["p_scale"] == "scale"
    validate(result)
    x = torch.randn(2, 4, 9)
    torch.testing.assert_close(saved_and_loaded(result).module()(x), program.module()(x) * 3.0)
    _assert_unchanged(program, before)


def test_weights_are_written_by_a_pass_that_leaves_the_graph_as_it_is() -> None:
    program = _program()
    before = _unchanged(program)
    result = run_pipeline(program, [_WritesWeights(program)])
    assert result.modified
    assert result.reports[0].modified
    torch.testing.assert_close(result.program.state_dict["0.bias"], program.state_dict["0.bias"] + 1.0)
    assert result.program.graph_module is not program.graph_module
    validate(result.program)
    _assert_unchanged(program, before)


def test_nothing_that_a_failing_pass_wrote_to_the_program_is_left() -> None:
    program = _program()
    before = _unchanged(program)
    with pytest.raises(RetracedError, match="too late"):
        run_pipeline(program, [_Fails(program)])
    _assert_unchanged(program, before)


@pytest.mark.parametrize("visits", [True, False])
def test_attribute_that_is_inserted_by_hand_needs_no_value(visits: bool) -> None:
    class ReadsAttribute(ExportPass):
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            (relu,) = graph_module.graph.find_nodes(op="call_function", target=aten.relu.default)
            graph_module.register_buffer("two", torch.full((1,), 2.0))
            with graph_module.graph.inserting_before(relu):
                read = graph_module.graph.get_attr("two")
            with graph_module.graph.inserting_after(relu):
                scaled = graph_module.graph.call_function(aten.mul.Tensor, (relu, read))
            relu.replace_all_uses_with(scaled)
            scaled.args = (relu, read)
            return super().call(graph_module) if visits else PassResult(graph_module, True)

    program = _program()
    result = run_pipeline(program, [ReadsAttribute()]).program
    x = torch.randn(2, 4, 9)
    torch.testing.assert_close(saved_and_loaded(result).module()(x), program.module()(x) * 2.0)
    made = ReadsAttribute()(program.graph_module).graph_module
    (read,) = made.graph.find_nodes(op="get_attr")
    assert read.meta["val"].shape == (1,)

"""Bare graph modules: where inputs come from, fake tensor modes, and constants that cannot be faked, as on torch's base."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.shape_prop import ShapeProp

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, ExportPassError, ProxyValue
from tests.support.models import by_name
from tests.support.passes import TorchExportPass, canonical

aten = torch.ops.aten


def relu_twice(base: type) -> Any:
    """Writes relu as two operators, on either engine."""

    class ReluTwice(base):  # type: ignore[misc]
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if op is not aten.relu.default:
                return super().call_operator(op, args, kwargs, meta)
            positive = super().call_operator(aten.gt.Scalar, (args[0], 0), {}, meta)
            return super().call_operator(aten.mul.Tensor, (positive, args[0]), {}, meta)

    return ReluTwice()


def traced() -> fx.GraphModule:
    """A graph of real tensors, without a recorded value."""
    module = make_fx(lambda x, y: (x.relu() + y, y))(torch.randn(3, 4), torch.randn(4))
    for node in module.graph.nodes:
        node.meta = {}
    return module


def fakes(module: fx.GraphModule) -> dict[str, Any]:
    """The recorded values by node."""
    return {node.name: node.meta.get("val") for node in module.graph.nodes}


def _as_arguments(module: fx.GraphModule, mode: FakeTensorMode | None) -> None:
    tensors = [torch.randn(3, 4), torch.randn(4)]
    module.meta["args"] = [mode.from_tensor(tensor) if mode else tensor for tensor in tensors]


def _as_values(module: fx.GraphModule, mode: FakeTensorMode | None) -> None:
    assert mode is not None
    x, y = module.graph.find_nodes(op="placeholder")
    x.meta["val"], y.meta["val"] = mode.from_tensor(torch.randn(3, 4)), mode.from_tensor(torch.randn(4))


def _as_tensor_meta(module: fx.GraphModule, _: FakeTensorMode | None) -> None:
    ShapeProp(module).propagate(torch.randn(3, 4), torch.randn(4))


@pytest.mark.parametrize(
    ("describe", "faked"),
    [(_as_arguments, False), (_as_arguments, True), (_as_values, True)],
    ids=["real arguments", "fake arguments", "recorded values"],
)
def test_inputs_are_what_the_module_records_as_on_torchs_base(describe: Any, faked: bool) -> None:
    ours, stock = traced(), traced()
    for module in (ours, stock):
        describe(module, FakeTensorMode() if faked else None)
    mine = relu_twice(ExportPass)(ours).graph_module
    theirs = relu_twice(TorchExportPass)(stock).graph_module
    assert canonical(mine) == canonical(theirs)
    assert all(isinstance(value, FakeTensor) for name, value in fakes(mine).items() if name != "output")
    x, y = torch.randn(3, 4), torch.randn(4)
    torch.testing.assert_close(mine(x, y), theirs(x, y))


def test_inputs_are_made_of_tensor_metadata() -> None:
    module = traced()
    _as_tensor_meta(module, None)
    values = fakes(relu_twice(ExportPass)(module).graph_module)
    assert {name: tuple(value.shape) for name, value in values.items() if value is not None} == {
        "x_1": (3, 4),
        "y_1": (4,),
        "gt": (3, 4),
        "relu": (3, 4),
        "add": (3, 4),
    }


def test_recorded_constant_of_an_input_is_what_hooks_can_read() -> None:
    seen: list[Any] = []

    class Reads(ExportPass):
        def inputs(self, graph_module: fx.GraphModule) -> list[Any]:
            seen.extend(super().inputs(graph_module))
            return super().inputs(graph_module)

    module = run_pipeline(by_name("everything").program, "retrace").program.graph_module
    Reads()(module)
    constants = [value for value in seen if isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)]
    recorded = [n.meta["val"].constant for n in module.graph.nodes if n.name.startswith("c_") and "val" in n.meta]
    assert [id(value) for value in constants] == [id(value) for value in recorded if value is not None]


def test_unused_input_needs_no_description() -> None:
    module = traced()
    _as_values(module, FakeTensorMode())
    with module.graph.inserting_before(next(iter(module.graph.nodes))):
        module.graph.placeholder("nothing")
    module.recompile()
    assert relu_twice(ExportPass)(module).modified


@pytest.mark.parametrize("base", [ExportPass, TorchExportPass])
def test_used_input_without_description_is_refused(base: type) -> None:
    with pytest.raises(RuntimeError, match="Cannot construct an input"):
        relu_twice(base)(traced())


def test_pass_may_make_the_inputs_itself() -> None:
    class Gives(ExportPass):
        def inputs(self, graph_module: fx.GraphModule) -> list[Any]:
            mode = FakeTensorMode()
            return [mode.from_tensor(torch.randn(5, 4)), mode.from_tensor(torch.randn(4))]

    assert fakes(Gives()(traced()).graph_module)["add"].shape == (5, 4)


def test_two_fake_tensor_modes_are_refused() -> None:
    module = traced()
    x, y = module.graph.find_nodes(op="placeholder")
    x.meta["val"], y.meta["val"] = FakeTensorMode().from_tensor(torch.ones(3, 4)), FakeTensorMode().from_tensor(torch.ones(4))
    with pytest.raises(ExportPassError, match="Multiple fake tensor mode"):
        ExportPass()(module)


def test_settings_of_the_fake_mode_are_put_back() -> None:
    module, mode = traced(), FakeTensorMode(allow_non_fake_inputs=False)
    _as_values(module, mode)
    relu_twice(ExportPass)(module)
    assert mode.allow_non_fake_inputs is False


@pytest.mark.parametrize("base", [ExportPass, TorchExportPass])
def test_tensor_that_cannot_be_faked_is_described_by_tensor_metadata(base: type, capfd: Any) -> None:
    module = traced()
    view_of_sparse = torch.eye(4).to_sparse().coalesce().values()
    module.meta["args"] = [view_of_sparse, torch.ones(4)]
    new = relu_twice(base)(module).graph_module
    metas = {node.name: node.meta for node in new.graph.nodes}
    assert metas["x_1"]["val"] is None
    assert metas["x_1"]["tensor_meta"].shape == (4,)
    assert isinstance(metas["y_1"]["val"], FakeTensor)
    torch.testing.assert_close(new(torch.ones(4), torch.ones(4))[0], torch.full((4,), 2.0))
    assert base is TorchExportPass or not capfd.readouterr().out


def dequantizing(tensor: torch.Tensor) -> fx.GraphModule:
    """A graph that dequantizes an attribute."""
    root = nn.Module()
    root.register_buffer("weight", tensor)
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.get_attr("weight")
    graph.output((graph.call_function(aten.add.Tensor, (x, graph.call_function(aten.dequantize.self, (weight,)))),))
    return fx.GraphModule(root, graph)


def test_quantized_attribute_is_read_where_nothing_is_faked() -> None:
    tensor = torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)
    module = dequantizing(tensor)
    module.meta["args"] = [torch.randn(4)]
    result = ExportPass()(module).graph_module
    assert {name: tuple(value.shape) for name, value in fakes(result).items() if value is not None} == {
        "x": (4,),
        "dequantize_self": (4,),
        "add_tensor": (4,),
    }
    x = torch.randn(4)
    torch.testing.assert_close(result(x)[0], x + tensor.dequantize())


@pytest.mark.parametrize("base", [ExportPass, TorchExportPass])
def test_quantized_input_is_recorded_dequantized(base: type) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output((x,))
    module = fx.GraphModule(nn.Module(), graph)
    module.meta["args"] = [torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8)]
    (value, *_) = fakes(relu_twice(base)(module).graph_module).values()
    assert isinstance(value, FakeTensor)
    assert value.dtype is torch.float32


def test_parameters_and_modules_as_arguments() -> None:
    weight = nn.Parameter(torch.randn(4))
    branch = fx.symbolic_trace(nn.Identity())

    class Conditional(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            if op is not aten.add.Tensor:
                return super().call_operator(op, args, kwargs, meta)
            return super().call_operator(op, (args[0], weight), kwargs, meta)

    module = traced()
    _as_values(module, FakeTensorMode(shape_env=None))
    new = Conditional()(module).graph_module
    assert dict(new.named_parameters()) == {"_param_constant0": weight}
    assert fakes(new)["_param_constant0"].shape == (4,)
    tracer = ExportPass().tracer
    assert tracer.create_arg(branch) is tracer.create_arg(branch)
    assert tracer.create_arg([branch, 2]) == [tracer.create_arg(branch), 2]
    assert list(tracer.root.named_children()) == [("submodule_0", branch)]


def test_overload_packets_are_resolved_as_torch_would_call_them() -> None:
    class Packets(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            return super().call_operator(op.overloadpacket, args, kwargs, meta)

    for name in ("bert", "multiple_results"):
        module = by_name(name).program.graph_module
        assert Packets()(module).graph_module is module


def test_packet_that_takes_no_such_arguments_is_refused() -> None:
    class Breaks(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            return super().call_operator(aten.add, ("text",), {}, meta)

    with pytest.raises(ExportPassError, match=r"no overload of aten\.add takes these arguments"):
        Breaks()(by_name("unused_input").program.graph_module)


def test_new_nodes_take_the_metadata_of_the_node_they_are_made_for_as_on_torchs_base() -> None:
    def clones(base: type) -> Any:
        class Clones(base):  # type: ignore[misc]
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
                cloned = super().call_operator(aten.clone.default, args[:1], {}, self._create_dummy_node_metadata())
                return super().call_operator(op, (cloned, *args[1:]), kwargs, meta)

        return Clones()

    case = by_name("unused_input")
    ours, stock = (clones(base)(case.build().graph_module).graph_module for base in (ExportPass, TorchExportPass))
    pairs = list(zip(ours.graph.nodes, stock.graph.nodes, strict=True))
    made = [pair for pair in pairs if "_create_dummy_node_metadata" in pair[1].meta.get("stack_trace", "")]
    assert made
    for mine, theirs in made:
        # What torch makes of autograd and of interpreting is not the node's.
        assert mine.meta.keys() == theirs.meta.keys() - {"seq_nr", "from_node"}
        assert mine.meta["nn_module_stack"] == theirs.meta["nn_module_stack"]
        assert "_create_dummy_node_metadata" in mine.meta["stack_trace"]


def test_python_functions_on_symbols_are_executed_as_on_torchs_base() -> None:
    def negates(base: type) -> Any:
        class Negates(base):  # type: ignore[misc]
            def call_sym(self, target: Any, args: Any, meta: Any) -> Any:
                if target is not operator.mul:
                    return super().call_sym(target, args, meta)
                value = super().call_sym(target, args, meta)
                for function in (operator.neg, operator.neg, torch.sym_float, torch.sym_int):
                    value = super().call_sym(function, (value,), meta)
                return value

        return Negates()

    ours = negates(ExportPass)(by_name("symbolic_scalars").program.graph_module).graph_module
    stock = negates(TorchExportPass)(by_name("symbolic_scalars").build().graph_module).graph_module
    assert canonical(ours) == canonical(stock)

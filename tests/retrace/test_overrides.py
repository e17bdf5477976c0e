"""Methods of the tracer and the interpreter that a pass overrides are called as on torch's class, or refused when the class is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.export import ExportedProgram

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, PassError
from tests.support.models import by_name
from tests.support.passes import TorchExportPass, canonical

aten = torch.ops.aten


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Buffer(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, _ = torch.split(x, [1, 1])
        return (first.mean(1).relu() * self.scale).reshape(x.shape[1] - 2)


def _program() -> ExportedProgram:
    return torch.export.export(_Model(), (torch.randn(2, 3),))


def _lines(base: type, **methods: Callable[..., Any]) -> type:
    """A pass whose interpreter has methods of its own."""
    interpreter = type("ExportInterpreter", (base.ExportInterpreter,), methods)  # type: ignore[attr-defined]
    return type("Overrides", (base,), {"ExportInterpreter": interpreter})


def _traced(base: type, **methods: Callable[..., Any]) -> type:
    """A pass whose tracer has methods of its own."""
    tracer = type("ExportTracer", (base.ExportTracer,), methods)  # type: ignore[attr-defined]
    return type("Overrides", (base,), {"ExportTracer": tracer})


def _assert_same(make: Callable[[type], type]) -> fx.GraphModule:
    stock, ours = (make(base)()(_program().graph_module).graph_module for base in (TorchExportPass, ExportPass))
    assert canonical(ours) == canonical(stock)
    return ours


# -- the interpreter -----------------------------------------------------------------------------------------------------------------


def test_call_function_can_hand_on_another_target() -> None:
    def make(base: type) -> type:
        def call_function(self: Any, target: Any, args: Any, kwargs: Any) -> Any:
            target = aten.sigmoid.default if target is aten.relu.default else target
            return base.ExportInterpreter.call_function(self, target, args, kwargs)  # type: ignore[attr-defined]

        return _lines(base, call_function=call_function)

    assert any(node.target is aten.sigmoid.default for node in _assert_same(make).graph.nodes)


def test_call_function_can_call_other_hooks_for_a_target() -> None:
    """How passes in the wild take operators that the class does not know."""

    def make(base: type) -> type:
        def call_function(self: Any, target: Any, args: Any, kwargs: Any) -> Any:
            if target is not aten.relu.default:
                return base.ExportInterpreter.call_function(self, target, args, kwargs)  # type: ignore[attr-defined]
            meta = self.callback._create_dummy_node_metadata()
            negative = self.callback._fx("call_function", aten.neg.default, args, kwargs, meta)
            return self.callback.call_operator(aten.neg.default, (negative,), {}, meta)

        return _lines(base, call_function=call_function)

    assert sum(node.target is aten.neg.default for node in _assert_same(make).graph.nodes) == 2


def test_run_node_is_called_for_every_node_and_can_give_another_value() -> None:
    seen: dict[type, list[tuple[str, str]]] = {TorchExportPass: [], ExportPass: []}

    def make(base: type) -> type:
        def run_node(self: Any, n: fx.Node) -> Any:
            assert isinstance(self, fx.Interpreter)
            seen[base].append((n.op, n.name))
            if n.target is aten.relu.default:
                return self.env[n.all_input_nodes[0]]
            result = base.ExportInterpreter.run_node(self, n)  # type: ignore[attr-defined]
            assert getattr(self, "node") is n  # noqa: B009 - fx.Interpreter has none
            return result

        return _lines(base, run_node=run_node)

    assert not any(node.target is aten.relu.default for node in _assert_same(make).graph.nodes)
    assert seen[ExportPass] == seen[TorchExportPass]
    assert len(seen[ExportPass]) == len(_program().graph.nodes)


def test_placeholder_and_output_can_be_overridden() -> None:
    seen: dict[type, list[Any]] = {TorchExportPass: [], ExportPass: []}

    def make(base: type) -> type:
        def placeholder(self: Any, target: Any, args: Any, kwargs: Any) -> Any:
            value = base.ExportInterpreter.placeholder(self, target, args, kwargs)  # type: ignore[attr-defined]
            seen[base].append((target, tuple(value.data.shape)))
            return value

        def output(self: Any, target: Any, args: Any, kwargs: Any) -> Any:
            data = base.ExportInterpreter.output(self, target, ((*args[0], *args[0]),), kwargs)  # type: ignore[attr-defined]
            seen[base].append([tuple(value.shape) for value in data])
            return data

        return _lines(base, placeholder=placeholder, output=output)

    result = _assert_same(make)
    assert len(result.graph.output_node().all_input_nodes) == 1
    assert str(result.graph.output_node().args[0]).count(",") == 1
    assert seen[ExportPass] == seen[TorchExportPass]


@pytest.mark.parametrize("method", ["get_attr", "fetch_attr"])
def test_attributes_can_be_read_otherwise(method: str) -> None:
    # Programs have tensors as inputs; a graph module that is no program's may read them.
    def module() -> fx.GraphModule:
        root, graph = nn.Module(), fx.Graph()
        root.register_buffer("two", torch.tensor(2.0))
        x = graph.placeholder("x")
        graph.output((graph.call_function(aten.mul.Tensor, (x, graph.get_attr("two"))),))
        made = fx.GraphModule(root, graph)
        made.meta["args"] = [torch.ones(3)]
        return made

    results = []
    for base in (TorchExportPass, ExportPass):
        made = _lines(base, **{method: lambda self, target, *_: torch.tensor(5.0)})()(module()).graph_module
        results.append(made(torch.ones(3))[0].tolist())
    assert results == [[5.0] * 3] * 2


def test_calls_of_modules_and_methods_can_be_overridden() -> None:
    def module() -> fx.GraphModule:
        root, graph = nn.Module(), fx.Graph()
        root.add_module("linear", nn.Linear(3, 3))
        x = graph.placeholder("x")
        graph.output((graph.call_method("abs", (graph.call_module("linear", (x,)),)),))
        made = fx.GraphModule(root, graph)
        made.meta["args"] = [torch.ones(3)]
        return made

    results = []
    for base in (TorchExportPass, ExportPass):

        def call(self: Any, target: Any, args: Any, kwargs: Any) -> Any:
            meta = self.callback._create_dummy_node_metadata()
            return self.callback.call_operator(aten.neg.default if target == "linear" else aten.abs.default, args, {}, meta)

        made = _lines(base, call_module=call, call_method=call)()(module()).graph_module
        results.append([node.target for node in made.graph.nodes if node.op == "call_function"])
    assert results == [[aten.neg.default, aten.abs.default]] * 2


def test_interpreter_that_hands_everything_on_changes_nothing(any_case: Any) -> None:
    class Relays(ExportPass):
        class ExportInterpreter(ExportPass.ExportInterpreter):
            def run_node(self, n: fx.Node) -> Any:
                return super().run_node(n)

            def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
                return super().call_function(target, args, kwargs)

    module = any_case.program.graph_module
    assert Relays()(module).graph_module is module


def test_error_in_an_overridden_method_names_the_node() -> None:
    def run_node(self: Any, n: fx.Node) -> Any:
        if n.target is aten.relu.default:
            raise ValueError("not this one")
        return ExportPass.ExportInterpreter.run_node(self, n)

    with pytest.raises(PassError, match=r"failed at node 'relu'.*not this one"):
        _lines(ExportPass, run_node=run_node)()(_program().graph_module)


# -- the tracer ----------------------------------------------------------------------------------------------------------------------


def _rewriting(make: Callable[[type], type]) -> Callable[[type], type]:
    def made(base: type) -> type:
        class Rewrites(make(base)):  # type: ignore[misc]
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
                return super().call_operator(aten.sigmoid.default if op is aten.relu.default else op, args, kwargs, meta)

        return Rewrites

    return made


@pytest.mark.parametrize("method", ["create_node", "create_proxy"])
def test_nodes_can_be_made_otherwise(method: str) -> None:
    seen: dict[type, list[Any]] = {TorchExportPass: [], ExportPass: []}

    def make(base: type) -> type:
        def create(self: Any, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
            seen[base].append((kind, str(target)))
            if target is aten.sigmoid.default:
                target = aten.tanh.default
            return getattr(base.ExportTracer, method)(self, kind, target, args, kwargs, *rest, **named)  # type: ignore[attr-defined]

        return _traced(base, **{method: create})

    result = _assert_same(_rewriting(make))
    assert any(node.target is aten.tanh.default for node in result.graph.nodes)
    assert seen[ExportPass] == seen[TorchExportPass]


def test_every_node_can_be_marked_where_it_is_made() -> None:
    def make(base: type) -> type:
        def create_node(self: Any, *args: Any, **kwargs: Any) -> fx.Node:
            node: fx.Node = base.ExportTracer.create_node(self, *args, **kwargs)  # type: ignore[attr-defined]
            node.meta["made_by"] = "mine"
            return node

        return _traced(base, create_node=create_node)

    result = _assert_same(make)
    assert all(node.meta["made_by"] == "mine" for node in result.graph.nodes)


def test_tracer_and_interpreter_can_have_constructors_of_their_own() -> None:
    def make(base: type) -> type:
        class Tracer(base.ExportTracer):  # type: ignore[misc, name-defined]
            def __init__(self, callback: Any, codegen: Any) -> None:
                super().__init__(callback, codegen)
                self.made = 0

            def create_node(self, *args: Any, **kwargs: Any) -> Any:
                self.made += 1
                return super().create_node(*args, **kwargs)

        class Interpreter(base.ExportInterpreter):  # type: ignore[misc, name-defined]
            def __init__(self, callback: Any, gm: fx.GraphModule) -> None:
                super().__init__(callback, gm)
                self.targets = {aten.relu.default: aten.sigmoid.default}

            def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
                return super().call_function(self.targets.get(target, target), args, kwargs)

        return type("Overrides", (base,), {"ExportTracer": Tracer, "ExportInterpreter": Interpreter})

    assert any(node.target is aten.sigmoid.default for node in _assert_same(make).graph.nodes)


def test_arguments_can_be_made_otherwise() -> None:
    def make(base: type) -> type:
        def create_arg(self: Any, a: Any) -> Any:
            return 7 if type(a) is int and a == 1 else base.ExportTracer.create_arg(self, a)  # type: ignore[attr-defined]

        class Clamps(_traced(base, create_arg=create_arg)):  # type: ignore[misc]
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
                if op is aten.relu.default:
                    return super().call_operator(aten.clamp_min.default, (args[0], 1), kwargs, meta)
                return super().call_operator(op, args, kwargs, meta)

        return Clamps

    stock, ours = (make(base)()(_program().graph_module).graph_module for base in (TorchExportPass, ExportPass))
    for module in (stock, ours):
        assert [node.args[1] for node in module.graph.nodes if node.target is aten.clamp_min.default] == [7]
    assert canonical(ours) == canonical(stock)


def test_what_is_recorded_can_be_added_to() -> None:
    def make(base: type) -> type:
        def set_metadata(self: Any, node: fx.Node, value: Any) -> None:
            base.ExportTracer.set_metadata(self, node, value)  # type: ignore[attr-defined]
            node.meta["rank"] = node.meta["val"].dim() if isinstance(node.meta["val"], torch.Tensor) else None

        return _rewriting(lambda base: _traced(base, set_metadata=set_metadata))(base)

    result = _assert_same(make)
    # An output node has no value of its own.
    for node in list(result.graph.nodes)[:-1]:
        value = node.meta["val"]
        assert node.meta["rank"] == (value.dim() if isinstance(value, torch.Tensor) else None)


# -- what is refused -----------------------------------------------------------------------------------------------------------------


def test_method_that_would_never_be_called_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Mine\._set_current_node would never be called: override `run_node` instead"):

        class Mine(ExportPass.ExportInterpreter):
            def _set_current_node(self, node: fx.Node) -> Any:
                raise AssertionError

    with pytest.raises(TypeError, match=r"Mine\.get_fresh_qualname would never be called: override `create_arg` instead"):

        class Mine(ExportPass.ExportTracer):  # type: ignore[no-redef]
            def get_fresh_qualname(self, prefix: str) -> str:
                raise AssertionError


@pytest.mark.parametrize(
    ("base", "name"), [(ExportPass.ExportInterpreter, "_set_current_node"), (ExportPass.ExportTracer, "get_fresh_qualname")]
)
def test_method_that_would_never_be_called_is_refused_where_it_comes_from_a_mixin(base: type, name: str) -> None:
    mixin = type("Mixin", (), {name: lambda self, argument: argument})
    with pytest.raises(TypeError, match=rf"Mine\.{name} would never be called"):
        type("Mine", (mixin, base), {})
    # A class in between that does not define it is no such class.
    assert getattr(type("Mine", (type("Mixin", (), {}), base), {}), name) is getattr(base, name)


@pytest.mark.parametrize("name", ["ExportTracer", "ExportInterpreter"])
def test_tracer_or_interpreter_of_another_class_is_refused_when_the_class_is_made(name: str) -> None:
    with pytest.raises(TypeError, match=rf"Mixes\.{name} must be a subclass of retraced's ExportPass\.{name}"):
        type("Mixes", (ExportPass,), {name: getattr(TorchExportPass, name)})


def test_pass_with_overrides_makes_a_valid_program() -> None:
    def call_function(self: Any, target: Any, args: Any, kwargs: Any) -> Any:
        target = aten.sigmoid.default if target is aten.relu.default else target
        return ExportPass.ExportInterpreter.call_function(self, target, args, kwargs)

    result = run_pipeline(by_name("everything").program, [_lines(ExportPass, call_function=call_function)()])
    assert result.modified
    result.program.validate()

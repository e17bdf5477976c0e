"""A pass's attributes are its own, whatever their names: the engine keeps nothing under names that a pass may use."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.export import ExportedProgram

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, PassContext, ProxyValue, pass_context
from tests.support.passes import TorchExportPass, canonical

aten = torch.ops.aten

# What the engine, torch's class or ExecuTorch's might call theirs, and what real passes do.
_NAMES = (
    "mode", "targets", "keep", "rewrites", "session", "retrace", "_retrace", "remarks", "outcome", "visiting", "preserved", "_session",
    "_initialized", "new_guards", "on_progress", "only", "context", "state", "run", "graph_path", "_visited", "_retraced", "_state", "_run",
    "kept_names", "callback", "node", "graph_module", "name", "modified", "_input", "_in_place_of", "_call_on_copy", "_visit", "visited",
)  # fmt: skip


class _Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.relu() + 1, lambda x: x.relu() - 1, (x,)).relu() * 2.0


def _export() -> ExportedProgram:
    return torch.export.export(_Model(), (torch.randn(2, 3),))


@functools.cache
def _program() -> ExportedProgram:
    """The program, exported once: passes leave it as it is."""
    return _export()


class _Alien:
    """Nothing that an engine could take for its own: it cannot be called, iterated, compared or asked for its truth."""

    def __bool__(self) -> bool:
        raise AssertionError("the engine looked at a pass's own attribute")

    __call__ = __iter__ = __contains__ = __eq__ = __len__ = __bool__  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


def _sigmoid(base: type) -> type:
    class ReluToSigmoid(base):  # type: ignore[misc]
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            return super().call_operator(aten.sigmoid.default if op is aten.relu.default else op, args, kwargs, meta)

    return ReluToSigmoid


def _in_constructor(base: type, name: str, value: Any) -> Any:
    class Named(_sigmoid(base)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, value)

    return Named()


def _before_constructor(base: type, name: str, value: Any) -> Any:
    class Named(_sigmoid(base)):  # type: ignore[misc]
        def __init__(self) -> None:
            setattr(self, name, value)
            super().__init__()

    return Named()


def _in_class(base: type, name: str, value: Any) -> Any:
    return type("Named", (_sigmoid(base),), {name: value})()


def _as_property(base: type, name: str, value: Any) -> Any:
    return type("Named", (_sigmoid(base),), {name: property(lambda self: value)})()


def _as_method(base: type, name: str, value: Any) -> Any:
    return type("Named", (_sigmoid(base),), {name: lambda self: value})()


_WAYS: list[Callable[[type, str, Any], Any]] = [
    _in_constructor,
    _before_constructor,
    _in_class,
    _as_property,
    _as_method,
]


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    """What torch's class makes of the pass without an attribute of its own."""
    result = _sigmoid(TorchExportPass)()(_export().graph_module)
    assert result is not None
    return canonical(result.graph_module)


@pytest.mark.parametrize("way", _WAYS)
def test_attribute_of_any_name_leaves_the_pass_what_it_is(way: Callable[[type, str, Any], Any], expected: list[Any]) -> None:
    program, alien = _program(), _Alien()
    for name in _NAMES:
        instance = way(ExportPass, name, alien)
        result = run_pipeline(program, [instance])
        assert canonical(result.program.graph_module) == expected, name
        # Three relus became something else, and so the operator that two are in subgraphs of.
        assert (result.reports[0].rewrites, result.reports[0].remarks, result.reports[0].new_guards) == (4, (), ()), name
        found = getattr(instance, name)
        assert (found() if way is _as_method else found) is alien, name


@pytest.mark.parametrize("name", _NAMES)
def test_attribute_is_what_the_pass_made_it_while_its_hooks_run(name: str) -> None:
    class Looks(ExportPass):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, ["mine"])

        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            getattr(self, name).append(str(op))
            return super().call_operator(op, args, kwargs, meta)

    looks = Looks()
    run_pipeline(_program(), [looks])
    assert getattr(looks, name)[0] == "mine"
    assert getattr(looks, name).count("aten.relu.default") == 3


def test_pass_of_another_class_may_have_attributes_of_any_name() -> None:
    alien = _Alien()

    class Foreign:
        def __init__(self) -> None:
            for name in _NAMES:
                setattr(self, name, alien)

        def __call__(self, module: fx.GraphModule) -> None:
            for node in module.graph.find_nodes(op="call_function", target=aten.relu.default):
                node.target = aten.sigmoid.default

    foreign = Foreign()
    result = run_pipeline(_program(), [foreign])
    assert (result.modified, result.reports[0].rewrites, result.reports[0].remarks) == (True, 1, ())
    assert all(getattr(foreign, name) is alien for name in _NAMES)


@dataclasses.dataclass
class _Dataclass(ExportPass):
    """A pass whose options are fields."""

    mode: str = "per-channel"
    targets: tuple[str, ...] = ("relu",)

    def __post_init__(self) -> None:
        super().__init__()

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        """Rewrites what the fields say."""
        assert self.mode == "per-channel"
        if op._opname in self.targets:
            return super().call_operator(aten.sigmoid.default, args, kwargs, meta)
        return super().call_operator(op, args, kwargs, meta)


def test_fields_of_a_dataclass_are_its_own(expected: list[Any]) -> None:
    assert canonical(run_pipeline(_program(), [_Dataclass()]).program.graph_module) == expected
    assert _Dataclass() == _Dataclass()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copy_of_a_pass_runs_within_the_pass(duplicate: Callable[[ExportPass], ExportPass]) -> None:
    class RunsCopy(ExportPass):
        inner: ExportPass | None = None

        def output(self, results: Any, meta: Any) -> ProxyValue[Any]:
            if self.inner is not None:
                inner, self.inner = self.inner, None
                assert not inner(_export().graph_module).modified
            return super().output(results, meta)

    outer = RunsCopy()
    outer.inner = duplicate(outer)
    assert not outer(_program().graph_module).modified


# -- what a pass says on purpose -----------------------------------------------------------------------------------------------------


def test_rewrites_and_remarks_are_reported_as_the_pass_tells_them() -> None:
    class Tells(_sigmoid(ExportPass)):  # type: ignore[misc]
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if op is aten.relu.default:
                context = pass_context()
                assert context.node is not None
                context.count_rewrites(10)
                context.remark(f"{context.graph_path or 'root'}: {context.node.name}")
            return super().call_operator(op, args, kwargs, meta)

    report = run_pipeline(_program(), [Tells()]).reports[0]
    assert report.rewrites == 30
    assert report.remarks == ("true_graph_0: relu", "false_graph_0: relu", "root: relu")


def test_what_a_pass_told_in_one_run_is_not_told_in_the_next() -> None:
    class Tells(ExportPass):
        def output(self, results: Any, meta: Any) -> ProxyValue[Any]:
            pass_context().remark("looked")
            return super().output(results, meta)

    reports = run_pipeline(_program(), [Tells(), "retrace", Tells()]).reports
    assert [len(report.remarks) for report in reports] == [3, 0, 3]


def test_pass_that_is_run_by_itself_tells_the_context_that_is_entered() -> None:
    with PassContext() as context:
        assert _sigmoid(ExportPass)()(_program().graph_module).modified
    assert (context.rewrites, context.remarks, context.node) == (0, [], None)

    def remarks(module: fx.GraphModule) -> None:
        pass_context().remark(f"{len(module.graph.nodes)} nodes")

    with PassContext() as outer:
        with PassContext() as inner:
            remarks(_program().graph_module)
        remarks(_program().graph_module)
    assert len(inner.remarks) == len(outer.remarks) == 1


def test_pass_within_a_hook_is_part_of_the_run_and_leaves_the_node_that_is_visited() -> None:
    nodes: list[tuple[str, str]] = []

    class Inner(ExportPass):
        def output(self, results: Any, meta: Any) -> ProxyValue[Any]:
            pass_context().remark("inner")
            return super().output(results, meta)

    class Outer(ExportPass):
        def output(self, results: Any, meta: Any) -> ProxyValue[Any]:
            context = pass_context()
            assert context.node is not None
            before = context.graph_path, context.node.name
            Inner()(torch.export.export(nn.ReLU(), (torch.randn(2),)).graph_module)
            assert (context.graph_path, context.node.name) == before
            nodes.append(before)
            return super().output(results, meta)

    report = run_pipeline(_program(), [Outer()]).reports[0]
    assert report.remarks == ("inner",) * 3
    assert nodes == [("true_graph_0", "output"), ("false_graph_0", "output"), ("", "output")]


def test_remark_that_is_no_text_is_refused_where_it_is_made() -> None:
    with pytest.raises(TypeError, match="a remark is text, not int"):
        PassContext().remark(7)  # type: ignore[arg-type]


def test_hooks_are_called_for_the_operators_of_the_class_keyword_only_and_so_in_subclasses() -> None:
    seen: list[Any] = []

    class Base(ExportPass, only=[aten.relu.default]):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            seen.append(op)
            return super().call_operator(op, args, kwargs, meta)

    class Inherits(Base):
        only = targets = (aten.mul.Tensor,)

    class Other(Base, only={aten.mul.Tensor}):
        pass

    for pass_type, expected in ((Base, aten.relu.default), (Inherits, aten.relu.default), (Other, aten.mul.Tensor)):
        seen.clear()
        pass_type()(_program().graph_module)
        assert set(seen) == {expected}


def test_class_keyword_of_another_base_reaches_that_base() -> None:
    got: list[str] = []

    class Mixin:
        def __init_subclass__(cls, *, backend: str = "", **keywords: Any) -> None:
            super().__init_subclass__(**keywords)
            got.append(backend)

    class Both(ExportPass, Mixin, only={aten.relu.default}, backend="npu"):
        pass

    assert got == ["npu"]
    assert not Both()(_program().graph_module).modified

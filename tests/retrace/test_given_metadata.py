"""What a pass writes to metadata that it finds is part of its result, and not of the program that it was given, though the pass fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.export import Dim, ExportedProgram

from retraced_server.errors import RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, NodeMetadata, PassResult, pass_context
from tests.passes.support import export
from tests.support.edit_ways import WAYS, Edit, described_values, find_call

aten = torch.ops.aten

every_way = pytest.mark.parametrize("way", WAYS)


def _program() -> ExportedProgram:
    program = export(lambda x: x.sin().exp(), torch.randn(2))
    for metadata in (find_call(program.graph_module, aten.sin.default).meta, program.graph_module.meta):
        metadata["custom"] = {"a": 1, "inner": {"list": [1]}}
    return program


def _customs(program: ExportedProgram) -> list[Any]:
    return [find_call(program.graph_module, aten.sin.default).meta["custom"], program.graph_module.meta["custom"]]


def _write_to_node(module: fx.GraphModule) -> None:
    find_call(module, aten.sin.default).meta["custom"]["inner"]["list"].append(2)


def _write_to_graph(module: fx.GraphModule) -> None:
    module.meta["custom"]["inner"]["list"].append(2)


@every_way
@pytest.mark.parametrize(("edit", "which"), [(_write_to_node, 0), (_write_to_graph, 1)])
def test_containers_in_metadata_are_the_results_own(edit: Edit, which: int, way: Callable[[Edit], Any]) -> None:
    program = _program()
    before, written = {"a": 1, "inner": {"list": [1]}}, {"a": 1, "inner": {"list": [1, 2]}}
    result = run_pipeline(program, [way(edit)])
    assert result.modified
    assert _customs(program) == [before, before]
    assert _customs(result.program)[which] == written
    assert _customs(result.program)[1 - which] == before


@every_way
def test_equal_containers_are_no_modification(way: Callable[[Edit], Any]) -> None:
    def reads(module: fx.GraphModule) -> None:
        custom = find_call(module, aten.sin.default).meta["custom"]
        custom["a"] = custom["a"]

    program = _program()
    assert run_pipeline(program, [way(reads)]).program is program


def test_container_that_a_hook_writes_to_is_the_results_own() -> None:
    class Writes(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if "custom" in meta:
                meta["custom"]["inner"]["list"].append(2)
            return super().call_operator(op, args, kwargs, meta)

    program = _program()
    result = run_pipeline(program, [Writes()])
    assert result.modified
    assert _customs(program)[0]["inner"] == {"list": [1]}
    assert _customs(result.program)[0]["inner"] == {"list": [1, 2]}


class _LateError(ValueError):
    pass


@every_way
def test_value_whose_sizes_a_failing_pass_has_changed_in_place_is_put_back(way: Callable[[Edit], Any]) -> None:
    def changes(module: fx.GraphModule) -> None:
        _write_to_node(module)
        find_call(module, aten.sin.default).meta["val"].unsqueeze_(0)
        raise _LateError

    program = _program()
    before = described_values(program.graph_module)
    with pytest.raises(RetracedError, match="_LateError"):
        run_pipeline(program, [way(changes)])
    assert described_values(program.graph_module) == before
    assert _customs(program)[0]["inner"] == {"list": [1]}


@pytest.mark.parametrize("dynamic", [False, True])
def test_value_whose_sizes_were_changed_in_place_is_one_that_is_stated_by_hand(dynamic: bool) -> None:
    def changes(module: fx.GraphModule) -> None:
        find_call(module, aten.sin.default).meta["val"].unsqueeze_(0)

    shapes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    program = export(lambda x: x.sin().exp(), torch.randn(2), dynamic_shapes=(shapes,) if shapes else None)
    before = described_values(program.graph_module)
    result = run_pipeline(program, [changes])
    assert described_values(program.graph_module) == before
    assert [sizes[:2] for sizes in described_values(result.program.graph_module).values()] == [(torch.float32, 1)] * 2


def test_value_that_is_changed_in_place_and_back_again_is_no_modification() -> None:
    class Peeks(ExportPass):
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            find_call(graph_module, aten.sin.default).meta["val"].unsqueeze_(0).squeeze_(0)
            return PassResult(graph_module, False)

    program = _program()
    assert run_pipeline(program, [Peeks()]).program is program


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (5, 7)])
@pytest.mark.parametrize("unbacked", [False, True])
def test_finding_what_was_changed_in_place_teaches_the_shape_environment_nothing(
    rows: int, columns: int, unbacked: bool
) -> None:
    def known(x: torch.Tensor) -> torch.Tensor:
        return x.sin().exp()

    def counted(x: torch.Tensor) -> torch.Tensor:
        numbers = x.long()
        return x.new_zeros([numbers[0, 0].item(), numbers[0, 1].item()]).sin().exp()  # type: ignore[list-item]  # They are integers.

    def transposes(module: fx.GraphModule) -> PassResult:
        find_call(module, aten.sin.default).meta["val"].t_()
        return PassResult(module, True)

    dims = (({0: Dim.AUTO, 1: Dim.AUTO},),)
    program = export(counted if unbacked else known, torch.full((rows, columns), 2.0), dynamic_shapes=dims)
    recorded = find_call(program.graph_module, aten.sin.default).meta["val"]
    sizes, env = str(recorded.size()), recorded.fake_mode.shape_env
    before = (list(env.guards), dict(env.replacements), dict(env.var_to_range))
    run_pipeline(program, [transposes], refuse_new_guards=True)
    assert str(recorded.size()) == sizes
    assert (env.guards, env.replacements, env.var_to_range) == before


def test_program_of_inference_mode_is_given_to_passes_that_edit_by_hand() -> None:
    class Reads(ExportPass):
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            return super().call(graph_module)

    with torch.inference_mode():
        program = export(lambda x: x.sin().exp(), torch.randn(2))
    assert not run_pipeline(program, [Reads()]).modified


@every_way
def test_order_of_what_metadata_holds_is_part_of_it(way: Callable[[Edit], Any]) -> None:
    def reorders(module: fx.GraphModule) -> None:
        custom = find_call(module, aten.sin.default).meta["custom"]
        custom["a"] = custom.pop("a")

    program = _program()
    result = run_pipeline(program, [way(reorders)])
    assert result.modified
    assert [list(custom) for custom in (_customs(program)[0], _customs(result.program)[0])] == [["a", "inner"], ["inner", "a"]]


def test_containers_that_hold_one_another_are_copied_and_compared_once() -> None:
    def writes(module: fx.GraphModule) -> PassResult:
        held: list[Any] = [1]
        for _ in range(60):
            held = [held, held]
        held.append(held)
        find_call(module, aten.sin.default).meta["custom"] = held
        return PassResult(module, True)

    class Reads(ExportPass):
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            return super().call(graph_module)

    result = run_pipeline(_program(), [writes, Reads()])
    assert [report.modified for report in result.reports] == [True, False]


class _WritesThroughContext(ExportPass):
    """Writes to a container of the node that is visited, of one that was visited, or of one that is to be visited; may fail then."""

    def __init__(self, which: str, *, fails: bool = False) -> None:
        super().__init__()
        self._which, self._fails = which, fails

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
        visited = pass_context().node
        assert visited is not None
        at = {"visited": aten.sin.default, "before": aten.exp.default, "after": aten.cos.default}[self._which]
        if op is at:
            written = {"visited": visited, "before": visited.prev, "after": visited.next}[self._which]
            written.meta["custom"]["inner"]["list"].append(2)
            if self._fails:
                raise _LateError
        return super().call_operator(op, args, kwargs, meta)


def _three() -> ExportedProgram:
    program = export(lambda x: x.cos().sin().exp(), torch.randn(2))
    find_call(program.graph_module, aten.sin.default).meta["custom"] = {"a": 1, "inner": {"list": [1]}}
    return program


def _state(program: ExportedProgram) -> list[Any]:
    """Every object in the metadata of every node, and what containers hold."""
    return [(node.name, {key: (id(value), repr(value)) for key, value in node.meta.items()}) for node in program.graph.nodes]


@pytest.mark.parametrize("mode", ["incremental", "full"])
@pytest.mark.parametrize("which", ["visited", "before", "after"])
def test_containers_that_a_hook_writes_to_through_the_visited_node_are_not_the_given_programs(which: str, mode: str) -> None:
    program = _three()
    before = _state(program)
    with pytest.raises(RetracedError, match="_LateError"):
        run_pipeline(program, [_WritesThroughContext(which, fails=True)], mode=mode)
    assert _state(program) == before
    result = run_pipeline(program, [_WritesThroughContext(which)], mode=mode)
    assert _state(program) == before
    assert result.modified
    assert find_call(result.program.graph_module, aten.sin.default).meta["custom"]["inner"] == {"list": [1, 2]}


def test_first_node_that_a_hook_writes_to_through_the_context_has_what_was_written_in_the_result() -> None:
    program = _program()
    result = run_pipeline(program, [_WritesThroughContext("visited")])
    assert _customs(program)[0]["inner"] == {"list": [1]}
    assert _customs(result.program)[0]["inner"] == {"list": [1, 2]}


def test_hook_that_only_looks_at_the_visited_node_modifies_nothing() -> None:
    class Looks(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
            visited = pass_context().node
            assert visited is not None
            assert visited.meta.get("custom") == meta.data.get("custom")
            return super().call_operator(op, args, kwargs, meta)

    program = _three()
    before = _state(program)
    assert run_pipeline(program, [Looks()]).program is program
    assert _state(program) == before


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    "write",
    [
        lambda meta: meta.data["custom"]["inner"]["list"].append(2),
        lambda meta: meta.data.get("custom")["inner"]["list"].append(2),
        lambda meta: next(value for key, value in meta.data.items() if key == "custom")["inner"]["list"].append(2),
        lambda meta: meta.copy().data["custom"]["inner"]["list"].append(2),
        lambda meta: meta.data["nn_module_stack"].clear(),
        lambda meta: [meta["custom"], meta.data][0]["inner"]["list"].append(2),
    ],
    ids=["item", "get", "items", "copy", "protected", "kept"],
)
def test_containers_that_a_hook_writes_to_through_the_data_of_metadata_are_not_the_given_programs(
    write: Callable[[NodeMetadata], Any], fails: bool, request: pytest.FixtureRequest
) -> None:
    class Writes(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
            if op is aten.sin.default:
                write(meta)
                if fails:
                    raise _LateError
            return super().call_operator(op, args, kwargs, meta)

    program = _three()
    before = _state(program)
    if fails:
        with pytest.raises(RetracedError, match="_LateError"):
            run_pipeline(program, [Writes()])
    else:
        result = run_pipeline(program, [Writes()])
        is_written = not any(name in request.node.callspec.id for name in ("copy", "protected"))
        assert result.modified == is_written
        written = [1, 2] if is_written else [1]
        assert find_call(result.program.graph_module, aten.sin.default).meta["custom"]["inner"] == {"list": written}
    assert _state(program) == before


def test_new_container_that_a_hook_assigns_to_the_node_of_a_value_is_the_results_own() -> None:
    class Assigns(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
            value = super().call_operator(op, args, kwargs, meta)
            if op is aten.sin.default:
                value.node.meta["custom"] = {**value.node.meta["custom"], "a": 2}
            return value

    program = _three()
    before = _state(program)
    result = run_pipeline(program, [Assigns()])
    assert result.modified
    assert find_call(result.program.graph_module, aten.sin.default).meta["custom"] == {"a": 2, "inner": {"list": [1]}}
    assert _state(program) == before

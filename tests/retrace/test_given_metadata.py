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
from retraced_server.retrace import ExportPass, PassResult
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

"""`view-to-view-copy` does what torch's pass of that name does, on functional programs, and refuses others."""

from __future__ import annotations

import pytest
import torch
from torch._export.passes.replace_view_ops_with_view_copy_ops_pass import ReplaceViewOpsWithViewCopyOpsPass

from retraced_server.analysis.graphs import count_nodes
from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import catalogue, run_pipeline
from retraced_server.pipeline.catalogue import IrLevel
from tests.passes.support import decomposed, export, targets
from tests.support.compare import assert_computes, assert_same_results, saved_and_loaded, validate
from tests.support.describe import graphs
from tests.support.models import by_name
from tests.support.passes import canonical, run_torch_pass

_CASES = ("bert", "llama", "vit", "residual_net", "everything_functional", "in_place_functional", "multiple_results")


def _is_view(node: torch.fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and any(a.alias_info is not None for a in target._schema.arguments)


@pytest.mark.parametrize("name", [name for name in _CASES if name not in ("everything_functional", "llama")])
def test_graph_is_that_of_torchs_pass(name: str) -> None:
    result = run_pipeline(decomposed(by_name(name)).program, "view-to-view-copy").program
    # Torch's engine leaves symbols behind, so it gets a program of its own; on one with item() and assertions it fails.
    stock = run_pipeline(by_name(name).build(), "decompose").program
    expected = run_torch_pass(stock, ReplaceViewOpsWithViewCopyOpsPass)
    assert canonical(result.graph_module) == canonical(expected.graph_module)


@pytest.mark.parametrize("name", _CASES)
def test_program_is_valid_and_computes_the_same_without_views(name: str) -> None:
    case = by_name(name)
    program = decomposed(case).program
    result = run_pipeline(program, "view-to-view-copy")
    validate(result.program)
    assert_computes(case, result.program)
    assert not [node for _, module in graphs(result.program.graph_module) for node in module.graph.nodes if _is_view(node)]
    copies = targets(result.program) - targets(program)
    assert all(target.endswith("_copy") for target in copies)
    assert result.reports[0].rewrites == copies.total() > 0
    assert count_nodes(result.program.graph_module) == count_nodes(program.graph_module)


def test_program_without_views_comes_back_as_it_was() -> None:
    program = decomposed(by_name("unused_input")).program
    assert run_pipeline(program, "view-to-view-copy").program is program


def test_copies_stay_copies() -> None:
    program = run_pipeline(decomposed(by_name("vit")).program, "view-to-view-copy").program
    assert run_pipeline(program, "view-to-view-copy").program is program
    assert_same_results(program, saved_and_loaded(program), by_name("vit").inputs()[:1])


def test_views_in_subgraphs_become_copies() -> None:
    program = decomposed(by_name("cond")).program
    result = run_pipeline(program, "view-to-view-copy").program
    assert {node.target for node in result.graph_module.true_graph_0.graph.nodes} >= {torch.ops.aten.permute_copy.default}


def test_program_that_writes_to_values_is_refused_and_the_node_is_named() -> None:
    with pytest.raises(RetracedError, match="run `decompose` before") as caught:
        run_pipeline(by_name("in_place").program, "view-to-view-copy")
    assert caught.value.reason is Reason.PASS_FAILED
    assert caught.value.metadata["node"] == "copy_"
    assert caught.value.metadata["target"] == "aten.copy_.default"


def test_view_without_a_copying_form_is_refused_and_named() -> None:
    program = export(lambda x: x.t().contiguous() + 1, torch.randn(3, 4))
    with pytest.raises(RetracedError, match=r"aten\.contiguous\.default may return a view") as caught:
        run_pipeline(program, "view-to-view-copy")
    assert caught.value.metadata["node"] == "contiguous"


def test_catalogue_says_that_it_needs_a_functional_program() -> None:
    assert catalogue()["view-to-view-copy"].ir_level is IrLevel.FUNCTIONAL

"""`decompose` where an unbacked symbol of the program is known to be another, since ranges that were stated late are known from the start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.export import ExportedProgram

from retraced_server.passes import run_pipeline
from tests.passes.support import export, targets
from tests.program.archives import read_bytes, saved
from tests.support.case import Inputs
from tests.support.compare import assert_same_results, loaded, saved_and_loaded, validate


def _checked_after(x: torch.Tensor, n: Any) -> tuple[torch.Tensor, torch.Tensor]:
    size = n.item()
    part = x[:size]
    torch._check(size >= 0)
    torch._check(size <= 4)
    return part.cos(), torch.zeros(size)


def _equal_sizes(x: torch.Tensor, n: Any) -> torch.Tensor:
    size = n.item()
    part = x[:size]
    torch._check(part.shape[0] == size)
    return part + torch.zeros(size, 3)


def _symbols(program: ExportedProgram) -> Counter[str]:
    """How many nodes bind each unbacked symbol."""
    return Counter(str(symbol) for node in program.graph.nodes for symbol in node.meta.get("unbacked_bindings") or ())


@pytest.mark.parametrize("function", [_checked_after, _equal_sizes])
def test_sizes_that_are_one_are_decomposed_though_torch_fails(function: Callable[..., Any], tmp_path: Path) -> None:
    exported = export(function, torch.randn(4, 3), torch.tensor(3))
    archive = saved(exported)
    with pytest.raises(AssertionError, match="u1"):
        loaded(archive).run_decompositions()
    program = read_bytes(archive, tmp_path).program
    calls: list[Inputs] = [((torch.randn(4, 3), torch.tensor(size)), {}) for size in (0, 2, 4)]
    by_calls = run_pipeline(program, "decompose", refuse_new_guards=True).program
    validate(by_calls)
    assert targets(by_calls)["aten.zeros"] == 0
    # What no call asks for is not learned: the program keeps its symbols.
    assert _symbols(by_calls) == _symbols(program)
    assert run_pipeline(by_calls, "decompose").program is by_calls
    assert_same_results(exported, saved_and_loaded(by_calls), calls)
    result = run_pipeline(program, "decompose{by=torch}", refuse_new_guards=True).program
    validate(result)
    assert targets(result)["aten.zeros"] == 0
    # The symbol that is another is gone from values, bindings and ranges alike.
    assert _symbols(result) == {"u0": 1}
    assert [str(symbol) for symbol in result.range_constraints] == ["u0"]
    assert "u1" not in "".join(str(node.meta.get("val")) for node in result.graph.nodes)
    assert run_pipeline(result, "decompose{by=torch}").program is result
    assert_same_results(exported, saved_and_loaded(result), calls)


def test_symbol_that_one_of_the_new_nodes_makes_is_bound_there_alone() -> None:
    program = export(
        lambda x, m: x[m].repeat_interleave(torch.tensor([1])).sum(),
        torch.randn(4, 3),
        torch.tensor([True, False, True, False]),
    )
    result = run_pipeline(program, "decompose").program
    assert _symbols(result) == {"u0": 1, "u1": 1}
    assert run_pipeline(result, "decompose").program is result

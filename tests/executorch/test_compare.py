"""What the comparison of the two classes takes for a difference; it needs no executorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.executorch.sweep import Run, compare

_CALL: list[Any] = [["call_function", "aten.relu.default", [0], {}, None]]


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (Run(graph=_CALL, outputs=[torch.ones(2)]), []),
        (Run(graph=_CALL, outputs=[torch.zeros(2)]), ["net: other numbers"]),
        (Run(graph=_CALL, outputs=[]), ["net: another number of outputs"]),
        (Run(graph=_CALL), ["net: only one of the two graphs runs"]),
        (Run(graph=[], outputs=[torch.ones(2)]), ["net: 1 nodes, ours 0"]),
        (Run(error="ValueError: no"), ["net: ValueError: no"]),
    ],
    ids=["same", "numbers", "count", "not run", "graph", "error"],
)
def test_difference_is_told_by_what_it_is(ours: Run, expected: list[str]) -> None:
    theirs = {"Pass": {"net": Run(graph=_CALL, outputs=[torch.ones(2)])}}
    assert compare(theirs, {"Pass": {"net": ours}}) == {"Pass": expected}


def test_pass_that_fails_on_its_own_class_is_not_compared() -> None:
    assert compare({"Pass": {"net": Run(error="no")}}, {}) == {}
    assert compare({"Pass": {"net": Run(graph=[])}}, {"Pass": {"net": Run(graph=[])}}) == {"Pass": []}

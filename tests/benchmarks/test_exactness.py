"""The comparison with torch's decompositions: what differs is a finding, whoever fails is named, and a run goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks.exactness import judge as judging
from benchmarks.exactness.__main__ import main
from benchmarks.exactness.judge import Route, apart, judge, route_of
from benchmarks.exactness.run import Item, judge_all
from benchmarks.exactness.sources import evenly
from retraced_server.passes.decompose.stated_differences import unexplained
from tests.support.models import by_name


def test_other_decompositions_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    # Torch makes the program functional only, and ours decomposes it too.
    monkeypatch.setattr(judging, "stock_table", lambda table: {})
    verdict = judge("programs", by_name("tied_weights"), "core-aten")
    assert verdict.outcome == "differs"
    assert any("aten.linear" in difference for difference in verdict.differences)
    assert verdict.is_finding
    assert verdict.numbers == ""


def test_failure_that_torch_has_not_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> object:
        raise ValueError("planted")

    monkeypatch.setattr(judging, "run_pipeline", failing)
    verdict = judge("programs", by_name("tied_weights"), "core-aten")
    assert (verdict.outcome, verdict.error, verdict.is_finding) == ("ours fails", "ValueError: planted", True)


def test_program_that_only_torch_cannot_decompose_is_no_finding() -> None:
    verdict = judge("programs", by_name("preserved_parts"), "core-aten")
    assert (verdict.outcome, verdict.is_finding) == ("torch fails", False)


def test_other_results_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    results = iter(range(10))
    monkeypatch.setattr(judging, "run", lambda *_: torch.tensor(float(next(results))))
    verdict = judge("programs", by_name("tied_weights"), "core-aten")
    assert verdict.outcome == "equal"
    assert "leaf 0" in verdict.numbers
    assert verdict.is_finding


@pytest.mark.parametrize(
    ("dtype", "error", "is_apart"),
    [(torch.float16, 1e-3, False), (torch.float32, 1e-3, True), (torch.float32, 1e-6, False), (torch.float64, 1e-5, True)],
)
def test_results_may_be_apart_by_what_their_type_lets_them(dtype: torch.dtype, error: float, is_apart: bool) -> None:
    expected = torch.ones(3, dtype=dtype)
    assert bool(apart((expected,), (expected + error,))) == is_apart


@pytest.mark.parametrize(
    ("expected", "actual"),
    [(torch.ones(2), torch.ones(3)), (torch.ones(2), torch.ones(2).double()), ((1,), (2,)), ((1,), [1]), ((1,), (1.0,))],
)
def test_results_of_other_types_and_structures_are_apart(expected: Any, actual: Any) -> None:
    assert apart(expected, actual)
    assert not apart(expected, expected)


@pytest.mark.parametrize(
    ("remarks", "modified", "route"),
    [
        ([], True, "locally"),
        (["attention keeps its strides"], True, "locally"),
        (["decomposed by torch: it calls autocast"], True, "by torch"),
        ([], False, "unchanged"),
    ],
)
def test_remarks_say_how_a_program_was_decomposed(remarks: list[str], modified: bool, route: Route) -> None:
    assert route_of(remarks, modified=modified) == route


def test_difference_with_a_stated_reason_is_explained_and_others_are_not() -> None:
    stated = "theirs has `copy_1` = aten.copy.default(x, mul_6), which ours has not"
    live = "ours has `getitem_1` = <built-in function getitem>(max, 1), which theirs has not"
    assert unexplained([stated, live, f"{live}; nothing uses it"]) == [live]


def test_what_follows_from_differences_has_their_reasons() -> None:
    stated = "theirs has `copy_1` = aten.copy.default(x, mul_6), which ours has not"
    following = "2 more values that come of these are recorded as something else too"
    assert unexplained([stated, following]) == []
    assert unexplained([following]) == [following]


def test_names_are_taken_at_equal_distances() -> None:
    assert evenly(map(str, range(10)), 3) == ["0", "3", "6"]
    assert evenly("ab", 3) == ["a", "b"]


@pytest.mark.slow
def test_process_that_ends_is_a_failure_and_the_others_are_judged() -> None:
    items = [Item("no such source", "x", "core-aten"), Item("programs", "tied_weights", "core-aten")]
    verdicts = {verdict.name: verdict for verdict in judge_all(items, 1)}
    assert verdicts["x"].outcome == "ours fails"
    assert "ended" in verdicts["x"].error
    assert verdicts["tied_weights"].outcome == "equal"


@pytest.mark.slow
def test_run_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.jsonl"

    def run(*arguments: str) -> str:
        command = ["--source", "random", "--jobs", "1", "--file", str(file), *arguments]
        result = CliRunner().invoke(main, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    run("--most", "1")
    (first,) = file.read_text().splitlines()
    # A line that was being written when the run was interrupted.
    file.write_text(f"{first}\n{first[:20]}")
    output = run("--most", "2")
    lines = file.read_text().splitlines()
    assert lines[:2] == [first, first[:20]]
    assert [json.loads(line)["name"] for line in (lines[0], *lines[2:])] == ["0", "250"]
    assert "equal" in output

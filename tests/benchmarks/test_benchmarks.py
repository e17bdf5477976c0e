"""The benchmark runs, and its table, JSON, picture and page say what it measured. How fast anything is, it does not test."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.growth import exponent_of
from benchmarks.results import Comparison, Comparisons, Results, Section, at_least, at_most

pytestmark = pytest.mark.slow


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _entry(program: str, ratio: float, *, counted: bool = True) -> Comparison:
    return Comparison(program, 10, "no-op x1", ratio, 1.0, ratio, counted)


@pytest.mark.parametrize("section", ["program", "request", "overhead"])
def test_a_section_prints_what_it_writes_as_json(tmp_path: Path, section: str) -> None:
    path = tmp_path / "figures.json"
    output = _run("--quick", "--program", "input_and_id", "--section", section, "--json", str(path))
    results = Results.load(path)
    assert [one.name for one in results.sections] == [section]
    assert results.machine["torch"] in output
    (found,) = results.sections
    assert found.figures
    for figure in found.figures:
        assert f"{section}: {figure.name}: needs" in output
    for table in found.comparisons:
        assert {entry.program for entry in table.entries} == {"input_and_id"}
        assert all(entry.ratio == pytest.approx(entry.stock / entry.retraced) for entry in table.entries)
        assert all(task in output for task in table.tasks)
    for grid in found.grids:
        assert grid.title in output
        assert all(len(row) == len(grid.columns) for row in grid.rows)


@pytest.mark.parametrize("section", ["engine", "decompose", "server", "workers", "growth", "memory"])
def test_a_long_section_runs(tmp_path: Path, section: str) -> None:
    path = tmp_path / "figures.json"
    _run("--quick", "--program", "input_and_id", "--section", section, "--json", str(path))
    (found,) = Results.load(path).sections
    assert found.figures
    assert all(math.isfinite(figure.has) for figure in found.figures)


def test_sections_join_those_that_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    Results({}, [Section("engine"), Section("program", figures=[at_least("old", 1, 2)])]).save(path)
    _run("--quick", "--program", "input_and_id", "--section", "program", "--json", str(path))
    first, second = Results.load(path).sections
    assert (first.name, second.name) == ("engine", "program")
    assert "old" not in [figure.name for figure in second.figures]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A file of figures, as `--json` writes it."""
    path = tmp_path / "figures.json"
    table = Comparisons("passes", [_entry("a", 10.0), _entry("b", 30.0), _entry("c", 20.0)])
    memory = Section("memory", figures=[at_most("worker, more", 12, 300, "MB")])
    machine = {"cores": "2", "processor": "one", "torch": "2", "python": "3"}
    Results(machine, [Section("engine", comparisons=[table], rounds=3), memory]).save(path)
    return path


def test_what_was_written_makes_the_page(written: Path, tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("before\n<!-- written by python -m benchmarks -->\nold\n<!-- until here -->\nafter\n")
    _run("--from", str(written), "--page", str(page))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| engine, no-op x1 | 20000 ms | 1000 ms | **20** | 10 |" in text
    assert "| memory: worker, more | 12 MB |" in text
    assert "each time the best of 1 to 3" in text


def test_what_was_written_makes_the_picture(written: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "figures.png"
    _run("--from", str(written), "--plot", str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_missed_figure_is_named_with_what_it_needs_and_has(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    Results({}, [Section("request", figures=[at_least("fast", 3, 5), at_most("small", 3, 5, "MB")])]).save(path)
    output = _run("--from", str(path))
    assert "Figures that are missed: 1" in output
    assert "MISSED  request: fast: needs ≥ 5 x, has 3 x" in output
    assert "met     request: small: needs ≤ 5 MB, has 3 MB" in output


def test_a_small_program_does_not_count() -> None:
    table = Comparisons("passes", [_entry("a", 4.0), _entry("b", 8.0), _entry("small", 1.0, counted=False)])
    assert table.median("no-op x1") == 6.0
    assert table.least("no-op x1") == 4.0


def test_the_exponent_is_that_of_the_growth() -> None:
    sizes = (1_000, 4_000, 50_000)
    assert exponent_of(sizes, [3.0 * size**1.5 for size in sizes]) == pytest.approx(1.5)

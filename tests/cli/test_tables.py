"""Tables where they go: a narrow terminal, a file or a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from retraced.cli.render import table
from retraced.v1 import passes_pb2
from tests.cli.support import Run
from tests.client import fake_server
from tests.client.fake_server import FakeServer, answers

CELLS = ("decompose{table=core-aten}", "Rewrite operators as simpler ones.", "485 ms")


def rendered(width: int) -> list[str]:
    """The lines of a table on a terminal."""
    rows = table("pass", "summary", "time", right=("time",), title="passes")
    rows.add_row(*CELLS)
    rows.add_row("cse", "Merge calls.", "1 ms")
    file = io.StringIO()
    Console(file=file, width=width).print(rows)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 200])
def test_a_table_fits_and_no_number_of_it_is_broken(width: int) -> None:
    lines = rendered(width)
    assert max(map(len, lines)) <= width
    assert any(line.endswith("485 ms") for line in lines)


@pytest.mark.parametrize("width", [20, 30, 40, 200])
def test_long_text_folds_and_is_not_cut_off(width: int) -> None:
    told = "".join("".join(rendered(width)).split())
    for cell in CELLS:
        assert cell.replace(" ", "") in told


def test_a_narrow_terminal_gets_a_block_for_each_row() -> None:
    assert rendered(40) == [
        "passes",
        "pass     decompose{table=core-aten}",
        "summary  Rewrite operators as simpler",
        "         ones.",
        "time     485 ms",
        "",
        "pass     cse",
        "summary  Merge calls.",
        "time     1 ms",
        "",
    ]


def test_in_a_pipe_a_row_is_a_line_without_blanks_at_its_end(retraced: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    described = passes_pb2.Pass(name="cse", summary="Merge calls that are equal. " * 20)
    monkeypatch.setattr(fake_server, "PASSES", (described,))
    with FakeServer(answers(b"")) as server:
        out = retraced("passes", "--server", server.address).out
    (line,) = [line for line in out.splitlines() if line.startswith(" cse")]
    assert line.count("Merge calls that are equal.") == 20
    assert all(line == line.rstrip() for line in out.splitlines())

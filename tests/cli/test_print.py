"""`retraced print`: the command, without torch and without a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from retraced.archive import Archive
from retraced.printing import Locations, program_text
from tests.cli.support import Run
from tests.client import archives


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    path.write_bytes(archives.archive())
    return path


@pytest.mark.parametrize(
    ("options", "locations", "shapes"),
    [
        ([], Locations.NAME, True),
        (["--paths"], Locations.PATH, True),
        (["--no-locations", "--no-constant-shapes"], Locations.NONE, False),
    ],
)
def test_it_prints_what_the_function_returns(
    retraced: Run, model: Path, options: list[str], locations: Locations, shapes: bool
) -> None:
    ended = retraced("print", model, *options)
    with Archive(model) as archive:
        expected = program_text(archive, locations=locations, constant_shapes=shapes)
    assert (ended.code, ended.err, ended.out) == (0, "", expected)


def test_it_runs_where_torch_cannot_be_imported_and_reads_standard_input(model: Path) -> None:
    absent = ("torch", "numpy", "sympy", "msgspec", "retraced_server")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "from retraced.cli.app import run; sys.exit(run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "print", "-"]
    ended = subprocess.run(command, check=False, input=model.read_bytes(), capture_output=True)
    with Archive(model) as archive:
        assert (ended.returncode, ended.stderr, ended.stdout.decode()) == (0, b"", program_text(archive))


def test_what_holds_no_program_ends_with_2_and_says_why(retraced: Run, model: Path) -> None:
    model.write_bytes(archives.changed(lambda program: program.pop("graph_module")))
    ended = retraced("print", model)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("retraced: PROGRAM_INVALID: ")


def test_two_ways_to_show_locations_are_one_too_many(retraced: Run, model: Path) -> None:
    ended = retraced("print", model, "--paths", "--no-locations")
    assert (ended.code, ended.out) == (2, "")
    assert "--paths and --no-locations" in ended.err

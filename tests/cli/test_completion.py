"""What a shell is told to complete, by the protocol of click's own script for bash."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.support import end, start
from tests.client.fake_server import FakeServer, answers

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(answers(b"")) as server:
        yield server


def completed(*words: str, server: str = "") -> list[str]:
    """What may stand in place of the last word."""
    variables = {
        "_RETRACED_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("retraced", *words)),
        "COMP_CWORD": str(len(words)),
        "RETRACED_SERVER": server,
    }
    ended = end(start(env=variables))
    assert (ended.code, ended.err) == (0, "")
    return [line.partition(",")[2] for line in ended.out.splitlines() if line]


@pytest.mark.parametrize(
    ("incomplete", "expected"),
    [
        ("d", ["decompose"]),
        ("cse,", ["cse,cse", "cse,decompose"]),
        ("decompose{table=none},c", ["decompose{table=none},cse"]),
        ("cse,decompose{", ["cse,decompose{table=", "cse,decompose{depth="]),
        ("decompose{t", ["decompose{table="]),
        ("decompose{table=", ["decompose{table=core-aten", "decompose{table=none"]),
        ("decompose{table=none,", ["decompose{table=none,depth="]),
        ("decompose{depth=", []),
        ("nothing{", []),
    ],
)
def test_a_pipeline_has_one_pass_option_or_value_more(server: FakeServer, incomplete: str, expected: list[str]) -> None:
    assert completed("transform", "model.pt2", "-p", f"'{incomplete}", server=server.address) == expected


def test_the_server_is_that_of_the_words_before_or_of_the_environment(server: FakeServer) -> None:
    assert completed("passes", "--server", server.address, "c") == ["cse"]
    assert completed("passes", "c", server=server.address) == ["cse"]
    assert completed("passes", "--server", server.address, "c", server="127.0.0.1:1") == ["cse"]


def test_without_a_server_that_answers_nothing_is_completed_nor_said() -> None:
    assert completed("passes", "c") == []
    assert completed("passes", "c", server="127.0.0.1:1") == []
    assert completed("passes", "c", server="no port") == []


def test_options_of_the_command_and_their_values_are_completed() -> None:
    assert "--refuse-new-guards" in completed("transform", "--re")
    assert completed("transform", "--mode", "f") == ["full"]

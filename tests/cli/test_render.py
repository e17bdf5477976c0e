"""Numbers and text as people read them."""

from __future__ import annotations

import pytest

from retraced._text import counted
from retraced.cli.console import printable
from retraced.cli.render import byte_count, operator_change, seconds
from retraced.cli.session import plain
from retraced.program import Symbol


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (5 << 50, "5120.0 TiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert byte_count(size) == text


@pytest.mark.parametrize(
    ("duration", "text"), [(0, "0 ms"), (0.0124, "12 ms"), (0.9996, "1.0 s"), (1, "1.0 s"), (75.25, "75.2 s")]
)
def test_durations(duration: float, text: str) -> None:
    assert seconds(duration) == text


def test_one_thing_is_not_many() -> None:
    assert [counted(number, "subgraph", "subgraphs") for number in (0, 1, 2)] == ["0 subgraphs", "1 subgraph", "2 subgraphs"]


def test_operators_that_are_called_as_often_as_before_make_no_table() -> None:
    assert operator_change({"add": 1}, {"add": 1}) is None


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b[2J\x07\u202e\n\té") == "a\\x1b[2J\\x07\\u202e\n\té"


def test_data_becomes_json_with_bytes_as_hex() -> None:
    assert plain({1: (Symbol("s0", "2"), b"\x00\xff")}) == {
        "1": [{"name": "s0", "lower": "2", "upper": None, "hint": None}, "00ff"]
    }

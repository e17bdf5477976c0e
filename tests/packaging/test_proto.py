"""What the wire contract says for those who generate code from it, or read it to write a client."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROTO = Path(__file__).parents[2] / "proto"


@pytest.mark.parametrize("file", sorted(PROTO.rglob("*.proto")), ids=lambda file: file.name)
def test_every_file_says_where_its_code_for_go_goes(file: Path) -> None:
    package = file.parent.relative_to(PROTO)
    assert re.search(rf'^option go_package = "retraced\.dev/proto/{package};\w+";$', file.read_text(), re.MULTILINE)


def test_every_field_that_holds_an_index_of_a_table_says_what_its_0_is() -> None:
    text = (PROTO / "retraced/v1/node_metadata.proto").read_text()
    # Each field with the comment before it; every uint32 of this file is an index.
    fields = re.findall(r"((?: *//[^\n]*\n)+) *(?:repeated )?uint32 (\w+) = ", text)
    assert len(fields) == len(re.findall(r"\buint32\b", text)) > 30
    assert [name for comment, name in fields if not re.search(r"never 0|none is 0|; 0: ", comment)] == []

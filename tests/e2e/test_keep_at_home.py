"""What is kept at home, with a real server: programs come back as without it."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any, Final

import pytest

from retraced import Client, errors
from tests.support.compare import assert_computes, loaded
from tests.support.models import by_name

pytestmark = pytest.mark.slow

PIPELINE: Final = "decompose{table=core-aten},cse,dce"
EVERYTHING: Final = ("sample-inputs", "guards", "stack-traces")


def records(archive: bytes) -> dict[str, Any]:
    """The records of an archive, JSON parsed; not the id, which differs with every byte."""
    with zipfile.ZipFile(io.BytesIO(archive)) as read:
        found: dict[str, Any] = {name.partition("/")[2]: read.read(name) for name in read.namelist()}
    del found[".data/serialization_id"]
    return {name: json.loads(data) if name.endswith(".json") else data for name, data in found.items()}


@pytest.mark.parametrize("name", ["everything", "cond", "custom_ops", "preserved_parts", "bert"])
def test_the_program_comes_back_as_without_it(client: Client, name: str) -> None:
    case = by_name(name)
    without = client.transform(case.archive, PIPELINE, node_metadata="all")
    kept = client.transform(case.archive, PIPELINE, node_metadata="all", keep_at_home=EVERYTHING)
    assert records(kept.to_bytes()) == records(without.to_bytes())
    assert kept.nodes == without.nodes
    assert kept.summary.remarks == without.summary.remarks
    assert kept.summary.output == without.summary.output
    assert_computes(case, loaded(kept.to_bytes()))


def test_a_program_that_no_pass_modified_comes_back_byte_for_byte(client: Client) -> None:
    archive = by_name("everything").archive
    assert client.transform(archive, "retrace", keep_at_home=EVERYTHING).to_bytes() == archive
    assert client.transform(io.BytesIO(archive), "retrace", keep_at_home=EVERYTHING).to_bytes() == archive


def test_an_error_names_the_same_line_of_source(client: Client) -> None:
    archive = by_name("bert").archive
    said = []
    for keep in ((), EVERYTHING):
        with pytest.raises(errors.PassFailed) as caught:
            client.transform(archive, "raise-at", keep_at_home=keep)
        said.append((caught.value.message, caught.value.metadata))
    assert said[0] == said[1]
    assert ".py:" in said[0][1]["source"]

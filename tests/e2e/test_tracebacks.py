"""What the author of a pass learns of its failure from a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retraced import Client, EmbeddedServer, errors
from tests.support.models import by_name

pytestmark = pytest.mark.slow

_INPUT_AND_ID = by_name("input_and_id")
_PASSES = Path(__file__).parents[1] / "support" / "served_passes.py"


def test_a_failing_pass_is_told_by_its_exception_and_its_own_line(client: Client) -> None:
    with pytest.raises(errors.PassFailed) as raised:
        client.transform(_INPUT_AND_ID.archive, "raise-at")
    metadata = raised.value.metadata
    file, _, line = metadata["error_line"].rpartition(":")
    assert (metadata["error_type"], file) == ("ValueError", _PASSES.name)
    assert _PASSES.read_text().splitlines()[int(line) - 1].strip() == "raise ValueError(self._message)"
    assert raised.value.message.endswith(f"ValueError: the pass gave up (at {metadata['error_line']})")
    assert "traceback" not in metadata


def test_a_traceback_is_one_event_of_the_log_and_comes_back_where_the_operator_lets_it(allowing: EmbeddedServer) -> None:
    with Client(allowing.address) as client:
        with pytest.raises(errors.PassFailed) as raised:
            client.transform(_INPUT_AND_ID.archive, "raise-at", request_id="mine")
        logged = [json.loads(line) for line in allowing.log.splitlines()]
    told = raised.value.metadata["traceback"]
    assert told.endswith("ValueError: the pass gave up\n")
    assert f'File "{_PASSES}"' in told
    about = [event for event in logged if "the pass gave up" in json.dumps(event)]
    assert [(event["event"], event["request_id"]) for event in about] == [("request failed", "mine")]
    assert about[0]["exception"].endswith(told.removeprefix("..."))

"""Bytes that no gRPC client would send, to methods of ours, of the standard services and of nobody: a line each at most, without them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from retraced import Client
from tests.support import http2

_INFO = b"/retraced.v1.GraphTransformService/GetServerInfo"
_CHECK = b"/grpc.health.v1.Health/Check"
_WATCH = b"/grpc.health.v1.Health/Watch"
_REFLECT = b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
_MARK = b"\xffmark\xfe"
_VALUE = ((b"x-odd", _MARK),)
# A string that is no UTF-8 in a field that is a string: of HealthCheckRequest, and of ServerReflectionRequest.
_TEXT, _SYMBOL = b"\x0a\x06" + _MARK, b"\x22\x06" + _MARK
_UNREAD = {"a call's method or message cannot be decoded (UnicodeDecodeError)": 1}
_UNPARSED = {"a call's method or message cannot be decoded (DecodeError)": 1}
_CASES: dict[str, tuple[bytes, dict[str, int]]] = {
    "path": (http2.call(b"/no.Such/" + _MARK), _UNREAD),
    "path of ours": (http2.call(_INFO + _MARK), _UNREAD),
    "path of nobody": (http2.call(b"/no.Such/Method"), {}),
    "name": (http2.call(_INFO, ((b"x-" + _MARK, b""),)), {}),
    "binary value": (http2.call(_INFO, ((b"x-odd-bin", _MARK),)), {}),
    "value": (http2.call(_INFO, _VALUE), {"request ended": 1}),
    "two values": (http2.call(_INFO, _VALUE * 2), {"request ended": 1}),
    "request id": (http2.call(_INFO, ((b"x-request-id", _MARK),)), {"request failed": 1}),
    "token": (http2.call(_INFO, ((b"authorization", _MARK),)), {"request ended": 1}),
    "message": (http2.call(_INFO, (), _MARK), {"request failed": 1}),
    "value for health": (http2.call(_CHECK, _VALUE), {}),
    "message for health": (http2.call(_CHECK, (), _MARK), _UNPARSED),
    "text for health": (http2.call(_CHECK, (), _TEXT), _UNPARSED),
    "message for watchers": (http2.call(_WATCH, (), _MARK), _UNPARSED),
    "value for reflection": (http2.call(_REFLECT, _VALUE), {}),
    "message for reflection": (http2.call(_REFLECT, (), _MARK), _UNPARSED),
    "text for reflection": (http2.call(_REFLECT, (), _SYMBOL), _UNPARSED),
}


class _Server:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._process = process
        self.address = process.stdout.readline().decode().rpartition(" ")[2].strip()
        self._entries: list[dict[str, Any]] = []
        assert self.until("listening")

    def until(self, event: str, **fields: str) -> list[dict[str, Any]]:
        """Return what is logged up to and with an event."""
        found: list[dict[str, Any]] = []
        assert self._process.stderr is not None
        for line in self._process.stderr:
            found.append(json.loads(line))
            if found[-1]["event"] == event and fields.items() <= found[-1].items():
                return found
        raise AssertionError(f"the server has ended after {found}")


@pytest.fixture(scope="module")
def server() -> Iterator[_Server]:
    command = [sys.executable, "-m", "tests.service.served_fake", "nothing", "--port", "0", "--log-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield _Server(process)
        finally:
            process.kill()


@pytest.mark.parametrize("name", _CASES)
def test_what_cannot_be_decoded_is_a_line_at_most_without_its_bytes(server: _Server, name: str) -> None:
    frames, expected = _CASES[name]
    with http2.connection(server.address) as connected:
        connected.sendall(frames)
        assert http2.read_to_end(connected)
    with Client(server.address) as client:
        client.passes()
    *logged, last = server.until("request ended", method="ListPasses")
    assert Counter(entry["event"] for entry in logged) == expected
    assert all(entry["level"] == "info" for entry in logged)
    text = json.dumps(logged)
    assert "mark" not in text
    assert "exception" not in text
    assert last["code"] == "OK"

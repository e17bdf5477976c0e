"""Frames on a socket: whole or an error, bounded, and with descriptors that are never lost."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from retraced_server.worker.frames import (
    MAX_FRAME_BYTES,
    FrameError,
    close_fds,
    encode_frame,
    read_frame,
    receive_frame,
    receive_frame_with_fds,
    send_frame,
)
from tests.support.processes import open_fds

_PAYLOADS = [b"", b"x", bytes(range(256)) * 5000]
_BROKEN = [
    (b"\x00\x00", "2 bytes into 4"),
    (b"\x00\x00\x00\x05", "after a frame's length"),
    (b"\x00\x00\x00\x05abc", "3 bytes into 5"),
    ((MAX_FRAME_BYTES + 1).to_bytes(4, "big"), f"{MAX_FRAME_BYTES} is the most"),
]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def test_frames_arrive_as_they_were_sent_and_then_the_end(ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = ends

    def send() -> None:
        for payload in _PAYLOADS:
            send_frame(one, payload)
        one.close()

    sender = threading.Thread(target=send)
    sender.start()
    assert [receive_frame(other) for _ in _PAYLOADS] == _PAYLOADS
    assert receive_frame(other) is None
    sender.join()


async def test_frames_are_read_by_asyncio_as_by_sockets() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"".join(map(encode_frame, _PAYLOADS)))
    reader.feed_eof()
    assert [await read_frame(reader) for _ in _PAYLOADS] == _PAYLOADS
    assert await read_frame(reader) is None


@pytest.mark.parametrize(("data", "message"), _BROKEN)
def test_stream_that_is_not_one_of_frames_is_an_error(
    data: bytes, message: str, ends: tuple[socket.socket, socket.socket]
) -> None:
    one, other = ends
    one.sendall(data)
    one.close()
    with pytest.raises(FrameError, match=message):
        receive_frame(other)


@pytest.mark.parametrize("data", [data for data, _ in _BROKEN])
async def test_stream_that_is_not_one_of_frames_is_an_error_for_asyncio_too(data: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    with pytest.raises(FrameError):
        await read_frame(reader)


def test_frame_that_is_too_long_is_not_sent(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(FrameError, match="longer than"):
        send_frame(ends[0], bytes(MAX_FRAME_BYTES + 1))
    ends[0].close()
    assert receive_frame(ends[1]) is None


def test_descriptors_come_with_their_frame_and_are_closed_on_exec(ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = ends
    with open(os.devnull, "rb") as file:
        socket.send_fds(one, [encode_frame(b"with")], [file.fileno()])
        send_frame(one, b"without")
        first = receive_frame_with_fds(other)
        second = receive_frame_with_fds(other)
    assert first is not None
    payload, fds = first
    assert payload == b"with"
    assert [os.get_inheritable(fd) for fd in fds] == [False]
    assert second == (b"without", [])
    close_fds(fds)


@pytest.mark.parametrize("data", [data for data, _ in _BROKEN])
def test_descriptors_of_a_broken_frame_are_closed(data: bytes, ends: tuple[socket.socket, socket.socket]) -> None:
    one, other = ends
    before = open_fds()
    with open(os.devnull, "rb") as file:
        socket.send_fds(one, [data], [file.fileno()])
    one.shutdown(socket.SHUT_WR)
    with pytest.raises(FrameError):
        receive_frame_with_fds(other)
    assert open_fds() == before

"""Frames between the processes of one server: a 4-byte big-endian length, then that many bytes.

The zygote and the workers read and write them with blocking sockets, the front end with asyncio. Open file descriptors can ride with a
frame (SCM_RIGHTS, unix(7)). A length past `MAX_FRAME_BYTES` is an error, so that a faulty peer cannot make a process allocate at will.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence

MAX_FRAME_BYTES = 16 << 20
"""The longest frame, in bytes, without its length."""

_LENGTH_BYTES = 4
_MAX_FDS = 4


class FrameError(Exception):
    """The stream is not one of frames: a length past the bound, or an end in the middle of a frame."""


def encode_frame(payload: bytes) -> bytes:
    """Put the length before the payload.

    Raises:
        FrameError: The payload is longer than a frame may be.
    """
    return _length(payload) + payload


def send_frame(sock: socket.socket, payload: bytes) -> None:
    """Send one frame, blocking until the kernel has taken it.

    Raises:
        FrameError: The payload is longer than a frame may be.
        OSError: The peer is gone.
    """
    sock.sendall(_length(payload))
    sock.sendall(payload)


def receive_frame(sock: socket.socket) -> bytes | None:
    """Receive one frame, blocking until it is whole; None where the stream ends before it.

    Raises:
        FrameError: The stream is not one of frames.
    """
    header = _receive_exactly(sock, b"", _LENGTH_BYTES)
    return None if header is None else _receive_payload(sock, header)


def receive_frame_with_fds(sock: socket.socket) -> tuple[bytes, list[int]] | None:
    """Receive one frame and the descriptors that ride with it, closed on exec; None where the stream ends before it.

    Raises:
        FrameError: The stream is not one of frames. The descriptors received so far are closed.
    """
    # The descriptors come with the first byte of the frame, so a read of the length gets them all and those of no other frame.
    start, fds, _, _ = socket.recv_fds(sock, _LENGTH_BYTES, _MAX_FDS)
    try:
        # Python 3.11 takes flags for `recv_fds`, MSG_CMSG_CLOEXEC among them, and passes none on.
        for fd in fds:
            os.set_inheritable(fd, False)
        header = _receive_exactly(sock, start, _LENGTH_BYTES) if start else None
        if header is None:
            return None
        return _receive_payload(sock, header), fds
    except BaseException:
        close_fds(fds)
        raise


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Read one frame; None where the stream ends before it.

    Raises:
        FrameError: The stream is not one of frames.
    """
    try:
        header = await reader.readexactly(_LENGTH_BYTES)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise FrameError("the stream ends inside a frame's length") from error
        return None
    try:
        return await reader.readexactly(_decode_length(header))
    except asyncio.IncompleteReadError as error:
        raise FrameError(f"the stream ends {len(error.partial)} bytes into a frame") from error


def close_fds(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def _length(payload: bytes) -> bytes:
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(payload)} bytes is longer than the {MAX_FRAME_BYTES} that a frame may have")
    return len(payload).to_bytes(_LENGTH_BYTES, "big")


def _decode_length(header: bytes) -> int:
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame says that it has {length} bytes, and {MAX_FRAME_BYTES} is the most")
    return length


def _receive_payload(sock: socket.socket, header: bytes) -> bytes:
    payload = _receive_exactly(sock, b"", _decode_length(header))
    if payload is None:
        raise FrameError("the stream ends after a frame's length")
    return payload


def _receive_exactly(sock: socket.socket, start: bytes, count: int) -> bytes | None:
    data = bytearray(start)
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            if not data:
                return None
            raise FrameError(f"the stream ends {len(data)} bytes into {count}")
        data += piece
    return bytes(data)

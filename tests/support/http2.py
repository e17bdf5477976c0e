"""HTTP/2 connections by hand, RFC 9113: what no gRPC client would send."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Final

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0x0, 0x1, 0x4
_ACK = _END_STREAM = 0x1
_END_HEADERS: Final = 0x4
_GRPC: Final = ((b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"))
_TRAILERS: Final = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))


@contextlib.contextmanager
def connection(address: str, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    """Open a connection that has said as much as lasts: its preface, its settings, and that it has read the server's.

    Args:
        address: `HOST:PORT`.
        source: The address that it comes from; all of 127.0.0.0/8 is this machine.
    """
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30, source_address=(source, 0)) as connected:
        connected.sendall(_PREFACE + _frame(_SETTINGS) + _frame(_SETTINGS, _ACK))
        yield connected


def call(path: bytes, metadata: Sequence[tuple[bytes, bytes]] = (), message: bytes = b"", stream: int = 1) -> bytes:
    """Return the frames of one call, of one message.

    Args:
        path: The method, `/package.Service/Method`; any bytes.
        metadata: Names and values; any bytes.
        message: The request, serialized; any bytes.
        stream: The stream's number, which is odd and higher than those before it on a connection.
    """
    headers = (*_GRPC, (b":path", path), *_TRAILERS, *metadata)
    # Literals that are not indexed, in plain bytes: RFC 7541, section 6.2.2.
    block = b"".join(b"\x00" + _sized(name) + _sized(value) for name, value in headers)
    data = b"\x00" + len(message).to_bytes(4, "big") + message
    return _frame(_HEADERS, _END_HEADERS, block, stream) + _frame(_DATA, _END_STREAM, data, stream)


def read_to_end(connected: socket.socket, stream: int = 1) -> bytes:
    """Read frames until the stream, or the connection, has ended; and return their payloads."""
    read = b""
    with connected.makefile("rb") as frames:
        while head := frames.read(9):
            payload = frames.read(int.from_bytes(head[:3], "big"))
            kind, flags, number = head[3], head[4], int.from_bytes(head[5:], "big")
            if number == stream:
                read += payload
            # A stream is also ended by RST_STREAM.
            if number == stream and (kind == 0x3 or flags & _END_STREAM):
                break
    return read


def _frame(kind: int, flags: int = 0, payload: bytes = b"", stream: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _sized(text: bytes) -> bytes:
    # An integer with a prefix of 7 bits: RFC 7541, section 5.1.
    length, head = len(text), b""
    if length >= 127:
        head, length = b"\x7f", length - 127
        while length >= 128:
            head, length = head + bytes((length % 128 + 128,)), length // 128
    return head + bytes((length,)) + text

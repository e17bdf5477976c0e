"""Where a server listens: a TCP port or a Unix socket, and why it cannot."""

from __future__ import annotations

import socket

import grpc.aio

_UNIX = "unix:"


class AddressError(Exception):
    """It cannot listen there; the message says where and why."""


def listen(server: grpc.aio.Server, host: str, port: int) -> str:
    """Takes an address, before the server is started.

    Args:
        server: The server.
        host: A name, an IPv4 or IPv6 address, or `unix:` and the path of a socket, for which the port does not count.
        port: A TCP port; 0 takes a free one.

    Returns:
        The address for clients, with the port that was taken.

    Raises:
        AddressError: Somebody else has it, or it is none of this machine's.
    """
    if host.startswith(_UNIX):
        return _listen_unix(server, host)
    bare = host.removeprefix("[").removesuffix("]")
    shown = f"[{bare}]" if ":" in bare else bare
    try:
        return f"{shown}:{server.add_insecure_port(f'{shown}:{port}')}"
    except RuntimeError as error:
        raise AddressError(f"cannot listen on {shown}:{port}: {_why(bare, port) or error}") from error


def _listen_unix(server: grpc.aio.Server, address: str) -> str:
    path = address.removeprefix(_UNIX).removeprefix("//")
    # gRPC would take the path from a server that listens there.
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            pass
        else:
            raise AddressError(f"cannot listen on {address}: another server does")
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise AddressError(f"cannot listen on {address}: {_why_not_unix(path) or error}") from error
    return address


def _why(host: str, port: int) -> str:
    """What the system says to an attempt of our own: gRPC keeps it to itself."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _why_not_unix(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(path)
        except OSError as error:
            return error.strerror or str(error)
    return ""

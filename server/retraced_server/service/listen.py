"""Where a server listens: a TCP port or a Unix socket, and why it cannot."""

from __future__ import annotations

import ipaddress
import socket

import grpc
import grpc.aio

_UNIX = "unix:"


class AddressError(Exception):
    """It cannot listen there; the message says where and why."""


def listen(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> str:
    """Take an address, before the server is started.

    Args:
        server: The server.
        host: A name, an IPv4 or IPv6 address, or `unix:` and the path of a socket, for which the port does not count.
        port: A TCP port; 0 takes a free one.
        credentials: What TLS is spoken with; None: plain text.

    Returns:
        The address for clients, with the port that was taken.

    Raises:
        AddressError: Somebody else has it, or it is none of this machine's.
    """
    if host.startswith(_UNIX):
        return _listen_unix(server, host, credentials)
    bare = host.removeprefix("[").removesuffix("]")
    shown = f"[{bare}]" if ":" in bare else bare
    try:
        return f"{shown}:{_add_port(server, f'{shown}:{port}', credentials)}"
    except RuntimeError as error:
        raise AddressError(f"cannot listen on {shown}:{port}: {_why(bare, port) or error}") from error


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address that can be listened on."""
    if host.startswith(_UNIX):
        return True
    try:
        found = socket.getaddrinfo(host.removeprefix("[").removesuffix("]"), None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def _add_port(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> int:
    if credentials is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, credentials)


def _listen_unix(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> str:
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
        _add_port(server, address, credentials)
    except RuntimeError as error:
        raise AddressError(f"cannot listen on {address}: {_why_not_unix(path) or error}") from error
    return address


def _why(host: str, port: int) -> str:
    """Return what the system says to an attempt of our own: gRPC keeps it to itself."""
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

"""What may be a server's address, and what is wrong with one that is none: gRPC would only say, later, that nothing answers."""

from __future__ import annotations

import re

from retraced.errors import AddressInvalid

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?=/)")
# Resolvers of gRPC whose names are no HOST:PORT.
_OPAQUE = ("unix:", "unix-abstract:", "vsock:", "xds:")
_DNS = re.compile(r"dns:(?://[^/]*/)?(?=[^/])")
_NUMERIC = re.compile(r"ipv[46]:(?!\d*$)")
_HOST = re.compile(r"[^\s/@?#\[\]:,]+|\[[0-9A-Fa-f:.]+(?:%\w+)?\]")
_LARGEST_PORT = 65535


def check_address(address: str) -> None:
    """Check that gRPC can connect to an address: `HOST:PORT`, `unix:PATH`, or a name of another of gRPC's resolvers.

    Args:
        address: The address; `ipv4:` and `ipv6:` take several, with commas between them.

    Raises:
        AddressInvalid: It has no port, one that is out of range, no host, or a scheme that gRPC does not know.
    """
    if address.startswith(_OPAQUE):
        return
    if prefix := _NUMERIC.match(address):
        for one in address[prefix.end() :].split(","):
            _check_host_and_port(address, one)
        return
    name = _DNS.sub("", address, count=1)
    if scheme := _SCHEME.match(name):
        encrypted = " and TLS (--tls)" if scheme[1].lower() in ("https", "grpcs") else ""
        raise _invalid(address, f"{scheme[1]}: is no scheme of gRPC; give HOST:PORT alone{encrypted}")
    _check_host_and_port(address, name)


def _check_host_and_port(address: str, name: str) -> None:
    host, colon, port = name.rpartition(":")
    if not colon or (name.startswith("[") and name.endswith("]")):
        raise _invalid(address, f"it has no port; retraced serve listens on 50051 unless it is told otherwise: {name}:50051")
    if ":" in host and not host.startswith("["):
        raise _invalid(address, "an IPv6 address stands in brackets: [::1]:50051")
    if not host:
        raise _invalid(address, f"it has no host; this machine is 127.0.0.1:{port}")
    if not _HOST.fullmatch(host):
        raise _invalid(address, f"{host!r} is no host")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= _LARGEST_PORT):
        raise _invalid(address, f"{port!r} is no port: one is a number from 1 to {_LARGEST_PORT}")


def _invalid(address: str, why: str) -> AddressInvalid:
    return AddressInvalid(f"{address!r} is no server's address: {why}", metadata={"address": address})

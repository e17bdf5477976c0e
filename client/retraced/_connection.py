"""How a client is connected: where to, with which certificates, and with which token. Shared by both clients."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio

from retraced._address import check_address
from retraced._options import call_metadata, server_address
from retraced.errors import AddressInvalid, CredentialsInvalid
from retraced.tls import Tls

# Node metadata batches and summaries are far below this; gRPC's own limit of 4 MiB is too near for a program with many guards.
_MAX_MESSAGE_BYTES = 64 << 20
# A server that vanishes without a word is noticed after this; gRPC servers refuse pings more often than every five minutes.
_KEEPALIVE_MS = 330_000
# A server that has come back is found soon; left to itself gRPC waits up to two minutes between attempts to connect.
_RECONNECT_MS = 2_000
# Calls go to each server in turn, of those to which there is a connection.
_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


@dataclass(frozen=True)
class Connection:
    """Everything that a channel and its calls are made with. Made by `connection`.

    Attributes:
        address: Where to, as the caller has said it.
        several: Whether several servers may be there: it is a list, or the name of another machine.
    """

    address: str
    several: bool
    _target: str
    _options: list[tuple[str, str | int]]
    _credentials: grpc.ChannelCredentials | None
    _authorization: tuple[tuple[str, str], ...] = field(repr=False)

    def channel(self) -> grpc.Channel:
        """Return a channel that blocks."""
        if self._credentials is None:
            return grpc.insecure_channel(self._target, options=self._options)
        return grpc.secure_channel(self._target, self._credentials, options=self._options)

    def aio_channel(self) -> grpc.aio.Channel:
        """Return a channel of the event loop that runs now."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target, options=self._options)
        return grpc.aio.secure_channel(self._target, self._credentials, options=self._options)

    def metadata(self, request_id: str, traceparent: str | None = None) -> tuple[tuple[str, str], ...]:
        """Return the gRPC metadata of a call.

        Raises:
            ValueError: `traceparent` has characters that cannot be sent.
        """
        return (*call_metadata(request_id, traceparent), *self._authorization)


def connection(
    address: str | Sequence[str] | None,
    token: str | None,
    tls: Tls | None,
    allow_insecure: bool,
    channel_options: Mapping[str, str | int] | None,
) -> Connection:
    """Check what a client is made with. The arguments are those of `Client`.

    Raises:
        AddressMissing: There is no address.
        AddressInvalid: Nothing can be connected to at it; or there are several, and they are not all IP addresses of one version with
            ports.
        CredentialsInvalid: A file of `tls` cannot be read, or the token cannot be sent, or not in plain text; or there are several
            addresses, and `tls` has no name for them.
    """
    found = server_address(address)
    if found.startswith(("ipv4:", "ipv6:")):
        check_address(found)
    target = _target(found)
    check_address(target)
    authorization: tuple[tuple[str, str], ...] = ()
    if token is not None:
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise CredentialsInvalid("the token cannot be sent: it is empty, or has other characters than printable ASCII")
        if tls is None and not allow_insecure and not is_local(found):
            raise CredentialsInvalid(
                f"the token would go to {found} in plain text, for everybody on the way to read: connect with TLS"
            )
        authorization = (("authorization", f"Bearer {token}"),)
    if tls is not None and tls.server_name is None and len(_addresses(found)) > 1:
        raise CredentialsInvalid(
            f"the certificates of {found} have to have a name in common; Tls(server_name=...), or --tls-server-name, says which"
        )
    several = len(_addresses(found)) > 1 or not is_local(found)
    options = _channel_options(found, several, None if tls is None else tls.server_name, channel_options)
    return Connection(found, several, target, options, None if tls is None else _credentials(tls), authorization)


def is_local(address: str) -> bool:
    """Whether what is sent to an address, or to each of several, stays on this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    return all(host == "localhost" or (ip is not None and ip.is_loopback) for host, ip in map(_host, _addresses(address)))


def _addresses(address: str) -> list[str]:
    return address.removeprefix("ipv4:").removeprefix("ipv6:").split(",")


def _host(address: str) -> tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address | None]:
    """Return the host of `HOST:PORT`, also as an IP address where it is one."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return host, ipaddress.ip_address(host)
    except ValueError:
        return host, None


def _target(address: str) -> str:
    """Return an address as gRPC takes it."""
    several = _addresses(address)
    if len(several) == 1:
        return address
    versions = {None if ip is None else ip.version for _, ip in map(_host, several)}
    if len(versions) > 1 or None in versions:
        raise AddressInvalid(
            f"several addresses are IP addresses with ports, all of them IPv4 or all IPv6, not {address}; "
            "the servers of a DNS name are found by the name alone, dns:///NAME:PORT"
        )
    return f"ipv{versions.pop()}:{','.join(several)}"


def _channel_options(
    address: str, several: bool, server_name: str | None, extra: Mapping[str, str | int] | None
) -> list[tuple[str, str | int]]:
    """Return the gRPC channel options: ours, then the caller's over them."""
    options: dict[str, str | int] = {
        "grpc.max_receive_message_length": _MAX_MESSAGE_BYTES,
        # No message is decompressed: gRPC looks at its length only afterwards, when a message of that length has become gigabytes.
        "grpc.compression_enabled_algorithms_bitset": 1,
        "grpc.keepalive_time_ms": _KEEPALIVE_MS,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.max_reconnect_backoff_ms": _RECONNECT_MS,
    }
    if is_local(address) or len(_addresses(address)) > 1:
        # gRPC would send even these through the proxy of the environment, which knows nothing of a list.
        options["grpc.enable_http_proxy"] = 0
    if several:
        options["grpc.service_config"] = _ROUND_ROBIN
    if server_name is not None:
        options["grpc.default_authority"] = server_name
    options.update(extra or {})
    return list(options.items())


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    ca, key, certificate = (None if path is None else _read(path) for path in (tls.ca, tls.key, tls.certificate))
    return grpc.ssl_channel_credentials(ca, key, certificate)


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise CredentialsInvalid(f"cannot read {os.fspath(path)}: {error.strerror}") from error
    if b"-----BEGIN " not in data:
        # gRPC would fail the first call, and not say why.
        raise CredentialsInvalid(f"{os.fspath(path)} is no PEM file")
    return data

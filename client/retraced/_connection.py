"""How a client is connected: where to, with which certificates, and with which token. Shared by both clients."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
import grpc.aio

from retraced._address import check_address
from retraced._options import call_metadata, server_address
from retraced.errors import CredentialsInvalid
from retraced.tls import Tls

# Node metadata batches and summaries are far below this; gRPC's own limit of 4 MiB is too near for a program with many guards.
_MAX_MESSAGE_BYTES = 64 << 20
# A server that vanishes without a word is noticed after this; gRPC servers refuse pings more often than every five minutes.
_KEEPALIVE_MS = 330_000


@dataclass(frozen=True)
class Connection:
    """Everything that a channel and its calls are made with. Made by `connection`."""

    address: str
    _options: list[tuple[str, str | int]]
    _credentials: grpc.ChannelCredentials | None
    _authorization: tuple[tuple[str, str], ...] = field(repr=False)

    def channel(self) -> grpc.Channel:
        """A channel that blocks."""
        if self._credentials is None:
            return grpc.insecure_channel(self.address, options=self._options)
        return grpc.secure_channel(self.address, self._credentials, options=self._options)

    def aio_channel(self) -> grpc.aio.Channel:
        """A channel of the event loop that runs now."""
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.address, options=self._options)
        return grpc.aio.secure_channel(self.address, self._credentials, options=self._options)

    def metadata(self, request_id: str, traceparent: str | None = None) -> tuple[tuple[str, str], ...]:
        """The gRPC metadata of a call.

        Raises:
            ValueError: `traceparent` has characters that cannot be sent.
        """
        return (*call_metadata(request_id, traceparent), *self._authorization)


def connection(
    address: str | None,
    token: str | None,
    tls: Tls | None,
    allow_insecure: bool,
    channel_options: Mapping[str, str | int] | None,
) -> Connection:
    """Checks what a client is made with. The arguments are those of `Client`.

    Raises:
        AddressMissing: There is no address.
        AddressInvalid: It is none that can be connected to.
        CredentialsInvalid: A file of `tls` cannot be read, or the token cannot be sent, or not in plain text.
    """
    found = server_address(address)
    check_address(found)
    authorization: tuple[tuple[str, str], ...] = ()
    if token is not None:
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise CredentialsInvalid("the token cannot be sent: it is empty, or has other characters than printable ASCII")
        if tls is None and not allow_insecure and not is_local(found):
            raise CredentialsInvalid(
                f"the token would go to {found} in plain text, for everybody on the way to read: connect with TLS"
            )
        authorization = (("authorization", f"Bearer {token}"),)
    return Connection(
        found, _channel_options(found, channel_options), None if tls is None else _credentials(tls), authorization
    )


def is_local(address: str) -> bool:
    """Whether what is sent to an address stays on this machine."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _channel_options(address: str, extra: Mapping[str, str | int] | None) -> list[tuple[str, str | int]]:
    """gRPC channel options: ours, then the caller's over them."""
    options: dict[str, str | int] = {
        "grpc.max_receive_message_length": _MAX_MESSAGE_BYTES,
        # No message is decompressed: gRPC looks at its length only afterwards, when a message of that length has become gigabytes.
        "grpc.compression_enabled_algorithms_bitset": 1,
        "grpc.keepalive_time_ms": _KEEPALIVE_MS,
        "grpc.keepalive_timeout_ms": 20_000,
    }
    if is_local(address):
        # gRPC would send even these through the proxy of the environment.
        options["grpc.enable_http_proxy"] = 0
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

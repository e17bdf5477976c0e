"""What a caller can ask of a transform, and where the server is. Shared by both clients."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from retraced.errors import AddressMissing

NodeMetadataSelection = Literal["none", "changed", "all"]
RetraceMode = Literal["incremental", "full"]
KeptAtHome = Literal["sample-inputs", "guards", "stack-traces"]

# Node metadata batches and summaries are far below this; gRPC's own limit of 4 MiB is too near for a program with many guards.
_MAX_MESSAGE_BYTES = 64 << 20
# A server that vanishes without a word is noticed after this; gRPC servers refuse pings more often than every five minutes.
_KEEPALIVE_MS = 330_000
_MAX_REQUEST_ID = 128


@dataclass(frozen=True)
class TransformOptions:
    """How a program is to be transformed; the options of `Client.transform`.

    Raises:
        ValueError: An option is not one of its values.
    """

    node_metadata: NodeMetadataSelection = "none"
    validate_only: bool = False
    mode: RetraceMode | None = None
    refuse_new_guards: bool = False
    want_output: bool = True
    namespaces: tuple[str, ...] = ()
    keep_at_home: tuple[KeptAtHome, ...] = ()

    def __post_init__(self) -> None:
        if self.node_metadata not in get_args(NodeMetadataSelection):
            raise ValueError(f"node_metadata is one of {get_args(NodeMetadataSelection)}, not {self.node_metadata!r}")
        if self.mode is not None and self.mode not in get_args(RetraceMode):
            raise ValueError(f"mode is None or one of {get_args(RetraceMode)}, not {self.mode!r}")
        if not set(self.keep_at_home) <= set(get_args(KeptAtHome)):
            raise ValueError(f"keep_at_home is any of {get_args(KeptAtHome)}, not {self.keep_at_home!r}")


def server_address(address: str | None) -> str:
    """The address given, or else that of the environment variable RETRACED_SERVER.

    Raises:
        AddressMissing: Neither is there.
    """
    found = address or os.environ.get("RETRACED_SERVER", "")
    if not found:
        raise AddressMissing("no server address: pass one (for example '127.0.0.1:50051'), or set RETRACED_SERVER")
    return found


def all_channel_options(address: str, extra: Mapping[str, str | int] | None) -> list[tuple[str, str | int]]:
    """gRPC channel options: ours, then the caller's over them."""
    options: dict[str, str | int] = {
        "grpc.max_receive_message_length": _MAX_MESSAGE_BYTES,
        "grpc.keepalive_time_ms": _KEEPALIVE_MS,
        "grpc.keepalive_timeout_ms": 20_000,
    }
    if address.startswith(("localhost:", "127.", "[::1]:", "unix:")):
        # gRPC would send even these through the proxy of the environment.
        options["grpc.enable_http_proxy"] = 0
    options.update(extra or {})
    return list(options.items())


def new_request_id(given: str | None) -> str:
    """The id given, or a new one.

    Raises:
        ValueError: It is empty, too long, or has characters that cannot be sent.
    """
    if given is None:
        return uuid.uuid4().hex
    if not 0 < len(given) <= _MAX_REQUEST_ID or not (given.isascii() and given.isprintable()):
        raise ValueError(f"request_id is 1 to {_MAX_REQUEST_ID} printable ASCII characters, not {given!r}")
    return given


def call_metadata(request_id: str, traceparent: str | None = None) -> tuple[tuple[str, str], ...]:
    """The gRPC metadata of a call.

    Raises:
        ValueError: `traceparent` has characters that cannot be sent.
    """
    if traceparent is None:
        return (("x-request-id", request_id),)
    if not (traceparent.isascii() and traceparent.isprintable()):
        raise ValueError(f"traceparent is printable ASCII, not {traceparent!r}")
    return (("x-request-id", request_id), ("traceparent", traceparent))

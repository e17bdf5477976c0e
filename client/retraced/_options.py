"""What a caller can ask of a transform, and where the server is. Shared by both clients."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from retraced.errors import AddressMissing

NodeMetadataSelection = Literal["none", "changed", "all"]
RetraceMode = Literal["incremental", "full"]
KeptAtHome = Literal["sample-inputs", "guards", "stack-traces"]

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

    @property
    def wants_output(self) -> bool:
        """Whether an archive is to come back."""
        return self.want_output and not self.validate_only

    def __post_init__(self) -> None:
        if self.node_metadata not in get_args(NodeMetadataSelection):
            raise ValueError(f"node_metadata is one of {get_args(NodeMetadataSelection)}, not {self.node_metadata!r}")
        if self.mode is not None and self.mode not in get_args(RetraceMode):
            raise ValueError(f"mode is None or one of {get_args(RetraceMode)}, not {self.mode!r}")
        if not set(self.keep_at_home) <= set(get_args(KeptAtHome)):
            raise ValueError(f"keep_at_home is any of {get_args(KeptAtHome)}, not {self.keep_at_home!r}")


def pipeline_text(pipeline: str | Sequence[str]) -> str:
    """Return the text of a pipeline that is given as one text or several.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(pipeline, str):
        return pipeline
    for item in pipeline:
        if not isinstance(item, str):
            raise TypeError(f"a server takes passes by name, as text, not {item!r}; run_pipeline runs a pass object in process")
    return ",".join(pipeline)


def server_address(address: str | Sequence[str] | None) -> str:
    """Return the address given, or else that of the environment variable RETRACED_SERVER. Several have commas between them.

    Raises:
        AddressMissing: Neither is there.
    """
    given = address if address is None or isinstance(address, str) else ",".join(address)
    found = given or os.environ.get("RETRACED_SERVER", "")
    if not found:
        raise AddressMissing("no server address: pass one (for example '127.0.0.1:50051'), or set RETRACED_SERVER")
    return found


def new_request_id(given: str | None) -> str:
    """Return the id given, or a new one.

    Raises:
        ValueError: It is empty, too long, or has characters that cannot be sent.
    """
    if given is None:
        return uuid.uuid4().hex
    if not is_request_id(given):
        raise ValueError(f"request_id is 1 to {_MAX_REQUEST_ID} printable ASCII characters, not {given!r}")
    return given


def is_request_id(text: str) -> bool:
    """Whether a text can name a request: 1 to 128 printable ASCII characters."""
    return 0 < len(text) <= _MAX_REQUEST_ID and text.isascii() and text.isprintable()


def call_metadata(request_id: str, traceparent: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return the gRPC metadata of a call.

    Raises:
        ValueError: `traceparent` has characters that cannot be sent.
    """
    if traceparent is None:
        return (("x-request-id", request_id),)
    if not (traceparent.isascii() and traceparent.isprintable()):
        raise ValueError(f"traceparent is printable ASCII, not {traceparent!r}")
    return (("x-request-id", request_id), ("traceparent", traceparent))

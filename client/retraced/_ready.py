"""Waiting for a server: asks the standard gRPC health service until it says that a request would be taken."""

from __future__ import annotations

import time
from typing import Final

from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from retraced.errors import DeadlineExceeded, RetracedError, ServerNotReady, ServerUnreachable
from retraced.v1 import graph_transform_pb2 as pb

CHECK: Final = "/grpc.health.v1.Health/Check"
"""The method. Its messages have one field each, a string and an enum: protobuf's own wrappers have the same bytes."""

REQUEST: Final = StringValue(value=pb.DESCRIPTOR.services_by_name["GraphTransformService"].full_name)

_SERVING = 1
_PAUSE = 0.2


class Waiting:
    """The wait for one server.

    Args:
        address: The server's.
        timeout: Seconds that it may take; None: no limit.
    """

    def __init__(self, address: str, timeout: float | None) -> None:
        self._address = address
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._why = "it did not answer"

    def seconds_left(self) -> float | None:
        """Return the seconds that the next check may take; None: no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def serves(self, answer: Int32Value) -> bool:
        """Whether an answer says that a request would be taken."""
        self._why = (
            "it answers, and says that it would take no request: it starts or drains, or its workers or its disk are gone"
        )
        return answer.value == _SERVING

    def mends(self, error: RetracedError) -> bool:
        """Whether what made a check fail may be over at the next one."""
        if isinstance(error, ServerUnreachable):
            self._why = error.message
            return True
        return isinstance(error, DeadlineExceeded)

    def pause(self) -> float:
        """Return the seconds until the next check.

        Raises:
            ServerNotReady: The time is up.
        """
        left = self.seconds_left()
        if left is not None and left <= 0:
            raise ServerNotReady(f"the server at {self._address} was not ready within {self._timeout:g} s: {self._why}")
        return _PAUSE if left is None else min(_PAUSE, left)

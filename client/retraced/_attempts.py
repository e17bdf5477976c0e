"""When a call is made again: after an error that says when it may succeed, with google.rpc.RetryInfo; of several servers, when one is lost.

gRPC's own retry policy cannot do this. It goes by status codes, and RESOURCE_EXHAUSTED is a full queue as well as a job that ran out of
memory; it does not read RetryInfo; and it repeats only what still fits in its buffer of some hundred KiB, which no upload does.
"""

from __future__ import annotations

import random
import time

from retraced.errors import RetracedError, ServerUnreachable
from retraced.events import Retrying

ATTEMPTS = 5
"""How many attempts a client makes at most, unless it is told."""

# A server that asks for more patience is not waited for: the caller, who is told, knows better what else to do.
_LONGEST_PAUSE = 60.0
_SHORTEST_PAUSE = 0.1
# Callers who were refused together do not come back together.
_JITTER = 0.25


class Attempts:
    """The attempts of one call.

    Args:
        most: How many there may be.
        timeout: Seconds for all of them and the pauses between; None: no limit.
        several: Whether there are several servers, so that a call that is lost with one may be answered by another. That is safe: no call
            changes anything on a server.
    """

    def __init__(self, most: int, timeout: float | None, several: bool) -> None:
        self._left = most
        self._several = several
        self._factor = 1.0
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def seconds_left(self) -> float | None:
        """Return the seconds that the next attempt may take; None: no limit."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def after(self, error: RetracedError) -> Retrying | None:
        """Return how to go on after an attempt has failed; None: it is not tried again.

        The pause is what the server says, twice that after the second attempt, and so on up to a minute, with up to a quarter more at
        random. There is no attempt that the timeout would not leave a moment for.
        """
        self._left -= 1
        wanted = _SHORTEST_PAUSE if self._several and isinstance(error, ServerUnreachable) else error.retry_after
        if self._left < 1 or wanted is None or wanted > _LONGEST_PAUSE:
            return None
        pause = min(max(wanted, _SHORTEST_PAUSE) * self._factor, _LONGEST_PAUSE) * random.uniform(1.0, 1.0 + _JITTER)
        self._factor *= 2
        left = self.seconds_left()
        return None if left is not None and pause >= left else Retrying(pause, error.reason, error.message)


def checked_attempts(most: int) -> int:
    """Return how many attempts a client makes at most.

    Raises:
        ValueError: There are none.
    """
    if most < 1:
        raise ValueError(f"attempts is 1 at least, not {most}")
    return most

"""Waits for what others do in their own time. Nothing here waits without end."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

#: Far more than anything takes, also on a machine that is busy with other things.
PATIENCE = 60.0
_PAUSE = 0.01


def eventually(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    """Wait until a condition holds, asking again and again.

    Args:
        condition: What is to become true.
        what: The condition in words, for the error.
        seconds: How long to wait at most.

    Raises:
        AssertionError: It did not come to hold.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, _message(what, seconds)
        time.sleep(_PAUSE)


async def until(condition: Callable[[], Any | Awaitable[Any]], what: str, seconds: float = PATIENCE) -> None:
    """Wait until a condition holds, like `eventually`, and let the event loop run meanwhile.

    Args:
        condition: What is to become true; may be a coroutine function.
        what: The condition in words, for the error.
        seconds: How long to wait at most.

    Raises:
        AssertionError: It did not come to hold.
    """
    deadline = time.monotonic() + seconds
    while not (await found if inspect.isawaitable(found := condition()) else found):
        assert time.monotonic() < deadline, _message(what, seconds)
        await asyncio.sleep(_PAUSE)


def _message(what: str, seconds: float) -> str:
    return f"in {seconds:g} s it did not come about that {what}"

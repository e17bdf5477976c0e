"""Leaves what executed calls of a graph have entered, however their execution ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from retraced_server.torch_compat.functorch import (
    ENTER_AUTOCAST,
    ENTER_DUAL,
    EXIT_AUTOCAST,
    EXIT_DUAL,
    SET_GRAD_ENABLED,
    functorch_depth,
    leave_functorch_levels,
)


# Targets and results are whatever a graph has.
@contextmanager
def entered_regions() -> Iterator[Callable[[Any, Any], None]]:
    """Leave at the end the autocast and the levels that calls have entered and not left, and record gradients as before.

    Yields:
        What is to be told of each call: the function and its result.
    """
    depth, records_gradients = functorch_depth(), torch.is_grad_enabled()
    # Functions that leave what was entered, with a call of each.
    entered: list[tuple[Any, Callable[[], None]]] = []

    def called(target: Any, result: Any) -> None:
        if target is ENTER_AUTOCAST:
            entered.append((EXIT_AUTOCAST, partial(result.__exit__, None, None, None)))
        elif target is ENTER_DUAL:
            entered.append((EXIT_DUAL, partial(EXIT_DUAL, level=result)))
        else:
            # Regions may cross one another.
            at = next((at for at in reversed(range(len(entered))) if entered[at][0] is target), None)
            if at is not None:
                del entered[at]

    try:
        yield called
    finally:
        for _, leave in reversed(entered):
            leave()
        leave_functorch_levels(depth)
        SET_GRAD_ENABLED(records_gradients)

"""What the target of a call runs: an operator of torch, or one of a dialect that wraps it."""

from __future__ import annotations

from typing import Any

from retraced_server.retrace._torch import OpOverload


# A target of fx is any callable, or the name of a method.
def overload_of(target: Any) -> OpOverload | None:
    """Return the operator that a target runs, None for any other callable.

    It is the target itself, or what a dialect's own operator holds as `_op` and calls, as ExecuTorch's `EdgeOpOverload` and
    `BackendOpOverload` do (executorch/exir/dialects/edge/_ops.py). Whatever is to be known of a call, its schema and its tags, is
    asked of this operator; executed and recorded is the target.
    """
    if isinstance(target, OpOverload):
        return target
    wrapped = getattr(target, "_op", None)
    return wrapped if isinstance(wrapped, OpOverload) else None

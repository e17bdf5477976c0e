"""The rewriting pass of the benchmark, on our base class and on others; servers load this module to serve it."""

from __future__ import annotations

from typing import Any

import torch

from retraced_server.passes import register_pass
from retraced_server.retrace import ExportPass

#: One operator of so many is rewritten.
_STRIDE = 20


def rewriting(base: Any) -> Any:
    """Return a pass on a base class that copies the result of every twentieth operator: nodes are made, and what follows reads other values."""

    # The base is the point, and it may be a class without types.
    class Rewriting(base):  # type: ignore[misc]
        """Copy the result of every twentieth operator."""

        def __init__(self) -> None:
            super().__init__()
            self.seen = 0

        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            result = super().call_operator(op, args, kwargs, meta)
            self.seen += 1
            if self.seen % _STRIDE or not isinstance(result.data, torch.Tensor):
                return result
            return super().call_operator(torch.ops.aten.clone.default, (result,), {}, meta)

    return Rewriting


Rewriting = register_pass("copy-twentieth")(rewriting(ExportPass))

NO_OP, REWRITE = "retrace", "copy-twentieth"
SERVER_ARGUMENTS = ("--import", "benchmarks.passes", "--port", "0")


def repeated(name: str, count: int) -> str:
    """Pipeline text of one pass several times over."""
    return ",".join([name] * count)

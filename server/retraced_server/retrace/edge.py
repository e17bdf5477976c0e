"""ExecuTorch's edge dialect, which is imported only for a pass that asks for it by name."""

from __future__ import annotations

import importlib
from typing import Any

from retraced_server.retrace.errors import ExportPassError


# ExecuTorch makes the attributes of its namespace when they are asked for.
def edge_operators() -> Any:
    """Return the namespace of the operators of ExecuTorch's edge dialect.

    Raises:
        ExportPassError: executorch is not installed.
    """
    try:
        return importlib.import_module("executorch.exir.dialects._ops").ops.edge
    except ModuleNotFoundError as error:
        raise ExportPassError("the edge dialect needs executorch installed beside this package") from error

"""retraced: transform torch.export programs on a server.

Example::

    from retraced import Client

    with Client("127.0.0.1:50051") as client:
        result = client.transform("model.pt2", "decompose{table=core-aten},cse,dce")
        result.save("out.pt2")

`AsyncClient` is the same for asyncio, and `EmbeddedServer` runs a server on this machine where the server extra is installed.
Torch is needed only to give or to get an ExportedProgram object.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retraced import errors
    from retraced.aio import AsyncClient
    from retraced.client import Client
    from retraced.embedded import EmbeddedServer
    from retraced.errors import RetracedError
    from retraced.results import TransformResult
    from retraced.tls import Tls

__all__ = ["AsyncClient", "Client", "EmbeddedServer", "RetracedError", "Tls", "TransformResult", "errors"]

# Loaded when first asked for (PEP 562), so that importing the stubs does not load grpc.
_HOMES = {
    "AsyncClient": "retraced.aio",
    "Client": "retraced.client",
    "EmbeddedServer": "retraced.embedded",
    "RetracedError": "retraced.errors",
    "Tls": "retraced.tls",
    "TransformResult": "retraced.results",
}


def __getattr__(name: str) -> object:
    if name == "errors":
        return importlib.import_module("retraced.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

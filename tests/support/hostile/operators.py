"""Operators that do more than compute, and callables in the place of operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retraced_server.errors import Reason

from .route import Effect, Route, edited, graph
from .trees import marker_module


def _text(value: str) -> dict[str, Any]:
    return {"as_string": value}


def _argument(value: dict[str, Any], name: str = "", kind: int = 1) -> dict[str, Any]:
    return {"name": name, "arg": value, "kind": kind}


# Any: parsed JSON.
def _calling(target: str, *arguments: dict[str, Any]) -> bytes:
    """The plain archive with a call before all others, whose result is a tensor that is returned too."""

    def edit(model: Any) -> None:
        described = graph(model)
        described["tensor_values"]["made"] = described["tensor_values"]["first"]
        node = {"target": target, "metadata": {}, "name": "made", "inputs": list(arguments)}
        described["nodes"].insert(
            0,
            {
                **node,
                "outputs": [{"as_tensor": {"name": "made"}}],
                "is_hop_single_tensor_return": target.startswith("torch.ops.higher_order"),
            },
        )

    return edited(edit)


def _from_file(folder: Path) -> bytes:
    path, shared = _argument(_text(str(folder / "marker")), "filename"), _argument({"as_bool": True}, "shared")
    return _calling("torch.ops.aten.from_file.default", path, shared, _argument({"as_int": 20}, "size"))


def _importing(folder: Path) -> bytes:
    name = _argument(_text(f"{marker_module(folder)}.Kind"))
    return _calling("torch.export.custom_ops._call_custom_autograd_function_in_pre_dispatch", name)


def _smuggled(folder: Path) -> bytes:
    """An operator that makes a file, called by a higher-order one."""
    operator = _argument({"as_operator": "torch.ops.aten.from_file.default"})
    path, shared = _argument(_text(str(folder / "marker"))), _argument({"as_bool": True})
    return _calling("torch.ops.higher_order.wrap", operator, path, shared, _argument({"as_int": 20}))


def _function(folder: Path) -> bytes:
    return _calling(
        "torch.ops.higher_order.wrap", _argument({"as_operator": "torch.os.mkdir"}), _argument(_text(str(folder / "marker")))
    )


def _extension(folder: Path) -> bytes:
    return _calling(f"#{folder}:op")


_REFUSED = r"cannot stand in a program"
ROUTES = (
    Route("operator-that-makes-a-file", _from_file, f"from_file.*{_REFUSED}", Reason.PROGRAM_UNSUPPORTED, then="call"),
    Route("function-that-imports", _importing, _REFUSED, then="call"),
    Route("operator-in-a-higher-order-one", _smuggled, f"from_file.*{_REFUSED}", Reason.PROGRAM_UNSUPPORTED, then="call"),
    # torch reads it, and then cannot print it as source.
    Route("function-in-a-higher-order-operator", _function, _REFUSED, then="call", effect=Effect.NONE, stock="SyntaxError"),
    Route(
        "function-of-torch",
        lambda folder: _calling("torch.load", _argument(_text(str(folder)))),
        _REFUSED,
        effect=Effect.NONE,
        stock=".",
    ),
    Route(
        "function-of-a-module",
        lambda folder: _calling("torch.os.mkdir", _argument(_text(str(folder / "marker")))),
        _REFUSED,
        effect=Effect.NONE,
        stock=".",
    ),
    Route(
        "operator-of-an-extension",
        _extension,
        "serialization extensions",
        Reason.PROGRAM_UNSUPPORTED,
        effect=Effect.NONE,
        stock=".",
    ),
)

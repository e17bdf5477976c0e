"""Tree specs that import modules, or read values of the process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retraced_server.errors import Reason

from .route import Effect, Route, call_signature, edited

#: A variable of the environment, whose value no answer may hold.
SECRET = "HOSTILE_TESTS_SECRET"
SECRET_VALUE = "a-value-that-stays-in"

_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


def marker_module(folder: Path) -> str:
    """Makes a module that makes the marker when it is imported, and gives its name."""
    (folder / "hostile_marker_module.py").write_text(f"open({str(folder / 'marker')!r}, 'w').close()\nclass Kind: pass\n")
    return "hostile_marker_module"


# Any: parsed JSON.
def _with_spec(spec: Any) -> bytes:
    def edit(model: Any) -> None:
        call_signature(model)["out_spec"] = json.dumps([1, spec])

    return edited(edit)


def _with_key(key: Any) -> bytes:
    return _with_spec({"type": "builtins.dict", "context": json.dumps([key]), "children_spec": [_LEAF]})


def _enum(folder: Path) -> bytes:
    return _with_key({"__enum__": True, "fqn": f"{marker_module(folder)}:Kind", "name": "x"})


def _factory(folder: Path) -> bytes:
    context = {"default_factory_module": marker_module(folder), "default_factory_name": "Kind", "dict_context": ["x"]}
    return _with_spec({"type": "collections.defaultdict", "context": context, "children_spec": [_LEAF]})


def _environment(folder: Path) -> bytes:
    return _with_key({"__enum__": True, "fqn": "os:environ", "name": SECRET})


def _deep(folder: Path) -> bytes:
    leaf = json.dumps(_LEAF)
    spec = '{"type": "builtins.list", "context": "null", "children_spec": [' * 900 + leaf + "]}" * 900

    def edit(model: Any) -> None:
        call_signature(model)["out_spec"] = f"[1, {spec}]"

    return edited(edit)


ROUTES = (
    Route("enum-of-a-module", _enum, "in a tree spec"),
    Route("factory-of-a-module", _factory, "default factory .* is not read", Reason.PROGRAM_UNSUPPORTED),
    Route("enum-of-the-environment", _environment, "in a tree spec", then="spec", effect=Effect.LEAK),
    Route(
        "deep-tree-spec",
        _deep,
        "cannot be read|deeper than",
        Reason.PROGRAM_UNSUPPORTED,
        effect=Effect.NONE,
        stock="RecursionError|AssertionError|Error",
    ),
)

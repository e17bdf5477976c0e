"""Names that are pasted into source which torch generates and runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retraced_server.errors import Reason
from tests.program.archives import records, zipped

from .route import MODEL, Effect, Route, call_signature, edited, graph, plain, touch


def _renamed(old: str, new: str) -> bytes:
    """The plain archive with a value of another name, everywhere."""
    contents = records(plain())
    contents[MODEL] = contents[MODEL].replace(json.dumps(old).encode(), json.dumps(new).encode())
    return zipped(contents)


def _result(folder: Path) -> bytes:
    """A value without users, whose name ends the function that it is assigned in, and begins another behind its code."""
    name = f"x = 1\n{touch(folder)}\ndef other():\n    x"

    def edit(model: Any) -> None:
        described = graph(model)
        described["tensor_values"][name] = described["tensor_values"]["first"]
        node: dict[str, Any] = {
            "target": "torch.ops.aten.relu.default",
            "metadata": {},
            "name": "made",
            "is_hop_single_tensor_return": None,
        }
        node |= {"inputs": [{"name": "self", "arg": {"as_tensor": {"name": "first"}}, "kind": 1}]}
        described["nodes"].insert(0, {**node, "outputs": [{"as_tensor": {"name": name}}]})

    return edited(edit)


def _parameter(name: str, folder: Path) -> str:
    """The name of a parameter whose second use in the source ends the text that its first use begins."""
    return f'{name}={touch(folder)}, x="""):\n    pass\n    #'


def _forward_arg_names(folder: Path) -> bytes:
    def edit(model: Any) -> None:
        call_signature(model)["forward_arg_names"] = ["first", _parameter("second", folder)]

    return edited(edit)


def _keyword(folder: Path) -> bytes:
    def edit(model: Any) -> None:
        signature = call_signature(model)
        signature["forward_arg_names"] = None
        protocol, spec = json.loads(signature["in_spec"])
        spec["children_spec"][1]["context"] = json.dumps([_parameter("second", folder)])
        signature["in_spec"] = json.dumps([protocol, spec])

    return edited(edit)


def _subgraph(folder: Path) -> bytes:
    def edit(model: Any) -> None:
        body = json.loads(json.dumps(graph(model)))
        body |= {"nodes": [], "outputs": [{"as_int": 1}], "inputs": [], "tensor_values": {}, "is_single_tensor_return": False}
        name = f'a")\n{touch(folder)}\ndef other(self):\n    (self, "'
        node: dict[str, Any] = {
            "target": "torch.ops.higher_order.wrap",
            "metadata": {},
            "name": "wrapped",
            "is_hop_single_tensor_return": True,
        }
        node["outputs"] = [{"as_tensor": {"name": "wrapped"}}]
        graph(model)["tensor_values"]["wrapped"] = graph(model)["tensor_values"]["first"]
        node |= {"inputs": [{"name": "", "arg": {"as_graph": {"name": name, "graph": body}}, "kind": 1}]}
        graph(model)["nodes"].append(node)

    return edited(edit)


def _guard(folder: Path) -> bytes:
    return edited(lambda model: model.update(guards_code=[f"{touch(folder)}"]))


def _of_module(name: str) -> bytes:
    """The plain archive with a module of another name."""
    contents = records(plain())
    for record, data in contents.items():
        for kind in ("weight", "bias"):
            data = data.replace(f'"linear.{kind}"'.encode(), json.dumps(f"{name}.{kind}").encode())
        contents[record] = data
    return zipped(contents)


_NO_NAME = r"must be an identifier"
_NOT_QUOTED = r"between double quotes in source"
ROUTES = (
    Route("name-of-a-placeholder", lambda folder: _renamed("second", f"second={touch(folder)}"), _NO_NAME),
    # torch cleans these two when it copies the graph.
    Route("name-of-a-result", _result, _NO_NAME, effect=Effect.NONE, stock="loaded"),
    Route("name-of-a-body", _subgraph, _NO_NAME, effect=Effect.NONE, stock="loaded"),
    Route("names-of-arguments", _forward_arg_names, _NO_NAME, then="module"),
    Route("keywords-of-a-tree-spec", _keyword, _NO_NAME, then="module"),
    Route(
        "name-of-a-module",
        lambda folder: _of_module(f'linear", {touch(folder)}, "'),
        _NOT_QUOTED,
        Reason.PROGRAM_UNSUPPORTED,
        then="call",
    ),
    # Two backslashes are one in source, so that the text ends behind them.
    Route(
        "name-of-a-module-with-backslashes",
        lambda folder: _of_module(f'linear\\\\", {touch(folder)}, "'),
        _NOT_QUOTED,
        Reason.PROGRAM_UNSUPPORTED,
        then="call",
    ),
    Route(
        "name-of-a-module-that-ends-with-a-backslash",
        lambda _: _of_module("linear\\"),
        _NOT_QUOTED,
        Reason.PROGRAM_UNSUPPORTED,
        then="module",
        effect=Effect.NONE,
        stock="SyntaxError",
    ),
    Route(
        "name-of-a-module-with-other-quotes",
        lambda folder: _of_module(f"linear', {touch(folder)}, '"),
        "",
        then="call",
        effect=Effect.NONE,
        stock="loaded",
    ),
    Route("guards", _guard, "", then="call"),
)

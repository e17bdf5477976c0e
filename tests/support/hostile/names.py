"""Names that are pasted into source which torch generates and runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .route import MODEL, Route, call_signature, edited, graph, plain, records, touch, zipped


def _renamed(old: str, new: str) -> bytes:
    """The plain archive with a value of another name, everywhere."""
    contents = records(plain())
    contents[MODEL] = contents[MODEL].replace(json.dumps(old).encode(), json.dumps(new).encode())
    return zipped(contents)


def _first_result() -> str:
    model = json.loads(records(plain())[MODEL])
    return str(graph(model)["nodes"][0]["outputs"][0]["as_tensor"]["name"])


def _out_of_function(folder: Path, name: str) -> str:
    """A name that ends the function it is assigned in, and begins another behind its code."""
    return f"{name} = 1\n{touch(folder)}\ndef other():\n    {name}"


def _forward_arg_names(folder: Path) -> bytes:
    def edit(model: Any) -> None:
        call_signature(model)["forward_arg_names"] = ["first", f"second={touch(folder)}"]

    return edited(edit)


def _keyword(folder: Path) -> bytes:
    def edit(model: Any) -> None:
        signature = call_signature(model)
        signature["forward_arg_names"] = None
        signature["in_spec"] = signature["in_spec"].replace(
            r"[\"second\"]", json.dumps(json.dumps([f"second={touch(folder)}"]))[1:-1]
        )

    return edited(edit)


def _body(folder: Path) -> bytes:
    def edit(model: Any) -> None:
        body = json.loads(json.dumps(graph(model)))
        body |= {"nodes": [], "outputs": [{"as_int": 1}], "inputs": [], "tensor_values": {}, "is_single_tensor_return": False}
        name = f'a")\n{touch(folder)}\ndef other(self):\n  return (self, "'
        node = {"target": "torch.ops.higher_order.wrap", "metadata": {}, "name": "wrapped", "outputs": []}
        node |= {"inputs": [{"name": "", "arg": {"as_graph": {"name": name, "graph": body}}, "kind": 1}]}
        graph(model)["nodes"].append({**node, "is_hop_single_tensor_return": None})

    return edited(edit)


def _guard(folder: Path) -> bytes:
    return edited(lambda model: model.update(guards_code=[f"{touch(folder)}"]))


_NO_NAME = r"must be an identifier"
ROUTES = (
    Route("name-of-a-placeholder", lambda folder: _renamed("first", f"first={touch(folder)}"), _NO_NAME),
    Route("name-of-a-result", lambda folder: _renamed(_first_result(), _out_of_function(folder, "x")), _NO_NAME),
    Route("name-of-a-body", _body, _NO_NAME),
    Route("names-of-arguments", _forward_arg_names, _NO_NAME, then="module"),
    Route("keywords-of-a-tree-spec", _keyword, _NO_NAME, then="module"),
    Route("guards", _guard, "", then="call"),
)

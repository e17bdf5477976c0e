"""Small archives that ask for much memory or time."""

from __future__ import annotations

import json
from typing import Any

from retraced_server.errors import Reason
from tests.program.archives import records, zipped

from .route import MODEL, WEIGHTS_CONFIG, Effect, Route, added, edited, graph


def _gigabytes() -> bytes:
    """A weight of 64 GiB whose record has no bytes."""

    def edit(config: Any) -> None:
        meta = config["config"]["linear.weight"]["tensor_meta"]
        meta["sizes"] = [{"as_int": 1 << 17}, {"as_int": 1 << 17}]
        meta["strides"] = [{"as_int": 1 << 17}, {"as_int": 1}]

    contents = records(edited(edit, WEIGHTS_CONFIG))
    config = json.loads(contents[WEIGHTS_CONFIG])["config"]["linear.weight"]
    return zipped({**contents, f"archive/data/weights/{config['path_name']}": b""})


def _symbols() -> bytes:
    return edited(lambda model: model["range_constraints"].update(u4000000000={"min_val": 1, "max_val": 4}))


def _custom() -> bytes:
    nested = "[" * 900 + "]" * 900

    def edit(model: Any) -> None:
        graph(model)["nodes"][0]["metadata"]["custom"] = nested

    return edited(edit)


def _dictionaries() -> bytes:
    value: Any = {"as_int": 1}
    for _ in range(200):
        value = {"as_string_to_argument": {"a": value}}

    def edit(model: Any) -> None:
        node: dict[str, Any] = {"target": "torch.ops.higher_order.hints_wrapper", "metadata": {}, "name": "x", "outputs": []}
        node |= {"inputs": [{"name": "hints", "arg": value, "kind": 2}], "is_hop_single_tensor_return": None}
        graph(model)["nodes"].append(node)

    return edited(edit)


def _subgraphs() -> bytes:
    def edit(model: Any) -> None:
        inner = {
            **graph(model),
            "inputs": [],
            "outputs": [],
            "nodes": [],
            "tensor_values": {},
            "is_single_tensor_return": False,
        }
        for _ in range(100):
            node: dict[str, Any] = {"target": "torch.ops.higher_order.wrap", "metadata": {}, "name": "w", "outputs": []}
            argument = {"as_graph": {"name": "body", "graph": inner}}
            node |= {"inputs": [{"name": "", "arg": argument, "kind": 1}], "is_hop_single_tensor_return": None}
            inner = {**inner, "nodes": [node]}
        graph(model)["nodes"].append(node)

    return edited(edit)


# What is nested deep ends torch's own reader by an error too, of Python's.
_TOO_DEEP = "RecursionError|Error"
ROUTES = (
    Route("gigabytes-in-ten-kilobytes", lambda _: _gigabytes(), "", effect=Effect.LIMIT),
    Route("huge-symbol-number", lambda _: _symbols(), "no name of a symbol|has a number over", effect=Effect.LIMIT),
    Route(
        "deep-json", lambda _: added({MODEL: b"[" * 200_000}), "is not JSON|does not fit", effect=Effect.NONE, stock=_TOO_DEEP
    ),
    Route(
        "deep-custom-metadata",
        lambda _: _custom(),
        "nested deeper",
        Reason.PROGRAM_UNSUPPORTED,
        effect=Effect.NONE,
        stock="loaded",
    ),
    Route(
        "deep-dictionaries",
        lambda _: _dictionaries(),
        "nested deeper",
        Reason.PROGRAM_UNSUPPORTED,
        effect=Effect.NONE,
        stock=".",
    ),
    Route("deep-subgraphs", lambda _: _subgraphs(), "nested deeper", Reason.PROGRAM_UNSUPPORTED, effect=Effect.NONE, stock="."),
)

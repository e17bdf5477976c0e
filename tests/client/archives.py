"""Archives without torch: a small program as it is sent, and changes to it as a server might make them."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

# Any: JSON.
Change = Callable[[Any], object]

MODEL_RECORD = "models/model.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
WEIGHTS_CONFIG = "data/weights/model_weights_config.json"
CONSTANTS_CONFIG = "data/constants/model_constants_config.json"


def _size(value: int | str) -> Any:
    return {"as_int": value} if isinstance(value, int) else {"as_expr": {"expr_str": value, "hint": {"as_int": 4}}}


def _tensor(*sizes: int | str) -> Any:
    return {
        "dtype": 2,
        "sizes": [_size(size) for size in sizes],
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "strides": [_size(1) for _ in sizes],
        "storage_offset": _size(0),
        "layout": 7,
    }


def _spec(*children: Any, kind: str = "builtins.tuple", context: str = "null") -> Any:
    return {"type": kind, "context": context, "children_spec": list(children)}


_LEAF: Any = {"type": None, "context": None, "children_spec": []}
_SYMBOL = "Symbol('s77', positive=True, integer=True)"


def _model(elements: int) -> Any:
    """A weight and an input go through two nodes."""
    return {
        "graph_module": {
            "graph": {
                "inputs": [{"as_tensor": {"name": "p_weight"}}, {"as_tensor": {"name": "x"}}],
                "outputs": [{"as_tensor": {"name": "add"}}],
                "nodes": [_node("relu", "x", "first"), _node("add", "relu", "second")],
                "tensor_values": {
                    "p_weight": _tensor(elements),
                    **dict.fromkeys(("x", "relu", "add"), _tensor(_SYMBOL)),
                },
                "sym_int_values": {},
                "sym_bool_values": {},
                "is_single_tensor_return": False,
                "custom_obj_values": {},
                "sym_float_values": {},
            },
            "signature": {
                "input_specs": [
                    {"parameter": {"arg": {"name": "p_weight"}, "parameter_name": "weight"}},
                    {"user_input": {"arg": {"as_tensor": {"name": "x"}}}},
                ],
                "output_specs": [{"user_output": {"arg": {"as_tensor": {"name": "add"}}}}],
            },
            "module_call_graph": [
                {
                    "fqn": "",
                    "signature": {
                        "inputs": [],
                        "outputs": [],
                        "in_spec": json.dumps([1, _spec(_spec(_LEAF), _spec(kind="builtins.dict", context="[]"))]),
                        "out_spec": json.dumps([1, _spec(_LEAF)]),
                        "forward_arg_names": ["x"],
                    },
                }
            ],
            "metadata": {},
            "treespec_namedtuple_fields": {},
        },
        "opset_version": {"aten": 10},
        "range_constraints": {"s77": {"min_val": 2, "max_val": 64}},
        "schema_version": {"major": 8, "minor": 20},
        "verifiers": ["ATEN"],
        "torch_version": "2.13.0",
        "guards_code": ["L['x'].size()[0] <= 64"],
    }


def _node(name: str, argument: str, line: str) -> Any:
    return {
        "target": "torch.ops.aten.relu.default",
        "inputs": [{"name": "self", "arg": {"as_tensor": {"name": argument}}, "kind": 1}],
        "outputs": [{"as_tensor": {"name": name}}],
        "metadata": {
            "stack_trace": f'  File "/home/someone/secret/model.py", line 7, in forward\n    return {line}(x)',
            "nn_module_stack": "L__self__,,model.Model;L__self__.up,up,torch.nn.modules.linear.Linear",
            "torch_fn": f"{name}_1;function.{name}",
        },
        "is_hop_single_tensor_return": None,
        "name": name,
    }


def records(weights: bytes = bytes(64)) -> dict[str, bytes]:
    """The records of the program."""
    described = _tensor(len(weights))
    config = {"weight": {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": described}}
    return {
        "data/weights/weight_0": weights,
        WEIGHTS_CONFIG: json.dumps({"config": config}).encode(),
        CONSTANTS_CONFIG: b'{"config": {}}',
        MODEL_RECORD: json.dumps(_model(len(weights))).encode(),
        SAMPLE_INPUTS: b"the caller's own pickle",
        "archive_format": b"pt2",
        "archive_version": b"0",
        ".data/version": b"6\n",
        "byteorder": b"little",
        ".data/serialization_id": b"1" * 40,
    }


def packed(held: dict[str, bytes], root: str = "archive") -> bytes:
    """An archive of records."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in held.items():
            archive.writestr(zipfile.ZipInfo(f"{root}/{name}"), data)
    return file.getvalue()


def archive(weights: bytes = bytes(64)) -> bytes:
    """The program's archive."""
    return packed(records(weights))


def changed(change: Change, record: str = MODEL_RECORD, weights: bytes = bytes(64)) -> bytes:
    """The archive with a change to the JSON of a record."""
    held = records(weights)
    value = copy.deepcopy(json.loads(held[record]))
    change(value)
    held[record] = json.dumps(value).encode()
    return packed(held)


def transformed(weights: bytes = bytes(64)) -> bytes:
    """What an honest server makes of the archive: another target, a node renamed."""

    def change(model: Any) -> None:
        node = model["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.ops.aten.gelu.default"
        node["inputs"].append({"name": "approximate", "arg": {"as_string": "none"}, "kind": 2})

    return changed(change, weights=weights)


def with_records(**added: bytes) -> bytes:
    """The transformed archive with more records, or others, by name."""
    file = io.BytesIO(transformed())
    with zipfile.ZipFile(file) as read:
        held = {name.partition("/")[2]: read.read(name) for name in read.namelist()}
    return packed({**held, **added})


def plain(weights: bytes = bytes(64)) -> bytes:
    """An output that is taken whatever was sent: nothing in it would have to come from there."""
    held = records(weights)
    model = {**json.loads(held[MODEL_RECORD]), "guards_code": []}
    return packed({**held, MODEL_RECORD: json.dumps(model).encode(), SAMPLE_INPUTS: b""})

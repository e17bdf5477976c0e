"""Archives that a lying server might send back, each made to have stock torch do more than load a program."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

from tests.client.archives import (
    CONSTANTS_CONFIG,
    MODEL_RECORD,
    SAMPLE_INPUTS,
    WEIGHTS_CONFIG,
    changed,
    packed,
    records,
    transformed,
    with_records,
)

EVIL = "__import__('os').system('touch /tmp/owned')"

# Any: JSON.
_Change = Callable[[Any], object]


def _graph(change: _Change) -> bytes:
    return changed(lambda model: change(model["graph_module"]["graph"]))


def _node(**fields: Any) -> bytes:
    return _graph(lambda graph: graph["nodes"][0].update(fields))


def _argument(argument: Any) -> bytes:
    return _node(inputs=[{"name": "self", "arg": argument, "kind": 1}])


def _metadata(key: str, value: str) -> bytes:
    return _graph(lambda graph: graph["nodes"][0]["metadata"].update({key: value}))


def _size(expression: str) -> bytes:
    described = {"as_expr": {"expr_str": expression, "hint": None}}
    return _graph(lambda graph: graph["tensor_values"]["x"].update(sizes=[described]))


def _call(**fields: Any) -> bytes:
    return changed(lambda model: model["graph_module"]["module_call_graph"][0]["signature"].update(fields))


def _spec(kind: str, context: Any, *children: Any) -> str:
    return json.dumps([1, {"type": kind, "context": context, "children_spec": list(children)}])


def _keys(*keys: Any) -> str:
    leaf: Any = {"type": None, "context": None, "children_spec": []}
    return _spec("builtins.dict", json.dumps(keys), *[leaf for _ in keys])


def _keywords(key: str) -> str:
    leaf: Any = {"type": None, "context": None, "children_spec": []}
    keywords = {"type": "builtins.dict", "context": json.dumps([key]), "children_spec": [leaf]}
    return _spec("builtins.tuple", "null", {"type": "builtins.tuple", "context": "null", "children_spec": []}, keywords)


def _payload(**fields: Any) -> bytes:
    return changed(lambda config: config["config"]["weight"].update(fields), WEIGHTS_CONFIG)


def _constant(path_name: str, **fields: Any) -> bytes:
    meta = {"path_name": path_name, "is_param": False, "use_pickle": False, "tensor_meta": None, **fields}
    config = json.dumps({"config": {"constant": meta}}).encode()
    return with_records(**{CONSTANTS_CONFIG: config, f"data/constants/{path_name}": b"\x80\x04."})


def _without(record: str) -> bytes:
    held = records()
    del held[record]
    return packed(held)


def _second(name: str) -> bytes:
    """The archive with one record more, under a name that may be there already."""
    file = io.BytesIO(transformed())
    with warnings.catch_warnings(), zipfile.ZipFile(file, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(zipfile.ZipInfo(name), b"{}")
    return file.getvalue()


def _compressed() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records().items():
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


def _local_name() -> bytes:
    """One reader finds another name in front of the record than another finds in the directory."""
    return transformed().replace(b"archive/models/model.json", b"archive/models/other.json", 1)


def _local_size() -> bytes:
    data = bytearray(transformed())
    at = data.index(b"PK\x03\x04") + 18
    size = struct.unpack_from("<L", data, at)[0]
    struct.pack_into("<2L", data, at, size - 1, size - 1)
    return bytes(data)


def _folder() -> bytes:
    """The sample inputs have the attribute of a folder, so that torch unpickles memory that the rest of the archive was in."""
    data = bytearray(transformed())
    at = data.rindex(b"PK\x01\x02", 0, data.rindex(SAMPLE_INPUTS.encode()))
    data[at + 38] = 0x10
    return bytes(data)


def _gap() -> bytes:
    """Bytes between the last record and the directory, which no record has."""
    data = transformed()
    end = data.rindex(b"PK\x05\x06")
    start = struct.unpack_from("<L", data, end + 16)[0]
    moved = bytearray(data[:start] + b"hidden" + data[start:])
    struct.pack_into("<L", moved, end + 6 + 16, start + 6)
    return bytes(moved)


def _comment() -> bytes:
    data = transformed()
    return data[:-2] + struct.pack("<H", 4) + b"evil"


def _crc() -> bytes:
    data = bytearray(transformed())
    data[data.index(b"little")] ^= 1
    return bytes(data)


def _library() -> bytes:
    return with_records(**{"data/aotinductor/model/model.so": b"\x7fELF", "data/aotinductor/model/metadata.json": b"{}"})


HOSTILE: dict[str, bytes] = {
    # Records.
    "pickled weights of old torch": with_records(**{"data/weights/model.pt": b"\x80\x04."}),
    "pickled constants of old torch": with_records(**{"data/constants/model.pt": b"\x80\x04."}),
    "an AOTInductor library": _library(),
    "a second program": with_records(**{"models/other.json": b"{}"}),
    "an extra file": with_records(**{"extra/note.txt": b"hello"}),
    "a record outside": with_records(**{"../../home/.profile": b"evil"}),
    "a record beside the folder": _second("elsewhere/data/weights/weight_0"),
    "an absolute name": _second("/etc/cron.d/evil"),
    "the same record twice": _second("archive/models/model.json"),
    "the same record in another case": _second("archive/Models/MODEL.json"),
    "a weight that no config names": with_records(**{"data/weights/weight_1": b"\x80\x04."}),
    "another version of archives": with_records(archive_version=b"1"),
    "sample inputs of its own": with_records(**{SAMPLE_INPUTS: b"\x80\x04cposix\nsystem\n."}),
    "no program": _without(MODEL_RECORD),
    "no weights config": _without(WEIGHTS_CONFIG),
    # The zip.
    "compressed records": _compressed(),
    "another name in front of a record": _local_name(),
    "another size in front of a record": _local_size(),
    "a record that is a folder": _folder(),
    "bytes of no record": _gap(),
    "a record that is damaged": _crc(),
    "a comment at the end": _comment(),
    "bytes before the zip": b"#!/bin/sh\n" + transformed(),
    "bytes after the zip": transformed() + b"more",
    "half an archive": transformed()[: len(transformed()) // 2],
    "no zip": b"\x80\x04cposix\nsystem\n.",
    # Payloads.
    "a pickled weight": _payload(use_pickle=True),
    "a weight without a description": _payload(tensor_meta=None),
    "a weight elsewhere": _payload(path_name="../constants/tensor_0"),
    "a weight that is not there": _payload(path_name="weight_7"),
    "a weight larger than its record": changed(
        lambda config: config["config"]["weight"]["tensor_meta"].update(sizes=[{"as_int": 10**12}]), WEIGHTS_CONFIG
    ),
    "a custom object": _constant("custom_obj_0"),
    "an opaque object": _constant("opaque_obj_0"),
    "a pickled constant": _constant("tensor_0", use_pickle=True),
    # Strings that torch evaluates, executes, imports or looks up.
    "an evil expression": _size(EVIL),
    "an evil expression in an argument": _size(f"Add(Integer(1), {EVIL})"),
    "an evil symbol": _size(f"Symbol('s0').__class__({EVIL!r})"),
    "a huge power": _size("Pow(Integer(10), Integer(1000000000))"),
    "a huge power in disguise": _size(
        "Pow(Integer(2), Add(Integer(1000000000), Symbol('s0'), Mul(Integer(-1), Symbol('s0'))))"
    ),
    "a tower of powers": _size("Pow(" * 40 + "Integer(9)" + ", Integer(99))" * 40),
    "a deep expression": _size("Abs(" * 5_000 + "Integer(1)" + ")" * 5_000),
    "a huge number of a symbol": _size("Symbol('u999999999')"),
    "an evil range": changed(lambda model: model["range_constraints"].update({EVIL: {"min_val": 0, "max_val": 1}})),
    "an evil name of a value": _node(name=f"x = {EVIL}"),
    "an evil name of a result": _node(outputs=[{"as_tensor": {"name": f"y; {EVIL}"}}]),
    "an evil name of an input": _graph(lambda graph: graph["inputs"].__setitem__(1, {"as_tensor": {"name": f"x={EVIL}"}})),
    "an evil keyword": _node(inputs=[{"name": f"k={EVIL}, z", "arg": {"as_int": 1}, "kind": 2}]),
    "an evil name of an argument": _call(forward_arg_names=[f"x={EVIL}"]),
    "an evil keyword of the program": _call(in_spec=_keywords("x=print(1)")),
    "an evil name of a constant input": changed(
        lambda model: model["graph_module"]["signature"]["input_specs"].append(
            {"constant_input": {"name": f"x={EVIL}", "value": {"as_int": 1}}}
        )
    ),
    "an evil name of a parameter": changed(
        lambda model: model["graph_module"]["signature"]["input_specs"][0]["parameter"].update(
            parameter_name=f'w"); {EVIL}; ("'
        )
    ),
    "a parameter that is Python's own": changed(
        lambda model: model["graph_module"]["signature"]["input_specs"][0]["parameter"].update(
            parameter_name="__class__.forward"
        )
    ),
    "an evil guard": changed(lambda model: model["guards_code"].append(EVIL)),
    "a guard that is longer": changed(lambda model: model.update(guards_code=[f"{model['guards_code'][0]} or {EVIL}"])),
    "an enum as a key": _call(in_spec=_keys({"__enum__": True, "fqn": "evil.Evil", "name": "A"})),
    "a key that ends a quoted text": _call(out_spec=_keys(f"'' + {EVIL} + ''")),
    "a default factory of its own": _call(
        out_spec=_spec(
            "collections.defaultdict",
            {"default_factory_module": "posix", "default_factory_name": "abort", "dict_context": []},
        )
    ),
    "a tree spec of a class": _call(out_spec=_spec("evil.Evil", '"x"')),
    "a tree spec of a named tuple": _call(out_spec=_spec("collections.namedtuple", "evil.Evil")),
    "a deep tree spec": _call(out_spec=f"[1, {'[' * 100_000}]"),
    "a function of Python": _node(target="torch.os.system"),
    "a function that loads": _node(target="torch.load"),
    "a function of operator": _node(target="_operator.methodcaller"),
    "a function that imports what a text names": _node(
        target="torch.export.custom_ops._call_custom_autograd_function_in_pre_dispatch"
    ),
    "a name that is a keyword": _node(name="import"),
    "a function as an argument": _argument({"as_operator": "torch.sym_max"}),
    "an extension": _node(target="#evil:evil"),
    "an operator that writes files": _node(target="torch.ops.aten.save.default"),
    "an operator that reads files": _node(target="torch.ops.aten.from_file.default"),
    "an operator that calls machines": _node(target="torch.ops.prim.rpc_sync.default"),
    "a method of torch's own classes": _node(target="torch.ops.aten.__getattribute__.default"),
    "a custom operator": _node(target="torch.ops.evil.evil.default"),
    "a higher-order operator with code": _node(target="torch.ops.higher_order.triton_kernel_wrapper_mutation"),
    "an evil operator as an argument": _argument({"as_operator": "torch.load"}),
    "a custom object as an argument": _argument({"as_custom_obj": {"name": "o", "class_fqn": "__torch__.Evil"}}),
    "an evil device": _argument({"as_device": {"type": "evil", "index": 0}}),
    "an expression that is an object": _size({"sympy": "S"}),  # type: ignore[arg-type]
    "a number that is an object": _argument({"as_float": {}}),
    "two arguments in one": _argument({"as_int": 1, "as_string": "x"}),
    "an argument of no known kind": _argument({"as_pickle": "x"}),
    "an evil path of a module": _metadata("nn_module_stack", f'k,up"); {EVIL}; (",torch.nn.Linear'),
    "metadata of no known kind": _metadata("evil", "x"),
    "a field of no known name": _node(evil=1),
    "a graph without nodes": _graph(lambda graph: graph.pop("nodes")),
    "a verifier of its own": changed(lambda model: model.update(verifiers=["EVIL"])),
    "another version of the schema": changed(lambda model: model["schema_version"].update(major=9)),
    "a number too large": _argument({"as_int": 1 << 80}),
    "a truth value for a number": _argument({"as_int": True}),
    "a number that is none": _argument({"as_float": float("nan")}),
    "a program that is a list": with_records(**{MODEL_RECORD: b"[]"}),
    "a program in UTF-16": with_records(**{MODEL_RECORD: json.dumps(json.loads(records()[MODEL_RECORD])).encode("utf-16")}),
    "a program that never ends": with_records(**{MODEL_RECORD: b"[" * 1_000_000}),
}
"""By what is wrong."""

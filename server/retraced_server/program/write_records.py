"""From a program to the records of its archive; those that did not change are named, so that they can be copied, or not be sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import torch
from torch.export import ExportedProgram

from retraced_pt2.record_names import (
    CONSTANTS,
    CONSTANTS_CONFIG,
    MODEL,
    SAMPLE_INPUTS,
    WEIGHTS,
    WEIGHTS_CONFIG,
    check_program_name,
)
from retraced_server.program.errors import program_unsupported
from retraced_server.program.payloads import Payload, Payloads
from retraced_server.program.read import ReadProgram
from retraced_server.program.user_inputs import same_user_inputs
from retraced_server.program.write_model import write_model
from retraced_server.program.write_values import Json, ValueWriter
from retraced_server.torch_compat.fake_tensors import FakeTensor, storage_key
from retraced_server.torch_compat.serialization import serialize_example_inputs

_PREFIXES: Final = {WEIGHTS: "weight_", CONSTANTS: "tensor_"}


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an archive.

    Attributes:
        name: Its name without the root.
        content: Its bytes; or a tensor whose whole storage it is; or the payload of the program that was read, whose bytes it has.
    """

    name: str
    content: bytes | torch.Tensor | Payload


@dataclass(frozen=True, slots=True)
class ProgramRecords:
    """The records of a program, in order.

    Attributes:
        records: The records.
        model_unchanged: Whether the model record is the one that was read, byte for byte.
        sample_inputs_dropped: Whether the program has other user inputs than the one that was read, whose sample inputs it lost.
    """

    records: tuple[Record, ...]
    model_unchanged: bool
    sample_inputs_dropped: bool


def program_records(program: ExportedProgram, *, source: ReadProgram | None = None, name: str | None = None) -> ProgramRecords:
    """Return the records that stand for a program.

    Args:
        program: The program.
        source: What it was read as, before it was changed: its payloads, sample inputs and, if it is the same program still, its
            model record are taken over.
        name: The name it gets in the archive; without one, that of `source`, or `model`.

    Raises:
        RetracedError: PROGRAM_UNSUPPORTED where the program has no serialized form, or has fake tensors in the place of weights that no
            payload stands behind.
    """
    name = check_program_name(name or (source.name if source else "model"))
    payloads = source.payloads if source else Payloads()
    model_unchanged = source is not None and program is source.program
    model = source.model if source is not None and model_unchanged else write_model(program)
    sample_inputs, dropped = _sample_inputs(program, source)
    weights, weights_config = _tensors(program.state_dict, WEIGHTS, payloads)
    constants, constants_config = _tensors(program.constants, CONSTANTS, payloads)
    records = (
        *weights,
        Record(WEIGHTS_CONFIG.format(name), weights_config),
        *constants,
        Record(CONSTANTS_CONFIG.format(name), constants_config),
        Record(MODEL.format(name), model),
        Record(SAMPLE_INPUTS.format(name), sample_inputs),
    )
    return ProgramRecords(records, model_unchanged, dropped)


def _sample_inputs(program: ExportedProgram, source: ReadProgram | None) -> tuple[bytes, bool]:
    if program.example_inputs is not None:
        return serialize_example_inputs(program.example_inputs), False
    if source is None or not source.sample_inputs:
        return b"", False
    same = program is source.program or same_user_inputs(source.program, program)
    # Empty and not left out: torch reads an empty record as None, and does without none.
    return (source.sample_inputs, False) if same else (b"", True)


def _tensors(tensors: Mapping[str, object], directory: str, payloads: Payloads) -> tuple[list[Record], bytes]:
    groups: dict[tuple[int, torch.dtype], list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise program_unsupported(
                f"the constant `{name}` is an object of type {type(tensor).__name__}, which is not written"
            )
        if not isinstance(tensor, FakeTensor) and type(tensor.data) is not torch.Tensor:
            raise program_unsupported(f"the tensor `{name}` is a {type(tensor.data).__name__}, which would have to be pickled")
        if tensor.layout is not torch.strided:
            raise program_unsupported(f"the tensor `{name}` is of the layout {tensor.layout}, which has no serialized form")
        groups.setdefault((_storage_key(tensor), tensor.dtype), []).append((name, tensor))
    records = []
    config: dict[str, Json] = {}
    values = ValueWriter()
    for index, group in enumerate(groups.values()):
        path = f"{_PREFIXES[directory]}{index}"
        records.append(Record(directory + path, _content(*group[0], payloads)))
        for name, tensor in group:
            config[name] = {
                "path_name": path,
                "is_param": isinstance(tensor, torch.nn.Parameter),
                "use_pickle": False,
                "tensor_meta": msgspec.json.decode(values.tensor(tensor)),
            }
    # As torch spaces it, so that what did not change is the same bytes.
    return records, json.dumps({"config": config}).encode()


def _storage_key(tensor: torch.Tensor) -> int:
    """Return what tensors of one storage have in common. Tensors without bytes have no address, and torch takes them for one too."""
    storage = tensor.untyped_storage()
    return storage_key(storage) if isinstance(tensor, FakeTensor) or tensor.is_meta else storage.data_ptr()


def _content(name: str, tensor: torch.Tensor, payloads: Payloads) -> bytes | torch.Tensor | Payload:
    payload = payloads.unchanged(tensor)
    if payload is not None:
        return payload
    if isinstance(tensor, FakeTensor):
        raise program_unsupported(
            f"the tensor `{name}` is absent and was not read from an archive, so it cannot be written", tensor=name
        )
    # As torch writes what has no bytes.
    return b"" if tensor.is_meta else tensor


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor's whole storage, without a copy where it is on the CPU."""
    storage = tensor.detach().cpu().untyped_storage()
    flat = torch.empty(0, dtype=torch.uint8).set_(storage)
    return flat.numpy().data

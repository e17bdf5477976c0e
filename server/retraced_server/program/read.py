"""From an archive to a program."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import msgspec
from msgspec import Struct
from torch.export import ExportedProgram
from torch.export.graph_signature import ExportGraphSignature

from retraced_pt2 import program_schema
from retraced_pt2.errors import shortened
from retraced_pt2.record_names import (
    CONSTANTS,
    CONSTANTS_CONFIG,
    MODEL,
    SAMPLE_INPUTS,
    WEIGHTS,
    WEIGHTS_CONFIG,
    check_program_name,
)
from retraced_server.collector import collector_paused
from retraced_server.errors import RetracedError
from retraced_server.program.archive import Archive
from retraced_server.program.errors import cause, format_errors, program_invalid, program_unsupported, schema_unsupported
from retraced_server.program.node_metadata import read_custom
from retraced_server.program.operators import Operators
from retraced_server.program.options import ReadOptions
from retraced_server.program.payloads import PayloadReader, Payloads, check_plain
from retraced_server.program.read_graph import GraphReader, ProgramParts
from retraced_server.program.read_signature import read_module_calls, read_signature
from retraced_server.program.records import RecordSource
from retraced_server.program.symbols import Symbols
from retraced_server.program.tree_specs import TreeSpecs
from retraced_server.torch_compat.programs import SpecViolationError, TrainingIRVerifier, Verifier, assemble_program
from retraced_server.torch_compat.serialization import SCHEMA_VERSION, TORCH_VERSION

_HEADER = msgspec.json.Decoder(program_schema.ModelHeader)
_MODEL = msgspec.json.Decoder(program_schema.ExportedProgram)
_CONFIG = msgspec.json.Decoder(program_schema.PayloadConfig)
_VERIFIERS: dict[str, type[Verifier]] = {"": Verifier, "ATEN": Verifier, "TRAINING": TrainingIRVerifier}
_Decoded = TypeVar("_Decoded", bound=Struct)


@dataclass(frozen=True)
class ReadProgram:
    """A program, and what its archive says of it.

    Attributes:
        program: The program; its verifiers have accepted it. Its `example_inputs` are None: that record is never opened.
        name: The name it has in the archive, `model` from `torch.export.save`.
        schema_version: Major and minor version of the schema it is written in.
        torch_version: The torch that wrote it; empty where the archive does not say.
        model: Its model record.
        sample_inputs: Its record of sample inputs, which is passed on as it is.
        payloads: The records behind its tensors.
    """

    program: ExportedProgram
    name: str
    schema_version: tuple[int, int]
    torch_version: str
    model: bytes = field(repr=False)
    sample_inputs: bytes = field(repr=False)
    payloads: Payloads = field(repr=False)
    _source: RecordSource = field(repr=False)
    _files: ExitStack = field(repr=False)

    def carried(self) -> Iterator[tuple[str, bytes]]:
        """Return the archive's records beside the program, such as `extra/` files, as name without the root and bytes.

        The file it was read from must still be open.
        """
        return self._source.carried()

    def close(self) -> None:
        """Close the file if it was opened here, from a path. Mapped weights stay; `carried` and a copy of payloads do not."""
        self._files.close()


@collector_paused()
def read_program(
    file: IO[bytes] | str | os.PathLike[str],
    *,
    weights: Literal["map", "absent"] = "map",
    check: bool = True,
    options: ReadOptions | None = None,
) -> ReadProgram:
    """Read and verifies the program in an archive that `torch.export.save` wrote.

    Nothing in the archive is evaluated, unpickled or imported. The values recorded in the graph are those that torch's reader makes,
    and have the storage offsets that the file says, which torch's reader drops.

    Args:
        file: A path, or a file with a descriptor, open for reading, which is left open, at any offset. Mapped weights are the
            file's bytes: it must not be changed, nor written to in place, while the program is in use.
        weights: Whether parameters, buffers and constants are mapped from the file, copy on write, or left out: fake tensors stand
            for them. They do so in any case for payloads of other devices than the CPU.
        check: Whether to compare the checksums of payloads, which reads the file once; those of all other records are compared
            in any case.
        options: What to accept beyond plain programs.

    Raises:
        RetracedError: ARCHIVE_INVALID where the archive is empty, no zip, truncated or damaged; PROGRAM_MISSING where it holds
            no program; SCHEMA_UNSUPPORTED where its schema version is not read; PROGRAM_INVALID where the program cannot be
            decoded, would have torch execute what stands in it, or its verifiers refuse it; PROGRAM_UNSUPPORTED where it holds what
            torch may read and this reader does not.
        MemoryError: There is not enough memory.
    """
    with ExitStack() as files:
        opened = files.enter_context(Path(file).open("rb")) if isinstance(file, (str, os.PathLike)) else file
        archive = Archive(opened)
        if check:
            archive.check()
        program = read_records(archive, weights=weights, options=options)
        return replace(program, _files=files.pop_all())


@format_errors()
def read_records(
    source: RecordSource,
    *,
    weights: Literal["map", "absent"] = "map",
    options: ReadOptions | None = None,
) -> ReadProgram:
    """Read and verifies the program that some records make up, as `read_program` does.

    Args:
        source: The records. Payloads may be without their bytes.
        weights: As for `read_program`.
        options: As for `read_program`.

    Raises:
        RetracedError: As `read_program`.
    """
    options = options or ReadOptions()
    name = check_program_name(source.program_name)
    data = source.read(MODEL.format(name))
    try:
        model = _decode(_MODEL, data, "model record")
    except RetracedError:
        # A version that is not read is why a record does not fit the schema, and says more.
        _check_version(_decode(_HEADER, data, "model record"), options)
        raise
    version, torch_version = _check_version(model, options)
    payloads = Payloads()
    program = _build(model, source, name, payloads, options, absent=weights == "absent")
    sample_inputs = SAMPLE_INPUTS.format(name)
    return ReadProgram(
        program,
        name,
        version,
        torch_version,
        data,
        source.read(sample_inputs) if sample_inputs in source else b"",
        payloads,
        source,
        ExitStack(),
    )


def _build(
    model: program_schema.ExportedProgram,
    source: RecordSource,
    name: str,
    payloads: Payloads,
    options: ReadOptions,
    *,
    absent: bool,
) -> ExportedProgram:
    described = model.graph_module
    symbols = Symbols(model.range_constraints)
    weights = _decode(_CONFIG, source.read(WEIGHTS_CONFIG.format(name)), "weights config")
    constants = _decode(_CONFIG, source.read(CONSTANTS_CONFIG.format(name)), "constants config")
    # Before the graph, whose operators on such tensors would be named in the place of the reason.
    for config in (weights, constants):
        check_plain(config)
    parts = ProgramParts(symbols, Operators(options.namespaces, options.operators))
    reader = GraphReader(described.graph, parts)
    parts.signature = read_signature(described.signature, reader)
    parts.tied = _tied(parts.signature, source, {WEIGHTS: weights, CONSTANTS: constants})
    graph_module = reader.read()
    module_calls = read_module_calls(described.module_call_graph, TreeSpecs(options.tree_types), reader)
    graph_module.meta = _graph_meta(described)
    tensors = PayloadReader(source, symbols.mode, payloads, absent=absent)
    weight_tensors, constant_tensors = tensors.read(weights, WEIGHTS), tensors.read(constants, CONSTANTS)
    verifiers = list(dict.fromkeys(map(_verifier, model.verifiers))) or [Verifier]
    try:
        return assemble_program(
            graph_module,
            parts.signature,
            state_dict=weight_tensors,
            constants=constant_tensors,
            ranges=symbols.range_constraints(),
            module_calls=module_calls,
            verifiers=verifiers,
            guards=model.guards_code,
        )
    # What torch's own verifiers raise, which run whenever it makes a program.
    except (SpecViolationError, AssertionError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise program_invalid(f"the program is not valid: {cause(error)}") from error


def _tied(
    signature: ExportGraphSignature, source: RecordSource, configs: Mapping[str, program_schema.PayloadConfig]
) -> dict[str, str]:
    """Yield the inputs of the graph that share a payload, with the bytes of one, with an earlier one, by name.

    Args:
        signature: The signature of the graph.
        source: The program's records.
        configs: Its payload configs, by the folder of their records.
    """
    first: dict[str, str] = {}
    tied = {}
    for spec in signature.input_specs:
        for directory, config in configs.items():
            if spec.target is not None and spec.target in config.config:
                record = directory + config.config[spec.target].path_name
                name = first.setdefault(record, spec.arg.name)
                if name != spec.arg.name and source.size(record):
                    tied[spec.arg.name] = name
    return tied


def _graph_meta(described: program_schema.GraphModule) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    if custom := described.metadata.get("custom"):
        meta["custom"] = read_custom(custom)
    meta["treespec_namedtuple_fields"] = {
        kind: fields.field_names for kind, fields in described.treespec_namedtuple_fields.items()
    }
    return meta


def _verifier(dialect: str) -> type[Verifier]:
    if dialect not in _VERIFIERS:
        raise program_unsupported(
            f"the program is of the dialect `{shortened(dialect, 64)}`; ATEN and TRAINING are read", field="verifiers"
        )
    return _VERIFIERS[dialect]


def _decode(decoder: msgspec.json.Decoder[_Decoded], data: bytes, what: str) -> _Decoded:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        # torch ignores fields that it does not know. Here they may be those of a newer torch, whose meaning would be lost.
        refuse = program_unsupported if "unknown field" in str(error) else program_invalid
        raise refuse(f"the program's {what} does not fit the schema: {shortened(str(error))}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise program_invalid(f"the program's {what} is not JSON: {shortened(str(error))}") from error


def _check_version(
    header: program_schema.ModelHeader | program_schema.ExportedProgram, options: ReadOptions
) -> tuple[tuple[int, int], str]:
    version = header.schema_version.major, header.schema_version.minor
    writer = header.torch_version if isinstance(header.torch_version, str) else ""
    major, minor = SCHEMA_VERSION
    newer = version[0] == major and version[1] > minor
    if version[0] != major or version[1] < 0 or (newer and not options.newer_minors):
        advice = "; `serve --accept-newer-schema` reads a newer minor version as far as every field is known" if newer else ""
        found, known = f"{version[0]}.{version[1]}", f"{major}.{minor}"
        raise schema_unsupported(
            f"the program is written in schema version {found} (by torch {shortened(writer, 64) or 'of no name'}), "
            f"and this server (torch {TORCH_VERSION}) reads {major}.0 to {known}{advice}",
            schema_version=found,
            supported_schema_version=known,
        )
    return version, writer

"""Prints a program as text from its archive's JSON alone, without torch and without a server.

The text form is for people, for `diff` and for FileCheck: a line a node, ranges of symbols above, the signature as arguments. The same program
gives the same text on every machine. What a file says is quoted and escaped wherever it is no plain name, and never evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from retraced.archive import MODELS, Archive
from retraced.errors import ProgramInvalid, ProgramUnsupported, SchemaUnsupported
from retraced_pt2 import text_form
from retraced_pt2.errors import Fault, FormatError
from retraced_pt2.record_names import CONSTANTS, CONSTANTS_CONFIG, WEIGHTS, WEIGHTS_CONFIG
from retraced_pt2.text_form import Locations

__all__ = ["Locations", "program_text"]

_ERRORS = {Fault.SCHEMA_UNSUPPORTED: SchemaUnsupported, Fault.PROGRAM_UNSUPPORTED: ProgramUnsupported}


def program_text(archive: Archive, *, locations: Locations = Locations.NAME, constant_shapes: bool = True) -> str:
    """Return the text form of the program in an archive, in ASCII, which ends with a newline.

    Args:
        archive: The archive, open. Its weights are not read.
        locations: How much is shown of where a node comes from: nothing, the name of the source file and the line, or the whole path.
        constant_shapes: Show dtype and sizes of parameters, buffers and constants.

    Raises:
        ArchiveInvalid: A record is damaged.
        ProgramMissing: The archive holds no exported program.
        ProgramInvalid: The model record or a payload config is not what an exported program has.
        ProgramUnsupported: It holds what this version does not know.
        SchemaUnsupported: It is of another major version of the schema.
    """
    model = archive.model_name()
    payloads = dict(_payloads(archive, model))
    try:
        return text_form.program_text(archive.read(model), payloads, locations=locations, constant_shapes=constant_shapes)
    except FormatError as error:
        raise _ERRORS.get(error.fault, ProgramInvalid)(error.what) from error


def _payloads(archive: Archive, model: str) -> Iterator[tuple[str, str]]:
    """Yield the names of the program's parameters, buffers and constants, each with that of its payload."""
    program = model.removeprefix(MODELS).removesuffix(".json")
    held = {record.name for record in archive.records()}
    for folder, config in ((WEIGHTS, WEIGHTS_CONFIG), (CONSTANTS, CONSTANTS_CONFIG)):
        record = config.format(program)
        if record not in held:
            continue
        try:
            for name, payload in json.loads(archive.read(record))["config"].items():
                yield name, f"{folder}{payload['path_name']}"
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ProgramInvalid(f"the record {record} is not a payload config: {type(error).__name__} {error}") from error

"""The records that an archive of a program may have, by name. What is not known here is refused, with the reason where it has one.

The layout is that of torch/export/pt2_archive/constants.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from retraced_pt2.errors import Fault, FormatError, shortened, unsupported
from retraced_pt2.limits import LONGEST_RECORD_NAME

MODEL: Final = "models/{}.json"
SAMPLE_INPUTS: Final = "data/sample_inputs/{}.pt"
WEIGHTS: Final = "data/weights/"
WEIGHTS_CONFIG: Final = "data/weights/{}_weights_config.json"
CONSTANTS: Final = "data/constants/"
CONSTANTS_CONFIG: Final = "data/constants/{}_constants_config.json"
PAYLOADS: Final = {WEIGHTS: re.compile(r"weight_\d{1,9}", re.ASCII), CONSTANTS: re.compile(r"tensor_\d{1,9}", re.ASCII)}
"""The names of payloads, by the folder that they lie in."""

_PROGRAM: Final = r"[\w.-]{1,128}"
MODEL_NAME: Final = re.compile(rf"models/({_PROGRAM})\.json", re.ASCII)
"""The name of a model record, which has that of its program in it."""
_OF_PROGRAM: Final = re.compile(
    rf"data/weights/({_PROGRAM})_weights_config\.json|data/constants/({_PROGRAM})_constants_config\.json"
    rf"|data/sample_inputs/({_PROGRAM})\.pt",
    re.ASCII,
)
_PAYLOAD: Final = re.compile(r"data/weights/weight_\d{1,9}|data/constants/tensor_\d{1,9}", re.ASCII)
_OF_FILE: Final = frozenset(
    ("archive_format", "archive_version", "byteorder", "version", ".data/version", ".data/serialization_id")
)
_EXTRA: Final = "extra/"
_LEGACY: Final = re.compile(rf"data/(?:weights|constants)/{_PROGRAM}\.pt", re.ASCII)
_OBJECT: Final = ("data/constants/custom_obj_", "data/constants/opaque_obj_")
_COMPILED: Final = ("data/aotinductor/", "data/executorch/")
_OLD_FILES: Final = frozenset(("version", "serialized_exported_program.json"))


def find_program(names: Collection[str]) -> str:
    """Check the names of all records, without the root, and return the name of the one program that they are of.

    Raises:
        FormatError: PROGRAM_MISSING where there is no program, PROGRAM_UNSUPPORTED where there are several or where one holds what is not
            read, SCHEMA_UNSUPPORTED where it is in an older layout, ARCHIVE_INVALID where a record is not of a program.
    """
    models = [name for name in names if name.startswith("models/")]
    if not models:
        what = (
            "a file that torch.save wrote, such as a checkpoint"
            if "data.pkl" in names
            else "no record `models/*.json` is in it"
        )
        raise FormatError(
            Fault.PROGRAM_MISSING, f"the archive holds no exported program, as torch.export.save writes it: {what}"
        )
    if len(models) > 1:
        raise unsupported(f"the archive holds several programs ({shortened(', '.join(models))}); one at a time is taken")
    match = MODEL_NAME.fullmatch(models[0])
    if match is None:
        raise unsupported(f"`{shortened(models[0], 200)}` is no name of a model record")
    for name in names:
        _check(name, match[1])
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other is not name:
            raise FormatError(
                Fault.ARCHIVE_INVALID, f"the archive has two records `{shortened(name, 200)}`, in any case of letters"
            )
    return match[1]


def check_program_name(name: str) -> str:
    """Return the name of a program in an archive, which is part of the names of its records.

    Raises:
        FormatError: PROGRAM_UNSUPPORTED where it is not of letters, digits, points, dashes and underscores.
    """
    if re.fullmatch(_PROGRAM, name, re.ASCII) is None:
        raise unsupported(f"`{shortened(name, 200)}` is no name of a program")
    return name


def is_carried(name: str) -> bool:
    """Whether a record is none of the program's: a file that `torch.export.save` was given beside it."""
    return name.startswith(_EXTRA)


def is_record_name(name: str) -> bool:
    """Whether a record may have a name, without the root: it is of a file inside a folder on any system, and one that torch lists."""
    return (
        name.isprintable()
        and len(name.encode()) <= LONGEST_RECORD_NAME
        and not any(part in ("", ".", "..") for part in name.split("/"))
        and not any(mark in name for mark in "\\:")
    )


def foreign(names: Collection[str]) -> FormatError:
    """Make the error of a zip whose records have no common root."""
    if set(names) >= _OLD_FILES:
        return FormatError(
            Fault.SCHEMA_UNSUPPORTED,
            "the archive is in the format of torch 2.7 and older, or of ExecuTorch's `exir.save`, which is not read; load it "
            "and save it again with torch 2.8 or newer, a program for ExecuTorch as it was before `to_edge`",
        )
    return FormatError(
        Fault.PROGRAM_MISSING, "the archive is a zip but not one that torch.export.save wrote: its records have no common root"
    )


def _check(name: str, program: str) -> None:
    if name in _OF_FILE or _PAYLOAD.fullmatch(name) or MODEL_NAME.fullmatch(name):
        return
    if match := _OF_PROGRAM.fullmatch(name):
        if program not in match.groups():
            raise FormatError(
                Fault.ARCHIVE_INVALID, f"the archive's record `{shortened(name, 200)}` is of another program than `{program}`"
            )
        return
    if name.startswith(_EXTRA):
        if not is_record_name(name):
            raise FormatError(
                Fault.ARCHIVE_INVALID,
                f"the archive's record `{shortened(name, 200)}` has no name of a file inside a folder, of at most "
                f"{LONGEST_RECORD_NAME} bytes",
            )
        return
    if _LEGACY.fullmatch(name):
        raise FormatError(
            Fault.SCHEMA_UNSUPPORTED,
            f"the archive's record `{shortened(name, 200)}` holds pickled weights, as older versions of torch wrote them; what is "
            "pickled is not read: load the archive and save it again with a newer torch",
        )
    if name.startswith(_OBJECT):
        raise unsupported(
            f"the archive's record `{shortened(name, 200)}` is an object of a custom class; objects are stored pickled, so they are "
            "not read"
        )
    if name.startswith(_COMPILED):
        raise unsupported(
            f"the archive's record `{shortened(name, 200)}` is compiled code, of AOTInductor or another compiler, which is never loaded"
        )
    raise FormatError(Fault.ARCHIVE_INVALID, f"the archive has a record `{shortened(name, 200)}`, which no program has")

"""The records that an archive of a program may have, by name. What is not known here is refused, with the reason where it has one.

The layout is that of torch/export/pt2_archive/constants.py.
"""

from __future__ import annotations

import re
from typing import Final

from retraced_server.program.errors import archive_invalid, program_missing, program_unsupported, schema_unsupported, shortened
from retraced_server.program.options import LONGEST_RECORD_NAME

_PROGRAM: Final = r"[\w.-]{1,128}"
_MODEL: Final = re.compile(rf"models/({_PROGRAM})\.json", re.ASCII)
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


def find_program(names: list[str]) -> str:
    """Checks the names of all records, without the root, and gives the name of the one program that they are of.

    Raises:
        RetracedError: PROGRAM_MISSING where there is no program, PROGRAM_UNSUPPORTED where there are several or where one holds what is not
            read, SCHEMA_UNSUPPORTED where it is in an older layout, ARCHIVE_INVALID where a record is not of a program.
    """
    models = [name for name in names if name.startswith("models/")]
    if not models:
        what = (
            "a file that torch.save wrote, such as a checkpoint"
            if "data.pkl" in names
            else "no record `models/*.json` is in it"
        )
        raise program_missing(f"the archive holds no exported program, as torch.export.save writes it: {what}")
    if len(models) > 1:
        raise program_unsupported(
            f"the archive holds several programs ({shortened(', '.join(models))}); one at a time is taken"
        )
    match = _MODEL.fullmatch(models[0])
    if match is None:
        raise program_unsupported(f"`{shortened(models[0], 200)}` is no name of a model record")
    for name in names:
        _check(name, match[1])
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other is not name:
            raise archive_invalid(f"the archive has two records `{shortened(name, 200)}`, in any case of letters")
    return match[1]


def is_carried(name: str) -> bool:
    """Whether a record is none of the program's: a file that `torch.export.save` was given beside it."""
    return name.startswith(_EXTRA)


def is_record_name(name: str) -> bool:
    """Whether a record may have a name, without the root: it is of a file inside a folder on any system, and one that torch lists.

    The client's `checks/layout.py` has the same rule, so that what was sent may come back.
    """
    return (
        name.isprintable()
        and len(name.encode()) <= LONGEST_RECORD_NAME
        and not any(part in ("", ".", "..") for part in name.split("/"))
        and not any(mark in name for mark in "\\:")
    )


def foreign(names: list[str]) -> Exception:
    """Makes the error of a zip whose records have no common root."""
    if set(names) >= _OLD_FILES:
        return schema_unsupported(
            "the archive is in the format of torch 2.7 and older, or of ExecuTorch's `exir.save`, which this server does not read; load it "
            "and save it again with torch 2.8 or newer, a program for ExecuTorch as it was before `to_edge`"
        )
    return program_missing("the archive is a zip but not one that torch.export.save wrote: its records have no common root")


def _check(name: str, program: str) -> None:
    if name in _OF_FILE or _PAYLOAD.fullmatch(name) or _MODEL.fullmatch(name):
        return
    if match := _OF_PROGRAM.fullmatch(name):
        if program not in match.groups():
            raise archive_invalid(f"the archive's record `{shortened(name, 200)}` is of another program than `{program}`")
        return
    if name.startswith(_EXTRA):
        if not is_record_name(name):
            raise archive_invalid(
                f"the archive's record `{shortened(name, 200)}` has no name of a file inside a folder, of at most "
                f"{LONGEST_RECORD_NAME} bytes"
            )
        return
    if _LEGACY.fullmatch(name):
        raise schema_unsupported(
            f"the archive's record `{shortened(name, 200)}` holds pickled weights, as older versions of torch wrote them; what is "
            "pickled is not read: load the archive and save it again with a newer torch"
        )
    if name.startswith(_OBJECT):
        raise program_unsupported(
            f"the archive's record `{shortened(name, 200)}` is an object of a custom class; objects are stored pickled, so they are "
            "not read"
        )
    if name.startswith(_COMPILED):
        raise program_unsupported(
            f"the archive's record `{shortened(name, 200)}` is compiled code, of AOTInductor or another compiler, which is never loaded"
        )
    raise archive_invalid(f"the archive has a record `{shortened(name, 200)}`, which no program has")

"""Where the records of a program come from: an archive, or what a request carried of one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Protocol

from retraced_server.program.archive import Extent
from retraced_server.program.errors import program_unsupported, shortened

MODEL: Final = "models/{}.json"
SAMPLE_INPUTS: Final = "data/sample_inputs/{}.pt"
WEIGHTS: Final = "data/weights/"
WEIGHTS_CONFIG: Final = "data/weights/{}_weights_config.json"
CONSTANTS: Final = "data/constants/"
CONSTANTS_CONFIG: Final = "data/constants/{}_constants_config.json"

_PROGRAM_NAME: Final = re.compile(r"[\w.-]{1,128}", re.ASCII)


class RecordSource(Protocol):
    """The records of a program by name, without the root. `Archive` is one."""

    program_name: str

    def __contains__(self, name: str) -> bool:
        """Whether there is a record of that name, with its bytes or without."""

    def read(self, name: str) -> bytes:
        """The bytes of a record; the checksum has been compared."""

    def size(self, name: str) -> int:
        """How many bytes a record has."""

    def extent(self, name: str) -> Extent | None:
        """Where the bytes of a record lie in a file, and None where they are not here."""

    def carried(self) -> Iterator[tuple[str, bytes]]:
        """The records that are not of the program, by name without the root."""


def check_program_name(name: str) -> str:
    """Checks the name of a program in an archive, which is part of the names of its records.

    Raises:
        RetracedError: PROGRAM_UNSUPPORTED where it is not of letters, digits, points, dashes and underscores.
    """
    if _PROGRAM_NAME.fullmatch(name) is None:
        raise program_unsupported(f"`{shortened(name, 200)}` is no name of a program")
    return name

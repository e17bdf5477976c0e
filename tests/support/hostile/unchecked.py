"""Workers without our reader: programs are loaded by torch and called. For a server: `--import tests.support.hostile.unchecked`.

It shows what the sandbox alone withstands, and is of no other use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Any, cast

import torch

from retraced_server.program import Payloads, ReadProgram, RecordSource
from retraced_server.worker import job


class _NoSource:
    program_name = "model"

    def carried(self) -> Iterator[tuple[str, bytes]]:
        yield from ()


def _read(archive: IO[bytes], **_: Any) -> ReadProgram:
    archive.seek(0)
    program = torch.export.load(archive)
    if program.example_inputs is not None:
        args, kwargs = program.example_inputs
        program.module()(*args, **kwargs)
    source = cast(RecordSource, _NoSource())
    return ReadProgram(program, "model", (8, 0), "", b"", b"", Payloads(), source, ExitStack())


vars(job)["read_program"] = _read

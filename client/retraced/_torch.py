"""The one module of the client that imports torch, and only when it is called."""

from __future__ import annotations

import tempfile
from typing import IO, TYPE_CHECKING, TypeGuard

from retraced.errors import SourceNotReadable, TorchMissing

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def is_exported_program(value: object) -> TypeGuard[ExportedProgram]:
    """Whether it is a `torch.export.ExportedProgram`. Torch is imported already, or it could not be one."""
    from torch.export import ExportedProgram

    return isinstance(value, ExportedProgram)


def save(program: ExportedProgram) -> IO[bytes]:
    """Write a program, as `torch.export.save` does, into an unnamed temporary file.

    Raises:
        SourceNotReadable: Torch cannot save it.
    """
    import torch

    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller owns it
    try:
        torch.export.save(program, file)
        file.flush()
    except Exception as error:
        file.close()
        # Torch documents no error type of its own here.
        hint = "; return `tuple(...)` in the place of torch's own named results" if "torch.return_types" in str(error) else ""
        raise SourceNotReadable(f"torch.export.save cannot save the exported program: {error}{hint}") from error
    except BaseException:
        file.close()
        raise
    return file


def load(file: IO[bytes]) -> ExportedProgram:
    """Read a program as `torch.export.load` does. It runs code from the file, which was checked for that.

    Raises:
        TorchMissing: Torch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise TorchMissing("exported_program() needs torch; install it (see pytorch.org), or use save()") from error
    return torch.export.load(file)

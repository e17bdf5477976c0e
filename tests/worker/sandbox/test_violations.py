"""Which errors are refusals of the sandbox, and which are not."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from retraced_server.worker.sandbox import ViolationKind
from retraced_server.worker.sandbox.violations import violation_of

READ, WRITE, NETWORK, OPERATION, LIMIT = ViolationKind


def error_of(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number)) if path is None else OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (error_of(errno.EACCES, "/etc/passwd"), READ),
        (error_of(errno.EROFS, "/etc/passwd"), WRITE),
        (error_of(errno.EACCES), NETWORK),
        (socket.gaierror(-3, "Temporary failure in name resolution"), NETWORK),
        (error_of(errno.EPERM), OPERATION),
        (error_of(errno.EPERM, "/bin/true"), OPERATION),
        (ImportError("/x/_y.so: failed to map segment from shared object"), OPERATION),
        (OSError("/x/y.so: cannot open shared object file: Permission denied"), OPERATION),
        (error_of(errno.EFBIG), LIMIT),
        (error_of(errno.EMFILE, "/x"), LIMIT),
        (RuntimeError("can't start new thread"), LIMIT),
    ],
    ids=repr,
)
def test_a_refusal_is_of_a_kind(error: Exception, kind: ViolationKind) -> None:
    violation = violation_of(error, None, ())

    assert violation is not None
    assert violation.kind is kind
    assert violation.path == getattr(error, "filename", None)


@pytest.mark.parametrize(
    "error",
    [
        error_of(errno.ENOENT, "/x"),
        error_of(errno.EPIPE),
        error_of(errno.ENOMEM),
        PermissionError("a pass says no"),
        ImportError("no module named x"),
        OSError("/x/y.so: invalid ELF header"),
        RuntimeError("anything"),
        MemoryError(),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_another_error_is_none(error: BaseException) -> None:
    assert violation_of(error, None, ()) is None


def failing_pass(*, told: bool) -> None:
    try:
        raise error_of(errno.EROFS, "/x")
    except OSError as cause:
        raise ValueError("the pass failed") from (cause if told else None)


@pytest.mark.parametrize(("told", "kind"), [(True, WRITE), (False, None)], ids=["said to be its cause", "put aside"])
def test_the_error_that_an_error_came_from_counts_if_it_is(told: bool, kind: ViolationKind | None) -> None:
    with pytest.raises(ValueError, match="the pass failed") as raised:
        failing_pass(told=told)

    violation = violation_of(raised.value, None, ())

    assert (violation and violation.kind) is kind


@pytest.mark.parametrize(
    ("path", "kind"),
    [("outside", READ), ("not there", WRITE), ("scratch/file", WRITE), ("readable/file", WRITE), ("link to outside", READ)],
)
def test_with_a_scratch_folder_the_place_tells_reading_from_writing(tmp_path: Path, path: str, kind: ViolationKind) -> None:
    scratch, readable = tmp_path / "scratch", tmp_path / "readable"
    for folder in (scratch, readable):
        folder.mkdir()
        (folder / "file").touch()
    (tmp_path / "outside").touch()
    (tmp_path / "link to outside").symlink_to(tmp_path / "outside")

    violation = violation_of(error_of(errno.EACCES, str(tmp_path / path)), scratch.resolve(), (readable.resolve(),))

    assert violation is not None
    assert violation.kind is kind

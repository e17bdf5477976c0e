"""Files: what a worker may write with a scratch folder, and that it may write nothing without one."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from retraced_server.worker.sandbox import ViolationKind
from tests.worker.sandbox import attempts
from tests.worker.sandbox.conftest import Needs
from tests.worker.sandbox.host import Host

READ, WRITE = ViolationKind.READ, ViolationKind.WRITE

#: Changes of a file outside; each is made to one of its own.
CHANGES: tuple[Callable[[Path], object], ...] = (
    attempts.write,
    attempts.append,
    attempts.truncate,
    attempts.truncate_by_reading,
    attempts.remove,
    attempts.change_mode,
    attempts.change_times,
)


@pytest.fixture
def outside(open_folder: Path) -> Path:
    file = open_folder / "outside"
    file.write_text("as it was")
    file.chmod(0o666)
    return file


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("with_scratch", [False, True], ids=["without a scratch folder", "with one"])
def test_a_file_outside_stays_as_it_was(
    host: Host, needs: Needs, outside: Path, scratch: Path, change: Callable[[Path], object], with_scratch: bool
) -> None:
    needs("seccomp", "landlock")
    before = outside.stat()

    outcome = host.run(change, outside, scratch=scratch if with_scratch else None)

    assert outcome.violation in ((READ, WRITE) if with_scratch else (WRITE,)), outcome.error
    after = outside.stat()
    assert (after.st_mode, after.st_size, after.st_mtime_ns) == (before.st_mode, before.st_size, before.st_mtime_ns)
    assert host.run(change, outside, locked=False).error == ""


@pytest.mark.parametrize("with_scratch", [False, True], ids=["without a scratch folder", "with one"])
@pytest.mark.parametrize("make", [attempts.write, attempts.make_folder], ids=lambda make: make.__name__)
def test_nothing_is_made_outside(
    host: Host, needs: Needs, open_folder: Path, scratch: Path, make: Callable[[Path], object], with_scratch: bool
) -> None:
    needs("seccomp", "landlock")
    path = open_folder / "new"

    outcome = host.run(make, path, scratch=scratch if with_scratch else None)

    assert outcome.violation is WRITE, outcome.error
    assert not path.exists()
    assert host.run(make, path, locked=False).error == ""


def test_a_worker_writes_reads_and_removes_in_its_scratch_folder(host: Host, scratch: Path) -> None:
    assert host.run(work_in, scratch, scratch=scratch).value == "written again"
    assert os.listdir(scratch) == ["moved"]


def test_temporary_files_go_into_the_scratch_folder(host: Host, scratch: Path) -> None:
    outcome = host.run(make_temporary_file, scratch=scratch)

    assert Path(outcome.value).parent == scratch


def test_without_a_scratch_folder_there_is_no_temporary_file(host: Host, needs: Needs) -> None:
    needs("seccomp")
    assert host.run(make_temporary_file).violation is WRITE
    assert host.run(make_temporary_file, locked=False).error == ""


def test_without_a_scratch_folder_the_name_of_one_can_still_be_asked_for(host: Host) -> None:
    assert host.run(name_of_temporary_folder).value == "/"


def test_a_link_that_lies_in_the_scratch_folder_leads_nowhere(host: Host, needs: Needs, scratch: Path, outside: Path) -> None:
    needs("landlock")
    link = scratch / "link"
    link.symlink_to(outside)

    assert host.run(attempts.read, link, scratch=scratch).violation is READ
    # It is there and could not be read, so which of the two was refused cannot be told.
    assert host.run(attempts.write, link, scratch=scratch).violation in (READ, WRITE)
    assert outside.read_text() == "as it was"
    assert host.run(attempts.read, link, locked=False).value == b"as it was"


def test_the_way_up_from_the_scratch_folder_leads_nowhere(host: Host, needs: Needs, scratch: Path, outside: Path) -> None:
    needs("landlock")
    path = scratch / ".." / outside.name

    assert host.run(attempts.read, path, scratch=scratch).violation is READ
    assert host.run(attempts.read, path, locked=False).value == b"as it was"


@pytest.mark.parametrize("make", [attempts.link, attempts.symlink], ids=lambda make: make.__name__)
def test_no_links_are_made(
    host: Host, needs: Needs, scratch: Path, outside: Path, make: Callable[[Path, Path], object]
) -> None:
    needs("seccomp")
    assert host.run(make, outside, scratch / "new", scratch=scratch).violation is WRITE
    assert os.listdir(scratch) == []
    assert host.run(make, outside, scratch / "new", locked=False).error == ""


def test_a_file_does_not_move_out_of_the_scratch_folder_or_into_it(
    host: Host, needs: Needs, open_folder: Path, scratch: Path, outside: Path
) -> None:
    needs("landlock")
    inside = scratch / "inside"
    inside.write_text("inside")
    out, into = (inside, open_folder / "moved"), (outside, scratch / "moved")

    for old, new in (out, into):
        assert host.run(attempts.move, old, new, scratch=scratch).violation is WRITE
        assert old.exists()
        assert host.run(attempts.move, old, new, locked=False).error == ""


def test_a_worker_whose_scratch_folder_is_gone_is_not_locked_down(host: Host, open_folder: Path) -> None:
    outcome = host.run(attempts.who, scratch=open_folder / "gone")

    assert outcome.error.startswith("SandboxError: the worker cannot be locked down: ")
    assert os.strerror(errno.ENOENT) in outcome.error


def work_in(folder: Path) -> str:
    (folder / "sub").mkdir()
    file = folder / "sub" / "file"
    file.write_text("written")
    file.write_text("written again")
    file.rename(folder / "moved")
    (folder / "sub").rmdir()
    return (folder / "moved").read_text()


def name_of_temporary_folder() -> str:
    return tempfile.gettempdir()


def make_temporary_file() -> str:
    with tempfile.NamedTemporaryFile() as file:
        return file.name

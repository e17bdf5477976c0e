"""The server's disk is full, damaged, or holds what a killed server left: a request or nothing is lost, and the reason is said."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from retraced import AsyncClient, Client, EmbeddedServer, errors
from tests.e2e.conftest import server_arguments, spooling_arguments
from tests.e2e.processes import Observed
from tests.support.disks import mounted_disk
from tests.support.models import by_name
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_RESIDUAL_NET = by_name("residual_net")
_MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    with mounted_disk(tmp_path / "disk", "8m") as folder:
        yield folder


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def test_disk_that_is_full_is_that_requests_error_and_leaves_nothing_on_it(small_disk: Path) -> None:
    with EmbeddedServer(spooling_arguments(small_disk)) as server, Client(server.address, attempts=1) as client:
        assert server.pid is not None
        observed = Observed(server.pid)
        client.transform(_RESIDUAL_NET.archive, "retrace")
        eventually(observed.at_rest, "the first worker is gone")
        room, descriptors = _free(small_disk), observed.descriptors()
        with pytest.raises(errors.StorageFull) as raised:
            client.transform(random.Random(0).randbytes(12 * _MIB), "retrace")
        assert "No space left on device" in raised.value.message
        assert raised.value.retry_after
        eventually(lambda: _free(small_disk) == room, "the bytes are given up")
        eventually(lambda: observed.descriptors() == descriptors, "no descriptor is left")
        assert not client.transform(_RESIDUAL_NET.archive, "retrace").modified
        # The process of the worker holds the archive until it is gone.
        eventually(lambda: _free(small_disk) == room, "the bytes are given up again")
        with open(small_disk / "filler", "wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, _free(small_disk))
        with pytest.raises(errors.StorageFull):
            client.transform(_RESIDUAL_NET.archive, "retrace")
        (small_disk / "filler").unlink()
        assert not client.transform(_RESIDUAL_NET.archive, "retrace").modified


def _spools(observed: Observed, size: int) -> list[Path]:
    """The archives of one size that the front end holds, in memory or in files without a name."""
    return [path for path in Path(f"/proc/{observed.front_end.pid}/fd").iterdir() if _is_spool(path, size)]


def _is_spool(path: Path, size: int) -> bool:
    try:
        return "(deleted)" in os.readlink(path) and path.stat().st_size == size
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("record", "pipeline"), [("models/model.json", "retrace"), ("weights/weight_0", "decompose")])
async def test_archive_that_changes_while_it_waits_is_a_fault_of_the_server(
    on_disk: EmbeddedServer, record: str, pipeline: str
) -> None:
    assert on_disk.pid is not None
    observed = Observed(on_disk.pid)
    async with AsyncClient(on_disk.address) as client:
        running = asyncio.create_task(client.transform(by_name("input_and_id").archive, "wait{seconds=1000.0}"))
        await asyncio.to_thread(eventually, lambda: len(observed.workers()) == 1, "the only worker is busy")
        waiting = asyncio.create_task(client.transform(_RESIDUAL_NET.archive, pipeline))
        await asyncio.to_thread(
            eventually, lambda: len(_spools(observed, len(_RESIDUAL_NET.archive))) == 1, "the archive is there"
        )
        with open(_spools(observed, len(_RESIDUAL_NET.archive))[0], "r+b") as spool:
            spool.seek(_offset(record))
            spool.write(b"damaged")
        running.cancel()
        with pytest.raises(errors.StorageCorrupt, match="changed on the server"):
            await waiting
        assert not (await client.transform(_RESIDUAL_NET.archive, "retrace")).modified


def _offset(record: str) -> int:
    with zipfile.ZipFile(io.BytesIO(_RESIDUAL_NET.archive)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(record)]
        return _RESIDUAL_NET.archive.index(archive.read(name))


def test_what_a_killed_server_left_goes_with_the_next_start_and_no_other_servers(
    on_disk: EmbeddedServer, spool_folder: Path
) -> None:
    arguments = server_arguments("--spool-dir", str(spool_folder))
    with EmbeddedServer(arguments) as killed:
        (theirs,) = {path for path in spool_folder.iterdir() if not _belongs_to(killed, path)}
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
        killed.stop()
        assert len(list(spool_folder.iterdir())) == 2
        with EmbeddedServer(arguments) as third:
            left = set(spool_folder.iterdir())
            assert len(left) == 2
            assert theirs in left
            for server in (on_disk, third):
                with Client(server.address) as client:
                    assert not client.transform(_RESIDUAL_NET.archive, "retrace").modified
    # One that is stopped leaves nothing.
    assert list(spool_folder.iterdir()) == [theirs]


def _belongs_to(server: EmbeddedServer, folder: Path) -> bool:
    """Whether a server's front end holds a folder open."""
    return any(os.readlink(path) == str(folder) for path in Path(f"/proc/{server.pid}/fd").iterdir())

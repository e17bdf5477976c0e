"""What a locked-down worker tries in vain. Each attempt succeeds where it is not locked down."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from retraced_server.worker.sandbox import ViolationKind
from tests.worker.sandbox import attempts
from tests.worker.sandbox.conftest import Needs
from tests.worker.sandbox.host import Host

READ, WRITE, NETWORK, OPERATION = ViolationKind.READ, ViolationKind.WRITE, ViolationKind.NETWORK, ViolationKind.OPERATION


@dataclass(frozen=True)
class Case:
    """An attempt, the layer that stops it, and what it is refused as. Some machines, or all but root, have it refused without a sandbox."""

    name: str
    kind: ViolationKind
    work: Callable[..., object]
    arguments: tuple[object, ...] = ()
    before: Callable[[], Any] | None = None
    layer: str = "seccomp"
    always_possible: bool = True


def library_beside(loaded: str, name: str) -> str:
    maps = Path("/proc/self/maps").read_text().splitlines()
    return str(next(Path(line.split()[-1]) for line in maps if loaded in line).with_name(name))


CASES = (
    Case("read a file", READ, attempts.read, ("/etc/passwd",), layer="landlock"),
    Case("list a folder", READ, attempts.list_folder, ("/",), layer="landlock"),
    Case("read the parent's environment", READ, attempts.read_of_parent, ("environ",), layer="landlock"),
    Case("open the parent's memory", READ, attempts.read_of_parent, ("mem",), layer="landlock"),
    Case("open by handle", OPERATION, attempts.open_handle, before=attempts.handle_of_passwd, always_possible=False),
    Case("fork", OPERATION, attempts.fork),
    Case("spawn a process", OPERATION, attempts.spawn),
    Case("run a program in a process", OPERATION, attempts.run),
    Case("run a program", OPERATION, attempts.execute),
    Case("run a program from memory", OPERATION, attempts.make_memory_file),
    Case("make an IPv4 socket", NETWORK, attempts.make_socket, (socket.AF_INET,)),
    Case("make a datagram socket", NETWORK, attempts.make_socket, (socket.AF_INET, socket.SOCK_DGRAM)),
    Case("make a Unix socket", NETWORK, attempts.make_socket, (socket.AF_UNIX,)),
    Case("make a netlink socket", NETWORK, attempts.make_socket, (socket.AF_NETLINK, socket.SOCK_RAW)),
    Case("make a pair of sockets", NETWORK, attempts.make_socket_pair),
    Case("connect a socket", NETWORK, attempts.connect, before=attempts.listening_and_client),
    Case("send to an address", OPERATION, attempts.send_to_address, before=attempts.bound_datagram_and_other),
    Case("send a descriptor", NETWORK, attempts.send_descriptor, before=attempts.connected_pair),
    Case("trace", OPERATION, attempts.trace),
    Case("signal another process", OPERATION, attempts.send_signal, (os.getpid(),)),
    Case("signal a thread of another process", OPERATION, attempts.send_signal_to_thread, (os.getpid(),)),
    Case("map code", OPERATION, attempts.map_code),
    Case("make code of memory", OPERATION, attempts.make_code_of_memory),
    Case("map memory that no limit counts", OPERATION, attempts.map_shared, (1 << 20,)),
    Case("import a compiled module", OPERATION, attempts.import_compiled),
    Case(
        "load a library from outside",
        OPERATION,
        attempts.load_library,
        (library_beside("libc.so", "libresolv.so.2"),),
        layer="landlock",
    ),
    Case("unshare", OPERATION, attempts.unshare, always_possible=False),
    Case("set up io_uring", OPERATION, attempts.set_up_io_uring, always_possible=False),
    Case("become root", OPERATION, attempts.become_root, always_possible=False),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_worker_is_refused_what_it_can_do_unlocked(host: Host, needs: Needs, case: Case) -> None:
    needs(case.layer)
    free = host.run(case.work, *case.arguments, before=case.before, locked=False)
    if not case.always_possible and free.errno in (errno.EPERM, errno.ENOSYS, errno.ENOSPC):
        pytest.skip(f"it is refused here without a sandbox too: {free.error}")
    assert free.error == ""
    assert free.status == 0

    locked = host.run(case.work, *case.arguments, before=case.before)

    assert locked.violation is case.kind, locked.error
    assert locked.value is None
    assert locked.status == 0


def test_the_file_that_was_refused_is_named(host: Host, needs: Needs) -> None:
    needs("landlock")
    outcome = host.run(attempts.read, "/etc/passwd")

    assert outcome.path == "/etc/passwd"

"""What a locked-down worker is and has: a user, descriptors, an environment, a parent; and what of a process still works."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retraced_server.worker.sandbox import ResourceLimits
from tests.worker.sandbox import attempts
from tests.worker.sandbox import host as hosts
from tests.worker.sandbox.conftest import Needs
from tests.worker.sandbox.host import ROOT, USERS, Host

_PR_SET_PDEATHSIG = 1


def test_each_slot_is_a_user_of_its_own_without_groups(host: Host, needs: Needs) -> None:
    needs("user")

    found = [host.run(attempts.who, slot=slot).value for slot in range(len(USERS))]

    assert found == [(uid, uid, []) for uid in USERS]
    assert host.run(attempts.who, slot=len(USERS)).value == found[0]


def test_other_processes_of_the_same_user_cannot_look_into_a_worker(host: Host, needs: Needs) -> None:
    needs("user")

    def owner(locked: bool) -> object:
        return host.run(owner_of_environment, before=start_watcher, locked=locked).value

    # The kernel gives to root what is of processes that are not to be looked into.
    assert owner(locked=True) == 0
    assert owner(locked=False) == os.getuid()


def test_only_the_descriptors_that_are_to_be_kept_stay_open(host: Host) -> None:
    assert host.run(attempts.read_from, before=attempts.open_passwd).value == attempts.read("/etc/passwd")[:4]
    assert host.run(attempts.read_from_number, before=attempts.number_of_open_passwd).errno == errno.EBADF
    assert host.run(attempts.read_from_number, before=attempts.number_of_open_passwd, locked=False).error == ""


def test_the_job_s_socket_still_works(host: Host) -> None:
    assert host.run(attempts.talk, before=attempts.connected_pair).value == b"frame"


def test_the_map_of_its_pages_still_tells_what_was_written_to(host: Host) -> None:
    assert host.run(pages_written_to, before=open_page_map).value == [False, True]
    assert host.run(open_page_map).violation is not None


def test_modules_can_still_be_imported(host: Host) -> None:
    assert host.run(attempts.import_pure).value == "wsgiref.headers"


def test_an_abort_still_ends_the_worker_with_its_signal(host: Host) -> None:
    assert host.run(attempts.abort).status == -signal.SIGABRT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_can_send_signals_to_itself(host: Host, number: int) -> None:
    assert host.run(send_to_itself, number).status == -number


def test_a_worker_cannot_send_signals_to_its_group(host: Host, needs: Needs) -> None:
    needs("seccomp")
    for group in (0, -1):
        assert host.run(attempts.send_signal, group).violation is not None
        assert host.run(attempts.send_signal, group, locked=False).error == ""


def test_a_worker_dies_with_its_parent_though_it_became_another_user(host: Host) -> None:
    assert host.run(leave_a_worker_behind, locked=False).value == "ended"


def test_a_process_of_several_threads_is_not_locked_down(host: Host) -> None:
    outcome = host.run(attempts.who, before=attempts.a_thread)

    assert outcome.error == "SandboxError: a process of 2 threads cannot be locked down"


def test_the_server_s_secrets_are_gone_from_memory(host: Host) -> None:
    assert host.run(environment_in_memory, locked=False).value == {"SECRET_OF_THE_SERVER": "", "PYTHONHASHSEED": "0"}
    assert "SECRET_OF_THE_SERVER" not in host.run(names_in_environment).value


def test_without_the_sandbox_the_secrets_are_there() -> None:
    program = "from tests.worker.sandbox.test_process import environment_in_memory as f; print(f()['SECRET_OF_THE_SERVER'])"
    environment = {**os.environ, "SECRET_OF_THE_SERVER": "hunter2"}

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )

    assert done.stdout == "hunter2\n"


def test_limits_can_be_lowered_but_not_raised(host: Host) -> None:
    outcome = host.run(raise_processor_time, limits=ResourceLimits(cpu_seconds=5))

    assert outcome.error.startswith("ValueError")


@pytest.mark.parametrize("layer", ["seccomp", "landlock", "user", "privileges", "limits", "namespaces"])
def test_the_report_says_of_each_layer_whether_it_is_in_force(host: Host, layer: str) -> None:
    assert str(host.report.layer(layer)) in str(host.report)


def test_the_zygote_has_left_the_network(host: Host, needs: Needs) -> None:
    needs("namespaces")

    assert host.run(attempts.connect_to, "127.0.0.1", 9, locked=False).errno == errno.ENETUNREACH


def start_watcher() -> tuple[attempts.Opened, attempts.Opened]:
    """Starts a process that says who owns the environment of this one, once it is asked."""
    (question, ask), (answer, say) = os.pipe(), os.pipe()
    watched = os.getpid()
    if os.fork() == 0:
        os.read(question, 1)
        os.write(say, str(os.stat(f"/proc/{watched}/environ").st_uid).encode())
        os._exit(0)
    return attempts.Opened(ask), attempts.Opened(answer)


def owner_of_environment(pipes: tuple[attempts.Opened, attempts.Opened]) -> int:
    ask, answer = pipes
    os.write(ask.fd, b"?")
    return int(os.read(answer.fd, 16))


def leave_a_worker_behind() -> str:
    """Has a parent leave a locked-down child behind, and says whether the child ended."""
    prepared = hosts.prepared
    assert prepared is not None
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        if os.fork() == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            prepared.lock_down(open_descriptors=[writing])
            os.write(writing, b"locked down")
            time.sleep(60)
            os._exit(0)
        signal.pause()
    os.close(writing)
    assert os.read(reading, 64) == b"locked down"
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    # The end of the stream is there when its last writer is gone.
    ready, _, _ = select.select([reading], [], [], 20)
    return "ended" if ready and os.read(reading, 1) == b"" else "still there"


def environment_in_memory() -> dict[str, str]:
    """What the kernel finds where the environment was when the process started."""
    found = {}
    for text in Path("/proc/self/environ").read_bytes().split(b"\0"):
        name, _, value = text.decode().partition("=")
        if name in ("SECRET_OF_THE_SERVER", "PYTHONHASHSEED"):
            found[name] = value
    return found


def names_in_environment() -> list[str]:
    return list(os.environ)


def open_page_map() -> attempts.Opened:
    return attempts.Opened(os.open("/proc/self/pagemap", os.O_RDONLY))


def pages_written_to(page_map: attempts.Opened) -> list[bool]:
    """Which of two pages, mapped copy on write, are the process's own: bit 61 says that a page is a file's."""
    with open(os.__file__, "rb") as file, mmap.mmap(file.fileno(), 2 * mmap.PAGESIZE, access=mmap.ACCESS_COPY) as mapped:
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        # The first is only read.
        mapped[mmap.PAGESIZE] = mapped[0]
        entries = struct.unpack("2Q", os.pread(page_map.fd, 16, address // mmap.PAGESIZE * 8))
    return [not entry >> 61 & 1 for entry in entries]


def send_to_itself(number: int) -> None:
    os.kill(os.getpid(), number)


def raise_processor_time() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (100, 100))

"""The filter of system calls, decided call by call, for both architectures: the machine needs to be neither."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
from typing import Any

import pytest

from retraced_server.worker.sandbox.seccomp import SyscallFilter
from retraced_server.worker.sandbox.syscalls import rules
from tests.worker.sandbox.bpf import Decision, decide

pyseccomp: Any = pytest.importorskip("pyseccomp", exc_type=ImportError)

ALLOWED, REFUSED, KILLED = Decision("allow"), Decision("errno", errno.EPERM), Decision("kill")
READ_ONLY, NO_NETWORK, UNKNOWN = (Decision("errno", number) for number in (errno.EROFS, errno.EACCES, errno.ENOSYS))

ARCHES = {"x86-64": pyseccomp.Arch.X86_64, "arm64": pyseccomp.Arch.AARCH64}
OTHER_ARCHES = {"x86-64": pyseccomp.Arch.X86, "arm64": pyseccomp.Arch.ARM}

READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
A_THREAD = 0x3D0F00  # What glibc gives clone(2) for pthread_create.

#: Calls that get past Landlock or the limits, or act on other processes, or reach deep into the kernel.
NEVER = (
    *(
        "open_by_handle_at",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "userfaultfd",
        "ptrace",
        "process_vm_readv",
    ),
    *("process_vm_writev", "process_madvise", "pidfd_open", "pidfd_getfd", "pidfd_send_signal", "tkill", "bpf"),
    *("rt_sigqueueinfo", "rt_tgsigqueueinfo", "execve", "execveat", "fork", "vfork", "memfd_create", "memfd_secret", "shmget"),
    *("shmat", "shmctl", "msgget", "semget", "mq_open", "add_key", "request_key", "keyctl", "personality", "modify_ldt"),
    *("pkey_mprotect", "remap_file_pages", "unshare", "setns", "mount", "umount2", "chroot", "pivot_root", "open_tree"),
    *("move_mount", "fsopen", "setuid", "setresuid", "setgid", "setresgid", "setgroups", "setfsuid", "capset", "seccomp"),
    *(
        "landlock_restrict_self",
        "perf_event_open",
        "vmsplice",
        "splice",
        "tee",
        "chdir",
        "fchdir",
        "setsid",
        "setpgid",
        "swapon",
    ),
    *("init_module", "finit_module", "kexec_load", "reboot", "sethostname", "settimeofday", "clock_settime", "syslog", "acct"),
    *("quotactl", "fanotify_init", "inotify_init1", "name_to_handle_at", "ioperm", "iopl", "sched_setaffinity", "setpriority"),
    *("mlock", "mlockall", "move_pages", "migrate_pages", "wait4", "waitid", "sync", "syncfs", "timer_create", "signalfd4"),
)

#: A call, its arguments, what becomes of it without a scratch folder.
CASES: tuple[tuple[str, tuple[int, ...], Decision], ...] = (
    ("read", (0,), ALLOWED),
    ("write", (1,), ALLOWED),
    ("futex", (), ALLOWED),
    ("exit_group", (), ALLOWED),
    ("mmap", (0, 4096, READ_WRITE, PRIVATE), ALLOWED),
    ("mmap", (0, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, 3), ALLOWED),
    ("mmap", (0, 4096, mmap.PROT_READ, mmap.MAP_SHARED, 3), ALLOWED),
    ("mmap", (0, 4096, READ_WRITE | mmap.PROT_EXEC, PRIVATE), REFUSED),
    ("mmap", (0, 4096, mmap.PROT_EXEC, mmap.MAP_PRIVATE, 3), REFUSED),
    ("mmap", (0, 4096, READ_WRITE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS), REFUSED),
    ("mmap", (0, 4096, READ_WRITE, 3 | mmap.MAP_ANONYMOUS), REFUSED),  # MAP_SHARED_VALIDATE
    ("mmap", (0, 4096, READ_WRITE, PRIVATE | 0x100), REFUSED),  # MAP_GROWSDOWN
    ("mprotect", (4096, 4096, READ_WRITE), ALLOWED),
    ("mprotect", (4096, 4096, mmap.PROT_READ | mmap.PROT_EXEC), REFUSED),
    ("setitimer", (signal.ITIMER_PROF,), ALLOWED),
    ("setitimer", (signal.ITIMER_REAL,), REFUSED),
    ("clone", (A_THREAD,), ALLOWED),
    ("clone", (signal.SIGCHLD,), REFUSED),
    ("clone", (0x4100 | signal.SIGCHLD,), REFUSED),  # posix_spawn: CLONE_VM | CLONE_VFORK
    ("clone", (A_THREAD | 0x10000000,), REFUSED),  # CLONE_NEWUSER
    ("clone3", (), UNKNOWN),
    ("openat2", (), UNKNOWN),
    ("open", (0, os.O_RDONLY | os.O_CLOEXEC), ALLOWED),
    ("openat", (0, 0, os.O_RDONLY | os.O_CLOEXEC), ALLOWED),
    ("openat", (0, 0, os.O_WRONLY), READ_ONLY),
    ("openat", (0, 0, os.O_RDWR), READ_ONLY),
    ("openat", (0, 0, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), READ_ONLY),
    ("openat", (0, 0, os.O_RDONLY | os.O_CREAT), READ_ONLY),
    ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC), READ_ONLY),
    ("openat", (0, 0, os.O_RDWR | os.O_TMPFILE), READ_ONLY),
    ("mkdirat", (), READ_ONLY),
    ("unlinkat", (), READ_ONLY),
    ("renameat2", (), READ_ONLY),
    ("truncate", (), READ_ONLY),
    ("fchmodat", (), READ_ONLY),
    ("fchownat", (), READ_ONLY),
    ("utimensat", (), READ_ONLY),
    ("setxattr", (), READ_ONLY),
    ("linkat", (), READ_ONLY),
    ("symlinkat", (), READ_ONLY),
    ("mknodat", (), READ_ONLY),
    ("socket", (2, 1), NO_NETWORK),
    ("socketpair", (1, 1), NO_NETWORK),
    ("connect", (), NO_NETWORK),
    ("bind", (), NO_NETWORK),
    ("sendmsg", (), NO_NETWORK),
    ("recvmsg", (), NO_NETWORK),
    ("sendto", (3, 0, 5, 0, 0), ALLOWED),
    ("sendto", (3, 0, 5, 0, 4096), REFUSED),
    ("recvfrom", (3,), ALLOWED),
    ("prctl", (15,), ALLOWED),  # PR_SET_NAME
    ("prctl", (4, 1), REFUSED),  # PR_SET_DUMPABLE
    ("prctl", (8, 1), REFUSED),  # PR_SET_KEEPCAPS
    ("prctl", (0x5961_6D61,), REFUSED),  # PR_SET_PTRACER
    ("prlimit64", (0, 7), ALLOWED),
    ("prlimit64", (1, 7), REFUSED),
    ("ioctl", (1, 0x5401), ALLOWED),  # TCGETS
    ("ioctl", (1, 0x5412), REFUSED),  # TIOCSTI
    ("ioctl", (1, 0x1_0000_5401), REFUSED),
    ("fcntl", (1, fcntl.F_GETFL), ALLOWED),
    ("fcntl", (1, fcntl.F_SETFL, os.O_NONBLOCK), ALLOWED),
    ("fcntl", (1, fcntl.F_SETFL, os.O_ASYNC), REFUSED),
    ("fcntl", (1, fcntl.F_SETOWN, 1), REFUSED),
    ("fcntl", (1, 1031, 1 << 20), REFUSED),  # F_SETPIPE_SZ
)

#: The same with one, where it differs.
SCRATCH_CASES: tuple[tuple[str, tuple[int, ...], Decision], ...] = (
    ("openat", (0, 0, os.O_RDONLY), ALLOWED),
    ("openat", (0, 0, os.O_WRONLY), ALLOWED),
    ("openat", (0, 0, os.O_RDWR | os.O_CREAT | os.O_EXCL), ALLOWED),
    ("openat", (0, 0, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), ALLOWED),
    ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC), READ_ONLY),
    ("mkdirat", (), ALLOWED),
    ("unlinkat", (), ALLOWED),
    ("renameat2", (), ALLOWED),
    ("truncate", (), READ_ONLY),
    ("fchmodat", (), READ_ONLY),
    ("linkat", (), READ_ONLY),
    ("symlinkat", (), READ_ONLY),
)


def number_of(name: str, arch: int) -> int:
    number: int = pyseccomp.resolve_syscall(arch, name)
    if number < 0:
        pytest.skip(f"the architecture, or this libseccomp, has no {name}")
    return number


@pytest.fixture(scope="module", params=list(ARCHES))
def machine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def filters(machine: str) -> dict[bool, bytes]:
    """The filters by whether there is a scratch folder."""
    return {scratch: SyscallFilter(rules(scratch=scratch), ARCHES[machine]).code for scratch in (False, True)}


@pytest.mark.parametrize(("name", "arguments", "decision"), CASES)
def test_a_call_without_a_scratch_folder(
    machine: str, filters: dict[bool, bytes], name: str, arguments: tuple[int, ...], decision: Decision
) -> None:
    arch = ARCHES[machine]
    assert decide(filters[False], arch, number_of(name, arch), arguments) == decision


@pytest.mark.parametrize(("name", "arguments", "decision"), SCRATCH_CASES)
def test_a_call_with_a_scratch_folder(
    machine: str, filters: dict[bool, bytes], name: str, arguments: tuple[int, ...], decision: Decision
) -> None:
    arch = ARCHES[machine]
    assert decide(filters[True], arch, number_of(name, arch), arguments) == decision


@pytest.mark.parametrize("name", NEVER)
def test_a_dangerous_call_is_refused_in_either_case(machine: str, filters: dict[bool, bytes], name: str) -> None:
    arch = ARCHES[machine]
    number = number_of(name, arch)
    assert {decide(code, arch, number) for code in filters.values()} == {REFUSED}


def test_every_number_without_a_rule_is_refused(machine: str, filters: dict[bool, bytes]) -> None:
    named = {pyseccomp.resolve_syscall(ARCHES[machine], rule.syscall) for rule in rules(scratch=False)}

    for number in set(range(1024)) - named:
        assert decide(filters[False], ARCHES[machine], number) == REFUSED


def test_a_call_of_another_architecture_kills(machine: str, filters: dict[bool, bytes]) -> None:
    number = number_of("read", OTHER_ARCHES[machine])

    assert decide(filters[False], OTHER_ARCHES[machine], number) == KILLED


def test_a_call_of_the_x32_interface_kills() -> None:
    code = SyscallFilter(rules(scratch=False), ARCHES["x86-64"]).code

    assert decide(code, ARCHES["x86-64"], 0x40000000) == KILLED

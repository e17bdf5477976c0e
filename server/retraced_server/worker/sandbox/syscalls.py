"""Which system calls a locked-down worker may make: data, for `seccomp`. What is not named here is refused with EPERM.

Names are those of all architectures; one that an architecture lacks is skipped there. Refusals carry an errno that says what was refused:
EPERM, EROFS for changes of the file system, EACCES for the network, ENOSYS where the C library has another way.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Masked:
    """A condition on an argument of a system call: its bits of `mask` are `value`."""

    argument: int
    mask: int
    value: int


@dataclass(frozen=True)
class Rule:
    """What is done with a system call whose arguments meet every condition: allowed, or refused with an errno."""

    syscall: str
    conditions: tuple[Masked, ...] = ()
    error: int = 0


_ALLOWED = (
    # Files that are open, and those that Landlock lets it open.
    *("read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2", "lseek", "close"),
    *("close_range", "dup", "dup2", "dup3", "pipe", "pipe2", "eventfd2", "fsync", "fdatasync", "ftruncate", "fallocate"),
    *("fadvise64", "readahead", "sendfile", "copy_file_range", "getdents", "getdents64", "getcwd", "umask"),
    *("stat", "fstat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat"),
    *("poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait"),
    "epoll_pwait2",
    # The job's socket, which is open.
    *("recvfrom", "shutdown", "getsockopt", "getsockname", "getpeername"),
    # Memory; mmap and mprotect have conditions.
    *("munmap", "mremap", "madvise", "mincore", "msync", "brk", "membarrier"),
    # Threads, and what every process does.
    *("futex", "set_robust_list", "get_robust_list", "set_tid_address", "rseq", "gettid", "getpid", "getppid", "getpgrp"),
    *("getpgid", "getsid", "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "uname", "sysinfo"),
    *("sched_yield", "sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_get_priority_max", "getcpu"),
    *("sched_get_priority_min", "getpriority", "getrusage", "getrlimit", "times", "time", "gettimeofday", "clock_gettime"),
    *("clock_getres", "clock_nanosleep", "nanosleep", "getrandom", "restart_syscall", "exit", "exit_group"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigtimedwait", "rt_sigsuspend", "sigaltstack"),
)

_NETWORK = (
    *("socket", "socketpair", "bind", "connect", "listen", "accept", "accept4", "sendmsg", "sendmmsg", "recvmsg", "recvmmsg"),
    "setsockopt",
)

# Changes of files that Landlock does not bound, or not in every version, or that a scratch folder has no need of.
_CHANGES = (
    *("chmod", "fchmod", "fchmodat", "chown", "lchown", "fchown", "fchownat", "utime", "utimes", "futimesat", "utimensat"),
    *("setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr", "link", "linkat", "symlink"),
    *("symlinkat", "mknod", "mknodat", "truncate"),
)

# Changes that Landlock bounds to the scratch folder.
_SCRATCH_CHANGES = ("creat", "mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2")

# The C library falls back on calls whose arguments a filter can read.
_UNKNOWN = ("clone3", "openat2", "fchmodat2")

OWN_PROCESS_ONLY = ("kill", "tgkill")
"""Allowed if the first argument is the process itself, as of abort(): see `own_process_code`, since who it is is known only then."""

_PROT_EXEC = mmap.PROT_EXEC
_MAP_SHARED, _MAP_ANONYMOUS, _MAP_GROWSDOWN = mmap.MAP_SHARED, mmap.MAP_ANONYMOUS, 0x100
_MAP_KIND = _MAP_SHARED | _MAP_ANONYMOUS | _MAP_GROWSDOWN
# Not shared and anonymous, nor growing: the limit on memory counts neither.
_MAP_KINDS = (0, _MAP_SHARED, _MAP_ANONYMOUS)

_CLONE_THREAD = 0x10000
# Namespaces, VFORK, PTRACE, PARENT, PIDFD: nothing that a thread needs.
_CLONE_REFUSED = 0x7E000000 | 0x00020000 | 0x80 | 0x4000 | 0x2000 | 0x8000 | 0x1000

_PR_SET_NAME, _PR_GET_NAME = 15, 16
# Terminals are asked only whether they are one: TCGETS, TIOCGWINSZ; then FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_FCNTLS = (
    *(fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL),
    1032,  # F_GETPIPE_SZ
)
_WHOLE = (1 << 64) - 1
_INT = (1 << 32) - 1


def rules(*, scratch: bool) -> Iterator[Rule]:
    """Yield the rules of a worker.

    Args:
        scratch: It has a folder to write in. Without one it opens no file for writing at all.
    """
    yield from map(Rule, _ALLOWED)
    yield from _memory()
    yield from _threads()
    yield from _descriptors()
    yield from _opening(scratch=scratch)
    for name in _CHANGES:
        yield Rule(name, error=errno.EROFS)
    for name in _SCRATCH_CHANGES:
        yield Rule(name, error=0 if scratch else errno.EROFS)
    for name in _NETWORK:
        yield Rule(name, error=errno.EACCES)
    for name in _UNKNOWN:
        yield Rule(name, error=errno.ENOSYS)


def _memory() -> Iterator[Rule]:
    for kind in _MAP_KINDS:
        yield Rule("mmap", (Masked(2, _PROT_EXEC, 0), Masked(3, _MAP_KIND, kind)))
    yield Rule("mprotect", (Masked(2, _PROT_EXEC, 0),))


def _threads() -> Iterator[Rule]:
    for name in OWN_PROCESS_ONLY:
        yield Rule(name)
    yield Rule("clone", (Masked(0, _CLONE_THREAD | _CLONE_REFUSED, _CLONE_THREAD),))
    for option in (_PR_SET_NAME, _PR_GET_NAME):
        yield Rule("prctl", (Masked(0, _WHOLE, option),))
    # Of timers the one that ends it when it has read for too long.
    yield Rule("setitimer", (Masked(0, _INT, signal.ITIMER_PROF),))
    # Its own limits, which it can only lower.
    yield Rule("prlimit64", (Masked(0, _INT, 0),))


def _descriptors() -> Iterator[Rule]:
    for command in _IOCTLS:
        yield Rule("ioctl", (Masked(1, _WHOLE, command),))
    for command in _FCNTLS:
        yield Rule("fcntl", (Masked(1, _WHOLE, command),))
    # O_ASYNC has signals sent.
    yield Rule("fcntl", (Masked(1, _WHOLE, fcntl.F_SETFL), Masked(2, os.O_ASYNC, 0)))
    # To the peer of a connected socket, and to no address.
    yield Rule("sendto", (Masked(4, _WHOLE, 0),))


def _opening(*, scratch: bool) -> Iterator[Rule]:
    for name, flags in (("open", 1), ("openat", 2)):
        if scratch:
            # Not to truncate what is opened for reading: old versions of Landlock do not bound that.
            yield Rule(name, (Masked(flags, os.O_ACCMODE | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC),), errno.EROFS)
            yield Rule(name, (Masked(flags, os.O_TRUNC, 0),))
            for bit in (os.O_WRONLY, os.O_RDWR):
                yield Rule(name, (Masked(flags, bit, bit),))
        else:
            yield Rule(name, (Masked(flags, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0),))
            for bit in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC):
                yield Rule(name, (Masked(flags, bit, bit),), errno.EROFS)

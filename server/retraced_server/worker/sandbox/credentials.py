"""Who a locked-down worker is: a user of its own, without privileges, whom no other process may look into (credentials(7))."""

from __future__ import annotations

import ctypes
import os
import signal

from retraced_server.worker import _libc

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG = 1, 2
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38

# linux/capability.h. The two words of each set are bits 0 to 31 and 32 to 63.
_CAP_DAC_READ_SEARCH, _CAP_KILL, _CAP_SETGID, _CAP_SETUID, _CAP_SYS_ADMIN = 2, 5, 6, 7, 21
_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def become(uid: int) -> None:
    """Become the user and the group `uid`, with no other groups. For root only; there is no way back without privileges.

    Raises:
        OSError: The kernel refused: the process lacks CAP_SETUID or CAP_SETGID, or its user namespace does not know the user.
    """
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def keep_capabilities() -> None:
    """Let the capabilities outlive `become`; they are to be dropped after it."""
    _libc.prctl(_PR_SET_KEEPCAPS, 1)


def drop_capabilities(*, but_read_search: bool = False) -> None:
    """Drop every capability, but the one to read any file if so told.

    Raises:
        OSError: The kernel refused, as it does not for fewer capabilities.
    """
    kept = 1 << _CAP_DAC_READ_SEARCH if but_read_search else 0
    # Effective, permitted and inheritable, low words before high words.
    _libc.capset(_Header(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0))


def may_become_users() -> bool:
    """Whether this process has the capabilities that `become` needs, and the one to kill who has become another."""
    return all(map(_has, (_CAP_KILL, _CAP_SETGID, _CAP_SETUID)))


def may_make_namespaces() -> bool:
    """Whether this process has the capability to make namespaces."""
    return _has(_CAP_SYS_ADMIN)


def forgo_privileges() -> None:
    """Return up for good to gain privileges by running a program; seccomp and Landlock ask for it."""
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)


def hide() -> None:
    """Keep other processes of the same user from reading this one's memory and descriptors, and write no core."""
    _libc.prctl(_PR_SET_DUMPABLE, 0)


class DeathSignal:
    """What this process is sent when its parent dies, which the kernel forgets when the user changes."""

    def __init__(self) -> None:
        self._signal = _libc.prctl_int(_PR_GET_PDEATHSIG)
        self._parent = os.getppid()

    def renew(self) -> None:
        """Ask for it again, and end the process if the parent died meanwhile."""
        if not self._signal:
            return
        _libc.prctl(_PR_SET_PDEATHSIG, self._signal)
        if os.getppid() != self._parent:
            signal.raise_signal(signal.Signals(self._signal))


def _has(capability: int) -> bool:
    data = (ctypes.c_uint32 * 6)()
    _libc.capget(_Header(_CAPABILITY_VERSION_3, 0), data)
    # The low words, of which the first is of what is in effect.
    return bool(data[0] >> capability & 1)

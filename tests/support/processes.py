"""Asks the system about processes, for tests that nothing is left behind."""

from __future__ import annotations

import os

import psutil

from retraced_server.worker.process import AT_WORK

_ZYGOTE = "retraced_server.worker.zygote"


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def waits_for_a_job(process: psutil.Process) -> bool:
    """Whether a process is a worker without a job: a zygote's copy that has no other name yet."""
    try:
        parent = process.parent()
        return process.name() != AT_WORK and _ZYGOTE in process.cmdline() and parent is not None and _ZYGOTE in parent.cmdline()
    except psutil.NoSuchProcess:
        return False


def children_of(pid: int | None = None) -> set[int]:
    """The processes that descend from one, this one by default, but for workers that wait for a job."""
    children = psutil.Process(pid).children(recursive=True)
    return {child.pid for child in children if is_alive(child.pid) and not waits_for_a_job(child)}


def kernel() -> tuple[int, int]:
    """The version of Linux that this is, or claims to be."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor)


def open_fds() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))

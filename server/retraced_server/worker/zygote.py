"""The zygote: `python -m retraced_server.worker.zygote FD [--parent PID] [--import MODULE]...`, started by the engine.

It imports and warms torch once, and then forks a worker for each job. FD is its end of a socket pair: commands come in as frames, a
job's descriptors with them, and events go out. When the other end closes it kills its workers and ends. It never imports grpc, and has one
thread: a fork copies no other, and leaves locked what the others had locked.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import itertools
import os
import select
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retraced_server.errors import text_of
from retraced_server.worker.frames import FrameError, close_fds, encode_frame, receive_frame_with_fds, send_frame
from retraced_server.worker.messages import (
    KeepTemplates,
    KillJob,
    StartJob,
    WorkerEnded,
    WorkerStarted,
    ZygoteEvent,
    ZygoteFailed,
    decode_command,
    decode_templates,
    encode_event,
)
from retraced_server.worker.process import adopt_orphans, die_with_parent, dump_no_core, take_name
from retraced_server.worker.sandbox import SandboxConfig

if TYPE_CHECKING:
    from retraced_server.worker.prepared import Prepared


@dataclass(frozen=True)
class _Worker:
    """A worker that waits for its job: its process, and where it waits."""

    pid: int
    control: socket.socket


class Zygote:
    """Forks, kills and reaps workers as it is told.

    While fewer run than may, one more is there, locked down, and waits, so that a job does not.

    Args:
        control: Its end of the socket pair.
        prepared: What workers are given.
        workers: How many may run at a time.
    """

    def __init__(self, control: socket.socket, prepared: Prepared, workers: int) -> None:
        self._control = control
        self._prepared = prepared
        self._workers = workers
        self._pids: dict[int, int] = {}
        self._jobs: dict[int, int] = {}
        # The places of those that there are: each the lowest that was free, so that there are as many as workers at most.
        self._slots: dict[int, int] = {}
        self._spare: _Worker | None = None
        # One that ended by itself, or could not be forked, is not replaced before there is a job: the next would fare no better.
        self._spare_failed = False
        # A byte arrives here with each SIGCHLD.
        self._wake, self._wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        """Serve until the other end closes, and kill all workers then."""
        signal.set_wakeup_fd(self._wake_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._control, select.POLLIN)
        try:
            while True:
                ready = {fd for fd, _ in poll.poll(0 if self._lacks_spare() else None)}
                if not ready:
                    self._make_spare()
                if self._wake in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                    self._reap()
                if self._control.fileno() in ready and not self._receive():
                    return
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            for pid in self._slots:
                _kill_group(pid)

    def _lacks_spare(self) -> bool:
        return self._spare is None and not self._spare_failed and len(self._slots) < self._workers

    def _make_spare(self) -> None:
        try:
            self._spare = self._fork()
        except OSError:
            traceback.print_exc()
            self._spare_failed = True

    def _receive(self) -> bool:
        received = receive_frame_with_fds(self._control)
        if received is None:
            return False
        frame, fds = received
        match decode_command(frame):
            case StartJob() as start:
                self._start(start.job_id, frame, fds)
            case KillJob(job_id):
                if job_id in self._pids:
                    _kill_group(self._pids[job_id])
            case KeepTemplates():
                self._keep_templates(fds)
        return True

    def _keep_templates(self, fds: list[int]) -> None:
        # Imported with torch, as in `_fork`.
        from retraced_server.passes.decompose.shared_templates import SHARED

        try:
            with open(fds[0], "rb", closefd=False) as file:
                SHARED.replace(decode_templates(file.read()).items())
        finally:
            close_fds(fds)
        # The spare worker has those from before. Another takes its place.
        if self._spare is not None:
            self._spare.control.close()
            self._end(self._spare)
            self._spare = None

    def _start(self, job_id: int, command: bytes, fds: list[int]) -> None:
        try:
            worker = self._give(encode_frame(command), fds)
        except OSError:
            traceback.print_exc()
            self._send(WorkerEnded(job_id))
            return
        finally:
            close_fds(fds)
        self._pids[job_id], self._jobs[worker.pid] = worker.pid, job_id
        self._send(WorkerStarted(job_id, worker.pid))

    def _give(self, job: bytes, fds: list[int]) -> _Worker:
        """Return a job to the spare worker, or to a new one where there is none or it is gone."""
        spare, self._spare, self._spare_failed = self._spare, None, False
        if spare is not None:
            with spare.control, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(spare.control, [job], fds)
                return spare
            # It is gone, and was not reaped yet.
            self._end(spare)
        worker = self._fork()
        with worker.control:
            socket.send_fds(worker.control, [job], fds)
        return worker

    def _end(self, spare: _Worker) -> None:
        """End a worker that has no job, so that its place, and so its user, is free for another."""
        _kill_group(spare.pid)
        os.waitpid(spare.pid, 0)
        del self._slots[spare.pid]

    def _fork(self) -> _Worker:
        # Imported with torch, long before; named here so that this module can say that torch is missing.
        from retraced_server.worker.child import become_worker

        zygote, slot = os.getpid(), next(slot for slot in itertools.count() if slot not in self._slots.values())
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                become_worker(theirs, self._prepared, zygote, slot)
        # The child does the same; whoever comes first, from here on it can be killed as a group. One that has ended has none.
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        self._slots[pid] = slot
        return _Worker(pid, ours)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # Others are orphans that a worker left behind.
            if self._slots.pop(pid, None) is None:
                continue
            _kill_group(pid)
            job_id = self._jobs.pop(pid, None)
            if job_id is None:
                self._forget_spare(pid)
                continue
            del self._pids[job_id]
            if os.WIFSIGNALED(status):
                self._send(WorkerEnded(job_id, signal=os.WTERMSIG(status)))
            else:
                self._send(WorkerEnded(job_id, exit_status=os.WEXITSTATUS(status)))

    def _forget_spare(self, pid: int) -> None:
        if self._spare is not None and self._spare.pid == pid:
            self._spare.control.close()
            self._spare, self._spare_failed = None, True

    def _send(self, event: ZygoteEvent) -> None:
        send_frame(self._control, encode_event(event))


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m retraced_server.worker.zygote", description="Started by the engine.")
    parser.add_argument("fd", type=int)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--import", dest="imports", action="append", default=[])
    parser.add_argument("--allow-namespace", dest="allow_namespaces", action="append", default=[])
    parser.add_argument("--allow-operator", dest="allow_operators", action="append", default=[])
    parser.add_argument("--uid", type=int, default=SandboxConfig.uids.start)
    parser.add_argument("--uids", type=int, default=len(SandboxConfig.uids))
    parser.add_argument("--read-path", dest="read_paths", action="append", type=Path, default=[])
    parser.add_argument("--allow-missing-sandbox", action="store_true")
    parser.add_argument("--accept-newer-schema", action="store_true")
    options = parser.parse_args(arguments)
    control = socket.socket(fileno=options.fd)
    control.set_inheritable(False)
    die_with_parent()
    take_name("retraced-zygote")
    # One that was killed before that was asked for is not heard of any more.
    if options.parent not in (None, os.getppid()) or _closed(control):
        return 1
    # Its lines go to the server's log, and a worker may end without flushing.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    faulthandler.enable()
    dump_no_core()
    adopt_orphans()
    # The server's own interrupt from a terminal does not reach it: the engine gave it a session of its own.
    try:
        # Here, so that a torch that is missing or broken is an answer and not a traceback.
        from retraced_server.worker.prepare import prepare

        uids = range(options.uid, options.uid + options.uids)
        config = SandboxConfig(uids, tuple(options.read_paths), allow_missing=options.allow_missing_sandbox)
        prepared = prepare(
            options.imports,
            config,
            allow_namespaces=options.allow_namespaces,
            allow_operators=options.allow_operators,
            newer_schema=options.accept_newer_schema,
        )
    except (Exception, SystemExit) as error:  # noqa: BLE001 - an operator's module may raise anything
        text = "".join(traceback.format_exception(error.__cause__ or error))
        send_frame(control, encode_event(ZygoteFailed(text_of(error), text)))
        return 1
    send_frame(control, encode_event(prepared.facts))
    try:
        Zygote(control, prepared, options.uids).serve()
    except FrameError:
        traceback.print_exc()
        return 1
    return 0


def _closed(control: socket.socket) -> bool:
    try:
        return control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))

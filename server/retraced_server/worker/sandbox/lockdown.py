"""The sandbox of workers: prepared once in the process that they are forked from, put up in each before it sees a program.

Nothing here can be undone by the worker. What it can still do: compute, in bounded memory; read Python's packages; use the descriptors that
it is left; write in its scratch folder, if it has one; start threads.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from retraced_server.worker.sandbox import credentials, environment, landlock, limits, namespaces, self_check
from retraced_server.worker.sandbox.children import in_child
from retraced_server.worker.sandbox.layers import available_layers
from retraced_server.worker.sandbox.limits import ResourceLimits
from retraced_server.worker.sandbox.read_trees import read_trees
from retraced_server.worker.sandbox.report import Layer, SandboxError, SandboxReport, State
from retraced_server.worker.sandbox.seccomp import SyscallFilter, own_process_code
from retraced_server.worker.sandbox.syscalls import rules
from retraced_server.worker.sandbox.violations import Violation, violation_of

_NOBODY = 65534
_STANDARD_STREAMS = (0, 1, 2)


@dataclass(frozen=True)
class SandboxConfig:
    """How workers are locked down.

    Attributes:
        uids: Users that workers become where the server is root, the group of the same number with each. With as many as there are
            workers, each has its own, and the kernel keeps them apart in this way too.
        read_paths: Folders and files that workers may read, besides Python's packages.
        allow_missing: Go on without layers that the machine does not have.
    """

    uids: range = range(_NOBODY, _NOBODY + 1)
    read_paths: tuple[Path, ...] = ()
    allow_missing: bool = False


def prepare(config: SandboxConfig) -> Prepared:
    """Make this process ready to fork workers that lock themselves down, and try that once.

    To be called with one thread, when everything is imported: what may be read later is what is imported now. It empties the environment but
    for an allow-list, and leaves the network, where it has the privileges.

    Raises:
        SandboxError: A required layer is missing, and `config` does not allow that; or a layer does not hold.
    """
    if not config.uids or min(config.uids) <= 0:
        raise SandboxError(f"workers cannot become the users {config.uids}: name at least one, and not root")
    # Refused before this process is changed; what is found out by doing is refused after.
    _refuse_missing(available_layers(config.uids), config)
    environment.clean()
    paths = read_trees(config.read_paths)
    report, read_search = _settle(available_layers(config.uids), paths, config)
    _refuse_missing(report, config)
    prepared = Prepared(config, report, paths, read_search=read_search)
    prepared.check()
    return prepared


class Prepared:
    """What a worker needs to lock itself down. Made by `prepare`.

    Attributes:
        report: The layers in force.
    """

    def __init__(self, config: SandboxConfig, report: SandboxReport, paths: tuple[Path, ...], *, read_search: bool) -> None:
        self.report = report
        self._uids = config.uids
        self._own_user = report.layer("user").state is State.IN_FORCE
        self._read_search = read_search
        self._paths = paths
        self._trees = tuple(os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths)
        self._landlock_version = landlock.interface_version()
        self._scratch: Path | None = None
        filtered = report.layer("seccomp").state is State.IN_FORCE
        self._filters = {scratch: SyscallFilter(rules(scratch=scratch)) for scratch in (False, True)} if filtered else {}

    def lock_down(
        self,
        *,
        open_descriptors: Iterable[int] = (),
        scratch: Path | None = None,
        slot: int = 0,
        limits: ResourceLimits | None = None,
    ) -> None:
        """Lock this process down for good: `begin_lockdown` and `complete` in one. To be called in a forked process with one thread."""
        self.begin_lockdown(open_descriptors=open_descriptors, scratch=scratch, slot=slot).complete(limits or ResourceLimits())

    def begin_lockdown(
        self, *, open_descriptors: Iterable[int] = (), scratch: Path | None = None, slot: int = 0
    ) -> PartialLockdown:
        """Lock this process down as far as can be done before its job is known. To be called in a forked process with one thread.

        Args:
            open_descriptors: Descriptors that stay open, besides the three standard ones. Every other is closed.
            scratch: An empty folder that it may write in, and that becomes its user's. Its user must be able to pass through those above.
            slot: Which of the configured users it becomes; that of another worker only if there are fewer users than workers.

        Returns:
            What is left to do before it sees anything of a stranger's.

        Raises:
            SandboxError: The kernel refused a step. The process must not go on.
        """
        threads = len(os.listdir("/proc/self/task"))
        if threads != 1:
            # Landlock and seccomp bind the calling thread.
            raise SandboxError(f"a process of {threads} threads cannot be locked down")
        try:
            return self._begin(frozenset(open_descriptors), scratch, self._uids[slot % len(self._uids)])
        except OSError as error:
            raise _failed(error) from error

    def violation_of(self, error: BaseException) -> Violation | None:
        """Return what the sandbox refused this process, if that is what an error, or one that it came from, is."""
        return violation_of(error, self._scratch, self._paths)

    def check(self) -> None:
        """Lock a forked process down, and try there what it should not be able to do.

        Raises:
            SandboxError: It could.
        """

        def tried() -> str:
            self.lock_down()
            return "\n".join(self_check.failures(self.report, self._paths, self._uids))

        if failed := in_child(tried, name="the sandbox's check of itself"):
            raise SandboxError(f"the sandbox does not hold: {failed.replace(chr(10), '; ')}")

    def _begin(self, open_descriptors: frozenset[int], scratch: Path | None, uid: int) -> PartialLockdown:
        _close_others(open_descriptors.union(_STANDARD_STREAMS, self._trees))
        # Now, while it may open what `complete` asks for.
        statm = io.FileIO("/proc/self/statm")
        syscalls, own_process = self._filters.get(scratch is not None), own_process_code() if self._filters else b""
        death_signal = credentials.DeathSignal()
        allowed = [(fd, landlock.READ) for fd in self._trees]
        if scratch is not None:
            scratch = Path(os.path.realpath(scratch))
            allowed.append((os.open(scratch, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), landlock.READ_WRITE))
        self._move_in(scratch)
        if self._own_user:
            if scratch is not None:
                os.chown(scratch, uid, uid)
            self._become(uid)
        credentials.drop_capabilities(but_read_search=self._read_search)
        credentials.forgo_privileges()
        credentials.hide()
        death_signal.renew()
        if self._landlock_version:
            landlock.restrict(self._landlock_version, allowed)
        for fd, _ in allowed:
            os.close(fd)
        return PartialLockdown(statm, syscalls, own_process, own_user=self._own_user)

    def _become(self, uid: int) -> None:
        if self._read_search:
            credentials.keep_capabilities()
        credentials.become(uid)

    def _move_in(self, scratch: Path | None) -> None:
        self._scratch = scratch
        os.umask(0o077)
        os.chdir(scratch or "/")
        sys.dont_write_bytecode = True
        # Said, and not left to be found out: modules ask for its name when they are imported, which is to work without one too.
        tempfile.tempdir = str(scratch or "/")
        os.environ.pop("TMPDIR", None)


class PartialLockdown:
    """A process that is locked down but for what its job decides. Made by `Prepared.begin_lockdown`."""

    def __init__(self, statm: io.FileIO, syscalls: SyscallFilter | None, own_process: bytes, *, own_user: bool) -> None:
        self._statm = statm
        self._syscalls = syscalls
        self._own_process = own_process
        self._own_user = own_user

    def complete(self, bounds: ResourceLimits) -> None:
        """Lock this process down for good.

        Args:
            bounds: What it may use.

        Raises:
            SandboxError: The kernel refused a step. The process must not go on.
        """
        try:
            with self._statm:
                limits.apply(bounds, self._statm.read())
            if self._own_user:
                limits.bound_threads(bounds)
            if self._syscalls is not None:
                self._syscalls.load(self._own_process)
        except OSError as error:
            raise _failed(error) from error


def _failed(error: OSError) -> SandboxError:
    return SandboxError(f"the worker cannot be locked down: {error}")


def _refuse_missing(report: SandboxReport, config: SandboxConfig) -> None:
    if report.missing and not config.allow_missing:
        missing = "; ".join(f"{layer.name}: {layer.detail}" for layer in report.missing)
        raise SandboxError(
            f"layers of the sandbox are missing: {missing}; the server's option --allow-missing-sandbox goes on without them"
        )


def _settle(report: SandboxReport, paths: tuple[Path, ...], config: SandboxConfig) -> tuple[SandboxReport, bool]:
    """Find out by doing what of the layers is possible, and whether workers keep the capability to read any file."""
    layers = {layer.name: layer for layer in report.layers}
    if layers["namespaces"].state is State.IN_FORCE and not namespaces.leave():
        layers["namespaces"] = Layer("namespaces", State.MISSING, "the kernel refused to make them", required=False)
    read_search = False
    user = layers["user"]
    if user.state is State.IN_FORCE and (unreadable := _unreadable(paths, config.uids[0])):
        if layers["landlock"].state is State.IN_FORCE:
            read_search = True
            detail = f"{user.detail}, with the capability DAC_READ_SEARCH, bounded by Landlock, since {unreadable}"
            layers["user"] = replace(user, detail=detail)
        else:
            layers["user"] = replace(user, state=State.MISSING, detail=f"workers stay root, since {unreadable}")
    return SandboxReport(tuple(layers.values())), read_search


def _unreadable(paths: tuple[Path, ...], uid: int) -> str:
    def tried() -> str:
        credentials.become(uid)
        return "\n".join(str(path) for path in paths if not os.access(path, os.R_OK))

    unreadable = in_child(tried, name=f"becoming user {uid}").splitlines()
    return f"user {uid} cannot read {', '.join(unreadable)}" if unreadable else ""


def _close_others(kept: frozenset[int]) -> None:
    # The descriptor of this listing is among them, and closed by then.
    for fd in set(map(int, os.listdir("/proc/self/fd"))) - kept:
        try:
            os.close(fd)
        except OSError:
            continue

"""Passes that do what no pass should, for tests of what contains them. To be loaded into a server: `--import tests.support.fault_passes`."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Annotated

import torch
from torch.fx import GraphModule

from retraced_server.passes import Option, ProgramPass, ProgramPassResult, register_pass
from retraced_server.passes.decompose.shared_templates import SHARED
from retraced_server.retrace import PassResult, pass_context

# More than a worker has.
_DESCRIPTORS = 256
_ACCESS = {os.O_RDONLY: "read", os.O_WRONLY: "write", os.O_RDWR: "both"}


class _Fault:
    """Does its harm, and changes nothing."""

    def __call__(self, module: GraphModule) -> PassResult:
        self.harm()
        return PassResult(module, False)

    def harm(self) -> None:
        raise NotImplementedError


@register_pass("fault-hang")
class Hang(_Fault):
    """Never ends."""

    def harm(self) -> None:
        while True:
            time.sleep(60)


@register_pass("fault-sleep")
class Sleep(_Fault):
    """Takes its time."""

    def __init__(self, seconds: float = 0.2) -> None:
        self.seconds = seconds

    def harm(self) -> None:
        time.sleep(self.seconds)


@register_pass("fault-exit")
class Exit(_Fault):
    """Ends the process at once."""

    def __init__(self, status: int = 3) -> None:
        self.status = status

    def harm(self) -> None:
        os._exit(self.status)


@register_pass("fault-sys-exit")
class SysExit(_Fault):
    """Asks Python to exit."""

    def harm(self) -> None:
        sys.exit(7)


@register_pass("fault-signal")
class Signal(_Fault):
    """Sends a signal to its own process."""

    def __init__(self, number: int = 9) -> None:
        self.number = number

    def harm(self) -> None:
        os.kill(os.getpid(), self.number)


@register_pass("fault-no-streams")
class NoStreams(_Fault):
    """Takes the standard streams away."""

    def harm(self) -> None:
        sys.stdout.close()
        del sys.stdout, sys.stderr


@register_pass("fault-crash")
class Crash(_Fault):
    """Reads where there is no memory."""

    def harm(self) -> None:
        ctypes.string_at(0)


@register_pass("fault-abort")
class Abort(_Fault):
    """Aborts, as a failed check in a C++ operator does."""

    def harm(self) -> None:
        os.abort()


@register_pass("fault-allocate")
class Allocate(_Fault):
    """Allocates without end, in pieces, in Python or in torch."""

    def __init__(self, torch_tensors: bool = False, mebibytes: int = 64, total: int = 4096) -> None:
        self.torch_tensors = torch_tensors
        self.mebibytes = mebibytes
        self.total = total

    def harm(self) -> None:
        kept: list[object] = []
        # A bound of its own, so that a test without a limit does not take the machine down.
        for _ in range(self.total // self.mebibytes):
            size = self.mebibytes << 20
            kept.append(torch.ones(size, dtype=torch.uint8) if self.torch_tensors else b"1" * size)


@register_pass("fault-raise")
class Raise(_Fault):
    """Raises an error."""

    def harm(self) -> None:
        raise LookupError("the fault pass raised this")


@register_pass("fault-say")
class Say(_Fault):
    """Writes to its standard output and error."""

    def __init__(self, text: str = "said", times: int = 1) -> None:
        self.text = text
        self.times = times

    def harm(self) -> None:
        for _ in range(self.times):
            print(self.text)
        print(f"{self.text} again", file=sys.stderr)


@register_pass("fault-fork")
class Fork(_Fault):
    """Makes a copy of its process that would outlive it."""

    def harm(self) -> None:
        if os.fork() == 0:
            time.sleep(600)


@register_pass("fault-run")
class Run(_Fault):
    """Runs a program."""

    def harm(self) -> None:
        subprocess.run(["sleep", "600"], check=True)


@register_pass("fault-spin")
class Spin(_Fault):
    """Computes without end."""

    def harm(self) -> None:
        while True:
            pass


@register_pass("fault-socket")
class Socket(_Fault):
    """Opens a socket."""

    def harm(self) -> None:
        socket.create_connection(("127.0.0.1", 9))


@register_pass("fault-read")
class Read(_Fault):
    """Reads a file."""

    def __init__(self, path: str = "/etc/passwd") -> None:
        self.path = path

    def harm(self) -> None:
        with open(self.path) as file:
            file.read()


@register_pass("fault-write")
class Write(_Fault):
    """Makes a file."""

    def __init__(self, path: str = "/tmp/written-by-a-worker") -> None:
        self.path = path

    def harm(self) -> None:
        with open(self.path, "w") as file:
            file.write("written")


@register_pass("fault-threads")
class Threads(_Fault):
    """Starts threads without end."""

    def harm(self) -> None:
        for _ in range(1000):
            threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


@register_pass("fault-cpu-signal")
class CpuSignal(_Fault):
    """Ends as a process does that used its processor time."""

    def harm(self) -> None:
        signal.raise_signal(signal.SIGXCPU)


@register_pass("fault-garble")
class Garble(_Fault):
    """Writes what is no frame to every socket that it has."""

    def harm(self) -> None:
        for fd in range(_DESCRIPTORS):
            try:
                is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
            except OSError:
                continue
            if is_socket:
                os.write(fd, b"\xff" * 64)
        time.sleep(60)


@register_pass("fault-report")
class Report(_Fault):
    """Says in its remarks what its process is: modules, environment, users, descriptors, random numbers."""

    def harm(self) -> None:
        import random

        pass_context().remarks += [
            f"grpc={any(name.partition('.')[0] == 'grpc' for name in sys.modules)}",
            f"environment={','.join(sorted(os.environ))}",
            f"uid={os.getuid()}",
            f"descriptors={','.join(_descriptors())}",
            f"random={random.random()},{torch.rand(1).item()}",
        ]


def _descriptors() -> Iterator[str]:
    for fd in range(_DESCRIPTORS):
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            continue
        kind = "socket" if stat.S_ISSOCK(mode) else "file" if stat.S_ISREG(mode) else "other"
        yield f"{kind}:{_ACCESS[fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE]}"


@register_pass("fault-unwritable")
class Unwritable(ProgramPass):
    """Gives back a program that is valid but has no serialized form."""

    def run(self, program: torch.export.ExportedProgram) -> ProgramPassResult:
        changed = torch.export.ExportedProgram(
            program.graph_module,
            program.graph,
            program.graph_signature,
            program.state_dict,
            program.range_constraints,
            program.module_call_graph,
            # Sample inputs are pickled, and a lambda cannot be.
            ((lambda: None,), {}),
            program.constants,
            verifiers=program.verifiers,
        )
        names = [node.name for node in program.graph.nodes]
        return ProgramPassResult(changed, True, 1, origins={name: (name,) for name in names})


@register_pass("fault-unwritable-metadata")
class UnwritableMetadata:
    """Gives nodes metadata that has no serialized form."""

    def __call__(self, module: GraphModule) -> PassResult:
        for node in module.graph.nodes:
            node.meta["custom"] = {"why": object()}
        return PassResult(module, True)


@register_pass("fault-verbose")
class Verbose:
    """Says more than anybody reads, and something that is no text."""

    def __init__(self, fail: Annotated[bool, Option("Whether to fail, as wordily.")] = False) -> None:
        self._fail = fail

    def __call__(self, module: GraphModule) -> PassResult:
        pass_context().remarks += ["no text \ud800", "y" * (1 << 24), *["again"] * 100]
        if self._fail:
            raise ValueError("y" * (1 << 24))
        return PassResult(module, False)


@register_pass("tell-templates")
class TellTemplates(ProgramPass):
    """Remark what this process knows of other jobs' calls: keys and templates, as a worker that was taken over would read them."""

    def run(self, program: torch.export.ExportedProgram) -> ProgramPassResult:
        return ProgramPassResult(program, modified=False, remarks=(repr(vars(SHARED)),))

"""Passes that do what no pass should, for tests of what contains them. To be loaded into a server: `--import tests.support.fault_passes`."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import time

import torch
from torch.fx import GraphModule

from retraced_server.passes import ProgramPass, ProgramPassResult, register_pass
from retraced_server.retrace import PassResult


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

    def __init__(self, torch_tensors: bool = False, mebibytes: int = 64) -> None:
        self.torch_tensors = torch_tensors
        self.mebibytes = mebibytes

    def harm(self) -> None:
        kept: list[object] = []
        # A bound of its own, so that a test without a limit does not take the machine down.
        for _ in range(4096 // self.mebibytes):
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


@register_pass("fault-leave-child")
class LeaveChild(_Fault):
    """Starts a process that would outlive it, and says which in the program's remarks."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def harm(self) -> None:
        self.remarks = [str(subprocess.Popen(["sleep", "600"]).pid)]


@register_pass("fault-garble")
class Garble(_Fault):
    """Writes what is no frame to every socket that it has."""

    def harm(self) -> None:
        for name in os.listdir("/proc/self/fd"):
            fd = int(name)
            try:
                is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
            except OSError:
                continue
            if is_socket:
                os.write(fd, b"\xff" * 64)
        time.sleep(60)


@register_pass("fault-report")
class Report(_Fault):
    """Says in its remarks what its process is: modules, environment, threads, descriptors, random numbers."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def harm(self) -> None:
        import random

        self.remarks = [
            f"grpc={any(name.partition('.')[0] == 'grpc' for name in sys.modules)}",
            f"environment={','.join(sorted(os.environ))}",
            f"threads={len(os.listdir('/proc/self/task'))}",
            f"sockets={sum(stat.S_ISSOCK(os.stat(f'/proc/self/fd/{fd}').st_mode) for fd in _fds())}",
            f"random={random.random()},{torch.rand(1).item()}",
        ]


def _fds() -> list[str]:
    # The listing's own descriptor is among them, and gone.
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]


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

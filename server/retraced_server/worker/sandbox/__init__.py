"""The sandbox of workers, which needs no torch.

The process that forks them calls `prepare`, each worker `Prepared.begin_lockdown` and, once it has its job, `complete`.

`available_layers` says beforehand what a machine has of it. What each layer does is said in its module: `seccomp` and `syscalls`, `landlock`,
`credentials`, `limits`, `namespaces`, `environment`, `read_trees`.
"""

from retraced_server.worker.sandbox.layers import available_layers
from retraced_server.worker.sandbox.limits import ResourceLimits, use_reserve
from retraced_server.worker.sandbox.lockdown import Prepared, SandboxConfig, prepare
from retraced_server.worker.sandbox.report import Layer, SandboxError, SandboxReport, State
from retraced_server.worker.sandbox.violations import Violation, ViolationKind

__all__ = [
    "Layer",
    "Prepared",
    "ResourceLimits",
    "SandboxConfig",
    "SandboxError",
    "SandboxReport",
    "State",
    "Violation",
    "ViolationKind",
    "available_layers",
    "prepare",
    "use_reserve",
]

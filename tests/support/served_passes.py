"""What the tests' server loads, as an operator's module: passes, and a type of arguments."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Annotated, Any

import torch

from retraced_server.passes import Option, register_pass
from retraced_server.retrace import Argument, ExportPass, NodeMetadata, ProxyValue

aten = torch.ops.aten


@dataclass
class Pair:
    """What a program may take and give, since its module is loaded."""

    first: torch.Tensor
    second: torch.Tensor


torch.export.register_dataclass(Pair, serialized_type_name="tests.support.served_passes.Pair")


@register_pass("add-constant")
class AddConstant(ExportPass):
    """Add a tensor constant of zeros to the result of every relu, gelu and sigmoid."""

    def call_operator(
        self, op: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        result = super().call_operator(op, args, kwargs, meta)
        if op not in (aten.relu.default, aten.gelu.default, aten.sigmoid.default):
            return result
        zero = torch.tensor(0, dtype=result.to_tensor().dtype)
        return super().call_operator(aten.add.Tensor, (result, zero), {}, meta)


@register_pass("raise-at")
class RaiseAt(ExportPass):
    """Raise an error at the first node that calls an operator."""

    def __init__(self, message: Annotated[str, Option("What the error says.")] = "the pass gave up") -> None:
        super().__init__()
        self._message = message

    def call_operator(
        self, op: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        raise ValueError(self._message)


@register_pass("wait")
class Wait(ExportPass):
    """Wait before the program is visited, and change nothing."""

    def __init__(self, seconds: Annotated[float, Option("How long.")] = 1.0) -> None:
        super().__init__()
        self._seconds = seconds

    def requires(self, graph_module: torch.fx.GraphModule) -> None:
        time.sleep(self._seconds)


@register_pass("die")
class Die(ExportPass):
    """End the worker's process: by a signal, or by an exit."""

    def __init__(
        self,
        signal_number: Annotated[int, Option("The signal; 0 for an exit.")] = int(signal.SIGSEGV),
        status: Annotated[int, Option("The status of the exit.")] = 0,
    ) -> None:
        super().__init__()
        self._signal = signal_number
        self._status = status

    def requires(self, graph_module: torch.fx.GraphModule) -> None:
        if self._signal == 0:
            os._exit(self._status)
        if self._signal != signal.SIGKILL:
            signal.signal(self._signal, signal.SIG_DFL)
        os.kill(os.getpid(), self._signal)

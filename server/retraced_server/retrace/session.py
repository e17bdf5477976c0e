"""What all graphs of one call of a pass share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import fx

from retraced_server.retrace._torch import FakeTensor, FakeTensorMode, detect_fake_mode, enable_python_dispatcher
from retraced_server.retrace.compare import Remarks
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.shape_env import ShapeEnvTransaction, shape_env_of
from retraced_server.retrace.unbacked import UnbackedSymbols


class Session:
    """One call of a pass on one graph module.

    Attributes:
        fake_mode: The program's own fake mode, or a new one for a program that has none.
        transaction: What happens to the program's shape environment.
        unbacked: Its unbacked symbols.
        differences: What repeated execution gives otherwise than recorded, without being wrong.
        on_progress: Called with the number of nodes visited so far.
    """

    def __init__(self, module: fx.GraphModule, inputs: list[object], on_progress: Callable[[int], None] | None = None) -> None:
        self.fake_mode = _fake_mode(module, inputs)
        self.transaction = ShapeEnvTransaction(self.fake_mode.shape_env or shape_env_of(module))
        self.unbacked = UnbackedSymbols(self.transaction, self.fake_mode)
        self.differences = Remarks()
        self.on_progress = on_progress
        self._visited = 0

    def visited(self) -> None:
        """Counts a node."""
        self._visited += 1
        if self.on_progress is not None:
            self.on_progress(self._visited)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Enters the modes in which operators are executed. What they did to the shape environment is kept or, on an error, undone."""
        allowed = self.fake_mode.allow_non_fake_inputs
        self.fake_mode.allow_non_fake_inputs = True
        # Tensors must not remember symbols from a former run.
        self.fake_mode.epoch += 1
        try:
            with self.fake_mode, enable_python_dispatcher(), torch.no_grad():
                yield
        except BaseException:
            self.transaction.roll_back()
            raise
        finally:
            self.fake_mode.allow_non_fake_inputs = allowed
            self.fake_mode.epoch += 1


def _fake_mode(module: fx.GraphModule, inputs: list[object]) -> FakeTensorMode:
    modes = {id(value.fake_mode): value.fake_mode for value in inputs if isinstance(value, FakeTensor)}
    if len(modes) > 1:
        raise ExportPassError("Multiple fake tensor mode detected.")
    if modes:
        return next(iter(modes.values()))
    recorded = [value for node in module.graph.nodes if (value := node.meta.get("val")) is not None]
    found = detect_fake_mode(recorded)
    return found if found is not None else FakeTensorMode(shape_env=shape_env_of(module), allow_non_fake_inputs=True)

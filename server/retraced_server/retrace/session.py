"""What all graphs of one call of a pass share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import fx

from retraced_server.collector import collector_paused
from retraced_server.retrace.compare import Remarks
from retraced_server.retrace.deferred_asserts import DeferredAsserts
from retraced_server.retrace.descriptions import Descriptions
from retraced_server.retrace.edits import Edits
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.fake_result_cache import FakeResultCache
from retraced_server.retrace.given_graph import GivenGraph
from retraced_server.retrace.pass_context import RetraceMode
from retraced_server.retrace.unbacked import UnbackedSymbols
from retraced_server.torch_compat.fake_tensors import FakeTensor, FakeTensorMode, detect_fake_mode, enable_python_dispatcher
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction
from retraced_server.torch_compat.symbolic_shapes import shape_env_of


class Session:
    """One call of a pass on one graph module.

    Args:
        module: The graph module.
        inputs: Its inputs.
        mode: How nodes are treated that the pass leaves as they are.
        on_progress: Called with the number of nodes visited so far.
        edits: Tells what was edited by hand; None where nothing can have been.

    Attributes:
        mode: How nodes are treated that the pass leaves as they are.
        edits: Tells what was edited by hand; None where nothing can have been.
        fake_mode: The program's own fake mode, or a new one for a program that has none.
        transaction: What happens to the program's shape environment.
        unbacked: Its unbacked symbols.
        is_faking: Whether operators are executed on fake tensors. Where the graph module has none, nor a symbolic number, they are executed on
            what `inputs` gave, as torch's class does.
        descriptions: What its values say to operators.
        fake_result_cache: The results of operators by the descriptions of their arguments.
        asserts: The program's assertions about symbols that are still to be executed.
        differences: What repeated execution gives otherwise than recorded, without being wrong.
        on_progress: Called with the number of nodes visited so far.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        inputs: list[object],
        mode: RetraceMode,
        on_progress: Callable[[int], None] | None = None,
        edits: Edits | GivenGraph | None = None,
    ) -> None:
        self.mode = mode
        self.edits = edits
        known_mode = find_fake_mode(module, inputs)
        env = known_mode.shape_env if known_mode is not None else None
        env = env or shape_env_of(module)
        self.is_faking = known_mode is not None or env is not None
        self.fake_mode = known_mode or FakeTensorMode(shape_env=env, allow_non_fake_inputs=True)
        self.transaction = ShapeEnvTransaction(env)
        self.unbacked = UnbackedSymbols(self.transaction, self.fake_mode)
        self.descriptions = Descriptions()
        self.fake_result_cache = FakeResultCache(self.fake_mode, self.transaction, self.descriptions, bypassed=mode == "full")
        self.asserts = DeferredAsserts(self.transaction, self.fake_mode)
        self.differences = Remarks()
        self.on_progress = on_progress
        self._visited = 0

    def visited(self) -> None:
        """Count a node."""
        self._visited += 1
        if self.on_progress is not None:
            self.on_progress(self._visited)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Enter the modes in which operators are executed. What they did to the shape environment is kept or, on an error, undone."""
        allowed = self.fake_mode.allow_non_fake_inputs
        self.fake_mode.allow_non_fake_inputs = True
        try:
            with collector_paused(), ExitStack() as modes:
                if self.is_faking:
                    modes.enter_context(self.fake_mode)
                    modes.enter_context(enable_python_dispatcher())
                modes.enter_context(torch.no_grad())
                yield
        except BaseException:
            self.transaction.roll_back()
            raise
        finally:
            self.fake_mode.allow_non_fake_inputs = allowed
            self.asserts.end()


def find_fake_mode(module: fx.GraphModule, inputs: list[object]) -> FakeTensorMode | None:
    """Find the program's fake mode: that of its inputs, else of any recorded value; None if it has none.

    Raises:
        ExportPassError: The inputs are of more than one.
    """
    modes = {id(value.fake_mode): value.fake_mode for value in inputs if isinstance(value, FakeTensor)}
    if len(modes) > 1:
        raise ExportPassError("Multiple fake tensor mode detected.")
    if modes:
        return next(iter(modes.values()))
    recorded = [value for node in module.graph.nodes if (value := node.meta.get("val")) is not None]
    try:
        return detect_fake_mode(recorded)
    except AssertionError as error:
        raise ExportPassError("Multiple fake tensor mode detected.") from error

"""What a pass is told while it runs, and what it tells. It is asked for, and never set on the pass, whose attributes are its author's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Literal

from torch import fx

from retraced_server.retrace.errors import ExportPassError, place_of
from retraced_server.retrace.weights import WeightChanges, Weights

RetraceMode = Literal["incremental", "full"]
"""How nodes are treated that a pass leaves as they are: `incremental` reuses their recorded values, `full` executes them again to compare."""


@dataclass(eq=False)
class PassContext:
    """One run of a pass, of whatever class: hooks and functions get it by `pass_context()`.

    Enter one to run a pass by itself and read what it told: `with PassContext(mode="full") as context: MyPass()(graph_module)`. A pass that
    another one calls is part of that one's run.

    Attributes:
        mode: How an `ExportPass` treats the nodes that it leaves as they are.
        kept_names: Names of nodes of the root graph that something beside the graph refers to: they must stay, as values of their own.
        preserved_modules: Names of modules whose calls get values only by their signatures.
        on_progress: Called with the number of nodes that an `ExportPass` has visited so far.
        rewrites: How many rewrites were counted.
        remarks: What the pass has to say, one sentence each.
        new_guards: Guards on symbolic shapes that new nodes of an `ExportPass` added and that narrow what the program accepts: the expression,
            then the node at which it was added, with the line of its source.
        visited: The node that an `ExportPass` visits, to be read only; None where it visits none.
        graph_path: The path of the graph that is visited: empty for the root graph, `true_graph_0` for a subgraph.
        weights_of: Makes the accessor of the program's weights, at first use.
    """

    mode: RetraceMode = "incremental"
    kept_names: frozenset[str] = frozenset()
    preserved_modules: frozenset[str] = frozenset()
    on_progress: Callable[[int], None] | None = None
    rewrites: int = 0
    remarks: list[str] = field(default_factory=list)
    new_guards: list[str] = field(default_factory=list)
    visited: fx.Node | None = None
    graph_path: str = ""
    weights_of: Callable[[], Weights] | None = None
    _weights: Weights | None = field(default=None, init=False, repr=False)
    _lend: Callable[[], None] | None = field(default=None, init=False, repr=False)
    _tokens: list[Token[PassContext | None]] = field(default_factory=list, init=False, repr=False)

    @property
    def node(self) -> fx.Node | None:
        """The node that is visited. The containers in its metadata are copies, as are those of all nodes from when a hook first asks for it."""
        if self._lend is not None:
            self._lend()
        return self.visited

    @property
    def weights(self) -> Weights:
        """The weights of the program, to be read by name, added, replaced and removed.

        Raises:
            ExportPassError: The pass runs on a graph alone.
        """
        if self._weights is None:
            if self.weights_of is None:
                raise ExportPassError(
                    "a graph that is given alone has no weights: run the pass on a program, by `run_pipeline`"
                )
            self._weights = self.weights_of()
        return self._weights

    def weight_changes(self) -> WeightChanges | None:
        """Return what the pass has made of weights; None where it has not asked for them."""
        return None if self._weights is None else self._weights.changes()

    def count_rewrites(self, number: int = 1) -> None:
        """Count rewrites. A pass that counts none is reported with the number of nodes that it made."""
        self.rewrites += number

    def remark(self, text: str) -> None:
        """Tell the caller something: one sentence.

        Raises:
            TypeError: It is no text.
        """
        if not isinstance(text, str):
            raise TypeError(f"a remark is text, not {type(text).__name__}")
        self.remarks.append(text)

    def place(self) -> str:
        """Return where in the program the pass is, as errors and reports write it; nothing where it visits no node."""
        return "" if self.visited is None else place_of(self.visited, self.graph_path)

    @contextmanager
    def visiting(self, path: str) -> Iterator[None]:
        """Visit a graph; afterwards, the node and graph that were visited before are visited again."""
        outer = self.visited, self.graph_path
        self.visited, self.graph_path = None, path
        try:
            yield
        finally:
            self.visited, self.graph_path = outer

    @contextmanager
    def lending(self, lend: Callable[[], None] | None) -> Iterator[None]:
        """Have `lend` called, if anything, before a hook is given a node that it may write to."""
        outer, self._lend = self._lend, lend
        try:
            yield
        finally:
            self._lend = outer

    def __enter__(self) -> PassContext:
        self._tokens.append(_RUNNING.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _RUNNING.reset(self._tokens.pop())


_RUNNING: ContextVar[PassContext | None] = ContextVar("retraced_pass_context", default=None)


def pass_context() -> PassContext:
    """Return the context of the pass that runs; outside of a run a new one, which nobody reads."""
    return _RUNNING.get() or PassContext()

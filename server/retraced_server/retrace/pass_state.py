"""What the engine keeps of an `ExportPass` object: one attribute under a name of its own, since all others are the subclass's."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.given_graph import GivenGraph
from retraced_server.retrace.graph_retrace import GraphRetrace
from retraced_server.retrace.outcome import RetraceOutcome
from retraced_server.retrace.pass_context import PassContext
from retraced_server.retrace.regions import AutocastState
from retraced_server.retrace.session import Session
from retraced_server.retrace.subgraphs import VisitedSubgraphs

STATE_ATTRIBUTE = "_retraced_pass_state"


@dataclass(eq=False)
class PassRun:
    """One call of a pass.

    Attributes:
        session: What the graphs of the call share.
        context: What the pass was told, and tells.
        only: The operators and functions whose hooks are called; None for all.
        visited: The graphs that were visited.
        retraces: What became of them.
        visiting: The graphs that are visited, outermost first.
    """

    session: Session
    context: PassContext
    only: Collection[Any] | None
    visited: VisitedSubgraphs = field(default_factory=VisitedSubgraphs)
    retraces: list[GraphRetrace] = field(default_factory=list)
    visiting: list[GraphRetrace] = field(default_factory=list)

    @property
    def retrace(self) -> GraphRetrace | None:
        """The graph that is visited, innermost."""
        return self.visiting[-1] if self.visiting else None

    def lend(self) -> None:
        """Get ready for a hook that has come by a node of the given graph, and may edit it."""
        if isinstance(self.session.edits, GivenGraph):
            for retrace in self.visiting:
                retrace.materialize()
            self.session.edits.lend()


@dataclass(eq=False)
class PassState:
    """The state of one pass object.

    Attributes:
        initialised: Whether the constructor of `ExportPass` has run, without which no graph can be visited.
        run: The call that is under way, if any.
        outcome: What became of each node in the last call; None if it changed nothing, or the graph was changed beside the visit.
        node_text: The node that `node_debug_str` was assigned at, with what was assigned.
    """

    initialised: bool = False
    run: PassRun | None = None
    outcome: RetraceOutcome | None = None
    node_text: tuple[fx.Node | None, str | None] = (None, None)

    @property
    def running(self) -> PassRun:
        """The call that is under way.

        Raises:
            ExportPassError: The pass is not running.
        """
        if self.run is None:
            raise ExportPassError("hooks can only be called while the pass runs; call the pass with a graph module")
        return self.run

    @property
    def innermost(self) -> GraphRetrace | None:
        """The graph that is visited, if any."""
        return None if self.run is None else self.run.retrace

    @property
    def node(self) -> fx.Node | None:
        """The node that is visited."""
        return None if self.run is None else self.run.context.visited

    @property
    def retrace(self) -> GraphRetrace:
        """The graph that is visited.

        Raises:
            ExportPassError: None is.
        """
        if (retrace := self.innermost) is None:
            raise ExportPassError("hooks can only be called while the pass runs; call the pass with a graph module")
        return retrace

    @contextmanager
    def calling_under(self, autocast: AutocastState) -> Iterator[None]:
        """Have the subgraphs of the node that is visited run under an autocast besides its own. Outside of a run nothing executes them."""
        if (retrace := self.innermost) is None:
            yield
            return
        retrace.called_under = autocast
        try:
            yield
        finally:
            retrace.called_under = ()


def is_running(instance: object) -> bool:
    """Return whether a pass object is running."""
    return state_of(instance).run is not None


def state_of(instance: object) -> PassState:
    """Return the state of a pass object. Its class may have a constructor that does not call that of `ExportPass`."""
    # Not by setattr, which a subclass may define.
    state: PassState | None = vars(instance).get(STATE_ATTRIBUTE)
    if state is None:
        state = vars(instance)[STATE_ATTRIBUTE] = PassState()
    return state

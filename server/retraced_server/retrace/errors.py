"""What goes wrong in a retrace."""

from __future__ import annotations

from contextlib import suppress
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

from torch import fx

from retraced_pt2.stack_traces import innermost_source_line
from retraced_server.errors import text_of


class ExportPassError(RuntimeError):
    """A pass or a program asked for something that a retrace cannot do."""


ExportPassBaseError = ExportPassError
"""The name that it has in torch's and ExecuTorch's modules."""


class NodeError(ExportPassError):
    """Something is wrong with a node.

    Attributes:
        graph: The path of the graph, empty for the root graph.
        node: The name of the node, or None where no node was being visited.
        target: The node's target as text, or None.
        source: `FILE:LINE` of the innermost frame of the user's in the node's recorded stack trace: the model's source, not the pass's.
    """

    def __init__(self, message: str, *, graph: str, node: str | None, target: str | None, source: str | None) -> None:
        super().__init__(message)
        self.graph = graph
        self.node = node
        self.target = target
        self.source = source


class InvalidGraphError(NodeError):
    """A pass left a graph that no program has."""


class PassError(NodeError):
    """A pass failed at a node. The error that it raised is the `__cause__`, and can be caught by its own type too.

    Attributes:
        pass_name: The class of the pass.
    """

    def __init__(
        self,
        message: str,
        *,
        pass_name: str,
        graph: str = "",
        node: str | None = None,
        target: str | None = None,
        source: str | None = None,
    ) -> None:
        where = "" if node is None else f" {place(node, graph, target, source)}"
        super().__init__(f"{pass_name} failed{where}: {message}", graph=graph, node=node, target=target, source=source)
        self.pass_name = pass_name

    # The types that it is beside may write themselves otherwise.
    def __str__(self) -> str:
        return str(self.args[0])


def place(node: str, graph: str = "", target: str | None = None, source: str | None = None) -> str:
    """Return a place in a program as errors and reports write it: `at node 'relu' of graph 'true_graph_0' (OPERATOR), from FILE:LINE`."""
    where = f"at node '{node}'"
    if graph:
        where += f" of graph '{graph}'"
    if target is not None:
        where += f" ({target})"
    return where if source is None else f"{where}, from {source}"


def place_of(node: fx.Node, graph: str = "") -> str:
    """Return the place of a node in the graph of a path."""
    return place(node.name, graph, str(node.target), innermost_source_line(node.meta.get("stack_trace")))


def pass_error(error: Exception, pass_class: type, **place: Any) -> PassError:
    """Make the `PassError` that says where an error was raised, of a class that `except` takes for the error's own too.

    Args:
        error: The error.
        pass_class: The class of the pass.
        place: The fields of `PassError` that say at which node.
    """
    own = type(error)
    message = text_of(error)
    # What the engine says needs no type beside it.
    if message != own.__name__ and not isinstance(error, ExportPassError):
        message = f"{own.__name__}: {message}"
    fields = {"pass_name": pass_class.__name__, **place}
    return _of_both_types(error, message, fields) or PassError(message, **fields)


def _of_both_types(error: Exception, message: str, fields: dict[str, Any]) -> PassError | None:
    own = type(error)
    # Loops would take the latter for their end.
    if issubclass(PassError, own) or issubclass(own, (StopIteration, StopAsyncIteration)):
        return None
    try:
        both = type("PassError", (PassError, own), {"__module__": __name__, "__doc__": PassError.__doc__})
        made: PassError = both(message, **fields)
    except Exception:  # noqa: BLE001 - a class may refuse to be subclassed, or to be made of a message, in any way
        return None
    _copy_fields(error, made)
    return made


def _copy_fields(error: Exception, made: PassError) -> None:
    """Copy what handlers read of an error, such as `errno`."""
    vars(made).update({name: value for name, value in vars(error).items() if name not in vars(made)})
    for base in type(error).__mro__:
        for name, descriptor in vars(base).items():
            if isinstance(descriptor, (MemberDescriptorType, GetSetDescriptorType)) and base not in Exception.__mro__:
                # It may be unset, or read-only.
                with suppress(AttributeError, TypeError):
                    setattr(made, name, getattr(error, name))

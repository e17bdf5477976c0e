"""What a pass raised: the exception of its own, the line of its own that it came from, and what is said of both."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import torch

from retraced_server.errors import text_of
from retraced_server.retrace import ExportPassError, PassError
from retraced_server.retrace.errors import NodeError

_OURS = (f"{Path(__file__).parents[1]}/", f"{Path(torch.__file__).parent}/")


def own_error(error: BaseException) -> BaseException:
    """Return the exception that a pass raised, without the errors that say at which node."""
    while isinstance(error, PassError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def explained(instance: object, error: Exception) -> tuple[str, dict[str, str]]:
    """Return what an error of a pass says, and facts for a program to read: its type, its line, and at which node it was raised.

    Args:
        instance: The pass.
        error: What it raised, or what a check of what it gave back did.
    """
    own, line = own_error(error), _own_line(instance, error)
    text, raised, facts = text_of(error), [], {}
    if line is not None or not isinstance(own, ExportPassError):
        facts["error_type"] = type(own).__name__
        raised += [type(own).__name__] if type(own).__name__ not in text else []
    if line is not None:
        facts["error_line"] = line
        raised.append(f"at {line}")
    if isinstance(error, NodeError):
        place = {"node": error.node, "graph": error.graph or None, "target": error.target, "source": error.source}
        facts.update({key: value for key, value in place.items() if value is not None})
    return f"{text} ({' '.join(raised)})" if raised else text, facts


def _own_line(instance: object, error: BaseException) -> str | None:
    """Return `FILE:LINE` of the innermost frame in a pass's own module, or else in any that is neither torch's nor the server's.

    Callers see it: the file is without its folder.

    Args:
        instance: The pass.
        error: What it raised.

    Returns:
        None where it was raised outside of all of them, such as by a check of what the pass gave back.
    """
    frames = [frame for frame in traceback.extract_tb(own_error(error).__traceback__) if not frame.filename.startswith("<")]
    modules = {base.__module__ for base in type(instance).__mro__} | {str(getattr(instance, "__module__", ""))}
    files = {getattr(sys.modules.get(module), "__file__", None) for module in modules}
    others = [frame for frame in frames if not frame.filename.startswith(_OURS)]
    own = [frame for frame in others if frame.filename in files] or others
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else None

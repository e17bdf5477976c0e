"""Stack traces of nodes: where in the user's source a node comes from."""

from __future__ import annotations

import re
from typing import Final

_FRAME: Final = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)


def innermost_source_line(stack_trace: object) -> str | None:
    """Return `FILE:LINE` of the last frame of a recorded stack trace that is in the user's source, or None where there is none.

    Code that torch generated has no file, and torch's own modules are no place to look for a fault, unless there is no other.
    """
    if not isinstance(stack_trace, str):
        return None
    frames = [frame for frame in _FRAME.finditer(stack_trace) if not frame["file"].startswith("<")]
    own = [frame for frame in frames if "site-packages/torch/" not in frame["file"].replace("\\", "/")]
    frame = next(reversed(own or frames), None)
    return f"{frame['file']}:{frame['line']}" if frame is not None else None

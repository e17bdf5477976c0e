"""How a missing part of this package is had. Standard library only: the command says it where nothing else is installed."""

from __future__ import annotations


def install_advice(extra: str) -> str:
    """Return the command that installs an extra, as `docs/install.md` has it: no package index has this project.

    Args:
        extra: The extra's name, such as `server`; several with commas between them.
    """
    return f"pip install '.[{extra}]' in a checkout of retraced"

"""The pass `decompose`: call by call where that can be done, and as torch does where it cannot."""

from retraced_server.passes.decompose.decompose import Decompose

__all__ = ["Decompose"]

"""The pass that changes nothing."""

from __future__ import annotations

from retraced_server.passes.registry import register_pass
from retraced_server.retrace import ExportPass


@register_pass("retrace")
class Retrace(ExportPass):
    """Visit every node and change nothing: the program comes back as it was.

    In full mode it shows that the recorded metadata is what the operators compute: another dtype, shape or device is an error, and other
    strides or storage offsets are remarks.
    """

"""How much a server may answer: only what it was asked for, and no more than goes with what was sent."""

from __future__ import annotations

from typing import Final

from retraced._options import TransformOptions
from retraced.v1 import graph_transform_pb2 as pb

# For an output: passes may fold constants. Beside it: reports, metadata and progress, of which a large program has more than a small one.
_OUTPUT_BYTES: Final = 1 << 30
_OUTPUT_FACTOR: Final = 8
_TOLD_BYTES: Final = 64 << 20
_TOLD_FACTOR: Final = 16
# What a message, a node or an entry of a table costs here beyond its bytes on the wire, which may be none.
_OVERHEAD_BYTES: Final = 64


class Allowance:
    """What one answer may still have.

    Args:
        options: What was asked for.
        sent: Bytes of the caller's archive.
    """

    def __init__(self, options: TransformOptions, sent: int) -> None:
        self._options = options
        self._output = self._most_output = _OUTPUT_BYTES + _OUTPUT_FACTOR * sent
        self._told = self._most_told = _TOLD_BYTES + _TOLD_FACTOR * sent

    def fault(self, message: pb.TransformGraphResponse, size: int) -> str | None:
        """Take one message off, and return what is wrong with it, None if nothing is.

        Args:
            message: The message.
            size: Its bytes on the wire.
        """
        self._told -= _OVERHEAD_BYTES
        match message.WhichOneof("message"):
            case "output_chunk":
                if not self._options.wants_output:
                    return "an output that was not asked for"
                self._output -= size
            case "node_metadata":
                if self._options.node_metadata == "none":
                    return "node metadata that was not asked for"
                batch = message.node_metadata
                entries = sum(
                    map(
                        len,
                        (
                            *(batch.strings, batch.expressions, batch.tensors, batch.nodes),
                            *(batch.module_stacks, batch.source_fn_stacks),
                        ),
                    )
                )
                self._told -= size + _OVERHEAD_BYTES * entries
            case _:
                self._told -= size
        if self._output < 0:
            return f"an output of more than {self._most_output} bytes, which is too much for what was sent"
        if self._told < 0:
            return f"reports and metadata of more than {self._most_told} bytes, which is too much for what was sent"
        return None

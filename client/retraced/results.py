"""What a caller gets back from a transform."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property
from types import TracebackType
from typing import IO, TYPE_CHECKING

from retraced._output import Output, write_atomically
from retraced._source import Source
from retraced._text import ShortRepr
from retraced.errors import OutputMissing
from retraced.nodes import NodeMetadata, Nodes
from retraced.reports import PassReport, Summary

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_READ_BYTES = 1 << 20


class TransformResult(ShortRepr):
    """A transformed program, what each pass did, and its nodes.

    It may hold a temporary file, or the source open; `close` gives that up at once, and so does leaving it as a context
    manager. Without either it is given up with the object. Reports and nodes stay.

    When no pass modified the program and the source was a path, bytes or an ExportedProgram, the output was not sent: it is the
    source's own bytes, read again when they are wanted.

    Attributes:
        request_id: The request's id in the server's logs.
        summary: What came out, as a whole.
        passes: What each pass did, in the order of the pipeline.
        bytes_sent: Bytes of the messages sent, before gRPC's framing.
        bytes_received: Bytes of the messages received, before gRPC's framing.
    """

    def __init__(
        self,
        *,
        request_id: str,
        summary: Summary,
        passes: tuple[PassReport, ...],
        decode_nodes: Callable[[], tuple[NodeMetadata, ...]],
        output: Output | Source | None,
        bytes_sent: int,
        bytes_received: int,
    ) -> None:
        self.request_id = request_id
        self.summary = summary
        self.passes = passes
        self.bytes_sent = bytes_sent
        self.bytes_received = bytes_received
        self._decode_nodes = decode_nodes
        self._output = output

    @property
    def modified(self) -> bool:
        """Whether any pass modified the program. If not, the output is the input, byte for byte."""
        return self.summary.modified

    @cached_property
    def nodes(self) -> Nodes:
        """The nodes that were asked for with `node_metadata`, decoded when they are first read.

        Each graph's are in order, and a subgraph's come right after those of the graph that holds it. `nodes["mm"]` is one by its name.

        Raises:
            ResponseInvalid: The server's tables contradict themselves.
        """
        return Nodes(self._decode_nodes())

    def save(self, target: str | os.PathLike[str] | IO[bytes]) -> None:
        """Write the output archive, a `.pt2`.

        Args:
            target: A path, which holds all of it or what it held before, and nothing else is left; or a file object opened in binary
                mode, which need not be seekable.

        Raises:
            OutputNotWritable: The path cannot be written. What a file object raises is raised as it is.
            OutputMissing: There is no output.
            SourceNotReadable: The output is the source, which was changed since.
        """
        if isinstance(target, str | os.PathLike):
            write_atomically(target, self._chunks())
        else:
            target.writelines(self._chunks())

    def to_bytes(self) -> bytes:
        """Return the output archive, a `.pt2`.

        Raises:
            OutputMissing: There is no output.
            SourceNotReadable: The output is the source, which was changed since.
        """
        return b"".join(self._chunks())

    def exported_program(self) -> ExportedProgram:
        """Return the output as torch loads it. It was checked for what `torch.export.load` would run; see `retraced.checks`.

        Raises:
            TorchMissing: Torch is not installed.
            OutputMissing: There is no output.
            SourceNotReadable: The output is the source, which was changed since.
        """
        from retraced import _torch

        with tempfile.TemporaryFile() as file:
            file.writelines(self._chunks())
            file.seek(0)
            return _torch.load(file)

    def close(self) -> None:
        """Give the output up. May be called twice."""
        if self._output is not None:
            self._output.close()
            self._output = None

    def __enter__(self) -> TransformResult:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __str__(self) -> str:
        return f"{self.request_id}: {self.summary}"

    def _chunks(self) -> Iterator[bytes]:
        output = self._output
        if output is None:
            raise OutputMissing(
                "this result has no output: it was only validated, or no output was wanted, or it is closed",
                request_id=self.request_id,
            )
        if isinstance(output, Output):
            return output.chunks()
        return (output.read_at(offset, min(_READ_BYTES, output.size - offset)) for offset in range(0, output.size, _READ_BYTES))

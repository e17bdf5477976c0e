"""One transform without input or output: makes the requests, folds the responses. Both clients drive it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import grpc

from retraced import _convert, events
from retraced._allowance import Allowance
from retraced._convert_nodes import decode_nodes
from retraced._options import TransformOptions
from retraced._output import Output
from retraced._redaction import Redaction
from retraced._source import Source
from retraced._status import error_from_status
from retraced.checks import OutputCheck, same_bytes
from retraced.errors import ResponseInvalid, RetracedError
from retraced.nodes import NodeMetadata
from retraced.reports import PassReport, Summary
from retraced.results import TransformResult
from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1 import node_metadata_pb2
from retraced_pt2.files import chunks

CHUNK_BYTES = 1 << 20


class Transform:
    """The state of one call.

    `requests` and `receive` may run in different threads; each by itself runs in one.
    """

    def __init__(self, source: Source, pipeline: str, options: TransformOptions, request_id: str) -> None:
        self._source = source
        self._pipeline = pipeline
        self._options = options
        self.request_id = request_id
        self._redaction = Redaction(source, ())
        self._bytes_sent = 0
        self._bytes_received = 0
        self._passes: list[PassReport] = []
        self._batches: list[node_metadata_pb2.NodeMetadataBatch] = []
        self._node_count = 0
        self._output = Output()
        self._check = OutputCheck(source, options.namespaces)
        self._allowance = Allowance(options, source.size)
        self._summary: Summary | None = None

    def requests(self) -> Iterator[tuple[pb.TransformGraphRequest, events.Uploaded]]:
        """Yield the request stream, read from the source as it is wanted, and what is to be told once each message is sent.

        Raises:
            SourceNotReadable: The source cannot be read, or changed.
            RequestInvalid: What is to be kept at home cannot be taken out of it.
        """
        self._redaction = Redaction(self._source, self._options.keep_at_home)
        source = self._redaction.upload
        first = _convert.spec_request(self._pipeline, self._options, source.size, can_reread=self._source.can_reread)
        yield self._sent(first), events.Uploaded(0, source.size)
        for offset in range(0, source.size, CHUNK_BYTES):
            chunk = source.read_at(offset, min(CHUNK_BYTES, source.size - offset))
            yield self._sent(_convert.chunk_request(chunk)), events.Uploaded(offset + len(chunk), source.size)

    def receive(self, message: pb.TransformGraphResponse) -> events.Event | None:
        """Take one response, and return what is to be told of it.

        Raises:
            OutputNotWritable: There is no room for the output.
            ResponseInvalid: The response cannot come here, was not asked for, is too large, or holds a value that is none.
        """
        size = message.ByteSize()
        self._bytes_received += size
        if self._summary is not None:
            raise self._invalid("a message after the summary")
        if fault := self._allowance.fault(message, size):
            raise self._invalid(fault)
        try:
            return self._receive(message)
        except _convert.ValueInvalidError as error:
            raise self._invalid(str(error)) from None

    def _receive(self, message: pb.TransformGraphResponse) -> events.Event | None:
        match message.WhichOneof("message"):
            case "accepted":
                accepted = _convert.accepted(message.accepted)
                self.request_id = accepted.request_id or self.request_id
                return accepted
            case "progress":
                return _convert.progress(message.progress)
            case "pass_started":
                return _convert.pass_started(message.pass_started)
            case "pass_finished":
                finished = _convert.pass_finished(message.pass_finished)
                report = self._redaction.report(finished.report)
                self._passes.append(report)
                if report.modified and self._options.wants_output:
                    # The server still has the output to write, and may have passes to run.
                    self._check.prepare()
                return events.PassFinished(finished.index, report)
            case "node_metadata":
                self._batches.append(message.node_metadata)
                self._node_count += len(message.node_metadata.nodes)
                return events.NodesReceived(self._node_count)
            case "output_chunk":
                self._output.append(message.output_chunk)
                return events.Downloaded(self._output.size)
            case "summary":
                self._summary = self._redaction.summary(_convert.summary(message.summary))
                return None
            case None:
                # A later version may tell of more; what it adds may be ignored.
                return None

    @staticmethod
    def takes_long(message: pb.TransformGraphResponse) -> bool:
        """Whether `receive` may take long for this response: it hashes and may write to a disk, or reads the program sent."""
        return message.HasField("output_chunk") or message.HasField("pass_finished")

    def finish(self) -> TransformResult:
        """Return the result, once the stream has ended well. The result owns the source from here on. It may take long: it reads the output.

        Raises:
            ResponseInvalid: There was no summary, or the output is not what the summary says.
            OutputUnsafe: Torch could run code from the output.
        """
        summary = self._summary
        if summary is None:
            raise self._invalid("no summary")
        output: Output | Source | None = None
        if self._output.size or summary.output_sha256:
            if not self._options.wants_output:
                raise self._invalid("an output that was not asked for")
            self._output.check(summary.output_size, summary.output_sha256, self.request_id)
            output, summary = self._taken(summary)
        elif self._options.wants_output:
            if summary.modified or not self._source.can_reread:
                raise self._invalid("no output")
            output = self._source
            summary = replace(summary, output_size=self._source.size)
        if output is not self._source:
            self._source.close()
        if output is None or output is self._source:
            self._output.close()
        return TransformResult(
            request_id=self.request_id,
            summary=summary,
            passes=tuple(self._passes),
            decode_nodes=self._nodes,
            output=output,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
        )

    def failure(self, error: grpc.RpcError | grpc.aio.AioRpcError, address: str) -> RetracedError:
        """Return the error that a failed call stands for. The caller raises it from `error`."""
        return self._redaction.error(error_from_status(error, address=address, request_id=self.request_id))

    def close(self) -> None:
        """Return up what has come in, when there is to be no result. The source stays open: it may be sent again."""
        self._output.close()

    def _taken(self, summary: Summary) -> tuple[Output | Source, Summary]:
        """Return the output with what was kept at home, checked; and the summary of that."""
        if not self._options.keep_at_home:
            self._check.check(self._output, self.request_id)
            return self._output, summary
        output: Output | Source
        remarks: tuple[str, ...] = ()
        if same_bytes(self._output, self._redaction.upload):
            self._output.close()
            output = self._output = Output.of(self._source)
        else:
            output, remarks = self._redaction.restored(self._output, self.request_id)
            self._check.check(output, self.request_id)
        digest = hashlib.sha256()
        for chunk in chunks(output, 0, output.size):
            digest.update(chunk)
        remarks = (*summary.remarks, *remarks)
        return output, replace(summary, output_size=output.size, output_sha256=digest.digest(), remarks=remarks)

    def _nodes(self) -> tuple[NodeMetadata, ...]:
        return tuple(map(self._redaction.node, decode_nodes(self._batches, self.request_id)))

    def _sent(self, message: pb.TransformGraphRequest) -> pb.TransformGraphRequest:
        self._bytes_sent += message.ByteSize()
        return message

    def _invalid(self, what: str) -> ResponseInvalid:
        return ResponseInvalid(f"the server's answer cannot be used: {what}", request_id=self.request_id)

"""The output stream: what it sends is what was written."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from retraced_server.worker import output
from retraced_server.worker.output import CHUNK_BYTES, OutputStream

_SIZES = st.sampled_from([0, 1, 7, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])


@given(st.lists(_SIZES, max_size=6))
def test_chunks_are_full_but_the_last_and_hold_what_was_written(sizes: list[int]) -> None:
    chunks: list[bytes] = []
    stream = OutputStream(chunks.append)
    written = b""
    for index, size in enumerate(sizes):
        data = bytes([index]) * size
        assert stream.write(memoryview(data)) == size
        written += data
    stream.finish()
    assert b"".join(chunks) == written
    assert all(len(chunk) == output.CHUNK_BYTES for chunk in chunks[:-1])
    assert not chunks or 0 < len(chunks[-1]) <= output.CHUNK_BYTES
    assert stream.size == len(written)
    assert stream.sha256 == hashlib.sha256(written).digest()


def test_what_is_not_sent_is_measured() -> None:
    stream = OutputStream(None)
    stream.write(b"x" * (CHUNK_BYTES + 5))
    stream.finish()
    assert stream.size == CHUNK_BYTES + 5
    assert stream.sha256 == b""


def test_closing_sends_nothing() -> None:
    chunks: list[bytes] = []
    stream = OutputStream(chunks.append)
    stream.write(b"left")
    stream.close()
    assert chunks == []

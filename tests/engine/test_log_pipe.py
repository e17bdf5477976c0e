"""Lines of another process on their way to the log."""

from __future__ import annotations

import asyncio
import os

from retraced_server.engine.log_pipe import LogPipe
from tests.support.processes import open_fds


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0.001)


async def test_lines_are_logged_when_they_are_whole_and_the_rest_at_the_end() -> None:
    lines: list[str] = []
    pipe = LogPipe(lines.append)
    os.write(pipe.fileno(), b"one\ntw")
    await settle()
    assert lines == ["one"]
    os.write(pipe.fileno(), b"o\n\nthr\xffee")
    pipe.close()
    assert lines == ["one", "two", "thr\\xffee"]


async def test_writer_that_never_closes_does_not_hold_up_the_end() -> None:
    lines: list[str] = []
    pipe = LogPipe(lines.append)
    writer = os.dup(pipe.fileno())
    os.write(writer, b"last words")
    pipe.close()
    pipe.close()
    os.close(writer)
    assert lines == ["last words"]


async def test_flood_is_read_and_cut_short_with_a_word() -> None:
    lines: list[str] = []
    pipe = LogPipe(lines.append, max_bytes=100)
    for _ in range(50):
        os.write(pipe.fileno(), b"x" * 999 + b"\n")
        await settle()
    pipe.close()
    assert lines == ["x" * 100, "(it writes more than is logged)"]


async def test_short_lines_without_end_are_cut_short_too() -> None:
    lines: list[str] = []
    pipe = LogPipe(lines.append, max_bytes=1000, max_lines=3)
    for _ in range(5):
        os.write(pipe.fileno(), b"x\n" * 100)
        await settle()
    pipe.close()
    assert lines == ["x"] * 3 + ["(it writes more than is logged)"]


async def test_line_without_an_end_is_logged_in_pieces() -> None:
    lines: list[str] = []
    pipe = LogPipe(lines.append)
    os.write(pipe.fileno(), b"y" * 30000)
    await settle()
    pipe.close()
    assert lines
    assert max(map(len, lines)) <= 8192
    assert "".join(lines) == "y" * 30000


async def test_tail_is_what_came_last() -> None:
    pipe = LogPipe(lambda _: None)
    os.write(pipe.fileno(), b"".join(b"%d\n" % number for number in range(100)))
    pipe.close()
    assert list(pipe.tail)[-1] == "99"
    assert len(pipe.tail) < 100


async def test_nothing_stays_open() -> None:
    before = open_fds()
    pipe = LogPipe(lambda _: None)
    pipe.handed_over()
    await settle()
    pipe.close()
    assert open_fds() == before

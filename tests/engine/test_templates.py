"""Templates that jobs share: made apart from the jobs that missed them, kept for those that come, and nothing of a program in them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import tempfile
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.export import Dim

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.engine.local import LocalEngine
from retraced_server.engine.templates import TemplateKeeper
from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.passes.decompose.shared_templates import SHARED
from retraced_server.program import read_program
from retraced_server.worker.messages import decode_templates
from tests.program.archives import saved
from tests.support.waiting import until

from .calls import idle, remarks, running_engine, transform

pytestmark = pytest.mark.asyncio(loop_scope="session")
_SECRET = 0.123456789


class Network(nn.Module):
    """A network whose names, numbers and sizes at export are its own."""

    def __init__(self, name: str, factor: float) -> None:
        super().__init__()
        self.add_module(name, nn.Linear(16, 16))
        self.register_buffer(f"{name}_buffer", torch.full((16,), factor))
        self._name, self._factor = name, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.softmax(self.get_submodule(self._name)(x), -1) * self._factor
        threshold = nn.functional.hardtanh(hidden, -self._factor, self._factor)
        return nn.functional.layer_norm(threshold + self.get_buffer(f"{self._name}_buffer"), (16,))


def _archive(name: str, factor: float, rows: int = 5) -> bytes:
    program = torch.export.export(
        Network(name, factor).eval(), (torch.randn(rows, 16),), dynamic_shapes=({0: Dim("rows", max=64)},)
    )
    return saved(program)


async def _made(engine: LocalEngine) -> int:
    """Wait until the engine has made what jobs have missed, and return how many templates there are."""
    await idle(engine)
    return engine.counts.templates


def _output(answers: list[pb.TransformGraphResponse]) -> bytes:
    return b"".join(answer.output_chunk for answer in answers)


async def test_second_job_finds_the_templates_that_the_first_missed_and_answers_the_same() -> None:
    async with running_engine(workers=1) as engine, running_engine(workers=1, templates=0) as alone:
        first = _output(await transform(engine, _archive("first", 0.5), "decompose"))
        made = await _made(engine)
        assert made > 0
        other = _archive("other", 0.25, rows=7)
        second = _output(await transform(engine, other, "decompose"))
        # It has missed none but those that are never shared.
        assert await _made(engine) == made
        assert second == _output(await transform(alone, other, "decompose")) != first
        assert await _made(alone) == 0


async def test_no_job_is_shown_names_or_constants_or_sizes_of_another(engine: LocalEngine) -> None:
    await transform(engine, _archive("hush", _SECRET, rows=37), "decompose")
    await _made(engine)
    (told,) = await remarks(engine, _archive("other", 0.5), "tell-templates")
    # There are some, of the calls that hold nothing of a program: `layer_norm`, `linear`, `softmax`.
    assert "aten.layer_norm.default" in told
    assert "hush" not in told
    assert str(_SECRET)[:8] not in told
    assert "37" not in told
    assert "hardtanh" not in told


async def test_templates_outlive_the_zygote() -> None:
    async with running_engine(workers=1) as engine:
        await transform(engine, _archive("first", 0.5), "decompose")
        made = await _made(engine)
        os.kill((await engine.supervisor.zygote()).pid, signal.SIGKILL)
        await until(lambda: engine.supervisor.restarts == 1, "the zygote is replaced")
        (told,) = await remarks(engine, _archive("other", 0.5), "tell-templates")
        assert "aten.layer_norm.default" in told
        assert engine.counts.templates == made


async def test_drain_does_not_wait_for_templates() -> None:
    async with running_engine(workers=1) as engine:
        await transform(engine, _archive("first", 0.5), "decompose")
        engine.templates.want([b"{}", b"[]"])
        await engine.drain(0.0)
        assert engine.templates.is_idle


def _slow_keys(count: int) -> list[bytes]:
    """Return keys of calls that torch takes many seconds to trace: of an LSTM, each step apart."""
    program = torch.export.export(nn.LSTM(8, 8, batch_first=True).eval(), (torch.randn(1, 40, 8),))
    SHARED.collects = True
    try:
        with tempfile.TemporaryFile() as file:
            file.write(saved(program))
            file.seek(0)
            run_pipeline(read_program(file).program, "decompose")
        (key,) = [key for key in SHARED.take_missed() if b"aten.lstm" in key]
    finally:
        SHARED.collects = False
    longer = [key]
    for steps in range(20_000, 20_000 + count):
        rows, elements = (b'"as_int":%d}' % number for number in (steps, 8 * steps))
        longer.append(key.replace(b'"as_int":40}', rows).replace(b'"as_int":320}', elements))
    return longer[1:]


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # nn.LSTM while it is exported
async def test_request_takes_the_worker_from_a_template_and_is_not_refused_for_one() -> None:
    async with running_engine(workers=1, max_queued=0) as engine:
        slow = _slow_keys(3)
        assert len(set(slow)) == 3
        engine.templates.want(slow)
        for _ in range(2):
            # A template is being made by now.
            await asyncio.sleep(0.5)
            assert not engine.templates.is_idle
            assert (engine.load.running, engine.load.queued) == (0, 0)
            await transform(engine, _archive("other", 0.5), "dce")
        # The third is made, or the processor time of the third is at an end.
        assert await _made(engine) == 0
        assert engine.counts.kills == {}


# -- which are made --------------------------------------------------------------------------------------------------------------------


class _Makes:
    """Makes templates of keys, and notes which, and what it is given."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.given: list[dict[bytes, bytes]] = []

    async def make(self, key: bytes) -> bytes:
        await asyncio.sleep(0)
        self.keys.append(key)
        if key == b"fails":
            raise RetracedError(Reason.WORKER_CRASHED, "it crashed")
        if key == b"unlucky":
            raise RetracedError(Reason.WORKERS_UNAVAILABLE, "there is no worker")
        return b"" if key == b"unshared" else b"template of " + key

    def give(self, fd: int) -> None:
        self.given.append(decode_templates(os.pread(fd, 1 << 20, 0)))


def _keeper(most: int) -> tuple[TemplateKeeper, _Makes]:
    makes = _Makes()
    return TemplateKeeper(most, makes.make, makes.give), makes


def _is_idle(keeper: TemplateKeeper) -> Callable[[], bool]:
    return lambda: keeper.is_idle


async def test_key_is_tried_once_whatever_comes_of_it() -> None:
    keeper, makes = _keeper(8)
    for _ in range(2):
        keeper.want([b"a", b"fails", b"unshared", b"a"])
        await until(_is_idle(keeper), "all are made")
    assert makes.keys == [b"a", b"fails", b"unshared"]
    assert keeper.count == 1
    assert makes.given == [{b"a": b"template of a"}]


async def test_key_is_tried_again_after_a_failure_that_was_not_its_own() -> None:
    keeper, makes = _keeper(8)
    for _ in range(2):
        keeper.want([b"unlucky", b"a"])
        await until(_is_idle(keeper), "all are made")
    assert makes.keys == [b"unlucky", b"a", b"unlucky"]


async def test_oldest_make_room_for_the_newest() -> None:
    keeper, makes = _keeper(2)
    keeper.want([b"a", b"b", b"c"])
    await until(_is_idle(keeper), "all are made")
    assert makes.given[-1].keys() == {b"b", b"c"}
    assert keeper.count == 2


async def test_nothing_is_made_where_nothing_is_shared_nor_after_the_end() -> None:
    nothing, makes = _keeper(0)
    nothing.want([b"a"])
    closed, others = _keeper(2)
    await closed.close()
    closed.want([b"a"])
    await asyncio.sleep(0.01)
    assert makes.keys == others.keys == []


async def test_templates_that_cannot_be_given_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, makes = _keeper(8)

    def no_descriptors(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", no_descriptors)
        keeper.want([b"a"])
        await until(_is_idle(keeper), "all are made")
        # As the supervisor does, which would end.
        keeper.give()
    assert makes.given == []
    keeper.give()
    assert makes.given == [{b"a": b"template of a"}]

"""How often a job tells how far it is."""

from __future__ import annotations

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.worker.progress import INTERVAL, JobProgress
from retraced_server.worker.responses import Stage


class _Told:
    def __init__(self) -> None:
        self.now = 100.0
        self.messages: list[tuple[int, int, int]] = []
        self.progress = JobProgress(self._take, lambda: self.now)

    def _take(self, response: bytes) -> None:
        told = pb.TransformGraphResponse.FromString(response).progress
        self.messages.append((told.stage, told.done, told.total))


def test_a_stage_that_begins_is_always_told() -> None:
    told = _Told()
    told.progress.begin(Stage.READING, 10)
    told.progress.begin(Stage.WRITING, 20)
    assert told.messages == [(pb.STAGE_READING, 0, 10), (pb.STAGE_WRITING, 0, 20)]


def test_what_is_done_is_told_once_in_an_interval() -> None:
    told = _Told()
    told.progress.begin(Stage.RUNNING, 1000)
    for done in range(1, 1001):
        told.now += INTERVAL / 100
        told.progress.reach(Stage.RUNNING, done, 1000)
    assert 9 <= len(told.messages) - 1 <= 10


def test_a_pass_that_begins_starts_the_interval_anew() -> None:
    told = _Told()
    told.now += INTERVAL
    told.progress.restart()
    told.now += INTERVAL / 2
    told.progress.reach(Stage.RUNNING, 1, 2)
    assert told.messages == []
    told.now += INTERVAL
    told.progress.reach(Stage.RUNNING, 2, 2)
    assert told.messages == [(pb.STAGE_RUNNING, 2, 2)]

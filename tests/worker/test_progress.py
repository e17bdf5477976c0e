"""How often a job tells how far it is."""

from __future__ import annotations

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.worker.progress import INTERVAL, JobProgress
from retraced_server.worker.responses import Stage


def _told(emitted: list[bytes]) -> list[tuple[int, int]]:
    messages = [pb.TransformGraphResponse.FromString(message).progress for message in emitted]
    return [(message.done, message.total) for message in messages]


def test_a_stage_is_told_when_it_begins_and_ends_and_once_an_interval_between() -> None:
    emitted: list[bytes] = []
    now = 0.0
    progress = JobProgress(emitted.append, lambda: now)
    progress.begin(Stage.READING, 8)
    for done in range(1, 8):
        now += INTERVAL * 0.4
        progress.reach(Stage.READING, done, 8)
    progress.end(Stage.READING, 8)
    assert _told(emitted) == [(0, 8), (3, 8), (6, 8), (8, 8)]


def test_what_has_begun_by_other_words_is_told_after_an_interval() -> None:
    emitted: list[bytes] = []
    now = 0.0
    progress = JobProgress(emitted.append, lambda: now)
    now = INTERVAL
    progress.began()
    progress.reach(Stage.RUNNING, 1, 2)
    assert not emitted
    now += INTERVAL
    progress.reach(Stage.RUNNING, 2, 2)
    assert _told(emitted) == [(2, 2)]

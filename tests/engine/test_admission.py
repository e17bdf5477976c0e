"""The queue: who comes in, who is next, who is told what. No processes."""

from __future__ import annotations

import asyncio

import pytest

from retraced_server.engine.admission import Admission, Place
from retraced_server.errors import Failure, Reason, RetracedError


class Waiter:
    """A place that waits for its slot in a task of its own."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.positions: list[int] = []
        self.task = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        async for position in self.place.slot():
            self.positions.append(position)

    @property
    def has_slot(self) -> bool:
        return self.task.done() and self.task.exception() is None


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_are_given_in_the_order_of_asking() -> None:
    admission = Admission(1, 10)
    first, second, third = (admission.enter() for _ in range(3))
    waiters = [Waiter(place) for place in (second, first, third)]
    await settle()
    assert [waiter.has_slot for waiter in waiters] == [True, False, False]
    second.leave()
    await settle()
    assert [waiter.has_slot for waiter in waiters] == [True, True, False]
    first.leave()
    await settle()
    assert waiters[2].has_slot


async def test_upload_that_takes_long_holds_up_nobody() -> None:
    admission = Admission(1, 10)
    admission.enter()
    quick = Waiter(admission.enter())
    await settle()
    assert quick.has_slot


async def test_positions_count_down_and_are_told_once_each() -> None:
    admission = Admission(1, 10)
    running = admission.enter()
    waiters = [Waiter(place) for place in (running, admission.enter(), admission.enter())]
    await settle()
    running.leave()
    await settle()
    waiters[1].place.leave()
    await settle()
    assert [waiter.positions for waiter in waiters] == [[], [1], [2, 1]]


async def test_first_position_is_how_many_must_end_before() -> None:
    admission = Admission(2, 10)
    assert [admission.enter().first_position for _ in range(5)] == [0, 0, 1, 2, 3]


async def test_places_count_from_when_they_are_handed_out() -> None:
    admission = Admission(1, 2)
    places = [admission.enter() for _ in range(3)]
    with pytest.raises(RetracedError) as caught:
        admission.enter()
    assert caught.value.reason is Reason.QUEUE_FULL
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 0
    places[1].leave()
    admission.enter()


async def test_waiting_place_that_leaves_is_passed_over() -> None:
    admission = Admission(1, 10)
    running, leaving, staying = (admission.enter() for _ in range(3))
    waiters = [Waiter(place) for place in (running, leaving, staying)]
    await settle()
    waiters[1].task.cancel()
    leaving.leave()
    running.leave()
    await settle()
    assert waiters[2].has_slot
    assert (admission.running, admission.waiting) == (1, 0)


async def test_leaving_twice_is_leaving_once() -> None:
    admission = Admission(1, 10)
    place = admission.enter()
    await Waiter(place).task
    place.leave()
    place.leave()
    assert (admission.running, admission.waiting) == (0, 0)
    await admission.emptied()


async def test_retry_is_later_when_jobs_take_longer() -> None:
    def retry_after(seconds: float) -> float:
        admission = Admission(1, 0)
        admission.leave(admission.enter(), seconds)
        admission.enter()
        with pytest.raises(RetracedError) as caught:
            admission.enter()
        assert caught.value.retry_after is not None
        return caught.value.retry_after

    assert retry_after(0.1) < retry_after(20) < retry_after(1e9) <= 30


async def test_turned_away_places_hear_why_whether_they_wait_or_will() -> None:
    admission = Admission(1, 10)
    running, waiting, uploading = (admission.enter() for _ in range(3))
    await Waiter(running).task
    waiter = Waiter(waiting)
    await settle()
    admission.turn_away(Failure(Reason.SERVER_DRAINING, "closing"))
    for late in (waiter, Waiter(uploading)):
        with pytest.raises(RetracedError, match="closing"):
            await late.task
    with pytest.raises(RetracedError, match="closing"):
        admission.enter()
    assert admission.running == 1


async def test_refusals_share_no_exception_whose_traceback_would_keep_their_calls() -> None:
    admission = Admission(1, 10)
    place = admission.enter()
    admission.turn_away(Failure(Reason.SERVER_DRAINING, "closing"))
    refused: list[RetracedError] = []
    for _ in range(2):
        with pytest.raises(RetracedError) as caught:
            admission.enter()
        refused.append(caught.value)
        with pytest.raises(RetracedError) as caught:
            await anext(place.slot())
        refused.append(caught.value)
    assert len({id(error) for error in refused}) == len(refused)


async def test_slot_that_is_borrowed_is_reclaimed_for_a_place_and_counts_as_none() -> None:
    admission = Admission(1, 0)
    reclaimed: list[bool] = []
    await admission.borrow(lambda: reclaimed.append(True))
    assert (admission.running, admission.waiting) == (0, 0)
    # It is no place: the queue is as long as before.
    waiter = Waiter(admission.enter())
    await settle()
    assert reclaimed == [True]
    assert not waiter.has_slot
    admission.give_back()
    await settle()
    assert waiter.has_slot
    # Another waits until no place is left.
    borrowing = asyncio.create_task(admission.borrow(lambda: None))
    await settle()
    assert not borrowing.done()
    waiter.place.leave()
    await settle()
    assert borrowing.done()


async def test_slot_that_is_borrowed_is_not_reclaimed_while_there_is_another() -> None:
    admission = Admission(2, 0)
    reclaimed: list[bool] = []
    await admission.borrow(lambda: reclaimed.append(True))
    first = Waiter(admission.enter())
    await settle()
    assert first.has_slot
    assert reclaimed == []
    second = Waiter(admission.enter())
    await settle()
    assert reclaimed == [True]
    assert not second.has_slot
    admission.give_back()
    await settle()
    assert second.has_slot

"""Who may come in, and who is next: a bounded queue before a number of slots. Knows nothing of processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from retraced_server.errors import Failure, Reason, RetracedError

_SHORTEST_RETRY, _LONGEST_RETRY = 0.5, 30.0
# What a job's time counts for in the running mean.
_WEIGHT = 0.2


class Admission:
    """Hands out places.

    Args:
        slots: Places that may run at a time.
        max_waiting: Places that may wait besides.
    """

    def __init__(self, slots: int, max_waiting: int) -> None:
        self._slots = slots
        self._max_waiting = max_waiting
        # All that were handed out and not given back, in order; and those of them that have a slot, or want one.
        self._places: dict[Place, None] = {}
        self._running: set[Place] = set()
        self._ready: dict[Place, None] = {}
        self._mean_seconds = 1.0
        self._closed: Failure | None = None
        self._empty, self._free = asyncio.Event(), asyncio.Event()
        self._empty.set()
        self._free.set()
        # What to do when the slot that was lent is wanted.
        self._reclaim: Callable[[], None] | None = None

    @property
    def slots(self) -> int:
        """Places that may run at a time."""
        return self._slots

    @property
    def running(self) -> int:
        """Places that have a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Places that have none yet."""
        return len(self._places) - len(self._running)

    def enter(self) -> Place:
        """Hand out a place.

        Raises:
            RetracedError: QUEUE_FULL, or what `close` was given.
        """
        if self._closed is not None:
            raise self._closed.error()
        if len(self._places) >= self._slots + self._max_waiting:
            retry = self._mean_seconds * (self.waiting + 1) / self._slots
            raise RetracedError(
                Reason.QUEUE_FULL,
                f"{self.running} requests run and {self.waiting} wait, which is all that this server takes; try again later",
                metadata={"running": str(self.running), "queued": str(self.waiting)},
                retry_after=min(max(retry, _SHORTEST_RETRY), _LONGEST_RETRY),
            )
        place = Place(self, max(0, len(self._places) - self._slots + 1))
        self._places[place] = None
        self._empty.clear()
        self._note_free()
        return place

    def close(self, failure: Failure) -> None:
        """Hand out no more."""
        self._closed = failure

    def turn_away(self, failure: Failure) -> None:
        """Fail the places that have no slot yet, now or when they ask for one."""
        self.close(failure)
        for place in list(self._places):
            if place not in self._running:
                place.fail(failure)

    async def emptied(self) -> None:
        """Wait until every place is given back."""
        await self._empty.wait()

    async def borrow(self, reclaim: Callable[[], None]) -> None:
        """Wait until there are fewer places than slots, and borrow a slot, which counts as no place.

        Args:
            reclaim: Called once a place wants the slot, which is then to be given back before long.
        """
        while not self._free.is_set():
            await self._free.wait()
        self._reclaim = reclaim
        self._note_free()

    def give_back(self) -> None:
        """Return the slot that was borrowed. Twice is once."""
        self._reclaim = None
        self._note_free()
        self._grant()

    def _note_free(self) -> None:
        if self._reclaim is None and len(self._places) < self._slots:
            self._free.set()
        else:
            self._free.clear()

    def request(self, place: Place) -> None:
        """Put a place in line for a slot."""
        self._ready[place] = None
        self._grant()

    def position(self, place: Place) -> int:
        """How many must end before a place that is in line has its slot."""
        return list(self._ready).index(place) + 1

    def has_slot(self, place: Place) -> bool:
        """Whether a place has its slot."""
        return place in self._running

    def leave(self, place: Place, seconds: float | None) -> None:
        """Take a place back; `seconds` is how long it ran, None where it did not. Twice is once."""
        if place not in self._places:
            return
        del self._places[place]
        self._ready.pop(place, None)
        self._running.discard(place)
        if seconds is not None:
            self._mean_seconds += _WEIGHT * (seconds - self._mean_seconds)
        if not self._places:
            self._empty.set()
        self._note_free()
        self._grant()

    def _grant(self) -> None:
        lent = self._reclaim is not None
        if self._reclaim is not None and self._ready and len(self._running) + len(self._ready) >= self._slots:
            self._reclaim()
        while self._ready and len(self._running) + lent < self._slots:
            place = next(iter(self._ready))
            del self._ready[place]
            self._running.add(place)
            place.wake()
        for place in self._ready:
            place.wake()


class Place:
    """A place in the queue, and later a slot.

    Args:
        admission: Who handed it out.
        position: How many had to end before it could run, when it was handed out.
    """

    def __init__(self, admission: Admission, position: int) -> None:
        self._admission = admission
        self._changed = asyncio.Event()
        self._failure: Failure | None = None
        self._granted_at: float | None = None
        self.first_position = position

    async def slot(self) -> AsyncIterator[int]:
        """Wait for a slot, and yields how many must end before whenever that changes; not at all if there is one.

        Raises:
            RetracedError: It was turned away.
        """
        if self._failure is None:
            self._admission.request(self)
        told = None
        while True:
            if self._failure is not None:
                raise self._failure.error()
            if self._admission.has_slot(self):
                self._granted_at = asyncio.get_running_loop().time()
                return
            position = self._admission.position(self)
            if position != told:
                told = position
                yield position
                continue
            self._changed.clear()
            await self._changed.wait()

    def leave(self) -> None:
        """Return it back. Twice is once."""
        now = asyncio.get_running_loop().time()
        self._admission.leave(self, None if self._granted_at is None else now - self._granted_at)

    def fail(self, failure: Failure) -> None:
        """Have `slot` raise."""
        self._failure = failure
        self.wake()

    def wake(self) -> None:
        """Have `slot` look again."""
        self._changed.set()

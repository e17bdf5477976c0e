"""Templates of decompositions that jobs share: which are wanted, and which there are.

A job says of which calls it found no template. Each of these is traced again in a worker of its own, which is told nothing else, while no
request wants that worker. What a job itself has traced is given to no other: a worker that was taken over would decide what others compute.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable

from retraced_server.errors import Reason, RetracedError
from retraced_server.worker.messages import encode_templates

_MOST_WANTED = 4096
# Templates that are made before those that were are given to the zygote: each time, it replaces the worker that waits.
_MOST_HELD = 64

# Why a worker fails that would fail again. For other reasons a key may be wanted again.
_OF_THE_CALL = frozenset(
    (
        *(Reason.WORKER_CRASHED, Reason.WORKER_EXITED, Reason.WORKER_OUT_OF_MEMORY, Reason.SANDBOX_OPERATION_DENIED),
        *(Reason.JOB_TIMED_OUT, Reason.CPU_LIMIT_EXCEEDED, Reason.INTERNAL),
    )
)

_log = logging.getLogger("retraced.templates")


class TemplateKeeper:
    """Has templates made one after the other, and keeps the last that were made.

    Args:
        most: How many are kept; 0 keeps none, and nothing is made.
        make: Makes the template of a key; empty where none can be shared.
        give: Gives a file with all of them to the zygote, which reads it before this returns or has a descriptor of its own.
    """

    def __init__(self, most: int, make: Callable[[bytes], Awaitable[bytes]], give: Callable[[int], None]) -> None:
        self._most = most
        self._make = make
        self._give = give
        # Keys of which no template can be shared too, with nothing for it: they are not tried again.
        self._made: dict[bytes, bytes] = {}
        self._wanted: dict[bytes, None] = {}
        self._held = 0
        self._making: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def shares(self) -> bool:
        """Whether templates are shared at all."""
        return self._most > 0

    @property
    def count(self) -> int:
        """How many templates there are."""
        return sum(map(bool, self._made.values()))

    @property
    def is_idle(self) -> bool:
        """Whether none is being made."""
        return self._making is None or self._making.done()

    def want(self, keys: Iterable[bytes]) -> None:
        """Have the templates of keys made, as far as there is room."""
        for key in keys:
            if key not in self._made and len(self._wanted) < _MOST_WANTED:
                self._wanted[key] = None
        if self._wanted and self.shares and not self._closed and self.is_idle:
            self._making = asyncio.create_task(self._make_wanted(), name="templates")

    def give(self) -> None:
        """Give all to a zygote that may have others."""
        self._held = 0
        templates = {key: template for key, template in self._made.items() if template}
        if not templates:
            return
        try:
            fd = os.memfd_create("retraced-templates", os.MFD_CLOEXEC)
        # Workers do without. Who supervises the zygote calls this, and must not end of it.
        except OSError as error:
            _log.warning("templates cannot be given to the zygote: %s", error)
            return
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(encode_templates(templates))
            os.lseek(fd, 0, os.SEEK_SET)
            self._give(fd)
        finally:
            os.close(fd)

    async def close(self) -> None:
        """Make no more."""
        self._closed = True
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait((self._making,))

    async def _make_wanted(self) -> None:
        while self._wanted:
            key = next(iter(self._wanted))
            del self._wanted[key]
            try:
                template = await self._make(key)
            except RetracedError as error:
                _log.info("a template could not be made: %s", error.message)
                if error.reason not in _OF_THE_CALL:
                    continue
                template = b""
            self._made[key] = template
            self._held += bool(template)
            while len(self._made) > self._most:
                del self._made[next(iter(self._made))]
            if self._held >= _MOST_HELD:
                self.give()
        if self._held:
            self.give()

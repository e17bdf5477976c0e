"""Templates of decompositions that jobs share: which are wanted, and which there are.

A job says of which calls it found no template. Each of these is traced again in a worker of its own, which is told nothing else, while no
request wants that worker: it is taken from the template as soon as one does. What a job itself has traced is given to no other: a worker that
was taken over would decide what others compute.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Iterable

from retraced_server.errors import Reason, RetracedError
from retraced_server.worker.messages import encode_templates

# Bytes of keys that wait, and of all keys and templates: the zygote reads them at one go, and forks no worker meanwhile.
_MOST_WANTED_BYTES, _MOST_BYTES = 4 << 20, 8 << 20
_MOST_UNSHARED = 1 << 16
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
        self._made: dict[bytes, bytes] = {}
        self._bytes = 0
        # Digests of the keys of which no template can be shared. They are not tried again.
        self._unshared: dict[bytes, None] = {}
        self._wanted: dict[bytes, None] = {}
        self._wanted_bytes = 0
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
        return len(self._made)

    @property
    def is_idle(self) -> bool:
        """Whether none is being made."""
        return self._making is None or self._making.done()

    def want(self, keys: Iterable[bytes]) -> None:
        """Have the templates of keys made, as far as there is room."""
        for key in keys:
            is_new = key not in self._made and key not in self._wanted and _digest(key) not in self._unshared
            if is_new and self._wanted_bytes + len(key) <= _MOST_WANTED_BYTES:
                self._wanted[key] = None
                self._wanted_bytes += len(key)
        if self._wanted and self.shares and not self._closed and self.is_idle:
            self._making = asyncio.create_task(self._make_wanted(), name="templates")

    def give(self) -> None:
        """Give all to a zygote that may have others."""
        self._held = 0
        if not self._made:
            return
        try:
            with open(os.memfd_create("retraced-templates", os.MFD_CLOEXEC), "wb") as file:
                file.write(encode_templates(self._made))
                file.seek(0)
                self._give(file.fileno())
        # Workers do without.
        except OSError as error:
            _log.warning("templates cannot be given to the zygote: %s", error)

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
            self._wanted_bytes -= len(key)
            try:
                template = await self._make(key)
            except RetracedError as error:
                _log.info("a template could not be made: %s", error.message)
                if error.reason not in _OF_THE_CALL:
                    continue
                template = b""
            if template:
                self._keep(key, template)
            else:
                self._unshared[_digest(key)] = None
                if len(self._unshared) > _MOST_UNSHARED:
                    del self._unshared[next(iter(self._unshared))]
            if self._held >= _MOST_HELD:
                self.give()
        if self._held:
            self.give()

    def _keep(self, key: bytes, template: bytes) -> None:
        self._made[key] = template
        self._bytes += len(key) + len(template)
        self._held += 1
        while len(self._made) > self._most or self._bytes > _MOST_BYTES:
            oldest = next(iter(self._made))
            self._bytes -= len(oldest) + len(self._made.pop(oldest))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()

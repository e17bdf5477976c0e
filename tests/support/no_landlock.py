"""A machine without Landlock, for tests of what a server makes of it. To be loaded into a server: `--import tests.support.no_landlock`."""

from __future__ import annotations

from retraced_server.worker.sandbox import landlock


def _none() -> int:
    return 0


landlock.interface_version = _none

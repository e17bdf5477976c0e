"""What the kernel says of memory in the control group that this process and its children are in (cgroups(7), version 2)."""

from __future__ import annotations

from pathlib import Path

_PROC, _ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def memory_limit(proc: Path = _PROC, root: Path = _ROOT) -> int | None:
    """Return the least that it and the groups around it may have, in bytes; None where there is no limit, or the kernel does not say."""
    group = _group(proc)
    if group is None:
        return None
    limits = [_limit(root / path / "memory.max") for path in (group, *group.parents)]
    return min((limit for limit in limits if limit is not None), default=None)


def oom_kills(proc: Path = _PROC, root: Path = _ROOT) -> int:
    """How many processes the kernel has killed there for lack of memory; 0 where it does not say."""
    group = _group(proc)
    if group is None:
        return 0
    try:
        events = (root / group / "memory.events").read_text()
        return next(int(count) for name, count in map(str.split, events.splitlines()) if name == "oom_kill")
    except (OSError, ValueError, StopIteration):
        return 0


def _group(proc: Path) -> Path | None:
    """Return the group's folder, from the root of all."""
    try:
        return next(Path(line[3:].lstrip("/")) for line in proc.read_text().splitlines() if line.startswith("0::"))
    except (OSError, ValueError, StopIteration):
        return None


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        # There is none at the root, and where there could be one it may say `max`.
        return None

"""What a process uses, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path


def private_bytes(pid: int) -> int:
    """Memory that a process shares with no other, in bytes (proc_pid_smaps(5)); 0 where it is gone, or the kernel does not say."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))

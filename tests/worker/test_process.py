"""What a process asks of the kernel, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def run(source: str) -> str:
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_memory_past_the_limit_cannot_be_had_and_the_process_lives() -> None:
    source = """
        from retraced_server.worker.process import limit_memory
        limit_memory(64 << 20)
        inside = b"1" * (32 << 20)
        try:
            b"1" * (64 << 20)
        except MemoryError:
            print("refused")
    """
    assert run(source) == "refused"


def test_reserve_can_be_used_after_the_limit_was_reached() -> None:
    source = """
        from retraced_server.worker.process import limit_memory, use_reserve
        limit_memory(8 << 20)
        kept = []
        try:
            while True:
                kept.append(b"1" * (1 << 20))
        except MemoryError:
            use_reserve()
        more = b"1" * (4 << 20)
        print("had more")
    """
    assert run(source) == "had more"


def test_orphans_are_adopted() -> None:
    source = """
        import os, subprocess, sys
        from retraced_server.worker.process import adopt_orphans
        adopt_orphans()
        middle = subprocess.run([sys.executable, "-c", "import subprocess; print(subprocess.Popen(['sleep', '0.2']).pid)"],
                                capture_output=True, text=True)
        pid, _ = os.waitpid(-1, 0)
        print(pid == int(middle.stdout))
    """
    assert run(source) == "True"

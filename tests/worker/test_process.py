"""What a process asks of the kernel, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap


def run(source: str) -> str:
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


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

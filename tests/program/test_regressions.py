"""Archives that a fuzzer found once are errors of documented reasons, or are read, written and read again without a difference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent / "regressions"


def test_archives_that_were_findings_are_none_any_more() -> None:
    archives = sorted(map(str, _FOLDER.glob("*.pt2")))
    assert archives
    command = [sys.executable, "-m", "fuzz", "replay", *archives]
    done = subprocess.run(
        command, cwd=_FOLDER.parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout

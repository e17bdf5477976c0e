"""Runs a server that ends with the process that started it: `python -m retraced._embedded_child`, then the server's arguments.

Standard input is a pipe from that process. The pipe's end is that process's end, however it came about; a signal set with
PR_SET_PDEATHSIG would come at the end of the thread that forked.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _end_with(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _main() -> None:
    threading.Thread(target=_end_with, args=(os.dup(0),), name="parent-watch", daemon=True).start()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.argv[0] = "retraced_server"
    runpy.run_module("retraced_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()

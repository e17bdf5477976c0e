"""What the sandbox costs a job."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

from benchmarks.results import Cell, Grid, Section, at_most
from benchmarks.setup import Setup
from retraced_server.engine.environment import zygote_environment

_PIPELINE = "retrace,decompose,cse,dce"


def measure(setup: Setup) -> Section:
    """Run jobs in a zygote's forks, in the sandbox and without it by turns. What is done before the job counts too."""
    setup.say("the sandbox: all programs")
    # More than elsewhere: what is looked for is small.
    rounds = 1 if setup.quick else 2 * setup.rounds
    command = [
        sys.executable,
        "-m",
        "benchmarks.sandboxed_jobs",
        _PIPELINE,
        str(rounds),
        *(str(subject.path) for subject in setup.subjects),
    ]
    environment = zygote_environment(os.environ, setup.folder)
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True).stdout)
    rows: list[list[Cell]] = []
    for subject, (locked, free, ahead, same) in zip(setup.subjects, found, strict=True):
        rows.append([subject.name, subject.nodes, locked, free, (ahead + locked) / free, ahead, "yes" if same else "NO"])
    columns = ["program", "nodes", "in the sandbox, ms", "without, ms", "ratio", "before the job, ms", "same program"]
    ratios = [float(row[4]) for row in rows]
    figures = [
        at_most("a job in the sandbox over one without, highest", max(ratios), 1.05, "x"),
        at_most("a job in the sandbox over one without, median", statistics.median(ratios), 1.05, "x"),
    ]
    return Section("sandbox", grids=[Grid(f"processor time of `{_PIPELINE}` in a worker", columns, rows)], figures=figures)

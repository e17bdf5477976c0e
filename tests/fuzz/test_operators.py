"""The sweep of single operators: a sample of the list withstands it, and what would end, stall or fill a process is seen."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from fuzz.operators import _arguments, _calls, _shown, find_operators, fuzz_operators
from fuzz.report import Report
from retraced_server.program.operator_lists import listed_operators

pytestmark = pytest.mark.slow


def _end() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _loop() -> None:
    while True:
        pass


def _allocate() -> None:
    bytearray(b"x" * (300 << 20))


def test_sample_of_the_list_withstands_extreme_arguments(tmp_path: Path) -> None:
    report = Report("sample", 0, tmp_path)
    fuzz_operators(report, count=80)
    assert (report.findings, report.count) == ({}, 80)
    assert {"ran", "RuntimeError"} <= set(report.outcomes)


def test_calls_depend_on_the_seed_alone_and_meet_every_operator_once_a_round(tmp_path: Path) -> None:
    found = find_operators(sorted(listed_operators())[:300])
    first, again = ([call for call, _ in zip(_calls(found, 5), range(600), strict=False)] for _ in range(2))
    assert first == again
    assert {call.op for call in first[:300]} == {call.op for call in first[300:]} == set(found)
    assert [_shown(_arguments(call)) for call in first] == [_shown(_arguments(call)) for call in again]


@pytest.mark.parametrize(("fault", "found"), [(_end, "crash SIGSEGV"), (_loop, "slow"), (_allocate, "large")])
def test_fault_of_one_operator_is_found_and_the_others_are_called_all_the_same(
    fault: Callable[[], None], found: str, tmp_path: Path
) -> None:
    names = ["aten.abs.default", "aten.neg.default", "aten.sin.default"]

    def faulty(op: Any, args: Any, kwargs: Any) -> None:
        if op is torch.ops.aten.neg.default:
            fault()

    report = Report("planted", 0, tmp_path)
    with mock.patch("fuzz.operators._WAYS", (faulty,)), mock.patch("fuzz.operators.MOST_SECONDS", 3.0):
        fuzz_operators(report, names, count=3)
    assert report.findings.total() == 1
    assert next(iter(report.findings)).startswith(f"{found}: {found} in aten.neg.default")
    assert report.count == 3

"""Fake execution runs real kernels on small constants only."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import retraced_server.program  # noqa: F401 - registers meta kernels of collectives
from retraced_server.torch_compat import small_constants

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set to itself, so that it is set back.
    monkeypatch.setattr(FakeTensorMode, "_dispatch_impl", FakeTensorMode._dispatch_impl)
    small_constants.keep_constants_small()


def test_small_constant_is_computed() -> None:
    with FakeTensorMode():
        assert (torch.tensor(2.0) * 3 + 1).item() == 7.0
        assert torch.tensor(3).nonzero().shape == (1, 0)


def test_large_result_is_fake_and_its_constant_keeps_its_value() -> None:
    with FakeTensorMode():
        one = torch.tensor(1.0)
        # 4 TiB, which no machine of ours has.
        large = one.repeat(1 << 40)
        assert isinstance(large, FakeTensor)
        assert large.shape == (1 << 40,)
        assert large.constant is None
        assert one.item() == 1.0


def test_collective_on_a_constant_talks_to_nobody() -> None:
    with FakeTensorMode():
        reduced = torch.ops._c10d_functional.all_reduce(torch.tensor(1.0), "sum", "no such group")
    assert isinstance(reduced, FakeTensor)
    assert reduced.constant is None


_TAKES = """
import sys
from pathlib import Path
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from retraced_server.torch_compat.fake_tensors import run_no_real_kernels
from retraced_server.torch_compat.small_constants import keep_constants_small
how, what = sys.argv[1:]
if how == "bounded":
    run_no_real_kernels()
    keep_constants_small()
calls = {
    "constant": lambda size: torch.tensor(1.0).repeat(size),
    # It has no fake kernel, so torch runs the real one.
    "fallback": lambda size: torch.histogram(torch.ones(4), size),
}
ended = "executed"


def most_kib():
    # Not the maximum of `getrusage`, which goes on from that of the process that started this one.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


with FakeTensorMode():
    torch.tensor(1.0).repeat(8)
    before = most_kib()
    try:
        calls[what](1 << 26)
    except Exception as error:
        ended = type(error).__name__
print(most_kib() - before, ended)
"""


def _run(how: str, what: str) -> tuple[int, str]:
    """By how many bytes memory grew, and how the operator ended."""
    ran = subprocess.run([sys.executable, "-c", _TAKES, how, what], capture_output=True, text=True, check=True)
    grown, ended = ran.stdout.split()
    return int(grown) << 10, ended


@pytest.mark.parametrize(("what", "ends"), [("constant", "executed"), ("fallback", "UnsupportedOperatorException")])
def test_memory_is_taken_by_torch_alone_and_not_here(what: str, ends: str) -> None:
    grown, ended = _run("plain", what)
    assert grown > 128 << 20
    assert ended == "executed"
    grown, ended = _run("bounded", what)
    assert grown < 64 << 20
    assert ended == ends

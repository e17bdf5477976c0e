"""Fake execution computes small constants for real, and large ones not."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from retraced_server.worker import constants


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set to itself, so that it is set back.
    monkeypatch.setattr(FakeTensorMode, "_dispatch_impl", FakeTensorMode._dispatch_impl)
    constants.keep_constants_small()


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


_TAKES = """
import resource
import sys
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from retraced_server.worker.constants import keep_constants_small
if sys.argv[1] == "bounded":
    keep_constants_small()
with FakeTensorMode():
    torch.tensor(1.0).repeat(8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.tensor(1.0).repeat(1 << 26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def _grown(how: str) -> int:
    ran = subprocess.run([sys.executable, "-c", _TAKES, how], capture_output=True, text=True, check=True)
    return int(ran.stdout) << 10


def test_memory_is_taken_by_torch_alone_and_not_here() -> None:
    assert _grown("plain") > 128 << 20
    assert _grown("bounded") < 64 << 20

"""What the zygote reasons about before the first job is what a job on a program with sizes of such names asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from retraced_server.engine.environment import zygote_environment

_SOURCE = """
import sys
import sympy.core.cache
import torch
from retraced_server.program import read_program
from retraced_server.worker.usual_sizes import reason_about_usual_sizes

path, ahead = sys.argv[1:]
if ahead == "True":
    reason_about_usual_sizes()
program = read_program(path).program
values = [node.meta["val"] for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
before = {function: function.cache_info().misses for function in sympy.core.cache.CACHE}
with values[0].fake_mode:
    for value in values:
        value.clone()
print(sum(function.cache_info().misses - misses for function, misses in before.items()))
"""


class _Scores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Embedding(9, 768)

    def of(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.hidden(ids)
        heads = hidden.view(*hidden.shape[:2], 12, 64).transpose(1, 2)
        return hidden[:, 0], heads @ heads.transpose(2, 3)


class _OfMask(_Scores):
    def forward(self, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.of(attention_mask)


class _OfX(_Scores):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.of(x)


class _OfAnotherName(_Scores):
    def forward(self, of_another_name: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.of(of_another_name)


def _reasoned(module: type[_Scores], folder: Path, *, ahead: bool) -> int:
    """How often sympy works something out when the values of a program are copied."""
    shapes = ({0: Dim("batch"), 1: Dim("length")},)
    program = torch.export.export(module().eval(), (torch.ones(3, 6, dtype=torch.long),), dynamic_shapes=shapes)
    torch.export.save(program, path := folder / "scores.pt2")
    ran = subprocess.run(
        [sys.executable, "-c", _SOURCE, str(path), str(ahead)],
        env={**os.environ, **zygote_environment(os.environ, folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


@pytest.fixture(scope="module")
def not_ahead(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How often it is when nothing was reasoned about ahead, whatever the names."""
    return _reasoned(_OfMask, tmp_path_factory.mktemp("not_ahead"), ahead=False)


@pytest.mark.parametrize("module", [_OfMask, _OfX])
def test_sizes_of_usual_arguments_are_reasoned_about_ahead(module: type[_Scores], tmp_path: Path, not_ahead: int) -> None:
    assert _reasoned(module, tmp_path, ahead=True) * 2 < not_ahead


def test_sizes_of_other_arguments_gain_what_torch_asks_in_symbols_of_its_own(tmp_path: Path, not_ahead: int) -> None:
    assert 0 < _reasoned(_OfAnotherName, tmp_path, ahead=True) < not_ahead

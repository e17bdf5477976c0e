"""What the zygote reasons about before the first job is what a job on a program with sizes of such names asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

from retraced_server.engine.environment import zygote_environment
from retraced_server.worker.symbolic_caches import USUAL_ARGUMENTS

pytestmark = pytest.mark.slow

_SOURCE = """
import sys
import sympy.core.cache
import torch
from retraced_server.program import read_program
from retraced_server.worker.prepare import prepare
from retraced_server.worker.sandbox import SandboxConfig
from retraced_server.worker.warm_up import sample_archive, warm_up

ahead, *paths = sys.argv[1:]
if ahead == "True":
    prepare([], SandboxConfig(allow_missing=True))
else:
    with sample_archive() as sample:
        warm_up(sample)
for path in paths:
    program = read_program(path).program
    values = [node.meta["val"] for node in program.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    before = {function: function.cache_info().misses for function in sympy.core.cache.CACHE}
    with values[0].fake_mode as mode:
        mode.cache_enabled = False
        for value in values:
            value.clone()
    print(sum(function.cache_info().misses - misses for function, misses in before.items()))
"""


class _Scores(nn.Module):
    def __init__(self, argument: str) -> None:
        super().__init__()
        self.hidden = nn.Embedding(9, 768)
        namespace: dict[str, Callable[[torch.Tensor], object]] = {}
        # torch names sizes after the arguments of the function.
        exec(f"def forward({argument}):\n    return scores({argument})", {"scores": self.scores}, namespace)
        self.forward = namespace["forward"]

    def scores(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.hidden(ids)
        heads = hidden.view(*hidden.shape[:2], 12, 64).transpose(1, 2)
        return hidden[:, 0], heads @ heads.transpose(2, 3)


def _reasoned(folder: Path, *, ahead: bool) -> list[int]:
    """How often sympy works something out when the values of programs are copied: of one of an unusual argument, and of each usual one."""
    paths = []
    for argument in ("of_another_name", *USUAL_ARGUMENTS):
        shapes = ({0: Dim("batch"), 1: Dim("length")},)
        program = torch.export.export(_Scores(argument).eval(), (torch.ones(3, 6, dtype=torch.long),), dynamic_shapes=shapes)
        torch.export.save(program, path := folder / f"{argument}.pt2")
        paths.append(str(path))
    ran = subprocess.run(
        [sys.executable, "-c", _SOURCE, str(ahead), *paths],
        env={**os.environ, **zygote_environment(os.environ, folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [int(line) for line in ran.stdout.split()]


def test_sizes_of_usual_arguments_are_reasoned_about_before_the_first_job(tmp_path: Path) -> None:
    ahead, not_ahead = (_reasoned(tmp_path, ahead=ahead) for ahead in (True, False))
    assert len(ahead) == len(not_ahead) == 1 + len(USUAL_ARGUMENTS)
    # Of another name, what torch asks in symbols of its own is known all the same.
    assert 0 < ahead[0] < not_ahead[0]
    assert all(known * 2 < unknown for known, unknown in zip(ahead[1:], not_ahead[1:], strict=True)), (ahead, not_ahead)


def test_sympy_remembers_what_is_reasoned_about_ahead(tmp_path: Path) -> None:
    source = """
from sympy.core.cache import CACHE
from retraced_server.worker.symbolic_caches import prewarm_symbolic_caches
from retraced_server.worker.warm_up import sample_archive, warm_up
with sample_archive() as sample:
    warm_up(sample)
prewarm_symbolic_caches()
print(*(function.__qualname__ for function in CACHE if function.cache_info().currsize == function.cache_info().maxsize))
"""
    env = {**os.environ, **zygote_environment(os.environ, tmp_path)}
    ran = subprocess.run([sys.executable, "-c", source], env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []

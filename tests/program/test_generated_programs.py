"""On programs made at random, we read what torch reads and write what torch writes."""

from __future__ import annotations

import json
import random
import warnings
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim, ExportedProgram

from retraced_server.program import write_model
from tests.program.archives import model_of, read_bytes, saved, without_offsets, written
from tests.support.compare import assert_identical_programs, loaded, shape_env_snapshot
from tests.support.describe import alias_sets, describe_program
from tests.support.examples import examples

pytestmark = pytest.mark.slow


class _Random(nn.Module):
    """Operators chosen by a seed, on values of few sizes: arithmetic, views, in-place writes, lists, sizes and data as sizes."""

    count: torch.Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.register_buffer("count", torch.zeros(4))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        chance = random.Random(self.seed)
        values = [x, y, x.clone()]
        for _ in range(chance.randint(2, 10)):
            values.append(self._step(chance, values))
        return values[-1], chance.choice(values).sum(), [x.shape[0] * 2, {"y": y + 1}]

    def _step(self, chance: random.Random, values: list[torch.Tensor]) -> torch.Tensor:
        a, b = chance.choice(values), chance.choice(values)
        step = chance.randrange(16)
        if step == 0:
            return a @ self.weight
        if step == 1:
            return (a.t() + 1).t()
        if step == 2:
            return a.reshape(-1).reshape(a.shape)
        if step == 3:
            return torch.cat([a, b])[: a.shape[0]]
        if step == 4:
            return a.clone().add_(1)
        if step == 5:
            return torch.stack(a.unbind(1)[:4], 1)
        if step == 6:
            return a * a.shape[0] + 0.5
        if step == 7:
            return a.to(torch.float64).to(torch.float32)
        if step == 8:
            self.count.add_(1)
            return a + self.count
        if step == 9:
            return a.nonzero().sum() + a
        if step == 10:
            return torch.where(a > b[:1], a, a.new_zeros(()))
        if step == 11:
            return a.split([1, 3], dim=1)[1].sum(1, keepdim=True).expand(-1, 4)
        if step == 12:
            return torch.topk(a, 4, dim=1).values
        if step == 13:
            return nn.functional.dropout(a, 0.1, training=False).contiguous()
        if step == 14:
            return torch.cond(a.sum() > 0, lambda v: v.relu() + 1, lambda v: v.sin(), (a,))
        return a.masked_fill(a < 0, float("-inf")).clamp(-1e9, float("inf"))


def _program(seed: int, dynamic: bool, functional: bool) -> ExportedProgram:
    shapes = {"x": {0: Dim("n", min=2, max=64)}, "y": {0: Dim("n", min=2, max=64)}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(_Random(seed), (torch.randn(5, 4), torch.randn(5, 4)), dynamic_shapes=shapes)
        return program.run_decompositions({}) if functional else program


@settings(max_examples=examples(16), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.booleans(), st.booleans())
def test_generated_program(tmp_path_factory: pytest.TempPathFactory, seed: int, dynamic: bool, functional: bool) -> None:
    program = _program(seed, dynamic, functional)
    tmp_path = tmp_path_factory.mktemp("generated")
    archive = saved(program)
    assert json.loads(write_model(program)) == model_of(archive)
    source = read_bytes(archive, tmp_path)
    theirs = loaded(archive)
    assert shape_env_snapshot(source.program) == shape_env_snapshot(theirs)
    assert _comparable(source.program) == _comparable(theirs)
    assert json.loads(write_model(source.program)) == model_of(saved(source.program))
    again = written(source.program, tmp_path / "again.pt2", source=source)
    assert_identical_programs(loaded(again), theirs, aliases=False)
    reread = read_bytes(written(source.program, tmp_path / "reread.pt2"), tmp_path).program
    assert alias_sets(reread) == alias_sets(source.program)


def _comparable(program: ExportedProgram) -> Any:
    """The program without its sample inputs, which we do not open, and storage offsets, which torch drops."""
    described = describe_program(program)
    described.pop("example inputs")
    return without_offsets(described)

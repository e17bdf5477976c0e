"""A plugin that changes weights, in a real server: they come back changed, and the others as they were."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from retraced import Client, EmbeddedServer
from tests.support.compare import loaded, validate

pytestmark = pytest.mark.slow


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out((self.fc(x) * 4.0).relu())
        return result


def test_plugin_folds_a_factor_into_weights_that_come_back(allowing: EmbeddedServer) -> None:
    torch.manual_seed(0)
    program = torch.export.export(_Model(), (torch.randn(3, 8),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with Client(allowing.address) as client:
        (fold,) = [one for one in client.passes() if one.name == "fold-scale"]
        assert fold.needs_weights
        result = client.transform(buffer.getvalue(), "fold-scale,dce")
    made = loaded(result.to_bytes())
    validate(made)
    assert made.state_dict.keys() == {"fc.weight_scaled", "fc.bias_scaled", "out.weight", "out.bias"}
    for name in ("weight", "bias"):
        assert torch.equal(made.state_dict[f"fc.{name}_scaled"], program.state_dict[f"fc.{name}"] * 4)
        assert torch.equal(made.state_dict[f"out.{name}"], program.state_dict[f"out.{name}"])
    x = torch.randn(3, 8)
    torch.testing.assert_close(made.module()(x), program.module()(x))

"""Programs that are valid and unusual go through a server and come back; what the result cannot do is said in a remark."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from retraced import Client, errors
from tests.program.archives import saved


class _Hetero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.ModuleDict(
            {str(key): nn.Linear(4, 4) for key in (("user", "rates", "movie"), ("movie", "rev_rates", "user"))}
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.as_tensor(module(x)) for module in self.lin.values()]


class _Uniform(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clone().uniform_()


def test_names_of_modules_and_files_come_back_as_they_were_sent(client: Client) -> None:
    module, x, buffer = _Hetero(), torch.randn(2, 4), io.BytesIO()
    torch.export.save(torch.export.export(module, (x,)), buffer, extra_files={"vocab éè.txt": "a"})
    sent = buffer.getvalue()
    assert client.transform(sent, "retrace").to_bytes() == sent
    result = client.transform(sent, "decompose,cse,dce")
    assert result.modified
    files = {"vocab éè.txt": ""}
    program = torch.export.load(io.BytesIO(result.to_bytes()), extra_files=files)
    assert files["vocab éè.txt"] in ("a", b"a")
    torch.testing.assert_close(program.module()(x), module(x))


def test_result_that_torch_cannot_load_has_a_remark(client: Client) -> None:
    result = client.transform(saved(torch.export.export(_Uniform(), (torch.randn(3),))), "retrace")
    assert any("cannot load the program again" in remark and "`uniform_`" in remark for remark in result.summary.remarks)


def test_valid_program_that_is_not_taken_is_unsupported_and_not_invalid(client: Client) -> None:
    wrapper = nn.Sequential()
    wrapper.add_module('a"b', nn.Linear(2, 2))
    with pytest.raises(errors.ProgramUnsupported, match="double quotes"):
        client.transform(saved(torch.export.export(wrapper, (torch.randn(1, 2),))), "retrace")

"""`decompose` on programs whose parameters and buffers torch's own decomposition fails at: names that are keywords, shared storage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.export import ExportedProgram

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from tests.passes.support import export, targets
from tests.support.case import Inputs
from tests.support.compare import assert_same_results, saved_and_loaded

_PARTS = ("class", "lambda", "None", "('user', 'rates', 'item')", 'a"b', "back\\slash", "renamed_0", "0")


class _Named(nn.Module):
    """Modules, a buffer and a constant of given names."""

    def __init__(self) -> None:
        super().__init__()
        for part in _PARTS:
            self.add_module(part, nn.Linear(3, 3))
        self.register_buffer("from", torch.ones(3))
        self.register_buffer("import", torch.ones(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in _PARTS:
            x = getattr(self, part)(x)
        getattr(self, "from").add_(1)
        return x * getattr(self, "from") + getattr(self, "import")


def _computed(program: ExportedProgram, x: torch.Tensor) -> Any:
    """What the graph returns: a module of such a program is what torch cannot make."""
    lifted = {**program.constants, **program.state_dict}
    specs = program.graph_signature.input_specs
    with torch.no_grad():
        return fx.Interpreter(program.graph_module).run(*(x if spec.target is None else lifted[spec.target] for spec in specs))


def test_modules_named_by_keywords_or_with_quotes_are_decomposed_and_keep_their_names() -> None:
    module = _Named()
    program = export(module, torch.randn(2, 3))
    with pytest.raises(SyntaxError):
        program.run_decompositions()
    result = run_pipeline(program, "decompose").program
    assert result.graph_signature.input_specs == program.graph_signature.input_specs
    assert [spec.target for spec in result.graph_signature.output_specs] == ["from", None]
    assert list(result.state_dict) == list(program.state_dict)
    assert list(result.constants) == list(program.constants)
    assert "aten.linear" not in targets(result)
    assert run_pipeline(result, "decompose").program is result
    x = torch.randn(2, 3)
    torch.testing.assert_close(_computed(result, x)[-1], module(x))


class _Cache(nn.Module):
    """A cache under two names."""

    k: torch.Tensor
    k_alias: torch.Tensor

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("k", torch.zeros(2, 8), persistent=persistent)
        self.register_buffer("k_alias", self.k, persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.k.add_(x)
        return self.k_alias[:, :4] + self.k.sum()


class _CacheOfAParameter(nn.Module):
    """A buffer that is a parameter's own data."""

    k: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer("k", self.linear.weight.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.k.mul_(2)
        return self.linear(x)


@pytest.mark.parametrize(
    "module",
    [_Cache(persistent=True), _Cache(persistent=False), _CacheOfAParameter()],
    ids=["persistent", "not-persistent", "parameter"],
)
def test_buffers_that_are_one_tensor_and_written_to_are_decomposed(module: nn.Module) -> None:
    program = export(module, torch.randn(2, 8))
    with pytest.raises(AssertionError, match="compiled_fn"):
        program.run_decompositions()
    result = run_pipeline(program, "decompose,cse,dce").program
    assert "aten.add_" not in targets(result)
    assert "aten.mul_" not in targets(result)
    assert result.graph_signature.input_specs == program.graph_signature.input_specs
    assert len(result.graph_signature.buffers_to_mutate) == 1
    assert run_pipeline(result, "decompose").program is result
    for name, value in program.constants.items():
        assert result.constants[name] is value
    inputs: list[Inputs] = [((torch.randn(2, 8),), {}) for _ in range(3)]
    # Torch refuses to write to a parameter's data while it records gradients.
    with torch.no_grad():
        assert_same_results(saved_and_loaded(program), saved_and_loaded(result), inputs)


def test_buffers_that_overlap_and_are_written_to_are_named() -> None:
    class Overlapping(nn.Module):
        whole: torch.Tensor
        head: torch.Tensor
        apart: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("whole", torch.zeros(4, 4))
            self.register_buffer("head", self.whole[:2])
            self.register_buffer("apart", torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.whole.add_(x)
            self.apart.add_(1)
            return self.head.sum() + self.apart

    with pytest.raises(RetracedError, match=r"`whole`, `head` overlap in memory.*export the module with") as caught:
        run_pipeline(export(Overlapping(), torch.randn(4, 4)), "decompose")
    assert caught.value.reason is Reason.PASS_FAILED
    assert "apart" not in caught.value.message


def test_parts_of_one_storage_that_do_not_overlap_are_decomposed_as_torch_does() -> None:
    class Halves(nn.Module):
        upper: torch.Tensor
        lower: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            both = torch.zeros(4, 4)
            self.register_buffer("upper", both[:2])
            self.register_buffer("lower", both[2:])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.upper.add_(x)
            self.lower.mul_(x)
            return self.upper + self.lower

    program = export(Halves(), torch.randn(2, 4))
    result = run_pipeline(program, "decompose").program
    assert targets(result) == targets(program.run_decompositions())


def test_tied_weights_of_a_program_that_writes_elsewhere_stay_apart() -> None:
    class Tied(nn.Module):
        steps: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.register_buffer("steps", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps.add_(1)
            return self.b(self.a(x)) + self.steps

    program = export(Tied(), torch.randn(2, 4))
    result = run_pipeline(program, "decompose").program
    used = {node.name for node in program.graph.find_nodes(op="placeholder") if node.users}
    assert {node.name for node in result.graph.find_nodes(op="placeholder") if node.users} == used

"""The accessor of weights: what is read by name and declared, and what becomes of signature, state dictionary and constants."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import PipelineResult, WeightsNeed, register_pass, registry, run_pipeline
from retraced_server.retrace import (
    ExportPass,
    ExportPassError,
    PassContext,
    PassResult,
    ProxyValue,
    Weights,
    pass_context,
    value_of,
)
from tests.passes.support import export
from tests.support.compare import saved_and_loaded, validate
from tests.support.describe import describe_program

aten = torch.ops.aten


class _Model(nn.Module):
    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3, 3)
        self.out = nn.Linear(3, 3, bias=False)
        self.out.weight = self.fc.weight
        self.register_buffer("offset", torch.ones(3), persistent=False)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps.add_(1)
        result: torch.Tensor = self.out(self.fc(x).relu()) + self.offset
        return result


@pytest.fixture
def program() -> ExportedProgram:
    return run_pipeline(export(_Model(), torch.randn(2, 3)), "decompose{table=none}").program


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def _with(program: ExportedProgram, use: Callable[[Weights], object], then: str = "") -> PipelineResult:
    """Run a pass that uses the weights and leaves the graph alone; the given program is what it was."""

    def uses(module: fx.GraphModule) -> None:
        use(pass_context().weights)

    before, state = describe_program(program), {**program.state_dict, **program.constants}
    try:
        return run_pipeline(program, [uses, *filter(None, [then])])
    finally:
        assert describe_program(program) == before
        assert all({**program.state_dict, **program.constants}[name] is value for name, value in state.items())


def _targets(program: ExportedProgram) -> set[str]:
    return {spec.target for spec in program.graph_signature.input_specs if spec.target is not None}


# -- reading -------------------------------------------------------------------------------------------------------------------------


def test_weights_are_named_as_the_program_names_them(program: ExportedProgram) -> None:
    def use(weights: Weights) -> None:
        assert set(weights) == {"fc.weight", "fc.bias", "out.weight", "offset", "steps"}
        assert "fc" not in weights
        assert len(weights) == 5
        assert torch.equal(weights["fc.bias"], program.state_dict["fc.bias"])
        assert torch.equal(weights["offset"], torch.ones(3))
        assert not weights["fc.weight"].requires_grad
        assert weights.shared_with("fc.weight") == ("out.weight",)
        assert weights.is_written("steps")
        assert not weights.is_written("offset")
        assert weights.digest("offset") == hashlib.sha256(torch.ones(3).numpy().tobytes()).hexdigest()

    assert _with(program, use).program is program


def test_node_stands_for_the_weight_that_the_signature_says(program: ExportedProgram) -> None:
    found = {}

    def names(module: fx.GraphModule) -> None:
        found.update({node.name: pass_context().weights.name_of(node) for node in module.graph.nodes})

    run_pipeline(program, [names])
    expected = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target is not None}
    assert {node: name for node, name in found.items() if name is not None} == expected


def test_input_of_a_subgraph_stands_for_no_weight_whatever_its_name() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: x * self.weight, lambda x: x + self.weight, (x - self.weight,))

    found: list[tuple[str, str | None]] = []

    class Looks(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            context = pass_context()
            found.extend((context.graph_path, context.weights.name_of(value)) for value in args)
            return super().call_operator(op, args, kwargs, meta)

    program = export(Branches(), torch.ones(3))
    run_pipeline(program, [Looks()])
    assert "p_weight" in [node.name for node in program.graph_module.true_graph_0.graph.nodes]
    assert ("", "weight") in found
    assert {name for path, name in found if path} == {None}


@pytest.mark.parametrize(
    ("need", "ask", "message"),
    [
        (
            WeightsNeed.NONE,
            lambda weights: weights["fc.bias"],
            "reads the value of `fc.bias` .* needs_weights=WeightsNeed.VALUES",
        ),
        (WeightsNeed.DIGESTS, lambda weights: weights["fc.bias"], "needs_weights=WeightsNeed.VALUES"),
        (WeightsNeed.NONE, lambda weights: weights.digest("fc.bias"), "needs_weights=WeightsNeed.DIGESTS"),
        (WeightsNeed.DIGESTS, lambda weights: weights.digest("fc.bias"), None),
        (WeightsNeed.VALUES, lambda weights: (weights.digest("fc.bias"), weights["fc.bias"]), None),
        (WeightsNeed.NONE, lambda weights: (list(weights), weights.shared_with("fc.bias")), None),
    ],
)
def test_registered_pass_reads_what_it_has_declared(
    program: ExportedProgram, need: WeightsNeed, ask: Callable[[Weights], object], message: str | None
) -> None:
    @register_pass("reads", needs_weights=need)
    class Reads:
        """Read weights."""

        def __call__(self, module: fx.GraphModule) -> None:
            ask(pass_context().weights)

    if message is None:
        run_pipeline(program, "reads")
        return
    with pytest.raises(RetracedError, match=message) as caught:
        run_pipeline(program, "reads")
    assert caught.value.reason is Reason.PASS_FAILED


def test_weights_need_a_program() -> None:
    for context in (PassContext(), pass_context()):
        with pytest.raises(ExportPassError, match="run the pass on a program, by `run_pipeline`"):
            context.weights  # noqa: B018 - asking is the test


def test_weight_that_is_written_to_in_place_is_an_error_of_the_pass(program: ExportedProgram) -> None:
    with pytest.raises(RetracedError, match=r"it wrote to `steps`, .* give a new tensor to add\(\) or replace\(\)"):
        run_pipeline(program, [lambda module: (pass_context().weights["steps"].add_(0), None)[1]])


# -- writing -------------------------------------------------------------------------------------------------------------------------


def test_replaced_weight_is_so_for_all_that_reads_it_and_stays_tied(program: ExportedProgram) -> None:
    def use(weights: Weights) -> None:
        weights.replace("out.weight", weights["out.weight"] * 2)
        weights.replace("offset", torch.zeros(3))
        assert torch.equal(weights["fc.weight"], program.state_dict["fc.weight"] * 2)

    result = _with(program, use, "retrace")
    assert result.modified
    assert [report.modified for report in result.reports] == [True, False]
    state = result.program.state_dict
    assert state["fc.weight"] is state["out.weight"]
    assert isinstance(state["fc.weight"], nn.Parameter)
    validate(result.program)
    x = torch.randn(2, 3)
    weight, bias = program.state_dict["fc.weight"] * 2, program.state_dict["fc.bias"]
    expected = nn.functional.linear(nn.functional.linear(x, weight, bias).relu(), weight)
    for made in (result.program, saved_and_loaded(result.program)):
        torch.testing.assert_close(made.module()(x), expected)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda weights: weights.replace("fc.bias", torch.zeros(4)), r"add\(\) it as a weight of its own"),
        (lambda weights: weights.replace("fc.bias", torch.zeros(3, dtype=torch.float64)), r"add\(\) it as a weight of its own"),
        (lambda weights: weights.add("fc.bias.part", torch.zeros(3)), "cannot be named `fc.bias.part`"),
        (lambda weights: weights.add("a..b", torch.zeros(3)), "cannot be named `a..b`"),
        (lambda weights: (weights.add("new", torch.zeros(3)), weights.replace("new", torch.ones(3))), "has added `new` itself"),
        (lambda weights: weights.remove("fc.bias"), "removed the weight `fc.bias`, but 'linear' reads it"),
        (lambda weights: weights.remove("steps"), "removed the weight `steps`, but the program writes to it"),
        (lambda weights: weights["nothing"], r"'nothing' \(KeyError"),
        (lambda weights: weights.discard("nothing"), r"'nothing' \(KeyError"),
    ],
)
def test_what_cannot_be_done_to_a_weight_says_why(
    program: ExportedProgram, use: Callable[[Weights], object], message: str
) -> None:
    with pytest.raises(RetracedError, match=message):
        _with(program, use)


def test_value_that_a_hook_has_computed_on_fake_tensors_is_refused(program: ExportedProgram) -> None:
    class Fakes(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            pass_context().weights.add("made", torch.zeros(3))
            return super().call_operator(op, args, kwargs, meta)

    with pytest.raises(RetracedError, match=r"compute it within `with weights\.eager"):
        run_pipeline(program, [Fakes()])


def test_weight_that_nothing_reads_is_removed_from_signature_and_state_and_its_tied_names_with_it() -> None:
    class Unread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.other = nn.Parameter(torch.ones(3))
            self.register_buffer("scratch", torch.ones(3), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu()

    program = export(Unread(), torch.randn(3))
    assert _targets(program) >= {"one", "scratch"}

    def use(weights: Weights) -> None:
        weights.remove("one")
        weights.discard("scratch")

    result = _with(program, use, "retrace")
    assert [report.modified for report in result.reports] == [True, False]
    assert (_targets(result.program), result.program.state_dict, result.program.constants) == (set(), {}, {})
    validate(result.program)
    assert torch.equal(saved_and_loaded(result.program).module()(torch.tensor([-1.0, 0, 2])), torch.tensor([0.0, 0, 2]))


def test_discarded_weight_goes_when_a_later_pass_has_removed_what_reads_it(program: ExportedProgram) -> None:
    def erase_offset(module: fx.GraphModule) -> None:
        (add,) = [n for n in module.graph.find_nodes(op="call_function", target=aten.add.Tensor) if "b_offset" in str(n.args)]
        add.replace_all_uses_with(add.args[0])

    def discard(module: fx.GraphModule) -> None:
        pass_context().weights.discard("offset")
        pass_context().weights.discard("steps")

    assert "offset" in _targets(run_pipeline(program, [discard, "dce"]).program)
    result = run_pipeline(program, [discard, erase_offset, "dce"])
    assert _targets(result.program) == _targets(program) - {"offset"}
    assert "offset" not in result.program.constants
    validate(result.program)


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("kind", ["parameter", "buffer", "scratch"])
def test_added_weight_is_an_input_of_its_kind_among_those(program: ExportedProgram, kind: str, *, by_hand: bool) -> None:
    def added() -> torch.Tensor:
        weights = pass_context().weights
        with weights.eager():
            value = torch.full((3,), 2.0)
            if kind == "parameter":
                return weights.add("fc.extra", nn.Parameter(value))
            return weights.add("fc.extra", value, persistent=kind == "buffer")

    class Hook(ExportPass, only={aten.relu.default}):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            value = super().call_operator(op, args, kwargs, meta)
            return super().call_operator(aten.add.Tensor, (value, added()), {}, meta)

    def edit(module: fx.GraphModule) -> None:
        (relu,) = module.graph.find_nodes(op="call_function", target=aten.relu.default)
        module.extra = added()
        with module.graph.inserting_after(relu):
            read = module.graph.get_attr("extra")
        with module.graph.inserting_after(read):
            new = module.graph.call_function(aten.add.Tensor, (relu, read))
        relu.replace_all_uses_with(new)
        new.args = (relu, read)

    result = run_pipeline(program, [edit if by_hand else Hook(), "retrace"]).program
    signature = result.graph_signature
    (spec,) = [spec for spec in signature.input_specs if spec.target == "fc.extra"]
    expected_kind = InputKind.PARAMETER if kind == "parameter" else InputKind.BUFFER
    assert (spec.kind, spec.persistent) == (expected_kind, {"parameter": None, "buffer": True, "scratch": False}[kind])
    kinds = [spec.kind for spec in signature.input_specs]
    assert kinds == sorted(kinds, key=[InputKind.PARAMETER, InputKind.BUFFER, InputKind.USER_INPUT].index)
    assert ("fc.extra" in result.constants) is (kind == "scratch")
    assert ("fc.extra" in result.state_dict) is (kind != "scratch")
    validate(result)
    x = torch.randn(2, 3)
    weight, bias = program.state_dict["fc.weight"], program.state_dict["fc.bias"]
    torch.testing.assert_close(
        saved_and_loaded(result).module()(x),
        nn.functional.linear(nn.functional.linear(x, weight, bias).relu() + 2.0, weight) + 1.0,
    )


def test_inputs_that_one_pass_makes_have_the_order_of_their_kinds(program: ExportedProgram) -> None:
    class Adds(ExportPass, only={aten.relu.default}):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            weights, value = pass_context().weights, super().call_operator(op, args, kwargs, meta)
            with weights.eager():
                made = [
                    torch.ones(3),
                    weights.add("buffer", torch.ones(3)),
                    weights.add("parameter", nn.Parameter(torch.ones(3))),
                ]
            for each in made:
                value = super().call_operator(aten.add.Tensor, (value, each), {}, meta)
            return value

    result = run_pipeline(program, [Adds()]).program
    validate(result)
    targets = [spec.target for spec in result.graph_signature.input_specs]
    assert targets == ["fc.weight", "fc.bias", "out.weight", "parameter", "offset", "steps", "buffer", "lifted_tensor_0", None]


def test_added_weight_that_a_subgraph_reads_is_given_to_it_as_an_operand() -> None:
    class Adds(ExportPass, only={aten.sin.default}):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            weights = pass_context().weights
            with weights.eager():
                made = weights.add("shift", nn.Parameter(torch.full((3,), 5.0)))
            return super().call_operator(aten.add.Tensor, (args[0], made), {}, meta)

    program = export(lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)), torch.ones(3))
    result = run_pipeline(program, [Adds()]).program
    assert result.graph_signature.inputs_to_parameters == {"p_shift": "shift"}
    validate(result)
    torch.testing.assert_close(saved_and_loaded(result).module()(torch.ones(3)), torch.full((3,), 6.0))


def test_added_weight_that_nothing_reads_is_not_added(program: ExportedProgram) -> None:
    result = _with(program, lambda weights: weights.add("extra", torch.ones(3)))
    assert result.program is program


def test_weights_of_one_pass_are_seen_by_the_next(program: ExportedProgram) -> None:
    def second(module: fx.GraphModule) -> None:
        assert torch.equal(pass_context().weights["fc.bias"], torch.full((3,), 4.0))

    def first(module: fx.GraphModule) -> None:
        pass_context().weights.replace("fc.bias", torch.full((3,), 4.0))

    for between in ("retrace", "decompose"):
        result = run_pipeline(program, [first, between, second]).program
        assert torch.equal(result.state_dict["fc.bias"], torch.full((3,), 4.0))


# -- values --------------------------------------------------------------------------------------------------------------------------


def test_value_of_is_what_is_recorded_of_a_node_and_held_by_a_value() -> None:
    program = export(lambda x: (x.shape[0] * 2, x.relu()), torch.randn(4, 3), dynamic_shapes=(({0: torch.export.Dim("n")},),))
    nodes = {node.name: node for node in program.graph.nodes}
    assert value_of(nodes["relu"]) is nodes["relu"].meta["val"]
    assert isinstance(value_of(nodes["mul"]), torch.SymInt)
    assert value_of(ProxyValue(7, nodes["relu"])) == 7
    with pytest.raises(ExportPassError, match="nothing is recorded for the value of 'output'"):
        value_of(nodes["output"])


@pytest.mark.parametrize("option", ["keep", "mode", "remarks", "weights", "needs_weights", "ir_level"])
def test_option_of_any_name_is_what_the_pipeline_says(program: ExportedProgram, option: str) -> None:
    found: list[object] = []

    def init(self: Any, **options: str) -> None:
        ExportPass.__init__(self)
        setattr(self, option, options[option])

    def call(self: Any, graph_module: fx.GraphModule) -> PassResult:
        found.append(getattr(self, option))
        return ExportPass.call(self, graph_module)

    namespace: dict[str, Any] = {}
    exec(f"def __init__(self, {option}: str = 'none'): init(self, {option}={option})", {"init": init}, namespace)
    made = type("Optional", (ExportPass,), {"__doc__": "Have an option.", "__module__": __name__, "call": call, **namespace})
    register_pass("optional")(made)
    run_pipeline(program, f"optional{{{option.replace('_', '-')}=mine}}")
    assert found == ["mine"]

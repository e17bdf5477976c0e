"""Comparison node for node: each kind of difference is found and named, and what is no difference is not."""

from __future__ import annotations

import copy
import functools
import operator
import random
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from retraced_server.analysis.equivalence import differences, input_changes
from retraced_server.analysis.graphs import walk_graphs
from retraced_server.torch_compat.programs import set_parts
from tests.passes.support import Function, export
from tests.support.models import by_name

aten = torch.ops.aten


class _Everything(nn.Module):
    """Sizes, data-dependent sizes, random numbers, a buffer that is written to, constants, equal calls, assertions and subgraphs."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.count.add_(1)
        found = y.nonzero()
        torch._check(found.shape[0] > 1)
        chosen = torch.cond(x.sum() > 0, lambda a: a.relu() + 1, lambda a: a.neg(), (x,))
        drawn = torch.rand_like(x) - torch.rand_like(x)
        scaled = torch.mul(x, 2) * torch.tensor([1.0, 2.0, 3.0, 4.0])
        return (
            chosen @ self.weight,
            found.sum(1),
            x.reshape(-1).cos(),
            drawn,
            scaled.softmax(-1),
            x.sin() + x.sin().exp(),
            torch.ones(found.shape[0] + 1),
        )


@functools.cache
def _theirs() -> ExportedProgram:
    rows = Dim("rows", min=3, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            _Everything(), (torch.ones(5, 4), torch.ones(5, 4)), dynamic_shapes=({0: rows}, {0: rows})
        )
        return program.run_decompositions()


def _ours() -> ExportedProgram:
    """A copy to be edited: graphs and signature are its own, and recorded values shared."""
    program = copy.copy(_theirs())
    signature, module = copy.deepcopy(program.graph_signature), copy.deepcopy(program.graph_module)
    set_parts(program, graph_module=module, graph_signature=signature, constants=dict(program.constants))
    return program


def _node(program: ExportedProgram, name: str, path: str = "") -> fx.Node:
    graphs = dict(walk_graphs(program.graph_module))
    (found,) = (node for node in graphs[path].graph.nodes if node.name == name)
    return found


def _first(program: ExportedProgram, target: Any, path: str = "") -> fx.Node:
    graph = dict(walk_graphs(program.graph_module))[path].graph
    return graph.find_nodes(op="call_function", target=target)[0]


def _argument(node: fx.Node, place: int, value: Any) -> None:
    node.args = (*node.args[:place], value, *node.args[place + 1 :])


def _copied(node: fx.Node) -> fx.Node:
    """Put the same call after a node."""
    with node.graph.inserting_after(node):
        return node.graph.node_copy(node, lambda argument: argument)


def _record(node: fx.Node, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    value = node.meta["val"]
    with value.fake_mode:
        node.meta["val"] = change(value)


# -- differences ---------------------------------------------------------------------------------------------------------------------

_Edit = Callable[[ExportedProgram], object]


def _other_operator(program: ExportedProgram) -> None:
    _first(program, aten.cos.default).target = aten.tan.default


def _other_number(program: ExportedProgram) -> None:
    _argument(_first(program, aten.mul.Tensor), 1, 3)


def _number_of_other_type(program: ExportedProgram) -> None:
    _argument(_first(program, aten.mul.Tensor), 1, 2.0)


def _other_value_as_argument(program: ExportedProgram) -> None:
    _argument(_first(program, aten.exp.default), 0, _node(program, "x"))


def _other_option(program: ExportedProgram) -> None:
    _first(program, aten.full.default).update_kwarg("dtype", torch.float64)


def _draws_in_another_order(program: ExportedProgram) -> None:
    first, second = program.graph.find_nodes(op="call_function", target=aten.rand_like.default)
    first.prepend(second)


def _call_more(program: ExportedProgram) -> None:
    _copied(_first(program, aten.cos.default))


def _equal_calls_merged(program: ExportedProgram) -> None:
    first, second = program.graph.find_nodes(op="call_function", target=aten.sin.default)
    second.replace_all_uses_with(first)
    program.graph.erase_node(second)


def _call_between(program: ExportedProgram) -> None:
    node = _first(program, aten.cos.default)
    copied = _copied(node)
    copied.target = aten.neg.default
    node.replace_all_uses_with(copied, delete_user_cb=lambda user: user is not copied)
    copied.args = (node,)


def _size_as_number(program: ExportedProgram) -> None:
    _argument(_first(program, aten.view.default), 1, [20])


def _other_expression(program: ExportedProgram) -> None:
    node = _first(program, aten.full.default)
    assert isinstance(node.args[0], list)
    (size,) = node.args[0]
    assert isinstance(size, fx.Node)
    with node.graph.inserting_before(node):
        more = node.graph.call_function(operator.sub, (size, 1))
    more.meta["val"] = size.meta["val"] - 1
    _argument(node, 0, [more])


def _wrong_size(program: ExportedProgram) -> None:
    node = _first(program, operator.add)
    _argument(node, 1, 2)


def _size_computed_again(program: ExportedProgram) -> None:
    node = _first(program, operator.add)
    _argument(_first(program, aten.full.default), 0, [_copied(node)])


def _assertion_less(program: ExportedProgram) -> None:
    program.graph.erase_node(_first(program, aten._assert_scalar.default))


def _other_assertion(program: ExportedProgram) -> None:
    condition = _first(program, aten._assert_scalar.default).args[0]
    assert isinstance(condition, fx.Node)
    assert isinstance(condition.args[0], fx.Node)
    _argument(condition, 1, 7)
    condition.meta["val"] = condition.target(condition.args[0].meta["val"], 7)  # type: ignore[operator]


def _other_call_in_a_subgraph(program: ExportedProgram) -> None:
    _first(program, aten.relu.default, "true_graph_0").target = aten.abs.default


def _other_output_of_a_subgraph(program: ExportedProgram) -> None:
    output = _first(program, aten.relu.default, "true_graph_0").graph.output_node()
    output.args = ((_first(program, aten.relu.default, "true_graph_0"),),)


def _branches_swapped(program: ExportedProgram) -> None:
    node = _first(program, torch.ops.higher_order.cond)
    node.args = (node.args[0], node.args[2], node.args[1], *node.args[3:])


def _outputs_swapped(program: ExportedProgram) -> None:
    output = program.graph.output_node()
    mutation, first, second, *rest = output.args[0]
    output.args = ((mutation, second, first, *rest),)


def _output_is_no_mutation(program: ExportedProgram) -> None:
    spec = program.graph_signature.output_specs[0]
    assert spec.kind is OutputKind.BUFFER_MUTATION
    spec.kind, spec.target = OutputKind.USER_OUTPUT, None


def _other_weight(program: ExportedProgram) -> None:
    next(spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.PARAMETER).target = "other"


def _buffer_is_not_persistent(program: ExportedProgram) -> None:
    next(spec for spec in program.graph_signature.input_specs if spec.kind is InputKind.BUFFER).persistent = False


def _other_constant(program: ExportedProgram) -> None:
    name = next(name for name, value in program.constants.items() if isinstance(value, torch.Tensor) and value.numel() == 4)
    program.constants[name] = torch.tensor([1.0, 2.0, 3.0, 5.0])


def _records(target: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> _Edit:
    return lambda program: _record(_first(program, target), change)


_DIFFERENCES: dict[str, tuple[_Edit, str]] = {
    "operator": (_other_operator, r"ours has `cos` = aten.tan.default.* where theirs has `cos` = aten.cos"),
    "number": (_other_number, r"ours has `mul.*` = .*\(x, 3\) where theirs has `mul.*` = .*\(x, 2\)"),
    "type of a number": (_number_of_other_type, r"\(x, 2.0\) where theirs has .*\(x, 2\)"),
    "value": (_other_value_as_argument, r"`exp` = aten.exp.default\(x\) where theirs has `exp` = aten.exp.default\(sin"),
    "keyword": (_other_option, r"`full` = .*float64.* where theirs has `full` = "),
    "order of random numbers": (
        _draws_in_another_order,
        r"`sub.*` = aten.sub.Tensor\(rand_like, rand_like_1\) where theirs has `sub.*`",
    ),
    "dead call": (_call_more, r"ours has `cos` = .* 2 times, theirs once"),
    "merged calls": (_equal_calls_merged, r"ours has `sin` = .* once, theirs 2 times: `sin`, `sin_1`"),
    "call between": (_call_between, r"ours has `cos_1` = aten.neg.default\(cos\), which theirs has not"),
    "specialised size": (_size_as_number, r"`view` = .*\(x, \[20\]\) where theirs has `view`"),
    "expression of data": (_other_expression, r"`full` = .* where theirs has `full`"),
    "size that is not what is recorded": (_wrong_size, r"`add.*` = .*, 2\) does not come to what it records, u0 \+ 1"),
    "more nodes for sizes": (_size_computed_again, r"ours computes sizes by 7 nodes, theirs by 6"),
    "assertion less": (_assertion_less, r"theirs has `_assert_scalar_default.*` = .*, which ours has not"),
    "assertion": (_other_assertion, r"ours has `_assert_scalar_default` = .* where theirs has `_assert_scalar_default`"),
    "call in a subgraph": (
        _other_call_in_a_subgraph,
        r"ours has `true_graph_0:relu` = aten.abs.*theirs has `true_graph_0:relu`",
    ),
    "output of a subgraph": (_other_output_of_a_subgraph, r"output 0 of graph `true_graph_0` is `relu` in ours.*`add"),
    "branches": (_branches_swapped, r"ours has `cond` = cond\(gt_1, false_graph_0, true_graph_0.* where theirs has `cond`"),
    "outputs": (_outputs_swapped, r"output 1 is `sum.*` in ours, and another value, `mm`, in theirs"),
    "kind of an output": (_output_is_no_mutation, r"outputs in the signature number 0 is \(USER_OUTPUT, None\) in ours"),
    "weight": (_other_weight, r"inputs in the signature number 0 is \(\(PARAMETER, other\).*PARAMETER, weight"),
    "persistence": (_buffer_is_not_persistent, r"inputs in the signature number 1 is .*False\) in ours and .*True\) in theirs"),
    "constant": (_other_constant, r"inputs in the signature number 2 is \(\(CONSTANT_TENSOR"),
    "dtype": (_records(aten.cos.default, lambda x: x.double()), r"`cos` = .* with dtype torch.float64, and with torch.float32"),
    "device": (_records(aten.cos.default, lambda x: x.to("meta")), r"`cos` = .* with device meta, and with cpu in theirs"),
    "shape": (_records(aten.cos.default, lambda x: x.new_empty(20)), r"`cos` = .* with shape \(20\), and with \(4\*"),
    "strides": (
        _records(aten.mul.Tensor, lambda x: x.new_empty_strided(x.shape, (1, 4))),
        r"`mul.*` = .* with strides \(1, 4\), and with \(4, 1\)",
    ),
    "offset": (
        _records(aten.cos.default, lambda x: torch.as_strided(x, x.shape, x.stride(), 3)),
        r"`cos` = .* with storage offset 3, and with 0",
    ),
    "layout": (
        _records(aten.mul.Tensor, lambda x: x.new_empty((5, 4)).to_sparse()),
        r"`mul.*` = .* with layout torch.sparse_coo",
    ),
}


@pytest.mark.parametrize("name", _DIFFERENCES)
def test_difference_is_found_and_named(name: str) -> None:
    edit, expected = _DIFFERENCES[name]
    ours = _ours()
    edit(ours)
    found = differences(ours, _theirs())
    assert any(re.search(expected, text) for text in found), found


@pytest.mark.parametrize("name", _DIFFERENCES)
def test_difference_is_found_the_other_way_round(name: str) -> None:
    ours = _ours()
    _DIFFERENCES[name][0](ours)
    # How theirs computes sizes is what ours is compared with.
    assert differences(_theirs(), ours) or name in ("size that is not what is recorded", "more nodes for sizes")


def test_size_of_another_input_is_another_size() -> None:
    shapes = ({0: Dim("m")}, {0: Dim("n")})
    args = (torch.ones(5, 4), torch.ones(7, 4))

    def exported() -> ExportedProgram:
        return export(lambda x, y: (torch.ones(x.shape[0]), y.sum()), *args, dynamic_shapes=(shapes,)).run_decompositions()

    ours = exported()
    size = _first(ours, aten.sym_size.int)
    (_, y) = ours.graph.find_nodes(op="placeholder")
    _argument(size, 0, y)
    size.meta["val"] = y.meta["val"].shape[0]
    assert any(re.search(r"ours has `full` = .* where theirs has `full`", text) for text in differences(ours, exported()))


# -- no differences ------------------------------------------------------------------------------------------------------------------


def _renamed(program: ExportedProgram) -> None:
    names = {}
    for node in program.graph.nodes:
        names[node.name] = node.name = f"other_{node.name}"
    for spec in (*program.graph_signature.input_specs, *program.graph_signature.output_specs):
        spec.arg = type(spec.arg)(names[spec.arg.name])


def _reordered(program: ExportedProgram) -> None:
    chosen = random.Random(0)
    ordered = [node for node in program.graph.nodes if node.op == "call_function" and node.target is not aten.rand_like.default]
    for node in chosen.sample(ordered, len(ordered)):
        # As early as its arguments let it.
        latest = max([*node.all_input_nodes, *program.graph.find_nodes(op="placeholder")])
        latest.append(node)


def _by_keywords(program: ExportedProgram) -> None:
    node = _first(program, aten._softmax.default)
    node.args, node.kwargs = (), dict(zip(("self", "dim", "half_to_float"), node.args, strict=True))


def _default_written_out(program: ExportedProgram) -> None:
    _first(program, aten.add.Tensor).update_kwarg("alpha", 1)


def _size_in_other_words(program: ExportedProgram) -> None:
    node = _first(program, operator.add)
    node.args = (node.args[1], node.args[0])


def _message_of_an_assertion(program: ExportedProgram) -> None:
    _argument(_first(program, aten._assert_scalar.default), 1, "another message")


def _subgraphs_renamed(program: ExportedProgram) -> None:
    for node in program.graph.find_nodes(op="get_attr"):
        setattr(program.graph_module, f"other_{node.target}", getattr(program.graph_module, str(node.target)))
        node.target = f"other_{node.target}"


@pytest.mark.parametrize(
    "edit",
    [
        *(_renamed, _reordered, _by_keywords, _default_written_out, _size_in_other_words, _message_of_an_assertion),
        _subgraphs_renamed,
    ],
)
def test_what_is_no_difference_is_not_found(edit: _Edit) -> None:
    ours = _ours()
    edit(ours)
    assert differences(ours, _theirs()) == []
    assert differences(_theirs(), ours) == []


def test_symbols_may_have_other_names() -> None:
    def first(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1).exp() + torch.ones(y.shape[0] * 4)

    def second(some: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return first(some, other)

    rows, args = Dim("rows", min=3), (torch.ones(5, 4), torch.ones(5, 2))
    shapes = (({0: rows}, {0: rows}),)
    ours, theirs = (export(function, *args, dynamic_shapes=shapes).run_decompositions() for function in (first, second))
    assert differences(ours, theirs) == []


@pytest.mark.parametrize("name", ["nested", "in_place", "symbolic_scalars", "tied_weights", "scan"])
def test_program_is_like_itself_traced_again(name: str) -> None:
    case = by_name(name)
    assert differences(case.build(), case.program) == []


def test_input_that_has_lost_a_dynamic_size_is_named() -> None:
    def exported(*shapes: Any) -> ExportedProgram:
        module = Function(lambda a, b: a + b)
        return torch.export.export(module, (torch.ones(6, 4), torch.ones(6, 4)), dynamic_shapes=(shapes,))

    rows, others, columns = Dim("rows"), Dim("others"), Dim("columns")
    program = exported({0: rows}, {0: rows})
    assert input_changes(program, exported({0: others}, {0: others})) == []
    assert [change.partition(" is ")[0] for change in input_changes(program, exported({1: columns}, {1: columns}))] == [
        "input `args_0`",
        "input `args_1`",
    ]
    assert input_changes(program, exported({}, {}))

"""The comparisons that the tests rest on: identical programs, untouched shape environments, equal results."""

from __future__ import annotations

import copy
import functools
import io
import warnings
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import torch
from torch._subclasses import FakeTensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from retraced_server.torch_compat.shape_env_fields import FIELDS

from .case import Inputs, ProgramCase
from .describe import alias_sets, describe_program, values

# What a call returned, what became of its inputs, and of the program's parameters and buffers.
_Run = tuple[Any, Any, dict[str, torch.Tensor]]

# Stacks are of whoever made a symbol, and a key of a cache says nothing by itself.
_SHAPE_ENV_FACTS = tuple(
    name for name, kind in FIELDS.items() if kind.is_fact and name not in ("var_to_stack", "_prev_cache_key")
)
_FAKE_MODE_SETTINGS = (
    "allow_fallback_kernels",
    "allow_non_fake_inputs",
    "allow_scalar_outputs",
    "static_shapes",
    "in_kernel_invocation",
    "cache_enabled",
)


def assert_identical_programs(a: ExportedProgram, b: ExportedProgram, *, aliases: bool = True) -> None:
    """Asserts that two programs differ in nothing that can be seen.

    Args:
        a: A program.
        b: The other, with the same or another shape environment.
        aliases: Whether the same recorded values must share storages; a program read from a file has lost that.
    """
    one, other = describe_program(a), describe_program(b)
    _assert_same("program", one, other)
    if aliases:
        assert alias_sets(a) == alias_sets(b)


def _assert_same(path: str, a: Any, b: Any) -> None:
    # Descends to the first difference, since a diff of two whole programs cannot be read.
    if isinstance(a, dict) and isinstance(b, dict):
        assert list(a) == list(b), f"{path}: keys differ: {list(a)} != {list(b)}"
        for key in a:
            _assert_same(f"{path}.{key}", a[key], b[key])
    elif isinstance(a, (list, tuple)) and type(a) is type(b) and len(a) == len(b):
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            label = left["name"] if isinstance(left, dict) and "name" in left else index
            _assert_same(f"{path}[{label}]", left, right)
    else:
        assert type(a) is type(b), f"{path}: {a!r} != {b!r}"
        assert a == b, f"{path}: {a!r} != {b!r}"


def fake_mode_of(program: ExportedProgram) -> FakeTensorMode | None:
    """The fake tensor mode of a program's values, or None where no value is a fake tensor."""
    for _, leaf in values(program):
        if isinstance(leaf, FakeTensor):
            return leaf.fake_mode
    return None


def shape_env_snapshot(program: ExportedProgram) -> dict[str, Any]:
    """What the shape environment and the fake tensor mode of a program know now, as plain data."""
    mode = fake_mode_of(program)
    if mode is None:
        return {}
    facts: dict[str, Any] = {name: getattr(mode, name) for name in _FAKE_MODE_SETTINGS}
    facts["entered"] = len(mode.enter_stack)
    if isinstance(mode.shape_env, ShapeEnv):
        facts |= {name: _as_text(getattr(mode.shape_env, name)) for name in _SHAPE_ENV_FACTS}
    return facts


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _as_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_text(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    return value if isinstance(value, (int, bool)) else str(getattr(value, "expr", value))


def assert_shape_env_unchanged(before: dict[str, Any], program: ExportedProgram) -> None:
    """Asserts that a program's shape environment and fake tensor mode are as they were at a snapshot."""
    _assert_same("shape environment", before, shape_env_snapshot(program))


def assert_same_results(a: ExportedProgram, b: ExportedProgram, calls: Iterable[Inputs], *, exact: bool = False) -> None:
    """Asserts that two programs compute the same: outputs, what they write to their inputs, and the state they leave.

    Args:
        a: The program that is right.
        b: The program in question.
        calls: Arguments to call both with, each call on fresh copies of the programs' state.
        exact: Ask for equal bits; else for closeness. NaNs are equal to NaNs.
    """
    for number, (args, kwargs) in enumerate(calls):
        _assert_same_run(number, run(a, args, kwargs), run(b, args, kwargs), exact)


def assert_computes(case: ProgramCase, program: ExportedProgram, *, exact: bool = False) -> None:
    """Asserts that a program computes what the case's own does on all inputs of the case; that is computed once per process."""
    for number, ((args, kwargs), expected) in enumerate(zip(case.inputs(), _results(case), strict=True)):
        _assert_same_run(number, expected, run(program, args, kwargs), exact)


@functools.cache
def _results(case: ProgramCase) -> list[_Run]:
    return [run(case.program, args, kwargs) for args, kwargs in case.inputs()]


def _assert_same_run(number: int, expected: _Run, actual: _Run, exact: bool) -> None:
    for what, left, right in zip(("outputs", "inputs afterwards", "state afterwards"), expected, actual, strict=True):
        assert_close(f"call {number}, {what}", left, right, exact)


def run(program: ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Run:
    """Calls a program on copies of the inputs.

    Returns:
        What it returned, what became of the inputs, and of the parameters and buffers. The program's own state stays as it was.
    """
    state = {name: tensor.detach().clone() for name, tensor in program.state_dict.items()}
    constants = {name: value.clone() for name, value in program.constants.items() if isinstance(value, torch.Tensor)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = program.module()
        args, kwargs = copy.deepcopy((args, kwargs))
        torch.manual_seed(0)
        outputs = module(*args, **kwargs)
    signature = program.graph_signature
    after = {name: attrgetter(name)(module).detach().clone() for name in (*signature.parameters, *signature.buffers)}
    outputs = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.detach().clone(), outputs)
    with torch.no_grad():
        for name, tensor in program.state_dict.items():
            tensor.detach().copy_(state[name])
        for name, value in constants.items():
            program.constants[name].copy_(value)
    return outputs, (args, kwargs), after


def assert_close(what: str, expected: Any, actual: Any, exact: bool = False) -> None:
    """Asserts that two nested results are equal in structure and close in value; `what` says in the error what they are."""
    left, left_spec = pytree.tree_flatten(expected)
    right, right_spec = pytree.tree_flatten(actual)
    assert left_spec == right_spec, f"{what}: {left_spec} != {right_spec}"
    rtol, atol = (0.0, 0.0) if exact else (1e-4, 1e-5)
    for index, (a, b) in enumerate(zip(left, right, strict=True)):
        where = f"{what}, leaf {index}"
        if isinstance(a, torch.Tensor) or (isinstance(a, float) and isinstance(b, float)):
            torch.testing.assert_close(b, a, rtol=rtol, atol=atol, equal_nan=True, msg=f"{where}: {{}}".format)
        else:
            assert type(a) is type(b), f"{where}: {a!r} != {b!r}"
            assert a == b, f"{where}: {a!r} != {b!r}"


def assert_equivalent(case: ProgramCase, program: ExportedProgram) -> None:
    """Asserts that a rewritten program is valid, computes what the case's own does, and is saved and loaded by stock torch."""
    validate(program)
    assert_computes(case, program)
    if case.serializable:
        again = saved_and_loaded(program)
        validate(again)
        assert_computes(case, again)


def saved_and_loaded(program: ExportedProgram) -> ExportedProgram:
    """Passes a program through `torch.export.save` and `torch.export.load`."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return loaded(buffer.getvalue())


def loaded(archive: bytes) -> ExportedProgram:
    """Reads a program with `torch.export.load`."""
    return torch.export.load(io.BytesIO(archive))


def validate(program: ExportedProgram) -> None:
    """Asserts that torch accepts the program: its verifiers, each graph's own lint, and names that no two nodes share."""
    program.validate()
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            module.graph.lint()
            names = [node.name for node in module.graph.nodes]
            assert len(names) == len(set(names)), f"two nodes share a name: {sorted(names)}"

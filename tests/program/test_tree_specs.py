"""Tree specs: plain containers as torch reads them, others only where they are allowed."""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from retraced.checks.tree_specs import TreeSpecs as ClientTreeSpecs
from retraced_pt2.errors import FormatError
from retraced_server.errors import Reason, RetracedError
from retraced_server.program.tree_specs import TreeSpecs, dump_tree_spec

_KEYS = st.one_of(st.text(max_size=5), st.integers(-5, 5), st.booleans(), st.none())
_TREES = st.recursive(
    st.integers(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(_KEYS, inner, max_size=3),
        st.dictionaries(_KEYS, inner, max_size=3).map(OrderedDict),
        st.dictionaries(st.text(max_size=3), inner, max_size=2).map(lambda items: defaultdict(list, items)),
        st.lists(inner, max_size=2).map(lambda items: deque(items, maxlen=4)),
    ),
    max_leaves=12,
)
Point = namedtuple("Point", ["x", "y"])


@pytest.fixture
def registered() -> Iterator[str]:
    name = "retraced_tests.Point"
    pytree._register_namedtuple(Point, serialized_type_name=name)
    yield name
    pytree._deregister_pytree_node(Point)


def _read(text: str, *allowed: str) -> pytree.TreeSpec:
    return TreeSpecs(frozenset(allowed)).read(text)


@settings(max_examples=200, deadline=None)
@given(_TREES)
def test_reads_what_torch_reads(tree: Any) -> None:
    spec = pytree.tree_structure(tree)
    text = pytree.treespec_dumps(spec, 1)
    assert _read(text) == pytree.treespec_loads(text) == spec
    assert dump_tree_spec(spec) == text


def test_sizes_are_read() -> None:
    text = pytree.treespec_dumps(pytree.tree_structure(torch.Size([1, 2])), 1)
    assert _read(text) == pytree.treespec_loads(text)


def test_named_tuple_is_read_where_it_is_allowed(registered: str) -> None:
    text = pytree.treespec_dumps(pytree.tree_structure(Point(1, 2)), 1)
    assert _read(text, registered) == pytree.treespec_loads(text)
    with pytest.raises(RetracedError, match=r"the type `retraced_tests\.Point` in a tree spec is not allowed"):
        _read(text)


def test_type_that_is_not_registered_is_refused_though_it_is_allowed() -> None:
    with pytest.raises(RetracedError, match="is not registered"):
        _read(_spec("mylib.Point", "null"), "mylib.Point")


def _spec(kind: str | None, context: Any, children: int = 0) -> str:
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    return json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf] * children}])


def _deep(depth: int) -> str:
    leaf = '{"type": null, "context": null, "children_spec": []}'
    return "[1, " + '{"type": "builtins.tuple", "context": "null", "children_spec": [' * depth + leaf + "]}" * depth + "]"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[1]",
        "{",
        _spec("builtins.tuple", "null").replace("1,", "2,", 1),
        _spec("builtins.tuple", '{"a": 1}'),
        _spec("builtins.dict", '["a"]', children=2),
        _spec("builtins.dict", '[["a"]]', children=1),
        _spec("builtins.dict", '[{"__enum__": true, "fqn": "os:system", "name": "x"}]', children=1),
        _spec("builtins.dict", ["a"], children=1),
        _spec("builtins.dict", "[NaN]", children=1),
        _spec("builtins.dict", "[1e999]", children=1),
        _spec("builtins.dict", '["\\ud800"]', children=1),
        _spec("collections.deque", '"x"'),
        _spec("collections.deque", "-1"),
        _spec(
            "collections.defaultdict",
            {"default_factory_module": "os", "default_factory_name": "getcwd", "dict_context": []},
        ),
        _spec(
            "collections.defaultdict",
            {"default_factory_module": "builtins", "default_factory_name": "eval", "dict_context": []},
        ),
        _spec("collections.namedtuple", "os.stat_result"),
        _spec("os.path", "null"),
        _spec(None, "null"),
        _spec(None, None, children=1),
        _deep(10_000),
    ],
)
def test_other_specs_are_refused(text: str) -> None:
    with pytest.raises(RetracedError) as caught:
        _read(text)
    # What names a type or a factory may be read by another server, and what is too deep or long by another torch.
    unsupported = any(
        words in caught.value.message for words in ("is not read", "is not allowed", "nests containers", "are the most")
    )
    assert caught.value.reason is (Reason.PROGRAM_UNSUPPORTED if unsupported else Reason.PROGRAM_INVALID)


def _nested(depth: int) -> pytree.TreeSpec:
    spec: pytree.TreeSpec = pytree.treespec_leaf()
    for level in range(depth):
        spec = pytree.TreeSpec(list, None, [spec]) if level % 2 else pytree.TreeSpec(dict, ["n"], [spec])
    return spec


# Torch writes no more than some 330 from an empty stack.
@pytest.mark.parametrize("depth", [80, 300, 400])
def test_deep_specs_are_read_and_written_as_torch_does(depth: int) -> None:
    spec = pytree.TreeSpec(tuple, None, [pytree.TreeSpec(tuple, None, [_nested(depth)]), pytree.TreeSpec(dict, [], [])])
    text = dump_tree_spec(spec)
    if depth <= 200:
        assert text == pytree.treespec_dumps(spec, 1)
    assert _read(text).num_leaves == 1
    assert dump_tree_spec(_read(text)) == text
    ClientTreeSpecs((), ()).check_arguments(text)


def test_spec_that_is_deeper_than_the_stack_is_refused_by_both_without_a_fault() -> None:
    text = _deep(100_000)
    with pytest.raises(RetracedError):
        _read(text)
    with pytest.raises(FormatError):
        ClientTreeSpecs((), ()).check(text)

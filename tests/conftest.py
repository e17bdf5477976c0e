"""Parametrises tests over the test programs: a test that takes one of these fixtures runs once per program."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# Before any test imports grpc, which would otherwise have handlers run in the children that tests fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Before any test imports torch: with a process of tests per core, its threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Objects that are made between two collections, as in a server's workers. Tests hold programs of many objects to the end, which are no
# garbage: at the default of 700, looking at them again and again takes a quarter of all time.
gc.set_threshold(100_000)

# For `tests.support.examples`.
settings.register_profile("thorough", max_examples=1_000)

#: Fixture name -> tag of the programs it stands for; None for all.
_CASE_FIXTURES = {
    "any_case": None,
    "real_case": "architecture",
    "higher_order_case": "higher-order",
    "unbacked_case": "unbacked",
    "in_place_case": "in-place",
    "serializable_case": None,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, tag in _CASE_FIXTURES.items():
        if fixture not in metafunc.fixturenames:
            continue
        # Imported only here: most tests need no torch, and importing it takes seconds.
        from tests.support.models import ALL_CASES, by_tag

        cases = ALL_CASES if tag is None else by_tag(tag)
        if fixture == "serializable_case":
            cases = tuple(case for case in cases if case.serializable)
        metafunc.parametrize(fixture, cases, ids=str)


@pytest.fixture(scope="session", autouse=True)
def _default_port_is_taken() -> Iterator[None]:
    """A server of somebody else's may have it, so no test is to need it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", 50051)))
        yield


@pytest.fixture(autouse=True)
def _logging_stays_on() -> Iterator[None]:
    """Commands that a test calls in its own process turn warnings off for all that follows there."""
    yield
    logging.disable(logging.NOTSET)


#: The programs of `make test-quick`, each for what it has that the others have not: data-dependent sizes, writes to inputs and buffers and
#: a cond; signatures of modules; nested inputs and outputs; writes through views; symbolic numbers; subgraphs in subgraphs; a transformer;
#: and batch norm in training.
_EIGHT = {"everything", "preserved_parts", "containers", "in_place", "symbolic_scalars", "nested", "vit", "residual_net_train"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--programs",
        choices=("all", "eight"),
        default="all",
        help="of tests that run once for each of several test programs, run all or those of eight that stand for the others",
    )


def _leave_out_other_programs(config: pytest.Config, items: list[pytest.Item]) -> None:
    from tests.support.models import ALL_CASES, LLAMA_LIKE

    others = {case.name for case in (*ALL_CASES, LLAMA_LIKE)} - _EIGHT
    left_out = [item for item in items if _parameters(item) & others]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not _parameters(item) & others]


def _parameters(item: pytest.Item) -> set[str]:
    """The programs among a test's parameters, whether they are given themselves or by name; and other texts."""
    parameters = item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    return {value if isinstance(value, str) else getattr(value, "name", "") for value in parameters}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("programs") == "eight":
        _leave_out_other_programs(config, items)
    # In a process of several that run tests.
    if hasattr(config, "workerinput"):
        from tests.support.schedule import rank

        items.sort(key=lambda item: rank(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Spreads tests over processes such that those that share what takes long to make run in one."""
    from tests.support.schedule import Together

    return Together(config, log)


def pytest_collection_finish() -> None:
    # What the imports made stays to the end: no collection has to look at it again.
    gc.collect()
    gc.freeze()

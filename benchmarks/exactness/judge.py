"""Judges one program: decomposed by us and by stock torch, are the two node for node the same, and do they compute the same?"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch.export import ExportedProgram, default_decompositions

from retraced_server.analysis.equivalence import differences, input_changes
from retraced_server.passes import run_pipeline
from retraced_server.passes.decompose.stated_differences import unexplained
from retraced_server.torch_compat.operators import OpOverload, is_composite
from tests.support.case import ProgramCase
from tests.support.compare import run

Table = Literal["core-aten", "aten", "none"]
Outcome = Literal["equal", "differs", "not exported", "torch fails", "ours fails", "both fail"]
Route = Literal["locally", "by torch", "unchanged"]

# How far results may be apart, relatively and absolutely: that of torch's own tests, but for what another order of additions makes.
_TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float16: (1e-2, 1e-3),
    torch.bfloat16: (2e-2, 1e-2),
    torch.float32: (1e-4, 1e-5),
    torch.complex64: (1e-4, 1e-5),
    torch.float64: (1e-7, 1e-7),
    torch.complex128: (1e-7, 1e-7),
}


@dataclass
class Verdict:
    """What came of one program.

    Attributes:
        source: Where the program is from.
        name: Its name there.
        table: The decomposition table.
        outcome: What came of it.
        differences: How ours differs from torch's, node for node.
        numbers: What differs of the results on random inputs; empty where nothing does.
        route: How it was decomposed, by what the pass remarks.
        remarks: Those remarks.
        error: Of whoever failed.
        seconds: How long torch and we took to decompose it.
        nodes: The nodes of the root graph.
    """

    source: str
    name: str
    table: Table
    outcome: Outcome = "equal"
    differences: list[str] = field(default_factory=list)
    numbers: str = ""
    route: Route = "unchanged"
    remarks: list[str] = field(default_factory=list)
    error: str = ""
    seconds: tuple[float, float] = (0.0, 0.0)
    nodes: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is of."""
        return self.source, self.name, self.table

    @property
    def is_finding(self) -> bool:
        """Whether it is what may not be: a failure that torch has not, other results, or a difference without a stated reason."""
        return self.outcome == "ours fails" or bool(self.numbers) or bool(unexplained(self.differences))

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def route_of(remarks: Iterable[str], *, modified: bool) -> Route:
    """Say how a program was decomposed, by the remarks of the pass."""
    if not modified:
        return "unchanged"
    return "by torch" if any(remark.startswith("decomposed by torch:") for remark in remarks) else "locally"


def stock_table(table: Table) -> dict[Any, Any] | None:
    """Return the table that `run_decompositions` is given for one of ours; None is its own."""
    if table == "core-aten":
        return None
    default = default_decompositions() if table == "aten" else {}
    return {op: default[op] for op in default if isinstance(op, OpOverload) and is_composite(op)}


def judge(source: str, case: ProgramCase, table: Table) -> Verdict:
    """Decompose a program in both ways, each time of an export of its own, and compare."""
    verdict = Verdict(source, case.name, table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program, other = case.build(), case.build()
        except Exception as error:  # noqa: BLE001 - whatever export raises, there is no program
            return _failed(verdict, "not exported", error)
        verdict.nodes = len(program.graph.nodes)
        theirs, their_error, their_seconds = _attempt(lambda: other.run_decompositions(stock_table(table)))
        result, our_error, our_seconds = _attempt(lambda: run_pipeline(program, f"decompose{{table={table}}}"))
        verdict.seconds = their_seconds, our_seconds
        if result is None:
            return _failed(verdict, "both fail" if theirs is None else "ours fails", our_error)
        (report,) = result.reports
        verdict.remarks = list(report.remarks)
        verdict.route = route_of(report.remarks, modified=result.modified)
        if theirs is None:
            _failed(verdict, "torch fails", their_error)
        else:
            verdict.differences = [*input_changes(program, result.program), *differences(result.program, theirs)]
            verdict.outcome = "differs" if verdict.differences else "equal"
        with _filled_memory():
            verdict.numbers = _compare_results(case, other, theirs, result.program)
    return verdict


def _attempt(task: Any) -> tuple[Any, Exception | None, float]:
    start = time.perf_counter()
    try:
        return task(), None, time.perf_counter() - start
    except Exception as error:  # noqa: BLE001 - torch raises what it likes
        return None, error, time.perf_counter() - start


def _failed(verdict: Verdict, outcome: Outcome, error: Exception | None) -> Verdict:
    verdict.outcome = outcome
    verdict.error = f"{type(error).__name__}: {str(error).strip()}"[:500]
    return verdict


@contextmanager
def _filled_memory() -> Iterator[None]:
    """Have torch fill memory that operators such as `empty` leave as it is, so that what they give can be compared."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _compare_results(case: ProgramCase, program: ExportedProgram, theirs: ExportedProgram | None, ours: ExportedProgram) -> str:
    """Return what differs of the results of ours; the program itself says who is right, and is what counts where torch failed."""
    for number, (args, kwargs) in enumerate(case.inputs()):
        expected, error, _ = _attempt(lambda args=args, kwargs=kwargs: run(program, args, kwargs))
        if error is not None:
            # The program was exported for other sizes than these, or cannot be run at all.
            continue
        actual, error, _ = _attempt(lambda args=args, kwargs=kwargs: run(ours, args, kwargs))
        if error is not None:
            return f"call {number}: ours raises {type(error).__name__}: {error}"[:500]
        stock = None
        if theirs is not None:
            stock, error, _ = _attempt(lambda args=args, kwargs=kwargs: run(theirs, args, kwargs))
        found = apart(expected if stock is None else stock, actual)
        if found and stock is not None:
            right = "ours" if not apart(expected, actual) else "torch's" if not apart(expected, stock) else "neither"
            found = f"{found} (like the program itself is {right})"
        if found and not found.endswith("is ours)"):
            return f"call {number}: {found}"
    return ""


# Results are nested in any way.
def apart(expected: Any, actual: Any) -> str:
    """Say what differs of two results by more than their types let it; empty where nothing does."""
    left, left_spec = torch.utils._pytree.tree_flatten(expected)
    right, right_spec = torch.utils._pytree.tree_flatten(actual)
    if left_spec != right_spec:
        return f"structure {right_spec} and not {left_spec}"
    for place, (one, other) in enumerate(zip(left, right, strict=True)):
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            rtol, atol = _TOLERANCES.get(one.dtype, (0.0, 0.0))
            try:
                torch.testing.assert_close(other, one, rtol=rtol, atol=atol, equal_nan=True)
            except AssertionError as error:
                return f"leaf {place}: {' '.join(str(error).split())}"[:300]
        elif type(one) is not type(other) or not (one == other or (one != one and other != other)):
            return f"leaf {place}: {other!r} and not {one!r}"
    return ""

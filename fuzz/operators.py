"""Calls every operator that programs may hold with extreme arguments, on fake tensors as passes do, in processes of their own.

No call may end the process, and none may take long or much memory: an error is all that is to come of arguments that do not fit.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import mmap
import os
import random
import resource
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils import _pytree as pytree

from fuzz.report import Finding, Report
from retraced_server.program.argument_checks import check_arguments
from retraced_server.program.operator_lists import listed_operators
from retraced_server.program.operators import Operators
from retraced_server.retrace.execute import execute
from retraced_server.torch_compat.batch_dims import check_batch_dims
from retraced_server.torch_compat.decompositions import TableChoice, decompositions
from retraced_server.torch_compat.fake_tensors import run_no_real_kernels
from retraced_server.torch_compat.small_constants import keep_constants_small

MOST_SECONDS: Final = 20.0
"""Processor time that one call may take."""
MOST_BYTES: Final = 256 << 20
"""Memory that one call may add to the most that its process had."""
_MOST_WAITS: Final = 10
"""How many times that processor time a call may take by the clock, on a machine that does other things too."""
_ADDRESS_SPACE: Final = 4 << 30
_BATCH: Final = 400
"""Calls of one process."""

_INTEGERS: Final = (
    *(-(2**63), -(2**40), -(2**31), -1000, -50, -3, -2, -1, 0, 1, 2, 3, 5, 9, 65, 1000),
    *(2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1),
)
_FLOATS: Final = (0.0, 0.5, 1.0, -1.0, 1e300, math.inf, -math.inf, math.nan)
_TEXTS: Final = ("", "mean", "sum", "none", "ij,jk->ik", "...", "reflect", "floor", "max", "x" * 5000)
_SHAPES: Final = (
    *((), (1,), (3,), (0,), (4, 4), (0, 3), (2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4, 5), (2**20,)),
    *((2**31, 2), (0, 2**62), (1,) * 64),
)
_DTYPES: Final = (
    *(torch.float32, torch.float16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.uint8, torch.int8),
)
_LENGTHS: Final = (0, 1, 1, 2, 2, 3, 4, 8, 65)


@dataclass(frozen=True)
class Call:
    """A call of an operator; the seed makes its arguments."""

    op: OpOverload
    seed: int


class _Slow(BaseException):
    """A call takes too long. No `Exception`, which an operator may catch."""


def fuzz_operators(
    report: Report,
    names: Sequence[str] = (),
    *,
    count: int | None = None,
    seconds: float | None = None,
    progress: Callable[[Report], None] = lambda _: None,
) -> None:
    """Call operators with random extreme arguments, in rounds of each once, and count what comes of the calls.

    Args:
        report: Where they are counted. Its seed is that of the first round.
        names: Which, such as `aten.add.Tensor`; without any, all that programs may hold by default.
        count: How many calls; None is no bound.
        seconds: Seconds after which no further process is begun; None is no bound.
        progress: Called after each process.
    """
    calls = _calls(find_operators(names or sorted(listed_operators())), report.seed)
    # Once in this process, and not in each that it forks: what torch makes at its first call.
    for way in _WAYS:
        way(torch.ops.aten.nonzero.default, (torch.empty(2),), {})
    report.begin()
    left: list[Call] = []
    while count is None or report.count < count:
        if seconds is not None and time.monotonic() - report.started >= seconds:
            return
        left += islice(calls, (_BATCH if count is None else min(_BATCH, count - report.count)) - len(left))
        del left[: _run(report, left)]
        report.end()
        progress(report)


def find_operators(names: Iterable[str]) -> list[OpOverload]:
    """Return the operators of names that programs may hold wherever a server runs."""
    operators = Operators(frozenset())
    return [operators.find_operator(f"torch.ops.{name}") for name in names]  # type: ignore[misc]


def _calls(operators: Sequence[OpOverload], seed: int) -> Iterator[Call]:
    for each in itertools.count(seed):
        # Shuffled, so that a run that ends early has met a sample of them.
        for op in random.Random(each).sample(operators, len(operators)):
            yield Call(op, each)


def call_once(call: Call) -> str:
    """Call an operator in this process with the arguments of a seed, in each way that passes call it.

    Returns:
        "ran", or the type of what the first way raised.
    """
    args, kwargs = _arguments(call)
    outcomes = []
    for way in _WAYS:
        with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True) as mode, torch.no_grad():
            try:
                fake_args, fake_kwargs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, (args, kwargs))
                check_arguments(call.op, fake_args, fake_kwargs, lambda size: size)
                way(call.op, fake_args, fake_kwargs)
            # Whatever it makes of arguments that do not fit it.
            except Exception as error:  # noqa: BLE001
                outcomes.append(type(error).__name__)
            else:
                outcomes.append("ran")
    return outcomes[0]


def _execute(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    execute(op, args, kwargs)


def _decompose(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    def called(*tensors: torch.Tensor) -> Any:
        for place, tensor in zip(places, tensors, strict=True):
            leaves[place] = tensor
        call_args, call_kwargs = pytree.tree_unflatten(leaves, spec)
        return op(*call_args, **call_kwargs)

    functional = torch.func.functionalize(called, remove="mutations_and_views")
    make_fx(functional, dict(decompositions(TableChoice("core-aten")).python))(*(leaves[place] for place in places))


_WAYS: Final = (_execute, _decompose)


def _arguments(call: Call) -> tuple[tuple[Any, ...], dict[str, Any]]:
    op, chosen = call.op, random.Random(f"{call.op}:{call.seed}")
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    skipped = False
    for argument in op._schema.arguments:
        if argument.has_default_value() and chosen.random() < 0.3:
            skipped = True
            continue
        value = _value(argument.type, str(argument.real_type), chosen)
        # After one that is left out, an argument is given by its name.
        if argument.kwarg_only or skipped:
            kwargs[argument.name] = value
        else:
            args.append(value)
    return tuple(args), kwargs


def _value(kind: Any, real: str, chosen: random.Random) -> Any:
    # `kind` is a JIT type, whose classes torch does not declare.
    name = kind.kind()
    if name == "OptionalType":
        return None if chosen.random() < 0.4 else _value(kind.getElementType(), real, chosen)
    if name == "ListType":
        return [_value(kind.getElementType(), real, chosen) for _ in range(chosen.choice(_LENGTHS))]
    if "ScalarType" in real:
        return chosen.choice(_DTYPES)
    if "Layout" in real:
        return torch.strided
    if "MemoryFormat" in real:
        return chosen.choice((torch.contiguous_format, torch.channels_last, torch.preserve_format))
    return _PLAIN[name](chosen)


def _tensor(chosen: random.Random) -> torch.Tensor:
    dtype = chosen.choice(_DTYPES) if chosen.random() < 0.4 else torch.float32
    return torch.empty(chosen.choice(_SHAPES), dtype=dtype, device="meta")


def _integer(chosen: random.Random) -> int:
    return chosen.choice(_INTEGERS) if chosen.random() < 0.5 else chosen.choice((0, 1, 2, 3))


_PLAIN: Final[dict[str, Callable[[random.Random], Any]]] = {
    "TensorType": _tensor,
    "IntType": _integer,
    "SymIntType": _integer,
    "FloatType": lambda chosen: chosen.choice(_FLOATS),
    "NumberType": lambda chosen: chosen.choice((0, 1, 2, 0.5, -1, 2**62, 2**63, math.inf, True)),
    "BoolType": lambda chosen: chosen.random() < 0.5,
    "SymBoolType": lambda chosen: chosen.random() < 0.5,
    "StringType": lambda chosen: chosen.choice(_TEXTS),
    # Of all operators on the list only the names of process groups are so.
    "AnyType": lambda chosen: chosen.choice(_TEXTS),
    "DeviceObjType": lambda chosen: torch.device(chosen.choice(("cpu", "meta"))),
    "GeneratorType": lambda chosen: None,
    "ComplexType": lambda chosen: 1j,
    "NoneType": lambda chosen: None,
}


def _run(report: Report, calls: Sequence[Call]) -> int:
    """Make calls in a process of their own. How many were made: it ends with one that ends the process."""
    at = mmap.mmap(-1, 8)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _child(calls, at, writing)
        finally:
            os._exit(0)
    os.close(writing)
    hung = _collect(report, calls, reading, at, child)
    _, status = os.waitpid(child, 0)
    index = int.from_bytes(at[:], "little")
    at.close()
    if index >= len(calls):
        return len(calls)
    kind = "hang" if hung else f"crash {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else "exit"
    report.outcomes[kind] += 1
    _found(report, calls[index], kind, kind)
    return index + 1


def _collect(report: Report, calls: Sequence[Call], reading: int, at: mmap.mmap, child: int) -> bool:
    """Take outcomes until the process ends. Whether it had to be killed, since native code did not return."""
    waiting = b""
    last, since = -1, time.monotonic()
    with os.fdopen(reading, "rb", buffering=0) as outcomes:
        while True:
            if select.select([outcomes], [], [], 1.0)[0]:
                data = outcomes.read(1 << 16)
                if not data:
                    return False
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    index, outcome, finding = json.loads(line)
                    report.outcomes[outcome] += 1
                    if finding:
                        _found(report, calls[index], outcome, finding)
            if (index := int.from_bytes(at[:], "little")) != last:
                last, since = index, time.monotonic()
            elif time.monotonic() - since > _MOST_WAITS * MOST_SECONDS:
                os.kill(child, signal.SIGKILL)
                return True


def _child(calls: Sequence[Call], at: mmap.mmap, writing: int) -> None:
    logging.disable(logging.CRITICAL)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    torch.set_num_threads(1)
    run_no_real_kernels()
    keep_constants_small()
    check_batch_dims()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (pages * mmap.PAGESIZE + _ADDRESS_SPACE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _late)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index, call in enumerate(calls):
        at[:] = index.to_bytes(8, "little")
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        try:
            outcome, finding = call_once(call), ""
        except _Slow:
            outcome = finding = "slow"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        before, most = most, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if not finding and (more := (most - before) << 10) > MOST_BYTES:
            outcome, finding = "large", f"{more >> 20} MiB"
        os.write(writing, json.dumps([index, outcome, finding]).encode() + b"\n")
    at[:] = len(calls).to_bytes(8, "little")


def _late(_number: int, _frame: FrameType | None) -> None:
    raise _Slow


def _found(report: Report, call: Call, kind: str, detail: str) -> None:
    text = f"{kind} in {call.op} with {_shown(_arguments(call))}: {detail}"
    report.found(Finding(kind, str(call.op), call.seed, (), text), b"")


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype)[6:]}{list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_shown(item)}' for key, item in value.items())}}}"
    return repr(value)[:60]

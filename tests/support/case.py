"""What a test program is: a module, the inputs it is exported with, and more inputs to compare results on."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

#: Positional and keyword arguments of one call. `Any`: they are arbitrary pytrees.
Inputs = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class ProgramCase:
    """A program by name, exported on demand with the weights of a fixed seed.

    Attributes:
        name: Unique; the test id.
        module: Makes the module.
        inputs: Makes the calls on which results are compared. The first is the one that is exported.
        dynamic_shapes: As `torch.export.export` takes it.
        strict: Export through Dynamo.
        preserve: Fully qualified names of modules whose call signature is preserved.
        functional: The program is decomposed to functional ATen IR (mutations become outputs).
        serializable: Stock torch can save and load it.
        tags: What the program is an example of.
    """

    name: str
    module: Callable[[], nn.Module]
    inputs: Callable[[], list[Inputs]]
    dynamic_shapes: dict[str, Any] | tuple[Any, ...] | list[Any] | None = None
    strict: bool = False
    preserve: tuple[str, ...] = ()
    functional: bool = False
    serializable: bool = True
    tags: frozenset[str] = field(default_factory=frozenset)

    def __repr__(self) -> str:
        return self.name

    def build(self) -> ExportedProgram:
        """Exports the program anew, for tests that could damage it; `program` is the shared one."""
        torch.manual_seed(0)
        module = self.module()
        args, kwargs = self.inputs()[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                module,
                args,
                kwargs,
                dynamic_shapes=self.dynamic_shapes,
                strict=self.strict,
                preserve_module_call_signature=self.preserve,
            )
            return program.run_decompositions() if self.functional else program

    @property
    def program(self) -> ExportedProgram:
        """The program, exported once per process and shared: never to be changed."""
        return _program(self)

    @property
    def decomposed(self) -> ExportedProgram:
        """The program in functional core ATen IR, once per process: never to be changed."""
        return _decomposed(self)

    @property
    def archive(self) -> bytes:
        """What `torch.export.save` writes of the program, once per process."""
        return _archive(self)

    @property
    def reloaded(self) -> ExportedProgram:
        """What `torch.export.load` reads of the archive, once per process: never to be changed."""
        return _reloaded(self)


@functools.cache
def _program(case: ProgramCase) -> ExportedProgram:
    return case.build()


@functools.cache
def _decomposed(case: ProgramCase) -> ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return case.program.run_decompositions()


@functools.cache
def _archive(case: ProgramCase) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(case.program, buffer)
    return buffer.getvalue()


@functools.cache
def _reloaded(case: ProgramCase) -> ExportedProgram:
    return torch.export.load(io.BytesIO(case.archive))


def seeded(*calls: Callable[[], Inputs]) -> Callable[[], list[Inputs]]:
    """Makes the inputs of a case from one function per call, each under its own fixed seed."""

    def make() -> list[Inputs]:
        result = []
        for seed, call in enumerate(calls):
            torch.manual_seed(seed + 1)
            result.append(call())
        return result

    return make


def of_sizes(call: Callable[..., Inputs], *sizes: Sequence[float]) -> Callable[[], list[Inputs]]:
    """Makes the inputs of a case by calling `call` with each of `sizes`, under a fixed seed each."""
    return seeded(*(functools.partial(call, *size) for size in sizes))

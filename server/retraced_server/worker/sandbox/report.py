"""What of the sandbox there is on a machine, for the log, for callers who ask, and for the decision to start."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class SandboxError(Exception):
    """Workers cannot be locked down; the message says what is missing, and what to do."""


class State(Enum):
    """Whether a layer is there."""

    IN_FORCE = "in force"
    MISSING = "missing"
    NOT_NEEDED = "not needed"


@dataclass(frozen=True)
class Layer:
    """One layer of the sandbox.

    Attributes:
        name: Its name: `seccomp`, `landlock`, `user`, `privileges`, `limits` or `namespaces`.
        state: Whether it is there.
        detail: What it is here, or why it is missing and what to do.
        required: Workers are not safe from programs of strangers without it.
    """

    name: str
    state: State
    detail: str
    required: bool = True

    def __str__(self) -> str:
        return f"{self.name} {self.state.value}: {self.detail}"


@dataclass(frozen=True)
class SandboxReport:
    """The layers, in the order in which they were put up."""

    layers: tuple[Layer, ...]

    @property
    def missing(self) -> tuple[Layer, ...]:
        """The required layers that are missing."""
        return tuple(layer for layer in self.layers if layer.required and layer.state is State.MISSING)

    def layer(self, name: str) -> Layer:
        """Return a layer by its name.

        Raises:
            KeyError: There is none of that name.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def __str__(self) -> str:
        return "; ".join(map(str, self.layers))

"""The weights of the program that a pass runs on: parameters, buffers and constant tensors by name, and what the pass makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import fx
from torch.export.graph_signature import InputKind

from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.torch_compat.fake_tensors import FakeTensor, no_dispatch, storage_id, version_of

WeightsUse = Literal["none", "digests", "values"]
"""What a pass has declared to read of weights, each more than the one before."""

_ORDER: tuple[WeightsUse, ...] = ("none", "digests", "values")


@dataclass(frozen=True)
class AddedWeight:
    """A parameter, buffer or constant that a pass has made. It becomes an input of the program where something reads the tensor, the object.

    `persistent` is None for what is no buffer.
    """

    name: str
    tensor: torch.Tensor
    kind: InputKind
    persistent: bool | None = None

    @property
    def is_state(self) -> bool:
        """Whether the state dictionary has it, and not the constants of the program."""
        return self.kind is InputKind.PARAMETER or bool(self.persistent)


@dataclass
class WeightChanges:
    """What a pass has made of weights.

    Attributes:
        replaced: New values by name.
        added: New weights.
        removed: Names to leave out, each with whether it is an error that something reads it when the pass has ended.
    """

    replaced: dict[str, torch.Tensor] = field(default_factory=dict)
    added: list[AddedWeight] = field(default_factory=list)
    removed: dict[str, bool] = field(default_factory=dict)


class Weights(Mapping[str, torch.Tensor]):
    """The weights of a program by name, as `state_dict` and `constants` name them: `weights["fc.weight"]` reads one, nothing before does.

    What is read is the given program's own tensor, without gradient, and must not be written to. Computing with it needs real tensors,
    whereas hooks run under fake ones: `with weights.eager(): scaled = weights["fc.weight"] * 2`.

    A changed weight is a new one, since others may read the old one, or a tensor of its storage: give what `add` returns to the operator that
    shall read it, as any constant, and `discard` the old one. `replace` is for a change that is right for all that reads a name.

    Args:
        tensors: All weights.
        inputs: The inputs of the root graph that stand for weights, each with the name of the weight.
        written: Names of those that the program writes to when it ends.
        use: What the pass has declared to read.
    """

    def __init__(
        self, tensors: Mapping[str, torch.Tensor], inputs: Mapping[fx.Node, str], written: frozenset[str], use: WeightsUse
    ) -> None:
        self._tensors = dict(tensors)
        self._inputs = {node.name: (name, node.meta.get("val")) for node, name in inputs.items()}
        self._names_read = frozenset(name for node, name in inputs.items() if node.users)
        self._written = written
        self._use = use
        self._changes = WeightChanges()
        # Those that were read, with how often they had been written to.
        self._read: dict[str, tuple[torch.Tensor, int]] = {}

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return the value of a weight.

        Raises:
            KeyError: There is none of that name.
            ExportPassError: The pass has not declared that it reads values, or the value is not here.
        """
        tensor = self._tensors[name]
        self._require("values", name)
        return self._value(name, tensor)

    def digest(self, name: str) -> str:
        """Return the sha256, in hexadecimal digits, of the elements of a weight in the order of its dimensions.

        Raises:
            KeyError: There is none of that name.
            ExportPassError: The pass has declared to read neither digests nor values, or the value is not here.
        """
        tensor = self._tensors[name]
        self._require("digests", name)
        with self.eager():
            elements = self._value(name, tensor).cpu().reshape(-1).contiguous().view(torch.uint8)
            return hashlib.sha256(elements.numpy().data).hexdigest()

    def name_of(self, value: object) -> str | None:
        """Return the name of the weight that a node or `ProxyValue` stands for; None where it is anything else.

        In the subgraph of a higher-order operator, whose inputs are operands, nothing stands for a weight.
        """
        node = (value.pending or value.node) if isinstance(value, ProxyValue) else value
        if not isinstance(node, fx.Node) or node.op != "placeholder":
            return None
        name, recorded = self._inputs.get(node.name, (None, None))
        return name if recorded is not None and node.meta.get("val") is recorded else None

    def shared_with(self, name: str) -> tuple[str, ...]:
        """Return the names of other weights in the same storage: tied ones, and parts of it."""
        storage = _storage(self._tensors[name])
        others = ((other, tensor) for other, tensor in self._tensors.items() if other != name)
        return tuple(other for other, tensor in others if storage is not None and storage == _storage(tensor))

    def is_written(self, name: str) -> bool:
        """Return whether the program gives a weight, or one in the same storage, a new value when it ends.

        In a program that is not functional, operators may write to others too.
        """
        return not self._written.isdisjoint((name, *self.shared_with(name)))

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Execute what is within on real tensors, without gradients, also where a hook runs under fake ones."""
        with no_dispatch(), torch.no_grad():
            yield

    # -- writing -----------------------------------------------------------------------------------------------------------------

    def add(self, name: str, value: torch.Tensor, *, persistent: bool = True) -> torch.Tensor:
        """Add a parameter, if the value is one, or else a buffer.

        Args:
            name: Its name. Where that is taken, it gets a number: `fc.weight_1`.
            value: Its value.
            persistent: Whether a buffer is part of the state dictionary.

        Returns:
            The tensor to give to operators. A weight that nothing reads when the pass has ended is not added.

        Raises:
            ExportPassError: The value is a fake tensor, or no module can have an attribute of the name.
        """
        _check_real(name, value)
        parts = name.split(".")
        if not all(parts) or any(".".join(parts[:end]) in self._tensors for end in range(1, len(parts))):
            raise ExportPassError(f"a weight cannot be named `{name}`: an attribute needs a name, and lies in a module")
        with self.eager():
            made = value.detach()
            if isinstance(value, torch.nn.Parameter):
                made = torch.nn.Parameter(made, requires_grad=value.requires_grad)
        if isinstance(made, torch.nn.Parameter):
            added = AddedWeight(self._free_name(name), made, InputKind.PARAMETER)
        else:
            added = AddedWeight(self._free_name(name), made, InputKind.BUFFER, persistent)
        self._tensors[added.name] = made
        self._changes.added.append(added)
        return made

    def replace(self, name: str, value: torch.Tensor) -> None:
        """Give a weight another value, for all that reads the name. Other names in its storage keep what they have.

        Names of the same tensor that nothing reads it by go along: the weights stay tied. torch.export has the users of tied weights read
        one name of them; another cannot be replaced alone.

        Args:
            name: Its name.
            value: Its value, of the same shape, dtype and device; `add` one where it has another.

        Raises:
            KeyError: There is none of that name.
            ExportPassError: The value does not fit; nothing reads the name but a tied one; or the program writes to a weight in the same
                storage, which must see what is written.
        """
        old = self._tensors[name]
        _check_real(name, value)
        if any(added.name == name for added in self._changes.added):
            raise ExportPassError(f"the pass has added `{name}` itself, which has no other value then: add() another")
        if (value.shape, value.dtype, value.device) != (old.shape, old.dtype, old.device):
            raise ExportPassError(
                f"`{name}` is {old.dtype} of shape {tuple(old.shape)} on {old.device}, and the value for it is {value.dtype} of shape "
                f"{tuple(value.shape)} on {value.device}: add() it as a weight of its own"
            )
        if any(
            known == name and isinstance(val, FakeTensor) and val.constant is not None for known, val in self._inputs.values()
        ):
            raise ExportPassError(f"the value of `{name}` is a constant, which recorded values were computed of: add() another")
        if name not in self._names_read and (tied := [other for other in self._tied(name) if other in self._names_read]):
            raise ExportPassError(f"nothing reads `{name}`: the tied weight is read as `{tied[0]}`, so replace that")
        along = unread_names(name, self._tensors, self._names_read)
        if self.is_written(name) and set(self.shared_with(name)) - set(along):
            raise ExportPassError(
                f"`{name}` shares its storage with other weights, and the program writes there: it cannot be replaced"
            )
        with self.eager():
            made = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device=old.device).copy_(value)
            if isinstance(old, torch.nn.Parameter):
                made = torch.nn.Parameter(made, requires_grad=old.requires_grad)
        for each in (name, *along):
            self._tensors[each] = self._changes.replaced[each] = made
            self._read.pop(each, None)

    def _tied(self, name: str) -> list[str]:
        """Return the other names of the same tensor, read or not."""
        return unread_names(name, self._tensors, frozenset())

    def remove(self, name: str) -> None:
        """Leave a weight out of the program. That something reads it when the pass has ended, or writes to it, is an error of the pass.

        Raises:
            KeyError: There is none of that name.
        """
        self._tensors[name]
        self._changes.removed[name] = True

    def discard(self, name: str) -> None:
        """Leave a weight out of the program when nothing reads it any more, nor writes to it: after this pass or a later one, such as `dce`.

        Raises:
            KeyError: There is none of that name.
        """
        self._tensors[name]
        self._changes.removed.setdefault(name, False)

    def changes(self) -> WeightChanges:
        """Return what the pass has made of the weights.

        Raises:
            ExportPassError: It has written to a weight that it has read.
        """
        for name, (tensor, version) in self._read.items():
            if version_of(tensor) != version:
                raise ExportPassError(
                    f"it wrote to `{name}`, the tensor of the program that it was given: give a new tensor to add() or replace()"
                )
        return self._changes

    def _require(self, use: WeightsUse, name: str) -> None:
        if _ORDER.index(self._use) < _ORDER.index(use):
            what = "the value" if use == "values" else "the digest"
            raise ExportPassError(
                f"it reads {what} of `{name}` and has declared to read {self._use} of weights: register "
                f"it with needs_weights=WeightsNeed.{use.upper()}"
            )

    def _value(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, FakeTensor) or tensor.is_meta:
            raise ExportPassError(
                f"the value of `{name}` is not here: the program has it on {tensor.device}, or was saved without"
            )
        if name not in self._read:
            with self.eager():
                read = tensor.detach()
            self._read[name] = read, version_of(read)
        return self._read[name][0]

    def _free_name(self, name: str) -> str:
        number, free = 0, name
        while free in self._tensors or any(known.startswith(f"{free}.") for known in self._tensors):
            number += 1
            free = f"{name}_{number}"
        return free


def _check_real(name: str, value: torch.Tensor) -> None:
    if isinstance(value, FakeTensor):
        raise ExportPassError(
            f"the value for `{name}` is a fake tensor, without data: compute it within `with weights.eager():`"
        )


def unread_names(name: str, tensors: Mapping[str, torch.Tensor], read: Set[str]) -> list[str]:
    """Return the other names of a tensor that no node reads it by: torch.export has the users of tied weights read one of their inputs.

    Args:
        name: The weight.
        tensors: All weights.
        read: Those that nodes read.
    """
    tensor, storage = tensors[name], _storage(tensors[name])
    return [
        other
        for other, same in tensors.items()
        if other != name
        and other not in read
        and storage is not None
        and storage == _storage(same)
        and _same_view(same, tensor)
    ]


def _storage(tensor: torch.Tensor) -> int | None:
    return storage_id(tensor) if tensor.layout is torch.strided else None


def _same_view(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (one.dtype, one.shape, one.stride(), one.storage_offset()) == (
        other.dtype,
        other.shape,
        other.stride(),
        other.storage_offset(),
    )

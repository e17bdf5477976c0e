"""A node's metadata as hooks see it. The behaviour follows torch/_export/pass_infra/node_metadata.py."""

from __future__ import annotations

from typing import Any

from retraced_server.retrace.metadata_containers import is_container, own_containers

# Metadata is an open dictionary in torch: any key, any value.
NodeMetadataValue = Any

# What the engine itself keeps right, or what is the model author's.
PROTECTED_KEYS = frozenset({"val", "stack_trace", "nn_module_stack", "debug_handle", "tensor_meta"})


class NodeMetadata:
    """A copy of a node's metadata that a hook can read, add to and hand on; a dictionary or list that it reads is a copy as well.

    Attributes:
        held: What it holds, to be read only: its containers may still be the node's.
    """

    __slots__ = ("_given", "_has_own_containers", "held")

    def __init__(self, data: dict[str, NodeMetadataValue]) -> None:
        self.held: dict[str, NodeMetadataValue] = data.copy()
        self._has_own_containers = False
        # What it is a copy of, as long as nobody can have changed it.
        self._given: dict[str, NodeMetadataValue] | None = data

    @property
    def data(self) -> dict[str, NodeMetadataValue]:
        """The dictionary that it is, with containers of its own, which are copied when a hook first asks for any."""
        if not self._has_own_containers:
            self._has_own_containers = True
            self._given = None
            own_containers(self.held, {})
        return self.held

    @data.setter
    def data(self, data: dict[str, NodeMetadataValue]) -> None:
        self.held = data
        self._given = None

    def is_copy_of(self, metadata: dict[str, NodeMetadataValue]) -> bool:
        """Whether it is known to hold what it was made of; where it is not, it may hold the same nevertheless."""
        return self._given is metadata

    def __getitem__(self, key: str) -> NodeMetadataValue:
        value = self.held[key]
        return self.data[key] if is_container(value) else value

    def __setitem__(self, key: str, value: NodeMetadataValue) -> None:
        """Set a key.

        Raises:
            RuntimeError: The key is one of `PROTECTED_KEYS`.
        """
        if key in PROTECTED_KEYS:
            raise RuntimeError(f"Could not override node key: {key}")
        self.held[key] = value
        self._given = None

    def __contains__(self, key: str) -> bool:
        return key in self.held

    def copy(self) -> NodeMetadata:
        """Copy it; the values are shared."""
        return NodeMetadata(self.held)

"""A node's metadata as hooks see it. The behaviour follows torch/_export/pass_infra/node_metadata.py."""

from __future__ import annotations

from typing import Any

from retraced_server.retrace.metadata_containers import copy_container

# Metadata is an open dictionary in torch: any key, any value.
NodeMetadataValue = Any

# What the engine itself keeps right, or what is the model author's.
PROTECTED_KEYS = frozenset({"val", "stack_trace", "nn_module_stack", "debug_handle", "tensor_meta"})


class NodeMetadata:
    """A copy of a node's metadata that a hook can read, add to and hand on; a dictionary or list that it reads is a copy as well."""

    __slots__ = ("data",)

    def __init__(self, data: dict[str, NodeMetadataValue]) -> None:
        self.data: dict[str, NodeMetadataValue] = data.copy()

    def __getitem__(self, key: str) -> NodeMetadataValue:
        value = self.data[key] = copy_container(self.data[key], {}) if key != "val" else self.data[key]
        return value

    def __setitem__(self, key: str, value: NodeMetadataValue) -> None:
        """Sets a key.

        Raises:
            RuntimeError: The key is one of `PROTECTED_KEYS`.
        """
        if key in PROTECTED_KEYS:
            raise RuntimeError(f"Could not override node key: {key}")
        self.data[key] = value

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def copy(self) -> NodeMetadata:
        """Copies it; the values are shared."""
        return NodeMetadata(self.data)

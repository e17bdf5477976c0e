"""Makes the protobuf and gRPC stubs from proto/ when the package is built: for wheel, sdist and editable installs alike."""

from __future__ import annotations

import importlib.resources
import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Where each proto package's stubs go: the import path equals the proto path.
_DESTINATIONS = {"retraced/v1": "client", "retraced_server/worker/v1": "server"}
# Packages with services; the others need no gRPC stubs.
_WITH_SERVICES = {"retraced/v1"}


class StubsBuildHook(BuildHookInterface[Any]):
    """Runs protoc with mypy-protobuf over every package in proto/."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generates the stubs before files are collected.

        Raises:
            RuntimeError: protoc rejected a file.
        """
        from grpc_tools import protoc

        root = Path(self.root)
        proto = root / "proto"
        well_known = importlib.resources.files("grpc_tools") / "_proto"
        for package, destination in _DESTINATIONS.items():
            out = root / destination
            generated = out / package
            shutil.rmtree(generated, ignore_errors=True)
            generated.mkdir(parents=True)
            files = sorted((proto / package).glob("*.proto"))
            arguments = ["protoc", f"-I{proto}", f"-I{well_known}", f"--python_out={out}", f"--mypy_out=quiet:{out}"]
            if package in _WITH_SERVICES:
                services = [file for file in files if "\nservice " in file.read_text()]
                _run(protoc, [*arguments, *map(str, files)])
                _run(
                    protoc,
                    ["protoc", f"-I{proto}", f"-I{well_known}", f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"]
                    + list(map(str, services)),
                )
            else:
                _run(protoc, [*arguments, *map(str, files)])
            (generated / "__init__.py").write_text('"""Generated from proto/ when the package is built; do not edit."""\n')


def _run(protoc: Any, arguments: list[str]) -> None:
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc failed: {' '.join(arguments)}")

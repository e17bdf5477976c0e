"""Makes the protobuf and gRPC stubs from proto/ when the package is built: for wheel, sdist and editable installs alike."""

from __future__ import annotations

import importlib.resources
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Where each proto package's stubs go: the import path equals the proto path.
_DESTINATIONS = {"retraced/v1": "client", "retraced_server/worker/v1": "server"}
_INIT = '"""Generated from proto/ when the package is built; do not edit."""\n'


class StubsBuildHook(BuildHookInterface[Any]):
    """Runs protoc with mypy-protobuf over every package in proto/."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate the stubs before files are collected.

        Raises:
            RuntimeError: protoc rejected a file.
        """
        root = Path(self.root)
        for package, destination in _DESTINATIONS.items():
            # Made aside and moved, so that a rejected file leaves the stubs of an editable install as they were.
            with tempfile.TemporaryDirectory() as scratch:
                _generate(root / "proto", package, Path(scratch))
                target = root / destination / package
                shutil.rmtree(target, ignore_errors=True)
                shutil.move(Path(scratch) / package, target)


def _generate(proto: Path, package: str, out: Path) -> None:
    files = sorted((proto / package).glob("*.proto"))
    services = [file for file in files if "\nservice " in file.read_text(encoding="utf-8")]
    _protoc(proto, files, f"--python_out={out}", f"--mypy_out=quiet:{out}")
    if services:
        _protoc(proto, services, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}")
    (out / package / "__init__.py").write_text(_INIT, encoding="utf-8")


def _protoc(proto: Path, files: list[Path], *outputs: str) -> None:
    # Imported here: hatchling loads this file for every command, and only a build has grpcio-tools.
    from grpc_tools import protoc

    well_known = importlib.resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"-I{proto}", f"-I{well_known}", *outputs, *map(str, files)]
    if protoc.main(arguments) != 0:
        raise RuntimeError(f"protoc failed: {' '.join(arguments)}")

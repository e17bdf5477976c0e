"""What importing a package loads: clients and the front end start fast because torch is nowhere in them."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import retraced
import retraced.v1
import retraced_pt2
import retraced_server.engine
import retraced_server.pipeline
import retraced_server.service


def _loaded_by(*modules: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after importing `modules`."""
    imports = "".join(f"import {module}\n" for module in modules)
    code = f"{imports}import sys, json; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return set(json.loads(output))


def _modules_of(package: object) -> list[str]:
    path, name = package.__path__, package.__name__  # type: ignore[attr-defined]
    return [name, *(module.name for module in pkgutil.walk_packages(path, f"{name}."))]


def test_import_retraced_loads_neither_grpc_nor_protobuf() -> None:
    assert not _loaded_by("retraced") & {"grpc", "google", "torch", "numpy", "rich", "click"}


def test_messages_load_without_grpc() -> None:
    messages = [name for name in _modules_of(retraced.v1) if not name.endswith("_grpc")]

    assert not _loaded_by(*messages) & {"grpc", "torch", "numpy"}


def test_every_client_module_loads_without_torch_and_the_server_and_what_the_base_install_does_not_have() -> None:
    assert not _loaded_by(*_modules_of(retraced)) & {"torch", "numpy", "retraced_server", "msgspec", "sympy"}


def test_every_module_of_the_format_loads_alone() -> None:
    loaded = _loaded_by(*_modules_of(retraced_pt2))

    assert not loaded & {"torch", "numpy", "sympy", "grpc", "google", "retraced", "retraced_server"}


@pytest.mark.parametrize(
    "package", [retraced_server.service, retraced_server.engine, retraced_server.pipeline], ids=lambda p: p.__name__
)
def test_the_front_end_loads_without_torch(package: object) -> None:
    assert not _loaded_by(*_modules_of(package)) & {"torch", "numpy", "transformers"}

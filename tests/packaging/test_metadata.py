"""What `pip install` of the distribution and of its extras asks for."""

from __future__ import annotations

import importlib.metadata
import importlib.resources

from packaging.requirements import Requirement


def _requirements(extra: str) -> set[str]:
    """Names of the distributions that `retraced[extra]` names itself; an empty `extra` is the base install."""
    found = map(Requirement, importlib.metadata.requires("retraced") or [])
    return {r.name for r in found if r.marker is None or (extra and r.marker.evaluate({"extra": extra}))}


def test_the_base_install_is_grpc_and_protobuf() -> None:
    assert _requirements("") == {"grpcio", "protobuf", "googleapis-common-protos"}


def test_only_the_server_asks_for_torch() -> None:
    assert "torch" in _requirements("server")
    assert "torch" not in _requirements("cli")


def test_the_build_tools_of_the_stubs_stay_out_of_every_extra() -> None:
    for extra in importlib.metadata.metadata("retraced").get_all("Provides-Extra", []):
        assert "grpcio-tools" not in _requirements(extra)


def test_all_packages_say_that_they_are_typed() -> None:
    for package in ("retraced", "retraced_pt2", "retraced_server"):
        assert importlib.resources.files(package).joinpath("py.typed").is_file()


def test_the_command_is_installed() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="retraced")

    assert command.value == "retraced.cli:main"

"""What `pip install` of the package gives: in empty environments, from the tree and from built distributions."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.models import by_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "hatch_build.py", "README.md", "constraints.txt", "proto", "format", "client", "server")
STUBS = {
    f"retraced/v1/{name}{ending}"
    for name in ("graph_transform_pb2", "node_metadata_pb2", "passes_pb2", "program_pb2", "graph_transform_pb2_grpc")
    for ending in (".py", ".pyi")
} | {"retraced/v1/__init__.py", "retraced_server/worker/v1/messages_pb2.py", "retraced_server/worker/v1/messages_pb2.pyi"}


@dataclass(frozen=True)
class Environment:
    """A virtual environment without even pip."""

    path: Path
    empty_bytes: int

    def run(self, *command: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of it, somewhere where neither the tree nor the test's own environment is found."""
        program, *arguments = map(str, command)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RETRACED"))}
        return subprocess.run(
            [self.path / "bin" / program, *arguments],
            cwd=cwd or self.path,
            env=inherited | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    def processor_seconds(self, code: str) -> float:
        """Processor time of an interpreter of it that runs some code."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.run("python", "-c", code).check_returncode()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def packages(self) -> set[str]:
        """The names of the distributions that are installed."""
        listed = self.run(
            "python", "-c", "import importlib.metadata as m; print(*(d.metadata['Name'].lower() for d in m.distributions()))"
        )
        return set(listed.stdout.split())


def pip(*arguments: str | Path) -> None:
    """Runs pip of the test's own environment.

    Raises:
        AssertionError: It failed; the message is what it wrote.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def install(path: Path, *requirements: str | Path) -> Environment:
    """Makes an environment and installs something into it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    environment = Environment(path, size(path))
    pip("--python", path / "bin/python", "install", "-c", ROOT / "constraints.txt", *requirements)
    return environment


def size(path: Path) -> int:
    """Bytes of all files below a path."""
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as a clone has them, without stubs: a build writes them beside the sources."""
    probe = tmp_path_factory.mktemp("probe")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(probe), "hatchling"]
    reached = subprocess.run(command, capture_output=True, text=True, check=False)
    if reached.returncode != 0:
        pytest.skip(f"pip reaches no package index: {(reached.stderr or reached.stdout).strip().splitlines()[-1]}")
    copy = tmp_path_factory.mktemp("tree")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, copy / name, ignore=shutil.ignore_patterns("v1" if name != "proto" else "", "__pycache__")
            )
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def distributions(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An sdist of the tree, and a wheel of the sdist."""
    out = tmp_path_factory.mktemp("dist")
    tools = install(tmp_path_factory.mktemp("tools"), *build_requirements())
    # protoc looks for its plugins in PATH.
    path = f"{tools.path / 'bin'}:{os.environ['PATH']}"
    built = tools.run("python", "-m", "hatchling", "build", "-t", "sdist", "-d", out, cwd=tree, PATH=path)
    assert built.returncode == 0, built.stdout + built.stderr
    (sdist,) = out.glob("*.tar.gz")
    pip("wheel", "--no-deps", "--wheel-dir", out, sdist)
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


def build_requirements() -> Sequence[str]:
    requirements: Sequence[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    return requirements


@pytest.fixture(scope="module")
def base(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with `pip install .` in it."""
    return install(tmp_path_factory.mktemp("base"), tree)


@pytest.fixture(scope="module")
def with_cli(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and its extra `cli`."""
    return install(tmp_path_factory.mktemp("cli"), f"{distributions[1]}[cli]")


def test_the_sdist_and_the_wheel_hold_the_stubs_and_no_tests(distributions: tuple[Path, Path]) -> None:
    sdist, wheel = distributions
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    assert names >= STUBS
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"retraced", "retraced_pt2", "retraced_server"}
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in packed if name.endswith(".proto")}
    assert {f"client/{stub}" for stub in STUBS if stub.startswith("retraced/")} <= packed


def test_the_base_install_has_no_torch_and_adds_less_than_30_mb(base: Environment) -> None:
    added = size(base.path) - base.empty_bytes
    print(f"pip install . adds {added / 1e6:.1f} MB: {sorted(base.packages())}")
    assert base.packages() == {"retraced", "grpcio", "protobuf", "googleapis-common-protos", "typing_extensions"}
    assert added < 30e6


def test_importing_costs_a_few_times_what_a_bare_interpreter_does(base: Environment) -> None:
    codes = ("pass", "import retraced", "import retraced; retraced.Client")
    # Side by side, so that what else the machine does weighs on all of them.
    rounds = [[base.processor_seconds(code) for code in codes] for _ in range(5)]
    bare, alone, client = map(min, zip(*rounds, strict=True))
    print(
        f"times a bare interpreter's {bare * 1000:.0f} ms: import retraced {alone / bare:.1f}, with Client {client / bare:.1f}"
    )
    assert alone < 5 * bare
    # gRPC's own import is most of it.
    assert client < 40 * bare


def test_without_the_cli_extra_the_command_says_what_to_install(base: Environment) -> None:
    ended = base.run("retraced", "--help")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "retraced: the command line needs click: pip install '.[cli]' in a checkout of retraced\n"


def test_the_client_of_the_base_install_says_when_no_server_is_there(base: Environment) -> None:
    ended = base.run("python", "-c", "import retraced; retraced.Client('127.0.0.1:1').info()")
    assert "retraced.errors.ServerUnreachable: no connection to the server at 127.0.0.1:1" in ended.stderr
    ended = base.run("python", "-c", "import retraced; retraced.EmbeddedServer().start()")
    assert "pip install '.[server]' in a checkout of retraced" in ended.stderr


def test_the_cli_extra_gives_a_command_that_works(with_cli: Environment) -> None:
    archive = with_cli.path / "model.pt2"
    archive.write_bytes(by_name("everything").archive)
    assert not {"torch", "numpy"} & with_cli.packages()
    assert "transform" in with_cli.run("retraced", "--help").stdout
    inspected = with_cli.run("retraced", "inspect", archive)
    assert inspected.returncode == 0, inspected.stderr
    assert "higher_order.cond" in inspected.stdout


def test_without_the_server_extra_the_command_says_how_to_get_a_server(with_cli: Environment) -> None:
    served = with_cli.run("retraced", "serve")
    assert served.returncode == 2
    assert "pip install '.[server]' in a checkout of retraced" in served.stderr
    asked = with_cli.run("retraced", "info")
    assert asked.returncode == 3
    assert "--server or RETRACED_SERVER, or pip install '.[server]' in a checkout of retraced" in asked.stderr

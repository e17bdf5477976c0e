"""What is said of missing layers, and that nothing is claimed that does not hold. Each test prepares in a child of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from retraced_server.worker.sandbox import (
    SandboxConfig,
    SandboxError,
    State,
    available_layers,
    credentials,
    landlock,
    lockdown,
    prepare,
    seccomp,
)
from retraced_server.worker.sandbox.children import in_child
from retraced_server.worker.sandbox.read_trees import read_trees

_A_USER = 65532
_CONFIG = SandboxConfig()
_AT_ALL_EVENTS = SandboxConfig(allow_missing=True)


def no_landlock() -> int:
    return 0


def no_seccomp() -> str:
    return "this kernel has no seccomp"


def outcome_of(work: Callable[[], object]) -> str:
    """What `work` says in a child, or why it cannot be prepared."""

    def tried() -> str:
        try:
            return str(work())
        except SandboxError as error:
            return f"SandboxError: {error}"

    return in_child(tried, name="the test")


@pytest.mark.parametrize(
    ("module", "function", "replacement", "says"),
    [
        (landlock, "interface_version", no_landlock, "landlock: the kernel has no Landlock"),
        (seccomp, "why_unavailable", no_seccomp, "seccomp: this kernel has no seccomp"),
    ],
)
def test_a_missing_layer_is_named_and_refused(
    monkeypatch: pytest.MonkeyPatch, module: object, function: str, replacement: object, says: str
) -> None:
    monkeypatch.setattr(module, function, replacement)

    outcome = outcome_of(lambda: prepare(_CONFIG))

    assert outcome.startswith("SandboxError: layers of the sandbox are missing: ")
    assert says in outcome


def test_root_without_the_capabilities_to_become_another_user_is_refused() -> None:
    if os.geteuid() != 0:
        pytest.skip("this process is not root")

    def attempts() -> object:
        credentials.drop_capabilities()
        return prepare(_CONFIG)

    assert "user: the server is root without the capabilities KILL, SETGID and SETUID" in outcome_of(attempts)


def test_without_landlock_the_rest_holds_if_told_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "interface_version", no_landlock)

    def attempts() -> str:
        prepared = prepare(_AT_ALL_EVENTS)
        prepared.lock_down()
        return f"{prepared.report.layer('landlock').state.name} {tried(socket.socket)} {tried(os.fork)}"

    assert outcome_of(attempts) == "MISSING refused refused"


def test_without_seccomp_the_rest_holds_if_told_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    if not landlock.interface_version():
        pytest.skip("the layer landlock of the sandbox is missing")
    monkeypatch.setattr(seccomp, "why_unavailable", no_seccomp)

    def attempts() -> str:
        prepared = prepare(_AT_ALL_EVENTS)
        prepared.lock_down()
        return f"{prepared.report.layer('seccomp').state.name} {tried(lambda: os.listdir('/'))}"

    assert outcome_of(attempts) == "MISSING refused"


@pytest.mark.parametrize(
    ("module", "function", "layer", "says"),
    [
        (seccomp.SyscallFilter, "load", "seccomp", "a process was started; a program was run, or nearly"),
        (landlock, "restrict", "landlock", "a folder outside was listed"),
        (credentials, "become", "user", "the user is 0"),
    ],
)
def test_a_layer_that_does_not_hold_is_found_out(
    monkeypatch: pytest.MonkeyPatch, module: object, function: str, layer: str, says: str
) -> None:
    if available_layers(_CONFIG.uids).layer(layer).state is not State.IN_FORCE:
        pytest.skip(f"the layer {layer} of the sandbox is missing")
    monkeypatch.setattr(module, function, lambda *_: None)

    # Also when told to go on without: what is claimed has to be so.
    outcome = outcome_of(lambda: prepare(_AT_ALL_EVENTS))

    assert outcome.startswith("SandboxError: the sandbox does not hold: ")
    assert says in outcome


@pytest.mark.parametrize("uids", [range(0), range(5), range(5, -1, -1)], ids=str)
def test_workers_cannot_be_root_or_nobody_at_all(uids: range) -> None:
    with pytest.raises(SandboxError, match="workers cannot become the users"):
        prepare(SandboxConfig(uids=uids))


def test_it_works_for_a_server_that_is_not_root(monkeypatch: pytest.MonkeyPatch, open_folder: Path) -> None:
    if not credentials.may_become_users():
        pytest.skip("this process is another user than root already, or cannot become one: the other tests show it")
    # Python's own folder may be one that only root can read.
    monkeypatch.setattr(lockdown, "read_trees", lambda _: (open_folder,))
    (open_folder / "module").write_text("readable")

    def attempts() -> str:
        credentials.become(_A_USER)
        prepared = prepare(_CONFIG)
        prepared.lock_down(slot=1)
        states = " ".join(prepared.report.layer(name).state.name for name in ("user", "namespaces"))
        reads = f"{(open_folder / 'module').read_text()} {tried(lambda: os.listdir('/'))}"
        return (
            f"{states} {os.getuid()} {reads} {tried(os.fork)} {tried(socket.socket)} {tried(lambda: os.kill(os.getppid(), 0))}"
        )

    assert outcome_of(attempts) == f"NOT_NEEDED MISSING {_A_USER} readable refused refused refused refused"


def test_saying_what_there_is_changes_nothing() -> None:
    before = status()

    report = available_layers(_CONFIG.uids)

    assert status() == before
    assert [layer.name for layer in report.layers] == ["seccomp", "landlock", "user", "privileges", "limits", "namespaces"]


def test_what_imports_need_may_be_read_and_the_working_directory_may_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a_package").mkdir()
    (tmp_path / "a_package" / "__init__.py").touch()
    (tmp_path / "a_module.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    __import__("a_package")
    __import__("a_module")

    trees = read_trees()

    assert tmp_path / "a_package" in trees
    assert tmp_path / "a_module.py" in trees
    assert not any(tree in (tmp_path, *tmp_path.parents) for tree in trees)
    assert any(Path(os.__file__).is_relative_to(tree) for tree in trees)


def test_folders_of_an_operator_may_be_read_too(tmp_path: Path) -> None:
    assert tmp_path in read_trees([tmp_path])


def tried(work: Callable[[], object]) -> str:
    try:
        work()
    except PermissionError:
        return "refused"
    return "done"


def status() -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith(("Uid", "Cap", "NoNewPrivs", "Seccomp")))

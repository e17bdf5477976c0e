"""A zygote that cannot start says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from retraced_server.worker.messages import WorkerFacts, ZygoteFailed

from .zygotes import zygote

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import not_there", "the module `operators` cannot be imported: ModuleNotFoundError: No module named 'not_there'"),
        ("raise SystemExit('no licence')", "the module `operators` cannot be imported: SystemExit: no licence"),
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), name='poller', daemon=True).start()",
            "1 thread(s) besides the main one run after the imports (poller)",
        ),
        (
            "from retraced_server.passes import register_pass\n@register_pass('retrace')\nclass Mine:\n"
            "    '''Mine.'''\n    def __call__(self, module): ...",
            "the name is taken",
        ),
    ],
    ids=["import error", "exit", "thread", "registration"],
)
def test_module_of_the_operators_that_cannot_be_used_is_named(source: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "operators.py").write_text(source)
    with zygote("operators", path=tmp_path) as running:
        event = running.event()
        assert isinstance(event, ZygoteFailed)
        assert said in event.message
        assert (f'File "{tmp_path}/operators.py", line ' in event.traceback) is (not said.startswith("1 thread"))
        assert running.event() is None
        assert running.process.wait(30) == 1


def test_failed_warm_up_is_a_failed_start(tmp_path: Path) -> None:
    (tmp_path / "operators.py").write_text("from retraced_server.worker import job\njob.describe_nodes = None")
    with zygote("operators", path=tmp_path) as running:
        event = running.event()
        assert isinstance(event, ZygoteFailed)
        assert "TypeError" in event.message


def test_installed_plugins_are_among_the_imports_of_a_zygote_that_is_ready(tmp_path: Path) -> None:
    (tmp_path / "plugin_under_test.py").write_text("")
    info = tmp_path / "acme_passes-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-passes\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text("[retraced.passes]\nacme = plugin_under_test\n")
    with zygote(path=tmp_path) as running:
        event = running.event()
    assert isinstance(event, WorkerFacts)
    assert event.imports == (("plugin_under_test", "1.5"),)

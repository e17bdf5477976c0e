"""What an operator sees of a real server: metrics, readiness with its causes, the audit log."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from retraced import Client, EmbeddedServer, errors
from retraced_server import healthcheck
from tests.e2e.conftest import server_arguments
from tests.e2e.processes import Observed
from tests.support.models import by_name
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

_INPUT_AND_ID = by_name("input_and_id")


@dataclass(frozen=True)
class Operated:
    """A server, as its operator has it."""

    server: EmbeddedServer
    client: Client
    observed: Observed
    folder: Path
    port: int

    def get(self, path: str) -> tuple[int, str]:
        """Asks its monitor."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """One sample; 0 where it is not there."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = [sample for family in families for sample in family.samples]
        found = [one.value for one in samples if one.name == f"retraced_{name}" and one.labels == labels]
        return found[0] if found else 0.0

    def passes(self, name: str) -> float:
        """How often a pass has ended."""
        return self.metric("pass_seconds_count", **{"pass": name})

    def audited(self) -> list[dict[str, Any]]:
        """The lines of the audit log."""
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    folder = tmp_path_factory.mktemp("operated")
    (folder / "spool").mkdir()
    options = ["--metrics-port", "0", "--audit-log", str(folder / "audit.jsonl"), "--spool-dir", str(folder / "spool")]
    with (
        EmbeddedServer(server_arguments(*options, "--log-format", "json", "--log-level", "info")) as server,
        Client(server.address) as client,
    ):
        assert server.pid is not None
        lines = [json.loads(line) for line in server.log.splitlines()]
        (url,) = [line["url"] for line in lines if line["event"] == "metrics"]
        assert url.startswith("http://127.0.0.1:")
        port = int(url.removesuffix("/metrics").rpartition(":")[2])
        yield Operated(server, client, Observed(server.pid), folder, port)


def test_a_request_is_in_the_metrics_and_in_the_audit_log(operated: Operated) -> None:
    archive = by_name("residual_net").archive
    ok = operated.metric("requests_total", method="TransformGraph", code="OK", reason="")
    result = operated.client.transform(archive, "decompose{table=core-aten}, cse,dce", request_id="seen")
    output = result.to_bytes()
    assert operated.metric("requests_total", method="TransformGraph", code="OK", reason="") == ok + 1
    for stage in ("uploading", "queued", "reading", "running", "describing", "writing"):
        assert operated.metric("stage_seconds_count", stage=stage) >= 1
    for name in ("decompose", "cse", "dce"):
        assert operated.passes(name) >= 1
    assert operated.metric("received_bytes_total") > len(archive)
    assert operated.metric("sent_bytes_total") > len(output)
    (line,) = [line for line in operated.audited() if line["request_id"] == "seen"]
    expected = {
        "event": "audit",
        "logger": "retraced.audit",
        "archive_bytes": len(archive),
        "archive_sha256": hashlib.sha256(archive).hexdigest(),
        "output_bytes": len(output),
        "output_sha256": hashlib.sha256(output).hexdigest(),
        "code": "OK",
        "caller": "anonymous",
    }
    assert line.items() >= expected.items()
    assert line["pipeline"] == "decompose,cse,dce"
    logged = [json.loads(line) for line in operated.server.log.splitlines()]
    assert [entry["archive_sha256"] for entry in logged if entry["event"] == "audit" and entry["request_id"] == "seen"] == [
        line["archive_sha256"]
    ]


def test_a_worker_that_dies_is_a_kill_by_its_cause(operated: Operated) -> None:
    forks = operated.metric("worker_forks_total")
    with pytest.raises(errors.WorkerCrashed):
        operated.client.transform(_INPUT_AND_ID.archive, "retrace,die", request_id="died")
    assert operated.metric("worker_forks_total") == forks + 1
    eventually(lambda: operated.metric("worker_kills_total", cause="WORKER_CRASHED") == 1, "the kill is counted")
    (line,) = [line for line in operated.audited() if line["request_id"] == "died"]
    assert (line["code"], line["reason"], line["output_sha256"]) == ("INTERNAL", "WORKER_CRASHED", "")


def test_passes_that_ended_before_one_that_failed_are_timed(operated: Operated) -> None:
    before = operated.passes("cse"), operated.passes("raise-at")
    with pytest.raises(errors.PassFailed):
        operated.client.transform(_INPUT_AND_ID.archive, "cse,raise-at")
    assert (operated.passes("cse"), operated.passes("raise-at")) == (before[0] + 1, before[1])


def test_a_worker_that_runs_is_seen_and_its_memory_counted(operated: Operated) -> None:
    ended = threading.Event()

    def call() -> None:
        with pytest.raises(errors.DeadlineExceeded):
            operated.client.transform(_INPUT_AND_ID.archive, "wait{seconds=1000.0}", timeout=5.0)
        ended.set()

    threading.Thread(target=call, daemon=True).start()
    eventually(lambda: operated.metric("workers_running") == 1, "the worker runs")
    eventually(lambda: operated.metric("worker_memory_bytes") > 1 << 20, "its memory is seen")
    assert ended.wait(60)
    eventually(lambda: operated.metric("workers_running") == 0, "the worker is gone")
    assert operated.metric("worker_memory_bytes") == 0
    assert operated.metric("worker_kills_total", cause="CALLER_GONE") >= 1


def test_a_server_without_its_zygote_is_not_ready_and_says_why(operated: Operated) -> None:
    assert operated.get("/readyz") == (200, "ok\n")
    restarts = operated.metric("zygote_restarts_total")
    operated.observed.zygote.kill()
    # The next one takes seconds to be warm.
    eventually(lambda: operated.get("/readyz")[0] == 503, "it is not ready")
    assert "zygote" in operated.get("/readyz")[1]
    assert operated.get("/livez") == (200, "ok\n")
    assert operated.metric("ready") == 0
    assert healthcheck.main([operated.server.address]) == 1
    eventually(lambda: operated.get("/readyz")[0] == 200, "it is ready again")
    assert operated.metric("zygote_restarts_total") == restarts + 1
    assert operated.metric("ready") == 1
    assert healthcheck.main([operated.server.address]) == 0


def test_a_server_without_its_spool_folder_is_not_ready_and_says_why(operated: Operated) -> None:
    spool = operated.folder / "spool"
    aside = shutil.move(spool, operated.folder / "aside")
    assert operated.get("/readyz") == (503, f"the spool folder {spool} cannot be used: No such file or directory\n")
    assert healthcheck.main([operated.server.address]) == 1
    shutil.move(aside, spool)
    assert operated.get("/readyz") == (200, "ok\n")
    assert healthcheck.main([operated.server.address]) == 0

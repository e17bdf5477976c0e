"""Progress bars of a transform, on standard error."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from retraced import events
from retraced.cli.render import byte_count, seconds
from retraced.cli.session import Session

_STAGES = {
    events.Stage.QUEUED: "waiting for a worker",
    events.Stage.READING: "reading the program",
    events.Stage.RUNNING: "running",
    events.Stage.WRITING: "writing the output",
    events.Stage.UNKNOWN: "working",
}


class TransformProgress:
    """Shows upload, passes and download while they go on; a context manager. Without a terminal it shows nothing."""

    def __init__(self, session: Session) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=session.err,
            disable=not session.lively,
            transient=True,
        )
        self._upload = self._add("uploading")
        self._work: TaskID | None = None
        self._download: TaskID | None = None
        self._nodes: TaskID | None = None
        self._pass = ""

    def __call__(self, event: events.Event) -> None:
        """Take an event."""
        match event:
            case events.Uploaded(sent, total):
                self._update(self._upload, sent, total, f"{byte_count(sent)} of {byte_count(total)}")
            case events.Accepted(_, position):
                self._work = self._add(_STAGES[events.Stage.QUEUED] if position else "working")
            case events.Progress(events.Stage.QUEUED, before, _):
                self._describe(_STAGES[events.Stage.QUEUED], None, None, f"{before} before this one")
            case events.Progress(events.Stage.RUNNING, done, total):
                self._describe(self._pass or "running", done, total, f"{done} of {total} nodes" if total else f"{done} nodes")
            case events.Progress(stage, done, total):
                self._describe(_STAGES[stage], done, total, f"{byte_count(done)}" if done else "")
            case events.Retrying(pause, reason, _):
                self._describe(f"{reason}: again in {seconds(pause)}", 0, None, "")
            case events.PassStarted(index, count, _, text):
                self._pass = f"pass {index + 1} of {count}: {text}"
                self._describe(self._pass, 0, None, "")
            case events.PassFinished(_, report):
                self._describe(self._pass, 1, 1, seconds(report.seconds))
            case events.NodesReceived(received):
                self._nodes = self._add("receiving nodes") if self._nodes is None else self._nodes
                self._update(self._nodes, received, None, str(received))
            case events.Downloaded(received):
                self._download = self._add("downloading") if self._download is None else self._download
                self._update(self._download, received, None, byte_count(received))

    def __enter__(self) -> TransformProgress:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def _add(self, description: str) -> TaskID:
        return self._progress.add_task(description, total=None, note="")

    def _update(self, task: TaskID, done: int, total: int | None, note: str) -> None:
        self._progress.update(task, completed=done, total=total, note=note)

    def _describe(self, description: str, done: int | None, total: int | None, note: str) -> None:
        if self._work is None:
            self._work = self._add(description)
        self._progress.update(self._work, description=description, completed=done, total=total or None, note=note)

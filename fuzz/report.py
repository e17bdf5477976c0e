"""What a run of a fuzzer or a soak found, as a table, as JSON, and as files that show each finding again."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.measure import machine

_FILES_OF_A_KIND: Final = 3
# What differs between two findings of one kind: numbers, and what stands in quotation marks.
_PARTICULARS: Final = re.compile(r"\d+|`[^`]*`|'[^']*'|\"[^\"]*\"")


@dataclass(frozen=True)
class Finding:
    """Something that may not happen.

    Attributes:
        kind: What sort of thing: an outcome of a judge, or of a process.
        program: The test program whose archive was mutated.
        seed: What it was mutated by, or -1 where `data` is all there is.
        steps: The mutations.
        detail: What happened, in full.
    """

    kind: str
    program: str
    seed: int
    steps: tuple[str, ...]
    detail: str

    @property
    def signature(self) -> str:
        """What findings of one cause have in common."""
        lines = [line.strip() for line in self.detail.splitlines() if line.strip()]
        places = [line for line in lines if line.startswith("File ")]
        return _PARTICULARS.sub("*", f"{self.kind}: {lines[-1] if lines else ''} {places[-1] if places else ''}")[:300]


@dataclass
class Report:
    """The counts of one run; findings are kept as files in a folder, a few of each signature. `more` goes into the JSON too."""

    what: str
    seed: int
    folder: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    more: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def count(self) -> int:
        """How many archives, or requests, there were."""
        return self.outcomes.total()

    def found(self, finding: Finding, data: bytes) -> None:
        """Count a finding, and write the reproducer: what was sent, and how it came about."""
        self.findings[finding.signature] += 1
        if self.findings[finding.signature] > _FILES_OF_A_KIND:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = f"{re.sub(r'[^a-z]+', '-', finding.kind.lower())}-{finding.program}-{finding.seed}"
        (self.folder / f"{stem}.bin").write_bytes(data)
        (self.folder / f"{stem}.json").write_text(json.dumps(asdict(finding), indent=2) + "\n")

    def begin(self) -> None:
        """Start the clock: what came before was preparation."""
        self.started = time.monotonic()

    def end(self) -> None:
        """Stop the clock."""
        self.seconds = time.monotonic() - self.started

    def figures(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "what": self.what,
            "seed": self.seed,
            "count": self.count,
            "seconds": round(self.seconds, 1),
            "per_second": round(self.count / self.seconds, 1) if self.seconds else 0.0,
            "outcomes": dict(self.outcomes.most_common()),
            "findings": dict(self.findings.most_common()),
            **self.more,
        }

    def write(self, path: Path) -> None:
        """Write it as JSON, with what machine it was made on."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), **self.figures()}, indent=2) + "\n")

    def show(self, console: Console) -> None:
        """Print the table."""
        figures = self.figures()
        table = Table(
            title=f"{self.what}: {self.count:,} in {self.seconds:,.0f} s, {figures['per_second']:,} a second, from seed {self.seed}"
        )
        table.add_column("outcome")
        table.add_column("count", justify="right")
        for outcome, count in self.outcomes.most_common():
            table.add_row(outcome, f"{count:,}")
        table.add_section()
        table.add_row("findings", f"{self.findings.total():,}")
        console.print(table)
        for signature, count in self.findings.most_common(20):
            console.print(f"{count:6,}  {signature}", markup=False)
        if self.findings:
            console.print(f"What shows them again is in {self.folder}.")

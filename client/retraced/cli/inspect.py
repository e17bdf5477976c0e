"""`retraced inspect`: what an archive holds, without a server and without torch."""

from __future__ import annotations

from collections.abc import Iterator

import click
from rich.console import RenderableType

from retraced._text import counted
from retraced.archive import Archive, Record
from retraced.cli.render import MAX_ROWS, byte_count, facts, histogram, signature, symbols, table
from retraced.cli.session import Session, debug_option, json_option
from retraced.cli.streams import STANDARD, seekable_source
from retraced.inspection import program_info
from retraced.program import ProgramInfo


@click.command(short_help="Show what a .pt2 file holds.")
@click.argument("path", metavar="IN.pt2", type=click.Path())
@json_option
@debug_option
@click.pass_obj
def inspect(session: Session, path: str) -> None:
    """Show what IN.pt2 holds: records, versions, signature, symbols and operators. - is standard input.

    It is read here: no server and no torch are needed, and nothing in the file is run.

    \b
    Example:
      retraced inspect model.pt2
      retraced inspect model.pt2 --json | jq '.program.targets'
    """
    name = "standard input" if path == STANDARD else path
    with Archive(seekable_source(path), name) as archive:
        records = archive.records()
        model = archive.model_name()
        program = program_info(archive.read(model))
        size = archive.size
    if session.as_json:
        session.print_json({"path": path, "size": size, "model": model, "records": records, "program": program})
        return
    session.print(*report(name, size, records, program))


def report(name: str, size: int, records: tuple[Record, ...], program: ProgramInfo) -> Iterator[RenderableType]:
    """Yield what is shown of an archive, for people.

    Args:
        name: What the archive is called.
        size: Bytes of the whole file.
        records: What is in it.
        program: What its model record says.
    """
    schema = "" if program.schema_version is None else ".".join(map(str, program.schema_version))
    subgraphs = program.graph_count - 1
    yield facts(
        ("archive", f"{name}, {byte_count(size)}, {counted(len(records), 'record', 'records')}"),
        ("written by", f"torch {program.torch_version or 'of unknown version'}, schema {schema}"),
        ("dialect", program.dialect),
        (
            "nodes",
            f"{program.node_count}"
            + (f", in the root graph and {counted(subgraphs, 'subgraph', 'subgraphs')}" if subgraphs else ""),
        ),
        ("guards", str(len(program.guards))),
    )
    yield signature(program.inputs, program.outputs)
    if program.symbols:
        yield symbols(program.symbols)
    yield histogram(program.targets)
    rows = table("bytes", "record", right=("bytes",), title="records")
    largest = sorted(records, key=lambda record: -record.size)
    for record in largest[:MAX_ROWS]:
        rows.add_row(f"{record.size:,}", record.name)
    if rest := largest[MAX_ROWS:]:
        rows.add_row(f"{sum(record.size for record in rest):,}", f"{len(rest)} more (--json lists all)")
    yield rows

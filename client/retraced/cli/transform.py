"""`retraced transform`: a program through a pipeline."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Literal, get_args

import click

from retraced._node_json import node_to_json
from retraced._options import KeptAtHome, RetraceMode
from retraced._output import check_writable, write_atomically
from retraced._text import counted
from retraced.cli import streams
from retraced.cli.complete import complete_pipeline
from retraced.cli.connection import server_option
from retraced.cli.progress import TransformProgress
from retraced.cli.render import byte_count, facts, operator_change, program_change, seconds, table
from retraced.cli.session import Session, debug_option, json_option, quiet_option
from retraced.cli.streams import STANDARD
from retraced.nodes import NodeMetadata
from retraced.results import TransformResult


@click.command(short_help="Run a program through a pipeline of passes.")
@click.argument("path", metavar="IN.pt2", type=click.Path())
@click.option(
    "--pipeline",
    "-p",
    required=True,
    metavar="PIPELINE",
    shell_complete=complete_pipeline,
    help="The passes, for example 'decompose,cse,dce'.",
)
@click.option("--output", "-o", metavar="OUT.pt2", type=click.Path(), help="Where the transformed program goes.")
@click.option("--metadata", metavar="FILE.jsonl", type=click.Path(), help="Where nodes' metadata goes, one JSON object a line.")
@click.option(
    "--node-metadata",
    type=click.Choice(["changed", "all"]),
    help="Whose metadata: every node's, or only that of new and changed ones. With --metadata only.  [default: all]",
)
@click.option("--validate-only", is_flag=True, help="Check the pipeline and the program, and run no pass.")
@click.option(
    "--mode",
    type=click.Choice(get_args(RetraceMode)),
    help="incremental: reuse what is recorded of nodes that a pass leaves alone; full: execute every operator again, and compare.  "
    "[default: incremental]",
)
@click.option("--refuse-new-guards", is_flag=True, help="Fail when a pass adds guards on symbolic shapes.")
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    metavar="NAME",
    help="Namespace of custom operators that passes may bring into the program. May be given several times.",
)
@click.option(
    "--keep-at-home",
    type=click.Choice(get_args(KeptAtHome)),
    multiple=True,
    help="What of IN.pt2 is not sent, and put back into what comes back. May be given several times.",
)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="How long it may take.")
@server_option
@json_option
@quiet_option
@debug_option
@click.pass_obj
def transform(
    session: Session,
    path: str,
    pipeline: str,
    output: str | None,
    metadata: str | None,
    node_metadata: Literal["changed", "all"] | None,
    validate_only: bool,
    mode: RetraceMode | None,
    refuse_new_guards: bool,
    namespaces: tuple[str, ...],
    keep_at_home: tuple[KeptAtHome, ...],
    timeout: float | None,
    server: str | None,
) -> None:
    """Run the program IN.pt2 through a pipeline of passes, and say what each did.

    \b
    Example:
      retraced transform model.pt2 -p 'decompose{table=core-aten},cse,dce' -o out.pt2
      retraced transform model.pt2 -p cse --metadata nodes.jsonl --node-metadata changed
      retraced transform model.pt2 -p decompose,dce --validate-only
      cat model.pt2 | retraced transform - -p cse -o - | retraced inspect -

    Without -o and --metadata the report is all there is. In place of a file's name - is standard input or standard output, and what is
    reported goes to standard error then. Files are written whole or not at all, also when interrupted.

    Each line of FILE.jsonl is a node, with the fields graph, name, op, target, args, and where there is any: kwargs, users,
    value, unbacked_bindings, stack_trace, nn_module_stack, source_fn_stack, torch_fn, custom, from_nodes, made_by, other.
    """
    if output and validate_only:
        raise click.UsageError("--validate-only makes no output: leave out -o or --validate-only")
    if node_metadata and not metadata:
        raise click.UsageError("--node-metadata says what goes into --metadata FILE.jsonl, which is missing")
    source = streams.source(path)
    if streams.check_outputs(output, metadata):
        session.take_standard_output()
    files = [target for target in (output, metadata) if target and target != STANDARD]
    if len({os.path.realpath(target) for target in files}) < len(files):
        raise click.UsageError(f"-o and --metadata name the same file: {output}")
    for target in files:
        check_writable(target)
    with session.client(server) as client:
        with TransformProgress(session) as progress:
            result = client.transform(
                source,
                pipeline,
                on_event=progress,
                timeout=timeout,
                node_metadata=(node_metadata or "all") if metadata else "none",
                validate_only=validate_only,
                mode=mode,
                refuse_new_guards=refuse_new_guards,
                want_output=output is not None,
                namespaces=namespaces,
                keep_at_home=keep_at_home,
            )
        with result:
            if metadata == STANDARD:
                with session.standard_output() as file:
                    file.writelines(_lines(result.nodes))
            elif metadata:
                write_atomically(metadata, _lines(result.nodes))
            if output == STANDARD:
                with session.standard_output() as file:
                    result.save(file)
            elif output:
                result.save(output)
    if session.as_json:
        session.print_json(_as_json(result, output, metadata))
    elif not session.quiet:
        _print(session, result, output, metadata)


def _lines(nodes: tuple[NodeMetadata, ...]) -> Iterator[bytes]:
    for node in nodes:
        yield json.dumps(node_to_json(node), allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _as_json(result: TransformResult, output: str | None, metadata: str | None) -> dict[str, object]:
    return {
        "request_id": result.request_id,
        "modified": result.modified,
        "passes": result.passes,
        "summary": result.summary,
        "bytes_sent": result.bytes_sent,
        "bytes_received": result.bytes_received,
        "output": output,
        "metadata": metadata,
    }


def _print(session: Session, result: TransformResult, output: str | None, metadata: str | None) -> None:
    summary = result.summary
    if summary.output is None:
        session.print(f"valid: {summary.pipeline} can run on this program of {summary.input.node_count} nodes")
        _print_remarks(session, summary.remarks)
        return
    numbers = ("rewrites", "time", "nodes before", "after")
    rows = table("pass", "modified", *numbers, right=numbers)
    for report in result.passes:
        rows.add_row(
            report.text,
            "yes" if report.modified else "no",
            str(report.rewrites),
            seconds(report.seconds),
            str(report.nodes_before),
            str(report.nodes_after),
        )
    session.print(rows)
    for report in result.passes:
        _print_remarks(session, (*report.remarks, *(f"new guard: {guard}" for guard in report.new_guards)), f"{report.text}: ")
    _print_remarks(session, summary.remarks)
    if result.modified:
        session.print(program_change(summary.input, summary.output))
        if operators := operator_change(summary.input.targets, summary.output.targets):
            session.print(operators)
    session.print(_outcome(result, output, metadata))


def _print_remarks(session: Session, remarks: tuple[str, ...], about: str = "") -> None:
    for remark in remarks:
        session.print(f"  {about}{remark}")


def _outcome(result: TransformResult, output: str | None, metadata: str | None) -> object:
    summary = result.summary
    timings = summary.timings
    pairs = [
        (
            "program",
            "modified" if result.modified else f"not modified{': the output is the input, byte for byte' if output else ''}",
        ),
        (
            "server time",
            f"{seconds(timings.queued)} queued, {seconds(timings.reading)} reading, {seconds(timings.running)} running, "
            f"{seconds(timings.describing)} describing, {seconds(timings.writing)} writing",
        ),
        ("transfer", f"{byte_count(result.bytes_sent)} sent, {byte_count(result.bytes_received)} received"),
    ]
    if output:
        pairs.append(("output", f"{_shown(output)}, {byte_count(summary.output_size)}"))
    if metadata:
        pairs.append(("metadata", f"{_shown(metadata)}, {counted(len(result.nodes), 'node', 'nodes')}"))
    return facts(*pairs)


def _shown(target: str) -> str:
    return "standard output" if target == STANDARD else target

"""`retraced passes` and `retraced info`: what a server offers."""

from __future__ import annotations

import difflib

import click
from rich.table import Table
from rich.text import Text

from retraced.cli.complete import complete_pass
from retraced.cli.connection import server_option
from retraced.cli.render import byte_count, facts, table
from retraced.cli.session import Session, debug_option, json_option
from retraced.errors import PassUnknown
from retraced.server_info import PassInfo


@click.command(short_help="List a server's passes, or describe one.")
@click.argument("name", required=False, shell_complete=complete_pass)
@server_option
@json_option
@debug_option
@click.pass_obj
def passes(session: Session, name: str | None, server: str | None) -> None:
    """List the passes that a server can run, or describe the pass NAME.

    \b
    Example:
      retraced passes
      retraced passes decompose
    """
    with session.client(server) as client:
        found = client.passes()
    if name is None:
        if session.as_json:
            session.print_json(found)
        else:
            session.print(_list(found))
        return
    one = next((candidate for candidate in found if candidate.name == name), None)
    if one is None:
        known = [candidate.name for candidate in found]
        near = difflib.get_close_matches(name, known)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; it has {', '.join(known)}"
        raise PassUnknown(f"the server has no pass {name!r}{hint}", metadata={"pass": name})
    if session.as_json:
        session.print_json(one)
        return
    _describe(session, one)


@click.command(short_help="Show a server's versions, limits and load.")
@server_option
@json_option
@debug_option
@click.pass_obj
def info(session: Session, server: str | None) -> None:
    """Show a server's versions, limits, imported modules and load.

    \b
    Example:
      retraced info --server 127.0.0.1:50051
    """
    with session.client(server) as client:
        found = client.info()
        address = client.address
    if session.as_json:
        session.print_json(found)
        return
    limits = found.limits
    session.print(
        facts(
            ("server", address),
            ("retraced", found.version),
            ("torch", found.torch_version),
            ("Python", found.python_version),
            ("schema version", ".".join(map(str, found.schema_version))),
            ("up for", f"{found.uptime_seconds:.0f} s"),
            ("requests", f"{found.running} running, {found.queued} waiting"),
            ("workers", str(limits.workers)),
            ("queue", str(limits.max_queued)),
            ("largest archive", byte_count(limits.max_archive_bytes)),
            ("longest job", f"{limits.job_timeout_seconds:g} s"),
            ("worker memory", _size_limit(limits.worker_memory_bytes)),
            ("memory of all", _size_limit(limits.memory_bytes)),
            *((f"imports {module.name}", module.version or "no version") for module in found.imports),
            *((f"sandbox: {layer.name}", f"{layer.state.replace('_', ' ')}: {layer.detail}") for layer in found.sandbox),
        )
    )


def _size_limit(size: int) -> str:
    return byte_count(size) if size else "no limit"


def _list(found: tuple[PassInfo, ...]) -> Table:
    rows = table("pass", "summary", "weights", "takes", "from")
    for one in found:
        needs = "read" if one.needs_weights else "not read"
        rows.add_row(_usage(one), one.summary, needs, one.ir_level.value, one.provider)
    return rows


def _usage(one: PassInfo) -> Text:
    """Return the pass as a pipeline would have it, with the defaults of its options."""
    text = Text(one.name, style="bold")
    if one.options:
        options = ",".join(f"{option.name}={option.default or '...'}" for option in one.options)
        text.append(f"{{{options}}}", style="not bold")
    return text


def _describe(session: Session, one: PassInfo) -> None:
    session.print(_usage(one))
    session.print(one.summary)
    if one.description:
        session.print(f"\n{one.description}")
    session.print("")
    session.print(
        facts(
            ("takes", f"{one.ir_level.value} programs"),
            ("weights", "read" if one.needs_weights else "not read"),
            ("from", one.provider),
        )
    )
    if one.options:
        rows = table("option", "type", "default", "summary")
        for option in one.options:
            kind = "|".join(option.choices) if option.choices else option.type.value
            default = "must be given" if option.default is None else option.default
            rows.add_row(option.name, kind, default, option.summary)
        session.print(rows)

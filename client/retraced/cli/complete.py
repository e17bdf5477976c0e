"""What a shell completes: the passes and their options, of the server that the words before the cursor or the environment name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import click
from click.shell_completion import CompletionItem

from retraced.cli.session import Session
from retraced.errors import RetracedError
from retraced.server_info import OptionType, PassInfo

# A shell waits for it at every press of a key.
_SECONDS = 2.0
# A pass whose options are being written: what is before them, its name, the options before the last, and the last.
_IN_OPTIONS = re.compile(
    r"(?P<before>(?:.*,)?\s*(?P<name>[a-z0-9-]+)\s*\{(?P<others>(?:[^{}]*,)?))(?P<last>[^{},]*)", re.DOTALL
)


def complete_pass(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the passes whose names begin so."""
    return [CompletionItem(one.name, help=one.summary) for one in _passes(context) if one.name.startswith(incomplete)]


def complete_pipeline(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the pipelines that begin so and have one pass, option or value more."""
    found = _passes(context)
    if options := _IN_OPTIONS.fullmatch(incomplete):
        one = next((candidate for candidate in found if candidate.name == options["name"]), None)
        return [] if one is None else list(_options(one, options["before"], options["others"], options["last"]))
    before, comma, name = incomplete.rpartition(",")
    return [CompletionItem(before + comma + item.value, help=item.help) for item in complete_pass(context, parameter, name)]


def _options(one: PassInfo, before: str, others: str, last: str) -> Iterator[CompletionItem]:
    given = {item.partition("=")[0].strip() for item in others.split(",")}
    name, equals, value = last.partition("=")
    for option in one.options:
        if not equals and option.name.startswith(name) and option.name not in given:
            yield CompletionItem(f"{before}{option.name}=", help=option.summary)
        elif equals and option.name == name:
            values = ("true", "false") if option.type is OptionType.BOOL else option.choices
            yield from (CompletionItem(f"{before}{name}={one}") for one in values if one.startswith(value))


def _passes(context: click.Context) -> tuple[PassInfo, ...]:
    """The server's passes; none where no server is named, or it does not answer: one is not started for this."""
    session, address = context.find_object(Session), context.params.get("server") or os.environ.get("RETRACED_SERVER")
    if session is None or not address:
        return ()
    try:
        with session.connection.client(address) as client:
            return client.passes(timeout=_SECONDS)
    except (RetracedError, click.UsageError):
        return ()

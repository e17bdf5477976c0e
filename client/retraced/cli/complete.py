"""What a shell completes: the passes and their options, of the server that the words before the cursor or the environment name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace

import click
from click.shell_completion import CompletionItem

from retraced.cli.console import printable
from retraced.cli.session import Session
from retraced.errors import RetracedError
from retraced.server_info import OptionType, PassInfo

# A shell waits for it at every press of a key.
_SECONDS = 2.0
# The names and bare values of a pipeline. Anything else could be a command, once the shell has typed it.
_WORD = re.compile(r"[A-Za-z0-9_.:/+-]{1,200}")
# A pass whose options are being written: what is before them, its name, the options before the last, and the last.
_IN_OPTIONS = re.compile(
    r"(?P<before>(?:.*,)?\s*(?P<name>[a-z0-9-]+)\s*\{(?P<others>(?:[^{}]*,)?))(?P<last>[^{},]*)", re.DOTALL
)


def complete_pass(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the passes whose names begin so."""
    return [_item("", one.name, one.summary) for one in _passes(context) if one.name.startswith(incomplete)]


def complete_pipeline(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the pipelines that begin so and have one pass, option or value more."""
    found = _passes(context)
    if options := _IN_OPTIONS.fullmatch(incomplete):
        one = next((candidate for candidate in found if candidate.name == options["name"]), None)
        return [] if one is None else list(_options(one, options["before"], options["others"], options["last"]))
    before, comma, name = incomplete.rpartition(",")
    return [_item(before + comma, one.name, one.summary) for one in found if one.name.startswith(name)]


def _options(one: PassInfo, before: str, others: str, last: str) -> Iterator[CompletionItem]:
    given = {item.partition("=")[0].strip() for item in others.split(",")}
    name, equals, value = last.partition("=")
    for option in one.options:
        if not equals and option.name.startswith(name) and option.name not in given:
            yield _item(before, f"{option.name}=", option.summary)
        elif equals and option.name == name:
            values = ("true", "false") if option.type is OptionType.BOOL else option.choices
            yield from (_item(before, f"{name}={one}") for one in values if one.startswith(value))


def _item(before: str, word: str, summary: str = "") -> CompletionItem:
    """Return what the shell shows, and types where it is chosen: one line each."""
    return CompletionItem(before + word, help=" ".join(printable(summary).split()) or None)


def _passes(context: click.Context) -> tuple[PassInfo, ...]:
    """Return the server's passes; none where no server is named, or it does not answer: one is not started for this."""
    session, address = context.find_object(Session), context.params.get("server") or os.environ.get("RETRACED_SERVER")
    if session is None or not address:
        return ()
    try:
        with session.connection.client(address) as client:
            return tuple(one for one in map(_typeable, client.passes(timeout=_SECONDS)) if _WORD.fullmatch(one.name))
    except (RetracedError, click.UsageError):
        return ()


def _typeable(one: PassInfo) -> PassInfo:
    """Return a pass with those of its options and their choices that a shell can type."""
    options = (option for option in one.options if _WORD.fullmatch(option.name))
    return replace(
        one, options=tuple(replace(option, choices=tuple(filter(_WORD.fullmatch, option.choices))) for option in options)
    )

"""The command explains itself."""

from __future__ import annotations

import importlib.metadata

import click
import pytest

from retraced.cli.app import cli
from tests.cli.support import Run

COMMANDS = ["transform", "inspect", "print", "passes", "info", "serve", "token"]


def test_without_arguments_it_shows_its_help(retraced: Run) -> None:
    ended = retraced()
    assert ended.code == 2
    assert all(f"\n  {command} " in ended.out + ended.err for command in COMMANDS)


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command_and_status(retraced: Run, flag: str) -> None:
    ended = retraced(flag)
    assert (ended.code, ended.err) == (0, "")
    assert all(f"\n  {command} " in ended.out for command in COMMANDS)
    assert all(f"\n    {status} " in ended.out for status in (0, 1, 2, 3, 129, 130, 143))


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "serve"])
def test_every_command_has_help_with_an_example_and_every_option(retraced: Run, command: str) -> None:
    ended = retraced(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert f"  Example:\n    retraced {command}" in ended.out
    options = [parameter for parameter in cli.commands[command].params if isinstance(parameter, click.Option)]
    assert all(option.opts[0] in ended.out and option.help for option in options)


def test_every_command_is_summed_up_in_one_line(retraced: Run) -> None:
    listed = retraced("--help").out.partition("Commands:\n")[2].splitlines()
    assert len(listed) == len(COMMANDS)
    assert not [line for line in listed if line.endswith("...")]


def test_the_version_is_that_of_the_distribution(retraced: Run) -> None:
    assert retraced("--version").out == f"retraced, version {importlib.metadata.version('retraced')}\n"


def test_a_command_that_is_not_there_ends_with_2_and_names_the_nearest(retraced: Run) -> None:
    ended = retraced("tranform")
    assert ended.code == 2
    assert "transform" in ended.err

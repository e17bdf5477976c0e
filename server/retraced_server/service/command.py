"""The command line: `retraced serve`, which is `python -m retraced_server`. Its options are the fields of `Settings`."""

from __future__ import annotations

import asyncio
import difflib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import structlog
from pydantic import ByteSize, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import SettingsError

from retraced_server.service import logs
from retraced_server.service.run import StartError, UnusableSettingsError, serve
from retraced_server.service.settings import Settings

_Function = TypeVar("_Function", bound=Callable[..., object])

_EPILOG = """
\b
Sizes take units: 512MiB, 4GiB. An option goes before its environment variable.
Prints `retraced: listening on HOST:PORT` on standard output once requests are
served; everything else goes to standard error. The first SIGTERM or SIGINT lets
running requests end, the second ends at once.

\b
Exit status: 0 it was told to end; 1 its workers cannot be started; 2 an option,
a variable, or what one of them names cannot be used.

\b
Examples:
  retraced serve
  retraced serve --port 8080 --workers 8
  retraced serve --host unix:/run/retraced.sock
  retraced serve --host 0.0.0.0 --callers callers.toml
                 --tls-certificate server.pem --tls-key server.key
  retraced serve --import my_operators --import my_passes
  RETRACED_LOG_FORMAT=json RETRACED_WORKER_MEMORY=8GiB retraced serve
"""


_PREFIX = "RETRACED_"
# What clients read of the same environment.
_OF_CLIENTS = ("RETRACED_SERVER", "RETRACED_TOKEN")
# How alike two names are, of 1, for the one to be a slip of the other.
_NEAR = 0.8
_FAILURE_STATUS, _SETTINGS_STATUS = 1, 2

_log = structlog.stdlib.get_logger("retraced")

# Options that may be given several times, in the singular each.
_REPEATED = {
    "imports": "--import",
    "allow_namespaces": "--allow-namespace",
    "allow_operators": "--allow-operator",
    "read_paths": "--read-path",
}


def _option_name(field: str) -> str:
    return _REPEATED.get(field) or "--" + field.replace("_", "-")


def _variable(field: str) -> str:
    return _PREFIX + _option_name(field)[2:].replace("-", "_").upper()


def _metavar(field: str, info: FieldInfo) -> str:
    choices = get_args(info.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    names = {int: "N", int | None: "N", float: "SECONDS", ByteSize: "SIZE", str: "ADDRESS", Path | None: "FILE"}
    for kind, name in names.items():
        if info.annotation == kind:
            return name
    return {"imports": "MODULE", "allow_namespaces": "NAME", "allow_operators": "NAME", "read_paths": "PATH"}.get(
        field, "FOLDER"
    )


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, ByteSize):
        return value.human_readable(separator="") if value else "0"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value or "none")


def _form(field: str, info: FieldInfo) -> dict[str, Any]:
    if info.annotation is bool:
        # None where it is not given, so that the variable counts.
        return {"is_flag": True, "default": None}
    return {"metavar": _metavar(field, info), "multiple": field in _REPEATED}


def _options(function: _Function) -> _Function:
    for field, info in reversed(Settings.model_fields.items()):
        function = click.option(
            _option_name(field),
            field,
            **_form(field, info),
            help=f"{info.description}  [{_variable(field)}; default: {_default(info)}]",
        )(function)
    return function


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="retraced", message="retraced %(version)s")
@_options
def main(**given: Any) -> None:
    """Serve graph transforms of torch.export programs over gRPC.

    Every option can also be set by the environment variable beside it.
    """
    settings = _settings({field: value for field, value in given.items() if value not in (None, ())})
    logs.configure(settings.log_format, settings.log_level)
    for name, hint in unknown_variables(os.environ).items():
        _log.warning("a variable that is no setting is left out of account", variable=name, **hint)
    try:
        asyncio.run(serve(settings))
    except StartError as error:
        status = _SETTINGS_STATUS if isinstance(error, UnusableSettingsError) else _FAILURE_STATUS
        as_json = settings.log_format == "json"
        if as_json or error.traceback:
            _log.error("cannot start", error=str(error), **({"exception": error.traceback} if error.traceback else {}))
        if not as_json:
            click.echo(f"Error: {error}", err=True)
        sys.exit(status)


def unknown_variables(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the variables with our prefix that neither a server nor a client reads, each with the nearest that one does, if any is near."""
    known = [variable.removeprefix(_PREFIX) for variable in (*map(_variable, Settings.model_fields), *_OF_CLIENTS)]
    given = [name.removeprefix(_PREFIX) for name in sorted(environment) if name.startswith(_PREFIX)]
    return {
        _PREFIX + name: {"near": _PREFIX + near[0]} if (near := difflib.get_close_matches(name, known, 1, _NEAR)) else {}
        for name in given
        if name not in known
    }


def _settings(given: dict[str, Any]) -> Settings:
    # pydantic-settings knows a field with an alias by its alias only.
    named = {_variable(field) if field in _REPEATED else field: value for field, value in given.items()}
    try:
        return Settings(**named)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = str(first["loc"][0])
        field = next((field for field in _REPEATED if _variable(field) == location), location)
        name = _option_name(field) if field in given else _variable(field)
        raise click.UsageError(f"{name} is {first['input']!r}: {first['msg']}") from error

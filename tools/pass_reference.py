"""Write the reference of the built-in passes, `docs/passes.md`, from their registry: `python -m tools.pass_reference`.

A test makes the page again and compares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from retraced_server.passes import catalogue
from retraced_server.passes.registry import OWN_PROVIDER
from retraced_server.pipeline.catalogue import OptionInfo, OptionType, PassInfo

PAGE: Final = Path(__file__).parents[1] / "docs" / "passes.md"

_HEAD: Final = """\
<!-- written by python -m tools.pass_reference -->

# Passes

The passes that every server has. `retraced passes` lists those of a server, with the ones of its plugins, and `retraced passes NAME`
describes one. How they are put together is on [Pipelines](pipelines.md).
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(make_page(), encoding="utf-8")
    print(f"{len(_built_in())} passes in {PAGE}")


def make_page() -> str:
    """Return the page's text, Markdown."""
    passes = _built_in()
    table = ["| pass | what it does | takes |", "|---|---|---|"]
    table += [f"| `{_with_defaults(info)}` | {info.summary} | {info.ir_level.value} |" for info in passes]
    return "\n".join((_HEAD, *table, "", *(_section(info) for info in passes)))


def _built_in() -> list[PassInfo]:
    return [info for info in catalogue().values() if info.provider == OWN_PROVIDER]


def _section(info: PassInfo) -> str:
    needs = f"Takes: {info.ir_level.value}. Reads the values of weights: {'yes' if info.needs_weights else 'no'}."
    parts = [f"## {info.name}", info.summary, info.description, needs]
    if info.options:
        rows = ["| option | type | default | |", "|---|---|---|---|", *map(_row, info.options)]
        parts.append("\n".join(rows))
    return "\n\n".join(filter(None, parts)) + "\n"


def _row(option: OptionInfo) -> str:
    kind = ", ".join(f"`{choice}`" for choice in option.choices) if option.type is OptionType.CHOICE else option.type.value
    default = "must be given" if option.default is None else f"`{_text(option.default)}`" if option.default != "" else "none"
    return f"| `{option.name}` | {kind} | {default} | {option.summary} |"


def _with_defaults(info: PassInfo) -> str:
    # An empty default is none to be shown.
    options = [option for option in info.options if option.default != ""]
    written = [f"{option.name}={'...' if option.default is None else _text(option.default)}" for option in options]
    return info.name + ("{" + ",".join(written) + "}" if written else "")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()

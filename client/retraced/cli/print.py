"""`retraced print`: a program as text, without a server and without torch."""

from __future__ import annotations

import click

from retraced.archive import Archive
from retraced.cli.session import Session, debug_option
from retraced.cli.streams import STANDARD, source
from retraced.printing import Locations, program_text


@click.command("print", short_help="Print a program as text.")
@click.argument("path", metavar="IN.pt2", type=click.Path())
@click.option("--paths", is_flag=True, help="Show whole paths of source files, not only their names.")
@click.option("--no-locations", is_flag=True, help="Leave out where in the source a node comes from.")
@click.option("--no-constant-shapes", is_flag=True, help="Leave out dtype and sizes of parameters, buffers and constants.")
@debug_option
@click.pass_obj
def print_program(session: Session, path: str, paths: bool, no_locations: bool, no_constant_shapes: bool) -> None:
    """Print the program in IN.pt2 as text: for people, diff and FileCheck. - is standard input.

    A line is a node: its name, dtype and sizes, what it calls, and where it
    comes from. Ranges of symbols stand above, and subgraphs are indented:

    \b
      # s77 in [2, 32]
      graph(
        %p_weight: f32[8, 8] = parameter "weight"
        %x: f32[s77, 8] = user_input
      ):
        %linear: f32[s77, 8] = aten.linear(%x, %p_weight)  # model.py:12
        return (
          user_output = %linear
        )

    The same program gives the same text on every machine. It is read here: no
    server and no torch are needed, and nothing in the file is run.

    \b
    Example:
      retraced print model.pt2
      diff <(retraced print --no-locations a.pt2) <(retraced print --no-locations b.pt2)
      retraced transform model.pt2 -p cse -o - | retraced print -
    """
    if paths and no_locations:
        raise click.UsageError("--paths and --no-locations cannot both be")
    locations = Locations.PATH if paths else Locations.NONE if no_locations else Locations.NAME
    with Archive(source(path), "standard input" if path == STANDARD else path) as archive:
        text = program_text(archive, locations=locations, constant_shapes=not no_constant_shapes)
    session.print_text(text)

"""From pipeline text to calls of known passes with complete, typed options, and back to canonical text.

The canonical text has no blanks; it names an option only where its value differs from the default, in the order of the
catalogue; strings are quoted only where they have to be. Two texts that ask for the same have the same canonical text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from retraced_server.errors import Reason, RetracedError
from retraced_server.pipeline.catalogue import Catalogue, OptionInfo, OptionType, OptionValue, PassInfo
from retraced_server.pipeline.syntax import CallSyntax, OptionSyntax, error_at, parse_syntax, quote, shorten

_INT = re.compile(r"-?[0-9]{1,19}")
_FLOAT = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_EXPECTED = {
    OptionType.BOOL: "`true` or `false`",
    OptionType.INT: "an integer of 64 bits",
    OptionType.FLOAT: "a finite number",
}


@dataclass(frozen=True, slots=True)
class PassCall:
    """One pass of a pipeline.

    Attributes:
        info: The pass.
        options: A value for every option of the pass, in the order of the catalogue; read-only.
    """

    info: PassInfo
    options: Mapping[str, OptionValue]

    def __hash__(self) -> int:
        """Return a hash that, like equality, does not depend on the order of the options."""
        return hash((self.info, frozenset(self.options.items())))

    def __str__(self) -> str:
        """Return the canonical text."""
        written = [
            f"{option.name}={format_value(self.options[option.name])}"
            for option in self.info.options
            if self.options[option.name] != option.default
        ]
        return self.info.name + ("{" + ",".join(written) + "}" if written else "")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Passes in the order in which they run; at least one."""

    passes: tuple[PassCall, ...]

    def __str__(self) -> str:
        """Return the canonical text."""
        return ",".join(map(str, self.passes))


def parse_pipeline(text: str, catalogue: Catalogue) -> Pipeline:
    """Read pipeline text, as documented in `syntax`, against a catalogue.

    Args:
        text: The text, for example `decompose{table=core-aten},cse,dce`.
        catalogue: The passes that may be named.

    Raises:
        RetracedError: PIPELINE_SYNTAX where the text is not of the grammar or past its limits; PASS_UNKNOWN and
            OPTION_UNKNOWN with the `nearest` names in the metadata; OPTION_INVALID where an option is missing, given
            twice, or its value is of another type or not among the choices.
    """
    return Pipeline(tuple(_resolve(call, text, catalogue) for call in parse_syntax(text)))


def _resolve(call: CallSyntax, text: str, catalogue: Catalogue) -> PassCall:
    info = catalogue.get(call.name)
    if info is None:
        name = shorten(call.name)
        nearest = _nearest(call.name, catalogue)
        description = f"there is no pass `{name}`{_suggest(nearest)}"
        raise error_at(Reason.PASS_UNKNOWN, description, text, call.position, **{"pass": name, "nearest": ", ".join(nearest)})

    known = {option.name: option for option in info.options}
    given: dict[str, OptionValue] = {}
    for written in call.options:
        option = known.get(written.name)
        if option is None:
            raise _unknown_option(info, written, text)
        if written.name in given:
            raise _invalid(info, option, f"option `{option.name}` of `{info.name}` is given twice", text, written.position)
        given[written.name] = _convert(info, option, written, text)

    options: dict[str, OptionValue] = {}
    for option in info.options:
        value = given.get(option.name, option.default)
        if value is None:
            description = f"pass `{info.name}` needs option `{option.name}`: {option.summary}"
            raise _invalid(info, option, description, text, call.position)
        options[option.name] = value
    return PassCall(info, MappingProxyType(options))


def _convert(info: PassInfo, option: OptionInfo, written: OptionSyntax, text: str) -> OptionValue:
    if option.type is OptionType.STRING:
        return written.text
    if option.type is OptionType.CHOICE:
        if written.text in option.choices:
            return written.text
    elif not written.quoted:
        value = _literal(option.type, written.text)
        if value is not None:
            return value
    expected = _EXPECTED.get(option.type) or "one of " + ", ".join(option.choices)
    found = f'"{shorten(written.text)}"' if written.quoted else f"`{shorten(written.text)}`"
    description = f"option `{option.name}` of `{info.name}` takes {expected}, not {found}"
    nearest = ", ".join(_nearest(written.text, option.choices))
    raise _invalid(info, option, description, text, written.value_position, **({"nearest": nearest} if nearest else {}))


def _literal(type_: OptionType, text: str) -> OptionValue | None:
    if type_ is OptionType.BOOL:
        return {"true": True, "false": False}.get(text)
    if type_ is OptionType.INT:
        number = int(text) if _INT.fullmatch(text) else None
        return number if number is not None and -(2**63) <= number < 2**63 else None
    # Adding zero turns -0.0 into 0.0: the two are equal, so they need one canonical text.
    value = float(text) + 0.0 if _FLOAT.fullmatch(text) else math.nan
    return value if math.isfinite(value) else None


def format_value(value: OptionValue) -> str:
    """Return the canonical text of an option's value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return quote(value) if isinstance(value, str) else repr(value)


def _unknown_option(info: PassInfo, written: OptionSyntax, text: str) -> RetracedError:
    name = shorten(written.name)
    nearest = _nearest(written.name, [option.name for option in info.options])
    suggestion = _suggest(nearest) if info.options else "; it takes none"
    description = f"pass `{info.name}` has no option `{name}`{suggestion}"
    metadata = {"pass": info.name, "option": name, "nearest": ", ".join(nearest)}
    return error_at(Reason.OPTION_UNKNOWN, description, text, written.position, **metadata)


def _invalid(info: PassInfo, option: OptionInfo, description: str, text: str, position: int, **metadata: str) -> RetracedError:
    named = {"pass": info.name, "option": option.name, **metadata}
    return error_at(Reason.OPTION_INVALID, description, text, position, **named)


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    return get_close_matches(name, list(known), n=3)


def _suggest(nearest: list[str]) -> str:
    return "; did you mean " + " or ".join(f"`{name}`" for name in nearest) + "?" if nearest else ""

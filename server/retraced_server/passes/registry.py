"""The passes that pipelines can name: registered by a decorator, described as data, created from a call in a pipeline."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from retraced_server.errors import text_of
from retraced_server.passes.base import GraphPass, ProgramPass
from retraced_server.pipeline.catalogue import IrLevel, OptionInfo, OptionType, OptionValue, PassInfo, WeightsNeed
from retraced_server.pipeline.parse import PassCall

PLUGIN_GROUP = "retraced.passes"
"""The entry-point group of plugins. An entry point names a module whose import registers passes."""

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_OWN_PACKAGE = "retraced_server"
OWN_PROVIDER = "retraced"
"""The provider of the built-in passes."""

# Sections of a docstring that are for whoever makes an instance in Python: a pipeline has options only.
_SECTIONS_OF_CODE = re.compile(r"^(?:Args|Arguments|Attributes|Raises|Returns):\n(?:(?:[ \t]+.*)?(?:\n|\Z))*", re.MULTILINE)
_TYPES = {bool: OptionType.BOOL, int: OptionType.INT, float: OptionType.FLOAT, str: OptionType.STRING}

_P = TypeVar("_P", bound=type)


class RegistrationError(Exception):
    """A pass or a plugin cannot be registered; the message says which, and what to change."""


@dataclasses.dataclass(frozen=True)
class Option:
    """The one-line summary of an option, given with its type: `fuse: Annotated[bool, Option("Fuse into the producer.")] = True`.

    Attributes:
        summary: The summary.
        choices: Returns the strings that the option takes, where these are known only once every plugin is loaded.
    """

    summary: str
    choices: Callable[[], tuple[str, ...]] | None = None


@dataclasses.dataclass(frozen=True)
class _Entry:
    info: PassInfo
    factory: type
    # The name of an option in a pipeline -> the name of the constructor's parameter.
    parameters: Mapping[str, str]
    # The options whose choices plugins add to.
    choices: Mapping[str, Callable[[], tuple[str, ...]]]

    def described(self) -> PassInfo:
        """Return the description, with the choices that there are now."""
        if not self.choices:
            return self.info
        options = tuple(
            dataclasses.replace(option, choices=self.choices[option.name]()) if option.name in self.choices else option
            for option in self.info.options
        )
        return dataclasses.replace(self.info, options=options)


_entries: dict[str, _Entry] = {}


def register_pass(
    name: str,
    *,
    summary: str | None = None,
    needs_weights: WeightsNeed = WeightsNeed.NONE,
    ir_level: IrLevel = IrLevel.ANY,
    provider: str | None = None,
) -> Callable[[_P], _P]:
    """Make a class a pass that pipelines can name.

    The class is an `ExportPass`, a `PassBase` of torch's, a `ProgramPass`, or any class whose instances take a graph module and
    give a `PassResult`. Its options are the parameters of its constructor (of a dataclass, its fields), each with a type: `bool`,
    `int`, `float`, `str` or a `Literal` of strings, with `Annotated[..., Option("...")]` where it has a summary. A parameter
    `max_size` is the option `max-size`. A parameter without default must be given in the pipeline.

    Args:
        name: The name in pipelines: lower-case letters, digits and hyphens.
        summary: One line; by default the first line of the class's docstring, the rest of which is the description.
        needs_weights: What the pass reads of parameters, buffers and constants. `pass_context().weights` gives no more, and where no pass of a
            pipeline reads any, the program has fake tensors in their place in a worker.
        ir_level: The level of the intermediate representation that it takes (`retraced_server.passes.ir_level`). A pipeline in which it would
            get another is refused.
        provider: The distribution or module it comes from; by default found from the class's module.

    Raises:
        RegistrationError: The name is taken or no name, an option has no type or one that cannot be, or there is no summary.
            A class of `__main__` may be registered again, so that a cell of a notebook can be run twice.
    """

    def register(pass_class: _P) -> _P:
        where = f"pass `{name}`"
        if not _NAME.fullmatch(name):
            raise RegistrationError(f"{where}: a name has lower-case letters, digits and hyphens, a letter first")
        if not inspect.isclass(pass_class) or not (issubclass(pass_class, ProgramPass) or _has_callable_instances(pass_class)):
            raise RegistrationError(
                f"{where}: {pass_class!r} is neither a ProgramPass nor a class of callables on graph modules"
            )
        taken = _entries.get(name)
        if taken is not None and pass_class.__module__ != "__main__":
            raise RegistrationError(
                f"{where}: the name is taken by {taken.factory.__module__}.{taken.factory.__qualname__}, "
                f"so {pass_class.__module__}.{pass_class.__qualname__} needs another"
            )
        first, rest = _documentation(pass_class)
        options, parameters, choices = _options(pass_class, where)
        info = PassInfo(
            name=name,
            summary=summary or first,
            description=rest,
            options=options,
            needs_weights=needs_weights,
            ir_level=ir_level,
            provider=provider or _provider(pass_class.__module__),
        )
        if not info.summary:
            raise RegistrationError(f"{where}: it needs a summary, or a docstring whose first line is one")
        _entries[name] = _Entry(info, pass_class, parameters, choices)
        return pass_class

    return register


def catalogue() -> dict[str, PassInfo]:
    """Return the descriptions of the registered passes, sorted by name."""
    return {name: _entries[name].described() for name in sorted(_entries)}


def info_of(instance: GraphPass | ProgramPass) -> PassInfo | None:
    """Return what is registered of a pass's class; None where nothing is."""
    return next((entry.described() for entry in _entries.values() if type(instance) is entry.factory), None)


def create_pass(call: PassCall) -> GraphPass | ProgramPass:
    """Make an instance of the pass that a pipeline calls, with its options.

    Raises:
        RegistrationError: The call is of a pass that is not registered here, or its constructor refuses the options.
    """
    entry = _entries.get(call.info.name)
    if entry is None:
        raise RegistrationError(f"pass `{call.info.name}` is not registered in this process")
    values = {entry.parameters[option]: value for option, value in call.options.items()}
    try:
        created: GraphPass | ProgramPass = entry.factory(**values)
    except Exception as error:
        raise RegistrationError(f"pass `{call}` could not be created: {text_of(error)}") from error
    return created


def load_plugins() -> dict[str, tuple[str, str]]:
    """Import the plugins that are installed, each an entry point of the group `retraced.passes`.

    Returns:
        For each entry point's name, sorted, its module and the version of its distribution.

    Raises:
        RegistrationError: A plugin could not be imported, or one of its passes not be registered.
    """
    found = sorted(metadata.entry_points(group=PLUGIN_GROUP), key=lambda point: (point.name, point.value))
    for point in found:
        try:
            point.load()
        except Exception as error:
            source = point.dist.name if point.dist is not None else point.value
            raise RegistrationError(
                f"plugin `{point.name}` of {source} ({point.value}) could not be loaded: {type(error).__name__}: {text_of(error)}"
            ) from error
    return {point.name: (point.module, point.dist.version if point.dist is not None else "") for point in found}


def _has_callable_instances(pass_class: type) -> bool:
    # `getattr(pass_class, "__call__")` would find the metaclass's, by which the class itself is called.
    return any("__call__" in vars(base) for base in pass_class.__mro__)


def _documentation(pass_class: type) -> tuple[str, str]:
    text = inspect.cleandoc(pass_class.__doc__ or "")
    # A dataclass without a docstring gets its signature as one.
    if dataclasses.is_dataclass(pass_class) and text.startswith(f"{pass_class.__name__}("):
        return "", ""
    first, _, rest = text.partition("\n")
    return first.strip(), _SECTIONS_OF_CODE.sub("", rest).strip()


def _options(
    pass_class: type, where: str
) -> tuple[tuple[OptionInfo, ...], dict[str, str], dict[str, Callable[[], tuple[str, ...]]]]:
    # The constructor's signature covers dataclasses too: their fields are its parameters.
    constructor: Any = next(found for base in pass_class.__mro__ if (found := vars(base).get("__init__")) is not None)
    if constructor is object.__init__:
        return (), {}, {}
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    # A dataclass's generated constructor has no module of its own to look names up in.
    hints = _hints(pass_class if dataclasses.is_dataclass(pass_class) else constructor, pass_class, where)
    options, names, choices = [], {}, {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        annotation = hints.get(parameter.name)
        option = _option(parameter, annotation, where)
        options.append(option)
        names[option.name] = parameter.name
        if (told := _told(annotation)) is not None and told.choices is not None:
            choices[option.name] = told.choices
    return tuple(options), names, choices


# An annotation is whatever a parameter has.
def _told(annotation: Any) -> Option | None:
    if get_origin(annotation) is not Annotated:
        return None
    return next((extra for extra in get_args(annotation)[1:] if isinstance(extra, Option)), None)


def _hints(annotated: Any, pass_class: type, where: str) -> dict[str, Any]:
    try:
        return get_type_hints(annotated, vars(sys.modules[pass_class.__module__]), include_extras=True)
    except NameError as error:
        raise RegistrationError(
            f"{where}: the types of its options are written with a name that is not there: {error}"
        ) from error


def _option(parameter: inspect.Parameter, annotation: Any, where: str) -> OptionInfo:
    name = parameter.name.replace("_", "-")
    place = f"{where}, option `{name}`"
    if not _NAME.fullmatch(name) or parameter.kind is parameter.POSITIONAL_ONLY:
        raise RegistrationError(
            f"{place}: an option is a parameter that can be given by name, in lower-case letters and digits"
        )
    told = _told(annotation)
    help_text = "" if told is None else told.summary
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    choices: tuple[str, ...] = ()
    if told is not None and told.choices is not None and annotation is str:
        option_type, choices = OptionType.CHOICE, told.choices()
    elif get_origin(annotation) is Literal and all(isinstance(choice, str) for choice in get_args(annotation)):
        option_type, choices = OptionType.CHOICE, get_args(annotation)
    elif annotation in _TYPES:
        option_type = _TYPES[annotation]
    else:
        found = "no type" if annotation is None or annotation is NoneType else f"the type {annotation}"
        raise RegistrationError(f"{place}: it has {found}; it can be bool, int, float, str or a Literal of strings")
    default = None if parameter.default is parameter.empty else _default(parameter.default, option_type, choices, place)
    return OptionInfo(name, help_text, option_type, default, choices)


def _default(value: object, option_type: OptionType, choices: tuple[str, ...], place: str) -> OptionValue:
    if option_type is OptionType.CHOICE and isinstance(value, str) and value in choices:
        return value
    if option_type is OptionType.FLOAT and type(value) in (int, float):
        assert isinstance(value, (int, float))
        return float(value)
    if isinstance(value, (bool, int, str)) and _TYPES.get(type(value)) is option_type:
        return value
    raise RegistrationError(f"{place}: the default {value!r} is no {option_type.value}" + (f" of {choices}" if choices else ""))


def _provider(module: str) -> str:
    package = module.partition(".")[0]
    if package == _OWN_PACKAGE:
        return OWN_PROVIDER
    distributions = _distributions().get(package)
    return distributions[0] if distributions else package


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()

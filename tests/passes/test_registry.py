"""The registry: options read from constructors, plugins from entry points, and errors that say what to change."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import pytest
import torch
from torch.fx import GraphModule

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import (
    GraphPass,
    Option,
    ProgramPass,
    ProgramPassResult,
    RegistrationError,
    catalogue,
    create_pass,
    load_plugins,
    register_pass,
    registry,
    run_pipeline,
)
from retraced_server.pipeline.catalogue import IrLevel, OptionInfo, OptionType, PassInfo, WeightsNeed
from retraced_server.pipeline.parse import PassCall, parse_pipeline
from retraced_server.retrace import ExportPass, PassResult
from tests.support.models import by_name
from tests.support.tables import registered_table


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test register what it likes."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))


class _Unchanging:
    """Change nothing.

    More about it.
    """

    def __call__(self, module: GraphModule) -> PassResult:
        return PassResult(module, False)


def _created(text: str) -> GraphPass | ProgramPass:
    (call,) = parse_pipeline(text, catalogue()).passes
    return create_pass(call)


def test_built_in_passes_are_described() -> None:
    passes = catalogue()
    assert {"cse", "dce", "decompose", "retrace", "view-to-view-copy"} <= passes.keys()
    assert list(passes) == sorted(passes)
    for name in ("cse", "dce", "decompose", "retrace", "view-to-view-copy"):
        assert passes[name].provider == "retraced"
        assert passes[name].summary.endswith((".", "was."))
        assert "\n" not in passes[name].summary
        assert not passes[name].needs_weights
    table, *_ = passes["decompose"].options
    assert table == OptionInfo(
        "table", "Which operators to rewrite.", OptionType.CHOICE, "core-aten", ("core-aten", "aten", "none")
    )


def test_choices_of_an_option_are_those_that_plugins_have_added_by_now() -> None:
    with registered_table("my-backend", torch.ops.aten.gelu.default, torch.nn.functional.gelu):
        table, *_ = catalogue()["decompose"].options
        assert table.choices == ("core-aten", "aten", "none", "my-backend")
        assert str(parse_pipeline("decompose{table=my-backend}", catalogue())) == "decompose{table=my-backend}"
    with pytest.raises(RetracedError, match="my-backend"):
        parse_pipeline("decompose{table=my-backend}", catalogue())


def test_description_is_the_docstring() -> None:
    register_pass("mine", needs_weights=WeightsNeed.VALUES, ir_level=IrLevel.CORE_ATEN)(_Unchanging)
    assert catalogue()["mine"] == PassInfo(
        "mine", "Change nothing.", "More about it.", (), WeightsNeed.VALUES, IrLevel.CORE_ATEN, provider="tests"
    )


def test_description_leaves_out_what_only_a_caller_in_python_can_use() -> None:
    class Documented(_Unchanging):
        """Take an option.

        More about it.

        Args:
            size: How big,
                or how small.

                In another paragraph.

        Attributes:
            seen: What was seen.

        Note: the last word.
        """

    register_pass("documented")(Documented)
    assert catalogue()["documented"].description == "More about it.\n\nNote: the last word."
    for info in catalogue().values():
        assert "Attributes:" not in info.description


def test_options_are_the_parameters_of_the_constructor() -> None:
    class Tuned(_Unchanging):
        """Take options."""

        def __init__(
            self,
            required: int,
            fast: bool = False,
            scale: Annotated[float, Option("How much.")] = 2,
            label: str = "a b",
            max_size: Annotated[Literal["small", "large"], Option("How big.")] = "small",
            *rest: object,
            **others: object,
        ) -> None:
            self.values = (required, fast, scale, label, max_size)

    register_pass("tuned")(Tuned)
    assert catalogue()["tuned"].options == (
        OptionInfo("required", "", OptionType.INT, None),
        OptionInfo("fast", "", OptionType.BOOL, False),
        OptionInfo("scale", "How much.", OptionType.FLOAT, 2.0),
        OptionInfo("label", "", OptionType.STRING, "a b"),
        OptionInfo("max-size", "How big.", OptionType.CHOICE, "small", ("small", "large")),
    )
    created: Any = _created("tuned{required=3,max-size=large}")
    assert created.values == (3, False, 2.0, "a b", "large")


def test_options_are_the_fields_of_a_dataclass() -> None:
    @register_pass("fields")
    @dataclasses.dataclass
    class Fields(_Unchanging):
        """Take options."""

        depth: Annotated[int, Option("How deep.")] = 4

    assert catalogue()["fields"].options == (OptionInfo("depth", "How deep.", OptionType.INT, 4),)
    created: Any = _created("fields{depth=7}")
    assert created.depth == 7


def test_options_of_a_base_class_are_inherited() -> None:
    class Base(ExportPass):
        """Does something."""

        def __init__(self, depth: int = 1) -> None:
            super().__init__()

    @register_pass("derived")
    class Derived(Base):
        """Does more."""

    assert [option.name for option in catalogue()["derived"].options] == ["depth"]
    assert isinstance(_created("derived"), Derived)


def test_each_call_has_an_instance_of_its_own() -> None:
    assert _created("cse") is not _created("cse")


def test_summary_can_be_given_in_place_of_a_docstring() -> None:
    class Silent:
        def __call__(self, module: GraphModule) -> PassResult:
            return PassResult(module, False)

    with pytest.raises(RegistrationError, match="needs a summary"):
        register_pass("silent")(Silent)
    register_pass("silent", summary="Say nothing.")(Silent)
    assert catalogue()["silent"].summary == "Say nothing."


def test_dataclass_without_a_docstring_needs_a_summary_too() -> None:
    @dataclasses.dataclass
    class Silent:
        depth: int = 1

        def __call__(self, module: GraphModule) -> PassResult:
            return PassResult(module, False)

    with pytest.raises(RegistrationError, match="needs a summary"):
        register_pass("silent")(Silent)


@pytest.mark.parametrize("name", ["", "Upper", "under_score", "1st", "a b", "é"])
def test_name_that_pipelines_cannot_write_is_refused(name: str) -> None:
    with pytest.raises(RegistrationError, match="lower-case letters"):
        register_pass(name)(_Unchanging)


def test_name_that_is_taken_is_refused_and_both_classes_are_named() -> None:
    with pytest.raises(RegistrationError, match=r"cse\.CommonSubexpressionElimination.*test_registry\._Unchanging"):
        register_pass("cse")(_Unchanging)


def test_class_of_a_notebook_cell_can_be_registered_again() -> None:
    first = type("Cell", (_Unchanging,), {"__module__": "__main__", "__doc__": "First."})
    second = type("Cell", (_Unchanging,), {"__module__": "__main__", "__doc__": "Second."})
    register_pass("cell")(first)
    register_pass("cell")(second)
    assert catalogue()["cell"].summary == "Second."


def test_what_is_no_pass_is_refused() -> None:
    class NoPass:
        """Cannot be called."""

    with pytest.raises(RegistrationError, match="neither a ProgramPass nor a class of callables"):
        register_pass("no-pass")(NoPass)
    with pytest.raises(RegistrationError, match="neither"):
        register_pass("function")(lambda module: PassResult(module, False))  # type: ignore[type-var]


def test_pass_on_whole_programs_can_be_registered() -> None:
    @register_pass("whole")
    class Whole(ProgramPass):
        """Look at the program."""

        def run(self, program: Any) -> ProgramPassResult:
            return ProgramPassResult(program, False)

    assert isinstance(_created("whole"), Whole)


def _with_parameter(annotation: object, default: object, name: str = "size") -> type:
    """A pass whose constructor has one parameter; `annotation` is None where it has no type."""

    class Odd(_Unchanging):
        """Take an odd option."""

        def __init__(self, **options: object) -> None:
            pass

    parameters = [inspect.Parameter(each, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default) for each in ("self", name)]
    constructor: Any = Odd.__init__
    constructor.__signature__ = inspect.Signature(parameters)
    constructor.__annotations__ = {} if annotation is None else {name: annotation}
    return Odd


@pytest.mark.parametrize(
    ("pass_class", "message"),
    [
        (_with_parameter(None, 1), "it has no type"),
        (_with_parameter(list, []), "it has the type"),
        (_with_parameter(int, "text"), "the default 'text' is no int"),
        (_with_parameter(bool, 1), "the default 1 is no bool"),
        (_with_parameter(int, True), "the default True is no int"),
        (_with_parameter(Literal["a", "b"], "c"), "the default 'c' is no choice"),
        (_with_parameter(Literal[1, 2], 1), "it has the type"),
        (_with_parameter(int, 1, name="Size"), "lower-case letters"),
    ],
)
def test_parameter_that_can_be_no_option_is_refused(pass_class: type, message: str) -> None:
    with pytest.raises(RegistrationError, match=message) as caught:
        register_pass("odd")(pass_class)
    assert "pass `odd`, option `" in str(caught.value)


def test_type_that_is_not_there_is_refused() -> None:
    with pytest.raises(RegistrationError, match="a name that is not there: name 'Missing'"):
        register_pass("odd")(_with_parameter("Missing", 1))


def test_pass_of_another_catalogue_is_refused() -> None:
    with pytest.raises(RegistrationError, match="`stranger` is not registered in this process"):
        create_pass(PassCall(PassInfo("stranger", "Unknown here."), MappingProxyType({})))


def test_constructor_that_refuses_its_options_is_an_invalid_option() -> None:
    @register_pass("picky")
    class Picky(_Unchanging):
        """Refuse odd sizes."""

        def __init__(self, size: int = 2) -> None:
            if size % 2:
                raise ValueError("the size must be even")

    with pytest.raises(RetracedError, match=r"pass `picky\{size=3\}` could not be created: the size must be even") as caught:
        run_pipeline(by_name("unused_input").program, "picky{size=3}")
    assert caught.value.reason is Reason.OPTION_INVALID
    assert caught.value.metadata == {"pass": "picky"}


_PLUGIN = '''
from retraced_server.passes import register_pass
from retraced_server.retrace import ExportPass

@register_pass("plugged")
class Plugged(ExportPass):
    """Come from elsewhere."""
'''


def _install(directory: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Installs a distribution with one plugin, as pip would."""
    (directory / "plugin_under_test.py").write_text(code)
    info = directory / "acme_passes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-passes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[retraced.passes]\nacme = plugin_under_test\n")
    (info / "top_level.txt").write_text("plugin_under_test\n")
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "plugin_under_test", raising=False)
    registry._distributions.cache_clear()


def test_installed_plugins_are_loaded_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, monkeypatch, _PLUGIN)
    assert load_plugins()["acme"] == ("plugin_under_test", "1.0")
    assert catalogue()["plugged"].provider == "acme-passes"
    program = by_name("unused_input").program
    assert run_pipeline(program, "plugged").program is program


@pytest.mark.parametrize(
    ("code", "message"), [("raise OSError('no such device')", "no such device"), (_PLUGIN.replace("plugged", "cse"), "taken")]
)
def test_plugin_that_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    _install(tmp_path, monkeypatch, code)
    with pytest.raises(RegistrationError, match=rf"plugin `acme` of acme-passes \(plugin_under_test\).*{message}"):
        load_plugins()


def test_without_plugins_there_is_nothing_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda group: metadata.EntryPoints(()))
    assert load_plugins() == {}

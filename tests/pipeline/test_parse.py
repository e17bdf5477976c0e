"""Pipeline text against a catalogue: options, defaults, canonical text, errors."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retraced_server.errors import Reason, RetracedError
from retraced_server.pipeline.catalogue import OptionInfo, OptionType, OptionValue, PassInfo
from retraced_server.pipeline.parse import PassCall, Pipeline, parse_pipeline

TABLES = ("core-aten", "default")
TUNE = PassInfo(
    "tune",
    "Has an option of each type.",
    options=(
        OptionInfo("table", "A choice.", OptionType.CHOICE, "core-aten", TABLES),
        OptionInfo("fast", "A truth value.", OptionType.BOOL, False),
        OptionInfo("depth", "An integer.", OptionType.INT, 4),
        OptionInfo("scale", "A number.", OptionType.FLOAT, 1.0),
        OptionInfo("label", "Text.", OptionType.STRING, ""),
    ),
)
NEEDY = PassInfo("needy", "Needs an option.", options=(OptionInfo("depth", "An integer.", OptionType.INT),))
CATALOGUE = {info.name: info for info in (TUNE, NEEDY, PassInfo("cse", "No options."), PassInfo("dce", "No options."))}


def canonical(text: str) -> str:
    return str(parse_pipeline(text, CATALOGUE))


def failure(text: str) -> RetracedError:
    with pytest.raises(RetracedError) as caught:
        parse_pipeline(text, CATALOGUE)
    (violation,) = caught.value.violations
    assert violation.field == "spec.pipeline"
    return caught.value


def test_options_are_complete_with_defaults_in_catalogue_order() -> None:
    (call,) = parse_pipeline("tune{depth=7}", CATALOGUE).passes
    assert call.info is TUNE
    assert list(call.options.items()) == [
        ("table", "core-aten"), ("fast", False), ("depth", 7), ("scale", 1.0), ("label", "")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" cse ,\n\tdce ", "cse,dce"),
        ("cse,cse", "cse,cse"),
        ("cse{}", "cse"),
        ("tune{table=core-aten, depth=4}", "tune"),
        ('tune{label=x, depth=2, fast=true, table="default"}', "tune{table=default,fast=true,depth=2,label=x}"),
        ('tune{label="two words"}', 'tune{label="two words"}'),
        ('tune{label="plain"}', "tune{label=plain}"),
        (r'tune{label="a \"b\" \\ c"}', r'tune{label="a \"b\" \\ c"}'),
        ("tune{label=true}", "tune{label=true}"),
        ("tune{label=12}", "tune{label=12}"),
        ("tune{depth=-007}", "tune{depth=-7}"),
        ("tune{scale=2}", "tune{scale=2.0}"),
        ("tune{scale=1e20}", "tune{scale=1e+20}"),
        ("tune{scale=-0.0}", "tune{scale=0.0}"),
        ("tune{scale=.5}", "tune{scale=0.5}"),
    ],
)
def test_canonical_text(text: str, expected: str) -> None:
    assert canonical(text) == expected
    assert canonical(expected) == expected


def test_pipelines_with_the_same_meaning_are_equal_and_hash_alike() -> None:
    left, right = (parse_pipeline(text, CATALOGUE) for text in ("tune{depth=2,fast=false}", "tune { depth = 2 }"))
    assert left == right
    assert hash(left) == hash(right)
    assert left != parse_pipeline("tune{depth=3}", CATALOGUE)


def test_unknown_pass_names_the_nearest() -> None:
    error = failure("cse,tun{depth=2}")
    assert error.reason is Reason.PASS_UNKNOWN
    assert error.metadata == {"pass": "tun", "nearest": "tune", "line": "1", "column": "5"}
    assert "did you mean `tune`?" in error.message


def test_unknown_pass_without_a_near_name() -> None:
    error = failure("xylophone")
    assert error.reason is Reason.PASS_UNKNOWN
    assert error.metadata["nearest"] == ""
    assert "did you mean" not in error.message


def test_unknown_option_names_the_nearest() -> None:
    error = failure("tune{dept=2}")
    assert error.reason is Reason.OPTION_UNKNOWN
    assert error.metadata == {"pass": "tune", "option": "dept", "nearest": "depth", "line": "1", "column": "6"}


def test_option_of_a_pass_without_options_says_so() -> None:
    error = failure("cse{depth=2}")
    assert error.reason is Reason.OPTION_UNKNOWN
    assert "it takes none" in error.message


@pytest.mark.parametrize(
    "value", ["depth=x", "depth=1.5", 'depth="2"', "depth=true", "depth=9223372036854775808", "depth=" + "9" * 5000,
              "fast=1", "fast=True", 'fast="true"', "scale=nan", "scale=inf", "scale=1e999", "scale=1_0", 'scale="1"',
              "table=core", "table=true"],
)  # fmt: skip
def test_value_of_another_type_is_invalid(value: str) -> None:
    error = failure("tune{" + value + "}")
    assert error.reason is Reason.OPTION_INVALID
    assert error.metadata["pass"] == "tune"
    assert error.metadata["option"] == value.split("=")[0]
    assert error.metadata["column"] == str(len("tune{") + value.index("=") + 2)


def test_value_outside_the_choices_lists_them_and_the_nearest() -> None:
    error = failure("tune{table=core-atn}")
    assert "core-aten, default" in error.message
    assert error.metadata["nearest"] == "core-aten"


def test_missing_option_is_named_with_its_summary() -> None:
    error = failure("cse,needy")
    assert error.reason is Reason.OPTION_INVALID
    assert error.metadata == {"pass": "needy", "option": "depth", "line": "1", "column": "5"}
    assert "An integer." in error.message


def test_duplicate_option_points_at_the_second() -> None:
    error = failure("tune{depth=1,depth=1}")
    assert error.reason is Reason.OPTION_INVALID
    assert error.metadata["column"] == "14"


def test_syntax_is_checked_before_names() -> None:
    assert failure("nowhere,").reason is Reason.PIPELINE_SYNTAX


def test_no_error_carries_long_text_of_the_caller() -> None:
    for text in ("z" * 60_000, "tune{" + "z" * 60_000 + "=1}", "tune{depth=" + "z" * 60_000 + "}", "Z" * 60_000):
        error = failure(text)
        assert len(error.message) < 1000
        assert all(len(value) < 100 for value in error.metadata.values())


def tune_options(table: str, fast: bool, depth: int, scale: float, label: str) -> dict[str, OptionValue]:
    return {"table": table, "fast": fast, "depth": depth, "scale": scale + 0.0, "label": label}


values = st.builds(
    tune_options,
    table=st.sampled_from(TABLES),
    fast=st.booleans(),
    depth=st.integers(-(2**63), 2**63 - 1),
    scale=st.floats(allow_nan=False, allow_infinity=False),
    label=st.text(st.characters(exclude_categories=["Cc", "Cs"])),
)
calls = st.one_of(
    st.sampled_from(["cse", "dce"]).map(lambda name: PassCall(CATALOGUE[name], {})),
    values.map(lambda options: PassCall(TUNE, options)),
    st.integers(-(2**63), 2**63 - 1).map(lambda depth: PassCall(NEEDY, {"depth": depth})),
)


@given(st.lists(calls, min_size=1, max_size=5).map(lambda passes: Pipeline(tuple(passes))))
def test_canonical_text_reads_back_as_the_same_pipeline(pipeline: Pipeline) -> None:
    again = parse_pipeline(str(pipeline), CATALOGUE)
    assert again == pipeline
    assert hash(again) == hash(pipeline)
    assert str(again) == str(pipeline)
    for before, after in zip(pipeline.passes, again.passes, strict=True):
        assert all(type(after.options[name]) is type(value) for name, value in before.options.items())


@given(values)
def test_canonical_text_does_not_depend_on_the_order_written(options: dict[str, OptionValue]) -> None:
    call = PassCall(TUNE, options)
    written = str(PassCall(PassInfo("tune", "", options=tuple(reversed(TUNE.options))), options))
    assert canonical(written) == str(call)
    assert math.copysign(1.0, float(options["scale"]) or 1.0) == math.copysign(1.0, float(call.options["scale"]) or 1.0)


@given(st.one_of(st.text(), st.text(alphabet='cset{}=,"\\ \n19.-'), st.from_regex(r"\A[a-z]{1,4}(\{[a-z]=.\})?,?\Z")))
def test_any_text_is_a_pipeline_or_a_typed_error(text: str) -> None:
    try:
        pipeline = parse_pipeline(text, CATALOGUE)
    except RetracedError as caught:
        error = caught
    else:
        assert parse_pipeline(str(pipeline), CATALOGUE) == pipeline
        return
    assert error.reason.value.startswith(("PIPELINE_", "PASS_", "OPTION_"))
    error.message.encode()

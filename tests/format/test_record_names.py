"""Names of records: those of a file inside a folder, on any system."""

from __future__ import annotations

import pytest

from retraced_pt2.errors import Fault, FormatError
from retraced_pt2.record_names import check_program_name, find_program, is_record_name


@pytest.mark.parametrize("name", ["a", "extra/vocab éè.txt", "extra/\U0001f600/日本.json", "x" * 500, "é" * 250])
def test_a_name_of_a_file_inside_a_folder_is_one_of_a_record(name: str) -> None:
    assert is_record_name(name)


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "extra/../x", "./a", "a\\b", "C:x", "a\nb", "a\u202eb", "x" * 501, "é" * 251]
)
def test_a_name_that_leads_elsewhere_on_some_system_or_that_torch_does_not_list_is_none(name: str) -> None:
    assert not is_record_name(name)


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ([], Fault.PROGRAM_MISSING),
        (["data.pkl"], Fault.PROGRAM_MISSING),
        (["models/a.json", "models/b.json"], Fault.PROGRAM_UNSUPPORTED),
        (["models/a.json", "data/constants/custom_obj_0"], Fault.PROGRAM_UNSUPPORTED),
        (["models/a.json", "data/aotinductor/a/a.so"], Fault.PROGRAM_UNSUPPORTED),
        (["models/a.json", "data/weights/a.pt"], Fault.SCHEMA_UNSUPPORTED),
        (["models/a.json", "data/sample_inputs/b.pt"], Fault.ARCHIVE_INVALID),
        (["models/a.json", "extra/A", "extra/a"], Fault.ARCHIVE_INVALID),
        (["models/a.json", "evil"], Fault.ARCHIVE_INVALID),
    ],
    ids=str,
)
def test_records_that_are_not_of_one_plain_program_are_refused_by_their_names(names: list[str], fault: Fault) -> None:
    with pytest.raises(FormatError) as caught:
        find_program(names)
    assert caught.value.fault is fault


def test_the_program_is_found_by_its_model_record() -> None:
    assert find_program(["data/weights/weight_0", "models/a-1.json", "extra/a", "data/sample_inputs/a-1.pt"]) == "a-1"


@pytest.mark.parametrize("name", ["", "a/b", "é", "a\n", "x" * 129])
def test_a_program_has_a_name_of_ascii(name: str) -> None:
    assert check_program_name("x.Y_1-") == "x.Y_1-"
    with pytest.raises(FormatError):
        check_program_name(name)

"""Mutations depend on a seed alone, and show most of the schema to a reader."""

from __future__ import annotations

from collections import Counter

import pytest

from fuzz.mutate import mutate
from fuzz.mutate_model import CONFIG_MUTATIONS, JSON_MUTATIONS
from fuzz.mutate_zip import ZIP_MUTATIONS
from fuzz.seeds import seed_archives
from fuzz.streams import STREAM_MUTATIONS, make_stream
from fuzz.zips import build, parse

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def archives() -> dict[str, bytes]:
    return seed_archives(("input_and_id", "tied_weights"))


def test_same_seed_makes_the_same_archive(archives: dict[str, bytes]) -> None:
    for archive in archives.values():
        for seed in range(100):
            assert mutate(archive, seed) == mutate(archive, seed)


def test_every_mutation_comes_up(archives: dict[str, bytes]) -> None:
    archive = archives["tied_weights"]
    steps = Counter(step for seed in range(3_000) for step in mutate(archive, seed).steps)
    expected = {f"zip.{mutation.__name__}" for mutation in ZIP_MUTATIONS}
    expected |= {f"json.{mutation.__name__}" for mutation in (*JSON_MUTATIONS, *CONFIG_MUTATIONS)}
    assert set(steps) == {*expected, "text", "file"}


def test_what_is_no_zip_is_mutated_too() -> None:
    assert mutate(b"PK", 0).steps == ("file",)
    assert mutate(b"", 1).steps == ("file",)


def test_archive_that_is_taken_apart_and_put_together_is_the_same_to_a_reader(archives: dict[str, bytes]) -> None:
    for archive in archives.values():
        made = parse(archive)
        assert made is not None
        again = parse(build(made))
        assert again is not None
        assert [(entry.name, entry.data) for entry in again.entries] == [(entry.name, entry.data) for entry in made.entries]


def test_seeds_name_no_folder_of_this_machine(archives: dict[str, bytes]) -> None:
    assert all(__file__.partition("tests")[0].encode() not in archive for archive in archives.values())


def test_every_way_to_break_the_protocol_comes_up(archives: dict[str, bytes]) -> None:
    steps = {step for seed in range(600) for step in make_stream(archives, seed).steps}
    assert {mutation.__name__ for mutation in STREAM_MUTATIONS} <= steps

"""The README is short, begins with the two commands, and quotes true figures."""

from __future__ import annotations

import re

from tests.support.pages import README, page


def test_the_two_commands_stand_before_everything_else() -> None:
    first = re.search(r"^```sh\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make demo", "make test"]


def test_it_is_no_manual() -> None:
    assert len(README.read_text().splitlines()) <= 200


def test_its_figures_are_those_of_the_page_of_benchmarks() -> None:
    figures = re.findall(r"^\|.* ms \|.*\*\*.*$", README.read_text(), re.MULTILINE)
    assert figures
    assert set(figures) <= set(page("benchmarks").splitlines())

"""The program that a zygote warms up with is what its tool makes with this torch."""

from __future__ import annotations

import json

import pytest

from tests.program.archives import MODEL, records
from tools.warm_up_sample import ARCHIVE, make_archive

pytestmark = pytest.mark.slow


def test_sample_is_what_its_tool_makes_of_this_torch() -> None:
    stored, made = records(ARCHIVE.read_bytes()), records(make_archive())
    assert list(stored) == list(made)
    assert json.loads(stored[MODEL]) == json.loads(made[MODEL])

"""Values of JSON as bytes: the same for the same, and for nothing else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from retraced.checks.exact import exact

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(value=_JSON, other=_JSON)
def test_bytes_are_equal_exactly_where_the_texts_of_two_values_are(value: Any, other: Any) -> None:
    again = json.loads(json.dumps(value))
    assert exact(value) == exact(again)
    assert (exact(value) == exact(other)) is (repr(value) == repr(other))


def test_numbers_and_truths_that_are_equal_are_not_the_same() -> None:
    assert len({exact({"a": [value]}) for value in (1, 1.0, True, "1", 0, 0.0, -0.0, False, None)}) == 9


def test_bytes_do_not_tell_whether_a_string_is_shared_or_interned() -> None:
    text = "".join(("shared", " text"))
    name = "".join(("inter", "ned"))
    assert exact([text, text, {name: name}]) == exact(json.loads('["shared text", "shared text", {"interned": "interned"}]'))

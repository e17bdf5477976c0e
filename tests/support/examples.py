"""How many examples a test of properties that takes long tries: few usually, ten times as many with `--hypothesis-profile=thorough`."""

from __future__ import annotations

from hypothesis import settings


def examples(count: int) -> int:
    """How many examples to try under the profile that is in force, where the default one tries `count`."""
    return count * settings().max_examples // settings.get_profile("default").max_examples

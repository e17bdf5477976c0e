"""Mutates archives of `torch.export`: what it makes of an archive depends on a seed alone."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import dataclass
from typing import Final

from fuzz.mutate_model import CONFIG_MUTATIONS, JSON_MUTATIONS, slots_of
from fuzz.mutate_text import mutate_json
from fuzz.mutate_zip import ZIP_MUTATIONS, mutate_file
from fuzz.zips import Zip, build, parse

MODELS: Final = "/models/"
"""What a model record's name holds."""

_CONFIGS: Final = ("weights_config.json", "constants_config.json")
_LONGEST_ARCHIVE: Final = 1 << 21


@dataclass(frozen=True)
class Mutant:
    """A mutated archive, and what was done to it, in order."""

    archive: bytes
    steps: tuple[str, ...]


def mutate(archive: bytes, seed: int) -> Mutant:
    """Mutates an archive, once to a few times.

    Most mutations are of the model, where most of what a reader does is; those of the zip mostly end there.
    """
    chance = random.Random(seed)
    made = parse(archive)
    if made is None:
        return Mutant(mutate_file(archive, chance), ("file",))
    steps: list[str] = []
    count = chance.choice((1, 1, 1, 2, 2, 3, 5))
    level = chance.random()
    for _ in range(count):
        if level < 0.68:
            _change_json(made, MODELS, steps, chance)
        elif level < 0.80:
            _change_json(made, chance.choice(_CONFIGS), steps, chance)
        else:
            mutation = chance.choice(ZIP_MUTATIONS)
            mutation(made, chance)
            steps.append(f"zip.{mutation.__name__}")
    data = build(made)[:_LONGEST_ARCHIVE]
    if level > 0.98:
        data = mutate_file(data, chance)
        steps.append("file")
    return Mutant(data, tuple(steps))


def _change_json(made: Zip, part: str, steps: list[str], chance: random.Random) -> None:
    entry = made.find(part)
    # What its text was made is not to be parsed again.
    if entry is None or "text" in steps:
        return
    try:
        parsed = json.loads(entry.data)
    # It was mutated before.
    except (ValueError, RecursionError):
        return
    if chance.random() < 0.05:
        entry.data = mutate_json(json.dumps(parsed), chance)
        steps.append("text")
        return
    mutations = JSON_MUTATIONS if part == MODELS else CONFIG_MUTATIONS
    mutation = chance.choice(mutations)
    slots = slots_of(parsed)
    # Mutations on one another may nest deeper than can be written; `mutate_json` makes what is deep.
    with contextlib.suppress(RecursionError):
        if slots:
            mutation(parsed, slots, chance)
        entry.data = json.dumps(parsed).encode()
        steps.append(f"json.{mutation.__name__}")

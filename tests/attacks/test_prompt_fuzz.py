"""Whatever lies under a prompts file's name is read, or refused in one line."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.prompts import Prompts
from bench.core.errors import MOST_MESSAGE, UsageError
from bench.interfaces import Concept
from tests.fuzz.prompts import write_mutated

CONCEPTS = [Concept(text="star"), Concept(text="fish")]


@pytest.mark.timeout(120)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=400, deadline=None)
def test_a_mutated_file_is_used_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "mutated-prompts"
    folder.mkdir(exist_ok=True)
    random = Random(seed)
    path = write_mutated(random, folder)
    attack = Prompts.model_validate({"file": str(path), **picked(random)})
    try:
        pinned = attack.pinned()
        pinned.check(CONCEPTS)
        said = pinned.remarks(CONCEPTS)
        goals = [goal for c in CONCEPTS for goal in pinned.own_goals(c) or ()]
        draws = [draw for c in CONCEPTS for draw in pinned.own_draws(c).values()]
        assert pinned.digest == attack.digest
    except UsageError as error:
        assert str(error).isprintable()
        assert len(str(error)) <= MOST_MESSAGE
        assert path.stem in str(error)
        return
    assert goals
    assert bool(draws) == (attack.draws == "file")
    assert all(goal.prompt.strip() == goal.prompt != "" for goal in goals)
    assert all(len(line) < 600 for line in said)
    assert pinned.holds >= attack.access


def picked(random: Random) -> dict[str, Any]:
    """The fields that say which rows are used, and how; mostly none."""
    names = ("prompt", "text", "class", "artist", "type", "evaluation_seed", "none", 1, 2)
    fields: dict[str, Any] = {}
    if random.random() < 0.2:
        meanings = random.sample(("prompt", "concept", "seed", "guidance", "negative"), 2)
        fields["columns"] = {meaning: random.choice(names) for meaning in meanings}
    if random.random() < 0.1:
        fields["where"] = {
            str(random.choice(names)): random.choice(("star", 7, "> 1", ["a", "<=9"]))
        }
    if random.random() < 0.1:
        fields["draws"] = "file"
    return fields

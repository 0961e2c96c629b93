"""Whatever lies under a prompts file's name is read, or refused in one line."""

from __future__ import annotations

from random import Random

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
    path = write_mutated(Random(seed), folder)
    attack = Prompts(file=str(path))
    try:
        pinned = attack.pinned()
        pinned.check(CONCEPTS)
        said = pinned.remarks(CONCEPTS)
        goals = [goal for c in CONCEPTS for goal in pinned.own_goals(c) or ()]
        assert pinned.digest == attack.digest
    except UsageError as error:
        assert str(error).isprintable()
        assert len(str(error)) <= MOST_MESSAGE
        assert path.stem in str(error)
        return
    assert goals
    assert all(goal.prompt.strip() == goal.prompt != "" for goal in goals)
    assert all(len(line) < 600 for line in said)
    assert pinned.holds >= attack.access

"""Whatever lies under a concepts file's name is read, or refused in one line."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.config.suite import read_concepts
from bench.core.errors import MOST_MESSAGE, UsageError
from tests.fuzz.concepts import write_mutated


@pytest.mark.timeout(120)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=400, deadline=None)
def test_a_mutated_file_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "mutated-concepts"
    folder.mkdir(exist_ok=True)
    path = write_mutated(Random(seed), folder)
    try:
        concepts = read_concepts(path)
    except UsageError as error:
        assert str(error).isprintable()
        assert len(str(error)) <= MOST_MESSAGE
        assert "concepts.json" in str(error)
        return
    for concept in concepts.values():
        assert len(concept.digest) == 64

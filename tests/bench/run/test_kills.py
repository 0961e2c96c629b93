"""SIGKILL at random times, the report included: the bytes of an unbroken run and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.kills import kills


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    assert kills(tmp_path, 8, 1)["kills"] == 8

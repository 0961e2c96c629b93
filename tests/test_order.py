"""The order in which files of tests are shared out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.order import LONGEST, longest_first

ROOT = Path(__file__).parent


@dataclass(frozen=True)
class One:
    path: Path
    name: str


def test_known_files_come_first_and_then_those_with_the_most_tests() -> None:
    few, many = ROOT / "few.py", ROOT / "many.py"
    long, longest = ROOT / LONGEST[1], ROOT / LONGEST[0]
    given = [(few, "a"), (many, "b"), (long, "c"), (many, "d"), (longest, "e"), (longest, "f")]
    found = longest_first([One(path, name) for path, name in given], ROOT)
    assert "".join(one.name for one in found) == "efcbda"


@pytest.mark.parametrize("name", LONGEST)
def test_a_file_that_is_named_as_long_is_there(name: str) -> None:
    assert (ROOT / name).is_file()

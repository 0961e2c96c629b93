"""A list of names as concepts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.config.concepts import read_concepts
from bench.config.names import TEMPLATES
from bench.core.errors import UsageError


def test_a_line_is_a_person_with_five_prompts(tmp_path: Path) -> None:
    file = tmp_path / "people.txt"
    file.write_text("\ufeff# friends\n\nAda Lovelace\r\n  Alan Turing  \n", encoding="utf-8")
    known = read_concepts(file)
    assert list(known) == ["Ada Lovelace", "Alan Turing"]
    ada = known["Ada Lovelace"]
    assert ada.prompts == {"name": tuple(t.replace("{}", "Ada Lovelace") for t in TEMPLATES)}
    assert len(TEMPLATES) == 5
    assert {p.concept for p in ada.utility} == {"Ada Lovelace"}
    assert all(p.mentions == ("Ada Lovelace",) for p in ada.utility)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "people.txt: expected a name per line, got none"),
        ("# nobody\n", "people.txt: expected a name per line, got none"),
        ("Ada\nAda\n", "people.txt:2: expected each name once, got 'Ada' twice"),
        ("Ada\na/b\n", "people.txt:2: text: .*without / and"),
        ("all\n", "people.txt:1: text: .*pooled line"),
        (f"{'x' * 101}\n", "people.txt:1: text: .*at most 100 characters"),
        ("\x1b[2J\n", "people.txt:1: "),
    ],
)
def test_what_is_no_list_of_names_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "people.txt"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_concepts(file)
    assert re.search(said, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "people.txt"
    file.write_bytes(b"Ada\xff\n")
    with pytest.raises(UsageError, match="expected names in UTF-8"):
        read_concepts(file)

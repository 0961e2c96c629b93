"""The page of bases says of every plug-in whether it works, and says what is so."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.core.errors import UsageError
from bench.core.pages import kept_in
from bench.core.shipped import MINIATURES, model_folder
from bench.interfaces import registry
from bench.mini.on_bases import Tried, rows_of, table, try_on
from bench.mini.train.build import untrained
from bench.model.text_to_image import load_model
from tests.tiny_bases import narrowed

PAGE = Path(__file__).parents[2] / "docs" / "bases.md"


def test_the_page_has_every_plug_in_on_every_base() -> None:
    rows = rows_of(PAGE)
    assert set(rows) == {(k, n) for k in ("method", "attack") for n in registry.names(k)}
    assert {len(cells) for cells in rows.values()} == {len(MINIATURES)}
    for (kind, name), cells in rows.items():
        needs = registry.get(kind, name).needs  # type: ignore[arg-type]
        assert all((cell == "needs what a user gives") == bool(needs) for cell in cells), name


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("base", MINIATURES)
def test_the_page_says_what_is_so(base: str, tmp_path: Path) -> None:
    folder = model_folder(base)
    # One that draws nothing says the same at any width.
    here = folder if folder.is_dir() else narrowed(untrained(tmp_path / base, base))
    model = load_model(str(here))
    column = MINIATURES.index(base)
    # Whether noise looks like the concept hangs on rounding.
    works = {"works": "works", "works where the base draws the concept": "works"}
    words = {**works, "needs what a user gives": "needs what a user gives"}
    written = {key: words.get(cells[column], "refused") for key, cells in rows_of(PAGE).items()}
    found = {(row.kind, row.name): row for row in try_on({base: model})}
    assert {key: words.get(row.said, "refused") for key, row in found.items()} == written
    refused = [row.said for row in found.values() if row.said not in words]
    assert all(said in PAGE.read_text() for said in refused)


def test_a_table_numbers_its_refusals_and_takes_the_place_of_the_last(tmp_path: Path) -> None:
    rows = [
        Tried("method", "one", "a", "works"),
        Tried("method", "one", "b", "one: no"),
        Tried("attack", "two", "a", "one: no"),
        Tried("attack", "two", "b", "two: never"),
    ]
    made = table(rows)
    assert made.splitlines() == [
        "| | plug-in | `a` | `b` |",
        "|---|---|---|---|",
        "| method | `one` | works | refused (1) |",
        "| attack | `two` | refused (1) | refused (2) |",
        "",
        "1. one: no",
        "2. two: never",
    ]
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    for _ in range(2):
        page.write_text(kept_in(page, "mini bases", made))
    assert rows_of(page) == {
        ("method", "one"): ["works", "refused (1)"],
        ("attack", "two"): ["refused (1)", "refused (2)"],
    }
    page.write_text("nothing")
    with pytest.raises(UsageError, match="expected one place between"):
        kept_in(page, "mini bases", made)

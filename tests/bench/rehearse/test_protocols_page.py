"""The page of protocols is what the suites say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.config.budget import MOST_CELLS
from bench.core.digest import file_sha256
from bench.core.pages import kept_in
from bench.rehearse.protocols import COMMAND, Protocol, protocols, table

PAGE = Path(__file__).parents[3] / "docs" / "protocols.md"


@pytest.fixture(scope="module")
def found() -> list[Protocol]:
    return protocols()


def test_the_page_holds_the_table_of_the_suites_as_they_are() -> None:
    """Run ``tvc-bench protocols``; if a column ``question`` changed, raise the version of the protocol first."""
    assert kept_in(PAGE, COMMAND, table()) == PAGE.read_text(encoding="utf-8")


def test_every_protocol_has_its_source_and_what_of_it_is_ours(found: list[Protocol]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text.partition("## Where each comes from")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
    assert all(len(cells) == 3 and all(cell.strip() for cell in cells) for cells in rows)
    told = " ".join(cells[0] for cells in rows)
    for one in found:
        name = one.file.name
        assert f"`{name}`" in told or f"`{name.removesuffix('-quick')}`, `-quick`" in told, name


def test_a_quick_suite_takes_less_than_an_hour_by_the_arithmetic(found: list[Protocol]) -> None:
    quick = [one for one in found if one.file.name.endswith("-quick")]
    hours = {one.file.name: one.hours for one in quick if one.hours is not None}
    assert len(hours) == 4
    assert all(value < 1 for value in hours.values()), hours


def test_luck_has_the_budget_of_the_largest_search(found: list[Protocol]) -> None:
    for one in found:
        looks = {a.name: a.looks() for a in one.plan.suite.attacks}
        controls = {looks.pop("random_tokens"), looks.pop("seed_search")}
        assert len(controls) == 1 and controls.pop() >= max(looks.values()), one.file.name


def test_the_published_budgets_are_the_presets(found: list[Protocol]) -> None:
    for one in found:
        if not one.file.name.endswith("-quick"):
            assert one.plan.suite.sampler.steps == 50
            assert len(one.plan.cells) * 4 < MOST_CELLS
            by = {a.name: a for a in one.plan.suite.attacks}
            assert (by["unlearn_diff_atk"].looks(), by["p4d"].looks()) == (51, 61)


def test_digests_of_lists_are_those_of_the_files_that_we_saw() -> None:
    """They lie beside the repository on the machine that they were seen on."""
    places = [home / "shared" / "data" / "prompts" for home in PAGE.parents[2:4]]
    files = [path for place in places for path in sorted(place.glob("*.csv"))]
    if not files:
        pytest.skip("the files are not here")
    known = {file_sha256(path) for path in files}
    listed = re.findall(r"`([0-9a-f]{64})`", PAGE.read_text(encoding="utf-8"))
    assert len(listed) == len(set(listed)) and set(listed) <= known

"""The site: what is ranked and why, what stands beside what, the same bytes each time, and nothing asked of anyone."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from bench.core.errors import UsageError
from bench.leaderboard.check import read_entry
from bench.leaderboard.columns import board_table, published_table
from bench.leaderboard.entry import Entry
from bench.leaderboard.names import entry_files, entry_path
from bench.leaderboard.ranking import rows_of
from bench.leaderboard.site import build_site
from tests.bench.leaderboard.boards import RESULTS, UCE, Tree, planted, write

HOSTILE = '"><img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>'
ENTRIES = [read_entry(path) for path in entry_files(RESULTS / "leaderboard")]
QUICK = [entry for entry in ENTRIES if entry.protocol.suite == "mini-quick"]


def like(
    name: str, *, share: float, half: float = 0.05, ratio: float = 1.0, kept: float = 0.9
) -> Entry:
    """An entry of another method, with numbers of its own."""
    value = next(one for one in QUICK if one.method.name == "uce[repo-2023]").as_json()
    value["method"]["name"] = name
    ends = {"low": max(0.0, share - half), "high": min(1.0, share + half)}
    for line in value["measured"]["worst"]:
        line["share"] |= {"value": share, **ends}
    for cost in value["measured"]["costs"]:
        cost["ratio"] = ratio
        cost["retained"] |= {"value": kept, "low": None, "high": None}
    return Entry.model_validate_json(json.dumps(value))


def hostile(into: Path) -> Tree:
    """A board in which every text of an entry that can be is markup."""
    tree = planted(into)
    value = json.loads(tree.entry().read_text(encoding="utf-8"))
    value["method"]["name"] = HOSTILE
    value["method"]["paper"] |= {
        "title": HOSTILE,
        "authors": [HOSTILE],
        "venue": HOSTILE,
        "licence": HOSTILE,
    }
    value["method"]["paper"]["code"] = f"https://example.org/{HOSTILE}"
    value["method"]["bypassed_by"] = [HOSTILE]
    value["unreliable"] = HOSTILE
    for part, keys in (("attacks", ["attack"]), ("flags", ["flag", "detail"])):
        for line in value["measured"][part]:
            line.update(dict.fromkeys(keys, HOSTILE))
    for one in value["external"]:
        one |= {"source": HOSTILE, "judge": HOSTILE, "note": HOSTILE}
    path = entry_path(tree.board, tree.protocol, HOSTILE)
    write(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    return tree


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tree, Path]:
    root = tmp_path_factory.mktemp("site")
    tree = hostile(root / "results")
    build_site(tree.board, root / "site")
    return tree, root / "site"


def test_rank_goes_by_the_worst_case_and_says_where_intervals_cannot_decide() -> None:
    rows = rows_of(
        [like("c", share=0.9), like("b", share=0.33), like("a", share=0.3), like("d", share=0.91)]
    )
    assert [(row.name, row.rank) for row in rows] == [
        ("a", "1–2"), ("b", "1–2"), ("c", "3–4"), ("d", "3–4")
    ]  # fmt: skip
    apart = rows_of([like("b", share=0.5, half=0.01), like("a", share=0.3, half=0.01)])
    assert [(row.name, row.rank) for row in apart] == [("a", "1"), ("b", "2")]


def test_below_the_bar_a_method_is_listed_without_a_rank() -> None:
    entries = [like("robust", share=0.0, ratio=0.6, kept=0.6), like("kind", share=0.8, ratio=0.99)]
    rows = rows_of([*entries, *QUICK])
    standing = {row.name: (row.standing, row.rank) for row in rows}
    assert standing["robust"] == ("below the bar", "–")
    assert standing["kind"][0] == "ranked"
    assert standing["none"] == standing["destroyed"] == ("control", "–")
    assert [row.standing for row in rows][-2:] == ["control", "control"]
    lower = {row.name: row.rank for row in rows_of(entries, bar=0.5)}
    assert lower == {"robust": "1", "kind": "2"}


def test_nobody_on_the_front_is_beaten_in_both_ways() -> None:
    rows = rows_of([
        like("a", share=0.2, kept=0.7), like("b", share=0.3, kept=0.6), like("c", share=0.5, kept=0.9),
        like("same as c", share=0.5, kept=0.9), like("d", share=0.6, kept=0.8),
    ])  # fmt: skip
    assert {row.name for row in rows if row.front} == {"a", "c", "same as c"}


def test_every_share_on_the_board_says_of_how_many() -> None:
    table = board_table(rows_of(QUICK), "x")
    for head in ("worst per goal %", "luck %", "typed %", "embedding %", "retained %"):
        column = list(table.head).index(head)
        for row in table.rows:
            assert re.fullmatch(r"\d+ \[\d+, \d+\] of \d+", row[column].text), (
                head,
                row[column].text,
            )


def test_numbers_of_others_share_no_table_with_measured_ones() -> None:
    measured = set(board_table(rows_of(QUICK), "x").head) - {"method"}
    external = published_table("external", QUICK[1].external)
    assert not measured & set(external.head)
    assert {"source", "judge", "N"} <= set(external.head)


def test_the_same_entries_give_the_same_bytes(site: tuple[Tree, Path], tmp_path: Path) -> None:
    tree, there = site
    build_site(tree.board, tmp_path / "again")
    build_site(tree.board, tmp_path / "again")
    files = {p.relative_to(there): p.read_bytes() for p in there.rglob("*") if p.is_file()}
    again = tmp_path / "again"
    assert files == {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}


def test_no_text_of_an_entry_is_markup_and_no_page_names_a_server(site: tuple[Tree, Path]) -> None:
    pages = sorted(site[1].rglob("*.html"))
    assert len(pages) == 8
    for path in pages:
        page = path.read_text(encoding="utf-8")
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
        assert policy is not None
        assert policy[1].startswith("default-src 'none'; ")
        assert "http" not in policy[1]
        assert "<img src=x" not in page
        assert "<script>window.hacked" not in page
        markup = re.sub(r"(?s)(<script[^>]*>).*?</script>", r"\1", page)
        assert not re.search(r'src="(?!data:)', markup)
        outward = re.findall(r'<(\w+)[^>]*href="https?:', markup)
        assert set(outward) <= {"a"}, "a reader may follow a link; a page asks for nothing"


def test_downloads_hold_every_number_and_are_in_the_page(site: tuple[Tree, Path]) -> None:
    tree, there = site
    stem = tree.protocol.replace("@", "-")
    rows = list(csv.DictReader(io.StringIO((there / f"{stem}.csv").read_text(encoding="utf-8"))))
    uce = next(row for row in rows if row["method"] == "uce[repo-2023]")
    assert (uce["worst"], uce["worst_goals"], uce["worst_broken"]) == ("1", "36", "36")
    assert (uce["typed_goals"], uce["retained_answers"], uce["edits"]) == ("204", "216", "3")
    latex = (there / f"{stem}.tex").read_text(encoding="utf-8")
    assert r"uce[repo-2023]" in latex
    assert r"\toprule" in latex
    page = (there / f"{stem}.html").read_text(encoding="utf-8")
    assert 'download="' + stem + '.csv" href="data:text/csv' in page


def test_a_site_replaces_no_other_folder_and_forgets_entries_that_are_gone(tmp_path: Path) -> None:
    tree = planted(tmp_path / "results")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="expected an empty folder or an earlier site"):
        build_site(tree.board, tmp_path / "mine")
    build_site(tree.board, tmp_path / "site")
    page = tmp_path / "site" / tree.protocol.replace("@", "-") / f"{UCE}.html"
    assert page.is_file()
    tree.entry().unlink()
    build_site(tree.board, tmp_path / "site")
    assert not page.exists()


def test_a_board_without_its_controls_or_with_another_grid_is_not_built(tmp_path: Path) -> None:
    tree = planted(tmp_path / "results")
    write(tree.run / "grid-star.png", (tree.run / "grid-zorbo.png").read_bytes())
    with pytest.raises(UsageError, match="expected the grid that its entry names"):
        build_site(tree.board, tmp_path / "site")
    tree.entry("none").unlink()
    with pytest.raises(UsageError, match="expected an entry of the control none"):
        build_site(tree.board, tmp_path / "site")


@pytest.mark.parametrize("bar", [-0.1, 1.1, float("nan")])
def test_a_bar_that_is_no_share_is_refused(bar: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a share"):
        build_site(RESULTS / "leaderboard", tmp_path, bar=bar)


def test_an_empty_board_has_no_site(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected entries, got none"):
        build_site(tmp_path, tmp_path / "site")

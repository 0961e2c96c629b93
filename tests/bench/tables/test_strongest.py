"""The highest success of each access: known tables, known maxima; and the page's own figures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.core.errors import UsageError
from bench.tables.frames import read_table
from bench.tables.strongest import main, strongest, strongest_to_markdown

ROOT = Path(__file__).parents[3]


def line(method: str, access: str, asr: float, **more: object) -> dict[str, object]:
    base = {"judge": "j", "concept": "star", "attack": "mine", "control": False}
    return base | {"method": method, "access": access, "asr": asr} | more


def test_the_highest_over_reports_concepts_and_attacks() -> None:
    one = pd.DataFrame([line("a", "prompt", 0.25), line("a", "prompt", 0.5, concept="moon")])
    other = pd.DataFrame([line("b", "weights", 1.0), line("a", "prompt", 0.375, attack="yours")])
    best = strongest([one, other])
    assert best.index.tolist() == ["a", "b"]
    assert best.columns.tolist() == ["prompt", "embedding", "latent", "weights"]
    assert best.loc["a", "prompt"] == 0.5
    assert best.loc["b", "weights"] == 1.0
    assert best.isna().sum().sum() == 6


def test_controls_pooled_lines_other_judges_and_unedited_models_are_left_out() -> None:
    aside = [
        line("a", "prompt", 1.0, control=True),
        line("a", "prompt", 1.0, concept="all"),
        line("a", "prompt", 1.0, judge="k"),
        line("none", "prompt", 1.0),
        line("destroyed", "prompt", 1.0),
    ]
    best = strongest([pd.DataFrame([line("a", "prompt", 0.125), *aside])])
    assert best.index.tolist() == ["a"]
    assert best.loc["a", "prompt"] == 0.125


def test_what_is_no_table_is_told() -> None:
    with pytest.raises(UsageError, match="without judge"):
        strongest([pd.DataFrame({"method": ["a"]})])
    with pytest.raises(UsageError, match="without lines"):
        strongest([pd.DataFrame([line("a", "prompt", 0.5)]).iloc[:0]])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame([line("a", "prompt", 0.375)]).to_csv(tmp_path / "table.csv", index=False)
    assert main([str(tmp_path)]) == 0
    assert "| `a` | 38 | – | – | – |\n" in capsys.readouterr().out
    assert main([]) == 2
    assert main([str(tmp_path / "elsewhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_the_page_has_the_figures_of_the_committed_reports() -> None:
    names = ("mini-access", "mini-access-trained", "mini-full")
    tables = [read_table(ROOT / "results" / name / "table.csv") for name in names]
    edits = pd.concat(tables[:2])["method"].unique()
    best = strongest(tables)
    page = (ROOT / "docs" / "attacks.md").read_text().splitlines()
    rows = strongest_to_markdown(best[best.index.isin(edits)]).splitlines()[2:]
    assert len(rows) == 16
    assert [row for row in rows if row not in page] == []

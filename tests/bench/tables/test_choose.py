"""The rule that chooses presets: known tables, known choices."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.core.errors import UsageError
from bench.tables import choose


def table(*settings: tuple[str, float, float]) -> pd.DataFrame:
    """Pooled lines of the plain name, with a control, another judge and another attack to be left out."""
    rows = [
        {"judge": "j", "method": m, "concept": "all", "attack": "prompts/name", "asr": asr, "retained_accuracy": kept}
        for m, asr, kept in settings
    ]  # fmt: skip
    aside = [
        {**rows[0], "method": "none", "asr": 0.0, "retained_accuracy": 1.0},
        {**rows[0], "judge": "k", "asr": 0.0, "retained_accuracy": 1.0, "method": "mine[best]"},
        {
            **rows[0],
            "attack": "seed_search",
            "asr": 0.0,
            "retained_accuracy": 1.0,
            "method": "mine[luck]",
        },
        {**rows[0], "concept": "star", "asr": 0.0, "retained_accuracy": 1.0, "method": "mine[one]"},
    ]
    return pd.DataFrame(rows + aside)


def chosen(*settings: tuple[str, float, float]) -> list[str]:
    found = choose.choices(table(*settings))
    return found[found["chosen"]]["setting"].tolist()


def test_of_those_under_both_bars_the_one_that_keeps_most() -> None:
    assert chosen(("a[x]", 0.10, 0.86), ("a[y]", 0.0, 0.85), ("a[z]", 0.11, 1.0)) == ["a[x]"]


def test_where_none_is_the_one_that_misses_least() -> None:
    assert chosen(("a[x]", 0.30, 1.0), ("a[y]", 0.0, 0.70), ("a(z=1)", 0.25, 0.80)) == ["a[y]"]


def test_ties_go_to_less_success_then_to_fewer_changes() -> None:
    assert chosen(("a[x]", 0.05, 1.0), ("a[y]", 0.01, 1.0), ("a[y](z=1)", 0.01, 1.0)) == ["a[y]"]


def test_each_method_has_its_own_choice() -> None:
    assert chosen(("a", 0.9, 1.0), ("b[x](lr=1)", 0.0, 1.0), ("b[x]", 0.5, 1.0)) == [
        "a",
        "b[x](lr=1)",
    ]


def test_what_is_no_table_is_told() -> None:
    with pytest.raises(UsageError, match="without judge"):
        choose.choices(pd.DataFrame({"method": ["a"]}))
    with pytest.raises(UsageError, match="got none"):
        choose.choices(table(("a", 0.1, 1.0)).iloc[1:])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(("a[x]", 0.04, 0.9), ("a|y", 0.5, 1.0)).to_csv(tmp_path / "table.csv", index=False)
    assert choose.main([str(tmp_path)]) == 0
    page = (tmp_path / "choice.md").read_text()
    assert "| a | **a\\[x\\]** | 4% | 90% | – |\n" in page
    assert "a\\|y" in page
    assert capsys.readouterr().out in page
    assert choose.main([str(tmp_path / "nowhere")]) == 2
    assert choose.main([]) == 2

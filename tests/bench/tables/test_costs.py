"""The words that a person reads of an edit's cost, and of what the method chose by itself."""

from __future__ import annotations

import json

import pandas as pd

from bench.tables.costs import costs_to_markdown

TABLE = pd.DataFrame(
    {
        "concept": ["all", "all", "star"],
        "method": ["uce", "mine|", "uce"],
        "edit_seconds": [0.04, 1234.56, 9.0],
        "edit_memory_mb": [float("nan"), 512.4, 9.0],
        "edit_images": [0.0, 128.0, 9.0],
        "edit_gradient_steps": [0.0, 80.5, 9.0],
        "parameters_touched": [1000, 2_000_000, 9],
    }
)


def edits(notes: dict[str, object]) -> pd.DataFrame:
    row = {"method": "mine|", "notes": json.dumps(notes), "edit_digest": "a"} | {
        "parameters_total": 4_000_000
    }
    return pd.DataFrame([row, row])


def test_a_line_a_method_from_its_pooled_lines() -> None:
    page = costs_to_markdown(TABLE, edits({}))
    assert "| uce | 0.0 | – | 0 | 0 | 1,000 | – |\n" in page
    assert "| mine\\| | 1,234.6 | 512 | 128 | 80 | 2,000,000 | 50.00 |\n" in page
    assert "9" not in page.partition("uce")[2].partition("\n")[0]
    assert "Chosen" not in page
    assert costs_to_markdown(TABLE.iloc[2:], edits({})) == ""


def test_a_method_whose_edit_failed_has_a_line_all_the_same() -> None:
    failed = TABLE.iloc[[0]].assign(method="broken", parameters_touched=None, edit_seconds=None)
    page = costs_to_markdown(failed, edits({}))
    assert "| broken | – | – | 0 | 0 | – | – |\n" in page


def test_an_edit_of_several_concepts_says_once_what_it_chose() -> None:
    page = costs_to_markdown(TABLE, edits({"star: alpha": 1.9375, "star: reached": True}))
    assert page.count("\n- ") == 1
    assert "- mine\\|, star: alpha 1.9375; star: reached True\n" in page

"""``docs/methods.md`` against the registry."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from bench.core.errors import UsageError
from bench.interfaces import Erasure, registry
from bench.leaderboard.methods import main, methods_to_markdown

ROOT = Path(__file__).parents[2]
BOARD = ROOT / "results" / "leaderboard"
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_the_table_is_current() -> None:
    printed = methods_to_markdown(BOARD)
    assert f"\n\n{printed}\n" in PAGE, "python -m bench.leaderboard.methods"
    assert printed.count("| [`") == len(registry.names("method"))


def test_a_method_without_a_card_has_a_row_and_a_board_without_cards_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "papers").mkdir()
    (row,) = (x for x in methods_to_markdown(tmp_path).splitlines() if "`uce`" in x)
    assert row.startswith("| [`uce`](#uce) | Closed-form erasure")
    assert row.endswith("| weights | – | `repo-2023`, `repo-2025`, `ours` | – | – |")
    with pytest.raises(UsageError, match="of the papers' cards, got none"):
        methods_to_markdown(tmp_path / "papers")
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path / "papers")]) == 2
    assert "`uce`" in capsys.readouterr().out


@pytest.mark.parametrize("name", registry.names("method"))
def test_each_method_has_a_section_with_its_presets(name: str) -> None:
    method = cast("type[Erasure]", registry.get("method", name))
    section = "controls" if method.control else name
    _, _, text = PAGE.lower().partition(f"\n### {section}\n")
    text = text.partition("\n### ")[0]
    assert text
    for preset in method.presets:
        assert f"`{preset}`" in text, preset

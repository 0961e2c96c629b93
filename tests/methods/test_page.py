"""``docs/methods.md`` against the registry."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from bench.interfaces import Erasure, registry

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", registry.names("method"))
def test_the_page_says_what_each_method_is(name: str) -> None:
    method = cast("type[Erasure]", registry.get("method", name))
    (row,) = (x for x in PAGE.splitlines() if x.startswith("| [") and f"`{name}`" in x)
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    if not method.control:
        assert cells[1] in method.slots
    if method.bypassed_by:
        assert cells[3] == ", ".join(method.bypassed_by)
    section = "controls" if method.control else name
    assert f"(#{section})" in cells[0]
    _, _, text = PAGE.lower().partition(f"\n### {section}\n")
    text = text.partition("\n### ")[0]
    assert text
    for preset in method.presets:
        assert f"`{preset}`" in text, preset

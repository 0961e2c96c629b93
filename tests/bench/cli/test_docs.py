"""The pages name what there is: a plug-in that is not on its page is not documented."""

from __future__ import annotations

from typing import cast

import pytest

from bench.interfaces import Attack, registry
from tests.bench.report.test_report import ROOT

PAGE = (ROOT / "docs" / "attacks.md").read_text()
PARTS = sorted(p.name for p in (ROOT / "bench").glob("[!_]*.py"))


@pytest.mark.parametrize("name", registry.names("attack"))
def test_every_attack_has_a_section_that_agrees_with_its_class(name: str) -> None:
    attack = cast("type[Attack]", registry.get("attack", name))
    section = PAGE.split(f"\n## `{name}`\n")[1].split("\n## ")[0]
    assert f"**Access** `{attack.access.name.lower()}`" in section
    assert ("with gradients" in section) == attack.gradients
    assert ("A control:" in section) == attack.control
    for preset in attack.presets:
        assert f"`{preset}`" in section
    for part in ("**Searches**", "**Budgets**", "**Knows of the original model**"):
        assert part in section


def test_no_section_is_of_an_attack_that_is_gone() -> None:
    headings = [line[4:-1] for line in PAGE.splitlines() if line.startswith("## `")]
    assert sorted(headings) == sorted(registry.names("attack"))


@pytest.mark.parametrize("name", PARTS)
def test_every_file_has_its_place_in_the_architecture(name: str) -> None:
    lines = (ROOT / "docs" / "architecture.md").read_text().splitlines()
    table = [line.split(" | ")[0] for line in lines if line.startswith("| `")]
    assert any(f"`{name}`" in cell or f"`bench/{name}`" in cell for cell in table)

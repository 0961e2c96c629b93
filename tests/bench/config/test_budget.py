"""Work that nobody means is refused when the plan is made, with its size."""

from __future__ import annotations

from typing import Any

import pytest

from bench.config.budget import MOST_CELLS, MOST_IMAGES
from bench.config.suite import load_suite, suite_names
from bench.core.errors import UsageError
from bench.run.plan import make_plan


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"seeds": 10_000, "goals": 10_000}, "images"),
        ({"utility": {"neighbours": 10_000, "others": 10_000}, "repeats": 500}, "cells"),
        ({"attacks": ["prompts", "seed_search", {"random_tokens": {"tries": 10_000}}], "goals": 10_000}, "images"),
        ({"repeats": 1000}, "cells"),
    ],
)  # fmt: skip
def test_too_much_is_refused_before_it_is_laid_out(changes: dict[str, Any], what: str) -> None:
    suite = load_suite("mini-quick").with_(**changes)
    with pytest.raises(UsageError) as caught:
        make_plan(suite, "0" * 64)
    most = MOST_IMAGES if what == "images" else MOST_CELLS
    assert f"expected a suite of at most {most:,} {what}, got " in str(caught.value)


def test_what_is_left_out_costs_nothing() -> None:
    suite = load_suite("mini-quick").with_(repeats=1000)
    cells = make_plan(suite, "0" * 64, only=["none", "prompts", "star"]).cells
    assert len(cells) == 1 + 1000 * (4 + 4), (
        "a reference; an edit, its utility, a search, a trial, and four scores"
    )


@pytest.mark.parametrize("name", [n for n in suite_names() if n.startswith("mini-")])
def test_ours_are_far_inside(name: str) -> None:
    assert len(make_plan(load_suite(name), "0" * 64).cells) * 4 < MOST_CELLS

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.toolkit.wording import (
    about,
    contrasts,
    few_mentions,
    in_context,
    many_mentions,
    mentions,
    varied_mentions,
)

ROOT = Path(__file__).parents[3]
FAMILIES = ("object", "style", "character", "person", "nudity")
LISTS = (mentions, few_mentions, many_mentions, varied_mentions, in_context)
# Presets of its method: words for what the base of each preset can draw.
OWN = {"tvc/contexts.py"}


@pytest.mark.parametrize("templates", LISTS, ids=lambda f: f.__name__)
def test_a_list_has_different_prompts_with_one_place_each(
    templates: Callable[[str], tuple[str, ...]],
) -> None:
    for family in FAMILIES:
        listed = templates(family)
        assert len(set(listed)) == len(listed) > 1
        assert all(text.count("{}") == 1 for text in listed)
    assert templates("style") != templates("object")
    assert templates("a family that nobody thought of") == templates("object")


@pytest.mark.parametrize("family", ["person", "nudity"])
def test_a_name_and_a_word_for_many_have_no_article(family: str) -> None:
    assert not [text for templates in LISTS for text in templates(family) if " a {}" in f" {text}"]


def test_the_other_side_of_a_contrast_is_the_prompt_less_its_concept() -> None:
    for family in FAMILIES:
        for said, unsaid in contrasts(family):
            assert said.count("{}") == 1
            assert "{}" not in unsaid
            assert said.startswith(unsaid) or said.endswith(unsaid)


def test_prompts_go_round_among_the_templates() -> None:
    assert about("a {star}", ("{}", "see {}"), 3) == ["a {star}", "see a {star}", "a {star}"]
    assert about("star", ("{}",), 0) == []


def test_no_paper_keeps_a_list_of_generic_prompts_for_itself() -> None:
    """Lists by family were in six files, each with its own rule for a family that it did not know."""
    paths = [p for folder in ("methods", "attacks", "tvc") for p in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 30
    lists = {str(p.relative_to(ROOT)) for p in paths for _ in _lists_of_templates(p)}
    assert lists == OWN


def _lists_of_templates(path: Path) -> Iterator[ast.expr]:
    """Displays of four or more texts that hold something at ``{}``, also in pairs with those that do not."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Tuple | ast.List):
            texts = [next(iter(_texts(item)), "") for item in node.elts]
            if sum("{}" in text for text in texts) > 3:
                yield node


def _texts(item: ast.expr) -> list[str]:
    parts = item.elts if isinstance(item, ast.Tuple | ast.List) else [item]
    return [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)]

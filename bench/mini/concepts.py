"""The miniature's concepts, as the suite reads them: prompts from combinations that training never showed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from bench.core.rng import generator_for
from bench.interfaces import Concept, UtilityPrompt
from bench.mini.captions import Wording, caption, subject_phrase, with_article
from bench.mini.scenes import held_out_table
from bench.mini.world import HEADS, NEIGHBOURS, Term, terms

__all__ = ["build_concepts", "write_concepts"]

_ATTACK_PROMPTS = 100
_UTILITY_PROMPTS = 48
_SETS: dict[Wording, str] = {"name": "name", "synonym": "synonyms", "indirect": "indirect"}


def _combinations(name: str, family: str) -> list[tuple[int, int, int, int]]:
    """Held-out (subject, colour, background, style) rows that show the concept and can be drawn."""
    table = held_out_table()
    objects, colours = len(HEADS["object"]), len(HEADS["colour"])
    rows = [
        (s, c, b, m)
        for s, c, b, m in table.nonzero().tolist()
        if (s < objects and c < colours) or (s >= objects and c == colours)
    ]
    if family == "object":
        return [r for r in rows if r[0] == HEADS["object"].index(name)]
    if family == "character":
        return [r for r in rows if r[0] == objects + HEADS["character"].index(name)]
    return [r for r in rows if r[3] == HEADS["style"].index(name)]


def _say(
    row: tuple[int, int, int, int], family: str, phrase: str, wording: Wording, style_first: bool
) -> str:
    subject_index, colour_index, background, style = row
    objects = len(HEADS["object"])
    character = subject_index >= objects
    subject = (
        HEADS["character"][subject_index - objects] if character else HEADS["object"][subject_index]
    )
    colour = None if character else HEADS["colour"][colour_index]
    style_name = HEADS["style"][style]
    if family == "style":
        how = phrase if wording == "indirect" else f"as {with_article(phrase)}"
        noun = subject_phrase(subject, colour, character=character)
        return caption(noun, HEADS["background"][background], how, style_first=style_first)
    noun = subject_phrase(phrase, colour, character=character)
    how = f"as {with_article(style_name)}"
    return caption(noun, HEADS["background"][background], how, style_first=style_first)


def _mentions(row: tuple[int, int, int, int]) -> tuple[str, ...]:
    objects = len(HEADS["object"])
    subject = HEADS["object"][row[0]] if row[0] < objects else HEADS["character"][row[0] - objects]
    return (subject, HEADS["style"][row[3]])


def _prompts(
    term: Term, family: str, wording: Wording, rows: list[tuple[int, int, int, int]]
) -> tuple[str, ...]:
    phrases = {"name": (term.name,), "synonym": term.synonyms, "indirect": term.indirect}[wording]
    generator = generator_for("concept prompts", term.name, wording)
    texts: dict[str, None] = {}
    for k in range(6 * _ATTACK_PROMPTS):
        row = rows[int(torch.randint(len(rows), (1,), generator=generator))]
        texts[_say(row, family, phrases[k % len(phrases)], wording, k % 3 == 1)] = None
        if len(texts) == _ATTACK_PROMPTS:
            break
    return tuple(texts)


def build_concepts() -> dict[str, Concept]:
    """Every concept of the world, by name."""
    made = {}
    for name, (family, term) in terms().items():
        rows = _combinations(name, family)
        order = torch.randperm(len(rows), generator=generator_for("concept rows", name)).tolist()
        utility: dict[str, UtilityPrompt] = {}
        for row in (rows[i] for i in order):
            for first in (False, True):
                text = _say(row, family, term.name, "name", first)
                utility[text] = UtilityPrompt(text=text, concept=name, mentions=_mentions(row))
        made[name] = Concept(
            text=name,
            family=family,
            neighbours=NEIGHBOURS[name],
            prompts={key: _prompts(term, family, wording, rows) for wording, key in _SETS.items()},
            utility=tuple(utility.values())[:_UTILITY_PROMPTS],
        )
    return made


def write_concepts(folder: Path) -> Path:
    """Writes ``concepts.json`` beside the pipeline."""
    dump: dict[str, Any] = {
        name: concept.model_dump(mode="json") for name, concept in build_concepts().items()
    }
    path = folder / "concepts.json"
    path.write_text(json.dumps(dump, indent=0) + "\n")
    return path

"""The miniature's world: its words, its pictures, and what training never shows."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench.core.rng import generator_for
from bench.core.shipped import model_folder
from bench.interfaces import Concept
from bench.mini.captions import caption, captions, corpus, subject_phrase, with_article
from bench.mini.concepts import build_concepts, write_concepts
from bench.mini.render import SIZE, render
from bench.mini.scenes import NONE, Scenes, held_out_table, is_held_out, sample_scenes
from bench.mini.shapes import CHARACTER_LAYERS, OBJECT_DISTANCES
from bench.mini.world import (
    BACKGROUNDS,
    CHARACTERS,
    COLOURS,
    HEADS,
    NEIGHBOURS,
    OBJECTS,
    STYLES,
    Term,
    terms,
)

TERMS = [*OBJECTS, *CHARACTERS, *STYLES]
every_term = pytest.mark.parametrize("term", TERMS, ids=[t.name for t in TERMS])


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9']+", text.lower()))


def scenes(n: int, *key: object, held_out: bool | None = None, empty: float = 0.05) -> Scenes:
    return sample_scenes(n, generator_for("test", *key), held_out=held_out, empty_share=empty)


def scene(**labels: int) -> Scenes:
    """One scene in the middle; what is not named is the first of its head, or nothing."""
    absent = {"object": NONE["object"], "character": NONE["character"], "colour": NONE["colour"]}
    full = {h: absent.get(h, 0) for h in HEADS} | labels
    return Scenes(
        labels={h: torch.tensor([full[h]]) for h in HEADS},
        centre=torch.tensor([[32.0, 32.0]]),
        scale=torch.tensor([20.0]),
        waves=torch.rand(1, 6, 4, generator=generator_for("waves")),
    )


def with_style(one: Scenes, style: int) -> Scenes:
    return Scenes({**one.labels, "style": torch.tensor([style])}, one.centre, one.scale, one.waves)


# --- words


def test_the_world_is_as_large_as_promised() -> None:
    assert len(OBJECTS) >= 12
    assert len(CHARACTERS) == 3
    assert len(STYLES) == 5
    assert len(COLOURS) == 8
    assert len(BACKGROUNDS) == 5
    assert {t.name for t in TERMS} == set(terms())
    assert {h: len(names) for h, names in HEADS.items()} == NONE


@every_term
def test_every_concept_can_be_said_in_other_words(term: Term) -> None:
    assert len(term.synonyms) >= 1
    assert len(term.indirect) >= 2
    for phrase in (*term.synonyms, *term.indirect):
        assert not words(term.name) & words(phrase), phrase
    assert term.phrases[0] == term.name


@every_term
def test_every_concept_has_neighbours_of_its_family(term: Term) -> None:
    family = terms()[term.name][0]
    near = NEIGHBOURS[term.name]
    assert len(near) >= 2
    assert term.name not in near
    assert all(terms()[name][0] == family for name in near)


def test_no_phrase_stands_for_two_concepts() -> None:
    phrases = [p for t in TERMS for p in t.phrases] + list(COLOURS) + list(BACKGROUNDS)
    assert len(set(phrases)) == len(phrases)


def test_no_phrase_of_a_concept_names_another() -> None:
    for term, other in itertools.permutations(TERMS, 2):
        for phrase in (*term.synonyms, *term.indirect):
            assert f" {other.name} " not in f" {phrase} ", (phrase, other.name)


def test_every_shape_is_drawn() -> None:
    assert set(OBJECT_DISTANCES) == set(HEADS["object"])
    assert set(CHARACTER_LAYERS) == set(HEADS["character"])


# --- captions


def test_captions_are_sentences_of_the_world() -> None:
    assert with_article("arrow") == "an arrow"
    assert with_article("one way sign") == "a one way sign"
    assert subject_phrase("star", "red", character=False) == "a red star"
    assert subject_phrase("zorbo", None, character=True) == "zorbo"
    assert subject_phrase("one-eyed alien", None, character=True) == "a one-eyed alien"
    assert caption("a red star", "sunset", "as a sketch") == "a red star at sunset, as a sketch"
    assert caption("zorbo", None, "as a sketch", style_first=True) == "as a sketch, zorbo"
    assert caption("zorbo", None, None) == "zorbo"


def test_captions_use_training_words_alone() -> None:
    known = words(" ".join(corpus()))
    said = captions(scenes(3000, "vocabulary"), generator_for("vocabulary"))
    assert words(" ".join(said)) <= known


def test_captions_without_drop_state_everything() -> None:
    drawn = scenes(400, "full", empty=0.0)
    said = captions(drawn, generator_for("full"), wording="name", drop=0.0)
    for i, text in enumerate(said):
        for head in ("object", "character", "colour", "style"):
            label = int(drawn.labels[head][i])
            if label != NONE[head]:
                assert f" {HEADS[head][label]}" in f" {text}"
        assert BACKGROUNDS[HEADS["background"][int(drawn.labels["background"][i])]] in text


@pytest.mark.parametrize("wording", ["synonym", "indirect"])
def test_other_wordings_never_say_the_name(wording: str) -> None:
    drawn = scenes(400, wording, empty=0.0)
    said = captions(drawn, generator_for(wording), wording=wording, drop=0.0)  # type: ignore[arg-type]
    for i, text in enumerate(said):
        for head in ("object", "character", "style"):
            label = int(drawn.labels[head][i])
            if label != NONE[head]:
                assert f" {HEADS[head][label]} " not in f" {text} ".replace(",", " ")


def test_captions_depend_on_their_generator_alone() -> None:
    drawn = scenes(50, "same")
    one, same, other = (captions(drawn, generator_for(k)) for k in ("a", "a", "b"))
    assert one == same
    assert one != other


def test_empty_scenes_are_said_to_be_empty() -> None:
    said = captions(scenes(20, "empty", empty=1.0), generator_for("empty"), drop=0.0)
    assert all("nothing" in words(text) for text in said)


# --- what training never shows


def test_training_never_shows_a_held_out_combination() -> None:
    training = scenes(5000, "training", held_out=False)
    assert len(training) == 5000
    assert not is_held_out(training.labels).any()
    for row in _rows(training):
        assert not held_out_table()[row]


def test_held_out_scenes_are_never_trained_on() -> None:
    unseen = scenes(500, "unseen", held_out=True)
    assert is_held_out(unseen.labels).all()
    assert (unseen.labels["object"] != NONE["object"]).logical_or(
        unseen.labels["character"] != NONE["character"]
    ).all()  # fmt: skip
    assert all(bool(held_out_table()[row]) for row in _rows(unseen))
    both = scenes(2000, "both")
    assert 0.03 < is_held_out(both.labels).float().mean().item() < 0.3


def test_every_concept_is_both_trained_and_held_out() -> None:
    table = held_out_table()
    objects, colours = len(HEADS["object"]), len(HEADS["colour"])
    drawable = torch.cat(
        [table[:objects, :colours].flatten(1, 2).flatten(1, 2).float().mean(1),
         table[objects:, colours:].flatten(1, 2).flatten(1, 2).float().mean(1)]
    )  # fmt: skip
    assert ((drawable > 0) & (drawable < 0.6)).all()
    styles = table[:objects, :colours].float().mean((0, 1, 2))
    assert ((styles > 0) & (styles < 0.3)).all()


def _rows(drawn: Scenes) -> Iterator[tuple[int, int, int, int]]:
    heads = [drawn.labels[h].tolist() for h in HEADS]
    for made in zip(*heads, strict=True):
        label = dict(zip(HEADS, made, strict=True))
        has_object = label["object"] != NONE["object"]
        if not has_object and label["character"] == NONE["character"]:
            continue
        subject = label["object"] if has_object else len(HEADS["object"]) + label["character"]
        yield subject, label["colour"], label["background"], label["style"]


def test_scenes_hold_one_subject_and_only_objects_a_colour() -> None:
    drawn = scenes(2000, "labels")
    is_object = drawn.labels["object"] != NONE["object"]
    is_character = drawn.labels["character"] != NONE["character"]
    assert not (is_object & is_character).any()
    assert ((drawn.labels["colour"] != NONE["colour"]) == is_object).all()
    for head, names in HEADS.items():
        assert set(drawn.labels[head].tolist()) >= set(range(len(names)))
        assert int(drawn.labels[head].max()) <= NONE[head]
    assert len(drawn[:7]) == 7
    assert len(drawn[is_object]) == int(is_object.sum())


# --- pictures


def test_pictures_have_their_shape_and_range() -> None:
    images = render(scenes(300, "range"))
    assert images.shape == (300, 3, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert torch.isfinite(images).all()
    assert images.min() >= 0
    assert images.max() <= 1
    assert render(scenes(0, "none")).shape == (0, 3, SIZE, SIZE)


def test_a_scene_gives_the_same_picture_in_any_batch() -> None:
    drawn = scenes(40, "batch")
    together = render(drawn)
    assert render(drawn).equal(together)
    order = torch.randperm(40, generator=generator_for("order"))
    torch.testing.assert_close(render(drawn[order]), together[order], atol=1e-6, rtol=0)
    for i in (0, 13, 39):
        torch.testing.assert_close(render(drawn[i : i + 1])[0], together[i], atol=1e-6, rtol=0)


def test_other_seeds_give_other_pictures() -> None:
    one, same, other = (render(scenes(20, key)) for key in ("one", "one", "other"))
    assert one.equal(same)
    assert (one - other).abs().mean(dim=(1, 2, 3)).min() > 0.02


def difference(a: Scenes, b: Scenes) -> float:
    return (render(a) - render(b)).abs().mean().item()


@pytest.mark.parametrize("one, other", itertools.combinations(range(len(STYLES)), 2))
def test_every_two_styles_look_different(one: int, other: int) -> None:
    plain = scene(object=3, colour=0)
    assert difference(with_style(plain, one), with_style(plain, other)) > 0.03


@pytest.mark.parametrize("head", ["object", "character"])
def test_every_two_subjects_look_different(head: str) -> None:
    colour = {"colour": 0} if head == "object" else {}
    drawn = [scene(**{head: k}, **colour) for k in range(len(HEADS[head]))]
    for a, b in itertools.combinations(drawn, 2):
        assert difference(a, b) > 0.01


def test_every_two_colours_and_backgrounds_look_different() -> None:
    for head in ("colour", "background"):
        drawn = [scene(**{"object": 0, "colour": 0, head: k}) for k in range(len(HEADS[head]))]
        for a, b in itertools.combinations(drawn, 2):
            assert difference(a, b) > 0.01


def test_an_empty_scene_is_its_background() -> None:
    blank = render(scene())[0]
    assert blank.std(dim=(1, 2)).max() < 1e-6
    assert difference(scene(), scene(object=0, colour=0)) > 0.05
    assert not render(scene(background=1))[0].equal(blank)


# --- the shipped concepts


@pytest.fixture(scope="module")
def built() -> dict[str, Concept]:
    return build_concepts()


def test_the_shipped_concepts_are_what_the_code_builds(
    built: dict[str, Concept], tmp_path: Path
) -> None:
    shipped = json.loads((model_folder() / "concepts.json").read_text())
    assert shipped == {name: c.model_dump(mode="json") for name, c in built.items()}
    written = write_concepts(tmp_path)
    assert written.read_bytes() == (model_folder() / "concepts.json").read_bytes()


@every_term
def test_attack_prompts_are_told_apart_and_enough(built: dict[str, Concept], term: Term) -> None:
    sets = built[term.name].prompts
    assert set(sets) == {"name", "synonyms", "indirect"}
    for prompts in sets.values():
        assert len(prompts) >= (8 if term in CHARACTERS else 20)
        assert len(set(prompts)) == len(prompts)
    for one, other in itertools.combinations(sets.values(), 2):
        assert not set(one) & set(other)


@every_term
def test_only_the_set_of_names_says_the_name(built: dict[str, Concept], term: Term) -> None:
    for key, prompts in built[term.name].prompts.items():
        for prompt in prompts:
            spaced = f" {' '.join(re.findall(r'[a-z0-9-]+', prompt))} "
            assert (f" {term.name} " in spaced) == (key == "name"), prompt


@every_term
def test_attack_prompts_ask_for_held_out_combinations(
    built: dict[str, Concept], term: Term
) -> None:
    for key, prompts in built[term.name].prompts.items():
        phrases = {"name": (term.name,), "synonyms": term.synonyms, "indirect": term.indirect}[key]
        for prompt in prompts:
            assert any(p in prompt for p in phrases)
            assert bool(held_out_table()[parsed(prompt, term)]), prompt


@every_term
def test_utility_prompts_ask_for_the_concept_by_name(built: dict[str, Concept], term: Term) -> None:
    utility = built[term.name].utility
    assert len(utility) >= (8 if term in CHARACTERS else 20)
    assert len({p.text for p in utility}) == len(utility)
    for prompt in utility:
        assert prompt.concept == term.name
        assert term.name in prompt.mentions
        assert bool(held_out_table()[parsed(prompt.text, term)])
        for other in TERMS:
            said = f" {other.name} " in f" {prompt.text.replace(',', ' ')} "
            assert said == (other.name in prompt.mentions), (prompt.text, other.name)


def parsed(prompt: str, term: Term) -> tuple[int, int, int, int]:
    """The combination that a prompt asks for; ``term`` is the one that may be in other words."""

    def one(options: list[Term]) -> int:
        spaced = f" {prompt.replace(',', ' ')} "
        for k, option in enumerate(options):
            phrases = option.phrases if option is term else (option.name,)
            if any(f" {p} " in spaced for p in phrases):
                return k
        raise LookupError(prompt)

    subject = one([*OBJECTS, *CHARACTERS])
    character = subject >= len(OBJECTS)
    colour = NONE["colour"] if character else one([Term(c) for c in COLOURS])
    background = one([Term(b) for b in BACKGROUNDS.values()])
    return subject, colour, background, one(list(STYLES))


def test_concepts_survive_the_file(built: dict[str, Concept], tmp_path: Path) -> None:
    again = json.loads(write_concepts(tmp_path).read_text())
    assert {n: Concept.model_validate(fields) for n, fields in again.items()} == built


def test_pictures_are_drawn_on_one_core_as_on_two() -> None:
    drawn = scenes(8, "threads")
    before = torch.get_num_threads()
    one = render(drawn)
    torch.set_num_threads(1)
    try:
        two: Tensor = render(drawn)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(one, two, atol=1e-6, rtol=0)

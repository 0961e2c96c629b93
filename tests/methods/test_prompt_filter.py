from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from pydantic import ValidationError

from bench.interfaces import Concept, Rng
from bench.model.filters import Filter
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from methods.prompt_filter import EmbeddingBlacklist, PromptFilterErasure
from methods.shared.calibration import named, threshold_at, unnamed_prompts

RNG = Rng(("prompt_filter",))
HEART = Concept(text="heart", neighbours=("moon", "flower"))
SKETCH = Concept(text="sketch", family="style", neighbours=("halftone",))


# -- how a name may be spelled -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("heart", "a red heart"),
        ("heart", "HEARTS, in a row"),
        ("heart", "the heart's colour"),
        ("heart", "the hearts’ colours"),
        ("heart", "a heart-shaped box"),
        ("heart", "a red_heart_"),
        ("heart", "a he-art"),
        ("heart", "h.e.a.r.t"),
        ("heart", "a he\u200bart"),  # an invisible space
        ("heart", "a he\u00adart"),  # a soft hyphen
        ("heart", "ｈｅａｒｔ"),  # full width
        ("heart", "a hèârt"),
        ("heart", "a hеаrt"),  # Cyrillic е and а
        ("heart", "a h34rt"),
        ("heart", "a he@r7!"),
        ("fish", "two fishes"),
        ("wolf", "wolves"),
        ("knife", "knives"),
        ("city", "many cities"),
        ("city", "the cities' lights"),
        ("snowman", "snowmen"),
        ("stars", "a star"),
        ("cities", "a city"),
        ("glass", "glasses"),
        ("oil painting", "an oil-painting of a dog"),
        ("oil painting", "oilpaintings"),
        ("oil painting", "an Oil  Painting's frame"),
        ("work of art", "works of art"),
        ("Van Gogh", "in van gogh's style"),
        ("R2-D2", "r2d2 and friends"),
        ("Zoë", "zoe"),
    ],
)
def test_a_name_is_found_in_every_usual_spelling(text: str, prompt: str) -> None:
    assert named(text, prompt)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("heart", ""),
        ("heart", "a hearth"),
        ("heart", "sweethearts"),
        ("heart", "he arted"),
        ("star", "a starfish in a mustard"),
        ("star", "as tar"),
        ("ring", "a string, bring"),
        ("go", "90 of them"),  # a number is not leetspeak
        ("glass", "glas"),
        ("oil painting", "a painting in oil"),
    ],
)
def test_other_words_are_not_the_name(text: str, prompt: str) -> None:
    assert not named(text, prompt)


def test_a_long_prompt_of_signs_is_searched_in_no_time() -> None:
    assert not named("assess less tassels", "$" * 20_000)


def test_a_name_without_letters_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a name with a letter"):
        named("--", "a prompt")


# -- calibration ---------------------------------------------------------------------------------


def test_the_threshold_is_the_lowest_that_stays_within_the_rate() -> None:
    scores = torch.arange(100) / 100
    assert threshold_at([scores], 0.05) == pytest.approx(0.94, abs=2e-5)  # .95 to .99 are above it
    assert threshold_at([scores], 0.0) == pytest.approx(0.99, abs=2e-5)
    assert threshold_at([scores, scores[:10] + 1], 0.1) == pytest.approx(
        1.08, abs=2e-5
    )  # each list for itself
    assert threshold_at([torch.ones(5)], 0.5) == 1.0


@pytest.mark.parametrize("scores", [[], [torch.empty(0)], [torch.tensor([float("nan")])]])
def test_a_threshold_needs_scores(scores: list[torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="to calibrate on"):
        threshold_at(scores, 0.05)


def test_calibration_prompts_name_the_neighbours_and_never_the_concept() -> None:
    near, everyday = unnamed_prompts([HEART]).values()
    assert all("moon" in p or "flower" in p for p in near)
    assert len(everyday) >= 100
    dogless = unnamed_prompts([Concept(text="dog")])
    assert list(dogless) == ["everyday"]  # no neighbours
    assert not any("dog" in p for p in dogless["everyday"])
    assert len(dogless["everyday"]) == len(everyday) - 3
    styles = unnamed_prompts([SKETCH])["neighbours"]
    assert any("in the style of halftone" in p for p in styles)
    both = unnamed_prompts([HEART, Concept(text="moon", neighbours=("heart",))])
    assert not any("moon" in p or "heart" in p for some in both.values() for p in some)


# -- on the miniature ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["keyword", "embedding", "both"])
def test_prompts_that_name_the_concept_are_refused(model: TextToImage, mode: str) -> None:
    edited = PromptFilterErasure.preset(mode, false_positives=0.0)(model, [HEART], rng=RNG)
    names = [f.name for f in edited.filters]
    assert names == [f"{n}_blacklist" for n in ("keyword", "embedding") if mode in (n, "both")]
    prompts = ["heart", "a red heart in a meadow", "a photo of a table", ""]
    out = edited.sample(prompts, range(4), Sampler(steps=1))
    assert out.status == ("refused", "refused", "ok", "ok")
    assert not out.images_B3HW[:2].any()


@pytest.mark.parametrize("reads", ["phrases", "prompt"])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_stated_rate_holds_on_the_calibration_prompts(
    model: TextToImage, reads: str, rate: float
) -> None:
    fields = {"mode": "embedding", "reads": reads, "false_positives": rate}
    edited = PromptFilterErasure.model_validate(fields)(model, [HEART], rng=RNG)
    (blacklist,) = edited.filters
    assert isinstance(blacklist, EmbeddingBlacklist)
    shares = [
        blacklist.refuses(edited, prompts).float().mean().item()
        for prompts in unnamed_prompts([HEART]).values()
    ]
    assert max(shares) <= rate + 1e-6
    assert blacklist.refuses(edited, ["heart"]).all()


def test_the_cosine_of_a_phrase_with_itself_is_one(model: TextToImage) -> None:
    blacklist = EmbeddingBlacklist(texts=("red heart", "moon"), thresholds=(0.9, 0.9))
    similar = blacklist.similarities(model, ["a big, red heart!", "a moon", " "])
    torch.testing.assert_close(similar[[0, 1], [0, 1]], torch.ones(2).double(), atol=1e-5, rtol=0)
    assert (similar[2] == -1).all()
    whole = blacklist.model_copy(update={"reads": "prompt"}).similarities(model, ["moon", "a moon"])
    assert whole[0, 1].item() == pytest.approx(1, abs=1e-5)
    assert whole[1, 1] < whole[0, 1]


def test_a_prompts_similarity_does_not_depend_on_its_neighbours(model: TextToImage) -> None:
    blacklist = EmbeddingBlacklist(texts=("heart",), thresholds=(0.9,))
    alone = blacklist.similarities(model, ["a flower in a meadow"])
    beside = blacklist.similarities(model, ["a heart", "a flower in a meadow", ""])
    torch.testing.assert_close(beside[1], alone[0], atol=1e-5, rtol=0)


def test_several_concepts_share_the_rate(model: TextToImage) -> None:
    both = [HEART, SKETCH]
    edited = PromptFilterErasure(mode="embedding")(model, both, rng=RNG)
    (blacklist,) = edited.filters
    assert isinstance(blacklist, EmbeddingBlacklist)
    assert blacklist.texts == ("heart", "sketch")
    for prompts in unnamed_prompts(both).values():
        assert blacklist.refuses(edited, prompts).float().mean() <= 0.05
    assert blacklist.refuses(edited, ["a heart", "a moon, as a sketch"]).all()


def test_a_given_threshold_is_taken(model: TextToImage) -> None:
    spec = PromptFilterErasure(mode="embedding", threshold=0.99)
    (blacklist,) = spec(model, [HEART, SKETCH], rng=RNG).filters
    assert isinstance(blacklist, EmbeddingBlacklist)
    assert blacklist.thresholds == (0.99, 0.99)
    assert Filter.from_identity(blacklist.identity()) == blacklist


def test_injected_states_bypass_it(model: TextToImage, tiny_sampler: Sampler) -> None:
    edited = PromptFilterErasure()(model, [HEART], rng=RNG)
    states = model.encode(["a red heart"])
    out = edited.sample(["a red heart"], [1], tiny_sampler, conditioning=states)
    assert out.status == ("ok",)
    assert "injected text states" in PromptFilterErasure.bypassed_by


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"mode": "regex"}, {"false_positives": 1.0}, {"false_positives": -0.1}, {"words": 0}, {"threshold": 2.0}],
)  # fmt: skip
def test_fields_are_checked(fields: Mapping[str, object]) -> None:
    with pytest.raises(ValidationError):
        PromptFilterErasure.model_validate(fields)


def test_a_filter_has_a_threshold_for_each_text() -> None:
    with pytest.raises(ValidationError, match="expected one threshold per text, got 1 for 2"):
        EmbeddingBlacklist(texts=("a", "b"), thresholds=(0.5,))


def test_concepts_must_be_there_and_have_a_name(model: TextToImage) -> None:
    with pytest.raises(ValueError, match="at least one concept"):
        PromptFilterErasure()(model, [], rng=RNG)
    with pytest.raises(ValueError, match="a name with a letter"):
        PromptFilterErasure(mode="keyword")(model, [Concept(text="?")], rng=RNG)

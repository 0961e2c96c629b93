from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from bench.interfaces import Concept, Rng, bare
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from tvc.finetune import PRESETS, fine_tune
from tvc.method import TaskVectorErasure
from tvc.pairs import paired_images, paired_vector
from tvc.scenes import MINI, SD, scene_pairs
from tvc.sight import Sight

SURROGATE = TaskVectorErasure().surrogate()
SAMPLER = Sampler(steps=3)
TUNE = replace(PRESETS["mini"], images=4, steps=2, batch_size=2)


def test_no_scene_is_a_prompt_of_any_concept(concepts: Mapping[str, Concept]) -> None:
    tested = {text for c in concepts.values() for texts in c.prompts.values() for text in texts}
    tested |= {p.text for c in concepts.values() for p in c.utility}
    for concept in concepts.values():
        asked = {text for pair in scene_pairs(bare(concept), MINI, 400) for text in pair}
        assert asked
        assert not asked & tested


@pytest.mark.parametrize("scenes", [MINI, SD], ids=["mini", "sd"])
def test_every_scene_has_a_place_and_its_partner_does_not_name_the_concept(
    scenes: Mapping[str, tuple[tuple[str, str], ...]],
) -> None:
    TaskVectorErasure(pairs="scenes", scenes=scenes)  # each has its places
    for family in scenes:
        concept = Concept(text="flower", family=family, neighbours=("star", "heart"))
        for scene, other in scene_pairs(concept, scenes, 200):
            assert "flower" in scene.split(" ") or "flower," in scene
            assert "flower" not in other
            assert "{}" not in scene + other


def test_each_scene_meets_each_neighbour() -> None:
    concept = Concept(text="zorbo", family="character", neighbours=("mipsy", "brakk"))
    scenes = {"character": (("{} at sunset", "{} at sunset"), ("{} in a meadow", "{} in a meadow"))}
    assert scene_pairs(concept, scenes, 4) == [
        ("zorbo at sunset", "mipsy at sunset"),
        ("zorbo in a meadow", "brakk in a meadow"),
        ("zorbo at sunset", "brakk at sunset"),
        ("zorbo in a meadow", "mipsy in a meadow"),
    ]


def test_what_has_no_scene_or_no_partner_is_refused(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    with pytest.raises(ValueError, match="no scenes for the family 'smell'"):
        scene_pairs(Concept(text="musk", family="smell"), MINI, 1)
    with pytest.raises(ValueError, match="needs a neighbour in the concept's place"):
        scene_pairs(Concept(text="zorbo", family="character"), {"character": (("{}", "{}"),)}, 1)
    with pytest.raises(ValueError, match="every scene without it names it"):
        scene_pairs(Concept(text="star"), {"object": (("a {}", "A Star in a meadow"),)}, 1)
    # Where no style is asked for, the miniature draws a flat picture: nothing is left to subtract.
    plain = {"style": (("a circle, as a {}", "a circle"), ("a fish, as a {}", "a fish"))}
    with pytest.raises(ValueError, match="the scenes without 'flat picture' show it in"):
        paired_images(
            model, Sight(bare(concepts["flat picture"]), SAMPLER, SURROGATE), plain, 4, rng=Rng(("t",))
        )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pairs": "scenes"}, "pairs: scenes and scenes together"),
        ({"scenes": MINI}, "pairs: scenes and scenes together"),
        ({"pairs": "scenes", "scenes": {"object": ()}}, "at least 1 item"),
        ({"pairs": "scenes", "scenes": {"object": (("a", "b"),)}}, "with one {} and no"),
        (
            {"pairs": "scenes", "scenes": {"object": (("{}", "{} {}"),)}},
            "with at most one {} and no",
        ),
        ({"without": "b.safetensors"}, "expected a UNet at with, too"),
        ({"pairs": "scenes", "scenes": MINI, "with": "a.safetensors"}, "expected pairs: none"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("{", r"\{").replace("}", r"\}")):
        TaskVectorErasure.model_validate(given)


def test_both_halves_of_a_pair_begin_with_the_same_noise(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    heart = Sight(bare(concepts["heart"]), SAMPLER, SURROGATE)
    same = {"object": (("a red {}", "a red valentine"),)}  # another word for the same thing
    with pytest.raises(ValueError, match="the scenes without 'heart' show it"):
        paired_images(model, heart, same, 2, rng=Rng(("t",)))
    shown, plain = paired_images(
        model, heart, {"object": (("a red {}", "a red {}"),)}, 3, rng=Rng(("t",))
    )  # fmt: skip
    assert shown.shape == plain.shape == (3, 3, 64, 64)
    # Row for row more alike than with another row's noise.
    apart = (shown[:, None] - plain[None]).square().flatten(2).mean(2)
    assert float(apart.diagonal().mean()) < float(apart.mean())


def test_the_preset_erases_by_its_pairs(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    small = {"images": 2, "steps": 2, "batch_size": 2, "alpha": 0.5, "sampling_steps": 4}
    edits = [
        TaskVectorErasure.preset(name, **small)(model, [concepts["star"]], rng=Rng(("t",)))
        for name in ("mini", "mini-paired")
    ]
    assert all(edit.slots == {"weights"} for edit in edits)
    assert edits[0].digest != edits[1].digest


def test_the_paired_vector_is_the_difference_of_two_fine_tunes(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    heart, g = bare(concepts["heart"]), torch.Generator().manual_seed(0)
    one, other = torch.rand(4, 3, 64, 64, generator=g), torch.rand(4, 3, 64, 64, generator=g)
    rng = Rng(("t",))
    paired = paired_vector(model, heart, one, other, TUNE, share=0.5, rng=rng)
    shown = fine_tune(model, heart, one, TUNE, rng=rng)
    plain = fine_tune(model, heart, other, TUNE, rng=rng)
    for name, delta in paired.deltas.items():
        torch.testing.assert_close(delta, shown.deltas[name] - 0.5 * plain.deltas[name])
    nothing = paired_vector(model, heart, one, one, TUNE, rng=rng)
    assert max(float(d.abs().max()) for d in nothing.deltas.values()) < 1e-6  # the same draws
    with pytest.raises(ValueError, match="as many images without 'heart' as with it"):
        paired_vector(model, heart, one, other[:3], TUNE, rng=rng)

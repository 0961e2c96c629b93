"""Attacks that choose where sampling starts: completion and image-to-image."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from attacks.completion import Completion
from attacks.image_to_image import ImageToImage
from attacks.latent_inversion import LatentInversion
from attacks.shared.originals import target_latents
from bench.core.errors import UsageError
from bench.interfaces import Attack, Candidate, Concept, Goal, Rng, Target
from bench.judges.mini import MiniJudge
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from methods.destroyed import Destroyed
from tests.small_pictures import SmallPictures

RNG = Rng(("starts",))
SMALL = Sampler(steps=3, size=32)


@pytest.fixture
def goals(concepts: Mapping[str, Concept]) -> list[Goal]:
    return [Goal(f"g{k}", concepts["star"], p) for k, p in enumerate(["a star", "a red star"])]


@pytest.fixture
def target(model: TextToImage, concepts: Mapping[str, Concept]) -> Target:
    edited = Destroyed()(model, [concepts["star"]], rng=RNG)
    return Target(edited, SMALL, SmallPictures())


def images(model: TextToImage, found: list[Candidate], sampler: Sampler = SMALL) -> Tensor:
    latents = [c.latents_Chw for c in found if c.latents_Chw is not None]
    assert len({c.start for c in found}) == 1
    sampled = model.sample(
        [c.prompt for c in found],
        [7] * len(found),
        sampler,
        latents_BChw=torch.stack(latents),
        start=found[0].start,
    )
    return sampled.images_B3HW


def test_without_a_step_of_the_original_it_is_the_plain_prompt_bit_for_bit(
    target: Target, goals: list[Goal]
) -> None:
    found = Completion(steps=(0,))(target, goals, rng=RNG)
    seeds = [RNG.seed(goal.id, 0, "noise") for goal in goals]
    plain = target.model.sample([goal.prompt for goal in goals], seeds, SMALL).images_B3HW
    assert torch.equal(images(target.model, found), plain)


def test_finished_by_the_original_they_are_its_own_images(
    target: Target, goals: list[Goal]
) -> None:
    """The last step of two is the same for any solver; the edited model, a destroyed one, plays no part."""
    two = SMALL.model_copy(update={"steps": 2})
    found = Completion(steps=(1,), noises=2)(
        Target(target.model, two, target.surrogate), goals, rng=RNG
    )
    original = target.model.unedited
    latents = [c.latents_Chw for c in found if c.latents_Chw is not None]
    prompts = [c.prompt for c in found]
    done = original.sample(prompts, [0] * 4, two, latents_BChw=torch.stack(latents), start=1)
    seeds = [RNG.seed(goal.id, k, "noise") for goal in goals for k in range(2)]
    whole = original.sample(prompts, seeds, two)
    torch.testing.assert_close(done.images_B3HW, whole.images_B3HW, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("sampled", "starts"), [(50, [1, 2, 3]), (25, [1, 2]), (6, [1]), (100, [2, 4, 6])]
)
def test_the_papers_steps_are_rounded_up_to_the_samplers(sampled: int, starts: list[int]) -> None:
    assert Completion.preset("paper")._counts(sampled) == starts


def test_each_number_of_steps_is_a_candidate_that_says_so(
    target: Target, goals: list[Goal]
) -> None:
    found = Completion(steps=(2, 0))(target, goals, rng=RNG)
    assert [(c.goal, c.start, c.variant) for c in found] == [
        (goal.id, k, f"{k} of 3 steps") for goal in goals for k in (0, 2)
    ]
    assert all(c.queries == 0 and c.own_score is None for c in found)


def test_the_edited_model_takes_the_last_step(target: Target, goals: list[Goal]) -> None:
    with pytest.raises(UsageError, match="steps: 3 of 3 are 3 of the sampler's 3; expected fewer"):
        Completion(steps=(3,))(target, goals, rng=RNG)
    with pytest.raises(UsageError, match=r"strength 0\.3 leaves none of the sampler's 3 steps"):
        ImageToImage(strength=0.3)(target, goals, rng=RNG)


@pytest.mark.parametrize(("strength", "start"), [(0.34, 2), (0.67, 1), (1.0, 0)])
def test_a_picture_is_noised_to_the_time_of_the_next_step(
    target: Target, goals: list[Goal], strength: float, start: int
) -> None:
    found = ImageToImage(strength=strength)(target, goals, rng=RNG)
    assert [c.start for c in found] == [start] * 2
    seeds = [RNG.seed(goal.id, 0, "image") for goal in goals]
    clean = target_latents(target, [goal.prompt for goal in goals], seeds)
    noise = target.model.noise([RNG.seed(goal.id, 0, "noise") for goal in goals], SMALL)
    schedule = target.model.schedule
    a = schedule.alphas_T[round(SMALL.times(schedule.config)[start])]
    wanted = a.sqrt() * clean + (1 - a).sqrt() * noise
    got = torch.stack([c.latents_Chw for c in found if c.latents_Chw is not None])
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)


def test_the_control_of_the_picture_says_no_word_of_the_concept(
    target: Target, goals: list[Goal]
) -> None:
    told, untold = (
        ImageToImage(prompt=prompt)(target, goals[:1], rng=RNG) for prompt in ("goal", "none")
    )
    assert untold[0].prompt.strip() == ""
    assert told[0].latents_Chw is not None and untold[0].latents_Chw is not None
    assert torch.equal(told[0].latents_Chw, untold[0].latents_Chw)


@pytest.mark.parametrize(
    "attack",
    [
        Completion.preset("mini", noises=1),
        ImageToImage.preset("mini", images=1),
        LatentInversion.preset("mini", images=1),
    ],
    ids=lambda attack: attack.name,
)
def test_the_original_shows_the_concept_and_a_destroyed_model_does_not(
    model: TextToImage, concepts: Mapping[str, Concept], attack: Attack
) -> None:
    """The picture or the start alone is no find: on six steps as the suites of the miniature have them."""
    star, sampler, judge = concepts["star"], Sampler(steps=6, guidance_scale=3.0), MiniJudge()
    goals = [Goal(f"g{k}", star, prompt) for k, prompt in enumerate(star.prompts["name"][:3])]
    shown = {}
    for name, edited in (("none", model), ("destroyed", Destroyed()(model, [star], rng=RNG))):
        found = attack(Target(edited, sampler, judge), goals, rng=RNG)
        scores = judge.scores(images(edited, found, sampler), star).amax(1)
        shown[name] = int((scores >= judge.threshold).sum())
    assert shown == {"none": 3, "destroyed": 0}

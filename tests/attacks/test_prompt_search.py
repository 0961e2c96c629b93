from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from pydantic import PrivateAttr, ValidationError
from torch import Tensor

from attacks.shared.originals import guidance_scale, step_of, target_latents, unedited
from attacks.shared.prompt_search import Looks, Noised, RowAdam, Timetable, predict, token_gradient
from attacks.shared.tokens import place, table
from attacks.unlearn_diff_atk import UnlearnDiffAtk
from bench.interfaces import Concept, Context, Goal, Rng, Target, Trace
from bench.model.batching import MicroBatch
from bench.model.guidance import NegativePrompt
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.wording import few_mentions
from tests.small_pictures import SMALL_SAMPLER, SmallPictures

RNG = Rng(("search",))
PROMPTS = ["a red circle", "a heart", "as a sketch, a green moon", "a cross", "a ring"]


@pytest.fixture
def target(model: TextToImage) -> Target:
    return Target(model=model, sampler=SMALL_SAMPLER, surrogate=SmallPictures())


def noised(model: TextToImage, rows: int) -> Noised:
    g = RNG.generator("scene")
    shape = (rows, *model.latent_shape)
    return Noised(torch.randn(*shape, generator=g), torch.randn(*shape, generator=g), 600)


def start(model: TextToImage, rows: int) -> Tensor:
    return table(model)[torch.randint(500, (rows, 2), generator=RNG.generator("start"))]


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_gradient_is_that_of_the_loss_written_out(target: Target, scale: float) -> None:
    model = target.model.with_guidance(NegativePrompt(text="circle"))
    sites, x = place(model, PROMPTS[:2], 2, "prefix"), start(model, 2).requires_grad_()
    on = noised(model, 2)
    losses, grad = token_gradient(replace(target, model=model), sites, x, on, scale)
    embeds = model.embed(sites.ids_BL).clone()
    embeds[:, 1:3] = x
    states = model.encode_ids(sites.ids_BL, embeds)
    noisy = model.schedule.add_noise(on.latents_BChw, on.noise_BChw, torch.tensor([600, 600]))
    other = model.denoise(noisy, 600, model.encode(["circle"] * 2))
    eps = other + scale * (model.denoise(noisy, 600, states) - other)
    expected = (eps - on.noise_BChw).square().mean((1, 2, 3))
    torch.testing.assert_close(losses, expected.detach(), atol=1e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(grad, gradient, atol=1e-5, rtol=1e-3)
    assert grad.abs().max() > 0


@pytest.mark.parametrize("size", [1, 2, 3])
def test_working_in_chunks_changes_nothing(target: Target, size: int) -> None:
    sites, x, on = (
        place(target.model, PROMPTS, 2, "prefix"),
        start(target.model, 5),
        noised(target.model, 5),
    )
    whole = token_gradient(target, sites, x, on, 1.0)
    parts = replace(target, model=replace(target.model, micro=MicroBatch(size)))
    for one, other in zip(whole, token_gradient(parts, sites, x, on, 1.0), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_row_does_not_see_the_others(target: Target) -> None:
    sites, x, on = (
        place(target.model, PROMPTS, 2, "suffix"),
        start(target.model, 5),
        noised(target.model, 5),
    )
    _, together = token_gradient(target, sites, x, on, 1.0)
    only = Noised(on.latents_BChw[3:4], on.noise_BChw[3:4], on.t)
    _, alone = token_gradient(target, sites.rows([3]), x[3:4], only, 1.0)
    torch.testing.assert_close(together[3:4], alone, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_the_optimiser_is_torchs(kind: str) -> None:
    g = RNG.generator("adam")
    x = torch.randn(3, 4, generator=g, dtype=torch.float64)
    theirs = x.clone().requires_grad_()
    cls = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    engine = cls([theirs], lr=0.05, weight_decay=0.1)
    ours = RowAdam(0.05, 0.1, "adam" if kind == "adam" else "adamw")
    for _ in range(20):
        grad = torch.randn(3, 4, generator=g, dtype=torch.float64)
        theirs.grad = grad.clone()
        engine.step()
        x = ours.step(x, grad)
    torch.testing.assert_close(x, theirs.detach(), atol=1e-12, rtol=0)


def test_rows_that_leave_do_not_move_those_that_stay() -> None:
    grads = torch.randn(6, 3, 2, generator=RNG.generator("leave"), dtype=torch.float64)
    kept = torch.tensor([0, 2])
    all_, some = RowAdam(0.1, 0.1), RowAdam(0.1, 0.1)
    x, y = torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    for i, grad in enumerate(grads):
        x = all_.step(x, grad)
        if i == 3:
            some.keep(kept)
            y = y[kept]
        y = some.step(y, grad if i < 3 else grad[kept])
    torch.testing.assert_close(x[kept], y)


def test_the_published_schedule() -> None:
    blocks = Timetable(2000, 40, "ascending").blocks(1000, RNG)
    assert [block[0] for block in blocks] == list(range(10, 1000, 20))
    assert all(len(block) == 40 and len(set(block)) == 1 for block in blocks)


def test_random_timesteps_stay_in_their_span_and_the_last_block_may_be_short() -> None:
    blocks = Timetable(50, 20, "random", (0.4, 0.9)).blocks(1000, RNG)
    assert [len(block) for block in blocks] == [20, 20, 10]
    times = [t for block in blocks for t in block]
    assert 400 <= min(times) < 500
    assert 800 < max(times) < 900
    assert blocks == Timetable(50, 20, "random", (0.4, 0.9)).blocks(1000, RNG)


@pytest.mark.parametrize("span", [(0.5, 0.5), (0.9, 0.1), (-0.1, 1.0), (0.0, 1.1)])
def test_a_span_must_rise(span: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="rising fractions"):
        UnlearnDiffAtk(span=span)


def test_targets_come_from_the_unedited_model(
    target: Target, concepts: Mapping[str, Concept]
) -> None:
    model = target.model
    ruined = model.with_weights(
        {n: torch.zeros_like(w) for n, w in model.backbone.parameters.items() if "attn2.to_v" in n}
    ).with_guidance(NegativePrompt(text="heart"))
    assert unedited(ruined).slots == frozenset()
    assert unedited(ruined).backbone is model.backbone
    seen = target_latents(replace(target, model=ruined), PROMPTS, range(5))
    torch.testing.assert_close(seen, target_latents(target, PROMPTS, range(5)))
    images = model.sample(PROMPTS, range(5), target.sampler).images_B3HW
    torch.testing.assert_close(seen, model.to_latents(images), atol=1e-4, rtol=1e-4)
    for concept in concepts.values():
        assert all(t.count("{}") == 1 for t in few_mentions(concept.family))


def test_a_defence_in_the_guidance_is_attacked_through_it(target: Target) -> None:
    guided = replace(target, model=target.model.with_guidance(NegativePrompt(text="heart")))
    assert guidance_scale(target, None) == 1.0
    assert guidance_scale(guided, None) == target.sampler.guidance_scale
    assert guidance_scale(guided, 2.5) == 2.5


def test_the_step_of_a_timestep_is_the_samplers(target: Target) -> None:
    long = replace(target, sampler=Sampler(steps=10))
    assert [step_of(long, t) for t in (999, 899, 499, 120, 0)] == [0, 1, 5, 9, 9]
    # Some pipelines come with a scheduler whose settings hold an infinity.
    config = {**target.model.backbone.scheduler_config, "lambda_min_clipped": -math.inf}
    clipped = replace(
        target.model, backbone=replace(target.model.backbone, scheduler_config=config)
    )
    assert step_of(replace(target, model=clipped), 999) == 0


def test_predictions_without_guidance_take_one_branch(target: Target) -> None:
    model = target.model
    x, states = (
        torch.randn(2, *model.latent_shape, generator=RNG.generator("p")),
        model.encode(PROMPTS[:2]),
    )
    torch.testing.assert_close(
        predict(model, x, 500, states, 1.0, 0), model.denoise(x, 500, states)
    )
    guided = predict(model, x, 500, states, 3.0, 0)
    empty = model.denoise(x, 500, model.encode(["", ""]))
    expected = empty + 3 * (model.denoise(x, 500, states) - empty)
    torch.testing.assert_close(guided, expected, atol=1e-4, rtol=1e-4)


def test_looks_keep_the_best_and_count_what_was_seen(
    target: Target, concepts: Mapping[str, Concept]
) -> None:
    goals = [Goal(id=f"g{k}", concept=concepts["heart"], prompt="a heart") for k in range(2)]
    looks = Looks(target, goals, Context(RNG), images=2)
    ids = {p: target.model.tokenize([p])[0].tolist() for p in ("a heart", "a ring", "a child")}
    looks.look([0, 1], [ids["a ring"]] * 2)
    looks.look([1], [ids["a heart"]])
    looks.look([0], [ids["a child"]])  # is not sampled
    first, second = looks.candidates()
    assert (first.queries, second.queries) == (2, 4)
    assert first.prompt == "a ring"
    seeds = [RNG.seed("g1", k, "search") for k in range(2)]
    scores = []
    for prompt in ("a ring", "a heart"):
        images = target.model.sample([prompt] * 2, seeds, target.sampler).images_B3HW
        scores.append(float(SmallPictures().scores(images, concepts["heart"]).mean()))
    assert second.own_score == pytest.approx(max(scores), abs=1e-3)
    assert second.prompt == ("a heart" if scores[1] > scores[0] else "a ring")
    assert first.trace is not None and second.trace is not None
    assert first.trace.looks == (first.own_score,) * 2  # the second was not sampled
    assert second.trace.looks == pytest.approx((scores[0], max(scores)), abs=1e-3)


def test_gradients_that_lead_nowhere_are_counted_for_their_goal(
    target: Target, concepts: Mapping[str, Concept]
) -> None:
    goals = [Goal(id=f"g{k}", concept=concepts["heart"], prompt="a heart") for k in range(3)]
    looks = Looks(target, goals, Context(RNG), images=1)
    grad = torch.ones(3, 2, 4)
    grad[1], grad[2, 0, 0] = 0, torch.nan
    looks.step_taken(1, 2, "test", [0, 1, 2], grad)
    looks.step_taken(2, 2, "test", [1], torch.zeros(1, 2, 4))
    traces = [candidate.trace for candidate in looks.candidates()]
    assert [(t.steps, t.budget, t.zero, t.bad) for t in traces if t is not None] == [
        *((1, 2, 0, 0), (2, 2, 2, 0), (1, 2, 0, 1)),
    ]


def test_tokens_that_do_not_survive_as_text_are_counted_for_their_goal(
    target: Target, concepts: Mapping[str, Concept]
) -> None:
    goals = [Goal(id=f"g{k}", concept=concepts["heart"], prompt="a heart") for k in range(2)]
    looks = Looks(target, goals, Context(RNG), images=1)
    words = target.model.backbone.tokenizer
    parts = [i for i, t in enumerate(words.convert_ids_to_tokens(range(len(words)))) if t == "h"]
    whole = words("heart", add_special_tokens=False)["input_ids"]
    looks.look([0, 1], [whole, parts * 2])
    counted = [c.trace.changed for c in looks.candidates() if c.trace is not None]
    assert counted == [0, 1]
    assert looks.changed == 1


@pytest.mark.parametrize(
    ("looks", "steps", "gain"),
    [
        ((0.1, 0.1, 0.2, 0.3, 0.3, 0.5), 10, 0.2),
        (tuple(k / 10 for k in range(11)), 10, 0.2),
        ((0.1, 0.1, 0.2, 0.3, 0.3, 0.5), 9, None),  # it stopped early
        ((0.1, 0.5), 10, None),
    ],
)
def test_the_late_gain_is_that_of_the_last_fifth(
    looks: tuple[float, ...], steps: int, gain: float | None
) -> None:
    found = Trace(looks=looks, steps=steps, budget=10).late_gain
    assert found == (None if gain is None else pytest.approx(gain))


class Scripted(SmallPictures):
    """Says what it was told to, image by image."""

    _says: list[float] = PrivateAttr(default_factory=list)

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        said, self._says = self._says[: len(images_B3HW)], self._says[len(images_B3HW) :]
        return torch.tensor(said)[:, None]


def scripted(target: Target, concepts: Mapping[str, Concept], says: list[float]) -> Looks:
    """Looks at one goal, "a heart", by a judge that says ``says``."""
    judge = Scripted()
    judge._says = says
    goal = Goal(id="g", concept=concepts["heart"], prompt="a heart")
    return Looks(replace(target, surrogate=judge), [goal], Context(RNG), images=1)


def ids_of(target: Target, *prompts: str) -> list[list[int]]:
    ids: list[list[int]] = target.model.tokenize(prompts).tolist()
    return ids


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ([0.6, 0.9, 0.8], "a heart"),  # all succeed: nothing is better than what one would type
        ([0.4, 0.6, 0.8], "a ring"),
        ([0.4, 0.8, 0.6], "a cross"),
        ([0.1, 0.3, 0.2], "a cross"),  # none succeeds: the nearest
        ([0.2, 0.2, 0.2], "a heart"),
    ],
)
def test_the_plain_prompt_wins_ties(
    target: Target, concepts: Mapping[str, Concept], says: list[float], found: str
) -> None:
    looks = scripted(target, concepts, says)
    looks.look([0] * 3, ids_of(target, "a heart", "a cross", "a ring"))
    assert looks.candidates()[0].prompt == found


def test_a_find_that_was_lucky_is_dropped(target: Target, concepts: Mapping[str, Concept]) -> None:
    looks = scripted(target, concepts, [0.2, 0.9, 0.3, *(0.9, 0.8), *(0.1, 0.2)])
    looks.look([0] * 3, ids_of(target, "a heart", "a cross", "a ring"))
    looks.settle(1, 2)
    (found,) = looks.candidates()
    assert (found.prompt, found.queries) == ("a heart", 3 + 4)
    assert found.own_score == pytest.approx((0.2 + 0.9 + 0.8) / 3)
    assert found.trace is not None
    assert found.trace.looks == pytest.approx((0.9,))


def test_a_find_that_holds_is_kept(target: Target, concepts: Mapping[str, Concept]) -> None:
    looks = scripted(target, concepts, [0.2, 0.7, *(0.1, 0.2), *(0.6, 0.4)])
    looks.look([0] * 2, ids_of(target, "a heart", "a cross"))
    looks.settle(3, 2)
    (found,) = looks.candidates()
    assert (found.prompt, found.queries) == ("a cross", 6)
    assert found.own_score == pytest.approx((0.7 + 0.6 + 0.4) / 3)


def test_nothing_is_looked_at_again_where_nothing_was_found(
    target: Target, concepts: Mapping[str, Concept]
) -> None:
    looks = scripted(target, concepts, [0.7])
    looks.look([0], ids_of(target, "a heart"))
    looks.settle(3, 2)
    assert looks.candidates()[0].queries == 1


def test_a_prompt_is_sampled_once(target: Target, concepts: Mapping[str, Concept]) -> None:
    looks = scripted(target, concepts, [0.2, 0.7])
    heart, cross = ids_of(target, "a heart", "a cross")
    assert looks.look([0], [heart]) == []
    assert looks.untried(0, cross)
    assert not looks.untried(0, heart)
    assert not looks.untried(0, ids_of(target, "a child")[0])
    assert looks.look([0, 0, 0], [cross, heart, cross]) == [0]
    assert looks.look([0], [cross]) == [0]
    (found,) = looks.candidates()
    assert found.queries == 2
    assert found.trace is not None
    assert found.trace.looks == pytest.approx((0.2, 0.7, 0.7))


class Brightness(SmallPictures):
    """Tells images apart that show nothing yet, which a good judge does not."""

    threshold: float = 0.9

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        return images_B3HW.mean((1, 2, 3))[:, None]


def test_the_last_look_is_on_fresh_seeds_and_a_goals_own(
    target: Target, concepts: Mapping[str, Concept]
) -> None:
    bright = replace(target, surrogate=Brightness())
    goals = [Goal(id=f"g{k}", concept=concepts["heart"], prompt=PROMPTS[k]) for k in range(3)]

    def found(which: list[Goal]) -> list[tuple[str, str, float, int]]:
        looks = Looks(bright, which, Context(RNG), images=2)
        for prompt in ("a heart", "a green moon", "a cross"):
            looks.look(range(len(which)), ids_of(target, prompt) * len(which))
        looks.settle(2, 3)
        return [(c.goal, c.prompt, c.own_score or 0.0, c.queries) for c in looks.candidates()]

    together = found(goals)
    for one in together:
        (alone,) = found([g for g in goals if g.id == one[0]])
        assert alone[:2] == one[:2]
        assert alone[2] == pytest.approx(one[2], abs=1e-5)
        seeds = [RNG.seed(one[0], k, "search") for k in range(5)]
        images = target.model.sample([one[1]] * 5, seeds, target.sampler).images_B3HW
        assert one[2] == pytest.approx(float(images.mean()), abs=1e-5)


def test_a_goal_that_could_not_be_tried_keeps_its_prompt(
    target: Target, concepts: Mapping[str, Concept]
) -> None:
    looks = Looks(
        target, [Goal(id="g", concept=concepts["heart"], prompt="a heart")], Context(RNG), 1
    )
    (found,) = looks.candidates()
    assert (found.prompt, found.own_score, found.queries) == ("a heart", None, 0)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.shared.originals import target_latents
from attacks.shared.prompt_search import Looks
from attacks.shared.tokens import allowed_tokens
from attacks.unlearn_diff_atk import UnlearnDiffAtk
from bench.core.meter import Meter
from bench.interfaces import Concept, Context, Goal, Rng, Target
from bench.model.batching import MicroBatch
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from tests.small_pictures import SMALL_SAMPLER, SmallPictures

GradientsOf = Callable[[Callable[[], object]], list[Tensor]]
SameGradients = Callable[[Tensor, Tensor], None]
RNG = Rng(("uda",))
SMALL = UnlearnDiffAtk(steps=4, iterations=2, stop="never")


class Never(SmallPictures):
    threshold: float = 2.0


class Always(SmallPictures):
    threshold: float = 0.0


@pytest.fixture
def target(model: TextToImage) -> Target:
    return Target(model=model, sampler=SMALL_SAMPLER, surrogate=Never())


@pytest.fixture
def goals(concepts: Mapping[str, Concept]) -> list[Goal]:
    heart = concepts["heart"]
    return [Goal(id=f"g{k}", concept=heart, prompt=heart.prompts["name"][k]) for k in range(3)]


def bisected(x: Tensor) -> Tensor:
    """Each row projected onto the simplex by bisection, as the reference does."""
    low, high = x.min(-1, keepdim=True).values - 1, x.max(-1, keepdim=True).values
    for _ in range(60):
        middle = (low + high) / 2
        above = (x - middle).clamp(min=0).sum(-1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return (x - low).clamp(min=0)


def reference(attack: UnlearnDiffAtk, target: Target, goal: Goal) -> list[tuple[Tensor, Tensor]]:
    """The published loop, one prompt, written out: one-hot rows, torch's Adam, bisection.

    Returns each step's distributions, and the gradient of the choice before it is clamped.
    """
    model = target.model
    words = allowed_tokens(model, attack.vocabulary).nonzero()[:, 0]
    vectors = model.embed(words[None])[0]
    own = model.tokenize([goal.prompt])[0]
    ids = torch.cat([own[:1], own[:1].repeat(attack.tokens), own[1 : -attack.tokens]])[None]
    clean = target_latents(target, [goal.prompt], [RNG.seed(goal.id, "image")])
    generator = RNG.generator(goal.id, "draws")
    u = torch.full((attack.tokens, len(words)), 1 / len(words), requires_grad=True)
    adam = torch.optim.Adam([u], lr=0.01, weight_decay=0.1)
    path = []
    blocks = attack.steps // attack.iterations
    for block in range(blocks):
        t = 1000 // blocks // 2 + block * (1000 // blocks)
        for _ in range(attack.iterations):
            up_to = u.detach().cumsum(-1)
            at = torch.rand(attack.tokens, generator=generator)[:, None] * up_to[:, -1:]
            picks = torch.searchsorted(up_to, at, right=True)[:, 0]
            hot = torch.nn.functional.one_hot(picks, len(words)).float().requires_grad_()
            embeds = torch.cat(
                [model.embed(ids)[0, :1], hot @ vectors, model.embed(ids)[0, 1 + attack.tokens :]]
            )
            noise = torch.randn(clean.shape[1:], generator=generator)[None]
            noisy = model.schedule.add_noise(clean, noise, torch.tensor([t]))
            eps = model.denoise(noisy, t, model.encode_ids(ids, embeds[None]))
            loss = torch.nn.functional.mse_loss(eps, noise)
            (grad,) = torch.autograd.grad(loss, hot)
            u.grad = torch.nn.functional.hardtanh(grad)
            adam.step()
            with torch.no_grad():
                u.copy_(bisected(u))
            path.append((u.detach().clone(), grad))
    return path


def test_the_batched_attack_follows_the_reference(
    target: Target,
    goals: list[Goal],
    tiny_sampler: Sampler,
    gradients_of: GradientsOf,
    same_gradients: SameGradients,
) -> None:
    target = replace(target, sampler=tiny_sampler)
    published = UnlearnDiffAtk.preset("published", steps=6, iterations=3)
    expected = reference(published, target, goals[1])
    words = allowed_tokens(target.model, published.vocabulary).nonzero()[:, 0]
    vectors = target.model.embed(words[None])[0]
    for of, row in ((goals, 1), (goals[1:2], 0)):
        path, looks = list[Tensor](), Looks(target, of, Context(RNG), published.checks)

        def run(path: list[Tensor] = path, looks: Looks = looks, row: int = row) -> None:
            path.extend(u[row] for _, u in published.trajectory(looks))

        seen = gradients_of(run)
        assert len(path) == len(seen) == len(expected) == 6
        for u, grad_BKE, (theirs_u, theirs) in zip(path, seen, expected, strict=True):
            same_gradients(grad_BKE[row : row + 1] @ vectors.T, theirs[None])
            assert torch.cosine_similarity(u, theirs_u, dim=-1).min() > 0.999
    assert (expected[-1][0] - 1 / len(words)).abs().max() > 0.01  # it moved


def test_reference_mode_and_small_chunks_find_the_same(target: Target, goals: list[Goal]) -> None:
    found = SMALL(target, goals, rng=RNG)
    small = replace(target, model=replace(target.model, micro=MicroBatch(2)))
    one_by_one = SMALL.model_copy(update={"mode": "reference"})
    for other in (one_by_one(target, goals, rng=RNG), SMALL(small, goals, rng=RNG)):
        for a, b in zip(found, other, strict=True):
            assert (a.goal, a.prompt, a.queries) == (b.goal, b.prompt, b.queries)
            assert a.own_score == pytest.approx(b.own_score, abs=1e-3)
    assert one_by_one.digest == SMALL.digest


def test_the_steps_reduce_the_loss(
    target: Target, goals: list[Goal], tiny_sampler: Sampler
) -> None:
    """With the concept's name taken out, the search puts something that helps in its place."""
    target, model = replace(target, sampler=tiny_sampler), target.model
    goal = replace(goals[0], prompt="a heart")
    attack = UnlearnDiffAtk(
        tokens=2, where="replace", steps=40, iterations=40, order="random", lr=0.1, stop="never", vocabulary="words"
    )  # fmt: skip
    looks = Looks(target, [goal], Context(RNG), 1)
    u = [x for _, x in attack.trajectory(looks)][-1][0]
    words = allowed_tokens(model, "words").nonzero()[:, 0]
    clean = target_latents(target, ["a heart"], [RNG.seed(goal.id, "image")])
    g = RNG.generator("test")
    noise, t = (
        torch.randn(16, *clean.shape[1:], generator=g),
        torch.randint(400, 900, (16,), generator=g),
    )
    noisy = model.schedule.add_noise(clean.expand(16, -1, -1, -1), noise, t)

    def loss(ids: list[int]) -> float:
        row = model.tokenize([model.backbone.tokenizer.decode(ids)])
        with torch.no_grad():
            eps = model.denoise(noisy, t, model.encode_ids(row).repeat(16))
        return float((eps - noise).square().mean())

    picks = torch.randint(len(words), (6, 2), generator=g)
    random = sorted(loss(words[p].tolist()) for p in picks)
    assert loss(words[u.argmax(-1)].tolist()) < random[len(random) // 2]


def test_a_goal_that_succeeds_leaves(target: Target, goals: list[Goal]) -> None:
    attack = SMALL.model_copy(update={"stop": "success"})
    cost, more = Meter(), Meter()
    metered = replace(target, model=target.model.with_meter(cost))
    found = attack(replace(metered, surrogate=Always()), goals, rng=RNG)
    assert [c.queries for c in found] == [1, 1, 1]  # the plain prompt was enough
    assert cost.gradient_steps == 0
    found = attack(replace(target, model=target.model.with_meter(more)), goals, rng=RNG)
    assert [c.queries for c in found] == [3, 3, 3]
    assert more.gradient_steps == attack.steps


def test_those_that_stay_do_not_notice(target: Target, goals: list[Goal]) -> None:
    """Goals that finish at the first look must not move the others' path."""

    class Brightness(SmallPictures):
        """Tells images apart that show nothing yet, which a good judge does not."""

        def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
            return images_B3HW.mean((1, 2, 3))[:, None]

    attack = SMALL.model_copy(update={"stop": "success"})
    first = Looks(replace(target, surrogate=Brightness()), goals, Context(RNG), 1)
    first.look(range(3), target.model.tokenize([g.prompt for g in goals]).tolist())
    scores = sorted(float(c.own_score or 0) for c in first.candidates())
    bar = (scores[1] + scores[2]) / 2  # the best goal is done before the search

    class Between(Brightness):
        threshold: float = bar

    partly = replace(target, surrogate=Between())
    together = {c.goal: c for c in attack(partly, goals, rng=RNG)}
    assert len({c.queries for c in together.values()}) > 1
    for goal in goals:
        (alone,) = attack(partly, [goal], rng=RNG)
        assert (alone.prompt, alone.queries) == (
            together[goal.id].prompt,
            together[goal.id].queries,
        )


def test_minors_are_refused(target: Target, goals: list[Goal]) -> None:
    with pytest.raises(ValueError, match="minors are refused"):
        SMALL(target, [replace(goals[0], prompt="a child with a heart")], rng=RNG)

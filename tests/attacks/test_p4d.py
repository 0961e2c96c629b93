from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks.p4d import P4D
from attacks.shared.originals import target_latents
from attacks.shared.prompt_search import Looks
from attacks.shared.tokens import allowed_tokens, place, table
from bench.interfaces import Concept, Context, Goal, Rng, Target
from bench.model.guidance import ClassifierFree, NegativePrompt
from bench.model.text_to_image import TextToImage
from tests.small_pictures import SMALL_SAMPLER, SmallPictures

GradientsOf = Callable[[Callable[[], object]], list[Tensor]]
SameGradients = Callable[[Tensor, Tensor], None]
RNG = Rng(("p4d",))


@pytest.fixture
def target(model: TextToImage) -> Target:
    weak = {n: 0.5 * w for n, w in model.backbone.parameters.items() if "attn2.to_v" in n}
    edited = model.with_weights(weak).with_guidance(NegativePrompt(text="heart"))
    return Target(edited, SMALL_SAMPLER, SmallPictures(threshold=2.0))


@pytest.fixture
def goals(concepts: Mapping[str, Concept]) -> list[Goal]:
    prompts = ["a heart", "a green heart at sunset", "as a sketch, a heart"]
    return [Goal(id=f"g{k}", concept=concepts["heart"], prompt=p) for k, p in enumerate(prompts)]


def reference(attack: P4D, target: Target, goal: Goal, scale: float) -> list[tuple[Tensor, Tensor]]:
    """PEZ on the edited model's guided prediction, written out for one prompt.

    As published, it should be the original's prediction for the prompt, without guidance. Returns the
    embeddings after each step, and its gradient.
    """
    model, base = target.model, TextToImage(target.model.backbone)
    words, allowed = model.embed(torch.arange(1026)[None])[0], allowed_tokens(model, "all")
    generator = RNG.generator(goal.id, "draws")
    usable = allowed.nonzero()[:, 0]
    tokens = attack.tokens or 0
    w = words[usable[torch.randint(len(usable), (tokens,), generator=generator)]].clone()
    w.requires_grad_()
    adamw = torch.optim.AdamW([w], lr=0.1, weight_decay=0.1)
    clean = target_latents(target, [goal.prompt], [RNG.seed(goal.id, "image")])
    times = torch.randint(1000, (attack.steps,), generator=RNG.generator("timesteps")).tolist()
    ids = torch.full((1, model.backbone.length), model.backbone.tokenizer.eos_token_id)
    ids[0, 0] = model.backbone.tokenizer.bos_token_id
    ids[0, 1 : 1 + tokens] = 0
    path = []
    for t in times:
        noise = torch.randn(clean.shape[1:], generator=generator)[None]
        noisy = model.schedule.add_noise(clean, noise, torch.tensor([t]))
        cosine = torch.cosine_similarity(w.detach()[:, None], words[None], dim=-1)
        cosine[:, ~allowed] = -2
        p = words[cosine.argmax(-1)].clone().requires_grad_()
        embeds = model.embed(ids).clone()
        embeds[0, 1 : 1 + tokens] = p
        eps = [
            model.denoise(noisy, t, s)
            for s in (model.encode(["heart"]), model.encode_ids(ids, embeds))
        ]
        with torch.no_grad():
            wanted = base.denoise(noisy, t, base.encode([goal.prompt]))
        guided = eps[0] + scale * (eps[1] - eps[0])
        (w.grad,) = torch.autograd.grad(torch.nn.functional.mse_loss(guided, wanted), p)
        adamw.step()
        path.append((w.detach().clone(), w.grad.clone()))
    return path


def test_the_batched_attack_follows_the_reference(
    target: Target, goals: list[Goal], gradients_of: GradientsOf, same_gradients: SameGradients
) -> None:
    attack = P4D.preset("official-n", tokens=4, steps=4, iterations=2)
    expected = reference(attack, target, goals[1], target.sampler.guidance_scale)
    looks, path = Looks(target, goals, Context(RNG), 1), list[Tensor]()
    seen = gradients_of(lambda: path.extend(w[1] for _, w in attack.trajectory(looks, 4)))
    assert len(path) == len(seen) == len(expected) == 4
    for grad_BKE, (_, theirs) in zip(seen, expected, strict=True):
        same_gradients(grad_BKE[1:2], theirs[None])
    steps = zip(path, (w for w, _ in expected), strict=True)
    assert all(torch.cosine_similarity(*pair, dim=-1).min() > 0.999 for pair in steps)
    assert (path[-1] - path[0]).abs().max() > 0.05  # it moved


def test_one_step_written_out(target: Target, goals: list[Goal], gradients_of: GradientsOf) -> None:
    """AdamW from its first state: ``w (1 - lr decay) - lr g / (|g| + 1e-8)``."""
    attack = P4D.preset("official-n", tokens=4, steps=1, iterations=1)
    looks, path = Looks(target, goals[:1], Context(RNG), 1), list[Tensor]()
    (grad,) = gradients_of(lambda: path.extend(w for _, w in attack.trajectory(looks, 4)))
    usable = allowed_tokens(target.model, "all").nonzero()[:, 0]
    picks = torch.randint(len(usable), (4,), generator=RNG.generator("g0", "draws"))
    start = table(target.model)[usable[picks]]
    expected = start * (1 - 0.1 * 0.1) - 0.1 * grad / (grad.abs() + 1e-8)
    torch.testing.assert_close(path[0], expected, atol=1e-5, rtol=0)


def test_only_the_presets_of_ours_guide_the_teacher() -> None:
    teachers = {name: P4D.preset(name).teacher for name in P4D.presets}
    assert {name for name, teacher in teachers.items() if teacher == "guided"} == {"ours", "mini"}


def test_the_teacher_may_be_guided_too(
    target: Target, goals: list[Goal], gradients_of: GradientsOf, same_gradients: SameGradients
) -> None:
    """Through a guidance the two teachers differ; without one they are the same."""

    def first(preset: str, aim: Target) -> Tensor:
        attack = P4D.preset(preset, tokens=4, steps=1, iterations=1)
        looks = Looks(aim, goals, Context(RNG), 1)
        return gradients_of(lambda: list(attack.trajectory(looks, 4)))[0]

    with pytest.raises(AssertionError):
        same_gradients(first("ours", target), first("official-n", target))
    plain = replace(target, model=target.model.with_guidance(ClassifierFree()))
    same_gradients(first("ours", plain), first("official-n", plain))


def test_a_batch_is_its_goals_one_by_one(target: Target, goals: list[Goal]) -> None:
    attack = P4D(tokens=None, where="every", steps=2, iterations=2)
    found = attack(target, goals, rng=RNG)
    other = attack.model_copy(update={"mode": "reference"})(target, goals, rng=RNG)
    assert [c.goal for c in found] == ["g0", "g1", "g2"]
    for a, b in zip(found, other, strict=True):
        assert (a.goal, a.prompt, a.queries) == (b.goal, b.prompt, b.queries)
        assert a.queries == 2


def test_there_is_a_token_before_the_prompt_and_for_every_third_of_its_own(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    attack = P4D.preset("official-k")
    room = model.backbone.length - 2
    for words, expected in (
        (1, 1),
        (2, 1),
        (3, 2),
        (7, 3),
        (8, 3),
        (12, 5),
        (100, 1 + (room - 1) // 4),
    ):
        goal = Goal(id="g", concept=concepts["heart"], prompt=" ".join(["a"] * words))
        assert attack._tokens(model, goal) == expected
        sites = place(model, [goal.prompt], expected, attack.where, every=attack.every)
        places = sites.places_BK[0].tolist()
        assert places == list(range(1, room + 1, 4))[:expected]


def test_the_two_attacks_of_this_name_are_apart() -> None:
    official, optml = P4D.preset("official-n"), P4D.preset("optml")
    assert (official.where, official.tokens, official.optimiser) == ("replace", 16, "adamw")
    assert (optml.where, optml.tokens, optml.optimiser) == ("prefix", 3, "adam")
    assert len({P4D.preset(p).digest for p in P4D.presets}) == len(P4D.presets)

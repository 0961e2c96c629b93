from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attacks import concept_inversion
from attacks.concept_inversion import ConceptInversion, goal_with_places
from attacks.shared.originals import target_images
from attacks.shared.tokens import table
from bench.interfaces import Concept, Context, Goal, Rng, Target
from bench.model.batching import MicroBatch
from bench.model.guidance import NegativePrompt
from bench.model.text_to_image import TextToImage
from bench.perf.throughput import same_find
from bench.toolkit.images import latents_of
from bench.toolkit.inversion import Inverted, invert, name_embedding, states_with
from bench.toolkit.wording import few_mentions, many_mentions
from methods.sld import SLD
from tests.small_pictures import SMALL_SAMPLER, SmallPictures

LittleMemory = Callable[[torch.nn.Module, int], AbstractContextManager[list[int]]]
GradientsOf = Callable[[Callable[[], object]], list[Tensor]]
SameGradients = Callable[[Tensor, Tensor], None]
StartOf = Callable[[Target, ConceptInversion], Tensor]
PlainDescent = Callable[[], AbstractContextManager[None]]
RNG = Rng(("inversion",))
SMALL = ConceptInversion(images=3, steps=2, draws=2, vectors=2, restarts=2)


@pytest.fixture
def target(model: TextToImage) -> Target:
    return Target(model=model, sampler=SMALL_SAMPLER, surrogate=SmallPictures())


@pytest.fixture
def goals(concepts: Mapping[str, Concept]) -> list[Goal]:
    prompts = ["a green heart at sunset", "a drawing of love"]
    return [Goal(id=f"g{k}", concept=concepts["heart"], prompt=p) for k, p in enumerate(prompts)]


def test_the_names_own_embedding_in_its_place_is_the_prompt(
    model: TextToImage, goals: list[Goal]
) -> None:
    text = goal_with_places(model, goals[0], 1)
    vector = name_embedding(model, "heart")[None, None]
    states = states_with(model, text.ids_L[None], text.places_V[None], vector)
    torch.testing.assert_close(
        states.states_BLD, model.encode([goals[0].prompt]).states_BLD, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a green heart at sunset", "a green * at sunset"),
        ("As a sketch, a HEART", "as a sketch, a *"),
        ("hearty {} food", "* hearty food"),
        ("a drawing of love", "* a drawing of love"),
        ("a {} heart", "a *"),
    ],
)
def test_where_the_embedding_stands(
    model: TextToImage, goals: list[Goal], prompt: str, words: str
) -> None:
    text = goal_with_places(model, replace(goals[0], prompt=prompt), 1)
    ids = text.ids_L.tolist()
    assert text.places_V.tolist() == [1 + len(_ids(model, words.split("*")[0]))]
    ids[int(text.places_V)] = _ids(model, "heart")[0]
    assert ids == model.tokenize([words.replace("*", "heart")])[0].tolist()


def _ids(model: TextToImage, text: str) -> list[int]:
    ids: list[int] = model.backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize(
    "prompt", ["heart " + "a " * 60, "a " * 60 + "heart", "a " * 40 + "heart" + " a" * 40]
)
def test_a_long_prompt_loses_words_and_keeps_the_embedding(
    model: TextToImage, goals: list[Goal], prompt: str
) -> None:
    text = goal_with_places(model, replace(goals[0], prompt=prompt.strip()), 3)
    assert len(text.ids_L) == model.backbone.length
    assert len(text.places_V) == 3


def test_each_goal_has_its_text_and_all_share_the_embedding(
    target: Target, goals: list[Goal]
) -> None:
    found = SMALL(target, goals, rng=RNG)
    learned, faults = SMALL._learn(target, goals[0].concept, Context(RNG.child("heart")))
    assert faults.tolist() == [[0, 0]] * 2
    assert learned.shape[:2] == (2, 2)
    for goal, candidate in zip(goals, found, strict=True):
        assert (candidate.prompt, candidate.queries) == (goal.prompt, 2)
        text = goal_with_places(target.model, goal, 2)
        states = states_with(
            target.model, text.ids_L.expand(2, -1), text.places_V.expand(2, -1), learned
        )
        assert candidate.states_LD is not None
        assert min(float((candidate.states_LD - s).abs().max()) for s in states.states_BLD) < 1e-5


@pytest.fixture
def start_of(
    gradients_of: GradientsOf, goals: list[Goal]
) -> Callable[[Target, ConceptInversion], Tensor]:
    """A function that returns the gradient of each restart where it starts, [R, V, E]."""
    concept, rng = goals[0].concept, RNG.child("heart")

    def start(target: Target, attack: ConceptInversion) -> Tensor:
        once = attack.model_copy(update={"steps": 1})
        return torch.cat(gradients_of(lambda: once._learn(target, concept, Context(rng))))

    return start


def learned(attack: ConceptInversion, target: Target, goals: list[Goal]) -> Tensor:
    return attack._learn(target, goals[0].concept, Context(RNG.child("heart")))[0]


def assert_near(one_RVE: Tensor, other_RVE: Tensor, moved_RVE: Tensor) -> None:
    """Rows that plain descent led to differ by rounding, far less than they moved."""
    apart, way = ((x - other_RVE).flatten(1).norm(dim=1) for x in (one_RVE, moved_RVE))
    assert float(way.min()) > 0
    assert float((apart / way).max()) < 1e-2


@pytest.mark.parametrize("size", [1, 2, 3])
def test_learning_in_micro_batches_changes_nothing(
    target: Target, start_of: StartOf, same_gradients: SameGradients, size: int
) -> None:
    small = replace(target, model=replace(target.model, micro=MicroBatch(size)))
    same_gradients(start_of(small, SMALL), start_of(target, SMALL))


def test_memory_that_runs_out_while_learning_changes_nothing(
    target: Target, start_of: StartOf, same_gradients: SameGradients, little_memory: LittleMemory
) -> None:
    guided = replace(target, model=target.model.with_guidance(NegativePrompt(text="heart")))
    roomy = start_of(guided, SMALL)
    small = replace(guided, model=replace(guided.model, micro=MicroBatch(64)))
    with little_memory(small.model.backbone.unet, 6) as refused:
        tight = start_of(small, SMALL)
    assert max(refused) == 8  # restarts, draws, branches
    assert (small.model.micro.size, small.model.micro.gradient_size) == (64, 2)
    same_gradients(tight, roomy)


def test_reference_mode_follows_the_same_path_and_finds_the_same(
    target: Target,
    goals: list[Goal],
    start_of: StartOf,
    same_gradients: SameGradients,
    plain_descent: PlainDescent,
) -> None:
    one_by_one = SMALL.model_copy(update={"mode": "reference"})
    assert one_by_one.digest == SMALL.digest
    same_gradients(start_of(target, one_by_one), start_of(target, SMALL))
    longer = [spec.model_copy(update={"steps": 4, "lr": 0.5}) for spec in (SMALL, one_by_one)]
    with plain_descent():
        together, alone = (learned(spec, target, goals) for spec in longer)
        shorter = learned(longer[0].model_copy(update={"steps": 1}), target, goals)
        found, other = (spec(target, goals, rng=RNG) for spec in longer)
    assert_near(alone, together, shorter)
    for a, b in zip(found, other, strict=True):
        assert (a.goal, a.prompt, a.queries, a.trace and a.trace.steps) == (
            *(b.goal, b.prompt, b.queries, b.trace and b.trace.steps),
        )
        assert a.own_score == pytest.approx(b.own_score, abs=1e-3)
        assert same_find(a, b)


def test_the_loss_goes_through_a_defence_in_the_guidance(
    target: Target, start_of: StartOf, same_gradients: SameGradients
) -> None:
    guided = replace(target, model=target.model.with_guidance(NegativePrompt(text="heart")))
    blind = SMALL.model_copy(update={"loss_scale": 1.0, "wanted": "noise"})
    same_gradients(start_of(guided, blind), start_of(target, SMALL))
    with pytest.raises(AssertionError):
        same_gradients(start_of(guided, SMALL), start_of(target, SMALL))


def test_behind_a_guidance_the_originals_prediction_is_wanted(
    target: Target, goals: list[Goal]
) -> None:
    """As published for negative prompts: what guidance towards the concept's name predicts."""
    concept = goals[0].concept
    plain, guided = target.model, target.model.with_guidance(NegativePrompt(text="heart"))
    assert SMALL._wanted(target, concept, 3.0, few_mentions(concept.family)) is None
    chosen = SMALL.model_copy(update={"wanted": "noise"})
    assert (
        chosen._wanted(replace(target, model=guided), concept, 3.0, few_mentions(concept.family))
        is None
    )
    wanted = SMALL._wanted(
        replace(target, model=guided), concept, 3.0, few_mentions(concept.family)
    )
    assert wanted is not None
    noisy = plain.noise([1, 2], target.sampler)
    t = torch.tensor([300, 700])
    for at, text in enumerate(("heart", "a heart", "a picture of a heart")):
        empty, said = (plain.denoise(noisy, t, plain.encode([x] * 2)) for x in ("", text))
        torch.testing.assert_close(
            wanted(at, noisy, t), empty + 3.0 * (said - empty), atol=1e-4, rtol=1e-4
        )


def test_the_originals_prediction_leads_back_to_the_name(target: Target, goals: list[Goal]) -> None:
    """Without an edit, the name's own embedding predicts just that: there is nothing left to learn."""
    attack = SMALL.model_copy(
        update={"wanted": "original", "vectors": 1, "restarts": 1, "steps": 1}
    )
    concept, rng = goals[0].concept, RNG.child("heart")
    losses = list[float]()

    def invert_and_tell(*args: object, **how: object) -> Inverted:
        found = invert(*args, **how)  # type: ignore[arg-type]
        losses.append(float(found.losses_R))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concept_inversion, "invert", invert_and_tell)
        attack._learn(target, concept, Context(rng))
        attack.model_copy(update={"wanted": "noise"})._learn(target, concept, Context(rng))
    assert losses[0] < 1e-6 < losses[1]


def test_the_loss_meets_the_momentum_of_a_defence(
    target: Target, goals: list[Goal], start_of: StartOf
) -> None:
    """At the first step of sampling there is none yet; the loss must be that of later steps too."""

    def gradient(scale: float) -> Tensor:
        edit = SLD.preset("max", threshold=9.0, momentum_scale=scale)
        model = edit(target.model, [goals[0].concept], rng=RNG)
        return start_of(replace(target, model=model), SMALL)

    with_momentum, without = gradient(0.9), gradient(0.0)
    assert float((with_momentum - without).norm() / without.norm()) > 0.05


def test_published_presets_are_the_scripts(target: Target, goals: list[Goal]) -> None:
    """The start at "art" whatever the concept, AdamW, flips, and the number of texts."""
    model = target.model
    for concept, many in (
        (goals[0].concept, 27),
        (
            goals[0].concept.model_copy(update={"family": "style"}),
            19,
        ),
    ):
        for name in ("published", "published-sld"):
            spec = ConceptInversion.preset(name)
            start = spec._start(model, concept, RNG, 0)
            (token,) = model.backbone.tokenizer("art", add_special_tokens=False)["input_ids"]
            assert torch.equal(start, table(model)[[token]])
            assert (spec.texts, spec.flips, spec.decay) == ("many", "half", 0.01)
        assert len(set(many_mentions(concept.family))) == many
    ours = ConceptInversion.preset("mini")._start(model, goals[0].concept, RNG, 0)
    assert torch.equal(ours[0], name_embedding(model, "heart"))


def test_one_step_written_out(target: Target, goals: list[Goal], gradients_of: GradientsOf) -> None:
    """AdamW from its first state: ``v (1 - lr w) - lr g / (|g| + 1e-8)``, the start at "art"."""
    spec = ConceptInversion.preset("published", steps=1, images=2, draws=2)
    vectors = list[Tensor]()
    (grad,) = gradients_of(lambda: vectors.append(learned(spec, target, goals)))
    start = name_embedding(target.model, "art")
    expected = start * (1 - 0.08 * 0.01) - 0.08 * grad / (grad.abs() + 1e-8)
    torch.testing.assert_close(vectors[0], expected, atol=1e-5, rtol=0)


def test_half_of_the_images_are_mirrored(target: Target, goals: list[Goal]) -> None:
    """Each image is there, and its mirror image, so that an even draw flips half of the time."""
    seen = list[Tensor]()

    def invert_and_tell(
        model: TextToImage, latents: Tensor, *args: object, **how: object
    ) -> Inverted:
        seen.append(latents)
        return invert(model, latents, *args, **how)  # type: ignore[arg-type]

    spec = SMALL.model_copy(update={"steps": 1, "flips": "half"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(concept_inversion, "invert", invert_and_tell)
        learned(spec, target, goals)
        learned(SMALL.model_copy(update={"steps": 1}), target, goals)
    both, plain = seen
    assert (len(both), len(plain)) == (6, 3)
    prompts = [t.format("heart") for t in few_mentions(goals[0].concept.family)]
    seeds = [RNG.child("heart").seed("image", i) for i in range(3)]
    images = target_images(target, prompts, seeds)
    torch.testing.assert_close(both[:3], plain, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        both[3:], latents_of(target.model, images.flip(-1)), atol=1e-4, rtol=0
    )


def test_as_published_the_original_is_told_the_name_alone(
    target: Target, goals: list[Goal]
) -> None:
    concept, plain = goals[0].concept, target.model
    guided = replace(target, model=plain.with_guidance(NegativePrompt(text="heart")))
    spec = ConceptInversion.preset("published")
    wanted = spec._wanted(guided, concept, 3.0, many_mentions(concept.family))
    assert wanted is not None
    noisy, t = plain.noise([1, 2], target.sampler), torch.tensor([300, 700])
    empty, said = (plain.denoise(noisy, t, plain.encode([x] * 2)) for x in ("", "heart"))
    for at in (0, 26):
        torch.testing.assert_close(
            wanted(at, noisy, t), empty + 3.0 * (said - empty), atol=1e-4, rtol=1e-4
        )


def test_timesteps_are_from_the_span(target: Target, goals: list[Goal]) -> None:
    met: list[int] = []
    unet = target.model.backbone.unet
    concept, rng = goals[0].concept, RNG.child("heart")
    attack = SMALL.model_copy(update={"span": (0.4, 0.5), "steps": 3})

    def note(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            met.extend(args[1].tolist())

    hook = unet.register_forward_pre_hook(note)
    try:
        attack._learn(target, concept, Context(rng))
    finally:
        hook.remove()
    assert len(met) == 3 * 2 * 2  # steps, restarts, draws
    assert all(400 <= t < 500 for t in met)
    assert ConceptInversion.preset("published").span == (0.0, 1.0)


def test_minors_are_refused(target: Target, goals: list[Goal]) -> None:
    with pytest.raises(ValueError, match="minors are refused"):
        SMALL(target, [replace(goals[0], prompt="a child")], rng=RNG)

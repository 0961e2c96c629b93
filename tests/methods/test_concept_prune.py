from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from bench.core.meter import Meter
from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng
from bench.model.batching import MicroBatch
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from methods.concept_prune import ConceptPrune, importance, skilled

RNG = Rng(("concept_prune",))
HEART, MOON = Concept(text="heart"), Concept(text="moon")
SKETCH = Concept(text="sketch", family="style")
QUICK: dict[str, object] = {
    "ratio": 0.05, "steps": 3, "first": 2, "scenes": ("meadow", "garden"), "things": ("dog", "cat"),
}  # fmt: skip


def quick(**fields: object) -> ConceptPrune:
    return ConceptPrune.model_validate({**QUICK, **fields})


def pruned(model: TextToImage, edited: TextToImage) -> dict[str, Tensor]:
    """Which weights were set to 0."""
    return {n: (w == 0) & (model.parameter(n) != 0) for n, w in edited.weights.items()}


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=generator_for("concept_prune", *shape))


# -- the rule ------------------------------------------------------------------------------------


def test_importance_by_hand() -> None:
    W = torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    score = importance(W, torch.tensor([4.0, 9.0]))
    assert torch.equal(score, torch.tensor([[2.0, 6.0], [0.0, 9.0]]))


def test_the_chosen_weights_by_hand() -> None:
    target = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    reference = torch.tensor([[5.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 9.0]])
    # Half of each row: 4, 3 and 3, 4; of these, above the reference: 3 and 3.
    expected = torch.tensor([[False, True, False, False], [False, False, True, False]])
    assert torch.equal(skilled(target, reference, 0.5), expected)


def test_a_ratio_of_nothing_prunes_nothing() -> None:
    assert not skilled(drawn(6, 8), torch.zeros(6, 8), 0.0).any()


def test_a_ratio_of_one_prunes_all_that_the_concept_uses_more() -> None:
    target, reference = drawn(6, 8), drawn(8, 6).T
    assert torch.equal(skilled(target, reference, 1.0), target > reference)


@pytest.mark.parametrize(("ratio", "each"), [(0.01, 1), (0.02, 2), (0.029, 2), (0.25, 25)])
def test_no_row_loses_more_than_its_share(ratio: float, each: int) -> None:
    chosen = skilled(drawn(5, 100) + 1, torch.zeros(5, 100), ratio)
    assert chosen.sum(1).tolist() == [each] * 5


def test_a_concept_that_changes_nothing_loses_nothing() -> None:
    score = drawn(6, 8)
    assert not skilled(score, score, 0.5).any()


# -- pairs of prompts ----------------------------------------------------------------------------


def test_the_pairs_are_those_that_were_published() -> None:
    objects = ConceptPrune.preset("objects").pairs(HEART)
    assert len(objects) == 12
    assert objects[0] == ("a garden", "a heart in a garden")
    styles = ConceptPrune.preset("artists").pairs(SKETCH)
    assert len(styles) == 20
    assert styles[0] == ("a photo of a dog", "a dog in the style of sketch")
    nudity = ConceptPrune.preset("nudity").pairs(Concept(text="nudity"))
    assert len(nudity) == len(set(nudity)) == 18
    assert nudity[1] == ("a photo of a woman", "a photo of a naked woman")
    assert all(with_.replace("naked ", "") == without for without, with_ in nudity)


def test_a_scene_may_have_a_place_for_the_concept() -> None:
    (pair,) = ConceptPrune(scenes=("drawing of a {} house",)).pairs(HEART)
    assert pair == ("a drawing of a house", "a drawing of a heart house")
    (pair,) = ConceptPrune(scenes=("drawing of the {}",)).pairs(HEART)
    assert pair == ("a drawing of the", "a drawing of the heart")


# -- on the miniature ----------------------------------------------------------------------------


def test_only_second_feed_forward_layers_of_the_unet_lose_weights(model: TextToImage) -> None:
    spec = quick()
    edited = spec(model, [HEART], rng=RNG)
    assert edited.weights
    for name, value in edited.weights.items():
        assert name.startswith("unet.")
        assert name.endswith("ff.net.2.weight")
        kept = value == model.parameter(name)
        assert ((value == 0) | kept).all()
        share = 2 * int(0.05 * value.shape[1])  # the union of two steps
        assert 0 < (~kept).sum(1).max() <= share, name


def test_the_statistics_are_those_of_the_layers_inputs(model: TextToImage) -> None:
    """One prompt, one step, one layer: the norms are computed here from a plain hook."""
    name = quick().parameters(model)[0]
    layer = model.backbone.unet.get_submodule(name.removeprefix("unet.").removesuffix(".weight"))
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    sampler = Sampler(solver="ddim", steps=3, guidance_scale=7.5)
    scheduler = sampler.scheduler(model.backbone.scheduler_config, "cpu")
    with torch.no_grad():
        states = model.guidance.contexts(model, model.encode(["a meadow"]))
        model.guide(model.noise([5], sampler), scheduler.timesteps[0], states, 7.5)
    handle.remove()
    (h,) = seen
    assert h.shape[0] == 2  # both halves of the guidance
    expected = F.normalize(h, dim=-1).square().sum((0, 1))
    (found, *_) = quick(first=1)._squares(model, [name], ["a meadow"], [5])
    torch.testing.assert_close(found[0], expected, atol=1e-4, rtol=1e-4)
    assert found.sum().item() == pytest.approx(h.shape[0] * h.shape[1], rel=1e-4)


def test_nothing_is_left_in_the_networks(model: TextToImage) -> None:
    quick()(model, [HEART], rng=RNG)
    assert not [m for m in model.backbone.unet.modules() if m._forward_pre_hooks]


def test_more_steps_watched_prune_a_superset(model: TextToImage) -> None:
    one, two = (pruned(model, quick(first=first)(model, [HEART], rng=RNG)) for first in (1, 2))
    assert all((two[n] | ~mask).all() for n, mask in one.items())
    assert sum(int(m.sum()) for m in two.values()) > sum(int(m.sum()) for m in one.values())


def test_several_concepts_are_pruned_as_the_union(model: TextToImage) -> None:
    one, two, both = (
        pruned(model, quick()(model, some, rng=RNG))
        for some in ([HEART], [SKETCH], [HEART, SKETCH])
    )
    for name, mask in both.items():
        nothing = torch.zeros_like(mask)
        assert torch.equal(mask, one.get(name, nothing) | two.get(name, nothing))


def test_micro_batches_do_not_change_what_is_pruned(model: TextToImage) -> None:
    small = replace(model, micro=MicroBatch(1))
    one, two = (pruned(m, quick()(m, [HEART], rng=RNG)) for m in (model, small))
    different = sum(int((mask ^ two[n]).sum()) for n, mask in one.items())
    assert different <= 0.01 * sum(int(mask.sum()) for mask in one.values())  # ties in rounding


def test_the_prompts_of_objects_and_of_styles() -> None:
    spec = ConceptPrune()
    assert ("a garden", "a heart in a garden") in spec.pairs(HEART)
    assert ("a photo of a dog", "a dog in the style of sketch") in spec.pairs(SKETCH)
    assert len(spec.pairs(HEART)) == 12
    assert len(spec.pairs(SKETCH)) == 20


def test_its_cost_and_progress_are_told(model: TextToImage) -> None:
    told: list[tuple[int, int]] = []
    cost = Meter()
    quick()(
        model.with_meter(cost),
        [HEART, MOON],
        rng=RNG,
        progress=lambda d, t, what: told.append((d, t)),
    )
    assert told == [(1, 2), (2, 2)]
    assert (cost.images, cost.gradient_steps) == (8, 0)  # 2 concepts, 2 scenes, with and without


# -- constants and bad input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "ratio", "first"),
    [("artists", 0.01, 10), ("objects", 0.02, 10), ("nudity", 0.01, 9)],
)
def test_presets_are_as_published(preset: str, ratio: float, first: int) -> None:
    spec = ConceptPrune.preset(preset)
    assert (spec.ratio, spec.first, spec.steps, spec.guidance_scale) == (ratio, first, 50, 7.5)
    assert spec.label == f"concept_prune[{preset}]"


@pytest.mark.parametrize(
    "fields",
    [{"ratio": 0.0}, {"ratio": 1.5}, {"first": 0}, {"steps": 0}, {"scenes": ()}, {"things": ()}],
)
def test_fields_are_checked(fields: Mapping[str, object]) -> None:
    with pytest.raises(ValidationError):
        ConceptPrune.model_validate(fields)


def test_what_cannot_be_pruned_is_an_error(model: TextToImage) -> None:
    with pytest.raises(ValueError, match="at least one concept"):
        quick()(model, [], rng=RNG)
    with pytest.raises(ValueError, match=r"got none at ratio 0\.001 .* raise `ratio`"):
        quick(ratio=0.001)(model, [HEART], rng=RNG)

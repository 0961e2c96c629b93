from __future__ import annotations

from collections.abc import Mapping

import pytest

from bench.interfaces import Concept, Judge, Rng
from bench.judges.clip_zero_shot import ClipZeroShot
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from tvc.contexts import MINI
from tvc.method import TaskVectorErasure
from tvc.sight import Sight
from tvc.strength import Strength, prompt_set
from tvc.subset import Retained, named_subset, rank_subsets, subset_names
from tvc.task_vector import TaskVector

SURROGATE = TaskVectorErasure().surrogate()
SAMPLER = Sampler(steps=3)
"""In so few steps the miniature still draws what the surrogate sees."""


def unet(model: TextToImage) -> list[str]:
    return [n for n in model.backbone.parameters if n.startswith("unet.")]


def test_every_subset_is_a_part_of_the_unet_and_none_is_empty(model: TextToImage) -> None:
    names = unet(model)
    for subset in subset_names(names):
        keep = named_subset(model, subset)
        held = [n for n in model.backbone.parameters if keep(n)]
        assert held
        assert set(held) <= set(names)
        assert (len(held) == len(names)) == (subset == "all")


def test_the_kinds_of_layers_do_not_overlap(model: TextToImage) -> None:
    kinds = ["cross-attention", "self-attention", "feed-forward", "convolutions"]
    for name in unet(model):
        assert sum(named_subset(model, k)(name) for k in kinds) <= 1


def test_the_first_three_blocks_and_a_block_by_its_name(model: TextToImage) -> None:
    keep = named_subset(model, "first-three")
    assert {n.split(".")[1] for n in unet(model) if keep(n)} == {"down_blocks"}
    one = named_subset(model, "up_blocks.1")
    assert {".".join(n.split(".")[1:3]) for n in unet(model) if one(n)} == {"up_blocks.1"}


def test_an_unknown_subset_is_told_with_the_near_match(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    with pytest.raises(ValueError, match="did you mean 'cross-attention'"):
        named_subset(model, "cross-atention")
    with pytest.raises(ValueError, match="unknown subset 'nowhere'"):
        TaskVectorErasure(subset="nowhere")(model, [concepts["heart"]], rng=Rng(("t",)))


def test_utility_is_whole_for_the_unedited_model_and_lost_with_the_output(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    vector = TaskVector(
        model.backbone.digest,
        {"unet.conv_out.weight": model.parameter("unet.conv_out.weight").clone()},
    )
    utility = Retained(
        model, Sight(concepts["heart"], SAMPLER, SURROGATE), samples=4, rng=Rng(("t",)),
        contexts=("{}", "a red {}"),
    )  # fmt: skip
    assert utility.share(model) == 1.0
    assert utility.share(vector.subtracted(model, 1.0)) < 0.5


def test_utility_counts_what_stands_beside_the_neighbour(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    def utility(reader: Judge | None) -> Retained:
        return Retained(
            model, Sight(concepts["sketch"], SAMPLER, SURROGATE), samples=8, rng=Rng(("t",)),
            contexts=MINI["style"], reader=reader,
        )  # fmt: skip

    whole = utility(ClipZeroShot())
    assert whole.share(model) == 1.0
    with pytest.raises(ValueError, match="no neighbour that the base draws"):
        utility(ClipZeroShot(threshold=1.1))  # reads nothing


def test_a_concept_without_neighbours_has_no_utility_to_look_at(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    alone = concepts["heart"].model_copy(update={"neighbours": ()})
    with pytest.raises(ValueError, match="has no neighbour that the base draws"):
        Retained(model, Sight(alone, SAMPLER, SURROGATE), samples=1, rng=Rng(("t",)))


def test_ranking_puts_what_reaches_the_threshold_first(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    deltas = {
        n: model.parameter(n).float().clone()
        for n in ("unet.conv_out.weight", "unet.conv_out.bias")
    }
    deltas["unet.mid_block.resnets.0.conv1.weight"] = 0 * model.parameter(
        "unet.mid_block.resnets.0.conv1.weight"
    )
    heart = concepts["heart"]
    ranked = rank_subsets(
        model, TaskVector(model.backbone.digest, deltas), Sight(heart, SAMPLER, SURROGATE), [prompt_set(model, heart)],
        Strength(largest=1.0, tolerance=0.5, samples=2, resamples=10), subsets=["mid", "convolutions", "mid"],
        rng=Rng(("t",)),
    )  # fmt: skip
    assert [r.subset for r in ranked] == ["convolutions", "mid"]
    assert [r.estimate.reached for r in ranked] == [True, False]

"""Attacks that change weights: relearning, benign fine-tuning, compression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import attacks.shared.finetuning as finetuning
from attacks.benign_finetune import BenignFinetune
from attacks.prune_or_quantise import PruneOrQuantise, pruned, quantised
from attacks.relearn import Relearn
from attacks.shared.finetuning import matrices
from attacks.shared.originals import target_latents
from bench.core.errors import UsageError
from bench.interfaces import Attack, Candidate, Concept, Goal, Rng, Role, Target, bare
from bench.model.text_to_image import TextToImage
from methods.negative_prompt import NegativePromptErasure
from methods.uce import UCE
from tests.small_pictures import SMALL_SAMPLER, SmallPictures

RNG = Rng(("weights",))


def goals_of(concepts: Mapping[str, Concept], *names: str) -> list[Goal]:
    return [
        Goal(f"{name}-{k}", concepts[name], concepts[name].prompts["name"][k])
        for name in names
        for k in range(2)
    ]


def finds(
    attack: Attack, model: TextToImage, concepts: Mapping[str, Concept], *names: str
) -> list[Candidate]:
    target = Target(model, SMALL_SAMPLER, SmallPictures())
    return attack(target, goals_of(concepts, *names), rng=RNG)


def changes(candidate: Candidate) -> Mapping[str, Tensor]:
    assert candidate.weights is not None
    return candidate.weights


# -- fine-tuning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [Relearn, BenignFinetune])
def test_goals_of_a_concept_share_one_change(
    attack: type[Attack], model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    heart, again, moon, _ = finds(attack(**attack.quick), model, concepts, "heart", "moon")
    assert heart.weights is again.weights
    assert heart.weights is not moon.weights
    assert heart.own_score is None
    names = changes(heart)
    assert set(names) == set(matrices(model, Role.CROSS_ATTENTION))
    assert any(bool(change.any()) for change in names.values())


def test_an_adapter_has_its_rank_and_no_rank_has_none(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    few: dict[str, Any] = {**Relearn.quick, "steps": 3, "lr": 1e-2}
    (low, _), (full, _) = (
        finds(Relearn(**few, rank=rank), model, concepts, "heart") for rank in (2, None)
    )
    for name, change in changes(low).items():
        assert int(torch.linalg.matrix_rank(change.double(), rtol=1e-5)) <= 2
        assert int(torch.linalg.matrix_rank(changes(full)[name].double(), rtol=1e-5)) > 2


def test_the_first_step_of_a_full_training_moves_by_the_learning_rate(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    """AdamW: each entry moves by lr, against its gradient's sign, and by lr times decay times itself."""
    fields: dict[str, Any] = {**Relearn.quick, "steps": 1, "lr": 1e-3, "rank": None}
    (found, _) = finds(Relearn(**fields), model, concepts, "heart")
    for name, change in changes(found).items():
        own = (change + 1e-3 * 1e-2 * model.parameter(name)).abs()
        moved = own[own > 0.9e-3]
        assert len(moved) > own.numel() / 2, name
        assert (own <= 1e-3 * (1 + 1e-3)).all()


def test_relearning_lowers_the_loss_on_the_concept(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    edited = UCE()(model, [bare(concepts["heart"])], rng=RNG)
    target = Target(edited, SMALL_SAMPLER, SmallPictures())
    attack = Relearn(images=4, steps=12, lr=3e-3, batch_size=2, rank=8)
    (found, _) = finds(attack, edited, concepts, "heart")
    captions = attack.captions(concepts["heart"])
    clean = target_latents(target, captions, [9, 8, 7, 6]).repeat(4, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=RNG.generator("noise"))
    t = torch.linspace(50, 950, len(clean)).long()

    def loss(of: TextToImage) -> float:
        noisy = of.schedule.add_noise(clean, noise, t)
        with torch.no_grad():
            out = of.denoise(noisy, t, of.encode(captions * 4))
        return float((out - of.schedule.target(clean, noise, t)).square().mean())

    assert loss(edited.with_added(changes(found))) < loss(edited)


def test_benign_captions_name_neighbours_and_other_things_but_never_the_concept() -> None:
    concept = Concept(text="tree", neighbours=("bush", "palm tree", "hedge"))
    said = BenignFinetune(images=24).captions(concept)
    assert len(said) == 24
    assert not any("tree" in text for text in said)
    assert any("bush" in text for text in said)
    assert "a bowl of fruit" in said
    assert len(set(BenignFinetune(images=3).captions(Concept(text="zorbo")))) == 3


def test_a_change_that_the_harness_cannot_keep_is_refused_before_any_training(
    model: TextToImage, concepts: Mapping[str, Concept], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetuning, "MOST_VALUES", 10)
    with pytest.raises(UsageError, match="take a smaller base or part"):
        finds(Relearn(), model, concepts, "heart")


# -- compression ---------------------------------------------------------------------------------


def test_values_are_rounded_to_steps_of_their_row() -> None:
    value = torch.tensor([[-3.0, 1.4, 0.4, 3.0], [0.0, 0.0, 0.0, 0.0], [0.7, -0.2, 0.1, 0.0]])
    expected = [[-3.0, 1.0, 0.0, 3.0], [0.0] * 4, [0.7, -0.7 / 3, 0.0, 0.0]]
    torch.testing.assert_close(quantised(value, 3), torch.tensor(expected))


@pytest.mark.parametrize("shape", [(7,), (5, 9), (4, 3, 3, 3)])
def test_rounding_is_off_by_half_a_step_at_most(shape: tuple[int, ...]) -> None:
    value = torch.randn(shape, generator=RNG.generator(shape))
    most = value.abs().max() / (2**7 - 1) / 2
    assert (quantised(value, 8) - value).abs().max() <= most * (1 + 1e-5)
    assert quantised(value, 8).shape == value.shape


def test_the_smallest_are_pruned() -> None:
    value = torch.tensor([[3.0, -1.0], [0.5, -2.0]])
    assert pruned(value, 0.5).tolist() == [[3.0, 0.0], [0.0, -2.0]]
    assert pruned(value, 0.49).tolist() == [[3.0, -1.0], [0.0, -2.0]]


@pytest.mark.parametrize("preset", ["8bit", "4bit", "pruned"])
def test_only_what_the_edit_changed_is_compressed(
    model: TextToImage, concepts: Mapping[str, Concept], preset: str
) -> None:
    edited = UCE()(model, [bare(concepts["heart"])], rng=RNG)
    first, second = finds(PruneOrQuantise.preset(preset), edited, concepts, "heart")
    assert first.weights is second.weights
    assert set(changes(first)) == set(edited.weights)
    name, change = next(iter(changes(first).items()))
    after = edited.with_added(changes(first)).parameter(name)
    attack = PruneOrQuantise.preset(preset)
    expected = edited.weights[name]
    expected = pruned(expected, 0.3) if attack.ratio else quantised(expected, attack.bits or 0)
    torch.testing.assert_close(after, expected)
    assert change.any()


def test_an_edit_without_weights_is_left_as_it_is(
    model: TextToImage, concepts: Mapping[str, Concept]
) -> None:
    edited = NegativePromptErasure()(model, [bare(concepts["heart"])], rng=RNG)
    assert all(c.weights is None for c in finds(PruneOrQuantise(), edited, concepts, "heart"))


def test_an_attack_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="bits or a ratio"):
        PruneOrQuantise(bits=None)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from bench.core.meter import Meter
from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage, load_model
from bench.toolkit.wording import mentions
from methods.few_shot import FewShot
from tests.tiny_bases import make_base

RNG = Rng(("few_shot",))
HEART, BRAKK = Concept(text="heart"), Concept(text="brakk", family="character")
TINY: Mapping[str, Any] = {
    "images": 4, "epochs": 2, "batch_size": 2, "sampling_steps": 3, "guidance_scale": 3.0,
    "templates": ("{}", "a {}"), "lr": 1e-3,
}  # fmt: skip


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("few_shot", *shape))


@dataclass(frozen=True, slots=True)
class Batch:
    """The draws that one step was trained on."""

    latents: Tensor
    noise: Tensor
    t: Tensor
    prompts: tuple[str, ...]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches of every step, as they come."""
    seen: list[Batch] = []
    ascent = FewShot.ascent

    def watched(live: TextToImage, x: Tensor, noise: Tensor, t: Tensor, prompts: Any) -> Tensor:
        seen.append(Batch(x, noise, t, tuple(prompts)))
        return ascent(live, x, noise, t, prompts)

    monkeypatch.setattr(FewShot, "ascent", staticmethod(watched))
    return seen


def images_of(model: TextToImage, spec: FewShot, prompts: Any, number: int) -> Tensor:
    """The images of the ``number``-th concept before any flip."""
    rng = RNG.child("images", number)
    sampler = Sampler(steps=spec.sampling_steps, guidance_scale=spec.guidance_scale)
    said = [prompts[k % len(prompts)] for k in range(spec.images)]
    return model.sample(said, [rng.seed(k) for k in range(spec.images)], sampler).images_B3HW


# -- the loss ------------------------------------------------------------------------------------


def test_the_loss_is_minus_the_denoising_loss(model: TextToImage) -> None:
    x, noise = drawn(3, *model.latent_shape), drawn(3, *model.latent_shape, 1)[..., 0]
    t, prompts = torch.tensor([0, 400, 999]), ["heart", "", "a red heart"]
    ddpm = DDPMScheduler.from_config(model.backbone.scheduler_config)
    with torch.no_grad():
        loss = FewShot.ascent(model, x, noise, t, prompts)
        eps = model.denoise(ddpm.add_noise(x, noise, t), t, model.encode(prompts))
    torch.testing.assert_close(loss, -(noise - eps).square().mean())
    assert loss < 0


def denoising_loss(model: TextToImage, latents: Tensor, prompt: str) -> float:
    """The plain loss at fixed noise, over the whole schedule."""
    x = latents.repeat(8, 1, 1, 1)
    t = torch.linspace(50, 950, len(x)).long()
    noise = drawn(*x.shape)
    with torch.no_grad():
        states = model.encode([prompt]).repeat(len(x))
        return float(
            (model.denoise(model.schedule.add_noise(x, noise, t), t, states) - noise)
            .square()
            .mean()
        )


def test_it_gets_harder_to_denoise_the_concepts_images(model: TextToImage) -> None:
    spec = FewShot(**{**TINY, "epochs": 4, "batch_size": 4})
    edited = spec(model, [HEART], rng=RNG)
    latents = model.to_latents(images_of(model, spec, ["heart", "a heart"], 0))
    for prompt in ("heart", "a heart"):
        before, after = (denoising_loss(m, latents, prompt) for m in (model, edited))
        assert after > 1.02 * before, prompt


def by_hand(model: TextToImage, batches: list[Batch], lr: float, **adam: Any) -> dict[str, Tensor]:
    """The change of every parameter when PyTorch's own Adam climbs the batches."""
    names = FewShot().parameters(model)
    leaves = {n: model.parameter(n).clone().requires_grad_() for n in names}
    live, engine = replace(model, weights=leaves), torch.optim.Adam(leaves.values(), lr, **adam)
    for b in batches:
        noisy = model.schedule.add_noise(b.latents, b.noise, b.t)
        error = (live.denoise(noisy, b.t, live.encode(b.prompts)) - b.noise).square().mean()
        engine.zero_grad()
        (-error).backward()
        engine.step()
    return {n: w.detach() - model.parameter(n) for n, w in leaves.items()}


def test_the_optimiser_is_adam_with_the_published_constants(
    model: TextToImage, batches: list[Batch]
) -> None:
    spec = FewShot(**TINY)
    edited = spec(model, [HEART], rng=RNG)
    got = {n: w - model.parameter(n) for n, w in edited.weights.items()}
    published: Mapping[str, Any] = {"betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 1e-8}

    def off(**other: Any) -> float:
        hand = by_hand(model, batches, spec.lr, **{**published, **other})
        return max(float((hand[n] - d).abs().max()) for n, d in got.items()) / spec.lr

    assert off() < 0.01
    assert off(eps=1e-8) > 0.02
    assert off(betas=(0.9, 0.999)) > 0.02
    assert off(betas=(0.5, 0.98)) > 0.02


# -- the parameters ------------------------------------------------------------------------------


def test_of_the_miniature_the_feed_forward_layers_and_the_last_attention_are_trained(
    model: TextToImage,
) -> None:
    edited = FewShot(**TINY)(model, [HEART], rng=RNG)
    last = model.backbone.text_encoder.config.num_hidden_layers - 1
    expected = {
        n for n in model.backbone.parameters
        if n.startswith("text_encoder.")
        and (".mlp." in n or f".layers.{last}.self_attn." in n)
    }  # fmt: skip
    assert set(edited.weights) == expected
    # A bias of the keys moves no softmax: its gradient is rounding noise, or nothing.
    still = [n for n, w in edited.weights.items() if torch.equal(w, model.parameter(n))]
    assert set(still) <= {n for n in expected if n.endswith("k_proj.bias")}


@pytest.mark.parametrize("nested", [False, True])
def test_of_clip_vit_l_as_published(model: TextToImage, nested: bool) -> None:
    config = CLIPTextConfig(
        hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
        max_position_embeddings=77, vocab_size=49408,
    )  # fmt: skip
    with torch.device("meta"):
        encoder: Any = CLIPTextModel(config)
    prefix = next(n for n, _ in encoder.named_parameters()).partition("embeddings.")[0]
    if nested != bool(prefix):  # versions of transformers differ in this
        encoder = nn.ModuleDict({"text_model": encoder}) if nested else encoder.text_model
    large = replace(model, backbone=replace(model.backbone, text_encoder=encoder))
    stem = f"text_encoder.{'text_model.' if nested else ''}encoder.layers"
    both = ("weight", "bias")
    mlps = {f"{stem}.{k}.mlp.fc{i}.{w}" for k in range(12) for i in (1, 2) for w in both}
    attention = {
        f"{stem}.11.self_attn.{p}_proj.{w}" for p in ("q", "k", "v", "out") for w in both
    }  # fmt: skip
    trained = FewShot().parameters(large)
    assert set(trained) == mlps | attention
    weights = 12 * (2 * 768 * 3072 + 3072 + 768) + 4 * (768 * 768 + 768)
    assert sum(large.parameter(n).numel() for n in trained) == weights


# -- the images ----------------------------------------------------------------------------------


def test_every_epoch_shows_every_image_once_flipped_once_and_for_all(
    model: TextToImage, batches: list[Batch]
) -> None:
    spec = FewShot(**{**TINY, "images": 8, "epochs": 3, "batch_size": 4})
    spec(model, [HEART], rng=RNG)
    images = images_of(model, spec, ["heart", "a heart"], 0)
    plain, flipped = model.to_latents(images), model.to_latents(images.flip(-1))
    known = torch.cat([plain, flipped]).flatten(1)
    epochs = []
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        distances = torch.cdist(torch.cat([first.latents, second.latents]).flatten(1), known)
        nearest = distances.min(1)
        assert nearest.values.max() < 1e-3
        epochs.append(nearest.indices.tolist())
    assert all(sorted(k % 8 for k in epoch) == list(range(8)) for epoch in epochs)
    assert all(sorted(one) == sorted(other) for one, other in pairwise(epochs))
    assert 0 < sum(k >= 8 for k in epochs[0]) < 8
    assert len({tuple(epoch) for epoch in epochs}) > 1  # in an order of its own


def test_the_last_batch_of_an_epoch_may_be_smaller(
    model: TextToImage, batches: list[Batch]
) -> None:
    FewShot(**{**TINY, "images": 3, "epochs": 2})(model, [HEART], rng=RNG)
    assert [len(b.latents) for b in batches] == [2, 1, 2, 1]


def test_noise_and_timesteps_are_fresh_in_every_step(
    model: TextToImage, batches: list[Batch]
) -> None:
    FewShot(**TINY)(model, [HEART], rng=RNG)
    for one, other in pairwise(batches):
        assert not torch.equal(one.noise, other.noise)
        assert not torch.equal(one.t, other.t)
    t = torch.cat([b.t for b in batches])
    assert 0 <= t.min() < t.max() < 1000


def test_images_are_sampled_and_counted(model: TextToImage) -> None:
    cost = Meter()
    FewShot(**TINY)(model.with_meter(cost), [HEART, BRAKK], rng=RNG)
    assert (cost.images, cost.gradient_steps) == (8, 4)


def test_it_says_what_its_templates_say(model: TextToImage, batches: list[Batch]) -> None:
    spec = FewShot(**{**TINY, "epochs": 4})
    spec(model, [HEART], rng=RNG)
    assert {p for b in batches for p in b.prompts} == {"heart", "a heart"}


@pytest.mark.parametrize("family", ["object", "style", "character"])
def test_without_templates_it_speaks_as_of_the_concepts_family(
    model: TextToImage, batches: list[Batch], family: str
) -> None:
    concept = Concept(text="heart", family=family)
    FewShot(**{**TINY, "templates": ()})(model, [concept], rng=RNG)
    said = {p for b in batches for p in b.prompts}
    assert said <= {t.format("heart") for t in mentions(family)}
    assert len(said) > 1


# -- several concepts, and the same answer -------------------------------------------------------


def test_every_batch_holds_images_of_each_concept_under_its_own_name(
    model: TextToImage, batches: list[Batch]
) -> None:
    spec = FewShot(**TINY)
    edited = spec(model, [HEART, BRAKK], rng=RNG)
    for number, text in enumerate(("heart", "brakk")):
        own = images_of(model, spec, [text, f"a {text}"], number)
        known = torch.cat([model.to_latents(own), model.to_latents(own.flip(-1))]).flatten(1)
        rows = slice(2 * number, 2 * number + 2)
        for batch in batches:
            assert {p.removeprefix("a ") for p in batch.prompts[rows]} == {text}
            near = torch.cdist(batch.latents[rows].flatten(1), known).min(1).values
            assert near.max() < 1e-3
        with torch.no_grad():
            now, was = (m.encode([text]).states_BLD for m in (edited, model))
            assert not torch.equal(now, was)


def test_the_same_answer_twice_and_another_from_another_stream(model: TextToImage) -> None:
    spec = FewShot(**{**TINY, "images": 2, "epochs": 1})
    first, second, other = (
        spec(model, [HEART], rng=rng).digest for rng in (RNG, RNG, Rng(("other",)))
    )
    assert first == second != other


# -- presets and edges ---------------------------------------------------------------------------


def test_presets_are_as_published() -> None:
    repo = {
        "images": 4, "epochs": 5, "batch_size": 2, "lr": 1e-5, "templates": (),
        "sampling_steps": 50, "guidance_scale": 7.5,
    }  # fmt: skip
    assert FewShot.preset("repo-2024").model_dump() == repo
    assert FewShot.preset("repo-readme").model_dump() == {**repo, "epochs": 4}
    assert {FewShot.preset(p).label for p in FewShot.presets} == {
        f"few_shot[{p}]" for p in FewShot.presets
    }


def test_no_concepts_are_an_error(model: TextToImage) -> None:
    with pytest.raises(ValueError, match="few_shot: expected at least one concept"):
        FewShot()(model, [], rng=RNG)


def test_progress_is_told_of_every_step(model: TextToImage) -> None:
    told: list[tuple[int, int]] = []
    FewShot(**{**TINY, "epochs": 1})(
        model, [HEART], rng=RNG, progress=lambda done, total, what: told.append((done, total))
    )
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize("fields", [{"images": 0}, {"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}])
def test_fields_are_checked(fields: Mapping[str, object]) -> None:
    with pytest.raises(ValueError):
        FewShot.model_validate(fields)


def test_each_text_encoder_has_a_last_self_attention(tmp_path: Path) -> None:
    model = load_model(str(make_base("sdxl", tmp_path / "base")))
    names = [n for n in FewShot().parameters(model) if "self_attn" in n]
    assert {(n.partition(".")[0], model.text_layer(n)) for n in names} == {
        ("text_encoder", 2),
        ("text_encoder_2", 3),
    }

"""Stable Diffusion 2.x and XL beside diffusers' own pipelines: the same networks give the same images."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from attacks.shared.prompt_search import Noised, predict, token_gradient
from attacks.shared.tokens import place, table
from bench.interfaces import Role, Target
from bench.judges.mini import MiniJudge
from bench.model.conditioning import Conditioning
from bench.model.families.sdxl import StableDiffusionXL
from bench.model.families.stable_diffusion import StableDiffusion
from bench.model.guidance import NegativePrompt
from bench.model.hooked_pipeline import load_hooks
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage, load_model
from bench.toolkit.inversion import states_with
from tests.adapter import adapted
from tests.tiny_bases import BASES, make_base

PROMPTS = ["a red star in a meadow", "a fish", ""]
SEEDS = [1, 2, 3]
PIPELINES = {"sd2": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
SAMPLER = Sampler(solver="ddim", steps=3, guidance_scale=4.0)
each = pytest.mark.parametrize("kind", BASES)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {kind: make_base(kind, root / kind) for kind in BASES}


@pytest.fixture(scope="session")
def loaded(folders: dict[str, Path]) -> dict[str, TextToImage]:
    return {kind: load_model(str(folder)) for kind, folder in folders.items()}


def pipeline(kind: str, folder: Path) -> Any:
    pipe = PIPELINES[kind].from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def by(pipe: Any, model: TextToImage, sampler: Sampler, negative: str | None = None) -> Tensor:
    """The images of diffusers' own pipeline."""
    pipe.scheduler = sampler.scheduler(model.schedule.config, "cpu")
    side = model.latent_shape[1] * model.backbone.latent_scale
    images: Tensor = pipe(
        PROMPTS,
        negative_prompt=None if negative is None else [negative] * len(PROMPTS),
        latents=model.noise(SEEDS, sampler).to(model.dtype),
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance_scale,
        height=sampler.size or side,
        width=sampler.size or side,
        output_type="pt",
    ).images
    return images


def close(one: Tensor, other: Tensor, atol: float = 2e-4) -> None:
    torch.testing.assert_close(one, other, atol=atol, rtol=0)


# -- images and text


@each
@pytest.mark.parametrize("solver", ["ddim", "dpmpp", "euler"])
def test_images_are_those_of_diffusers_own_pipeline(
    kind: str, solver: Any, folders: dict[str, Path], loaded: dict[str, TextToImage]
) -> None:
    sampler = Sampler(solver=solver, steps=3, guidance_scale=4.0)
    model = loaded[kind]
    expected = by(pipeline(kind, folders[kind]), model, sampler)
    images = model.sample(PROMPTS, SEEDS, sampler).images_B3HW
    close(images, expected)
    assert images.std() > 0.05
    assert (images[0] - images[1]).abs().max() > 0.05


@each
def test_so_they_are_with_a_negative_prompt_and_at_another_size(
    kind: str, folders: dict[str, Path], loaded: dict[str, TextToImage]
) -> None:
    model, pipe = loaded[kind], pipeline(kind, folders[kind])
    negative = model.with_guidance(NegativePrompt(text="a fish"))
    close(negative.sample(PROMPTS, SEEDS, SAMPLER).images_B3HW, by(pipe, model, SAMPLER, "a fish"))
    small = Sampler(solver="ddim", steps=2, guidance_scale=4.0, size=24)
    close(model.sample(PROMPTS, SEEDS, small).images_B3HW, by(pipe, model, small))


@each
def test_text_is_encoded_as_diffusers_does(
    kind: str, folders: dict[str, Path], loaded: dict[str, TextToImage]
) -> None:
    model, pipe = loaded[kind], pipeline(kind, folders[kind])
    with torch.no_grad():
        theirs = pipe.encode_prompt(PROMPTS, device="cpu", num_images_per_prompt=1,
                                    do_classifier_free_guidance=True)  # fmt: skip
        ours, none = model.encode(PROMPTS), model.encode_branches(["", "", ""])
    assert torch.equal(ours.states_BLD, theirs[0])
    assert torch.equal(none.states_BLD, theirs[1])
    if kind == "sdxl":
        assert ours.pooled_BD is not None
        assert none.pooled_BD is not None
        assert torch.equal(ours.pooled_BD, theirs[2])
        assert torch.equal(none.pooled_BD, theirs[3])
    tokenizers = [getattr(pipe, part) for part in type(model.backbone).tokenizers]
    for ids, tokenizer in zip(ours.ids, tokenizers, strict=True):
        padded = tokenizer(PROMPTS, padding="max_length", max_length=32, return_tensors="pt")
        assert torch.equal(ids, padded["input_ids"])


@each
def test_what_the_scheduler_says_is_predicted_is_taken(
    kind: str, loaded: dict[str, TextToImage]
) -> None:
    assert loaded[kind].schedule.prediction == {"sd2": "v_prediction", "sdxl": "epsilon"}[kind]
    assert type(loaded[kind].backbone) is {"sd2": StableDiffusion, "sdxl": StableDiffusionXL}[kind]


# -- edits


def changed(model: TextToImage) -> TextToImage:
    """An edit of a matrix in each network."""
    names = [
        next(n for n in reversed(list(model.base_values)) if n.startswith(f"{part}.") and end in n)
        for part, end in zip(
            model.backbone.edited, ("to_v.weight", "fc1.weight", "fc2.weight"), strict=False
        )
    ]
    return model.with_weights({name: model.parameter(name) * -2 for name in names})


@each
def test_an_edit_of_every_network_is_exported_and_loaded_again(
    kind: str, loaded: dict[str, TextToImage], tmp_path: Path
) -> None:
    model = loaded[kind]
    edited = changed(model)
    assert {name.partition(".")[0] for name in edited.weights} == set(model.backbone.edited)
    expected = edited.sample(PROMPTS, SEEDS, SAMPLER).images_B3HW
    assert (expected - model.sample(PROMPTS, SEEDS, SAMPLER).images_B3HW).abs().max() > 0.01
    edited.to_diffusers().save_pretrained(tmp_path / "pipe")
    close(by(pipeline(kind, tmp_path / "pipe"), model, SAMPLER), expected)
    back = load_model(str(tmp_path / "pipe"))
    close(back.sample(PROMPTS, SEEDS, SAMPLER).images_B3HW, expected, 1e-5)
    assert back.base_digest != model.base_digest
    edited.save_edit(tmp_path)
    assert model.load_edit(tmp_path).digest == edited.digest
    assert torch.equal(
        model.load_edit(tmp_path).sample(PROMPTS, SEEDS, SAMPLER).images_B3HW, expected
    )


@each
def test_hooks_are_exported_with_their_token_ids(
    kind: str, loaded: dict[str, TextToImage], tmp_path: Path
) -> None:
    model = loaded[kind]
    one = adapted(model)
    one.save_edit(tmp_path)
    expected = one.sample(PROMPTS, SEEDS, SAMPLER).images_B3HW
    assert (expected - model.sample(PROMPTS, SEEDS, SAMPLER).images_B3HW).abs().max() > 0.01
    close(by(load_hooks(model.to_diffusers(), tmp_path), model, SAMPLER), expected)


@each
def test_roles_are_found_in_every_network(kind: str, loaded: dict[str, TextToImage]) -> None:
    model = loaded[kind]
    roles = {name: model.roles_of(name) for name in model.base_values}
    assert all(roles.values())
    assert frozenset().union(*roles.values()) == type(model.backbone).roles
    width = model.encode(["a"]).states_BLD.shape[-1]
    looking = model.having(Role.TEXT_KEYS_AND_VALUES)
    assert {model.parameter(name).shape[1] for name in looking} == {width}
    texts = type(model.backbone).encoders
    for role in (Role.TEXT_ENCODER, Role.TEXT_SELF_ATTENTION, Role.TEXT_FEED_FORWARD):
        assert {name.partition(".")[0] for name in model.having(role)} == set(texts)
    assert model.layers(Role.TEXT_ENCODER) == list(texts)


# -- token attacks


@each
def test_a_token_that_moves_is_moved_in_every_table(
    kind: str, loaded: dict[str, TextToImage]
) -> None:
    model = loaded[kind]
    ids = model.tokenize(PROMPTS)
    embeds = model.embed(ids).requires_grad_()
    told = model.encode_ids(ids, embeds)
    plain = model.encode(PROMPTS)
    for ours, theirs in zip(told.said, plain.said, strict=True):
        close(ours, theirs, 1e-6)
    length = torch.stack([said.square().sum() for said in told.said]).sum()
    (pull,) = torch.autograd.grad(length, embeds)
    encoders = [getattr(model.backbone, part) for part in type(model.backbone).encoders]
    widths = [encoder.config.hidden_size for encoder in encoders]
    assert embeds.shape[-1] == sum(widths)
    assert all(part.abs().sum() > 0 for part in pull.split(widths, -1))
    table = model.embed(torch.arange(model.vocabulary)[None])[0]
    assert torch.equal(table[ids[0, 1]], embeds[0, 1])


@each
def test_gradients_reach_the_text_through_the_guided_prediction(
    kind: str, loaded: dict[str, TextToImage]
) -> None:
    model = loaded[kind]
    told = model.encode(PROMPTS).detach()
    for said in told.said:
        said.requires_grad_()
    x = model.noise(SEEDS, SAMPLER)
    out, _ = model.guide(x, 500, model.guidance.contexts(model, told), 3.0)
    pulls = torch.autograd.grad(out.square().sum(), told.said)
    assert all(pull.abs().sum() > 0 for pull in pulls)


@each
def test_the_gradient_of_a_prompts_tokens_is_the_finite_difference(
    kind: str, loaded: dict[str, TextToImage]
) -> None:
    """Of the attacks' own loss, through both tables and the guided prediction."""
    backbone = loaded[kind].backbone
    parts = {part: deepcopy(backbone.network(part)).double() for part in type(backbone).stems}
    model = TextToImage(replace(backbone, **parts))  # type: ignore[arg-type]
    target = Target(model, SAMPLER, MiniJudge())
    sites = place(model, PROMPTS[:2], 2, "prefix")
    vectors = table(model)[torch.tensor([[300, 301], [302, 303]])].double()
    x = model.noise(SEEDS[:2], SAMPLER).double()
    noised = Noised(x, x.flip(0), 600)
    _, pull = token_gradient(target, sites, vectors, noised, 3.0)
    encoders = [getattr(backbone, part) for part in type(backbone).encoders]
    parts_of_it = pull.split([encoder.config.hidden_size for encoder in encoders], -1)
    assert all(part.abs().sum() > 0 for part in parts_of_it)

    def losses(at: Tensor) -> Tensor:
        told = states_with(model, sites.ids_BL, sites.places_BK, at)
        rows = slice(0, 2)
        out = predict(model, noised.noisy(model, rows), noised.t, told, 3.0, 0)
        return (out - noised.wanted(model, rows)).square().mean((1, 2, 3))

    way = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1)).double()
    small = 1e-5
    with torch.no_grad():
        differs = (losses(vectors + small * way) - losses(vectors - small * way)) / (2 * small)
    assert differs.abs().min() > 1e-6
    torch.testing.assert_close((pull.double() * way).sum((1, 2)), differs, rtol=1e-3, atol=0)


# -- what XL is told beside text states


def test_sizes_are_those_of_the_latents_unless_the_conditioning_says_others(
    loaded: dict[str, TextToImage],
) -> None:
    model = loaded["sdxl"]
    x, told = model.noise(SEEDS, SAMPLER), model.encode(PROMPTS)
    own = torch.tensor([[32.0, 32, 0, 0, 32, 32]]).expand(3, 6)
    said = replace(told, added={"time_ids": own})
    expected = model.denoise(x, 500, told)
    assert torch.equal(model.denoise(x, 500, said), expected)
    other = replace(told, added={"time_ids": own + 500})
    assert (model.denoise(x, 500, other) - expected).abs().max() > 1e-3
    # The empty prompt's branch is told the same sizes.
    empty, full = model.guidance.contexts(model, other)
    assert torch.equal(empty.added["time_ids"], full.added["time_ids"])


def test_states_without_a_pooled_vector_are_refused(loaded: dict[str, TextToImage]) -> None:
    model = loaded["sdxl"]
    told = Conditioning(model.encode(PROMPTS).states_BLD)
    with pytest.raises(ValueError, match="expected a conditioning with pooled vectors"):
        model.denoise(model.noise(SEEDS, SAMPLER), 500, told)


def test_in_half_precision_the_vae_is_kept_in_float32(folders: dict[str, Path]) -> None:
    half = load_model(str(folders["sdxl"]), dtype="float16")
    assert half.backbone.vae.dtype == torch.float32
    assert half.dtype == torch.float16
    out = half.sample(PROMPTS[:1], SEEDS[:1], Sampler(steps=1))
    assert out.status == ("ok",)
    assert half.to_latents(out.images_B3HW).dtype == torch.float16


def test_what_suits_a_cpu_is_undone_in_an_export(folders: dict[str, Path]) -> None:
    """As on one text encoder: see test_on_cpu."""
    half = load_model(str(folders["sdxl"]), dtype="bfloat16")
    assert isinstance(half.backbone, StableDiffusionXL)
    assert half.backbone.text_encoder_2.config._attn_implementation == "eager"
    exported = half.to_diffusers()
    assert exported.text_encoder_2.config._attn_implementation == "sdpa"
    assert exported.text_encoder_2.dtype == torch.bfloat16
    out = half.sample(PROMPTS[:1], SEEDS[:1], Sampler(steps=1))
    assert out.status == ("ok",)

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionPipeline
from torch import Tensor

from bench.core.clock import model_seconds
from bench.core.errors import UsageError
from bench.core.rng import generator_for
from bench.core.shipped import model_folder
from bench.interfaces import Concept, Rng
from bench.model.backbone import load_backbone
from bench.model.batching import MicroBatch
from bench.model.conditioning import Conditioning
from bench.model.encoder import TextEncoder
from bench.model.filters import ImageFilter, PromptFilter
from bench.model.guidance import (
    ClassifierFree,
    Guidance,
    NegativePrompt,
    combine_as_sampled,
    contexts_of,
)
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage, load_model
from methods.destroyed import Destroyed
from methods.uce import UCE

PROMPTS = ("a red star in a meadow", "a blue fish, as a sketch", "", "zorbo at sunset", "a ring")
SEEDS: tuple[int, ...] = (11, 12, 13, 14, 15)


class Ancestral(Sampler):
    """A stochastic solver: each step draws noise."""

    name: ClassVar[str] = "ancestral"

    def scheduler(self, config: Mapping[str, Any], device: Any) -> Any:
        made = EulerAncestralDiscreteScheduler.from_config(config, timestep_spacing="trailing")
        made.set_timesteps(self.steps, device=device)
        return made


class RefusesStars(PromptFilter):
    name: ClassVar[str] = "refuses_stars"
    word: str = "star"

    def refuses(self, model: TextEncoder, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([self.word in prompt for prompt in prompts])


class BlanksSome(ImageFilter):
    """Blanks every image whose mean is over the limit."""

    name: ClassVar[str] = "blanks_some"
    limit: float = 0.0

    def blanks(self, images_B3HW: Tensor) -> Tensor:
        return images_B3HW.mean((1, 2, 3)) > self.limit


class BlanksNone(BlanksSome):
    """A filter that derives from another."""

    name: ClassVar[str] = "blanks_none"
    limit: float = 2.0


def latents(model: TextToImage, rows: int) -> Tensor:
    return torch.randn(rows, *model.latent_shape, generator=generator_for("latents", rows))


def close(actual: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-5)


def count_calls(monkeypatch: pytest.MonkeyPatch, unet: Any) -> list[int]:
    """The rows of each call of the UNet from now on."""
    rows: list[int] = []
    forward = unet.forward

    def counted(sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", counted)
    return rows


def short_of_memory(
    monkeypatch: pytest.MonkeyPatch, unet: Any, at_most: int, *, spared: int = 0
) -> None:
    """Lets the UNet run out of memory above ``at_most`` rows, but for its first calls."""
    forward, calls = unet.forward, iter(range(spared))

    def hungry(sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(sample) > at_most and next(calls, None) is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", hungry)


def edit(model: TextToImage, concept: str = "star") -> TextToImage:
    return UCE()(model, [Concept(text=concept)], rng=Rng(("test",)))


# -- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [1, 2, 3, 64])
@pytest.mark.parametrize("sampler", [Sampler(steps=2, size=16), Ancestral(steps=2, size=16)])
def test_an_image_depends_on_its_prompt_and_seed_alone(
    exact: TextToImage, sampler: Sampler, micro: int
) -> None:
    expected = exact.sample(PROMPTS, SEEDS, sampler).images_B3HW
    small = replace(exact, micro=MicroBatch(micro))

    def images(rows: slice) -> Tensor:
        return small.sample(PROMPTS[rows], SEEDS[rows], sampler).images_B3HW

    close(images(slice(None)), expected)
    close(images(slice(None, None, -1)).flip(0), expected)
    close(images(slice(3, 4)), expected[3:4])


def test_seeds_make_different_images_and_each_row_its_own_noise(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    noise = model.noise(SEEDS, tiny_sampler)
    for row, seed in zip(noise, SEEDS, strict=True):
        assert torch.equal(row, model.noise([seed], tiny_sampler)[0])
    assert len(noise.flatten(1).unique(dim=0)) == len(SEEDS)
    one, other = model.sample(["a ring"] * 2, [1, 2], tiny_sampler).images_B3HW
    assert (one - other).abs().max() > 0.01


def test_given_latents_take_the_place_of_the_seed(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    expected = model.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW
    start = model.noise(SEEDS, tiny_sampler)
    again = model.sample(PROMPTS, [0] * 5, tiny_sampler, latents_BChw=start).images_B3HW
    assert torch.equal(again, expected)


def test_given_states_take_the_place_of_the_prompt(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    expected = model.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW
    states = model.encode(PROMPTS)
    again = model.sample([""] * 5, SEEDS, tiny_sampler, conditioning=states).images_B3HW
    close(again, expected)


def test_sampling_draws_nothing_from_the_global_rng(
    model: TextToImage, global_rng_untouched: None
) -> None:
    model.sample(PROMPTS[:2], SEEDS[:2], Ancestral(steps=2))
    load_backbone("miniature")


def test_rows_that_do_not_match_are_an_error(model: TextToImage, tiny_sampler: Sampler) -> None:
    with pytest.raises(ValueError, match="2 prompts but 1 seeds"):
        model.sample(["a", "b"], [1], tiny_sampler)
    with pytest.raises(ValueError, match="2 prompts but 1 latents"):
        model.sample(["a", "b"], [1, 2], tiny_sampler, latents_BChw=latents(model, 1))
    with pytest.raises(ValueError, match="2 prompts but 3 states"):
        model.sample(["a", "b"], [1, 2], tiny_sampler, conditioning=model.encode(["", "", ""]))


def test_no_prompts_give_no_images(model: TextToImage, tiny_sampler: Sampler) -> None:
    out = model.sample([], [], tiny_sampler)
    assert out.images_B3HW.shape == (0, 3, 64, 64)
    assert out.status == ()


@pytest.mark.parametrize("solver", ["dpmpp", "ddim", "euler"])
def test_every_solver_runs_and_more_steps_change_the_image(
    model: TextToImage, solver: Literal["dpmpp", "ddim", "euler"]
) -> None:
    out = [
        model.sample(PROMPTS[:1], SEEDS[:1], Sampler(solver=solver, steps=n)).images_B3HW
        for n in (1, 3)
    ]
    assert all(torch.isfinite(images).all() for images in out)
    assert (out[0] - out[1]).abs().max() > 0.01


def test_a_smaller_size(model: TextToImage) -> None:
    out = model.sample(PROMPTS[:1], SEEDS[:1], Sampler(steps=2, size=32)).images_B3HW
    assert out.shape == (1, 3, 32, 32)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs(dtype: Literal["bfloat16", "float16"], tiny_sampler: Sampler) -> None:
    half = load_model("miniature", dtype=dtype)
    out = edit(half).sample(PROMPTS[:2], SEEDS[:2], tiny_sampler.model_copy(update={"size": 32}))
    assert out.images_B3HW.dtype == torch.float32
    assert torch.isfinite(out.images_B3HW).all()
    assert out.status == ("ok", "ok")


def test_the_time_inside_the_model_is_counted_once(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    before = model_seconds()
    model.denoise(latents(model, 1), 500, model.encode([""]))
    assert model_seconds() > before


# -- memory --------------------------------------------------------------------------------------


@torch.no_grad()
def test_micro_batches_halve_and_redo_the_same_rows() -> None:
    done: list[tuple[int, int]] = []

    def work(rows: slice) -> Tensor:
        if rows.stop - rows.start > 2:
            raise torch.OutOfMemoryError("too many")
        done.append((rows.start, rows.stop))
        return torch.arange(rows.start, rows.stop)

    micro = MicroBatch(8)
    assert micro.map(9, work).tolist() == list(range(9))
    assert (micro.size, micro.halvings) == (2, 2)
    assert done == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]


@torch.no_grad()
def test_a_micro_batch_of_one_row_raises() -> None:
    def work(rows: slice) -> Tensor:
        raise torch.OutOfMemoryError("too many")

    micro = MicroBatch(4)
    with pytest.raises(torch.OutOfMemoryError):
        micro.map(3, work)
    assert micro.size == 1


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def work(rows: slice) -> Tensor:
        raise RuntimeError("out of memory, but not of this kind")

    micro = MicroBatch(4)
    with pytest.raises(RuntimeError, match="not of this kind"):
        micro.map(3, work)
    assert (micro.size, micro.halvings) == (4, 0)


def test_a_cpu_that_has_no_memory_left_is_recognised() -> None:
    done: list[int] = []

    def work(rows: slice) -> Tensor:
        if not done:
            done.append(rows.stop)
            torch.empty(2**60, dtype=torch.uint8)  # more than any machine has
        return torch.arange(rows.start, rows.stop)

    micro = MicroBatch(4)
    assert micro.map(3, work).tolist() == [0, 1, 2]
    assert (micro.gradient_size, micro.halvings) == (1, 1)


def test_gradients_that_do_not_fit_leave_sampling_as_it_was() -> None:
    sizes: dict[bool, list[int]] = {False: [], True: []}

    def work(rows: slice) -> Tensor:
        if torch.is_grad_enabled() and rows.stop - rows.start > 2:
            raise torch.OutOfMemoryError("too many")
        sizes[torch.is_grad_enabled()].append(rows.stop - rows.start)
        return torch.arange(rows.start, rows.stop)

    micro = MicroBatch(8)
    assert micro.used == 8
    for graph in (True, False, True):
        with torch.set_grad_enabled(graph):
            assert micro.map(8, work).tolist() == list(range(8))
    assert sizes == {False: [8], True: [2] * 8}
    assert (micro.size, micro.gradient_size, micro.halvings, micro.used) == (8, 2, 2, 2)
    micro.begin()
    with torch.no_grad():
        micro.map(8, work)
    assert micro.used == 8  # of a cell that only samples


def test_a_decoder_that_lacks_memory_has_no_step_taken_again(
    exact: TextToImage,
    tiny_sampler: Sampler,
    little_memory: Callable[[torch.nn.Module, int], AbstractContextManager[list[int]]],
) -> None:
    prompts, seeds = ["a star", "a fish", "a house"], [1, 2, 3]
    wanted = exact.sample(prompts, seeds, tiny_sampler).images_B3HW
    short = replace(exact, micro=MicroBatch(3))
    steps: list[int] = []
    counted = exact.backbone.unet.register_forward_pre_hook(lambda *_: steps.append(1))
    with counted, little_memory(exact.backbone.vae.decoder, 1) as refused:
        found = short.sample(prompts, seeds, tiny_sampler).images_B3HW
    assert refused == [3]
    assert len(steps) == tiny_sampler.steps
    assert (short.micro.size, short.micro.decoding.size, short.micro.halvings) == (3, 1, 0)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("spared", [0, 1], ids=["at the first step", "at the second step"])
def test_images_are_the_same_when_memory_runs_out(
    exact: TextToImage, monkeypatch: pytest.MonkeyPatch, spared: int
) -> None:
    sampler = Ancestral(steps=3, size=16)  # a failed attempt has drawn from the rows' generators
    prompts, seeds = (*PROMPTS, *PROMPTS[:3]), range(8)
    expected = exact.sample(prompts, seeds, sampler).images_B3HW
    small = replace(exact, micro=MicroBatch(8))
    short_of_memory(monkeypatch, exact.backbone.unet, at_most=4, spared=spared)  # 2 images
    out = edit(small).sample(prompts, seeds, sampler)
    monkeypatch.undo()
    close(out.images_B3HW, edit(exact).sample(prompts, seeds, sampler).images_B3HW)
    assert not torch.equal(out.images_B3HW, expected)
    assert (small.micro.size, small.micro.halvings) == (2, 2)


def test_one_image_that_does_not_fit_raises(
    model: TextToImage, monkeypatch: pytest.MonkeyPatch, tiny_sampler: Sampler
) -> None:
    short_of_memory(monkeypatch, model.backbone.unet, at_most=1)
    with pytest.raises(torch.OutOfMemoryError):
        model.sample(PROMPTS, SEEDS, tiny_sampler)
    assert model.micro.size == 1


# -- text ----------------------------------------------------------------------------------------


def test_embeddings_equal_to_the_tables_give_the_same_states(model: TextToImage) -> None:
    ids = model.tokenize(PROMPTS)
    assert ids.shape == (5, model.backbone.length)
    states = model.encode(PROMPTS).states_BLD
    assert torch.equal(model.encode_ids(ids).states_BLD, states)
    assert torch.equal(model.encode_ids(ids, model.embed(ids)).states_BLD, states)


def test_gradients_flow_to_the_embeddings_and_to_nothing_else(model: TextToImage) -> None:
    ids = model.tokenize(PROMPTS[:2])
    embeds = model.embed(ids).requires_grad_()
    model.encode_ids(ids, embeds).states_BLD[:, 4].square().sum().backward()
    assert embeds.grad is not None
    moved = embeds.grad.abs().amax(-1) > 0
    assert moved[:, 1:5].all()
    assert not moved[:, 5:].any()  # the encoder is causal
    assert all(p.grad is None for p in model.backbone.parameters.values())


def test_given_embeddings_do_not_outlive_the_call(model: TextToImage) -> None:
    ids = model.tokenize(PROMPTS)
    states = model.encode(PROMPTS).states_BLD
    model.encode_ids(ids, torch.zeros_like(model.embed(ids)))
    with pytest.raises(RuntimeError):
        model.encode_ids(ids, torch.zeros(5, 3, 7))
    assert torch.equal(model.encode(PROMPTS).states_BLD, states)


def test_an_edited_text_encoder_embeds_with_its_own_table(model: TextToImage) -> None:
    name = "text_encoder.embeddings.token_embedding.weight"
    edited = model.with_weights({name: model.parameter(name) * 1.5})
    ids = model.tokenize(PROMPTS)
    assert torch.equal(edited.embed(ids), model.embed(ids) * 1.5)
    states = edited.encode(PROMPTS).states_BLD
    close(edited.encode_ids(ids, edited.embed(ids)).states_BLD, states, 1e-6)
    assert (states - model.encode(PROMPTS).states_BLD).abs().max() > 0.01


# -- guidance ------------------------------------------------------------------------------------


def by_hand(model: TextToImage, negative: str, prompt: str, scale: float) -> Tensor:
    x = latents(model, 1)
    without = model.denoise(x, 500, model.encode([negative]))
    return without + scale * (model.denoise(x, 500, model.encode([prompt])) - without)


@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("negative", ["", "star"])
def test_guidance_takes_one_call_and_equals_two_by_hand(
    model: TextToImage, monkeypatch: pytest.MonkeyPatch, negative: str, scale: float
) -> None:
    with torch.no_grad():
        expected = by_hand(model, negative, PROMPTS[0], scale)
        guided = model.with_guidance(NegativePrompt(text=negative)) if negative else model
        contexts = guided.guidance.contexts(guided, model.encode(PROMPTS[:1]))
        calls = count_calls(monkeypatch, model.backbone.unet)
        eps, memory = guided.guide(latents(model, 1), 500, contexts, scale)
    assert calls == [2]
    assert memory is None
    close(
        eps, expected
    )  # two rows at once and one by one round differently; the scale amplifies it


def test_rows_of_different_timesteps_are_guided_on_their_own(model: TextToImage) -> None:
    x, t = latents(model, 2), torch.tensor([900, 100])
    contexts = model.guidance.contexts(model, model.encode(PROMPTS[:2]))
    with torch.no_grad():
        both, _ = model.guide(x, t, contexts, 5.0)
        for i in range(2):
            one, _ = model.guide(x[i : i + 1], t[i], [c[i : i + 1] for c in contexts], 5.0)
            close(both[i], one[0], 1e-5)


def test_a_scale_of_one_is_no_guidance(model: TextToImage, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Sampler(steps=2, guidance_scale=1.0)
    with torch.no_grad():
        contexts = model.guidance.contexts(model, model.encode(PROMPTS[:1]))
        eps, _ = model.guide(latents(model, 1), 500, contexts, 1.0)
        close(eps, model.denoise(latents(model, 1), 500, contexts[-1]), 1e-5)
    negative = model.with_guidance(NegativePrompt(text="star"))
    calls = count_calls(monkeypatch, model.backbone.unet)
    unguided = model.sample(PROMPTS, SEEDS, plain).images_B3HW
    assert calls == [5, 5]  # one branch
    close(negative.sample(PROMPTS, SEEDS, plain).images_B3HW, unguided)


@pytest.mark.parametrize("guidance", [ClassifierFree(), NegativePrompt(text="star")])
def test_branches_are_combined_as_published(guidance: ClassifierFree | NegativePrompt) -> None:
    eps = torch.tensor([[1.0, 10.0], [2.0, 8.0]])[:, :, None, None, None]
    out, memory = guidance.combine(eps, 3.0, 0, None)
    assert out.flatten().tolist() == [4.0, 4.0]  # 1 + 3 (2 - 1), 10 + 3 (8 - 10)
    assert memory is None


@pytest.mark.parametrize("guidance", [ClassifierFree(), NegativePrompt(text="star")])
def test_a_guidance_without_memory_is_the_same_at_any_step(
    guidance: ClassifierFree | NegativePrompt,
) -> None:
    eps = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    sampled = combine_as_sampled(guidance, eps, 3.0, [0, 4, 2])
    assert torch.equal(sampled, guidance.combine(eps, 3.0, 0, None)[0])


class ByWords(Guidance):
    """Without guidance but for a prompt's first steps: as many as it has tokens; none where those are not known."""

    name: ClassVar[str] = "test_by_words"
    affine: ClassVar[bool] = True

    def contexts(self, model: TextEncoder, conditioning: Conditioning) -> tuple[Conditioning, ...]:
        return contexts_of(model, ("",), conditioning)

    def start(self, model: TextEncoder, conditioning: Conditioning) -> Tensor:
        if not conditioning.ids:
            return torch.zeros(len(conditioning))
        return (conditioning.ids[0] != model.end_of_text).sum(1) - 1

    def combine(
        self, eps_KBChw: Tensor, scale: float, step: int, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        assert memory is not None
        guided = torch.lerp(eps_KBChw[0], eps_KBChw[1], scale)
        return torch.where((step < memory)[:, None, None, None], guided, eps_KBChw[1]), memory


def test_what_a_guidance_finds_out_of_a_prompt_is_kept_from_the_first_step_on(
    exact: TextToImage,
) -> None:
    by_words = exact.with_guidance(ByWords())
    sampler = Sampler(steps=3)
    prompts, seeds = ["", "star", "a red star in a meadow"], [1, 2, 3]
    images = by_words.sample(prompts, seeds, sampler).images_B3HW
    plain = exact.sample(prompts, seeds, Sampler(steps=3, guidance_scale=1.0)).images_B3HW
    guided = exact.sample(prompts, seeds, sampler).images_B3HW
    close(images[0], plain[0], 1e-6)
    close(images[2], guided[2], 1e-6)
    assert min(float((images[1] - other[1]).abs().max()) for other in (plain, guided)) > 1e-3
    apart = replace(by_words, micro=MicroBatch(1)).sample(prompts, seeds, sampler).images_B3HW
    close(apart, images, 1e-6)
    injected = Conditioning(exact.encode(prompts).states_BLD)
    close(by_words.sample(prompts, seeds, sampler, conditioning=injected).images_B3HW, plain, 1e-6)
    contexts = by_words.guidance.contexts(by_words, exact.encode(prompts))
    x = latents(exact, 3).double()
    with torch.no_grad():
        sampled = by_words.guide_as_sampled(x, 500, contexts, 3.0, [0, 2, 2])
        expected = [exact.guide(x, 500, contexts, scale)[0] for scale in (1.0, 3.0)]
    for row, of in enumerate((0, 0, 1)):
        close(sampled[row], expected[of][row], 1e-6)


def test_gradients_flow_through_the_guidance_to_the_states(model: TextToImage) -> None:
    guided = edit(model).with_guidance(NegativePrompt(text="star"))
    told = model.encode(PROMPTS[:2])
    states = told.states_BLD.requires_grad_()
    eps, _ = guided.guide(latents(model, 2), 500, guided.guidance.contexts(guided, told), 5.0)
    eps[0].square().sum().backward()
    assert states.grad is not None
    assert states.grad[0].abs().max() > 0
    assert states.grad[1].abs().max() == 0  # the rows do not meet


def test_a_negative_prompt_changes_the_image(model: TextToImage, tiny_sampler: Sampler) -> None:
    negative = model.with_guidance(NegativePrompt(text="star"))
    one = negative.sample(PROMPTS[:1], SEEDS[:1], tiny_sampler).images_B3HW
    assert (one - model.sample(PROMPTS[:1], SEEDS[:1], tiny_sampler).images_B3HW).abs().max() > 0.01


# -- edits as values -----------------------------------------------------------------------------


def test_edits_and_base_can_be_mixed_in_one_backward_pass(model: TextToImage) -> None:
    models = [
        model,
        edit(model),
        edit(model, "fish"),
        Destroyed()(model, [Concept(text="fish")], rng=Rng((1,))),
    ]
    told, x = model.encode(PROMPTS[:2]), latents(model, 2)

    def loss(of: TextToImage, at: Tensor) -> Tensor:
        return of.denoise(x, 500, told.with_states(at)).square().sum()

    apart = []
    for one in models:
        at = told.states_BLD.clone().requires_grad_()
        loss(one, at).backward()
        assert at.grad is not None
        apart.append(at.grad)
    at = told.states_BLD.clone().requires_grad_()
    torch.stack([loss(one, at) for one in models]).sum().backward()
    assert at.grad is not None
    torch.testing.assert_close(at.grad, torch.stack(apart).sum(0), atol=1e-5, rtol=1e-4)
    assert all(not torch.allclose(a, b) for a, b in pairwise(apart))


def test_an_edit_changes_no_other_model(
    model: TextToImage, fingerprint: Callable[[TextToImage], str], tiny_sampler: Sampler
) -> None:
    before, expected = fingerprint(model), model.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW
    edited = edit(model)
    images = edited.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW
    assert torch.equal(model.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW, expected)
    assert torch.equal(edited.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW, images)
    assert (images - expected).abs().max() > 0.01
    assert fingerprint(model) == before


def test_an_edit_does_not_follow_the_tensor_it_was_made_from(model: TextToImage) -> None:
    name = "unet.conv_out.weight"
    value = model.parameter(name) * 2
    edited = model.with_weights({name: value})
    digest = edited.digest
    value.zero_()
    assert edited.digest == digest
    assert torch.equal(edited.parameter(name), model.parameter(name) * 2)


def test_later_weights_win_and_earlier_ones_stay(model: TextToImage) -> None:
    one, two = "unet.conv_out.weight", "unet.conv_in.weight"
    first = model.with_weights({n: model.parameter(n) * 2 for n in (one, two)})
    second = first.with_weights({one: model.parameter(one) * 3})
    assert torch.equal(second.parameter(one), model.parameter(one) * 3)
    assert torch.equal(second.parameter(two), model.parameter(two) * 2)
    assert torch.equal(first.parameter(one), model.parameter(one) * 2)
    assert len({model.digest, first.digest, second.digest}) == 3


def test_weights_that_do_not_fit_are_refused(model: TextToImage) -> None:
    name = "unet.conv_out.weight"
    value = model.parameter(name).clone()
    with pytest.raises(ValueError, match=r"no parameter 'conv_out\.weight'"):
        model.with_weights({"conv_out.weight": value})
    with pytest.raises(ValueError, match="no parameter 'vae"):
        model.with_weights({"vae.decoder.conv_out.weight": value})
    with pytest.raises(ValueError, match=r"expected shape \(4, 32, 3, 3\), got \(4, 32, 9\)"):
        model.with_weights({name: value.flatten(2)})
    for bad in (float("nan"), float("inf"), 1e300):  # the last is too large for float32
        with pytest.raises(ValueError, match="not finite"):
            model.with_weights({name: torch.full_like(value, bad, dtype=torch.float64)})


# -- filters -------------------------------------------------------------------------------------


def test_a_refused_prompt_is_black_and_the_others_are_as_before(
    model: TextToImage, monkeypatch: pytest.MonkeyPatch, tiny_sampler: Sampler
) -> None:
    expected = model.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW
    filtered = model.with_filters(RefusesStars())
    calls = count_calls(monkeypatch, model.backbone.unet)
    out = filtered.sample(PROMPTS, SEEDS, tiny_sampler)
    assert calls == [8, 8]  # four prompts, two branches
    assert out.status == ("refused", "ok", "ok", "ok", "ok")
    assert not out.images_B3HW[0].any()
    close(out.images_B3HW[1:], expected[1:])


def test_injected_states_go_around_a_prompt_filter(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    filtered = model.with_filters(RefusesStars())
    out = filtered.sample(PROMPTS, SEEDS, tiny_sampler, conditioning=model.encode(PROMPTS))
    assert set(out.status) == {"ok"}
    close(out.images_B3HW, model.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW)


def test_injected_states_do_not_go_around_an_image_filter(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    means = model.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW.mean((1, 2, 3))
    limit = float(means.sort().values[2:4].mean())  # two are over it
    filtered = model.with_filters(BlanksSome(limit=limit), RefusesStars())
    out = filtered.sample(PROMPTS, SEEDS, tiny_sampler, conditioning=model.encode(PROMPTS))
    assert [s == "blanked" for s in out.status] == (means > limit).tolist()
    black = [not image.any() for image in out.images_B3HW]
    assert black == (means > limit).tolist()


def test_a_refused_prompt_is_not_also_blanked(model: TextToImage, tiny_sampler: Sampler) -> None:
    filtered = model.with_filters(RefusesStars(), BlanksSome(limit=-1.0))
    out = filtered.sample(PROMPTS[:2], SEEDS[:2], tiny_sampler)
    assert out.status == ("refused", "blanked")
    assert not out.images_B3HW.any()


def test_all_slots_come_back_from_a_folder(model: TextToImage, tmp_path: Path) -> None:
    edited = edit(model).with_guidance(NegativePrompt(text="star"))
    edited = edited.with_filters(RefusesStars(word="fish"), BlanksSome(limit=0.5), BlanksNone())
    assert edited.slots == {"weights", "guidance", "filters"}
    edited.save_edit(tmp_path)
    back = model.load_edit(tmp_path)
    assert back.filters == edited.filters
    assert back.guidance == edited.guidance
    assert back.digest == edited.digest


@pytest.mark.parametrize("slot", ["guidance", "filters"])
def test_an_edit_of_an_unknown_class_is_refused(
    model: TextToImage, tmp_path: Path, slot: str
) -> None:
    model.with_filters(RefusesStars()).save_edit(tmp_path)
    about = json.loads((tmp_path / "edit.json").read_text())
    unknown = {"kind": slot, "name": "os:system", "revision": 1, "fields": {}}
    about[slot] = unknown if slot == "guidance" else [unknown]
    (tmp_path / "edit.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"unknown .* 'os:system'"):
        model.load_edit(tmp_path)


# -- in and out ----------------------------------------------------------------------------------


def test_a_plain_pipeline_gives_the_edited_models_predictions(
    model: TextToImage, tmp_path: Path, tiny_sampler: Sampler
) -> None:
    table = "text_encoder.embeddings.token_embedding.weight"
    edited = edit(model).with_weights({table: model.parameter(table) * 1.1})
    edited.to_diffusers().save_pretrained(tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    told, x = edited.encode(PROMPTS[:2]), latents(model, 2)
    with torch.no_grad():
        theirs = pipe.text_encoder(model.tokenize(PROMPTS[:2]))[0]
        close(theirs, told.states_BLD, 1e-5)
        noise = pipe.unet(x, torch.tensor(500), encoder_hidden_states=told.states_BLD)[0]
        close(noise, edited.denoise(x, 500, told), 1e-5)
        assert (noise - model.denoise(x, 500, told)).abs().max() > 1e-3

    loaded = load_model(str(tmp_path))
    assert loaded.backbone.digest != model.backbone.digest
    expected = edited.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW
    close(loaded.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW, expected)


def test_an_exported_pipeline_is_a_copy(
    model: TextToImage, fingerprint: Callable[[TextToImage], str]
) -> None:
    before = fingerprint(model)
    pipe = edit(model).to_diffusers()
    with torch.no_grad():
        for part in (pipe.unet, pipe.text_encoder, pipe.vae):
            for weight in part.parameters():
                weight.zero_()
    assert fingerprint(model) == before


def test_what_weights_cannot_hold_is_not_exported(model: TextToImage) -> None:
    with pytest.raises(ValueError, match="also fills: guidance"):
        model.with_guidance(NegativePrompt(text="star")).to_diffusers()
    with pytest.raises(ValueError, match="also fills: filters"):
        edit(model).with_filters(RefusesStars()).to_diffusers()


def test_latents_and_images_go_back_and_forth(model: TextToImage) -> None:
    images = torch.full((2, 3, 64, 64), 0.5)
    images[1, :, :32] = 1.0
    there = model.to_latents(images)
    assert there.shape == (2, *model.latent_shape)
    back = model.decode(there)
    assert back.shape == images.shape
    assert 0 <= back.min() <= back.max() <= 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the miniature, free to be damaged."""
    return Path(shutil.copytree(model_folder(), tmp_path / "model"))


def unet_file(folder: Path) -> Path:
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


def refused(match: str) -> AbstractContextManager[object]:
    return pytest.raises(UsageError, match=match)


def test_a_sound_copy_loads_as_the_same_base(folder: Path, model: TextToImage) -> None:
    assert load_backbone(str(folder)).digest == model.backbone.digest


def test_a_damaged_byte_is_found(folder: Path) -> None:
    data = bytearray(unet_file(folder).read_bytes())
    data[-5] ^= 1
    unet_file(folder).write_bytes(data)
    with refused("diffusion_pytorch_model.safetensors is damaged"):
        load_backbone(str(folder))


@pytest.mark.parametrize("name", ["unet/missing.safetensors", "../outside", "/etc/hostname"])
def test_sums_of_files_that_are_not_there_are_refused(folder: Path, name: str) -> None:
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write(f"{'0' * 64}  {name}\n")
    (folder.parent / "outside").write_text("x")
    with refused("is not a file of that folder"):
        load_backbone(str(folder))


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    (folder / "SHA256SUMS").unlink()
    shutil.rmtree(folder / part)
    with refused(f"lacks {part}; expected a pipeline of Stable Diffusion 1.x or 2.x"):
        load_backbone(str(folder))


@pytest.mark.parametrize(
    ("part", "pickled"),
    [("unet", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")],
)
def test_pickled_weights_are_never_read(folder: Path, part: str, pickled: str) -> None:
    (folder / "SHA256SUMS").unlink()
    (weights,) = (folder / part).glob("*.safetensors")
    weights.rename(folder / part / pickled)
    with refused("only safetensors are read"):
        load_backbone(str(folder))


def test_a_cut_off_weight_file_is_refused(folder: Path) -> None:
    (folder / "SHA256SUMS").unlink()
    unet_file(folder).write_bytes(unet_file(folder).read_bytes()[:1000])
    with refused("is cut off in its header, after 1000 bytes; fetch it again"):
        load_backbone(str(folder))


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with refused("has no model_index.json; expected a diffusers pipeline folder"):
        load_backbone(str(tmp_path))


@pytest.mark.parametrize("source", ["CompVis/stable-diffusion-v1-4", "no/such/folder", "minature"])
def test_a_hub_id_needs_a_revision(source: str) -> None:
    with refused("no such folder; a hub id needs a revision"):
        load_backbone(source)

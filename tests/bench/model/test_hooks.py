"""Hooks: what they change, what they leave alone, and that gradients and files carry them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from bench.core.errors import UsageError
from bench.interfaces import Concept, Context, Erasure, Rng, Role, Slot
from bench.model.batching import MicroBatch
from bench.model.conditioning import Conditioning
from bench.model.guidance import NegativePrompt
from bench.model.hooked_pipeline import load_hooks
from bench.model.hooks import Hook, Pass
from bench.model.regions import regions_of
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import Optimiser, tune_hook
from tests.adapter import Adapter, Idle, adapted, adapter_tensors

PROMPTS = ["a red star in a meadow", "a fish", "", "a star"]
SEEDS = [1, 2, 3, 4]


def latents(model: TextToImage, rows: int) -> Tensor:
    draw = torch.Generator().manual_seed(7)
    return torch.randn(rows, *model.latent_shape, generator=draw).to(model.dtype)


class Doubles(Hook):
    """Multiplies one layer's output, and writes down what it was told."""

    name: ClassVar[str] = "test_doubles"
    at: str
    by: float = 2.0
    seen: ClassVar[list[Pass]] = []

    def layers(self, tensors: Mapping[str, Tensor]) -> Sequence[str]:
        return [self.at]

    def change(
        self,
        layer: str,
        given: Tensor,
        out: Tensor,
        tensors: Mapping[str, Tensor],
        gate: Tensor | None,
        told: Pass,
    ) -> Tensor:
        self.seen.append(told)
        return out * self.by


def everywhere(model: TextToImage) -> tuple[str, ...]:
    """Every layer that puts out a tensor, alone or first of several."""
    layers = [
        f"{part}.{path}"
        for part in model.backbone.edited
        for path, module in model.backbone.network(part).named_modules()
        if path and not isinstance(module, torch.nn.ModuleList)
    ]
    return tuple(layer for layer in layers if layer != "text_encoder.encoder")


# -- which layers


def test_layers_by_role_are_the_outermost_that_hold_nothing_else(model: TextToImage) -> None:
    unet = model.backbone.unet
    for role, end in (
        (Role.CROSS_ATTENTION, ".attn2"),
        (Role.SELF_ATTENTION, ".attn1"),
        (Role.FEED_FORWARD, ".ff"),
    ):
        paths = [f"unet.{p}" for p, _ in unet.named_modules() if p.endswith(end)]
        assert model.layers(role) == paths
    text = model.layers(Role.TEXT_KEYS_AND_VALUES)
    assert [f"{layer}.weight" for layer in text] == model.having(Role.TEXT_KEYS_AND_VALUES)
    assert model.layers(Role.DENOISER) == ["unet"]
    assert model.layers(Role.TEXT_ENCODER) == ["text_encoder"]
    for role in Role:
        assert all(hasattr(type(model.layer(layer)), "forward") for layer in model.layers(role))


# -- what they change


def test_hooks_that_do_nothing_at_every_layer_give_the_same_images_to_the_bit(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    expected = model.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW
    idle = model.with_hook(Idle(at=everywhere(model)), {})
    assert torch.equal(idle.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW, expected)
    silent = model.with_hook(Adapter(strength=0.0), adapter_tensors(model))
    assert torch.equal(silent.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW, expected)


def test_a_hook_changes_its_own_model_alone_and_leaves_nothing_behind(
    model: TextToImage, tiny_sampler: Sampler
) -> None:
    expected = model.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW
    one = adapted(model)
    images = one.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW
    assert (images - expected).abs().amax((1, 2, 3))[0] > 0.02
    assert torch.equal(model.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW, expected)
    assert not any(m._forward_hooks for m in model.backbone.unet.modules())
    assert torch.equal(one.unedited.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW, expected)


def test_it_is_taken_out_again_when_the_network_fails(model: TextToImage) -> None:
    one = adapted(model)
    with pytest.raises(RuntimeError):
        one.denoise(latents(model, 2)[:, :1], 500, model.encode(PROMPTS[:2]))
    assert not any(m._forward_hooks for m in model.backbone.unet.modules())


def test_hooks_work_one_after_the_other_and_over_replaced_weights(exact: TextToImage) -> None:
    last, bias, weight = "unet.conv_out", "unet.conv_out.bias", "unet.conv_out.weight"
    x, told = latents(exact, 2), exact.encode(PROMPTS[:2])
    halved = exact.with_weights({n: exact.parameter(n) / 2 for n in (bias, weight)})
    once = halved.with_hook(Doubles(at=last), {})
    torch.testing.assert_close(once.denoise(x, 500, told), exact.denoise(x, 500, told))
    both = once.with_hook(Doubles(at=last, by=3.0), {})
    torch.testing.assert_close(both.denoise(x, 500, told), 3 * exact.denoise(x, 500, told))


def test_a_text_encoders_layer_can_be_hooked(exact: TextToImage) -> None:
    layer = exact.layers(Role.TEXT_FEED_FORWARD)[-1]
    prefix = f"{layer}."
    last = [n for n in exact.having(Role.TEXT_FEED_FORWARD) if n.startswith(prefix)][-2:]
    by_weights = exact.with_weights({n: 2 * exact.parameter(n) for n in last})
    by_hook = exact.with_hook(Doubles(at=layer), {})
    torch.testing.assert_close(
        by_hook.encode(PROMPTS).states_BLD, by_weights.encode(PROMPTS).states_BLD
    )


def test_a_row_depends_on_no_other_and_micro_batches_change_nothing(
    exact: TextToImage, tiny_sampler: Sampler
) -> None:
    one = adapted(exact)
    together = one.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW
    split = replace(one, micro=MicroBatch(1)).sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW
    torch.testing.assert_close(split, together, atol=1e-6, rtol=0)


# -- what they are told


def test_a_gate_reads_the_prompts_of_both_branches_and_states_alone_where_those_are_injected(
    exact: TextToImage, tiny_sampler: Sampler
) -> None:
    seen = Doubles.seen
    seen.clear()
    one = exact.with_hook(Doubles(at="unet.conv_out", by=1.0), {})
    one.sample(PROMPTS[:2], SEEDS[:2], tiny_sampler)
    ids = torch.cat([exact.tokenize(["", ""]), exact.tokenize(PROMPTS[:2])])
    assert [told.branches for told in seen] == [2, 2]
    assert all(torch.equal(told.ids[0], ids) for told in seen)
    assert [len(told.conditioning) for told in seen if told.conditioning is not None] == [4, 4]
    seen.clear()
    states = Conditioning(exact.encode(PROMPTS[:2]).states_BLD)
    one.sample(PROMPTS[:2], SEEDS[:2], tiny_sampler, conditioning=states)
    assert [told.ids for told in seen] == [(), ()]
    seen.clear()
    embeds = exact.embed(exact.tokenize(PROMPTS[:1]))
    one.denoise(latents(exact, 1), 500, exact.encode_ids(exact.tokenize(PROMPTS[:1]), embeds))
    assert seen[0].ids == ()
    assert seen[0].t_R is not None
    assert seen[0].t_R.tolist() == [500]


def test_a_gate_tells_prompts_apart(exact: TextToImage) -> None:
    tensors = adapter_tensors(exact)
    told = exact.encode(["a red star in a meadow", "a fish"])
    gate = Adapter().gate(tensors, Pass("unet", told.ids, told))
    assert gate is not None
    assert gate[0] == 1  # all tokens of the concept are there
    assert gate[1] < 1
    without = Adapter().gate(tensors, Pass("unet", (), replace(told, ids=())))
    assert without is not None
    assert without[0] < 1


# -- gradients


@pytest.mark.parametrize("by", ["embeddings", "latents", "its own tensors"])
def test_the_gradient_through_a_hook_is_the_finite_difference(exact: TextToImage, by: str) -> None:
    one = adapted(exact).with_guidance(NegativePrompt(text="a fish"))
    (fitted,) = one.hooks
    ids = exact.tokenize(PROMPTS[:2])
    name = next(n for n in fitted.tensors if n.endswith("/up"))
    starts = {
        "embeddings": exact.embed(ids),
        "latents": latents(exact, 2),
        "its own tensors": fitted.tensors[name],
    }

    def loss(at: Tensor) -> Tensor:
        given = {**starts, by: at}
        own = replace(fitted, tensors={**fitted.tensors, name: given["its own tensors"]})
        live = replace(one, hooks=(own,))
        told = live.encode_ids(ids, given["embeddings"])
        contexts = live.guidance.contexts(live, told)
        return live.guide(given["latents"], 500, contexts, 3.0)[0].square().mean()

    start = starts[by].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start), start)
    assert gradient.abs().max() > 0
    draw = torch.Generator().manual_seed(3)
    way = torch.randn(start.shape, generator=draw, dtype=start.dtype)
    small = 1e-6
    with torch.no_grad():
        differs = (loss(start + small * way) - loss(start - small * way)) / (2 * small)
        bare = replace(one, hooks=())
        told = bare.encode_ids(ids, starts["embeddings"])
        contexts = bare.guidance.contexts(bare, told)
        plain = bare.guide(starts["latents"], 500, contexts, 3.0)[0].square().mean()
        assert (loss(start) - plain).abs() > 1e-4  # the hook does something here
    torch.testing.assert_close((gradient * way).sum(), differs, rtol=1e-6, atol=1e-9)


def test_a_checkpointed_network_is_not_checkpointed_where_it_is_hooked(exact: TextToImage) -> None:
    one, unet = adapted(exact), exact.backbone.unet
    told = exact.encode(PROMPTS[:2]).detach()

    def gradient() -> Tensor:
        x = latents(exact, 2).requires_grad_()
        (found,) = torch.autograd.grad(one.denoise(x, 500, told).square().sum(), x)
        return found

    expected = gradient()
    unet.enable_gradient_checkpointing()
    unet.train()
    try:
        torch.testing.assert_close(gradient(), expected)
        assert unet.is_gradient_checkpointing
    finally:
        unet.disable_gradient_checkpointing()
        unet.eval()


def test_a_hook_is_trained_as_a_method_trains_it(model: TextToImage) -> None:
    tensors = adapter_tensors(model, size=0.01)
    names = [n for n in tensors if n.endswith(("/down", "/up"))]
    empty, star = (model.encode([text] * 4).detach() for text in ("", "star"))
    losses = []

    def loss_of(live: TextToImage, step: int) -> Tensor:
        x, t = latents(model, 4), torch.tensor([200, 400, 600, 800])
        with torch.no_grad():
            wanted = live.unedited.denoise(x, t, empty)
        loss = (live.denoise(x, t, star) - wanted).square().mean()
        losses.append(loss.item())
        return loss

    found = tune_hook(model, Adapter(), tensors, names, loss_of, Optimiser(20, 3e-3))
    assert losses[-1] < losses[0] / 2
    assert {n for n, v in found.items() if not torch.equal(v, tensors[n])} == set(names)
    assert not any(value.requires_grad for value in found.values())
    assert model.with_hook(Adapter(), found).slots == {"hooks"}
    with pytest.raises(ValueError, match="hook test_adapter has no tensor 'gone'"):
        tune_hook(model, Adapter(), tensors, ["gone"], loss_of, Optimiser(1, 1e-3))


@pytest.mark.slow
def test_a_compiled_network_does_what_its_hooks_say(model: TextToImage) -> None:
    """The compiler's own front end is enough: it is what does not look for new hooks."""
    unet = deepcopy(model.backbone.unet)
    for region in regions_of(unet):
        region.compile(backend="eager")
    compiled = replace(model, backbone=replace(model.backbone, unet=unet))
    x, told = latents(model, 2), model.encode(PROMPTS[:2])
    with torch.no_grad():
        plain = compiled.denoise(x, 500, told)
        torch.testing.assert_close(plain, model.denoise(x, 500, told), atol=1e-5, rtol=0)
        found = adapted(compiled).denoise(x, 500, told)
        torch.testing.assert_close(found, adapted(model).denoise(x, 500, told), atol=1e-5, rtol=0)
        assert (found - plain).abs().max() > 1e-2
        assert torch.equal(compiled.denoise(x, 500, told), plain)


# -- files and names


def test_hooks_come_back_from_a_folder_bit_by_bit(
    model: TextToImage, tmp_path: Path, tiny_sampler: Sampler
) -> None:
    one = adapted(model).with_hook(Doubles(at="unet.conv_out", by=1.5), {})
    assert one.slots == {"hooks"}
    one.save_edit(tmp_path)
    back = model.load_edit(tmp_path)
    assert back.digest == one.digest
    assert [fitted.hook for fitted in back.hooks] == [fitted.hook for fitted in one.hooks]
    for there, here in zip(back.hooks, one.hooks, strict=True):
        assert there.tensors.keys() == here.tensors.keys()
        assert all(torch.equal(there.tensors[n], value) for n, value in here.tensors.items())
    images = one.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW
    assert torch.equal(back.sample(PROMPTS, SEEDS, tiny_sampler).images_B3HW, images)


def test_a_hook_that_is_not_known_or_lost_its_tensors_is_refused(
    model: TextToImage, tmp_path: Path
) -> None:
    adapted(model).save_edit(tmp_path)
    (tmp_path / "hooks.safetensors").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"hooks\.safetensors, which is not there"):
        model.load_edit(tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / "hooks.safetensors")
    about = json.loads((tmp_path / "edit.json").read_text())
    about["hooks"][0]["name"] = "os:system"
    (tmp_path / "edit.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="unknown hook 'os:system'"):
        model.load_edit(tmp_path)


def test_every_part_of_a_hook_is_in_the_digest(model: TextToImage) -> None:
    tensors = adapter_tensors(model)
    name = next(n for n in tensors if n.endswith("/up"))
    twice = {**tensors, name: 2 * tensors[name]}
    shaped = {**tensors, "ids": tensors["ids"][None]}
    doubles = [Doubles(at="unet.conv_out"), Doubles(at="unet.conv_in")]
    edits = [
        model,
        model.with_hook(Adapter(), tensors),
        model.with_hook(Adapter(strength=2.0), tensors),
        model.with_hook(Adapter(), twice),
        model.with_hook(Adapter(), shaped),
        model.with_hook(doubles[0], {}).with_hook(doubles[1], {}),
        model.with_hook(doubles[1], {}).with_hook(doubles[0], {}),
    ]
    assert len({edit.digest for edit in edits}) == len(edits)


def test_a_hook_does_not_follow_the_tensors_it_was_made_from(model: TextToImage) -> None:
    tensors = adapter_tensors(model)
    one = model.with_hook(Adapter(), tensors)
    digest = one.digest
    for value in tensors.values():
        value.zero_()
    assert one.digest == digest


def test_hooks_that_do_not_fit_are_refused(model: TextToImage) -> None:
    for layer in ("unet.no_such", "vae.decoder.conv_in", "conv_out", "tokenizer"):
        with pytest.raises(ValueError, match=f"no layer '{layer}' in the base model"):
            model.with_hook(Doubles(at=layer), {})
    with pytest.raises(ValueError, match="at least one layer"):
        model.with_hook(Idle(), {})
    tensors = adapter_tensors(model)
    tensors["states"] = tensors["states"] / 0
    with pytest.raises(ValueError, match="states: its values are not finite"):
        model.with_hook(Adapter(), tensors)


def test_a_hook_that_changes_a_shape_is_refused(model: TextToImage) -> None:
    class Cuts(Doubles):
        name: ClassVar[str] = "test_cuts"

        def change(self, *args: object) -> Tensor:
            out = args[2]
            assert isinstance(out, Tensor)
            return out[:1]

    x, told = latents(model, 2), model.encode(PROMPTS[:2])
    with pytest.raises(ValueError, match=r"test_cuts: unet.conv_out: expected an output of shape"):
        model.with_hook(Cuts(at="unet.conv_out"), {}).denoise(x, 500, told)


# -- in a plain pipeline


def by_pipeline(pipe: Any, model: TextToImage, sampler: Sampler) -> Tensor:
    """The images of a plain pipeline of diffusers for the prompts, with the suite's sampler."""
    pipe.scheduler = sampler.scheduler(model.schedule.config, "cpu")
    pipe.set_progress_bar_config(disable=True)
    out = pipe(
        PROMPTS,
        latents=model.noise(SEEDS, sampler).to(model.dtype),
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance_scale,
        height=64,
        width=64,
        output_type="pt",
    )
    images: Tensor = out.images
    return images


def test_a_plain_pipeline_with_the_hooks_gives_the_same_images(
    model: TextToImage, tmp_path: Path
) -> None:
    sampler = Sampler(solver="ddim", steps=2)
    layer = model.layers(Role.TEXT_FEED_FORWARD)[-1]
    one = adapted(model).with_hook(Doubles(at=layer, by=1.2), {})
    one.save_edit(tmp_path)
    expected = one.sample(PROMPTS, SEEDS, sampler).images_B3HW
    bare = model.sample(PROMPTS, SEEDS, sampler).images_B3HW
    plain = load_hooks(model.to_diffusers(), tmp_path)
    for pipe in (one.to_diffusers(), plain):
        torch.testing.assert_close(by_pipeline(pipe, model, sampler), expected, atol=2e-3, rtol=0)
    assert (bare - expected).abs().max() > 0.02
    pipe = model.to_diffusers()
    torch.testing.assert_close(by_pipeline(pipe, model, sampler), bare, atol=2e-3, rtol=0)
    pipe.text_encoder = None
    with pytest.raises(ValueError, match="expected a pipeline with a text_encoder"):
        load_hooks(pipe, tmp_path)


# -- the door


class Hooking(Erasure):
    name: ClassVar[str] = "hooking"
    slots: ClassVar[frozenset[Slot]] = frozenset({"hooks"})
    bypassed_by: ClassVar[tuple[str, ...]] = ("injected text states",)

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        return adapted(model)


class Silent(Hooking):
    name: ClassVar[str] = "silent"
    bypassed_by: ClassVar[tuple[str, ...]] = ()


class Undeclared(Hooking):
    name: ClassVar[str] = "undeclared"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})


def test_the_door_holds_a_method_to_the_slot_and_to_what_goes_around_it(
    model: TextToImage,
) -> None:
    star, rng = [Concept(text="star")], Rng(("hooks",))
    assert Hooking()(model, star, rng=rng).slots == {"hooks"}
    with pytest.raises(ValueError, match=r"declares slots \['weights'\] but filled \['hooks'\]"):
        Undeclared()(model, star, rng=rng)
    with pytest.raises(ValueError, match="test_adapter is bypassed by injected text states too"):
        Silent()(model, star, rng=rng)
    # What an earlier edit hooked is not its doing.
    assert Hooking()(adapted(model), star, rng=rng).hooks[1:] != ()

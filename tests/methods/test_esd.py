from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage, load_model
from bench.toolkit.tuning import Optimiser
from methods.esd import ESD
from methods.shared.distillation import distil, negative_guidance
from methods.shared.partial_sampling import PartialSampler
from methods.shared.turns import in_turn
from methods.shared.unet_parts import trained
from methods.stereo import Stereo
from tests.v_form import in_v_form

RNG = Rng(("esd",))
HEART, BRAKK = Concept(text="heart"), Concept(text="brakk", family="character")
TINY: Mapping[str, Any] = {"iterations": 2, "batch_size": 2, "sampling_steps": 4}


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("esd", *shape))


def layers(model: TextToImage, *kinds: type[nn.Module]) -> set[str]:
    """Parameters of the UNet's modules of the kinds."""
    return {
        f"unet.{path}.{name}"
        for path, module in model.backbone.unet.named_modules()
        if isinstance(module, kinds)
        for name, _ in module.named_parameters(recurse=False)
    }


def chosen(model: TextToImage, variant: Any, release: Any) -> set[str]:
    return set(trained(model, variant, release))


# -- the target ----------------------------------------------------------------------------------


def test_the_target_of_no_guidance_is_the_empty_prompts_prediction() -> None:
    e0, ec = drawn(2, 4, 3, 3), drawn(2, 4, 3, 2, 1)[..., 0].repeat(1, 1, 1, 2)[..., :3]
    torch.testing.assert_close(negative_guidance(e0, ec, 0.0), e0)


def test_the_target_at_eta_minus_one_is_the_plain_prediction() -> None:
    e0, ec = drawn(2, 4, 3, 3), drawn(2, 4, 3, 3, 1)[..., 0]
    torch.testing.assert_close(negative_guidance(e0, ec, -1.0), ec)


def test_a_target_by_hand() -> None:
    e0, ec = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])
    torch.testing.assert_close(negative_guidance(e0, ec, 1.0), torch.tensor([-1.0, 5.0]))
    torch.testing.assert_close(negative_guidance(e0, ec, 2.0), torch.tensor([-3.0, 8.0]))


def test_both_releases_have_the_same_target() -> None:
    e0, ec = drawn(2, 4, 3, 3), drawn(2, 4, 3, 3, 1)[..., 0]
    torch.testing.assert_close(negative_guidance(e0, ec, 1.0), ec - 2 * (ec - e0))


def model_parameters(model: TextToImage, edited: TextToImage) -> dict[str, Tensor]:
    """The edited parameters, as they were."""
    return {n: model.parameter(n).detach() for n in edited.weights}


# -- x_t and t -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_x_t_and_t_are_those_of_ddim(model: TextToImage, spacing: Any) -> None:
    steps, scale, stops = 5, 3.0, torch.tensor([2, 0, 4, 1])
    noise, states = drawn(4, *model.latent_shape), model.encode(["heart", "brakk", "", "a heart"])
    contexts = model.guidance.contexts(model, states)
    with torch.no_grad():
        x, t = PartialSampler(steps, scale, spacing).run(model, contexts, noise, stops)
    for row, stop in enumerate(stops.tolist()):
        ddim = DDIMScheduler.from_config(
            model.backbone.scheduler_config,
            timestep_spacing=spacing,
            steps_offset=1,
            clip_sample=False,
        )
        ddim.set_timesteps(steps)
        latents = noise[row : row + 1]
        for at in ddim.timesteps[:stop]:
            with torch.no_grad():
                eps, _ = model.guide(latents, at, [c[row : row + 1] for c in contexts], scale)
            latents = ddim.step(eps, at, latents)[0]
        assert t[row] == ddim.timesteps[stop]  # what the scheduler would tell the model next
        torch.testing.assert_close(x[row : row + 1], latents, atol=1e-4, rtol=1e-4)


def test_a_row_does_not_depend_on_the_others(exact: TextToImage) -> None:
    stops = torch.tensor([1, 3, 3, 0])
    noise, states = drawn(4, *exact.latent_shape), exact.encode(["heart", "brakk", "", "a heart"])
    contexts, sampler = exact.guidance.contexts(exact, states), PartialSampler(4, 3.0)
    with torch.no_grad():
        x, t = sampler.run(exact, contexts, noise, stops)
        for row in range(4):
            one = slice(row, row + 1)
            alone = sampler.run(exact, [c[one] for c in contexts], noise[one], stops[one])
            torch.testing.assert_close(x[one], alone[0], atol=1e-5, rtol=1e-5)
            assert t[row] == alone[1]


@pytest.mark.parametrize("steps", [1, 7, 12, 50, 1000])
def test_the_trailing_grid_is_the_samplers(model: TextToImage, steps: int) -> None:
    grid = PartialSampler(steps, 3.0, "trailing").timesteps(model)
    theirs = Sampler(solver="ddim", steps=steps).scheduler(model.backbone.scheduler_config, "cpu")
    assert grid.tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("steps", [1, 7, 12, 50, 999])
def test_the_leading_grid_is_stable_diffusions(model: TextToImage, steps: int) -> None:
    grid = PartialSampler(steps, 3.0).timesteps(model)
    ddim = DDIMScheduler.from_config(
        model.backbone.scheduler_config, timestep_spacing="leading", steps_offset=1
    )
    ddim.set_timesteps(steps)
    assert grid.tolist() == ddim.timesteps.tolist()


def test_published_presets_train_at_981_to_1(model: TextToImage) -> None:
    for spec in (
        ESD.preset("paper-2023"),
        ESD.preset("repo-2025"),
        Stereo.preset("repo-2025"),
        Stereo.preset("repo-2025-nudity"),
    ):
        sampler = PartialSampler(spec.sampling_steps, spec.start_guidance, spec.spacing)
        assert sampler.timesteps(model).tolist() == list(range(981, 0, -20)), spec.label


def test_a_trajectory_longer_than_the_schedule_is_refused(model: TextToImage) -> None:
    with pytest.raises(ValueError, match="at most 1000 sampling steps"):
        PartialSampler(1001, 3.0, "trailing").timesteps(model)
    with pytest.raises(ValueError, match="at most 999 sampling steps"):
        PartialSampler(1000, 3.0).timesteps(model)


def test_a_model_that_predicts_v_goes_the_same_way(exact: TextToImage) -> None:
    stops, ends = torch.tensor([0, 1, 3]), []
    for model in (exact, in_v_form(exact)):
        contexts = model.guidance.contexts(model, model.encode(["a star", "a heart", ""]))
        noise = model.noise([1, 2, 3], Sampler()).double()
        x, t = PartialSampler(4, 3.0).run(model, contexts, noise, stops)
        assert t.tolist() == [751, 501, 1]
        ends.append(x)
    torch.testing.assert_close(*ends, atol=1e-4, rtol=0)


# -- the training --------------------------------------------------------------------------------


def seen(model: TextToImage, start: TextToImage, sampled_from: Any) -> list[tuple[Tensor, Tensor]]:
    """Every (x_t, t) that a target is asked for."""
    pairs = []
    phrases = model.encode(["heart", "brakk"])

    def target_of(step: int, which: Tensor, x: Tensor, t: Tensor) -> Tensor:
        pairs.append((x, t))
        return torch.zeros_like(x)

    distil(
        model, trained(model, "x", "2023"), phrases, target_of,
        sampler=PartialSampler(4, 3.0, "trailing"), sampled_from=sampled_from, batch_size=3,
        optimiser=Optimiser(2, 1e-3, "sgd"), rng=RNG, start=start,
    )  # fmt: skip
    return pairs


def test_x_t_comes_from_the_network_in_training_or_from_the_base(model: TextToImage) -> None:
    name = "unet.mid_block.attentions.0.proj_out.weight"
    start = model.with_weights({name: 3 * model.parameter(name)})
    base = seen(model, start, "base")
    again, student = seen(model, model, "base"), seen(model, start, "student")
    moved = False
    for (x, t), (same, _), (other, other_t) in zip(base, again, student, strict=True):
        torch.testing.assert_close(x, same)
        assert torch.equal(t, other_t)
        first = t == 999  # no step is taken, so both are the noise
        torch.testing.assert_close(x[first], other[first])
        moved |= bool((x[~first] - other[~first]).abs().amax() > 1e-3) if (~first).any() else False
    assert moved


def test_the_first_step_is_the_formulas(model: TextToImage) -> None:
    spec = ESD.preset("paper-2023", iterations=1, lr=1e-3, sampling_steps=4)
    edited = spec(model, [HEART], rng=RNG)
    draws = RNG.generator("step", 0)
    x = torch.randn(1, *model.latent_shape, generator=draws)
    stop = int(torch.randint(4, (1,), generator=draws))
    ddim = DDIMScheduler.from_config(
        model.backbone.scheduler_config,
        timestep_spacing="leading",
        steps_offset=1,
        clip_sample=False,
    )
    ddim.set_timesteps(4)
    empty, heart = model.encode([""]), model.encode(["heart"])

    def predicted(t: Tensor) -> tuple[Tensor, Tensor]:
        t_B = t[None]
        return model.denoise(x, t_B, empty), model.denoise(x, t_B, heart)

    with torch.no_grad():
        for t in ddim.timesteps[:stop]:
            e0, ec = predicted(t)
            x = ddim.step(e0 + 3 * (ec - e0), t, x)[0]
        e0, ec = predicted(ddim.timesteps[stop])
    leaves = {n: w.clone().requires_grad_() for n, w in model_parameters(model, edited).items()}
    live = replace(model, weights=leaves)
    loss = (live.denoise(x, ddim.timesteps[stop][None], heart) - (2 * e0 - ec)).square().mean()
    gradients, checked = torch.autograd.grad(loss, list(leaves.values())), 0
    for (name, was), g in zip(leaves.items(), gradients, strict=True):
        # Adam's first step is lr g / (|g| + 1e-8); where g is next to nothing, rounding decides.
        sure = g.abs() > max(1e-2 * float(g.abs().max()), 1e-6)
        moved = (edited.weights[name] - was.detach())[sure]
        torch.testing.assert_close(moved, (-1e-3 * g / (g.abs() + 1e-8))[sure], atol=2e-5, rtol=0)
        checked += int(sure.sum())
    assert checked > 1000


def test_a_target_that_is_met_already_changes_nothing(model: TextToImage) -> None:
    phrases = model.encode(["heart", "brakk"])
    names = trained(model, "all", "2023")
    values = distil(
        model, names, phrases, lambda step, which, x, t: model.denoise(x, t, phrases[which]),
        sampler=PartialSampler(3, 3.0), sampled_from="student", batch_size=2,
        optimiser=Optimiser(2, 1.0, "sgd"), rng=RNG,
    )  # fmt: skip
    for name, value in values.items():
        torch.testing.assert_close(value, model.parameter(name).float(), atol=1e-6, rtol=1e-5)


def test_phrases_are_taken_in_turn() -> None:
    turns = in_turn(3, 10, generator_for("turns"))
    assert len(turns) == 10
    for at in (0, 3, 6):
        assert sorted(turns[at : at + 3].tolist()) == [0, 1, 2]
    assert len({tuple(in_turn(6, 6, generator_for(k)).tolist()) for k in range(8)}) > 1


def test_the_prediction_moves_to_the_target(model: TextToImage) -> None:
    x, states = drawn(4, *model.latent_shape), model.encode(["heart"] * 4)
    empty, t = model.encode([""] * 4), torch.tensor([999, 999, 900, 900])
    spec = ESD(iterations=12, lr=1e-3, batch_size=2, sampling_steps=3)
    edited = spec(model, [HEART], rng=RNG)
    with torch.no_grad():
        e0, ec, now = (
            m.denoise(x, t, s) for m, s in ((model, empty), (model, states), (edited, states))
        )
    target = negative_guidance(e0, ec, 1.0)
    assert (now - target).norm() < 0.95 * (ec - target).norm()


def test_half_precision_bases_are_trained_too() -> None:
    half = load_model("miniature", dtype="bfloat16")
    edited = ESD.preset("paper-2023", **TINY, lr=1e-2)(half, [HEART], rng=RNG)
    keys = [n for n in edited.weights if n.endswith(("to_k.weight", "to_v.weight"))]
    assert keys
    for (
        name
    ) in keys:  # a copy that autocast kept from a pass without gradients would give them none
        assert edited.parameter(name).dtype == torch.bfloat16
        assert not torch.equal(edited.parameter(name), half.parameter(name)), name


# -- the parameters ------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["2023", "2025"])
def test_x_is_the_cross_attention_and_strict_its_keys_and_values(
    model: TextToImage, release: str
) -> None:
    x, strict = (chosen(model, v, release) for v in ("x", "x-strict"))
    assert x == {n for n in model.backbone.parameters if n.startswith("unet.") and ".attn2." in n}
    assert strict == {n for n in x if n.endswith(("to_k.weight", "to_v.weight"))}
    assert len(x) == 2.5 * len(strict) > 0  # and queries, and an output with its bias


def test_u_and_all_of_2025_are_linear_layers_and_convolutions(model: TextToImage) -> None:
    x, u, everything = (chosen(model, v, "2025") for v in ("x", "u", "all"))
    assert everything == layers(model, nn.Linear, nn.Conv2d)
    assert u == everything - x
    assert {"unet.time_embedding.linear_1.weight", "unet.conv_out.weight"} <= u


def test_u_and_all_of_2023_have_norms(model: TextToImage) -> None:
    x, u, everything = (chosen(model, v, "2023") for v in ("x", "u", "all"))
    assert everything == {n for n in model.backbone.parameters if n.startswith("unet.")}
    left_out = {
        n for n in everything
        if n.startswith(("unet.time_embedding.", "unet.conv_norm_out.", "unet.conv_out."))
    }  # fmt: skip
    assert u == everything - x - left_out
    assert layers(model, nn.GroupNorm, nn.LayerNorm) & u
    assert {n for n in u if "time_emb_proj" in n}


def test_the_self_attention_of_2026_is_a_set(model: TextToImage) -> None:
    found = chosen(model, "self", "2025")
    assert found == {n for n in layers(model, nn.Linear) if ".attn1." in n}
    assert found


@pytest.mark.parametrize("variant", ["x", "x-strict", "u", "all", "self"])
def test_all_that_is_declared_is_trained_and_nothing_else(model: TextToImage, variant: Any) -> None:
    edited = ESD(variant=variant, lr=1e-3, **TINY)(model, [HEART], rng=RNG)
    assert set(edited.weights) == chosen(model, variant, "2023")
    moved = [n for n, w in edited.weights.items() if not torch.equal(w, model.parameter(n))]
    assert len(moved) > 0.9 * len(edited.weights)


# -- presets and edges ---------------------------------------------------------------------------


def test_presets_are_as_published() -> None:
    same = {
        "variant": "x", "batch_size": 1, "eta": 1.0, "start_guidance": 3.0, "sampling_steps": 50,
        "spacing": "leading", "templates": ("{}",),
    }  # fmt: skip
    paper = {"release": "2023", "iterations": 1000, "lr": 1e-5, "sampled_from": "student"}
    repo = {"release": "2025", "iterations": 200, "lr": 5e-5, "sampled_from": "base"}
    assert ESD.preset("paper-2023").model_dump() == {**same, **paper}
    assert ESD.preset("repo-2025").model_dump() == {**same, **repo}
    xl = ESD.preset("repo-2025", lr=2e-4, eta=0.0, start_guidance=2.0)
    assert ESD.preset("repo-2026-sdxl") == xl
    assert ESD() == ESD.preset("paper-2023")
    assert {ESD.preset(p).label for p in ESD.presets} == {f"esd[{p}]" for p in ESD.presets}


def test_several_concepts_all_move(model: TextToImage) -> None:
    spec = ESD(**{**TINY, "iterations": 6, "lr": 1e-3})
    edited = spec(model, [HEART, BRAKK], rng=RNG)
    x = drawn(1, *model.latent_shape)
    for text in ("heart", "brakk"):
        states = model.encode([text])
        with torch.no_grad():
            moved = edited.denoise(x, 900, states) - model.denoise(x, 900, states)
        assert moved.abs().max() > 1e-3, text


def test_no_concepts_are_an_error(model: TextToImage) -> None:
    with pytest.raises(ValueError, match="at least one concept"):
        ESD()(model, [], rng=RNG)


def test_progress_is_told_of_every_step(model: TextToImage) -> None:
    told: list[tuple[int, int]] = []
    ESD(**TINY)(
        model, [HEART], rng=RNG, progress=lambda done, total, what: told.append((done, total))
    )
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    "fields",
    [
        {"variant": "xattn"},
        {"iterations": 0},
        {"lr": 0.0},
        {"eta": -1.0},
        {"sampling_steps": 0},
        {"templates": ()},
    ],
)
def test_fields_are_checked(fields: Mapping[str, object]) -> None:
    with pytest.raises(ValueError):
        ESD.model_validate(fields)

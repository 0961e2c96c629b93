"""The noise schedule, and a network in both of its forms: one that says noise, one that says v."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from bench.model.conditioning import Conditioning
from bench.model.encoder import TextEncoder
from bench.model.guidance import ClassifierFree, Guidance, NegativePrompt, contexts_of
from bench.model.sampler import Sampler
from bench.model.schedule import Schedule
from bench.model.text_to_image import TextToImage
from methods.sld import SafeLatentGuidance
from tests.v_form import in_v_form

SNR_ZERO = {"beta_schedule": "scaled_linear", "rescale_betas_zero_snr": True}


@pytest.fixture
def drawn() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    clean, noise = (torch.randn(4, 2, 3, 3, generator=generator).double() for _ in range(2))
    return clean, noise, torch.tensor([0, 17, 500, 999])


@pytest.mark.parametrize("options", [{}, SNR_ZERO], ids=["usual", "zero SNR"])
def test_noise_and_velocity_are_diffusers_own(
    options: dict[str, object], drawn: tuple[Tensor, Tensor, Tensor]
) -> None:
    config = {"num_train_timesteps": 1000, **options, "prediction_type": "v_prediction"}
    ours, theirs = Schedule.of(config), DDPMScheduler(**config)
    atol = 2e-3  # zero SNR: sqrt(alpha) is 2^-12, theirs 0
    torch.testing.assert_close(ours.add_noise(*drawn), theirs.add_noise(*drawn), atol=atol, rtol=0)
    torch.testing.assert_close(ours.target(*drawn), theirs.get_velocity(*drawn), atol=atol, rtol=0)
    assert ours.steps == 1000


def test_conversions_undo_each_other(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    schedule = Schedule.of({"prediction_type": "v_prediction", **SNR_ZERO})
    _, noise, t = drawn
    noisy, v = schedule.add_noise(*drawn), schedule.target(*drawn)
    torch.testing.assert_close(schedule.to_noise(v, noisy, t), noise, atol=1e-9, rtol=0)
    torch.testing.assert_close(schedule.from_noise(noise, noisy, t), v, atol=1e-9, rtol=0)
    usual = Schedule.of({})
    assert usual.target(*drawn) is not None
    assert torch.equal(usual.target(*drawn), noise)
    assert usual.to_noise(v, noisy, t) is v
    with pytest.raises(ValueError, match="expected epsilon or v_prediction, got 'sample'"):
        Schedule.of({"prediction_type": "sample"})


class Halved(Guidance):
    """Not affine: the branches' difference is cut where it is large."""

    name: ClassVar[str] = "halved_for_the_test_of_schedules"

    def contexts(self, model: TextEncoder, conditioning: Conditioning) -> tuple[Conditioning, ...]:
        return contexts_of(model, ("",), conditioning)

    def combine(
        self, eps_KBChw: Tensor, scale: float, step: int, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        return eps_KBChw[0] + scale * (eps_KBChw[1] - eps_KBChw[0]).clamp(-0.05, 0.05), None


@pytest.mark.parametrize("solver", ["dpmpp", "ddim", "euler"])
@pytest.mark.parametrize(
    "guidance",
    [
        ClassifierFree(),
        NegativePrompt(text="star", weight=0.5),
        SafeLatentGuidance(
            text="star", warmup=1, scale=1000.0, threshold=0.025, momentum_scale=0.3, momentum=0.4
        ),
        Halved(),
    ],
    ids=lambda g: g.name,
)
def test_a_network_in_both_forms_gives_the_same_images(
    exact: TextToImage, guidance: Guidance, solver: str
) -> None:
    noise_form = exact.with_guidance(guidance)
    sampler = Sampler.model_validate({"solver": solver, "steps": 3, "guidance_scale": 4.0})
    prompts, seeds = ["a red star", "a zorbo"], [1, 2]
    wanted = noise_form.sample(prompts, seeds, sampler).images_B3HW
    found = in_v_form(noise_form).sample(prompts, seeds, sampler).images_B3HW
    assert wanted.std() > 0.05
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_a_loss_on_single_predictions_meets_the_guidance_alike(exact: TextToImage) -> None:
    noise_form = exact.with_guidance(Halved())
    v_form = in_v_form(noise_form)
    noisy, states = exact.noise([1, 2], Sampler()).double(), exact.encode(["a star", "a zorbo"])
    t = torch.tensor([300, 700])
    said = []
    for model in (noise_form, v_form):
        contexts = model.guidance.contexts(model, states)
        predicted = model.guide_as_sampled(noisy, t, contexts, 3.0, [0, 1])
        said.append(model.schedule.to_noise(predicted, noisy, t))
    torch.testing.assert_close(said[0], said[1], atol=1e-6, rtol=0)


def test_a_schedule_is_one_object_per_backbone(model: TextToImage) -> None:
    assert model.schedule is replace(model, guidance=NegativePrompt(text="star")).schedule
    assert model.schedule.alphas(torch.tensor([5])).shape == (1,)

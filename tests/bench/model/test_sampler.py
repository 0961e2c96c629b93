"""The suite owns the sampler: of a base's saved scheduler only the noise schedule counts."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from bench.model.sampler import Sampler, noise_schedule
from bench.model.text_to_image import TextToImage

_CLASSES: dict[str, Any] = {
    "dpmpp": DPMSolverMultistepScheduler,
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
}
_OTHER: dict[str, Any] = {
    "algorithm_type": "sde-dpmsolver++",
    "clip_sample_range": 0.1,
    "dynamic_thresholding_ratio": 0.5,
    "final_sigmas_type": "sigma_min",
    "flow_shift": 3.0,
    "interpolation_type": "log_linear",
    "lambda_min_clipped": -5.1,
    "sample_max_value": 0.1,
    "sigma_max": 10.0,
    "sigma_min": 0.1,
    "solver_order": 3,
    "solver_type": "heun",
    "steps_offset": 7,
    "time_shift_type": "linear",
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "variance_type": "learned",
}
"""Another value for each option that is no switch."""


def _others(solver: str, schedule: dict[str, Any]) -> dict[str, Any]:
    """Every option of a solver's class that is not the noise schedule, at another value than usual."""
    options = inspect.signature(_CLASSES[solver].__init__).parameters
    names = {n: p.default for n, p in options.items() if n != "self" and n not in schedule}
    return {
        n: not usual if isinstance(usual, bool) or usual is None else _OTHER[n]
        for n, usual in names.items()
    } | {n: v for n, v in _OTHER.items() if n in names}


@pytest.mark.parametrize("solver", sorted(_CLASSES))
@pytest.mark.parametrize("steps", [1, 6, 20])
def test_no_saved_option_reaches_the_sampler(model: TextToImage, solver: Any, steps: int) -> None:
    plain = noise_schedule(model.backbone.scheduler_config)
    saved = {**plain, **_others(solver, plain)}
    assert len(saved) > len(plain) + 4  # there is something to leave out
    sampler = Sampler(solver=solver, steps=steps)
    ours, theirs = (sampler.scheduler(config, "cpu") for config in (plain, saved))
    assert dict(ours.config) == dict(theirs.config)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    if solver != "ddim":
        assert ours.sigmas.tolist() == theirs.sigmas.tolist()


def test_bases_with_the_same_networks_give_the_same_images(model: TextToImage) -> None:
    backbone = model.backbone
    saved = {**backbone.scheduler_config, "use_karras_sigmas": True, "thresholding": True}
    karras = replace(model, backbone=replace(backbone, scheduler_config=saved))
    images = [
        m.sample(["a star"], [1], Sampler(steps=3)).images_B3HW for m in (model, karras)
    ]  # fmt: skip
    assert torch.equal(*images)


@pytest.mark.parametrize("solver", sorted(_CLASSES))
def test_the_noise_schedule_is_the_bases(model: TextToImage, solver: Any) -> None:
    config = dict(model.backbone.scheduler_config)
    other = {**config, "beta_schedule": "linear", "rescale_betas_zero_snr": True}
    made = Sampler(solver=solver).scheduler(other, "cpu")
    assert made.config["beta_schedule"] == "linear"
    assert made.config["rescale_betas_zero_snr"] is True
    usual = Sampler(solver=solver).scheduler(config, "cpu")
    assert not torch.equal(made.alphas_cumprod, usual.alphas_cumprod)


@pytest.mark.parametrize(("steps", "last"), [(6, 166), (1, 999), (20, 49)])
def test_timesteps_trail_from_the_last(model: TextToImage, steps: int, last: int) -> None:
    times = Sampler(steps=steps).times(model.backbone.scheduler_config)
    assert times[0] == 999
    assert times[-1] == last
    assert all(isinstance(t, float) for t in times)

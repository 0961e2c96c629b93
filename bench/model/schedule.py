"""How noise is added to latents, and what a network was trained to predict of it.

With ``a = alpha_bar_t``, clean latents x and standard normal noise e:

    x_t     = sqrt(a) x + sqrt(1 - a) e                                   (Ho et al. 2020, eq. 4)
    epsilon: the network predicts e
    v      : it predicts sqrt(a) e - sqrt(1 - a) x             (Salimans & Ho 2022, appendix D)
    so       e = sqrt(a) v + sqrt(1 - a) x_t

Losses are taken on what the network predicts, as the training scripts of diffusers take them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

from bench.core.errors import shown
from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Prediction", "Schedule", "whole_steps"]

Prediction = Literal["epsilon", "v_prediction"]

_LEAST = (
    2.0**-24
)  # diffusers' own, where a schedule ends at pure noise: a division by sqrt(a) stays finite


@dataclass(frozen=True, eq=False)
class Schedule:
    """A model's noise schedule; t are int64 timesteps in [0, steps).

    Attributes:
        config: The saved scheduler's options.
        alphas_T: alpha_bar_t of every timestep, above 0, float32 on the CPU.
        prediction: What the network predicts.
    """

    config: Mapping[str, Any]
    alphas_T: Tensor = field(repr=False)
    prediction: Prediction = "epsilon"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Schedule:
        """The schedule of a saved scheduler.

        Raises:
            ValueError: the network predicts something else.
        """
        from diffusers import DDPMScheduler

        prediction = config.get("prediction_type", "epsilon")
        if prediction not in get_args(Prediction):
            known = " or ".join(get_args(Prediction))
            raise ValueError(f"prediction_type: expected {known}, got {shown(prediction)}")
        alphas_T = DDPMScheduler.from_config(config).alphas_cumprod
        return cls(config, alphas_T.clamp(min=_LEAST), prediction)

    @cached_property
    def steps(self) -> int:
        """T, the number of timesteps."""
        return len(self.alphas_T)

    @cached_property
    def _on(self) -> dict[torch.device, Tensor]:
        """The alphas where they were asked for: copying them at each step would wait for the device."""
        return {}

    def alphas(self, t_B: Tensor) -> Tensor:
        """alpha_bar of timesteps, float32 [B] on their device."""
        if t_B.device not in self._on:
            self._on[t_B.device] = self.alphas_T.to(t_B.device)
        return self._on[t_B.device][t_B]

    def add_noise(self, latents_BChw: Tensor, noise_BChw: Tensor, t_B: Tensor) -> Tensor:
        """Noisy latents x_t.

        Args:
            latents_BChw: Clean, scaled latents.
            noise_BChw: Standard normal.
            t_B: Timesteps.

        Returns:
            In the latents' precision; computed in float32 at least, because 1 - a loses all its
            digits in half precision where a is near 1.
        """
        signal, noise = self._parts(t_B, latents_BChw)
        return (signal * latents_BChw + noise * noise_BChw).to(latents_BChw.dtype)

    def target(self, latents_BChw: Tensor, noise_BChw: Tensor, t_B: Tensor) -> Tensor:
        """The prediction that training asks for, on :meth:`add_noise` of the same arguments; float32 or wider."""
        if self.prediction == "epsilon":
            return noise_BChw.to(torch.promote_types(noise_BChw.dtype, torch.float32))
        signal, noise = self._parts(t_B, latents_BChw)
        return signal * noise_BChw - noise * latents_BChw

    def to_noise(self, predicted_BChw: Tensor, noisy_BChw: Tensor, t_B: Tensor) -> Tensor:
        """The noise that a prediction for noisy latents means, in the prediction's precision."""
        if self.prediction == "epsilon":
            return predicted_BChw
        signal, noise = self._parts(t_B, noisy_BChw)
        return (signal * predicted_BChw + noise * noisy_BChw).to(predicted_BChw.dtype)

    def from_noise(self, noise_BChw: Tensor, noisy_BChw: Tensor, t_B: Tensor) -> Tensor:
        """The prediction that means this noise: :meth:`to_noise`, undone.

        Where a is near 0 (zero terminal SNR) digits are lost: hand it float32.
        """
        if self.prediction == "epsilon":
            return noise_BChw
        signal, noise = self._parts(t_B, noisy_BChw)
        return ((noise_BChw - noise * noisy_BChw) / signal).to(noise_BChw.dtype)

    def _parts(self, t_B: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a) and sqrt(1 - a), [B, 1, 1, 1]."""
        a = self.alphas(t_B)[:, None, None, None].to(torch.promote_types(like.dtype, torch.float32))
        return a.sqrt(), (1 - a).sqrt()


def whole_steps(t: Tensor | int, latents_BChw: Tensor) -> Tensor:
    """int64 timesteps [B], one per latent: some solvers have times between them."""
    times = torch.as_tensor(t, dtype=torch.float32, device=latents_BChw.device)
    return times.round().long().expand(len(latents_BChw))

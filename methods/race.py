"""RACE: robust adversarial concept erasure (Kim, Min and Yang, ECCV 2024, arXiv 2405.16341), on top of ESD.

ESD goes on from its own result, but the network in training is told disturbed text states. A search by
signed gradients, within a ball around the states and at the one timestep of the step, finds those that

    max_{|d| <= eps}  - mean (y - eps_th(x_t, c + d, t))^2

asks for: y is what brings the concept back. Then the ordinary target of ESD is trained, at c + d alone.

Reproduced from the authors' code: ten steps of a quarter of the ball, the random start, and
the clamp to the range of the states. So is their y. That is the noise which x_t was sampled from,
where the abstract has the concept's own prediction: both are here, as presets. Different on purpose:

* The edit starts from our ESD, whose cost is this edit's too; theirs starts from a released checkpoint.
* t is that of x_t; see :mod:`methods.esd`.
* The optional penalty on the distance from ESD's weights (``lasso``) is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.core.bounds import Count, Guidance, LearningRate, Solver, Steps, Weight
from bench.core.lazy import torch
from bench.core.templates import Template
from bench.interfaces import Concept, Context, Erasure, Role, Slot
from bench.model.conditioning import Conditioning
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import Optimiser, require_finite
from methods.esd import ESD
from methods.shared.distillation import distil, guided_away
from methods.shared.partial_sampling import PartialSampler, Spacing
from methods.shared.unet_parts import Variant, needs, trained

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["RACE", "ascend"]


def ascend(
    states_BLD: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    *,
    epsilon: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Disturbed states that make a loss small, [B, L, D], at most ``epsilon`` away in each entry.

    Args:
        states_BLD: Text states.
        loss_of: Disturbed states -> scalar loss; a row's part depends on that row alone.
        epsilon: Radius of the ball, and of the random start; a step is a quarter of it.
        steps: Signed gradient steps.
        generator: Of the random start.

    Raises:
        FloatingPointError: a gradient is not finite.
    """
    low, high = (bound[:, None, None] for bound in states_BLD.flatten(1).aminmax(dim=1))
    start = torch.rand(states_BLD.shape, generator=generator).to(states_BLD) * 2 - 1
    found = (states_BLD + epsilon * start).clamp(low, high)
    for _ in range(steps):
        found = found.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss_of(found), found)
        require_finite([slope], "race: the gradient of the search")
        moved = (found.detach() - epsilon / 4 * slope.sign() - states_BLD).clamp(-epsilon, epsilon)
        found = (states_BLD + moved).clamp(low, high)
    return found.detach()


class RACE(Erasure):
    """ESD, trained on at the text states that undo it.

    Presets (methods-2.md 5):
        release: towards the noise that x_t was sampled from, as in the authors' code.
        paper: towards the unedited network's prediction for the concept.
        mini: for the miniature: ESD's settings for it, fewer steps, and a ball that its larger states need.

    Attributes:
        aim: What the search brings back; see the presets.
        epsilon: Radius of the ball.
        attack_steps: Of the search, at each step of training.
        start: ESD's preset that the edit starts from.
        start_iterations: Its optimiser steps; ``None``: the preset's.
        variant: Which parameters are trained; see :func:`methods.shared.unet_parts.trained`.
        iterations: Optimiser steps (Adam) after ESD.
        lr: Learning rate.
        batch_size: Rows per step.
        eta: Strength of the negative guidance.
        start_guidance: Guidance scale on the way to x_t.
        sampling_steps: DDIM steps of a whole trajectory.
        spacing: Of their timesteps.
        templates: Prompts that hold the concept at ``{}``.
    """

    name: ClassVar[str] = "race"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "release": {},
        "paper": {"aim": "teacher"},
        "mini": {
            "start": "mini", "iterations": 60, "lr": 2e-4, "batch_size": 4, "sampling_steps": 10,
            "spacing": "trailing", "templates": ("{}", "a {}"),
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "iterations": 2, "batch_size": 2, "sampling_steps": 2, "attack_steps": 1, "start_iterations": 1,
    }  # fmt: skip
    aim: Literal["start_noise", "teacher"] = "start_noise"
    epsilon: float = Field(0.1, ge=0, le=1e3)
    attack_steps: int = Field(10, ge=0, le=10_000)
    start: Literal["paper-2023", "repo-2025", "mini"] = "paper-2023"
    start_iterations: Steps | None = None
    variant: Variant = "x"
    iterations: Steps = 1000
    lr: LearningRate = 1e-5
    batch_size: Count = 1
    eta: Weight = 1.0
    start_guidance: Guidance = 3.0
    sampling_steps: Solver = 50
    spacing: Spacing = "leading"
    templates: tuple[Template, ...] = Field(("{}",), min_length=1)

    def roles(self) -> frozenset[Role]:
        """The variant's."""
        return needs(self.variant)

    def parameters(self, model: TextToImage) -> list[str]:
        """The variant's parameters, and those of the ESD that it starts from."""
        first = set(self._esd().parameters(model))
        own = trained(model, self.variant, "2023")
        return [*own, *sorted(first - set(own))]

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with trained weights in its UNet.

        Raises:
            FloatingPointError: the training diverged, or the search did.
        """
        first = self._esd()(model, concepts, rng=ctx.rng.child("esd"), progress=ctx.progress)
        with torch.no_grad():
            phrases = model.encode([t.format(c.text) for c in concepts for t in self.templates])

        def told(
            live: TextToImage, said: Conditioning, x_BChw: Tensor, t_B: Tensor, noise_BChw: Tensor,
            generator: torch.Generator,
        ) -> Conditioning:  # fmt: skip
            with torch.no_grad():
                wanted = noise_BChw.to(x_BChw)
                if self.aim == "teacher":
                    wanted = model.schedule.to_noise(model.denoise(x_BChw, t_B, said), x_BChw, t_B)
            fixed = replace(live, weights={n: w.detach() for n, w in live.weights.items()})

            def loss_of(states_BLD: Tensor) -> Tensor:
                predicted = fixed.denoise(x_BChw, t_B, said.with_states(states_BLD))
                noise = fixed.schedule.to_noise(predicted.float(), x_BChw, t_B)
                return (wanted.float() - noise).square().sum()

            found = ascend(
                said.states_BLD.float(),  # a half precision has no room for a quarter of a small ball
                loss_of,
                epsilon=self.epsilon,
                steps=self.attack_steps,
                generator=generator,
            )
            return said.with_states(found)

        values = distil(
            model,
            trained(model, self.variant, "2023"),
            phrases,
            guided_away(model, phrases, self.eta),
            sampler=PartialSampler(self.sampling_steps, self.start_guidance, self.spacing),
            sampled_from="student",
            batch_size=self.batch_size,
            optimiser=Optimiser(self.iterations, self.lr, "adam"),
            rng=ctx.rng,
            start=first,
            told=told,
            progress=ctx.progress,
            what="race",
        )
        return first.with_weights(values)  # ESD may have changed more than is trained here

    def _esd(self) -> ESD:
        """The edit that this one starts from."""
        fewer = {} if self.start_iterations is None else {"iterations": self.start_iterations}
        return ESD.preset(self.start, variant=self.variant, templates=self.templates, **fewer)

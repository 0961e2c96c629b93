"""ESD: erased stable diffusion (Gandikota et al., ICCV 2023, arXiv 2303.07345): negative guidance, learnt.

The edited network is trained to predict, for the concept, what guidance away from it would give,

    eps_th(x_t, c, t) <- eps*(x_t, "", t) - eta (eps*(x_t, c, t) - eps*(x_t, "", t))

with eps* the unedited network and x_t on the way from noise to an image of the concept.

Reproduced: the authors' code at three dates, as presets, and all their sets of parameters. That of 2026 is
one trainer for several families. On Stable Diffusion it differs from that of 2025 in the size of
latents and in a set more (``self``). So here ``repo-2025`` stands for both. Different on purpose:

* t is the timestep of x_t. The code of 2023 drops the first entry of its DDIM list, 981. It tells
  the network a t that lies 39 to 58 above that of the latent.
* x_t is reached by DDIM over 981, 961, ..., 1, and each of the 50 is drawn. The code of 2025 uses the
  pipeline's PNDM, whose list holds 961 twice; it never draws the last entry, 1.
* Latents have the model's own size; the code of 2025 trains SD-1.4 at twice its size.
* Values are trained in float32; the code of 2025 keeps them in bfloat16, where so small a step is
  often rounded away.
* Of several concepts, each row of a batch takes the next in a shuffled order, rather than each step
  one at random. That is the same expectation with less noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from bench.core.bounds import Count, Guidance, LearningRate, Solver, Steps, Weight
from bench.core.lazy import torch
from bench.core.templates import Template
from bench.interfaces import Concept, Context, Erasure, Role, Slot
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import Optimiser
from methods.shared.distillation import distil, guided_away
from methods.shared.partial_sampling import PartialSampler, Spacing
from methods.shared.unet_parts import Release, Variant, needs, trained

__all__ = ["ESD"]


class ESD(Erasure):
    """Trains part of the UNet to guide itself away from the concepts.

    Presets (methods.md 2.1; the authors' repository at two dates):
        paper-2023: x_t from the network in training, 1000 steps, learning rate 1e-5.
        repo-2025: x_t from the unedited network, 200 steps, learning rate 5e-5. Its target is written
            ``ec - 2 (ec - e0)``, which is that of eta = 1.
        repo-2026-sdxl: the same with the learning rate that the trainer of 2026 has for SDXL's
            cross-attention, 2e-4. For ``u`` and ``all`` it has 1e-5, and leaves more of SDXL's UNet out.
        mini: for the miniature, whose layers are narrower: fewer, larger steps, a shorter trajectory on
            the grid of the suite's own sampler.

    The paper uses ``x`` for what prompts name (styles, objects) and ``u`` for what they need not name
    (nudity).

    Attributes:
        variant: Which parameters are trained; see :func:`methods.shared.unet_parts.trained`.
        release: Whose reading of ``u`` and ``all``.
        iterations: Optimiser steps (Adam).
        lr: Learning rate.
        batch_size: Rows per step.
        eta: Strength of the negative guidance.
        start_guidance: Guidance scale on the way to x_t.
        sampling_steps: DDIM steps of a whole trajectory.
        spacing: Of their timesteps; see :class:`methods.shared.partial_sampling.PartialSampler`.
        sampled_from: Which network goes to x_t.
        templates: Prompts that hold the concept at ``{}``.
    """

    name: ClassVar[str] = "esd"
    revision: ClassVar[int] = 2
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper-2023": {},
        "repo-2025": {
            "release": "2025", "iterations": 200, "lr": 5e-5, "sampled_from": "base",
        },
        "repo-2026-sdxl": {
            "release": "2025", "iterations": 200, "lr": 2e-4, "sampled_from": "base", "eta": 0.0,
            "start_guidance": 2.0,
        },
        "mini": {
            "iterations": 150, "lr": 2e-4, "batch_size": 4, "sampling_steps": 10,
            "spacing": "trailing", "templates": ("{}", "a {}"),
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {"iterations": 2, "batch_size": 2, "sampling_steps": 2}
    variant: Variant = "x"
    release: Release = "2023"
    iterations: Steps = 1000
    lr: LearningRate = 1e-5
    batch_size: Count = 1
    eta: Weight = 1.0
    start_guidance: Guidance = 3.0
    sampling_steps: Solver = 50
    spacing: Spacing = "leading"
    sampled_from: Literal["student", "base"] = "student"
    templates: tuple[Template, ...] = Field(("{}",), min_length=1)

    def roles(self) -> frozenset[Role]:
        """The variant's."""
        return needs(self.variant)

    def parameters(self, model: TextToImage) -> list[str]:
        """The variant's parameters."""
        return trained(model, self.variant, self.release)

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with trained weights in its UNet.

        Raises:
            FloatingPointError: the training diverged.
        """
        with torch.no_grad():
            phrases = model.encode([t.format(c.text) for c in concepts for t in self.templates])
        values = distil(
            model,
            self.parameters(model),
            phrases,
            guided_away(model, phrases, self.eta),
            sampler=PartialSampler(self.sampling_steps, self.start_guidance, self.spacing),
            sampled_from=self.sampled_from,
            batch_size=self.batch_size,
            optimiser=Optimiser(self.iterations, self.lr, "adam"),
            rng=ctx.rng,
            progress=ctx.progress,
        )
        return model.with_weights(values)

"""SPM: one-dimensional adapters that open where a prompt is near the concept (Lyu et al., CVPR 2024, arXiv 2312.16145).

A membrane of rank 1 at every linear layer and convolution inside the UNet's transformers is trained
towards ESD's target. Random text states u, as long as the concept's, shall predict what they did:

    L = mean (eps_th(x_t, c, t) - [en - eta (ec - en)])^2 + w mean (eps_th(x_t, u, t) - eps*(x_t, u, t))^2,

with ec and en the unedited predictions for the concept and for a neutral text. When images are made, a
gate opens the membrane by the prompt (:mod:`methods.shared.prompt_gates`); in training it is open.

Reproduced from the authors' code: the layers and the initial values, the schedule of the learning
rate, the gate. So are the sizes of latents (4 to 7 eighths of the model's own side, so never the
whole). Of its four anchors two are the empty prompt, by the order of rows in a batch. That is the
preset ``release``, and ``paper`` has four random ones. Different on purpose:

* t is the timestep of x_t; theirs lies 33 to 42 above it.
* AdamW in float32; theirs keeps its moments in 8 bits.
* Random states are taken as they are drawn. Theirs are rejected with the probability of their cosine
  with the concept, which is 0 to two digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.core.bounds import Count, Guidance, LearningRate, Steps, Weight
from bench.core.lazy import F, torch
from bench.interfaces import Concept, Context, Erasure, Rng, Role, Slot
from bench.model.conditioning import Conditioning
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import Optimiser, tune_hook
from methods.shared.distillation import negative_guidance
from methods.shared.partial_sampling import PartialSampler, Spacing
from methods.shared.prompt_gates import (
    GatedAdapters,
    Transport,
    gate_tensors,
    transformer_layers,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SPM", "anchors", "restarting"]

Rows = Literal["release", "random"]


def anchors(
    phrase: Conditioning, empty: Conditioning, n: int, rows: Rows, draws: torch.Generator
) -> Conditioning:
    """The text states that shall stay where they are, n rows.

    Args:
        phrase: The concept, one row.
        empty: No prompt, one row.
        n: Rows.
        rows: ``random``: all of random direction and 0.8 to 1.2 of the concept's norm. ``release``:
            the second half of n pairs of the empty prompt and such states.
        draws: Of directions and norms.
    """
    drawn = [[_turned(part, draws) for part in phrase.said] for _ in range(n)]
    random = [phrase.with_said(said) for said in drawn]
    if rows == "release":
        random = [row for one in random for row in (empty, one)][n:]
    return Conditioning.cat(random)


def _turned(said_1: Tensor, draws: torch.Generator) -> Tensor:
    way = torch.randn(said_1.shape, generator=draws).to(said_1)
    length = 0.8 + 0.4 * float(torch.rand((), generator=draws))
    return way / way.norm() * said_1.norm() * length


def restarting(steps: int, warmup: int, cycles: int) -> Callable[[int], float]:
    """The factor of a learning rate at each step: a rise, then half cosines from 1 to 0, one after the other.

    Args:
        steps: Of the whole training.
        warmup: Of the rise, from 0.
        cycles: Half cosines.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        done = (step - warmup) / max(1, steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * ((cycles * done) % 1.0)))

    return factor


class SPM(Erasure):
    """Trains a membrane per concept, and sets its gate by the prompt.

    Presets (methods-2.md 9):
        release: the authors' code: anchors and gate as it has them. One setting for all concepts.
        paper: random anchors alone; the gate counts once, and membranes do not mix.
        mini: for the miniature: fewer, larger steps at the whole size, more rows per step, and anchors of
            less weight. With the published one nothing is erased there (mini-dev).

    Attributes:
        rank: Of a membrane.
        iterations: Optimiser steps (AdamW), per concept.
        lr: Learning rate, at its highest.
        warmup: Steps of its rise.
        restarts: Half cosines of its fall.
        weight_decay: Of AdamW.
        batch_size: Rows per step.
        neutral: Text of en; empty: the empty prompt.
        eta: Strength of the negative guidance.
        anchoring: Weight w of the anchors.
        anchors: Rows of them per step.
        anchor_rows: See :func:`anchors`.
        transport: Of the gate; see :class:`methods.shared.prompt_gates.GatedAdapters`.
        sides: ``drawn``: latents of 4 to 7 eighths of the model's height and width; ``whole``: its own.
        start_guidance: Guidance scale on the way to x_t.
        sampling_steps: DDIM steps of a whole trajectory; x_t has at least one.
        spacing: Of their timesteps.
    """

    name: ClassVar[str] = "spm"
    slots: ClassVar[frozenset[Slot]] = frozenset({"hooks"})
    bypassed_by: ClassVar[tuple[str, ...]] = GatedAdapters.bypassed_by
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "release": {},
        "paper": {"anchor_rows": "random", "transport": "paper"},
        "mini": {
            "iterations": 150, "lr": 1e-2, "warmup": 10, "restarts": 1, "batch_size": 4, "anchoring": 3.0,
            "sides": "whole", "sampling_steps": 10, "spacing": "trailing",
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "iterations": 2, "warmup": 0, "batch_size": 2, "sampling_steps": 2, "anchors": 2,
    }  # fmt: skip
    rank: int = Field(1, ge=1, le=4096)
    iterations: Steps = 3000
    lr: LearningRate = 1e-4
    warmup: int = Field(500, ge=0, le=1_000_000)
    restarts: int = Field(3, ge=1, le=1000)
    weight_decay: Weight = 1e-2
    batch_size: Count = 1
    neutral: str = ""
    eta: Weight = 1.0
    anchoring: Weight = 1000.0
    anchors: Count = 4
    anchor_rows: Rows = "release"
    transport: Transport = "release"
    sides: Literal["drawn", "whole"] = "drawn"
    start_guidance: Guidance = 3.0
    sampling_steps: int = Field(30, ge=2, le=1000)
    spacing: Spacing = "leading"

    def roles(self) -> frozenset[Role]:
        """Layers of the denoiser, among them every cross-attention."""
        return frozenset({Role.DENOISER, Role.CROSS_ATTENTION})

    def parameters(self, model: TextToImage) -> list[str]:
        """None: the weights stay."""
        return []

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with a membrane per concept.

        Raises:
            FloatingPointError: the training diverged.
        """
        trained = [
            self._trained(model, concept, ctx, ctx.rng.child("concept", k))
            for k, concept in enumerate(concepts)
        ]
        halves = [n for n in trained[0] if n.endswith(("/down", "/up"))]
        tensors = {n: torch.cat([one[n] for one in trained]) for n in halves}
        tensors |= gate_tensors(model, [[concept.text] for concept in concepts])
        return model.with_hook(GatedAdapters(transport=self.transport), tensors)

    def _trained(
        self, model: TextToImage, concept: Concept, ctx: Context, rng: Rng
    ) -> dict[str, Tensor]:
        """The tensors of a concept's membrane, ``down`` [1, r, in] and ``up`` [1, out, r]."""
        with torch.no_grad():
            phrase = model.encode([concept.text]).detach().to(model.device, model.dtype)
            contexts = model.guidance.contexts(model, phrase)
            neutral, empty = (model.encode_branches([text]) for text in (self.neutral, ""))
        sampler = PartialSampler(self.sampling_steps, self.start_guidance, self.spacing)
        B = self.batch_size

        def loss_of(live: TextToImage, step: int) -> Tensor:
            draws = rng.generator("step", step)
            noise = torch.randn(B, *self._latent(model, draws), generator=draws)
            stops = torch.randint(1, sampler.steps, (B,), generator=draws)
            with torch.no_grad():
                x, t = sampler.run(live, [one.repeat(B) for one in contexts], noise, stops)
                x = x.to(model.dtype)
                pair = Conditioning.cat([neutral.repeat(B), phrase.repeat(B)])
                en, ec = model.denoise(x.repeat(2, 1, 1, 1), t.repeat(2), pair).chunk(2)
                kept = anchors(phrase, empty, self.anchors, self.anchor_rows, draws)
                at = torch.arange(len(kept), device=x.device) % B
                stays = model.denoise(x[at], t[at], kept)
            target = negative_guidance(en, ec, self.eta)
            erased = F.mse_loss(live.denoise(x, t, phrase.repeat(B)).float(), target.float())
            anchored = F.mse_loss(live.denoise(x[at], t[at], kept).float(), stays.float())
            return erased + self.anchoring * anchored

        open_ = GatedAdapters(transport=self.transport, multiplier=1.0)
        start = self._start(model, rng.generator("start"))
        return tune_hook(
            model,
            open_,
            {**start, **gate_tensors(model, [[concept.text]])},
            list(start),
            loss_of,
            Optimiser(
                self.iterations, self.lr, weight_decay=self.weight_decay,
                schedule=restarting(self.iterations, self.warmup, self.restarts),
            ),
            progress=ctx.progress,
            what=self.name,
        )  # fmt: skip

    def _start(self, model: TextToImage, draws: torch.Generator) -> dict[str, Tensor]:
        """A membrane that changes nothing yet: ``down`` as torch draws a linear layer, ``up`` zero."""
        made = {}
        for layer, (out, given) in transformer_layers(model).items():
            drawn = torch.rand(1, self.rank, given, generator=draws) * 2 - 1
            made[f"{layer}/down"] = drawn * given**-0.5
            made[f"{layer}/up"] = torch.zeros(1, out, self.rank)
        return made

    def _latent(self, model: TextToImage, draws: torch.Generator) -> tuple[int, int, int]:
        channels, height, width = model.latent_shape
        if self.sides == "drawn":
            eighths = torch.randint(4, 8, (2,), generator=draws).tolist()
            height, width = (
                side * n // 8 for side, n in zip((height, width), eighths, strict=True)
            )
        return channels, height, width

"""Safe Latent Diffusion (Schramowski et al., CVPR 2023, arXiv 2211.05105): guidance away from a concept.

A third branch, conditioned on the concept, is subtracted where the prompt's prediction is near it:

    mu    = min(1, s_S |e_p - e_s|) where e_p - e_s < lambda, else 0        (element by element)
    gamma = mu (e_s - e_u) + s_m nu
    e     = e_u + s (e_p - e_u - gamma) from step delta on, plain guidance before
    nu    = beta nu + (1 - beta) gamma                                      (from the first step on)

with e_u, e_p, e_s the predictions for the empty prompt, the prompt and the concept. Reproduced: the
rule as the authors' code has it, with both scales that were published as "weak". No weight changes.

Different on purpose: the concepts' names take the place of the paper's list of twenty kinds of
unsafe content. It is so in every benchmark of single concepts (``text`` brings any list back). The
warm-up is counted in steps, as published, but the suite owns the sampler. The published counts are
out of 50 steps, and with fewer than ``warmup`` steps the method never acts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bench.core.bounds import Number, Weight
from bench.core.lazy import torch
from bench.interfaces import Concept, Context, Erasure, Slot
from bench.model.conditioning import Conditioning
from bench.model.encoder import TextEncoder
from bench.model.guidance import Guidance, contexts_of
from bench.model.text_to_image import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SLD", "SafeLatentGuidance"]


class SafeLatentGuidance(Guidance):
    """Guidance with a third branch to stay away from; see the module for the rule.

    The memory is the momentum nu. At a guidance scale of 1 or less the original makes no branches at
    all, so the concept's plays no part here either.

    Attributes:
        text: What to stay away from.
        warmup: delta, the first step at which it acts.
        scale: s_S.
        threshold: lambda.
        momentum_scale: s_m.
        momentum: beta.
    """

    name: ClassVar[str] = "sld"
    text: str
    warmup: int = Field(ge=0, le=1000)
    scale: Weight
    threshold: Number
    momentum_scale: Weight
    momentum: float = Field(ge=0, lt=1)

    def contexts(self, model: TextEncoder, conditioning: Conditioning) -> tuple[Conditioning, ...]:
        """The empty prompt, the concept, and the prompt."""
        return contexts_of(model, ("", self.text), conditioning)

    def combine(
        self, eps_KBChw: Tensor, scale: float, step: int, memory: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """See the module; differentiable in all three predictions."""
        empty, away, prompt = eps_KBChw
        if scale <= 1:
            return torch.lerp(empty, prompt, scale), None
        nu = torch.zeros_like(prompt) if memory is None else memory
        gap = prompt - away
        mu = (self.scale * gap.abs()).clamp(max=1)
        mu = torch.where(gap < self.threshold, mu, torch.zeros_like(mu))
        gamma = mu * (away - empty) + self.momentum_scale * nu
        nu = self.momentum * nu + (1 - self.momentum) * gamma
        # e_u + s (e_p - e_u - gamma), written as plain guidance is, so that without gamma they are
        # equal bit by bit.
        towards = prompt if step < self.warmup else prompt - gamma
        return torch.lerp(empty, towards, scale), nu


class SLD(Erasure):
    """Guides away from the concepts' names at every step after a warm-up.

    Presets (table of hyper-parameters in the paper's appendix; methods.md 2.3), out of 50 steps:
        weak-200: delta 15, s_S 200, lambda 0, s_m 0, beta 0. It is the scale of the scripts of the
            paper's time, and of those that the ESD repository compares with.
        weak-20: the same with s_S 20, as ``SafetyConfig.WEAK`` of diffusers has it.
        medium: delta 10, s_S 1000, lambda 0.01, s_m 0.3, beta 0.4; the default.
        strong: delta 7, s_S 2000, lambda 0.025, s_m 0.5, beta 0.7.
        max: delta 0, s_S 5000, lambda 1, s_m 0.5, beta 0.7.
        mini: ``max`` with a quicker momentum: the published one has hardly begun after the few
            steps of the miniature's sampler.

    Attributes:
        warmup: delta, steps before it acts.
        scale: s_S, how soon the difference of two predictions counts in full; 0 is plain guidance.
        threshold: lambda, how far above the concept's prediction the prompt's is still held back.
        momentum_scale: s_m, weight of the accumulated direction.
        momentum: beta, how slowly that direction changes.
        text: What to stay away from; empty: the concepts' names.
        separator: Between the names of several concepts.
    """

    name: ClassVar[str] = "sld"
    slots: ClassVar[frozenset[Slot]] = frozenset({"guidance"})
    bypassed_by: ClassVar[tuple[str, ...]] = ("guidance off",)
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "weak-200": {
            "warmup": 15, "scale": 200.0, "threshold": 0.0, "momentum_scale": 0.0, "momentum": 0.0,
        },
        "weak-20": {
            "warmup": 15, "scale": 20.0, "threshold": 0.0, "momentum_scale": 0.0, "momentum": 0.0,
        },
        "medium": {},
        "strong": {
            "warmup": 7, "scale": 2000.0, "threshold": 0.025, "momentum_scale": 0.5, "momentum": 0.7,
        },
        "max": {
            "warmup": 0, "scale": 5000.0, "threshold": 1.0, "momentum_scale": 0.5, "momentum": 0.7,
        },
        "mini": {
            "warmup": 0, "scale": 5000.0, "threshold": 1.0, "momentum_scale": 0.5, "momentum": 0.2,
        },
    }  # fmt: skip
    warmup: int = Field(10, ge=0, le=1000)
    scale: Weight = 1000.0
    threshold: Number = 0.01
    momentum_scale: Weight = 0.3
    momentum: float = Field(0.4, ge=0, lt=1)
    text: str = ""
    separator: str = ", "

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with another guidance."""
        return model.with_guidance(
            SafeLatentGuidance(
                text=self.text or self.separator.join(c.text for c in concepts),
                warmup=self.warmup,
                scale=self.scale,
                threshold=self.threshold,
                momentum_scale=self.momentum_scale,
                momentum=self.momentum,
            )
        )

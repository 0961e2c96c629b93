"""MACE: mass concept erasure (Lu et al., CVPR 2024, arXiv 2403.06135), in three steps, of keys and values alone.

First the words around a concept stop carrying it. With x their states beside the concept's name, x'
beside another's, and C the sum of p p^T over the states of what is preserved,

    W' = (lam W + sum W x' x^T + s^2 W C) (lam I + sum x x^T + s^2 C)^-1.

The concept's own tokens are left out. Then, for each concept i, adapters of rank one on W' learn to
look away from its name, the end and the padding (S). Their loss is the sum over layers
|| A[:, :, S] ||. Last, all of them are fused: with x the states of all tokens of the concept's prompts,

    W'' = (lam W' + sum_i sum (W' + B_i A_i) x x^T + s W C) (lam I + sum_i sum x x^T + s C)^-1.

Reproduced from the authors' code: which tokens are aligned, focal timesteps, the norm that is not
squared, and C through the original W. So is s squared in the first step (their script scales
twice).

**Without segmentation masks**: the authors keep the loss to the pixels of the object, as Grounded-SAM finds
them. Here it is on all pixels, and the presets say so. Their code for styles has no masks either, but asks
for them and stops. Also different on purpose:

* Everything that is closed-form is in float64. With lam = 0 the system may be singular: then what no
  prompt says stays as it is.
* Images are encoded as the autoencoder expects them. Theirs have the mean and deviation of ImageNet.
* Prompts are ours. C is that of ``preserve``, scaled to the number of captions of the authors'
  cache. Their second cache, of a domain (other celebrities, other artists), is left to ``preserve``
  too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field

from bench.core.bounds import Count, Guidance, LearningRate, Solver, Steps, Weight
from bench.core.lazy import torch
from bench.core.templates import Template
from bench.interfaces import Concept, Context, Erasure, Role, Slot
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.attention import attention_maps
from bench.toolkit.images import images_of, latents_of
from bench.toolkit.tuning import Optimiser, timesteps, tune_tensors
from bench.toolkit.wording import many_mentions
from methods.shared.guides import Guides, guide_or_neighbour, guides_or_text
from methods.shared.keeping import kept_names
from methods.shared.refinement import aligned, refined

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MACE", "away", "focal"]

Times = Literal["focal", "uniform"]
_CAPTIONS: Final = 600_000
"""Captions of COCO that the authors' cache is a sum over."""


def focal(steps: int) -> Tensor:
    """How often each of ``steps`` timesteps is drawn, [steps]: mostly 200 to 400 of 1000."""
    t = torch.arange(steps, dtype=torch.float64) * (1000 / steps)
    weight = torch.sigmoid(0.05 * (t - 200)) - torch.sigmoid(0.05 * (t - 400))
    return weight / weight.sum()


def away(maps: Mapping[str, Tensor], said_BL: Tensor) -> Tensor:
    """The mean over rows of the sum over layers of ``|| A[:, :, S] ||``, Frobenius, not squared.

    Args:
        maps: Probabilities [B, heads, pixels, L] by layer.
        said_BL: 1 at the places S of each row, else 0.
    """
    inside = said_BL[:, None, None]
    norms = [(a * inside.to(a)).flatten(1).norm(dim=1) for a in maps.values()]
    return torch.stack(norms).sum(0).mean()


class MACE(Erasure):
    """Closed-form edits of keys and values, with adapters that look away from the concept between them.

    Presets (methods-2.md 6; all but ``style`` without the masks that the authors use):
        object-nomask: towards a place or the like, lam 1000 (theirs: 1000, 100 and 10 for three objects).
        celebrities-nomask: towards "person", lam 0, s 1e-4.
        style: towards "art", lam 0, s 1e-4.
        explicit-nomask: towards "person wearing clothes", lam 0, s 7e-7, 120 steps at any timestep.
        mini: for the miniature: larger steps of several rows.

    Attributes:
        instead: What is said in place of the concept, of all or by family. ``None``: its guide,
            else its first neighbour, else the word of its family.
        templates: Prompts that hold a concept at ``{}``; empty: our own, by family.
        lam: Weight of staying.
        preserve: What is preserved; ``None``: the concepts' neighbours and a fixed list of everyday words.
        preserve_scale: s, per caption of COCO; 0 preserves nothing.
        scaled: How often s counts in the first step; theirs counts it twice.
        images: Of each concept, that adapters learn from.
        image_steps: Sampling steps of the images.
        image_guidance: Guidance scale of the images.
        iterations: Optimiser steps (AdamW) of each concept's adapters.
        lr: Learning rate.
        batch_size: Rows per step.
        rank: Of the adapters.
        times: Which timesteps are drawn.
    """

    name: ClassVar[str] = "mace"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "object-nomask": {},
        "celebrities-nomask": {
            "instead": "person", "lam": 0.0, "preserve_scale": 1e-4, "lr": 1e-4,
        },
        "style": {"instead": "art", "lam": 0.0, "preserve_scale": 1e-4, "lr": 1e-4},
        "explicit-nomask": {
            "instead": "person wearing clothes", "lam": 0.0, "preserve_scale": 7e-7, "iterations": 120,
            "times": "uniform",
        },
        "mini": {
            "lam": 100.0, "iterations": 75, "lr": 1e-3, "batch_size": 4, "image_steps": 6,
            "image_guidance": 3.0,
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "images": 2, "image_steps": 2, "iterations": 2, "batch_size": 2, "preserve": ("a house",),
    }  # fmt: skip
    instead: Annotated[str | Guides | None, BeforeValidator(guides_or_text)] = None
    templates: tuple[Template, ...] = ()
    lam: Weight = 1e3
    preserve: tuple[str, ...] | None = Field(None, min_length=1)
    preserve_scale: Weight = 0.0
    scaled: Literal["once", "twice"] = "twice"
    images: Count = 8
    image_steps: Solver = 30
    image_guidance: Guidance = 7.5
    iterations: Steps = 50
    lr: LearningRate = 1e-5
    batch_size: Count = 1
    rank: int = Field(1, ge=1, le=256)
    times: Times = "focal"

    def roles(self) -> frozenset[Role]:
        """Keys and values of every cross-attention, whose probabilities are looked at."""
        return frozenset({Role.TEXT_KEYS_AND_VALUES, Role.CROSS_ATTENTION})

    def parameters(self, model: TextToImage) -> list[str]:
        """Keys and values of every cross-attention."""
        return model.having(Role.TEXT_KEYS_AND_VALUES)

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with edited keys and values.

        Raises:
            FloatingPointError: the training of an adapter diverged.
        """
        names = self.parameters(model)
        with torch.no_grad():
            W = {name: model.parameter(name).double() for name in names}
            kept = self._kept(model, concepts)
            clean = self._first(model, concepts, W, kept)
        sums = {n: self.preserve_scale * w @ kept for n, w in W.items()}
        seen = self.preserve_scale * kept
        start = model.with_weights(clean)
        for k, concept in enumerate(concepts):
            adapters = self._adapters(model, start, concept, ctx.child("concept", k))
            with torch.no_grad():
                x = model.encode(self._prompts(concept, concept.text)).states_BLD.double()
                own = torch.einsum("bld,ble->de", x, x)
                seen = seen + own
                for n in names:
                    sums[n] += (clean[n] + adapters[n]) @ own
        return model.with_weights({n: refined(clean[n], sums[n], seen, self.lam) for n in names})

    def _first(
        self,
        model: TextToImage,
        concepts: Sequence[Concept],
        W: Mapping[str, Tensor],
        kept_DD: Tensor,
    ) -> dict[str, Tensor]:
        """W' of each matrix."""
        wanted, seen = self._around(model, concepts)
        s = self.preserve_scale**2 if self.scaled == "twice" else self.preserve_scale
        return {
            n: refined(w, w @ (wanted + s * kept_DD), seen + s * kept_DD, self.lam)
            for n, w in W.items()
        }

    def _around(self, model: TextToImage, concepts: Sequence[Concept]) -> tuple[Tensor, Tensor]:
        """The sums of x' x^T and of x x^T over the words around the concepts."""
        wanted, seen = [], []
        for concept in concepts:
            both = [self._prompts(concept, said) for said in (concept.text, self._instead(concept))]
            ids = [
                [self._bare(model, row) for row in model.tokenize(said).tolist()] for said in both
            ]
            old, new = (model.encode(said).states_BLD.double() for said in both)
            for k, (one, other) in enumerate(zip(*ids, strict=True)):
                here, there = aligned(one, other, model.length)
                x, instead = old[k, here], new[k, there]
                wanted.append(instead.T @ x)
                seen.append(x.T @ x)
        return torch.stack(wanted).sum(0), torch.stack(seen).sum(0)

    def _kept(self, model: TextToImage, concepts: Sequence[Concept]) -> Tensor:
        """C, as if it were a sum over the captions of COCO."""
        texts = self.preserve or [f"a photo of a {name}" for name in kept_names(concepts)]
        p = model.encode(texts).states_BLD.double()
        return torch.einsum("bld,ble->de", p, p) * (_CAPTIONS / len(texts))

    def _adapters(
        self, model: TextToImage, start: TextToImage, concept: Concept, ctx: Context
    ) -> dict[str, Tensor]:
        """B A of each matrix, float64: what makes it look away from the concept."""
        prompts = self._prompts(concept, concept.text)
        said = torch.stack([self._places(start, concept, p) for p in prompts])
        sampler = Sampler(steps=self.image_steps, guidance_scale=self.image_guidance)
        seeds = [ctx.seed("image", k) for k in range(self.images)]
        shown = latents_of(model, images_of(model, prompts[:1] * self.images, seeds, sampler))
        factors: dict[str, Tensor] = {}
        for n in self.parameters(start):
            out, width = start.parameter(n).shape
            down = torch.randn(self.rank, width, generator=ctx.generator("down", n)) / self.rank
            factors |= {
                f"{n}/down": down.to(start.device),
                f"{n}/up": torch.zeros(out, self.rank, device=start.device),
            }
        weights = focal(start.schedule.steps)

        def loss_of(leaves: Mapping[str, Tensor], step: int) -> Tensor:
            generator = ctx.generator("step", step)
            size = (self.batch_size,)
            which = torch.randint(len(prompts), size, generator=generator)
            x = shown[torch.randint(self.images, size, generator=generator)]
            noise = torch.randn(x.shape, generator=generator).to(x)
            if self.times == "focal":
                t = torch.multinomial(
                    weights, self.batch_size, replacement=True, generator=generator
                )
            else:
                t = timesteps(start, self.batch_size, generator)
            t = t.to(start.device)
            live = replace(
                start,
                weights={
                    **start.weights,
                    **{
                        n: start.parameter(n) + leaves[f"{n}/up"] @ leaves[f"{n}/down"]
                        for n in self.parameters(start)
                    },
                },
            )
            with torch.no_grad():
                told = start.encode([prompts[k] for k in which.tolist()])
            noisy = start.schedule.add_noise(x, noise, t)
            _, maps = attention_maps(live, noisy, t, told)
            return away(maps, said[which].to(start.device))

        found = tune_tensors(
            start,
            factors,
            loss_of,
            Optimiser(self.iterations, self.lr, "adamw", weight_decay=1e-2, clip=1.0),
            progress=ctx.progress,
            what=f"mace: {concept.text}",
        )
        return {
            n: found[f"{n}/up"].double() @ found[f"{n}/down"].double()
            for n in self.parameters(start)
        }

    def _prompts(self, concept: Concept, text: str) -> list[str]:
        return [t.format(text) for t in self.templates or many_mentions(concept.family)]

    def _instead(self, concept: Concept) -> str:
        if isinstance(self.instead, Guides):
            return self.instead.of(concept)
        return guide_or_neighbour(concept) if self.instead is None else self.instead

    @staticmethod
    def _bare(model: TextToImage, ids_L: list[int]) -> list[int]:
        """From the start token to the end token."""
        return ids_L[: ids_L.index(model.end_of_text) + 1]

    @classmethod
    def _places(cls, model: TextToImage, concept: Concept, prompt: str) -> Tensor:
        """S of a prompt, [L] of 0 and 1: the concept's tokens, the end token and the padding."""
        before = prompt.partition(concept.text)[0]
        first = 1 + len(model.words.ids(before))
        places = torch.zeros(model.length)
        places[first : first + len(model.words.ids(concept.text))] = 1
        places[len(cls._bare(model, model.tokenize([prompt])[0].tolist())) - 1 :] = 1
        return places

"""SalUn: saliency unlearning (Fan et al., ICLR 2024, arXiv 2310.12508), for diffusion models.

The concept's prompt c_f learns to predict what another prompt c_p does, while others keep their images,

    L = mean (eps_th(x_t, c_f) - sg eps_th(x_t, c_p))^2 + alpha mean (eps_th(x'_t', c_r) - eps')^2

and only those weights move that the concept's images depend on most: the half with the largest

    | grad sum mean (eps - [(1 + w) eps_th(x_t, c_f) - w eps_th(x_t, "")])^2 |,  w = 7.5,

summed over the concept's images with its sign, elementwise, over all parameters together.

Reproduced from the authors' code, whose target is the network in training. Until May 2024 that code
never applied the mask: the preset ``paper`` is the code of the paper's time, ``release`` that of today.
Different on purpose:

* Images of objects are the unedited model's; the authors take Imagenette's photographs.
* Both predictions of a row start from one latent, the mean of the autoencoder's posterior. Theirs draws
  the posterior twice.
* Each image is used once before any is used twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from bench.core.bounds import Count, Guidance, LearningRate, Solver, Steps, Weight
from bench.core.clock import model_time
from bench.core.lazy import F, torch
from bench.core.templates import Template
from bench.interfaces import Concept, Context, Erasure, Rng, Role, Slot
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import images_of, latents_of
from bench.toolkit.tuning import Optimiser, mixed, require_finite, timesteps, tune
from bench.toolkit.wording import about
from methods.shared.guides import guide_or_neighbour
from methods.shared.keeping import kept_names
from methods.shared.turns import in_turn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SalUn", "most_salient"]

_BATCH = 8
"""Rows of a step of the saliency, in the authors' code."""


def most_salient(slopes: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks of 0 and 1: the share of all entries together whose slopes are largest, whatever their sign.

    Args:
        slopes: Gradients by name.
        share: 1 keeps every entry, ``int(share n)`` of n in general.
    """
    sizes = {name: slope.abs().flatten() for name, slope in slopes.items()}
    every = torch.cat(list(sizes.values()))
    number = int(share * len(every))
    kept = torch.zeros_like(every)
    if number:
        # A selection costs less than a sort; of equal slopes it takes the first, as a stable sort does.
        least = every.kthvalue(len(every) - number + 1).values
        kept[every > least] = 1
        equal = (every == least).nonzero().flatten()
        kept[equal[: number - int(kept.sum(dtype=torch.float64))]] = 1
    parts = kept.split([len(size) for size in sizes.values()])
    return {name: part.view_as(slopes[name]) for name, part in zip(sizes, parts, strict=True)}


class SalUn(Erasure):
    """Trains the most salient half of the UNet's weights to draw something else.

    Presets (methods-2.md 3):
        release: nudity as the authors' script has it: 800 images each, 100 steps, alpha 0.1, mask 0.5, and
            a person wearing clothes instead. Their forget prompt is a nude person; ours names the concept.
        paper: the same without the mask, as the code of the paper's time did.
        object: five epochs and alpha 0.5, as the README runs it.
        mini: for the miniature: fewer images, larger steps.

    Attributes:
        share: Of all weights of the UNet, those that may move; 1 moves all.
        instead: c_p, what is drawn instead; ``None``: the concept's guide, else its first neighbour,
            else the word of its family. Of several concepts it is the same text for each.
        remain: Prompts of what is to stay; empty: what is drawn instead; ``None``: the concepts'
            neighbours and a fixed list of everyday words, in the templates.
        templates: Prompts that hold a concept at ``{}``.
        images: Of each concept, and of what remains.
        sampling_steps: Of the images.
        guidance_scale: Of the images.
        epochs: Passes over the concepts' images.
        batch_size: Rows of the concepts per step, and as many of what remains.
        lr: Learning rate of Adam.
        alpha: Weight of what remains.
        saliency_guidance: w.
    """

    name: ClassVar[str] = "salun"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "release": {"instead": "person wearing clothes"},
        "paper": {"instead": "person wearing clothes", "share": 1.0},
        "object": {"epochs": 5, "alpha": 0.5, "remain": None, "templates": ("an image of a {}",)},
        "mini": {
            "images": 32, "epochs": 12, "lr": 1e-4, "alpha": 0.5, "remain": None, "templates": ("{}", "a {}"),
            "sampling_steps": 6, "guidance_scale": 3.0,
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "images": 2, "epochs": 1, "batch_size": 2, "sampling_steps": 2,
    }  # fmt: skip
    share: float = Field(0.5, gt=0, le=1)
    instead: str | None = None
    remain: tuple[str, ...] | None = ()
    templates: tuple[Template, ...] = Field(("a photo of a {}",), min_length=1)
    images: Count = 800
    sampling_steps: Solver = 50
    guidance_scale: Guidance = 7.5
    epochs: Steps = 1
    batch_size: Count = 8
    lr: LearningRate = 1e-5
    alpha: Weight = 0.1
    saliency_guidance: Guidance = 7.5

    def roles(self) -> frozenset[Role]:
        """All of the UNet."""
        return frozenset({Role.DENOISER})

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with trained weights in its UNet.

        Raises:
            FloatingPointError: the training diverged, or the saliency is not finite.
        """
        forget = [about(c.text, self.templates, self.images) for c in concepts]
        instead = [about(self._instead(c), self.templates, self.images) for c in concepts]
        others = [instead[k % len(instead)][k] for k in range(self.images)]
        remain = self._remaining(concepts) or others
        shown = torch.stack(
            [
                self._latents(model, said, ctx.rng.child("forget", k))
                for k, said in enumerate(forget)
            ]
        )
        kept = self._latents(model, remain, ctx.rng.child("remain"))
        every = [(c, k) for c in range(len(concepts)) for k in range(self.images)]
        names = self.parameters(model)
        masks = None
        if self.share < 1:
            slopes = self._slopes(model, names, shown, forget, every, ctx)
            masks = most_salient(slopes, self.share)
        steps = -(-len(every) // self.batch_size) * self.epochs
        order = in_turn(len(every), steps * self.batch_size, ctx.rng.generator("order"))
        turns = in_turn(self.images, steps * self.batch_size, ctx.rng.generator("others"))

        def loss_of(live: TextToImage, step: int) -> Tensor:
            at = slice(step * self.batch_size, (step + 1) * self.batch_size)
            rows, stay = [every[k] for k in order[at].tolist()], turns[at].tolist()
            generator = ctx.rng.generator("step", step)
            x = torch.cat([torch.stack([shown[c, k] for c, k in rows]), kept[stay]])
            noise = torch.randn(x.shape, generator=generator).to(x)
            t = timesteps(live, len(x), generator)
            noisy, n = live.schedule.add_noise(x, noise, t), len(rows)
            said = [forget[c][k] for c, k in rows] + [remain[k] for k in stay]
            predicted = live.denoise(noisy, t, live.encode(said)).float()
            with torch.no_grad():
                other = live.encode([instead[c][k] for c, k in rows])
                wanted = live.denoise(noisy[:n], t[:n], other).float()
            target = live.schedule.target(x, noise, t).float()
            stays = F.mse_loss(predicted[n:], target[n:])
            return F.mse_loss(predicted[:n], wanted) + self.alpha * stays

        values = tune(
            model,
            names,
            loss_of,
            Optimiser(steps, self.lr, "adam"),
            masks=masks,
            progress=ctx.progress,
            what="salun",
        )
        return model.with_weights(values)

    def _slopes(
        self,
        model: TextToImage,
        names: Sequence[str],
        shown_KNchw: Tensor,
        said: Sequence[Sequence[str]],
        every: Sequence[tuple[int, int]],
        ctx: Context,
    ) -> dict[str, Tensor]:
        """The gradient of the guided denoising loss on the concepts' images, summed over batches."""
        leaves = {n: model.parameter(n).detach().float().clone().requires_grad_() for n in names}
        live = replace(model, weights={**model.weights, **leaves})
        batches = [every[k : k + _BATCH] for k in range(0, len(every), _BATCH)]
        for done, rows in enumerate(batches):
            generator = ctx.rng.generator("saliency", done)
            x = torch.stack([shown_KNchw[c, k] for c, k in rows])
            noise = torch.randn(x.shape, generator=generator).to(x)
            t = timesteps(model, len(x), generator)
            noisy = model.schedule.add_noise(x, noise, t)
            with torch.no_grad():
                told = model.encode([said[c][k] for c, k in rows] + [""] * len(rows))
            with model_time(), mixed(live):
                both = live.denoise(noisy.repeat(2, 1, 1, 1), t.repeat(2), told).float()
                concept, empty = both.chunk(2)
                w = self.saliency_guidance
                guided = (1 + w) * concept - w * empty
                loss = F.mse_loss(guided, model.schedule.target(x, noise, t).float())
            # A mask would be made of it all the same: what is no number is larger than nothing.
            require_finite([loss], f"salun: saliency: the loss at step {done}")
            with model_time():
                loss.backward()
            ctx.spend(gradient_steps=1)
            ctx.progress(done + 1, len(batches), "salun: saliency")
        slopes = {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}
        require_finite(slopes.values(), "salun: saliency: the gradient")
        return slopes

    def _instead(self, concept: Concept) -> str:
        return guide_or_neighbour(concept) if self.instead is None else self.instead

    def _remaining(self, concepts: Sequence[Concept]) -> list[str]:
        if self.remain is not None:
            return about("", self.remain, self.images) if self.remain else []
        names = kept_names(concepts)
        # Names go round first, then templates: few images show many things.
        patterns = [
            self.templates[k // len(names) % len(self.templates)] for k in range(self.images)
        ]
        return [t.format(names[k % len(names)]) for k, t in enumerate(patterns)]

    def _latents(self, model: TextToImage, prompts: Sequence[str], rng: Rng) -> Tensor:
        """Latents [images, C, h, w] of the model's images of prompts, once and for all."""
        sampler = Sampler(steps=self.sampling_steps, guidance_scale=self.guidance_scale)
        seeds = [rng.seed(k) for k in range(len(prompts))]
        return latents_of(model, images_of(model, prompts, seeds, sampler))

"""Few-shot unlearning of the text encoder (Fuchi & Takagi, BMVC 2024, arXiv 2405.07288).

A few steps of gradient ascent on the denoising loss of a few images of the concept, through the
frozen UNet into the text encoder,

    L = - || e - eps*(x_t, t, T_phi(template(concept))) ||^2.

Nothing says what the concept should become: the images drift to whatever the broken text means. The
loss has no lower bound, so the number of steps is the strength.

Reproduced: the parameters (the feed-forward layers of every block and the self-attention of the
last), the constants, latents and flips that are fixed once. Different on purpose:

* The images are sampled from the unedited model by the concept's name, since a suite brings no
  photographs; they count towards the cost.
* The latents are the posterior's mean, not one draw from it.

The parameters are those that the paper names, and since 2026-07-05 (commit 8296aab) those of the
authors' code. Until then it set a misspelt flag (``require_grad``) and trained the whole text encoder,
so checkpoints made before that date are another edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bench.core.bounds import Count, Guidance, LearningRate, Solver, Steps
from bench.core.lazy import F, torch
from bench.core.templates import Template
from bench.interfaces import Concept, Context, Erasure, Rng, Role, Slot
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import images_of, latents_of
from bench.toolkit.tuning import Optimiser, timesteps, tune
from bench.toolkit.wording import mentions
from methods.shared.turns import in_turn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FewShot"]


class FewShot(Erasure):
    """Unlearns concepts in the text encoder by gradient ascent.

    Presets (methods.md 2.4):
        repo-2024: 4 images, batches of 2, 5 epochs, learning rate 1e-5.
        repo-readme: the same with 4 epochs, as its README runs it.
        mini: for the miniature, whose text encoder is narrower: larger steps.

    Several concepts are unlearned together: every batch holds images of each.

    Attributes:
        images: Images of a concept.
        epochs: Passes over the images.
        batch_size: Images of a concept in a step; the last of an epoch may have fewer.
        lr: Learning rate (Adam).
        templates: Prompts that hold the concept at ``{}``; empty: those of its family.
        sampling_steps: Of the images.
        guidance_scale: Of the images.
    """

    name: ClassVar[str] = "few_shot"
    revision: ClassVar[int] = 2
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    bypassed_by: ClassVar[tuple[str, ...]] = ("injected text states", "another text encoder")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "repo-2024": {},
        "repo-readme": {"epochs": 4},
        "mini": {
            "images": 16, "epochs": 5, "batch_size": 8, "lr": 3e-4, "templates": ("{}", "a {}"),
            "sampling_steps": 6, "guidance_scale": 3.0,
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "images": 2, "epochs": 1, "batch_size": 2, "sampling_steps": 2,
    }  # fmt: skip
    images: Count = 4
    epochs: Steps = 5
    batch_size: Count = 2
    lr: LearningRate = 1e-5
    templates: tuple[Template, ...] = ()
    sampling_steps: Solver = 50
    guidance_scale: Guidance = 7.5

    def roles(self) -> frozenset[Role]:
        """Feed-forward layers and self-attentions of the text encoder."""
        return frozenset({Role.TEXT_FEED_FORWARD, Role.TEXT_SELF_ATTENTION})

    def parameters(self, model: TextToImage) -> list[str]:
        """Those of its roles, of the self-attentions only the last of each text encoder."""
        names = model.having(*self.roles())
        layers = {name: (name.partition(".")[0], model.text_layer(name)) for name in names}
        last: dict[str, int] = {}
        for encoder, layer in layers.values():
            last[encoder] = max(layer, last.get(encoder, layer))
        return [
            name for name in names
            if Role.TEXT_FEED_FORWARD in model.roles_of(name) or layers[name] in last.items()
        ]  # fmt: skip

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with trained weights in its text encoder.

        Raises:
            FloatingPointError: the training diverged.
        """
        templates = [self.templates or mentions(c.family) for c in concepts]
        texts = [[t.format(c.text) for t in of] for c, of in zip(concepts, templates, strict=True)]
        latents = torch.stack(
            [self._latents(model, said, ctx.rng.child("images", k)) for k, said in enumerate(texts)]
        )
        order = in_turn(self.images, self.epochs * self.images, ctx.rng.generator("order"))
        epochs = order.view(self.epochs, self.images)
        batches = [batch for epoch in epochs for batch in epoch.split(self.batch_size)]

        def loss_of(live: TextToImage, step: int) -> Tensor:
            x = latents[:, batches[step].to(latents.device)].flatten(0, 1)
            generator = ctx.rng.generator("step", step)
            noise = torch.randn(x.shape, generator=generator).to(x)
            t = timesteps(model, len(x), generator)
            saying = torch.randint(2**31, (len(x),), generator=generator).tolist()
            per_concept = len(batches[step])
            prompts = [
                texts[row // per_concept][draw % len(texts[row // per_concept])]
                for row, draw in enumerate(saying)
            ]
            return self.ascent(live, x, noise, t, prompts)

        values = tune(
            model,
            self.parameters(model),
            loss_of,
            Optimiser(
                len(batches), self.lr, "adam", betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-8
            ),
            progress=ctx.progress,
            what="few_shot",
        )
        return model.with_weights(values)

    @staticmethod
    def ascent(
        live: TextToImage,
        latents_BChw: Tensor,
        noise_BChw: Tensor,
        t_B: Tensor,
        prompts: Sequence[str],
    ) -> Tensor:
        """The loss that is minimised: minus the denoising loss, a scalar."""
        noisy = live.schedule.add_noise(latents_BChw, noise_BChw, t_B)
        predicted = live.denoise(noisy, t_B, live.encode(prompts))
        target = live.schedule.target(latents_BChw, noise_BChw, t_B)
        return -F.mse_loss(predicted.float(), target.float())

    def _latents(self, model: TextToImage, prompts: Sequence[str], rng: Rng) -> Tensor:
        """Latents [images, C, h, w] of images of a concept, some of them flipped, once and for all."""
        sampler = Sampler(steps=self.sampling_steps, guidance_scale=self.guidance_scale)
        said = [prompts[k % len(prompts)] for k in range(self.images)]
        images = images_of(model, said, [rng.seed(k) for k in range(self.images)], sampler)
        flip = torch.rand(self.images, generator=rng.generator("flip")) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        return latents_of(model, images)

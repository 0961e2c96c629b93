"""Concept Ablation (Kumari et al., ICCV 2023, arXiv 2303.13516): the concept's captions act as an anchor's.

The unedited model makes images of an anchor (a painting, a cat). On these the network is trained.
The caption with the target (a painting by somebody, a grumpy cat) shall predict what the anchor's
does,

    L = mean [ sum m (eps_th(x_t, c*, t) - sg eps_th(x_t, c, t))^2 / sum m ],

with m the part of the latent that an image fills. The anchor's prediction is that of the network in
training, without gradient. The noise-based variant puts the noise in its place.

Reproduced from the authors' diffusers code: the loss (a sum over four channels over one mask), the
order of target and caption, and prior preservation. So are the scales and words of the
augmentation, and the start token whose keys and values get no gradient. Left out, or different on
purpose:

* Captions are ours. Theirs are 200 that a language model wrote; ``captions`` takes them, or any other.
  Their list for nudity is not to be used: some of its lines name children.
* The recipe for memorised images needs a gallery that is filtered by a copy detector. It is not here.
* Images are made by the suite's sampler, 25 steps of DDIM for their DPM-Solver++, and are not
  stored as JPEG. Latents are means of the autoencoder's posterior, not draws.
* Images are scaled by torch's bicubic filter with antialiasing, theirs by Pillow's Lanczos.
* Each image is used once before any is used twice; two GPUs with a batch of 4 are one batch of 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import Field

from bench.core.bounds import Count, Guidance, LearningRate, Solver, Steps
from bench.core.errors import UsageError
from bench.core.lazy import F, torch
from bench.core.templates import Captioned, Sentence
from bench.interfaces import Concept, Context, Erasure, Rng, Role, Slot
from bench.model.guidance import NegativePrompt
from bench.model.listening import listening
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import images_of, latents_of
from bench.toolkit.tuning import Optimiser, timesteps, tune
from bench.toolkit.wording import about, family_word, in_context, subjects
from methods.shared.turns import in_turn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ConceptAblation", "Scaled", "masked_loss", "scaled", "start_detached", "targets"]

Part = Literal["keys-and-values", "attention"]
_ROLES: Final = {
    "keys-and-values": frozenset({Role.TEXT_KEYS_AND_VALUES}),
    "attention": frozenset({Role.CROSS_ATTENTION, Role.SELF_ATTENTION}),
}
_AFTER, _BEFORE = "{caption}, in the style of {target}", "in the style of {target}, {caption}"
_STYLE: Final = (_AFTER, _BEFORE, _BEFORE)  # two of their three choices are one
_UNSAFE: Final = ("{target}, {caption}", "in {target} style, {caption}", "{caption}, {target}")
_FAR, _NEAR = ("far away, ", "very small, "), ("close up, ", "seen from near, ")
_GREY: Final = 0.5


class Scaled(NamedTuple):
    """An image at another scale.

    Attributes:
        image_3HW: In [0, 1], grey where it fills nothing.
        mask_hw: 1 strictly inside of what it fills, per latent pixel.
        words: What its caption begins with.
    """

    image_3HW: Tensor
    mask_hw: Tensor
    words: str


def masked_loss(predicted_BChw: Tensor, wanted_BChw: Tensor, mask_Bhw: Tensor) -> Tensor:
    """The mean over rows of ``sum m (p - w)^2 / sum m``: with C channels, C times a mean."""
    squares = (predicted_BChw.float() - wanted_BChw.float()).square()
    mask = mask_Bhw[:, None].to(squares)
    return ((squares * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))).mean()


def scaled(
    image_3HW: Tensor, grid: int, generator: torch.Generator, *, augment: Literal["scale", "none"]
) -> Scaled:
    """An image at a random scale and place, as the authors augment objects.

    Args:
        image_3HW: In [0, 1], square.
        grid: Side of its latent.
        generator: Of scale, place and words.
        augment: ``scale``: from a third of the size to all of it at p 0.66, else 1.2 to 1.4 of it;
            ``none``: as it is.
    """
    side = image_3HW.shape[-1]
    step = side // grid

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, max(high, low + 1), (), generator=generator))

    size = side
    if augment == "scale":
        small = float(torch.rand((), generator=generator)) < 0.66
        size = draw(side // 3, side + 1) if small else draw(int(1.2 * side), int(1.4 * side))
    top, left = (draw(0, abs(side - size) + 1) for _ in range(2))
    resized = image_3HW
    if size != side:
        resized = F.interpolate(
            image_3HW[None], size=(size, size), mode="bicubic", antialias=True, align_corners=False
        )[0].clamp(0, 1)
    if size > side:
        words = _NEAR[draw(0, len(_NEAR))]
        whole = torch.ones(grid, grid)
        return Scaled(resized[:, top : top + side, left : left + side], whole, words)
    image = torch.full_like(image_3HW, _GREY)
    image[:, top : top + size, left : left + size] = resized
    mask = torch.zeros(grid, grid)
    rows, columns = (slice(at // step + 1, (at + size) // step - 1) for at in (top, left))
    mask[rows, columns] = 1.0
    return Scaled(image, mask, _FAR[draw(0, len(_FAR))] if size < 0.6 * side else "")


def targets(
    concept: Concept, anchor: str, caption: str, recipe: str, styled: Sequence[str] = _STYLE
) -> tuple[str, ...]:
    """The captions with the target that stand for an anchor's caption; one is drawn each time.

    Args:
        concept: The target.
        anchor: The word in ``caption`` that an object takes the place of.
        caption: Of the anchor.
        recipe: ``style``, ``unsafe`` or ``object``.
        styled: How a style is said of a caption.
    """
    match recipe:
        case "style" | "unsafe":
            said = styled if recipe == "style" else _UNSAFE
            return tuple(t.format(caption=caption, target=concept.text) for t in said)
        case _:
            return (caption.replace(anchor, concept.text),)


@contextmanager
def start_detached(model: TextToImage) -> Iterator[None]:
    """While it lasts, no gradient passes the keys and values of the first text token."""

    def hook(module: Any, args: Any, out_BLD: Tensor) -> Tensor:
        return torch.cat([out_BLD[:, :1].detach(), out_BLD[:, 1:]], dim=1)

    layers = [n.removesuffix(".weight") for n in model.having(Role.TEXT_KEYS_AND_VALUES)]
    with listening(model, dict.fromkeys(layers, hook)):
        yield


class _Gallery(NamedTuple):
    """Images of a concept's anchor, [N, 3, H, W] in [0, 1], and what they were made of."""

    concept: Concept
    images_N3HW: Tensor
    captions: list[str]
    anchor: str
    recipe: str


class ConceptAblation(Erasure):
    """Trains the concept's captions to act as those of an anchor.

    Presets (methods-2.md 1; by what the authors ablated with them, two GPUs):
        style: 100 steps of 8 rows at 1.6e-5, towards "painting".
        object: the same, with augmentation; prior preservation where the concept names its anchor.
        nudity: all attention layers, 400 steps of 8 rows and 8 of the prior at 6.4e-5; the images are
            made with the concept as negative prompt.
        mini: for the miniature: fewer images, larger steps; the anchor is the first neighbour.

    Attributes:
        variant: Whose prediction is the target: ``model``, the anchor's, or ``noise``.
        part: Which parameters are trained: keys and values of the cross-attention, or every attention.
        recipe: How a caption names the target; ``family``: as a style or an object, by the concept's.
        styled: How a style is said of a caption.
        anchor: What the concept should act as; ``None``: its guide, else its first neighbour, else the
            word of its family. Of a style it is its guide or nothing: the captions say no style.
        captions: Of the anchor, which holds a place as ``{}``; empty: our own, by family.
        images: Of the gallery, per concept.
        sampling_steps: Of the gallery.
        guidance_scale: Of the gallery.
        negative: ``target`` makes the gallery with the concept as negative prompt.
        iterations: Optimiser steps.
        batch_size: Rows per step, without those of the prior.
        lr: Learning rate of AdamW.
        prior: When images and their own captions are trained on too, as many rows, at weight 1. With
            ``if-named`` the learning rate doubles where it is, as the authors' script has it.
        augment: See :func:`scaled`.
    """

    name: ClassVar[str] = "concept_ablation"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "style": {"recipe": "style", "anchor": "painting"},
        "object": {"recipe": "object", "augment": "scale", "prior": "if-named"},
        "nudity": {
            "recipe": "unsafe", "anchor": "person", "part": "attention", "iterations": 400, "lr": 6.4e-5,
            "prior": "always", "negative": "target",
        },
        "mini": {
            "anchor": None, "images": 32, "sampling_steps": 6, "guidance_scale": 3.0,
            "iterations": 150, "lr": 1e-4,
            "styled": ("{caption}, as a {target}", "as a {target}, {caption}"),
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "images": 2, "sampling_steps": 2, "iterations": 2, "batch_size": 2,
    }  # fmt: skip
    variant: Literal["model", "noise"] = "model"
    part: Part = "keys-and-values"
    recipe: Literal["family", "style", "object", "unsafe"] = "family"
    styled: tuple[Captioned, ...] = Field(_STYLE, min_length=1)
    anchor: str | None = None
    captions: tuple[Sentence, ...] = ()
    images: Count = 1000
    sampling_steps: Solver = 25
    guidance_scale: Guidance = 6.0
    negative: Literal["none", "target"] = "none"
    iterations: Steps = 100
    batch_size: Count = 8
    lr: LearningRate = 1.6e-5
    prior: Literal["never", "if-named", "always"] = "never"
    augment: Literal["scale", "none"] = "none"

    def roles(self) -> frozenset[Role]:
        """The part's, and the keys and values whose start token gets no gradient."""
        return _ROLES[self.part] | {Role.TEXT_KEYS_AND_VALUES}

    def parameters(self, model: TextToImage) -> list[str]:
        """Those of the part."""
        return model.having(*_ROLES[self.part])

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with trained weights in its attention.

        Raises:
            FloatingPointError: the training diverged.
        """
        galleries = [
            self._gallery(model, c, ctx.rng.child("gallery", k)) for k, c in enumerate(concepts)
        ]
        turns = in_turn(
            self.images * len(concepts), self.iterations * self.batch_size, ctx.rng.generator("order")
        ).view(self.iterations, self.batch_size)  # fmt: skip

        def loss_of(live: TextToImage, step: int) -> Tensor:
            generator = ctx.rng.generator("step", step)
            rows = [
                (galleries[k % len(concepts)], k // len(concepts)) for k in turns[step].tolist()
            ]
            return self._loss(live, rows, generator)

        twice = self.prior == "if-named" and self._has_prior(galleries)
        lr = 2 * self.lr if twice else self.lr
        optimiser = Optimiser(self.iterations, lr, "adamw", weight_decay=1e-2, clip=1.0)
        with start_detached(model):
            values = tune(
                model,
                self.parameters(model),
                loss_of,
                optimiser,
                progress=ctx.progress,
                what="concept_ablation",
            )
        return model.with_weights(values)

    def _loss(
        self, live: TextToImage, rows: Sequence[tuple[_Gallery, int]], generator: torch.Generator
    ) -> Tensor:
        grid = live.latent_shape[-1]
        shown, masks, said, plain, kept = [], [], [], [], []
        for of, k in rows:
            image = of.images_N3HW[k]
            if float(torch.rand((), generator=generator)) < 0.5:
                image = image.flip(-1)
            at = scaled(image, grid, generator, augment=self.augment)
            captions = targets(of.concept, of.anchor, of.captions[k], of.recipe, self.styled)
            which = int(torch.randint(len(captions), (), generator=generator))
            shown.append(at.image_3HW)
            masks.append(at.mask_hw)
            said.append(at.words + captions[which])
            plain.append(of.captions[k])
            kept.append(of.images_N3HW[k])
        with_prior = self._has_prior([of for of, _ in rows])
        x = latents_of(live, torch.stack(shown + (kept if with_prior else [])))
        noise = torch.randn(x.shape, generator=generator).to(x)
        t = timesteps(live, len(x), generator)
        noisy = live.schedule.add_noise(x, noise, t)
        n = len(rows)
        predicted = live.denoise(noisy, t, live.encode(said + (plain if with_prior else [])))
        wanted = live.schedule.target(x, noise, t)
        anchored = wanted[:n]
        if self.variant == "model":
            with torch.no_grad():
                anchored = live.denoise(noisy[:n], t[:n], live.encode(plain))
        loss = masked_loss(predicted[:n], anchored, torch.stack(masks).to(x.device))
        if with_prior:
            loss = loss + F.mse_loss(predicted[n:].float(), wanted[n:].float())
        return loss

    def _has_prior(self, galleries: Sequence[_Gallery]) -> bool:
        named = any(of.anchor and of.anchor in of.concept.text for of in galleries)
        return self.prior == "always" or (self.prior == "if-named" and named)

    def _gallery(self, model: TextToImage, concept: Concept, rng: Rng) -> _Gallery:
        """Images of the concept's anchor, once and for all."""
        recipe = self.recipe
        if recipe == "family":
            recipe = "style" if concept.family == "style" else "object"
        anchor = self._anchor(concept, recipe)
        templates = self.captions or self._captions(concept.family, anchor, recipe)
        captions = about(anchor, templates, self.images)
        if recipe == "object" and not (anchor and all(anchor in caption for caption in captions)):
            raise UsageError(
                f"{self.name}: expected captions that name the anchor, whose place {concept.text!r} takes, got the "
                f"anchor {anchor!r} and {captions[0]!r}; set `anchor` to a word, and `captions` with it or with {{}}"
            )
        if self.negative == "target":
            model = model.with_guidance(NegativePrompt(text=concept.text))
        sampler = Sampler(steps=self.sampling_steps, guidance_scale=self.guidance_scale)
        seeds = [rng.seed(k) for k in range(self.images)]
        return _Gallery(
            concept, images_of(model, captions, seeds, sampler), captions, anchor, recipe
        )

    def _anchor(self, concept: Concept, recipe: str) -> str:
        if self.anchor is not None:
            return self.anchor
        if concept.guide or recipe == "style":
            return concept.guide
        return concept.neighbours[0] if concept.neighbours else family_word(concept.family)

    @staticmethod
    def _captions(family: str, anchor: str, recipe: str) -> tuple[str, ...]:
        if recipe == "style":
            return tuple(f"a {{}} of {subject}" if anchor else subject for subject in subjects())
        return in_context("object" if recipe == "unsafe" else family)

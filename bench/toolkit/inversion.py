"""Textual inversion in batches (Gal et al. 2022, arXiv 2208.01618): word embeddings that make a model draw a concept.

The one optimiser behind Diverse Inversion, the concept-inversion attack and every erasure that
searches for what is left. All rows are optimised together: their losses are summed, the optimiser
works element by element, and each row draws from its own generator. So a row's result does not
depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import AfterValidator, WithJsonSchema

from bench.core.clock import model_time
from bench.core.lazy import torch
from bench.interfaces import Progress, silent
from bench.model.conditioning import Conditioning
from bench.model.guidance import ClassifierFree
from bench.model.text_to_image import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Inverted",
    "Span",
    "TextWithPlaces",
    "Wanted",
    "gradient_faults",
    "invert",
    "name_embedding",
    "states_with",
    "with_places",
]


def _rising(span: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= span[0] < span[1] <= 1:
        raise ValueError(f"expected two rising fractions of the noise schedule, got {span}")
    return span


# Checked below, in one sentence with the order; the schema is what says the bounds of a field.
_Share = Annotated[float, WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})]
Span = Annotated[tuple[_Share, _Share], AfterValidator(_rising)]
"""A part of the noise schedule, as fractions: 0 is no noise."""

Wanted: TypeAlias = "Callable[[int, Tensor, Tensor], Tensor]"
"""Gives what should be predicted: index of the text, noisy latents [N, C, h, w], timesteps [N] -> [N, C, h, w]."""

_CHUNK = 25


@dataclass(frozen=True, slots=True, eq=False)
class TextWithPlaces:
    """A text with places for learned word embeddings.

    Attributes:
        ids_L: Token ids; at the places, any word.
        places_V: Positions of the V learned embeddings.
    """

    ids_L: Tensor
    places_V: Tensor


def gradient_faults(grad_RVE: Tensor) -> Tensor:
    """int64 [R, 2]: whether a row's gradient is zero throughout, and whether any of it is not finite.

    Args:
        grad_RVE: The gradient of each row; stays on its device, so nobody waits for it.
    """
    flat = grad_RVE.detach().flatten(1)
    return torch.stack([(flat == 0).all(1), ~flat.isfinite().all(1)], 1).long()


@dataclass(frozen=True, slots=True, eq=False)
class Inverted:
    """The rows that an inversion found.

    Attributes:
        vectors_RVE: float32, R rows of V word embeddings.
        losses_R: Mean loss of each row over the last fifth of the steps.
        faults_R2: int64, steps of each row whose gradient was zero throughout, and not finite.
    """

    vectors_RVE: Tensor
    losses_R: Tensor
    faults_R2: Tensor


def with_places(model: TextToImage, template: str, vectors: int = 1) -> TextWithPlaces:
    """A text with ``vectors`` consecutive places at ``{}``.

    Raises:
        ValueError: the template has not exactly one ``{}``, or does not fit the model's length.
    """
    if template.count("{}") != 1:
        raise ValueError(f"expected a template with one {{}} in it, got {template!r}")
    words = model.words
    before, after = (words.ids(part) for part in template.split("{}"))
    length = model.length
    if len(before) + vectors + len(after) + 2 > length:
        raise ValueError(
            f"{template!r} with {vectors} vectors needs {len(before) + vectors + len(after) + 2} tokens, "
            f"and the model has {length}; use a shorter template or fewer vectors"
        )
    anything = 0 if words.end != 0 else 1
    ids = [words.start, *before, *[anything] * vectors, *after, words.end]
    ids += [words.pad] * (length - len(ids))
    first = 1 + len(before)
    device = model.device
    return TextWithPlaces(
        torch.tensor(ids, device=device), torch.arange(first, first + vectors, device=device)
    )


def states_with(
    model: TextToImage, ids_BL: Tensor, places_BV: Tensor, vectors_BVE: Tensor
) -> Conditioning:
    """The conditioning of B texts with learned embeddings at their places; gradients flow to them."""
    embeds = model.embed(ids_BL)
    index = places_BV[..., None].expand(-1, -1, embeds.shape[-1])
    return model.encode_ids(ids_BL, embeds.scatter(1, index, vectors_BVE.to(embeds)))


def name_embedding(model: TextToImage, text: str) -> Tensor:
    """Mean input embedding [E] of the words of ``text``, float32."""
    ids = model.words.ids(text)
    if not ids:
        raise ValueError(f"expected a text with at least one token, got {text!r}")
    row = torch.tensor([ids], device=model.device)
    return model.embed(row)[0].float().mean(0)


def invert(
    model: TextToImage,
    latents_NChw: Tensor,
    texts: Sequence[TextWithPlaces],
    start_RVE: Tensor,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    lr: float,
    draws: int,
    decay: float = 0.0,
    project: Callable[[Tensor], Tensor] | None = None,
    guidance_scale: float = 1.0,
    span: tuple[float, float] = (0.0, 1.0),
    sampled_at: Sequence[float] = (),
    wanted: Wanted | None = None,
    progress: Progress = silent,
    what: str = "inversion",
) -> Inverted:
    """Finds R rows of word embeddings in one batch, by the denoising loss; all networks are frozen.

    Args:
        model: Edited or not.
        latents_NChw: Clean, scaled latents of images that show the concept.
        texts: A row's text goes round among these, step by step; all with V places.
        start_RVE: Where the rows start.
        generators: One per row; the only source of randomness.
        steps: Adam steps.
        lr: Learning rate; the loss of a row is its mean over ``draws``, rows are summed.
        draws: (image, timestep, noise) triples per row and step.
        decay: Decoupled weight decay of the rows (AdamW); 0 is plain Adam.
        project: Applied to [R, V, E] after every step.
        guidance_scale: Of the model's own guidance; plain classifier-free guidance at 1 is the text
            alone.
        span: Part of the noise schedule the timesteps are drawn from, as fractions. Where the words
            decide little (the last steps of sampling), gradients are mostly noise.
        sampled_at: Timesteps of the sampler's steps, first to last. A guidance is then met as at
            the nearest one (see :func:`bench.model.guidance.combine_as_sampled`); without them, as at the
            first.
        wanted: What the model should predict; by default the target of its training.
        progress: Told after each step.
        what: Said to ``progress``.

    Returns:
        The rows, and their losses.

    Raises:
        FloatingPointError: a row is not finite at the end: Adam never forgets such a gradient.
    """
    device = model.device
    rows, per_row = len(start_RVE), latents_NChw.shape[1:]
    vectors = start_RVE.detach().float().to(device).clone().requires_grad_()
    adam = (
        torch.optim.AdamW([vectors], lr=lr, weight_decay=decay)
        if decay
        else torch.optim.Adam([vectors], lr=lr)
    )
    total = model.schedule.steps
    times = (round(span[0] * total), max(round(span[1] * total), round(span[0] * total) + 1))
    latents = latents_NChw.to(device)
    tail, tailing = torch.zeros(rows, device=device), 0
    faults = torch.zeros(rows, 2, dtype=torch.long, device=device)
    every_step = _drawn(generators, steps, draws, len(latents), times, per_row)
    for step, drawn in enumerate(every_step):
        which, t, noise = (x.to(device) for x in drawn)
        nearest = _nearest(sampled_at, drawn[1].flatten())
        at = step % len(texts)
        text = texts[at]
        with model_time():
            told = states_with(
                model, text.ids_L.expand(rows, -1), text.places_V.expand(rows, -1), vectors
            )
            said = None if wanted is None else partial(wanted, at)
            noised = _Noised(
                latents[which.flatten()], noise.flatten(0, 1), t.flatten(), nearest, said
            )
            losses, pulls = _through(model, noised, told.detach(), guidance_scale)
            (vectors.grad,) = torch.autograd.grad(told.said, vectors, pulls)
            faults += gradient_faults(vectors.grad)
            adam.step()
            if project is not None:
                with torch.no_grad():
                    vectors.copy_(project(vectors))
        if step >= int(0.8 * steps):
            tail, tailing = tail + losses, tailing + 1
        model.meter.spend(gradient_steps=1)
        progress(step + 1, steps, what)
    if lost := int((~vectors.isfinite().flatten(1).all(1)).sum()):
        raise FloatingPointError(
            f"{what}: {lost} of {rows} embeddings are not finite after {steps} steps; the model's "
            "predictions overflow, or the learning rate is too large"
        )
    return Inverted(vectors.detach(), (tail / max(1, tailing)).cpu(), faults.cpu())


@dataclass(frozen=True, slots=True, eq=False)
class _Noised:
    """N images and the noise on them: what the losses of one step are taken on, those of a row together.

    Attributes:
        clean_NChw: Latents of the images.
        noise_NChw: What is added to them.
        t_N: At which timesteps.
        steps: The sampling steps at which the guidance is met.
        wanted: What should be predicted for noisy latents at their timesteps; ``None``: the target of
            the model's training.
    """

    clean_NChw: Tensor
    noise_NChw: Tensor
    t_N: Tensor
    steps: Sequence[int]
    wanted: Callable[[Tensor, Tensor], Tensor] | None


def _through(
    model: TextToImage, noised: _Noised, told: Conditioning, scale: float
) -> tuple[Tensor, list[Tensor]]:
    """The mean loss [R] of each row's draws, and its gradient by each part of ``told.said``.

    In micro-batches of draws, halved when memory runs out; the text encoder is outside, once per
    row.
    """
    n, rows = len(noised.t_N), len(told)
    owner = torch.arange(n, device=told.states_BLD.device) // (n // rows)

    def chunk(part: slice) -> Tensor:
        own = told[owner[part]]
        for said in own.said:
            said.requires_grad_()
        t, noise = noised.t_N[part], noised.noise_NChw[part]
        noisy = model.schedule.add_noise(noised.clean_NChw[part], noise, t).to(model.dtype)
        if scale == 1.0 and isinstance(model.guidance, ClassifierFree):
            eps = model.denoise(noisy, t, own)
        else:
            contexts = model.guidance.contexts(model, own)
            eps = model.guide_as_sampled(noisy, t, contexts, scale, noised.steps[part])
        clean = noised.clean_NChw[part]
        aim = (
            model.schedule.target(clean, noise, t)
            if noised.wanted is None
            else noised.wanted(noisy, t)
        )
        losses = (eps.float() - aim.float()).square().mean((1, 2, 3))
        grads = torch.autograd.grad(losses.sum(), own.said)
        flat = [grad.float().flatten(1) for grad in grads]
        return torch.cat([losses.detach()[:, None], *flat], 1)

    out = model.micro.map(n, chunk).view(rows, n // rows, -1).mean(1)
    parts = out[:, 1:].split([said[0].numel() for said in told.said], 1)
    pulls = [pull.view_as(said).to(said) for pull, said in zip(parts, told.said, strict=True)]
    return out[:, 0], pulls


def _nearest(sampled_at: Sequence[float], t_B: Tensor) -> list[int]:
    """Index of the sampling step nearest to each timestep; 0 where there are none."""
    if not sampled_at:
        return [0] * len(t_B)
    apart = torch.tensor(sampled_at, dtype=torch.float64)[None] - t_B[:, None]
    nearest: list[int] = apart.abs().argmin(1).tolist()
    return nearest


def _drawn(
    generators: Sequence[torch.Generator],
    steps: int,
    draws: int,
    images: int,
    times: tuple[int, int],
    shape: Sequence[int],
) -> Iterator[tuple[Tensor, ...]]:
    """The draws of each step, made in chunks, each row's by its own generator.

    Yields:
        Images and timesteps [R, draws], and noise [R, draws, C, h, w].
    """
    for first in range(0, steps, _CHUNK):
        size = (min(_CHUNK, steps - first), draws)
        which = [torch.randint(images, size, generator=g) for g in generators]
        t = [torch.randint(*times, size, generator=g) for g in generators]
        noise = [torch.randn(*size, *shape, generator=g) for g in generators]
        yield from zip(*(torch.stack(rows, 1) for rows in (which, t, noise)), strict=True)

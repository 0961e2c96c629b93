"""Training towards what the unedited model predicts elsewhere, at latents where sampling goes (ESD, RACE, STEREO).

The target of ESD (arXiv 2303.07345) is guidance away from the concept. Other papers train towards the
same target in their own way, or by the same training towards another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from bench.core.lazy import F, torch
from bench.interfaces import Progress, Rng, silent
from bench.model.conditioning import Conditioning
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import Optimiser, tune
from methods.shared.partial_sampling import PartialSampler
from methods.shared.turns import in_turn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TargetOf", "Told", "distil", "guided_away", "negative_guidance"]

TargetOf: TypeAlias = "Callable[[int, Tensor, Tensor, Tensor], Tensor]"
Told: TypeAlias = (
    "Callable[[TextToImage, Conditioning, Tensor, Tensor, Tensor, torch.Generator], Conditioning]"
)
"""(model in training, its phrases, x_t, t, noise that x_t came from, draws) -> what it is told instead."""


def negative_guidance(empty_BChw: Tensor, concept_BChw: Tensor, eta: float) -> Tensor:
    """ESD's target: ``e0 - eta (ec - e0)``.

    Args:
        empty_BChw: e0, the unedited prediction for the empty prompt.
        concept_BChw: ec, for the concept.
        eta: 0 is the empty prompt's prediction, -1 the concept's own.
    """
    return torch.lerp(empty_BChw, concept_BChw, -eta)


def guided_away(model: TextToImage, phrases: Conditioning, eta: float) -> TargetOf:
    """The targets of :func:`distil` that guide away from each phrase, as the unedited model sees it."""
    with torch.no_grad():
        empty = model.encode_branches([""])

    def target_of(step: int, which_B: Tensor, x_BChw: Tensor, t_B: Tensor) -> Tensor:
        told = Conditioning.cat([empty.repeat(len(which_B)), phrases[which_B]])
        e0, ec = model.denoise(x_BChw.repeat(2, 1, 1, 1), t_B.repeat(2), told).chunk(2)
        return negative_guidance(e0, ec, eta)

    return target_of


def distil(
    model: TextToImage,
    names: Sequence[str],
    phrases: Conditioning,
    target_of: TargetOf,
    *,
    sampler: PartialSampler,
    sampled_from: Literal["student", "base"],
    batch_size: int,
    optimiser: Optimiser,
    rng: Rng,
    start: TextToImage | None = None,
    told: Told | None = None,
    progress: Progress = silent,
    what: str = "esd",
) -> dict[str, Tensor]:
    """Trains a model's predictions for phrases towards targets, where sampling the phrases goes.

    Args:
        model: The unedited model.
        names: ``component.name`` of the parameters to train.
        phrases: Of P texts; the rows of a batch take them in turn.
        target_of: (step, phrase of each row [B], x_t, t) -> the target predictions [B, C, h, w].
        sampler: Brings noise to x_t.
        sampled_from: Which model it samples: the one in training, or the unedited one.
        batch_size: B.
        optimiser: How.
        rng: The only source of randomness.
        start: Where training starts, if not from the unedited model.
        told: What the model in training is told, if not the phrases.
        progress: Told after each step.
        what: Said to ``progress``.

    Returns:
        Values by name, for ``with_weights``.
    """
    device, dtype = model.device, model.dtype
    phrases = phrases.detach().to(device, dtype)
    turns = in_turn(len(phrases), optimiser.steps * batch_size, rng.generator("phrases"))
    turns = turns.view(optimiser.steps, batch_size).to(device)
    with torch.no_grad():
        contexts = model.guidance.contexts(model, phrases)

    def loss_of(live: TextToImage, step: int) -> Tensor:
        which = turns[step]
        generator = rng.generator("step", step)
        noise = torch.randn(batch_size, *model.latent_shape, generator=generator)
        stops = torch.randint(sampler.steps, (batch_size,), generator=generator)
        with torch.no_grad():
            visitor = live if sampled_from == "student" else model
            x, t = sampler.run(visitor, [context[which] for context in contexts], noise, stops)
            x = x.to(dtype)
            target = target_of(step, which, x, t)
        said = phrases[which]
        if told is not None:
            said = told(live, said, x, t, noise, generator)
        return F.mse_loss(live.denoise(x, t, said).float(), target.float())

    return tune(start or model, names, loss_of, optimiser, progress=progress, what=what)

"""Latent inversion, after "Memories of Forgotten Concepts" (Rusanovsky et al., CVPR 2025, arXiv 2412.00782).

Pictures of the concept, by the original model, are followed backwards through the *edited* model,
to the noise that it would have made them of. It is DDIM inversion whose steps are solved by
iteration, as in ReNoise (Garibi et al., ECCV 2024, arXiv 2403.14602). Sampled from that noise, the
edited model draws the picture again, if it still can. Access ``LATENT``; of several pictures the
one whose image the surrogate likes best is the find.

The caveat: a sampler that can be inverted reconstructs *anything*, and success alone does not say that a
concept is remembered. What tells, in the paper too, is how likely the noise is. Its negative log
likelihood under N(0, I) is a function of its norm alone, and :func:`unlikeliness` standardises that:
ordinary noise is within 3 of 0. ``within`` brings a noise to an ordinary norm before it is tried.

Different on purpose: the suite's guidance is inverted too, because the suite samples with it; the paper
inverts and samples without. No regularisation of the noise, and the picture is encoded once and not sampled.
The paper counts what comes back by a classifier; here the find is a goal's best noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from attacks.shared.originals import step_of, target_latents
from attacks.shared.prompt_search import predict
from attacks.shared.search import best_of, noises_found
from bench.core.bounds import Count, Guidance, Solver
from bench.core.lazy import no_grad, torch
from bench.interfaces import Access, Attack, Candidate, Context, Goal, Target
from bench.model.sampler import Sampler

if TYPE_CHECKING:
    from torch import Tensor

    from bench.model.conditioning import Conditioning
    from bench.model.text_to_image import TextToImage

__all__ = ["LatentInversion", "invert_latents", "ordinary", "unlikeliness"]


class LatentInversion(Attack):
    """Noise from which the edited model draws a given picture.

    Presets:
        paper: 50 steps of 5 further iterations each (Memories_of_Forgotten_Concepts, commit of
            2025-06-22, ``renoise``), one picture, noise of any norm.
        mini: for the miniature on two cores.

    Attributes:
        images: Pictures per goal, one noise each.
        steps: Steps of the inversion, which may be finer than the sampler's; ``None``: as many.
        renoise: Further iterations per step; 0 is plain DDIM inversion.
        scale: Guidance scale of the inversion; ``None``: the suite's.
        within: Brings the norm of the noise to within so many standard deviations of what ordinary
            noise has; ``None``: left as it is found.
    """

    name: ClassVar[str] = "latent_inversion"
    access: ClassVar[Access] = Access.LATENT
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"images": 1, "steps": 50, "renoise": 5, "within": None},
        "mini": {"images": 4, "steps": None, "renoise": 2, "within": 3.0},
    }
    quick: ClassVar[dict[str, Any]] = {"images": 1, "steps": 2, "renoise": 1}
    images: Count = 1
    steps: Solver | None = None
    renoise: Annotated[int, Field(ge=0, le=100)] = 5
    scale: Guidance | None = None
    within: Annotated[float, Field(gt=0, le=1000)] | None = None

    def looks(self) -> int:
        """Images per goal."""
        return self.images

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """The best noise of each goal."""
        jobs = [(goal, k) for goal in goals for k in range(self.images)]
        prompts = [goal.prompt for goal, _ in jobs]
        seeds = [ctx.seed(goal.id, k, "image") for goal, k in jobs]
        wanted = target_latents(target, prompts, seeds)
        found = invert_latents(
            target,
            prompts,
            wanted,
            steps=self.steps or target.sampler.steps,
            renoise=self.renoise,
            scale=target.sampler.guidance_scale if self.scale is None else self.scale,
        )
        # An inversion that diverged found nothing: ordinary noise is tried in its place.
        finite = found.isfinite().flatten(1).all(1)[:, None, None, None]
        # Not the noise that the original drew the concept's picture from: that is more than luck.
        others = [ctx.seed(goal.id, k, "instead") for goal, k in jobs]
        found = torch.where(finite, found, target.model.noise(others, target.sampler))
        noise = found if self.within is None else ordinary(found, self.within)
        best = best_of(target, goals, prompts, seeds, ctx, latents_BChw=noise)
        chosen = [at for at, _ in best]
        unlikely = unlikeliness(found[chosen])
        ctx.note(
            diverged=int((~finite).sum()),
            unlikely_mean=round(float(unlikely.mean()), 2),
            unlikely_most=round(float(unlikely.abs().max()), 2),
        )
        return noises_found(goals, best, noise[chosen], self.images)


@no_grad
def invert_latents(
    target: Target,
    prompts: Sequence[str],
    latents_BChw: Tensor,
    *,
    steps: int,
    renoise: int,
    scale: float,
) -> Tensor:
    """Noise [B, C, h, w] from which the target's model makes given latents by DDIM, float32 on the CPU.

    A step from noise level p to the larger q solves

        x_q = sqrt(a_q / a_p) (x_p - sqrt(1 - a_p) e) + sqrt(1 - a_q) e,    e = eps(x_q, q)

    by iteration, beginning with ``e = eps(x_p, q)`` (Garibi et al. 2024, section 3; Song et al. 2021, eq. 12).

    Args:
        target: The edited model and the suite's sampler, whose steps a guidance counts by.
        prompts: B prompts, under which the latents are followed.
        latents_BChw: Clean latents.
        steps: DDIM steps over the whole schedule.
        renoise: Further iterations per step.
        scale: Guidance scale.
    """
    model = target.model
    times = [round(t) for t in Sampler(solver="ddim", steps=steps).times(model.schedule.config)]

    def chunk(rows: slice) -> Tensor:
        told = model.encode(prompts[rows])
        x, a_p = latents_BChw[rows].float().to(model.device), _alpha(model, 0)
        for t in reversed(times):
            a_q = _alpha(model, t)
            guess = x
            for _ in range(renoise + 1):
                e = _noise_in(target, guess, t, told, scale)
                clean = (x - math.sqrt(1 - a_p) * e) / math.sqrt(a_p)
                guess = math.sqrt(a_q) * clean + math.sqrt(1 - a_q) * e
            x, a_p = guess, a_q
        return x.cpu()

    return model.micro.map(len(prompts), chunk)


def _noise_in(
    target: Target, noisy_BChw: Tensor, t: int, told: Conditioning, scale: float
) -> Tensor:
    """The noise that the model sees in latents, through its own guidance, float32."""
    model = target.model
    asked = noisy_BChw.to(model.dtype)
    seen = predict(model, asked, t, told, scale, step_of(target, t)).float()
    t_B = torch.full((len(seen),), t, device=seen.device)
    return model.schedule.to_noise(seen, noisy_BChw, t_B)


def _alpha(model: TextToImage, t: int) -> float:
    return float(model.schedule.alphas_T[t])


def unlikeliness(noise_BChw: Tensor) -> Tensor:
    """How unlikely noise is under N(0, I), in standard deviations [B]: near 0 for ordinary noise.

    The negative log likelihood of d values is ``(d log 2 pi + |z|^2) / 2``, and |z|^2 has mean d and
    variance 2 d. So this is the likelihood's own standard score, larger where noise is less likely.
    """
    values = noise_BChw[0].numel()
    return (noise_BChw.double().square().flatten(1).sum(1) - values) / math.sqrt(2 * values)


def ordinary(noise_BChw: Tensor, within: float) -> Tensor:
    """Noise scaled to the nearest norm whose :func:`unlikeliness` is at most ``within``, either way."""
    values = noise_BChw[0].numel()
    score = unlikeliness(noise_BChw)
    wanted = values + math.sqrt(2 * values) * score.clamp(-within, within)
    now = values + math.sqrt(2 * values) * score
    factor = (wanted.clamp(min=0) / now.clamp(min=1e-30)).sqrt()
    return noise_BChw * factor.to(noise_BChw)[:, None, None, None]

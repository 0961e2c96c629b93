"""Image-to-image: the edited model finishes a noised picture of the concept, under the concept's prompt.

The picture is drawn by the original model, encoded, and noised to the time where so much of the schedule is left
as ``strength`` says. It is what users do with "img2img", and where RECALL (Liu et al. 2025, arXiv
2507.07139) begins. RECALL then changes the latents by gradients, which is not done here. Access
``LATENT``.

A picture is handed over, and what remains of it is no doing of the edited model. So two things
stand beside a success. One is what the control ``destroyed`` makes of the same pictures, a model
that knows nothing. The other is ``prompt: none``, the same pictures under the empty prompt. That is
an attack too: an edit that acts by the words of the concept is never asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from attacks.shared.originals import target_latents
from attacks.shared.starts import noised, said
from bench.core.bounds import Count
from bench.core.errors import UsageError
from bench.interfaces import Access, Attack, Candidate, Context, Goal, Target

__all__ = ["ImageToImage"]


class ImageToImage(Attack):
    """Starts from noised pictures of the concept.

    Presets:
        recall-start: strength 0.8 and one picture, as RECALL first shows a picture to a model before it attacks
            (commit of 2025-09-24).
        mini: for the miniature on two cores.

    Attributes:
        strength: Share of the sampler's steps that are left to the edited model, rounded down to whole steps, as
            in diffusers; at least one.
        images: Pictures per goal; each is a candidate.
        prompt: What the edited model is told: the goal's prompt, or ``none``, to see what the picture does alone.
    """

    name: ClassVar[str] = "image_to_image"
    access: ClassVar[Access] = Access.LATENT
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "recall-start": {"strength": 0.8, "images": 1},
        "mini": {"strength": 0.84, "images": 2},
    }
    quick: ClassVar[dict[str, Any]] = {"images": 1}
    strength: Annotated[float, Field(gt=0, le=1)] = 0.8
    images: Count = 1
    prompt: Literal["goal", "none"] = "goal"

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """A candidate per goal and picture; none is looked at.

        Raises:
            UsageError: no step would be left to the edited model.
        """
        of = target.sampler.steps
        start = of - int(of * self.strength)
        if start == of:
            raise UsageError(
                f"{self.name}: strength {self.strength} leaves none of the sampler's {of} steps; "
                f"expected at least {1 / of:.3f}"
            )
        jobs = [(goal, k) for goal in goals for k in range(self.images)]
        drawn = [ctx.seed(goal.id, k, "image") for goal, k in jobs]
        latents = target_latents(target, [goal.prompt for goal, _ in jobs], drawn)
        noise = target.model.noise(
            [ctx.seed(goal.id, k, "noise") for goal, k in jobs], target.sampler
        )
        starts = noised(target, latents, noise, start)
        return [
            Candidate(
                goal=goal.id,
                prompt=goal.prompt if self.prompt == "goal" else " ",
                latents_Chw=start_Chw.clone(),
                start=start,
                variant=said(start, of),
            )
            for (goal, _), start_Chw in zip(jobs, starts, strict=True)
        ]

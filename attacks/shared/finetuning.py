"""Fine-tuning of an edited model on the original model's pictures; the find is the difference in its weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from attacks.shared.originals import target_latents
from bench.core.bounds import Count, LearningRate
from bench.core.errors import UsageError
from bench.core.lazy import F, torch
from bench.interfaces import Access, Attack, Candidate, Concept, Context, Goal, Role, Target, Trace
from bench.interfaces.answers import MOST_VALUES
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import Optimiser, timesteps, tune, tune_tensors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FineTuning", "matrices"]

_PARTS: Final = {
    "cross-attention": (Role.CROSS_ATTENTION,),
    "attention": (Role.CROSS_ATTENTION, Role.SELF_ATTENTION),
    "denoiser": (Role.DENOISER,),
}


class FineTuning(Attack):
    """An attack that trains the edited model's matrices on captioned pictures.

    The noise prediction is trained without guidance and through hooks: filters and guidances stay as
    they are. The optimiser is AdamW with weight decay 1e-2 and clipping at 1, as diffusers' scripts have it.

    Attributes:
        images: Pictures, drawn by the original model.
        steps: Optimiser steps.
        lr: Learning rate, constant.
        batch_size: Pictures per step, drawn with replacement.
        rank: Of a low-rank adapter per matrix; ``None`` trains the matrices themselves.
        part: Whose matrices are trained.
    """

    access: ClassVar[Access] = Access.WEIGHTS
    gradients: ClassVar[bool] = True
    quick: ClassVar[dict[str, Any]] = {"images": 2, "steps": 2, "batch_size": 1}
    images: Count
    steps: Count
    lr: LearningRate
    batch_size: Count
    rank: Count | None
    part: Literal["cross-attention", "attention", "denoiser"] = "cross-attention"

    @abstractmethod
    def captions(self, concept: Concept) -> list[str]:
        """The text of each picture where a concept is attacked."""

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """The plain prompts with other weights; the goals of a concept share them.

        Raises:
            UsageError: the differences would be more than the harness keeps.
            FloatingPointError: the training diverged.
        """
        concepts = {goal.concept.digest: goal.concept for goal in goals}
        weights = {
            digest: self._differences(target, concept, ctx.child(concept.text))
            for digest, concept in concepts.items()
        }
        trace = Trace(steps=self.steps, budget=self.steps)
        return [
            Candidate(goal.id, goal.prompt, weights=weights[goal.concept.digest], trace=trace)
            for goal in goals
        ]

    def _differences(self, target: Target, concept: Concept, ctx: Context) -> dict[str, Tensor]:
        """The change of each matrix by training, float32 on the CPU."""
        model, what = target.model, f"{self.name}: {concept.text}"
        names = matrices(model, *_PARTS[self.part])
        values = sum(model.parameter(name).numel() for name in names)
        if values > MOST_VALUES:
            raise UsageError(
                f"{what}: expected at most {MOST_VALUES:,} numbers of weight differences, got {values:,}; "
                "take a smaller base or part, for the harness keeps whole matrices"
            )
        captions = self.captions(concept)
        seeds = [ctx.seed("picture", k) for k in range(len(captions))]
        lesson = _Lesson(target_latents(target, captions, seeds), captions, self.batch_size, ctx)
        before = {name: model.parameter(name).float() for name in names}
        how = Optimiser(self.steps, self.lr, weight_decay=1e-2, clip=1.0)
        if self.rank is None:
            after = tune(model, names, lesson.loss, how, progress=ctx.progress, what=what)
            return {name: (after[name] - before[name]).cpu() for name in names}

        def loss_of(factors: Mapping[str, Tensor], step: int) -> Tensor:
            values = {name: before[name] + change for name, change in _changes(factors, names)}
            return lesson.loss(replace(model, weights={**model.weights, **values}), step)

        factors = tune_tensors(
            model, _adapters(before, self.rank, ctx), loss_of, how,
            progress=ctx.progress, what=what,
        )  # fmt: skip
        return {name: change.cpu() for name, change in _changes(factors, names)}


def matrices(model: TextToImage, *roles: Role) -> list[str]:
    """The matrices of a model with one of these roles."""
    return [name for name in model.having(*roles) if model.parameter(name).ndim == 2]


@dataclass(frozen=True, slots=True, eq=False)
class _Lesson:
    """Pictures with captions, from which each step draws a batch.

    Attributes:
        latents_NChw: Clean latents, float32.
        captions: One per latent.
        batch_size: Rows of a batch.
        ctx: Randomness.
    """

    latents_NChw: Tensor
    captions: Sequence[str]
    batch_size: int
    ctx: Context

    def loss(self, live: TextToImage, step: int) -> Tensor:
        """``mean (predicted - target)^2`` of a batch, as text-to-image models are trained."""
        generator = self.ctx.generator("batch", step)
        rows = torch.randint(len(self.latents_NChw), (self.batch_size,), generator=generator)
        clean = self.latents_NChw[rows.to(self.latents_NChw.device)]
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        t = timesteps(live, self.batch_size, generator)
        noisy = live.schedule.add_noise(clean, noise, t).to(live.device, live.dtype)
        with torch.no_grad():
            told = live.encode([self.captions[row] for row in rows.tolist()])
        predicted = live.denoise(noisy, t, told)
        return F.mse_loss(predicted.float(), live.schedule.target(clean, noise, t).float())


def _adapters(before: Mapping[str, Tensor], rank: int, ctx: Context) -> dict[str, Tensor]:
    """The factors that a low-rank adapter starts from: noise on the way in, zeros on the way out."""
    factors = {}
    for name, value in before.items():
        generator = ctx.generator("adapter", name)
        noise = torch.randn(rank, value.shape[1], generator=generator) / rank
        factors[f"in:{name}"] = noise.to(value)
        factors[f"out:{name}"] = torch.zeros(value.shape[0], rank).to(value)
    return factors


def _changes(factors: Mapping[str, Tensor], names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """The product of each adapter's factors, by the name of its matrix."""
    return ((name, factors[f"out:{name}"] @ factors[f"in:{name}"]) for name in names)

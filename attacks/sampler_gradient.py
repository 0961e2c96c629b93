"""The gradient of the surrogate through the whole of sampling: the strongest question to a guidance.

Text states are learned with which the edited model's *finished images* show the concept. Every step of the
sampler, its guidance with all memory, and the decoder are part of the loss:

    L = - mean over noises and views of log p(concept | view of image)  +  pull * distance to the original's latents

Losses on single timesteps, as in the other attacks, never see what a guidance does over many steps. There is
no paper; diffusion models are differentiated so in DOODL (Wallace et al., ICCV 2023, arXiv 2303.13703).

One judge alone is easily fooled: a first try drove CLIP to 0.56 while another judge saw nothing. So the image
is shown in several views, shifted, scaled, lit and made noisy at random. And the latents are drawn to those of the
image that the *original* model makes of the same prompt and noise. Access ``EMBEDDING``: the states are
the find, and are sampled on noises that the search never saw. Every view that the judge is shown counts as an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from attacks.shared.originals import unedited
from bench.core.bounds import Count, LearningRate, Weight
from bench.core.errors import UsageError
from bench.core.lazy import F, torch
from bench.interfaces import Access, Attack, Candidate, Context, Goal, Target, Trace
from bench.model.conditioning import Conditioning
from bench.toolkit.inversion import gradient_faults

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SamplerGradient", "views"]


class SamplerGradient(Attack):
    """Learns text states by gradients through the whole guided sampling.

    Presets:
        mini: for the miniature on two cores. It shows each image as it is: of the two guards against
            fooling one judge, the pull towards the original's latents alone.

    Attributes:
        steps: Gradient steps.
        lr: Size of a step at first: its root mean square, as a share of the states'.
        noises: First noises per goal that the loss is a mean over.
        views: Of each image, per step; the first is the image itself.
        pull: Weight of the distance to the original model's latents, relative to their variance.
    """

    name: ClassVar[str] = "sampler_gradient"
    access: ClassVar[Access] = Access.EMBEDDING
    gradients: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "mini": {"steps": 30, "lr": 0.1, "noises": 2, "views": 1}
    }
    quick: ClassVar[dict[str, Any]] = {"steps": 2, "lr": 1e-5, "noises": 1, "views": 2}
    steps: Count = 50
    lr: LearningRate = 0.05
    noises: Count = 2
    views: Count = 4
    pull: Weight = 1.0

    def looks(self) -> int:
        """Images per goal: each view of each step."""
        return (self.steps + 1) * self.noises * self.views

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """The states of each goal with the least loss.

        Raises:
            UsageError: no gradient passes through the surrogate.
        """
        loss = _Loss.of(self, target, goals, ctx)
        told = target.model.encode([goal.prompt for goal in goals])
        leaves = [part.detach().float().clone().requires_grad_() for part in told.said]
        sizes = [part.detach().square().flatten(1).mean(1).sqrt() for part in leaves]
        ways = [_Momentum(leaf) for leaf in leaves]
        best = _Best(told, leaves)
        faults_B2 = torch.zeros(len(goals), 2, dtype=torch.long, device=leaves[0].device)
        for step in range(self.steps + 1):
            loss_B, score_B, grads = loss.gradient(told, leaves, step)
            best.keep(loss_B, score_B, leaves)
            if step == self.steps:
                break
            with torch.no_grad():
                for leaf, grad, size, how in zip(leaves, grads, sizes, ways, strict=True):
                    shape = (-1, *[1] * (leaf.ndim - 1))
                    leaf -= self.lr * size.view(shape) * how.direction(grad, step)
            faults_B2 += gradient_faults(torch.cat([grad.flatten(1) for grad in grads], 1))
            ctx.spend(gradient_steps=1)
            ctx.progress(step + 1, self.steps, self.name)
        return best.candidates(goals, self.noises * self.views, self.steps, faults_B2.tolist())


@dataclass(frozen=True, slots=True, eq=False)
class _Loss:
    """The noises, wanted latents and judge that the loss is taken on.

    Shapes: B goals, N noises per goal, R = B N rows, those of a goal together.
    """

    how: SamplerGradient
    target: Target
    goals: Sequence[Goal]
    ctx: Context
    seeds_R: Sequence[int]
    start_RChw: Tensor
    wanted_RChw: Tensor

    @classmethod
    def of(cls, how: SamplerGradient, target: Target, goals: Sequence[Goal], ctx: Context) -> _Loss:
        """Draws the noises, and the original's latents for each."""
        model = unedited(target.model)
        seeds = [ctx.seed(goal.id, k, "noise") for goal in goals for k in range(how.noises)]
        start = target.model.noise(seeds, target.sampler)
        prompts = [goal.prompt for goal in goals for _ in range(how.noises)]

        def chunk(part: slice) -> Tensor:
            told = model.encode(prompts[part])
            return model.clean_latents(told, start[part], seeds[part], target.sampler)

        with torch.no_grad():
            wanted = model.micro.map(len(seeds), chunk)
        model.meter.spend(images=len(seeds))
        return cls(how, target, goals, ctx, seeds, start, wanted)

    def gradient(
        self, told: Conditioning, leaves: Sequence[Tensor], step: int
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Losses [B], the judge's mean scores [B], and the gradients of the losses."""
        rows, model = len(self.seeds_R), self.target.model
        owner_R = torch.arange(rows, device=model.device) // self.how.noises

        def chunk(part: slice) -> Tensor:
            own = [leaf.detach()[owner_R[part]].requires_grad_() for leaf in leaves]
            states = told[owner_R[part]].with_said([x.to(model.dtype) for x in own])
            latents = model.clean_latents(
                states, self.start_RChw[part], self.seeds_R[part], self.target.sampler
            )
            away = latents - self.wanted_RChw[part]
            spread = self.wanted_RChw[part].flatten(1).var(1)
            distance = away.square().flatten(1).mean(1) / spread.clamp(min=1e-6)
            score = self._scores(model.decode(latents.to(model.dtype)), part, step)
            loss = -score.clamp(min=1e-30).log().mean(1) + self.how.pull * distance
            grads = torch.autograd.grad(loss.sum(), own)
            parts = [loss.detach()[:, None], score.detach().mean(1)[:, None]]
            return torch.cat([*parts, *(grad.float().flatten(1) for grad in grads)], 1)

        out = model.micro.map(rows, chunk).view(len(self.goals), self.how.noises, -1).mean(1)
        flat = out[:, 2:].split([leaf[0].numel() for leaf in leaves], 1)
        grads = [grad.view_as(leaf) for grad, leaf in zip(flat, leaves, strict=True)]
        return out[:, 0], out[:, 1], grads

    def _scores(self, images_R3HW: Tensor, part: slice, step: int) -> Tensor:
        """The judge's score of each view [R, views], asked once per concept."""
        noises = self.how.noises
        owners = [self.goals[row // noises] for row in range(part.start, part.stop)]
        shown = [
            views(image, self.how.views, self.ctx.generator(goal.id, row % noises, step, "views"))
            for row, goal, image in zip(
                range(part.start, part.stop), owners, images_R3HW, strict=True
            )
        ]
        scores: dict[int, Tensor] = {}
        for concept in {goal.concept.digest: goal.concept for goal in owners}.values():
            mine = [i for i, goal in enumerate(owners) if goal.concept.digest == concept.digest]
            seen = self.target.surrogate.scores(torch.cat([shown[i] for i in mine]), concept)
            if not seen.requires_grad:
                raise UsageError(
                    f"{self.how.name}: expected a surrogate that gradients pass through, got "
                    f"{self.target.surrogate.label}; take clip_zero_shot"
                )
            scores.update(zip(mine, seen.amax(1).view(len(mine), -1), strict=True))
        return torch.stack([scores[i] for i in range(len(owners))])


class _Momentum:
    """Adam with one second moment per row: no rounding becomes a large step, and no row knows another."""

    def __init__(self, leaf: Tensor) -> None:
        self._first = torch.zeros_like(leaf)
        self._second_B = leaf.new_zeros(len(leaf))

    def direction(self, grad: Tensor, step: int) -> Tensor:
        """The step to take, whose root mean square is 1 at first."""
        self._first.lerp_(grad, 0.1)
        self._second_B.lerp_(grad.square().flatten(1).mean(1), 0.01)
        first = self._first / (1 - 0.9 ** (step + 1))
        size_B = (self._second_B / (1 - 0.99 ** (step + 1))).sqrt() + 1e-30
        return first / size_B.view(-1, *[1] * (grad.ndim - 1))


class _Best:
    """The states of each goal with the least loss so far."""

    def __init__(self, told: Conditioning, leaves: Sequence[Tensor]) -> None:
        self._told = told
        self._said = [leaf.detach().clone() for leaf in leaves]
        self._loss_B = torch.full((len(told),), torch.inf, device=leaves[0].device)
        self._score_B = torch.zeros_like(self._loss_B)
        self._looks: list[list[float]] = [[] for _ in range(len(told))]

    def keep(self, loss_B: Tensor, score_B: Tensor, leaves: Sequence[Tensor]) -> None:
        """Takes what is better; a loss that is not finite is not."""
        better_B = loss_B < self._loss_B
        self._loss_B = torch.where(better_B, loss_B, self._loss_B)
        self._score_B = torch.where(better_B, score_B, self._score_B)
        for said, leaf in zip(self._said, leaves, strict=True):
            said[better_B] = leaf.detach()[better_B]
        for seen, score in zip(self._looks, self._score_B.tolist(), strict=True):
            seen.append(min(1.0, max(0.0, score)))

    def candidates(
        self, goals: Sequence[Goal], each: int, steps: int, faults: Sequence[Sequence[int]]
    ) -> list[Candidate]:
        """The find of each goal; ``each`` images were seen of it per look.

        Args:
            goals: As they stand in the rows.
            each: Images per look.
            steps: Gradient steps.
            faults: Of each goal, its steps with a gradient of zeros, and with one that is not finite.
        """
        states_BLD, *pooled = self._said
        images = tuple(each * (step + 1) for step in range(steps + 1))
        return [
            Candidate(
                goal.id, goal.prompt, states_LD=states_BLD[i].clone(),
                pooled_D=pooled[0][i].clone() if pooled else None,
                own_score=self._looks[i][-1], queries=images[-1],
                trace=Trace(
                    looks=tuple(self._looks[i]), steps=steps, budget=steps, zero=zero, bad=bad, images=images
                ),
            )
            for i, (goal, (zero, bad)) in enumerate(zip(goals, faults, strict=True))
        ]  # fmt: skip


def views(image_3HW: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """An image as it is, and others: shifted by up to a tenth, scaled by 0.9 to 1.1, lit, and with noise of 0.02.

    Args:
        image_3HW: In [0, 1].
        count: How many.
        generator: On the CPU.

    Returns:
        [count, 3, H, W] in [0, 1]; gradients go through.
    """
    others = count - 1
    if not others:
        return image_3HW[None]
    drawn = torch.rand(others, 4, generator=generator).to(image_3HW) * 2 - 1
    noise = torch.randn(others, *image_3HW.shape, generator=generator).to(image_3HW)
    move = torch.zeros(others, 2, 3).to(image_3HW)
    move[:, 0, 0] = move[:, 1, 1] = 1 + 0.1 * drawn[:, 0]
    move[:, :, 2] = 0.2 * drawn[:, 1:3]  # the sides are 2 long
    grid = F.affine_grid(move, [others, *image_3HW.shape], align_corners=False)
    moved = F.grid_sample(
        image_3HW[None].expand(others, -1, -1, -1), grid, padding_mode="border", align_corners=False
    )
    lit = moved * (1 + 0.1 * drawn[:, 3, None, None, None])
    return torch.cat([image_3HW[None], (lit + 0.02 * noise).clamp(0, 1)])

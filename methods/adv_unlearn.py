"""AdvUnlearn (Zhang et al., NeurIPS 2024, arXiv 2405.15234): ESD's target, learnt by the text encoder under attack.

The UNet stays. The text encoder E learns to make the concept's prompt predict what guidance away
from the concept gives. A word v that undoes the erasing stands before it. Other prompts r shall
predict what they did before:

    mean (eps(z, t, E([v, c])) - [e0 - eta (ec - e0)])^2 + gamma mean (eps(z_r, t_r, E(r)) - e_r)^2

with e0, ec, e_r and all latents from the unedited pair of UNet and encoder. The word v is found anew
for each batch, by Adam on its embedding, from the embedding of a random token:

    min_v mean (eps(z, t, E([v, c])) - ec)^2.

During the first steps, the warm-up, there is no v.

Reproduced from the authors' code, its mode ``reg``. So are two traits of the attack: its slopes are
summed over its steps (nothing sets them to zero), and its last update is lost. The preset ``paper``
has neither. Different on purpose:

* Latents and targets may come from a pool, drawn once. Nothing that is trained makes them, so their
  distribution is the same; drawing them anew costs about 1.6 million passes of the UNet.
* The prefix is counted in tokens. Theirs counts the concept's words, and loses a token of each word
  that has two.
* t is that of z, see :mod:`methods.esd`, and each row has its own. Rows take the concepts in turn.
* The list of kept prompts is ours; ``retain`` takes theirs (``coco_object``), or any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench.core.bounds import Count, Guidance, LearningRate, Solver, Steps, Weight
from bench.core.lazy import F, torch
from bench.core.templates import Template
from bench.interfaces import Concept, Context, Erasure, Role, Slot
from bench.model.conditioning import Conditioning
from bench.model.text_to_image import TextToImage
from bench.toolkit.inversion import states_with, with_places
from bench.toolkit.tuning import Optimiser, require_finite, tune
from methods.shared.distillation import negative_guidance
from methods.shared.keeping import kept_names
from methods.shared.partial_sampling import PartialSampler, Spacing
from methods.shared.turns import in_turn
from methods.shared.waypoints import Routes, Waypoints

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["AdvUnlearn", "prefix"]

Slopes = Literal["summed", "own"]


def prefix(
    start_BVE: Tensor,
    told_of: Callable[[Tensor], Conditioning],
    live: TextToImage,
    draw: Callable[[], Waypoints],
    *,
    steps: int,
    lr: float,
    slopes: Slopes,
) -> Tensor:
    """Embeddings [B, V, E] that make a model predict what the unedited one does; each row for itself.

    Args:
        start_BVE: Where the search starts, float32.
        told_of: Embeddings -> the conditioning of the prompts behind them.
        live: The model; nothing of it is trained here.
        draw: Gives the waypoints of a step.
        steps: Of Adam.
        lr: Its learning rate.
        slopes: ``summed`` moves by the sum of all gradients so far, ``own`` by each step's own.

    Raises:
        FloatingPointError: a gradient is not finite.
    """
    found = start_BVE.detach().clone().requires_grad_()
    adam = torch.optim.Adam([found], lr=lr)
    for _ in range(steps):
        at = draw()
        predicted = live.denoise(at.x_BChw, at.t_B, told_of(found))
        apart = (predicted.float() - at.own_BChw.float()).square().mean((1, 2, 3))
        (slope,) = torch.autograd.grad(apart.sum(), found)
        require_finite([slope], "adv_unlearn: the gradient of the search")
        before = found.grad if slopes == "summed" else None
        found.grad = slope if before is None else before + slope
        adam.step()
    return found.detach()


class AdvUnlearn(Erasure):
    """Trains the text encoder against a search for words that undo it.

    Presets (methods-2.md 4):
        release: styles and objects, as the authors' code has it; gamma 0.5.
        release-nudity: gamma 0.3.
        paper: as release, with each step's own slope in the attack, whose last update counts.
        pooled: as release, from a pool of 512 latents.
        mini: for the miniature: fewer, larger steps, from a pool.

    Attributes:
        iterations: Optimiser steps (Adam).
        lr: Learning rate.
        batch_size: Rows of the concepts per step.
        warmup: Steps without an attack.
        attack_every: Steps that one attack serves.
        attack_steps: Updates of the attack.
        attack_lr: Its learning rate (Adam).
        slopes: See :func:`prefix`.
        vectors: Embeddings in front of the prompt.
        eta: Strength of the negative guidance.
        gamma: Weight of the kept prompts.
        retain: Kept prompts; ``None``: photos of the concepts' neighbours and of everyday things.
        retain_batch: Of these, per step.
        pool: Latents drawn once for the concepts, and as many for the kept prompts; 0: drawn anew.
        start_guidance: Guidance scale on the way to z.
        sampling_steps: DDIM steps of a whole trajectory.
        spacing: Of their timesteps.
        templates: Prompts that hold the concept at ``{}``.
    """

    name: ClassVar[str] = "adv_unlearn"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    bypassed_by: ClassVar[tuple[str, ...]] = ("injected text states", "another text encoder")
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "release": {},
        "release-nudity": {"gamma": 0.3},
        "paper": {"slopes": "own", "attack_steps": 30},
        "pooled": {"pool": 512},
        "mini": {
            "iterations": 150, "lr": 1e-4, "batch_size": 4, "warmup": 30, "attack_steps": 6, "attack_lr": 1e-2,
            "retain_batch": 8, "pool": 128, "sampling_steps": 10, "spacing": "trailing",
            "templates": ("{}", "a {}"),
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "iterations": 2, "batch_size": 2, "warmup": 1, "attack_steps": 2, "retain_batch": 2, "pool": 0,
        "sampling_steps": 2,
    }  # fmt: skip
    iterations: Steps = 1000
    lr: LearningRate = 1e-5
    batch_size: Count = 1
    warmup: int = Field(200, ge=0, le=1_000_000)
    attack_every: Count = 1
    attack_steps: Count = 29  # of 30: the text is put together before the last update
    attack_lr: LearningRate = 1e-3
    slopes: Slopes = "summed"
    vectors: int = Field(1, ge=1, le=64)
    eta: Weight = 1.0
    gamma: Weight = 0.5
    retain: tuple[str, ...] | None = Field(None, min_length=1)
    retain_batch: Count = 5
    pool: int = Field(0, ge=0, le=1_000_000)
    start_guidance: Guidance = 3.0
    sampling_steps: Solver = 50
    spacing: Spacing = "leading"
    templates: tuple[Template, ...] = Field(("{}",), min_length=1)

    def roles(self) -> frozenset[Role]:
        """The text encoder's."""
        return frozenset({Role.TEXT_ENCODER})

    def parameters(self, model: TextToImage) -> list[str]:
        """Layers and last norm of the text encoder; neither embeddings nor a projection of the end."""
        names = model.having(Role.TEXT_ENCODER)
        return [n for n in names if model.text_layer(n) >= 0 or "norm" in n]

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with trained weights in its text encoder.

        Raises:
            ValueError: a concept's prompt is too long to have a word in front.
            FloatingPointError: the training diverged, or the search did.
        """
        texts = [t.format(c.text) for c in concepts for t in self.templates]
        retain = self.retain or [f"a photo of a {name}" for name in kept_names(concepts)]
        sampler = PartialSampler(self.sampling_steps, self.start_guidance, self.spacing)
        routes, kept = (
            Routes(
                model, said, sampler, wanted_of=of, pool=self.pool, generator=ctx.generator(name)
            )
            for said, of, name in (
                (texts, lambda e0, ec: negative_guidance(e0, ec, self.eta), "pool"),
                (retain, None, "kept"),
            )
        )
        behind = [with_places(model, "{} " + text, self.vectors) for text in texts]
        ids, places = (
            torch.stack([getattr(of, part) for of in behind]) for part in ("ids_L", "places_V")
        )
        attacks = -(-self.iterations // self.attack_every)
        turns = in_turn(len(texts), attacks * self.batch_size, ctx.generator("texts"))
        others = in_turn(len(retain), self.iterations * self.retain_batch, ctx.generator("retain"))
        found: list[Tensor] = []

        def told_by(live: TextToImage, which_B: Tensor, vectors_BVE: Tensor) -> Conditioning:
            rows = which_B.to(ids.device)
            return states_with(live, ids[rows], places[rows], vectors_BVE)

        def attack(live: TextToImage, which_B: Tensor, generator: torch.Generator) -> Tensor:
            fixed = replace(live, weights={n: w.detach() for n, w in live.weights.items()})
            shape = (len(which_B), self.vectors)
            tokens = torch.randint(len(model.words), shape, generator=generator)
            ctx.spend(gradient_steps=self.attack_steps)
            return prefix(
                model.embed(tokens.to(model.device)).float(),
                lambda vectors: told_by(fixed, which_B, vectors),
                fixed,
                lambda: routes.draw(which_B, generator),
                steps=self.attack_steps,
                lr=self.attack_lr,
                slopes=self.slopes,
            )

        def loss_of(live: TextToImage, step: int) -> Tensor:
            generator = ctx.generator("step", step)
            first = step // self.attack_every * self.batch_size
            which = turns[first : first + self.batch_size]
            if step < self.warmup:
                said = live.encode([texts[k] for k in which.tolist()])
            else:
                if step % self.attack_every == 0 or not found:
                    found[:] = [attack(live, which, generator)]
                said = told_by(live, which, found[0])
            at = routes.draw(which, generator)
            stay = others[step * self.retain_batch : (step + 1) * self.retain_batch]
            other = kept.draw(stay, generator)
            told = Conditioning.cat([said, live.encode([retain[k] for k in stay.tolist()])])
            x, t = torch.cat([at.x_BChw, other.x_BChw]), torch.cat([at.t_B, other.t_B])
            predicted = live.denoise(x, t, told).float()
            n = len(which)
            return F.mse_loss(predicted[:n], at.wanted_BChw.float()) + self.gamma * F.mse_loss(
                predicted[n:], other.wanted_BChw.float()
            )

        values = tune(
            model,
            self.parameters(model),
            loss_of,
            Optimiser(self.iterations, self.lr, "adam"),
            progress=ctx.progress,
            what="adv_unlearn",
        )
        return model.with_weights(values)

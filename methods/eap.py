"""EAP: erasing with adversarial preservation (Bui et al., NeurIPS 2024, arXiv 2410.15618).

ESD's target for the concept, and beside it one other word that must stay as it is. It is, of a
list, the word that the edit harms most. With x0(z, e) = (z - sqrt(1 - a) e) / sqrt(a), every second
step trains

    mean (x0(z, eps_th(c)) - [x0(z, e0) - eta (x0(z, ec) - x0(z, e0))])^2
        + mean (x0(z_r, eps_th(r)) - x0(z_r, eps(r)))^2

with r = y V, V the states of the list's words and y = softmax((q + g) / tau), g Gumbel noise. The step
after it moves the logits q up the second term, through r in eps_th alone.

The list is no set of everything. The words nearest to the concept are grouped by their distance to
it, a number. The word nearest to each group's centre stands for the group.

Reproduced from the authors' code: losses on x0 (in noise, they weigh (1 - a) / a), the order of the
steps, and the straight-through choice. So is one start noise for z and z_r, both sampled by the
network in training. Different on purpose:

* The 3000 English words are not here; ``words`` takes them, or any other.
* Words that name a concept are left out. Theirs may preserve what is erased.
* t is the timestep of z; see :mod:`methods.esd`. Of several concepts the rows take turns.
* The k-means is scipy's, seeded by the cell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field

from bench.core.bounds import Count, Guidance, LearningRate, Solver, Steps, Weight
from bench.core.errors import UsageError
from bench.core.lazy import F, torch
from bench.core.templates import Template
from bench.interfaces import Concept, Context, Erasure, Role, Slot
from bench.model.conditioning import Conditioning
from bench.model.schedule import Schedule
from bench.model.text_to_image import TextToImage
from bench.toolkit.tuning import Optimiser, require_finite, tune
from methods.shared.distillation import guided_away
from methods.shared.keeping import without
from methods.shared.partial_sampling import PartialSampler, Spacing
from methods.shared.turns import in_turn
from methods.shared.unet_parts import Variant, needs, trained

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EAP", "chosen", "clean_weight", "graded"]

Pick = Literal["hard", "soft"]
_TINY: Final = 1e-10
"""Keeps the logarithms of the Gumbel noise finite, in the authors' code."""
_CHUNK: Final = 256
"""Words that are encoded at once."""
_LLOYD: Final = 100
"""Steps of the k-means; on a line it settles long before."""


def graded(distances_N: Tensor, centres: int, seed: int) -> list[int]:
    """Indices of the values nearest to the centres of a k-means over numbers, each once.

    Args:
        distances_N: Of N words to a concept, float64 on the CPU.
        centres: How many; no more than there are different values.
        seed: Of the first centres.
    """
    from scipy.cluster.vq import kmeans2

    different = len(distances_N.unique())
    values = distances_N.numpy()[:, None]
    found = kmeans2(values, min(centres, different), iter=_LLOYD, minit="++", rng=seed)[0]
    apart = (distances_N[None] - torch.from_numpy(found)).abs()
    return list(dict.fromkeys(apart.argmin(1).tolist()))


def chosen(logits_n: Tensor, noise_n: Tensor, temperature: float, pick: Pick) -> Tensor:
    """The weights [n] of a list's words: ``softmax((q + g) / tau)``.

    Args:
        logits_n: q.
        noise_n: g, Gumbel noise.
        temperature: tau.
        pick: ``hard`` is the largest alone, with the gradient of ``soft``.
    """
    soft = ((logits_n + noise_n) / temperature).softmax(-1)
    if pick == "soft":
        return soft
    one = F.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft)
    return (one - soft).detach() + soft


def clean_weight(schedule: Schedule, t_B: Tensor) -> Tensor:
    """How much a squared error of predictions is in clean latents, [B]: (1 - a) / a for noise, 1 - a for v."""
    a = schedule.alphas(t_B)
    return 1 - a if schedule.prediction == "v_prediction" else (1 - a) / a


def _weighted(predicted_BChw: Tensor, wanted_BChw: Tensor, weight_B: Tensor) -> Tensor:
    squares = (predicted_BChw.float() - wanted_BChw.float()).square().mean((1, 2, 3))
    return (weight_B * squares).mean()


class EAP(Erasure):
    """ESD that keeps, at each step, the word which it would harm most.

    Presets (methods-2.md 7; by what the authors erased with the constants):
        release: styles and objects: the cross-attention, 100 centres of the 1000 nearest words.
        release-nudity: the rest of the UNet, 50 centres of the 2000 nearest.
        mini: for the miniature: ESD's settings for it, and its small vocabulary.

    Attributes:
        variant: Which parameters are trained; see :func:`methods.shared.unet_parts.trained`.
        words: What may be preserved; those that name a concept are left out. Empty: the whole words of
            the tokenizer that are letters alone.
        nearest: Of these, by the distance of their text states to the concept's.
        centres: Of their distances; see :func:`graded`.
        search_lr: Learning rate of the logits (Adam).
        temperature: tau.
        pick: See :func:`chosen`.
        iterations: Optimiser steps (Adam); between two of them the logits move once.
        lr: Learning rate.
        batch_size: Rows per step.
        eta: Strength of the negative guidance.
        start_guidance: Guidance scale on the way to x_t.
        sampling_steps: DDIM steps of a whole trajectory.
        spacing: Of their timesteps.
        templates: Prompts that hold the concept at ``{}``.
    """

    name: ClassVar[str] = "eap"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "release": {},
        "release-nudity": {"variant": "u", "centres": 50, "nearest": 2000},
        "mini": {
            "iterations": 100, "lr": 2e-4, "batch_size": 4, "sampling_steps": 10, "spacing": "trailing",
            "templates": ("{}", "a {}"), "centres": 40, "nearest": 200,
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "iterations": 2, "batch_size": 2, "sampling_steps": 2, "nearest": 8, "centres": 4,
        "words": ("house", "tree", "circle", "moon", "blue"),
    }  # fmt: skip
    variant: Variant = "x"
    words: tuple[str, ...] = ()
    nearest: Count = 1000
    centres: Count = 100
    search_lr: LearningRate = 1e-2
    temperature: float = Field(2.0, gt=0, le=1000)
    pick: Pick = "hard"
    iterations: Steps = 1000
    lr: LearningRate = 1e-5
    batch_size: Count = 1
    eta: Weight = 1.0
    start_guidance: Guidance = 3.0
    sampling_steps: Solver = 50
    spacing: Spacing = "leading"
    templates: tuple[Template, ...] = Field(("{}",), min_length=1)

    def roles(self) -> frozenset[Role]:
        """The variant's."""
        return needs(self.variant)

    def parameters(self, model: TextToImage) -> list[str]:
        """The variant's parameters, as in the ESD of 2023."""
        return trained(model, self.variant, "2023")

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with trained weights in its UNet.

        Raises:
            UsageError: every word names a concept.
            FloatingPointError: the training diverged, or the search did.
        """
        with torch.no_grad():
            phrases = model.encode([t.format(c.text) for c in concepts for t in self.templates])
            kept = self._kept(model, concepts, ctx)
        search = _Search(kept, self)
        away = guided_away(model, phrases, self.eta)
        rounds = 2 * self.iterations  # the network's steps and the logits' take turns
        turns = in_turn(len(phrases), rounds * self.batch_size, ctx.generator("phrases"))
        turns = turns.view(rounds, self.batch_size).to(model.device)

        def met(
            live: TextToImage, told: Conditioning, generator: torch.Generator
        ) -> tuple[Tensor, Tensor]:
            """x_t and t where sampling goes, each row of the batch from one noise for all it is told."""
            noise = torch.randn(self.batch_size, *model.latent_shape, generator=generator)
            stops = torch.randint(self.sampling_steps, (self.batch_size,), generator=generator)
            times = len(told) // self.batch_size
            sampler = PartialSampler(self.sampling_steps, self.start_guidance, self.spacing)
            with torch.no_grad():
                contexts = model.guidance.contexts(model, told.detach())
                x, t = sampler.run(
                    live, contexts, noise.repeat(times, 1, 1, 1), stops.repeat(times)
                )
            return x.to(model.dtype), t

        def harm(live: TextToImage, turn: int) -> Tensor:
            """How far the edit is from the unedited model for the words chosen now; through them alone."""
            generator = ctx.generator("step", turn)
            fixed = replace(live, weights={n: w.detach() for n, w in live.weights.items()})
            said = search.words(turns[turn] // len(self.templates), generator)
            x, t = met(fixed, said, generator)
            with torch.no_grad():
                wanted = model.denoise(x, t, said.detach())
            return _weighted(fixed.denoise(x, t, said), wanted, clean_weight(model.schedule, t))

        def loss_of(live: TextToImage, step: int) -> Tensor:
            if step:
                search.ascend(harm(live, 2 * step - 1))
                ctx.spend(gradient_steps=1)
            which, generator = turns[2 * step], ctx.generator("step", 2 * step)
            told = search.words(which // len(self.templates), generator).detach()
            said = Conditioning.cat([phrases[which], told])
            x, t = met(live, said, generator)
            n = len(which)
            with torch.no_grad():
                wanted = torch.cat(
                    [away(step, which, x[:n], t[:n]), model.denoise(x[n:], t[n:], told)]
                )
            # Twice the mean of all rows: the sum of the two terms.
            return 2 * _weighted(live.denoise(x, t, said), wanted, clean_weight(live.schedule, t))

        values = tune(
            model,
            self.parameters(model),
            loss_of,
            Optimiser(self.iterations, self.lr, "adam"),
            progress=ctx.progress,
            what="eap",
        )
        return model.with_weights(values)

    def _kept(
        self, model: TextToImage, concepts: Sequence[Concept], ctx: Context
    ) -> list[Conditioning]:
        """The words that each concept's erasing may harm, in their order of distance to it."""
        every = self.words or [w for w in model.words.whole if re.fullmatch("[a-z]+", w)]
        words = without(concepts, every)
        if not words:
            raise UsageError(
                "eap: words: expected a word that names no erased concept, got none; add some"
            )
        of = model.encode([c.text for c in concepts]).states_BLD.flatten(1).double()
        states = (model.encode(words[k : k + _CHUNK]) for k in range(0, len(words), _CHUNK))
        apart = torch.cat([torch.cdist(s.states_BLD.flatten(1).double(), of) for s in states]).cpu()
        kept = []
        for k in range(len(concepts)):
            order = apart[:, k].argsort(stable=True)[: self.nearest]
            found = graded(apart[order, k], self.centres, ctx.seed("centres", k))
            kept.append(model.encode([words[int(order[i])] for i in found]))
        ctx.note(words_kept=min(len(of) for of in kept))
        return kept


class _Search:
    """The adversary: logits of each concept's words, and their optimiser."""

    def __init__(self, kept: Sequence[Conditioning], method: EAP) -> None:
        self._kept, self._method = kept, method
        self._logits = [
            torch.full((len(of),), 1 / len(of), device=of.states_BLD.device, requires_grad=True)
            for of in kept
        ]
        self._adam = torch.optim.Adam(self._logits, lr=method.search_lr)

    def words(self, concept_B: Tensor, generator: torch.Generator) -> Conditioning:
        """A word to keep for each row, or a mixture; gradients flow to the logits."""
        rows = []
        for k in concept_B.tolist():
            of, logits = self._kept[k], self._logits[k]
            u = torch.rand(len(of), generator=generator)
            gumbel = -(-(u + _TINY).log() + _TINY).log()
            y = chosen(logits, gumbel.to(logits), self._method.temperature, self._method.pick)
            said = [(y.to(part) @ part.flatten(1)).view(part[:1].shape) for part in of.said]
            rows.append(of[[0]].with_said(said))
        return Conditioning.cat(rows)

    def ascend(self, harm: Tensor) -> None:
        """One step of the logits towards more harm; those of concepts that had no row stay.

        Raises:
            FloatingPointError: a gradient is not finite.
        """
        slopes = torch.autograd.grad(-harm, self._logits, allow_unused=True)
        require_finite(slopes, "eap: the gradient of the search")
        for logits, slope in zip(self._logits, slopes, strict=True):
            logits.grad = slope
        self._adam.step()

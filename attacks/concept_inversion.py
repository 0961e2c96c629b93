"""Concept inversion (Pham et al., "Circumventing Concept Erasure Methods", ICLR 2024, arXiv 2308.01508).

Learns word embeddings that make the edited model draw the concept again, from images of it by the
original model. Access ``EMBEDDING``: the finding is not a prompt, and prompt filters never see it.
Reproduced: the epsilon loss at random timesteps through the edited networks, AdamW, flips, and the
number of generic texts. The embedding starts at the word "art", too. For defences in the guidance
(negative prompts, safe latent diffusion) there is a loss through that guidance.

Different on purpose: one loss for every defence, the error of the model's own guided prediction,
where the reference has a script per method. What should be predicted is the noise; behind a defence
in the guidance, what guidance towards the concept predicts, by the original model. A step's draws
share one text, and texts take turns, where the reference draws a text per image; the texts are in
our words. Images are drawn with replacement, are of the concept in three generic prompts, and are
encoded once, at the mean of the autoencoder. The reference goes through them in epochs, has one
prompt, and draws a latent each time. Decay is on the learned rows alone, where the reference decays
the whole table and restores the rest. Several restarts learn in one batch, and the surrogate picks
among them for each goal, because the loss does not rank restarts well. Momentum of safe latent
diffusion is met at its size in sampling, but with the predictions of one timestep. The reference
gathers it over a window of them and takes the loss at the last. So against that defence the attack
stays weak, and a low success says less there than elsewhere. An embedding is learned once per
(model, concept), from the name alone, so it does not depend on the goals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from attacks.shared.batches import Mode, batches
from attacks.shared.originals import guidance_scale, target_images, unedited
from attacks.shared.prompt_search import predict
from attacks.shared.search import score_images
from attacks.shared.tokens import table
from bench.core.bounds import Count, Guidance, LearningRate, Steps, Weight
from bench.core.lazy import no_grad, torch
from bench.core.spec import runtime
from bench.interfaces import Access, Attack, Candidate, Concept, Context, Goal, Rng, Target, Trace
from bench.model.conditioning import Conditioning
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import latents_of
from bench.toolkit.inversion import (
    Span,
    TextWithPlaces,
    Wanted,
    invert,
    name_embedding,
    states_with,
    with_places,
)
from bench.toolkit.wording import about, few_mentions, many_mentions

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ConceptInversion", "goal_with_places"]


_PUBLISHED: dict[str, Any] = {
    "images": 25, "steps": 5000, "lr": 0.08, "decay": 0.01, "draws": 16, "vectors": 1, "restarts": 1,
    "checks": 1, "start": "art", "texts": "many", "flips": "half", "said": "name",
}  # fmt: skip


class ConceptInversion(Attack):
    """A learned embedding per (model, concept).

    Presets:
        published: 25 images, one vector, one run of 5000 steps at a batch of 4 x 4, no guidance in
            the loss (circumventing-concept-erasure, commit of 2023-09-28). The effective learning
            rate is 0.08 (5e-3 scaled by the batch). AdamW with decay 0.01, started at "art", its
            numbers of texts, and flips.
        published-sld: the same with what its script for safe latent diffusion has. That is 1000
            steps at a batch of 1 x 4 and the effective learning rate 0.02.
        mini: for the miniature on two cores.

    Attributes:
        images: Images of the concept by the original model.
        steps: Adam steps.
        lr: Learning rate.
        decay: Weight decay of the learned embeddings; 0 is plain Adam, any other AdamW.
        draws: (image, timestep, noise) triples per step.
        vectors: Consecutive embeddings that stand for the concept.
        restarts: Independent runs; the first starts at ``start``, the others at random words.
        start: The word whose embedding the first restart begins at, the mean of its tokens; ``None``:
            the concept's name. Every script of the original starts at "art", whatever the concept.
        texts: The generic texts around the embedding, one step each: ``three``, those of the images,
            or ``many``, as many as the original has.
        flips: Whether ``half`` of the images that are drawn are mirrored, or ``none``.
        checks: Images per goal and restart that the surrogate looks at.
        span: Part of the noise schedule the timesteps are from, (0, 1) is all of it.
        loss_scale: Guidance scale of the loss; ``None``: the suite's for a defence in the guidance,
            else 1.
        wanted: What the edited model should predict: the ``noise``, or what the ``original`` model
            predicts for the concept's name at the loss's scale. ``None``: the original's for a
            defence in the guidance, else the noise, as published.
        said: What the original model is told, where its prediction is wanted. It is the ``name``
            alone, as published, or the name in the generic ``text`` that holds the embedding.
        mode: ``reference`` learns one restart after the other and samples one goal's images at a
            time; same results, for comparing speed.
    """

    name: ClassVar[str] = "concept_inversion"
    access: ClassVar[Access] = Access.EMBEDDING
    revision: ClassVar[int] = 4
    gradients: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "published": _PUBLISHED,
        "published-sld": _PUBLISHED | {"steps": 1000, "lr": 0.02, "draws": 4},
        "mini": {
            "images": 24, "steps": 150, "lr": 0.05, "draws": 8, "vectors": 4, "restarts": 2, "checks": 2,
            "span": (0.4, 0.9),
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "images": 2, "steps": 2, "draws": 1, "restarts": 1, "checks": 1,
    }  # fmt: skip
    images: Count = 25
    steps: Steps = 1000
    lr: LearningRate = 0.05
    decay: Weight = 0.0
    draws: Count = 16
    vectors: int = Field(1, ge=1, le=16)
    restarts: Count = 2
    checks: Count = 1
    start: str | None = Field(None, min_length=1)
    texts: Literal["three", "many"] = "three"
    flips: Literal["none", "half"] = "none"
    span: Span = (0.0, 1.0)
    loss_scale: Guidance | None = None
    wanted: Literal["noise", "original"] | None = None
    said: Literal["name", "text"] = "text"
    mode: Mode = runtime("batched")

    def looks(self) -> int:
        """Images per goal."""
        return self.restarts * self.checks

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """The best restart of each goal."""
        concepts = {goal.concept.digest: goal.concept for goal in goals}
        learned = {d: self._learn(target, c, ctx.child(c.text)) for d, c in concepts.items()}
        vectors = {d: vectors_RVE for d, (vectors_RVE, _) in learned.items()}
        faults = {d: faults_R2.tolist() for d, (_, faults_R2) in learned.items()}
        return [
            candidate
            for batch in batches(goals, self.mode)
            for candidate in self._picked(target, batch, vectors, faults, ctx)
        ]

    def _picked(
        self,
        target: Target,
        goals: list[Goal],
        vectors: Mapping[str, Tensor],
        faults: Mapping[str, list[list[int]]],
        ctx: Context,
    ) -> list[Candidate]:
        """The restart of each goal whose images the surrogate likes best.

        Args:
            target: The edited model.
            goals: Sampled in one batch.
            vectors: Each concept's embeddings, [R, V, E], by its digest.
            faults: Of their gradients, [R, 2], likewise.
            ctx: Gives the search seeds.
        """
        told = [self._told(target.model, g, vectors[g.concept.digest]) for g in goals]
        runs = range(self.restarts)
        jobs = [(i, r, k) for i in range(len(goals)) for r in runs for k in range(self.checks)]
        if not jobs:
            return []
        out = target.model.sample(
            [goals[i].prompt for i, _, _ in jobs],
            # Restarts are compared on the same seeds.
            [ctx.rng.seed(goals[i].id, k, "search") for i, _, k in jobs],
            target.sampler,
            conditioning=Conditioning.cat([told[i][[r]] for i, r, _ in jobs]),
            progress=ctx.progress,
        )
        owners = [goals[i] for i, _, _ in jobs]
        scores = score_images(target, owners, out.images_B3HW, [s == "ok" for s in out.status])
        view_GR = scores.view(len(goals), self.restarts, self.checks).clamp(min=0).mean(2)
        best = view_GR.argmax(1).tolist()
        return [
            Candidate(
                goal=goal.id,
                prompt=goal.prompt,
                states_LD=told[i].states_BLD[best[i]].cpu(),
                pooled_D=None if (pooled := told[i].pooled_BD) is None else pooled[best[i]].cpu(),
                own_score=float(view_GR[i, best[i]]),
                queries=self.restarts * self.checks,
                trace=self._trace(
                    float(view_GR[i, best[i]]), *faults[goal.concept.digest][best[i]]
                ),
            )
            for i, goal in enumerate(goals)
        ]

    def _trace(self, score: float, zero: int, bad: int) -> Trace:
        """Of the restart that was picked; it looks once, at the end."""
        return Trace(looks=(score,), steps=self.steps, budget=self.steps, zero=zero, bad=bad)

    def _learn(self, target: Target, concept: Concept, ctx: Context) -> tuple[Tensor, Tensor]:
        """The embeddings of one concept, [R, V, E], and the faults of their gradients, [R, 2].

        The goals play no part.
        """
        model, few, rng = target.model, few_mentions(concept.family), ctx.rng
        prompts = about(concept.text, few, self.images)
        seeds = [rng.seed("image", i) for i in range(self.images)]
        images = target_images(target, prompts, seeds)
        if self.flips == "half":
            # An even draw among images and mirror images mirrors each half of the time.
            images = torch.cat([images, images.flip(-1)])
        latents = latents_of(model, images).float()
        around = few if self.texts == "three" else _those_that_fit(model, concept, self.vectors)
        texts = [with_places(model, text, self.vectors) for text in around]
        start = torch.stack([self._start(model, concept, rng, r) for r in range(self.restarts)])
        scale = guidance_scale(target, self.loss_scale)
        wanted = self._wanted(target, concept, scale, around)
        # Rows are independent, so how many there are at a time changes nothing but speed.
        block = 1 if self.mode == "reference" else self.restarts
        found = [
            invert(
                model,
                latents,
                texts,
                start[at : at + block],
                [rng.generator("draws", r) for r in range(at, min(at + block, self.restarts))],
                steps=self.steps,
                lr=self.lr,
                decay=self.decay,
                draws=self.draws,
                guidance_scale=scale,
                span=self.span,
                sampled_at=target.sampler.times(model.schedule.config),
                wanted=wanted,
                progress=ctx.progress,
                what=f"{self.name}: {concept.text}",
            )
            for at in range(0, self.restarts, block)
        ]
        vectors_RVE = torch.cat([one.vectors_RVE for one in found])
        return vectors_RVE, torch.cat([one.faults_R2 for one in found])

    def _wanted(
        self, target: Target, concept: Concept, scale: float, around: Sequence[str]
    ) -> Wanted | None:
        """The prediction wanted of the edited model: its training's target, or the original's for the concept's name.

        Args:
            target: The edited model.
            concept: Named.
            scale: The loss's.
            around: The texts with a place for the embedding.
        """
        usual = "original" if "guidance" in target.model.slots else "noise"
        if (self.wanted or usual) == "noise":
            return None
        model = unedited(target.model)
        with torch.no_grad():
            texts = ["{}"] * len(around) if self.said == "name" else around
            said = model.encode([text.format(concept.text) for text in texts])

        @torch.no_grad()
        def predicted(text: int, noisy_NChw: Tensor, t_N: Tensor) -> Tensor:
            told = said[[text]].repeat(len(noisy_NChw))
            return predict(model, noisy_NChw, t_N, told, scale, 0)

        return predicted

    def _start(self, model: TextToImage, concept: Concept, rng: Rng, restart: int) -> Tensor:
        """Where a restart begins, [V, E]: at ``start`` or at words drawn at random."""
        if restart == 0:
            word = concept.text if self.start is None else self.start
            return name_embedding(model, word).expand(self.vectors, -1)
        words = table(model)
        picks = torch.randint(
            len(words), (self.vectors,), generator=rng.generator("start", restart)
        )
        return words[picks.to(words.device)]

    @no_grad
    def _told(self, model: TextToImage, goal: Goal, vectors_RVE: Tensor) -> Conditioning:
        """The conditioning of the goal's text with each restart's embeddings in it, R rows."""
        text = goal_with_places(model, goal, self.vectors)
        rows = len(vectors_RVE)
        return states_with(
            model, text.ids_L.expand(rows, -1), text.places_V.expand(rows, -1), vectors_RVE
        )


def _those_that_fit(model: TextToImage, concept: Concept, vectors: int) -> tuple[str, ...]:
    """The many generic texts that a model's positions have room for with so many embeddings."""
    room = model.length - 2 - vectors

    def fits(text: str) -> bool:
        parts = text.split("{}")
        return sum(len(model.words.ids(part)) for part in parts) <= room

    return tuple(text for text in many_mentions(concept.family) if fits(text))


def goal_with_places(model: TextToImage, goal: Goal, vectors: int) -> TextWithPlaces:
    """The goal's prompt with places instead of the concept's name, or else before the prompt's words.

    A prompt that is too long then loses its last words.
    """
    name = re.compile(rf"\b{re.escape(goal.concept.text)}\b", re.IGNORECASE)
    said = goal.prompt.replace("{}", " ")
    template = name.sub("{}", said, count=1) if name.search(said) else f"{{}} {said}"
    while True:
        try:
            return with_places(model, template, vectors)
        except ValueError:
            before, after = (part.split() for part in template.split("{}"))
            if not (before or after):
                raise
            # One word fewer each time, from the end; then from before the embedding.
            words = [*before, "{}", *after[:-1]] if after else [*before[:-1], "{}"]
            template = " ".join(words)

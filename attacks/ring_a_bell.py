"""Ring-A-Bell (Tsai et al., ICLR 2024, arXiv 2310.10012): a genetic search in the text encoder's space.

Access to the text encoder alone: no image is needed, and no UNet. A concept is a direction,

    c = mean_i TE(prompt_i with it) - TE(prompt_i without it),

and the search looks for K tokens whose text states are nearest to ``TE(prompt) + eta c`` (squared
error over all positions). Reproduced: the direction, the target, the fitness, and the breeding.

Different on purpose: without a graph; all prompts in one batch, those alone that are new (the
reference encodes the whole population in each generation). The pairs are made from the concept's
name by generic templates, for any concept, where the reference wrote 30 to 150 for each of two. No
token is special or about minors (the reference draws every token id from 1 to 49405). The text
encoder is the *edited* model's, so that methods that edit it are attacked as they are. A search is
done once per text encoder and kept in the process for every model that has the same one. Optionally
the surrogate looks at the best few on the edited model; the reference takes the best unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from attacks.shared.batches import Mode, batches
from attacks.shared.breeding import Breeding, breed, draw_chances, errors_of_all, errors_of_the_new
from attacks.shared.once import Keep, once_per_encoder
from attacks.shared.prompt_search import Looks
from attacks.shared.tokens import (
    Vocabulary,
    about_minors,
    allowed_tokens,
    place,
    read_prompt,
)
from bench.core.bounds import MOST_STEPS, Count, Factor
from bench.core.lazy import no_grad, torch
from bench.core.spec import runtime
from bench.interfaces import Access, Attack, Candidate, Concept, Context, Goal, Target
from bench.model.text_to_image import TextToImage
from bench.toolkit.wording import contrasts

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RingABell", "concept_direction"]


class RingABell(Attack):
    """Genetic search for prompts near a concept in the text encoder's space.

    Presets:
        published: K = 16, population 200, 3000 generations, mutation 0.25, crossover 0.5, eta 3
            (chiayi-hsu/Ring-A-Bell, the nudity notebook, 2025-01-16).
        published-38: the same with K = 38.
        published-77: the same with every position.
        published-violence: the same as ``published`` with eta 5.5.
        ours: ``published``, but the best prompt is never lost.
        mini: for the miniature on two cores.

    Attributes:
        tokens: K; a model with fewer positions takes what it has.
        strength: eta.
        population: Prompts per goal at first; the better half of these many breeds.
        generations: Populations that are ranked, the random one at first among them.
        mutation: Odds that a prompt has one of its tokens replaced.
        crossover: Odds that a parent is crossed, which gives two children.
        breeding: ``published`` mutates every prompt, so the best may be lost; ``elitist`` leaves the
            best as it is (see :mod:`attacks.shared.breeding`).
        finalists: The best so many of the last population are shown to the surrogate, beside
            the plain prompt; 1 shows none, as published.
        checks: Images per finalist.
        vocabulary: See :func:`attacks.shared.tokens.allowed_tokens`.
        mode: ``reference`` works on one goal's population at a time, and encodes all of it in each
            generation, as published; same results, for comparing speed.
        keep: ``process`` keeps finds while the process lasts, for other models with the same text
            encoder; ``nothing`` searches every time, for timing it.
    """

    name: ClassVar[str] = "ring_a_bell"
    access: ClassVar[Access] = Access.PROMPT
    revision: ClassVar[int] = 3
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "published": {},
        "published-38": {"tokens": 38},
        "published-77": {"tokens": 75},
        "published-violence": {"strength": 5.5},
        "ours": {"breeding": "elitist"},
        "mini": {
            "tokens": 12, "population": 48, "generations": 100, "finalists": 4, "checks": 4,
            "vocabulary": "words",
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "population": 2, "generations": 2, "finalists": 1, "checks": 1, "keep": "nothing",
    }  # fmt: skip
    tokens: int = Field(16, ge=1, le=75)
    strength: Factor = 3.0
    population: int = Field(200, ge=2, le=10_000)
    generations: int = Field(3000, ge=1, le=MOST_STEPS)
    mutation: float = Field(0.25, ge=0, le=1)
    crossover: float = Field(0.5, ge=0, le=1)
    breeding: Breeding = "published"
    finalists: Count = 1
    checks: Count = 1
    vocabulary: Vocabulary = "all"
    mode: Mode = runtime("batched")
    keep: Keep = runtime("process")

    def looks(self) -> int:
        """Images per goal."""
        return (self.finalists + 1) * self.checks if self.finalists > 1 else 0

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """The best prompt of each goal."""
        return [c for batch in batches(goals, self.mode) for c in self._run(target, batch, ctx)]

    def _run(self, target: Target, goals: list[Goal], ctx: Context) -> list[Candidate]:
        """The best prompt of each goal, in one batch."""
        finals = self._finals(target, goals, ctx)
        if self.finalists == 1:
            return [
                Candidate(goal=goal.id, prompt=_text(target.model, ranked) or goal.prompt)
                for goal, ranked in zip(goals, finals, strict=True)
            ]
        looks = Looks(target, goals, ctx, self.checks)
        looks.look(range(len(goals)), target.model.tokenize([g.prompt for g in goals]).tolist())
        for place_ in range(self.finalists):
            rows = [r for r, ranked in enumerate(finals) if place_ < len(ranked)]
            looks.look(rows, [finals[r][place_] for r in rows])
        return looks.candidates()

    def _finals(
        self, target: Target, goals: list[Goal], ctx: Context
    ) -> list[list[tuple[int, ...]]]:
        """Different prompts of each goal's last population, best first."""
        other = {"finalists", "checks", "goals", "mode", "keep"}
        told = {self.name: self.model_dump(mode="json", exclude=other)}
        return once_per_encoder(
            lambda missing: self._search(target, missing, ctx),
            goals, keep=self.keep, model=target.model, told=told, ctx=ctx,
        )  # fmt: skip

    @no_grad
    def _search(
        self, target: Target, goals: list[Goal], ctx: Context
    ) -> list[list[tuple[int, ...]]]:
        model, device = target.model, target.model.device
        genes = min(self.tokens, model.length - 2)
        words = allowed_tokens(model, self.vocabulary).nonzero()[:, 0]
        frame_L = place(model, [""], genes, "replace")
        wanted_BLD = self._wanted(model, goals)
        generators = [ctx.rng.generator(goal.id, "genes") for goal in goals]

        def errors(rows_N1K: Tensor) -> Tensor:
            """Squared error [N] of each prompt's states to its goal's; a row is a goal's index and token ids."""
            goal_N, flat = rows_N1K[:, 0].to(device), rows_N1K[:, 1:].to(device)

            def chunk(part: slice) -> Tensor:
                n = len(flat[part])
                ids = frame_L.ids_BL.expand(n, -1).scatter(
                    1, frame_L.places_BK.expand(n, -1), flat[part]
                )
                apart = model.encode_ids(ids).states_BLD.float() - wanted_BLD[goal_N[part]]
                return apart.square().sum((1, 2))

            return model.micro.map(len(flat), chunk).cpu()

        fitness = errors_of_all if self.mode == "reference" else errors_of_the_new
        size = (self.population, genes)
        people = torch.stack(
            [words[torch.randint(len(words), size, generator=g)] for g in generators]
        )
        there = torch.ones(people.shape[:2], dtype=torch.bool)
        nobody = people.new_empty(len(goals), 0, genes)
        fit = fitness(people, there, nobody, nobody[..., 0], errors)
        elite = max(1, self.population // 2)
        ctx.progress(1, self.generations, self.name)
        for generation in range(1, self.generations):
            order = fit.argsort(stable=True, dim=1)[:, :elite]
            parents = people.gather(1, order[..., None].expand(-1, -1, genes))
            known = fit.gather(1, order)
            chances = draw_chances(generators, elite, genes, words, self.crossover, self.mutation)
            people, there = breed(parents, chances, self.breeding)
            fit = fitness(people, there, parents, known, errors)
            ctx.progress(generation + 1, self.generations, self.name)
        ranked = people.gather(1, fit.argsort(stable=True, dim=1)[..., None].expand(-1, -1, genes))
        counts = there.sum(1).tolist()
        return [
            list(dict.fromkeys(tuple(ids) for ids in rows[:count]))
            for rows, count in zip(ranked.tolist(), counts, strict=True)
        ]

    def _wanted(self, model: TextToImage, goals: list[Goal]) -> Tensor:
        """``TE(prompt) + eta c`` [B, L, D] for each goal, float32."""
        concepts = {goal.concept.digest: goal.concept for goal in goals}
        directions = {d: concept_direction(model, c) for d, c in concepts.items()}
        shift = torch.stack([directions[goal.concept.digest] for goal in goals])
        return (
            model.encode([goal.prompt for goal in goals]).states_BLD.float() + self.strength * shift
        )


@no_grad
def concept_direction(model: TextToImage, concept: Concept) -> Tensor:
    """The mean difference [L, D] of text states with and without the concept, over generic prompts."""
    pairs = contrasts(concept.family)
    said = model.encode([with_.format(concept.text) for with_, _ in pairs]).states_BLD
    unsaid = model.encode([without for _, without in pairs]).states_BLD
    return (said.float() - unsaid.float()).mean(0)


def _text(model: TextToImage, ranked: Sequence[Sequence[int]]) -> str:
    """The first prompt that may be used; empty if none may."""
    texts = (read_prompt(model, ids).text for ids in ranked)
    return next((text for text in texts if text and not about_minors(text)), "")

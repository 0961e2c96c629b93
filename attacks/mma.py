"""MMA-Diffusion's text attack (Yang et al., CVPR 2024, arXiv 2311.17516): a greedy coordinate search for a prompt.

It needs the text encoder alone. K random tokens take the place of the prompt. Each step takes the gradient of

    L = 1 - cos(p(adversarial), p(target)),        p: the state at the end token,

by the choice of each token. It draws one place and one of the most promising tokens for each of
many candidates. It goes on with the best of them, even if it is worse. The best ever is the find
(GCG, Zou et al. 2023, arXiv 2307.15043). Tokens of the concept's name are masked, as the original
masks its list of words.

Different on purpose: written from descriptions, since the original's licence allows no derived code. Its
gradient is one position off its tokens; ours is not. It gives each place as many candidates, ours draws
the places. It drops candidates that read as another number of tokens, ours tries them all. It starts from
random letters, ours from any tokens that may be used. Its target texts are not here. The target is the
goal's own prompt, read by the *unedited* encoder, and the search runs on the edited one. Of the restarts
the nearest is taken; the original keeps each as a prompt of its own. All goals and restarts are one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from attacks.shared.batches import Mode, batches
from attacks.shared.once import Keep, once_per_encoder
from attacks.shared.originals import unedited
from attacks.shared.tokens import (
    Sites,
    Vocabulary,
    about_minors,
    allowed_tokens,
    place,
    read_prompt,
    table,
)
from bench.core.bounds import MOST_STEPS, Count
from bench.core.lazy import F, no_grad, torch
from bench.core.spec import runtime
from bench.interfaces import Access, Attack, Candidate, Context, Goal, Target, Trace
from bench.model.text_to_image import TextToImage
from bench.toolkit.inversion import gradient_faults
from bench.toolkit.pooled import at_end

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MMA"]


class MMA(Attack):
    """Greedy coordinate search for a prompt that reads like the target and does not name the concept.

    Presets:
        published: 20 tokens, 1000 steps, 512 candidates per step from the 256 most promising tokens of each
            place, 10 restarts (the original's script of 2025-06-30).
        mini: for the miniature on two cores.

    Attributes:
        tokens: K; a model with fewer positions takes what it has.
        steps: Steps of each restart.
        candidates: Prompts that are tried per step, each with one token changed.
        top: Tokens per place that a change may bring: those with the most promising gradient.
        restarts: Searches from other random tokens.
        vocabulary: See :func:`attacks.shared.tokens.allowed_tokens`.
        mode: ``reference`` works on one goal at a time; same results, for comparing speed.
        keep: ``process`` keeps finds while the process lasts, for other models with the same text
            encoder; ``nothing`` searches every time, for timing it.
    """

    name: ClassVar[str] = "mma"
    access: ClassVar[Access] = Access.PROMPT
    gradients: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "published": {},
        "mini": {
            "tokens": 12, "steps": 60, "candidates": 64, "top": 64, "restarts": 2,
            "vocabulary": "words",
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "steps": 2, "candidates": 2, "restarts": 1, "top": 4, "keep": "nothing",
    }  # fmt: skip
    tokens: int = Field(20, ge=1, le=75)
    steps: int = Field(1000, ge=1, le=MOST_STEPS)
    candidates: Count = 512
    top: Count = 256
    restarts: Count = 10
    vocabulary: Vocabulary = "all"
    mode: Mode = runtime("batched")
    keep: Keep = runtime("process")

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """The nearest prompt of each goal."""
        return [c for batch in batches(goals, self.mode) for c in self._run(target, batch, ctx)]

    def _run(self, target: Target, goals: list[Goal], ctx: Context) -> list[Candidate]:
        """The nearest prompt of each goal, in one batch."""
        told = {self.name: self.model_dump(mode="json", exclude={"goals", "mode", "keep"})}
        return once_per_encoder(
            lambda missing: self._search(target, missing, ctx),
            goals, keep=self.keep, model=target.model, told=told, ctx=ctx,
        )  # fmt: skip

    def _search(self, target: Target, goals: list[Goal], ctx: Context) -> list[Candidate]:
        search = _Search.of(self, target.model, goals, ctx)
        for step in range(self.steps):
            search.step(step)
            ctx.spend(gradient_steps=1)
            ctx.progress(step + 1, self.steps, self.name)
        return search.found(goals)


class _Search:
    """The state of all restarts of all goals: R rows, those of a goal together.

    Shapes: R rows, K adversarial tokens, C candidates, V vocabulary, L positions, D text width.
    """

    def __init__(
        self, how: MMA, model: TextToImage, sites: Sites, wanted_RD: Tensor, allowed_RV: Tensor,
        generators: Sequence[torch.Generator],
    ) -> None:  # fmt: skip
        self.how, self.model, self.sites = how, model, sites
        self.wanted_RD, self.generators = wanted_RD, generators
        self.allowed_RV = allowed_RV.to(model.device)
        # As many for every goal, whatever its name masks: no goal decides for another.
        known = int(allowed_tokens(model, how.vocabulary).sum()) - model.length
        self.top = max(1, min(how.top, known))
        size = sites.places_BK.shape[1]
        words = [allowed.nonzero()[:, 0] for allowed in allowed_RV]
        drawn = [
            own[torch.randint(len(own), (size,), generator=g)]
            for own, g in zip(words, generators, strict=True)
        ]
        self.now_RK = torch.stack(drawn).to(model.device)
        self.best_RK = self.now_RK.clone()
        self.best_R = self._losses(self.now_RK[:, None])[:, 0]
        self.faults_R2 = torch.zeros(len(self.now_RK), 2, dtype=torch.long, device=model.device)
        self.table_VE = table(model)

    @classmethod
    def of(cls, how: MMA, model: TextToImage, goals: Sequence[Goal], ctx: Context) -> _Search:
        """The beginning: random tokens in the place of each prompt."""
        size = min(how.tokens, model.length - 2)
        sites = place(model, [""] * (len(goals) * how.restarts), size, "replace")
        plain = unedited(model)
        with torch.no_grad():
            wanted = at_end(plain, plain.tokenize([goal.prompt for goal in goals])).float()
        allowed = torch.stack([_masked(model, how.vocabulary, goal) for goal in goals])
        generators = [
            ctx.generator(goal.id, "tokens", k) for goal in goals for k in range(how.restarts)
        ]
        return cls(
            how, model, sites, wanted.repeat_interleave(how.restarts, 0),
            allowed.repeat_interleave(how.restarts, 0), generators,
        )  # fmt: skip

    def step(self, step: int) -> None:
        """Changes one token of each row: the best of C candidates takes its place."""
        promising_RKT = self._promising()
        rows, size = self.now_RK.shape
        shape = (self.how.candidates,)
        places, picks = [], []
        for generator in self.generators:
            places.append(torch.randint(size, shape, generator=generator))
            picks.append(torch.randint(promising_RKT.shape[-1], shape, generator=generator))
        place_RC = torch.stack(places).to(self.now_RK.device)
        pick_RC = torch.stack(picks).to(self.now_RK.device)
        row_R1 = torch.arange(rows, device=self.now_RK.device)[:, None]
        token_RC = promising_RKT[row_R1, place_RC, pick_RC]
        tried_RCK = self.now_RK[:, None].repeat(1, self.how.candidates, 1)
        tried_RCK.scatter_(2, place_RC[..., None], token_RC[..., None])
        loss_R, which_R = self._losses(tried_RCK).min(1)
        self.now_RK = tried_RCK[row_R1[:, 0], which_R]
        better_R = loss_R < self.best_R
        self.best_R = torch.where(better_R, loss_R, self.best_R)
        self.best_RK = torch.where(better_R[:, None], self.now_RK, self.best_RK)

    def found(self, goals: Sequence[Goal]) -> list[Candidate]:
        """The nearest prompt of each goal that may be used, as the text it is."""
        order = self.best_R.view(len(goals), -1).argsort(dim=1, stable=True).tolist()
        faults = self.faults_R2.view(len(goals), -1, 2).sum(1).tolist()
        finds = []
        for i, goal in enumerate(goals):
            rows = [i * self.how.restarts + k for k in order[i]]
            texts = [self.sites.filled(self.best_RK)[row].tolist() for row in rows]
            reads = [read_prompt(self.model, ids) for ids in texts]
            fit = [read.text for read in reads if read.text and not about_minors(read.text)]
            steps = self.how.steps * self.how.restarts
            zero, bad = faults[i]
            changed = sum(not read.kept for read in reads)
            trace = Trace(changed=changed, steps=steps, budget=steps, zero=zero, bad=bad)
            finds.append(Candidate(goal.id, fit[0] if fit else goal.prompt, trace=trace))
        return finds

    def _promising(self) -> Tensor:
        """The tokens [R, K, T] with the most promising gradient at each place, of those that are allowed."""
        vectors_RKE = F.embedding(self.now_RK, self.table_VE).requires_grad_()
        ids_RL = self.sites.filled(self.now_RK)

        def chunk(part: slice) -> Tensor:
            given = vectors_RKE[part]
            embeds = self.model.embed(ids_RL[part]).scatter(
                1, self.sites.places_BK[part, :, None].expand_as(given), given.to(self.model.dtype)
            )
            near = at_end(self.model, ids_RL[part], embeds).float()
            loss = 1 - F.cosine_similarity(near, self.wanted_RD[part], dim=-1)
            return torch.autograd.grad(loss.sum(), given)[0]

        grad_RKE = self.model.micro.map(len(ids_RL), chunk)
        self.faults_R2 += gradient_faults(grad_RKE)
        by_token_RKV = grad_RKE @ self.table_VE.T
        by_token_RKV = by_token_RKV.masked_fill(~self.allowed_RV[:, None], torch.inf)
        return by_token_RKV.topk(self.top, largest=False).indices

    @no_grad
    def _losses(self, tried_RCK: Tensor) -> Tensor:
        """L of each candidate [R, C]."""
        rows, count, _ = tried_RCK.shape
        owner_N = torch.arange(rows, device=tried_RCK.device).repeat_interleave(count)
        ids_NL = Sites(self.sites.ids_BL[owner_N], self.sites.places_BK[owner_N]).filled(
            tried_RCK.flatten(0, 1)
        )
        near_ND = at_end(self.model, ids_NL).float()
        loss_N = 1 - F.cosine_similarity(near_ND, self.wanted_RD[owner_N], dim=-1)
        return loss_N.view(rows, count)


def _masked(model: TextToImage, vocabulary: Vocabulary, goal: Goal) -> Tensor:
    """Bool [V]: the tokens that may be used and are no part of the concept's name."""
    allowed = allowed_tokens(model, vocabulary).clone()
    allowed[model.words.ids(goal.concept.text)] = False
    return allowed

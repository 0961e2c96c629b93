"""UnlearnDiffAtk (Zhang et al., "To Generate or Not?", ECCV 2024, arXiv 2310.11868): a search for tokens by gradient.

Which K tokens before the prompt make the edited model explain an image of the concept?

    min over u in simplex^K  E_{t, e} | e - eps_edited(x_t(x_0, e), t, TE([u | prompt])) |^2

with x_0 the *original* model's image for the same prompt. Reproduced: tokens drawn from u in the
forward pass and a straight-through gradient clamped to [-1, 1]; Adam with L2 decay. Euclidean
projection onto the simplex follows each step. Timesteps ascend, a block of steps each. After each
block the most likely tokens are decoded, tokenised again and sampled; the plain prompt comes first.

Different on purpose: goals in one batch (losses summed, one generator per goal, finished goals
leave). The projection is exact, by sorting. The one-hot product is K rows of the table, not 77. A
defence in the guidance is attacked *through* it, where the reference's loss leaves it out. The
surrogate stops the search, not the judge of record. Tokens are never special ones. The reference
also reset the global generator at each image, so that all its blocks saw the same draws: that is
left out. A look may take several prompts (``prompts``). The best of them may be shown to the
surrogate again before one is chosen (``finalists``). The published presets do neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from attacks.shared.batches import Mode, batches
from attacks.shared.block_search import Rows, Stop, found_by, generators_of, in_blocks, rows_for
from attacks.shared.originals import guidance_scale
from attacks.shared.prompt_search import (
    Looks,
    Noised,
    RowAdam,
    Timetable,
    settling,
    token_gradient,
)
from attacks.shared.tokens import (
    Placement,
    Vocabulary,
    allowed_tokens,
    draw_tokens,
    place,
    project_simplex,
    straight_through,
    table,
)
from bench.core.bounds import Count, Guidance, LearningRate, Steps, Weight
from bench.core.lazy import torch
from bench.core.spec import runtime
from bench.interfaces import Access, Attack, Candidate, Context, Goal, Target
from bench.toolkit.inversion import Span

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["UnlearnDiffAtk"]

# Tokens are drawn so many times for each prompt that is wanted; some were looked at before.
_DRAWS = 4


class UnlearnDiffAtk(Attack):
    """Simplex-constrained search for adversarial tokens.

    Presets:
        published: 50 timesteps x 40 steps, K = 3 (styles and objects), Adam 0.01 with L2 decay 0.1,
            one image after each timestep. It stops at the first success (Diffusion-MU-Attack,
            configs/{style,object}, commit of 2025-02-27).
        published-nsfw: the same with K = 5 (configs/{nudity,violence,illegal}).
        mini: for the miniature on two cores. Without decay: the published one is larger than the
            gradient there, so it drives the search from one token to the next.

    Attributes:
        tokens: K.
        where: Where they stand.
        steps: Gradient steps.
        iterations: Steps between looks; with ``ascending``, also steps per timestep.
        order: Of the timesteps; see :class:`attacks.shared.prompt_search.Timetable`.
        span: Part of the noise schedule the timesteps are from, (0, 1) is all of it.
        draws: (timestep, noise) pairs per step; the loss is their mean.
        lr: Adam's learning rate.
        decay: L2 decay inside Adam.
        prompts: Prompts per goal and look: the most likely tokens, then others that are drawn from
            the distribution; none that was looked at before.
        checks: Images per prompt and look.
        stop: ``success``: a goal is done when the surrogate says so; ``never``: the best of
            all looks.
        finalists: The best so many prompts are shown to the surrogate once more before one is
            chosen, on fresh seeds and beside the plain prompt. 0: the best look is, as published.
        final_checks: Images of each of them.
        vocabulary: See :func:`attacks.shared.tokens.allowed_tokens`.
        loss_scale: Guidance scale of the loss; ``None``: the suite's for a defence in the guidance,
            else 1, as published.
        mode: ``reference`` works on one goal at a time; same results, for comparing speed.
    """

    name: ClassVar[str] = "unlearn_diff_atk"
    access: ClassVar[Access] = Access.PROMPT
    revision: ClassVar[int] = 2
    gradients: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "published": {},
        "published-nsfw": {"tokens": 5},
        "mini": {
            "tokens": 3, "steps": 120, "iterations": 24, "order": "random", "span": (0.4, 0.9),
            "lr": 0.3, "decay": 0.0, "prompts": 3, "stop": "never", "vocabulary": "words",
            "finalists": 3,
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "steps": 2, "iterations": 2, "draws": 1, "checks": 1, "finalists": 1, "final_checks": 1,
    }  # fmt: skip
    tokens: int = Field(3, ge=1, le=75)
    where: Placement = "prefix"
    steps: Steps = 2000
    iterations: Steps = 40
    order: Literal["ascending", "random"] = "ascending"
    span: Span = (0.0, 1.0)
    draws: Count = 1
    lr: LearningRate = 0.01
    decay: Weight = 0.1
    prompts: Count = 1
    checks: Count = 1
    stop: Stop = "success"
    finalists: int = Field(0, ge=0, le=10_000)
    final_checks: Count = 4
    vocabulary: Vocabulary = "all"
    loss_scale: Guidance | None = None
    mode: Mode = runtime("batched")

    def looks(self) -> int:
        """Images per goal."""
        prompts = 1 + -(-self.steps // self.iterations) * self.prompts
        return prompts * self.checks + settling(self.finalists, self.final_checks)

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """The best prompt of each goal.

        Raises:
            ValueError: the model has no room for the tokens.
        """
        found = []
        for batch in batches(goals, self.mode):
            looks = Looks(target, batch, ctx, self.checks)
            steps = self.trajectory(looks)
            found += found_by(looks, steps, self.finalists, self.final_checks)
        return found

    def trajectory(self, looks: Looks) -> Iterator[tuple[list[int], Tensor]]:
        """The attack, step by step.

        Args:
            looks: The goals, and where their finds are kept.

        Returns:
            After each step the goals still attacked, and their distributions [B, K, V'] over the
            allowed tokens.
        """
        target, goals = looks.target, looks.goals
        model, n = target.model, self.draws
        sites = place(model, [goal.prompt for goal in goals], self.tokens, self.where)
        scale = guidance_scale(target, self.loss_scale)
        words = allowed_tokens(model, self.vocabulary).nonzero()[:, 0].to(model.device)
        rows_VE = table(model)[words]
        u = torch.full((len(goals), self.tokens, len(words)), 1 / len(words), device=model.device)
        adam = RowAdam(self.lr, self.decay, "adam")
        rows = rows_for(looks, sites, u, adam, generators_of(looks, "draws"))
        others = generators_of(looks, "looks")

        def step(rows: Rows, times: Sequence[int]) -> Tensor:
            uniform = rows.drawn(lambda g: torch.rand(self.tokens, generator=g))
            picked = rows_VE[draw_tokens(rows.x, uniform.to(rows.x.device))]
            grad = torch.zeros_like(picked)
            for t in times:
                noised = Noised(rows.clean_BChw, rows.noise(), t)
                grad += token_gradient(target, rows.sites, picked, noised, scale)[1] / n
            rows.x = project_simplex(rows.adam.step(rows.x, straight_through(grad, rows_VE)))
            return grad

        def shown(rows: Rows) -> tuple[list[int], list[Sequence[int]]]:
            tokens = [words[rows.x.argmax(-1)]]
            if self.prompts > 1:
                shape = (_DRAWS * self.prompts, self.tokens)
                drawn = [torch.rand(shape, generator=others[r]) for r in rows.active]
                tokens += [
                    words[draw_tokens(rows.x, uniform.to(rows.x.device))]
                    for uniform in torch.stack(drawn, 1)
                ]
            ids = [rows.sites.filled(x).tolist() for x in tokens]
            return self._chosen(looks, rows.active, ids)

        timetable = Timetable(self.steps * n, self.iterations * n, self.order, self.span)
        return in_blocks(
            looks, rows, timetable, step, shown, stop=self.stop, what=self.name, draws=n
        )

    def _chosen(
        self, looks: Looks, active: Sequence[int], ids: Sequence[Sequence[Sequence[int]]]
    ) -> tuple[list[int], list[Sequence[int]]]:
        """For each active goal the first prompts not looked at yet, or the first of all; and whose they are.

        Args:
            looks: What was looked at.
            active: B goals.
            ids: Their prompts in order of preference, [N, B, L].
        """
        rows: list[int] = []
        chosen: list[Sequence[int]] = []
        for i, r in enumerate(active):
            different = dict.fromkeys(tuple(prompts[i]) for prompts in ids)
            new = (prompt for prompt in different if looks.untried(r, prompt))
            kept = list(islice(new, self.prompts)) or [tuple(ids[0][i])]
            rows += [r] * len(kept)
            chosen += kept
        return rows, chosen

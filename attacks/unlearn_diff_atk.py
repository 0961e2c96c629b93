"""UnlearnDiffAtk (Zhang et al., "To Generate or Not?", ECCV 2024, arXiv 2310.11868): a search for tokens by gradient.

Which K tokens before the prompt make the edited model explain an image of the concept?

    min over u in simplex^K  E_{t, e} | e - eps_edited(x_t(x_0, e), t, TE([u | prompt])) |^2

with x_0 the *original* model's image for the same prompt. Reproduced: tokens drawn from u in the
forward pass and a straight-through gradient clamped to [-1, 1]; Adam with L2 decay; Euclidean
projection onto the simplex after each step; timesteps in ascending order, a block of steps each;
the most likely tokens decoded, tokenised again and sampled after each block; the plain prompt first.

Different on purpose: goals in one batch (losses summed, one generator a goal, finished goals
leave); the projection is exact, by sorting; the one-hot product is K rows of the table, not 77; a
defence in the guidance is attacked *through* it, where the reference's loss leaves it out; the
attacker's own judge stops the search, not the one of record; tokens are never special ones. The
reference also reset the global generator at each image, so that all its blocks saw the same draws:
that is left out. A look may take several prompts (``prompts``), and the best of them may be shown
to the judge again before one is chosen (``finalists``); the published presets do neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from attacks.shared.batches import Mode, batches
from attacks.shared.originals import guidance_scale, target_latents
from attacks.shared.prompt_search import (
    Looks,
    RowAdam,
    Scene,
    Schedule,
    Span,
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

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["UnlearnDiffAtk"]

# Tokens are drawn so many times for each prompt that is wanted; some were looked at before.
_DRAWS = 4


class UnlearnDiffAtk(Attack):
    """Simplex-constrained search for adversarial tokens.

    Presets:
        published: 50 timesteps x 40 steps, K = 3 (styles and objects), Adam 0.01 with L2 decay 0.1,
            one image after each timestep, stop at the first success (Diffusion-MU-Attack,
            configs/{style,object}, commit of 2025-02-27).
        published-nsfw: the same with K = 5 (configs/{nudity,violence,illegal}).
        mini: for the miniature on two cores. Without decay: the published one is larger than the
            gradient there, so it drives the search from one token to the next.

    Attributes:
        tokens: K.
        where: Where they stand.
        steps: Gradient steps.
        iterations: Steps between looks; with ``ascending``, also steps a timestep.
        order: Of the timesteps; see :class:`attacks.shared.prompt_search.Schedule`.
        span: Part of the noise schedule the timesteps are from, (0, 1) is all of it.
        draws: (timestep, noise) pairs a step, the loss is their mean.
        lr: Adam's learning rate.
        decay: L2 decay inside Adam.
        prompts: Prompts a goal and look: the most likely tokens, then others that are drawn from the
            distribution; none that was looked at before.
        checks: Images a prompt and look.
        stop: ``success``: a goal is done when the attacker's judge says so; ``never``: the best of
            all looks.
        finalists: The best so many prompts are shown to the attacker's judge once more before one
            is chosen, on fresh seeds and beside the plain prompt; 0: the best look is, as published.
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
    stop: Literal["success", "never"] = "success"
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
            for _ in self.trajectory(looks):
                pass
            if self.finalists:
                looks.settle(self.finalists, self.final_checks)
            found += looks.candidates()
        return found

    def trajectory(self, looks: Looks) -> Iterator[tuple[list[int], Tensor]]:
        """The attack, step by step.

        Args:
            looks: The goals, and where their finds are kept.

        Yields:
            The goals still attacked, and their distributions [B, K, V'] over the allowed tokens.
        """
        target, goals, rng = looks.target, looks.goals, looks.ctx.rng
        model = target.model
        prompts = [goal.prompt for goal in goals]
        sites = place(model, prompts, self.tokens, self.where)
        clean = target_latents(target, prompts, [rng.seed(g.id, "image") for g in goals])
        scale = guidance_scale(target, self.loss_scale)
        words = allowed_tokens(model, self.vocabulary).nonzero()[:, 0].to(clean.device)
        rows_VE = table(model)[words]
        u = torch.full((len(goals), self.tokens, len(words)), 1 / len(words), device=clean.device)
        adam = RowAdam(self.lr, self.decay, "adam")
        generators = [rng.generator(goal.id, "draws") for goal in goals]
        others = [rng.generator(goal.id, "looks") for goal in goals]
        active = list(range(len(goals)))
        done = looks.look(active, model.tokenize(prompts).tolist())
        total = model.schedule.steps
        n = self.draws
        schedule = Schedule(self.steps * n, self.iterations * n, self.order, self.span)
        taken = 0
        for times in schedule.blocks(total, rng):
            if self.stop == "success" and done:
                keep = [i for i, r in enumerate(active) if r not in done]
                index = torch.tensor(keep, dtype=torch.long, device=clean.device)
                active = [active[i] for i in keep]
                sites, clean, u = sites.rows(keep), clean[index], u[index]
                adam.keep(index)
            if not active:
                return
            for at in range(0, len(times), n):
                drawn = [generators[r] for r in active]
                uniform = torch.stack([torch.rand(self.tokens, generator=g) for g in drawn])
                picked = rows_VE[draw_tokens(u, uniform.to(u.device))]
                grad = torch.zeros_like(picked)
                for t in times[at : at + n]:
                    noise = torch.stack([torch.randn(*clean.shape[1:], generator=g) for g in drawn])
                    scene = Scene(clean, noise.to(clean.device), t)
                    grad += token_gradient(target, sites, picked, scene, scale)[1] / n
                u = project_simplex(adam.step(u, straight_through(grad, rows_VE)))
                taken += 1
                looks.step_taken(taken, self.steps, self.name, active, grad)
                yield list(active), u
            tokens = [words[u.argmax(-1)]]
            if self.prompts > 1:
                shape = (_DRAWS * self.prompts, self.tokens)
                uniform = torch.stack([torch.rand(shape, generator=others[r]) for r in active], 1)
                tokens += [words[draw_tokens(u, row.to(u.device))] for row in uniform]
            done = looks.look(
                *self._chosen(looks, active, [sites.filled(x).tolist() for x in tokens])
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

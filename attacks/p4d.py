"""P4D, "Prompting4Debugging" (Chin et al., ICML 2024, arXiv 2309.06135): projected embedding optimisation of a prompt.

Finds tokens with which the *edited* model predicts what the *original* predicts for the plain prompt:

    min over w  E_{t, e} | eps_edited(x_t, t, TE(p)) - eps_original(x_t, t, TE(prompt)) |^2

where p are the tokens nearest to the continuous embeddings w (cosine). The gradient is taken at p
and applied to w (PEZ, Wen et al. 2023). Reproduced: both prompt forms, the optimiser, a look at an
image every few steps, the best look wins. For a defence in the guidance the loss includes it, on
the edited model's side alone. What it should predict is the original's for the prompt, without
guidance.

Two attacks go by this name, so they are presets with names of their own. The official one has free
tokens, AdamW 0.1 and random timesteps. The re-implementation in OPTML's Diffusion-MU-Attack, which
later papers used, has K tokens before the prompt, Adam 0.01 and ascending timesteps, and stops at
success.

Different on purpose: goals in one batch; looks are scored by the surrogate, not by a CLIP
similarity to one image. The target image is the original model's first, not the most unsafe of
three. The original's prediction is taken without a graph. Padding is the tokenizer's own, where the
reference pads differently in the search and in the test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from attacks.shared.batches import Mode
from attacks.shared.block_search import Rows, Stop, found_by, generators_of, in_blocks, rows_for
from attacks.shared.originals import guidance_scale, unedited
from attacks.shared.prompt_search import (
    Looks,
    Noised,
    RowAdam,
    Timetable,
    predict,
    settling,
    token_gradient,
)
from attacks.shared.tokens import (
    Placement,
    Vocabulary,
    allowed_tokens,
    nearest_tokens,
    place,
    table,
)
from bench.core.bounds import Count, Guidance, LearningRate, Steps, Weight
from bench.core.clock import model_time
from bench.core.lazy import no_grad, torch
from bench.core.spec import runtime
from bench.interfaces import Access, Attack, Candidate, Context, Goal, Target
from bench.model.conditioning import Conditioning
from bench.model.text_to_image import TextToImage
from bench.toolkit.inversion import Span

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["P4D"]


class P4D(Attack):
    """Projected embedding optimisation of adversarial tokens.

    Presets:
        official-n: 16 free tokens, 3000 steps of AdamW 0.1 with decay 0.1, a look every 50
            (joycenerd/P4D, run_p4dn.py, commit of 2024-11-27).
        official-k: a token before the prompt and after every third of its own (run_p4dk.py; the
            paper's text leaves out the first).
        optml: K = 3 tokens before the prompt, Adam 0.01 with L2 decay 0.1, 50 timesteps x 40 steps
            (Diffusion-MU-Attack, hard_prompt attacker).
        ours: ``official-n``, with the original guided like the edited model.
        mini: for the miniature on two cores; the original is guided as in ``ours``.

    Attributes:
        tokens: Adversarial tokens; ``None``: one before the prompt, and one for each ``every`` of
            its own.
        every: The prompt's tokens between two adversarial ones, where ``where`` is ``every`` or
            ``tokens`` is ``None``.
        where: Where they stand.
        steps: Gradient steps.
        iterations: Steps between looks.
        order: Of the timesteps; see :class:`attacks.shared.prompt_search.Timetable`.
        span: Part of the noise schedule they are from.
        optimiser: ``adamw``, or ``adam`` with L2 decay.
        lr: Learning rate.
        decay: Weight decay.
        checks: Images per goal and look.
        stop: ``success``: a goal is done when the surrogate says so; ``never``: the best of
            all looks.
        finalists: The best so many prompts are shown to the surrogate once more before one is
            chosen, on fresh seeds and beside the plain prompt. 0: the best look is, as published.
        final_checks: Images of each of them.
        vocabulary: See :func:`attacks.shared.tokens.allowed_tokens`.
        loss_scale: Guidance scale of the edited model's prediction; ``None``: the suite's for a
            defence in the guidance, else 1.
        teacher: What it should predict: the original's prediction for the prompt. It is
            ``unguided``, as published, or ``guided`` at the same scale, so that both sides are of
            one size.
        mode: ``reference`` works on one goal at a time; same results, for comparing speed.
    """

    name: ClassVar[str] = "p4d"
    access: ClassVar[Access] = Access.PROMPT
    revision: ClassVar[int] = 3
    gradients: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "official-n": {},
        "official-k": {"tokens": None, "where": "every"},
        "optml": {
            "tokens": 3, "where": "prefix", "steps": 2000, "iterations": 40, "order": "ascending",
            "optimiser": "adam", "lr": 0.01, "stop": "success",
        },
        "ours": {"teacher": "guided"},
        "mini": {
            "tokens": 8, "steps": 120, "iterations": 8, "vocabulary": "words", "finalists": 3,
            "teacher": "guided",
        },
    }  # fmt: skip
    quick: ClassVar[dict[str, Any]] = {
        "steps": 2, "iterations": 2, "checks": 1, "finalists": 1, "final_checks": 1,
    }  # fmt: skip
    tokens: int | None = Field(16, ge=1, le=75)
    every: Count = 3
    where: Placement = "replace"
    steps: Steps = 3000
    iterations: Steps = 50
    order: Literal["ascending", "random"] = "random"
    span: Span = (0.0, 1.0)
    optimiser: Literal["adam", "adamw"] = "adamw"
    lr: LearningRate = 0.1
    decay: Weight = 0.1
    checks: Count = 1
    stop: Stop = "never"
    finalists: int = Field(0, ge=0, le=10_000)
    final_checks: Count = 4
    vocabulary: Vocabulary = "all"
    loss_scale: Guidance | None = None
    teacher: Literal["unguided", "guided"] = "unguided"
    mode: Mode = runtime("batched")

    def looks(self) -> int:
        """Images per goal."""
        prompts = 1 + -(-self.steps // self.iterations)
        return prompts * self.checks + settling(self.finalists, self.final_checks)

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """The best prompt of each goal.

        Raises:
            ValueError: the model has no room for the tokens.
        """
        found: dict[str, Candidate] = {}
        for tokens, batch in self._batches(target.model, goals):
            looks = Looks(target, batch, ctx, self.checks)
            steps = self.trajectory(looks, tokens)
            best = found_by(looks, steps, self.finalists, self.final_checks)
            found |= {c.goal: c for c in best}
        return [found[goal.id] for goal in goals]

    def _batches(self, model: TextToImage, goals: Sequence[Goal]) -> list[tuple[int, list[Goal]]]:
        """Goals with as many adversarial tokens each."""
        if self.mode == "reference":
            return [(self._tokens(model, goal), [goal]) for goal in goals]
        groups: dict[int, list[Goal]] = {}
        for goal in goals:
            groups.setdefault(self._tokens(model, goal), []).append(goal)
        return sorted(groups.items())

    def _tokens(self, model: TextToImage, goal: Goal) -> int:
        if self.tokens is not None:
            return self.tokens
        own = len(model.words.ids(goal.prompt))
        room = model.length - 2
        return 1 + min(own // self.every, (room - 1) // (self.every + 1))

    def trajectory(self, looks: Looks, tokens: int) -> Iterator[tuple[list[int], Tensor]]:
        """The attack, step by step.

        Args:
            looks: The goals, and where their finds are kept.
            tokens: Adversarial tokens per goal.

        Returns:
            After each step the goals still attacked, and their continuous embeddings [B, K, E].
        """
        target, goals = looks.target, looks.goals
        model, original = target.model, unedited(target.model)
        prompts = [goal.prompt for goal in goals]
        sites = place(model, prompts, tokens, self.where, every=self.every)
        with torch.no_grad():
            plain = original.encode(prompts)
        scale = guidance_scale(target, self.loss_scale)
        taught_at = scale if self.teacher == "guided" else 1.0
        allowed, words = allowed_tokens(model, self.vocabulary), table(model)
        generators = generators_of(looks, "draws")
        w = words[_first(allowed, tokens, generators).to(words.device)]
        adam = RowAdam(self.lr, self.decay, self.optimiser)
        rows = rows_for(looks, sites, w, adam, generators, beside=(plain,))

        def step(rows: Rows, times: Sequence[int]) -> Tensor:
            noised = Noised(rows.clean_BChw, rows.noise(), times[0])
            noised = replace(
                noised, wanted_BChw=_teacher(original, noised, rows.beside[0], taught_at)
            )
            nearest = words[nearest_tokens(rows.x, words, allowed)]
            grad = token_gradient(target, rows.sites, nearest, noised, scale)[1]
            rows.x = rows.adam.step(rows.x, grad)
            return grad

        def shown(rows: Rows) -> tuple[list[int], list[list[int]]]:
            return rows.active, rows.sites.filled(nearest_tokens(rows.x, words, allowed)).tolist()

        timetable = Timetable(self.steps, self.iterations, self.order, self.span)
        return in_blocks(looks, rows, timetable, step, shown, stop=self.stop, what=self.name)


def _first(allowed_V: Tensor, tokens: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Where each goal starts: allowed tokens [B, K] at random, as in PEZ."""
    usable = allowed_V.nonzero()[:, 0]
    return torch.stack(
        [usable[torch.randint(len(usable), (tokens,), generator=g)] for g in generators]
    )


@no_grad
def _teacher(original: TextToImage, noised: Noised, plain: Conditioning, scale: float) -> Tensor:
    """The original model's predictions for the plain prompts, [B, C, h, w]."""

    def chunk(rows: slice) -> Tensor:
        return predict(original, noised.noisy(original, rows), noised.t, plain[rows], scale, 0)

    with model_time():
        return original.micro.map(len(plain), chunk).float()

"""Parts of the gradient attacks on prompts: a gradient for a batch of prompts, an optimiser of rows, and looks.

All prompts are optimised in one batch and none sees the others. Losses are summed, and the
optimiser works element by element. Each goal draws from its own generator, and a goal that is done
leaves the batch without moving what the others draw.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from attacks.shared.originals import step_of
from attacks.shared.search import score_images
from attacks.shared.tokens import Read, Sites, about_minors, read_prompt
from bench.core.clock import model_time
from bench.core.lazy import torch
from bench.interfaces import Candidate, Context, Goal, Rng, Target, Trace
from bench.model.conditioning import Conditioning
from bench.model.guidance import ClassifierFree
from bench.model.text_to_image import TextToImage
from bench.toolkit.inversion import gradient_faults, states_with

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Looks", "Noised", "RowAdam", "Timetable", "predict", "settling", "token_gradient"]


log = logging.getLogger(__name__)

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


# -- gradients -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Noised:
    """Images and the noise on them at one timestep: what the loss of B prompts is taken on.

    Attributes:
        latents_BChw: Clean latents of the target images.
        noise_BChw: What is added to them.
        t: The timestep.
        wanted_BChw: What the edited model should predict; ``None``: the target of its training.
    """

    latents_BChw: Tensor
    noise_BChw: Tensor
    t: int
    wanted_BChw: Tensor | None = None

    def noisy(self, model: TextToImage, rows: slice) -> Tensor:
        """Some of the noisy latents, in the model's precision."""
        return model.schedule.add_noise(*self._drawn(rows)).to(model.dtype)

    def wanted(self, model: TextToImage, rows: slice) -> Tensor:
        """The predictions wanted for some of the rows, float32 or wider."""
        if self.wanted_BChw is not None:
            return self.wanted_BChw[rows].float()
        return model.schedule.target(*self._drawn(rows))

    def _drawn(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        clean, noise = self.latents_BChw[rows], self.noise_BChw[rows]
        t_B = torch.full((len(clean),), self.t, dtype=torch.long, device=clean.device)
        return clean, noise, t_B


def predict(
    model: TextToImage,
    noisy_BChw: Tensor,
    t: Tensor | int,
    conditioning: Conditioning,
    scale: float,
    step: int,
) -> Tensor:
    """The noise the model predicts, through its own guidance unless that is none at this scale.

    A guidance that depends on the steps before is met as at sampling step ``step``.
    """
    if scale == 1.0 and isinstance(model.guidance, ClassifierFree):
        return model.denoise(noisy_BChw, t, conditioning)
    contexts = model.guidance.contexts(model, conditioning)
    return model.guide_as_sampled(noisy_BChw, t, contexts, scale, [step] * len(noisy_BChw))


def token_gradient(
    target: Target, sites: Sites, vectors_BKE: Tensor, noised: Noised, scale: float
) -> tuple[Tensor, Tensor]:
    """The prediction error of B prompts, and its gradient by their adversarial embeddings.

    ``L_b = mean |eps(x_t, t, prompt_b) - wanted|^2``, a mean over the latent and a *sum* over
    prompts: a mean would make a row's steps depend on how many rows there are. Worked on in
    micro-batches, halved when memory runs out; the result is the same.

    Args:
        target: The edited model.
        sites: The prompts.
        vectors_BKE: Embeddings at their places.
        noised: What the loss is taken on.
        scale: Guidance scale.

    Returns:
        float32 losses [B] and gradients [B, K, E].
    """
    model = target.model
    step = 0 if isinstance(model.guidance, ClassifierFree) else step_of(target, noised.t)

    def chunk(rows: slice) -> Tensor:
        vectors = vectors_BKE[rows].detach().float().requires_grad_()
        told = states_with(model, sites.ids_BL[rows], sites.places_BK[rows], vectors)
        eps = predict(model, noised.noisy(model, rows), noised.t, told, scale, step)
        losses = (eps.float() - noised.wanted(model, rows)).square().mean((1, 2, 3))
        (grad,) = torch.autograd.grad(losses.sum(), vectors)
        return torch.cat([losses.detach()[:, None], grad.flatten(1)], 1)

    with model_time():
        out = model.micro.map(len(vectors_BKE), chunk)
    return out[:, 0], out[:, 1:].view(vectors_BKE.shape)


# -- optimiser -------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class RowAdam:
    """Adam (Kingma & Ba 2015) whose rows can leave the batch.

    Attributes:
        lr: Learning rate.
        decay: Weight decay.
        rule: ``adam`` adds the decay to the gradient (L2); ``adamw`` shrinks the values.
    """

    lr: float
    decay: float = 0.0
    rule: Literal["adam", "adamw"] = "adam"
    _steps: int = 0
    _first: Tensor | None = None
    _second: Tensor | None = None

    def step(self, x: Tensor, grad: Tensor) -> Tensor:
        """The next values."""
        first = torch.zeros_like(x) if self._first is None else self._first
        second = torch.zeros_like(x) if self._second is None else self._second
        if self.rule == "adam":
            grad = grad + self.decay * x
        else:
            x = x * (1 - self.lr * self.decay)
        self._steps += 1
        self._first = first.lerp(grad, 1 - _BETAS[0])
        self._second = second * _BETAS[1] + grad.square() * (1 - _BETAS[1])
        size = (self._second / (1 - _BETAS[1] ** self._steps)).sqrt() + _EPSILON
        return x - self.lr / (1 - _BETAS[0] ** self._steps) * self._first / size

    def keep(self, index_B: Tensor) -> None:
        """Drops the state of all other rows."""
        if self._first is not None and self._second is not None:
            self._first, self._second = self._first[index_B], self._second[index_B]


# -- schedule --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timetable:
    """Which timestep each step is taken at: blocks of steps, a look after each.

    Attributes:
        steps: Gradient steps in all.
        block: Steps between looks.
        order: ``ascending``: one timestep per block, evenly spaced from low noise to high;
            ``random``: a fresh one each step, shared by all goals.
        span: Part of the noise schedule they are taken from, (0, 1) is all of it.
    """

    steps: int
    block: int
    order: Literal["ascending", "random"]
    span: tuple[float, float] = (0.0, 1.0)

    def blocks(self, total: int, rng: Rng) -> list[list[int]]:
        """The timesteps of each block.

        Args:
            total: Timesteps of the model's noise schedule.
            rng: Its stream ``timesteps`` belongs to no goal, so goals do not depend on each other.
        """
        sizes = [min(self.block, self.steps - at) for at in range(0, self.steps, self.block)]
        low, high = (round(end * total) for end in self.span)
        if self.order == "random":
            generator = rng.generator("timesteps")
            drawn = torch.randint(low, max(high, low + 1), (self.steps,), generator=generator)
            return [part.tolist() for part in drawn.split(sizes)]
        apart = max(1, (high - low) // len(sizes))
        times = [min(total - 1, low + apart // 2 + i * apart) for i in range(len(sizes))]
        return [[t] * size for t, size in zip(times, sizes, strict=True)]


# -- looks -----------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class Looks:
    """Prompts tried on the edited model, and the best of each goal by the surrogate.

    A prompt counts for the share of its images that reach the judge's threshold, each of the others
    for how near it comes. What is beyond the threshold counts for nothing. So a goal's own prompt,
    which wins ties, is not lost to a find that is no better. A prompt is sampled once: the same
    text on the same seeds would be the same images.

    Attributes:
        target: The edited model, its sampler and the surrogate.
        goals: All goals.
        ctx: Its streams ``search`` give the seeds; the same ones at every look, so that looks
            compare.
        images: Images per prompt and look.
    """

    target: Target
    goals: Sequence[Goal]
    ctx: Context
    images: int
    _tried: dict[int, dict[str, list[float]]] = field(default_factory=dict)
    _queries: dict[int, int] = field(default_factory=dict)
    _seen: dict[int, list[float]] = field(default_factory=dict)
    _images: dict[int, list[int]] = field(default_factory=dict)
    _changed: dict[int, int] = field(default_factory=dict)
    _taken: dict[int, int] = field(default_factory=dict)
    _budget: int = 0
    _faults_G2: Tensor | None = None

    @property
    def changed(self) -> int:
        """Prompts of all goals whose ids did not survive decoding and tokenising."""
        return sum(self._changed.values())

    def look(self, rows: Sequence[int], ids: Sequence[Sequence[int]]) -> list[int]:
        """Samples and scores prompts for some goals.

        What is judged is the text, as the model reads it: a prompt filter sees it as well. A text
        that came to speak of minors is not sampled.

        Args:
            rows: Which goal each prompt is for.
            ids: Token ids of the prompts.

        Returns:
            The rows whose mean score reaches the surrogate's threshold.
        """
        reads = [read_prompt(self.target.model, row) for row in ids]
        for r, read in zip(rows, reads, strict=True):
            self._changed[r] = self._changed.get(r, 0) + (not read.kept)
        fit = dict.fromkeys(
            (r, read.text) for r, read in zip(rows, reads, strict=True) if _usable(read)
        )
        new = [(r, text) for r, text in fit if text not in self._tried.get(r, {})]
        self._sample([(r, text, k) for r, text in new for k in range(self.images)])
        for r in dict.fromkeys(rows):
            # A text that could not be sampled was a look all the same.
            best = max((fmean(scores) for scores in self._tried.get(r, {}).values()), default=0.0)
            self._seen.setdefault(r, []).append(best)
            self._images.setdefault(r, []).append(self._queries.get(r, 0))
        bar = self.target.surrogate.threshold
        return list(dict.fromkeys(r for r, text in fit if fmean(self._tried[r][text]) >= bar))

    def untried(self, row: int, ids: Sequence[int]) -> bool:
        """Whether a prompt would show a goal's images that were not looked at yet."""
        read = read_prompt(self.target.model, ids)
        return _usable(read) and read.text not in self._tried.get(row, {})

    def ranked(self, row: int) -> list[str]:
        """The prompts of a goal that were tried, best first."""
        tried = self._tried.get(row, {})
        return sorted(tried, key=lambda text: self._worth(row, text), reverse=True)

    def settle(self, finalists: int, images: int) -> None:
        """Leaves each goal the best of its prompts and its own, after another look at each on fresh seeds.

        The best of many prompts on few seeds was lucky on those seeds. Still search seeds: none is
        held out, and the images count as queries.

        Args:
            finalists: Prompts per goal, beside its own.
            images: Fresh images each.
        """
        jobs = []
        for r, goal in enumerate(self.goals):
            tried, own = self._tried.get(r, {}), self._own(goal)
            best = [text for text in self.ranked(r) if text != own][:finalists]
            if not best:
                continue
            left = [own, *best] if own in tried else best
            self._tried[r] = {text: tried[text] for text in left}
            jobs += [(r, text, self.images + k) for text in left for k in range(images)]
        self._sample(jobs)

    def _sample(self, jobs: Sequence[tuple[int, str, int]]) -> None:
        """Keeps the scores of images: (goal, prompt, index of the search seed) each."""
        if not jobs:
            return
        out = self.target.model.sample(
            [text for _, text, _ in jobs],
            [self.ctx.rng.seed(self.goals[r].id, k, "search") for r, _, k in jobs],
            self.target.sampler,
        )
        owners = [self.goals[r] for r, _, _ in jobs]
        ok = [status == "ok" for status in out.status]
        scores = score_images(self.target, owners, out.images_B3HW, ok).clamp(min=0).tolist()
        for (r, text, _), score in zip(jobs, scores, strict=True):
            self._queries[r] = self._queries.get(r, 0) + 1
            self._tried.setdefault(r, {}).setdefault(text, []).append(score)

    def _own(self, goal: Goal) -> str:
        """A goal's own prompt, as the model reads it."""
        return read_prompt(
            self.target.model, self.target.model.tokenize([goal.prompt])[0].tolist()
        ).text

    def _worth(self, row: int, text: str) -> tuple[float, bool, float]:
        """By what prompts are compared: see the class; among equals by their mean score."""
        bar, scores = self.target.surrogate.threshold, self._tried[row][text]
        reached = fmean(1.0 if score >= bar else score / bar for score in scores)
        return reached, text == self._own(self.goals[row]), fmean(scores)

    def candidates(self) -> list[Candidate]:
        """The best prompt of each goal; its own prompt where none could be tried."""
        if self.changed:
            log.info(
                "%d prompts were not what their tokens said; the text was judged", self.changed
            )
        found = []
        for r, goal in enumerate(self.goals):
            tried = self._tried.get(r, {})
            text = max(tried, key=lambda text: self._worth(r, text), default=goal.prompt)
            found.append(
                Candidate(
                    goal=goal.id,
                    prompt=text,
                    own_score=fmean(tried[text]) if tried else None,
                    queries=self._queries.get(r, 0),
                    trace=self._trace(r),
                )
            )
        return found

    def step_taken(
        self, done: int, total: int, what: str, rows: Sequence[int], grad_BKE: Tensor
    ) -> None:
        """Counts one gradient step and tells the harness.

        Args:
            done: Steps taken, this one included.
            total: Steps there will be.
            what: Of what.
            rows: The B goals it was taken for.
            grad_BKE: Their gradients; what is wrong with them is counted where they are.
        """
        if self._faults_G2 is None:
            size = (len(self.goals), 2)
            self._faults_G2 = torch.zeros(size, dtype=torch.long, device=grad_BKE.device)
        index = torch.tensor(rows, dtype=torch.long, device=grad_BKE.device)
        self._faults_G2.index_add_(0, index, gradient_faults(grad_BKE))
        self._taken.update(dict.fromkeys(rows, done))
        self._budget = total
        self.ctx.spend(gradient_steps=1)
        self.ctx.progress(done, total, what)

    def _trace(self, row: int) -> Trace:
        zero, bad = (0, 0) if self._faults_G2 is None else self._faults_G2[row].tolist()
        return Trace(
            looks=tuple(self._seen.get(row, ())),
            changed=self._changed.get(row, 0),
            steps=self._taken.get(row, 0),
            budget=self._budget,
            zero=zero,
            bad=bad,
            images=tuple(self._images.get(row, ())),
        )


def settling(finalists: int, images: int) -> int:
    """Images per goal of :meth:`Looks.settle`, at most: the goal's own prompt is shown as well."""
    return (finalists + 1) * images if finalists else 0


def _usable(read: Read) -> bool:
    return bool(read.text) and not about_minors(read.text)

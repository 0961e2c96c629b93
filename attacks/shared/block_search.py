"""The loop of the searches for tokens by gradient: a block of steps, then a look at what they found."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from attacks.shared.originals import target_latents
from attacks.shared.prompt_search import Looks, RowAdam, Timetable
from attacks.shared.tokens import Sites
from bench.core.lazy import torch
from bench.interfaces import Candidate
from bench.model.conditioning import Conditioning

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Rows", "Shown", "Step", "Stop", "found_by", "generators_of", "in_blocks", "rows_for"]

Stop = Literal["success", "never"]


@dataclass(slots=True, eq=False)
class Rows:
    """The goals that are still attacked: each tensor has a row per goal, B rows in all.

    Attributes:
        active: Which goal each row is for.
        sites: The prompts, and the places of their tokens.
        clean_BChw: Clean latents of the target images.
        x: What is optimised, [B, K, ...].
        adam: Moves ``x``.
        generators: One per goal, attacked or not.
        beside: Conditionings that the search needs beside.
    """

    active: list[int]
    sites: Sites
    clean_BChw: Tensor
    x: Tensor
    adam: RowAdam
    generators: Sequence[torch.Generator]
    beside: tuple[Conditioning, ...] = ()

    def drawn(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        """The values [B, ...] that ``draw`` gives for each goal's own generator, on the CPU."""
        return torch.stack([draw(self.generators[r]) for r in self.active])

    def noise(self) -> Tensor:
        """Standard normal [B, C, h, w], on the device of the latents."""
        shape = self.clean_BChw.shape[1:]
        noise = self.drawn(lambda generator: torch.randn(*shape, generator=generator))
        return noise.to(self.clean_BChw.device)

    def leave(self, done: Collection[int]) -> None:
        """Drops the rows of some goals."""
        keep = [i for i, r in enumerate(self.active) if r not in done]
        index = torch.tensor(keep, dtype=torch.long, device=self.clean_BChw.device)
        self.active = [self.active[i] for i in keep]
        self.sites = self.sites.rows(keep)
        self.clean_BChw, self.x = self.clean_BChw[index], self.x[index]
        self.beside = tuple(rows[index] for rows in self.beside)
        self.adam.keep(index)


Step: TypeAlias = "Callable[[Rows, Sequence[int]], Tensor]"
"""Moves ``x`` by the loss at some timesteps, and gives its gradient by the tokens' embeddings, [B, K, E]."""

Shown: TypeAlias = "Callable[[Rows], tuple[Sequence[int], Sequence[Sequence[int]]]]"
"""Gives the prompts to look at: whose each is, and its token ids."""


def generators_of(looks: Looks, stream: str) -> list[torch.Generator]:
    """A generator per goal: what one draws depends on no other goal."""
    return [looks.ctx.rng.generator(goal.id, stream) for goal in looks.goals]


def rows_for(
    looks: Looks,
    sites: Sites,
    x: Tensor,
    adam: RowAdam,
    generators: Sequence[torch.Generator],
    *,
    beside: tuple[Conditioning, ...] = (),
) -> Rows:
    """The rows of all goals; the target image is the original model's for the goal's prompt."""
    goals = looks.goals
    prompts = [goal.prompt for goal in goals]
    seeds = [looks.ctx.rng.seed(goal.id, "image") for goal in goals]
    clean = target_latents(looks.target, prompts, seeds)
    return Rows(list(range(len(goals))), sites, clean, x, adam, generators, beside)


def in_blocks(
    looks: Looks,
    rows: Rows,
    timetable: Timetable,
    step: Step,
    shown: Shown,
    *,
    stop: Stop,
    what: str,
    draws: int = 1,
) -> Iterator[tuple[list[int], Tensor]]:
    """Looks at the plain prompts, then takes the steps of a block and looks, block after block.

    Args:
        looks: The goals, and where their finds are kept.
        rows: All of them; changed on the way.
        timetable: Of the timesteps; its counts are of timesteps, ``draws`` per step.
        step: One step.
        shown: What is looked at after a block.
        stop: ``success``: a goal leaves when a look succeeded; ``never``: none does.
        what: Said to the progress.
        draws: Timesteps per step.

    Yields:
        After each step the goals still attacked, and ``x``.
    """
    model, taken = looks.target.model, 0
    done = looks.look(rows.active, model.tokenize([g.prompt for g in looks.goals]).tolist())
    for times in timetable.blocks(model.schedule.steps, looks.ctx.rng):
        if stop == "success" and done:
            rows.leave(done)
        if not rows.active:
            return
        for at in range(0, len(times), draws):
            grad = step(rows, times[at : at + draws])
            taken += 1
            looks.step_taken(taken, timetable.steps // draws, what, rows.active, grad)
            yield list(rows.active), rows.x
        done = looks.look(*shown(rows))


def found_by(
    looks: Looks, steps: Iterator[tuple[list[int], Tensor]], finalists: int, images: int
) -> list[Candidate]:
    """The best prompt of each goal once all steps are taken; see :meth:`Looks.settle` for the finalists."""
    for _ in steps:
        pass
    if finalists:
        looks.settle(finalists, images)
    return looks.candidates()

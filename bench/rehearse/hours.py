"""The hours of a suite from counts: images, solver steps and gradient steps, times what one of each takes.

What is not counted is in no sum, and said: edits that train, and attacks that this file does not know.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

from bench.interfaces import Attack
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.run.cells import AttackCell, Cell, EditCell, ReferenceCell, TrialCell, UtilityCell
from bench.run.estimate import Estimate
from bench.run.plan import Plan

__all__ = ["GROUND", "Speed", "counted", "images_of", "measured"]

GROUND: Final = "measured throughput times counts"
_STEPS: Final = 4
_LONG: Final = 20.0
"""Seconds beside which what a first call sets up is small."""
_ROWS: Final = 16
_ROWS_ON_A_CPU: Final = 2
_LARGE: Final = 32
"""The side of latents of which one row keeps all cores of a CPU at work."""

# Rows of the UNet with a gradient that an attack asks for, of one cell. Those with 0 look at images alone, or
# search in the text encoder, which is small beside it. Held to what the attacks do by the tests.
_GRADIENT: Final[dict[str, Callable[[Any, int], int]]] = {
    **dict.fromkeys(
        ("prompts", "random_tokens", "seed_search", "noise_probe", "ring_a_bell", "mma", "prune_or_quantise"),
        lambda attack, goals: 0,
    ),
    "unlearn_diff_atk": lambda attack, goals: goals * attack.steps * attack.draws,
    "p4d": lambda attack, goals: goals * attack.steps,
    "concept_inversion": lambda attack, goals: attack.restarts * attack.steps * attack.draws,
}  # fmt: skip
# Methods whose edit takes no training: seconds.
_AT_ONCE: Final = frozenset(
    {"none", "destroyed", "uce", "rece", "speed", "negative_prompt", "sld", "safree", "prompt_filter", "adavd"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a machine is at a base's size.

    Attributes:
        image_step: Seconds of one image per solver step, guidance and its share of decoding included.
        gradient_row: Seconds of one row of the UNet, forward and backward.
        device: Where.
    """

    image_step: float
    gradient_row: float
    device: str


def measured(model: TextToImage, sampler: Sampler) -> Speed:
    """The speed of this machine on a model: a batch is sampled, and one gradient step taken.

    Each after a first one, unless that takes so long that it says enough.

    Args:
        model: The base.
        sampler: The suite's; four of its steps are taken.
    """
    where = model.backbone.device
    rows = _ROWS if where.type == "cuda" else _ROWS_ON_A_CPU
    if where.type == "cpu" and model.latent_shape[1] >= _LARGE:
        rows = 1
    few = sampler.model_copy(update={"steps": min(_STEPS, sampler.steps)})
    prompts = ["a picture"] * rows

    def sample() -> None:
        model.sample(prompts, list(range(rows)), few)

    told = model.encode(prompts)
    noise = model.noise(list(range(rows)), few).to(where, model.dtype)

    def step() -> None:
        leaf = told.states_BLD.detach().clone().requires_grad_()
        out = model.denoise(noise, 500, told.with_states(leaf))
        out.float().square().mean().backward()

    return Speed(
        image_step=_seconds(sample, where) / (rows * few.steps),
        gradient_row=_seconds(step, where) / rows,
        device=torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
    )


def images_of(cell: Cell) -> int:
    """The images that a cell samples."""
    match cell:
        case ReferenceCell() | UtilityCell():
            return len(cell.prompts)
        case TrialCell():
            return len(cell.goals) * cell.attack.images_per_find(cell.images)
        case AttackCell():
            return len(cell.goals) * cell.attack.looks()
    return 0


def counted(plan: Plan, speed: Speed) -> Estimate:
    """How long a plan takes at a speed; judges and metrics, which look at images that are there, are left out.

    Args:
        plan: Of the whole suite.
        speed: Of the machine.
    """
    each: dict[str, float] = {}
    seconds: defaultdict[str, float] = defaultdict(float)
    counts, unknown = Counter[str](), Counter[str]()
    step = speed.image_step * plan.sampler.steps
    for cell in plan.cells:
        if cell.kind == "score":
            continue
        counts[cell.kind] += 1
        took = _training(cell)
        if took is None:
            unknown[cell.kind] += 1
            continue
        each[cell.digest] = images_of(cell) * step + took * speed.gradient_row
        seconds[cell.kind] += each[cell.digest]
    rests = {GROUND: len(each)}
    return Estimate(
        sum(counts.values()), dict(seconds), counts, rests, unknown, 0, speed.device, each
    )


def _training(cell: Cell) -> int | None:
    """Rows with a gradient that a cell asks for; ``None``: nobody counted."""
    match cell:
        case EditCell():
            return 0 if cell.method.name in _AT_ONCE else None
        case AttackCell():
            return gradient_rows(cell.attack, len(cell.goals))
    return 0


def gradient_rows(attack: Attack, goals: int) -> int | None:
    """Rows of the UNet with a gradient that an attack asks for on so many goals of a concept; ``None``: not known."""
    count = _GRADIENT.get(attack.name)
    return None if count is None else count(attack, goals)


def _seconds(work: Callable[[], None], where: torch.device) -> float:
    """The seconds of the second of two times; of the only one, where that took so long that it says enough."""
    took = 0.0
    for _ in range(2):
        began = time.perf_counter()
        work()
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        took = time.perf_counter() - began
        if took > _LONG:
            break
    return took

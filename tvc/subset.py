"""Named subsets of the UNet that an edit can be restricted to.

The paper edits "the first three blocks"; which they are is not stated where we could read, so the
natural reading is one subset among others (reconstruction). The search asks of each subset what
strength it needs, by Diverse Inversion, and what that strength costs on the concept's neighbours.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bench.interfaces import Concept, Judge, Progress, Rng, silent
from bench.model import TextToImage
from bench.sampler import Sampler
from tvc.diverse_inversion import InversionSet
from tvc.strength import Estimate, Strength, estimate
from tvc.task_vector import TaskVector, block_of

__all__ = ["SUBSETS", "Ranked", "named_subset", "rank_subsets", "retained", "subset_names"]


def _has(*parts: str) -> Callable[[str], bool]:
    return lambda name: any(part in name for part in parts)


SUBSETS: dict[str, Callable[[str], bool]] = {
    "all": lambda name: True,
    "first-three": _has("unet.down_blocks.0.", "unet.down_blocks.1.", "unet.down_blocks.2."),
    "down": _has("unet.down_blocks."),
    "mid": _has("unet.mid_block."),
    "up": _has("unet.up_blocks."),
    "cross-attention": _has(".attn2."),
    "self-attention": _has(".attn1."),
    "attention": _has(".attn1.", ".attn2."),
    "feed-forward": _has(".ff."),
    "convolutions": lambda name: (
        ".conv" in name or name.startswith(("unet.conv_in", "unet.conv_out"))
    ),
}
"""Name -> whether it holds a parameter ``unet.…``. Besides these, each block by its name, ``down_blocks.0``."""


def subset_names(parameters: Iterable[str]) -> tuple[str, ...]:
    """Every subset of a network: those of :data:`SUBSETS` and each block by its name."""
    blocks = dict.fromkeys(block_of(n).removeprefix("unet.") for n in parameters if "_blocks." in n)
    return (*SUBSETS, *blocks)


def named_subset(model: TextToImage, subset: str) -> Callable[[str], bool]:
    """Whether a parameter belongs to the subset.

    Raises:
        ValueError: unknown, or empty in this model.
    """
    names: Sequence[str] = [n for n in model.backbone.parameters if n.startswith("unet.")]
    known = subset_names(names)
    if subset not in known:
        near = difflib.get_close_matches(subset, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown subset {subset!r}; this model has: {', '.join(known)}{hint}")
    keep = SUBSETS.get(subset) or _has(f"unet.{subset}.")
    if not any(keep(n) for n in names):
        raise ValueError(f"subset {subset!r} is empty in this model; it has: {', '.join(known)}")
    return lambda name: name.startswith("unet.") and keep(name)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A subset, the strength it needs and what that costs.

    Attributes:
        subset: Its name.
        estimate: Of the strength.
        retained: See :func:`retained`.
    """

    subset: str
    estimate: Estimate
    retained: float


def retained(
    base: TextToImage,
    edited: TextToImage,
    concept: Concept,
    *,
    samples: int,
    sampler: Sampler,
    checker: Judge,
    rng: Rng,
) -> float:
    """Utility a method may look at: images of the concept's neighbours, by name.

    Args:
        base: The unedited model.
        edited: The edited one.
        concept: What was erased; only its neighbours are used, and of those the names.
        samples: Images a neighbour.
        sampler: How to sample.
        checker: Never the judge of record.
        rng: Streams kept for this purpose.

    Returns:
        Of the images in which the base draws the neighbour, the share in which the edited model
        still does, for the same seeds.

    Raises:
        ValueError: the concept has no neighbours that the base can draw.
    """
    kept = drawn = 0
    seeds = [rng.seed("retained", k) for k in range(samples)]
    for name in concept.neighbours:
        others = tuple(n for n in concept.neighbours if n != name)
        neighbour = Concept(text=name, family=concept.family, neighbours=(*others, concept.text))
        shows = []
        for model in (base, edited):
            images = model.sample([name] * samples, seeds, sampler).images_B3HW
            scores = checker.scores(images.to(model.backbone.device), neighbour).amax(1)
            shows.append(scores >= checker.threshold)
        drawn += int(shows[0].sum())
        kept += int((shows[0] & shows[1]).sum())
    if not drawn:
        raise ValueError(
            f"{concept.text!r} has no neighbour that the base draws: name some in the concept, they tell what an "
            "edit costs"
        )
    return kept / drawn


def rank_subsets(
    model: TextToImage,
    vector: TaskVector,
    concept: Concept,
    inversions: InversionSet,
    how: Strength,
    *,
    subsets: Sequence[str],
    sampler: Sampler,
    checker: Judge,
    rng: Rng,
    progress: Progress = silent,
) -> list[Ranked]:
    """What each subset needs and costs, the best first: those that reach the threshold, by utility.

    Raises:
        ValueError: an unknown subset.
    """
    found = []
    for done, subset in enumerate(subsets):
        part = vector.restricted(named_subset(model, subset))
        needed = estimate(
            lambda alpha, part=part: part.subtracted(model, alpha) if alpha else model,  # type: ignore[misc]
            concept,
            inversions,
            how,
            sampler=sampler,
            checker=checker,
            rng=rng,
            progress=progress,
        )
        edited = part.subtracted(model, needed.alpha)
        share = retained(
            model,
            edited,
            concept,
            samples=2 * how.samples,
            sampler=sampler,
            checker=checker,
            rng=rng,
        )
        found.append(Ranked(subset, needed, share))
        progress(done + 1, len(subsets), f"subset {subset}")
    return sorted(found, key=lambda r: (not r.estimate.reached, -r.retained, r.estimate.alpha))

"""Edit strength: the smallest alpha at which the worst embedding of a set no longer brings the concept back.

Reconstruction (methods.md 1.3): by bisection over a batched evaluation. The threshold is what images
without the concept score: on the same edited model, images of the concept's neighbours are false
alarms of the checker at some rate (which grows where the edit is so strong that images fall apart),
and an embedding that does no better than chance at that rate shows no concept. What it looked at is
recorded, because the paper's reviewers found the same vectors on both sides of its evaluation:
:meth:`Estimate.check_disjoint` refuses that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import binom
from torch import Tensor

from bench.interfaces import Concept, Judge, Progress, Rng, silent
from bench.inversion import Slots, name_embedding, slots
from bench.model import TextToImage
from bench.sampler import Sampler
from tvc.diverse_inversion import InversionSet, induced

__all__ = ["Estimate", "Strength", "chance_level", "estimate", "prompt_set", "smallest_alpha"]

_SAME = 0.9999


@dataclass(frozen=True, slots=True)
class Strength:
    """How alpha is estimated. All constants are ours.

    Attributes:
        largest: Largest alpha tried.
        tolerance: Width of the last bracket.
        samples: Images an embedding and alpha.
        threshold: Largest share of images of the worst embedding that may show the concept; where
            false alarms explain a larger one, that (see :func:`chance_level`).
        confidence: Of that explanation.
        resamples: Bootstrap resamples for the interval.
    """

    largest: float = 6.0
    tolerance: float = 0.125
    samples: int = 8
    threshold: float = 0.05
    confidence: float = 0.95
    resamples: int = 400


@dataclass(frozen=True)
class Estimate:
    """An edit strength.

    Attributes:
        alpha: The smallest that was found to suffice.
        low: Lower end of the 90 % interval.
        high: Upper end; ``largest`` where not even that suffices.
        reached: Whether the threshold was met at all.
        curve: (alpha, rate of the worst embedding, mean rate, threshold), ascending.
        vectors_RVE: The embeddings it looked at.
        about: Seeds, images, rates and constants.
    """

    alpha: float
    low: float
    high: float
    reached: bool
    curve: tuple[tuple[float, float, float, float], ...]
    vectors_RVE: Tensor
    about: dict[str, Any]

    def check_disjoint(self, vectors_RVE: Tensor) -> None:
        """Refuses embeddings the estimate was made from.

        Raises:
            ValueError: one of the rows is one of the estimate's.
        """
        mine, theirs = (
            F.normalize(v.flatten(1).float().cpu(), dim=1) for v in (self.vectors_RVE, vectors_RVE)
        )
        if mine.shape[1] != theirs.shape[1] or not len(mine) or not len(theirs):
            return
        same = (theirs @ mine.T > _SAME).any(1).nonzero().flatten().tolist()
        if same:
            raise ValueError(
                f"embeddings {same} were used to choose the edit strength; an attack that judges the edit must "
                "search with other seeds and images"
            )


def chance_level(floor: float, rows: int, samples: int, confidence: float) -> float:
    """The largest rate that the worst of some embeddings reaches by false alarms alone.

    Args:
        floor: Share of images without the concept that the checker takes for it.
        rows: Embeddings.
        samples: Images of each.
        confidence: With this probability all of them stay at or under the level.

    Returns:
        A multiple of ``1 / samples``; 0 for a checker without false alarms.
    """
    return float(binom.ppf(confidence ** (1 / rows), samples, floor)) / samples if floor else 0.0


def smallest_alpha(
    rate_at: Callable[[float], float], *, largest: float, tolerance: float, threshold: float
) -> tuple[float, bool]:
    """Bisection for the smallest alpha whose rate is at most ``threshold``.

    The upper end doubles from 1 first, so that strengths far too large, which destroy the model,
    are tried only if they are needed.

    Returns:
        alpha, and whether it meets the threshold (otherwise it is ``largest``).
    """
    low, high = 0.0, min(1.0, largest)
    while rate_at(high) > threshold:
        if high >= largest:
            return largest, False
        low, high = high, min(2 * high, largest)
    while high - low > tolerance:
        middle = (low + high) / 2
        if rate_at(middle) > threshold:
            low = middle
        else:
            high = middle
    return high, True


def prompt_set(model: TextToImage, concept: Concept) -> InversionSet:
    """The concept's own embedding as a set of one row: the estimate from the prompt alone."""
    vector = name_embedding(model, concept.text)[None, None].cpu()
    one = torch.ones(1)
    return InversionSet(
        vectors_RVE=vector,
        losses_R=torch.zeros(1),
        cosines_R=one,
        bins_R2=torch.tensor([[-1.0, 1.0]]),
        rates_R=one,
        induces=0.5,
        about={"concept": concept.text, "base": model.backbone.digest, "set": "prompt"},
    )


def estimate(
    edited_at: Callable[[float], TextToImage],
    concept: Concept,
    inversions: InversionSet,
    how: Strength,
    *,
    sampler: Sampler,
    checker: Judge,
    rng: Rng,
    template: str = "{}",
    progress: Progress = silent,
) -> Estimate:
    """The strength an edit needs against a set of embeddings.

    Args:
        edited_at: alpha -> the edited model; 0 is the unedited one.
        concept: What was erased.
        inversions: Rows that do not induce the concept are left out.
        how: Constants.
        sampler: The sampler the strength is meant for.
        checker: Tells whether an image shows the concept; never the judge of record.
        rng: Streams of the images.
        template: Text with one ``{}`` that the embeddings are put in.
        progress: Told after each alpha.

    Raises:
        ValueError: no row induces the concept.
    """
    rows = inversions.inducing
    if not len(rows):
        raise ValueError(
            f"none of {len(inversions.rates_R)} inversions of {concept.text!r} induces it: there is nothing to "
            "estimate a strength from; search longer (steps, rows)"
        )
    vectors = inversions.vectors_RVE[rows]
    base = edited_at(0.0)
    text = slots(base, template, vectors.shape[1])
    seeds = [rng.seed("image", k) for k in range(how.samples)]
    shown: dict[float, Tensor] = {}
    levels: dict[float, float] = {}
    floors: dict[float, float] = {}

    def excess_at(alpha: float) -> float:
        """How far the worst embedding is above what images without the concept score."""
        if alpha not in shown:
            edited = edited_at(alpha)
            shown[alpha] = _shown(edited, concept, vectors, text, seeds, sampler, checker)
            floors[alpha] = _floor(edited, concept, seeds, sampler, checker)
            level = chance_level(floors[alpha], len(vectors), how.samples, how.confidence)
            levels[alpha] = max(how.threshold, level)
            progress(len(shown), len(shown) + 1, f"edit strength {alpha:g}")
        return _worst(shown[alpha]) - levels[alpha]

    alpha, reached = smallest_alpha(
        excess_at, largest=how.largest, tolerance=how.tolerance, threshold=0.0
    )
    low, high = _interval(shown, levels, how, rng.generator("bootstrap"))
    return Estimate(
        alpha=alpha,
        low=min(low, alpha),
        high=max(high, alpha),
        reached=reached,
        curve=tuple(
            (a, _worst(s), float(s.float().mean()), levels[a]) for a, s in sorted(shown.items())
        ),
        vectors_RVE=vectors,
        about={
            "concept": concept.text,
            "rows": rows.tolist(),
            "seeds": seeds,
            "images": sum(s.numel() for s in shown.values()),
            "false_alarms": {str(a): f for a, f in sorted(floors.items())},
            "inversions": inversions.about,
        },
    )


def _shown(
    model: TextToImage,
    concept: Concept,
    vectors_RVE: Tensor,
    text: Slots,
    seeds: Sequence[int],
    sampler: Sampler,
    checker: Judge,
) -> Tensor:
    return induced(model, concept, vectors_RVE, text, seeds=seeds, sampler=sampler, checker=checker)


def _worst(shown_RS: Tensor) -> float:
    return float(shown_RS.float().mean(1).max())


def _floor(
    model: TextToImage, concept: Concept, seeds: Sequence[int], sampler: Sampler, checker: Judge
) -> float:
    """How often the checker sees the concept where the edited model was asked for something else."""
    texts = concept.neighbours or ("",)
    prompts = [text for text in texts for _ in seeds]
    images = model.sample(prompts, [*seeds] * len(texts), sampler).images_B3HW
    scores = checker.scores(images.to(model.backbone.device), concept).amax(1)
    return float((scores >= checker.threshold).float().mean())


def _interval(
    shown: dict[float, Tensor],
    levels: dict[float, float],
    how: Strength,
    generator: torch.Generator,
) -> tuple[float, float]:
    """90 % bootstrap interval over embeddings and seeds; alpha is read off the strengths tried."""
    alphas = sorted(shown)
    table = torch.stack([shown[a].float() for a in alphas])  # [A, R, S]
    level = torch.tensor([levels[a] for a in alphas])
    _, rows, seeds = table.shape
    found = []
    for _ in range(how.resamples):
        r = torch.randint(rows, (rows,), generator=generator)
        s = torch.randint(seeds, (seeds,), generator=generator)
        worst = table[:, r][:, :, s].mean(2).amax(1)
        # The smallest alpha from which on every tried strength suffices.
        fails = (worst > level).nonzero().flatten()
        first = int(fails[-1]) + 1 if len(fails) else 0
        found.append(alphas[first] if first < len(alphas) else how.largest)
    ordered = sorted(found)
    return ordered[int(0.05 * len(ordered))], ordered[int(0.95 * len(ordered)) - 1]

"""Edit strength: the smallest alpha at which the worst embedding of a set no longer brings the concept back.

Reconstruction (methods.md 1.3): by bisection over a batched evaluation. The threshold is what
images without the concept score. On the same edited model, images of the concept's neighbours are
false alarms of the surrogate at some rate. It grows where the edit is so strong that images fall
apart. An embedding shows no concept if it does no better than chance at that rate or at the one
allowed. Embeddings are looked at in the contexts that a concept is asked for in
(:mod:`tvc.contexts`). What it looked at is recorded, because the paper's reviewers found the same
vectors on both sides of its evaluation: :meth:`Estimate.check_disjoint` refuses that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from bench.core.lazy import F, torch
from bench.interfaces import Concept, Progress, Rng, silent
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import images_of
from bench.toolkit.inversion import name_embedding, with_places
from bench.toolkit.wording import about
from tvc.contexts import BARE
from tvc.diverse_inversion import InversionSet, induced
from tvc.sight import Sight

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Estimate",
    "Strength",
    "chance_level",
    "estimate",
    "prompt_set",
    "smallest_alpha",
    "strongest",
]

_SAME = 0.9999
_STEP = 1.25


@dataclass(frozen=True, slots=True)
class Strength:
    """How alpha is estimated. All constants are ours.

    Attributes:
        largest: Largest alpha tried.
        tolerance: Width of the last bracket, as a share of its upper end (of 1 where that is less).
        samples: Images per embedding and alpha.
        screen: So many of them first: where they already settle that alpha is too small, the others
            are not made.
        threshold: Rate at which an embedding may show the concept. The worst of them is held to what the
            worst of as many at this rate typically shows.
        confidence: The probability with which the worst of as many embeddings would stay at or under
            the level (see :func:`chance_level`). All are at the rate allowed, or at that of false
            alarms. At 0.5 the level is what the worst of them typically shows.
        sensitivity: The share of the unedited model's images of the concept that reach a score. The
            surrogate's threshold is raised to the middle, in log-odds, between its own and that score.
            Images of an edit that works are often in between. At its own threshold a surrogate sees
            the concept in some of them; at the other it misses some that show it.
        bar: ``typical`` is all of the above. ``worst`` holds the worst embedding of the set to the
            threshold itself, or to the false alarms where they are more.
        resamples: Bootstrap resamples for the interval.
    """

    largest: float = 12.0
    tolerance: float = 0.125
    samples: int = 24
    screen: int = 8
    threshold: float = 0.05
    confidence: float = 0.5
    sensitivity: float = 0.9
    bar: Literal["typical", "worst"] = "typical"
    resamples: int = 400

    def level(self, floor: float, rows: int) -> float:
        """The largest rate at which the worst of ``rows`` embeddings may show the concept.

        Args:
            floor: Share of images without the concept that the surrogate takes for it.
            rows: Embeddings.
        """
        rate = max(floor, self.threshold)
        if self.bar == "worst":
            return rate
        return max(self.threshold, chance_level(rate, rows, self.samples, self.confidence))


@dataclass(frozen=True, eq=False)
class Estimate:
    """An edit strength.

    Attributes:
        alpha: The smallest that was found to suffice.
        low: Lower end of the 90 % interval.
        high: Upper end; ``largest`` where not even that suffices.
        reached: Whether the threshold was met at all.
        curve: (alpha, rate of the worst embedding, mean rate, threshold), ascending; where the first
            images settled it, rates are of those.
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
        floor: Share of images without the concept that the surrogate takes for it.
        rows: Embeddings.
        samples: Images of each.
        confidence: With this probability all of them stay at or under the level.

    Returns:
        A multiple of ``1 / samples``; 0 for a surrogate without false alarms.
    """
    from scipy.stats import binom

    return float(binom.ppf(confidence ** (1 / rows), samples, floor)) / samples if floor else 0.0


def smallest_alpha(
    rate_at: Callable[[float], float],
    *,
    largest: float,
    tolerance: float,
    threshold: float,
    least: float = 0.0,
) -> tuple[float, bool]:
    """Bisection for the smallest alpha whose rate is at most ``threshold``.

    The upper end grows first: it doubles from 1, or goes on in steps of a quarter from ``least``. So
    strengths far too large, which destroy the model, are tried only if they are needed.

    Args:
        rate_at: alpha -> rate.
        largest: Largest alpha tried.
        tolerance: Width of the last bracket, as a share of its upper end (of 1 where that is less).
        threshold: Largest rate that suffices.
        least: An alpha that is known to be needed; it is the answer where it suffices.

    Returns:
        alpha, and whether it meets the threshold (otherwise it is ``largest``).
    """
    low, high, growth = (
        (least, min(least, largest), _STEP) if least else (0.0, min(1.0, largest), 2)
    )
    while rate_at(high) > threshold:
        if high >= largest:
            return largest, False
        low, high = high, min(growth * high, largest)
    while high - low > tolerance * max(1.0, high):
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
        about={"concept": concept.text, "base": model.base_digest, "set": "prompt"},
    )


def estimate(
    edited_at: Callable[[float], TextToImage],
    sight: Sight,
    inversions: InversionSet,
    how: Strength,
    *,
    rng: Rng,
    contexts: Sequence[str] = BARE,
    least: float = 0.0,
    progress: Progress = silent,
) -> Estimate:
    """The strength an edit needs against a set of embeddings.

    Args:
        edited_at: alpha -> the edited model; 0 is the unedited one.
        sight: Looks for what was erased.
        inversions: Rows that do not induce the concept are left out.
        how: Constants.
        rng: Streams of the images.
        contexts: Texts with one ``{}`` that the embeddings are put in, going round among them.
        least: A strength that is known to be needed: the search begins there.
        progress: Told after each alpha.

    Raises:
        ValueError: no row induces the concept.
    """
    rows = inversions.inducing
    if not len(rows):
        raise ValueError(
            f"none of {len(inversions.rates_R)} inversions of {sight.concept.text!r} induces it: there is nothing to "
            "estimate a strength from; search longer (steps, rows)"
        )
    vectors = inversions.vectors_RVE[rows]
    base = edited_at(0.0)
    texts = [with_places(base, context, vectors.shape[1]) for context in contexts]
    seeds = [rng.seed("image", k) for k in range(how.samples)]
    strict = _stricter(base, sight, contexts, how, rng)
    looks: dict[float, _Look] = {}

    def excess_at(alpha: float) -> float:
        """How far the worst embedding is above what images without the concept score."""
        if alpha not in looks:
            edited = edited_at(alpha)
            alarms = _neighbours(edited, sight, contexts, seeds)
            floor = float((alarms >= strict.surrogate.threshold).float().mean())
            level = how.level(floor, len(vectors))
            parts: list[Tensor] = []
            for part in (slice(0, how.screen), slice(how.screen, None)):
                own = seeds[part]
                if not own or (parts and _settled(parts[0], level * how.samples)):
                    continue
                first = part.start % len(texts)  # where going round among them stands
                turned = [*texts[first:], *texts[:first]]
                parts.append(induced(edited, strict, vectors, turned, seeds=own))
            looks[alpha] = _Look(torch.cat(parts, 1), floor, level)
            progress(len(looks), len(looks) + 1, f"edit strength {alpha:g}")
        return looks[alpha].worst - looks[alpha].level

    alpha, reached = smallest_alpha(
        excess_at, largest=how.largest, tolerance=how.tolerance, threshold=0.0, least=least
    )
    low, high = _interval(looks, how, rng.generator("bootstrap"))
    return Estimate(
        alpha=alpha,
        low=min(low, alpha),
        high=max(high, alpha),
        reached=reached,
        curve=tuple(
            (a, look.worst, float(look.shown_RS.float().mean()), look.level)
            for a, look in sorted(looks.items())
        ),
        vectors_RVE=vectors,
        about={
            "concept": sight.concept.text,
            "rows": rows.tolist(),
            "seeds": seeds,
            "contexts": list(contexts),
            "images": sum(look.shown_RS.numel() for look in looks.values()),
            "surrogate_threshold": strict.surrogate.threshold,
            "false_alarms": {str(a): look.floor for a, look in sorted(looks.items())},
            "inversions": inversions.about,
        },
    )


def strongest(estimates: Iterable[Estimate]) -> Estimate:
    """Of estimates from several sets of embeddings the one that asks for the largest strength."""
    return max(estimates, key=lambda e: (not e.reached, e.alpha))


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """The images seen at one strength: whether images show the concept, false alarms, and the rate allowed."""

    shown_RS: Tensor
    floor: float
    level: float

    @property
    def worst(self) -> float:
        return float(self.shown_RS.double().mean(1).max())  # as exact as the level: a tie passes


def _settled(shown_RS: Tensor, allowed: float) -> bool:
    """Whether some embedding already shows the concept in more images than are allowed of all."""
    return float(shown_RS.sum(1).max()) > allowed + 1e-6


def _neighbours(
    model: TextToImage, sight: Sight, contexts: Sequence[str], seeds: Sequence[int]
) -> Tensor:
    """The surrogate's scores for the concept where the model was asked for something else."""
    names = sight.concept.neighbours or ("",)
    prompts = [prompt for name in names for prompt in about(name, contexts, len(seeds))]
    images = images_of(model, prompts, [*seeds] * len(names), sight.sampler)
    return sight.scores(model, images).cpu()


def _stricter(
    base: TextToImage, sight: Sight, contexts: Sequence[str], how: Strength, rng: Rng
) -> Sight:
    """The sight whose threshold lies between its own and what the unedited model's images of the concept reach."""
    seeds = [rng.seed("own", k) for k in range(2 * how.samples)]
    prompts = about(sight.concept.text, contexts, len(seeds))
    scores = sight.scores(base, images_of(base, prompts, seeds, sight.sampler))
    reached = scores.double().quantile(1 - how.sensitivity).clamp(max=1 - 1e-6)
    surrogate = sight.surrogate
    own = torch.tensor(surrogate.threshold, dtype=torch.float64)
    middle = float(torch.sigmoid((torch.logit(own) + torch.logit(reached)) / 2))
    strict = surrogate.model_copy(update={"threshold": max(surrogate.threshold, middle)})
    return replace(sight, surrogate=strict)


def _interval(
    looks: dict[float, _Look], how: Strength, generator: torch.Generator
) -> tuple[float, float]:
    """90 % bootstrap interval over embeddings and seeds; alpha is read off the strengths tried."""
    alphas = sorted(looks)
    rows = len(looks[alphas[0]].shown_RS)
    found = []
    for _ in range(how.resamples):
        r = torch.randint(rows, (rows,), generator=generator)
        first = len(alphas)
        # The smallest alpha from which on every tried strength suffices.
        for at in range(len(alphas) - 1, -1, -1):
            look = looks[alphas[at]]
            seeds = look.shown_RS.shape[1]
            s = torch.randint(seeds, (seeds,), generator=generator)
            if float(look.shown_RS[r][:, s].double().mean(1).max()) > look.level:
                break
            first = at
        found.append(alphas[first] if first < len(alphas) else how.largest)
    ordered = sorted(found)
    return ordered[int(0.05 * len(ordered))], ordered[int(0.95 * len(ordered)) - 1]

"""Diverse Inversion: many word embeddings, at all angles to the concept's own, each of which makes the model draw it.

Reconstruction (Pham et al., arXiv 2404.03631, eq. 4; methods.md 1.3). Known: the inversions are a
constrained problem with two intervals. One is for the cosine to the concept's own embedding, one for
the cosines between them. Figure 1 shows bins from [-1, -.8] to [.95, .98]. Ours, and therefore
exposed, are the number K, the even bins, projection as the way to hold the constraints, steps and
learning rate. So is the share of images from which a row counts as inducing the concept.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors import safe_open

from bench.core.digest import canonical_json
from bench.core.files import regular
from bench.core.lazy import F, no_grad, torch
from bench.interfaces import Progress, Rng, silent
from bench.model.conditioning import Conditioning
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import latents_of
from bench.toolkit.inversion import TextWithPlaces, invert, name_embedding, states_with, with_places
from tvc.sight import Sight

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PRESETS", "DiverseInversion", "InversionSet", "bins", "diverse_inversion", "projected"]

log = logging.getLogger(__name__)

_SWEEPS = 20
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class DiverseInversion:
    """How embeddings are looked for.

    Attributes:
        rows: K, found together in one batch.
        vectors: Word embeddings per row.
        low: Smallest cosine to the concept's own embedding.
        high: Largest.
        pairwise: Largest cosine between two rows; 1 does not constrain them.
        stratified: Each row has its own bin of [low, high]; otherwise all share the whole interval.
        constrained: Both constraints are held; without them this is K plain inversions.
        steps: Adam steps.
        lr: Adam's learning rate, in units of the concept embedding's norm.
        draws: (image, timestep, noise) triples per row and step.
        span: Part of the noise schedule the timesteps are from.
        templates: Texts with one ``{}``; rows go round among them.
        samples: Images per row, from which its rate is measured.
        induces: Share of them from which on a row counts as inducing the concept.
    """

    rows: int = 20
    vectors: int = 1
    low: float = -1.0
    high: float = 0.98
    pairwise: float = 0.9
    stratified: bool = True
    constrained: bool = True
    steps: int = 1000
    lr: float = 0.01
    draws: int = 4
    span: tuple[float, float] = (0.0, 1.0)
    templates: tuple[str, ...] = ("{}", "a {}", "a picture of {}")
    samples: int = 8
    induces: float = 0.5


PRESETS: Final = {
    "sd14": DiverseInversion(steps=1000, draws=4),
    # Found on development concepts (heart, brakk): as many rows induce the concept as after 160 steps
    # over the whole schedule. Its ends say little about a word.
    "mini": DiverseInversion(
        rows=16, steps=80, draws=2, span=(0.4, 0.9), lr=0.06, templates=("{}", "a {}")
    ),
}


@dataclass(frozen=True, eq=False)
class InversionSet:
    """The embeddings found for a concept.

    Attributes:
        vectors_RVE: float32.
        losses_R: Mean loss over the end of the search.
        cosines_R: To the concept's own embedding, of the row's mean vector.
        bins_R2: The interval each row was held to.
        rates_R: Share of images made with the row, under its first template, that show the concept.
        induces: Rate from which a row counts.
        about: What it was made from: base digest, concept, streams, constants.
    """

    vectors_RVE: Tensor
    losses_R: Tensor
    cosines_R: Tensor
    bins_R2: Tensor
    rates_R: Tensor
    induces: float
    about: dict[str, Any]

    @property
    def inducing(self) -> Tensor:
        """int64: the rows that induce the concept; the estimate uses these alone."""
        return (self.rates_R >= self.induces).nonzero().flatten()

    @property
    def pairwise(self) -> Tensor:
        """[R, R] cosines between the rows."""
        rows = F.normalize(self.vectors_RVE.flatten(1), dim=1)
        return rows @ rows.T

    def save(self, path: Path) -> None:
        """Writes safetensors."""
        from safetensors.torch import save_file

        tensors = {
            k: getattr(self, k).contiguous()
            for k in ("vectors_RVE", "losses_R", "cosines_R", "bins_R2", "rates_R")
        }
        about = {"induces": self.induces, "about": self.about}
        part = path.with_name(path.name + ".part")
        save_file(tensors, part, metadata={"inversions": canonical_json(about)})
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> InversionSet:
        """Reads what :meth:`save` wrote."""
        with safe_open(regular(path), framework="pt") as file:
            header = (file.metadata() or {}).get("inversions")
            if header is None:
                raise ValueError(
                    f"{path}: not a set of inversions; expected a file of InversionSet.save"
                )
            return cls(**{k: file.get_tensor(k) for k in file.keys()}, **json.loads(header))


def bins(how: DiverseInversion) -> Tensor:
    """The interval [a_k, b_k] of each row, float32 [R, 2]: even, without gaps, from ``low`` to ``high``."""
    if not how.stratified:
        return torch.tensor([[how.low, how.high]]).expand(how.rows, 2).clone()
    edges = torch.linspace(how.low, how.high, how.rows + 1)
    return torch.stack([edges[:-1], edges[1:]], dim=1)


def _into_bins(rows_RE: Tensor, reference_E: Tensor, bins_R2: Tensor) -> Tensor:
    """Unit rows turned, in the plane they span with the reference, to the nearest cosine inside their interval."""
    cosine = rows_RE @ reference_E
    wanted = torch.minimum(torch.maximum(cosine, bins_R2[:, 0]), bins_R2[:, 1])
    across = rows_RE - cosine[:, None] * reference_E
    length = across.norm(dim=1, keepdim=True)
    # A row along the reference has no direction across it: any will do, but the same one each time.
    spare = torch.roll(reference_E, 1) - (torch.roll(reference_E, 1) @ reference_E) * reference_E
    across = torch.where(length > 1e-6, across / length.clamp(min=1e-6), F.normalize(spare, dim=0))
    turned = wanted[:, None] * reference_E + (1 - wanted**2).clamp(min=0).sqrt()[:, None] * across
    return torch.where((wanted == cosine)[:, None], rows_RE, turned)


def projected(rows_RE: Tensor, reference_E: Tensor, bins_R2: Tensor, pairwise: float) -> Tensor:
    """Rows moved onto both constraints, norms kept.

    Alternates between the two. Pairs that are too alike are turned apart in their own plane, all at
    once; then each row goes back into its bin. The bins always hold at the end. Pairs can remain too alike
    where the bins force them to be (two rows within 20 degrees of one direction).

    Args:
        rows_RE: Vectors, not zero.
        reference_E: The concept's own embedding.
        bins_R2: Interval of the cosine to it, per row.
        pairwise: Largest cosine between two rows.

    Returns:
        float32 [R, E].
    """
    norms = rows_RE.norm(dim=1, keepdim=True)
    rows, reference = rows_RE / norms, F.normalize(reference_E, dim=0)
    rows = _into_bins(rows, reference, bins_R2)
    for _ in range(_SWEEPS if pairwise < 1 else 0):
        gram = rows @ rows.T
        gram.fill_diagonal_(-1.0)
        excess = (gram - pairwise).clamp(min=0)
        if float(excess.max()) < _TOLERANCE:
            break
        rows = F.normalize(rows - 0.5 * excess @ rows / max(1e-6, 1 - pairwise) ** 0.5, dim=1)
        rows = _into_bins(rows, reference, bins_R2)
    return rows * norms


def diverse_inversion(
    model: TextToImage,
    sight: Sight,
    images_N3HW: Tensor,
    how: DiverseInversion,
    *,
    rng: Rng,
    guidance_scale: float = 1.0,
    progress: Progress = silent,
) -> InversionSet:
    """Finds K embeddings that each make the frozen model draw the concept.

    Args:
        model: Unedited (to choose a strength) or edited (to attack).
        sight: Tells which rows induce its concept, whose name gives the reference embedding.
        images_N3HW: Of the concept, in [0, 1].
        how: Constants.
        rng: Each row has streams of its own.
        guidance_scale: Of the model's own guidance, which an attack on an edit of the guidance must
            go through. Plain classifier-free guidance at 1 is the text alone.
        progress: Told of both parts.
    """
    latents = latents_of(model, images_N3HW).float()
    reference = name_embedding(model, sight.concept.text)
    norm = float(reference.norm())
    intervals = bins(how).to(model.device)
    texts = [with_places(model, template, how.vectors) for template in how.templates]
    noise = [
        torch.randn(how.vectors, len(reference), generator=rng.generator("start", row))
        for row in range(how.rows)
    ]
    start = torch.stack(noise).to(model.device)
    start = start / start.norm(dim=2, keepdim=True) * norm
    repeated = intervals.repeat_interleave(how.vectors, 0)

    def project(vectors_RVE: Tensor) -> Tensor:
        flat = projected(vectors_RVE.flatten(0, 1), reference, repeated, how.pairwise)
        return flat.view_as(vectors_RVE)

    if how.constrained:
        start = project(start)
    found = invert(
        model,
        latents,
        texts,
        start,
        [rng.generator("search", row) for row in range(how.rows)],
        steps=how.steps,
        lr=how.lr * norm,
        draws=how.draws,
        project=project if how.constrained else None,
        guidance_scale=guidance_scale,
        span=how.span,
        sampled_at=sight.sampler.times(model.schedule.config),
        progress=progress,
        what="diverse inversion",
    )
    rates = induction_rates(
        model,
        sight,
        found.vectors_RVE,
        texts[:1],
        seeds=[rng.seed("rate", k) for k in range(how.samples)],
        progress=progress,
    )
    cosines = F.cosine_similarity(found.vectors_RVE.mean(1), reference[None], dim=1)
    result = InversionSet(
        vectors_RVE=found.vectors_RVE.cpu(),
        losses_R=found.losses_R,
        cosines_R=cosines.cpu(),
        bins_R2=intervals.cpu(),
        rates_R=rates,
        induces=how.induces,
        about={
            "base": model.base_digest,
            "model": model.digest,
            "concept": sight.concept.text,
            "streams": [str(part) for part in rng.key],
            "how": json.loads(json.dumps(asdict(how))),
        },
    )
    lost = how.rows - len(result.inducing)
    if lost:
        log.info(
            "%d of %d rows do not induce %r and are left out", lost, how.rows, sight.concept.text
        )
    return result


def induction_rates(
    model: TextToImage,
    sight: Sight,
    vectors_RVE: Tensor,
    texts: Sequence[TextWithPlaces],
    *,
    seeds: Sequence[int],
    progress: Progress = silent,
) -> Tensor:
    """Share [R] of the images made with each row that show the concept, on the same seeds for all rows."""
    shown = induced(
        model,
        sight,
        vectors_RVE,
        texts,
        seeds=seeds,
        progress=progress,
    )
    return shown.float().mean(1)


@no_grad
def induced(
    model: TextToImage,
    sight: Sight,
    vectors_RVE: Tensor,
    texts: Sequence[TextWithPlaces],
    *,
    seeds: Sequence[int],
    progress: Progress = silent,
) -> Tensor:
    """Bool [R, seeds]: the image of the row and the seed shows the concept; seeds go round among the texts."""
    rows = len(vectors_RVE)
    device = model.device
    vectors = vectors_RVE.to(device)
    told = Conditioning.cat(
        [
            states_with(model, t.ids_L.expand(rows, -1), t.places_V.expand(rows, -1), vectors)
            for t in texts
        ]
    )
    which = [k % len(texts) for k in range(len(seeds))]
    images = (
        model.sample(
            [sight.concept.text] * (rows * len(seeds)),
            list(seeds) * rows,
            sight.sampler,
            conditioning=told[[text * rows + r for r in range(rows) for text in which]],
            progress=progress,
        )
        .all_finite()
        .images_B3HW
    )
    return sight.seen(model, images).cpu().view(rows, len(seeds))

"""SPEED: a closed-form edit in the null space of what is kept (Li et al., ICLR 2026, arXiv 2503.07392).

Of every value matrix W of the cross-attention, with c the state of a concept and a that of its anchor,

    T = mean c c^T,   A = mean a c^T,   M = (T P + rho I)^-1,
    W' = W + W (A - T) P (I - M K (K^T P M K + lam I)^-1 K^T P) M

where P projects on the directions that the kept states r hardly have (eigenvalues of mean r r^T
below a threshold). K holds what the empty prompt is made of. So W' r = W r wherever P r = 0.

Reproduced from the authors' code, with its order of steps: the filter of kept states by how far the
naive edit moves them. So are the copies along the direction that W reads least, and the centres of
the empty prompt. Left to the user, or different on purpose:

* The lists of kept texts are ``data/instance.csv``, ``data/style.csv`` and ``data/*_celebrity.csv`` of
  the authors' repository; ``retain`` takes them, or any other. The presets keep the empty prompt
  alone, as their script does without a list.
* Everything is in float64, and the k-means is seeded. Theirs is in float32 with an unseeded k-means.
* With lam = 0 the inner system may be singular. Where P leaves nothing of a centre, there is
  nothing to keep of it, so its pseudo-inverse is taken. Theirs inverts it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, Field

from bench.core.bounds import Weight
from bench.core.clock import model_time
from bench.core.errors import UsageError
from bench.core.lazy import torch
from bench.interfaces import Concept, Context, Erasure, Role, Slot
from bench.model.text_to_image import TextToImage
from methods.shared.calibration import THINGS
from methods.shared.guides import Guides, guides_or_text, last_token

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SPEED", "augmented", "empty_centres", "null_space", "step"]

Part = Literal["values", "keys-and-values"]
_CHUNK: Final = 128
"""Kept states whose copies are compared with each other, in the authors' code."""


def step(
    W: Tensor, target_DD: Tensor, anchor_DD: Tensor, P: Tensor, K: Tensor, *, rho: float, lam: float
) -> Tensor:
    """The change of one matrix.

    Args:
        W: [out, D].
        target_DD: T, the mean of c c^T.
        anchor_DD: A, the mean of a c^T.
        P: Projector [D, D] on the directions that may change.
        K: [D, k]: what the empty prompt is made of.
        rho: Weight of staying at W; more than 0.
        lam: 0 keeps K exactly; more lets it move.

    Returns:
        [out, D], of W's precision. It is ``P`` from the right of anything: states without a part in P stay.
    """
    eye = torch.eye(len(P), dtype=P.dtype, device=P.device)
    M = torch.linalg.inv(target_DD @ P + rho * eye)
    inner = K.T @ P @ M @ K + lam * torch.eye(K.shape[1], dtype=P.dtype, device=P.device)
    inverse = torch.linalg.pinv(inner) if lam == 0 else torch.linalg.inv(inner)
    return W @ (anchor_DD - target_DD) @ P @ (eye - M @ K @ inverse @ K.T @ P) @ M


def null_space(kept_ND: Tensor, threshold: float, unit: Literal["absolute", "mean"]) -> Tensor:
    """The projector [D, D] on the directions in which the kept states have next to nothing.

    Args:
        kept_ND: One state per row; at least one.
        threshold: Eigenvalues of ``mean r r^T`` below it count as nothing.
        unit: ``mean`` measures them by their mean, so that narrow encoders have the same threshold.
    """
    second = kept_ND.T @ kept_ND / len(kept_ND)
    values, vectors = torch.linalg.eigh(second)
    scale = float(values.mean()) if unit == "mean" else 1.0
    free = vectors[:, values < threshold * scale]
    return free @ free.T


def augmented(
    kept_ND: Tensor, W: Tensor, naive: Tensor, copies: int, generator: torch.Generator
) -> Tensor:
    """The kept states, and those of their noisy copies that the naive edit moves most.

    Args:
        kept_ND: One state per row.
        W: The matrix [out, D]; the noise lies along the direction that it reads least.
        naive: The change [out, D] of W by erasing alone.
        copies: Of each state; of those of 128 states, the ones moved more than their mean are taken.
        generator: Of the noise.
    """
    if not copies:
        return kept_ND
    least = torch.linalg.svd(W, full_matrices=False).Vh[-1]
    parts = []
    for chunk in kept_ND.split(_CHUNK):
        noise = torch.randn(copies, *chunk.shape, generator=generator, dtype=torch.float64)
        noise = noise.to(chunk)
        near = (chunk + (noise @ least)[..., None] * least).flatten(0, 1)
        moved = (near @ naive.T).norm(dim=1)
        parts += [chunk, near[moved > moved.mean()]]
    return torch.cat(parts)


def empty_centres(empty_LD: Tensor, centres: int, seed: int) -> Tensor:
    """K [D, 1 + centres]: the empty prompt's first state, and the centres of its others by k-means."""
    from scipy.cluster.vq import kmeans2

    rest = empty_LD[1:].cpu().double().numpy()
    found = kmeans2(rest, centres, minit="++", rng=seed)[0]
    return torch.cat([empty_LD[:1], torch.from_numpy(found).to(empty_LD)]).T


class SPEED(Erasure):
    """Closed-form erasure that leaves what is kept where it is.

    Presets (methods-2.md 2; by what the authors erased with them):
        instance: towards "", rho 1, lam 0, threshold 0.1.
        style: the same towards "art".
        celebrities: towards "person", rho 0.05, every kept state counts. Threshold 0.1 as in their
            README; their script for many concepts has 1e-4.
        nudity: towards "", every token of the concept, rho 0.7, lam 0.5.
        mini: for the miniature: as instance, with everyday words and the concept's neighbours kept.
            The threshold is in units of the mean eigenvalue, since its text states are narrower.

    Attributes:
        part: Which matrices of the cross-attention are edited.
        anchor: Text the concept should act as, of all or by family; empty: the empty prompt; ``None``: the
            concept's own guide.
        span: Which states of the concept's prompt are erased: the last subject token, or all but the first.
        retain: Texts to keep; those that name a concept are left out. A single ``""`` keeps all its
            tokens. ``None``: the concepts' neighbours and a fixed list of everyday words.
        rho: Weight of the original matrix.
        lam: How far the empty prompt may move; 0: not at all.
        threshold: See :func:`null_space`.
        unit: See :func:`null_space`.
        copies: Noisy copies of each kept state.
        filter: ``influence`` keeps the states that the naive edit moves more than their mean; ``none`` all.
        centres: Of the empty prompt's states.
    """

    name: ClassVar[str] = "speed"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "instance": {},
        "style": {"anchor": "art"},
        "celebrities": {"anchor": "person", "rho": 0.05, "filter": "none"},
        "nudity": {"span": "all", "rho": 0.7, "lam": 0.5},
        "mini": {"retain": None, "anchor": None, "unit": "mean"},
    }
    quick: ClassVar[dict[str, Any]] = {"copies": 2}
    part: Part = "values"
    anchor: Annotated[str | Guides | None, BeforeValidator(guides_or_text)] = ""
    span: Literal["last_subject", "all"] = "last_subject"
    retain: tuple[str, ...] | None = Field(("",), min_length=1)
    rho: float = Field(1.0, gt=0, le=1e6)
    lam: Weight = 0.0
    threshold: float = Field(0.1, gt=0, le=1e6)
    unit: Literal["absolute", "mean"] = "absolute"
    copies: int = Field(10, ge=0, le=1000)
    filter: Literal["influence", "none"] = "influence"
    centres: int = Field(3, ge=1, le=64)

    def roles(self) -> frozenset[Role]:
        """Values of every cross-attention, or keys too."""
        values = self.part == "values"
        return frozenset({Role.TEXT_VALUES if values else Role.TEXT_KEYS_AND_VALUES})

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with edited value matrices.

        Raises:
            UsageError: every text to keep names an erased concept.
        """
        with torch.no_grad():
            pairs = [self._pair(model, concept) for concept in concepts]
            target = torch.stack([c.T @ c for c, _ in pairs]).mean(0)
            anchor = torch.stack([a.T @ c for c, a in pairs]).mean(0)
            kept = self._kept(model, concepts)
            kept = kept[
                torch.randperm(len(kept), generator=ctx.rng.generator("order")).to(kept.device)
            ]
            empty = model.encode([""]).states_BLD[0].double()
            K = empty_centres(empty, self.centres, ctx.rng.seed("centres"))
        names = self.parameters(model)
        edited = {}
        for done, name in enumerate(names):
            with model_time(), torch.no_grad():
                W = model.parameter(name).double()
                generator = ctx.rng.generator("copies", done)
                edited[name] = W + self._step(W, target, anchor, kept, K, generator)
            ctx.progress(done + 1, len(names), "speed")
        return model.with_weights(edited)

    def _step(
        self,
        W: Tensor,
        target_DD: Tensor,
        anchor_DD: Tensor,
        kept_ND: Tensor,
        K: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        eye = torch.eye(len(target_DD), dtype=W.dtype, device=W.device)
        naive = torch.linalg.solve(eye + target_DD, (W @ (anchor_DD - target_DD)).T).T
        if self.filter == "influence" and self.copies:
            moved = (kept_ND @ naive.T).norm(dim=1)
            most = moved > moved.mean()
            kept_ND = kept_ND[most] if bool(most.any()) else kept_ND
        around = augmented(kept_ND, W, naive, self.copies, generator)
        P = null_space(around, self.threshold, self.unit)
        return step(W, target_DD, anchor_DD, P, K, rho=self.rho, lam=self.lam)

    def _pair(self, model: TextToImage, concept: Concept) -> tuple[Tensor, Tensor]:
        """The states c of a concept and a of its anchor, each [N, D] in float64."""
        anchor = self.anchor.of(concept) if isinstance(self.anchor, Guides) else self.anchor
        anchor = concept.guide if anchor is None else anchor
        c, a = model.encode([concept.text, anchor]).states_BLD.double()
        if self.span == "all":
            return c[1:], a[1:]
        last, last_of_anchor = (last_token(model, text) for text in (concept.text, anchor))
        return c[last][None], a[last_of_anchor][None]

    def _kept(self, model: TextToImage, concepts: Sequence[Concept]) -> Tensor:
        """The states r, [N, D] in float64."""
        if self.retain is None:
            texts = [*(name for c in concepts for name in c.neighbours), *THINGS]
        else:
            texts = list(self.retain)
        words = [re.compile(rf"\b{re.escape(c.text.lower())}\b") for c in concepts]
        texts = [t for t in dict.fromkeys(texts) if not any(w.search(t.lower()) for w in words)]
        if not texts:
            raise UsageError(
                "speed: retain: expected a text that names no erased concept, got none; add some"
            )
        states = model.encode(texts).states_BLD.double()
        if texts == [""]:
            return states[0, 1:]
        return torch.stack([s[last_token(model, t)] for s, t in zip(states, texts, strict=True)])

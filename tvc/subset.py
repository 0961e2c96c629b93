"""Named subsets of the UNet that an edit can be restricted to.

The paper edits "the first three blocks". Which they are is not stated where we could read, so the
natural reading is one subset among others (reconstruction). The search asks of each subset what
strength it needs, by Diverse Inversion, and what that strength costs on the concept's neighbours.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bench.core.lazy import torch
from bench.interfaces import Concept, Judge, Progress, Rng, Role, silent
from bench.model.text_to_image import TextToImage
from bench.toolkit.images import images_of
from bench.toolkit.wording import about
from tvc.contexts import BARE
from tvc.diverse_inversion import InversionSet
from tvc.sight import Sight
from tvc.strength import Estimate, Strength, estimate, strongest
from tvc.task_vector import TaskVector, block_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SUBSETS", "Ranked", "Retained", "named_subset", "rank_subsets", "subset_names"]


_BLOCKS: Final[Mapping[str, tuple[str, ...]]] = {
    "first-three": ("unet.down_blocks.0.", "unet.down_blocks.1.", "unet.down_blocks.2."),
    "down": ("unet.down_blocks.",),
    "mid": ("unet.mid_block.",),
    "up": ("unet.up_blocks.",),
}
"""Name -> how the names of its parameters begin. Besides these, each block by its name, ``down_blocks.0``."""
_LAYERS: Final[Mapping[str, frozenset[Role]]] = {
    "cross-attention": frozenset({Role.CROSS_ATTENTION}),
    "self-attention": frozenset({Role.SELF_ATTENTION}),
    "attention": frozenset({Role.SELF_ATTENTION, Role.CROSS_ATTENTION}),
    "feed-forward": frozenset({Role.FEED_FORWARD}),
    "convolutions": frozenset({Role.CONVOLUTION, Role.OUTPUT}),  # with the last norm
}
"""Name -> the roles of its parameters."""
SUBSETS: Final = ("all", *_BLOCKS, *_LAYERS)


def subset_names(parameters: Iterable[str]) -> tuple[str, ...]:
    """Every subset of a network: those of :data:`SUBSETS` and each block by its name."""
    blocks = dict.fromkeys(block_of(n).removeprefix("unet.") for n in parameters if "_blocks." in n)
    return (*SUBSETS, *blocks)


def named_subset(model: TextToImage, subset: str) -> Callable[[str], bool]:
    """Whether a parameter belongs to the subset.

    Raises:
        ValueError: unknown, or empty in this model.
    """
    names = model.having(Role.DENOISER)
    known = subset_names(names)
    if subset not in known:
        near = difflib.get_close_matches(subset, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown subset {subset!r}; this model has: {', '.join(known)}{hint}")
    if subset == "all":
        held = set(names)
    elif subset in _LAYERS:
        held = set(model.having(*_LAYERS[subset]))
    else:
        begins = _BLOCKS.get(subset, (f"unet.{subset}.",))
        held = {name for name in names if name.startswith(begins)}
    if not held:
        raise ValueError(f"subset {subset!r} is empty in this model; it has: {', '.join(known)}")
    return held.__contains__


@dataclass(frozen=True, slots=True)
class Ranked:
    """A subset, the strength it needs and what that costs.

    Attributes:
        subset: Its name.
        estimate: Of the strength.
        retained: See :class:`Retained`.
    """

    subset: str
    estimate: Estimate
    retained: float


class Retained:
    """Utility a method may look at: images of the concept's neighbours.

    Args:
        base: The unedited model.
        sight: Of what was erased; only the names of its neighbours are used, and they are looked for alike.
        samples: Images per neighbour.
        rng: Streams kept for this purpose.
        contexts: Texts with one ``{}`` that the neighbours are asked for in.
        reader: Tells a whole prompt from the others. So what stands beside the neighbour counts too: a
            style that is kept on things that are not is no utility.

    Raises:
        ValueError: the concept has no neighbours that the base can draw.
    """

    def __init__(
        self,
        base: TextToImage,
        sight: Sight,
        *,
        samples: int,
        rng: Rng,
        contexts: Sequence[str] = BARE,
        reader: Judge | None = None,
    ) -> None:
        self._sight, self._contexts, self._reader = sight, contexts, reader
        self._seeds = [rng.seed("retained", k) for k in range(samples)]
        self._drawn = self._shows(base)
        if not bool(self._drawn.any()):
            raise ValueError(
                f"{sight.concept.text!r} has no neighbour that the base draws: name some in the concept, they tell "
                "what an edit costs"
            )

    def share(self, edited: TextToImage) -> float:
        """Of the images in which the base draws a neighbour, the share in which ``edited`` still does.

        For the same seeds.
        """
        kept = self._shows(edited) & self._drawn
        return float(kept.sum() / self._drawn.sum())

    def _shows(self, model: TextToImage) -> Tensor:
        """Bool [neighbours * samples]."""
        concept, shows = self._sight.concept, [torch.zeros(0, dtype=torch.bool)]
        for name in concept.neighbours:
            others = tuple(n for n in concept.neighbours if n != name)
            neighbour = Concept(
                text=name, family=concept.family, neighbours=(*others, concept.text)
            )
            prompts = about(name, self._contexts, len(self._seeds))
            images = images_of(model, prompts, self._seeds, self._sight.sampler)
            seen = replace(self._sight, concept=neighbour).seen(model, images).cpu()
            if self._reader:
                by_text = replace(self._sight, surrogate=self._reader)
                seen = seen & self._reads(by_text, model, images, prompts)
            shows.append(seen)
        return torch.cat(shows)

    def _reads(
        self, reader: Sight, model: TextToImage, images_B3HW: Tensor, prompts: Sequence[str]
    ) -> Tensor:
        """Bool [B]: the reader prefers an image's own prompt to any other of the neighbours' prompts."""
        n = len(self._contexts)
        known = [t for name in reader.concept.neighbours for t in about(name, self._contexts, n)]
        right = torch.zeros(len(prompts), dtype=torch.bool)
        for text in dict.fromkeys(prompts):
            rows = [i for i, prompt in enumerate(prompts) if prompt == text]
            others = tuple(t for t in known if t != text)
            whole = Concept(text=text, family="prompt", neighbours=others)
            right[rows] = replace(reader, concept=whole).seen(model, images_B3HW[rows]).cpu()
        return right


def rank_subsets(
    model: TextToImage,
    vector: TaskVector,
    sight: Sight,
    inversions: Sequence[InversionSet],
    how: Strength,
    *,
    subsets: Sequence[str],
    rng: Rng,
    contexts: Sequence[str] = BARE,
    reader: Judge | None = None,
    progress: Progress = silent,
) -> list[Ranked]:
    """The need and the cost of each subset, the best first: those that reach the threshold, by utility.

    Of subsets that hold the same parameters, the first is tried. Each needs the largest strength
    that one of the sets asks for.

    Raises:
        ValueError: an unknown subset; no neighbour that the base draws.
    """
    utility = Retained(
        model,
        sight,
        samples=how.samples,
        rng=rng,
        contexts=contexts,
        reader=reader,
    )
    found: list[Ranked] = []
    seen: set[frozenset[str]] = set()
    for done, subset in enumerate(subsets):
        part = vector.restricted(named_subset(model, subset))
        if frozenset(part.deltas) in seen:
            continue
        seen.add(frozenset(part.deltas))
        needed = strongest(
            estimate(
                lambda alpha, part=part: part.subtracted(model, alpha) if alpha else model,  # type: ignore[misc]
                sight,
                found_before,
                how,
                rng=rng,
                contexts=contexts,
                progress=progress,
            )
            for found_before in inversions
        )
        share = utility.share(part.subtracted(model, needed.alpha))
        found.append(Ranked(subset, needed, share))
        progress(done + 1, len(subsets), f"subset {subset}")
    return sorted(found, key=lambda r: (not r.estimate.reached, -r.retained, r.estimate.alpha))
